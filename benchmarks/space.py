"""CPU seconds that the packet-space engine takes: `python benchmarks/space.py`."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from random import Random

from portctl.net import ANYWHERE, Addresses, Ranges
from portctl.program import Accept, Chain, Condition, Deny, Field, Hook, Jump, Line, Program
from portctl.ruleset import TCP, Flow, Kind, Rule, Ruleset, State, Verdict
from portctl.space import Space

DROP = Rule("default", Kind.DEFAULT, Verdict.DROP)
KNOWN = Rule("known", Kind.FIXED, Verdict.ACCEPT, states=State.ESTABLISHED | State.RELATED)


def networks(random: Random, count: int) -> Ranges:
    return Ranges.of((n << 8, (n << 8) + 255) for n in (random.getrandbits(24) for _ in range(count)))


def ruleset(rules: int, services: int, destinations: int = 0, entries: int = 1) -> Ruleset:
    """`rules` rules over `services` ports, each with its own sources; some to single addresses of this host."""
    random = Random(1)
    made = []
    for k in range(rules):
        place = ANYWHERE
        if destinations:
            place = Addresses(Ranges.single((10 << 24) + random.randrange(destinations)))
        made.append(
            Rule(
                f"s{k}",
                Kind.SERVICE,
                Verdict.ACCEPT if random.random() < 0.8 else Verdict.DROP,
                (Flow(TCP, Ranges.single(1 + k % services)),),
                source=Addresses(networks(random, entries)),
                destination=place,
                states=State.NEW,
                syn=True,
            )
        )
    last = (DROP,)
    return Ruleset("b", (KNOWN, *made, DROP), last, last)


def deep(chains: int, lines: int) -> Program:
    """Chains that many lines jump to, with sources, destinations, ports and interfaces mixed."""
    random = Random(2)

    def condition() -> Condition:
        match random.randrange(5):
            case 0:
                return Condition(Field.SOURCE, networks(random, 1), random.random() < 0.1, 4)
            case 1:
                return Condition(Field.DESTINATION, networks(random, 1), False, 4)
            case 2:
                return Condition(Field.PORT, Ranges.single(random.randrange(1, 500)))
            case 3:
                return Condition(Field.IN, (f"eth{random.randrange(6)}",))
        return Condition(Field.PROTOCOL, Ranges.single(TCP))

    made = []
    for k in range(chains):
        body = []
        for _ in range(lines):
            conditions = tuple(condition() for _ in range(random.choice([1, 2, 2, 3])))
            later = k + random.randrange(1, 8)
            jump = later < chains and random.random() < 0.15
            body.append(Line(conditions, (Jump(f"c{later}") if jump else random.choice([Accept(), Deny()]),)))
        hook = Hook("input", 0, Deny()) if k == 0 else None
        made.append(Chain("filter", f"c{k}", tuple(body), hook, 4))
    return Program(tuple(made))


def timed(title: str, work: Callable[[], object]) -> None:
    start = time.process_time()
    work()
    print(f"{time.process_time() - start:8.2f} s  {title}", flush=True)


def compare(one: Ruleset) -> None:
    space = Space()
    other = replace(one, inbound=(one.inbound[0], *one.inbound[2:]))
    assert space.of_ruleset(one) != space.of_ruleset(other)


def main() -> None:
    gc.disable()  # as the command line does
    for title, one in [
        ("1,000 rules, 100 services: two, compared", ruleset(1000, 100)),
        ("10,000 rules, 100 services: two, compared (at most 1)", ruleset(10000, 100)),
        ("10,000 rules, 1,000 services: two, compared (at most 1)", ruleset(10000, 1000)),
        ("… and 100 destinations", ruleset(10000, 1000, 100)),
        ("1,000 services of 200 sources", ruleset(1000, 1000, 0, 200)),
        ("a set of 1,000,000 networks", ruleset(1, 1, 0, 1_000_000)),
    ]:
        timed(title, partial(compare, one))
    many = deep(60, 100)
    timed("6,000 lines in 60 chains with jumps (at most 60)", lambda: Space().of_program(many))


if __name__ == "__main__":
    main()
