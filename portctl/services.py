"""portctl's own table of services: the same on every machine, so that a policy means the same everywhere.

Names and numbers are those of IANA's registry of service names, with the protocols that the service really speaks
today (the registry gives nearly every number to both TCP and UDP), and those that administrators expect although the
registry says otherwise (`openvpn`, `wireguard`, `kubelet`). A name that means two protocols speaks both.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

PORT_PROTOCOLS = {"tcp": 6, "udp": 17, "sctp": 132}
"""Protocols that have ports, by IANA name."""

PROTOCOLS = {
    "ipencap": 4,
    "igmp": 2,
    "egp": 8,
    "igp": 9,
    "ipv6-encap": 41,
    "rsvp": 46,
    "gre": 47,
    "esp": 50,
    "ah": 51,
    "skip": 57,
    "eigrp": 88,
    "ospf": 89,
    "ipip": 94,
    "etherip": 97,
    "pim": 103,
    "ipcomp": 108,
    "vrrp": 112,
    "l2tpv3": 115,
    "isis": 124,
    "udplite": 136,
    "mpls-in-ip": 137,
    "manet": 138,
    "hip": 139,
}
"""Protocols without ports that a policy may name, by IANA name (`ospf` is its OSPFIGP)."""

_LISTED = """\
hopopt 0 ip 0 icmp 1 igmp 2 ggp 3 ipencap 4 st 5 st2 5 tcp 6 cbt 7 ucl 7 egp 8 igp 9 bbn-rcc 10 bbn-rcc-mon 10 nvp 11
nvp-ii 11 pup 12 argus 13 emcon 14 xnet 15 chaos 16 udp 17 mux 18 dcn 19 dcn-meas 19 hmp 20 prm 21 xns-idp 22 trunk-1
23 trunk-2 24 leaf-1 25 leaf-2 26 rdp 27 irtp 28 iso-tp4 29 netblt 30 mfe-nsp 31 merit-inp 32 dccp 33 sep 33 3pc 34
idpr 35 xtp 36 ddp 37 idpr-cmtp 38 tp++ 39 il 40 ipv6 41 sdrp 42 ipv6-route 43 sip-sr 43 ipv6-frag 44 sip-frag 44 idrp
45 rsvp 46 gre 47 dsr 48 mhrp 48 bna 49 esp 50 ah 51 i-nlsp 52 swipe 53 narp 54 nhrp 54 mobile 55 mobileip 55 tlsp 56
skip 57 icmp6 58 ipv6-icmp 58 ipv6-nonxt 59 ipv6-opts 60 cftp 62 sat-expak 64 kryptolan 65 rvd 66 ippc 67 sat-mon 69
visa 70 ipcv 71 cpnx 72 cphb 73 rspf 73 wsn 74 pvp 75 br-sat-mon 76 sun-nd 77 wb-mon 78 wb-expak 79 iso-ip 80 vmtp 81
secure-vmtp 82 vines 83 iptm 84 ttp 84 nsfnet-igp 85 dgp 86 tcf 87 eigrp 88 igrp 88 ospf 89 ospfigp 89 sprite-rpc 90
larp 91 mtp 92 ax.25 93 ipip 94 micp 95 scc-sp 96 etherip 97 encap 98 gmtp 100 ifmp 101 pnni 102 pim 103 aris 104 scps
105 qnx 106 a/n 107 ipcomp 108 snp 109 compaq-peer 110 ipx-in-ip 111 carp 112 vrrp 112 pgm 113 l2tp 115 ddx 116 iatp
117 stp 118 srp 119 uti 120 smp 121 sm 122 ptp 123 isis 124 fire 125 crtp 126 crudp 127 sscopmce 128 iplt 129 sps 130
pipe 131 sctp 132 fc 133 rsvp-e2e-ignore 134 mobility-header 135 udplite 136 mpls-in-ip 137 manet 138 hip 139 shim6
140 wesp 141 rohc 142 ethernet 143 pfsync 240
"""
LISTED_PROTOCOLS = {name: int(number) for name, number in re.findall(r"(\S+) (\d+)", _LISTED)}
"""What packet filters print for the numbers of protocols: names of protocols(5) of FreeBSD, OpenBSD, macOS and Linux.
They are read, never written: the policy language and what is rendered keep to `PROTOCOLS` and to numbers."""

GOVERNED = frozenset({1, 6, 17, 58, 132})
"""Protocols that are never named by number: they have ports, or lines of their own in the tables of the language."""

EXTENSION_HEADERS = frozenset({0, 43, 44, 59, 60, 135, 139, 140, 253, 254})
"""Numbers of IPv6 extension headers, which are no protocols (IANA's list, RFC 7045), and of "no next header"."""

WELL_KNOWN, REGISTERED, DYNAMIC = (0, 1023), (1024, 49151), (49152, 65535)
"""RFC 6335, section 6."""
LINUX_EPHEMERAL = (32768, 60999)
"""Linux's own default of `net.ipv4.ip_local_port_range`."""


@dataclass(frozen=True, slots=True)
class Service:
    """One line of the table. `first` and `last` differ where a service has a range of ports."""

    name: str
    first: int
    last: int
    protocols: tuple[str, ...]
    aliases: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        return self.name, *self.aliases

    @property
    def ports(self) -> str:
        """As a policy writes it, without protocols: `22` or `6000-6063`."""
        return str(self.first) if self.first == self.last else f"{self.first}-{self.last}"


@cache
def table() -> tuple[Service, ...]:
    """All services, by port, then name."""
    text = (Path(__file__).with_suffix(".txt")).read_text(encoding="utf-8")
    return tuple(sorted(_read(text), key=lambda service: (service.first, service.last, service.name)))


@cache
def by_name() -> dict[str, Service]:
    """Every name and alias."""
    return {name: service for service in table() for name in service.names}


def find(name: str) -> Service | None:
    """The service of that name or alias."""
    return by_name().get(name)


def within(first: int, last: int) -> list[Service]:
    """The services with a port among `first` to `last`."""
    return [service for service in table() if service.first <= last and first <= service.last]


def range_name(port: int) -> str:
    """What RFC 6335 calls the part of the number space that a port is in."""
    if port <= WELL_KNOWN[1]:
        return "well-known (0-1023)"
    if port <= REGISTERED[1]:
        return "registered (1024-49151)"
    return "dynamic (49152-65535)"


def privileged(port: int) -> bool:
    """Whether opening the port takes root, as systems come (Linux: `net.ipv4.ip_unprivileged_port_start`)."""
    return port < 1024


def ephemeral(port: int) -> bool:
    """Whether Linux, as it comes, may give the port to any outgoing connection."""
    return LINUX_EPHEMERAL[0] <= port <= LINUX_EPHEMERAL[1]


def suggest(word: str) -> str | None:
    """The known name that is most like a word."""
    from difflib import get_close_matches

    found = get_close_matches(word.lower(), [*by_name(), *PROTOCOLS], n=1, cutoff=0.6)
    return found[0] if found else None


def read_services(text: str) -> dict[str, set[tuple[int, str]]]:
    """The content of an /etc/services: {name or alias: {(port, protocol)}}. Lines it cannot read are left out."""
    found: dict[str, set[tuple[int, str]]] = {}
    for line in text.splitlines():
        words = line.partition("#")[0].split()
        if len(words) < 2:
            continue
        number, _, protocol = words[1].partition("/")
        if number.isascii() and number.isdigit() and protocol:
            for name in (words[0], *words[2:]):
                found.setdefault(name.lower(), set()).add((int(number), protocol))
    return found


def difference(service: Service, listed: dict[str, set[tuple[int, str]]]) -> str | None:
    """How an /etc/services (from `read_services`) differs from portctl's table on one service, in words."""
    there = listed.get(service.name)
    if there is None:
        other = next((alias for alias in service.aliases if alias in listed), None)
        if other is None:
            return None if not listed else "does not list it"
        there = listed[other]
    mine = {(port, protocol) for port in (service.first,) for protocol in service.protocols}
    if mine == there:
        return None
    return "says " + ", ".join(f"{port}/{protocol}" for port, protocol in sorted(there))


def _read(text: str) -> Iterator[Service]:
    for line in text.splitlines():
        name, place, *aliases = line.split()
        number, protocols = place.split("/")
        first, _, last = number.partition("-")
        yield Service(name, int(first), int(last or first), tuple(protocols.split("+")), tuple(aliases))
