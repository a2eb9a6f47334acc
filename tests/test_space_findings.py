"""Findings on policies that are right, questions to them, and what their tests would not miss."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from portctl import backends, pipeline
from portctl.backends.base import Ability
from portctl.net import ANYWHERE, Addresses, Ranges
from portctl.ruleset import TCP, Direction, Flow, Ruleset, decide
from portctl.space import Space, sides
from portctl.space.findings import findings
from portctl.space.mutation import mutants, unmissed
from portctl.space.questions import Query, broken, explain, explain_text, reach, reach_text

AT = datetime(2026, 11, 1, tzinfo=UTC)
Resolve = Callable[[str], Ruleset]


@pytest.fixture
def resolve(tmp_path: Path) -> Resolve:
    def made(text: str) -> Ruleset:
        path = tmp_path / "policy.yaml"
        path.write_text(f"portctl: 1\nname: t\n{text}")
        return pipeline.compile(path, AT).ruleset

    return made


def found(ruleset: Ruleset) -> list[tuple[str, str]]:
    """Code and first name of each finding."""
    return sorted((p.code, p.message.split("`")[1]) for p in findings(ruleset))


@pytest.mark.parametrize(
    ("services", "expected"),
    [
        ("{web: {ports: [http, https], from: any}, ping: {ports: ping, from: any}}", []),
        ("{ssh: {ports: ssh, from: any}}", [("wide-open", "ssh")]),
        ("{ssh: {ports: ssh, from: 0.0.0.0/1}}", [("wide-open", "ssh")]),
        ("{ssh: {ports: ssh, from: 10.0.0.0/7}}", []),
        ("{web: {ports: https, from: 64.0.0.0/2}}", [("wide-open", "web")]),
        ("{old: {ports: telnet, from: any}}", [("cleartext-open", "old")]),
        ("{old: {ports: 20-30/tcp, from: any}}", [("cleartext-open", "old")]),
        ("{db: {ports: 5432/tcp, from: any}}", [("database-open", "db")]),
        ("{db: {ports: 5432/tcp, from: 10.0.0.0/8}}", []),
        ("{web: {ports: [http, https], from: any}, b: {ports: https, from: 10.0.0.0/8}}", [("covered-entry", "b")]),
        ("{b: {ports: https, from: 10.0.0.0/8}, c: {ports: https, from: 10.0.0.0/8}}", [("covered-entry", "c")]),
        ("{a: {ports: https, from: 10.0.0.0/8, rate: 3/minute}, b: {ports: https, from: 10.1.0.0/16}}", []),
        ("{a: {ports: https, from: 10.0.0.0/8, until: 2027-01-01}, b: {ports: https, from: 10.1.0.0/16}}", []),
        ("{a: {ports: https, from: 10.0.0.0/8, to: 192.0.2.1}, b: {ports: https, from: 10.1.0.0/16}}", []),
    ],
)
def test_findings_on_services(resolve: Resolve, services: str, expected: list[tuple[str, str]]) -> None:
    assert found(resolve(f"services: {services}\n")) == expected


def test_an_entry_that_is_blocked_whole(resolve: Resolve) -> None:
    text = "services: {ssh: {ports: ssh, from: [10.1.0.1, 10.1.0.2]}, web: {ports: http, from: 10.0.0.0/8}}\n"
    assert found(resolve(f"{text}block: [10.1.0.0/16]\n")) == [("blocked-entry", "ssh")]
    assert found(resolve(f"{text}block: [{{from: 10.1.0.0/16, except: 10.1.0.2}}]\n")) == []
    assert found(resolve(f"{text}block: [{{from: 10.1.0.0/16, ports: https}}]\n")) == []


def test_two_names_for_one_set(resolve: Resolve) -> None:
    text = "addresses: {a: 10.0.0.0/8, b: [10.0.0.0/9, 10.128.0.0/9]}\n"
    text += "services: {x: {ports: 80/tcp, from: a}, y: {ports: 81/tcp, from: b}}\n"
    assert found(resolve(text)) == [("same-group", "a")]


def test_a_finding_is_accepted_in_place_with_a_reason(resolve: Resolve) -> None:
    entry = "services:\n  ssh: {ports: ssh, from: any}"
    assert found(resolve(f"{entry}  # portctl: accept wide-open: a bastion, keys only\n")) == []
    assert found(resolve(f"{entry}  # portctl: accept database-open: not that\n")) == [("wide-open", "ssh")]
    (problem,) = findings(resolve(f"{entry}  # portctl: accept wide-open\n"))
    assert "write why" in str(problem.hint)


POLICY = """\
addresses: {office: 198.51.100.0/24}
interfaces: {public: eth0}
services:
  ssh: {ports: ssh, from: office, except: 198.51.100.66}
  web: {ports: [http, https], from: any, in: public}
block: [192.0.2.66]
tests:
  - {from: 198.51.100.9, service: ssh, expect: allow}
  - {from: any, except: [office], ports: ssh, expect: deny}
  - {from: 203.0.113.1, service: web, in: public, expect: allow}
"""


def tcp(port: int) -> tuple[Flow, ...]:
    return (Flow(TCP, Ranges.single(port)),)


def test_explain_cuts_where_the_verdict_changes_and_names_what_decides(resolve: Resolve) -> None:
    ruleset = resolve(POLICY)
    side = sides.of_ruleset(Space(), ruleset, "policy")
    one = explain(side, Query(Direction.INBOUND, tcp(22), Addresses.of("198.51.100.9")))
    assert [(o.verdict, o.reason.name) for o in one] == [("accept", "ssh")]
    web = explain(side, Query(Direction.INBOUND, tcp(80), Addresses.of("198.51.100.9")))
    assert [(o.verdict, o.reason.name) for o in web] == [("accept", "web"), ("drop", "default")]
    assert "in on eth0" in explain_text(side, web)
    for outcome in (*one, *web):
        assert decide(ruleset, outcome.example)[0].value == outcome.verdict


def test_reach_says_who_and_what(resolve: Resolve) -> None:
    ruleset = resolve(POLICY)
    side = sides.of_ruleset(Space(), ruleset, "policy")
    who = reach(side, Query(Direction.INBOUND, tcp(22)))
    assert reach_text(who, ruleset.groups, "who") == "office (but 198.51.100.66)  [ssh]\n"
    what = reach_text(reach(side, Query(Direction.INBOUND, None, Addresses.of("198.51.100.66"))), (), "what")
    assert "80/tcp (http), 443/tcp (https), in on eth0  [web]" in what and "22/tcp" not in what
    assert reach_text(reach(side, Query(Direction.INBOUND, tcp(23))), (), "who") == "nobody\n"


@pytest.mark.parametrize("name", [None, *backends.NAMES])
def test_a_policy_s_tests_hold_on_the_parsed_text_too(resolve: Resolve, name: str | None) -> None:
    ruleset = resolve(POLICY)

    def side(of: Ruleset) -> sides.Side:
        if name is None:
            return sides.of_ruleset(Space(), of, "policy")
        backend = backends.load(name)
        return sides.of_program(Space(), backend.parse(backend.render(of, Ability())), name)

    assert [broken(side(ruleset), e) for e in ruleset.expectations] == [None, None, None]
    other = resolve(POLICY.replace("from: office", "from: [office, 8.8.8.8]").replace("except: 198.51.100.66", ""))
    packets = [broken(side(other), e) for e in ruleset.expectations]
    assert packets[0] is None and packets[2] is None
    assert packets[1] is not None and str(packets[1].source) == "8.8.8.8" and packets[1].port == 22


def test_what_no_test_would_miss_is_named(resolve: Resolve) -> None:
    ruleset = resolve(POLICY)

    def holds(changed: Ruleset) -> bool:
        side = sides.of_ruleset(Space(), changed, "policy")
        return not any(broken(side, expectation) for expectation in ruleset.expectations)

    left = {mutant.what for mutant in unmissed(ruleset, holds)}
    assert "`web` (service) in on every interface" in left
    assert "without `block` (block)" in left
    assert "without `ssh` (service)" not in left and "`ssh` (service) open to everybody" not in left
    assert len(list(mutants(ruleset))) > len(left)


def test_a_query_of_everything_leaves_loopback_out(resolve: Resolve) -> None:
    side = sides.of_ruleset(Space(), resolve(POLICY), "policy")
    found = explain(side, Query(Direction.INBOUND, tcp(443)))
    assert all(o.box.source == ANYWHERE or o.reason.name != "loopback" for o in found)
    assert not any(o.reason.name == "loopback-address" for o in found)
