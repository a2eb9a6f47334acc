"""Programs of hundreds of lines: what is worked out for them is what `evaluate` says packet by packet."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from ipaddress import IPv4Address
from pathlib import Path
from random import Random

import pytest

from portctl.document import read
from portctl.evaluation import evaluate
from portctl.files import Files
from portctl.net import Ranges
from portctl.policy import validate
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
    Program,
    Return,
    SetMark,
    Translate,
)
from portctl.resolve import resolve
from portctl.ruleset import SYN, TCP, UDP, Direction, Packet, Verdict, decide
from portctl.space import Space

HOSTS = 64
PORTS = 40


def condition(random: Random) -> Condition:
    at = random.randrange(HOSTS)
    hosts = Ranges.of([(at, min(HOSTS, at + random.choice([0, 0, 3, 15])))])
    match random.randrange(6):
        case 0:
            return Condition(Field.SOURCE, hosts, random.random() < 0.2, 4)
        case 1:
            return Condition(Field.DESTINATION, hosts, random.random() < 0.2, 4)
        case 2:
            return Condition(Field.PORT, Ranges.single(random.randrange(PORTS)), random.random() < 0.1)
        case 3:
            return Condition(Field.IN, (f"eth{random.randrange(4)}",))
        case 4:
            return Condition(Field.MARK, (3, random.randrange(4)), random.random() < 0.5)
    return Condition(Field.PROTOCOL, Ranges.single(random.choice([TCP, UDP])))


def action(random: Random, chain: int, chains: int) -> Action:
    later = chain + random.randrange(1, 4)
    if later < chains and random.random() < 0.2:
        return Jump(f"c{later}", goto=random.random() < 0.3)
    ends: list[Action] = [Accept(), Deny(), Deny(True), Return(), SetMark(3, random.randrange(4))]
    return random.choice(ends)


def program(random: Random, chains: int = 4, lines: int = 35) -> Program:
    made = []
    for k in range(chains):
        body = [
            Line(tuple(condition(random) for _ in range(random.randrange(1, 4))), (action(random, k, chains),))
            for _ in range(lines)
        ]
        made.append(Chain("filter", f"c{k}", tuple(body), Hook("forward", 0, Deny()) if k == 0 else None, 4))
    return Program(tuple(made))


def packet(random: Random) -> Packet:
    source, destination = (IPv4Address(random.randrange(HOSTS + 2)) for _ in range(2))
    protocol = random.choice([TCP, UDP])
    interface = f"eth{random.randrange(5)}"
    port = random.randrange(PORTS)
    return Packet(Direction.FORWARDED, protocol, source, destination, port, 40000, interface, "eth9", local=False)


@pytest.mark.parametrize("seed", range(4))
def test_hundreds_of_lines_with_jumps_and_marks_do_what_they_do_with_each_packet(seed: int) -> None:
    random = Random(seed)
    long = program(random)
    partition = Space().of_program(long)
    for one in [packet(random) for _ in range(300)]:
        assert partition.at(one).verdicts == {evaluate(long, one).verdict}, one


def test_a_line_more_is_a_difference_and_the_same_lines_are_none() -> None:
    random = Random(7)
    long = program(random)
    space = Space()
    first, *others = long.chains
    closed = Program((Chain(first.table, first.name, (Line((), (Deny(),)), *first.lines), first.hook, 4), *others))
    here = Direction.FORWARDED
    open_, shut = (bool(space.of_program(each).accepted().along(here).of_families((4,))) for each in (long, closed))
    assert open_
    assert not shut
    unlike = bool(space.of_program(long).differing(space.of_program(Program(tuple(long.chains)))))
    assert not unlike


@pytest.mark.parametrize("seed", range(4))
def test_what_many_translations_turn_is_judged_by_where_it_goes_then(seed: int) -> None:
    random = Random(seed)
    long = program(random)
    turning = [Line((condition(random),), (turn(random),)) for _ in range(60)]
    nat = Chain("nat", "early", tuple(turning), Hook("prerouting", -100, Accept(), kind="nat"), 4)
    both = Program((nat, *long.chains))
    partition = Space().of_program(both)
    for one in [packet(random) for _ in range(400)]:
        here = replace(one, direction=random.choice([Direction.INBOUND, Direction.FORWARDED]))
        here = replace(here, local=here.direction is Direction.INBOUND)
        assert partition.at(here).verdicts == {evaluate(both, here).verdict}, here


def turn(random: Random) -> Translate:
    port = random.choice([None, random.randrange(PORTS)])
    return Translate("destination", IPv4Address(random.randrange(HOSTS)), port)


def test_a_policy_with_many_forwards_does_what_it_says_of_each_packet() -> None:
    """To one address with several ports, to one port of several addresses, and beside forwards without a target."""
    random = Random(3)
    targets = [(20 + n, ("tcp", "udp")[n % 2], n % 3, f"10.0.0.{10 + n % 17}:{n % 29 + 1}") for n in range(60)]
    entries = [
        f'f{port}: {{ports: {port}/{kind}, from: any, in: eth{device}, target: "{to}"}}'
        for port, kind, device, to in targets
    ]
    entries += [f"g{n}: {{ports: {n + 1}/tcp, from: any, to: 10.0.0.{10 + n}, in: eth0}}" for n in range(20)]
    entries += ["h: {ports: 100-300/tcp, from: any, target: 10.0.0.30}", "i: {ports: 90/udp, from: any, in: eth0}"]
    listed = [f"  {entry}" for entry in entries]
    text = "\n".join(["portctl: 1", "name: x", "defaults: {forward: drop}", DEVICES, "forwards:", *listed, ""])
    ruleset, _ = resolve(validate(read(text, "x")), datetime.now(UTC), Files(Path()))
    partition = Space().of_ruleset(ruleset)
    accepted = 0
    for one in [packet(random) for _ in range(3000)]:
        here = replace(one, direction=random.choice([Direction.INBOUND, Direction.FORWARDED]), flags=SYN)
        here = replace(here, local=here.direction is Direction.INBOUND, port=random.randrange(1, 110))
        here = replace(
            here, source=IPv4Address("203.0.113.9"), destination=IPv4Address(int(one.destination) + (10 << 24))
        )
        verdict, _ = decide(ruleset, here)
        accepted += verdict is Verdict.ACCEPT
        assert partition.at(here).verdicts == {verdict}, here
    assert accepted > 100


DEVICES = "interfaces: {eth0: eth0, eth1: eth1, eth2: eth2}"
