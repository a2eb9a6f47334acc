"""Functions of a packet as shared, ordered diagrams with ranges on their edges: equal functions are one number.

A node asks one dimension; `cuts` are the numbers at which its child changes, so child k is taken from cut k-1 up to
cut k. Along a path dimensions only grow, and neighbouring children differ: with that every function has one form.
Nodes are numbers in one `Diagrams`; numbers of two of them must not be mixed.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, chain, compress, islice, repeat
from operator import add, eq, lshift, ne, sub
from typing import NamedTuple, TypeVar

from portctl.net import Ranges
from portctl.space.dimensions import Dimension

Cuts = tuple[int, ...]
Operation = Callable[[Hashable, Hashable], Hashable]
T = TypeVar("T", bound=Hashable)
Settle = Callable[[int, int], int | None]


class TooMuch(Exception):
    """There is more to be worked out than was allowed."""


class Node(NamedTuple):
    dimension: Dimension
    cuts: Cuts
    children: tuple[int, ...]


@dataclass(slots=True)
class Diagrams:
    """All nodes made so far, and what is known of them."""

    nodes: list[Node | None] = field(default_factory=list)
    """By number; None: a leaf."""
    values: dict[int, Hashable] = field(default_factory=dict)
    """What the leaves say, by number."""
    cuts: int = 0
    """Of all nodes together."""
    most: int | None = None
    """So many cuts may be made; None: any number. A cut takes some 30 bytes."""
    walked: int = 0
    """Cuts of nodes that were gone through without making any."""
    _leaves: dict[Hashable, int] = field(default_factory=dict)
    _unique: dict[Node, int] = field(default_factory=dict)
    _memo: dict[tuple[object, ...], int] = field(default_factory=dict)
    _asked: dict[int, frozenset[Dimension]] = field(default_factory=dict)
    _distinct: dict[int, tuple[int, ...]] = field(default_factory=dict)
    _sets: dict[frozenset[Dimension], frozenset[Dimension]] = field(default_factory=dict)

    def leaf(self, value: Hashable) -> int:
        found = self._leaves.get(value)
        if found is None:
            found = self._leaves[value] = len(self.nodes)
            self.nodes.append(None)
            self.values[found] = value
        return found

    def make(self, dimension: Dimension, cuts: Sequence[int], children: Sequence[int]) -> int:
        """The node of some children, in its one form. Equal neighbours may be given."""
        if children.count(children[0]) == len(children):
            return children[0]
        if any(map(eq, children, islice(children, 1, None))):
            cuts, children = _merged(cuts, children)
        node = Node(dimension, tuple(cuts), tuple(children))
        found = self._unique.get(node)
        if found is None:
            found = self._unique[node] = len(self.nodes)
            self.nodes.append(node)
            self.cuts += len(node.cuts)
            if self.most is not None and self.cuts > self.most:
                raise TooMuch
        return found

    def over(self, dimension: Dimension, split: tuple[Cuts, Sequence[T]], number: Callable[[T], int]) -> int:
        """The node whose children are the diagrams of some things, as `number` gives them."""
        cuts, things = split
        return self.make(dimension, cuts, _each(number, things))

    def work(self) -> int:
        """A measure of what has been worked out so far, the same on every machine."""
        return len(self._memo) + self.cuts + self.walked

    def combine(self, operation: Operation, left: int, right: int) -> int:
        """The function that says `operation(left, right)` of every packet. The operation must be one lasting object."""
        key = (operation, left, right)
        found = self._memo.get(key)
        if found is None:
            found = self._memo[key] = self._combine(operation, left, right)
        return found

    def _combine(self, operation: Operation, left: int, right: int) -> int:
        if left == right and operation in (either, both, without, unlike):
            return left if operation in (either, both) else self.leaf(False)
        a, b = self.nodes[left], self.nodes[right]
        if (a is None or b is None) and operation in (either, both, without):
            found = _settled(operation, (self.values.get(left), left), (self.values.get(right), right))
            if found is not None:
                return found
        if a is None and b is None:
            return self.leaf(operation(self.values[left], self.values[right]))
        if b is None or (a is not None and a.dimension < b.dimension):
            assert a is not None
            return self.make(a.dimension, a.cuts, _each(lambda c: self.combine(operation, c, right), a.children))
        if a is None or b.dimension < a.dimension:
            return self.make(b.dimension, b.cuts, _each(lambda c: self.combine(operation, left, c), b.children))
        cuts, pairs = _overlay(a, b)
        return self.make(
            a.dimension, cuts, _each(lambda pair: self.combine(operation, pair >> HALF, pair & _RIGHT), pairs)
        )

    def merged(
        self, settle: Settle, left: int, right: int, change: Callable[[Hashable], Hashable] | None = None
    ) -> int:
        """One function of two. `settle(left, right)` is the number of what they are together, if one of them is a leaf
        and that is clear without a look at what the other asks; of two leaves it always is. Nothing is remembered but
        the nodes. With `change` every answer is changed, as by `map`."""
        known: dict[int, int] = {}
        nodes = self.nodes

        def pair(numbers: int) -> int:
            found = known.get(numbers)
            if found is None:
                one, other = numbers >> HALF, numbers & _RIGHT
                found = settle(one, other) if nodes[one] is None or nodes[other] is None else None
                if found is None:
                    found = below(one, other)
                elif change is not None:
                    found = self.map(change, found)
                known[numbers] = found
            return found

        def below(left: int, right: int) -> int:
            a, b = nodes[left], nodes[right]
            if b is None or (a is not None and a.dimension < b.dimension):
                assert a is not None
                return self.make(a.dimension, a.cuts, _each(lambda child: pair(_paired(child, right)), a.children))
            if a is None or b.dimension < a.dimension:
                return self.make(b.dimension, b.cuts, _each(lambda child: pair(_paired(left, child)), b.children))
            cuts, pairs = _overlay(a, b)
            return self.make(a.dimension, cuts, _each(pair, pairs))

        return pair(_paired(left, right))

    def map(self, change: Callable[[Hashable], Hashable], number: int) -> int:
        """The function with every answer changed. `change` must be one lasting object."""
        key = (change, number)
        found = self._memo.get(key)
        if found is None:
            node = self.nodes[number]
            if node is None:
                found = self.leaf(change(self.values[number]))
            else:
                found = self.make(node.dimension, node.cuts, _each(lambda c: self.map(change, c), node.children))
            self._memo[key] = found
        return found

    def asked(self, number: int) -> frozenset[Dimension]:
        """All dimensions that the function asks."""
        found = self._asked.get(number)
        if found is None:
            node = self.nodes[number]
            below = frozenset().union(*map(self.asked, set(node.children))) if node is not None else frozenset()
            found = below if node is None else below | {node.dimension}
            found = self._asked[number] = self._sets.setdefault(found, found)
        return found

    def distinct(self, number: int) -> tuple[int, ...]:
        """The children of a node, each once."""
        found = self._distinct.get(number)
        if found is None:
            node = self.nodes[number]
            found = self._distinct[number] = () if node is None else tuple(dict.fromkeys(node.children))
        return found

    def fix(self, number: int, dimension: Dimension, value: int) -> int:
        """The function with one dimension held at one value: it no longer asks it."""
        node = self.nodes[number]
        if node is None or node.dimension > dimension or dimension not in self.asked(number):
            return number
        if node.dimension == dimension:
            return node.children[bisect_right(node.cuts, value)]
        key = ("fix", number, dimension, value)
        found = self._memo.get(key)
        if found is None:
            children = _each(lambda c: self.fix(c, dimension, value), node.children)
            found = self._memo[key] = self.make(node.dimension, node.cuts, children)
        return found

    def any(self, number: int, dimension: Dimension, either: Operation) -> int:
        """The function that joins, by `either`, what is said for all values of a dimension: it no longer asks it."""
        node = self.nodes[number]
        if node is None or node.dimension > dimension or dimension not in self.asked(number):
            return number
        key = ("any", number, dimension, either)
        found = self._memo.get(key)
        if found is None:
            if node.dimension == dimension:
                distinct = list(dict.fromkeys(node.children))
                found = distinct[0]
                for child in distinct[1:]:
                    found = self.combine(either, found, child)
            else:
                children = _each(lambda c: self.any(c, dimension, either), node.children)
                found = self.make(node.dimension, node.cuts, children)
            self._memo[key] = found
        return found

    def at(self, number: int, values: Callable[[Dimension], int]) -> Hashable:
        """What the function says where each dimension has the value that `values` gives."""
        while (node := self.nodes[number]) is not None:
            number = node.children[bisect_right(node.cuts, values(node.dimension))]
        return self.values[number]

    def child(self, node: Node, value: int) -> int:
        """The number of the child that a value leads to."""
        return node.children[bisect_right(node.cuts, value)]

    def branches(self, node: Node, end: int) -> Iterator[tuple[int, Ranges]]:
        """The distinct children of a node and the values that lead to each, in the order of their first value."""
        yield from values_of(node.cuts, node.children, end)


def _each(work: Callable[[T], int], children: Sequence[T]) -> list[int]:
    """What becomes of each child. A node has hundreds of children, of which few are distinct: those alone are asked."""
    known = {child: work(child) for child in dict.fromkeys(children)}
    return list(map(known.__getitem__, children))


def values_of(cuts: Cuts, children: Sequence[T], end: int) -> list[tuple[T, Ranges]]:
    """Each distinct child and the values that lead to it, in the order of their first value."""
    if len(children) > 2 and len(set(children[::2])) == 1 == len(set(children[1::2])):  # by turns
        one, other = (0, *cuts), cuts
        one, other = (one, (*other, end)) if len(cuts) & 1 else ((*one, end), other)
        return [(children[0], Ranges(one)), (children[1], Ranges(other))]
    starts, ends = (0, *cuts), (*cuts, end)
    distinct = dict.fromkeys(children)
    if len(distinct) > FEW:
        bounds: dict[T, list[int]] = {child: [] for child in distinct}
        for child, start, stop in zip(children, starts, ends, strict=True):
            bounds[child] += (start, stop)
        return [(child, Ranges(tuple(found))) for child, found in bounds.items()]
    pairs = list(zip(starts, ends, strict=True))
    return [
        (child, Ranges(tuple(chain.from_iterable(compress(pairs, map(eq, children, repeat(child)))))))
        for child in distinct
    ]


FEW = 8
"""So many distinct children are faster looked for one by one."""


def _merged(cuts: Sequence[int], children: Sequence[int]) -> tuple[list[int], list[int]]:
    """The same without the cuts between equal children."""
    changes = list(map(ne, children, islice(children, 1, None)))
    return list(compress(cuts, changes)), [children[0], *compress(islice(children, 1, None), changes)]


def either(a: Hashable, b: Hashable) -> Hashable:
    """For functions that say True or False, as `both` and `without` are."""
    return bool(a or b)


def both(a: Hashable, b: Hashable) -> Hashable:
    return bool(a and b)


def without(a: Hashable, b: Hashable) -> Hashable:
    return bool(a and not b)


def unlike(a: Hashable, b: Hashable) -> Hashable:
    """For functions with any answers."""
    return a != b


def _settled(operation: Operation, left: tuple[Hashable, int], right: tuple[Hashable, int]) -> int | None:
    """Which of two functions, (its one answer, if it has but one, number) each, the result is, if it is one of them."""
    if operation is without:
        return left[1] if left[0] is False or right[0] is False else None
    deciding = operation is either  # the answer that decides whatever the other function says
    for one, other in ((left, right), (right, left)):
        if one[0] is deciding:
            return one[1]
        if one[0] is (not deciding):
            return other[1]
    return None


def _overlay(a: Node, b: Node) -> tuple[Sequence[int], list[int]]:
    """The cuts of both nodes, and the pair of children between each two."""
    if len(a.cuts) <= FEW:
        return _stretches(b, a, 0)
    if len(b.cuts) <= FEW:
        return _stretches(a, b, HALF)
    steps = dict(zip(a.cuts, map(lshift, map(sub, a.children[1:], a.children), repeat(HALF)), strict=True))
    others = dict(zip(b.cuts, map(sub, b.children[1:], b.children), strict=True))
    if shared := steps.keys() & others.keys():
        others.update([(cut, others[cut] + steps[cut]) for cut in shared])
    steps.update(others)
    cuts = sorted(steps)
    first = _paired(a.children[0], b.children[0])
    return cuts, list(accumulate(map(steps.__getitem__, cuts), initial=first))


def _stretches(a: Node, b: Node, up: int) -> tuple[Sequence[int], list[int]]:
    """The same for a `b` of few cuts: between two of them the children of `a` are one stretch. `up` is `HALF` where
    those of `a` are the left ones, and else 0."""
    cuts: list[int] = []
    pairs: list[int] = []
    start = 0
    mine = list(map(lshift, a.children, repeat(up))) if up else a.children
    for child, cut in zip(b.children, b.cuts, strict=False):
        stop = bisect_left(a.cuts, cut)
        pairs += map(add, mine[start : stop + 1], repeat(child << HALF - up))
        cuts += (*a.cuts[start:stop], cut)
        start = bisect_right(a.cuts, cut)
    pairs += map(add, mine[start:], repeat(b.children[-1] << HALF - up))
    return [*cuts, *a.cuts[start:]], pairs


HALF = 40
"""Two numbers are one where there are millions of pairs: the left one is the bits from here on."""
_RIGHT = (1 << HALF) - 1


def _paired(left: int, right: int) -> int:
    return (left << HALF) + right
