"""Policies of all kinds: `decide` means what the language says, and the rules of every back end mean the same."""

from __future__ import annotations

import pytest

from portctl import backends
from portctl.backends.base import Ability
from portctl.evaluation import evaluate
from portctl.expectations.corners import corner_packets
from portctl.problems import has_errors
from portctl.ruleset import decide
from tests import generate
from tests.differences import forced
from tests.pf_policies import fitting
from tests.reading import Reader

SEED, COUNT, PACKETS = 20260701, 40, 300


@pytest.fixture(scope="module")
def policies() -> list[generate.Plain]:
    return generate.policies(SEED, COUNT)


def test_decide_means_what_the_language_says(policies: list[generate.Plain]) -> None:
    wrong = []
    for plain in policies:
        ruleset = generate.ruleset(plain)
        assert ruleset is not None
        reader = Reader(plain, generate.AT)
        for packet in corner_packets(ruleset, PACKETS):
            verdict, rule = decide(ruleset, packet)
            if reader.verdict(packet) != verdict.value:
                wrong.append((generate.text(plain), packet, reader.verdict(packet), verdict.value, rule.name))
                break
    assert not wrong, f"{len(wrong)} policies; the first: {wrong[0]}"


@pytest.mark.parametrize("backend", backends.EVERY)
def test_rendered_rules_mean_the_same(policies: list[generate.Plain], backend: str) -> None:
    module = backends.load(backend)
    wrong = []
    for plain in policies:
        ruleset = generate.ruleset(fitting(plain, backend == "pf-freebsd15") if backend.startswith("pf-") else plain)
        if ruleset is None and backend.startswith("pf-"):
            continue
        assert ruleset is not None
        if has_errors(module.gaps(ruleset, Ability())):
            continue
        program = module.parse(module.render(ruleset, Ability()))
        for packet in corner_packets(ruleset, PACKETS):
            answer = evaluate(program, packet)
            verdict, rule = decide(ruleset, packet)
            differs = answer.verdict is not verdict or answer.depends_on
            if differs and not forced(backend, ruleset, packet, rule, answer):
                wrong.append((generate.text(plain), packet, rule.name, verdict, answer.verdict, answer.decided))
                break
    assert not wrong, f"{len(wrong)} policies; the first: {wrong[0]}"


def test_the_same_seed_makes_the_same_policies(policies: list[generate.Plain]) -> None:
    assert len(policies) == COUNT
    assert generate.policies(SEED, 5) == generate.policies(SEED, 5)
