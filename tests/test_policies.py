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


@pytest.mark.parametrize("path", POLICIES, ids=lambda path: path.stem)
def test_an_example_holds_its_tests_and_renders(path: Path) -> None:
    compiled = pipeline.compile(path, AT)
    assert compiled.problems == ()
    assert compiled.ruleset.expectations
    assert expectations.evaluate(compiled.ruleset) == []
    for name in (*backends.NAMES, "ipfw"):
        module = backends.load(name)
        if has_errors(found := module.gaps(compiled.ruleset, Ability())):
            assert name == "ipfw" and all(problem.code == "gap" for problem in found)
            continue
        files = pipeline.render(compiled.ruleset, (name,), Ability())
        assert set(files) >= {f"{name}/load.sh", f"{name}/save.sh", f"{name}/remove.sh"}
        program = module.parse({part: files[f"{name}/{part}"] for part in module.PARTS if f"{name}/{part}" in files})
        assert not program.foreign


def test_the_examples_are_those_that_people_look_for() -> None:
    wanted = {"web", "mail", "dns", "bastion", "database", "router", "vpn", "container-host"}
    assert wanted <= {path.stem for path in POLICIES}
    assert list((FOLDER / "shared").glob("*.yaml"))
