"""Which packets can be sent for real, and what becomes of them on Linux whatever the rules say."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address

from portctl.hosts.sandbox import Layout
from portctl.net import LINK_LOCAL_V6, LOOPBACK_ADDRESSES, MULTICAST, UNSPECIFIED_V6, Addresses
from portctl.ruleset import (
    ACK,
    FIN,
    ICMP,
    ICMPV6,
    LOOPBACK,
    RST,
    SYN,
    TCP,
    UDP,
    Direction,
    Packet,
    Ruleset,
    State,
    translate,
)

ANYCAST = IPv6Address("fe80::")
"""Every router's address on its link (RFC 4291, 2.6.1)."""
BROADCAST = IPv4Address("255.255.255.255")
BROADCASTS = (BROADCAST, IPv4Address("127.0.0.0"), IPv4Address("127.255.255.255"))
"""Of every network, and of the loopback network."""
THIS_NETWORK = Addresses.of("0.0.0.0/8")
_EXTENSIONS = (0, 43, 44, 51, 60, 135, 139, 140, 253, 254)
"""IPv6 extension headers (IANA): no protocols to look for behind the header."""
_ANSWERED = {ICMP: (0, 8, *range(13, 19)), ICMPV6: tuple(n for n in range(128, 256) if n != 137)}
"""ICMP types that an error may answer (RFC 1122, 3.2.2; RFC 4443, 2.4; `icmp_pointers` in net/ipv4/icmp.c)."""


def reason(packet: Packet, layout: Layout, known: bool = False) -> str | None:
    """Why a packet cannot be sent as it is; None if it can. `known`: its connection, if any, was opened before."""
    if packet.state is State.ESTABLISHED and known and packet.protocol in (TCP, UDP):
        if packet.protocol == TCP and packet.flags != ACK:
            return "it would change its connection"
    elif packet.state is not natural_state(packet) or packet.reply:
        return "its state needs a connection before it"
    if packet.over_limit or packet.live_source or packet.live_destination or packet.at or packet.original:
        return "it needs something that happened before it"
    used = {
        Direction.INBOUND: (packet.interface,),
        Direction.OUTBOUND: (packet.out_interface,),
        Direction.FORWARDED: (packet.interface, packet.out_interface),
    }[packet.direction]
    for name in used:
        if name != LOOPBACK and name not in layout.interfaces:
            return f"there is no interface {name}"
    if packet.direction is Direction.OUTBOUND:
        inside = layout.owns(packet.destination)
        if inside != (packet.out_interface == LOOPBACK):
            return "what goes to this host itself leaves by the loopback interface, and nothing else does"
    if packet.direction is Direction.FORWARDED and layout.owns(packet.destination):
        return "this host's own address is not behind it"
    return _impossible(packet)


def reason_under(ruleset: Ruleset, packet: Packet, layout: Layout) -> str | None:
    """The same under a policy: where its forwards send a packet on, it must be able to go."""
    return reason(packet, layout) or reason(replace(translate(ruleset, packet), original=None), layout)


def _impossible(packet: Packet) -> str | None:
    """What the kernel lets go before any packet filter sees it (ip_rcv, ip_route_input, ip6_rcv, ip6_forward)."""
    source, destination = packet.source, packet.destination
    if source.version != destination.version:
        return "its addresses are of two families"
    if ANYCAST in (source, destination):
        return "that address is every router's, and this host's own where it forwards"
    if packet.source.version == 6 and packet.protocol in _EXTENSIONS:
        return "this is no protocol but a part of the IPv6 header"
    if source in MULTICAST or source == BROADCAST:
        return "no packet comes from a group"
    loopback = packet.interface == LOOPBACK
    if not loopback and source.version == 6 and (source.is_loopback or destination.is_loopback):
        return "IPv6 drops loopback addresses off the loopback interface"
    if (source in THIS_NETWORK and destination != BROADCAST) or destination in THIS_NETWORK | UNSPECIFIED_V6:
        return "IPv4 drops addresses of this network"
    return _undelivered(packet, destination in MULTICAST or destination in BROADCASTS, loopback)


def _undelivered(packet: Packet, special: bool, loopback: bool) -> str | None:
    """The same of one direction. `special`: to a group, or to everybody."""
    source, destination = packet.source, packet.destination
    match packet.direction:
        case Direction.OUTBOUND if source == destination:
            return "a host's own packet to itself never leaves"
        case Direction.INBOUND if loopback and special:
            return "nobody joins a group on the loopback interface"
        case Direction.INBOUND if packet.local == special:
            return "such a destination is not local" if special else "a local destination is local"
        case Direction.INBOUND if destination in LINK_LOCAL_V6 and not loopback:
            return "a link-local address belongs to one interface"
        case Direction.FORWARDED:
            narrow = LINK_LOCAL_V6 | UNSPECIFIED_V6 | LOOPBACK_ADDRESSES
            if special or source in narrow or destination in narrow or packet.hop_limit < 2 or loopback:
                return "nobody forwards it"
    return None


def answerable(packet: Packet, layout: Layout) -> bool:
    """Whether a packet that is rejected gets an answer that the sender sees."""
    source, destination = packet.source, packet.destination
    if destination in MULTICAST or destination == BROADCAST or source in LOOPBACK_ADDRESSES | UNSPECIFIED_V6:
        return False
    nowhere = source in THIS_NETWORK or source in (destination, ANYCAST)
    if packet.direction is not Direction.OUTBOUND and (nowhere or layout.owns(source)):
        return False
    if packet.state is State.INVALID and packet.direction is Direction.FORWARDED:
        return False  # the answer is as invalid, and leaves only if everything may
    if packet.protocol == TCP:
        return not packet.flags & RST
    return packet.protocol not in _ANSWERED or packet.port // 256 in _ANSWERED[packet.protocol]


_FLAGS = 0x3F
_PUSH, _URGENT = 0x08, 0x20
_LEGAL = {SYN, SYN | _URGENT, SYN | ACK, RST, RST | ACK, FIN | ACK, FIN | ACK | _URGENT, ACK, ACK | _URGENT}
_ASKING = {8, 13, 15, 17}
"""ICMP types that start something: echo, timestamp, information and address mask requests."""
_NEIGHBOURS = {*range(130, 137), 143}
"""ICMPv6 types that the tracker lets pass by: not the redirect, 137."""


def natural_state(packet: Packet) -> State:
    """What Linux's state tracker says of a packet that nothing came before (net/netfilter/nf_conntrack_proto_*.c)."""
    if packet.protocol == TCP:
        flags = packet.flags & _FLAGS & ~_PUSH
        fresh = flags in _LEGAL and flags & ~_URGENT in (SYN, ACK)
        return State.NEW if fresh else State.INVALID
    kind = packet.port // 256
    if packet.protocol == ICMP:
        return State.NEW if kind in _ASKING else State.INVALID
    if packet.protocol == ICMPV6:
        if kind in _NEIGHBOURS:
            return State.UNTRACKED
        return State.NEW if kind in (128, 139) else State.INVALID
    return State.NEW


def opening(packet: Packet) -> tuple[Packet, Packet]:
    """The first packet of a packet's connection, and the first answer."""
    there = replace(packet, state=State.NEW, reply=False, user=None)
    back = turned(there)
    first, second = (back, there) if packet.reply else (there, back)
    return replace(first, flags=SYN), replace(second, flags=SYN | ACK)


def turned(packet: Packet) -> Packet:
    """A packet the other way round."""
    direction = {Direction.INBOUND: Direction.OUTBOUND, Direction.OUTBOUND: Direction.INBOUND}
    return replace(
        packet,
        direction=direction.get(packet.direction, Direction.FORWARDED),
        source=packet.destination,
        destination=packet.source,
        port=packet.source_port,
        source_port=packet.port,
        interface=packet.out_interface,
        out_interface=packet.interface,
        local=packet.direction is Direction.OUTBOUND,
    )
