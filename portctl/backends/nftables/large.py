"""Large sets of addresses: what is found by its hash, and how the rest is cut.

To find an address among many intervals takes a walk through a tree whose nodes lie all over memory. Networks of one
size are found by their hash, in a third of the time: the address is masked and looked up. So the sizes that make up
most of a large set become hash sets of their own, and only the rest stays an interval set.

Sets are cut into parts by the first bits of the address where they would be too large: the kernel lists a set in
quadratic time, an interval set many times slower than a hash, and nft lists before it adds.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from operator import sub
from socket import AF_INET, AF_INET6, inet_ntop

from portctl.net import BITS, Family, Ranges

FEWEST = 1000
"""Intervals, from which a set is large."""
SHARE = 8
"""A size of networks gets a hash set of its own where at least every eighth interval of the set has it."""
MOST_INTERVALS = 20_000
MOST_HASHED = 131_072


@dataclass(frozen=True, slots=True)
class Look:
    """One condition: its right side."""

    suffix: str
    right: str


@dataclass(frozen=True, slots=True)
class Parts:
    """A map from masked addresses to parts: (suffix of a name, masked address, right side of the part's condition)."""

    suffix: str
    mask: str
    members: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True, slots=True)
class Large:
    """A set of addresses that takes more than one condition: an address in it meets exactly one of them."""

    name: str
    family: Family
    looks: tuple[Look | Parts, ...]


def is_large(ranges: Ranges, family: Family) -> bool:
    """Whether a set is cut, or parts of it are found by their hash."""
    count = len(ranges.bounds) // 2
    return count > MOST_INTERVALS or (count > FEWEST and bool(_sizes(ranges, family)))


def mask(family: Family, length: int) -> str:
    """`255.255.255.0` for 24."""
    width = BITS[family]
    number = ((1 << length) - 1) << (width - length)
    return inet_ntop(AF_INET if family == 4 else AF_INET6, number.to_bytes(width // 8, "big"))


def by_length(ranges: Ranges, family: Family) -> Iterator[tuple[str, str, Ranges]]:
    """A set in disjoint pieces: (suffix of a name, mask of a hash set or nothing, what of the set is in it).

    What stays an interval set comes last and has no suffix.
    """
    bounds = ranges.bounds
    pairs = list(zip(bounds[::2], bounds[1::2], strict=True))
    for size in _sizes(ranges, family):
        found = [pair for pair in pairs if pair[1] - pair[0] == size and not pair[0] & (size - 1)]
        if len(found) * SHARE < len(bounds) // 2:  # of that size, but not networks
            continue
        pairs = [pair for pair in pairs if pair[1] - pair[0] != size or pair[0] & (size - 1)]
        length = BITS[family] - size.bit_length() + 1
        held = Ranges(tuple(bound for pair in found for bound in pair))
        yield f"slash{length}", mask(family, length) if size > 1 else "", held
    if pairs:
        yield "", "", Ranges(tuple(bound for pair in pairs for bound in pair))


def _sizes(ranges: Ranges, family: Family) -> list[int]:
    """The sizes, powers of two, of which there are most, the most frequent first."""
    starts, ends = ranges.bounds[::2], ranges.bounds[1::2]
    counted = Counter(map(sub, ends, starts))
    least = max(FEWEST, len(starts)) // SHARE
    return [
        size
        for size, count in sorted(counted.items(), key=lambda item: (-item[1], item[0]))
        if count >= least and not size & (size - 1) and size < 1 << BITS[family]
    ]


def cut(ranges: Ranges, family: Family, most: int) -> Iterator[tuple[int, int, Ranges]]:
    """A set cut at round places: (first address, prefix length, what of the set lies in that network)."""
    step = 8
    stack = [(0, 0, ranges)]
    while stack:
        first, length, held = stack.pop()
        if length and (len(held.bounds) <= 2 * most or length + step >= BITS[family]):
            yield first, length, held
            continue
        shift = BITS[family] - length - step
        stack += reversed([(n << shift, length + step, part) for n, part in _cut(held, shift)])


def _cut(ranges: Ranges, shift: int) -> Iterator[tuple[int, Ranges]]:
    rest = ranges.bounds
    end = rest[-1]
    number = rest[0] >> shift
    while number << shift < end:
        held = ranges & Ranges((number << shift, (number + 1) << shift))
        if held:
            yield number, held
            number += 1
        else:
            number = rest[bisect_right(rest, number << shift)] >> shift
