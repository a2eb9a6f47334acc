"""Reverse path filters: lines that ask whether the way back to a packet's source is the way it came.

Routes are no part of a rule set, so nobody can say of an address and an interface. What a person asks about, and what a
policy is about, comes by the way that leads back to it: of that the answer is known.
"""

from __future__ import annotations

import re
from dataclasses import replace

from portctl.program import Chain, Condition, Field, Line, Program

_RPFILTER = re.compile(r"rpfilter\b(?P<options>.*)")
_FIB = re.compile(r"fib saddr(?: \. (?:mark|iif))* (?:oif|check) (?P<found>missing|exists|(?:!= |eq |== )?0|!= 0)\Z")
"""As nft prints it: `oif` before version 1.1.4, `check` since."""


def holds(condition: Condition) -> bool | None:
    """Whether a condition holds for what comes by the way back to its source; None: it asks something else."""
    if condition.field is not Field.UNKNOWN:
        return None
    text = str(condition.value)
    if found := _RPFILTER.match(text):
        return ("--invert" not in found["options"].split()) != condition.negated
    if found := _FIB.match(text):
        return (found["found"] in ("exists", "!= 0")) != condition.negated
    return None


def asks(line: Line) -> bool:
    return any(holds(condition) is not None for condition in line.conditions)


def without(line: Line) -> Line | None:
    """What a line says of what comes by the way back; None: nothing."""
    if any(holds(condition) is False for condition in line.conditions):
        return None
    return replace(line, conditions=tuple(c for c in line.conditions if holds(c) is None))


def taken(program: Program) -> tuple[Program, tuple[Line, ...]]:
    """The program as it is for what comes by the way back to its source, and the lines that ask for it."""
    asking = tuple(line for chain in program.chains for line in chain.lines if asks(line))
    return (replace(program, chains=tuple(map(_chain, program.chains))), asking) if asking else (program, ())


def _chain(chain: Chain) -> Chain:
    if not any(map(asks, chain.lines)):
        return chain
    return replace(chain, lines=tuple(left for line in chain.lines if (left := without(line)) is not None))
