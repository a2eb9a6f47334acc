"""Single words and conditions as `nft list` 1.0.6 prints them: addresses, ports, names of ICMP types, interfaces."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from socket import AF_INET, AF_INET6, inet_ntoa, inet_ntop

from portctl.net import BITS, Family, Ranges
from portctl.ruleset import EVERY_PORT, ICMP, ICMPV6, LOOPBACK, PROTOCOLS_WITH_PORTS, SCTP, TCP, UDP, Flow, State

PROTOCOLS = {ICMP: "icmp", TCP: "tcp", UDP: "udp", 50: "esp", 51: "ah", SCTP: "sctp", ICMPV6: "icmpv6"}
"""Names that are words of nft's own grammar: it needs no /etc/protocols to read them."""

STATES = (
    (State.INVALID, "invalid"),
    (State.ESTABLISHED, "established"),
    (State.RELATED, "related"),
    (State.NEW, "new"),
    (State.UNTRACKED, "untracked"),
)
"""In the order of nft's listing."""

# nft 1.0.6, src/proto.c: icmp_type_tbl, icmp6_type_tbl; src/datatype.c: icmp_code_tbl, icmpv6_code_tbl.
_ICMP_TYPES = {
    0: "echo-reply", 3: "destination-unreachable", 4: "source-quench", 5: "redirect", 8: "echo-request",
    9: "router-advertisement", 10: "router-solicitation", 11: "time-exceeded", 12: "parameter-problem",
    13: "timestamp-request", 14: "timestamp-reply", 15: "info-request", 16: "info-reply", 17: "address-mask-request",
    18: "address-mask-reply",
}  # fmt: skip
_ICMPV6_TYPES = {
    1: "destination-unreachable", 2: "packet-too-big", 3: "time-exceeded", 4: "parameter-problem",
    128: "echo-request", 129: "echo-reply", 130: "mld-listener-query", 131: "mld-listener-report",
    132: "mld-listener-done", 133: "nd-router-solicit", 134: "nd-router-advert", 135: "nd-neighbor-solicit",
    136: "nd-neighbor-advert", 137: "nd-redirect", 138: "router-renumbering", 141: "ind-neighbor-solicit",
    142: "ind-neighbor-advert", 143: "mld2-listener-report",
}  # fmt: skip
_ICMP_CODES = {
    0: "net-unreachable", 1: "host-unreachable", 2: "prot-unreachable", 3: "port-unreachable", 4: "frag-needed",
    9: "net-prohibited", 10: "host-prohibited", 13: "admin-prohibited",
}  # fmt: skip
_ICMPV6_CODES = {
    0: "no-route", 1: "admin-prohibited", 3: "addr-unreachable", 4: "port-unreachable", 5: "policy-fail",
    6: "reject-route",
}  # fmt: skip

FORBIDDEN = re.compile(r'["\\\x00-\x1f\x7f-\x9f\u2028\u2029]+')
LONGEST_COMMENT = 120
"""Bytes. nft's own limit is 128, its terminating zero included."""


def quoted(text: str, most: int = LONGEST_COMMENT) -> str:
    """Text of a person's as a quoted string. nft knows no escapes, so what would need one becomes a blank."""
    return '"' + FORBIDDEN.sub(" ", text).strip().encode()[:most].decode(errors="ignore").strip() + '"'


def identifier(text: str) -> str:
    """A part of the name of a chain or a set."""
    return re.sub(r"[^A-Za-z0-9_-]", "-", text)


def one_of(texts: list[str]) -> str:
    """The right side of a condition: a value, or an anonymous set."""
    return texts[0] if len(texts) == 1 else "{ " + ", ".join(texts) + " }"


def numbers(first: int, last: int, names: dict[int, str] | None = None) -> str:
    """A range on the right side of a condition. nft names single values and prints ranges as numbers."""
    return (names or {}).get(first, str(first)) if first == last else f"{first}-{last}"


_LENGTHS: dict[Family, dict[int, str]] = {
    family: {1 << bits: f"/{BITS[family] - bits}" if bits else "" for bits in range(BITS[family])} for family in (4, 6)
}


def addresses(ranges: Ranges, family: Family) -> list[str]:
    """Each interval of a set of addresses: an address, a network where it is exactly one, else `first-last`."""
    starts, ends = ranges.bounds[::2], ranges.bounds[1::2]
    if family == 4:
        return [
            inet_ntoa(a.to_bytes(4, "big")) if b - a == 1 else _interval(a, b, 4)
            for a, b in zip(starts, ends, strict=True)
        ]
    return [_interval(a, b, 6) for a, b in zip(starts, ends, strict=True)]


def firsts(ranges: Ranges, family: Family) -> list[str]:
    """The first address of each interval."""
    if family == 4:
        return [inet_ntoa(a.to_bytes(4, "big")) for a in ranges.bounds[::2]]
    return [inet_ntop(AF_INET6, a.to_bytes(16, "big")) for a in ranges.bounds[::2]]


def _interval(first: int, end: int, family: Family) -> str:
    size, lengths = end - first, _LENGTHS[family]
    code, width = (AF_INET, 4) if family == 4 else (AF_INET6, 16)
    text = inet_ntop(code, first.to_bytes(width, "big"))
    if size in lengths and not first & (size - 1):
        return text + lengths[size]
    return f"{text}-{inet_ntop(code, (end - 1).to_bytes(width, 'big'))}"


def interfaces(names: Iterable[str]) -> Iterator[str]:
    """Names of interfaces in alternatives, in the order of nft's listing; those that a prefix covers are left out.

    Each prefix stands alone: the kernel fills a set of ranges only after the rules that hold it are in force.
    """
    given = {"lo" if name == LOOPBACK else name for name in names}
    prefixes = sorted((name for name in given if name.endswith("*")), key=len)
    prefixes = [p for n, p in enumerate(prefixes) if not any(p.startswith(other[:-1]) for other in prefixes[:n])]
    kept = [n for n in given if not n.endswith("*") and not any(n.startswith(p[:-1]) for p in prefixes)]
    kept.sort(key=lambda name: int.from_bytes(name.encode(), "little"))  # a hash: as the machine's number
    texts = [f'"{name}"' for name in kept]
    if texts:
        yield one_of(texts)
    yield from (f'"{prefix}"' for prefix in sorted(prefixes))


def states(wanted: State) -> str:
    return "ct state " + ",".join(word for state, word in STATES if state in wanted)


def until(moment: datetime) -> str:
    """nft reads and prints moments in the zone of its process: `load.sh` and the questions run it in UTC."""
    return f'meta time < "{moment:%Y-%m-%d %H:%M:%S}"'


def protocol(number: int) -> str:
    return PROTOCOLS.get(number, str(number))


def flow(wanted: Flow, ports: Callable[[Ranges], str]) -> list[str]:
    """One flow as conditions that must all hold, in each of the returned alternatives.

    `ports`: the right side of a condition on a port.
    """
    if wanted.protocol in (ICMP, ICMPV6):
        return _icmp(wanted)
    word = PROTOCOLS.get(wanted.protocol, "")
    if wanted.protocol not in PROTOCOLS_WITH_PORTS:
        return [f"meta l4proto {'ipv6-icmp' if word == 'icmpv6' else protocol(wanted.protocol)}"]
    parts = [
        f"{word} {side} {ports(held)}"
        for side, held in (("sport", wanted.source_ports), ("dport", wanted.ports))
        if held != EVERY_PORT
    ]
    return [" ".join(parts) or f"meta l4proto {word}"]


def _icmp(wanted: Flow) -> list[str]:
    word = PROTOCOLS[wanted.protocol]
    types, codes = (_ICMP_TYPES, _ICMP_CODES) if wanted.protocol == ICMP else (_ICMPV6_TYPES, _ICMPV6_CODES)
    if wanted.ports == EVERY_PORT:
        return [f"{word} type 0-255"]
    whole: list[tuple[int, int]] = []
    partial: list[str] = []
    for first, last in wanted.ports.pairs():
        for number in range(first >> 8, (last >> 8) + 1):
            low, high = max(first, number << 8) & 255, min(last, number << 8 | 255) & 255
            if (low, high) == (0, 255):
                whole.append((number, number))
            else:
                codes_text = numbers(low, high, codes)
                partial.append(f"{word} type {types.get(number, number)} {word} code {codes_text}")
    return [f"{word} type {text}" for text in _types(Ranges.of(whole), types)] + partial


_MOST_TYPES = 16
"""In one set."""


def _types(wanted: Ranges, names: dict[int, str]) -> list[str]:
    """Alternatives: a set of single types, or ranges each by itself (see `interfaces`)."""
    single = [number for first, last in wanted.pairs() for number in range(first, last + 1)]
    if len(wanted.bounds) > 2 and len(single) <= _MOST_TYPES:
        return [one_of([names.get(number, str(number)) for number in single])]
    return [numbers(first, last, names) for first, last in wanted.pairs()]
