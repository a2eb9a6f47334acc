"""What changes between two rule sets, in sentences."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from portctl.net import ANYWHERE, NOWHERE, Addresses
from portctl.ruleset import Direction
from portctl.space.boxes import Box, one_family
from portctl.space.changes import Change
from portctl.space.difference import Difference
from portctl.space.internet import is_internet
from portctl.space.sides import Reason
from portctl.space.words import Groups, addresses_text, words

FEW = 3
"""So many changes that no entry speaks of are told one by one."""


@dataclass(frozen=True, slots=True)
class Sentence:
    """Changes that say the same of several ports, as one."""

    head: str
    """`newly open to the Internet`."""
    whats: tuple[str, ...]
    conditions: tuple[str, ...]
    reasons: tuple[Reason, ...]
    internet: bool
    depends: tuple[str, ...]

    def text(self) -> str:
        parts = [", ".join(filter(None, self.whats)), ", ".join(self.conditions)]
        line = f"{self.head}: {'; '.join(filter(None, parts))}"
        if self.depends:
            line += f"; depends on {'; '.join(self.depends)}"
        return line

    def entries(self) -> str:
        return ", ".join(dict.fromkeys(reason.name for reason in self.reasons))


def sentences(changes: Iterable[Change], groups: Groups) -> list[Sentence]:
    """Changes in words, in their order, those of one head and condition together."""
    found: dict[Sentence, list[tuple[str, Reason]]] = {}
    for change, whole in _summed(list(changes)):
        said = words(change.box, groups)
        what = whole or ("" if change.among.startswith("some ") else said.what)
        conditions = (change.among, *said.conditions) if change.among else said.conditions
        if change.to is not None and change.kind != "turned":
            conditions = (f"forwarded to {change.to}", *conditions)
        internet = change.internet and change.kind in ("opened", "may open", "turned")
        key = Sentence(_head(change, groups), (), conditions, (), internet, change.depends)
        found.setdefault(key, []).append((what, change.reason))
    return [
        replace(
            key,
            whats=tuple(dict.fromkeys(what for what, _ in members)),
            reasons=tuple(dict.fromkeys(reason for _, reason in members)),
        )
        for key, members in found.items()
    ]


def _summed(changes: list[Change]) -> Iterator[tuple[Change, str]]:
    """Changes, each with no words; many that only what holds for all the rest admits as one, with words for it."""
    general: dict[tuple[str, Direction], list[Change]] = {}
    for change in changes:
        if change.reason.general and not change.among and change.kind in _WHOLE:
            general.setdefault((change.kind, change.box.direction), []).append(change)
    for change in changes:
        alike = general.get((change.kind, change.box.direction), [])
        if change not in alike or len(alike) < FEW:
            yield change, ""
        elif change is alike[0]:
            source, destination = NOWHERE, NOWHERE
            for each in alike:
                source, destination = source | each.box.source, destination | each.box.destination
            box = Box(change.box.direction, source, destination)
            yield (
                replace(change, box=box),
                _WHOLE[change.kind],
            )


_WHOLE = {"opened": "all that was denied before", "closed": "all but what is admitted now"}


def _head(change: Change, groups: Groups) -> str:
    maybe, opens = change.kind.startswith("may"), change.kind.endswith("open") or change.kind == "opened"
    box = change.box
    if change.kind == "turned":
        now = "left where it was sent" if change.to is None else f"forwarded to {change.to}"
        before = "" if change.was is None else f", no longer to {change.was}"
        return f"{now}{before}: what comes from {_who(box.source, groups)}{_at(box, groups)}"
    if box.direction is Direction.OUTBOUND:
        said = f"this host may {'newly' if opens else 'no longer'} reach {addresses_text(box.destination, groups)}"
    elif box.direction is Direction.FORWARDED:
        way = f"from {addresses_text(box.source, groups)} to {addresses_text(box.destination, groups)}"
        said = f"{'newly' if opens else 'no longer'} forwarded {way}"
    else:
        said = f"{'newly' if opens else 'no longer'} open to {_who(box.source, groups)}{_at(box, groups)}"
    return f"perhaps {said}" if maybe else said


def _who(source: Addresses, groups: Groups) -> str:
    if source == ANYWHERE:
        return "the Internet"
    said = addresses_text(source, groups)
    return f"the Internet ({said})" if is_internet(source) else said


def _at(box: Box, groups: Groups) -> str:
    family = one_family(box)
    if box.destination == ANYWHERE or (family and box.destination.is_every(family)):
        return ""
    return f" at {addresses_text(box.destination, groups)}"


def groups_of(difference: Difference) -> Groups:
    """The names of both sides, the new one's first."""
    known = dict(difference.new.groups)
    return (*difference.new.groups, *((n, a) for n, a in difference.old.groups if n not in known))
