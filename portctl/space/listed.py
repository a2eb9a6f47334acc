"""Long lists of addresses as questions of their own: whether an address is on one has two answers, not thousands of cuts.

Rule sets that ask the same lists are so compared without a walk through them. The answers to several questions about
one address are bound together when a packet is asked for (`bound_example`), so that what is said there is exact.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from portctl.net import Family, Ranges
from portctl.space.dimensions import ADDRESSES, LISTED, Dimension, Way, interior, size

if TYPE_CHECKING:
    from portctl.ruleset import Packet
    from portctl.space.diagram import Node
    from portctl.space.sets import PacketSet

LONG = 64
"""Lists with more ends of ranges than this become questions."""
MOST_ASKED = 64
"""Where more lists are asked of one packet, their answers are too many to tell apart one by one."""
MOST_SPLITS = 100_000
MOST_TRIED = 20_000
"""Ways through a set that are tried in search of a packet."""

_YES, _NO = Ranges.single(1), Ranges.single(0)


class Beyond(Exception):
    """There are too many combinations of answers: the lists had better be walked through."""


@dataclass(slots=True)
class Listed:
    """The lists of one space, each with the dimension that asks it."""

    dimensions: dict[tuple[Dimension, Family, tuple[int, ...]], Dimension] = field(default_factory=dict)
    lists: dict[Dimension, tuple[Dimension, Family, tuple[int, ...]]] = field(default_factory=dict)
    splits: int = 0

    def question(self, dimension: Dimension, family: Family, ranges: Ranges) -> tuple[Dimension, Ranges]:
        """The same condition as a question about a list, if it is long. A list and its complement are one question."""
        if dimension not in ADDRESSES or len(ranges.bounds) <= LONG:
            return dimension, ranges
        key = dimension, family, interior(ranges.bounds, size(dimension, family))
        found = self.dimensions.get(key)
        if found is None:
            found = self.dimensions[key] = Dimension(LISTED, f"{len(self.lists):06}")
            self.lists[found] = key
        return found, _YES if ranges.bounds[0] else _NO

    def place(self, question: Dimension, *, on: bool) -> tuple[Dimension, Ranges]:
        """Which address a question asks, and the addresses for which it is answered so."""
        dimension, family, cuts = self.lists[question]
        bounds = cuts if on else (0, *cuts)
        return dimension, Ranges(bounds if len(bounds) % 2 == 0 else (*bounds, size(dimension, family)))

    def count(self, lowest: Dimension, asked: int) -> None:
        """Raises `Beyond` where the lists are not worth it: `lowest` of `asked` dimensions is to be split."""
        if self.lists:
            self.splits += 1
            if self.splits > MOST_SPLITS or (lowest.rank == LISTED and asked > MOST_ASKED):
                raise Beyond


@dataclass(slots=True)
class _Search:
    packets: PacketSet
    way: Way
    listed: Listed
    tried: int = 0

    def values(self, number: int, values: Mapping[Dimension, int], places: Mapping[Dimension, Ranges]) -> Found:
        """Values that lead to True from a node on, for a packet whose addresses are in `places`; None: there are none."""
        diagrams = self.packets.space.diagrams
        node = diagrams.nodes[number]
        if node is None:
            return (values, places) if diagrams.values[number] else None
        self.tried += 1
        if self.tried > MOST_TRIED:
            raise Beyond
        if node.dimension in ADDRESSES or node.dimension.rank == LISTED:
            return self._placed(node, values, places)
        from portctl.space.examples import candidates

        for value in candidates(node, self.way, diagrams.leaf(False)):
            found = self.values(diagrams.child(node, value), {**values, node.dimension: value}, places)
            if found is not None:
                return found
        return None

    def _placed(self, node: Node, values: Mapping[Dimension, int], places: Mapping[Dimension, Ranges]) -> Found:
        diagrams = self.packets.space.diagrams
        for child, ranges in diagrams.branches(node, size(node.dimension, self.way.family)):
            dimension = node.dimension
            if dimension.rank == LISTED:
                dimension, ranges = self.listed.place(node.dimension, on=1 in ranges)
            place = places[dimension] & ranges if dimension in places else ranges
            if place and child != diagrams.leaf(False):
                found = self.values(child, values, {**places, dimension: place})
                if found is not None:
                    return found
        return None


Found = tuple[Mapping[Dimension, int], Mapping[Dimension, Ranges]] | None


def bound_example(packets: PacketSet, listed: Listed) -> Packet | None:
    """One packet of a set, as usual a one as it holds; None: there is none. Raises `Beyond` where it would take long."""
    from portctl.space.examples import packet_of, usual_values

    for way, root in packets.roots.items():
        found = _Search(packets, way, listed).values(root, {}, {})
        if found is not None:
            values, places = dict(found[0]), found[1]
            for dimension, place in places.items():
                usual = [value for value in usual_values(dimension, way) if value in place]
                values[dimension] = usual[0] if usual else place.bounds[0]
            return packet_of(way, values)
    return None
