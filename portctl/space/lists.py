"""Lists of lines with jumps, and the diagram of what they do with every packet.

A policy and a loaded program both become a `Body`: lines that each ask some dimensions and then act. `Lists.diagram`
asks the lowest dimension first: it cuts its values where some line's answer changes (`split`), and between two cuts
there remains a shorter body that no longer asks it. Equal bodies are one object, so a chain that many lines jump to,
and a list that many ports leave over, is worked out once. When nothing is left to ask, the body is run (`run`) with
the marks it sets; conditions that nobody can know go both ways there.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from portctl.net import Family, Ranges
from portctl.ruleset import Rule, Verdict
from portctl.space.bodies import (
    FALL,
    PASSED,
    Act,
    Body,
    Cube,
    Ends,
    Leaf,
    Line,
    MarkTest,
    Part,
    Split,
    act_stops,
    composed,
    denies,
    exit_of,
    exits_of,
    exits_turned,
)
from portctl.space.diagram import Diagrams, values_of
from portctl.space.dimensions import FAMILY, Dimension, size
from portctl.space.folding import Folding
from portctl.space.listed import Listed
from portctl.space.sweep import Numbered, chosen, sweep, together


@dataclass(slots=True)
class Lists:
    """All bodies made so far."""

    diagrams: Diagrams = field(default_factory=Diagrams)
    listed: Listed | None = None
    """Where given, long lists of addresses are questions of their own."""
    of_rules: dict[tuple[int, bool], tuple[Rule, list[Line]]] = field(default_factory=dict)
    """The lines of rules of policies, by the identity of the rule (which is kept, so that it stays the only one)."""
    _parts: dict[tuple[int, ...], Part] = field(default_factory=dict)
    _acts_known: dict[tuple[Act, ...], tuple[Act, ...]] = field(default_factory=dict)
    _acts_ids: set[int] = field(default_factory=set)
    _lines: dict[tuple[Cube, int, tuple[MarkTest, ...], int | None], Line] = field(default_factory=dict)
    _bodies: dict[tuple[Line, ...], Body] = field(default_factory=dict)
    _splits: dict[tuple[Body, int], Split] = field(default_factory=dict)
    _groups: dict[tuple[Body, int], list[tuple[Body, Part]]] = field(default_factory=dict)
    _built: dict[tuple[Body, Family], int] = field(default_factory=dict)
    _runs: dict[tuple[Body, int], Ends] = field(default_factory=dict)
    _folding: Folding | None = None

    def part(self, ranges: Ranges) -> Part:
        found = self._parts.get(ranges.bounds)
        if found is None:
            found = self._parts[ranges.bounds] = Part(ranges)
        return found

    def line(
        self,
        cube: Mapping[Dimension, Ranges],
        acts: Iterable[Act],
        marks: tuple[MarkTest, ...] = (),
        unknown: int | None = None,
    ) -> Line:
        if self.listed is not None and FAMILY in cube:
            cube = self._listed(cube, self.listed)
        pairs = tuple((d, self.part(r)) for d, r in sorted(cube.items()))
        return self._line(pairs, _reached(acts), marks, unknown)

    @staticmethod
    def _listed(cube: Mapping[Dimension, Ranges], listed: Listed) -> Mapping[Dimension, Ranges]:
        family: Family = 6 if 1 in cube[FAMILY] else 4
        if len(cube[FAMILY].bounds) != 2 or cube[FAMILY].count() != 1:
            return cube
        return dict(listed.question(dimension, family, ranges) for dimension, ranges in cube.items())

    def _line(self, cube: Cube, acts: tuple[Act, ...], marks: tuple[MarkTest, ...], unknown: int | None) -> Line:
        if id(acts) not in self._acts_ids:
            acts = self._acts_known.setdefault(acts, acts)
            self._acts_ids.add(id(acts))
        key = (cube, id(acts), marks, unknown)
        found = self._lines.get(key)
        if found is None:
            bodies = [act.body for act in acts if act.body is not None]
            unconditional = not cube and not marks and unknown is None
            dimensions = frozenset([dimension for dimension, _ in cube])
            if bodies:
                dimensions = dimensions.union(*(body.dimensions for body in bodies))
            weight = 1 + sum(body.weight for body in bodies)
            found = self._lines[key] = Line(cube, acts, marks, unknown, dimensions, unconditional, bool(bodies), weight)
        return found

    def _rest(self, line: Line) -> Line:
        if line.rest is None:
            line.rest = self._line(line.cube[1:], line.acts, line.marks, line.unknown)
        return line.rest

    def _with_acts(self, line: Line, acts: tuple[Act, ...]) -> Line:
        return self._line(line.cube, acts, line.marks, line.unknown)

    def body(self, lines: Iterable[Line]) -> Body:
        """The body of some lines, without those that can do nothing or are never reached."""
        kept: list[Line] = []
        stops = False
        todo = iter(lines)
        inner: list[Iterator[Line]] = []
        while not stops:
            line = next(todo, None)
            if line is None:
                if not inner:
                    break
                todo = inner.pop()
                continue
            if line.runs:
                if line.plain is None:
                    line.plain = self._with_acts(line, self._simplified(line.acts))
                line = line.plain
                if line.unconditional and len(line.acts) == 1 and (instead := self._instead(line.acts[0])) is not None:
                    inner.append(todo)
                    todo = iter(instead)
                    continue
            if line.acts:
                kept.append(line)
                stops = line.unconditional and act_stops(line.acts[-1])
        key = tuple(kept)
        found = self._bodies.get(key)
        if found is None:
            every = [act for acts in {line.acts for line in key} for act in acts]
            exits = frozenset().union(*map(exits_of, every))
            stops = stops and exits <= {PASSED}
            dimensions = frozenset().union(*{line.dimensions for line in key})
            weight = sum([line.weight for line in key])
            found = self._bodies[key] = Body(key, dimensions, exits, any(map(denies, every)), stops, weight)
        return found

    def _instead(self, act: Act) -> Sequence[Line] | None:
        """The lines that do what an act does that runs a short body come what may; None: there are none."""
        body = act.body
        if body is None or len(body.lines) > MOST_INLINE:
            return None
        if act.op == "goto":
            return (*body.lines, self.line({}, [Act("return")]))
        if act.op == "become":
            return None
        return None if body.exits & set(exits_turned(act)) else body.lines

    def _simplified(self, acts: tuple[Act, ...]) -> tuple[Act, ...]:
        """The same acts, without bodies that do nothing or but one thing."""
        kept: list[Act] = []
        for act in acts:
            simple = self._simple(act) if act.body is not None else act
            if simple is not None:
                kept.append(simple)
                if act_stops(simple):
                    break
        return tuple(kept)

    def _simple(self, act: Act) -> Act | None:
        """The same as one plain act, or None where it does nothing; else the act itself."""
        assert act.body is not None
        if act.op != "case" and act.body.lines and act.body.lines[-1] == self.line({}, [Act("return")]):
            act = act._replace(body=self.body(act.body.lines[:-1]))
        assert act.body is not None
        if not act.body.lines:
            if act.op == "goto":
                return Act("return")
            return Act("end", verdict=Verdict.ACCEPT) if act.op == "become" else None
        only = act.body.constant()
        if only is None or act.op == "become":
            return only if only is not None and only.op == "end" else act
        if only.op in ("pass", "return", "break") and exits_turned(act).get(exit_of(only)) == FALL:
            return None
        if only.body is not None:
            return composed(act, only)
        return act if only.op in ("mark", "any") and act.op == "goto" else only

    def diagram(self, body: Body, family: Family) -> int:
        """The number of the diagram that says a `Leaf` of every packet of a family. Nothing follows the body."""
        body = self._ended(body)
        key = (body, family)
        found = self._built.get(key)
        if found is None:
            if not body.dimensions:
                found = self.diagrams.leaf(self._leaf(body))
            elif self.listed is None and body.weight > MOST_SPLIT:
                found = self._folded().ends(body, family, self._leaf_of)
            else:
                dimension = min(body.dimensions)
                split = self.split(body, dimension, size(dimension, family))
                found = self.diagrams.over(dimension, split, lambda left: self.diagram(left, family))
            self._built[key] = found
        return found

    def _ended(self, body: Body) -> Body:
        """A body that does the same where nothing follows: what ends without a verdict is accepted there."""
        lines = body.lines
        while lines:
            last = lines[-1]
            if not any(map(denies, last.acts)):
                lines = lines[:-1]
                continue
            inner = last.acts[0].body if last.unconditional and len(last.acts) == 1 else None
            if inner is None or (len(lines) > 1 and len(inner.lines) > MOST_INLINE):
                break
            lines = (*lines[:-1], *inner.lines)
        return body if lines == body.lines else self.body(lines)

    def _folded(self) -> Folding:
        if self._folding is None:
            self._folding = Folding(self.diagrams, self.body, self._bare, self._split_if_it_pays)
        return self._folding

    def _bare(self, marks: tuple[MarkTest, ...], unknown: int | None, acts: tuple[Act, ...]) -> Line:
        return self._line((), acts, marks, unknown)

    def of_family(self, body: Body, family: Family) -> Body:
        """What is left of a body for packets of one family."""
        if FAMILY not in body.dimensions:
            return body
        cuts, bodies = self.split(body, FAMILY, 2)
        return bodies[0 if family == 4 or not cuts else 1]

    def split(self, body: Body, dimension: Dimension, end: int) -> Split:
        """Where the answers of a body to its lowest dimension change, and what is left of it in between."""
        key = (body, end)
        found = self._splits.get(key)
        if found is None:
            if self.listed is not None:
                self.listed.count(dimension, len(body.dimensions))
            found = self._split(body, dimension, end)
            assert found is not None
            self._splits[key] = found
        return found

    def _split_if_it_pays(self, body: Body, dimension: Dimension, end: int) -> Split | None:
        """The split of a body, unless there is too much of it to go through again for each of many values."""
        if body.weight <= MOST_SPLIT:
            return self.split(body, dimension, end)
        if any(line.weight > MOST_SPLIT for line in body.lines):
            return None
        return self._split(body, dimension, end, int(MOST_LEFT * body.weight))

    def _split(self, body: Body, dimension: Dimension, end: int, most: int | None = None) -> Split | None:
        """None: what is left over has more than `most` lines."""
        always: Numbered = []
        parts: dict[Part, Numbered] = {}
        for at, line in enumerate(body.lines):
            for part, rest in self._pieces(line, dimension, end):
                if part is None:
                    always.append((at, rest))
                else:
                    parts.setdefault(part, []).append((at, rest))
        groups = list(parts.values())
        known: dict[int, Body] = {}

        def left(mask: int) -> Body:
            found = known.get(mask)
            if found is None:
                found = known[mask] = self.body(line for _, line in chosen(always, groups, mask))
            return found

        def pays(masks: Iterable[int]) -> bool:
            return most is None or together(always, groups, masks, most) <= most

        return sweep(list(parts), end, left, pays)

    def _pieces(self, line: Line, dimension: Dimension, end: int) -> list[tuple[Part | None, Line]]:
        """What is left of a line, and for which values; None: for all."""
        if dimension not in line.dimensions:
            return [(None, line)]
        own: Part | None = None
        if line.cube and line.cube[0][0] == dimension:
            own = line.cube[0][1]
            line = self._rest(line)
        if not line.runs or dimension not in line.dimensions:
            return [(own, line)]
        pieces: list[tuple[Part | None, tuple[Act, ...]]] = [(own, ())]
        for act in line.acts:
            if act.body is None or dimension not in act.body.dimensions:
                pieces = [(part, (*acts, act)) for part, acts in pieces]
            else:
                inner = self._grouped(act.body, dimension, end)
                pieces = [
                    (common, (*acts, act._replace(body=body)))
                    for part, acts in pieces
                    for body, where in inner
                    if (common := where if part is None else self._common(part, where)) is not None
                ]
        return [(part, self._with_acts(line, acts)) for part, acts in pieces]

    def _common(self, one: Part, other: Part) -> Part | None:
        if one is other:
            return one
        both = one.ranges & other.ranges
        return self.part(both) if both else None

    def _grouped(self, body: Body, dimension: Dimension, end: int) -> list[tuple[Body, Part]]:
        """The distinct bodies of a split, each with its values."""
        key = (body, end)
        found = self._groups.get(key)
        if found is None:
            cuts, bodies = self.split(body, dimension, end)
            found = self._groups[key] = [(b, self.part(r)) for b, r in values_of(cuts, bodies, end)]
        return found

    def _leaf_of(self, body: Hashable) -> Leaf:
        assert isinstance(body, Body)
        return self._leaf(body)

    def _leaf(self, body: Body) -> Leaf:
        verdicts: dict[Verdict, frozenset[int]] = {}
        for (ended, _), depends in self.run(body, 0).items():
            verdict = ended if isinstance(ended, Verdict) else Verdict.ACCEPT
            verdicts[verdict] = verdicts.get(verdict, frozenset()) | depends
        if len(verdicts) == 1:
            return Leaf(frozenset(verdicts))
        return Leaf(frozenset(verdicts), frozenset().union(*verdicts.values()))

    def run(self, body: Body, mark: int) -> Ends:
        """How a body that asks nothing any more ends, entered with a mark."""
        key = (body, mark)
        found = self._runs.get(key)
        if found is None:
            found = self._runs[key] = self._run(body, mark)
        return found

    def _run(self, body: Body, mark: int) -> Ends:
        alive: dict[int, frozenset[int]] = {mark: frozenset()}
        ends: Ends = {}
        for line in body.lines:
            after: dict[int, frozenset[int]] = {}
            for now, depends in alive.items():
                if not all((now & t.mask == t.value) != t.negated for t in line.marks):
                    _join(after, now, depends)
                    continue
                results = self._acts(line.acts, now)
                if line.unknown is not None and results != {(FALL, now): frozenset()}:
                    depends |= {line.unknown}
                    _join(after, now, depends)
                for (ended, then), more in results.items():
                    if ended == FALL:
                        _join(after, then, depends | more)
                    else:
                        _join(ends, (ended, then), depends | more)
            alive = after
            if not alive:
                break
        for now, depends in alive.items():
            _join(ends, (FALL, now), depends)
        return ends

    def _acts(self, acts: tuple[Act, ...], mark: int) -> Ends:
        alive: dict[int, frozenset[int]] = {mark: frozenset()}
        ends: Ends = {}
        for act in acts:
            after: dict[int, frozenset[int]] = {}
            for now, depends in alive.items():
                for (ended, then), more in self._act(act, now).items():
                    if ended == FALL:
                        _join(after, then, depends | more)
                    else:
                        _join(ends, (ended, then), depends | more)
            alive = after
        for now, depends in alive.items():
            _join(ends, (FALL, now), depends)
        return ends

    def _act(self, act: Act, mark: int) -> Ends:
        sure: frozenset[int] = frozenset()
        match act.op:
            case "end":
                assert act.verdict is not None
                return {(act.verdict, mark): sure}
            case "pass" | "return" | "break":
                return {(exit_of(act), mark): sure}
            case "mark":
                return {(FALL, mark & ~act.mask | act.value): sure}
            case "any":
                hangs = frozenset((act.value,))
                ends: Ends = {(verdict, mark): hangs for verdict in Verdict}
                return {**ends, (FALL, mark): hangs}
        assert act.body is not None
        turned = exits_turned(act)
        found: Ends = {}
        for (ended, then), depends in self.run(act.body, mark).items():
            _join(found, (turned.get(ended, ended), then), depends)
        return found


MOST_SPLIT = 100
"""Bodies of more lines, those of the bodies that they run among them, are split only where that pays."""
MOST_LEFT = 1.25
"""It pays where what is left over has together at most so many times the lines."""


MOST_INLINE = 64
"""Longer bodies are not copied into those that run them."""


def _reached(acts: Iterable[Act]) -> tuple[Act, ...]:
    """The acts up to the first that stops."""
    found: list[Act] = []
    for act in acts:
        found.append(act)
        if act_stops(act):
            break
    return tuple(found)


K = TypeVar("K")


def _join(ends: dict[K, frozenset[int]], key: K, depends: frozenset[int]) -> None:
    found = ends.get(key)
    ends[key] = depends if found is None else found | depends
