"""The table as it grows: chains by name, and the lines of a rule whose conditions may hold large sets."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from portctl.backends.nftables import sets
from portctl.backends.nftables.conditions import Case
from portctl.backends.nftables.large import Look, Parts
from portctl.backends.nftables.sets import Book
from portctl.net import Family
from portctl.ruleset import TCP, Ruleset, Translation

COUNTER = "counter packets 0 bytes 0"


@dataclass(frozen=True, slots=True)
class Deed:
    """What a rule does once its conditions hold: one more condition, or none, and statements."""

    condition: str
    statements: str


@dataclass(slots=True)
class Table:
    """Everything that the text will hold."""

    ruleset: Ruleset
    clock: bool
    book: Book
    marks: dict[str, int]
    """Packet mark of each forward whose source is translated."""
    chains: dict[str, list[str]] = field(default_factory=dict)
    translations: dict[str, list[Translation]] = field(init=False)
    """By name, for what asks after a forward's own."""

    def __post_init__(self) -> None:
        self.translations = {}
        for item in self.ruleset.translations:
            self.translations.setdefault(item.name, []).append(item)

    def chain(self, wanted: str) -> str:
        """Makes an empty chain; the name gets a number if it is taken."""
        name, number = wanted, 1
        while name in self.chains:
            number += 1
            name = f"{wanted}-{number}"
        self.chains[name] = []
        return name

    def add(self, chain: str, *parts: str) -> None:
        self.chains[chain].append(" ".join(part for part in parts if part))


def emit(table: Table, chain: str, case: Case, deeds: list[Deed]) -> None:
    """The lines of one case. A large set becomes a map to its parts, each of which jumps to the rest of the rule."""
    for position, part in enumerate(case.parts):
        if not isinstance(part, str):
            _emit_large(table, chain, case, position, deeds)
            return
    parts = [part for part in case.parts if isinstance(part, str)]
    asked = next((part.partition(" @")[2] for part in parts if " @" in part), "")
    if len(deeds) > 1 and asked and case.protocol != TCP and not any("@limit-" in deed.condition for deed in deeds):
        # A set is asked once, whatever follows from it. (An RST needs its line to say TCP, so it stays on that line.)
        then = table.chain(f"then-{chain}-{asked}")
        table.add(chain, *parts, f"jump {then}")
        parts, chain, deeds = [], then, [_of_any_family(deed) for deed in deeds]
    for deed in deeds:
        table.add(chain, *_joined(parts, deed.condition), deed.statements)


def _joined(parts: list[str], condition: str) -> list[str]:
    """A limit's table names the family already: nft leaves out the condition that would say it again."""
    kept = [p for p in parts if not p.startswith("meta nfproto ")] if "@limit-" in condition else parts
    return [*kept, condition]


def _emit_large(table: Table, chain: str, case: Case, position: int, deeds: list[Deed]) -> None:
    part = case.parts[position]
    assert not isinstance(part, str)
    left, large = part
    stem = f"split-{chain}-{large.name}"
    then = table.chain(f"{stem}-then")
    rest = case.parts[position + 1 :]
    told = any(not isinstance(p, str) or p.startswith("ip") for p in rest)
    emit(table, then, Case(rest, case.family, case.protocol), deeds if told else [_of_any_family(d) for d in deeds])
    before = [p for p in case.parts[:position] if isinstance(p, str)]
    for look in large.looks:
        if isinstance(look, Look):
            table.add(chain, *before, f"{left} {look.right} jump {then}")
        else:
            name = _map_of_parts(table, f"{then.replace('-then', '')}", left, look, large.family, then)
            table.add(chain, *before, f"{left} & {look.mask} vmap @{name}")


def _map_of_parts(table: Table, stem: str, left: str, look: Parts, family: Family, then: str) -> str:
    """The map's name. Each part has a chain that asks for it."""
    entries: list[str] = []
    for suffix, key, right in look.members:
        member = table.chain(f"{stem}-{suffix}")
        table.add(member, f"{left} {right} jump {then}")
        entries.append(f"{key} : jump {member}")
    name = f"{stem}-{look.suffix}"
    table.book.maps[name] = sets.mapping(name, sets.type_of(family), entries, 2 if family == 4 else 1, ranges=False)
    return name


def _of_any_family(deed: Deed) -> Deed:
    """The same where no condition on the line tells the family."""
    return Deed(deed.condition, _ICMP_ANSWER.sub("reject", deed.statements))


_ICMP_ANSWER = re.compile(r"reject with icmp(v6)? port-unreachable")
