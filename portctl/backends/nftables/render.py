"""A ruleset as the text of `rules.nft`."""

from __future__ import annotations

from collections.abc import Sequence

from portctl import templating
from portctl.backends.base import Ability
from portctl.backends.nftables import nat, sets
from portctl.backends.nftables.chains import BASES, base
from portctl.backends.nftables.sets import Object
from portctl.backends.nftables.table import Table
from portctl.ruleset import Direction, Rule, Ruleset, Verdict


def render(ruleset: Ruleset, ability: Ability) -> dict[str, str]:
    """`rules.nft`: what `nft list table inet portctl` prints once it is loaded."""
    table = Table(ruleset, ability.clock, sets.book(ruleset.groups), nat.kinds(ruleset))
    nat.prerouting(table)
    nat.published(table)
    for direction in Direction:
        if _needed(table, ruleset.rules(direction)) or direction is Direction.INBOUND:
            base(table, direction, _head(direction))
    nat.clamps(table)
    nat.postrouting(table)
    return {"rules.nft": templating.render("nftables/rules.nft.j2", objects=_objects(table), chains=_chains(table))}


def _head(direction: Direction) -> str:
    """Before the filter chains of others (priority 0): a drop holds whoever says it, and our log comes first."""
    return f"type filter hook {BASES[direction]} priority filter - 10; policy accept;"


def _needed(table: Table, rules: Sequence[Rule]) -> bool:
    """Whether the rules of a direction do anything: a chain that accepts everything silently is left out."""
    return any(r.verdict is not Verdict.ACCEPT or r.log or r.limited or r.name in table.marks for r in rules)


def _objects(table: Table) -> list[tuple[str, Object]]:
    """Those that outlive a load come first, in the kernel's list as in the file."""
    live = [item for group in table.ruleset.live for item in sets.live(group)]
    opened = sets.opened() if any("@open-4" in line for lines in table.chains.values() for line in lines) else []
    kept = [*live, *opened, *(table.book.limits[name] for name in sorted(table.book.limits))]
    static = [table.book.static[name] for name in sorted(table.book.static)]
    maps = [table.book.maps[name] for name in sorted(table.book.maps)]
    return [("set", item) for item in (*kept, *static)] + [("map", item) for item in maps]


def _chains(table: Table) -> list[Object]:
    """Base chains first, for the same reason; the others in the order in which they came to be needed."""
    made = [Object(name, tuple(lines)) for name, lines in table.chains.items()]
    return sorted(made, key=lambda chain: not (chain.lines and chain.lines[0].startswith("type ")))
