"""Ring 4: real packets through the real kernel's rules, and each verdict compared with `decide`.

For every golden case its `packets.txt` and packets at the corners of its rules; for every packet filter. Accept, reject
and drop are told apart, over IPv4 and IPv6, from as many sources as the corners have.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from portctl.expectations.corners import corner_packets
from portctl.hosts import probe
from portctl.hosts.representatives import Spent, limits
from portctl.hosts.sandbox import Layout, Sandbox
from portctl.hosts.sendable import reason, reason_under
from portctl.net import Address
from portctl.ruleset import ACK, LOOPBACK, Direction, Packet, Ruleset, State, decide
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
        if reason_under(ruleset, packet, layout) is None and not taken & spent:
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


def in_connections(case: Path, layout: Layout) -> list[list[Packet]]:
    """The packets of a case that belong to known connections; those of one list to different ones."""
    lists: list[dict[frozenset[object], Packet]] = []
    for line in by_hand(case):
        packet = replace(line.packet, flags=ACK)
        if packet.state is not State.ESTABLISHED or reason(packet, layout, known=True):
            continue
        ends = (packet.source, packet.source_port), (packet.destination, packet.port)
        flow = frozenset((packet.protocol, *ends))
        place = next((each for each in lists if flow not in each), None)
        if place is None:
            lists.append(place := {})
        place[flow] = packet
    return [list(each.values()) for each in lists]


@pytest.mark.parametrize("tried", FILTERS, ids=lambda tried: tried.name)
def test_known_connections_stay_or_are_cut_as_decide_says(
    tried: Filter, prober: probe.Prober, rulesets: dict[str, Ruleset]
) -> None:
    wrong: list[str] = []
    sent = 0
    for case in CASES:
        ruleset = rulesets[case.name]
        if rings.refused(tried, ruleset):
            continue
        for packets in in_connections(case, prober.box.layout):
            prober.open(packets)
            rings.load(prober.box, tried, ruleset)
            wrong += [f"{case.name}: {text}" for text in rings.disagreements(prober, ruleset, packets, known=True)]
            sent += len(packets)
            rings.remove(prober.box, tried)
    assert not wrong, f"{len(wrong)} of {sent} packets:\n" + "\n".join(wrong[:20])
    assert sent > 10


def bursts() -> list[tuple[str, Packet]]:
    """(case, packet) for every packet written as over its limit."""
    return [(case.name, line.packet) for case in CASES for line in by_hand(case) if line.packet.over_limit]


@pytest.mark.parametrize("tried", FILTERS, ids=lambda tried: tried.name)
def test_as_many_as_the_limit_says_get_in_and_not_one_more(
    tried: Filter, prober: probe.Prober, rulesets: dict[str, Ruleset]
) -> None:
    wrong: list[str] = []
    sent = 0
    for name, packet in bursts():
        ruleset = rulesets[name]
        rule = decide(ruleset, packet)[1]
        most = [n for n in (rule.rate.number if rule.rate else None, rule.max_connections) if n]
        plain = replace(packet, over_limit=False)
        if rings.refused(tried, ruleset) or not most or reason(plain, prober.box.layout):
            continue
        # While a burst is sent, a limit by the second lets a few more in.
        more = 3 * min(most) if rule.rate and rule.rate.period == "second" else 1
        burst = [replace(plain, source_port=40000 + n) for n in range(min(most) + more)]
        rings.load(prober.box, tried, ruleset)
        with prober.muted():  # or refusals end the connections that count
            got = [seen.verdict.value for seen in prober.observe(burst, ruleset)]
        rings.remove(prober.box, tried)
        sent += 1
        accepted = got.count("accept")
        if got[: min(most)] != ["accept"] * min(most) or "drop" not in got or set(got) - {"accept", "drop"}:
            wrong.append(f"{name}: {rings.text(packet)} by {rule.name}: {accepted} of {len(got)} came in")
    assert not wrong, "\n".join(wrong)
    assert sent


@pytest.mark.parametrize("tried", FILTERS, ids=lambda tried: tried.name)
def test_members_of_live_groups_are_blocked_while_they_are_members(
    tried: Filter, prober: probe.Prober, rulesets: dict[str, Ruleset]
) -> None:
    wrong: list[str] = []
    sent = 0
    for case in CASES:
        ruleset = rulesets[case.name]
        members = [(line, member) for line in by_hand(case) for member in live(line.packet)]
        if rings.refused(tried, ruleset) or not members:
            continue
        rings.load(prober.box, tried, ruleset)
        for line, (group, address) in members:
            plain = replace(line.packet, live_source=frozenset(), live_destination=frozenset())
            if reason(plain, prober.box.layout):
                continue
            for verb, expected in (("add", line.verdict), ("del", decide(ruleset, plain)[0])):
                rings.member(prober.box, tried, verb, group, address)
                got = prober.observe([plain], ruleset)[0].verdict
                sent += 1
                if got is not expected:
                    wrong.append(f"{case.name}: {rings.text(plain)} after {verb}: {got.value}, not {expected.value}")
        rings.remove(prober.box, tried)
    assert not wrong, "\n".join(wrong)
    assert sent


def live(packet: Packet) -> list[tuple[str, Address]]:
    """The memberships that a packet is written with."""
    sources = [(group, packet.source) for group in sorted(packet.live_source)]
    return sources + [(group, packet.destination) for group in sorted(packet.live_destination)]
