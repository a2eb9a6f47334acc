"""Numbers behind the words of a listing: protocols, ICMP types, TCP flags, ports."""

from __future__ import annotations

import re
from ipaddress import IPv4Address, ip_address, ip_network

from portctl import services
from portctl.net import Family, Ranges
from portctl.ruleset import ICMP, ICMPV6

PROTOCOLS = {
    "hopopt": 0, "icmp": 1, "igmp": 2, "ggp": 3, "ipencap": 4, "ipip": 4, "st": 5, "tcp": 6, "egp": 8, "igp": 9,
    "pup": 12, "udp": 17, "hmp": 20, "xns-idp": 22, "rdp": 27, "iso-tp4": 29, "dccp": 33, "xtp": 36, "ddp": 37,
    "idpr-cmtp": 38, "ipv6": 41, "ipv6-route": 43, "ipv6-frag": 44, "idrp": 45, "rsvp": 46, "gre": 47, "esp": 50,
    "ipv6-crypt": 50, "ah": 51, "ipv6-auth": 51, "skip": 57, "ipv6-icmp": 58, "icmpv6": 58, "ipv6-nonxt": 59,
    "ipv6-opts": 60, "rspf": 73, "vmtp": 81, "eigrp": 88, "ospf": 89, "ospfigp": 89, "ax.25": 93, "etherip": 97,
    "encap": 98, "pim": 103, "ipcomp": 108, "vrrp": 112, "carp": 112, "l2tp": 115, "isis": 124, "sctp": 132,
    "fc": 133, "mh": 135, "mobility-header": 135, "ipv6-mh": 135, "udplite": 136, "mpls-in-ip": 137, "manet": 138,
    "hip": 139, "shim6": 140, "wesp": 141, "rohc": 142, "ethernet": 143,
}  # fmt: skip
"""Names that iptables or protocols(5) give to protocol numbers. `all` and 0 are every protocol."""

_ICMP_NAMES: dict[str, tuple[int, int | None]] = {
    "echo-reply": (0, None), "pong": (0, None), "destination-unreachable": (3, None), "network-unreachable": (3, 0),
    "host-unreachable": (3, 1), "protocol-unreachable": (3, 2), "port-unreachable": (3, 3),
    "fragmentation-needed": (3, 4), "source-route-failed": (3, 5), "network-unknown": (3, 6), "host-unknown": (3, 7),
    "network-prohibited": (3, 9), "host-prohibited": (3, 10), "TOS-network-unreachable": (3, 11),
    "TOS-host-unreachable": (3, 12), "communication-prohibited": (3, 13), "host-precedence-violation": (3, 14),
    "precedence-cutoff": (3, 15), "source-quench": (4, None), "redirect": (5, None), "network-redirect": (5, 0),
    "host-redirect": (5, 1), "TOS-network-redirect": (5, 2), "TOS-host-redirect": (5, 3), "echo-request": (8, None),
    "ping": (8, None), "router-advertisement": (9, None), "router-solicitation": (10, None),
    "time-exceeded": (11, None), "ttl-exceeded": (11, None), "ttl-zero-during-transit": (11, 0),
    "ttl-zero-during-reassembly": (11, 1), "parameter-problem": (12, None), "ip-header-bad": (12, 0),
    "required-option-missing": (12, 1), "timestamp-request": (13, None), "timestamp-reply": (14, None),
    "address-mask-request": (17, None), "address-mask-reply": (18, None),
}  # fmt: skip
_ICMPV6_NAMES: dict[str, tuple[int, int | None]] = {
    "destination-unreachable": (1, None), "no-route": (1, 0), "communication-prohibited": (1, 1),
    "beyond-scope": (1, 2), "address-unreachable": (1, 3), "port-unreachable": (1, 4), "failed-policy": (1, 5),
    "reject-route": (1, 6), "packet-too-big": (2, None), "time-exceeded": (3, None), "ttl-exceeded": (3, None),
    "ttl-zero-during-transit": (3, 0), "ttl-zero-during-reassembly": (3, 1), "parameter-problem": (4, None),
    "bad-header": (4, 0), "unknown-header-type": (4, 1), "unknown-option": (4, 2), "echo-request": (128, None),
    "ping": (128, None), "echo-reply": (129, None), "pong": (129, None), "mld-listener-query": (130, None),
    "mld-listener-report": (131, None), "mld-listener-done": (132, None), "mld-listener-reduction": (132, None),
    "router-solicitation": (133, None), "router-advertisement": (134, None), "neighbour-solicitation": (135, None),
    "neighbor-solicitation": (135, None), "neighbour-advertisement": (136, None),
    "neighbor-advertisement": (136, None), "redirect": (137, None),
}  # fmt: skip
_FLAGS = {"FIN": 1, "SYN": 2, "RST": 4, "PSH": 8, "ACK": 16, "URG": 32, "ALL": 63, "NONE": 0}


def protocol(text: str) -> int | None:
    """A protocol's number; 0 is every protocol; None is a word that is not known."""
    if text.isdigit():
        return int(text)
    return 0 if text == "all" else PROTOCOLS.get(text.lower())


def whole(text: str) -> int | None:
    """A number, decimal or hexadecimal."""
    try:
        return int(text, 0)
    except ValueError:
        return int(text) if text.isdigit() else None


def flags(text: str) -> int | None:
    """A comma-separated list of TCP flags as bits."""
    bits = [_FLAGS.get(word.upper()) for word in text.split(",")]
    total = 0
    for bit in bits:
        if bit is None:
            return None
        total |= bit
    return total


def ports(text: str) -> Ranges | None:
    """`22`, `80,443`, `8000:8010`, `:1023`, `1024:`, with names of services. A reversed range holds nothing."""
    pairs = []
    for part in text.split(","):
        first, colon, last = part.partition(":")
        low = _port(first or "0")
        high = _port(last or "65535") if colon else low
        if low is None or high is None:
            return None
        if low <= high:
            pairs.append((low, high))
    return Ranges.of(pairs)


def _port(text: str) -> int | None:
    if text.isdigit():
        return int(text) if int(text) <= 65535 else None
    service = services.find(text)
    return service.first if service is not None and service.first == service.last else None


def icmp(text: str, number: int) -> Ranges | None:
    """`8`, `3/4`, `echo-request`, `any` as type × 256 + code."""
    if text == "any" or (text == "255" and number == ICMP):
        return Ranges((0, 65536))
    names = _ICMPV6_NAMES if number == ICMPV6 else _ICMP_NAMES
    kind, _, code = text.partition("/")
    if kind.isdigit() and (not code or code.isdigit()):
        found: tuple[int, int | None] = (int(kind), int(code) if code else None)
    elif text in names:
        found = names[text]
    else:
        return None
    base = found[0] * 256
    return Ranges.of([(base, base + 255) if found[1] is None else (base + found[1], base + found[1])])


def addresses(text: str, family: Family) -> Ranges | None:
    """`10.0.0.0/8`, `10.0.0.5/255.0.0.0`, `10.1/16`, a list of them. None for what is no address of the family (a
    host's name), and for a mask with more holes than can be listed.

    Host bits count for nothing, as in the kernel.
    """
    pairs: list[tuple[int, int]] = []
    for part in text.split(","):
        found = _masked(part) if family == 4 else _network(part, family)
        if found is None:
            return None
        pairs += found
    return Ranges.of(pairs)


def _network(text: str, family: Family) -> list[tuple[int, int]] | None:
    try:
        network = ip_network(text, strict=False)
    except ValueError:
        return None
    return [(int(network[0]), int(network[-1]))] if network.version == family else None


def _masked(text: str) -> list[tuple[int, int]] | None:
    """An address of IPv4 and its mask as iptables reads them: what is left out at the end of the address is 0, and
    every bit of the mask counts by itself (`numeric_to_ipaddr` in libxtables)."""
    host, _, mask = text.partition("/")
    if host.count(".") < 3:
        host += ".0" * (3 - host.count("."))
    if not _DOTTED.fullmatch(mask):
        return _network(f"{host}/{mask}" if mask else host, 4)
    try:
        address, bits = int(IPv4Address(host)), int(IPv4Address(mask))
    except ValueError:
        return None
    below = (bits & -bits) - 1 if bits else (1 << 32) - 1
    holes = [1 << n for n in range(32) if not bits >> n & 1 and 1 << n > below]
    if len(holes) > MOST_HOLES:
        return None
    firsts = [address & bits]
    for hole in holes:
        firsts += [first | hole for first in firsts]
    return [(first, first | below) for first in sorted(firsts)]


_DOTTED = re.compile(r"\d+(\.\d+){3}")
MOST_HOLES = 12
"""A mask with so many bits missing between others is as many as 4096 networks."""


def span(text: str) -> Ranges | None:
    """`a-b`, or one address. A reversed range holds nothing."""
    first, dash, last = text.partition("-")
    try:
        low = int(ip_address(first))
        high = int(ip_address(last)) if dash else low
    except ValueError:
        return None
    return Ranges.of([(low, high)]) if low <= high else Ranges()
