"""The connections that a policy speaks of: those whose fate an entry decides.

Ordinary new connections, on other interfaces than loopback, of addresses and protocols that the language can name, and
without what the fixed lines of every policy decide anyway. Equality of a policy with its input is equality here; what
differs beside it (answers, invalid packets, …) is the fixed lines' and is told in a few words.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from ipaddress import ip_address
from itertools import pairwise

from portctl import services
from portctl.importing.effort import Effort
from portctl.net import (
    EVERY_V4,
    EVERY_V6,
    FAMILIES,
    LOOPBACK_ADDRESSES,
    MULTICAST,
    UNSPECIFIED_V6,
    Addresses,
    Family,
    Ranges,
)
from portctl.policy.models import Defaults
from portctl.resolve import tables
from portctl.ruleset import ICMP, ICMPV6, PROTOCOLS_WITH_PORTS, TCP, Direction, Kind, Packet
from portctl.space.boxes import Box, TooMany, boxes, set_of
from portctl.space.dimensions import (
    DESTINATION,
    FAMILY,
    IN,
    LO,
    LOCAL,
    ORIGINAL_DESTINATION,
    OUT,
    OVER,
    PORT,
    PROTOCOL,
    SOURCE,
    SOURCE_PORT,
    TIME,
    USER,
    WAYS,
    Dimension,
    Way,
    family_set,
    size,
)
from portctl.space.from_ruleset import rule_cubes
from portctl.space.sets import PacketSet, Space, possible
from portctl.space.walks import Walk
from portctl.space.words import STARTS

PING = {ICMP: Ranges.single(8 * 256), ICMPV6: Ranges.single(128 * 256)}
"""Echo requests have code 0 (RFC 792, RFC 4443)."""
_ICMP = Ranges.of([(ICMP, ICMP), (ICMPV6, ICMPV6)])
_PORTED = Ranges.of((p, p) for p in PROTOCOLS_WITH_PORTS)
_BARE = Ranges((0, 256)) - _PORTED - _ICMP
_LOOPBACK = Ranges.single(LO)
NOBODY = LOOPBACK_ADDRESSES | MULTICAST | UNSPECIFIED_V6
"""No connection comes from there, or not from another host."""

Box_ = tuple[Direction | None, dict[Dimension, Ranges]]


@dataclass(frozen=True, slots=True)
class World:
    """`meant`: all connections that are spoken of, of every direction, in the families that the input speaks of."""

    space: Space
    meant: PacketSet
    beside: PacketSet
    """Everything else, which a description need not look at."""
    protocols: frozenset[int]
    """Those that are spoken of."""

    def of(self, packets: PacketSet, over: bool = False) -> PacketSet:
        """The connections among some packets, within every limit, or beyond."""
        return ordinary(packets, over) & self.meant


def ordinary(packets: PacketSet, over: bool = False) -> PacketSet:
    """What the first packets of ordinary connections meet; these dimensions are no longer asked."""
    fixed = {**STARTS, OVER: int(over), TIME: 0}
    live = {d: 0 for d in packets.dimensions() if d.rank in (8, 9)}
    empty = packets.space.diagrams.leaf(False)
    found = PacketSet(packets.space, {w: empty if w.turned else root for w, root in packets.roots.items()})
    found = found.fix({**fixed, **live})
    parts = packets.space.nothing()
    for direction in Direction:
        local = {LOCAL: 0 if direction is Direction.FORWARDED else 1}
        user = {} if direction is Direction.OUTBOUND else {USER: 0}
        parts = parts | found.along(direction).fix({**local, **user})
    return parts


_SAMPLES = {4: ("198.18.77.77", "198.18.77.78"), 6: ("2001:2:77::77", "2001:2:77::78")}
"""Benchmarking networks (RFC 2544, RFC 5180): nobody's rules name them."""


def exotic(direction: Direction, family: Family, protocol: int = TCP) -> Packet:
    """A connection that no rule is about, but one for everything."""
    source, destination = (ip_address(text) for text in _SAMPLES[family])
    local = direction is Direction.INBOUND
    return Packet(direction, protocol, source, destination, 61234, 40001, "zz9", "zz8", local=local)


def world(space: Space, families: Iterable[Family] = FAMILIES, protocols: Iterable[int] = ()) -> World:
    """The world of a space. `protocols` are those that the input names, beside those that have names at all."""
    named = {*services.PROTOCOLS.values(), *services.GOVERNED, *protocols} - services.EXTENSION_HEADERS
    whole = possible(space) - space.boxes(_unspoken(families, named)) - space.boxes(_fixed())
    meant = ordinary(whole)
    return World(space, meant, space.everything() - meant, frozenset(named))


def _fixed() -> Iterator[Box_]:
    """What the fixed lines of every policy decide."""
    defaults = Defaults(inbound="drop", outbound="drop", forward="drop")
    sides = (
        (Direction.INBOUND, tables.inbound(defaults, (), [])),
        (Direction.OUTBOUND, tables.outbound(defaults, (), [])),
        (Direction.FORWARDED, tables.forwarded(defaults, (), [])),
    )
    for direction, rules in sides:
        for rule in rules:
            if rule.kind is Kind.FIXED:
                for cube in rule_cubes(rule):
                    yield direction, dict(cube)


def _unspoken(families: Iterable[Family], protocols: Iterable[int]) -> Iterator[Box_]:
    for family in set(FAMILIES) - set(families):
        yield None, {FAMILY: family_set(family)}
    yield None, {PROTOCOL: Ranges((0, 256)) - Ranges.of((p, p) for p in protocols)}
    yield None, {PROTOCOL: _PORTED, PORT: Ranges.single(0)}
    yield None, {PROTOCOL: _PORTED, SOURCE_PORT: Ranges.single(0)}
    yield None, {PROTOCOL: _BARE, PORT: Ranges((1, 65536))}
    yield None, {PROTOCOL: Ranges((0, 256)) - _PORTED, SOURCE_PORT: Ranges((1, 65536))}
    for protocol, echo in PING.items():
        yield None, {PROTOCOL: Ranges.single(protocol), PORT: Ranges((0, 65536)) - echo}
    for direction in (Direction.INBOUND, Direction.FORWARDED):
        yield direction, {IN: _LOOPBACK}
    for direction in (Direction.OUTBOUND, Direction.FORWARDED):
        yield direction, {OUT: _LOOPBACK}
    for family in FAMILIES:
        yield None, {FAMILY: family_set(family), SOURCE: NOBODY.family(family)}
        yield None, {FAMILY: family_set(family), DESTINATION: LOOPBACK_ADDRESSES.family(family)}


def places(box: Box, dimension: Dimension) -> Ranges | Addresses | None:
    """What a box asks of one dimension; None: nothing."""
    if dimension in (SOURCE, DESTINATION):
        asked = box.source if dimension == SOURCE else box.destination
        return None if all(asked.is_every(f) for f in families_of(box)) else asked
    return box.values(dimension)


def families_of(box: Box) -> list[Family]:
    return [f for f in FAMILIES if box.source.family(f) and box.destination.family(f)]


def with_values(box: Box, dimension: Dimension, values: Ranges | Addresses | None) -> Box:
    """The box with other values of one dimension; None: all."""
    if dimension in (SOURCE, DESTINATION):
        if values is None:
            mine = families_of(box)
            values = Addresses(EVERY_V4 if 4 in mine else Ranges(), EVERY_V6 if 6 in mine else Ranges())
        assert isinstance(values, Addresses)
        return replace(box, source=values) if dimension == SOURCE else replace(box, destination=values)
    kept = tuple((d, r) for d, r in box.asked if d != dimension)
    if values is None:
        return replace(box, asked=kept)
    assert isinstance(values, Ranges)
    return replace(box, asked=tuple(sorted([*kept, (dimension, values)])))


def plain(box: Box) -> Box:
    """The box without what the world leaves out anyway, which is not worth a word."""
    trivial = (Ranges((1, 65536)), Ranges.single(0))
    kept = tuple((d, r) for d, r in box.asked if d not in (PORT, SOURCE_PORT) or r not in trivial)
    others = tuple((d, r) for d, r in kept if d not in (IN, OUT) or r | _LOOPBACK != Ranges((0, size(d, 4))))
    box = replace(box, asked=others)
    for dimension, side, nobody in (
        (SOURCE, box.source, NOBODY),
        (DESTINATION, box.destination, LOOPBACK_ADDRESSES),
    ):
        if all((side | nobody).is_every(f) for f in families_of(box)):
            box = with_values(box, dimension, None)
    return box


GROWING = (IN, OUT, SOURCE, DESTINATION, SOURCE_PORT, USER, PORT, PROTOCOL)
"""In this order a box is widened: an entry that names no interface reads better than one that names no port."""


def grow(box: Box, allowed: PacketSet, wanted: PacketSet) -> Box:
    """The box, widened as far as everything in it is allowed and it gains something that is wanted."""
    for dimension in GROWING:
        if places(box, dimension) is None:
            continue
        if dimension == PROTOCOL and box.values(SOURCE_PORT) is not None:
            continue  # source ports are of the same protocols as ports
        free = with_values(box, dimension, None)
        bad = values_in(allowed, free, dimension, False)
        if not any(bad.values()):
            box = free
            continue
        if dimension in (PORT, PROTOCOL):
            # Single ports have descriptions of their own: only what leaves fewer words is taken in.
            values = box.values(dimension)
            wide = Ranges((0, size(dimension, 4))) - bad[4] - bad[6]
            if values is not None and len(wide.bounds) < len(values.bounds):
                box = with_values(box, dimension, values | wide)
            continue
        box = _widened(box, dimension, bad, values_in(wanted, free, dimension, True))
    return box


def _widened(box: Box, dimension: Dimension, bad: dict[Family, Ranges], useful: dict[Family, Ranges]) -> Box:
    if dimension in (SOURCE, DESTINATION):
        now = box.source if dimension == SOURCE else box.destination
        found = Addresses(*(_side(now.family(f), bad[f], useful[f], f) for f in FAMILIES))
        return with_values(box, dimension, found)
    values = box.values(dimension)
    assert values is not None
    return with_values(box, dimension, values | ((useful[4] | useful[6]) - bad[4] - bad[6]))


def _side(now: Ranges, bad: Ranges, useful: Ranges, family: Family) -> Ranges:
    """Addresses of one family: what is useful, or all but what is bad, whichever takes fewer words."""
    if not now:
        return now
    wide = now | (useful - bad)
    whole = (EVERY_V4 if family == 4 else EVERY_V6) - bad
    return whole if len(bad.bounds) < len(wide.bounds) and whole.count() > 1 << (31 if family == 4 else 125) else wide


def along(packets: PacketSet, dimension: Dimension) -> dict[Family, Ranges]:
    """By family, the values of one dimension that any packet of the set has."""
    found = {family: Ranges() for family in FAMILIES}
    for way in WAYS:
        end = size(dimension, way.family)
        found[way.family] |= Walk(packets.space.diagrams, {}).along(packets.roots[way], dimension, end)
    return found


def values_in(packets: PacketSet, box: Box, dimension: Dimension, inside: bool) -> dict[Family, Ranges]:
    """By family, the values of one dimension, of which the box has all, that any packet of the box has which is in a
    set, or which is not."""
    found = {family: Ranges() for family in FAMILIES}
    for way, cube in _cubes(box):
        cube.pop(dimension, None)
        walk = Walk(packets.space.diagrams, cube, inside)
        found[way.family] |= walk.along(packets.roots[way], dimension, size(dimension, way.family))
    return found


def meets(packets: PacketSet, box: Box, inside: bool = True) -> bool:
    """Whether any packet of a box is in a set, or is not."""
    return any(Walk(packets.space.diagrams, cube, inside).meets(packets.roots[way]) for way, cube in _cubes(box))


def _cubes(box: Box) -> Iterator[tuple[Way, dict[Dimension, Ranges]]]:
    """A box, way by way."""
    for family in families_of(box):
        cube = {**dict(box.asked), SOURCE: box.source.family(family), DESTINATION: box.destination.family(family)}
        if box.original is not None:
            cube[ORIGINAL_DESTINATION] = box.original.family(family)
        yield Way(box.direction, box.original is not None, family), cube


MOST_GROWN = 250
"""So many boxes are widened; a set of more is nothing that anybody reads, and is taken as it is cut."""
LEAST_GROWN = 20
"""So many are, whatever work is left."""


def cover(wanted: PacketSet, allowed: PacketSet, effort: Effort, most: int = MOST_GROWN) -> list[Box]:
    """A few boxes, all within `allowed`, that hold everything that is wanted. They may overlap.

    Ports that mean the same are described together, the widest such class first: what is open on every port needs no
    word at any single one. Where that takes more work than is left, the rest is as it is cut; and where that is in more
    pieces than portctl describes, it is left out, and `effort` says so.
    """
    diagrams = wanted.space.diagrams
    effort.begin(diagrams.work())
    if effort.spent(diagrams.work()) and (cut := as_cut(wanted, allowed, effort.pieces)) is not None:
        return cut
    rest = wanted
    found: list[Box] = []
    for alike in _classes(wanted):
        left = rest & alike
        try:
            pieces = sorted(boxes(left), key=_narrowness) if left else []
        except TooMany:
            effort.leaves(left)
            rest = rest - left
            continue
        for box in pieces:
            if len(found) >= most or (len(found) >= LEAST_GROWN and effort.spent(diagrams.work())):
                cut = as_cut(rest, allowed, effort.pieces)
                if cut is None:
                    effort.leaves(rest)
                return found + (cut or [])
            if meets(rest, box):
                grown = grow(box, allowed, rest)
                found.append(grown)
                rest = rest - set_of(rest.space, grown)
    return found


def as_cut(wanted: PacketSet, allowed: PacketSet, most: int) -> list[Box] | None:
    """What is wanted, as it is cut; None where that is in more pieces than `most`. "Every interface but" cannot be
    said: it is every interface where it may be."""
    try:
        cut = boxes(wanted, most)
    except TooMany:
        return None
    found: list[Box] = []
    tries = MOST_OPENED
    for box in map(plain, cut):
        for dimension in (IN, OUT):
            values = box.values(dimension)
            if values is not None and values.count() > size(dimension, 4) // 2 and tries > 0:
                tries -= 1
                free = with_values(box, dimension, None)
                box = box if meets(allowed, free, False) else free
        found.append(box)
    return found


MOST_OPENED = 600
"""For so many boxes it is asked whether they may be open at every interface."""


def _classes(packets: PacketSet) -> Iterator[PacketSet]:
    """The packets of protocols and ports that the set treats alike, for each such class; the widest first."""
    kinds: dict[tuple[int, ...], list[tuple[int, int, int]]] = {}
    protocols = sorted({0, 256} | packets.values(PROTOCOL))
    for first, end in pairwise(protocols):
        one = packets.fix({PROTOCOL: first})
        ports = sorted({0, 65536} | one.values(PORT))
        for low, high in pairwise(ports):
            roots = one.fix({PORT: low}).roots
            kinds.setdefault(tuple(roots[way] for way in WAYS), []).extend((p, low, high) for p in range(first, end))
    space = packets.space
    nothing = tuple(space.nothing().roots[way] for way in WAYS)
    for signature, listed in sorted(kinds.items(), key=lambda item: -sum(high - low for _, low, high in item[1])):
        if signature != nothing:
            by_ports: dict[int, list[tuple[int, int]]] = {}
            for protocol, low, high in listed:
                by_ports.setdefault(protocol, []).append((low, high - 1))
            cubes = [(None, {PROTOCOL: Ranges.single(p), PORT: Ranges.of(pairs)}) for p, pairs in by_ports.items()]
            yield space.boxes(cubes)


def _narrowness(box: Box) -> tuple[object, ...]:
    """The widest first."""
    protocols, ports = box.values(PROTOCOL), box.values(PORT)
    return (
        0 if protocols is None else 256 - protocols.count(),
        0 if ports is None else 65536 - ports.count(),
        -box.source.v4.count() - (box.source.v6.count() >> 96),
        -box.destination.v4.count() - (box.destination.v6.count() >> 96),
        tuple(bound for _, ranges in box.asked for bound in ranges.bounds),
    )
