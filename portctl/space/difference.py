"""What becomes reachable between two rule sets and what no longer is, as few lines of words, the widest first.

Compared are all packets. Reported first are connections: what the first packet of an ordinary one meets. What differs
for other packets alone (beyond a limit, for members of a live group, untracked, …) follows as `other`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal

from portctl.net import FAMILIES, Family
from portctl.space import besides
from portctl.space.boxes import Box, TooMany, boxes
from portctl.space.changes import Change, Way, changes_of, order
from portctl.space.ordinary import ordinary, usual
from portctl.space.sets import PacketSet, Partition, possible
from portctl.space.sides import Side
from portctl.space.turning import otherwise

Relation = Literal["same", "text only", "besides", "answers", "widened", "narrowed", "both", "uncertain"]


@dataclass(frozen=True, slots=True)
class Difference:
    """All that two sides do differently. `changes` are of connections, the widest first; `other` of other packets."""

    old: Side
    new: Side
    relation: Relation
    changes: tuple[Change, ...] = ()
    other: tuple[Change, ...] = ()
    answers: tuple[Box, ...] = ()
    """Denied by both: one drops what the other rejects."""
    too_many: bool = False
    """There are more than anybody would read; the lists are then not complete."""
    besides: tuple[str, ...] = ()
    """What they say differently that opens and closes nothing, a line each: limits, settings, what is blocked."""

    @property
    def widened(self) -> bool:
        return self.relation in ("widened", "both")

    @property
    def opens_internet(self) -> bool:
        return any(c.kind in ("opened", "may open", "turned") and c.internet for c in self.changes)


def differ(
    old: Side,
    new: Side,
    at: datetime | None = None,
    families: tuple[Family, ...] = FAMILIES,
    untold: PacketSet | None = None,
) -> Difference:
    """What `new` does differently from `old`, at a moment where one is given (else before anything ends), with the
    packets of some families; but for the `untold` ones, where such are given."""
    space = old.partition.space
    world = possible(space).of_families(families)
    world = world if untold is None else world - untold
    unlike = old.partition.differing(new.partition) & world
    turned, many_turned = _turned(old, new, world, at)
    said = besides.compare(old.besides, new.besides)
    if not unlike and not turned:
        texts: Relation = "text only" if old.text != new.text else "same"
        return Difference(old, new, "besides" if said else texts, besides=said)
    sets = _accepts(old.partition, new.partition, unlike)
    found = list(turned)
    too_many = many_turned
    for kind, packets in sets.items():
        listed, more = changes_of(kind, packets, (old, new), at)
        found += listed
        too_many = too_many or more
    found.sort(key=order)
    changes = tuple(change for change in found if not change.among and not change.reason.fixed)
    other = tuple(change for change in found if change.among or change.reason.fixed)
    denied = unlike - sets["opened"] - sets["closed"] - sets["may open"] - sets["may close"]
    relation = "both" if turned else _relation(sets)
    return Difference(old, new, relation, changes, other, tuple(_listed(denied)), too_many, said)


def _turned(old: Side, new: Side, world: PacketSet, at: datetime | None) -> tuple[list[Change], bool]:
    """What both accept and turn to different places: another host is reached then, and one no longer is."""
    before, after = old.targets(), new.targets()
    if before is None and after is None:
        return [], False
    both = old.partition.maybe_accepted() & new.partition.maybe_accepted() & world
    found: list[Change] = []
    too_many = False
    for was, _, packets in otherwise(before, after, both):
        listed, more = changes_of("turned", packets, (old, new), at)
        found += [replace(change, was=was) for change in listed if not change.among]
        too_many = too_many or more
    return found, too_many


def _listed(packets: PacketSet) -> list[Box]:
    try:
        return boxes(usual(packets, ordinary(packets, None)), 200)
    except TooMany:
        return []


def _accepts(old: Partition, new: Partition, unlike: PacketSet) -> dict[Way, PacketSet]:
    """What only one side accepts: surely, and perhaps."""
    opened = (new.accepted() - old.maybe_accepted()) & unlike
    closed = (old.accepted() - new.maybe_accepted()) & unlike
    unsure = (old.uncertain() | new.uncertain()) & unlike
    return {
        "opened": opened,
        "closed": closed,
        "may open": (unsure & new.maybe_accepted()) - old.accepted(),
        "may close": (unsure & old.maybe_accepted()) - new.accepted(),
    }


def _relation(sets: dict[Way, PacketSet]) -> Relation:
    if sets["opened"]:
        return "both" if sets["closed"] else "widened"
    if sets["closed"]:
        return "narrowed"
    return "uncertain" if sets["may open"] or sets["may close"] else "answers"
