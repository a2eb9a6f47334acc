"""The packet-space engine says of every packet of small worlds what `decide` and `evaluate` say of it."""

from __future__ import annotations

import os
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from portctl.program import evaluate
from portctl.ruleset import decide
from portctl.space import Space
from tests import space_worlds as worlds

EXAMPLES = int(os.environ.get("PORTCTL_EXAMPLES", "500"))
"""10,000 in the nightly run."""
PACKETS = 15

thorough = settings(
    max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=EXAMPLES == 500
)


@thorough
@given(st.integers(0, 2**63))
def test_a_ruleset_s_sets_are_what_decide_says(seed: int) -> None:
    random = Random(seed)
    ruleset = worlds.ruleset(random)
    partition = Space().of_ruleset(ruleset)
    for _ in range(PACKETS):
        packet = worlds.packet(random)
        assert partition.at(packet).verdicts == {decide(ruleset, packet)[0]}, packet


@thorough
@given(st.integers(0, 2**63))
def test_a_program_s_sets_are_what_evaluate_says(seed: int) -> None:
    random = Random(seed)
    program = worlds.program(random)
    partition = Space().of_program(program, worlds.OWN)
    for _ in range(PACKETS):
        packet = worlds.packet(random)
        assert partition.at(packet).verdicts == {evaluate(program, packet, worlds.OWN).verdict}, packet


@thorough
@given(st.integers(0, 2**63))
def test_what_nobody_knows_is_never_guessed(seed: int) -> None:
    random = Random(seed)
    program = worlds.program(random, unknown=True)
    partition = Space().of_program(program, worlds.OWN)
    for _ in range(PACKETS):
        packet = worlds.packet(random)
        leaf, answer = partition.at(packet), evaluate(program, packet, worlds.OWN)
        assert answer.verdict in leaf.verdicts, packet
        if len(leaf.verdicts) > 1:
            assert leaf.depends
        if not answer.depends_on:
            assert leaf.verdicts == {answer.verdict}


if __name__ == "__main__":
    pytest.main([__file__])
