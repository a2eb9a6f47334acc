"""Long lists of lines looked up by destination, for packets that a translation has sent to one address."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Generic, TypeVar

from portctl.net import Ranges
from portctl.program import Accept, Condition, Deny, Field, Line, Note, Return, SetMark

T = TypeVar("T")


@dataclass(slots=True)
class Index(Generic[T]):
    """The lines of one list, each with its place in it."""

    everywhere: list[tuple[int, T]] = field(default_factory=list)
    """Those that may hold for any destination."""
    at: dict[int, list[tuple[int, T]]] = field(default_factory=dict)
    """Those of one address alone."""
    within: dict[Ranges, list[tuple[int, T]]] = field(default_factory=dict)
    """Those of a set of addresses."""

    def placed(self, address: int) -> list[tuple[int, T]]:
        """The lines that may hold for an address, with their places, in any order."""
        found = [*self.everywhere, *self.at.get(address, ())]
        for addresses, listed in self.within.items():
            if address in addresses:
                found += listed
        return found

    def lines(self, address: int) -> list[T]:
        """The same in their order."""
        return [line for _, line in sorted(self.placed(address), key=itemgetter(0))]


def indexed(lines: Iterable[tuple[T, Ranges | None]]) -> Index[T]:
    """The index of some lines, each with the destinations for which alone it may hold; None: for any."""
    index: Index[T] = Index()
    for place, (line, addresses) in enumerate(lines):
        if addresses is None:
            index.everywhere.append((place, line))
        elif addresses.count() == 1:
            index.at.setdefault(addresses.bounds[0], []).append((place, line))
        else:
            index.within.setdefault(addresses, []).append((place, line))
    return index


def destinations(conditions: Iterable[Condition]) -> Ranges | None:
    """The destinations of which one must be a packet's; None: that is not said."""
    for condition in conditions:
        if condition.field is Field.DESTINATION and not condition.negated and isinstance(condition.value, Ranges):
            return condition.value
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
