"""Which entries may meet, without comparing each with each: one sweep over their ranges."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from heapq import heappop, heappush

from portctl.net import Addresses, Ranges
from portctl.resolve.entries import Opening

Span = tuple[int, int]
_PORTS, _PROTOCOLS, _IPV4 = 1 << 16, 1 << 8, 1 << 32
_MOST_SPANS = 32
"""Longer lists of networks stand for all that lies between their ends: what meets them is looked at closely anyway."""


def meeting(left: Sequence[Opening], right: Sequence[Opening]) -> list[tuple[int, int]]:
    """Indices of at least those pairs that have a port, and a source, in common. In order.

    Asked by ports or by sources, whichever leaves fewer: thousands of entries seldom share both.
    """
    ways = [([read(o) for o in left], [read(o) for o in right]) for read in (_ports, _sources)]
    fewest = min(ways, key=lambda way: sum(len(others) for *_, others in _sweep(*way)))
    found: set[tuple[int, int]] = set()
    for side, index, others in _sweep(*fewest):
        found.update((other, index) if side else (index, other) for _, other in others)
    return sorted(found)


def _sweep(left: Sequence[list[Span]], right: Sequence[list[Span]]) -> Iterator[tuple[int, int, list[Span]]]:
    """Every span, by its side and its owner's index, with those of the other side that are open where it begins.

    These are pairs of end and index. The list is valid until the next step.
    """
    starts = sorted(
        (first, last, side, index)
        for side, owners in enumerate((left, right))
        for index, spans in enumerate(owners)
        for first, last in spans
    )
    opened: tuple[list[Span], list[Span]] = ([], [])
    for first, last, side, index in starts:
        others = opened[1 - side]
        while others and others[0][0] < first:
            heappop(others)
        yield side, index, others
        heappush(opened[side], (last, index))


def _ports(opening: Opening) -> list[Span]:
    """Protocol and port as one number."""
    if opening.flows is None:
        return [(0, _PROTOCOLS * _PORTS - 1)]
    return [
        (flow.protocol * _PORTS + first, flow.protocol * _PORTS + last)
        for flow in opening.flows
        for first, last in flow.ports.pairs()
    ]


def _sources(opening: Opening) -> list[Span]:
    """Addresses of both families as numbers, IPv6 behind IPv4."""
    source: Addresses = opening.source
    return [*_spans(source.v4, 0), *_spans(source.v6, _IPV4)]


def _spans(ranges: Ranges, offset: int) -> list[Span]:
    bounds = ranges.bounds
    if len(bounds) > 2 * _MOST_SPANS:
        bounds = (bounds[0], bounds[-1])
    return [(first + offset, end - 1 + offset) for first, end in zip(bounds[::2], bounds[1::2], strict=True)]
