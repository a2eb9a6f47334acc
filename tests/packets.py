"""Packets as text, one a line, each with the verdict that it must get and the name of the rule that decides it.

    in eth0 tcp 198.51.100.9 > 192.0.2.1:22 => accept ssh
    in eth0 tcp [2001:db8::9]:4000 > [2001:db8::1]:22 state=established => accept known
    in eth0 icmp 198.51.100.9 > self 8/0 => drop default
    out udp self > 203.0.113.5:53 user=_apt => accept dns
    out lo tcp self > 127.0.0.1:80 => accept loopback
    forward lan0 wan0 tcp 10.0.0.7:5000 > 203.0.113.5:443 => accept internet

First where it goes: `in` and the incoming interface; `out` and (if it matters) the outgoing one; `forward` and both.
`lo` is the loopback interface. Then the protocol: tcp, udp, sctp, icmp, icmpv6, another by its IANA name, or a number.
Then source > destination, each with a port where the protocol has them (`:PORT`, `[IPv6]:PORT`; without one a source
has 40000); `self` is 192.0.2.1 or 2001:db8::1. ICMP has its type/code behind the destination. Then options:

    state=established   new (default), established, related, invalid, untracked
    reply               in the answering direction of its connection
    flags=SA            TCP flags (default S; FSRA, `none`)
    ttl=255             hop limit (default 64)
    over-limit          the source has used up whatever limit the packet meets
    user=NAME           who owns the sending socket
    live=GROUP          the source is in a live group; live-to=GROUP: the destination
    at=2027-02-01T00:00Z    the moment at which it is seen
    original=192.0.2.1:8080     somebody else's DNAT turned it from there
    local=no            the destination is no unicast address of this host (default for multicast and broadcast)

After `=>` the verdict (accept, drop, reject) and the rule. `#` starts a comment. Packets are as they arrive, before the
policy's own translations.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path

from portctl.expectations.corners import OWN
from portctl.net import MULTICAST, Address, Addresses
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
    State,
    Verdict,
)
from portctl.services import PROTOCOLS

NUMBERS = {"tcp": TCP, "udp": UDP, "sctp": SCTP, "icmp": ICMP, "icmpv6": ICMPV6, **PROTOCOLS}
FLAGS = {"F": FIN, "S": SYN, "R": RST, "A": ACK}
DIRECTIONS = {"in": Direction.INBOUND, "out": Direction.OUTBOUND, "forward": Direction.FORWARDED}
_END = re.compile(r"(?:\[([0-9a-f:.]+)\]|([0-9a-f:.]+?|self))(?::(\d+))?")
_NOT_LOCAL = MULTICAST | Addresses.of("255.255.255.255")


@dataclass(frozen=True, slots=True)
class Expected:
    """One line of a packets.txt."""

    line: str
    packet: Packet
    verdict: Verdict
    rule: str


def read(path: Path) -> list[Expected]:
    """All lines of a packets.txt. Raises ValueError with the line for one that it cannot read."""
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        text = line.partition("#")[0].strip()
        if text:
            try:
                found.append(expected(text))
            except (KeyError, ValueError, IndexError, StopIteration) as error:
                raise ValueError(f"{path}:{number}: {line}: {error!r}") from error
    return found


def expected(text: str) -> Expected:
    """One line without its comment."""
    left, _, right = text.partition("=>")
    verdict, rule = right.split()
    return Expected(text, packet(left), Verdict(verdict), rule)


def packet(text: str) -> Packet:
    """A packet without verdict."""
    words = text.split()
    direction = DIRECTIONS[words.pop(0)]
    devices = _devices(direction, words)
    protocol = _protocol(words.pop(0))
    source, arrow, destination, *options = words
    if arrow != ">":
        raise ValueError("no > between source and destination")
    (here, sport), (there, port) = _ends(source, destination)
    if protocol in (ICMP, ICMPV6):
        kind, _, code = options.pop(0).partition("/")
        port = int(kind) * 256 + int(code or 0)
    base = Packet(direction, protocol, here, there, port or 0, 40000 if sport is None else sport, *devices)
    local = direction is Direction.INBOUND and there not in _NOT_LOCAL
    return _options(replace(base, local=local), options)


def _devices(direction: Direction, words: list[str]) -> tuple[str, str]:
    coming = leaving = "eth0"
    if direction is not Direction.OUTBOUND:
        coming = words.pop(0)
    if direction is Direction.FORWARDED or (direction is Direction.OUTBOUND and words[1] != ">" and words[2] != ">"):
        leaving = words.pop(0)
    return tuple(LOOPBACK if name == "lo" else name for name in (coming, leaving))  # type: ignore[return-value]


def _protocol(word: str) -> int:
    return int(word) if word.isdigit() else NUMBERS[word]


def _ends(source: str, destination: str) -> tuple[tuple[Address, int | None], tuple[Address, int | None]]:
    ends = [_end(source), _end(destination)]
    version = next((address.version for address, _ in ends if address is not None), 4)
    first, second = ((OWN[6 if version == 6 else 4] if address is None else address, port) for address, port in ends)
    return first, second


def _end(word: str) -> tuple[Address | None, int | None]:
    if word.count(":") > 1 and not word.startswith("["):
        return ip_address(word), None
    match = _END.fullmatch(word)
    if match is None:
        raise ValueError(f"{word} is no address")
    name = match[1] or match[2]
    return (None if name == "self" else ip_address(name)), int(match[3]) if match[3] else None


def _options(found: Packet, options: list[str]) -> Packet:  # noqa: C901 - one case an option
    for option in options:
        name, _, value = option.partition("=")
        match name:
            case "state":
                found = replace(found, state=State[value.upper()])
            case "reply":
                found = replace(found, reply=True)
            case "flags":
                found = replace(found, flags=0 if value == "none" else sum(FLAGS[letter] for letter in value))
            case "ttl":
                found = replace(found, hop_limit=int(value))
            case "over-limit":
                found = replace(found, over_limit=True)
            case "user":
                found = replace(found, user=value)
            case "live":
                found = replace(found, live_source=frozenset(value.split(",")))
            case "live-to":
                found = replace(found, live_destination=frozenset(value.split(",")))
            case "at":
                found = replace(found, at=datetime.fromisoformat(value).astimezone(UTC))
            case "original":
                address, port = _end(value)
                found = replace(found, original=(address or OWN[4], port or 0), published=True)
            case "local":
                found = replace(found, local=value == "yes")
            case _:
                raise ValueError(f"unknown option {option}")
    return found
