"""`decide`, and what it asks of packets, on rules made by hand."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from ipaddress import ip_address

import pytest

from portctl.net import ANYWHERE, Addresses, Ranges
from portctl.ruleset import (
    ACK,
    ICMP,
    LOOPBACK,
    STARTING,
    SYN,
    TCP,
    UDP,
    Direction,
    Flow,
    Kind,
    Original,
    Packet,
    Rate,
    Rule,
    Ruleset,
    State,
    Translation,
    Verdict,
    decide,
    icmp,
    interface_matches,
    logged,
)

OFFICE, HOST = ip_address("198.51.100.9"), ip_address("192.0.2.1")
SSH = Rule(
    "ssh",
    Kind.SERVICE,
    Verdict.ACCEPT,
    flows=(Flow(TCP, Ranges.single(22)),),
    source=Addresses.of("198.51.100.0/24"),
    states=STARTING,
    syn=True,
)
LAST = Rule("default", Kind.DEFAULT, Verdict.DROP)
PACKET = Packet(Direction.INBOUND, TCP, OFFICE, HOST, 22)


def ruleset(*rules: Rule, **fields: object) -> Ruleset:
    return replace(Ruleset("test", (*rules, LAST), (LAST,), (LAST,)), **fields)  # type: ignore[arg-type]


def test_the_first_rule_that_matches_decides() -> None:
    closed = replace(SSH, name="closed", verdict=Verdict.REJECT)
    assert decide(ruleset(SSH, closed), PACKET) == (Verdict.ACCEPT, SSH)
    assert decide(ruleset(closed, SSH), PACKET) == (Verdict.REJECT, closed)
    assert decide(ruleset(), PACKET) == (Verdict.DROP, LAST)


@pytest.mark.parametrize(
    "other",
    [
        replace(PACKET, port=23),
        replace(PACKET, protocol=UDP),
        replace(PACKET, source=ip_address("198.51.101.9")),
        replace(PACKET, source=ip_address("2001:db8::9"), destination=ip_address("2001:db8::1")),
        replace(PACKET, flags=SYN | ACK),
        replace(PACKET, flags=ACK),
        replace(PACKET, state=State.ESTABLISHED),
        replace(PACKET, state=State.INVALID),
    ],
)
def test_every_condition_narrows(other: Packet) -> None:
    assert not SSH.matches(other)


def test_the_tracker_is_not_asked_of_packets_that_bypass_it() -> None:
    assert SSH.matches(replace(PACKET, state=State.UNTRACKED, flags=ACK))
    assert SSH.matches(replace(PACKET, flags=SYN | 0xC0)), "ECN bits start connections too (RFC 3168)"


def test_more_than_a_limit_is_dropped() -> None:
    limited = replace(SSH, rate=Rate(10, "minute"))
    assert decide(ruleset(limited), replace(PACKET, over_limit=True)) == (Verdict.DROP, limited)
    assert decide(ruleset(SSH), replace(PACKET, over_limit=True)) == (Verdict.ACCEPT, SSH)


def test_a_rule_ends_by_itself() -> None:
    end = datetime(2027, 2, 1, tzinfo=UTC)
    rule = replace(SSH, until=end)
    assert not rule.matches(replace(PACKET, at=end))
    assert rule.matches(replace(PACKET, at=datetime(2027, 1, 31, 23, 59, 59, tzinfo=UTC)))


def test_icmp_types_have_families() -> None:
    flow = Flow(ICMP, icmp(8))
    rule = Rule("ping", Kind.SERVICE, Verdict.ACCEPT, flows=(flow,))
    assert rule.families() == (4,)
    assert rule.matches(replace(PACKET, protocol=ICMP, port=8 * 256))
    assert not rule.matches(replace(PACKET, protocol=ICMP, port=9 * 256))
    six = replace(PACKET, protocol=ICMP, source=ip_address("::9"), destination=ip_address("::1"), port=8 * 256)
    assert not rule.matches(six)


def test_interfaces() -> None:
    assert interface_matches(("eth0", "wan*"), "wan12")
    assert interface_matches(("eth0", "wan*"), "wan")
    assert not interface_matches(("eth0", "wan*"), "eth01")
    assert not replace(SSH, interfaces=(LOOPBACK,)).matches(PACKET)


def test_a_translated_packet_is_judged_by_where_it_was_going() -> None:
    web = Flow(TCP, Ranges.single(8080))
    turn = Translation("web", (web,), ANYWHERE, None, (), ip_address("10.0.0.5"), 80)
    through = Rule("web", Kind.FORWARD, Verdict.ACCEPT, states=STARTING, syn=True, original=Original((web,)))
    policy = ruleset(translations=(turn,), forwarded=(through, LAST))
    sent = replace(PACKET, port=8080)
    assert decide(policy, sent) == (Verdict.ACCEPT, through)
    assert decide(policy, replace(sent, local=False)) == (Verdict.DROP, LAST), "not an address of this host"
    assert decide(policy, replace(sent, state=State.UNTRACKED)) == (Verdict.DROP, LAST), "nothing untracked is turned"
    direct = replace(PACKET, direction=Direction.FORWARDED, destination=ip_address("10.0.0.5"), port=80, local=False)
    assert decide(policy, direct) == (Verdict.DROP, LAST), "the target's own port is not opened"


def test_the_log_is_the_union_of_what_admits() -> None:
    quiet, loud = SSH, replace(SSH, name="zz", log=True)
    assert logged(ruleset(quiet, loud), PACKET)
    assert not logged(ruleset(quiet), PACKET)
    assert logged(ruleset(log_denied=True), PACKET)
    assert not logged(ruleset(), PACKET)
