"""`portctl prove`, and that nothing unproved is planned."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from portctl import backends, cli, pipeline, plan
from portctl.observe import Facts
from portctl.problems import Problems
from portctl.program import Program

POLICY = """\
portctl: 1
name: test
services:
  ssh: {ports: ssh, from: 198.51.100.0/24, rate: 3/minute}
  web: {ports: [http, https], from: any}
"""


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    path = tmp_path / "policy.yaml"
    path.write_text(POLICY)
    return path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli.build(["prove"]), ["prove", *arguments])


def test_each_back_end_is_named_as_proved(policy: Path) -> None:
    said = run(str(policy))
    assert said.exit_code == 0
    lines = said.stdout.splitlines()
    assert [f"{policy}: {name}: proved for every packet" in lines for name in backends.NAMES] == [True, True]
    for name in (name for name in backends.OFFERED if name.startswith("pf-")):
        assert f"{policy}: {name}: proved for every packet, but for what the platform forces:" in lines
    assert not any("NOT PROVED" in line for line in lines)
    assert len(run(str(policy), "--backend", backends.NAMES[0]).stdout.splitlines()) == 1


def test_an_unknown_back_end_is_refused(policy: Path) -> None:
    with pytest.raises(Problems, match="unknown-backend"):
        CliRunner().invoke(cli.build(["prove"]), ["prove", str(policy), "--backend", "no"], catch_exceptions=False)


@pytest.mark.parametrize("name", backends.NAMES)
def test_a_text_that_says_something_else_is_refused_with_a_packet(policy: Path, name: str) -> None:
    from portctl.backends.base import Ability

    ruleset = pipeline.compile(policy).ruleset
    files = pipeline.render(ruleset, [name], Ability())
    wrong = {path: text.replace("198.51.100.0/24", "198.51.100.0/25") for path, text in files.items()}
    assert wrong != files
    with pytest.raises(Problems) as refused:
        pipeline.proved(ruleset, [name], wrong, Ability())
    (problem,) = refused.value.problems
    assert problem.code == "not-proved" and "198.51.100." in problem.message
    assert problem.span is not None and problem.span.line == 4 and f"{name}:" in str(problem.hint)


@pytest.mark.parametrize("name", backends.NAMES)
def test_a_plan_is_refused_unless_what_it_loads_is_proved(policy: Path, name: str) -> None:
    backend = backends.load(name)
    desired = plan.desire(pipeline.compile(policy).ruleset, backend, Facts("Linux", tools=(("ipset", "7"),)))
    plan.prove(desired, backend)
    with pytest.raises(Problems, match="not-proved"):
        plan.prove(replace(desired, program=Program(())), backend)
    boot = {path: text.replace("198.51.100.0/24", "0.0.0.0/0") for path, text in desired.boot_bundle.items()}
    with pytest.raises(Problems, match="the minimal"):
        plan.prove(replace(desired, boot_bundle=boot), backend)
