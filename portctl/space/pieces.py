"""Large lists of addresses that a program asks in pieces, put together again: then they are one question, one sweep.

The program that comes out does with every packet what the one that went in does.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

from portctl.net import Family, Ranges
from portctl.program import Accept, Action, Chain, Condition, Deny, Field, Jump, Line, Lookup, Program

LONG = 1000
"""Pieces of fewer ranges are left as they are."""
_ADDRESSES = (Field.SOURCE, Field.DESTINATION)

Name = tuple[Family | None, str, str]


def whole(program: Program) -> Program:
    """The same program with each list in one piece."""
    if not any(_long(condition) for chain in program.chains for line in chain.lines for condition in line.conditions):
        return program
    reader = _Reader({c.place: c for c in program.chains})
    return replace(program, chains=tuple(map(reader.chain, program.chains)))


def _long(condition: Condition) -> bool:
    value = condition.value
    return condition.field in _ADDRESSES and isinstance(value, Ranges) and len(value.bounds) > LONG


@dataclass(slots=True)
class _Reader:
    chains: dict[Name, Chain]
    _made: dict[int, Chain] = field(default_factory=dict)
    _open: set[int] = field(default_factory=set)

    def chain(self, chain: Chain) -> Chain:
        number = id(chain)
        if number in self._open:
            return chain
        if number not in self._made:
            self._open.add(number)
            lines = [self._line(chain, line) for line in chain.lines]
            self._made[number] = replace(chain, lines=tuple(_together(lines)))
            self._open.discard(number)
        return self._made[number]

    def _line(self, chain: Chain, line: Line) -> Line:
        """A map whose entries lead to pieces of one list, all with the same end, is a condition."""
        lookup = line.actions[0] if len(line.actions) == 1 else None
        if not isinstance(lookup, Lookup):
            return line
        pieces: list[Condition] = []
        places: list[Condition] = []
        ends: set[tuple[Action, ...]] = set()
        for conditions, action in lookup.entries:
            target = self.chains.get((chain.family, chain.table, action.chain)) if isinstance(action, Jump) else None
            if target is None or (isinstance(action, Jump) and action.goto):
                return line
            found = self.chain(target).lines
            if len(found) != 1 or len(conditions) != 1 or len(found[0].conditions) != 1:
                return line
            places.append(conditions[0])
            pieces.append(_within(found[0].conditions[0], conditions[0]))
            ends.add(found[0].actions)
        if len(ends) != 1 or not _comes_back_here(*ends) or _union(places) is None:
            return line
        joined = _union(pieces)
        if joined is None:
            return line
        return replace(line, conditions=(*line.conditions, joined), actions=ends.pop())


def _comes_back_here(actions: tuple[Action, ...]) -> bool:
    """Whether some actions do in the chain that jumps what they do in the chain it jumps to, and change no packet."""
    return all(isinstance(a, Accept | Deny) or (isinstance(a, Jump) and not a.goto) for a in actions)


def _within(piece: Condition, place: Condition) -> Condition:
    """A condition that holds where both do; of another field or family none can be put together with it."""
    if not (isinstance(piece.value, Ranges) and isinstance(place.value, Ranges) and _alike(piece, place)):
        return replace(piece, field=Field.UNKNOWN)
    return replace(piece, value=piece.value & place.value)


def _alike(one: Condition, other: Condition) -> bool:
    same = (one.field, one.family, one.negated) == (other.field, other.family, other.negated)
    return same and one.field in _ADDRESSES and one.family is not None and not one.negated


def _union(pieces: Sequence[Condition]) -> Condition | None:
    """The one condition that holds where one of some pieces does; None: they overlap, or are no pieces of one list."""
    if not pieces or not all(_alike(piece, pieces[0]) for piece in pieces):
        return None
    bounds: list[tuple[int, ...]] = [p.value.bounds for p in pieces if isinstance(p.value, Ranges) and p.value.bounds]
    pairs = sorted(pair for each in bounds for pair in zip(each[::2], each[1::2], strict=True))
    if any(before[1] > after[0] for before, after in pairwise(pairs)):
        return None
    return replace(pieces[0], value=Ranges.of((first, end - 1) for first, end in pairs))


def _together(lines: Iterable[Line]) -> list[Line]:
    """Lines that follow one another, ask pieces of one list and else the same, and do the same, are one line."""
    found: list[Line] = []
    for line in lines:
        joined = _joined(found[-1], line) if found else None
        if joined is None:
            found.append(line)
        else:
            found[-1] = joined
    return found


def _joined(one: Line, other: Line) -> Line | None:
    if one.actions != other.actions or len(one.conditions) != len(other.conditions) or not one.conditions:
        return None
    if not _comes_back_here(one.actions):
        return None
    (*before, last), (*after, piece) = one.conditions, other.conditions
    if before != after or not (_alike(last, piece) and (_long(last) or _long(piece))):
        return None
    union = _union((last, piece))
    return None if union is None else replace(one, conditions=(*before, union))
