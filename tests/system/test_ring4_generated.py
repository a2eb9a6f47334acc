"""Ring 4 over policies that nobody wrote: at least 200 of them, the same ones every time, in every packet filter.

They are loaded one over the other, as a host would, but for limits, whose counters a load keeps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache

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
SPARE = 20
"""Policies beyond those, for what a packet filter refuses to say."""


@pytest.fixture(scope="module")
def plain() -> list[generate.Plain]:
    return generate.policies(SEED, POLICIES + SPARE, wide=True)


@pytest.fixture(scope="module")
def rulesets(plain: list[generate.Plain]) -> list[Ruleset]:
    return [ruleset for each in plain if (ruleset := generate.ruleset(each)) is not None]


@pytest.mark.parametrize("tried", FILTERS, ids=lambda tried: tried.name)
def test_each_packet_filter_is_asked_about_enough_policies(tried: Filter, rulesets: list[Ruleset]) -> None:
    loaded = [ruleset for ruleset in rulesets if not rings.refused(tried, ruleset)]
    assert len(loaded) >= POLICIES
    assert len({repr(ruleset) for ruleset in loaded}) >= POLICIES


def test_the_policies_say_what_the_language_offers(plain: list[generate.Plain]) -> None:
    """Each at least six times, so that the kernel has been asked about it."""
    routes = [e for each in plain for e in each.get("forwards", {}).values() if "target" not in e]
    starts = [e for each in plain for e in each.get("egress", {}).values()]
    entries = [e for each in plain for part in ("services", "egress", "forwards") for e in each.get(part, {}).values()]
    blocks = [e for each in plain for e in each.get("block", []) if isinstance(e, dict)]
    for name, some in (
        ("source_ports", [e for e in entries if "source_ports" in e]),
        ("mss", [e for e in routes if "mss" in e]),
        ("masquerade by the interface", [e for e in routes if e.get("masquerade") is True]),
        ("masquerade by an address", [e for e in routes if isinstance(e.get("masquerade"), str)]),
        ("except of a route", [e for e in routes if "except" in e]),
        ("from of egress", [e for e in starts if "from" in e]),
        ("a live group in block to", [e for e in blocks if "bans" in _listed(e.get("to"))]),
        ("a live group in block from", [e for e in blocks if "bans" in _listed(e.get("from"))]),
    ):
        assert len(some) >= 6, f"{name}: {len(some)}"


def _listed(value: object) -> list[object]:
    return value if isinstance(value, list) else [value]


@pytest.fixture(scope="module")
def prober(rulesets: list[Ruleset]) -> Iterator[probe.Prober]:
    with Sandbox(Layout.of(*rulesets, interfaces=("other0",))) as box, probe.Prober(box) as prober:
        yield prober


@pytest.fixture(scope="module")
def drawn(prober: probe.Prober, rulesets: list[Ruleset]) -> Callable[[int], list[Packet]]:
    """The packets of a policy: the same for every packet filter, and drawn once."""

    @cache
    def found(number: int) -> list[Packet]:
        ruleset = rulesets[number]
        return together(corners.packets(ruleset, prober.box.layout, number, PACKETS), ruleset)

    return found


@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("tried", FILTERS, ids=lambda tried: tried.name)
def test_the_kernel_decides_as_decide_does(
    tried: Filter,
    part: int,
    prober: probe.Prober,
    rulesets: list[Ruleset],
    drawn: Callable[[int], list[Packet]],
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
        packets = drawn(number)
        sent += len(packets)
        wrong += [f"policy {number}: {text}" for text in rings.disagreements(prober, ruleset, packets)]
    rings.remove(prober.box, tried)
    assert not wrong, f"{len(wrong)} of {sent} packets:\n" + "\n".join(wrong[:20])
    assert sent > POLICIES // PARTS * PACKETS // 3, "hardly a packet could be sent"


def together(packets: list[Packet], ruleset: Ruleset) -> list[Packet]:
    """Those that can be sent at once; the others would cost more time than they show."""
    first = next(iter(probe.rounds(packets, ruleset)), [])
    return [packets[at] for at in first]
