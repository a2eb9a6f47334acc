"""What a reviewer reads first: what opens, what closes, in words, the widest first; and never a wrong line."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from portctl import backends, pipeline
from portctl.backends.base import Ability
from portctl.net import Addresses, Ranges
from portctl.program import Accept, Chain, Condition, Deny, Field, Hook, Line, Program
from portctl.ruleset import Verdict, decide, translate
from portctl.space import Space, report, sarif, sides
from portctl.space import difference as differences
from portctl.space.boxes import boxes, set_of
from portctl.space.difference import Difference
from portctl.space.internet import is_internet
from portctl.space.words import addresses_text, box_text
from tests import space_worlds as worlds

AT = datetime(2026, 11, 1, tzinfo=UTC)
BASE = """\
portctl: 1
name: web
addresses:
  office: [198.51.100.0/24, "2001:db8:10::/48"]
  bans: {live: true}
interfaces: {public: eth0}
services:
  ssh: {ports: ssh, from: office}
  web: {ports: [http, https], from: any, in: public}
block: [bans]
"""
Between = Callable[[str, str], Difference]


@pytest.fixture
def diff(tmp_path: Path) -> Between:
    def between(old: str, new: str) -> Difference:
        space, both = Space(), []
        for name, text in (("old", old), ("new", new)):
            path = tmp_path / f"{name}.yaml"
            path.write_text(text)
            both.append(sides.of_ruleset(space, pipeline.compile(path, AT).ruleset, name, text))
        return differences.differ(both[0], both[1], AT)

    return between


def lines(found: Difference) -> list[str]:
    return [line.strip() for line in report.in_words(found).splitlines()]


def test_the_widest_opening_comes_first(diff: Between) -> None:
    new = BASE.replace("from: office", "from: any").replace("[http, https]", "[http, https, 25/tcp]")
    new = new.replace("block:", "  db: {ports: 5432/tcp, from: 10.1.0.0/16}\nblock:")
    found = lines(diff(BASE, new))
    assert found[0] == "old -> new: widened: more is reachable"
    assert found[1] == "newly open to the Internet: 25/tcp (smtp); in on eth0  [web]"
    assert found[2] == "newly open to the Internet (everywhere except office): 22/tcp (ssh)  [ssh]"
    assert found[3] == "newly open to 10.1.0.0/16: 5432/tcp (postgresql)  [db]"
    assert len(found) == 4


def test_what_closes_is_named_by_the_entry_that_was_open(diff: Between) -> None:
    found = diff(BASE, BASE.replace("[http, https]", "https"))
    assert found.relation == "narrowed"
    assert "no longer open to the Internet: 80/tcp (http); in on eth0  [web]" in lines(found)
    assert not report.failed(found, "widened") and report.failed(found, "any")


def test_another_text_of_the_same_meaning_is_no_change(diff: Between) -> None:
    found = diff(BASE, BASE.replace("[http, https]", "[443/tcp, 80/tcp]"))
    assert found.relation == "text only"
    assert not found.changes and not report.failed(found, "any")
    assert "-  web: {ports: [http, https]" in "".join(report.text_diffs(found).values())


def test_the_same_text_is_the_same(diff: Between) -> None:
    assert diff(BASE, BASE).relation == "same"


def test_a_lifted_limit_is_told_although_no_new_source_gets_in(diff: Between) -> None:
    limited = BASE.replace("from: office}", "from: office, rate: 3/minute}")
    found = diff(limited, BASE)
    assert found.relation == "widened" and not found.changes
    assert "newly open to office: 22/tcp (ssh); beyond the limit  [ssh]" in lines(found)


def test_a_live_group_that_is_no_longer_blocked_is_told(diff: Between) -> None:
    found = diff(BASE, BASE.replace("block: [bans]\n", ""))
    assert found.relation == "widened"
    assert any("source in bans" in line for line in lines(found))


def test_dropping_in_place_of_rejecting_opens_nothing(diff: Between) -> None:
    found = diff(BASE, BASE + "defaults: {inbound: reject}\n")
    assert found.relation == "answers" and not found.changes
    assert not report.failed(found, "widened")


def test_outbound_and_forwarded_say_who_reaches_whom(diff: Between) -> None:
    closed = BASE + "defaults: {outbound: drop, forward: drop}\n"
    new = closed + "egress: {dns: {ports: domain, to: 192.0.2.53}}\n"
    new += 'forwards: {old: {ports: 8080/tcp, from: office, target: "10.0.0.5:80"}}\n'
    found = lines(diff(closed, new))
    assert "this host may newly reach 192.0.2.53: 53/tcp (domain), 53/udp (domain)  [dns]" in found
    assert "newly open to office (IPv4): 8080/tcp (http-alt); forwarded to 10.0.0.5:80  [old]" in found


def test_markdown_holds_no_text_of_the_policy_s_making(diff: Between) -> None:
    found = report.markdown(diff(BASE, BASE.replace("from: office", "from: any")))
    assert "| **newly open to the Internet (everywhere except office)** | 22/tcp (ssh) |  | ssh |" in found
    assert found.count("```") == 2


def test_json_and_sarif_say_where(diff: Between) -> None:
    found = diff(BASE, BASE.replace("from: office", "from: any"))
    value = json.loads(report.as_json(found))
    assert value["relation"] == "widened" and value["internet"] is True
    change = value["changes"][0]
    assert change["entry"] == "ssh" and change["port_ranges"] == [[22, 22]] and change["where"]["line"] == 8
    run = json.loads(sarif.sarif(found))["runs"][0]
    assert run["results"][0]["level"] == "error"
    assert run["results"][0]["locations"][0]["physicalLocation"]["region"]["startLine"] == 8


def listing(*made: Line) -> Program:
    return Program((Chain("filter", "INPUT", made, Hook("input", 0, Deny()), 4),))


def test_what_cannot_be_known_is_named_by_its_line() -> None:
    ssh = Condition(Field.PORT, Addresses.of("0.0.0.22").v4)
    text = Condition(Field.UNKNOWN, "-m string --string x")
    space = Space()
    old = sides.of_program(space, listing(), "old")
    line = Line((ssh, text), (Accept(),), "-A INPUT -m string --string x --dport 22 -j ACCEPT", number=7)
    found = differences.differ(old, sides.of_program(space, listing(line), "new"))
    assert found.relation == "uncertain"
    assert "depends on line 7: -A INPUT -m string" in report.in_words(found)
    again = sides.of_program(space, listing(line), "again")
    assert differences.differ(sides.of_program(space, listing(line), "new"), again).relation == "same"


def test_what_no_host_sends_is_no_place_that_it_no_longer_reaches() -> None:
    """A rule that keeps the addresses of the loopback interface off the wire, as rc.firewall of FreeBSD begins with."""
    sources = Condition(Field.SOURCE, Addresses.of("127.0.0.0/8").v4, family=4)
    space, kept = Space(), Line((sources, Condition(Field.OUT, ("lo",), negated=True)), (Deny(),), "martians")
    chains = (Chain("filter", "OUTPUT", lines, Hook("output", 0)) for lines in ((), (kept,)))
    both = [
        sides.of_program(space, Program((chain,)), name) for name, chain in zip(("old", "new"), chains, strict=True)
    ]
    found = differences.differ(both[0], both[1], AT)
    assert found.relation == "narrowed" and lines(found)[1] == "beside ordinary new connections:"


def test_many_lines_of_one_chain_that_cannot_be_known_are_named_together() -> None:
    mine = [
        Line(
            (Condition(Field.SOURCE, Ranges.single(0x0A000000 + number), family=4), Condition(Field.UNKNOWN, "mac")),
            (Accept(),),
            f"-A INPUT -s 10.0.0.{number} -m mac -j ACCEPT",
            number=number,
        )
        for number in range(1, 101)
    ]
    space = Space()
    loose, strict = (sides.of_program(space, listing(*each), "x") for each in (mine, mine[:0]))
    found = differences.differ(strict, loose)
    assert found.relation == "uncertain"
    assert "depends on line 1: -A INPUT -s 10.0.0.1 -m mac -j ACCEPT (or one of 99 such lines" in report.text(found)
    assert len(space.steps) == 1
    assert differences.differ(loose, sides.of_program(space, listing(*mine[1:]), "y")).relation == "uncertain"


def test_a_known_line_among_many_that_nobody_can_know_is_not_overlooked() -> None:
    macs = [
        Line((Condition(Field.UNKNOWN, f"mac {number}"),), (Accept(),), f"-A INPUT -m mac {number} -j ACCEPT")
        for number in range(40)
    ]
    end = Line((), (Deny(),), "-A INPUT -j DROP")
    space = Space()
    early, late = (sides.of_program(space, listing(*macs[:at], end, *macs[at:]), "x") for at in (1, len(macs)))
    assert differences.differ(early, late).relation == "uncertain"


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(0, 2**63))
def test_boxes_are_the_set_and_examples_lie_in_it(seed: int) -> None:
    random = Random(seed)
    one, two = worlds.ruleset(random), worlds.ruleset(random)
    space = Space()
    opened = space.of_ruleset(two).accepted() - space.of_ruleset(one).accepted()
    again = space.nothing()
    for box in boxes(opened):
        again = again | set_of(space, box)
        assert box_text(box)
    assert again == opened


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(0, 2**63))
def test_each_change_is_confirmed_by_its_example(seed: int) -> None:
    random = Random(seed)
    one, two = worlds.ruleset(random), worlds.ruleset(random)
    space = Space()
    found = differences.differ(sides.of_ruleset(space, one, "one"), sides.of_ruleset(space, two, "two"))
    for change in (*found.changes, *found.other):
        before, after = decide(one, change.example)[0], decide(two, change.example)[0]
        if change.kind == "turned":
            went, goes = translate(one, change.example), translate(two, change.example)
            assert before is after is Verdict.ACCEPT
            assert (went.direction, went.destination, went.port) != (goes.direction, goes.destination, goes.port)
            continue
        assert (before is Verdict.ACCEPT) == (change.kind == "closed"), change
        assert (after is Verdict.ACCEPT) == (change.kind == "opened"), change


@pytest.mark.parametrize(
    ("members", "said"),
    [
        (("0.0.0.0/0", "::/0"), "everywhere"),
        (("0.0.0.0-9.255.255.255", "11.0.0.0-255.255.255.255", "::/0"), "everywhere except 10.0.0.0/8"),
        (("0.0.0.0/0",), "every IPv4 address"),
        (("198.51.100.0/24", "192.0.2.7"), "office, 192.0.2.7"),
        (("198.51.100.0-198.51.100.65", "198.51.100.67-198.51.100.255"), "office (but 198.51.100.66)"),
    ],
)
def test_addresses_are_said_as_shortly_as_they_can(members: tuple[str, ...], said: str) -> None:
    assert addresses_text(Addresses.of(*members), (("office", Addresses.of("198.51.100.0/24")),)) == said


def test_private_networks_are_not_the_internet() -> None:
    assert not is_internet(Addresses.of("10.0.0.0/8", "192.168.0.0/16", "fc00::/7"))
    assert is_internet(Addresses.of("0.0.0.0/1"))
    assert is_internet(Addresses.of("2000::/4"))
    assert not is_internet(Addresses.of("8.0.0.0/8"))


GOLDEN = Path(__file__).parent / "golden"


@pytest.mark.parametrize("case", ["forward-keep", "forward-over-service", "port-forward"])
def test_what_is_rendered_turns_packets_where_the_policy_does(case: str) -> None:
    ruleset = pipeline.compile(GOLDEN / case / "policy.yaml", AT, GOLDEN).ruleset
    assert ruleset.translations
    for name, gaps in pipeline.sayable(ruleset, backends.OFFERED, Ability()).items():
        if not gaps:
            space, backend = Space(), backends.load(name)
            program = backend.parse(backend.render(ruleset, Ability()))
            both = sides.of_ruleset(space, ruleset, "policy"), sides.of_program(space, program, name)
            found = differences.differ(*both)
            assert not [change for change in found.changes if change.kind == "turned"], name
