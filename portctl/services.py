"""portctl's own table of services: the same on every machine, so that a policy means the same everywhere.

Names and numbers are those of IANA's registry of service names, with the protocols that the service really speaks
today (the registry gives nearly every number to both TCP and UDP), and those that administrators expect although the
registry says otherwise (`openvpn`, `wireguard`, `kubelet`). A name that means two protocols speaks both.
"""

from __future__ import annotations

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
