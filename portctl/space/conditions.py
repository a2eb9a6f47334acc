"""The conditions of a loaded program as boxes of packet space.

What a packet looks like after a translation is known when the boxes are made (`View`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import NamedTuple

from portctl.net import Ranges
from portctl.program import Condition, Field
from portctl.ruleset import ICMP, ICMPV6, PROTOCOLS_WITH_PORTS, TCP, Direction, State
from portctl.space.bodies import MarkTest
from portctl.space.dimensions import (
    DESTINATION,
    FAMILY,
    FLAGS,
    HOP_LIMIT,
    IN,
    LIVE_DESTINATION,
    LIVE_SOURCE,
    LOCAL,
    ORIGINAL_DESTINATION,
    ORIGINAL_PORT,
    OUT,
    OVER,
    PORT,
    PROTOCOL,
    REPLY,
    SOURCE,
    SOURCE_PORT,
    STATE,
    TIME,
    USER,
    Dimension,
    family_set,
    moment,
    name_number,
    program_interfaces,
    size,
    states,
)

Cube = dict[Dimension, Ranges]
YES, NO = Ranges.single(1), Ranges.single(0)
WITH_PORTS = Ranges.of((p, p) for p in PROTOCOLS_WITH_PORTS)
ICMPS = Ranges.of((p, p) for p in (ICMP, ICMPV6))
ONLY_TCP = Ranges.single(TCP)
WITH_DIRECTION = states(State.NEW | State.ESTABLISHED | State.RELATED)


class View(NamedTuple):
    """How a packet looks at some point of its way. A number stands for itself, a dimension for the packet's own."""

    direction: Direction
    turned: bool
    destination: int | Dimension = DESTINATION
    port: int | Dimension = PORT
    original_destination: int | Dimension = DESTINATION
    original_port: int | Dimension = PORT
    local: bool | Dimension = LOCAL


def first_view(direction: Direction, turned: bool) -> View:
    """How a packet looks as it arrives. `turned`: somebody else has translated its destination before."""
    if not turned:
        return View(direction, False)
    return View(direction, True, original_destination=ORIGINAL_DESTINATION, original_port=ORIGINAL_PORT)


class Choice(NamedTuple):
    """One of some lists of conditions must hold as a whole; `negated`: none of them may."""

    alternatives: tuple[tuple[Condition, ...], ...]
    negated: bool


@dataclass(slots=True)
class Asked:
    """What some conditions ask: a box, and what is no box."""

    cube: Cube
    marks: tuple[MarkTest, ...] = ()
    unknown: bool = False
    choices: tuple[Choice, ...] = ()


def ask(conditions: Iterable[Condition], view: View, named_limits: bool) -> Asked | None:
    """What all of some conditions ask together; None: they never hold."""
    asked = Asked({})
    for condition in conditions:
        if condition.family is not None and not _narrow(asked.cube, FAMILY, family_set(condition.family)):
            return None
        if not _add(asked, condition, view, named_limits):
            return None
    return asked


def _narrow(cube: Cube, dimension: Dimension, ranges: Ranges) -> bool:
    """Adds one more condition to a box; False: it is empty now."""
    known = cube.get(dimension)
    found = ranges if known is None else known & ranges
    cube[dimension] = found
    return bool(found)


def _add(asked: Asked, condition: Condition, view: View, named_limits: bool) -> bool:
    value, negated = condition.value, condition.negated
    match condition.field:
        case Field.MARK:
            assert isinstance(value, tuple)
            asked.marks = (*asked.marks, MarkTest(value[0], value[1], negated))
            return True
        case Field.UNKNOWN:
            asked.unknown = True
            return True
        case Field.LIMIT if named_limits:
            asked.unknown = True
            return True
        case Field.CONCATENATION:
            assert isinstance(value, tuple)
            asked.choices = (*asked.choices, Choice(value, negated))
            return True
    for needed, among in _NEEDS.get(condition.field, ()):
        if not _narrow(asked.cube, needed, among):
            return False
    subject, ranges = _subject(condition, view)
    if isinstance(subject, int):
        return (subject in ranges) != negated
    if negated:
        ranges = Ranges((0, size(subject, condition.family or 6))) - ranges
    return _narrow(asked.cube, subject, ranges)


_NEEDS: dict[Field, tuple[tuple[Dimension, Ranges], ...]] = {
    Field.PORT: ((PROTOCOL, WITH_PORTS),),
    Field.SOURCE_PORT: ((PROTOCOL, WITH_PORTS),),
    Field.ICMP: ((PROTOCOL, ICMPS),),
    Field.FLAGS: ((PROTOCOL, ONLY_TCP),),
    Field.REPLY: ((STATE, WITH_DIRECTION),),
}
"""Without these the condition is false, negated or not."""


def _subject(condition: Condition, view: View) -> tuple[int | Dimension, Ranges]:  # noqa: C901 - one case a field
    """What a condition looks at, and the values that satisfy it before negation."""
    value = condition.value
    match condition.field:
        case Field.FAMILY:
            return FAMILY, Ranges.of((k, k) for k, family in enumerate((4, 6)) if family in _ranges(value))
        case Field.PROTOCOL:
            return PROTOCOL, _ranges(value)
        case Field.SOURCE | Field.ORIGINAL_SOURCE:
            return SOURCE, _ranges(value)
        case Field.DESTINATION:
            return view.destination, _ranges(value)
        case Field.ORIGINAL_DESTINATION:
            return view.original_destination, _ranges(value)
        case Field.PORT | Field.ICMP:
            return view.port, _ranges(value)
        case Field.ORIGINAL_PORT:
            return view.original_port, _ranges(value)
        case Field.SOURCE_PORT:
            return SOURCE_PORT, _ranges(value)
        case Field.IN:
            return (0, Ranges()) if view.direction is Direction.OUTBOUND else (IN, _interfaces(value))
        case Field.OUT:
            return (0, Ranges()) if view.direction is Direction.INBOUND else (OUT, _interfaces(value))
        case Field.STATE:
            assert isinstance(value, State)
            return STATE, states(value)
        case Field.REPLY:
            return REPLY, YES if value else NO
        case Field.TRANSLATED:
            return int(view.turned), YES if value else NO
        case Field.FLAGS:
            assert isinstance(value, tuple)
            return FLAGS, _flags(*value)
        case Field.HOP_LIMIT:
            return HOP_LIMIT, _ranges(value)
        case Field.LOCAL:
            return view.local, YES if value else NO
        case Field.SENT:
            return int(view.direction is Direction.OUTBOUND), YES if value else NO
        case Field.USER:
            return USER, Ranges.single(name_number(str(value)))
        case Field.UNTIL:
            assert isinstance(value, datetime)
            return TIME, Ranges((0, moment(value)))
        case Field.LIMIT:
            return OVER, NO
        case Field.LIVE:
            return Dimension(LIVE_SOURCE, str(value)), YES
        case Field.LIVE_DESTINATION:
            return Dimension(LIVE_DESTINATION, str(value)), YES
    raise AssertionError(condition.field)


@cache
def _flags(mask: int, value: int) -> Ranges:
    """The values of the TCP flags of which those of a mask are as said."""
    return Ranges.of((f, f) for f in range(256) if f & mask == value)


def _ranges(value: object) -> Ranges:
    assert isinstance(value, Ranges)
    return value


def _interfaces(value: object) -> Ranges:
    assert isinstance(value, tuple)
    return program_interfaces(value)
