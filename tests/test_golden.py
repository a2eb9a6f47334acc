"""Every golden case: its texts, its packets, its tests; and that each back end's rules say what `decide` says."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest

from portctl import backends, expectations
from portctl.backends.base import Ability
from portctl.evaluation import evaluate
from portctl.expectations.corners import corner_packets
from portctl.pipeline import Compiled
from portctl.problems import has_errors
from portctl.program import Program
from portctl.ruleset import Packet, Rule, Ruleset, Verdict, decide
from tests import golden_cases, packets
from tests.differences import forced

CASES = golden_cases.cases()
each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
each_backend = pytest.mark.parametrize("backend", backends.EVERY)


@cache
def compiled(case: Path) -> Compiled:
    return golden_cases.compiled(case)


Judged = tuple[tuple[Packet, Verdict, Rule], ...]


@cache
def judged(case: Path) -> Judged:
    """Packets, those written by hand first, with what the policy says of each: the same for every back end."""
    ruleset = compiled(case).ruleset
    by_hand = [line.packet for line in packets.read(case / "packets.txt")]
    return tuple((packet, *decide(ruleset, packet)) for packet in by_hand + corner_packets(ruleset, 700))


@each_case
def test_texts(case: Path) -> None:
    files = golden_cases.computed(case)
    if golden_cases.accepting():
        golden_cases.accept(case, files)
    assert golden_cases.stored(case) == files


@each_case
def test_a_case_says_what_it_is_about(case: Path) -> None:
    assert (case / "policy.yaml").read_text().startswith("# ")
    assert (case / "packets.txt").is_file()


@each_case
def test_packets_are_decided_as_written_by_hand(case: Path) -> None:
    ruleset = compiled(case).ruleset
    wrong = []
    for line in packets.read(case / "packets.txt"):
        verdict, rule = decide(ruleset, line.packet)
        if (verdict, rule.name) != (line.verdict, line.rule):
            wrong.append(f"{line.line}, not {verdict.value} {rule.name}")
    assert not wrong


@each_case
def test_the_tests_of_the_policy_hold(case: Path) -> None:
    assert expectations.evaluate(compiled(case).ruleset) == []


@each_case
@each_backend
def test_rendered_rules_mean_what_the_policy_means(case: Path, backend: str) -> None:
    ruleset = compiled(case).ruleset
    module = backends.load(backend)
    if has_errors(module.gaps(ruleset, Ability())):
        assert (case / backend / "gaps.txt").is_file()
        return
    program = module.parse(module.render(ruleset, Ability()))
    assert not program.foreign
    assert not disagreements(backend, ruleset, program, judged(case))


@pytest.mark.parametrize("backend", backends.DIALECTS)
def test_rules_in_an_anchor_mean_what_the_policy_means(backend: str) -> None:
    anchored = backends.anchored(backend)
    kept_to = [case for case in CASES if anchored in golden_cases.of_case(case)]
    assert kept_to
    for case in kept_to:
        test_rendered_rules_mean_what_the_policy_means(case, anchored)


def disagreements(backend: str, ruleset: Ruleset, program: Program, sent: Judged, most: int = 5) -> list[str]:
    """Packets on which loaded rules and the policy differ, in words, the first few."""
    wrong: list[str] = []
    for packet, verdict, rule in sent:
        answer = evaluate(program, packet)
        differs = answer.verdict is not verdict or answer.depends_on
        if differs and not forced(backend, ruleset, packet, rule, answer):
            step = answer.decided
            line = "" if step is None else f" by {step.chain.name}: {step.line.text if step.line else 'policy'}"
            wrong.append(f"{packet}: {verdict.value} by {rule.name}, but {answer.verdict.value}{line}")
            if len(wrong) == most:
                break
    return wrong


@pytest.mark.parametrize("backend", backends.DIALECTS)
def test_every_difference_has_a_heading(backend: str) -> None:
    module = backends.load(backend)
    found = [each for case in CASES for each in module.differences(compiled(case).ruleset, Ability())]
    headings = (Path(__file__).parent.parent / "docs/platforms.md").read_text().splitlines()
    assert len({each.name for each in found}) > 8
    assert [each.heading for each in found if f"## {each.heading}" not in headings] == []
