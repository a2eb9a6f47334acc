"""The parts of lists of lines: acts, lines, bodies, and how they end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from portctl.net import Ranges
from portctl.ruleset import Verdict
from portctl.space.diagram import Cuts
from portctl.space.dimensions import Dimension, interior

Op = Literal["end", "pass", "become", "return", "break", "call", "goto", "case", "stage", "mark", "any"]
"""What an act does:

end     ends everything with a verdict
pass    ends this base chain
become  goes on with another body and never comes back
return  goes back to the caller
break   leaves the enclosing case of the same `value`
call    runs a body; its return comes back here
goto    runs a body in place of the rest of this one
case    runs a body; its return is this body's
stage   runs a base chain; its pass comes back here
mark    sets bits of the mark
any     may do anything
"""


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """A `Ranges` of which there is one object only."""

    ranges: Ranges

    def cuts(self, end: int) -> Cuts:
        """Where its answer changes, of the values from 0 up to `end`."""
        return interior(self.ranges.bounds, end)


class Act(NamedTuple):
    op: Op
    body: Body | None = None
    verdict: Verdict | None = None
    mask: int = 0
    value: int = 0
    """mark: the mark becomes (mark & ~`mask`) | `value`. any: `value` is the number of the line."""


class MarkTest(NamedTuple):
    mask: int
    value: int
    negated: bool = False


Cube = tuple[tuple[Dimension, Part], ...]


@dataclass(slots=True, eq=False)
class Line:
    """`cube` is what it asks, by rising dimension. `unknown` is the number of a line that nobody knows to hold.

    Equal lines are one object. `rest` is the line without its first question, once somebody asked for it.
    """

    cube: Cube
    acts: tuple[Act, ...]
    marks: tuple[MarkTest, ...]
    unknown: int | None
    dimensions: frozenset[Dimension]
    """What it asks, with the bodies it runs."""
    unconditional: bool
    runs: bool
    """It runs a body."""
    weight: int
    """How many lines it is, with those of the bodies it runs, as often as it does."""
    rest: Line | None = None
    plain: Line | None = None
    """The line with its acts simplified, once somebody asked for it."""


@dataclass(frozen=True, slots=True, eq=False)
class Body:
    lines: tuple[Line, ...]
    dimensions: frozenset[Dimension]
    """All that it asks, with the bodies it runs."""
    exits: frozenset[str]
    """Which of `PASSED`, `RETURNED` and breaks it may end with."""
    denies: bool
    """Some packet may be denied in it."""
    stops: bool
    """It never falls through nor comes back to the one who runs it."""
    weight: int
    """Of its lines together."""

    @property
    def final(self) -> bool:
        """It ends everything, whatever the packet."""
        return self.stops and not self.exits

    def constant(self) -> Act | None:
        """The one thing it does, if it asks nothing and does but that."""
        if len(self.lines) == 1 and self.lines[0].unconditional and len(self.lines[0].acts) == 1:
            return self.lines[0].acts[0]
        return None


FALL, PASSED, RETURNED = "fall", "passed", "returned"
Exit = str | Verdict
Ends = dict[tuple[Exit, int], frozenset[int]]
"""The ways a body can end, with the mark then, and the unknown lines on which each hangs."""

Split = tuple[Cuts, tuple[Body, ...]]


class Leaf(NamedTuple):
    """What may happen to a packet, and the numbers of the lines on which it hangs (none where it is certain)."""

    verdicts: frozenset[Verdict]
    depends: frozenset[int] = frozenset()


EXITS = {"pass": PASSED, "return": RETURNED}
TURNED: dict[str, dict[Exit, Exit]] = {
    "call": {RETURNED: FALL},
    "goto": {FALL: RETURNED},
    "stage": {PASSED: FALL, RETURNED: FALL},
    "become": {FALL: Verdict.ACCEPT, RETURNED: Verdict.ACCEPT, PASSED: Verdict.ACCEPT},
}
"""What the end of a body means for the body that runs it."""


def exit_of(act: Act) -> str:
    return f"broken {act.value}" if act.op == "break" else EXITS[act.op]


def exits_turned(act: Act) -> dict[Exit, Exit]:
    return {f"broken {act.value}": FALL} if act.op == "case" else TURNED[act.op]


STOPPING = ("end", "pass", "become", "return", "break", "goto")


def act_stops(act: Act) -> bool:
    """Whether nothing after it in the same body is reached."""
    if act.op in STOPPING:
        return True
    return act.body is not None and (act.body.final if act.op == "stage" else act.body.stops)


def exits_of(act: Act) -> frozenset[str]:
    """How it may leave its body, other than by ending everything or going on."""
    if act.body is None:
        return frozenset((exit_of(act),)) if act.op in ("pass", "return", "break") else frozenset()
    if act.op == "become":
        return frozenset()
    if act.op == "goto":
        return act.body.exits | {RETURNED}
    return act.body.exits - set(exits_turned(act))


def denies(act: Act) -> bool:
    """Whether it may deny a packet, and not only lead it on or mark it."""
    if act.body is not None:
        return act.body.denies
    return act.op == "any" or (act.op == "end" and act.verdict is not Verdict.ACCEPT)


def composed(outer: Act, inner: Act) -> Act:
    """An act that runs a body which does nothing but run another, as one act where there is one."""
    if inner.op in ("call", "goto") and outer.op in ("call", "goto", "stage"):
        return outer._replace(body=inner.body)
    return inner if inner.op in ("call", "goto") and outer.op == "case" else outer
