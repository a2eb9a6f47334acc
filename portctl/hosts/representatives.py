"""A few packets for each entry of a policy's `tests`: from the corners of what it speaks of, such as can be sent."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_address
from itertools import cycle, islice, product

from portctl.hosts.sandbox import Layout, instance
from portctl.hosts.sendable import BROADCAST, natural_state, reason_under
from portctl.net import ANYWHERE, BITS, FAMILIES, LOOPBACK_ADDRESSES, MULTICAST, Address, Addresses, Family, Ranges
from portctl.ruleset import (
    EVERY_PORT,
    ICMP,
    ICMPV6,
    PROTOCOLS_WITH_PORTS,
    TCP,
    UDP,
    Direction,
    Expectation,
    Flow,
    Kind,
    Packet,
    Ruleset,
    decide,
    interface_matches,
    translate,
)

MOST_PACKETS, MOST_ENDS, MOST_PORTS = 48, 6, 6
"""For each test and family; of each set of addresses; of each set of ports."""
_EXAMPLES: dict[Family, tuple[Address, ...]] = {
    4: tuple(map(ip_address, ("198.51.100.1", "203.0.113.1", "192.0.2.1", "8.8.8.8"))),
    6: tuple(map(ip_address, ("2001:db8::1", "2001:4860:4860::8888"))),
}
Spent = set[tuple[str, int, int]]
"""Counters of limits that packets have used up: entry, family, source."""


def representatives(ruleset: Ruleset, expectation: Expectation, layout: Layout, spent: Spent) -> list[Packet]:
    """Packets of which the test must hold, each sendable, and none over a limit. `spent` grows by what they use up."""
    found: list[Packet] = []
    for family in FAMILIES:
        chosen: list[Packet] = []
        for packet in _candidates(expectation, layout, family):
            packet = replace(packet, state=natural_state(packet))
            if reason_under(ruleset, packet, layout) or _unasked(ruleset, expectation, packet):
                continue
            if (taken := limits(ruleset, packet)) & spent:
                continue
            spent |= taken
            chosen.append(packet)
            if len(chosen) == MOST_PACKETS:
                break
        found += chosen
    return found


def limits(ruleset: Ruleset, packet: Packet) -> Spent:
    """The counters that a packet may use up: an entry's, for its source (an IPv4 address, an IPv6 /64)."""
    version = packet.source.version
    source = int(packet.source) if version == 4 else int(packet.source) >> 64
    ways = dict.fromkeys((packet, translate(ruleset, packet)))
    rules = (rule for each in ways for rule in ruleset.rules(each.direction) if rule.limited and rule.matches(each))
    return {(rule.name, version, source) for rule in rules}


def _unasked(ruleset: Ruleset, expectation: Expectation, packet: Packet) -> bool:
    """What every host needs to live on a network starts no connection: a test of all protocols does not mean it."""
    rule = decide(ruleset, packet)[1]
    return expectation.flows is None and rule.kind is Kind.FIXED and rule.flows is not None


def _candidates(expectation: Expectation, layout: Layout, family: Family) -> Iterator[Packet]:
    """Different addresses and ports come first, so that a few packets cover most."""
    direction = expectation.direction
    ways = product(_devices(expectation.interfaces, layout), _devices(expectation.out_interfaces, layout))
    shapes = list(_shapes(expectation, family))
    free_ports = cycle(range(32768, 61000))  # another one each time: they can then be sent at once
    for interface, out in ways:
        own = [layout.address(interface if direction is Direction.INBOUND else out, family)]
        sources = own if expectation.source is None else list(_ends(expectation.source, family))
        destinations = own if expectation.destination is None else list(_ends(expectation.destination, family))
        if direction is Direction.INBOUND and own[0] in (expectation.destination or ANYWHERE):
            destinations = own
        for number in range(len(sources) * len(destinations) * len(shapes)):
            # Walks through all combinations, every list at its own pace.
            source = sources[number % len(sources)]
            destination = destinations[(number // len(sources)) % len(destinations)]
            protocol, port, source_port = shapes[(number + number // len(sources)) % len(shapes)]
            yield Packet(
                direction,
                protocol,
                source,
                destination,
                port,
                source_port or next(free_ports),
                interface=interface,
                out_interface=out,
                local=destination not in MULTICAST and destination != BROADCAST,
            )


def _devices(patterns: tuple[str, ...], layout: Layout) -> list[str]:
    if not patterns:
        return list(layout.interfaces)
    named = dict.fromkeys(instance(pattern) for pattern in patterns)
    return [*named, *(name for name in layout.interfaces if interface_matches(patterns, name) and name not in named)]


def _ends(addresses: Addresses, family: Family) -> Iterator[Address]:
    """Examples that people know, where a set holds any; the first and last of some of its ranges."""
    ranges = (addresses - LOOPBACK_ADDRESSES).family(family)
    if not ranges:
        return
    known = [address for address in _EXAMPLES[family] if address in addresses]
    yield from known
    if ranges.count() > 1 << (BITS[family] - 2):
        return
    pairs = list(ranges.pairs())
    step = max(1, len(pairs) // (MOST_ENDS // 2))
    numbers = dict.fromkeys(number for pair in pairs[::step] for number in pair)
    made = (IPv4Address(number) if family == 4 else IPv6Address(number) for number in numbers)
    yield from islice((address for address in made if address not in known), MOST_ENDS)


def _shapes(expectation: Expectation, family: Family) -> Iterator[tuple[int, int, int]]:
    """(protocol, port, source port); source port 0: any will do."""
    flows = expectation.flows
    if flows is None:
        one = Ranges.single(33434)
        flows = (
            Flow(TCP, one),
            Flow(UDP, one),
            Flow(ICMP, Ranges.single(8 * 256)),
            Flow(ICMPV6, Ranges.single(128 * 256)),
        )
    for flow in flows:
        if family not in flow.families():
            continue
        if flow.protocol in PROTOCOLS_WITH_PORTS:
            free = flow.source_ports == EVERY_PORT
            source_port = 0 if free else next(n for pair in flow.source_ports.pairs() for n in reversed(pair) if n)
            for port in islice((n for pair in flow.ports.pairs() for n in dict.fromkeys(pair) if n), MOST_PORTS):
                yield flow.protocol, port, source_port
        elif flow.protocol in (ICMP, ICMPV6):
            yield flow.protocol, flow.ports.bounds[0], 0
        else:
            yield flow.protocol, 0, 0
