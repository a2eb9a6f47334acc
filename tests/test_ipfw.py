"""The ipfw back end: what it makes of real listings and of real packets, and what its own rules mean."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from ipaddress import ip_address
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from portctl.backends import ipfw
from portctl.backends.base import Ability, explained
from portctl.backends.ipfw.listed import read
from portctl.evaluation import evaluate
from portctl.expectations.corners import corner_packets
from portctl.net import ANYWHERE, Addresses, Ranges
from portctl.problems import Span
from portctl.program import Field, Program, Unknown
from portctl.ruleset import (
    ACK,
    FIN,
    KNOWN,
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
from portctl.space import proof
from tests import generate, golden_cases, ipfw_replay, packets
from tests.nftables_cases import OFFICE, block, one, starts, tcp, udp

OBSERVED = Path(__file__).parent / "observed" / "ipfw"
CASES = sorted(path for path in OBSERVED.iterdir() if path.is_dir())
JUDGED = [case for case in CASES if (case / "packets.txt").exists()]
SYN_IN = Packet(Direction.INBOUND, TCP, ip_address("198.51.100.9"), ip_address("202.54.1.1"), 22)


def text(ruleset: Ruleset) -> str:
    assert not ipfw.gaps(ruleset, Ability())
    return ipfw.render(ruleset, Ability())["rules"]


def program(ruleset: Ruleset, sent: list[Packet] | None = None) -> Program:
    """The rules read back, as if the broadcast addresses that some packets are sent to were part of them."""
    cast = {str(p.destination) for p in sent or () if p.direction is Direction.INBOUND and not p.local}
    written = ipfw.render(ruleset, Ability())
    rules = written["rules"].replace("table(portctl_broadcast)", "table(portctl0_these)")
    entries = "".join(f"{address} 0\n" for address in sorted(cast))
    return ipfw.parse(written | {"rules": rules, "more": f"--- table(portctl0_these), set(0) ---\n{entries}"})


# ---- real listings ----


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_line_of_a_listing_is_accounted_for(case: Path) -> None:
    for path in sorted(case.glob("freebsd15.*.txt")):
        lines = [line for line in path.read_text().splitlines() if line.strip()]
        listing = read({path.name: path.read_text()})
        if path.name == "freebsd15.sets.txt":
            continue
        assert listing.foreign == [], path
        if "tables" in path.name:
            entries = sum(len(table.entries) for table in listing.tables.values())
            headers = sum(line.startswith("---") for line in lines)
            assert "info" in path.name or entries + headers == len(lines), path
        elif path.name == "freebsd15.nat.txt":
            assert len(listing.nat) == len(lines)
        else:
            assert len(listing.rules) + len(listing.disabled) + len(listing.dynamic) == len(lines), path


def test_what_is_not_understood_says_so() -> None:
    unknown = set()
    for case in CASES:
        loaded = ipfw.parse({"list": (case / "freebsd15.list.txt").read_text()})
        for line in (line for chain in loaded.chains for line in chain.lines):
            unknown |= {a.text for a in line.actions if isinstance(a, Unknown)}
            unknown |= {str(c.value) for c in line.conditions if c.field is Field.UNKNOWN}
    assert unknown == {
        "call 5000", "fwd tablearg", "nat global", "nat tablearg", "pipe 1", "return next-rulenum", "tee 8668",
        "skipto tablearg", "198.51.100.0/24{1,3-5,200}", "extension header: hop options", "not antispoof",
        "prob 0.500000",
    }  # fmt: skip


def test_counters_and_sets_are_read() -> None:
    listing = read({"a": (OBSERVED / "90-list-formats" / "freebsd15.aS.list.txt").read_text()})
    web = next(rule for rule in listing.rules if rule.number == 300)
    assert (web.set, web.packets, web.bytes, web.comment) == (3, 3, 124, "web")


def test_every_way_of_listing_means_the_same() -> None:
    """Names for ports, sets, counters, times, and `from any to any` left out."""
    folder = OBSERVED / "90-list-formats"

    def lines(name: str) -> list[tuple[object, str]]:
        loaded = ipfw.parse({"a": (folder / f"freebsd15.{name}list.txt").read_text()})
        assert not loaded.foreign
        return [(line.conditions, line.comment) for chain in loaded.chains for line in chain.lines]

    wanted = lines("")
    assert len(wanted) > 6
    for name in ("N.", "S.", "T.", "a.", "aS.", "ac.", "c.", "d.", "i.", "s."):
        assert lines(name) == wanted, name


def test_rules_of_disabled_sets_judge_nothing() -> None:
    listing = read({"a": (OBSERVED / "58-sets" / "freebsd15.S.list.txt").read_text()})
    assert len(listing.disabled) == 2 and not any(rule.set == 5 for rule in listing.rules)


# ---- real packets ----

UNSEEN = {
    ("78-nat-masquerade", "in em0 tcp 203.0.113.9 80 192.0.2.10 4001 SA"): "which connections nat holds is not listed",
    ("78-nat-masquerade", "in em0 udp 203.0.113.9 53 192.0.2.10 4001"): "the same",
}
UNCERTAIN = {
    ("78-nat-masquerade", "in em1 tcp 10.0.0.20 4002 203.0.113.9 80 S"): "nat 1 ip4 from 10.0.0.0/8 to any out",
    ("87-antispoof", "in em0 tcp 10.0.0.77 4001 192.0.2.10 22 S"): "not antispoof",
    ("87-antispoof", "in em1 tcp 10.0.0.77 4002 192.0.2.10 22 S"): "not antispoof",
    ("87-antispoof", "in em0 tcp 203.0.113.9 4001 192.0.2.10 22 S"): "not antispoof",
}
"""Where the verdict hangs on routes, or on what nat puts in: portctl says so, and names the rule."""


@pytest.mark.parametrize("case", JUDGED, ids=lambda case: case.name)
def test_packets_are_read_as_the_kernel_judged_them(case: Path) -> None:
    wrong = dict(line.split(" => ", 1) for line in ipfw_replay.replay(case))
    for (name, asked), rule in UNCERTAIN.items():
        if name == case.name:
            said = wrong.pop(asked).rpartition(" BUT ")[2]
            assert said.startswith("depends on ") and rule in said
    assert set(wrong) == {asked for name, asked in UNSEEN if name == case.name}, wrong


# ---- the rules of a policy mean what it says ----


def unlike(ruleset: Ruleset, sent: list[Packet]) -> list[object]:
    """Packets on which the rules differ from the policy, without a named reason."""
    loaded = program(ruleset, sent)
    assert not loaded.foreign
    # The broadcast addresses of these packets are in the table.
    known = [each for each in ipfw.differences(ruleset, Ability()) if each.name != "broadcast addresses"]
    wrong: list[object] = []
    for packet in sent:
        answer = evaluate(loaded, packet)
        verdict, rule = decide(ruleset, packet)
        if answer.depends_on or (
            answer.verdict is not verdict and explained(ruleset, known, packet, answer.verdict) is None
        ):
            wrong.append((packet, rule.name, verdict, answer.verdict, answer.decided))
    return wrong


@cache
def golden() -> dict[str, Ruleset]:
    found = {case.name: golden_cases.compiled(case).ruleset for case in golden_cases.cases()}
    return {name: ruleset for name, ruleset in found.items() if not ipfw.gaps(ruleset, Ability())}


@pytest.mark.parametrize("case", golden_cases.cases(), ids=lambda case: case.name)
def test_golden_cases(case: Path) -> None:
    if case.name not in golden():
        assert (case / "ipfw" / "gaps.txt").exists()
        return
    ruleset = golden()[case.name]
    by_hand = [line.packet for line in packets.read(case / "packets.txt")]
    assert not unlike(ruleset, by_hand + corner_packets(ruleset, 400))[:2]


def without_gaps(ruleset: Ruleset) -> Ruleset:
    """The same with limits instead of rates, and without what ipfw cannot say."""

    def said(rules: tuple[Rule, ...], wrong: set[Span | None]) -> tuple[Rule, ...]:
        kept = (r for r in rules if r.kind is not Kind.PUBLISHED and not {r.span, *(s for _, s in r.places)} & wrong)
        return tuple(replace(r, rate=None, max_connections=r.max_connections or 7) if r.rate else r for r in kept)

    wrong: set[Span | None] = set()
    for _ in range(3):
        ruleset = replace(
            ruleset,
            inbound=said(ruleset.inbound, wrong),
            outbound=said(ruleset.outbound, wrong),
            forwarded=said(ruleset.forwarded, wrong),
            clamps=(),
            published_governed=False,
        )
        left = {rule.name for rule in (*ruleset.inbound, *ruleset.forwarded) if rule.kind is Kind.FORWARD}
        ruleset = replace(
            ruleset,
            masquerades=tuple(m for m in ruleset.masquerades if m.name in left),
            translations=tuple(t for t in ruleset.translations if t.name in left),
        )
        wrong = {problem.span for problem in ipfw.gaps(ruleset, Ability())}
    assert not wrong
    return ruleset


def test_generated_policies() -> None:
    """`make nightly` asks 500 of them. Proved for every packet, but for the named differences."""
    count = int(os.environ.get("PORTCTL_POLICIES", "12"))
    rulesets = [without_gaps(found) for p in generate.policies(7, count) if (found := generate.ruleset(p)) is not None]
    assert len(rulesets) == count
    for ruleset in rulesets:
        loaded = ipfw.parse(ipfw.render(ruleset, Ability()))
        proved = proof.proofs(ruleset, {"ipfw": loaded}, {"ipfw": ipfw.differences(ruleset, Ability())})["ipfw"]
        assert not proved.problems, (proved.problems[0].message, proved.problems[0].hint, ruleset)
        assert not unlike(ruleset, corner_packets(ruleset, 60))[:1], ruleset


def test_every_named_difference_is_in_the_document() -> None:
    document = (Path(__file__).parent.parent / "docs" / "platforms.md").read_text()
    found = {each.heading for ruleset in golden().values() for each in ipfw.differences(ruleset, Ability())}
    assert len(found) > 7
    for heading in found:
        assert f"\n## {heading}\n" in document


# ---- each condition counts ----


CONDITION = re.compile(
    r"\{ [^}]* \}|(?:not )?(?:recv|xmit|via|uid|tcpflags|icmptypes|icmp6types|ext6hdr|tagged|flow) \S+"
    r"|lookup dst-port \S+|in|out|frag|layer2|(?:keep-state|record-state) \S+|(?:set-limit|limit) src-addr \d+ \S+"
)
RULE = re.compile(
    r"(?P<head>add \d+ set 20 (?:.*?) )(?P<protocol>\S+) from (?P<source>\S+) (?:(?P<sport>[\d,-]+) )?"
    r"to (?P<target>\S+)(?: (?P<port>[\d,-]+))?(?P<options>.*)"
)


def weaker(rule: str) -> Iterator[str]:
    """A rule without one of its conditions, each in turn."""
    found = RULE.fullmatch(rule)
    assert found is not None, rule
    part = {name: text or "" for name, text in found.groupdict().items()}
    left = part["options"].strip()
    options: list[str] = []
    while left:
        one = CONDITION.match(left)
        assert one is not None, (rule, left)
        options.append(one[0])
        left = left[one.end() :].strip()

    def put(options: list[str], **changed: str) -> str:
        p = part | changed
        words = [p["head"].strip(), p["protocol"], "from", p["source"], p["sport"], "to", p["target"], p["port"]]
        return " ".join(word for word in [*words, *options] if word)

    assert put(options) == rule
    if "nat " not in part["head"] or part["protocol"] != "ip4":  # an instance translates IPv4 alone
        yield put(options, protocol="ip")
    yield put(options, source="any")
    yield put(options, target="any")
    yield put(options, sport="")
    yield put(options, port="")
    yield from (put(options[:k] + options[k + 1 :]) for k in range(len(options)))


LIMITED = "limited"
MUTATED = (
    "web-server",
    "block-ports",
    "interfaces",
    "forward-reject",
    "forward-over-service",
    "egress-reject",
    "except",
)


@pytest.mark.parametrize("name", [*MUTATED, LIMITED])
def test_a_rule_that_loses_a_condition_is_noticed(name: str) -> None:
    limited = starts("a", tcp(22), udp(53), Flow(1, icmp(8)), source=OFFICE, max_connections=5)
    ruleset = held(limited, starts("b", tcp(80), log=True)) if name == LIMITED else golden()[name]
    lines = text(ruleset).splitlines()
    loaded = ipfw.parse({"rules": "\n".join(lines)}).own()
    tried = 0
    for k, line in enumerate(lines):
        rule, mark, comment = line.partition(" // ")
        if not rule.startswith("add ") or " check-state " in rule:
            continue
        for other in dict.fromkeys(weaker(rule)):
            if other != rule:
                tried += 1
                changed = "\n".join([*lines[:k], f"{other}{mark}{comment}", *lines[k + 1 :]])
                assert ipfw.parse({"rules": changed}).own() != loaded, (rule, other)
    assert tried > 60


def test_a_table_that_loses_or_gains_an_entry_is_noticed() -> None:
    written = text(golden()["except"])
    loaded = ipfw.parse({"rules": written}).own()
    entries = [line for line in written.splitlines() if " add " in line and line.startswith("table portctl0_")]
    assert len(entries) > 20
    for line in entries[::7]:
        assert ipfw.parse({"rules": written.replace(f"{line}\n", "")}).own() != loaded, line


def test_the_generation_of_tables_and_the_listing_make_no_difference() -> None:
    written = text(golden()["web-server"])
    other = written.replace("portctl0_", "portctl1_")
    assert ipfw.parse({"rules": other}).own() == ipfw.parse({"rules": written}).own()
    listed = "\n".join(
        re.sub(r"^add (\d+) ", lambda m: f"{int(m[1]):05}   3  120 ", line)
        for line in other.splitlines() if line.startswith("add ")
    )  # fmt: skip
    tables: dict[str, list[str]] = {}
    kinds: dict[str, str] = {}
    for words in (line.split() for line in other.splitlines() if line.startswith("table ")):
        tables.setdefault(words[1], [])
        if words[2] == "create":
            kinds[words[1]] = words[4]
        else:
            entry = (
                words[3] if words[3].isdigit() or "/" in words[3] else f"{words[3]}/{128 if ':' in words[3] else 32}"
            )
            tables[words[1]].append(f"{entry} {words[4] if len(words) > 4 else 0}")
    answers = {
        "list": listed + "\n65535  0 0 set 31 deny ip from any to any\n",
        "info": "".join(f"--- table({n}), set(0) ---\n kindex: 1, type: {k}\n" for n, k in kinds.items()),
        "tables": "".join(
            f"--- table({n}), set(0) ---\n" + "".join(f"{e}\n" for e in each) for n, each in tables.items()
        ),
    }
    loaded = ipfw.parse(answers)
    assert loaded.own() == ipfw.parse({"rules": written}).own() and not loaded.foreign
    assert {line.packets for chain in loaded.chains for line in chain.lines if line.packets is not None} == {0, 3}


# ---- facts ----


def lines(ruleset: Ruleset) -> list[str]:
    return [re.sub(r"^add \d+ set 20 ", "", line) for line in text(ruleset).splitlines() if line.startswith("add ")]


def every_ruleset() -> list[Ruleset]:
    return [*golden().values(), held(*(starts(f"s{k}", tcp(1000 + k), source=OFFICE) for k in range(9)))]


def held(*rules: Rule, last: Verdict = Verdict.DROP, **more: object) -> Ruleset:
    """Rules for what comes in: blocks, known connections, entries."""
    blocks = [rule for rule in rules if rule.kind is Kind.BLOCK]
    known = Rule("known", Kind.FIXED, Verdict.ACCEPT, states=KNOWN)
    return one(*blocks, known, *(rule for rule in rules if rule not in blocks), last=last, **more)  # type: ignore[arg-type]


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


def test_a_long_table_lies_in_a_file_of_its_own() -> None:
    feed = Addresses(Ranges(tuple(b for k in range(3000) for b in (k * 4 + 0x0B000000, k * 4 + 0x0B000001))))
    ruleset = one(block("b", source=feed))
    written = ipfw.render(ruleset, Ability())
    assert sorted(written) == ["from-b.table", "rules"]
    assert "#file portctl0_from-b" in written["rules"].splitlines() and "from-b add" not in written["rules"]
    loaded = ipfw.parse(written)
    for k in (0, 1, 2999):
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
        (one(starts("x", Flow(1, Ranges((8 * 256, 8 * 256 + 1))))), "codes"),
        (one(starts("x", Flow(1, icmp(42)))), "above 31"),
        (replace(one(starts("x", tcp(22))), published_governed=True), "published"),
    ],
)
def test_what_ipfw_cannot_say_is_refused(ruleset: Ruleset, words: str) -> None:
    (problem,) = ipfw.gaps(ruleset, Ability())
    assert problem.code == "gap" and words in problem.message
