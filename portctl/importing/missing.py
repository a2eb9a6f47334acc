"""Which lines of an input decide connections that were left out of the policy, as they are in too many pieces."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from portctl.importing.prepare import Key, asks_limit, key, reached
from portctl.importing.starts import of_starts
from portctl.importing.world import along
from portctl.net import FAMILIES, Ranges
from portctl.program import Accept, Chain, Jump, Line, Lookup, Place, Program, Translate, jumps
from portctl.ruleset import Direction
from portctl.space.conditions import Cube, ask, first_view
from portctl.space.dimensions import DESTINATION, FAMILY, PORT, SOURCE, WAYS, Dimension
from portctl.space.from_ruleset import joined
from portctl.space.sets import PacketSet
from portctl.space.walks import meets

LEFT_OUT = "the input admits more different things than portctl describes: what this line admits is left out, or a part"
_WAYS: Mapping[str, tuple[Direction, ...]] = {
    "prerouting": (Direction.INBOUND, Direction.FORWARDED),
    "input": (Direction.INBOUND,),
    "forward": (Direction.FORWARDED, Direction.INBOUND),
    "output": (Direction.OUTBOUND,),
    "postrouting": (Direction.OUTBOUND, Direction.FORWARDED),
}
MOST_PATHS = 8
"""Of a chain that is reached in more ways it is not asked what is asked before."""
MOST_NODES = 2000
"""So much is looked at for one line; where that does not settle it, its connections count as left out."""


@dataclass(slots=True)
class _Search:
    program: Program
    missing: PacketSet
    chains: dict[Place, Chain]
    turns: bool
    """Some lines translate destinations: lines that are asked later are about others."""
    sides: dict[Dimension, Ranges]
    paths: dict[tuple[Place, Direction], list[Cube]] = field(default_factory=dict)
    callers: dict[Place, list[tuple[Chain, Line]]] = field(default_factory=dict)


def lines_of(program: Program, missing: PacketSet) -> frozenset[Key]:
    """The lines, and by number 0 the policies of chains, that may admit or limit some of what is missing.

    Exact but for what lines ask that is no box (marks, what nobody can know, what a translation changed), for chains
    that are reached in many ways, and for lines about a great many pieces: those count as about it.
    """
    if not missing:
        return frozenset()
    starts = of_starts(program)
    turns = any(isinstance(a, Translate) for chain in starts.chains for line in chain.lines for a in line.actions)
    spans = {dimension: along(missing, dimension) for dimension in (SOURCE, DESTINATION, PORT)}
    sides = {dimension: span[4] | span[6] for dimension, span in spans.items()}
    search = _Search(starts, missing, {c.place: c for c in starts.chains}, turns, sides)
    for chain in starts.chains:
        for line in chain.lines:
            for name in jumps(line.actions):
                search.callers.setdefault((chain.family, chain.table, name), []).append((chain, line))
    return frozenset(_found(search))


def _found(search: _Search) -> Iterator[Key]:
    hooks = reached(search.program)
    for chain in search.program.chains:
        ways = dict.fromkeys(way for hook in sorted(hooks[chain.place]) for way in _WAYS[hook])
        for line in chain.lines:
            if _may_admit(line) and any(_meets(search, chain, line, way) for way in ways):
                yield key(chain, line)
        if chain.hook is not None and isinstance(chain.hook.policy, Accept) and chain.hook.kind == "filter":
            yield from (key(chain) for way in ways if search.missing.along(way))


def _may_admit(line: Line) -> bool:
    deeds = any(isinstance(a, Accept | Jump | Lookup | Translate) for a in line.actions)
    return deeds or bool(asks_limit(line.conditions))


def _meets(search: _Search, chain: Chain, line: Line, way: Direction) -> bool:
    asked = _cube(search, line, way)
    if asked is None:
        return False
    for path in _paths(search, chain, way, 0):
        for cube in joined(path, asked):
            if _holds(search, cube, way):
                return True
    return False


def _cube(search: _Search, line: Line, way: Direction) -> Cube | None:
    """What a line asks that is a box; None: it never holds."""
    asked = ask(line.conditions, first_view(way, False), False)
    if asked is None:
        return None
    return {d: r for d, r in asked.cube.items() if not (search.turns and d in (DESTINATION, PORT))}


def _paths(search: _Search, chain: Chain, way: Direction, deep: int) -> list[Cube]:
    """What is asked before a chain is reached, in each way to it."""
    if chain.hook is not None or deep > MOST_PATHS:
        return [{}]
    known = (chain.place, way)
    if known not in search.paths:
        found: list[Cube] = []
        for caller, line in search.callers.get(chain.place, ()):
            asked = _cube(search, line, way)
            if asked is not None:
                found += [cube for path in _paths(search, caller, way, deep + 1) for cube in joined(path, asked)]
            if len(found) > MOST_PATHS:
                found = [{}]
                break
        search.paths[known] = found
    return search.paths[known]


def _holds(search: _Search, cube: Cube, way: Direction) -> bool:
    for dimension, span in search.sides.items():
        if dimension in cube and not cube[dimension] & span:
            return False
    diagrams = search.missing.space.diagrams
    for each in WAYS:
        own = FAMILY not in cube or FAMILIES.index(each.family) in cube[FAMILY]
        if each.direction is way and own and meets(diagrams, search.missing.roots[each], cube, MOST_NODES):
            return True
    return False
