"""What a load leaves is read back as what was wanted, in the words in which each pfctl lists it."""

from __future__ import annotations

import pytest

from portctl import backends
from portctl.backends.base import Ability
from portctl.backends.pf.dialects import DIALECTS
from portctl.plan import in_sync
from portctl.problems import has_errors
from portctl.ruleset import Ruleset
from tests import generate, golden_cases
from tests.pf_listing import FREEBSD, OPENBSD, listings
from tests.pf_policies import enriched, fitting

SEED = 23
COUNT = 12
ODD: generate.Plain = {
    "services": {
        "odd": {"ports": ["proto/33", "proto/97", "proto/46", "vrrp", "ospf", "ah", "proto/250"], "from": "any"},
        "both": {"ports": ["22/tcp", "53/udp"], "from": "any", "source_ports": ["123/udp", "20/tcp"]},
    },
    "egress": {"web": {"ports": ["http", "53/udp"], "to": "any", "user": "www"}},
    "defaults": {"outbound": "drop"},
}
"""Protocols that a database names, users by name."""


def synced(name: str, ruleset: Ruleset, anchor: bool = False) -> bool | None:
    """Whether what is listed after a load is what was wanted; None for a policy that the dialect refuses."""
    backend, ability = backends.load(name), Ability(anchor=anchor)
    if has_errors(backend.gaps(ruleset, ability)):
        return None
    files = backend.render(ruleset, ability)
    loaded = backend.parse(listings(files["pf.conf"], files, OPENBSD if name == "pf-openbsd" else FREEBSD))
    assert not loaded.foreign
    return in_sync(loaded, backend.parse(files))


@pytest.mark.parametrize("name", backends.DIALECTS)
def test_what_is_listed_is_what_was_loaded(name: str) -> None:
    found = []
    for case in golden_cases.cases():
        result = synced(name, golden_cases.compiled(case).ruleset)
        assert result is not False, case
        found.append(result)
    for number, plain in enumerate(generate.policies(SEED, COUNT)):
        fit = fitting(enriched(number, plain), DIALECTS[name].sctp_ports, DIALECTS[name].groups)
        ruleset = generate.ruleset(fit)
        result = None if ruleset is None else synced(name, ruleset)
        assert result is not False, generate.text(fit)
        found.append(result)
    assert found.count(True) > 20


@pytest.mark.parametrize("name", backends.DIALECTS)
def test_names_of_protocols_and_users_are_read_back(name: str) -> None:
    ruleset = generate.ruleset({"portctl": 1, "name": "odd", **ODD})
    assert ruleset is not None and synced(name, ruleset)
