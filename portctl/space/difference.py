"""What becomes reachable between two rule sets and what no longer is, as few lines of words, the widest first.

Compared are all packets. Reported first are connections: what the first packet of an ordinary one meets. What differs
for other packets alone (beyond a limit, for members of a live group, untracked, …) follows as `other`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from portctl.net import FAMILIES, Addresses, Family
from portctl.ruleset import ACK, Direction, Packet, State
from portctl.space.boxes import Box, TooMany, boxes, set_of
from portctl.space.dimensions import (
    DESTINATION,
    FLAGS,
    HOP_LIMIT,
    LIVE_DESTINATION,
    LIVE_SOURCE,
    OVER,
    PUBLISHED,
    REPLY,
    SOURCE,
    STATE,
    STATES,
    TIME,
    WAYS,
    moment_text,
)
from portctl.space.examples import example
from portctl.space.internet import is_internet, width
from portctl.space.ordinary import Values, martians, ordinary, usual
from portctl.space.sets import PacketSet, Partition, possible
from portctl.space.sides import Reason, Side, step_text
from portctl.space.words import tidy

Relation = Literal["same", "text only", "answers", "widened", "narrowed", "both", "uncertain"]
Way = Literal["opened", "closed", "may open", "may close"]


@dataclass(frozen=True, slots=True)
class Change:
    """Packets that one side accepts and the other does not, in one box."""

    kind: Way
    box: Box
    reason: Reason
    """Of the side that accepts."""
    example: Packet
    depends: tuple[str, ...] = ()
    """Lines on which it hangs, of either side: `may open`, `may close`."""
    among: str = ""
    """The packets it speaks of, where those are not ordinary new connections."""

    @property
    def far(self) -> Addresses:
        """The addresses of the other end: who comes in, or where this host may go."""
        return self.box.destination if self.box.direction is Direction.OUTBOUND else self.box.source

    @property
    def internet(self) -> bool:
        """It opens this host, or a host behind it, to more of the Internet than a /8."""
        return self.box.direction is not Direction.OUTBOUND and is_internet(self.box.source)


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

    @property
    def widened(self) -> bool:
        return self.relation in ("widened", "both")

    @property
    def opens_internet(self) -> bool:
        return any(c.kind in ("opened", "may open") and c.internet for c in self.changes)


def differ(old: Side, new: Side, at: datetime | None = None, families: tuple[Family, ...] = FAMILIES) -> Difference:
    """What `new` does differently from `old`, at a moment where one is given (else before anything ends), with the
    packets of some families."""
    space = old.partition.space
    world = possible(space).of_families(families)
    unlike = old.partition.differing(new.partition) & world
    if not unlike:
        return Difference(old, new, "text only" if old.text != new.text else "same")
    sets = _accepts(old.partition, new.partition, unlike)
    found: list[Change] = []
    too_many = False
    for kind, packets in sets.items():
        listed, more = changes_of(kind, packets, (old, new), at)
        found += listed
        too_many = too_many or more
    found.sort(key=_order)
    changes = tuple(change for change in found if not change.among and not change.reason.fixed)
    other = tuple(change for change in found if change.among or change.reason.fixed)
    denied = unlike - sets["opened"] - sets["closed"] - sets["may open"] - sets["may close"]
    return Difference(old, new, _relation(sets), changes, other, tuple(_listed(denied)), too_many)


def changes_of(
    kind: Way, packets: PacketSet, sides: tuple[Side, Side], at: datetime | None
) -> tuple[list[Change], bool]:
    """A set of packets that one of two sides (the old, the new) accepts and the other does not, as changes; and whether
    there are more than anybody would read."""
    accepting = sides[1] if kind in ("opened", "may open") else sides[0]
    found: list[Change] = []
    too_many = False
    for among, part in _sorts(packets, at):
        try:
            found += [_change(kind, box, packets, accepting, sides, among) for box in boxes(part)]
        except TooMany:
            too_many = True
    return sorted(found, key=_order), too_many


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


def _sorts(packets: PacketSet, at: datetime | None) -> Iterator[tuple[str, PacketSet]]:
    """A set as ordinary new connections (""), then one sort of other packets after the other, each without what was
    said before; at last whatever is left, shortened."""
    values = ordinary(packets, at)
    said = packets.space.nothing()
    strange = martians(packets.space)
    for among, special in _special(packets, values):
        part = usual(packets, {**values, **special}, among == PUBLISHED_WORDS) - said - strange
        if part:
            part = _places(part) if among.startswith("some ") else part
            yield among, part
            said = said | _either_way(part)
    if rest := packets - said:
        yield "some other packets", _places(rest)


def _places(packets: PacketSet) -> PacketSet:
    """All from and to addresses that the set has any packet of."""
    return packets.any(*sorted(d for d in packets.dimensions() if d not in (SOURCE, DESTINATION)))


def _either_way(packets: PacketSet) -> PacketSet:
    """What was said of a packet is not said again of the same packet turned by somebody else."""
    roots = {w: packets.roots[w._replace(turned=False)] for w in WAYS}
    return packets | PacketSet(packets.space, roots)


PUBLISHED_WORDS = "some connections that somebody else has published"


def _special(packets: PacketSet, values: Values) -> Iterator[tuple[str, Values]]:
    yield "", {}
    yield "beyond the limit", {OVER: 1}
    for dimension in sorted(d for d in values if d.rank in (LIVE_SOURCE, LIVE_DESTINATION)):
        side = "source" if dimension.rank == LIVE_SOURCE else "destination"
        yield f"{side} in {dimension.name}", {dimension: 1}
    yield "some known connections", {STATE: STATES.index(State.ESTABLISHED), FLAGS: ACK}
    yield "some known connections, answering", {STATE: STATES.index(State.ESTABLISHED), FLAGS: ACK, REPLY: 1}
    yield "some related packets", {STATE: STATES.index(State.RELATED)}
    yield "some untracked packets", {STATE: STATES.index(State.UNTRACKED), FLAGS: ACK}
    yield "some invalid packets", {STATE: STATES.index(State.INVALID), FLAGS: ACK}
    yield "some TCP that does not start a connection", {FLAGS: ACK}
    yield "hop limit 255", {HOP_LIMIT: 255}
    for at in sorted(packets.values(TIME)):
        yield f"from {moment_text(at):%Y-%m-%dT%H:%MZ} on", {TIME: at}
    yield PUBLISHED_WORDS, {PUBLISHED: 1}


def _change(kind: Way, box: Box, packets: PacketSet, accepting: Side, sides: tuple[Side, Side], among: str) -> Change:
    """A box of a set with an example that the accepting side confirms, and its reason."""
    packet = example(set_of(packets.space, box) & packets)
    assert packet is not None
    depends: tuple[str, ...] = ()
    if kind in ("may open", "may close"):
        steps = [step for side in sides for step in side.partition.depends(packet)]
        depends = tuple(dict.fromkeys(step_text(step) for step in steps))
    return Change(kind, tidy(box), accepting.reason(packet), packet, depends, among)


_KINDS: tuple[Way, ...] = ("opened", "may open", "closed", "may close")
_DIRECTIONS = tuple(Direction)


def _order(change: Change) -> tuple[object, ...]:
    """What opens before what closes, the widest first."""
    return (
        _KINDS.index(change.kind),
        _DIRECTIONS.index(change.box.direction) == 1,
        change.among,
        not change.internet,
        -width(change.far),
        -change.far.v4.count() - change.far.v6.count(),
        [ranges.bounds for _, ranges in change.box.asked],
    )
