"""What a back end renders is proved to be what the policy says; what it does not say is shown by one packet."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from portctl import backends, pipeline
from portctl.backends.base import Ability
from portctl.evaluation import evaluate
from portctl.program import Accept, Chain, Line, Program
from portctl.ruleset import Ruleset, decide
from portctl.space.packets import packet_text
from portctl.space.proof import proofs, prove

GOLDEN = Path(__file__).parent / "golden"
CASES = sorted(p.parent for p in GOLDEN.glob("*/policy.yaml"))
AT = datetime(2026, 11, 1, tzinfo=UTC)

POLICY = """\
portctl: 1
name: web
addresses:
  office: [198.51.100.0/24, "2001:db8:10::/48"]
  bans: {live: true}
interfaces: {public: [eth0, wan*], lan: [eth1]}
services:
  ssh: {ports: ssh, from: [office, 192.0.2.7], except: [198.51.100.66], rate: 10/minute}
  web: {ports: [http, https, 443/udp, 8000-8010/tcp], from: any, in: public, max_connections: 200}
  dns: {ports: domain, from: 10.0.0.0/8, to: 192.0.2.1, until: 2030-01-01}
  ping: {ports: ping, from: any}
block:
  - 1.2.3.4
  - bans
  - {to: any, except: [192.0.2.25], ports: smtp}
egress:
  dns: {ports: domain, to: [192.0.2.53]}
  apt: {ports: [http, https], to: any, user: _apt}
forwards:
  old-web: {ports: 8080/tcp, from: any, target: "10.0.0.5:80"}
  alt-web: {ports: 8081/tcp, from: office, target: ":80"}
  vpn-lan: {ports: [ssh, https], from: any, in: public, to: 10.0.0.0/8, out: lan}
  internet: {ports: any, from: 10.0.0.0/8, in: lan, to: any, out: public, masquerade: true, mss: path}
"""
DEFAULTS = [
    "{outbound: reject, forward: drop, published: govern}",
    "{inbound: reject, outbound: drop, forward: reject, published: keep, log_denied: true}",
    "{outbound: drop, forward: drop}",
]


def ruleset(tmp_path: Path, text: str) -> Ruleset:
    path = tmp_path / "policy.yaml"
    path.write_text(text)
    return pipeline.compile(path, AT).ruleset


def loaded(name: str, found: Ruleset) -> Program:
    backend = backends.load(name)
    assert not [p for p in backend.gaps(found, Ability()) if p.severity == "error"]
    program = backend.parse(backend.render(found, Ability()))
    assert not program.foreign
    return program


@pytest.mark.parametrize("name", backends.NAMES)
@pytest.mark.parametrize("case", CASES, ids=lambda p: p.name)
def test_every_golden_case_is_proved(case: Path, name: str) -> None:
    found = pipeline.compile(case / "policy.yaml", AT).ruleset
    backend = backends.load(name)
    if any(p.severity == "error" for p in backend.gaps(found, Ability())):
        return  # refused, as its own golden text says
    counterexample = prove(found, loaded(name, found))
    assert counterexample is None, counterexample and counterexample.problem(name).hint


@pytest.mark.parametrize("name", backends.NAMES)
@pytest.mark.parametrize("defaults", DEFAULTS)
def test_a_policy_that_uses_everything_is_proved(tmp_path: Path, defaults: str, name: str) -> None:
    found = ruleset(tmp_path, f"{POLICY}defaults: {defaults}\n")
    counterexample = prove(found, loaded(name, found))
    assert counterexample is None, counterexample and counterexample.problem(name).hint


def without(program: Program, chain: Chain, number: int) -> Program:
    lines = chain.lines[:number] + chain.lines[number + 1 :]
    changed = replace(chain, lines=lines)
    return replace(program, chains=tuple(changed if c is chain else c for c in program.chains))


@pytest.mark.parametrize("name", backends.NAMES)
def test_a_missing_line_is_shown_by_a_packet_that_both_sides_confirm(tmp_path: Path, name: str) -> None:
    found = ruleset(tmp_path, f"{POLICY}defaults: {DEFAULTS[0]}\n")
    program = loaded(name, found)
    places = [(chain, number) for chain in program.chains if chain.own for number in range(len(chain.lines))]
    shown = 0
    for chain, number in places[:: len(places) // 8 or 1]:
        changed = without(program, chain, number)
        counterexample = prove(found, changed)
        if counterexample is not None:
            shown += 1
            packet = counterexample.packet
            assert decide(found, packet)[0] is counterexample.verdict
            assert evaluate(changed, packet).verdict is not counterexample.verdict, packet_text(packet)
    assert shown >= 3


@pytest.mark.parametrize("name", backends.NAMES)
def test_a_line_too_many_is_named(tmp_path: Path, name: str) -> None:
    found = ruleset(tmp_path, f"{POLICY}defaults: {DEFAULTS[0]}\n")
    program = loaded(name, found)
    base = next(c for c in program.chains if c.hook and c.hook.name == "input" and c.hook.kind == "filter")
    opened = replace(base, lines=(Line((), (Accept(),), "accept everything"), *base.lines))
    changed = replace(program, chains=tuple(opened if c is base else c for c in program.chains))
    counterexample = prove(found, changed)
    assert counterexample is not None
    problem = counterexample.problem(name)
    assert problem.code == "not-proved"
    assert "accept everything" in str(problem.hint)


def test_all_back_ends_are_proved_at_once_and_unknown_lines_are_never_proved(tmp_path: Path) -> None:
    found = ruleset(tmp_path, f"{POLICY}defaults: {DEFAULTS[0]}\n")
    programs = {name: loaded(name, found) for name in backends.NAMES}
    assert not any(proof.problems for proof in proofs(found, programs, {}).values())
    strange = {name: replace(program, foreign=("who knows",)) for name, program in programs.items()}
    assert [p.code for each in proofs(found, strange, {}).values() for p in each.problems] == ["not-proved"] * len(
        programs
    )
