"""What a question leaves out of a program changes no answer to it."""

from __future__ import annotations

from random import Random

import pytest

from portctl import backends
from portctl.net import ANYWHERE, Addresses
from portctl.resolve import spoken
from portctl.ruleset import Direction
from portctl.space import Space
from portctl.space.narrowing import narrowed
from portctl.space.questions import Query, query_set
from tests import space_worlds


def question(random: Random) -> Query:
    direction = random.choice(list(Direction))
    inward = (random.choice(space_worlds.INTERFACES),) if random.random() < 0.3 else ()
    outward = (random.choice(space_worlds.INTERFACES),) if random.random() < 0.3 else ()
    return Query(
        direction,
        space_worlds.flows(random) if random.random() < 0.8 else None,
        space_worlds.addresses(random) if random.random() < 0.8 else ANYWHERE,
        space_worlds.addresses(random) if random.random() < 0.8 else ANYWHERE,
        () if direction is Direction.OUTBOUND else inward,
        () if direction is Direction.INBOUND else outward,
    )


@pytest.mark.parametrize("seed", range(120))
def test_a_question_is_answered_by_the_lines_that_its_packets_meet(seed: int) -> None:
    random = Random(seed)
    program = space_worlds.program(random, unknown=seed % 2 == 1)
    space = Space()
    whole = space.of_program(program)
    for _ in range(4):
        query = question(random)
        meant = query_set(space, query)
        part = space.of_program(narrowed(program, query))
        assert part.accepted() & meant == whole.accepted() & meant
        assert part.maybe_accepted() & meant == whole.maybe_accepted() & meant
        assert part.dropped() & meant == whole.dropped() & meant
        assert part.uncertain() & meant == whole.uncertain() & meant


FORWARDING = """\
*nat
:PREROUTING ACCEPT [0:0]
-A PREROUTING -d 203.0.113.1/32 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 192.0.2.9:80
COMMIT
*filter
:FORWARD DROP [0:0]
-A FORWARD -d 192.0.2.9/32 -o dmz0 -p tcp -m tcp --dport 80 -j ACCEPT
-A FORWARD -d 192.0.2.10/32 -j ACCEPT
COMMIT
"""


def test_where_translations_lead_is_met_too() -> None:
    program = backends.load("iptables").parse({"rules.v4": FORWARDING})
    asked = Query(Direction.INBOUND, spoken.flows("8080/tcp"), ANYWHERE, Addresses.of("203.0.113.1"))
    _, forward = narrowed(program, asked).chains
    assert ["192.0.2.9" in line.text for line in forward.lines] == [True]
    space = Space()
    meant = query_set(space, asked)
    assert space.of_program(narrowed(program, asked)).accepted() & meant == space.of_program(program).accepted() & meant
    assert space.of_program(program).accepted() & meant


def test_of_thousands_of_lines_few_are_left() -> None:
    lines = "".join(
        f"-A FORWARD -s 10.0.{n // 250}.{n % 250}/32 -p tcp -m tcp --dport 22 -j ACCEPT\n" for n in range(2000)
    )
    lines += "-A FORWARD ! -s 10.0.0.0/16 -j ACCEPT\n-A FORWARD -i lo -j ACCEPT\n"
    rules = f"*filter\n:FORWARD DROP [0:0]\n{lines}COMMIT\n"
    program = backends.load("iptables").parse({"rules.v4": rules})
    asked = Query(Direction.FORWARDED, spoken.flows("22/tcp"), Addresses.of("10.0.3.7"))
    (chain,) = narrowed(program, asked).chains
    assert [line.text for line in chain.lines] == ["-A FORWARD -s 10.0.3.7/32 -p tcp -m tcp --dport 22 -j ACCEPT"]
    (chain,) = narrowed(program, Query(Direction.FORWARDED, spoken.flows("23/tcp"))).chains
    assert [line.text for line in chain.lines] == ["-A FORWARD ! -s 10.0.0.0/16 -j ACCEPT"]
