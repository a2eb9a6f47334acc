"""`portctl diff`: policies, rendered files, saved rule sets, and what git has."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from portctl import backends, cli
from portctl.hosts import process

OLD = """\
portctl: 1
name: test
services:
  ssh: {ports: ssh, from: 198.51.100.0/24}
"""
NEW = OLD.replace("198.51.100.0/24", "any")
SAVED = """\
*filter
:INPUT DROP [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
-A INPUT -p tcp -m tcp --dport 22 -j ACCEPT
COMMIT
"""


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Path]:
    before = Path.cwd()
    os.chdir(tmp_path)
    (tmp_path / "old.yaml").write_text(OLD)
    (tmp_path / "new.yaml").write_text(NEW)
    yield tmp_path
    os.chdir(before)


def run(*arguments: str, command: str = "diff") -> Result:
    return CliRunner().invoke(cli.build([command]), [command, *arguments])


def git(*arguments: str) -> None:
    who = ("-c", "user.name=test", "-c", "user.email=test@example.net")
    found = process.run(("git", *who, *arguments))
    assert found.ok, found.stderr


@pytest.mark.usefixtures("here")
def test_the_words_come_first_then_the_text() -> None:
    said = run("old.yaml", "new.yaml")
    assert said.exit_code == 1
    lines = said.stdout.splitlines()
    assert lines[0] == "old.yaml -> new.yaml: widened: more is reachable"
    assert lines[1].startswith("  newly open to the Internet (everywhere except 198.51.100.0/24): 22/tcp (ssh)")
    assert "+  ssh: {ports: ssh, from: any}" in lines
    assert run("new.yaml", "new.yaml").exit_code == 0


@pytest.mark.usefixtures("here")
def test_it_fails_only_for_what_it_is_asked_to() -> None:
    assert run("new.yaml", "old.yaml").exit_code == 1
    assert run("new.yaml", "old.yaml", "--fail-on", "widened").exit_code == 0
    assert run("old.yaml", "new.yaml", "--fail-on", "internet").exit_code == 1


@pytest.mark.usefixtures("here")
def test_programs_read_it_too() -> None:
    assert json.loads(run("old.yaml", "new.yaml", "--format", "json").stdout)["relation"] == "widened"
    found = json.loads(run("old.yaml", "new.yaml", "--format", "sarif").stdout)
    assert found["runs"][0]["results"][0]["ruleId"] == "opened-internet"
    assert run("old.yaml", "new.yaml", "--format", "markdown").stdout.startswith("### old.yaml → new.yaml")


@pytest.mark.parametrize("name", backends.NAMES)
@pytest.mark.usefixtures("here")
def test_a_policy_is_what_it_renders_to(name: str) -> None:
    assert run("old.yaml", "--backend", name, "--output", "out", command="render").exit_code == 0
    said = run("old.yaml", f"out/{name}")
    assert said.exit_code == 0 and "the meaning does not" in said.stdout
    files = ",".join(f"out/{name}/{part}" for part in backends.load(name).PARTS if Path(f"out/{name}/{part}").exists())
    assert run(files, "out").exit_code == 0
    assert run(files, "new.yaml", "--fail-on", "internet").exit_code == 1


def test_a_saved_rule_set_speaks_of_its_family_alone(here: Path) -> None:
    (here / "saved").write_text(SAVED)
    said = run("new.yaml", "saved")
    assert "rules of IPv4 alone" in said.stderr
    assert "no longer open to" in said.stdout and "22/tcp" not in said.stdout.split("beside")[0]


@pytest.mark.usefixtures("here")
def test_git_compares_with_what_was_committed(here: Path) -> None:
    git("init", "-q")
    (here / "gone.yaml").write_text(OLD)
    (here / "web.yaml").write_text(OLD + "include: [more.yaml]\n")
    (here / "more.yaml").write_text("services: {web: {ports: http, from: any}}\n")
    git("add", ".")
    git("commit", "-qm", "one")
    assert run("--git", "HEAD").stdout == "no difference\n"
    (here / "gone.yaml").unlink()
    (here / "more.yaml").write_text("services: {web: {ports: [http, 8080/tcp], from: any}}\n")
    (here / "fresh.yaml").write_text(OLD)
    said = run("--git", "HEAD")
    assert said.exit_code == 1
    heads = [line for line in said.stdout.splitlines() if " -> " in line]
    assert heads == [
        "fresh.yaml (not in HEAD) -> fresh.yaml: widened: more is reachable",
        "gone.yaml (HEAD) -> gone.yaml (taken away): narrowed: less is reachable",
        "web.yaml (HEAD) -> web.yaml: widened: more is reachable",
    ]
    assert "newly open to the Internet: 8080/tcp" in said.stdout
    assert not process.run(("git", "status", "--porcelain", "--", "old.yaml")).stdout
    value = json.loads(run("--git", "HEAD", "gone.yaml", "--format", "json").stdout)
    (closed,) = value["differences"][0]["changes"]
    assert closed["where"]["file"] == "gone.yaml"


@pytest.mark.usefixtures("here")
def test_what_does_not_compile_is_said_and_the_rest_compared(here: Path) -> None:
    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "one")
    (here / "new.yaml").write_text("portctl: 1\nname: [\n")
    (here / "old.yaml").write_text(NEW)
    said = run("--git", "HEAD", ".")
    assert said.exit_code == 2 and "error[" in said.stderr and "old.yaml (HEAD) -> old.yaml: widened" in said.stdout


def test_a_bundle_of_two_back_ends_is_named_exactly(here: Path) -> None:
    from portctl.problems import Problems

    run("old.yaml", "--backend", "all", "--output", "out", command="render")
    with pytest.raises(Problems, match="holds rules for"):
        CliRunner().invoke(cli.build(["diff"]), ["diff", "out", str(here / "old.yaml")], catch_exceptions=False)
