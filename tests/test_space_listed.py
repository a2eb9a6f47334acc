"""Long lists of addresses are compared as wholes, and what is then said of packets is as exact as without."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from ipaddress import ip_network
from pathlib import Path

import pytest

from portctl import backends, pipeline
from portctl.backends.base import Ability
from portctl.evaluation import evaluate
from portctl.net import Ranges
from portctl.program import Condition, Line, Program
from portctl.ruleset import Ruleset, decide
from portctl.space.proof import Proof, proofs

GOLDEN = Path(__file__).parent / "golden"
CASES = sorted(p.parent for p in GOLDEN.glob("*/policy.yaml") if p.parent.name != "bsd-router")  # the slowest
AT = datetime(2026, 11, 1, tzinfo=UTC)
NEVER = 1 << 40


def ruleset(path: Path) -> Ruleset:
    return pipeline.compile(path, AT).ruleset


def rendered(name: str, found: Ruleset) -> Program:
    backend = backends.load(name)
    return backend.parse(backend.render(found, Ability()))


def proof(name: str, found: Ruleset, program: Program, long: int) -> Proof:
    differences = backends.load(name).differences(found, Ability())
    return proofs(found, {name: program}, {name: differences}, long=long)[name]


@pytest.mark.parametrize("name", ["nftables", "iptables", "pf-freebsd", "pf-openbsd", "ipfw"])
@pytest.mark.parametrize("case", CASES[::4], ids=lambda p: p.name)
def test_even_the_shortest_lists_as_wholes_give_the_same_proof(case: Path, name: str) -> None:
    found = ruleset(case / "policy.yaml")
    if any(p.severity == "error" for p in backends.load(name).gaps(found, Ability())):
        return  # refused, as its own golden text says
    program = rendered(name, found)
    whole, walked = proof(name, found, program, 0), proof(name, found, program, NEVER)
    assert not whole.problems and not walked.problems
    assert [f.difference.heading for f in whole.forced] == [f.difference.heading for f in walked.forced]
    for forced in whole.forced:
        assert decide(found, forced.packet)[0] is not evaluate(program, forced.packet).verdict


def policy(tmp_path: Path, services: int) -> Ruleset:
    lines = [f"  s{n}: {{ports: {8000 + n % 3}/tcp, from: [{', '.join(networks(n))}]}}" for n in range(services)]
    path = tmp_path / "policy.yaml"
    path.write_text("\n".join(["portctl: 1", "name: lists", "services:", *lines]) + "\n")
    return ruleset(path)


def networks(service: int) -> list[str]:
    """40 networks that do not touch, of which neighbouring services share half."""
    return [f"10.{(service * 20 + n) // 200}.{(service * 20 + n) % 200}.0/28" for n in range(40)]


@pytest.mark.parametrize("name", ["nftables", "iptables", "pf-freebsd", "ipfw"])
def test_a_network_that_is_missing_from_a_long_list_is_named(tmp_path: Path, name: str) -> None:
    found = policy(tmp_path, 6)
    program = rendered(name, found)
    assert not proof(name, found, program, 64).problems
    missing = ip_network(networks(3)[30])
    hole = Ranges.of([(int(missing[0]), int(missing[-1]))])
    changed = replace(program, chains=tuple(replace(c, lines=tuple(map(holed(hole), c.lines))) for c in program.chains))
    assert changed != program
    problems = proof(name, found, changed, 64).problems
    assert [p.code for p in problems] == ["not-proved"]
    assert any(str(address) in problems[0].message for address in missing)


def holed(hole: Ranges) -> Callable[[Line], Line]:
    def without(line: Line) -> Line:
        return replace(line, conditions=tuple(map(narrowed, line.conditions)))

    def narrowed(condition: Condition) -> Condition:
        if isinstance(condition.value, Ranges) and len(condition.value.bounds) > 64:
            return replace(condition, value=condition.value - hole)
        return condition

    return without


def test_a_list_may_be_asked_in_pieces(tmp_path: Path) -> None:
    found = policy(tmp_path, 1)
    program = rendered("nftables", found)
    pieces = replace(program, chains=tuple(replace(c, lines=tuple(halves(c.lines))) for c in program.chains))
    assert pieces != program
    assert not proof("nftables", found, pieces, 8).problems


def halves(lines: tuple[Line, ...]) -> list[Line]:
    """Each line that asks a long list, once for its first half and once for the rest."""
    found: list[Line] = []
    for line in lines:
        long = [
            c for c in line.conditions if isinstance(c.value, Ranges) and len(c.value.bounds) > 64 and not c.negated
        ]
        if not long:
            found.append(line)
            continue
        asked = long[0]
        assert isinstance(asked.value, Ranges)
        for bounds in (asked.value.bounds[:40], asked.value.bounds[40:]):
            part = replace(asked, value=Ranges(bounds))
            found.append(replace(line, conditions=tuple(part if c is asked else c for c in line.conditions)))
    return found


def test_many_lists_for_one_port_are_walked_through(tmp_path: Path) -> None:
    lines = [f"  s{n}: {{ports: 443/tcp, from: [{', '.join(networks(n))}]}}" for n in range(80)]
    path = tmp_path / "policy.yaml"
    path.write_text("\n".join(["portctl: 1", "name: lists", "services:", *lines]) + "\n")
    found = ruleset(path)
    assert not proof("nftables", found, rendered("nftables", found), 64).problems
