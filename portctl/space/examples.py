"""Packets of a set: a usual one, or those at its corners."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv6Address

from portctl.net import Address, Family, Ranges
from portctl.ruleset import ICMP, ICMPV6, LOOPBACK, PROTOCOLS_WITH_PORTS, SYN, TCP, UDP, Direction, Packet
from portctl.space.diagram import Diagrams, Node
from portctl.space.dimensions import (
    ADDRESSES,
    DESTINATION,
    FLAGS,
    HOP_LIMIT,
    IN,
    LISTED,
    LIVE_DESTINATION,
    LIVE_SOURCE,
    LO,
    LOCAL,
    ORIGINAL_DESTINATION,
    ORIGINAL_PORT,
    OUT,
    OVER,
    PORT,
    PROTOCOL,
    PUBLISHED,
    REPLY,
    SOURCE,
    SOURCE_PORT,
    STATE,
    STATES,
    TIME,
    USER,
    WAYS,
    Dimension,
    Way,
    moment_text,
    name_number,
    number_name,
    size,
)
from portctl.space.listed import Beyond, Listed
from portctl.space.sets import PacketSet

Values = dict[Dimension, int]

_USUAL: dict[Dimension, tuple[int, ...]] = {
    PROTOCOL: (TCP, UDP),
    LOCAL: (1,),
    IN: (name_number("eth0"), name_number("eth1"), LO),
    OUT: (name_number("eth0"), name_number("eth1"), LO),
    HOP_LIMIT: (64,),
    FLAGS: (SYN,),
    SOURCE_PORT: (40000,),
}
_PLACES: dict[tuple[Dimension, Family], tuple[str, ...]] = {
    (SOURCE, 4): ("198.51.100.1", "203.0.113.1", "10.0.0.1"),
    (SOURCE, 6): ("2001:db8:77::77", "2001:4860:4860::8888"),
    (DESTINATION, 4): ("192.0.2.1", "8.8.8.8"),
    (DESTINATION, 6): ("2001:db8::1", "2001:4860:4860::8888"),
}
"""Documentation addresses first (RFC 5737, RFC 3849)."""


MOST_TRIED = 20_000
"""Nodes that are visited in search of a packet where lists are questions."""


def example(packets: PacketSet) -> Packet | None:
    """One packet of a set, as usual a one as it holds; None: the set is empty.

    Raises `Beyond` where lists are questions and no packet answers them so, after many tries.
    """
    listed = packets.space.lists.listed
    if listed is None or not listed.lists:
        return next(examples(packets, 1), None)
    for way, root in packets.roots.items():
        found = _Search(packets, way, listed).values(root, {}, {})
        if found is not None:
            values, places = dict(found[0]), found[1]
            for dimension, place in places.items():
                usual = [value for value in usual_values(dimension, way) if value in place]
                values[dimension] = usual[0] if usual else place.bounds[0]
            return packet_of(way, values)
    return None


def example_within(packets: PacketSet, box: PacketSet) -> Packet | None:
    """One packet of a set that is in a box too, as `example` of both gives one; but nothing is made for it: to ask for
    a packet of each of thousands of boxes takes no longer than to find them."""
    listed = packets.space.lists.listed
    if listed is not None and listed.lists:
        return example(packets & box)
    for way in WAYS:
        search = _Both(packets.space.diagrams, way)
        if search.meets(packets.roots[way], box.roots[way]):
            return packet_of(way, search.values(packets.roots[way], box.roots[way]))
    return None


@dataclass(slots=True)
class _Both:
    """A search for values with which two functions, that say True or False, both say True."""

    diagrams: Diagrams
    way: Way
    _known: dict[tuple[int, int], bool] = field(default_factory=dict)

    def meets(self, one: int, other: int) -> bool:
        """Whether there are any."""
        key = one, other
        found = self._known.get(key)
        if found is None:
            nodes, values = self.diagrams.nodes, self.diagrams.values
            if (nodes[one] is None and not values[one]) or (nodes[other] is None and not values[other]):
                found = False
            elif nodes[one] is None and nodes[other] is None:
                found = True
            else:
                found = any(self.meets(*pair) for _, _, pair in self._pieces(*key))
            self._known[key] = found
        return found

    def values(self, one: int, other: int) -> Values:
        """Values of each dimension that is asked, the usual ones where they do. There are some."""
        found: dict[Dimension, int] = {}
        while self._dimension(one, other) is not None:
            dimension = self._dimension(one, other)
            assert dimension is not None
            usual = (u for u in usual_values(dimension, self.way) if self.meets(*self._pair(one, other, dimension, u)))
            value = next(usual, None)
            if value is None:
                first, end = next((a, b) for a, b, pair in self._pieces(one, other) if self.meets(*pair))
                value = name_within(first, end) if dimension in (IN, OUT, USER) else first
            found[dimension] = value
            one, other = self._pair(one, other, dimension, value)
        return found

    def _dimension(self, one: int, other: int) -> Dimension | None:
        asked = [node.dimension for node in (self.diagrams.nodes[one], self.diagrams.nodes[other]) if node is not None]
        return min(asked) if asked else None

    def _pair(self, one: int, other: int, dimension: Dimension, value: int) -> tuple[int, int]:
        return self._child(one, dimension, value), self._child(other, dimension, value)

    def _child(self, number: int, dimension: Dimension, value: int) -> int:
        node = self.diagrams.nodes[number]
        return self.diagrams.child(node, value) if node is not None and node.dimension == dimension else number

    def _pieces(self, one: int, other: int) -> Iterator[tuple[int, int, tuple[int, int]]]:
        """First value, end, and what both lead to, of the stretches where the second function may say True."""
        dimension = self._dimension(one, other)
        assert dimension is not None
        end = size(dimension, self.way.family)
        node, narrow = self.diagrams.nodes[one], self.diagrams.nodes[other]
        empty = self.diagrams.leaf(False)
        asked = narrow is not None and narrow.dimension == dimension
        starts = (0, *narrow.cuts) if asked and narrow is not None else (0,)
        children = narrow.children if asked and narrow is not None else (other,)
        for first, last, inner in zip(starts, (*starts[1:], end), children, strict=True):
            if inner == empty:
                continue
            if node is None or node.dimension != dimension:
                yield first, last, (one, inner)
                continue
            at = bisect_right(node.cuts, first)
            begin = first
            while begin < last:
                stop = min(node.cuts[at], last) if at < len(node.cuts) else last
                yield begin, stop, (node.children[at], inner)
                begin, at = stop, at + 1


def examples(packets: PacketSet, most: int = 16) -> Iterator[Packet]:
    """Up to `most` packets of a set: of each way through its conditions one, at both ends of the address ranges."""
    empty = packets.space.diagrams.leaf(False)
    given = 0
    for way in WAYS:
        if packets.roots[way] != empty:
            for values in _paths(packets, way, packets.roots[way], {}):
                yield packet_of(way, values)
                given += 1
                if given == most:
                    return


_Found = tuple[Values, Mapping[Dimension, Ranges]] | None


@dataclass(slots=True)
class _Search:
    """A search for values whose addresses answer all questions as asked."""

    packets: PacketSet
    way: Way
    listed: Listed
    tried: int = 0

    def values(self, number: int, values: Values, places: Mapping[Dimension, Ranges]) -> _Found:
        """Values with which a node leads to True, of a packet whose addresses are in `places`; None: there are none."""
        diagrams = self.packets.space.diagrams
        node = diagrams.nodes[number]
        if node is None:
            return (values, places) if diagrams.values[number] else None
        self.tried += 1
        if self.tried > MOST_TRIED:
            raise Beyond
        if node.dimension in ADDRESSES or node.dimension.rank == LISTED:
            return self._placed(node, values, places)
        for value in _candidates(node, self.way, diagrams.leaf(False)):
            found = self.values(diagrams.child(node, value), {**values, node.dimension: value}, places)
            if found is not None:
                return found
        return None

    def _placed(self, node: Node, values: Values, places: Mapping[Dimension, Ranges]) -> _Found:
        diagrams = self.packets.space.diagrams
        for child, ranges in diagrams.branches(node, size(node.dimension, self.way.family)):
            dimension = node.dimension
            if dimension.rank == LISTED:
                dimension, ranges = self.listed.place(node.dimension, on=1 in ranges)
            place = places[dimension] & ranges if dimension in places else ranges
            if place and child != diagrams.leaf(False):
                found = self.values(child, values, {**places, dimension: place})
                if found is not None:
                    return found
        return None


def _paths(packets: PacketSet, way: Way, number: int, values: Values) -> Iterator[Values]:
    diagrams = packets.space.diagrams
    node = diagrams.nodes[number]
    if node is None:
        if diagrams.values[number]:
            yield values
        return
    for value in _candidates(node, way, diagrams.leaf(False)):
        child = diagrams.child(node, value)
        yield from _paths(packets, way, child, {**values, node.dimension: value})


def _candidates(node: Node, way: Way, empty: int) -> Iterator[int]:
    """Values that lead somewhere: the usual one first, then one or two of every other way to go."""
    usual = [u for u in usual_values(node.dimension, way) if node.children[bisect_right(node.cuts, u)] != empty][:1]
    yield from usual
    seen = {node.children[bisect_right(node.cuts, u)] for u in usual}
    start = 0
    for child, end in zip(node.children, (*node.cuts, size(node.dimension, way.family)), strict=True):
        if child != empty and child not in seen:
            seen.add(child)
            if node.dimension in (IN, OUT, USER):
                yield name_within(start, end)
            else:
                yield start
                if node.dimension in ADDRESSES and end - 1 > start:
                    yield end - 1
        start = end


def usual_values(dimension: Dimension, way: Way) -> tuple[int, ...]:
    """The values that a packet has where nothing else is asked of it, the most usual first."""
    places = _PLACES.get((dimension, way.family))
    if places:
        return tuple(int(_address_of(text)) for text in places)
    if dimension == LOCAL:
        return (0,) if way.direction is Direction.FORWARDED else (1,)
    return _USUAL.get(dimension, (0,))


def _address_of(text: str) -> Address:
    return IPv6Address(text) if ":" in text else IPv4Address(text)


def name_within(start: int, end: int) -> int:
    """The number of a name that a person could give, from `start` up to `end`; `start` itself where there is none."""
    first = number_name(start).split("\0")[0]
    for text in (first, first + "0", first + "x", *(first[:-1] + chr(ord(first[-1]) + 1) if first else ())):
        if text.isprintable() and start <= name_number(text) < end and (text or start == 0):
            return name_number(text)
    return start


def packet_of(way: Way, values: Mapping[Dimension, int]) -> Packet:
    """The packet with some values, and the usual ones for all else."""

    def value(dimension: Dimension) -> int:
        found = values.get(dimension)
        return usual_values(dimension, way)[0] if found is None else found

    def address(dimension: Dimension) -> Address:
        return IPv4Address(value(dimension)) if way.family == 4 else IPv6Address(value(dimension))

    protocol = value(PROTOCOL)
    made = Packet(
        way.direction,
        protocol,
        address(SOURCE),
        address(DESTINATION),
        value(PORT) if protocol in (*PROTOCOLS_WITH_PORTS, ICMP, ICMPV6) else 0,
        value(SOURCE_PORT),
        _interface(value(IN)),
        _interface(value(OUT)),
        STATES[value(STATE)],
        bool(value(REPLY)),
        value(FLAGS),
        value(HOP_LIMIT),
        number_name(value(USER)) or None,
        bool(value(LOCAL)),
        bool(value(OVER)),
        frozenset(d.name for d, v in values.items() if d.rank == LIVE_SOURCE and v),
        frozenset(d.name for d, v in values.items() if d.rank == LIVE_DESTINATION and v),
        moment_text(value(TIME)) if value(TIME) else None,
        published=bool(value(PUBLISHED)),
    )
    if way.turned:
        port = made.port if protocol in (ICMP, ICMPV6) else value(ORIGINAL_PORT)
        return replace(made, original=(address(ORIGINAL_DESTINATION), port))
    return made


def _interface(number: int) -> str:
    return LOOPBACK if number == LO else number_name(number)
