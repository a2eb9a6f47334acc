"""Policy, loaded rules and listeners held against each other, without a kernel: the rules are rendered and changed."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_address
from itertools import product
from pathlib import Path

import pytest

from portctl import backends, pipeline
from portctl.backends.base import Ability
from portctl.evaluation import Answer, evaluate
from portctl.listeners import Listener
from portctl.net import Ranges
from portctl.program import Accept, Chain, Condition, Deny, Field, Hook, Jump, Line, Note, Program, Translate
from portctl.ruleset import Direction, Packet, decide
from portctl.verify import CODES, compare, wrong
from portctl.verify.narrow import Narrow
from tests.verify_cases import ALL, AT, HTTP, HTTPS, POLICY, SSHD, V4, V6, Case, cases, foreign, told


@pytest.fixture
def policy(tmp_path: Path) -> Callable[..., Case]:
    return cases(tmp_path)


def test_all_holds(policy: Callable[..., Case]) -> None:
    case = policy()
    assert case.findings(case.observed()) == []


# ---- what could not be seen


def test_rules_that_could_not_be_read_are_unknown_and_nothing_is_called_closed(policy: Callable[..., Case]) -> None:
    case = policy()
    postgres = Listener(6, None, 5432, 4, process="postgres", pid=9)
    observed = replace(
        case.observed(listeners=(*ALL, postgres)), program=None, unknown=("the loaded rules of nftables",)
    )
    findings = case.findings(observed)
    assert ("unknown", "host") in told(findings) and wrong(findings)
    (undeclared,) = (finding for finding in findings if finding.code == "undeclared")
    assert "could not be seen" in undeclared.message


def test_without_a_list_of_sockets_nothing_is_said_of_them(policy: Callable[..., Case]) -> None:
    case = policy()
    findings = case.findings(case.observed(listeners=None, unknown=("what listens: neither ss nor /proc/net told",)))
    assert told(findings) == [("unknown", "host")]


# ---- loaded rules


def test_nothing_loaded(policy: Callable[..., Case]) -> None:
    case = policy()
    findings = case.findings(replace(case.observed(), program=Program(())))
    (drift,) = (finding for finding in findings if finding.code == "drift")
    assert "not in force" in drift.message
    assert drift.evidence[1].startswith("  loaded: accept") and drift.evidence[2].startswith("  policy: drop")


def without(program: Program, text: str) -> Program:
    """The program without the loaded lines that hold some text."""
    changed = tuple(replace(c, lines=tuple(x for x in c.lines if text not in x.text)) for c in program.chains)
    assert changed != program.chains, f"no line holds {text!r}"
    return replace(program, chains=changed)


def opened(program: Program) -> Program:
    """The program with a rule by hand at the start of portctl's own input chain."""
    rule = Line((Condition(Field.PORT, Ranges.single(5432)),), (Accept(),), "tcp dport 5432 accept")
    return replace(
        program,
        chains=tuple(
            replace(c, lines=(rule, *c.lines)) if c.own and c.hook and c.hook.name == "input" else c
            for c in program.chains
        ),
    )


def test_a_rule_added_by_hand_is_drift_with_a_packet_that_shows_it(policy: Callable[..., Case]) -> None:
    case = policy()
    postgres = Listener(6, None, 5432, 4, process="postgres", pid=9)
    observed = replace(case.observed(listeners=(*ALL, postgres)), program=opened(case.wanted))
    findings = case.findings(observed)
    assert told(findings) == [("exposed", "5432/tcp"), ("drift", "web")]
    drift = findings[1]
    assert ":5432/tcp, in by eth0" in drift.evidence[0]
    assert any(re.match(r"\+ .*tcp dport 5432 accept", line) for line in drift.evidence)
    at = drift.evidence.index("beyond the policy (+) and short of it (-):")
    assert drift.evidence[at + 1].startswith("+ open to the Internet: 5432/tcp (postgresql)")


def test_a_rule_that_is_gone_makes_its_service_unreachable(policy: Callable[..., Case]) -> None:
    case = policy()
    findings = case.findings(replace(case.observed(), program=without(case.wanted, 'comment "web"')))
    assert told(findings) == [("unreachable", "web"), ("drift", "web")]
    assert any("accept" in line and line.startswith("- ") for line in findings[1].evidence)


def test_a_jump_that_is_gone_from_a_shared_chain_is_drift(policy: Callable[..., Case]) -> None:
    """As in iptables: the own chains are whole, and nothing leads to them."""
    case = policy()
    own = Chain("filter", "PORTCTL-IN", (Line((), (Deny(),), "-j DROP"),), None, 4, own=True)
    jump = Line((), (Jump("PORTCTL-IN"),), "-A INPUT -j PORTCTL-IN")
    other = Line((), (Note("counter"),), "-A INPUT")
    shared = foreign(jump, hook=Hook("input", 0))
    case = replace(case, wanted=Program((own, shared)))
    for lines, said in (
        ((), "- filter INPUT (IPv4): -A INPUT -j PORTCTL-IN"),
        ((other, jump), "~ filter INPUT (IPv4): portctl's jump does not stand first"),
    ):
        loaded = Program((own, replace(shared, lines=lines)))
        findings = case.findings(replace(case.observed(listeners=None), program=loaded))
        (drift,) = (finding for finding in findings if finding.code == "drift")
        assert said in drift.evidence
    loaded = Program((own, replace(shared, lines=(jump, other))))
    findings = case.findings(replace(case.observed(listeners=None), program=loaded))
    assert not any(finding.code == "drift" for finding in findings)


def test_a_foreign_drop_of_everybody_decides_first(policy: Callable[..., Case]) -> None:
    case = policy()
    drop = Line(
        (Condition(Field.PROTOCOL, Ranges.single(6)), Condition(Field.PORT, Ranges.single(80))),
        (Deny(),),
        "-p tcp --dport 80 -j DROP",
    )
    findings = case.findings(case.observed(foreign(drop)))
    assert told(findings) == [("foreign-rule", "filter INPUT")]
    assert findings[0].severity == "warning" and "`web`" in findings[0].message
    assert "  drop: filter INPUT: -p tcp --dport 80 -j DROP" in findings[0].evidence


def test_a_service_that_a_foreign_rule_closes_wholly_is_unreachable(policy: Callable[..., Case]) -> None:
    case = policy()
    drop = Line((), (Deny(),), "-j DROP")
    everywhere = replace(foreign(drop), family=None)
    findings = case.findings(case.observed(everywhere))
    assert ("unreachable", "web") in told(findings) and ("unreachable", "ssh") in told(findings)
    assert any(finding.code == "foreign-rule" for finding in findings)


def test_a_ban_is_a_note(policy: Callable[..., Case]) -> None:
    case = policy()
    banned = Ranges.single(int(ip_address("203.0.113.66")))
    ban = Line((Condition(Field.SOURCE, banned, family=4),), (Deny(reject=True),), "-s 203.0.113.66/32 -j REJECT")
    findings = case.findings(case.observed(foreign(ban)))
    assert [(finding.code, finding.severity) for finding in findings] == [("foreign-rule", "note")]
    assert "a ban" in findings[0].message


def banned(*addresses: str) -> tuple[Line, ...]:
    return tuple(
        Line((Condition(Field.SOURCE, Ranges.single(int(ip_address(a))), family=4),), (Deny(),), f"-s {a}/32 -j DROP")
        for a in addresses
    )


def test_what_a_foreign_chain_cuts_is_said_as_a_set_once_however_many_rules_it_has(policy: Callable[..., Case]) -> None:
    case = policy()
    jump = Line((Condition(Field.PROTOCOL, Ranges.single(6)),), (Jump("f2b"),), "-p tcp -j f2b")
    chain = Chain("filter", "f2b", banned(*(f"203.0.113.{n}" for n in range(64, 128))), None, 4)
    (finding,) = case.findings(case.observed(foreign(jump), chain))
    assert (finding.code, finding.severity, finding.subject) == ("foreign-rule", "note", "filter f2b")
    assert finding.evidence[0] == "cut: inbound 80/tcp (http), 443/tcp (https) from 203.0.113.64/26"
    assert finding.evidence[-1].startswith("  drop: filter f2b: -s 203.0.113.")


def test_each_foreign_chain_is_told_by_itself(policy: Callable[..., Case]) -> None:
    case = policy()
    two = (foreign(*banned("198.51.100.7"), name="A"), foreign(*banned("203.0.113.7"), name="B"))
    findings = case.findings(case.observed(*two, listeners=None))
    assert {f.subject: f.evidence[0] for f in findings} == {
        "filter A": "cut: inbound 22/tcp (ssh), 80/tcp (http), 443/tcp (https) from 198.51.100.7",
        "filter B": "cut: inbound 80/tcp (http), 443/tcp (https) from 203.0.113.7",
    }


def test_what_a_foreign_rule_lets_in_before_portctl_is_asked(policy: Callable[..., Case]) -> None:
    """As `iptables -I INPUT` does. An accept in a chain of its own lets nothing in."""
    case = policy()
    own = Chain("filter", "PORTCTL-IN", (Line((), (Deny(),), "-j DROP"),), None, 4, own=True)
    jump = Line((), (Jump("PORTCTL-IN"),), "-A INPUT -j PORTCTL-IN")
    redis = (Condition(Field.PROTOCOL, Ranges.single(6)), Condition(Field.PORT, Ranges.single(6379)))
    opened = Line(redis, (Accept(),), "-p tcp --dport 6379 -j ACCEPT")
    shared = foreign(jump, hook=Hook("input", 0))
    case = replace(case, wanted=Program((own, shared)))
    for lines, expected in (((opened, jump), ["filter INPUT"]), ((jump, opened), [])):
        loaded = Program((own, replace(shared, lines=lines)))
        findings = case.findings(replace(case.observed(listeners=None), program=loaded))
        found = [finding for finding in findings if finding.code == "foreign-rule"]
        assert [finding.subject for finding in found] == expected
        assert all(f.evidence[0].startswith("let in: inbound 6379/tcp") for f in found)
        assert all(f.severity == "warning" and "lets in what the policy does not" in f.message for f in found)


def test_what_others_cut_of_what_goes_out_by_default_is_a_note(policy: Callable[..., Case]) -> None:
    case = policy()
    smtp = (Condition(Field.PROTOCOL, Ranges.single(6)), Condition(Field.PORT, Ranges.single(25)))
    drop = foreign(Line(smtp, (Deny(),), "-p tcp --dport 25 -j DROP"), name="OUTPUT", hook=Hook("output", 10))
    (finding,) = case.findings(case.observed(drop))
    assert (finding.code, finding.severity) == ("foreign-rule", "note")
    assert "outbound 25/tcp (smtp)" in finding.evidence[0]


def test_what_the_policy_leaves_alone_others_may_cut(policy: Callable[..., Case]) -> None:
    case = policy()
    assert case.findings(case.observed(foreign(name="FORWARD", hook=Hook("forward", 10, Deny())))) == []


def test_a_hook_policy_of_somebody_else_is_named(policy: Callable[..., Case]) -> None:
    case = policy()
    findings = case.findings(case.observed(foreign(hook=Hook("input", 10, Deny()))))
    (rule,) = (finding for finding in findings if finding.code == "foreign-rule")
    assert any("filter INPUT: policy of the hook" in line for line in rule.evidence)


def test_a_rule_that_is_not_understood_is_unknown(policy: Callable[..., Case]) -> None:
    case = policy()
    odd = Line((Condition(Field.UNKNOWN, "string --string foo"),), (Deny(),), "-m string --string foo -j DROP")
    findings = case.findings(case.observed(foreign(odd)))
    assert told(findings) == [("unknown", "filter INPUT")] and wrong(findings)
    assert "`ssh`, `web`" in findings[0].message


def test_lines_outside_of_the_program_are_shown(policy: Callable[..., Case]) -> None:
    case = policy()
    for line, severity in (("table bridge br: accept", "note"), ("table inet x: odd thing", "warning")):
        observed = case.observed()
        assert observed.program is not None
        findings = case.findings(replace(observed, program=replace(observed.program, foreign=(line,))))
        assert [(f.code, f.severity, f.evidence) for f in findings] == [("unknown", severity, (line,))]


def docker() -> tuple[Chain, ...]:
    """As Docker publishes 8080 of a container at 172.17.0.2."""
    turn = Line(
        (Condition(Field.PROTOCOL, Ranges.single(6)), Condition(Field.PORT, Ranges.single(8080))),
        (Translate("destination", ip_address("172.17.0.2"), 80),),
        "-p tcp --dport 8080 -j DNAT --to-destination 172.17.0.2:80",
    )
    return (Chain("nat", "PREROUTING", (turn,), Hook("prerouting", -100, kind="nat"), 4),)


def test_a_published_port_is_exposed(policy: Callable[..., Case]) -> None:
    case = policy()
    (finding,) = case.findings(case.observed(*docker()))
    assert (finding.code, finding.subject) == ("exposed", "8080/tcp")
    assert "published: govern" in finding.advice
    assert "172.17.0.2:80" in finding.message


def test_a_published_port_is_governed(policy: Callable[..., Case]) -> None:
    case = policy(POLICY.replace("forward: keep", "published: govern"))
    assert case.findings(case.observed(*docker())) == []


def test_a_published_port_counts_as_a_listener(policy: Callable[..., Case]) -> None:
    text = POLICY.replace("services:\n", "services:\n  app: {ports: 8080/tcp, from: any}\n")
    for each in (text, text.replace("forward: keep", "published: govern")):
        case = policy(each)
        assert case.findings(case.observed(*docker())) == []


def test_an_entry_without_packets_is_noted(policy: Callable[..., Case]) -> None:
    case = policy()
    found = compare(case.compiled.ruleset, case.observed(), case.wanted, AT)
    assert {finding.subject for finding in found if finding.code == "unused"} == {"ssh", "web"}


def test_an_expired_entry(policy: Callable[..., Case]) -> None:
    case = policy(POLICY.replace("from: 198.51.100.0/24", "from: 198.51.100.0/24, until: 2026-12-31"))
    findings = case.findings(case.observed(listeners=(HTTP, HTTPS)))
    assert told(findings) == [("expired", "ssh")]
    assert wrong(findings)


# ---- the list


MANY = """\
portctl: 1
name: many
services:
  a: {ports: [ssh, 8000-8200/tcp], from: 198.51.100.0/24}
  b: {ports: [8100/tcp, 53/udp], from: [203.0.113.0/24, 192.0.2.7], max_connections: 3}
  c: {ports: [http, 22/udp], from: any, except: 203.0.113.66, in: lan}
interfaces: {lan: eth0}
block: [203.0.113.5]
"""


def decider(answer: Answer) -> tuple[str, Line | None] | None:
    return None if answer.decided is None else (answer.decided.chain.name, answer.decided.line)


@pytest.mark.parametrize("backend", ["nftables", "iptables"])
def test_what_is_asked_about_one_port_is_what_all_the_rules_say(tmp_path: Path, backend: str) -> None:
    """Only the lines that a port can meet are asked: no other line may change the answer."""
    path = tmp_path / "many.yaml"
    path.write_text(MANY)
    ruleset = pipeline.compile(path, AT).ruleset
    module = backends.load(backend)
    program = module.parse(module.render(ruleset, Ability()))
    port, wide = (Condition(Field.PORT, Ranges.of([pair])) for pair in ((8000, 8150), (60, 8150)))
    other = foreign(Line((port,), (Jump("x"),)), Line((wide,), (Deny(),)), name="other")
    more = foreign(
        Line((Condition(Field.PORT, Ranges.single(8100), True),), (Accept(),)), name="x", hook=Hook("input", 11)
    )
    program = replace(program, chains=(*program.chains, other, replace(more, hook=None)))
    narrow, own, said = Narrow(), frozenset({V4, V6}), set()
    for protocol, number in product((6, 17), (22, 53, 80, 443, 8000, 8100, 8150, 8151, 8200, 9000)):
        lines, rules = narrow.about(program, protocol, number), narrow.policy(ruleset, protocol, number)
        for source in ("198.51.100.9", "203.0.113.9", "203.0.113.5", "203.0.113.66", "192.0.2.7", "45.83.220.77"):
            packet = Packet(Direction.INBOUND, protocol, ip_address(source), V4, number, interface="eth0", at=AT)
            part, whole = evaluate(lines, packet, own), evaluate(program, packet, own)
            assert (part.verdict, decider(part)) == (whole.verdict, decider(whole))
            assert decide(rules, packet) == decide(ruleset, packet)
            said.add((part.verdict, decider(part)))
    assert len(said) > 4


def test_every_code_has_a_heading_and_every_heading_a_code() -> None:
    text = (Path(__file__).parent.parent / "docs" / "findings.md").read_text()
    assert set(re.findall(r"^## (\S+)$", text, re.MULTILINE)) == set(CODES)


def test_the_worst_comes_first(policy: Callable[..., Case]) -> None:
    case = policy()
    postgres = Listener(6, None, 5432, 4, process="postgres", pid=9)
    severities = [
        finding.severity for finding in case.findings(case.observed(listeners=(SSHD, postgres), unknown=("x",)))
    ]
    assert severities == ["error", "warning", "note"]


def test_an_example_of_drift_is_a_packet_that_exists(policy: Callable[..., Case]) -> None:
    """Nobody sends ICMPv6 from an IPv4 address, nor to a link-local address from afar."""
    case = policy()
    found = case.findings(replace(case.observed(), program=Program(())))
    texts = [line for finding in found for line in finding.evidence if " → " in line]
    assert texts
    for line in texts:
        source, _, to = line.strip().partition(" → ")
        assert ":" in source or "icmpv6" not in to, line
        assert "fe80:" not in to or source.startswith("fe80:"), line
