"""How much work it may be to describe an input well. It is counted, not timed: one input gives one policy everywhere.

What is left when it is spent is described as it is cut: each box an entry, neither widened nor named after lines; or
not at all, where that would be more than anybody could read. The policy is compared with its input all the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from portctl.program import Program
from portctl.space.boxes import MOST_BOXES
from portctl.space.sets import PacketSet

MOST_WORK = 400_000
"""Operations on diagrams, and cuts of their nodes, to widen boxes: some 4 seconds."""
MOST_READ = 10_000_000
"""Lines read in search of those that decide a packet: each packet counts all lines of the input. Some 3 seconds."""

MOST_CUTS = 26_000_000
"""Cuts of the diagrams of an input and its policy: most of a gigabyte, and of a minute."""

FINDING = 15_000
"""What it takes to find a packet of a box is as much as reading so many lines."""


@dataclass(slots=True)
class Effort:
    """What describing one input has taken so far."""

    work: int = MOST_WORK
    """What is left to be spent on widening."""
    read: int = MOST_READ
    """What is left to be spent on the search for deciding lines."""
    pieces: int = MOST_BOXES
    """So many pieces are still described as they are cut."""
    cuts: int = MOST_CUTS
    """So much may be worked out in all; a rule set that takes more is refused."""
    mark: int = 0
    left: list[PacketSet] = field(default_factory=list)
    """What is in more pieces than portctl describes, and is not in the policy."""

    def begin(self, done: int) -> None:
        """Widening begins; so much work the diagrams have seen before."""
        self.mark = done

    def spent(self, done: int) -> bool:
        """Whether the widening is to end, after what the diagrams have seen since."""
        self.work -= done - self.mark
        self.mark = done
        return self.work < 0

    def leaves(self, packets: PacketSet) -> None:
        """Some packets stay out of the policy."""
        self.left.append(packets)

    def finds(self) -> bool:
        """Whether a packet of one more box may still be sought; that counts as so many lines read."""
        self.read -= FINDING
        return self.read >= 0

    def reads(self, program: Program) -> bool:
        """Whether a packet may still be sent through all lines of a program; then they count as read."""
        self.read -= sum(len(chain.lines) for chain in program.chains)
        return self.read >= 0

    def notes(self) -> Iterator[str]:
        if self.left:
            yield "the input admits more different things than can be described: the policy has only the widest"
        if self.work < 0:
            yield "there is much to describe: some entries are as the input cuts its packets, not joined further"
        if self.read < 0:
            yield "there is much to describe: for some entries no deciding lines were sought, so names are plain"
