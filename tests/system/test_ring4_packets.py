"""Ring 4: real packets through the real kernel's rules, and each verdict compared with `decide`.

For every golden case its `packets.txt` and packets at the corners of its rules; for every packet filter. Accept, reject
and drop are told apart, over IPv4 and IPv6, from as many sources as the corners have.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from portctl.expectations.corners import corner_packets
from portctl.hosts import probe
from portctl.hosts.representatives import Spent, limits
from portctl.hosts.sandbox import Layout, Sandbox
from portctl.hosts.sendable import reason
from portctl.ruleset import LOOPBACK, Direction, Packet, Ruleset
from tests import golden_cases
from tests import packets as written
from tests.system import corners, rings
from tests.system.rings import FILTERS, Filter

RING = "ring 4 (real packets)"
NEEDS = rings.NEEDS
CASES = golden_cases.cases()
MADE, DRAWN = 150, 100
"""Packets a case, at the corners of its rules: those that the pure tests use too, and those made for being sent."""


def by_hand(case: Path) -> list[written.Expected]:
    path = case / "packets.txt"
    return written.read(path) if path.exists() else []


def devices(packet: Packet) -> set[str]:
    used = {packet.interface} if packet.direction is not Direction.OUTBOUND else set()
    used |= {packet.out_interface} if packet.direction is not Direction.INBOUND else set()
    return used - {LOOPBACK}


@pytest.fixture(scope="module")
def rulesets() -> dict[str, Ruleset]:
    return {case.name: golden_cases.compiled(case).ruleset for case in CASES}


@pytest.fixture(scope="module")
def prober(rulesets: dict[str, Ruleset]) -> Iterator[probe.Prober]:
    named = {name for case in CASES for line in by_hand(case) for name in devices(line.packet)}
    layout = Layout.of(*rulesets.values(), interfaces=sorted({*named, "other0"}))
    with Sandbox(layout) as box, probe.Prober(box) as prober:
        yield prober


def sendable(packets: list[Packet], ruleset: Ruleset, layout: Layout) -> list[Packet]:
    """Those that can be sent as they are, at most one of a source for an entry with limits."""
    spent: Spent = set()
    found = []
    for packet in dict.fromkeys(packets):
        taken = limits(ruleset, packet)
        if reason(packet, layout) is None and not taken & spent:
            spent |= taken
            found.append(packet)
    return found


@pytest.mark.parametrize("tried", FILTERS, ids=lambda tried: tried.name)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_kernel_decides_as_decide_does(
    case: Path, tried: Filter, prober: probe.Prober, rulesets: dict[str, Ruleset]
) -> None:
    ruleset = rulesets[case.name]
    if rings.refused(tried, ruleset):
        return  # ring 1 shows that it is refused
    box = prober.box
    packets = [line.packet for line in by_hand(case)]
    packets += corner_packets(ruleset, 4 * MADE)
    chosen = sendable(packets, ruleset, box.layout)[: MADE + len(packets)]
    chosen += corners.packets(ruleset, box.layout, 4, DRAWN)
    chosen = sendable(chosen, ruleset, box.layout)
    assert chosen, "no packet of this case can be sent"
    rings.load(box, tried, ruleset)
    try:
        wrong = rings.disagreements(prober, ruleset, chosen)
    finally:
        rings.remove(box, tried)
    assert not wrong, f"{len(wrong)} of {len(chosen)} packets:\n" + "\n".join(wrong[:20])
