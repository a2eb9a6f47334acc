"""Long lists of addresses as questions of their own: is it on the list? That has two answers, not thousands of cuts.

Rule sets that ask the same lists are so compared without a walk through them. Two answers about one address may not
go together; that is looked at when a packet is asked for (`examples.example`), so what is said there is exact.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from portctl.net import Family, Ranges
from portctl.space.dimensions import ADDRESSES, LISTED, Dimension, interior, size

LONG = 64
"""Lists with more ends of ranges than this become questions."""
MOST_ASKED = 64
"""Where more lists are asked of one packet, their answers are too many to tell apart one by one."""
MOST_SPLITS = 50_000
"""1000 services with a list each need 10,000."""

_YES, _NO = Ranges.single(1), Ranges.single(0)


class Beyond(Exception):
    """There are too many combinations of answers: the lists had better be walked through."""


@dataclass(slots=True)
class Listed:
    """The lists of one space, each with the dimension that asks it."""

    dimensions: dict[tuple[Dimension, Family, tuple[int, ...]], Dimension] = field(default_factory=dict)
    lists: dict[Dimension, tuple[Dimension, Family, tuple[int, ...]]] = field(default_factory=dict)
    long: int = LONG
    splits: int = 0

    def question(self, dimension: Dimension, family: Family, ranges: Ranges) -> tuple[Dimension, Ranges]:
        """The same condition as a question about a list, if it is long. A list and its complement are one question."""
        if dimension not in ADDRESSES or len(ranges.bounds) <= self.long:
            return dimension, ranges
        key = dimension, family, interior(ranges.bounds, size(dimension, family))
        found = self.dimensions.get(key)
        if found is None:
            found = self.dimensions[key] = Dimension(LISTED, f"{len(self.lists):06}")
            self.lists[found] = key
        return found, _YES if ranges.bounds[0] else _NO

    def place(self, question: Dimension, *, on: bool) -> tuple[Dimension, Ranges]:
        """Which address a question asks, and the addresses for which it is answered so."""
        dimension, family, cuts = self.lists[question]
        bounds = cuts if on else (0, *cuts)
        return dimension, Ranges(bounds if len(bounds) % 2 == 0 else (*bounds, size(dimension, family)))

    def count(self, lowest: Dimension, asked: int) -> None:
        """Raises `Beyond` where the lists are not worth it: `lowest` of `asked` dimensions is to be split."""
        if self.lists:
            self.splits += 1
            if self.splits > MOST_SPLITS or (lowest.rank == LISTED and asked > MOST_ASKED):
                raise Beyond
