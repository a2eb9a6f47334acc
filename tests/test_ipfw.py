"""The ipfw back end: its rules mean what the policy says, and each of their conditions counts."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from portctl.backends import ipfw
from portctl.backends.base import Ability, explained
from portctl.evaluation import evaluate
from portctl.expectations.corners import corner_packets
from portctl.problems import Span
from portctl.ruleset import (
    Flow,
    Kind,
    Packet,
    Rule,
    Ruleset,
    decide,
    icmp,
)
from portctl.space import proof
from tests import generate, golden_cases, packets
from tests.ipfw_cases import golden, held, program, text
from tests.nftables_cases import OFFICE, starts, tcp, udp


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
        if not rule.startswith("add ") or " check-state " in rule or comment == "portctl:by-hand":
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
        for line in other.splitlines() if line.startswith("add ") and not line.endswith("portctl:by-hand")
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
