"""What long lists of lines do, put together from what their lines do: each line's diagram, then those of neighbours.

A diagram here says of every packet what is left of a list when nothing more is asked: a `Body`, too. Two neighbours
become one by a walk through both (`Diagrams.merged`), so that the work grows with what comes out, and not with the
number of lines times the number of ways to tell packets apart: of thousands of lines few matter to any one packet.
Where a split leaves little over, it is the faster way, as for lists whose lines ask different ports.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field

from portctl.net import Family
from portctl.space.bodies import Act, Body, Cube, Line, MarkTest, Split, act_stops
from portctl.space.diagram import Diagrams
from portctl.space.dimensions import Dimension, size

Acts = tuple[Act, ...]
Made = Callable[[tuple[MarkTest, ...], int | None, Acts], Line]
"""Makes the line that asks no dimension, with its marks and its unknown condition."""
Splits = Callable[[Body, Dimension, int], Split | None]
"""Gives what is left of a body between the values of its lowest dimension; None: there would be too much."""
Change = Callable[[Hashable], Hashable]
"""Makes something else of what a diagram says. It is one lasting object."""
_Place = tuple[tuple[Line, ...], int, int]
"""Some lines, the number of one of them, and that of one of its acts."""


@dataclass(frozen=True, slots=True)
class _Runs:
    """What an act is where its body leaves a certain body over."""

    act: Act

    def __call__(self, left: Hashable) -> Hashable:
        assert isinstance(left, Body)
        return (self.act._replace(body=left),)


@dataclass(slots=True)
class Folding:
    """All that has been put together so far."""

    diagrams: Diagrams
    body: Callable[[Iterable[Line]], Body]
    line: Made
    split: Splits
    _bodies: dict[tuple[Body, Family, Change | None], int] = field(default_factory=dict)
    _halves: dict[tuple[Body, Family], tuple[int, int]] = field(default_factory=dict)
    _lines: dict[tuple[int, Family], tuple[Line, int]] = field(default_factory=dict)
    _does: dict[tuple[tuple[MarkTest, ...], int | None], Change] = field(default_factory=dict)
    _left: dict[tuple[_Place, Change | None], Change] = field(default_factory=dict)

    def ends(self, body: Body, family: Family, change: Change | None = None) -> int:
        """The number of the diagram of a body; with `change`, of what that makes of each of its ends.

        What is large is so made in its last form at once: a diagram that is changed is a second one of its size.
        """
        key = (body, family, change)
        found = self._bodies.get(key)
        if found is None:
            found = self._bodies[key] = self._ends(body, family, change)
        return found

    def _ends(self, body: Body, family: Family, change: Change | None) -> int:
        if not body.dimensions:
            return self._changed(self.diagrams.leaf(body), change)
        dimension = min(body.dimensions)
        split = self.split(body, dimension, size(dimension, family))
        if split is not None:
            return self.diagrams.over(dimension, split, lambda left: self.ends(left, family, change))
        if (inside := self._inside(body.lines)) is not None:
            return self.ends(inside[0], family, self._left_of(inside[1], change))
        if len(body.lines) == 1:
            return self._changed(self._of_line(body.lines[0], family), change)
        halves = self._halves.get((body, family))
        if halves is None:
            middle = len(body.lines) // 2
            halves = self._lines_of(body.lines[:middle], family), self._lines_of(body.lines[middle:], family)
            self._halves[body, family] = halves
        return self.diagrams.merged(self._after, *halves, change)

    def _changed(self, number: int, change: Change | None) -> int:
        return number if change is None else self.diagrams.map(change, number)

    def _nothing(self) -> int:
        return self.diagrams.leaf(self.body(()))

    def _lines_of(self, lines: Sequence[Line], family: Family) -> int:
        """The diagram of some lines, one or more: of both halves, and then of both together."""
        if len(lines) == 1:
            return self._of_line(lines[0], family)
        middle = len(lines) // 2
        halves = self._lines_of(lines[:middle], family), self._lines_of(lines[middle:], family)
        return self.diagrams.merged(self._after, *halves)

    def _inside(self, lines: tuple[Line, ...]) -> tuple[Body, _Place] | None:
        """The one body that lines ask which ask nothing else, and where it stands; None: they are not like that."""
        asking = [number for number, line in enumerate(lines) if line.dimensions]
        if len(asking) != 1 or lines[asking[0]].cube:
            return None
        acts = lines[asking[0]].acts
        bodies = [(k, act.body) for k, act in enumerate(acts) if act.body is not None and act.body.dimensions]
        return (bodies[0][1], (lines, asking[0], bodies[0][0])) if len(bodies) == 1 else None

    def _left_of(self, place: _Place, change: Change | None) -> Change:
        """What is left of some lines, of what is left of the one body that they ask."""
        found = self._left.get((place, change))
        if found is None:
            (lines, number, at) = place
            line = lines[number]

            def left_of(inner: Hashable) -> Hashable:
                assert isinstance(inner, Body)
                acts = (*line.acts[:at], line.acts[at]._replace(body=inner), *line.acts[at + 1 :])
                found = self.body([*lines[:number], self.line(line.marks, line.unknown, acts), *lines[number + 1 :]])
                return found if change is None else change(found)

            found = self._left[place, change] = left_of
        return found

    def _of_line(self, line: Line, family: Family) -> int:
        key = (id(line), family)
        found = self._lines.get(key)
        if found is None:
            alone = self._inside((self.line(line.marks, line.unknown, line.acts),))
            if alone is not None:
                inside = self.ends(alone[0], family, self._left_of(alone[1], None))
            else:
                inside = self._does_of(line.marks, line.unknown, self._of_acts(line.acts, family))
            found = self._lines[key] = line, self._where(line.cube, inside, family)
        return found[1]

    def _of_acts(self, acts: Acts, family: Family) -> int:
        """The diagram of some acts; its leaves are what is left of them."""
        found = self.diagrams.leaf(())
        for act in acts:
            one = self.diagrams.leaf((act,))
            if act.body is not None and act.body.dimensions:
                one = self.diagrams.map(_Runs(act), self.ends(act.body, family))
            found = self.diagrams.merged(self._then, found, one)
        return found

    def _does_of(self, marks: tuple[MarkTest, ...], unknown: int | None, acts: int) -> int:
        """The diagram of the line that has some acts."""
        does = self._does.get((marks, unknown))
        if does is None:

            def does(left: Hashable) -> Hashable:
                assert isinstance(left, tuple)
                return self.body([self.line(marks, unknown, left)])

            self._does[marks, unknown] = does
        return self.diagrams.map(does, acts)

    def _where(self, cube: Cube, inside: int, family: Family) -> int:
        """The diagram `inside` for the packets of a box, and nothing for all others."""
        node = self.diagrams.nodes[inside]
        if not cube or node is None or cube[-1][0] < node.dimension:
            return self._box(cube, inside, self._nothing(), family)
        guard = self._box(cube, self.diagrams.leaf(True), self.diagrams.leaf(False), family)
        return self.diagrams.merged(self._within, guard, inside)

    def _box(self, cube: Cube, inside: int, outside: int, family: Family) -> int:
        for dimension, part in reversed(cube):
            end = size(dimension, family)
            cuts = part.cuts(end)
            first = part.ranges.bounds[:1] == (0,)
            children = [inside if (k % 2 == 0) == first else outside for k in range(len(cuts) + 1)]
            inside = self.diagrams.make(dimension, cuts, children)
        return inside

    def _after(self, one: int, other: int) -> int | None:
        """What two lists do, one after the other, where that is clear."""
        values = self.diagrams.values
        before, after = values.get(one), values.get(other)
        if isinstance(before, Body):
            if not before.lines:
                return other
            if _ended(before.lines):
                return one
            if isinstance(after, Body):
                return self.diagrams.leaf(self.body((*before.lines, *after.lines)))
        return one if isinstance(after, Body) and not after.lines else None

    def _then(self, one: int, other: int) -> int | None:
        """The same of acts."""
        values = self.diagrams.values
        before, after = values.get(one), values.get(other)
        if isinstance(before, tuple):
            if not before:
                return other
            if act_stops(before[-1]):
                return one
            if isinstance(after, tuple):
                return self.diagrams.leaf((*before, *after))
        return None

    def _within(self, guard: int, inside: int) -> int | None:
        holds = self.diagrams.values.get(guard)
        return None if holds is None else inside if holds else self._nothing()


def _ended(lines: Sequence[Line]) -> bool:
    """Whether nothing after some lines is reached."""
    return lines[-1].unconditional and act_stops(lines[-1].acts[-1])
