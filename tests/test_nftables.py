"""The nftables back end without a kernel: its text, what it means when read back, and other people's listings."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from portctl.backends import nftables
from portctl.backends.base import Ability
from portctl.evaluation import evaluate
from portctl.net import ANYWHERE, Addresses, Ranges
from portctl.program import Jump, Program
from portctl.ruleset import (
    ACK,
    KNOWN,
    LOOPBACK,
    TCP,
    UDP,
    Direction,
    Flow,
    Kind,
    Masquerade,
    Original,
    Packet,
    Rate,
    Rule,
    Ruleset,
    State,
    Translation,
    Verdict,
    decide,
)
from tests import nftables_cases as cases
from tests.nftables_cases import END, LAN, OFFICE, block, one, ports, starts, tcp, udp

HERE = Path(__file__).parent / "nftables"


def text(ruleset: Ruleset, *, clock: bool = True) -> str:
    assert not nftables.gaps(ruleset, Ability())
    return nftables.render(ruleset, Ability(clock=clock))["rules.nft"]


def program(ruleset: Ruleset) -> Program:
    return nftables.parse({"rules.nft": text(ruleset)})


@pytest.mark.parametrize(
    "ruleset",
    [cases.whole(), cases.whole(Verdict.REJECT), cases.many(2), cases.many(9)],
    ids=["whole, drop", "whole, reject", "few of a kind", "many of a kind"],
)
def test_the_text_means_what_the_ruleset_means(ruleset: Ruleset) -> None:
    loaded = program(ruleset)
    assert loaded.foreign == ()
    decided = set()
    for packet in cases.packets(ruleset, seed=7, count=3000):
        wanted, rule = decide(ruleset, packet)
        answer = evaluate(loaded, packet)
        assert (answer.verdict, answer.depends_on) == (wanted, ()), (packet, rule.name, answer.decided)
        decided.add((rule.name, rule.kind, wanted))
    assert len(decided) > 10


@dataclass(frozen=True)
class Narrowed:
    """A rule that asks one thing, a packet that meets it and one that does not, and the text of the condition."""

    rule: Rule
    meets: Packet
    misses: Packet
    condition: str
    direction: Direction = Direction.INBOUND


STRANGER = ip_address("45.83.220.77")
SYN_IN = Packet(Direction.INBOUND, TCP, ip_address("198.51.100.9"), ip_address("202.54.1.1"), 22)
TURNED = replace(SYN_IN, original=(ip_address("202.54.1.1"), 8080))
THROUGH = replace(SYN_IN, direction=Direction.FORWARDED)
OWN = replace(SYN_IN, direction=Direction.OUTBOUND)
NARROWED = {
    "flows": Narrowed(
        starts("x", tcp(22), udp(22)), SYN_IN, replace(SYN_IN, port=23), r"\ttcp dport vmap @inbound-starting-tcp-p.*\n"
    ),
    "source": Narrowed(starts("x", source=OFFICE), SYN_IN, replace(SYN_IN, source=STRANGER), "ip saddr @from-x-4 "),
    "destination": Narrowed(
        starts("x", destination=Addresses.of("202.54.1.1")), SYN_IN, replace(SYN_IN, destination=STRANGER),
        r"ip daddr 202\.54\.1\.1 ",
    ),
    "live_source": Narrowed(
        starts("x", live_source="bans"), replace(SYN_IN, live_source=frozenset({"bans"})), SYN_IN,
        "ip saddr @live-bans-4 ",
    ),
    "live_destination": Narrowed(
        starts("x", live_destination="bans"), replace(SYN_IN, live_destination=frozenset({"bans"})), SYN_IN,
        "ip daddr @live-bans-4 ",
    ),
    "interfaces": Narrowed(
        starts("x", interfaces=("wan*", LOOPBACK)), replace(SYN_IN, interface="wan7"), SYN_IN,
        r'iifname "wan\*" '
    ),
    "out_interfaces": Narrowed(
        starts("x", out_interfaces=("eth0",)), THROUGH, replace(THROUGH, out_interface="eth1"), 'oifname "eth0" ',
        Direction.FORWARDED,
    ),
    "states": Narrowed(
        Rule("x", Kind.FIXED, Verdict.ACCEPT, states=KNOWN), replace(SYN_IN, state=State.RELATED), SYN_IN,
        "ct state established,related ",
    ),
    "syn": Narrowed(
        starts("x"), SYN_IN, replace(SYN_IN, flags=ACK), r"ct state new tcp flags != syn / fin,syn,rst,ack return\n"
    ),
    "original_direction": Narrowed(
        Rule("x", Kind.FIXED, Verdict.ACCEPT, original_direction=True),
        replace(SYN_IN, state=State.UNTRACKED),
        replace(SYN_IN, state=State.ESTABLISHED, reply=True),
        "ct direction reply return\n",
    ),
    "hop_limit": Narrowed(
        Rule("x", Kind.FIXED, Verdict.ACCEPT, hop_limit=255), replace(SYN_IN, hop_limit=255), SYN_IN, "ip ttl 255 "
    ),
    "user": Narrowed(
        starts("x", kind=Kind.EGRESS, user="_apt"), replace(OWN, user="_apt"), OWN,
        'meta skuid "_apt" ', Direction.OUTBOUND
    ),
    "original": Narrowed(
        starts("x", kind=Kind.FORWARD, original=Original((tcp(8080),))), TURNED,
        replace(TURNED, original=(STRANGER, 8081)), "ct original proto-dst 8080 ",
    ),
    "published": Narrowed(
        Rule("x", Kind.PUBLISHED, Verdict.ACCEPT, published=True, states=State.NEW),
        replace(THROUGH, original=(SYN_IN.destination, 80), published=True),
        replace(THROUGH, original=(STRANGER, 80)),
        "meta mark & 0x01000000 == 0x01000000 ", Direction.FORWARDED,
    ),
    "rate": Narrowed(
        starts("x", rate=Rate(3, "hour")), SYN_IN, replace(SYN_IN, over_limit=True), r"update @limit\S+-4 \{[^}]*\} "
    ),
    "max_connections": Narrowed(
        starts("x", max_connections=3), SYN_IN, replace(SYN_IN, over_limit=True), r"add @limit\S+-4 \{[^}]*\} "
    ),
    "until": Narrowed(
        starts("x", until=END), replace(SYN_IN, at=END - timedelta(seconds=1)), replace(SYN_IN, at=END),
        'meta time < "2031-01-31 18:30:00" ',
    ),
}  # fmt: skip
ASKS_NOTHING = {
    "name", "kind", "verdict", "log", "process", "listener_required", "items", "description", "owner", "ticket", "span",
    "places",
}  # fmt: skip


def test_every_field_of_a_rule_is_here() -> None:
    assert set(NARROWED) | ASKS_NOTHING == {field.name for field in fields(Rule)}


@pytest.mark.parametrize("field", NARROWED)
def test_a_rule_asks_all_that_it_says(field: str) -> None:
    case = NARROWED[field]
    ruleset = one(case.rule, direction=case.direction)
    written = text(ruleset)
    loaded = nftables.parse({"rules.nft": written})
    assert evaluate(loaded, case.meets).verdict is decide(ruleset, case.meets)[0] is Verdict.ACCEPT
    assert evaluate(loaded, case.misses).verdict is decide(ruleset, case.misses)[0] is Verdict.DROP
    weaker, count = re.subn(case.condition, "", written)
    assert count, f"{case.condition!r} is not in\n{written}"
    if field == "flows":
        assert evaluate(nftables.parse({"rules.nft": weaker}), case.meets).verdict is Verdict.DROP
    else:
        assert evaluate(nftables.parse({"rules.nft": weaker}), case.misses).verdict is Verdict.ACCEPT


def test_source_ports_are_asked() -> None:
    ruleset = one(starts("x", ports(UDP, 500, source=Ranges.single(500))))
    packet = replace(SYN_IN, protocol=UDP, port=500, source_port=500)
    assert evaluate(program(ruleset), packet).verdict is Verdict.ACCEPT
    assert evaluate(program(ruleset), replace(packet, source_port=501)).verdict is Verdict.DROP
    assert evaluate(program(ruleset), replace(packet, port=501)).verdict is Verdict.DROP


def test_nobody_is_not_everybody() -> None:
    ruleset = one(starts("x", tcp(22), source=Addresses()), starts("y", tcp(23), source=OFFICE.only(6)))
    assert evaluate(program(ruleset), SYN_IN).verdict is Verdict.DROP
    assert evaluate(program(ruleset), replace(SYN_IN, port=23)).verdict is Verdict.DROP


def test_one_small_policy_reads_well() -> None:
    ruleset = Ruleset(
        "small",
        (
            Rule("known", Kind.FIXED, Verdict.ACCEPT, states=KNOWN),
            starts("ssh", tcp(22), source=OFFICE, description="for the office"),
            starts("web", tcp(80, 443, (8000, 8010)), udp(443)),
            cases.default(Verdict.DROP),
        ),
        (cases.default(Verdict.ACCEPT),),
        (cases.default(Verdict.ACCEPT),),
        groups=(("office", OFFICE),),
    )
    found = text(ruleset)
    assert "from" not in found
    assert re.sub(r"sha256:\w+", "sha256:…", found[found.index("\tset group") :]) == (HERE / "small.nft").read_text()


def test_the_packet_knows_who_let_it_in() -> None:
    answer = evaluate(program(cases.whole()), SYN_IN)
    assert answer.decided is not None and answer.decided.line is not None
    assert (answer.decided.chain.name, answer.decided.line.comment) == ("service-ssh", "ssh")


def test_known_connections_are_decided_before_any_service() -> None:
    loaded = program(cases.many(50))
    packet = replace(SYN_IN, state=State.ESTABLISHED)
    chain = next(c for c in loaded.chains if c.name == "input")
    place = next(k for k, line in enumerate(chain.lines) if line.comment == "known")
    assert place < 12
    assert evaluate(loaded, packet).verdict is Verdict.ACCEPT


def test_the_cost_of_a_packet_does_not_grow_with_the_services() -> None:
    def lines_asked(count: int) -> int:
        """How many lines a new packet that no service admits may have to be asked by."""
        loaded = program(cases.many(count))
        chains = {c.name: c for c in loaded.chains}
        asked, todo = 0, ["input", "output", "forward", "nat-prerouting"]
        while todo:
            for line in chains[todo.pop()].lines:
                asked += 1
                todo += [a.chain for a in line.actions if isinstance(a, Jump)]
        return asked

    assert lines_asked(10) == lines_asked(60)


def test_large_sets_are_split_and_mean_the_same() -> None:
    numbers = range(0x0B000000, 0x0B000000 + 8 * 140_000, 8)
    spread = range(0x20000000, 0x60000000, 1 << 20)
    networks = range(0xC0000000, 0xC0000000 + (40_000 << 9), 1 << 9)
    odd = range(0x70000000, 0x70000000 + 8 * 25_000, 8)
    v6 = range(0x2001 << 112, (0x2001 << 112) + (25_000 << 66), 1 << 66)
    whole6 = range(0x2003 << 112, (0x2003 << 112) + (9_000 << 66), 1 << 66)
    four = [(n, n) for n in (*numbers, *spread)] + [(n, n + 255) for n in networks] + [(n, n + 4) for n in odd]
    six = [(n, n + 5) for n in v6] + [(n, n + (1 << 64) - 1) for n in whole6]
    feed = Addresses(Ranges.of(four), Ranges.of(six))
    ruleset = one(block("block-feed", Verdict.REJECT, source=feed, destination=LAN), last=Verdict.ACCEPT)
    written, loaded = text(ruleset), program(ruleset)
    for found in re.finditer(r"\t\ttype \S+\n(\t\tflags interval)?[^=}]*elements = ([^}]*)", written):
        assert found[2].count(",") < (20_000 if found[1] else 131_072)
    packet = replace(SYN_IN, destination=ip_address("10.0.0.1"))

    def verdict(source: int, destination: str = "10.0.0.1") -> Verdict:
        return evaluate(loaded, replace(packet, source=ip_address(source), destination=ip_address(destination))).verdict

    for number in (*numbers[::4999], *spread[::97]):
        assert (verdict(number), verdict(number + 1)) == (Verdict.REJECT, Verdict.ACCEPT)
    for number in (*networks[::1999], *odd[::997]):
        assert (verdict(number + 4), verdict(number - 1)) == (Verdict.REJECT, Verdict.ACCEPT)
    assert (verdict(networks[7] + 255), verdict(networks[7] + 256)) == (Verdict.REJECT, Verdict.ACCEPT)
    assert verdict(numbers[0], str(STRANGER)) is Verdict.ACCEPT
    for first, last in ((v6[24_000], v6[24_000] + 5), (whole6[8_000], whole6[8_000] + (1 << 64) - 1)):
        assert (verdict(first, "fd00::1"), verdict(last, "fd00::1")) == (Verdict.REJECT, Verdict.REJECT)
        assert verdict(last + 1, "fd00::1") is Verdict.ACCEPT


def test_a_group_gives_its_name_to_the_set_and_entries_share_it() -> None:
    ruleset = replace(
        one(starts("a", tcp(1), source=OFFICE), starts("b", tcp(2), source=OFFICE)), groups=(("office", OFFICE),)
    )
    assert text(ruleset).count("set group-office-4 {") == 1
    assert "set from-" not in text(ruleset)


def test_the_counters_of_a_limit_are_kept_until_the_limit_changes() -> None:
    def tables(**more: object) -> set[str]:
        return set(re.findall(r"set (limit-\S+)", text(one(starts("x", tcp(22), **more)))))  # type: ignore[arg-type]

    assert tables(rate=Rate(3, "hour")) == tables(rate=Rate(3, "hour"), source=OFFICE)
    assert not tables(rate=Rate(3, "hour")) & tables(rate=Rate(3, "minute"))
    assert len(tables(rate=Rate(3, "hour"), max_connections=5)) == 4


@pytest.mark.parametrize(("number", "burst"), [(1, " burst 1 packets"), (5, ""), (60, " burst 60 packets")])
def test_so_many_may_come_at_once(number: int, burst: str) -> None:
    assert f"limit rate {number}/minute{burst} }}" in text(one(starts("x", tcp(22), rate=Rate(number, "minute"))))


def test_the_log_is_the_union_of_those_that_admit() -> None:
    ruleset = one(starts("a", tcp(22)), starts("b", tcp((20, 30)), source=OFFICE, log=True), starts("c", tcp(443)))

    def logs(packet: Packet) -> list[str]:
        steps = evaluate(program(ruleset), packet).trace
        return [m for s in steps if s.line for m in re.findall(r'log prefix "portctl (\w+) "', s.line.text)]

    assert logs(SYN_IN) == ["b"]
    assert logs(replace(SYN_IN, port=21)) == ["b"]
    assert logs(replace(SYN_IN, source=STRANGER)) == []
    assert logs(replace(SYN_IN, port=443)) == []


def test_what_is_denied_is_logged_at_a_limited_rate() -> None:
    ruleset = replace(one(block("block", source=OFFICE), last=Verdict.REJECT), log_denied=True)
    lines = [line for line in text(ruleset).splitlines() if "log prefix" in line]
    told = sorted(re.findall(r"portctl \w+ ", line)[0] for line in lines)
    assert told == ["portctl block "] * 2 + ["portctl default "]
    assert all("limit rate 10/second log" in line for line in lines)


def test_a_reject_answers_tcp_with_rst_and_the_rest_with_unreachable() -> None:
    written = text(one(block("b", Verdict.REJECT, source=OFFICE.only(4)), last=Verdict.REJECT))
    assert 'meta l4proto tcp counter packets 0 bytes 0 reject with tcp reset comment "default"' in written
    assert 'counter packets 0 bytes 0 reject comment "default"' in written
    assert 'counter packets 0 bytes 0 reject comment "b"' in written


def test_a_host_without_a_clock_lacks_no_rule() -> None:
    written = text(one(starts("x", tcp(22), until=END)), clock=False)
    assert "meta time" not in written and "jump service-x" in written


def test_own_translations_come_before_those_of_others() -> None:
    ruleset = cases.whole()
    loaded = program(ruleset)
    packet = replace(SYN_IN, destination=ip_address("202.54.1.9"), port=9005)
    answer = evaluate(loaded, packet)
    assert answer.packet is not None
    assert (answer.packet.destination, answer.packet.port) == (ip_address("10.0.0.5"), 443)
    assert answer.verdict is Verdict.ACCEPT
    direct = replace(packet, direction=Direction.FORWARDED, destination=ip_address("10.0.0.5"), port=443)
    assert evaluate(loaded, direct).verdict is Verdict.DROP


def test_only_what_a_forward_admits_gets_another_source() -> None:
    admitted = replace(THROUGH, source=ip_address("10.9.9.9"), interface="lan0")
    steps = evaluate(program(cases.whole()), admitted).trace
    assert any(s.chain.name == "nat-postrouting" for s in steps)
    published = replace(THROUGH, original=(SYN_IN.destination, 22), published=True)
    assert decide(cases.whole(), published)[0] is Verdict.ACCEPT
    assert not any(s.chain.name == "nat-postrouting" for s in evaluate(program(cases.whole()), published).trace)


def test_several_addresses_take_several_marks() -> None:
    forwards = [starts(f"f{k}", tcp(100 + k), kind=Kind.FORWARD) for k in range(3)]
    addresses = ("192.0.2.1", "192.0.2.2", "2001:db8::1")
    masks = tuple(Masquerade(f"f{k}", ip_address(a)) for k, a in enumerate(addresses))
    ruleset = one(*forwards, direction=Direction.FORWARDED, masquerades=masks)
    loaded = program(ruleset)
    for k, address in enumerate(addresses):
        steps = evaluate(loaded, replace(THROUGH, port=100 + k)).trace
        assert [s.line.text for s in steps if s.line and address in s.line.text], address


def test_the_segment_size_is_set_both_ways_before_anything_is_accepted() -> None:
    loaded = program(cases.whole())
    chain = next(c for c in loaded.chains if c.name == "mangle-forward")
    back = replace(
        THROUGH, source=STRANGER, destination=ip_address("10.9.9.9"), interface="eth0", out_interface="lan0",
        state=State.ESTABLISHED, reply=True, flags=0x12,
    )  # fmt: skip
    assert any(s.chain == chain for s in evaluate(loaded, back).trace)
    assert chain.hook is not None and chain.hook.priority < -10


@given(st.text(max_size=300), st.text(max_size=60), st.text(max_size=60))
@settings(max_examples=150, deadline=None)
def test_no_text_of_a_person_breaks_out_of_its_quotes(description: str, owner: str, ticket: str) -> None:
    plain = one(starts("x", tcp(22)))
    written = text(one(starts("x", tcp(22), description=description, owner=owner, ticket=ticket)))
    comment = re.search(r'\n\t\tcomment "([^"]*)"\n', written[written.index("chain service-x") :])
    rest = written if comment is None else written.replace(f'\t\tcomment "{comment[1]}"\n', "", 1)
    assert rest == text(plain)
    if comment is not None:
        assert len(comment[1].encode()) < 128
        assert comment[1].isprintable() or not re.search(r"[\x00-\x1f\x7f\\]", comment[1])


@pytest.mark.parametrize(
    ("ruleset", "words"),
    [
        (one(starts("x", tcp(22), user="root")), "user"),
        (one(starts("x", interfaces=("a" * 16,))), "interface"),
        (one(starts("x", interfaces=('a"b',))), "interface"),
        (one(starts("x", user="a b"), direction=Direction.OUTBOUND), "user"),
        (one(starts("x", interfaces=("eth0",)), direction=Direction.OUTBOUND), "interface"),
        (one(starts("x", max_connections=1 << 32)), "limit"),
        (
            one(translations=(Translation("x", None, ANYWHERE, None, (), ip_address("10.0.0.1"), 80),)),
            "port for a protocol without ports",
        ),
        (
            one(masquerades=tuple(Masquerade(f"m{k}", ip_address(f"192.0.2.{k}")) for k in range(64))),
            "masquerade addresses",
        ),
    ],
)
def test_what_nftables_cannot_say_is_refused(ruleset: Ruleset, words: str) -> None:
    (problem,) = nftables.gaps(ruleset, Ability())
    assert problem.code == "gap" and words in problem.message


def test_moments_are_utc() -> None:
    east = datetime(2031, 1, 1, 12, tzinfo=UTC)
    assert 'meta time < "2031-01-01 12:00:00"' in text(one(starts("x", tcp(22), until=east)))
    assert nftables.questions()["ruleset"].argv[:2] == ("env", "TZ=UTC")


@pytest.mark.parametrize("make", [cases.whole, lambda: cases.many(5)])
def test_the_same_ruleset_is_the_same_text(make: Callable[[], Ruleset]) -> None:
    assert text(make()) == text(make())


def test_protocols_without_ports_are_told_apart() -> None:
    ruleset = one(starts("x", Flow(50), Flow(112)))
    for protocol, wanted in ((50, Verdict.ACCEPT), (112, Verdict.ACCEPT), (51, Verdict.DROP), (TCP, Verdict.DROP)):
        assert evaluate(program(ruleset), replace(SYN_IN, protocol=protocol)).verdict is wanted


def test_direct_access_to_a_target_is_not_opened_by_the_forward_to_it() -> None:
    moved = Translation("x", (tcp(80),), ANYWHERE, None, (), ip_address("10.0.0.80"), None)
    turned = starts("x", kind=Kind.FORWARD, original=Original((tcp(80),)))
    loaded = program(one(turned, direction=Direction.FORWARDED, translations=(moved,)))
    direct = replace(THROUGH, destination=ip_address("10.0.0.80"), port=80, local=False)
    assert evaluate(loaded, direct).verdict is Verdict.DROP
    asked = replace(SYN_IN, port=80)
    assert evaluate(loaded, asked).verdict is Verdict.ACCEPT
