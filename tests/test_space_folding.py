"""Programs of hundreds of lines: what is worked out for them is what `evaluate` says packet by packet."""

from __future__ import annotations

from ipaddress import IPv4Address
from random import Random

import pytest

from portctl.evaluation import evaluate
from portctl.net import Ranges
from portctl.program import Accept, Action, Chain, Condition, Deny, Field, Hook, Jump, Line, Program, Return, SetMark
from portctl.ruleset import TCP, UDP, Direction, Packet
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
