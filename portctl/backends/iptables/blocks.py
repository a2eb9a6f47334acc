"""Many entries that block addresses, one behind the other: what they block together, which one look-up passes by.

Each keeps its own line, name, log and counter, in a chain that only packets of some blocked address come to.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from portctl.backends.iptables.words import Choices, Speaker
from portctl.net import ANYWHERE, Addresses, Ranges
from portctl.ruleset import EVERY_STATE, Kind, Rule, Verdict

MOST_LINES = 8
"""So many entries are asked one after the other."""
MOST_RANGES = 1024
"""Longer lists are asked alone: they are one look-up already, and would be held twice."""


def block_run(speaker: Speaker, rules: Sequence[Rule], start: int) -> Sequence[Rule]:
    """The entries from `start` on that block lists of addresses, if there are many and the host has sets."""
    end = start
    while end < len(rules) and _blocks_addresses(speaker, rules[end]):
        end += 1
    return rules[start:end] if end - start > MOST_LINES and speaker.sets.available else ()


def covered(speaker: Speaker, rules: Sequence[Rule]) -> list[Rule]:
    """The rules, in place of every such run one or two that match at least what the run does."""
    found: list[Rule] = []
    position = 0
    while position < len(rules):
        run = block_run(speaker, rules, position)
        found += covers(run) if run else [rules[position]]
        position += len(run) or 1
    return found


def covers(run: Sequence[Rule]) -> list[Rule]:
    """What a run blocks by source, and what by destination, whatever else it asks."""
    sources = _union([rule.source for rule in run if rule.source != ANYWHERE])
    destinations = _union([rule.destination for rule in run if rule.source == ANYWHERE])
    plain = Rule("block", Kind.BLOCK, Verdict.DROP, states=EVERY_STATE)
    found = [replace(plain, source=sources)] if sources else []
    return [*found, replace(plain, destination=destinations)] if destinations else found


def _union(lists: Sequence[Addresses]) -> Addresses:
    return Addresses(
        Ranges.of(pair for addresses in lists for pair in addresses.v4.pairs()),
        Ranges.of(pair for addresses in lists for pair in addresses.v6.pairs()),
    )


def cover_choices(speaker: Speaker, cover: Rule) -> Choices:
    """The line that asks for it."""
    role, addresses = ("dst", cover.destination) if cover.source == ANYWHERE else ("src", cover.source)
    return speaker.address_choices(addresses, role, cover.name, most=1)


def _blocks_addresses(speaker: Speaker, rule: Rule) -> bool:
    asked = rule.destination if rule.source == ANYWHERE else rule.source
    return (
        rule.kind is Kind.BLOCK
        and rule.verdict is not Verdict.ACCEPT
        and rule.flows is None
        and rule.original is None
        and not rule.limited
        and not asked.is_every(speaker.family)
        and len(asked.v4.bounds) + len(asked.v6.bounds) <= 2 * MOST_RANGES
    )
