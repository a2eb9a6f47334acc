"""What functions of a packet say in a box, by a walk through their diagrams that makes no new one.

The functions say True or False.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import compress

from portctl.net import Ranges
from portctl.space.diagram import Diagrams
from portctl.space.dimensions import Dimension

Cube = Mapping[Dimension, Ranges]
WEIGHT = 16
"""So many cuts that are walked by are as much work as one that is made."""


@dataclass(slots=True)
class Walk:
    """A search for packets of a box of which functions say `answer`. What was found is kept."""

    diagrams: Diagrams
    box: Cube
    answer: bool = True
    _known: dict[int, bool] = field(default_factory=dict)

    def meets(self, number: int) -> bool:
        """Whether there is one, in what a function says."""
        found = self._known.get(number)
        if found is None:
            node = self.diagrams.nodes[number]
            if node is None:
                found = self.diagrams.values[number] is self.answer
            else:
                self.diagrams.walked += 1 + len(node.cuts) // WEIGHT
                found = any(map(self.meets, within(self.diagrams, number, self.box.get(node.dimension))))
            self._known[number] = found
        return found

    def along(self, number: int, dimension: Dimension, end: int) -> Ranges:
        """The values of one dimension, which has `end` of them, for which there is one. The box does not ask it."""
        pairs: list[tuple[int, int]] = []
        seen = {number}
        todo = [number]
        while todo:
            number = todo.pop()
            node = self.diagrams.nodes[number]
            if node is None or node.dimension > dimension:
                if self.meets(number):
                    return Ranges((0, end))
            elif node.dimension == dimension:
                there = {child: self.meets(child) for child in self.diagrams.distinct(number)}
                starts, ends = (0, *node.cuts), (*node.cuts, end)
                pairs += compress(zip(starts, ends, strict=True), map(there.__getitem__, node.children))
            else:
                self.diagrams.walked += 1 + len(node.cuts) // WEIGHT
                below = set(within(self.diagrams, number, self.box.get(node.dimension))) - seen
                seen |= below
                todo += below
        return Ranges.of((first, stop - 1) for first, stop in pairs)


def within(diagrams: Diagrams, number: int, ranges: Ranges | None) -> Iterable[int]:
    """The children of a node that some values lead to; None: any."""
    node = diagrams.nodes[number]
    assert node is not None
    if ranges is None:
        return diagrams.distinct(number)
    found: set[int] = set()
    for first, last in ranges.pairs():
        found.update(node.children[bisect_right(node.cuts, first) : bisect_right(node.cuts, last) + 1])
    return found


def meets(diagrams: Diagrams, number: int, box: Cube, most: int) -> bool:
    """Whether a function says True anywhere in a box. Where it takes a look at more than `most` nodes to know, the
    answer is yes."""
    seen: set[int] = set()
    todo = [number]
    while todo:
        number = todo.pop()
        node = diagrams.nodes[number]
        if node is None:
            if diagrams.values[number]:
                return True
        elif number not in seen:
            seen.add(number)
            if len(seen) > most:
                return True
            todo += within(diagrams, number, box.get(node.dimension))
    return False
