"""What the iptables back end writes, in which words, and what it refuses to write."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime
from ipaddress import ip_address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from portctl.backends import iptables
from portctl.backends.base import Ability
from portctl.backends.iptables.leaves import rate_words
from portctl.backends.iptables.names import chain_name, live_set
from portctl.evaluation import evaluate
from portctl.net import Addresses
from portctl.problems import Span
from portctl.program import Note
from portctl.ruleset import (
    ICMP,
    TCP,
    Direction,
    Flow,
    Kind,
    Masquerade,
    Original,
    Packet,
    Rate,
    Rule,
    Verdict,
    icmp,
)
from tests.nftables_cases import (
    KNOWN_IN,
    LAN,
    OFFICE,
    block,
    default,
    forwarding,
    one,
    starts,
    tcp,
)

NO_IPSET = Ability(ipset=False)
SPAN = Span("p.yaml", 3, 5, 4, "  a: b c d")


@given(st.lists(st.text(alphabet="abcz019-_", min_size=1, max_size=31), min_size=2, max_size=20, unique=True))
def test_chains_of_different_entries_have_different_names(names: list[str]) -> None:
    found = {chain_name("PORTCTL-FWD", name, "-DO") for name in names}
    assert len(found) == len(names)
    assert all(len(name) <= 28 and re.fullmatch(r"[!-~]+", name) for name in found)
    sets = {live_set(name, 6) for name in names}
    assert len(sets) == len(names)
    assert all(len(name) <= 31 for name in sets)


TEXT = st.text(max_size=300) | st.text(alphabet="\"'\\\n\r\t $`;-é♥ x\x00\x85\u2028", max_size=40)


@given(TEXT, TEXT, TEXT)
@settings(max_examples=150, deadline=None)
def test_what_people_write_stays_in_its_place(description: str, owner: str, ticket: str) -> None:
    entries = starts("a", tcp(22), log=True), block("b", source=OFFICE)
    plain = one(*entries)
    told = one(*(replace(entry, description=description, owner=owner, ticket=ticket) for entry in entries))
    files = iptables.render(told, Ability())
    assert {name: text.count("\n") for name, text in files.items()} == {
        name: text.count("\n") for name, text in iptables.render(plain, Ability()).items()
    }
    assert iptables.parse(files) == iptables.parse(iptables.render(plain, Ability()))
    for comment in re.findall(r'--comment (?:"([^"]*)"|(\S+))', files["rules.v4"]):
        assert len("".join(comment).encode()) <= 255


def test_descriptions_are_carried_in_comments() -> None:
    entry = starts("web", tcp(80), description="the front door", owner="web team", ticket="OPS-1")
    text = iptables.render(one(entry), Ability())["rules.v4"]
    assert '--comment "web -- the front door; owner web team; ticket OPS-1"' in text
    program = iptables.parse({"rules.v4": text})
    assert {line.comment for chain in program.chains for line in chain.lines} >= {"web", "default"}


def test_a_log_prefix_is_short_enough_for_the_kernel() -> None:
    name = "a-name-of-thirty-one-characters"
    text = iptables.render(replace(one(starts(name, tcp(22), log=True)), log_denied=True), Ability())["rules.v4"]
    prefixes = re.findall(r'--log-prefix "([^"]*)"', text)
    assert len(prefixes) == 2
    assert all(len(prefix) <= 29 for prefix in prefixes)


@pytest.mark.parametrize(
    ("rate", "printed"),
    [
        (Rate(1, "day"), "1/day"),
        (Rate(7, "day"), "7/day"),
        (Rate(999, "hour"), "999/hour"),
        (Rate(60, "minute"), "1/sec"),
        (Rate(7, "minute"), "7/min"),
        (Rate(86400, "day"), "1/sec"),
        (Rate(1_000_000, "day"), "1000000/day"),
        (Rate(10_000, "second"), "10000/sec"),
        (Rate(100_000, "minute"), "1666/sec"),
    ],
)
def test_rates_are_written_as_iptables_save_prints_them(rate: Rate, printed: str) -> None:
    """Taken from iptables 1.8.9, both variants."""
    assert rate_words(rate)[0] == printed


def test_a_rate_counts_sources() -> None:
    files = iptables.render(one(starts("a", tcp(22), rate=Rate(10, "hour"))), Ability())
    limit = "--hashlimit-above 10/hour --hashlimit-burst 10 --hashlimit-mode srcip --hashlimit-name portctl-a-"
    assert limit in files["rules.v4"]
    assert "srcmask" not in files["rules.v4"]
    assert "--hashlimit-srcmask 64 " in files["rules.v6"]
    other = iptables.render(one(starts("a", tcp(22), rate=Rate(11, "hour"))), Ability())
    names = [re.findall(r"--hashlimit-name (\S+)", text["rules.v4"]) for text in (files, other)]
    assert names[0] != names[1], "a changed limit must not go on with the old table"


def test_logs_are_the_union_of_the_entries_that_admit() -> None:
    ruleset = one(*KNOWN_IN, starts("a", tcp(80)), starts("b", tcp(80), source=LAN, log=True))
    program = iptables.parse(iptables.render(ruleset, Ability()))
    for source, logs in (("10.0.0.9", True), ("192.0.2.99", False)):
        packet = Packet(Direction.INBOUND, TCP, ip_address(source), ip_address("192.0.2.1"), 80)
        lines = [step.line for step in evaluate(program, packet).trace if step.line]
        said = [line for line in lines if any(isinstance(a, Note) and a.text.startswith("LOG") for a in line.actions)]
        assert bool(said) is logs


def test_a_set_bears_the_name_of_its_group_and_what_it_holds() -> None:
    group = Addresses.of(*(f"10.0.{k}.1" for k in range(9)))
    ruleset = replace(one(starts("a", tcp(22), source=group)), groups=(("office-of-the-far-north", group),))
    text = iptables.render(ruleset, Ability())["sets.ipset"]
    (name,) = re.findall(r"create (portctl-office\S+) hash:net family inet ", text)
    assert len(name) <= 31
    other = replace(ruleset, inbound=(starts("a", tcp(22), source=group | LAN), default(Verdict.DROP)))
    assert name not in iptables.render(other, Ability())["sets.ipset"]


def test_masquerades_are_told_apart_by_marks() -> None:
    admitted = (
        starts("one", tcp(1), kind=Kind.FORWARD, source=LAN),
        starts("two", tcp(2), kind=Kind.FORWARD, source=LAN),
        starts("two2", tcp(3), kind=Kind.FORWARD, source=LAN),
    )
    address = ip_address("202.54.1.1")
    ruleset = forwarding(
        *admitted, masquerades=(Masquerade("one"), Masquerade("two", address), Masquerade("two2", address))
    )
    text = iptables.render(ruleset, Ability())["rules.v4"]
    assert "-m mark --mark 0x2000000/0x3a000000 -m comment --comment one -j MASQUERADE" in text
    assert '-m mark --mark 0xa000000/0x3a000000 -m comment --comment "two, two2" -j SNAT --to-source 202.54.1.1' in text
    assert "-j SNAT" not in iptables.render(ruleset, Ability())["rules.v6"]


# --- gaps -----------------------------------------------------------------------------------------------------------

LONG = Addresses.of(*(f"10.0.{k}.1" for k in range(65)))
MASQUERADES = tuple(Masquerade(f"f{k}", ip_address(f"192.0.2.{k}")) for k in range(8))


@pytest.mark.parametrize(
    ("rule", "ability", "said"),
    [
        (starts("a", tcp(1), until=datetime(2038, 1, 1, 0, 0, 1, tzinfo=UTC)), Ability(), "after 2037"),
        (starts("a", tcp(1), source=LONG), NO_IPSET, "more than 64 networks"),
        (block("a", live_source="bans"), NO_IPSET, "live group"),
        (starts("a", tcp(1), interfaces=("an-interface-too-long",)), Ability(), "interface"),
        (starts("a", tcp(1), interfaces=("wan+",)), Ability(), "interface"),
        (starts("a", Flow(ICMP, icmp(255))), Ability(), "255"),
        (starts("a", tcp(1), rate=Rate(10_001, "second")), Ability(), "rate"),
        (starts("a", tcp(1), rate=Rate(1_000_001, "day")), Ability(), "rate"),
        (starts("a", tcp(1), kind=Kind.EGRESS, user="no body"), Ability(), "user"),
        (starts("a", tcp(1), original=Original((tcp(2),), LONG)), Ability(), "before a translation"),
    ],
)
def test_what_cannot_be_said_is_refused_where_it_is_written(rule: Rule, ability: Ability, said: str) -> None:
    (gap,) = iptables.gaps(one(replace(rule, span=SPAN)), ability)
    assert gap.code == "gap"
    assert gap.severity == "error"
    assert said in gap.message
    assert gap.span == SPAN


def test_what_can_just_be_said_is_not_refused() -> None:
    last = datetime(2038, 1, 1, tzinfo=UTC)
    assert iptables.gaps(one(starts("a", tcp(1), until=last, rate=Rate(10_000, "second"))), Ability()) == []
    assert iptables.gaps(one(starts("a", tcp(1), until=datetime(2050, 1, 1, tzinfo=UTC))), Ability(clock=False)) == []
    sources = Addresses.of(*(f"10.0.{k}.1" for k in range(64)))
    assert iptables.gaps(one(starts("a", tcp(1), source=sources)), NO_IPSET) == []


def test_too_many_masquerade_addresses_are_refused() -> None:
    forwards = tuple(starts(f"f{k}", tcp(k + 1), kind=Kind.FORWARD) for k in range(8))
    assert [g.code for g in iptables.gaps(forwarding(*forwards, masquerades=MASQUERADES), Ability())] == ["gap"]
    assert iptables.gaps(forwarding(*forwards, masquerades=MASQUERADES[:7]), Ability()) == []
