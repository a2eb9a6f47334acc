"""Long chains looked up by destination, for packets that a translation has sent to one address."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from operator import itemgetter

from portctl.net import Ranges
from portctl.program import Accept, Condition, Deny, Field, Line, Note, Return, SetMark

Numbered = tuple[int, Line]


@dataclass(slots=True)
class Index:
    """The lines of one chain, each with its place in it."""

    everywhere: list[Numbered] = field(default_factory=list)
    """Those that may hold for any destination."""
    at: dict[int, list[Numbered]] = field(default_factory=dict)
    """Those of one address alone."""
    within: dict[tuple[int, ...], list[Numbered]] = field(default_factory=dict)
    """Those of a set of addresses, by its bounds."""

    def lines(self, address: int) -> Iterable[Line]:
        """The lines that may hold for an address, in their order."""
        found = [*self.everywhere, *self.at.get(address, ())]
        for bounds, listed in self.within.items():
            if address in Ranges(bounds):
                found += listed
        found.sort(key=_PLACE)
        return [line for _, line in found]


_PLACE = itemgetter(0)


def by_destination(lines: Sequence[Line]) -> Index:
    """The index of a chain."""
    index = Index()
    for place, line in enumerate(lines):
        bounds = _destination(line.conditions)
        if bounds is None:
            index.everywhere.append((place, line))
        elif len(bounds) == 2 and bounds[1] - bounds[0] == 1:
            index.at.setdefault(bounds[0], []).append((place, line))
        else:
            index.within.setdefault(bounds, []).append((place, line))
    return index


def _destination(conditions: Iterable[Condition]) -> tuple[int, ...] | None:
    """The destinations of which one must be a packet's; None: that is not said."""
    for condition in conditions:
        if condition.field is Field.DESTINATION and not condition.negated and isinstance(condition.value, Ranges):
            return condition.value.bounds
    return None


_CHANGED = frozenset(
    (
        Field.DESTINATION,
        Field.ORIGINAL_DESTINATION,
        Field.PORT,
        Field.ICMP,
        Field.ORIGINAL_PORT,
        Field.LOCAL,
        Field.CONCATENATION,
    )
)
"""What may ask something that a translation changes, beside where the packet goes and that it is translated."""


def same_for_all(line: Line) -> bool:
    """Whether a line asks and does the same of all packets that go the same way, wherever they were translated to."""
    plain = all(isinstance(action, Accept | Deny | Return | SetMark | Note) for action in line.actions)
    return plain and not any(condition.field in _CHANGED for condition in line.conditions)
