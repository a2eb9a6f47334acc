"""What a rule set says besides whom it lets through: limits, logging, translated sources, settings, what is blocked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from portctl.net import NOWHERE, Addresses
from portctl.program import Program, Translate
from portctl.ruleset import Direction, Kind, Rule, Ruleset
from portctl.space.words import addresses_text

Said = Mapping[str, str]
"""{what: how}: `rate`: `10/minute`."""
ENTRIES = (Kind.SERVICE, Kind.EGRESS, Kind.FORWARD)


@dataclass(frozen=True, slots=True)
class Besides:
    """Two of one `language` can be compared: `policy`, or the back ends whose listings they are."""

    language: str = ""
    entries: Mapping[str, Said] = field(default_factory=dict)
    """What each entry says. One that only one side has is a matter of what opens and closes."""
    others: Said = field(default_factory=dict)
    """Settings and whatever else may be there or not."""
    blocked: Addresses = NOWHERE
    """Networks that no packet may come from."""


def of_ruleset(ruleset: Ruleset) -> Besides:
    entries: dict[str, dict[str, str]] = {}
    for direction in Direction:
        for rule in ruleset.rules(direction):
            if rule.kind in ENTRIES:
                entries.setdefault(rule.name, {}).update(_of_rule(rule))
    for each in ruleset.masquerades:
        entries.setdefault(each.name, {})["masquerade"] = "yes" if each.address is None else str(each.address)
    for name in ruleset.clamps:
        entries.setdefault(name, {})["mss"] = "path"
    others = {f"sysctl {s.name}" + _of_system(s.system): s.value for s in ruleset.settings}
    if ruleset.log_denied:
        others["log_denied"] = "yes"
    return Besides("policy", entries, others, _blocked(ruleset))


def _of_system(system: str) -> str:
    return "" if system == "any" else f" ({system})"


def _of_rule(rule: Rule) -> Iterator[tuple[str, str]]:
    if rule.rate is not None:
        yield "rate", f"{rule.rate.number}/{rule.rate.period}"
    if rule.max_connections is not None:
        yield "max_connections", str(rule.max_connections)
    if rule.log:
        yield "log", "yes"


def _blocked(ruleset: Ruleset) -> Addresses:
    found = NOWHERE
    for rule in ruleset.inbound:
        if rule.kind is Kind.BLOCK and rule.flows is None and rule.live_source is None and not rule.interfaces:
            found |= rule.source
    return found


def of_program(program: Program, language: str) -> Besides:
    """The lines of a listing that translate sources: they change no verdict."""
    lines = [
        line.text
        for chain in program.chains
        for line in chain.lines
        if any(isinstance(a, Translate) and a.kind in ("source", "masquerade") for a in line.actions)
    ]
    return Besides(language, others=dict.fromkeys(lines, ""))


def compare(old: Besides, new: Besides) -> tuple[str, ...]:
    """What they say differently, a line each; nothing where they speak different languages."""
    if old.language != new.language:
        return ()
    found: list[str] = []
    if appeared := new.blocked - old.blocked:
        found.append(f"newly blocked: {addresses_text(appeared)}")
    if gone := old.blocked - new.blocked:
        found.append(f"no longer blocked: {addresses_text(gone)}")
    for name in sorted(old.entries.keys() & new.entries.keys()):
        found += [f"{name}: {line}" for line in _changed(old.entries[name], new.entries[name])]
    return (*found, *_changed(old.others, new.others))


def _changed(old: Said, new: Said) -> Iterator[str]:
    for what in sorted(old.keys() | new.keys()):
        was, now = old.get(what), new.get(what)
        if was == now:
            continue
        if now is None:
            yield f"no longer {what}, was {was}" if was else f"no longer {what}"
        elif was is None:
            yield f"{what} {now}, was not set" if now else f"newly {what}"
        else:
            yield f"{what} {now}, was {was}"
