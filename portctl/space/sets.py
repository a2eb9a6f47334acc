"""Exact sets of packets, and what a ruleset or a program does with every packet.

All that is to be compared is made in one `Space`: there, equal sets are equal values.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from portctl.evaluation import Step
from portctl.net import FAMILIES, Address, Family, Ranges
from portctl.program import Program
from portctl.ruleset import ICMP, ICMPV6, LOOPBACK, Direction, Packet, Ruleset, State, Verdict
from portctl.space.bodies import Act, Body, Leaf
from portctl.space.diagram import Diagrams, Node, both, either, unlike, without
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
    PUBLISHED,
    REPLY,
    SOURCE,
    SOURCE_PORT,
    STATE,
    STATES,
    TIME,
    USER,
    WAYS,
    Dimension,
    Way,
    interior,
    moment,
    name_number,
    size,
    states,
)
from portctl.space.from_program import Maker
from portctl.space.from_ruleset import of_ruleset
from portctl.space.lists import Lists
from portctl.space.pieces import whole


@dataclass(slots=True)
class Space:
    """The tables in which equal sets are the same. Values of two spaces must not be mixed.

    `named_limits`: every limit of a program is a condition of its own, which may hold or not; else all are the one
    `over_limit` that a `Packet` has. `steps` are the lines of programs that nobody can know, by the numbers in leaves.
    """

    named_limits: bool = False
    lists: Lists = field(default_factory=Lists)
    steps: list[Step] = field(default_factory=list)
    numbers: dict[tuple[object, ...], int] = field(default_factory=dict)
    """The number of each such line: equal lines of equal chains have one."""
    targets: dict[tuple[Address | None, int | None], int] = field(default_factory=dict)
    """The number of each place that a translation leads to, as `turning` gives them."""

    @property
    def diagrams(self) -> Diagrams:
        return self.lists.diagrams

    def of_ruleset(self, ruleset: Ruleset) -> Partition:
        """What `decide` says of every packet."""
        bodies = of_ruleset(self.lists, ruleset)
        return self._of(lambda direction, turned: bodies[direction, turned])

    def of_program(self, program: Program, own_addresses: Iterable[Address] = ()) -> Partition:
        """What `evaluate` says of every packet, with what it cannot know."""
        maker = Maker(self.lists, whole(program), frozenset(own_addresses), self.named_limits, self.steps, self.numbers)
        return self._of(maker.of_direction)

    def _of(self, make: Callable[[Direction, bool], Body]) -> Partition:
        roots = {}
        for direction in Direction:
            for turned in (False, True):
                body = make(direction, turned)
                for family in FAMILIES:
                    left = self.lists.of_family(body, family)
                    roots[Way(direction, turned, family)] = self.lists.diagram(left, family)
        return Partition(self, roots)

    def everything(self) -> PacketSet:
        return PacketSet(self, dict.fromkeys(WAYS, self.diagrams.leaf(True)))

    def nothing(self) -> PacketSet:
        return PacketSet(self, dict.fromkeys(WAYS, self.diagrams.leaf(False)))

    def boxes(self, boxes: Iterable[tuple[Direction | None, Mapping[Dimension, Ranges]]]) -> PacketSet:
        """The union of some boxes; of a direction, or of all."""
        listed = list(boxes)
        if self.lists.listed is None and len(listed) <= FEW:
            return PacketSet(self, {way: self._few(way, listed) for way in WAYS})
        inside, outside = Act("end", verdict=Verdict.ACCEPT), Act("end", verdict=Verdict.DROP)
        roots = {}
        for way in WAYS:
            lines = [self.lists.line(cube, [inside]) for d, cube in listed if d in (None, way.direction)]
            body = self.lists.of_family(self.lists.body([*lines, self.lists.line({}, [outside])]), way.family)
            roots[way] = self.diagrams.map(_surely_accepted, self.lists.diagram(body, way.family))
        return PacketSet(self, roots)

    def _few(self, way: Way, listed: Sequence[tuple[Direction | None, Mapping[Dimension, Ranges]]]) -> int:
        """The union of a few boxes, made without a list of lines."""
        found = self.diagrams.leaf(False)
        for direction, cube in listed:
            if direction in (None, way.direction):
                found = self.diagrams.combine(either, found, self._box(cube, way.family))
        return found

    def _box(self, cube: Mapping[Dimension, Ranges], family: Family) -> int:
        outside = self.diagrams.leaf(False)
        if FAMILY in cube and int(family == 6) not in cube[FAMILY]:
            return outside
        found = self.diagrams.leaf(True)
        for dimension in sorted(cube, reverse=True):
            if dimension == FAMILY:
                continue
            bounds = cube[dimension].bounds
            cuts = interior(bounds, size(dimension, family))
            first = found if bounds[:1] == (0,) else outside
            other = outside if bounds[:1] == (0,) else found
            found = self.diagrams.make(dimension, cuts, [first if k % 2 == 0 else other for k in range(len(cuts) + 1)])
        return found


FEW = 4
"""The union of more boxes is made as a list of lines."""


@dataclass(frozen=True, slots=True)
class PacketSet:
    """A set of packets. Equal sets of one `Space` are equal values."""

    space: Space = field(compare=False, repr=False)
    roots: Mapping[Way, int]
    """The diagram of each way; its leaves are True and False."""

    def __hash__(self) -> int:
        return hash(tuple(self.roots[way] for way in WAYS))

    def _with(self, operation: Callable[[Hashable, Hashable], Hashable], other: PacketSet) -> PacketSet:
        assert self.space is other.space
        combine = self.space.diagrams.combine
        return PacketSet(self.space, {w: combine(operation, self.roots[w], other.roots[w]) for w in WAYS})

    def __or__(self, other: PacketSet) -> PacketSet:
        return self._with(either, other)

    def __and__(self, other: PacketSet) -> PacketSet:
        return self._with(both, other)

    def __sub__(self, other: PacketSet) -> PacketSet:
        return self._with(without, other)

    def __bool__(self) -> bool:
        empty = self.space.diagrams.leaf(False)
        return any(root != empty for root in self.roots.values())

    def __le__(self, other: PacketSet) -> bool:
        return not self - other

    def __contains__(self, packet: Packet) -> bool:
        return bool(self.space.diagrams.at(self.roots[way_of(packet)], lambda d: value_of(packet, d)))

    def fix(self, values: Mapping[Dimension, int]) -> PacketSet:
        """The packets that would be in the set if they had these values, which are no longer asked."""
        roots = dict(self.roots)
        for dimension, value in values.items():
            roots = {way: self.space.diagrams.fix(root, dimension, value) for way, root in roots.items()}
        return PacketSet(self.space, roots)

    def any(self, *dimensions: Dimension) -> PacketSet:
        """The packets that are in the set for at least one value of some dimensions: those are no longer asked."""
        roots = dict(self.roots)
        for dimension in dimensions:
            roots = {way: self.space.diagrams.any(root, dimension, either) for way, root in roots.items()}
        return PacketSet(self.space, roots)

    def along(self, *directions: Direction) -> PacketSet:
        """Its packets of some directions."""
        empty = self.space.diagrams.leaf(False)
        return PacketSet(self.space, {w: r if w.direction in directions else empty for w, r in self.roots.items()})

    def of_families(self, families: tuple[Family, ...]) -> PacketSet:
        """Its packets of some families."""
        empty = self.space.diagrams.leaf(False)
        return PacketSet(self.space, {w: r if w.family in families else empty for w, r in self.roots.items()})

    def dimensions(self) -> set[Dimension]:
        """What the set asks of a packet."""
        return set().union(*map(self.space.diagrams.asked, self.roots.values()))

    def values(self, dimension: Dimension) -> set[int]:
        """Where its answer changes along a dimension."""
        return {cut for node in self._nodes() if node.dimension == dimension for cut in node.cuts}

    def _nodes(self) -> Iterator[Node]:
        nodes = self.space.diagrams.nodes
        seen: set[int] = set()
        todo = list(self.roots.values())
        while todo:
            number = todo.pop()
            node = nodes[number]
            if number not in seen and node is not None:
                yield node
                todo += node.children
            seen.add(number)


def union(space: Space, sets: Iterable[PacketSet]) -> PacketSet:
    """The packets of all of some sets: two neighbours at a time, so that most unions are of small ones."""
    left = list(sets)
    while len(left) > 1:
        left = [*map(PacketSet.__or__, left[::2], left[1::2]), *left[len(left) & ~1 :]]
    return left[0] if left else space.nothing()


@dataclass(frozen=True, slots=True)
class Partition:
    """Every packet with its `Leaf`. Equal behaviours of one `Space` are equal values."""

    space: Space = field(compare=False, repr=False)
    roots: Mapping[Way, int]

    def __hash__(self) -> int:
        return hash(tuple(self.roots[way] for way in WAYS))

    def at(self, packet: Packet) -> Leaf:
        """What happens to one packet."""
        found = self.space.diagrams.at(self.roots[way_of(packet)], lambda d: value_of(packet, d))
        assert isinstance(found, Leaf)
        return found

    def where(self, wanted: Callable[[Hashable], bool]) -> PacketSet:
        """The packets of whose leaf `wanted` holds. `wanted` must be one lasting object."""
        return PacketSet(self.space, {w: self.space.diagrams.map(wanted, root) for w, root in self.roots.items()})

    def accepted(self) -> PacketSet:
        """Packets that are accepted whatever the unknown conditions are."""
        return self.where(_surely_accepted)

    def maybe_accepted(self) -> PacketSet:
        """Packets that are accepted for some outcome of the unknown conditions."""
        return self.where(_maybe_accepted)

    def dropped(self) -> PacketSet:
        return self.where(_surely_dropped)

    def rejected(self) -> PacketSet:
        return self.where(_surely_rejected)

    def uncertain(self) -> PacketSet:
        """Packets whose verdict hangs on something unknown."""
        return self.where(_uncertain)

    def differing(self, other: Partition) -> PacketSet:
        """The packets with which the two may do different things."""
        assert self.space is other.space
        combine = self.space.diagrams.combine
        return PacketSet(self.space, {w: combine(unlike, self.roots[w], other.roots[w]) for w in WAYS})

    def agreeing(self, other: Partition) -> PacketSet:
        """The packets with which the two surely do the same."""
        assert self.space is other.space
        combine = self.space.diagrams.combine
        return PacketSet(self.space, {w: combine(_agree, self.roots[w], other.roots[w]) for w in WAYS})

    def ending(self, verdicts: Iterable[Verdict]) -> PacketSet:
        """The packets that surely meet one of some verdicts, the same whatever the unknown conditions are."""
        return union(self.space, [self.where(_SURELY[verdict]) for verdict in verdicts])

    def fix(self, values: Mapping[Dimension, int]) -> Partition:
        """What happens to every packet as if it had these values, which are no longer asked."""
        roots = dict(self.roots)
        for dimension, value in values.items():
            roots = {way: self.space.diagrams.fix(root, dimension, value) for way, root in roots.items()}
        return Partition(self.space, roots)

    def within(self, packets: PacketSet, other: Partition) -> Partition:
        """The same, but for some packets what the other says."""
        assert self.space is packets.space is other.space
        combine = self.space.diagrams.combine
        empty = self.space.diagrams.leaf(False)
        roots = dict(self.roots)
        for way, where in packets.roots.items():
            if where != empty:
                roots[way] = combine(_instead, roots[way], combine(_only, where, other.roots[way]))
        return Partition(self.space, roots)

    def depends(self, packet: Packet) -> tuple[Step, ...]:
        """The lines on which a packet's verdict hangs."""
        return tuple(self.space.steps[number] for number in sorted(self.at(packet).depends))


def way_of(packet: Packet) -> Way:
    return Way(packet.direction, packet.original is not None, packet.source.version)


def value_of(packet: Packet, dimension: Dimension) -> int:
    """What a packet answers to one question."""
    if dimension.rank == LIVE_SOURCE:
        return int(dimension.name in packet.live_source)
    if dimension.rank == LIVE_DESTINATION:
        return int(dimension.name in packet.live_destination)
    return _VALUES[dimension](packet)


_VALUES: dict[Dimension, Callable[[Packet], int]] = {
    STATE: lambda p: STATES.index(p.state),
    PROTOCOL: lambda p: p.protocol,
    PUBLISHED: lambda p: int(p.published),
    LOCAL: lambda p: int(p.local),
    REPLY: lambda p: int(p.reply),
    IN: lambda p: name_number("lo" if p.interface == LOOPBACK else p.interface),
    OUT: lambda p: name_number("lo" if p.out_interface == LOOPBACK else p.out_interface),
    HOP_LIMIT: lambda p: p.hop_limit,
    FLAGS: lambda p: p.flags,
    PORT: lambda p: p.port,
    SOURCE_PORT: lambda p: p.source_port,
    OVER: lambda p: int(p.over_limit),
    TIME: lambda p: moment(p.at) if p.at else 0,
    USER: lambda p: name_number(p.user or ""),
    ORIGINAL_PORT: lambda p: p.original[1] if p.original else 0,
    ORIGINAL_DESTINATION: lambda p: int(p.original[0]) if p.original else 0,
    SOURCE: lambda p: int(p.source),
    DESTINATION: lambda p: int(p.destination),
}


_ACCEPT = frozenset((Verdict.ACCEPT,))
_DROP = frozenset((Verdict.DROP,))
_REJECT = frozenset((Verdict.REJECT,))


def _surely_accepted(leaf: Hashable) -> bool:
    return isinstance(leaf, Leaf) and leaf.verdicts == _ACCEPT


def _maybe_accepted(leaf: Hashable) -> bool:
    return isinstance(leaf, Leaf) and Verdict.ACCEPT in leaf.verdicts


def _surely_dropped(leaf: Hashable) -> bool:
    return isinstance(leaf, Leaf) and leaf.verdicts == _DROP


def _surely_rejected(leaf: Hashable) -> bool:
    return isinstance(leaf, Leaf) and leaf.verdicts == _REJECT


def _uncertain(leaf: Hashable) -> bool:
    return isinstance(leaf, Leaf) and len(leaf.verdicts) > 1


_SURELY = {
    Verdict.ACCEPT: _surely_accepted,
    Verdict.DROP: _surely_dropped,
    Verdict.REJECT: _surely_rejected,
}


def _agree(a: Hashable, b: Hashable) -> bool:
    assert isinstance(a, Leaf) and isinstance(b, Leaf)
    return len(a.verdicts) == 1 and a.verdicts == b.verdicts


def _only(inside: Hashable, leaf: Hashable) -> Hashable:
    return leaf if inside else None


def _instead(leaf: Hashable, other: Hashable) -> Hashable:
    return leaf if other is None else other


def possible(space: Space, among: PacketSet | None = None) -> PacketSet:
    """The packets that can exist: what no tracker, no host and no wire ever brings forth is left out. Of `among`, where
    that is given; what it does not ask about a packet's owner stays unasked: the packet may have none.

    ICMP of the other family is: no host takes it, and packet filters do not agree on whether they look.
    """
    yes = Ranges.single(1)
    someone = Ranges((1, 1 << 256))
    first = states(State.NEW | State.INVALID | State.UNTRACKED)
    impossible: list[tuple[Direction | None, dict[Dimension, Ranges]]] = [
        (None, {STATE: first, REPLY: yes}),
        (None, {FAMILY: Ranges.single(0), PROTOCOL: Ranges.single(ICMPV6)}),
        (None, {FAMILY: Ranges.single(1), PROTOCOL: Ranges.single(ICMP)}),
        (Direction.INBOUND, {USER: someone}),
        (Direction.FORWARDED, {USER: someone}),
        (Direction.FORWARDED, {LOCAL: yes}),
        (Direction.FORWARDED, {IN: Ranges.single(name_number("lo"))}),
        (Direction.FORWARDED, {OUT: Ranges.single(name_number("lo"))}),
        (Direction.INBOUND, {OUT: Ranges.single(name_number("lo"))}),  # asked of what is turned to another host
    ]
    asked = {USER} if among is None else among.dimensions()
    found = space.everything() - space.boxes(each for each in impossible if USER in asked or USER not in each[1])
    fresh = space.boxes([(None, {PUBLISHED: yes})])
    turned = space.boxes([(None, {STATE: states(State.INVALID | State.UNTRACKED)})])
    combine = space.diagrams.combine
    roots = {w: combine(without, r, (turned if w.turned else fresh).roots[w]) for w, r in found.roots.items()}
    return PacketSet(space, roots) if among is None else among & PacketSet(space, roots)
