"""The pytest plugin: which files it takes, how it says what is wrong, and that it leaves everybody else alone."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from portctl import pipeline
from portctl.command import Command, HostError
from portctl.problems import Span
from portctl.pytest_plugin.checks import checks, kind_of
from portctl.pytest_plugin.probing import knock
from portctl.pytest_plugin.through import Through
from portctl.ruleset import TCP, UDP
from portctl.verify import CODES, Finding
from tests.plugin import RUN

HOME = Path(__file__).parent.parent
POLICY = """\
portctl: 1
name: web
services:
  web: {ports: http, from: any}
tests:
  - {from: any, service: web, expect: allow}   # of course
  - from: 203.0.113.130
    ports: ssh
    expect: deny
"""


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(HOME)}
    return subprocess.run([*RUN, *words], cwd=folder, env=env, capture_output=True, text=True, check=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Somebody's project: tests, a policy, and YAML of other kinds."""
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "web.yaml").write_text(POLICY)
    (tmp_path / "compose.yaml").write_text("services: {web: {image: nginx}}\n")
    (tmp_path / "test_one.py").write_text("def test_one(): pass\n")
    return tmp_path


def test_a_run_that_names_no_policy_collects_none(folder: Path) -> None:
    said = run(folder, "--collect-only", "-q")
    assert "test_one.py::test_one" in said.stdout
    assert "web.yaml" not in said.stdout and said.returncode == 0


def test_a_policy_named_on_the_command_line_is_collected_with_readable_ids(folder: Path) -> None:
    said = run(folder, "--collect-only", "-q", "web.yaml", "--hosts=ssh://web1,ssh://root@web2")
    ids = [line for line in said.stdout.splitlines() if "::" in line]
    assert ids[:3] == [
        "web.yaml::service web [ssh://web1]",
        "web.yaml::test from: any, service: web, expect: allow [ssh://web1]",
        "web.yaml::test from: 203.0.113.130 [ssh://web1]",
    ]
    assert {"web.yaml::sysctl [ssh://web2]", "web.yaml::drift [ssh://web2]"} <= set(ids)
    assert len(ids) == 14


def test_one_test_of_a_policy_can_be_named(folder: Path) -> None:
    said = run(folder, "--collect-only", "-q", "web.yaml::service web [ssh://web1]", "--hosts=ssh://web1,ssh://web2")
    assert [line for line in said.stdout.splitlines() if "::" in line] == ["web.yaml::service web [ssh://web1]"]


def test_a_policy_named_in_the_configuration_is_collected_with_its_folder(folder: Path) -> None:
    said = run(folder, "--collect-only", "-q", "-o", "portctl_policies=w*.yaml")
    assert "web.yaml::service web [local]" in said.stdout and "compose" not in said.stdout


def test_other_yaml_is_nobodys_policy(folder: Path) -> None:
    said = run(folder, "compose.yaml")
    assert said.returncode != 0 and "portctl" not in said.stdout


def test_a_wrong_policy_is_told_as_check_tells_it(folder: Path) -> None:
    (folder / "web.yaml").write_text(POLICY.replace("from: any}", "from: offce}"))
    said = run(folder, "web.yaml")
    assert said.returncode == 2
    assert "error[unknown-group]" in said.stdout and "web.yaml:4" in said.stdout
    assert "Traceback" not in said.stdout


def test_without_testinfra_both_ways_say_what_to_install(folder: Path) -> None:
    (folder / "test_host.py").write_text("def test_host(portctl_host): pass\n")
    for name in ("web.yaml", "test_host.py"):
        said = run(folder, "-p", "no:pytest11.testinfra", name)
        assert said.returncode != 0
        assert "pip install 'portctl[pytest]'" in said.stdout


def test_a_host_that_cannot_be_reached_fails_every_test_and_says_why(folder: Path) -> None:
    said = run(folder, "web.yaml", "--hosts=ssh://nobody.invalid")
    assert "7 failed" in said.stdout
    assert "ssh://nobody.invalid cannot be reached: ssh:" in said.stdout
    assert "Traceback" not in said.stdout


def test_loading_the_plugin_loads_nothing_else_of_portctl() -> None:
    code = "import sys, portctl.pytest_plugin, portctl.pytest_plugin.fixture as f; print(*sorted(sys.modules))"
    said = subprocess.run([sys.executable, "-c", code], cwd=HOME, capture_output=True, text=True, check=True).stdout
    ours = {name for name in said.split() if name.startswith("portctl")}
    assert ours == {"portctl", "portctl.pytest_plugin", "portctl.pytest_plugin.fixture"}
    assert not {"yaml", "pydantic", "testinfra", "jinja2"} & set(said.split())


def test_every_finding_fails_exactly_one_test_of_the_policy(folder: Path) -> None:
    made = checks(pipeline.compile(folder / "web.yaml"))
    services = frozenset({"web"})
    span = Span("web.yaml", 4, 3, 3, "  web:")
    for code in CODES:
        for subject, where in (("web", span), ("web", None), ("host", None), ("80/tcp", None)):
            kind = kind_of(Finding(code, "error", subject, "", "", (), where), services)
            assert len([c for c in made if c.kind == kind and c.subject in ("", subject)]) == 1, (code, subject)


def test_drift_of_a_policy_called_as_its_service_is_not_the_services() -> None:
    assert kind_of(Finding("drift", "error", "web", "", ""), frozenset({"web"})) == "drift"


@dataclass
class Said:
    rc: int = 0
    stdout_bytes: bytes = b""
    stderr_bytes: bytes = b""


@dataclass
class Shell:
    """A connection that gives lines to this machine's shell, as testinfra does."""

    lines: list[str] = field(default_factory=list)

    def run(self, command: str, *args: str) -> Said:
        from shlex import quote

        line = command % tuple(quote(arg) for arg in args)
        self.lines.append(line)
        done = subprocess.run(line, shell=True, capture_output=True, check=False)
        return Said(done.returncode, done.stdout, done.stderr)

    def get_pytest_id(self) -> str:
        return "shell://here"


def test_a_command_arrives_word_by_word_and_what_is_not_there_is_127() -> None:
    host = Through("shell://here", Shell())
    words = ("printf", r"%s\n", "two words", "it's", "$HOME", "a\nb", "%s")
    assert host.run(Command(words)).stdout == "two words\nit's\n$HOME\na\nb\n%s\n"
    assert host.run(Command(("no-such-program",))).status == 127
    assert host.run(Command(("sh", "-c", "echo $LC_ALL; printf '\\377'"))).stdout == "C\n\N{REPLACEMENT CHARACTER}"


def test_through_testinfra_nothing_is_written() -> None:
    host = Through("shell://here", Shell())
    with pytest.raises(HostError, match="nothing is written"):
        host.put("/etc/passwd", b"")
    with pytest.raises(HostError, match="nothing can be given"):
        host.run(Command(("sh", "-s"), b"reboot"))


def test_a_knock_says_open_refused_or_silent() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert knock("127.0.0.1", TCP, port, "127.0.0.9", 3) == "open"
    assert knock("127.0.0.1", TCP, port, None, 3) == "refused"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as deaf:
        deaf.bind(("127.0.0.1", 0))
        port = deaf.getsockname()[1]
        assert knock("127.0.0.1", UDP, port, None, 0.1) == "silent"
    assert knock("127.0.0.1", UDP, port, None, 3) == "refused"
