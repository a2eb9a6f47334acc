"""One walk over all values of a dimension: where some lines answer otherwise, and what remains in between."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import accumulate, compress, islice, repeat
from operator import is_not, xor

from portctl.space.bodies import Body, Line, Part, Split
from portctl.space.diagram import Cuts

Numbered = list[tuple[int, Line]]


def chosen(always: Numbered, groups: list[Numbered], mask: int) -> Numbered:
    """The lines whose part holds the value, in their order; bit k of `mask` stands for group k."""
    found = list(always)
    while mask:
        low = mask & -mask
        found += groups[low.bit_length() - 1]
        mask ^= low
    found.sort(key=_place)
    return found


def _place(pair: tuple[int, Line]) -> int:
    return pair[0]


def together(always: Numbered, groups: list[Numbered], masks: Iterable[int], most: int) -> int:
    """How many lines there are in what remains for some masks, counted until there are more than `most`."""
    everywhere = sum(line.weight for _, line in always)
    weights = [sum(line.weight for _, line in group) for group in groups]
    total = 0
    for mask in masks:
        total += everywhere
        while mask and total <= most:
            low = mask & -mask
            total += weights[low.bit_length() - 1]
            mask ^= low
        if total > most:
            break
    return total


def sweep(
    parts: list[Part], end: int, left: Callable[[int], Body], pays: Callable[[Iterable[int]], bool]
) -> Split | None:
    """Walks once over all values: `left(mask)` is what remains where exactly the parts of `mask` hold.

    None: with so many masks it does not pay.
    """
    mask = 0
    together: dict[Cuts, int] = {}  # a set and its complement change at the same places
    for k, part in enumerate(parts):
        bit = 1 << k
        if part.ranges.bounds and part.ranges.bounds[0] == 0:
            mask |= bit
        cuts = part.cuts(end)
        together[cuts] = together.get(cuts, 0) | bit
    if len(together) == 1:
        first, second = left(mask), left(mask ^ bit * 2 - 1)
        if first is second or not cuts:
            return (), (first,)
        return cuts, ((first, second) * (len(cuts) // 2 + 1))[: len(cuts) + 1]
    toggles: dict[int, int] = {}
    for cuts, bits in together.items():
        mine = dict.fromkeys(cuts, bits)
        if shared := toggles.keys() & mine.keys():
            mine.update(zip(shared, map(xor, map(toggles.__getitem__, shared), repeat(bits)), strict=False))
        toggles.update(mine)
    places = sorted(toggles)
    masks = list(accumulate(map(toggles.__getitem__, places), xor, initial=mask))
    distinct = dict.fromkeys(masks)
    if not pays(distinct):
        return None
    known = {mask: left(mask) for mask in distinct}
    bodies = list(map(known.__getitem__, masks))
    changes = list(map(is_not, bodies, islice(bodies, 1, None)))
    return tuple(compress(places, changes)), (bodies[0], *compress(islice(bodies, 1, None), changes))
