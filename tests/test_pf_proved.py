"""Every packet: what pf's rules do is what the policy says, but for the differences that the platform forces.

`PORTCTL_POLICIES` is the number of generated policies for each dialect; `make nightly` asks for 500.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from portctl import backends, pipeline
from portctl.backends.base import Ability
from portctl.problems import has_errors
from portctl.ruleset import Ruleset
from portctl.space import proof
from tests import generate, golden_cases
from tests.pf_policies import fitting

SEED = 11
COUNT = int(os.environ.get("PORTCTL_POLICIES", "10"))
EXAMPLES = sorted((Path(__file__).parent.parent / "policies").glob("*.yaml"))
OLD_AND_NEW = ("pf-freebsd13", "pf-freebsd15")
"""The two ways to translate; the other dialects lack no more than these."""


def unproved(name: str, ruleset: Ruleset) -> list[str] | None:
    """What is not proved, in words; None for a policy that the dialect refuses."""
    backend = backends.load(name)
    if has_errors(backend.gaps(ruleset, Ability())):
        return None
    program = backend.parse(backend.render(ruleset, Ability()))
    found = proof.proofs(ruleset, {name: program}, {name: backend.differences(ruleset, Ability())})
    return [f"{problem.message}: {problem.hint}" for problem in found[name].problems]


@pytest.fixture(scope="module")
def policies() -> list[generate.Plain]:
    return generate.policies(SEED, COUNT)


@pytest.mark.parametrize("name", backends.DIALECTS)
def test_generated_policies_are_proved(policies: list[generate.Plain], name: str) -> None:
    refused = 0
    for plain in policies:
        fit = fitting(plain, name == "pf-freebsd15")
        ruleset = generate.ruleset(fit)
        if ruleset is None:
            continue
        wrong = unproved(name, ruleset)
        assert not wrong, generate.text(fit)
        refused += wrong is None
    assert refused < len(policies) / 3


@pytest.mark.parametrize("name", OLD_AND_NEW)
def test_cases_and_examples_are_proved(name: str) -> None:
    for case in golden_cases.cases():
        assert not unproved(name, golden_cases.compiled(case).ruleset), case
    for path in EXAMPLES:
        assert not unproved(name, pipeline.compile(path, golden_cases.AT).ruleset), path
