"""The ipfw back end: facts about its rules, one by one, and what it refuses."""

from __future__ import annotations

import re
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from portctl import pipeline
from portctl.backends import ipfw
from portctl.backends.base import Ability
from portctl.evaluation import evaluate
from portctl.net import ANYWHERE, Addresses, Ranges
from portctl.ruleset import (
    ACK,
    FIN,
    ICMP,
    RST,
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
)
from tests.ipfw_cases import SYN_IN, golden, held, program, text
from tests.nftables_cases import OFFICE, block, one, starts, tcp, udp


def lines(ruleset: Ruleset) -> list[str]:
    return [re.sub(r"^add \d+ set 20 ", "", line) for line in text(ruleset).splitlines() if line.startswith("add ")]


def every_ruleset() -> list[Ruleset]:
    return [*golden().values(), held(*(starts(f"s{k}", tcp(1000 + k), source=OFFICE) for k in range(9)))]


def test_no_rule_names_a_whole_family() -> None:
    """40: `::/0` would be `me6`, `0.0.0.0/0` both families; in a table they are what they say."""
    for ruleset in every_ruleset():
        for line in text(ruleset).splitlines():
            if line.startswith("add "):
                assert "/0 " not in f"{line} ", line


def test_icmp_requests_never_look_for_a_state() -> None:
    """44: a state covers every ICMP type between two hosts."""
    ruleset = held(starts("p", icmp_flow(), source=OFFICE), starts("a", tcp(22)))
    for line in lines(ruleset):
        if re.search(r"(keep-state|(?<!set-)limit)", line):
            assert re.match(r"(allow|skipto \d+) (tcp|udp|sctp|ip) ", line), line
    other = Packet(Direction.INBOUND, 1, SYN_IN.source, SYN_IN.destination, 13 << 8, state=State.ESTABLISHED)
    assert evaluate(program(ruleset), other).verdict is not Verdict.ACCEPT
    answer = replace(other, port=0, reply=True)
    assert evaluate(program(ruleset), answer).verdict is Verdict.ACCEPT


def icmp_flow() -> Flow:
    return Flow(1, icmp(8))


def test_a_start_is_a_syn_alone() -> None:
    """45: `setup` would admit SYN with FIN or RST."""
    assert not any(" setup" in line for ruleset in every_ruleset() for line in lines(ruleset))
    loaded = program(held(starts("a", tcp(22))))
    for flags, wanted in ((SYN, True), (SYN | FIN, False), (SYN | RST, False), (ACK, False), (SYN | ACK, False)):
        assert (evaluate(loaded, replace(SYN_IN, flags=flags)).verdict is Verdict.ACCEPT) is wanted


@pytest.mark.parametrize("count", [30, 31, 70])
def test_no_rule_has_more_ports_than_the_kernel_takes(count: int) -> None:
    """48: thirty."""
    wide = tuple((1000 + 3000 * (k % 20) + k // 20 * 2, 1000 + 3000 * (k % 20) + k // 20 * 2) for k in range(count))
    loaded = held(starts("a", tcp(*wide)))
    assert max(line.count(",") for line in lines(loaded) if "tcpflags" not in line) < 30
    for low, _ in wide:
        assert evaluate(program(loaded), replace(SYN_IN, port=low)).verdict is Verdict.ACCEPT
        assert evaluate(program(loaded), replace(SYN_IN, port=low + 1)).verdict is not Verdict.ACCEPT


def test_no_line_is_longer_than_ipfw_reads() -> None:
    feed = Addresses(
        v6=Ranges(tuple(b for k in range(2000) for b in (k << 96 | 0xFFF << 80, (k << 96 | 0xFFF << 80) + 1)))
    )
    for ruleset in [*every_ruleset(), one(block("b", source=feed))]:
        assert max(len(line.encode()) for line in text(ruleset).splitlines()) < 1024


def test_tables_are_made_before_they_are_named() -> None:
    """50: a rule that names an unknown table makes it, of the wrong type."""
    for ruleset in every_ruleset():
        made: set[str] = set()
        for line in text(ruleset).splitlines():
            if line.startswith("table ") and " create " in line:
                made.add(line.split()[1])
            named = re.findall(r"table\(([^),]+)", line) + re.findall(r"lookup dst-port (\S+)", line)
            assert set(named) <= made, line


def test_a_few_networks_stand_in_the_rule_itself() -> None:
    """There is room for 127 tables; and a list is of one family: 25."""
    entries = [
        starts(f"s{k}", tcp(1000 + k), source=Addresses.of(f"10.{k}.0.0/16", f"192.0.2.{k}")) for k in range(200)
    ]
    written = text(held(*entries))
    assert written.count(" create type ") < 12
    assert "tcp from 10.7.0.0/16,192.0.2.7 to any in" in written
    loaded = program(held(*entries))
    for source, wanted in (("10.7.1.1", Verdict.ACCEPT), ("192.0.2.7", Verdict.ACCEPT), ("192.0.2.8", Verdict.DROP)):
        assert evaluate(loaded, replace(SYN_IN, source=ip_address(source), port=1007)).verdict is wanted
    both = Addresses.of("10.7.0.0/16", "2001:db8::/32")
    assert "tcp from table(portctl0_from-a) to any" in text(held(starts("a", tcp(22), source=both)))


def test_a_long_table_lies_in_a_file_of_its_own() -> None:
    last = 10000
    feed = Addresses(Ranges(tuple(b for k in range(last + 1) for b in (k * 4 + 0x0B000000, k * 4 + 0x0B000001))))
    ruleset = one(block("b", source=feed))
    written = ipfw.render(ruleset, Ability())
    assert sorted(written) == ["from-b.table", "rules"]
    assert "#file portctl0_from-b" in written["rules"].splitlines() and "from-b add" not in written["rules"]
    loaded = ipfw.parse(written)
    for k in (0, 1, last):
        first = replace(SYN_IN, source=ip_address(0x0B000000 + 4 * k))
        assert evaluate(loaded, first).verdict is Verdict.DROP
        assert evaluate(loaded, replace(first, source=first.source + 1)).decided != evaluate(loaded, first).decided
    assert ipfw.parse({**written, "from-b.table": "11.0.0.0\n"}).own() != loaded.own()


def test_both_families_are_rejected_in_their_own_words() -> None:
    """43: `reset` does not answer IPv6 with RST, and the forms with 6 drop IPv4 silently."""
    loaded = program(one(last=Verdict.REJECT))
    for packet in (SYN_IN, replace(SYN_IN, source=ip_address("2001:db8:9::9"), destination=ip_address("2001:db8::1"))):
        for protocol, wanted in ((TCP, "reset6" if packet.source.version == 6 else "reset"), (UDP, "unreach")):
            answer = evaluate(loaded, replace(packet, protocol=protocol))
            assert answer.verdict is Verdict.REJECT
            assert answer.decided is not None and answer.decided.line is not None
            assert f" {wanted} " in f" {answer.decided.line.text} "


def test_a_blocked_source_is_cut_before_states_are_asked() -> None:
    ruleset = held(block("b", source=OFFICE), starts("a", tcp(22)))
    live = replace(SYN_IN, state=State.ESTABLISHED, flags=ACK)
    assert evaluate(program(ruleset), live).verdict is Verdict.DROP
    assert evaluate(program(ruleset), replace(live, source=ip_address("45.83.220.77"))).verdict is Verdict.ACCEPT


@pytest.mark.parametrize("flows", [None, (tcp(22),), (tcp(2000),), (Flow(50),)])
def test_an_exception_beside_a_live_group_is_left_out(flows: tuple[Flow, ...] | None) -> None:
    ported = flows is not None
    rule = block("b", flows=flows, live_source="bans", source=ANYWHERE - OFFICE, original_direction=ported)
    ruleset = replace(held(rule, starts("a")), live=("bans",))
    loaded = program(ruleset)
    for source in ("198.51.100.9", "45.83.220.77"):
        for protocol, port in ((TCP, 22), (TCP, 2000), (50, 0)):
            sent = replace(SYN_IN, source=ip_address(source), protocol=protocol, port=port)
            for state in (State.NEW, State.ESTABLISHED):
                packet = replace(sent, state=state, live_source=frozenset({"bans"}))
                assert evaluate(loaded, packet).verdict is decide(ruleset, packet)[0], packet


def test_what_is_beyond_a_limit_is_dropped() -> None:
    """42: at once; one rule a protocol counts for the whole entry."""
    entry = starts("a", tcp(22, 80, (8000, 8010)), udp(53), max_connections=5)
    ruleset = held(entry, *(starts(f"x{k}", tcp(100 + k)) for k in range(6)))
    limits = [line for line in lines(ruleset) if "limit" in line]
    assert sorted(line.split()[1] for line in limits) == ["tcp", "udp"]
    assert all("limit src-addr 5 :portctl_in" in line for line in limits)
    assert evaluate(program(ruleset), replace(SYN_IN, over_limit=True)).verdict is Verdict.DROP


def test_an_entry_without_a_limit_wins_over_a_translated_one_with() -> None:
    both = (Flow(TCP, Ranges.single(80)), Flow(UDP, Ranges.single(80)))
    came = tuple(replace(flow, ports=Ranges.single(8081)) for flow in both)
    everyone = Addresses.of("0.0.0.0/0")
    turned = starts("alt", *both, source=everyone, max_connections=5)
    turned = replace(turned, kind=Kind.FORWARD, flows=None, original=Original(came))
    free = starts("web", *both, source=OFFICE)
    alt = Translation("alt", came, everyone, None, (), None, 80)
    ruleset = replace(held(free, turned), translations=(alt,))  # without limits first, as resolve puts them
    loaded = program(ruleset)
    for source, wanted in (("198.51.100.9", Verdict.ACCEPT), ("45.83.220.77", Verdict.DROP)):
        for protocol in (TCP, UDP):
            sent = replace(SYN_IN, protocol=protocol, source=ip_address(source), port=8081, over_limit=True)
            assert evaluate(loaded, sent).verdict is wanted is decide(ruleset, sent)[0]
            assert evaluate(loaded, replace(sent, over_limit=False)).verdict is Verdict.ACCEPT
            assert evaluate(loaded, replace(sent, port=999)).verdict is Verdict.DROP


def served_here(source: Addresses, to: Addresses | None = None) -> Ruleset:
    """TCP and UDP to port 53, served by what listens on 5353."""
    came = (Flow(TCP, Ranges.single(53)), Flow(UDP, Ranges.single(53)))
    rule = replace(starts("dns", *came, source=source), kind=Kind.FORWARD, flows=None, original=Original(came))
    return replace(held(rule), translations=(Translation("dns", came, source, to, (), None, 5353),))


def test_an_answer_to_a_datagram_leaves_with_the_port_that_was_asked() -> None:
    """`fwd` would leave it the port of the socket; TCP has it from the connection."""
    found = lines(served_here(OFFICE.only(4), Addresses.of("192.0.2.10")))
    assert [line.split()[2] for line in found if line.startswith("fwd ")] == ["tcp"]
    (arriving,) = [line for line in found if line.startswith("nat ") and " in " in f"{line} "]
    (leaving,) = [line for line in found if line.startswith("nat ") and " out" in line]
    assert " udp from " in arriving and " to 192.0.2.10 53 in" in arriving
    assert leaving.startswith(f"nat {arriving.split()[1]} udp from 192.0.2.10 5353 to any out")
    (config,) = [x for x in text(served_here(OFFICE.only(4), Addresses.of("192.0.2.10"))).splitlines() if "config" in x]
    assert config.endswith("redirect_port udp 192.0.2.10:5353 192.0.2.10:53")
    loaded = program(served_here(OFFICE.only(4)))
    for protocol in (TCP, UDP):
        sent = replace(SYN_IN, protocol=protocol, port=53)
        answer = evaluate(loaded, sent)
        assert answer.verdict is Verdict.ACCEPT and answer.packet is not None
        assert (answer.packet.port, answer.packet.local) == (5353, True)
        assert evaluate(loaded, replace(sent, port=5353)).verdict is Verdict.DROP


def test_every_jump_goes_forward() -> None:
    for ruleset in every_ruleset():
        for line in text(ruleset).splitlines():
            if found := re.match(r"add (\d+) set 20 skipto (\d+) ", line):
                assert int(found[1]) < int(found[2]) <= 60000


def test_a_port_is_found_in_a_table_however_many_services() -> None:
    ruleset = held(*(starts(f"s{k}", tcp(1000 + k), source=OFFICE) for k in range(400)))
    jumps = [line for line in lines(ruleset) if "lookup dst-port" in line]
    assert len(jumps) == 1
    loaded = program(ruleset)
    assert len(evaluate(loaded, replace(SYN_IN, port=1399)).trace) < 25
    assert evaluate(loaded, replace(SYN_IN, port=1399)).verdict is Verdict.ACCEPT
    assert evaluate(loaded, replace(SYN_IN, port=1400)).verdict is Verdict.DROP


def test_many_rules_keep_to_the_numbers_of_portctl() -> None:
    ruleset = held(*(starts(f"s{k}", tcp(*((p, p) for p in range(1, 60000, 4)[k::100]))) for k in range(100)))
    assert all(20000 <= int(line.split()[1]) <= 60000 for line in text(ruleset).splitlines() if line.startswith("add "))


# ---- names and comments ----


@given(st.text(max_size=200), st.text(max_size=60))
@settings(max_examples=100, deadline=None)
def test_no_text_of_a_person_breaks_out_of_a_comment(description: str, owner: str) -> None:
    plain = text(one(starts("x", tcp(22))))
    written = text(one(starts("x", tcp(22), description=description, owner=owner)))
    assert len(written.splitlines()) == len(plain.splitlines())
    for ours, theirs in zip(plain.splitlines(), written.split("\n"), strict=False):
        rule, mark, comment = theirs.partition(" // ")
        assert rule == ours.partition(" // ")[0]
        assert "#" not in comment and len(comment.encode()) <= 83 and (not mark or comment.strip())


# ---- gaps ----


def user_rule() -> Rule:
    return starts("x", Flow(50), user="www")


@pytest.mark.parametrize(
    ("ruleset", "words"),
    [
        (one(starts("x", tcp(22), rate=Rate(3, "minute"))), "how often"),
        (one(starts("x", tcp(22), max_connections=65535)), "limit above"),
        (one(starts("x", tcp(22), user="root")), "user"),
        (one(user_rule(), direction=Direction.OUTBOUND), "TCP and UDP"),
        (one(starts("x", tcp(22), user="010"), direction=Direction.OUTBOUND), "user called"),  # octal for ipfw
        (one(starts("x", tcp(22), interfaces=("em0 or",))), "interface"),
        (one(starts("x", tcp(22), interfaces=("any",))), "interface"),
        (one(starts("x", tcp(22), interfaces=("abcdefghijklmno*",))), "interface"),
        (one(starts("x", Flow(1, Ranges((8 * 256, 8 * 256 + 1))))), "codes"),
        (one(starts("x", Flow(1, icmp(42)))), "above 31"),
        (replace(one(starts("x", tcp(22))), published_governed=True), "published"),
        (served_here(OFFICE), "UDP over IPv6"),
        (served_here(ANYWHERE.only(4), ANYWHERE.only(4)), "more than 32"),
    ],
)
def test_what_ipfw_cannot_say_is_refused(ruleset: Ruleset, words: str) -> None:
    (problem,) = ipfw.gaps(ruleset, Ability())
    assert problem.code == "gap" and words in problem.message


def test_a_low_port_is_blocked_in_live_connections_that_pass_whatever_stands_beside_it(tmp_path: Path) -> None:
    """docs/platforms.md: a low port tells which end offers something, also with a high one beside it."""
    policy = tmp_path / "policy.yaml"
    policy.write_text(
        "portctl: 1\nname: a\nservices: {ssh: {ports: ssh, from: any}}\n"
        "block: [{from: 203.0.113.0/24, ports: [25/tcp, 8080/tcp]}]\n"
    )
    ruleset = pipeline.compile(policy).ruleset
    for port, passes in ((25, False), (8080, True)):
        live = Packet(
            Direction.FORWARDED, TCP, ip_address("203.0.113.9"), ip_address("192.0.2.9"), port, 40000,
            flags=ACK, state=State.ESTABLISHED, local=False,
        )  # fmt: skip
        assert (evaluate(program(ruleset), live).verdict is Verdict.ACCEPT) is passes
        begun = replace(live, flags=SYN, state=State.NEW)
        assert evaluate(program(ruleset), begun).verdict is Verdict.DROP


def test_an_icmp_error_to_a_blocked_destination_is_refused_whatever_starts_there(tmp_path: Path) -> None:
    """Line 3 of the policy's table comes before ICMP errors, also outbound, where those precede known ones."""
    policy = tmp_path / "policy.yaml"
    policy.write_text(
        "portctl: 1\nname: a\nservices: {ssh: {ports: ssh, from: any}}\nblock: [{to: 203.0.113.0/24, ports: any}]\n"
    )
    ruleset = pipeline.compile(policy).ruleset
    error = Packet(Direction.OUTBOUND, ICMP, ip_address("192.0.2.9"), ip_address("203.0.113.9"), 3 * 256 + 3)
    assert decide(ruleset, error)[0] is Verdict.REJECT
    assert evaluate(program(ruleset), error).verdict is Verdict.REJECT
    elsewhere = replace(error, destination=ip_address("198.51.100.9"))
    assert evaluate(program(ruleset), elsewhere).verdict is Verdict.ACCEPT
