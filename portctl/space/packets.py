"""One packet in words."""

from __future__ import annotations

from portctl.ruleset import (
    ICMP,
    ICMPV6,
    IGMP,
    LOOPBACK,
    PROTOCOLS_WITH_PORTS,
    SCTP,
    SYN,
    TCP,
    UDP,
    Direction,
    Packet,
    State,
)

PROTOCOL_NAMES = {
    ICMP: "icmp",
    IGMP: "igmp",
    TCP: "tcp",
    UDP: "udp",
    47: "gre",
    50: "esp",
    51: "ah",
    ICMPV6: "icmpv6",
    89: "ospf",
    112: "vrrp",
    SCTP: "sctp",
}
"""IANA names of those that people speak of."""


def protocol_name(number: int) -> str:
    return PROTOCOL_NAMES.get(number, f"protocol {number}")


def packet_text(packet: Packet) -> str:
    """`inbound tcp 198.51.100.1:40000 > 192.0.2.1:22 in eth0`, and whatever else is unusual about it."""
    ported = packet.protocol in PROTOCOLS_WITH_PORTS
    source, destination = (
        f"[{a}]" if ported and a.version == 6 else str(a) for a in (packet.source, packet.destination)
    )
    if ported:
        source, destination = f"{source}:{packet.source_port}", f"{destination}:{packet.port}"
    words = [packet.direction.value, protocol_name(packet.protocol), source, ">", destination]
    if packet.protocol in (ICMP, ICMPV6):
        words.append(f"type {packet.port >> 8} code {packet.port & 255}")
    if packet.direction is not Direction.OUTBOUND:
        words.append(f"in {_name(packet.interface)}")
    if packet.direction is not Direction.INBOUND:
        words.append(f"out {_name(packet.out_interface)}")
    return " ".join(words + _unusual(packet))


def _name(interface: str) -> str:
    return "loopback" if interface == LOOPBACK else interface


def _unusual(packet: Packet) -> list[str]:
    found = []
    if packet.state is not State.NEW:
        found.append(str(packet.state.name).lower())
    if packet.reply:
        found.append("answering")
    if packet.protocol == TCP and packet.flags != SYN:
        found.append(f"flags {packet.flags:#04x}")
    if packet.hop_limit != 64:
        found.append(f"hop limit {packet.hop_limit}")
    if packet.user:
        found.append(f"of user {packet.user}")
    if packet.direction is Direction.INBOUND and not packet.local:
        found.append("to no address of this host")
    if packet.over_limit:
        found.append("over the limit")
    found += [f"source in {name}" for name in sorted(packet.live_source)]
    found += [f"destination in {name}" for name in sorted(packet.live_destination)]
    if packet.at:
        found.append(f"at {packet.at:%Y-%m-%dT%H:%M:%SZ}")
    if packet.original:
        found.append(f"published, before {packet.original[0]}:{packet.original[1]}")
    return found
