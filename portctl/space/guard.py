"""What a change cuts off, and how a host differs from its policy: with the engine, over all hooks and foreign rules."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from portctl.ruleset import Packet
from portctl.space.boxes import Box, boxes, set_of
from portctl.space.difference import Difference, differ
from portctl.space.examples import example
from portctl.space.ordinary import ordinary, usual
from portctl.space.packets import packet_text
from portctl.space.questions import Query, query_set
from portctl.space.sets import possible
from portctl.space.sides import Reason, Side
from portctl.space.words import Groups, box_text, tidy


@dataclass(frozen=True, slots=True)
class CutOff:
    """A part of a way in that is closed afterwards, or may be. `reason` is what closes it."""

    box: Box
    reason: Reason
    example: Packet
    open_before: bool
    certain: bool

    def text(self, groups: Groups = ()) -> str:
        """In words."""
        now = "is" if self.certain else "may be"
        was = "" if self.open_before else " (it was closed before, too)"
        said = f"{box_text(self.box, groups)} {now} denied by {self.reason.name}{was}"
        return f"{said}, such as {packet_text(self.example)}"


def cut_off(
    ways_in: Iterable[Query], after: Side, before: Side | None = None, at: datetime | None = None
) -> list[CutOff]:
    """The parts of the ways in that are not surely open afterwards. `before`: how it was, for the words."""
    found: list[CutOff] = []
    space = after.partition.space
    for way in ways_in:
        meant = query_set(space, way) & possible(space)
        closed = meant - after.partition.accepted()
        now = usual(closed, ordinary(closed, at))
        for box in boxes(now):
            packet = example(set_of(space, box) & closed)
            assert packet is not None
            was = before is not None and packet in before.partition.accepted()
            certain = packet not in after.partition.maybe_accepted()
            found.append(CutOff(tidy(box), after.reason(packet), packet, was or before is None, certain))
    return found


def drift(policy: Side, loaded: Side, at: datetime | None = None) -> Difference:
    """What a host does that its policy does not say: opened is what it lets in beyond the policy, closed what it cuts.

    Each change names the line that decides on the host where the host lets in, and the entry where the policy does.
    """
    return differ(policy, loaded, at)
