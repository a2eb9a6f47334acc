"""Which rules a port concerns: the ports are cut into classes that no rule splits, so that one look-up finds them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from portctl.net import Ranges
from portctl.ruleset import EVERY_PORT, PROTOCOLS_WITH_PORTS, Flow, Flows

Side = Literal["dport", "sport"]


@dataclass(frozen=True, slots=True)
class Class:
    """Ports of one protocol (inclusive) and the rules that may match there, by index, in order."""

    protocol: int
    first: int
    last: int
    members: tuple[int, ...]


def ports_of(flow: Flow, side: Side) -> Ranges | None:
    """The ports by which a flow is found on one side; None: it is not found there."""
    if flow.protocol not in PROTOCOLS_WITH_PORTS:
        return None
    if flow.ports != EVERY_PORT:
        return flow.ports if side == "dport" else None
    return flow.source_ports if side == "sport" and flow.source_ports != EVERY_PORT else None


def found_by_port(flow: Flow) -> bool:
    return ports_of(flow, "dport") is not None or ports_of(flow, "sport") is not None


def classes(flows: Sequence[Flows], side: Side, *, others: bool = True) -> list[Class]:
    """All classes of which some rule has a port on that side.

    Rules without any port belong to each class of their protocol; with `others`, rules of the other side too.
    """
    found: list[Class] = []
    for protocol in PROTOCOLS_WITH_PORTS:
        changes: dict[int, set[int]] = {}
        everywhere: set[int] = set()
        for index, wanted in enumerate(flows):
            ranges = _wanted(wanted, protocol, side)
            if ranges is None:
                if _may(wanted, protocol, others=others):
                    everywhere.add(index)
                continue
            for bound in ranges.bounds:
                changes.setdefault(bound, set()).symmetric_difference_update({index})
        found += _sweep(protocol, changes, everywhere)
    return found


def _wanted(flows: Flows, protocol: int, side: Side) -> Ranges | None:
    for flow in flows or ():
        if flow.protocol == protocol:
            return ports_of(flow, side)
    return None


def _may(flows: Flows, protocol: int, *, others: bool) -> bool:
    """Whether a rule without a port on this side may match packets of the protocol there."""
    return flows is None or any(f.protocol == protocol and (others or not found_by_port(f)) for f in flows)


def _sweep(protocol: int, changes: dict[int, set[int]], everywhere: set[int]) -> list[Class]:
    found: list[Class] = []
    active: set[int] = set()
    start = 0
    for bound in sorted(changes):
        if active:
            members = tuple(sorted(active | everywhere))
            if found and found[-1].members == members and found[-1].last + 1 == start:
                found[-1] = Class(protocol, found[-1].first, bound - 1, members)
            else:
                found.append(Class(protocol, start, bound - 1, members))
        active ^= changes[bound]
        start = bound
    return found
