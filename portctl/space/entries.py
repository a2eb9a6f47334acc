"""A set of packets by the entries that accept it: who reads `8443/tcp, 9100/tcp` wants to know both."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from portctl.net import Ranges
from portctl.ruleset import ICMP, ICMPV6, PROTOCOLS_WITH_PORTS, Packet
from portctl.space.boxes import Box, one_family, set_of
from portctl.space.dimensions import PORT, PROTOCOL, Dimension
from portctl.space.examples import example_within
from portctl.space.sets import PacketSet
from portctl.space.sides import Side

MOST_DIVIDED = 64
"""So many boxes are divided by the entries that accept; the rest name one of theirs."""
MOST_RANGES = 24
"""A box of more ranges of ports is not divided."""


def divided(listed: Sequence[Box], packets: PacketSet, accepting: Side) -> list[Box]:
    """The boxes of a set, all of whose packets a side accepts, by the names of what accepts their ports."""
    named = [piece for box in listed[:MOST_DIVIDED] for piece in _by_reason(box, packets, accepting)]
    return [*_of_both_families(named), *listed[MOST_DIVIDED:]]


def one_of(box: Box, packets: PacketSet) -> Packet:
    """A packet of a box that a set has packets of."""
    packet = example_within(packets, set_of(packets.space, box))
    assert packet is not None
    return packet


def _by_reason(box: Box, packets: PacketSet, accepting: Side) -> list[tuple[str, Box]]:
    """A box by the name of what accepts its ports, as far as a look at both ends of each range of them tells."""
    protocols, ports = box.values(PROTOCOL), box.values(PORT)
    numbers = [n for n in (*PROTOCOLS_WITH_PORTS, ICMP, ICMPV6) if protocols is not None and n in protocols]
    few = ports is not None and len(ports.bounds) <= 2 * MOST_RANGES
    if protocols is None or ports is None or len(numbers) != protocols.count() or not few:
        return [(accepting.reason(one_of(box, packets)).name, box)]
    pieces: dict[str, dict[int, Ranges]] = {}
    for number in numbers:

        def reason(port: int, number: int = number) -> str:
            one = {PROTOCOL: Ranges.single(number), PORT: Ranges.single(port)}
            return accepting.reason(one_of(_with(box, one), packets)).name

        for first, last in ports.pairs():
            for name, part in _alike(first, last, reason):
                of = pieces.setdefault(name, {})
                of[number] = of.get(number, Ranges()) | part
    if len(pieces) == 1:
        return [(name, box) for name in pieces]
    return [(name, part) for name, of in pieces.items() for part in _of_protocols(box, of)]


def _of_both_families(named: list[tuple[str, Box]]) -> list[Box]:
    """Boxes of IPv4 and of IPv6 that one entry accepts and that ask the same otherwise are one."""
    found: list[Box] = []
    waiting: dict[tuple[object, ...], int] = {}
    for name, box in named:
        family = one_family(box)
        if family is None or box.original is not None:
            found.append(box)
            continue
        at = waiting.pop((name, box.direction, box.asked, 10 - family), None)
        if at is None:
            waiting[name, box.direction, box.asked, family] = len(found)
            found.append(box)
        else:
            other = found[at]
            places = (other.source | box.source, other.destination | box.destination)
            found[at] = replace(other, source=places[0], destination=places[1])
    return found


def _alike(first: int, last: int, reason: Callable[[int], str]) -> Iterator[tuple[str, Ranges]]:
    """A range of ports in parts whose two ends are accepted for one reason."""
    name = reason(first)
    if first == last or reason(last) == name:
        yield name, Ranges((first, last + 1))
        return
    middle = (first + last) // 2
    yield from _alike(first, middle, reason)
    yield from _alike(middle + 1, last, reason)


def _of_protocols(box: Box, of: dict[int, Ranges]) -> Iterator[Box]:
    """The box with some ports of each protocol; protocols that have the same are together."""
    for ports in dict.fromkeys(of.values()):
        yield _with(box, {PROTOCOL: Ranges.of((n, n) for n, mine in of.items() if mine == ports), PORT: ports})


def _with(box: Box, values: dict[Dimension, Ranges]) -> Box:
    return replace(box, asked=tuple((d, values.get(d, ranges)) for d, ranges in box.asked))
