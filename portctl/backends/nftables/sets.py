"""The named objects of the table: address sets, maps, limits' tables, live and open sets."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import sha256

from portctl.backends.nftables import words
from portctl.net import BITS, FAMILIES, Addresses, Family, Ranges

LARGEST = 20_000
"""Intervals in one set. The kernel lists an interval set in quadratic time, and nft lists before it adds."""
SOURCES = 65_536
"""How many sources a limit's table holds."""


@dataclass(frozen=True, slots=True)
class Object:
    """A set or a map: its name and the lines between its braces."""

    name: str
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Large:
    """A set of addresses in parts: which addresses each part is for, and its condition's right side."""

    name: str
    family: Family
    parts: tuple[tuple[str, str, str], ...]
    """(suffix of a name, network, right side)"""


def type_of(family: Family) -> str:
    return f"ipv{family}_addr"


def elements(texts: list[str], row: int) -> str:
    """An `elements` line, `row` of them in a row, as nft prints it."""
    rows = (", ".join(texts[k : k + row]) for k in range(0, len(texts), row)) if row > 1 else iter(texts)
    return "elements = { " + ",\n\t\t\t     ".join(rows) + " }"


def static(name: str, family: Family, ranges: Ranges) -> Object:
    """A set of the policy's. Its comment is a digest: a listing without elements tells whether it is in sync."""
    text = elements(words.addresses(ranges, family), 2 if family == 4 else 1)
    digest = f'comment "sha256:{sha256(text.encode()).hexdigest()[:32]}"'
    return Object(name, (f"type {type_of(family)}", "flags interval", digest, text))


def mapping(name: str, kind: str, entries: list[str], row: int = 1, *, ranges: bool = True) -> Object:
    """A map to verdicts. Without `ranges` the kernel finds a key by its hash, however many there are."""
    text = elements(entries, row)
    digest = f'comment "sha256:{sha256(text.encode()).hexdigest()[:32]}"'
    flags = ("flags interval",) if ranges else ()
    return Object(name, (f"type {kind} : verdict", *flags, digest, text))


def rate(name: str, family: Family, seconds: int) -> Object:
    """A source that is silent for the whole period has all its tokens back, so it need not be remembered."""
    shown = {1: "1s", 60: "1m", 3600: "1h", 86400: "1d"}[seconds]
    return Object(name, (f"type {type_of(family)}", f"size {SOURCES}", "flags dynamic,timeout", f"timeout {shown}"))


def connections(name: str, family: Family) -> Object:
    return Object(name, (f"type {type_of(family)}", f"size {SOURCES}", "flags dynamic"))


def live(group: str) -> list[Object]:
    """A timeout belongs to each member that is given one: fail2ban's and CrowdSec's bans end by themselves."""
    return [Object(f"live-{group}-{f}", (f"type {type_of(f)}", "flags interval,timeout")) for f in FAMILIES]


def opened() -> list[Object]:
    return [
        Object(f"open-{f}", (f"type inet_proto . {type_of(f)} . inet_service . {type_of(f)} . inet_service",))
        for f in FAMILIES
    ]


def parts(ranges: Ranges, family: Family) -> Iterator[tuple[int, int, Ranges]]:
    """A large set cut at round places: (first address, prefix length, what of the set lies in that network)."""
    step = 8
    stack = [(0, 0, ranges)]
    while stack:
        first, length, held = stack.pop()
        if length and (len(held.bounds) <= 2 * LARGEST or length + step >= BITS[family]):
            yield first, length, held
            continue
        shift = BITS[family] - length - step
        stack += reversed([(n << shift, length + step, cut) for n, cut in _cut(held, shift)])


def _cut(ranges: Ranges, shift: int) -> Iterator[tuple[int, Ranges]]:
    rest = ranges.bounds
    end = rest[-1]
    number = rest[0] >> shift
    while number << shift < end:
        held = ranges & Ranges((number << shift, (number + 1) << shift))
        if held:
            yield number, held
            number += 1
        else:
            number = rest[bisect_right(rest, number << shift)] >> shift


Print = tuple[int, int, int, int, int]
"""What is quickly seen of a set: hashing a million addresses takes longer than comparing them once."""


def _print(family: Family, ranges: Ranges) -> Print:
    bounds = ranges.bounds
    return family, len(bounds), bounds[0], bounds[len(bounds) // 2], bounds[-1]


@dataclass(slots=True)
class Book:
    """The sets that conditions came to need, each under one name."""

    groups: dict[Print, list[tuple[Ranges, str]]]
    static: dict[str, Object] = field(default_factory=dict)
    limits: dict[str, Object] = field(default_factory=dict)
    maps: dict[str, Object] = field(default_factory=dict)
    _held: dict[str, Ranges] = field(default_factory=dict)
    _large: dict[str, Large] = field(default_factory=dict)
    _names: dict[tuple[str, Print], list[tuple[Ranges, str]]] = field(default_factory=dict)

    def addresses(self, side: str, entry: str, family: Family, ranges: Ranges) -> str | Large:
        """The right side of a condition on an address: itself, `@set`, or a large set in parts."""
        if len(ranges.bounds) == 2:
            return words.addresses(ranges, family)[0]
        name = self._name(side, entry, family, ranges)
        if name in self._large:
            return self._large[name]
        if len(ranges.bounds) > 2 * LARGEST:
            return self._split(name, family, ranges)
        if name not in self.static:
            self.static[name] = static(name, family, ranges)
        return f"@{name}"

    def _name(self, side: str, entry: str, family: Family, ranges: Ranges) -> str:
        """A group's, or one after the entry; the same for the same addresses in the same entry."""
        mark = _print(family, ranges)
        known = self._names.setdefault((entry, mark), [])
        for held, name in known:
            if held == ranges:
                return name
        group = next((name for held, name in self.groups.get(mark, ()) if held == ranges), None)
        stem = f"group-{group}" if group else f"{side}-{words.identifier(entry)}"
        name, number = f"{stem}-{family}", 1
        while self._held.setdefault(name, ranges) != ranges:
            number += 1
            name = f"{stem}-{number}-{family}"
        known.append((ranges, name))
        return name

    def _split(self, name: str, family: Family, ranges: Ranges) -> Large:
        found: list[tuple[str, str, str]] = []
        for first, length, held in parts(ranges, family):
            network = words.addresses(Ranges((first, first + (1 << (BITS[family] - length)))), family)[0]
            suffix = words.identifier(network)
            if len(held.bounds) == 2:
                found.append((suffix, network, words.addresses(held, family)[0]))
            else:
                self.static[f"{name}-{suffix}"] = static(f"{name}-{suffix}", family, held)
                found.append((suffix, network, f"@{name}-{suffix}"))
        self._large[name] = Large(name, family, tuple(found))
        return self._large[name]

    def ports(self, entry: str, ranges: Ranges) -> str:
        """The right side of a condition on a port before translation: nft 1.0.6 prints no anonymous set there."""
        if len(ranges.bounds) == 2:
            return words.numbers(ranges)
        texts = [str(a) if a == b else f"{a}-{b}" for a, b in ranges.pairs()]
        text = elements(texts, 5)
        digest = sha256(text.encode()).hexdigest()[:32]
        name, number = f"ports-{words.identifier(entry)}", 1
        made = ("type inet_service", "flags interval", f'comment "sha256:{digest}"', text)
        while self.static.setdefault(name, Object(name, made)).lines != made:
            number += 1
            name = f"ports-{words.identifier(entry)}-{number}"
        return f"@{name}"


def book(groups: Iterable[tuple[str, Addresses]]) -> Book:
    """An empty book that knows the policy's groups."""
    named: dict[Print, list[tuple[Ranges, str]]] = {}
    for name, held in groups:
        for family in FAMILIES:
            ranges = held.family(family)
            if len(ranges.bounds) > 2:
                named.setdefault(_print(family, ranges), []).append((ranges, words.identifier(name)))
    return Book(named)
