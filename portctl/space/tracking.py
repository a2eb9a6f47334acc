"""What a rule set can know of connections before the kernel tracks them.

Chains of prerouting and output before priority -200 (`NF_IP_PRI_CONNTRACK`; the `raw` table, say) see packets that
belong to no connection yet: `nf_ct_get` finds none, so that a packet is INVALID to both xt_conntrack.c and nft_ct.c, or
UNTRACKED once a rule before said so, and whatever else is asked of its connection does not hold, negated or not. (Only
on loopback has a packet kept its connection; every policy admits that.)
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from portctl.program import Action, Chain, Condition, Field, Line, Lookup, Note, Place, Program, jumps
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


def before_tracking(program: Program) -> Program:
    """The program with conditions on connections as they hold where they stand. Chains that are run both before and
    after connections are tracked keep theirs as unknown."""
    early = _reached(program, True)
    if not early:
        return program
    late = _reached(program, False)
    untracks = any(
        isinstance(action, Note) and action.text.upper().startswith(("CT", "NOTRACK"))
        for chain in program.chains
        if chain.place in early
        for line in chain.lines
        for action in line.actions
    )
    chains = []
    for chain in program.chains:
        here = chain.place
        if here in early:
            chain = replace(chain, lines=tuple(_line(line, untracks, here in late) for line in chain.lines))
        chains.append(chain)
    return replace(program, chains=tuple(chains))


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
