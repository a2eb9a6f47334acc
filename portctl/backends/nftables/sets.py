"""The named objects of the table: address sets, maps, limits' tables, live and open sets."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from hashlib import sha256

from portctl.backends.nftables import large, words
from portctl.backends.nftables.large import Large, Look, Parts
from portctl.net import BITS, FAMILIES, Addresses, Family, Ranges

SOURCES = 65_536
"""How many sources a limit's table holds."""


@dataclass(frozen=True, slots=True)
class Object:
    """A set or a map: its name and the lines between its braces."""

    name: str
    lines: tuple[str, ...]


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


def hash_set(name: str, family: Family, networks: Ranges) -> Object:
    """A set of the first addresses of networks that are all of one size."""
    texts = words.firsts(networks, family)
    text = elements(texts, 2 if family == 4 else 1)
    digest = f'comment "sha256:{sha256(text.encode()).hexdigest()[:32]}"'
    return Object(name, (f"type {type_of(family)}", digest, text))


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
        if large.is_large(ranges, family):
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
        looks: list[Look | Parts] = []
        for suffix, mask, held in large.by_length(ranges, family):
            stem = f"{name}-{suffix}" if suffix else name
            asked = f"& {mask} == " if mask else ""
            hashed = bool(suffix)
            if len(held.bounds) <= 2 * (large.MOST_HASHED if hashed else large.MOST_INTERVALS):
                looks.append(Look(suffix, asked + self._stored(stem, family, held, hashed=hashed)))
                continue
            cuts = list(large.cut(held, family, large.MOST_HASHED if hashed else large.MOST_INTERVALS))
            for length in sorted({length for _, length, _ in cuts}):
                members = tuple(
                    self._part(stem, asked, first, length, part, family, hashed=hashed)
                    for first, its_length, part in cuts
                    if its_length == length
                )
                looks.append(Parts(f"{suffix or 'rest'}-by-{length}", large.mask(family, length), members))
        self._large[name] = Large(name, family, tuple(looks))
        return self._large[name]

    def _part(
        self, stem: str, asked: str, first: int, length: int, held: Ranges, family: Family, *, hashed: bool
    ) -> tuple[str, str, str]:
        network = words.addresses(Ranges((first, first + (1 << (BITS[family] - length)))), family)[0]
        suffix = words.identifier(network)
        key = words.addresses(Ranges((first, first + 1)), family)[0]
        if len(held.bounds) == 2:
            return suffix, key, words.addresses(held, family)[0]
        return suffix, key, asked + self._stored(f"{stem}-{suffix}", family, held, hashed=hashed)

    def _stored(self, name: str, family: Family, held: Ranges, *, hashed: bool) -> str:
        self.static[name] = hash_set(name, family, held) if hashed else static(name, family, held)
        return f"@{name}"

    def ports(self, entry: str, ranges: Ranges, *, named: bool = False) -> str:
        """The right side of a condition on a port; with `named` no anonymous set: nft 1.0.6 prints none everywhere.

        Ranges have a set that is there before the rules are: the kernel fills it only after they are in force.
        """
        pairs = list(ranges.pairs())
        texts = [words.numbers(first, last) for first, last in pairs]
        if len(texts) == 1 or not (named or any(first < last for first, last in pairs)):
            return words.one_of(texts)
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
