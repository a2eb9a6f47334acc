"""The examples under policies/: each holds its own tests, and becomes bundles for every back end."""

from __future__ import annotations

from pathlib import Path

import pytest

from portctl import backends, expectations, pipeline
from portctl.backends.base import Ability
from portctl.problems import has_errors
from tests.golden_cases import AT

FOLDER = Path(__file__).parent.parent / "policies"
POLICIES = sorted(FOLDER.glob("*.yaml"))
LINUX = ("container-host", "router")
"""Examples of what only Linux can say: an engine's published ports, interfaces by prefix, `mss: path`."""
ROUTERS = ("bsd-router", "vpn")
"""Examples of what passes through, which the pf of macOS cannot tell."""
RATES = ("bastion", "mail")
"""Examples with a `rate`, which ipfw does not know."""


@pytest.mark.parametrize("path", POLICIES, ids=lambda path: path.stem)
def test_an_example_holds_its_tests_and_renders(path: Path) -> None:
    compiled = pipeline.compile(path, AT)
    assert compiled.problems == ()
    assert compiled.ruleset.expectations
    assert expectations.evaluate(compiled.ruleset) == []
    for name in backends.OFFERED:
        module = backends.load(name)
        lacks = (path.stem in LINUX and name not in backends.NAMES) or (path.stem in RATES and name == "ipfw")
        lacks |= path.stem in ROUTERS and name == "pf-macos"
        assert has_errors(module.gaps(compiled.ruleset, Ability())) is lacks, name
        if lacks:
            continue
        files = pipeline.render(compiled.ruleset, (name,), Ability())
        assert set(files) >= {f"{name}/load.sh", f"{name}/save.sh", f"{name}/remove.sh"}
        program = module.parse({part: files[f"{name}/{part}"] for part in module.PARTS if f"{name}/{part}" in files})
        assert not program.foreign


def test_the_examples_are_those_that_people_look_for() -> None:
    wanted = {"web", "mail", "dns", "bastion", "database", "router", "bsd-router", "vpn", "container-host"}
    assert wanted <= {path.stem for path in POLICIES}
    assert list((FOLDER / "shared").glob("*.yaml"))
