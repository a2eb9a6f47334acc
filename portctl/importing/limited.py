"""Which limit of an input each of its limited connections meets."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from portctl.evaluation import Answer, evaluate
from portctl.importing import limits
from portctl.importing.effort import Effort
from portctl.importing.limits import Limit, met
from portctl.importing.prepare import asks_limit, marks, says_something
from portctl.importing.world import World
from portctl.program import Program
from portctl.ruleset import Packet
from portctl.space.boxes import TooMany, boxes, set_of
from portctl.space.examples import example
from portctl.space.sets import PacketSet, Space, union


def by_limit(
    space: Space, world: World, program: Program, limited: PacketSet, beyond: PacketSet, effort: Effort
) -> tuple[dict[Limit, PacketSet], PacketSet]:
    """Limited connections by the limit that they meet, and those whose limit the language does not have.

    Where lines of one limit alone are about a connection it is that one; the others are asked for, piece by piece.
    """
    if not limited:
        return {}, limited
    once = more = space.nothing()
    places: list[tuple[Limit | None, PacketSet]] = []
    known = _texts(program)
    if len(known) <= MOST_KINDS:
        for limit, texts in known.items():
            place = limited & world.of(met(space, program, texts.__contains__))
            more |= once & place
            once |= place
            places.append((limit, place))
    else:
        once = more = limited & world.of(met(space, program, lambda text: limits.read(text) is not None))
    found: dict[Limit | None, list[PacketSet]] = {None: [limited - once]}
    for limit, place in places:
        found.setdefault(limit, []).append(place - more)
    for limit, part in _piece_by_piece(space, program, more, beyond, effort):
        found.setdefault(limit, []).append(part)
    none = union(space, found.pop(None))
    parts = {limit: union(space, listed) for limit, listed in found.items() if limit is not None}
    return {limit: part for limit, part in parts.items() if part}, none


MOST_KINDS = 16
"""So many limits are told apart by what their lines ask."""
MOST_LIMITED = 300
"""For so many boxes that a limit may be about it is looked for; the others are left out."""


def _texts(program: Program) -> dict[Limit | None, set[str]]:
    """The limits of lines that may change what happens to a packet, with their texts."""
    found: dict[Limit | None, set[str]] = {}
    for chain in program.chains:
        for line in chain.lines:
            if says_something(line) or marks(line):
                for condition in asks_limit(line.conditions):
                    found.setdefault(limits.read(str(condition.value)), set()).add(str(condition.value))
    return found


def _piece_by_piece(
    space: Space, program: Program, packets: PacketSet, beyond: PacketSet, effort: Effort
) -> Iterator[tuple[Limit | None, PacketSet]]:
    try:
        pieces = boxes(packets)
    except TooMany:
        effort.leaves(packets)
        return
    for box in pieces[:MOST_LIMITED]:
        part = set_of(space, box) & packets
        yield limit_of(program, example(part - beyond)), part
    if len(pieces) > MOST_LIMITED:
        effort.leaves(packets - union(space, [set_of(space, box) for box in pieces[:MOST_LIMITED]]))


def limit_of(program: Program, packet: Packet | None) -> Limit | None:
    """The limit that makes the difference to a packet."""
    if packet is None:
        return None
    within = evaluate(program, packet)
    beyond = evaluate(program, replace(packet, over_limit=True))
    return next((limit for text in _met_once(within, beyond) if (limit := limits.read(text))), None)


def _met_once(within: Answer, beyond: Answer) -> Iterable[str]:
    """The limits of lines that one of two ways of a packet goes through and the other does not."""
    one, other = {id(s.line) for s in within.trace}, {id(s.line) for s in beyond.trace}
    for step in (*within.trace, *beyond.trace):
        if step.line is not None and (id(step.line) in one) != (id(step.line) in other) and says_something(step.line):
            for condition in asks_limit(step.line.conditions):
                yield str(condition.value)
