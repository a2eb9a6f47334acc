"""Packets at the corners of a rule set: where one rule ends and the next begins.

For each rule a packet that it matches, and packets that differ from that one in one respect each: the first and last
address and those just outside, ports likewise, another family, state, flag, interface, and so on; then mixtures.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from heapq import nsmallest
from ipaddress import IPv4Address, IPv6Address
from itertools import islice
from random import Random
from typing import Any

from portctl.net import ANYWHERE, FAMILIES, MULTICAST, Address, Addresses, Family, Ranges
from portctl.ruleset import (
    ACK,
    FIN,
    ICMP,
    ICMPV6,
    KNOWN,
    LOOPBACK,
    PROTOCOLS_WITH_PORTS,
    RST,
    SYN,
    TCP,
    UDP,
    Direction,
    Flow,
    Kind,
    Packet,
    Rule,
    Ruleset,
    State,
    Translation,
)

OWN: dict[Family, Address] = {4: IPv4Address("192.0.2.1"), 6: IPv6Address("2001:db8::1")}
"""This host, in packets whose rules ask for no destination."""
THERE: dict[Family, Address] = {4: IPv4Address("198.51.100.77"), 6: IPv6Address("2001:db8:77::7")}
BEHIND: dict[Family, Address] = {4: IPv4Address("10.99.0.5"), 6: IPv6Address("2001:db8:99::5")}
_FLAGS = (SYN, SYN | ACK, ACK, FIN | ACK, RST, 0, SYN | FIN)
_BROADCAST = Addresses.of("255.255.255.255", "0.0.0.0", "::")


def corner_packets(ruleset: Ruleset, most: int = 2000) -> list[Packet]:
    """At most `most` packets, the same ones for the same rule set, taken from all rules alike."""
    chance = Random(sha256(ruleset.name.encode()).digest())
    known = _corners(ruleset)
    streams = [(_around(known, base, chance), share) for base, share in _bases(ruleset).items()]
    found: dict[Packet, None] = {}
    while streams and len(found) < most * 4 // 5:
        streams = [(stream, share) for stream, share in streams if _take(stream, share, found)]
    packets = list(found)[:most]
    return packets + list(islice(_mixtures(packets, chance), most - len(packets)))


def _take(stream: Iterator[Packet], share: int, found: dict[Packet, None]) -> bool:
    """Moves some packets over; whether there may be more."""
    batch = list(islice(stream, share))
    found.update(dict.fromkeys(_possible(batch)))
    return len(batch) == share


def _bases(ruleset: Ruleset) -> dict[Packet, int]:
    """A packet for each rule and translation, family and protocol, and its share: the fixed lines are many."""
    found: dict[Packet, int] = {}
    for direction in Direction:
        for rule in ruleset.rules(direction):
            share = 1 if rule.kind in (Kind.FIXED, Kind.DEFAULT) else 4
            found |= dict.fromkeys(_rule_bases(rule, direction), share)
    for translation in ruleset.translations:
        found |= dict.fromkeys(_translation_bases(translation), 4)
    return found


def _rule_bases(rule: Rule, direction: Direction) -> Iterator[Packet]:
    if rule.original is not None and not rule.published:
        return  # these are met by translated packets
    flows = (rule.original.flows if rule.original else rule.flows) or (Flow(TCP), Flow(UDP))
    for family in rule.families():
        for flow in flows:
            if family not in flow.families():
                continue
            here, there = _usual(direction, family)
            packet = Packet(
                direction,
                flow.protocol,
                _first(rule.source, family, here),
                _first(rule.destination, family, there),
                port=_port(flow.ports, flow.protocol),
                source_port=_port(flow.source_ports, flow.protocol, 40000),
                interface=_device(rule.interfaces),
                out_interface=_device(rule.out_interfaces),
                state=State.NEW if State.NEW in rule.states else next(s for s in State if s in rule.states),
                hop_limit=rule.hop_limit or 64,
                user=rule.user,
                live_source=frozenset(filter(None, [rule.live_source])),
                live_destination=frozenset(filter(None, [rule.live_destination])),
            )
            yield _published(rule, packet, family) if rule.published else packet


def _published(rule: Rule, packet: Packet, family: Family) -> Packet:
    """As it passes through, turned by somebody else from an own address."""
    before = None if rule.original is None else rule.original.destination
    if before is not None and not before.family(family):
        before = None
    address = OWN[family] if before is None else _first(before, family, OWN[family])
    port = 8000 if packet.protocol in PROTOCOLS_WITH_PORTS else packet.port
    return replace(packet, published=True, original=(address, packet.port), port=port, destination=BEHIND[family])


def _translation_bases(translation: Translation) -> Iterator[Packet]:
    for family in translation.families():
        for flow in translation.flows or (Flow(TCP), Flow(UDP)):
            if family in flow.families():
                yield Packet(
                    Direction.INBOUND,
                    flow.protocol,
                    _first(translation.source, family, THERE[family]),
                    OWN[family]
                    if translation.destination is None
                    else _first(translation.destination, family, OWN[family]),
                    port=_port(flow.ports, flow.protocol),
                    source_port=_port(flow.source_ports, flow.protocol, 40000),
                    interface=_device(translation.interfaces),
                )


def _usual(direction: Direction, family: Family) -> tuple[Address, Address]:
    if direction is Direction.INBOUND:
        return THERE[family], OWN[family]
    return (OWN[family] if direction is Direction.OUTBOUND else THERE[family]), BEHIND[family]


def _first(addresses: Addresses, family: Family, usual: Address) -> Address:
    if usual in addresses:
        return usual
    return _address(addresses.family(family).bounds[0], family)


def _address(number: int, family: Family) -> Address:
    return IPv4Address(number) if family == 4 else IPv6Address(number)


def _port(ports: Ranges, protocol: int, usual: int = 7000) -> int:
    if protocol not in (*PROTOCOLS_WITH_PORTS, ICMP, ICMPV6):
        return 0
    return usual if usual in ports and protocol in PROTOCOLS_WITH_PORTS else ports.bounds[0]


def _device(patterns: tuple[str, ...]) -> str:
    if not patterns:
        return "eth0"
    return f"{patterns[0][:-1]}0" if patterns[0].endswith("*") else patterns[0]


Change = dict[str, Any]
"""Fields of a packet, each with another value."""


@dataclass(frozen=True, slots=True)
class _Corners:
    """Where the rules of a rule set begin and end, worked out once for all packets."""

    ruleset: Ruleset
    ports: Mapping[int, list[int]]
    """By protocol: the first and last port of each range, and those just outside."""
    source_ports: Mapping[int, list[int]]
    sources: Mapping[Family, list[int]]
    destinations: Mapping[Family, list[int]]


def _corners(ruleset: Ruleset) -> _Corners:
    ports, source_ports, sources, destinations = {}, {}, {}, {}
    for protocol in (*PROTOCOLS_WITH_PORTS, ICMP, ICMPV6):
        named, first = _named(ruleset, protocol), 1 if protocol in PROTOCOLS_WITH_PORTS else 0
        ports[protocol] = _edges((flow.ports for flow in named), first, 65535)
        source_ports[protocol] = _edges((flow.source_ports for flow in named), 1, 65535)[:12]
    for family in FAMILIES:
        whole = (1 << (32 if family == 4 else 128)) - 1
        here, there = _sides(ruleset, family)
        sources[family], destinations[family] = _edges(here, 1, whole), _edges(there, 1, whole)
    return _Corners(ruleset, ports, source_ports, sources, destinations)


def _around(known: _Corners, base: Packet, chance: Random) -> Iterator[Packet]:
    """A packet, and what differs from it in one respect: one of each respect in turn."""
    yield base
    ways = [list(vary(known, base)) for vary in (_states, _port_corners, _addresses, _devices, _source_ports, _rest)]
    for way in ways:
        chance.shuffle(way)
    while ways := [way for way in ways if way]:
        for way in ways:
            yield replace(base, **way.pop())


def _states(_known: _Corners, base: Packet) -> Iterator[Change]:
    if base.original is None:
        yield from ({"state": state} for state in State)
        yield dict(state=State.ESTABLISHED, reply=True)
        yield dict(state=State.RELATED, reply=True)
    if base.protocol == TCP:
        for flags in _FLAGS:
            yield dict(flags=flags)
        if base.original is None:
            yield dict(flags=ACK, state=State.UNTRACKED)


def _edges(ranges: Iterable[Ranges], low: int, high: int) -> list[int]:
    """The first and last number of some of the ranges, and those just outside."""
    found: set[int] = set()
    for each in ranges:
        for bound in (*each.bounds[:8], *each.bounds[-4:]):
            found |= {bound - 1, bound}
    return sorted(number for number in found if low <= number <= high)


def _named(ruleset: Ruleset, protocol: int) -> list[Flow]:
    rules = [rule for direction in Direction for rule in ruleset.rules(direction)]
    flows = [f for r in rules for f in (*(r.flows or ()), *((r.original.flows if r.original else None) or ()))]
    flows += [f for t in ruleset.translations for f in t.flows or ()]
    targets = [Flow(TCP, Ranges.single(t.target_port)) for t in ruleset.translations if t.target_port]
    return [flow for flow in (*dict.fromkeys(flows), *targets) if flow.protocol == protocol or flow in targets]


def _port_corners(known: _Corners, base: Packet) -> Iterator[Change]:
    if base.protocol not in (*PROTOCOLS_WITH_PORTS, ICMP, ICMPV6):
        return
    for port in _nearest(known.ports[base.protocol], base.port):
        if base.original is None:
            yield dict(port=port)
        elif base.protocol in PROTOCOLS_WITH_PORTS:
            yield dict(original=(base.original[0], port))


def _source_ports(known: _Corners, base: Packet) -> Iterator[Change]:
    if base.protocol in PROTOCOLS_WITH_PORTS:
        for port in known.source_ports[base.protocol]:
            yield dict(source_port=port)


def _addresses(known: _Corners, base: Packet) -> Iterator[Change]:
    family: Family = base.source.version
    for number in _nearest(known.sources[family], int(base.source)):
        yield dict(source=_address(number, family))
    for number in _nearest(known.destinations[family], int(base.destination)):
        yield dict(destination=_address(number, family))
    for other in FAMILIES:
        if other != family:
            here, there = _usual(base.direction, other)
            if base.protocol not in (ICMP, ICMPV6) and base.original is None:
                yield dict(source=here, destination=there)


def _nearest(numbers: list[int], to: int) -> list[int]:
    """Some of them, the nearest first."""
    return nsmallest(40, numbers, key=lambda number: abs(number - to))


def _sides(ruleset: Ruleset, family: Family) -> tuple[list[Ranges], list[Ranges]]:
    sources: dict[Addresses, None] = {}
    destinations: dict[Addresses, None] = {}
    for direction in Direction:
        for rule in ruleset.rules(direction):
            sources[rule.source] = None
            destinations[rule.destination] = None
            if rule.original is not None and rule.original.destination is not None:
                destinations[rule.original.destination] = None
    for translation in ruleset.translations:
        sources[translation.source] = None
        destinations[translation.destination or ANYWHERE] = None
    return [s.family(family) for s in sources], [d.family(family) for d in destinations]


def _devices(known: _Corners, base: Packet) -> Iterator[Change]:
    ruleset = known.ruleset
    patterns = [name for _, names in ruleset.interface_groups for name in names]
    names = dict.fromkeys(
        [LOOPBACK, "eth0", "zz9", *(_device((p,)) for p in patterns), *(f"{p.rstrip('*')}x" for p in patterns)]
    )
    for name in names:
        if len(name) > 15:
            continue
        if base.direction is not Direction.OUTBOUND:
            yield dict(interface=name)
        if base.direction is not Direction.INBOUND:
            yield dict(out_interface=name)


def _rest(known: _Corners, base: Packet) -> Iterator[Change]:
    ruleset = known.ruleset
    yield dict(over_limit=True)
    yield dict(hop_limit=255 if base.hop_limit != 255 else 254)
    for name in ruleset.live:
        yield dict(live_source=frozenset({name}))
        yield dict(live_destination=frozenset({name}))
    if base.direction is Direction.OUTBOUND:
        for user in sorted({rule.user for rule in ruleset.outbound if rule.user} | {"nobody"}):
            yield dict(user=user)
    for rule in (*ruleset.inbound, *ruleset.outbound, *ruleset.forwarded):
        if rule.until is not None:
            yield dict(at=rule.until)
            yield dict(at=rule.until.replace(year=rule.until.year - 1))


def _mixtures(packets: list[Packet], chance: Random) -> Iterator[Packet]:
    """Packets that take each respect from one of two others of the same direction and family."""
    groups: dict[tuple[Direction, int, int, bool], list[Packet]] = {}
    for packet in packets:
        key = packet.direction, packet.source.version, packet.protocol, packet.original is None
        groups.setdefault(key, []).append(packet)
    keys = sorted(groups, key=repr)
    seen = set(packets)
    for _ in range(len(packets) * 2):
        pool = groups[chance.choice(keys)]
        one, other = chance.choice(pool), chance.choice(pool)
        mixed = replace(
            one,
            source=other.source,
            interface=other.interface,
            out_interface=chance.choice((one, other)).out_interface,
            state=chance.choice((one, other)).state,
            source_port=chance.choice((one, other)).source_port,
        )
        for packet in _possible([mixed]):
            if packet not in seen:
                seen.add(packet)
                yield packet


def _possible(packets: Iterable[Packet]) -> Iterator[Packet]:
    """Those that a kernel can meet, with what follows from the rest set right."""
    for packet in packets:
        if packet.reply and packet.state not in KNOWN:
            packet = replace(packet, reply=False)
        if packet.original is not None and packet.state is not State.NEW:
            continue
        nobody = MULTICAST | _BROADCAST
        if packet.source in nobody and int(packet.source) != 0:
            continue
        if packet.direction is not Direction.INBOUND and packet.destination in nobody and packet.original is not None:
            continue
        local = packet.direction is Direction.INBOUND and packet.destination not in nobody
        yield replace(packet, local=local)
