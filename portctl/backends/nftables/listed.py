"""Values as nft prints them, read back: elements of sets, addresses, ports, protocols, ICMP types."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from socket import AF_INET, AF_INET6, inet_pton

from portctl.net import Ranges


class Unreadable(Exception):
    """Something that this parser does not know. The message is its text."""


@dataclass(frozen=True, slots=True)
class Listed:
    """A set or map of a listing. `elements` None: the listing shows none (there are none, or it is a terse one)."""

    name: str
    types: tuple[str, ...]
    data: str
    flags: frozenset[str]
    comment: str
    elements: str | None

    @property
    def hidden(self) -> bool:
        """Its elements are left out: a set that carries a digest is never empty."""
        return self.elements is None and self.comment.startswith("sha256:")


_SPLIT = re.compile(r'(?:"[^"]*"|\{[^}]*\}|[^,"{}])+')
_EXTRA = re.compile(r" (?:timeout|expires|counter|comment|limit|ct|quota|last) .*$")


def split(text: str) -> list[str]:
    """The elements between two braces."""
    if '"' not in text and "{" not in text:
        return [part for part in map(str.strip, text.split(",")) if part]
    return [part for part in map(str.strip, _SPLIT.findall(text)) if part]


def values(text: str) -> list[str]:
    """The elements without what they carry (timeouts, counters, comments), without what a map maps them to."""
    found = split(text)
    return [_EXTRA.sub("", part) for part in found] if " " in text.replace(", ", "") else found


_PROTOCOLS = {
    "ip": 0, "icmp": 1, "igmp": 2, "ipencap": 4, "tcp": 6, "udp": 17, "dccp": 33, "ipv6": 41, "gre": 47, "esp": 50,
    "ah": 51, "icmpv6": 58, "ipv6-icmp": 58, "ospf": 89, "ipip": 94, "pim": 103, "comp": 108, "ipcomp": 108,
    "vrrp": 112, "l2tp": 115, "sctp": 132, "udplite": 136, "eigrp": 88, "rsvp": 46, "mptcp": 262,
}  # fmt: skip
_TYPES = {
    "icmp": {
        "echo-reply": 0, "destination-unreachable": 3, "source-quench": 4, "redirect": 5, "echo-request": 8,
        "router-advertisement": 9, "router-solicitation": 10, "time-exceeded": 11, "parameter-problem": 12,
        "timestamp-request": 13, "timestamp-reply": 14, "info-request": 15, "info-reply": 16,
        "address-mask-request": 17, "address-mask-reply": 18,
    },
    "icmpv6": {
        "destination-unreachable": 1, "packet-too-big": 2, "time-exceeded": 3, "parameter-problem": 4,
        "echo-request": 128, "echo-reply": 129, "mld-listener-query": 130, "mld-listener-report": 131,
        "mld-listener-done": 132, "mld-listener-reduction": 132, "nd-router-solicit": 133, "nd-router-advert": 134,
        "nd-neighbor-solicit": 135, "nd-neighbor-advert": 136, "nd-redirect": 137, "router-renumbering": 138,
        "ind-neighbor-solicit": 141, "ind-neighbor-advert": 142, "mld2-listener-report": 143,
    },
}  # fmt: skip
_CODES = {
    "icmp": {
        "net-unreachable": 0, "host-unreachable": 1, "prot-unreachable": 2, "port-unreachable": 3, "frag-needed": 4,
        "net-prohibited": 9, "host-prohibited": 10, "admin-prohibited": 13,
    },
    "icmpv6": {
        "no-route": 0, "admin-prohibited": 1, "addr-unreachable": 3, "port-unreachable": 4, "policy-fail": 5,
        "reject-route": 6,
    },
}  # fmt: skip


def number_in(names: dict[str, int] | None = None) -> Callable[[str], int]:
    """A reader of numbers, decimal or hexadecimal, some of which have names."""
    known = names or {}

    def read(text: str) -> int:
        if text in known:
            return known[text]
        try:
            return int(text, 16) if text.startswith("0x") else int(text)
        except ValueError:
            raise Unreadable(text) from None

    return read


protocol = number_in(_PROTOCOLS)
plain = number_in()
family_word = number_in({"ipv4": 4, "ipv6": 6})
ethertype = number_in({"ip": 4, "ip6": 6})


def icmp_type(word: str) -> Callable[[str], int]:
    return number_in(_TYPES[word])


def icmp_code(word: str) -> Callable[[str], int]:
    return number_in(_CODES[word])


def number_ranges(texts: Iterable[str], read: Callable[[str], int]) -> Ranges:
    """Numbers and ranges `a-b`, of which the names may hold hyphens themselves."""
    pairs: list[tuple[int, int]] = []
    for text in texts:
        if text.replace("-", "", 1).isdigit() and "-" in text:
            first, _, last = text.partition("-")
            pairs.append((int(first), int(last)))
        else:
            number = read(text)
            pairs.append((number, number))
    return Ranges.of(pairs)


def address_ranges(texts: Iterable[str], *, v6: bool) -> Ranges:
    """Addresses, networks and ranges."""
    code, width = (AF_INET6, 128) if v6 else (AF_INET, 32)
    try:
        pairs = [
            _pair(text, code, width)
            if "/" in text or "-" in text
            else ((number := int.from_bytes(inet_pton(code, text), "big")), number)
            for text in texts
        ]
    except (OSError, ValueError):
        raise Unreadable("an address") from None
    return Ranges.of(pairs)


def _pair(text: str, code: int, width: int) -> tuple[int, int]:
    base, slash, length = text.partition("/")
    if slash:
        first = int.from_bytes(inet_pton(code, base), "big")
        return first, first + (1 << (width - int(length))) - 1
    low, _, high = text.partition("-")
    return int.from_bytes(inet_pton(code, low), "big"), int.from_bytes(inet_pton(code, high), "big")


_BLOCK = re.compile(r"^\t(?:set|map|chain) \S+ \{$", re.M)


def arranged(listing: str, text: str) -> str:
    """A listing of the table with its sets, maps and chains in the order of `text`; others stay where they were.

    A load leaves what it need not make anew, and the kernel lists that first.
    """
    wanted = {found[0]: n for n, found in enumerate(_BLOCK.finditer(text))}
    starts = [found.start() for found in _BLOCK.finditer(listing)]
    if not starts or not listing.endswith("\n}\n"):
        return listing
    body = listing.removesuffix("}\n")
    blocks = [body[a:b].rstrip("\n") for a, b in zip(starts, (*starts[1:], None), strict=True)]
    places: list[int] = []
    for block in blocks:
        places.append(wanted.get(block.partition("\n")[0], places[-1] if places else -1))
    order = sorted(range(len(blocks)), key=places.__getitem__)
    return body[: starts[0]] + "\n\n".join(blocks[n] for n in order) + "\n}\n"
