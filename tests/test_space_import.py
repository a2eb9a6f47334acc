"""Rule sets that others wrote become policies, with an account of every line; ways in and drift, exactly."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from portctl import backends, pipeline
from portctl.backends.base import Ability
from portctl.net import Addresses, Ranges
from portctl.program import Program
from portctl.ruleset import TCP, Direction, Flow, Ruleset
from portctl.space import Space, report, sides
from portctl.space.difference import Difference, differ
from portctl.space.guard import cut_off, drift
from portctl.space.importing import Imported, account_text, policy, untranslated
from portctl.space.questions import Query

AT = datetime(2026, 11, 1, tzinfo=UTC)
Resolve = Callable[[str], Ruleset]
SAVED = """\
*filter
:INPUT DROP [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
:bans - [0:0]
-A INPUT -i lo -j ACCEPT
-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A INPUT -p tcp --dport 22 -j bans
-A INPUT -s 10.0.0.0/8 -p tcp -m multiport --dports 22,80,443 -j ACCEPT
-A INPUT -p tcp --dport 443 -j ACCEPT
-A INPUT -s 10.0.0.0/8 -p udp --dport 53 -j ACCEPT
-A INPUT -s 10.0.0.0/8 -p tcp --dport 53 -j ACCEPT
-A INPUT -i eth1 -p tcp --dport 5432 -m comment --comment pg -j ACCEPT
-A INPUT -p icmp --icmp-type 8 -j ACCEPT
-A INPUT -p tcp --dport 8080 -m string --string foo --algo bm -j ACCEPT
-A INPUT -s 192.168.7.7 -j ACCEPT
-A bans -s 203.0.113.9 -j REJECT
-A bans -j RETURN
COMMIT
"""
POLICY = """\
portctl: 1
name: imported
interfaces:
  eth1: [eth1]
services:
  everything: {ports: any, from: 192.168.7.7}
  ssh: {ports: [ssh, domain, http], from: 10.0.0.0/8}
  https: {ports: [https, ping], from: 0.0.0.0/0}
  pg: {ports: postgresql, from: 0.0.0.0/0, in: eth1}
defaults: {forward: drop}
"""


@pytest.fixture
def resolve(tmp_path: Path) -> Resolve:
    def made(text: str) -> Ruleset:
        path = tmp_path / "policy.yaml"
        path.write_text(text)
        return pipeline.compile(path, AT).ruleset

    return made


def imported(resolve: Resolve, program: Program, families: tuple[int, ...]) -> tuple[Imported, Difference]:
    space = Space()
    nothing = resolve("portctl: 1\nname: nothing\ndefaults: {outbound: drop, forward: drop}\n")
    base = sides.of_ruleset(space, nothing, "nothing")
    side = sides.of_program(space, untranslated(program), "input")
    of = tuple(f for f in (4, 6) if f in families)
    made = policy("imported", side, base, program, of)
    again = sides.of_ruleset(space, resolve(made.text), "policy")
    return made, differ(sides.of_program(space, program, "input"), again, AT, of)


def test_a_saved_rule_set_becomes_the_policy_that_a_person_would_write(resolve: Resolve) -> None:
    made, left = imported(resolve, backends.load("iptables").parse({"rules.v4": SAVED}), (4,))
    assert made.text == POLICY
    assert made.unsaid == ()
    said = account_text(made.account)
    assert said.startswith("12 modelled, 1 approximated, 0 refused\n")
    assert "-m string --string foo" in said and "line 15" in said
    assert [c.kind for c in left.changes] == ["may close"]
    assert "8080/tcp" in report.in_words(left)


def test_a_translation_is_refused_by_name_and_seen_in_the_difference(resolve: Resolve) -> None:
    nat = (
        "*nat\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -i eth0 -p tcp --dport 81 -j DNAT --to-destination 10.0.0.5:80\n"
    )
    program = backends.load("iptables").parse({"rules.v4": f"{nat}COMMIT\n{SAVED}"})
    made, _ = imported(resolve, program, (4,))
    assert "a translation" in account_text(made.account)
    assert made.text == POLICY


SERVICES = [
    "services: {ssh: {ports: ssh, from: 10.0.0.0/8}, web: {ports: [http, https], from: any}}\n",
    'services: {dns: {ports: domain, from: [192.0.2.0/24, "2001:db8::/32"], to: 192.0.2.1}}\n',
    "interfaces: {lan: eth1}\nservices: {db: {ports: 5432/tcp, from: 10.0.0.0/8, except: 10.0.0.7, in: lan}}\n",
    "services: {web: {ports: http, from: any}}\ndefaults: {inbound: reject, outbound: drop}\n"
    "egress: {dns: {ports: domain, to: 192.0.2.53}, apt: {ports: https, to: any, user: _apt}}\n",
    "interfaces: {lan: eth1, wan: eth0}\nservices: {web: {ports: http, from: any}}\ndefaults: {forward: drop}\n"
    "forwards: {out: {ports: https, from: 10.0.0.0/8, in: lan, to: any, out: wan}}\n",
]


@pytest.mark.parametrize("name", backends.NAMES)
@pytest.mark.parametrize("text", SERVICES)
def test_a_policy_comes_back_from_what_was_rendered(resolve: Resolve, text: str, name: str) -> None:
    ruleset = resolve(f"portctl: 1\nname: t\n{text}")
    backend = backends.load(name)
    made, left = imported(resolve, backend.parse(backend.render(ruleset, Ability())), (4, 6))
    assert left.relation == "same" or not (left.changes or left.other), report.in_words(left) + made.text


def test_a_way_in_that_is_closed_afterwards_is_told_with_what_closes_it(resolve: Resolve) -> None:
    text = "portctl: 1\nname: t\nservices: {ssh: {ports: ssh, from: SOURCE}}\n"
    space = Space()
    before = sides.of_ruleset(space, resolve(text.replace("SOURCE", "any")), "before")
    after = sides.of_ruleset(space, resolve(text.replace("SOURCE", "198.51.100.0/24")), "after")
    ssh = (Flow(TCP, Ranges.single(22)),)
    inside = Query(Direction.INBOUND, ssh, Addresses.of("198.51.100.9"))
    outside = Query(Direction.INBOUND, ssh, Addresses.of("203.0.113.9"))
    assert cut_off([inside], after, before) == []
    (lost,) = cut_off([inside, outside], after, before)
    assert lost.open_before and lost.certain
    assert lost.text().startswith("inbound 22/tcp (ssh) from 203.0.113.9 is denied by default, such as inbound tcp")


def test_a_foreign_rule_that_decides_first_is_drift(resolve: Resolve) -> None:
    ruleset = resolve("portctl: 1\nname: t\nservices: {ssh: {ports: ssh, from: any}}\n")
    backend = backends.load("nftables")
    foreign = "table ip other {\n\tchain in {\n\t\ttype filter hook input priority -10; policy accept;\n"
    foreign += "\t\ttcp dport 22 ip saddr 203.0.113.0/24 drop\n\t}\n}\n"
    rendered = backend.render(ruleset, Ability())
    listing = {name: text + foreign for name, text in rendered.items()}
    space = Space()
    found = drift(
        sides.of_ruleset(space, ruleset, "policy"), sides.of_program(space, backend.parse(listing), "host"), AT
    )
    assert found.relation == "narrowed"
    assert "no longer open to 203.0.113.0/24: 22/tcp (ssh)  [ssh]" in report.in_words(found)
