"""A program as the first packets of ordinary connections meet it: without what it asks only of others.

Nothing else of a program is described or compared here, and what is not asked need not be told apart: the sets become
several times smaller.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from portctl.net import Ranges
from portctl.program import Chain, Condition, Field, Program
from portctl.ruleset import SYN, TCP, State
from portctl.space.dimensions import HOP_LIMIT
from portctl.space.words import STARTS

_TCP = Condition(Field.PROTOCOL, Ranges.single(TCP))


def of_starts(program: Program) -> Program:
    """The same program for packets that are as `space.words.STARTS` says; for others it may do anything."""
    return replace(program, chains=tuple(_chain(chain) for chain in program.chains))


def _chain(chain: Chain) -> Chain:
    lines = []
    for line in chain.lines:
        conditions = _left(line.conditions)
        if conditions == line.conditions:
            lines.append(line)
        elif conditions is not None:
            lines.append(replace(line, conditions=conditions))
    return replace(chain, lines=tuple(lines))


def _left(conditions: Iterable[Condition]) -> tuple[Condition, ...] | None:
    """What is still to be asked; None: it never holds."""
    kept: list[Condition] = []
    for condition in conditions:
        truth = _truth(condition)
        if truth is False:
            return None
        if condition.field is Field.FLAGS:
            kept.append(_TCP)
        elif truth is None:
            kept.append(condition)
    return tuple(kept)


def _truth(condition: Condition) -> bool | None:
    """Whether a condition holds for such a packet (that of flags: if it is one of TCP); None: that depends."""
    value = condition.value
    if condition.field is Field.STATE and isinstance(value, State):
        return (State.NEW in value) != condition.negated
    if condition.field is Field.REPLY:
        return (value is False) != condition.negated
    if condition.field is Field.HOP_LIMIT and isinstance(value, Ranges):
        return (STARTS[HOP_LIMIT] in value) != condition.negated
    if condition.field is Field.FLAGS and isinstance(value, tuple):
        return bool(SYN & value[0] == value[1]) != condition.negated
    return None
