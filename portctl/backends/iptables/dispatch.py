"""Which rules a packet of some protocol and port can match: the classes of packets that no rule's ports split."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from portctl.net import Family, Ranges
from portctl.ruleset import EVERY_PORT, Flow, Flows

Key = tuple[tuple[int, Ranges | None], ...]
"""Rules by their index, in order, each with the source ports that it still asks for (None: every one)."""
Interval = tuple[int, int, Key]
"""First port, last port, and who may match there."""


@dataclass(frozen=True, slots=True)
class Classes:
    """The ports of one protocol. Where no interval is, `rest` is the key."""

    protocol: int
    intervals: tuple[Interval, ...]
    rest: Key


@dataclass(frozen=True, slots=True)
class Asked:
    """What each rule of a group asks: its flows; whether nothing else; whether it logs."""

    flows: Sequence[Flows]
    final: Sequence[bool]
    logs: Sequence[bool]

    def protocols(self, family: Family) -> list[int]:
        """Every protocol that some rule names in this family."""
        return sorted({f.protocol for flows in self.flows for f in flows or () if family in f.families()})

    def portless(self) -> Key:
        """The rules that ask for no protocol."""
        return self.prune(tuple((i, None) for i, flows in enumerate(self.flows) if flows is None))

    def prune(self, key: Key) -> Key:
        """The rules of a key up to the first that matches whatever comes to it, and later ones that log."""
        for position, (index, source_ports) in enumerate(key):
            if self.final[index] and source_ports is None:
                return key[: position + 1] + tuple(item for item in key[position + 1 :] if self.logs[item[0]])
        return key

    def classify(self, protocol: int) -> Classes:
        """One sweep over the ends of all port ranges."""
        events: dict[int, list[tuple[int, Ranges | None, bool]]] = {}
        everywhere: set[tuple[int, Ranges | None]] = set()
        for index, flows in enumerate(self.flows):
            if flows is None:
                everywhere.add((index, None))
            for flow in flows or ():
                if flow.protocol == protocol:
                    _add(events, everywhere, index, flow)
        rest = self.prune(_sorted(everywhere))
        return Classes(protocol, tuple(_sweep(events, everywhere, rest, self.prune)), rest)


def _add(
    events: dict[int, list[tuple[int, Ranges | None, bool]]],
    everywhere: set[tuple[int, Ranges | None]],
    index: int,
    flow: Flow,
) -> None:
    sources = None if flow.source_ports == EVERY_PORT else flow.source_ports
    if flow.ports == EVERY_PORT:
        everywhere.add((index, sources))
        return
    for first, last in flow.ports.pairs():
        events.setdefault(first, []).append((index, sources, True))
        events.setdefault(last + 1, []).append((index, sources, False))


def _sweep(
    events: dict[int, list[tuple[int, Ranges | None, bool]]],
    everywhere: set[tuple[int, Ranges | None]],
    rest: Key,
    shorten: Callable[[Key], Key],
) -> Iterator[Interval]:
    active = set(everywhere)
    start, key = 0, rest
    for at in sorted(events):
        for index, sources, begins in events[at]:
            (active.add if begins else active.discard)((index, sources))
        now = shorten(_sorted(active))
        if now != key:
            if key != rest and at > start:
                yield start, at - 1, key
            start, key = at, now
    if key != rest:
        yield start, 65535, key


def _sorted(active: set[tuple[int, Ranges | None]]) -> Key:
    return tuple(sorted(active, key=lambda item: item[0]))


def grouped(intervals: Sequence[Interval]) -> dict[Key, list[tuple[int, int]]]:
    """The intervals of each key, in the order of their first port."""
    found: dict[Key, list[tuple[int, int]]] = {}
    for first, last, key in intervals:
        found.setdefault(key, []).append((first, last))
    return found


def children(intervals: Sequence[Interval], low: int, high: int) -> list[tuple[int, int, list[Interval]]]:
    """The sixteenths of a span of ports that hold anything, with what lies in each.

    Spans are cut at fixed places, so that one more service changes one branch; a span with all in one part becomes
    that part. Few levels, because the kernel nests 16 chains and a packet may go through several trees.
    """
    while True:
        size = (high - low + 1) // 16
        if size == 0:
            return [(first, last, [(first, last, key)]) for first, last, key in intervals]
        found = []
        for start in range(low, high + 1, size):
            end = start + size - 1
            inside = [(max(a, start), min(b, end), key) for a, b, key in intervals if a <= end and b >= start]
            if inside:
                found.append((start, end, inside))
        if len(found) > 1 or found[0][2] != list(intervals):
            return found
        low, high, intervals = found[0]
