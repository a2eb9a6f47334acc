"""The nftables back end: what it makes of rules that others wrote, and of its own as the kernel lists them."""

from __future__ import annotations

import re
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest

from portctl.backends import nftables
from portctl.evaluation import evaluate
from portctl.program import Field, Program, Unknown
from portctl.ruleset import (
    ACK,
    LOOPBACK,
    UDP,
    Direction,
    State,
    Verdict,
)
from tests import nftables_cases as cases
from tests.nftables_cases import OFFICE, block, one, starts, tcp
from tests.test_nftables import SYN_IN, text

HERE = Path(__file__).parent / "nftables"
FOREIGN = (HERE / "foreign.nft").read_text()


@pytest.mark.parametrize(
    ("rule", "meets", "misses"),
    [
        ("ip saddr & 255.255.255.0 == @s", "198.51.100.77", "198.51.101.77"),
        ("ip saddr & 255.255.255.0 != @s", "198.51.101.77", "198.51.100.77"),
        ("ip saddr & 255.255.0.0 == 198.51.0.0", "198.51.7.77", "198.52.7.77"),
        ("ip saddr & 255.255.255.0 vmap { 198.51.100.0 : drop }", "198.51.100.77", "198.51.101.77"),
        ("ip saddr & 255.255.255.0 == @odd", "10.1.2.200", "198.51.100.77"),
    ],
)
def test_masked_addresses_are_read(rule: str, meets: str, misses: str) -> None:
    sets = {"s": "198.51.100.0, 203.0.113.0", "odd": "198.51.100.1, 10.1.2.0"}
    made = "".join(f"set {name} {{\ntype ipv4_addr\nelements = {{ {held} }}\n}}\n" for name, held in sets.items())
    drop = "" if "drop" in rule else " drop"
    hook = "type filter hook input priority 0; policy accept;"
    loaded = nftables.parse({"ruleset": f"table ip x {{\n{made}chain i {{\n{hook}\n{rule}{drop}\n}}\n}}\n"})
    said = [evaluate(loaded, replace(SYN_IN, source=ip_address(source))) for source in (meets, misses)]
    assert [(each.verdict, each.depends_on) for each in said] == [(Verdict.DROP, ()), (Verdict.ACCEPT, ())]


def test_a_mask_with_holes_is_not_guessed() -> None:
    hook = "type filter hook input priority 0; policy accept;"
    text = f"table ip x {{\nchain i {{\n{hook}\nip saddr & 255.0.255.0 == 10.0.1.0 drop\n}}\n}}\n"
    assert evaluate(nftables.parse({"ruleset": text}), SYN_IN).depends_on


@pytest.fixture
def foreign() -> Program:
    return nftables.parse({"ruleset": FOREIGN})


def _drops(loaded: Program, **changes: object) -> bool:
    """Whether the hand-made table denies a packet, by itself and for sure."""
    hand = Program(tuple(c for c in loaded.chains if c.table == "inet hand"))
    return evaluate(hand, replace(SYN_IN, **changes)).verdict is not Verdict.ACCEPT  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "denied"),
    [
        ({}, False),
        ({"source": ip_address("203.0.113.5")}, True),
        ({"source": ip_address("203.0.113.200")}, True),
        ({"source": ip_address("203.0.113.6")}, False),
        ({"source": ip_address("203.0.113.5"), "interface": LOOPBACK}, False),
        ({"port": 25}, True),
        ({"port": 27}, False),
        ({"port": 25, "protocol": UDP}, False),
        ({"state": State.INVALID}, True),
        ({"over_limit": True}, True),
        ({"over_limit": True, "flags": ACK, "port": 27}, False),
        ({"port": 60000, "flags": ACK}, True),
        ({"port": 59999, "flags": ACK}, False),
        ({"port": 7000}, True),
        ({"port": 7001}, False),
        ({"protocol": UDP, "port": 7001}, True),
        ({"protocol": 1, "port": 8 << 8}, True),
        ({"protocol": 1, "port": 8 << 8 | 1}, False),
        ({"protocol": 1, "port": 13 << 8}, True),
        ({"protocol": UDP, "source": ip_address("fe80::9"), "destination": ip_address("fe80::1")}, True),
        ({"protocol": UDP, "source": ip_address("fe80::9"), "destination": ip_address("fe80::1"), "port": 5353}, False),
    ],
)
def test_rules_of_others_are_understood(foreign: Program, changes: dict[str, object], denied: bool) -> None:
    assert _drops(foreign, **changes) is denied


def test_a_translation_of_others_turns_the_packet(foreign: Program) -> None:
    answer = evaluate(foreign, replace(SYN_IN, port=8081))
    assert answer.packet is not None and answer.packet.destination == ip_address("172.17.0.2")
    assert answer.packet.direction is Direction.FORWARDED


def test_nothing_of_a_listing_is_lost(foreign: Program) -> None:
    lines = {line.text: line for chain in foreign.chains for line in chain.lines}
    told = [
        line
        for line in FOREIGN.splitlines()
        if line.startswith("\t\t") and not re.match(r"\t\t(type|flags|timeout)", line)
    ]
    rules = [re.sub(r" # handle \d+$", "", line.strip()) for line in told]
    for rule in rules:
        listed = rule.startswith(("elements", "203.0.113.128", "typeof", "hook", "devices"))
        assert listed or rule in lines or f"table arp filter: {rule}" in foreign.foreign, rule
    assert "table inet hand: flowtable fast" in foreign.foreign
    assert {c.hook.priority for c in foreign.chains if c.hook} == {0, -5, -100}


@pytest.mark.parametrize(
    "rule",
    [
        'xt match "conntrack" counter packets 3 bytes 180 accept',
        'meta l4proto icmp xt target "LOG"',
        'meta hour "08:00"-"18:00" accept',
        "numgen random mod 2 0 drop",
        "tproxy to :50080",
        "fib saddr . iif oif missing drop",
        "tcp dport 8082 dnat ip to 172.17.0.2-172.17.0.9",
        "meta mark set 0x00000010 meta mark & 0x000000f0 == 0x00000010 accept",
    ],
)
def test_what_is_not_understood_says_so(foreign: Program, rule: str) -> None:
    line = next(line for chain in foreign.chains for line in chain.lines if line.text == rule)
    unknown = [c for c in line.conditions if c.field is Field.UNKNOWN] + [
        a for a in line.actions if isinstance(a, Unknown)
    ]
    assert unknown


def test_a_set_whose_elements_are_not_shown_is_unknown_not_empty() -> None:
    written = text(one(starts("x", tcp(22), source=OFFICE)))
    terse = re.sub(r"\t\telements = \{[^}]*\}\n", "", written)
    answer = evaluate(nftables.parse({"terse": terse}), SYN_IN)
    assert answer.depends_on


def test_members_of_live_groups_are_told_but_are_not_part_of_the_rules() -> None:
    written = text(one(block("b", live_source="bans")))
    members = written.replace(
        "set live-bans-4 {\n\t\ttype ipv4_addr\n\t\tflags interval,timeout\n",
        "set live-bans-4 {\n\t\ttype ipv4_addr\n\t\tflags interval,timeout\n"
        "\t\telements = { 192.0.2.9 timeout 1h expires 59m, 203.0.113.0/24 }\n",
    )
    empty, filled = nftables.parse({"a": written}), nftables.parse({"a": members})
    assert filled.live == (("bans", ("192.0.2.9", "203.0.113.0/24")),)
    assert empty.own() == filled.own() and empty.live == (("bans", ()),)


def test_counters_are_read_and_make_no_difference() -> None:
    written = text(cases.whole())
    counted = written.replace("counter packets 0 bytes 0", "counter packets 12 bytes 720")
    zero, twelve = nftables.parse({"a": written}), nftables.parse({"a": counted})
    assert zero.own() == twelve.own()
    assert {line.packets for chain in twelve.chains for line in chain.lines} == {12, None}


def test_a_listing_is_shown_in_the_order_of_what_it_is_compared_with() -> None:
    new = text(cases.many(3))
    head, *blocks = re.split(r"\n+(?=\t(?:set|map|chain) )", new.removesuffix("\n}\n"))
    mixed = "\n".join((head, "\n\n".join((*blocks[5:], *blocks[:5])))) + "\n}\n"
    assert mixed != new
    assert nftables.arranged(mixed, new) == new
    gone = mixed.replace(blocks[7], blocks[7] + "\n\n\tchain gone {\n\t}")
    assert nftables.arranged(gone, new) == new.replace(blocks[7], blocks[7] + "\n\n\tchain gone {\n\t}")
    assert nftables.arranged("", new) == ""
