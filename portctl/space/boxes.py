"""A set of packets as few boxes: what a person can read, and what a policy's entry can say.

A box has a `Ranges` for each dimension that it asks. Boxes of one diagram never overlap.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from portctl.net import FAMILIES, Addresses, Family, Ranges
from portctl.ruleset import Direction
from portctl.space.dimensions import (
    DESTINATION,
    FAMILY,
    ORIGINAL_DESTINATION,
    SOURCE,
    WAYS,
    Dimension,
    Way,
    family_set,
    size,
    whole,
)
from portctl.space.sets import PacketSet, Space

Asked = tuple[tuple[Dimension, Ranges], ...]
"""By rising dimension."""
MOST_BOXES = 20_000


class TooMany(Exception):
    """The set has more boxes than anybody would read."""


@dataclass(frozen=True, slots=True)
class Box:
    """Packets of one direction and both families, from `source` to `destination` (family by family), that `asked` fits.

    `original` is where those went that somebody else turned; None of all others.
    """

    direction: Direction
    source: Addresses
    destination: Addresses
    asked: Asked = ()
    original: Addresses | None = None

    def values(self, dimension: Dimension) -> Ranges | None:
        """The values of one dimension; None: all."""
        return next((ranges for asked, ranges in self.asked if asked == dimension), None)


def boxes(packets: PacketSet, most: int = MOST_BOXES) -> list[Box]:
    """The set as boxes, joined where they can be. Raises `TooMany`."""
    empty = packets.space.diagrams.leaf(False)
    halves: dict[tuple[Direction, bool], list[tuple[Family, list[_Flat]]]] = {}
    for way in WAYS:
        if packets.roots[way] != empty:
            flats = _joined(list(_flat(packets, way, most)), way)
            halves.setdefault((way.direction, way.turned), []).append((way.family, flats))
    found: list[Box] = []
    for (direction, turned), families in halves.items():
        found += _both(direction, turned, dict(families))
    return found


_Flat = dict[Dimension, Ranges]


def _flat(packets: PacketSet, way: Way, most: int) -> Iterator[_Flat]:
    diagrams = packets.space.diagrams
    todo: list[tuple[int, _Flat]] = [(packets.roots[way], {})]
    given = 0
    while todo:
        number, asked = todo.pop()
        node = diagrams.nodes[number]
        if node is not None:
            branches = diagrams.branches(node, size(node.dimension, way.family))
            todo += [(child, {**asked, node.dimension: ranges}) for child, ranges in branches]
        elif diagrams.values[number]:
            given += 1
            if given > most:
                raise TooMany
            yield asked


def _joined(flats: list[_Flat], way: Way) -> list[_Flat]:
    """The same packets in fewer boxes: those that differ in one dimension become one, until none do."""
    dimensions = sorted({dimension for flat in flats for dimension in flat}, reverse=True)
    count = 0
    while len(flats) != count:
        count = len(flats)
        for dimension in dimensions:
            groups: dict[frozenset[tuple[Dimension, Ranges]], list[_Flat]] = {}
            for flat in flats:
                key = frozenset((d, ranges) for d, ranges in flat.items() if d != dimension)
                groups.setdefault(key, []).append(flat)
            flats = [_union(group, dimension, way) for group in groups.values()]
    return flats


def _union(group: list[_Flat], dimension: Dimension, way: Way) -> _Flat:
    if len(group) == 1:
        return group[0]
    every = whole(dimension, way.family)
    pairs = [pair for flat in group for pair in flat.get(dimension, every).pairs()]
    together = Ranges.of(pairs)
    rest = {d: ranges for d, ranges in group[0].items() if d != dimension}
    return rest if together == every else {**rest, dimension: together}


_PLACES = (SOURCE, DESTINATION, ORIGINAL_DESTINATION)


def _both(direction: Direction, turned: bool, families: dict[Family, list[_Flat]]) -> Iterator[Box]:
    """Boxes of IPv4 and of IPv6 that ask the same otherwise are one."""
    alike: dict[Asked, dict[Family, list[_Flat]]] = {}
    for family, flats in families.items():
        for flat in flats:
            asked = tuple(sorted((d, r) for d, r in flat.items() if d not in _PLACES))
            alike.setdefault(asked, {4: [], 6: []})[family].append(flat)
    for asked, sides in alike.items():
        ordered = {family: sorted(sides[family], key=len) for family in FAMILIES}
        for number in range(max(map(len, ordered.values()))):
            pair = {family: flats[number] for family, flats in ordered.items() if number < len(flats)}
            original = _addresses(pair, ORIGINAL_DESTINATION) if turned else None
            yield Box(direction, _addresses(pair, SOURCE), _addresses(pair, DESTINATION), asked, original)


def _addresses(pair: dict[Family, _Flat], dimension: Dimension) -> Addresses:
    found = {family: flat.get(dimension, whole(dimension, family)) for family, flat in pair.items()}
    return Addresses(found.get(4, Ranges()), found.get(6, Ranges()))


def one_family(box: Box) -> Family | None:
    """The family of which alone the box has packets."""
    families = [family for family in FAMILIES if box.source.family(family) and box.destination.family(family)]
    return families[0] if len(families) == 1 else None


def set_of(space: Space, box: Box) -> PacketSet:
    """The set of a box again."""
    cubes = []
    for family in FAMILIES:
        if box.source.family(family) and box.destination.family(family):
            places = {SOURCE: box.source.family(family), DESTINATION: box.destination.family(family)}
            if box.original is not None:
                places[ORIGINAL_DESTINATION] = box.original.family(family)
            cubes.append((box.direction, {FAMILY: family_set(family), **places, **dict(box.asked)}))
    found = space.boxes(cubes)
    empty = space.diagrams.leaf(False)
    turned = box.original is not None
    return PacketSet(space, {way: root if way.turned == turned else empty for way, root in found.roots.items()})
