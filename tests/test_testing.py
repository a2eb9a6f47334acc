"""`portctl test`: the policy's tests on every text, and what they would not miss."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from portctl import backends, cli, pipeline
from portctl.backends.base import Ability
from portctl.cli.testing import unlike

POLICY = """\
portctl: 1
name: test
services:
  ssh: {ports: ssh, from: 198.51.100.0/24}
  web: {ports: [http, https], from: any}
tests:
  - {from: 203.0.113.9, ports: ssh, expect: deny}
  - {from: 198.51.100.0/24, ports: ssh, expect: allow}
"""


POLICIES = Path(__file__).parent.parent / "policies"


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    path = tmp_path / "policy.yaml"
    path.write_text(POLICY)
    return path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli.build(["test"]), ["test", *arguments])


def test_they_hold_on_the_policy_and_on_each_text(policy: Path) -> None:
    said = run(str(policy))
    assert said.exit_code == 0
    assert said.stdout == f"{policy}: 2 tests, on the policy, {', '.join(backends.OFFERED)}: hold\n"


def test_a_test_that_fails_is_told(policy: Path) -> None:
    policy.write_text(POLICY.replace("ssh, expect: deny", "http, expect: deny"))
    said = run(str(policy))
    assert said.exit_code == 1 and "1 failure" in said.stdout
    assert said.stderr.count("error[failed-test]") == 1


@pytest.mark.parametrize("path", sorted(POLICIES.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_example_policies_hold_on_each_text(path: Path) -> None:
    assert run(str(path)).exit_code == 0


def test_what_no_test_would_miss_is_named(policy: Path) -> None:
    said = run(str(policy), "--mutate")
    assert said.exit_code == 1
    assert f"no test would miss it: without `web` (service)  ({policy}:5)" in said.stdout
    assert "`ssh`" not in said.stdout
    policy.write_text(POLICY + "  - {from: any, service: web, expect: allow}\n")
    said = run(str(policy), "--mutate")
    assert said.exit_code == 0 and "every entry and condition would be missed" in said.stdout


@pytest.mark.parametrize("name", backends.NAMES)
def test_a_text_that_does_something_else_fails_the_tests_that_speak_of_it(policy: Path, name: str) -> None:
    ruleset, other = pipeline.compile(policy).ruleset, POLICY.replace("ssh, from: 198.51.100.0/24", "ssh, from: any")
    policy.write_text(other)
    backend = backends.load(name)
    program = backend.parse(backend.render(pipeline.compile(policy).ruleset, Ability()))
    (problem,) = unlike(ruleset, {name: program}, {})
    assert problem.span is not None and problem.span.line == 7 and "203.0.113.9" in problem.message
