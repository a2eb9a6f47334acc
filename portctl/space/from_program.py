"""A loaded program as lists of lines: its base chains in the order of their hooks, one after the other.

A packet that is translated on its way goes on with a body of its own, made for how it looks then.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from portctl.evaluation import Step
from portctl.net import Address
from portctl.program import (
    Accept,
    Action,
    Chain,
    Condition,
    Deny,
    Field,
    HookName,
    Jump,
    Lookup,
    Note,
    Place,
    Program,
    Return,
    SetMark,
    Translate,
    Unknown,
    jumps,
)
from portctl.program import Line as ProgramLine
from portctl.ruleset import Direction, State, Verdict
from portctl.space.bodies import Act, Body, Line
from portctl.space.conditions import YES, Choice, Cube, View, ask, first_view
from portctl.space.dimensions import FAMILY, LOCAL, PUBLISHED, STATE, family_set, states
from portctl.space.from_ruleset import ToTarget
from portctl.space.index import Index, destinations, indexed, same_for_all
from portctl.space.lists import Lists

HOOKS: dict[Direction, tuple[HookName, ...]] = {
    Direction.INBOUND: ("prerouting", "input"),
    Direction.OUTBOUND: ("output", "postrouting"),
    Direction.FORWARDED: ("prerouting", "forward", "postrouting"),
}


At = tuple[Chain, ProgramLine]


INDEXED = 32
"""Chains of so many lines are looked up by destination."""
MOST_DEEP = 64
"""Jumps that nest deeper are not followed (as in `evaluation.evaluate`): what they do is unknown."""


class Rest(NamedTuple):
    """What follows a base chain: the others of its hook from `place` on, then the later hooks."""

    hooks: tuple[HookName, ...]
    place: int
    turned: bool
    """The packet came with its destination translated: no nat chain sees it."""


@dataclass(slots=True)
class Maker:
    """Makes the bodies of one program. `steps` are the lines that nobody can know, by the numbers that leaves name."""

    lists: Lists
    program: Program
    own_addresses: frozenset[Address] = frozenset()
    named_limits: bool = False
    """Each limit is a condition of its own that nobody knows, not the packet's one `over_limit`."""
    steps: list[Step] = field(default_factory=list)
    numbers: dict[tuple[object, ...], int] = field(default_factory=dict)
    to: ToTarget | None = None
    """Asked is only where destinations are translated to: what stands for that, in place of all that follows."""
    _chains: dict[Place, Chain] = field(default_factory=dict)
    _made: dict[tuple[int, View, Rest], Body] = field(default_factory=dict)
    _open: set[tuple[int, View, Rest]] = field(default_factory=set)
    _asking: dict[int, tuple[ProgramLine, ...]] = field(default_factory=dict)
    _together: dict[int, int] = field(default_factory=dict)
    _indices: dict[int, Index[ProgramLine]] = field(default_factory=dict)
    _same: dict[tuple[int, Direction, bool], list[Line]] = field(default_factory=dict)
    _marked: bool = False

    def __post_init__(self) -> None:
        self._chains = {c.place: c for c in self.program.chains}
        self._marked = any(
            sets_marks(line.actions) for chain in self.program.chains for line in chain.lines if line.actions
        )

    def of_direction(self, direction: Direction, turned: bool) -> Body:
        """What the program does with the packets of one direction."""
        hooks = HOOKS[direction] if self.to is None else HOOKS[direction][:1]
        return self._from(Rest(hooks, 0, turned), first_view(direction, turned))

    def _from(self, rest: Rest, view: View) -> Body:
        lines: list[Line] = []
        for number, name in enumerate(rest.hooks):
            for place, chain in enumerate(self._at(name)):
                if number == 0 and place < rest.place:
                    continue
                assert chain.hook is not None
                if chain.hook.kind == "nat" and (rest.turned or (view.turned and name != "postrouting")):
                    continue
                # What somebody else's DNAT turned still had its own destination before routing.
                seen = view._replace(local=PUBLISHED) if rest.turned and name == "prerouting" else view
                lines.append(self._stage(chain, seen, Rest(rest.hooks[number:], place + 1, rest.turned)))
        return self.lists.body(lines)

    def _at(self, hook: HookName) -> list[Chain]:
        found = [c for c in self.program.chains if c.hook and c.hook.name == hook]
        return sorted(found, key=lambda c: c.hook.priority if c.hook else 0)

    def _stage(self, chain: Chain, view: View, rest: Rest) -> Line:
        assert chain.hook is not None
        cube: Cube = {}
        if chain.family is not None:
            cube[FAMILY] = family_set(chain.family)
        if chain.hook.kind == "nat":
            cube[STATE] = states(State.NEW)
        lines = [self.lists.line({}, [Act("call", body=self._body(chain, view, rest))])]
        if isinstance(chain.hook.policy, Deny):
            lines.append(self.lists.line({}, [_denial(chain.hook.policy)]))
        return self.lists.line(cube, [Act("stage", body=self.lists.body(lines))])

    def _body(self, chain: Chain, view: View, rest: Rest) -> Body:
        key = (id(chain), view, rest)
        found = self._made.get(key)
        if found is None:
            self._open.add(key)
            lines: list[Line] = []
            for line in self._asked_of(chain, view):
                lines += self._lines(chain, line, view, rest)
            found = self._made[key] = self.lists.body(lines)
            self._open.discard(key)
        return found

    def _asked_of(self, chain: Chain, view: View) -> Iterable[ProgramLine]:
        """The lines of a chain but those that surely ask for other destinations: of packets that were translated to
        one address few lines are left, and there may be hundreds of such addresses."""
        if len(chain.lines) < INDEXED or not isinstance(view.destination, int):
            return chain.lines
        index = self._indices.get(id(chain))
        if index is None:
            index = self._indices[id(chain)] = indexed((line, destinations(line.conditions)) for line in chain.lines)
        return index.lines(view.destination)

    def _lines(self, chain: Chain, line: ProgramLine, view: View, rest: Rest) -> list[Line]:
        """What a line is for packets that look so. Where that hangs on nothing that a translation changes, it is made
        once for all."""
        key = (id(line), view.direction, view.turned)
        found = self._same.get(key)
        if found is None:
            found = self._line(chain, line, view, rest)
            if same_for_all(line):
                self._same[key] = found
        return found

    def _line(self, chain: Chain, line: ProgramLine, view: View, rest: Rest) -> list[Line]:
        step = (chain, line)
        acts: list[Act] = []
        for action in line.actions:
            acts += self._acts(step, action, view, rest, 0)
        return self._guarded(step, line.conditions, acts, view, 0) if acts else []

    def _guarded(
        self, step: At, conditions: Sequence[Condition], acts: Sequence[Act], view: View, level: int
    ) -> list[Line]:
        """The line that acts where all of some conditions hold; none if they never do. `level` counts open cases."""
        asked = ask(conditions, view, self.named_limits)
        if asked is None:
            return []
        marks = asked.marks
        if not self._marked:
            if any((0 & test.mask == test.value) == test.negated for test in marks):
                return []
            marks = ()
        for choice in asked.choices:
            acts = [Act("case", body=self._choice(step, choice, acts, view, level), value=level)]
            level += 1
        return [self.lists.line(asked.cube, acts, marks, self._number(step) if asked.unknown else None)]

    def _choice(self, step: At, choice: Choice, acts: Sequence[Act], view: View, level: int) -> Body:
        lines: list[Line] = []
        out = Act("break", value=level)
        for conditions in choice.alternatives:
            lines += self._guarded(step, conditions, [out] if choice.negated else [*acts, out], view, level + 1)
        return self.lists.body([*lines, self.lists.line({}, acts)] if choice.negated else lines)

    def _acts(self, step: At, action: Action, view: View, rest: Rest, level: int) -> list[Act]:
        match action:
            case Accept():
                return [Act("pass")]
            case Deny():
                return [_denial(action)]
            case Return():
                return [Act("return")]
            case Jump():
                return [self._jump(step, action, view, rest)]
            case Lookup():
                lines: list[Line] = []
                for conditions, found in action.entries:
                    acts = [*self._acts(step, found, view, rest, level + 1), Act("break", value=level)]
                    lines += self._guarded(step, conditions, acts, view, level + 1)
                return [Act("case", body=self.lists.body(lines), value=level)]
            case SetMark():
                return [Act("mark", mask=action.mask, value=action.value)]
            case Translate():
                return self._translation(action, view, rest)
            case Note():
                return []
            case Unknown():
                return [Act("any", value=self._number(step))]

    def _jump(self, step: At, jump: Jump, view: View, rest: Rest) -> Act:
        chain = step[0]
        target = self._chains.get((chain.family, chain.table, jump.chain))
        if target is None or (id(target), view, rest) in self._open or len(self._open) > MOST_DEEP:
            return Act("any", value=self._number(step))
        return Act("goto" if jump.goto else "call", body=self._body(target, view, rest))

    def _translation(self, action: Translate, view: View, rest: Rest) -> list[Act]:
        if action.kind in ("source", "masquerade"):
            return [Act("pass")]
        if action.kind == "redirect" or action.address in self.own_addresses:
            return [self._turned(action, view, rest, True)]
        if action.address is not None:
            return [self._turned(action, view, rest, False)]
        if isinstance(view.local, bool):
            return [self._turned(action, view, rest, view.local)]
        here = self.lists.line({LOCAL: YES}, [self._turned(action, view, rest, True)])
        elsewhere = self.lists.line({}, [self._turned(action, view, rest, False)])
        return [Act("case", body=self.lists.body([here, elsewhere]))]

    def _turned(self, action: Translate, view: View, rest: Rest, local: bool) -> Act:
        if self.to is not None:
            return Act("become", body=self.to(None if action.kind == "redirect" else action.address, action.port))
        direction = view.direction
        if direction is not Direction.OUTBOUND:
            direction = Direction.INBOUND if local else Direction.FORWARDED
        after = View(
            direction,
            True,
            view.destination if action.address is None else int(action.address),
            view.port if action.port is None else action.port,
            view.destination,
            view.port,
            local,
        )
        hooks = rest.hooks
        if hooks[0] == "prerouting":
            hooks = HOOKS[direction]
        return Act("become", body=self._from(rest._replace(hooks=hooks), after))

    def _number(self, step: At) -> int:
        chain, line = step
        many = self._unknown_lines(chain)
        if len(many) <= MOST_NAMED or not _is_unknown(line):
            return self._numbered((*chain.place, line), chain, line)
        found = self._together.get(id(chain))
        if found is None:
            key = (*chain.place, self._reached(chain))
            found = self._together[id(chain)] = self._numbered(key, chain, _one_of(many))
        return found

    def _reached(self, chain: Chain) -> tuple[object, ...]:
        """All lines of a chain and of those it jumps to: only where all are equal do the same packets meet them."""
        found: dict[int, tuple[ProgramLine, ...]] = {}
        todo = [chain]
        while todo:
            one = todo.pop()
            if id(one) not in found:
                found[id(one)] = one.lines
                names = [name for line in one.lines for name in jumps(line.actions)]
                listed = [self._chains.get((one.family, one.table, name)) for name in names]
                todo += [each for each in listed if each is not None]
        return tuple(found.values())

    def _numbered(self, key: tuple[object, ...], chain: Chain, line: ProgramLine) -> int:
        found = self.numbers.get(key)
        if found is None:
            found = self.numbers[key] = len(self.steps)
            self.steps.append(Step(chain, line))
        return found

    def _unknown_lines(self, chain: Chain) -> tuple[ProgramLine, ...]:
        found = self._asking.get(id(chain))
        if found is None:
            found = self._asking[id(chain)] = tuple(line for line in chain.lines if _is_unknown(line))
        return found


MOST_NAMED = 24
"""Where more lines of one chain ask what nobody can know, they are one: else each source that a chain of hardware
addresses names, say, would differ from all others in everything that follows."""


def _is_unknown(line: ProgramLine) -> bool:
    unknown = any(isinstance(action, Unknown) for action in line.actions)
    return unknown or any(c.field in (Field.UNKNOWN, Field.CONCATENATION) for c in line.conditions)


def _one_of(lines: Sequence[ProgramLine]) -> ProgramLine:
    first, number = lines[0], len(lines)
    text = f"{first.text} (or one of {number - 1} such lines that follow in its chain)"
    return replace(first, text=text)


def _denial(action: Deny) -> Act:
    return Act("end", verdict=Verdict.REJECT if action.reject else Verdict.DROP)


def sets_marks(actions: Iterable[Action]) -> bool:
    for action in actions:
        if isinstance(action, SetMark):
            return True
        if isinstance(action, Lookup) and sets_marks(found for _, found in action.entries):
            return True
    return False
