"""Ring 4 over policies that nobody wrote: 200 of them, the same ones every time, in every packet filter.

They are loaded one over the other, as a host would, but for limits, whose counters a load keeps.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from portctl.hosts import probe
from portctl.hosts.sandbox import Layout, Sandbox
from portctl.ruleset import Packet, Ruleset
from tests import generate
from tests.system import corners, rings
from tests.system.rings import FILTERS, Filter

RING = "ring 4 (real packets)"
NEEDS = rings.NEEDS
pytestmark = pytest.mark.xdist_group("generated")  # which makes the policies once
SEED, POLICIES, PARTS, PACKETS = 20260701, 200, 4, 90


@pytest.fixture(scope="module")
def rulesets() -> list[Ruleset]:
    found = [generate.ruleset(plain) for plain in generate.policies(SEED, POLICIES)]
    assert len(found) == POLICIES
    return [ruleset for ruleset in found if ruleset is not None]


@pytest.fixture(scope="module")
def prober(rulesets: list[Ruleset]) -> Iterator[probe.Prober]:
    with Sandbox(Layout.of(*rulesets, interfaces=("other0",))) as box, probe.Prober(box) as prober:
        yield prober


@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("tried", FILTERS, ids=lambda tried: tried.name)
def test_the_kernel_decides_as_decide_does(
    tried: Filter, part: int, prober: probe.Prober, rulesets: list[Ruleset]
) -> None:
    wrong: list[str] = []
    sent = 0
    rings.load(prober.box, tried, rulesets[part])
    for number in range(part, len(rulesets), PARTS):
        ruleset = rulesets[number]
        if rings.refused(tried, ruleset):
            continue
        if any(rule.limited for rule in (*ruleset.inbound, *ruleset.outbound, *ruleset.forwarded)):
            rings.remove(prober.box, tried)
        rings.load(prober.box, tried, ruleset)
        packets = together(corners.packets(ruleset, prober.box.layout, number, PACKETS), ruleset)
        sent += len(packets)
        wrong += [f"policy {number}: {text}" for text in rings.disagreements(prober, ruleset, packets)]
    rings.remove(prober.box, tried)
    assert not wrong, f"{len(wrong)} of {sent} packets:\n" + "\n".join(wrong[:20])
    assert sent > POLICIES // PARTS * PACKETS // 3, "hardly a packet could be sent"


def together(packets: list[Packet], ruleset: Ruleset) -> list[Packet]:
    """Those that can be sent at once; the others would cost more time than they show."""
    first = next(iter(probe.rounds(packets, ruleset)), [])
    return [packets[at] for at in first]
