"""What a platform forces, asked of every packet at once, is what is asked of one packet; nothing else is let pass."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path
from random import Random
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from portctl import backends, pipeline
from portctl.backends import base
from portctl.backends.base import Ability, Difference, Region
from portctl.evaluation import evaluate
from portctl.net import Ranges
from portctl.program import Condition, Deny, Field, Program
from portctl.ruleset import EVERY_STATE, TCP, Direction, Packet, Ruleset, State, Verdict, decide
from portctl.space import Space
from portctl.space.forced import explained
from portctl.space.proof import proofs
from portctl.space.sets import possible
from tests import space_worlds as worlds
from tests.test_space import thorough

SEEN: list[tuple[str, Any]] = [
    ("state", State.NEW),
    ("state", State.ESTABLISHED),
    ("reply", False),
    ("hop_limit", 255),
    ("at", None),
    ("user", None),
    ("over_limit", False),
    ("flags", 0x02),
]


def differences(random: Random) -> tuple[Difference, ...]:
    """Some of both kinds. The regions of the first ask what no difference changes."""

    def region(changing: bool) -> Region:
        asked = worlds.conditions(random, False)
        # no example shows what `original port` alone would ask of a protocol without ports
        conditions = tuple(c for c in asked if c.field not in (Field.ORIGINAL_PORT, Field.CONCATENATION))
        if changing:
            conditions = (Condition(Field.PROTOCOL, Ranges.of((p, p) for p in random.sample(worlds.PROTOCOLS, 4))),)
        return Region(conditions, tuple(random.sample(list(Direction), random.randint(1, 3))))

    def verdicts() -> frozenset[Verdict]:
        return frozenset(random.sample(list(Verdict), random.randint(1, 3)))

    seen = [Difference("s", "seen", (region(True),), (each,)) for each in random.sample(SEEN, 2)]
    forced = [Difference("f", "forced", (region(False),), (), verdicts(), verdicts()) for _ in range(2)]
    return tuple(random.sample([*seen, *forced], random.randint(0, 4)))


@thorough
@given(st.integers(0, 2**63))
def test_a_set_is_explained_as_each_of_its_packets_is(seed: int) -> None:
    random = Random(seed)
    ruleset, program, listed = worlds.ruleset(random), worlds.program(random), differences(random)
    space = Space()
    policy, loaded = space.of_ruleset(ruleset), space.of_program(program, worlds.OWN)
    found = explained(policy, loaded, listed)
    world = possible(space)
    for _ in range(15):
        packet = worlds.packet(random)
        if packet not in world:
            continue
        got = evaluate(program, packet, worlds.OWN).verdict
        wrong = decide(ruleset, packet)[0] is not got
        assert (packet in found.left) == (wrong and base.explained(ruleset, listed, packet, got) is None), packet
    for each in found.forced:
        got = evaluate(program, each.packet, worlds.OWN).verdict
        assert decide(ruleset, each.packet)[0] is not got
        assert each.difference.covers(each.packet)


POLICY = """\
portctl: 1
name: web
services:
  ssh: {ports: ssh, from: 198.51.100.0/24}
  web: {ports: [http, https], from: any}
block: [203.0.113.0/24]
"""
NAME = backends.NAMES[0]


def rendered(tmp_path: Path, text: str) -> tuple[Ruleset, Program]:
    path = tmp_path / "policy.yaml"
    path.write_text(text)
    ruleset = pipeline.compile(path, datetime(2027, 1, 1, tzinfo=UTC)).ruleset
    return ruleset, pipeline.read_back(NAME, pipeline.render(ruleset, [NAME], Ability()))


def test_what_the_platform_drops_by_itself_is_named_and_nothing_beside_it_is_let_pass(tmp_path: Path) -> None:
    ruleset, program = rendered(tmp_path, POLICY)
    wrong = {}
    for port in (22, 8443):
        condition = (Condition(Field.PROTOCOL, Ranges.single(TCP)), Condition(Field.PORT, Ranges.single(port)))
        first = next(c for c in program.chains if c.hook and c.hook.name == "input" and c.hook.kind == "filter")
        line = replace(first.lines[0], conditions=condition, actions=(Deny(),), text=f"{port} is dropped")
        changed = replace(first, lines=(line, *first.lines))
        wrong[port] = replace(program, chains=tuple(changed if c is first else c for c in program.chains))
    drops_ssh = Difference(
        "no ssh",
        "BSD: no ssh",
        (Region((Condition(Field.PROTOCOL, Ranges.single(TCP)), Condition(Field.PORT, Ranges.single(22)))),),
        wanted=frozenset((Verdict.ACCEPT,)),
        got=frozenset((Verdict.DROP,)),
    )
    (proof,) = proofs(ruleset, {NAME: wrong[22]}, {NAME: (drops_ssh,)}).values()
    assert not proof.problems
    assert [(f.difference.name, f.packet.port) for f in proof.forced] == [("no ssh", 22)]
    (proof,) = proofs(ruleset, {NAME: wrong[8443]}, {NAME: (drops_ssh,)}).values()
    (problem,) = proof.problems
    assert "8443" in problem.message and "8443 is dropped" in str(problem.hint)
    assert not proof.forced


def test_a_platform_that_cannot_tell_a_state_does_what_the_policy_says_of_the_state_it_sees(tmp_path: Path) -> None:
    """What the platform lets in beyond that is no difference, it is wrong."""
    ruleset, program = rendered(tmp_path, POLICY)
    blind = Difference(
        "no invalid",
        "BSD: nothing is invalid",
        (Region((Condition(Field.STATE, State.INVALID),)),),
        (("state", State.NEW),),
    )
    ignoring = replace(program, chains=tuple(replace(c, lines=tuple(map(_blind, c.lines))) for c in program.chains))
    (proof,) = proofs(ruleset, {NAME: ignoring}, {NAME: (blind,)}).values()
    assert not proof.problems and [f.difference.name for f in proof.forced] == ["no invalid"]
    (proof,) = proofs(ruleset, {NAME: ignoring}, {}).values()
    assert [p.code for p in proof.problems] == ["not-proved"]
    packet = Packet(Direction.INBOUND, TCP, ip_address("203.0.113.9"), ip_address("192.0.2.1"), 80)
    assert decide(ruleset, replace(packet, state=State.INVALID))[0] is Verdict.DROP


def _blind(line: Any) -> Any:
    """A line that takes what is invalid for what is new."""

    def seen(condition: Condition) -> Condition:
        if condition.field is not Field.STATE:
            return condition
        state = condition.value
        assert isinstance(state, State)
        without = state & ~State.INVALID & EVERY_STATE
        return replace(condition, value=without | State.INVALID if State.NEW in without else without)

    return replace(line, conditions=tuple(map(seen, line.conditions)))
