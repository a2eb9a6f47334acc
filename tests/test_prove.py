"""`portctl prove`, and that nothing unproved is planned."""

from __future__ import annotations

import json
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


def test_what_a_platform_forces_is_named_with_a_packet(policy: Path) -> None:
    policy.write_text(POLICY.replace(", rate: 3/minute", ""))
    said = run(str(policy), "--backend", "ipfw")
    assert said.exit_code == 0
    first, *rest = said.stdout.splitlines()
    assert first == f"{policy}: ipfw: proved for every packet, but for what the platform forces:"
    headings = (Path(__file__).parent.parent / "docs" / "platforms.md").read_text()
    for line in rest:
        heading, _, packet = line.strip().partition("; such as ")
        assert f"## {heading}\n" in headings and packet
    value = json.loads(run(str(policy), "--backend", "ipfw", "--format", "json").stdout)
    (proof,) = value["policies"][0]["backends"]
    assert proof["proved"] is True and len(proof["forced"]) == len(rest) > 2


def test_a_back_end_that_cannot_say_the_policy_is_named_and_fails_only_alone(policy: Path) -> None:
    said = run(str(policy))
    assert said.exit_code == 0
    assert f"{policy}: ipfw: cannot say it: ipfw cannot say this: how often somebody may connect" in said.stdout
    with pytest.raises(Problems, match="gap"):
        CliRunner().invoke(cli.build(["prove"]), ["prove", str(policy), "--backend", "ipfw"], catch_exceptions=False)


def test_a_hole_beside_what_the_platform_forces_is_shown(policy: Path) -> None:
    from portctl.backends.base import Ability

    policy.write_text(POLICY.replace(", rate: 3/minute", ""))
    ruleset = pipeline.compile(policy).ruleset
    for name in ("pf-freebsd", "pf-openbsd", "ipfw"):
        files = pipeline.render(ruleset, [name], Ability())
        wrong = {path: text.replace("198.51.100.0/24", "198.51.100.0/23") for path, text in files.items()}
        assert wrong != files
        with pytest.raises(Problems) as refused:
            pipeline.proved(ruleset, [name], wrong, Ability())
        assert "198.51.101." in refused.value.problems[0].message
