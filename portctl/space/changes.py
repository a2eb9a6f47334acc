"""A set of packets that only one of two rule sets accepts, as changes that a person can read.

First come connections: what the first packet of an ordinary one meets. What is of other packets alone (beyond a limit,
of members of a live group, untracked, …) says which.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from portctl.net import Addresses
from portctl.ruleset import ACK, Direction, Packet, State
from portctl.space.boxes import Box, TooMany, boxes
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
from portctl.space.entries import divided, one_of
from portctl.space.internet import is_internet, width
from portctl.space.ordinary import Values, martians, ordinary, strangers, usual
from portctl.space.sets import PacketSet
from portctl.space.sides import Reason, Side, step_text
from portctl.space.turning import Target, target_of
from portctl.space.words import tidy

Way = Literal["opened", "closed", "may open", "may close", "turned"]


@dataclass(frozen=True, slots=True)
class Change:
    """Packets that one side accepts and the other does not, in one box; or that both accept and turn elsewhere."""

    kind: Way
    box: Box
    reason: Reason
    """Of the side that accepts; of the new one where both do."""
    example: Packet
    depends: tuple[str, ...] = ()
    """Lines on which it hangs, of either side: `may open`, `may close`."""
    among: str = ""
    """The packets it speaks of, where those are not ordinary new connections."""
    to: Target | None = None
    """Where the side that accepts turns them to."""
    was: Target | None = None
    """Where the old side did: `turned`."""

    @property
    def far(self) -> Addresses:
        """The addresses of the other end: who comes in, or where this host may go."""
        return self.box.destination if self.box.direction is Direction.OUTBOUND else self.box.source

    @property
    def internet(self) -> bool:
        """It opens this host, or a host behind it, to more of the Internet than a /8."""
        return self.box.direction is not Direction.OUTBOUND and is_internet(self.box.source)

    @property
    def rare(self) -> bool:
        """It is of packets that no ordinary traffic has."""
        return self.among in _RARE


_RARE = (
    "some untracked packets",
    "some invalid packets",
    "some TCP that does not start a connection",
    "some other packets",
)


def changes_of(
    kind: Way, packets: PacketSet, sides: tuple[Side, Side], at: datetime | None, by_entry: bool = True
) -> tuple[list[Change], bool]:
    """A set of packets that one of two sides (the old, the new) accepts and the other does not, as changes; and whether
    there are more than anybody would read. `by_entry`: what several entries accept is told of each."""
    accepting = sides[1] if kind in ("opened", "may open", "turned") else sides[0]
    found: list[Change] = []
    too_many = False
    for among, part in _sorts(packets, at):
        try:
            listed = boxes(part)
            pieces = divided(listed, packets, accepting) if by_entry else listed
            found += [_change(kind, piece, packets, accepting, sides, among) for piece in pieces]
        except TooMany:
            too_many = True
    return sorted(found, key=order), too_many


def _change(kind: Way, box: Box, packets: PacketSet, accepting: Side, sides: tuple[Side, Side], among: str) -> Change:
    """A box of a set with an example that the accepting side confirms, and its reason."""
    packet = one_of(box, packets)
    depends: tuple[str, ...] = ()
    if kind in ("may open", "may close"):
        steps = [step for side in sides for step in side.partition.depends(packet)]
        depends = tuple(dict.fromkeys(step_text(step) for step in steps))
    to = None if among else target_of(accepting.targets(), packet)
    return Change(kind, tidy(box), accepting.reason(packet), packet, depends, among, to)


# ---- which packets


def _sorts(packets: PacketSet, at: datetime | None) -> Iterator[tuple[str, PacketSet]]:
    """A set as ordinary new connections (""), then one sort of other packets after the other, each without what was
    said before; at last whatever is left, shortened."""
    values = ordinary(packets, at)
    said = packets.space.nothing()
    strange, meant = martians(packets.space), packets - strangers(packets.space)
    for among, special in _special(packets, values):
        part = usual(meant, {**values, **special}, among == PUBLISHED_WORDS) - said - strange
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


_KINDS: tuple[Way, ...] = ("opened", "may open", "turned", "closed", "may close")
_DIRECTIONS = tuple(Direction)


def order(change: Change) -> tuple[object, ...]:
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
