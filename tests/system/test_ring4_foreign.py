"""Ring 4 over rule sets that portctl did not write: 60 of iptables and 60 of nft, the same ones every time.

Each is loaded, listed by its own tool and parsed; packets at the corners that the packet space finds in it are sent for
real, and the kernel's verdict is that of the parsed program, and the packet space's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from random import Random

import pytest

from portctl import backends
from portctl.command import Command
from portctl.evaluation import evaluate
from portctl.hosts import probe
from portctl.hosts.sandbox import Layout, Sandbox
from portctl.hosts.sendable import natural_state, reason_under
from portctl.net import FAMILIES, Ranges
from portctl.program import Program
from portctl.ruleset import ICMP, ICMPV6, PROTOCOLS_WITH_PORTS, SCTP, Direction, Packet, Ruleset, Verdict
from portctl.space import Space
from portctl.space.dimensions import DESTINATION, FAMILY, IN, OUT, PROTOCOL, SOURCE, family_set, name_number
from portctl.space.examples import examples
from portctl.space.sets import PacketSet, Partition, possible
from tests import foreign_rules
from tests.foreign_rules import Foreign
from tests.system import rings

RING = "ring 4 (real packets)"
NEEDS = rings.NEEDS
SEED, EACH, MOST = 20261122, 60, 5
VARIANTS = ("nft", "legacy")


@pytest.fixture(scope="module")
def prober() -> Iterator[probe.Prober]:
    with Sandbox(Layout(foreign_rules.INTERFACES)) as box, probe.Prober(box) as prober:
        yield prober


def run(box: Sandbox, argv: tuple[str, ...], text: str = "") -> str:
    result = box.host.run(Command(argv, text.encode()), timeout=30)
    assert result.ok, f"{argv}: {result.stderr}\n{text}"
    return result.stdout


def load_iptables(box: Sandbox, rules: Foreign, variant: str) -> Mapping[str, str]:
    """Loads both families; what the tools then list."""
    run(box, ("ipset", "restore", "-exist"), rules.sets)
    run(box, (f"iptables-{variant}-restore",), rules.v4)
    run(box, (f"ip6tables-{variant}-restore",), rules.v6)
    return {
        "rules.v4": run(box, (f"iptables-{variant}-save",)),
        "rules.v6": run(box, (f"ip6tables-{variant}-save",)),
        "sets.ipset": run(box, ("ipset", "save")),
    }


EMPTY = "".join(
    f"*{table}\n{''.join(f':{chain} ACCEPT{chr(10)}' for chain in chains)}COMMIT\n"
    for table, chains in (
        ("filter", ("INPUT", "FORWARD", "OUTPUT")),
        ("nat", ("PREROUTING", "OUTPUT")),
        ("mangle", ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING")),
        ("raw", ("PREROUTING", "OUTPUT")),
    )
)


def unload_iptables(box: Sandbox, variant: str) -> None:
    for tool in ("iptables", "ip6tables"):
        run(box, (f"{tool}-{variant}-restore",), EMPTY)
    run(box, ("ipset", "destroy"))


def load_nft(box: Sandbox, rules: Foreign) -> Mapping[str, str]:
    run(box, ("nft", "-f", "-"), rules.nft)
    return {"ruleset": "".join(run(box, ("nft", "list", "table", "inet", name)) for name in tables(rules))}


def tables(rules: Foreign) -> list[str]:
    return [line.split()[2] for line in rules.nft.splitlines() if line.startswith("table ")]


def corners(partition: Partition, turning: Ruleset, layout: Layout) -> list[Packet]:
    """Packets of every verdict, direction and family, at the ends of the sets that the space cuts them into."""
    found: dict[Packet, None] = {}
    sets = (partition.accepted(), partition.dropped(), partition.rejected())
    within = pool(partition.space) & possible(partition.space)
    for verdict in sets:
        some = verdict & within
        for direction in Direction:
            for family in FAMILIES:
                part = some.along(direction).of_families((family,))
                listed = (sent(packet) for packet in examples(part, 4 * MOST))
                fit = [packet for packet in listed if reason_under(turning, packet, layout) is None]
                found |= dict.fromkeys(fit[:MOST])
    return list(found)


def pool(space: Space) -> PacketSet:
    """New connections of tcp, udp and ping, over the sandbox's interfaces, between addresses that mean nothing."""
    names = Ranges.of((n, n) for n in map(name_number, foreign_rules.INTERFACES))
    protocols = Ranges.of((p, p) for p in (*PROTOCOLS_WITH_PORTS, ICMP, ICMPV6) if p != SCTP)
    cubes = []
    for family in FAMILIES:
        addresses = foreign_rules.POOL.family(family)
        cube = {FAMILY: family_set(family), SOURCE: addresses, DESTINATION: addresses, PROTOCOL: protocols}
        cubes += [(None, {**cube, IN: names, OUT: names})]
    return space.boxes(cubes)


def sent(packet: Packet) -> Packet:
    """A packet as it can be sent, if it is an ordinary one; of the ICMP types, the echo request."""
    echo = {ICMP: 8 * 256, ICMPV6: 128 * 256}.get(packet.protocol)
    port = packet.port or 9 if echo is None else echo
    made = replace(packet, port=port, flags=0x02, hop_limit=64, original=None, published=False, reply=False)
    made = replace(made, local=packet.direction is Direction.INBOUND, user=None)
    if packet.direction is Direction.OUTBOUND:
        made = replace(made, user="root")
    return replace(made, state=natural_state(made))


def check(prober: probe.Prober, rules: Foreign, program: Program, title: str) -> tuple[list[str], int]:
    """Packets of which the kernel says something else, and how many were sent."""
    assert not program.foreign, program.foreign
    turning = Ruleset("foreign", (), (), (), rules.translations)
    space = Space()
    partition = space.of_program(program)
    packets = corners(partition, turning, prober.box.layout)
    first = next(iter(probe.rounds(packets, turning)), [])
    packets = [packets[at] for at in first]
    wrong = _wrong(prober, turning, program, partition, packets)
    if wrong:  # once more, those alone: a busy machine may have answered too late
        wrong = _wrong(prober, turning, program, partition, [packet for packet, _ in wrong])
    return [f"{title}: {text}" for _, text in wrong], len(packets)


def _wrong(
    prober: probe.Prober, turning: Ruleset, program: Program, partition: Partition, packets: list[Packet]
) -> list[tuple[Packet, str]]:
    found = []
    for packet, seen in zip(packets, prober.observe(packets, turning), strict=True):
        answer = evaluate(program, packet)
        assert not answer.depends_on, answer.depends_on
        assert partition.at(packet).verdicts == {answer.verdict}, packet
        expected = answer.verdict
        # These rules judge the host's own refusals too: one that never left is a drop to whoever looks.
        fits = (expected, Verdict.DROP) if expected is Verdict.REJECT else (expected,)
        if seen.arrived and seen.verdict not in fits:
            line = answer.decided.line.text if answer.decided and answer.decided.line else answer.decided
            found.append((packet, f"{rings.text(packet)}: {seen.verdict.value}, not {expected.value} by {line}"))
    return found


@pytest.mark.parametrize("variant", VARIANTS)
def test_verdicts_of_iptables_rules_of_others_are_the_kernel_s(prober: probe.Prober, variant: str) -> None:
    wrong: list[str] = []
    sent_at_all = 0
    for number in range(VARIANTS.index(variant), EACH, len(VARIANTS)):
        rules = foreign_rules.iptables(Random(SEED + number))
        program = backends.load("iptables").parse(load_iptables(prober.box, rules, variant))
        found, count = check(prober, rules, program, f"rule set {number}")
        unload_iptables(prober.box, variant)
        wrong += found
        sent_at_all += count
    assert not wrong, f"{len(wrong)} of {sent_at_all} packets:\n" + "\n".join(wrong[:20])
    assert sent_at_all > 10 * EACH // len(VARIANTS), "hardly a packet could be sent"


def test_verdicts_of_nft_rules_of_others_are_the_kernel_s(prober: probe.Prober) -> None:
    wrong: list[str] = []
    sent_at_all = 0
    for number in range(EACH):
        rules = foreign_rules.nftables(Random(SEED + number))
        program = backends.load("nftables").parse(load_nft(prober.box, rules))
        found, count = check(prober, rules, program, f"rule set {number}")
        for name in tables(rules):
            run(prober.box, ("nft", "delete", "table", "inet", name))
        wrong += found
        sent_at_all += count
    assert not wrong, f"{len(wrong)} of {sent_at_all} packets:\n" + "\n".join(wrong[:20])
    assert sent_at_all > 10 * EACH, "hardly a packet could be sent"
