"""What no entry of a policy's `tests` would miss: each entry and condition taken away, and the tests asked again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from portctl.net import ANYWHERE
from portctl.ruleset import Direction, Kind, Rule, Ruleset

OPENING = (Kind.SERVICE, Kind.FORWARD, Kind.EGRESS, Kind.BLOCK)
Holds = Callable[[Ruleset], bool]
"""Whether all tests of a policy hold."""


@dataclass(frozen=True, slots=True)
class Mutant:
    """One change that makes the policy another. `what` is in words: "without `ssh`"."""

    what: str
    rule: Rule
    ruleset: Ruleset


def mutants(ruleset: Ruleset) -> Iterator[Mutant]:
    """The policy without each entry, and with each entry widened by one condition."""
    for direction in Direction:
        seen: set[tuple[Kind, str]] = set()
        for rule in ruleset.rules(direction):
            key = (rule.kind, rule.name)
            if rule.kind not in OPENING or _beside(rule, direction) or (key in seen and rule.kind is not Kind.BLOCK):
                continue
            seen.add(key)
            yield Mutant(f"without {_title(rule)}", rule, _changed(ruleset, direction, rule, None))
            if rule.kind is not Kind.BLOCK:
                for what, wider in _wider(rule):
                    yield Mutant(f"{_title(rule)} {what}", rule, _changed(ruleset, direction, rule, wider))


def _beside(rule: Rule, direction: Direction) -> bool:
    """It is an answer to what an entry opens, or what the entry says of ports that others publish."""
    return rule.published or (direction is Direction.OUTBOUND and rule.kind in (Kind.SERVICE, Kind.FORWARD))


def unmissed(ruleset: Ruleset, holds: Holds) -> list[Mutant]:
    """The changes after which all tests still hold. A policy whose tests do not hold as it is has none."""
    return [mutant for mutant in mutants(ruleset) if holds(mutant.ruleset)] if holds(ruleset) else []


def _title(rule: Rule) -> str:
    return f"`{rule.name}` ({rule.kind.value})"


_WIDER: tuple[tuple[str, str, Any], ...] = (
    ("source", "open to everybody", ANYWHERE),
    ("destination", "for every destination", ANYWHERE),
    ("interfaces", "in on every interface", ()),
    ("out_interfaces", "out on every interface", ()),
    ("user", "for every user", None),
)


def _wider(rule: Rule) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, what, value in _WIDER:
        if getattr(rule, name) != value:
            yield what, {name: value}


def _changed(ruleset: Ruleset, direction: Direction, rule: Rule, wider: dict[str, Any] | None) -> Ruleset:
    """The policy with every rule of the entry changed, or taken away."""
    rules: list[Rule] = []
    for other in ruleset.rules(direction):
        same = other is rule if rule.kind is Kind.BLOCK else (other.kind, other.name) == (rule.kind, rule.name)
        if not same:
            rules.append(other)
        elif wider is not None:
            rules.append(replace(other, **wider))
    found: dict[str, Any] = {direction.value: tuple(rules)}
    if wider is None and rule.kind is Kind.FORWARD:
        found["translations"] = tuple(t for t in ruleset.translations if t.name != rule.name)
    return replace(ruleset, **found)
