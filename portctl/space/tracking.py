"""What a rule set can know of connections before the kernel tracks them.

Chains of prerouting and output before priority -200 (`NF_IP_PRI_CONNTRACK`; the `raw` table, say) see packets that
belong to no connection yet: `nf_ct_get` finds none, so that a packet is INVALID to both xt_conntrack.c and nft_ct.c, or
UNTRACKED once a rule before said so, and whatever else is asked of its connection does not hold, negated or not. (Only
on loopback has a packet kept its connection; every policy admits that.)

What a rule there takes out of tracking is UNTRACKED in all that follows, in no other state, and no nat chain sees it
(`nf_nat_inet_fn`). That is remembered as a mark of its own, beyond the 32 bits that packets have.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from portctl.program import (
    Accept,
    Action,
    Chain,
    Condition,
    Field,
    Line,
    Lookup,
    Note,
    Place,
    Program,
    SetMark,
    jumps,
)
from portctl.ruleset import State

TRACKING = -200
_OF_CONNECTIONS = (
    Field.REPLY,
    Field.TRANSLATED,
    Field.ORIGINAL_SOURCE,
    Field.ORIGINAL_DESTINATION,
    Field.ORIGINAL_PORT,
)
NEVER = Condition(Field.STATE, State(0))
"""No packet is in none of the states."""
UNSURE = Condition(Field.UNKNOWN, "the state of a packet before connections are tracked")
_OUT = 1 << 32
TRACKED, UNTRACKED = (Condition(Field.MARK, (_OUT, value)) for value in (0, _OUT))


def before_tracking(program: Program) -> Program:
    """The program with conditions on connections as they hold where they stand. Chains that are run both before and
    after connections are tracked keep theirs as unknown."""
    early = _reached(program, True)
    if not early:
        return program
    late = _reached(program, False)
    listed = [line for chain in program.chains if chain.place in early for line in chain.lines]
    untracks = any(untracked(action) for line in listed for action in line.actions)
    chains = []
    for chain in program.chains:
        here = chain.place
        if here in early:
            chain = replace(chain, lines=tuple(_line(line, untracks, here in late) for line in chain.lines))
        elif untracks:
            chain = _after(chain)
        chains.append(chain)
    return replace(program, chains=tuple(chains))


def untracked(action: Action) -> bool:
    """Whether an action takes the packet out of the tracking of connections."""
    text = action.text.upper() if isinstance(action, Note) else ""
    return text.startswith("NOTRACK") or (text.startswith("CT ") and "--NOTRACK" in text)


def _after(chain: Chain) -> Chain:
    """A chain behind the tracking, where some packets may have been taken out of it."""
    lines = tuple(each for line in chain.lines for each in _both(line))
    if chain.hook is not None and chain.hook.kind == "nat":
        lines = (Line((UNTRACKED,), (Accept(),)), *lines)
    return replace(chain, lines=lines)


def _both(line: Line) -> tuple[Line, ...]:
    """A line that asks of connections, for packets that are tracked and for those that are not."""
    lookups = (c for a in line.actions if isinstance(a, Lookup) for conditions, _ in a.entries for c in conditions)
    if not any(_asks(c) for c in (*line.conditions, *lookups)):
        return (line,)
    tracked = replace(line, conditions=(TRACKED, *line.conditions))
    left = tuple(found for c in line.conditions if (found := _outside(c)) is not None)
    actions = tuple(_looked_up(action) for action in line.actions)
    return (tracked,) if NEVER in left else (tracked, replace(line, conditions=(UNTRACKED, *left), actions=actions))


def _looked_up(action: Action) -> Action:
    if not isinstance(action, Lookup):
        return action
    entries = ((tuple(f for c in asked if (f := _outside(c)) is not None), found) for asked, found in action.entries)
    return Lookup(tuple((asked, found) for asked, found in entries if NEVER not in asked))


def _asks(condition: Condition) -> bool:
    value = condition.value
    if condition.field is Field.CONCATENATION and isinstance(value, tuple):
        return any(_asks(each) for row in value for each in row)
    return condition.field is Field.STATE or condition.field in _OF_CONNECTIONS


def _outside(condition: Condition) -> Condition | None:
    """A condition as it holds for a packet that is not tracked; None: it always does."""
    value = condition.value
    if condition.field is Field.STATE and isinstance(value, State):
        return None if (State.UNTRACKED in value) != condition.negated else NEVER
    if condition.field is Field.CONCATENATION and isinstance(value, tuple) and _asks(condition):
        return UNSURE
    return NEVER if condition.field in _OF_CONNECTIONS else condition


def _is_early(chain: Chain) -> bool:
    hook = chain.hook
    return hook is not None and hook.name in ("prerouting", "output", "ingress") and hook.priority < TRACKING


def _reached(program: Program, early: bool) -> set[Place]:
    """The chains that are run before connections are tracked, or after."""
    chains = {chain.place: chain for chain in program.chains}
    todo = [place for place, chain in chains.items() if chain.hook is not None and _is_early(chain) == early]
    found: set[Place] = set()
    while todo:
        place = todo.pop()
        if place in found or place not in chains:
            continue
        found.add(place)
        for line in chains[place].lines:
            todo += [(place[0], place[1], name) for name in jumps(line.actions)]
    return found


def _line(line: Line, untracks: bool, late: bool) -> Line:
    conditions = _conditions(line.conditions, untracks, late)
    actions = tuple(_action(action, untracks, late) for action in line.actions)
    if not late and any(map(untracked, actions)):
        actions = (SetMark(_OUT, _OUT), *actions)
    if conditions == line.conditions and actions == line.actions:
        return line
    return replace(line, conditions=conditions, actions=actions)


def _action(action: Action, untracks: bool, late: bool) -> Action:
    if not isinstance(action, Lookup):
        return action
    return Lookup(tuple((_conditions(conditions, untracks, late), found) for conditions, found in action.entries))


def _conditions(conditions: Iterable[Condition], untracks: bool, late: bool) -> tuple[Condition, ...]:
    return tuple(found for c in conditions if (found := _condition(c, untracks, late)) is not None)


def _condition(condition: Condition, untracks: bool, late: bool) -> Condition | None:
    """The condition as it holds there; None: it always does."""
    value = condition.value
    if condition.field is Field.CONCATENATION and isinstance(value, tuple):
        rows = tuple(_conditions(row, untracks, late) for row in value)
        return condition if rows == value else replace(condition, value=rows)
    if condition.field is Field.STATE and isinstance(value, State):
        invalid, untracked = ((state in value) != condition.negated for state in (State.INVALID, State.UNTRACKED))
        if late or (untracks and invalid != untracked):
            return UNSURE
        return None if invalid else NEVER
    if condition.field in _OF_CONNECTIONS:
        return UNSURE if late else NEVER
    return condition
