"""Every packet: what the rules of nftables and iptables do is what the policy says, of policies that nobody wrote.

`PORTCTL_POLICIES` is the number of generated policies; `make nightly` asks for 500.
"""

from __future__ import annotations

import os

import pytest

from portctl import backends
from portctl.backends.base import Ability
from portctl.problems import has_errors
from portctl.space import proof
from tests import generate

COUNT = int(os.environ.get("PORTCTL_POLICIES", "60"))
MASQUERADED: generate.Plain = {
    "portctl": 1,
    "name": "x",
    "interfaces": {"wan": "wan0"},
    "forwards": {"internet": {"ports": "any", "from": "any", "out": "wan", "masquerade": True}},
    "defaults": {"forward": "keep"},
}
"""All that one interface sends: its name alone stands before the mark."""
GOVERNED: generate.Plain = {
    "portctl": 1,
    "name": "x",
    "interfaces": {"lan": "lan0"},
    "services": {"web": {"ports": "80-90/tcp", "from": "any"}},
    "forwards": {"ssh": {"ports": "ssh", "from": "any", "to": "203.0.113.0/24", "out": "lan", "max_connections": 5}},
    "defaults": {"forward": "drop", "published": "govern"},
}
"""What somebody else has turned is limited as a forward before it is admitted as a service."""


@pytest.mark.parametrize("name", ["nftables", "iptables"])
@pytest.mark.parametrize(("seed", "wide"), [(7, False), (11, False), (3, True)])
def test_generated_policies_are_proved(name: str, seed: int, wide: bool) -> None:
    found = [proved(name, plain) for plain in generate.policies(seed, COUNT, wide)]
    assert sum(found) > COUNT / 2


@pytest.mark.parametrize("name", ["nftables", "iptables"])
@pytest.mark.parametrize("plain", [MASQUERADED, GOVERNED], ids=["masqueraded", "governed"])
def test_odd_policies_are_proved(name: str, plain: generate.Plain) -> None:
    assert proved(name, plain)


def proved(name: str, plain: generate.Plain) -> bool:
    """False where the policy or the back end refuses it."""
    ruleset, backend, ability = generate.ruleset(plain), backends.load(name), Ability()
    if ruleset is None or has_errors(backend.gaps(ruleset, ability)):
        return False
    program = backend.parse(backend.render(ruleset, ability))
    found = proof.proofs(ruleset, {name: program}, {name: backend.differences(ruleset, ability)})[name]
    assert not found.problems, (found.problems[0].message, found.problems[0].hint, generate.text(plain))
    return True
