"""Packets as bytes: what a probe puts on the wire, and what the answers to it say.

Every packet bears a number from 1 to 65535 that survives address translation and comes back in the answer: the
identification field of IPv4 or the low half of IPv6's flow label (a quoted header shows it), and the upper half of
TCP's sequence and acknowledgement numbers (a reset repeats one of them).
"""

from __future__ import annotations

import struct
from ipaddress import IPv4Address

from portctl.net import MULTICAST, Address
from portctl.ruleset import ACK, ICMP, ICMPV6, IGMP, LOOPBACK, RST, TCP, UDP, Packet

MAC = bytes.fromhex("02706f727401")
"""Of both ends of every wire of the sandbox: with ARP switched off, each side then finds the other without asking."""
AUTHENTICATION_HEADER, NO_NEXT_HEADER = 51, 59
_IPV4, _IPV6 = 0x0800, 0x86DD
_UNREACHABLE = {4: 3, 6: 1}
"""ICMP and ICMPv6 type of "destination unreachable" (RFC 792, RFC 4443)."""


def internet(packet: Packet, number: int) -> bytes:
    """The packet from its IP header on."""
    source, destination = packet.source.packed, packet.destination.packed
    if isinstance(packet.source, IPv4Address):
        body = _body(packet, number, source + destination)
        head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(body), number, 0, packet.hop_limit, packet.protocol, 0)
        return head[:10] + _checksum(head + source + destination) + source + destination + body
    body = _body(packet, number, source + destination)
    return struct.pack(">IHBB", 6 << 28 | number, len(body), packet.protocol, packet.hop_limit) + (
        source + destination + body
    )


def ethernet(packet: Packet, number: int) -> bytes:
    """The packet as a frame for the other end of the wire, for everybody, or for a group."""
    kind = _IPV4 if packet.source.version == 4 else _IPV6
    ends = bytes(12) if packet.interface == LOOPBACK else _hardware(packet.destination) + MAC
    return ends + struct.pack(">H", kind) + internet(packet, number)


def _hardware(destination: Address) -> bytes:
    """RFC 1112 and RFC 2464: where frames for a multicast group go."""
    if destination == IPv4Address("255.255.255.255"):
        return b"\xff" * 6
    if destination not in MULTICAST:
        return MAC
    if destination.version == 6:
        return b"\x33\x33" + destination.packed[-4:]
    return b"\x01\x00\x5e" + (int(destination) & 0x7FFFFF).to_bytes(3, "big")


def _body(packet: Packet, number: int, addresses: bytes) -> bytes:
    match packet.protocol:
        case 6:
            mark = number << 16
            ports = struct.pack(">HHII", packet.source_port, packet.port, mark, mark)
            return _summed(ports + struct.pack(">BBHHH", 0x50, packet.flags, 64240, 0, 0), 16, addresses, TCP)
        case 17:
            head = struct.pack(">HHHH", packet.source_port, packet.port, 16, 0)
            return _summed(head + b"portctl\n", 6, addresses, UDP)
        case 132:
            return _sctp(packet)
        case 1 | 58:
            kind, code = divmod(packet.port, 256)
            message = struct.pack(">BBHHH", kind, code, 0, number, 1) + bytes(24)
            return _summed(message, 2, addresses if packet.protocol == ICMPV6 else b"", ICMPV6)
        case 51 if packet.source.version == 6:
            return bytes((NO_NEXT_HEADER, 1)) + bytes(10)
        case _:
            # Linux sums up what it is to answer, whatever the protocol, from where VRRP (IGMP) has its checksum.
            return _summed(
                bytes(24), 2 if packet.protocol == IGMP else 6, addresses if _is_v6(packet) else b"", packet.protocol
            )


def _is_v6(packet: Packet) -> bool:
    return packet.source.version == 6


def _summed(segment: bytes, at: int, addresses: bytes, protocol: int) -> bytes:
    """The segment with its checksum at byte `at`, over the pseudo header of RFC 9293 and RFC 8200 if any."""
    pseudo = addresses + struct.pack(">IHBB", len(segment), 0, 0, protocol) if addresses else b""
    return segment[:at] + _checksum(pseudo + segment) + segment[at + 2 :]


def _checksum(data: bytes) -> bytes:
    """RFC 1071."""
    total = sum(struct.unpack(f">{len(data) // 2}H", data)) if len(data) % 2 == 0 else 0
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return struct.pack(">H", (~total & 0xFFFF) or 0xFFFF)


def _sctp(packet: Packet) -> bytes:
    """An INIT (RFC 9260, 3.3.2)."""
    chunk = struct.pack(">BBHIIHHI", 1, 0, 20, 1, 65536, 1, 1, 1)
    head = struct.pack(">HHI", packet.source_port, packet.port, 0)
    return head + struct.pack("<I", _crc32c(head + bytes(4) + chunk)) + chunk


def _crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def refused(data: bytes) -> int | None:
    """The number of the packet that this answer (from its IP header on) refuses; None if it refuses nothing."""
    try:
        version = data[0] >> 4
        protocol, body = (data[9], data[(data[0] & 15) * 4 :]) if version == 4 else (data[6], data[40:])
        if protocol == TCP and body[13] & RST:
            sequence, acknowledged = struct.unpack_from(">II", body, 4)
            # RFC 9293, 3.5.2: a reset takes its number from what it answers, or acknowledges all of that.
            return int((acknowledged if body[13] & ACK else sequence) >> 16)
        if protocol in (ICMP, ICMPV6) and body[0] == _UNREACHABLE[version]:
            return int(struct.unpack_from(">H", body[8:], 4 if version == 4 else 2)[0])
    except (IndexError, struct.error):
        pass
    return None
