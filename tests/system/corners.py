"""Packets at the corners of a policy's rules, and strangers, such as can be sent for real.

A packet is made for one rule: of its protocol, from and to the first and last of its addresses and ports or just beside
them, over its interfaces; and then most often spoilt in one place. The seed decides all of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_address
from random import Random

from portctl.hosts.representatives import Spent, limits
from portctl.hosts.sandbox import Layout, instance
from portctl.hosts.sendable import BROADCAST, natural_state, reason_under
from portctl.net import BITS, FAMILIES, MULTICAST, Address, Addresses, Family, Ranges
from portctl.ruleset import (
    ACK,
    FIN,
    ICMP,
    ICMPV6,
    LOOPBACK,
    RST,
    SCTP,
    SYN,
    TCP,
    UDP,
    Direction,
    Packet,
    Rule,
    Ruleset,
)

STRANGERS: dict[Family, tuple[Address, ...]] = {
    4: tuple(map(ip_address, ("45.83.220.77", "10.217.93.14", "192.168.219.201", "192.0.2.77", "100.64.3.3"))),
    6: tuple(map(ip_address, ("2a0e:b107:9f0::77", "fd6b:94c2:77::41", "2001:db8:ffff::7", "fe80::77"))),
}
ODD_FLAGS = (ACK, SYN | ACK, FIN | ACK, RST, RST | ACK, SYN | FIN, SYN | RST, 0, FIN, SYN | 0x20, SYN | 0xC0)
WHOLE = (Direction.INBOUND, Direction.INBOUND, Direction.INBOUND, Direction.OUTBOUND, Direction.FORWARDED)


def packets(ruleset: Ruleset, layout: Layout, seed: int, count: int) -> list[Packet]:
    """About `count` packets, each sendable, at most one of a source for each entry with limits."""
    random = Random(seed)
    spent: Spent = set()
    found: dict[Packet, None] = {}
    for _ in range(8 * count):
        packet = _packet(ruleset, layout, random)
        if packet is None or reason_under(ruleset, packet, layout) or packet in found:
            continue
        taken = limits(ruleset, packet)
        if taken & spent:
            continue
        spent |= taken
        found[packet] = None
        if len(found) == count:
            break
    return list(found)


def _packet(ruleset: Ruleset, layout: Layout, random: Random) -> Packet | None:
    direction = random.choice(WHOLE)
    rule = random.choice(ruleset.rules(direction))
    family = random.choice(rule.families() or FAMILIES)
    protocol, port, source_port = _shape(rule, family, random)
    interface = _interface(rule.interfaces, layout, random)
    out = _interface(rule.out_interfaces, layout, random)
    own = layout.address(interface if direction is Direction.INBOUND else out, family)
    source = _end(rule.source, family, random)
    destination = _end(rule.destination, family, random)
    if direction is Direction.OUTBOUND:
        source = own
    if direction is Direction.INBOUND and (rule.destination.is_every(family) or random.random() < 0.3):
        destination = own
    if ruleset.translations and random.random() < 0.3:
        return _turned(ruleset, layout, random)
    if source.version != destination.version:
        return None
    packet = Packet(
        direction,
        protocol,
        source,
        destination,
        port,
        source_port,
        interface=interface,
        out_interface=out,
        flags=SYN if random.random() < 0.8 else random.choice(ODD_FLAGS),
        hop_limit=random.choice((rule.hop_limit or 64, 64, 255, 2)),
        user=(rule.user or random.choice((*layout.users, "root"))) if direction is Direction.OUTBOUND else None,
        local=direction is not Direction.FORWARDED and destination not in MULTICAST and destination != BROADCAST,
    )
    packet = _spoil(packet, layout, random) if random.random() < 0.3 else packet
    return replace(packet, state=natural_state(packet))


def _turned(ruleset: Ruleset, layout: Layout, random: Random) -> Packet | None:
    """A packet that a translation may be meant for."""
    rule = random.choice(ruleset.translations)
    family = random.choice(rule.families() or FAMILIES)
    flow = random.choice(rule.flows or (None,))
    interface = _interface(rule.interfaces, layout, random)
    own = layout.address(interface, family)
    packet = Packet(
        Direction.INBOUND,
        flow.protocol if flow else random.choice((TCP, UDP)),
        _end(rule.source, family, random),
        own if rule.destination is None else _end(rule.destination, family, random),
        _number(flow.ports if flow else Ranges((1, 65536)), 65535, random),
        random.randint(1024, 65535),
        interface=interface,
        out_interface=random.choice(layout.interfaces),
    )
    return replace(packet, state=natural_state(packet)) if packet.source.version == packet.destination.version else None


def _shape(rule: Rule, family: Family, random: Random) -> tuple[int, int, int]:
    flows = [flow for flow in rule.flows or () if family in flow.families()]
    if not flows or random.random() < 0.15:
        protocol = random.choice((TCP, UDP, TCP, UDP, SCTP, ICMP if family == 4 else ICMPV6, 47, 50, 2, 112))
        if protocol in (ICMP, ICMPV6):
            return protocol, random.choice((0, 3, 8, 11, 13, 1, 2, 4, 128, 129, 133, 135, 143)) * 256, 0
        return protocol, random.choice((22, 53, 80, 443, 25, 8080, random.randint(1, 65535))), random.randint(1, 65535)
    flow = random.choice(flows)
    return flow.protocol, _number(flow.ports, 65535, random), _number(flow.source_ports, 65535, random, 1024)


def _interface(patterns: Sequence[str], layout: Layout, random: Random) -> str:
    if patterns and random.random() < 0.8:
        name = instance(random.choice(patterns))
        return LOOPBACK if name in (LOOPBACK, "lo") else name
    return random.choice(layout.interfaces)


def _end(addresses: Addresses, family: Family, random: Random) -> Address:
    if addresses.is_every(family) or random.random() < 0.2:
        return random.choice(STRANGERS[family])
    number = _number(addresses.family(family), (1 << BITS[family]) - 1, random)
    return IPv4Address(number) if family == 4 else IPv6Address(number)


def _number(ranges: Ranges, top: int, random: Random, least: int = 0) -> int:
    """The first or last number of a range, one just beside it, or one within."""
    pairs = list(ranges.pairs())
    if not pairs:
        return random.randint(least, top)
    first, last = random.choice(pairs)
    if (first, last) in ((0, top), (1, top)):
        return random.randint(max(least, 1), top)
    return min(top, max(least and 1, random.choice((first, last, first - 1, last + 1, random.randint(first, last)))))


def _spoil(packet: Packet, layout: Layout, random: Random) -> Packet:
    family: Family = 4 if packet.source.version == 4 else 6
    match random.randrange(4):
        case 0 if packet.direction is not Direction.OUTBOUND:
            return replace(packet, source=random.choice(STRANGERS[family]))
        case 1:
            return replace(packet, port=min(65535, packet.port + 1))
        case 2:
            return replace(packet, interface=random.choice(layout.interfaces), out_interface=layout.interfaces[-1])
        case _:
            other = {TCP: UDP, UDP: TCP}.get(packet.protocol, packet.protocol)
            return replace(packet, protocol=other, source_port=random.randint(1, 65535))
