"""The packet-space engine says of every packet of small worlds what `decide` and `evaluate` say of it."""

from __future__ import annotations

import os
from dataclasses import replace
from itertools import product
from random import Random

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from portctl.evaluation import evaluate
from portctl.net import Ranges
from portctl.program import (
    Accept,
    Action,
    Chain,
    Condition,
    Deny,
    Field,
    Hook,
    Jump,
    Line,
    Lookup,
    Note,
    Program,
    Unknown,
)
from portctl.ruleset import ICMP, LOOPBACK, TCP, UDP, Direction, Packet, Verdict, decide
from portctl.space import Space
from portctl.space.dimensions import PORT, PROTOCOL, USER, name_number
from portctl.space.sets import possible
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


def told(random: Random, program: Program) -> Program:
    """The program where everything unknown has come out one way."""

    def certain(conditions: tuple[Condition, ...]) -> tuple[Condition, ...]:
        either = Ranges((4, 7)) if random.random() < 0.5 else Ranges()
        return tuple(Condition(Field.FAMILY, either) if c.field is Field.UNKNOWN else c for c in conditions)

    def known(action: Action) -> Action:
        choices: list[Action] = [Accept(), Deny(), Deny(True), Note("")]
        return random.choice(choices) if isinstance(action, Unknown) else action

    def line(one: Line) -> Line:
        actions: list[Action] = []
        for action in map(known, one.actions):
            if isinstance(action, Lookup):
                action = Lookup(tuple((certain(c), known(found)) for c, found in action.entries))
            actions.append(action)
        return replace(one, conditions=certain(one.conditions), actions=tuple(actions))

    return Program(tuple(replace(c, lines=tuple(map(line, c.lines))) for c in program.chains))


@thorough
@given(st.integers(0, 2**63))
def test_whatever_the_unknown_comes_out_to_be_was_said_to_be_possible(seed: int) -> None:
    random = Random(seed)
    program = worlds.program(random, unknown=True)
    partition = Space().of_program(program, worlds.OWN)
    for _ in range(4):
        one = told(random, program)
        for _ in range(4):
            packet = worlds.packet(random)
            assert evaluate(one, packet, worlds.OWN).verdict in partition.at(packet).verdicts, packet


@settings(max_examples=20, deadline=None, derandomize=True)
@given(st.integers(0, 2**63))
def test_every_packet_of_a_tiny_world_is_judged_alike(seed: int) -> None:
    random = Random(seed)
    ruleset = worlds.ruleset(random)
    partition = Space().of_ruleset(ruleset)
    accepted = partition.accepted()
    for direction, protocol, place, port, state, interface, over in product(
        Direction, (TCP, UDP, ICMP), worlds.V4[1:5], (22, 80), worlds.STATES, ("eth0", LOOPBACK), (False, True)
    ):
        packet = Packet(
            direction, protocol, place, worlds.V4[2], port, state=state, interface=interface, over_limit=over
        )
        verdict = decide(ruleset, packet)[0]
        assert partition.at(packet).verdicts == {verdict}, packet
        assert (packet in accepted) == (verdict is Verdict.ACCEPT)


def test_a_limit_may_hold_or_not_where_it_is_named() -> None:
    line = Line((Condition(Field.LIMIT, "5/minute"),), (Accept(),), "limited")
    program = Program((Chain("filter", "INPUT", (line,), Hook("input", 0, Deny())),))
    packet = Packet(Direction.INBOUND, TCP, worlds.V4[1], worlds.V4[2], 22)
    assert Space().of_program(program).at(packet).verdicts == {Verdict.ACCEPT}
    named = Space(named_limits=True).of_program(program)
    assert named.at(packet).verdicts == {Verdict.ACCEPT, Verdict.DROP}
    (step,) = named.depends(packet)
    assert step.line is line


def test_equal_sets_are_equal_however_they_were_made() -> None:
    space = Space()
    port = {PROTOCOL: Ranges.single(TCP), PORT: Ranges((10, 30))}
    low, high = {**port, PORT: Ranges((10, 20))}, {**port, PORT: Ranges((20, 30))}
    whole = space.boxes([(Direction.INBOUND, port)])
    assert space.boxes([(Direction.INBOUND, high), (Direction.INBOUND, low)]) == whole
    one = space.boxes([(Direction.INBOUND, low)])
    assert whole - one == space.boxes([(Direction.INBOUND, high)]) and one <= whole and not whole <= one
    assert (whole - one) | one == whole and not (whole - one) & one
    assert hash(whole) == hash((whole - one) | one)


def test_chains_that_call_each_other_forever_are_unknown_not_endless() -> None:
    def chain(name: str, to: str, hook: Hook | None = None) -> Chain:
        return Chain("filter", name, (Line((), (Jump(to),)),), hook)

    round_and_round = Program((chain("INPUT", "a", Hook("input", 0)), chain("a", "b"), chain("b", "a")))
    packet = Packet(Direction.INBOUND, TCP, worlds.V4[1], worlds.V4[2], 22)
    assert len(Space().of_program(round_and_round).at(packet).verdicts) == 3
    deep = [chain(f"c{k}", f"c{k + 1}") for k in range(500)]
    downward = Program((chain("INPUT", "c0", Hook("input", 0)), *deep))
    assert len(Space().of_program(downward).at(packet).verdicts) == 3


def test_what_exists_of_a_set_asks_for_an_owner_only_where_the_set_does() -> None:
    """Both ways of asking agree on every packet without an owner, and on all of them where the set asks for one."""
    space = Space()
    ssh = space.boxes([(None, {PORT: Ranges.single(22)})])
    owned = ssh & space.boxes([(None, {USER: Ranges.single(name_number("www"))})])
    plain = space.boxes([(None, {USER: Ranges.single(0)})])
    assert possible(space, ssh) & plain == ssh & possible(space) & plain
    assert USER not in possible(space, ssh).dimensions()
    assert possible(space, owned) == owned & possible(space)
    assert not possible(space, owned).along(Direction.INBOUND) and possible(space, owned)
