"""Every packet: what pf's rules do is what the policy says, but for the differences that the platform forces.

`PORTCTL_POLICIES` is the number of generated policies for each dialect; `make nightly` asks for 500.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from portctl import backends, pipeline
from portctl.backends.base import Ability
from portctl.backends.pf.dialects import DIALECTS
from portctl.problems import has_errors
from portctl.ruleset import Ruleset
from portctl.space import proof
from tests import generate, golden_cases
from tests.pf_policies import enriched, fitting
from tests.pf_syntax import wrong

SEED = 11
COUNT = int(os.environ.get("PORTCTL_POLICIES", "10"))
EXAMPLES = sorted((Path(__file__).parent.parent / "policies").glob("*.yaml"))
OLD_AND_NEW = ("pf-freebsd13", "pf-freebsd15")
"""The two ways to translate; the other dialects lack no more than these."""


def unproved(name: str, ruleset: Ruleset, anchor: bool = False) -> list[str] | None:
    """What is not proved, in words; None for a policy that the dialect refuses."""
    backend, ability = backends.load(name), Ability(anchor=anchor)
    if has_errors(backend.gaps(ruleset, ability)):
        return None
    program = backend.parse(backend.render(ruleset, ability))
    found = proof.proofs(ruleset, {name: program}, {name: backend.differences(ruleset, ability)})
    return [f"{problem.message}: {problem.hint}" for problem in found[name].problems]


@pytest.fixture(scope="module")
def policies() -> list[generate.Plain]:
    return [enriched(number, plain) for number, plain in enumerate(generate.policies(SEED, COUNT))]


@pytest.mark.parametrize("name", backends.DIALECTS)
def test_generated_policies_are_proved(policies: list[generate.Plain], name: str) -> None:
    refused = 0
    for plain in policies:
        fit = fitting(plain, DIALECTS[name].sctp_ports, DIALECTS[name].groups)
        ruleset = generate.ruleset(fit)
        if ruleset is None:
            continue
        wrong = unproved(name, ruleset)
        assert not wrong, generate.text(fit)
        refused += wrong is None
    assert refused < len(policies) / 3


ODD: dict[str, generate.Plain] = {
    "a limited local port that a service admits without": {
        "services": {"ssh": {"ports": "ssh", "from": "any"}},
        "forwards": {"alt": {"ports": "2200/tcp", "from": "any", "in": "lan", "target": ":22", "max_connections": 3}},
    },
    "a target by one way out, what passes by another": {
        "services": {"ssh": {"ports": "ssh", "from": "any"}},
        "forwards": {
            "hairpin": {"ports": "80/tcp", "from": "any", "target": "10.0.0.5", "out": "lan", "masquerade": True},
            "nat": {"ports": "any", "from": "10.0.0.0/8", "in": "lan", "to": "any", "out": "wan", "masquerade": True},
        },
    },
    "a blocked destination behind a target and a new source": {
        "addresses": {"bans": {"live": True}},
        "services": {"ssh": {"ports": "ssh", "from": "any"}},
        "block": ["bans", {"to": "10.0.0.0/30", "except": "10.0.0.2", "ports": ["80/tcp", "ping"]}],
        "forwards": {
            "web": {"ports": "80/tcp", "from": "any", "target": "10.0.0.1", "out": "lan", "masquerade": True},
            "alt": {"ports": "81/tcp", "from": "any", "target": "10.0.0.2:80", "masquerade": "10.0.0.9"},
        },
    },
    "a limited target by one way out": {
        "services": {"ssh": {"ports": "ssh", "from": "any"}},
        "forwards": {
            "web": {"ports": "80/tcp", "from": "any", "target": "10.0.0.1", "out": "lan", "rate": "3/minute"},
        },
    },
    "a new source of one family, packets of both": {
        "services": {"ssh": {"ports": "ssh", "from": "any"}},
        "forwards": {
            "lan": {
                "ports": ["https", "ping"],
                "from": ["10.0.0.0/8", "2001:db8:1::/48"],
                "in": "lan",
                "to": "any",
                "out": "wan",
                "masquerade": "192.0.2.9",
            },
        },
    },
    "a limited target in place of a host behind, and a way there without": {
        "services": {"ssh": {"ports": "ssh", "from": "any"}},
        "forwards": {
            "web": {"ports": "80/tcp", "from": "any", "to": "10.0.0.9", "target": "10.0.0.1", "max_connections": 5},
            "way": {"ports": "80/tcp", "from": "any", "to": "10.0.0.0/8"},
        },
    },
    "live groups with long names that begin alike": {
        "addresses": {
            "a-live-group-with-a-long-name-1": {"live": True},
            "a-live-group-with-a-long-name-2": {"live": True},
        },
        "services": {"ssh": {"ports": "ssh", "from": "any"}},
        "block": [
            "a-live-group-with-a-long-name-1",
            {"from": "a-live-group-with-a-long-name-2", "ports": ["ssh", "ping", "esp"]},
            {"to": "a-live-group-with-a-long-name-2", "ports": "25/tcp"},
        ],
    },
}


@pytest.mark.parametrize("about", ODD)
@pytest.mark.parametrize("name", [name for name in backends.DIALECTS if name != "pf-macos"])
def test_what_generated_policies_seldom_say_is_proved(name: str, about: str) -> None:
    interfaces = {"lan": ["em1", "em2"], "wan": "em0"}
    defaults = {"inbound": "reject", "forward": "reject"}
    found = generate.ruleset(
        {"portctl": 1, "name": "odd", "interfaces": interfaces, "defaults": defaults, **ODD[about]}
    )
    assert found is not None
    assert unproved(name, found) == []
    assert not refused_lines(name, found)


def refused_lines(name: str, ruleset: Ruleset) -> list[str]:
    backend = backends.load(name)
    if has_errors(backend.gaps(ruleset, Ability())):
        return []
    lines = backend.render(ruleset, Ability())["pf.conf"].splitlines()
    return [
        f"{line}: {wrong(line, DIALECTS[name])}"
        for line in lines
        if line[:1] not in ("", "#") and wrong(line, DIALECTS[name])
    ]


@pytest.mark.parametrize("name", backends.DIALECTS)
def test_every_line_is_of_the_dialects_grammar(policies: list[generate.Plain], name: str) -> None:
    for plain in policies:
        ruleset = generate.ruleset(fitting(plain, DIALECTS[name].sctp_ports, DIALECTS[name].groups))
        assert ruleset is None or not refused_lines(name, ruleset)
    for case in golden_cases.cases():
        assert not refused_lines(name, golden_cases.compiled(case).ruleset), case


def test_the_grammar_refuses_what_pfctl_refuses() -> None:
    """Of the captured files, and of what parse.y says."""
    for dialect, line in (
        ("pf-freebsd13", "match in inet proto tcp from any to (self) port 80 tag x"),
        ("pf-freebsd13", "nat on em0 inet proto icmp from any to any icmp-type 8 tag x tagged y -> (em0:0)"),
        ("pf-freebsd13", "rdr inet proto tcp from any to 192.0.2.0/28 port 22 tag x -> 192.0.2.0/28 port 23"),
        ("pf-openbsd", "rdr inet proto tcp from any to 192.0.2.1 port 22 tag x -> 10.0.0.1 port 23"),
        ("pf-openbsd", "pass in quick proto sctp from any to any port 5000 keep state"),
        ("pf-freebsd15", "pass in quick proto icmp from any to any icmp-type 8 keep state"),
        ("pf-freebsd15", "block drop in quick from any to any keep state"),
        ("pf-freebsd15", "pass in quick from any to any port 80 keep state"),
        ("pf-freebsd15", "pass in quick inet proto tcp from 2001:db8::1 to any port 80 keep state"),
        ("pf-freebsd15", "match in from any to any tagged x rdr-to 10.0.0.1"),
        ("pf-freebsd15", "pass in quick from any to any keep state tagged x tagged y"),
        ("pf-freebsd15", "table <x> const { 10.0.0.1-10.0.0.9 }"),
    ):
        assert wrong(line, DIALECTS[dialect]), line


@pytest.mark.parametrize("name", OLD_AND_NEW)
def test_cases_and_examples_are_proved(name: str) -> None:
    for case in golden_cases.cases():
        assert not unproved(name, golden_cases.compiled(case).ruleset), case
    for path in EXAMPLES:
        assert not unproved(name, pipeline.compile(path, golden_cases.AT).ruleset), path


@pytest.mark.parametrize("name", backends.DIALECTS)
def test_rules_for_an_anchor_are_proved_and_hold_nothing_that_an_anchor_cannot(name: str) -> None:
    for case in ("port-forward", "limits", "web-server", "forward-keep", "office-ssh"):
        ruleset = golden_cases.compiled(golden_cases.FOLDER / case).ruleset
        if unproved(name, ruleset, anchor=True) is None:
            continue
        assert unproved(name, ruleset, anchor=True) == [], case
        text = backends.load(name).render(ruleset, Ability(anchor=True))["pf.conf"]
        head, _, rules = text.partition("\n\n")
        assert not [line for line in rules.splitlines() if line.startswith(("set ", "scrub", "#   ", "# anchors"))]
        assert not [line for line in rules.splitlines() if line[:1] not in ("", "#") and wrong(line, DIALECTS[name])]
        assert head.splitlines()[0].endswith(" for the anchor portctl. A change made here is lost; change the policy.")
        assert '#   anchor "portctl"' in head and "#   set skip on lo0" in head
        assert ('#   rdr-anchor "portctl"' in head) != DIALECTS[name].rules_translate
        assert ("#   set limit src-nodes" in head) == ("max-src-" in rules)
