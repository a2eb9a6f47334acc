"""Which rules a port concerns: the ports are cut into classes that no rule splits, so that one look-up finds them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from portctl.net import Ranges
from portctl.ruleset import EVERY_PORT, PROTOCOLS_WITH_PORTS, Flows


@dataclass(frozen=True, slots=True)
class Class:
    """Ports of one protocol and the rules that may match there, by index, in order."""

    protocol: int
    ports: Ranges
    members: tuple[int, ...]


def concerned(flows: Flows, protocol: int) -> Ranges | None:
    """The destination ports that a rule names of a protocol; None: none of this protocol. All: `EVERY_PORT`."""
    if flows is None:
        return EVERY_PORT
    return next((flow.ports for flow in flows if flow.protocol == protocol), None)


def classes(flows: Sequence[Flows], protocol: int) -> list[Class]:
    """All classes of which some rule names a port. Rules of the protocol without ports belong to each of them."""
    changes: dict[int, set[int]] = {}
    everywhere: set[int] = set()
    for index, wanted in enumerate(flows):
        ranges = concerned(wanted, protocol)
        if ranges == EVERY_PORT:
            everywhere.add(index)
        elif ranges is not None:
            for bound in ranges.bounds:
                changes.setdefault(bound, set()).symmetric_difference_update({index})
    found: dict[tuple[int, ...], list[tuple[int, int]]] = {}
    active: set[int] = set()
    start = 0
    for bound in sorted(changes):
        if active:
            found.setdefault(tuple(sorted(active | everywhere)), []).append((start, bound - 1))
        active ^= changes[bound]
        start = bound
    return [Class(protocol, Ranges.of(pairs), members) for members, pairs in found.items()]


def ported(flows: Flows) -> bool:
    """Whether a rule is found by a destination port in some protocol."""
    return any(flow.protocol in PROTOCOLS_WITH_PORTS and flow.ports != EVERY_PORT for flow in flows or ())
