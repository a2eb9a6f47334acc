"""What a host is sent is for any POSIX shell: it runs under others than dash, and shellcheck finds nothing in it."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest

from portctl import apply as applying_it
from portctl import inspection, pipeline, templating
from portctl.apply import removal
from portctl.apply.transaction import Window
from portctl.command import Command, Host, Result
from portctl.hosts import doors
from portctl.hosts.local import Local
from tests.system import afar, applying, worlds
from tests.system.applying import BACKENDS, FIRST, SECOND
from tests.system.worlds import checked

pytestmark = pytest.mark.system
SHELLS = {"mksh": "/usr/bin/mksh", "busybox": "/usr/bin/busybox"}
NEEDS = ("sshd", "ssh", "shellcheck", "dash", "posh", *SHELLS)


@pytest.mark.parametrize("shell", SHELLS)
def test_everything_from_the_first_apply_to_the_removal_runs_under_this_shell(shell: str) -> None:
    with afar.world() as world:
        machine, controller = world.machine, world.controller
        checked(machine, "mount", "--bind", SHELLS[shell], checked(machine, "readlink", "-f", "/bin/sh").strip())
        for policy, backend in ((FIRST, "nftables"), (SECOND, "nftables"), (FIRST, "iptables")):
            words = ("--exclusive", "--backend", backend)
            said = afar.apply(controller, policy, *words)
            assert said.status == 0, said.stderr
            assert "Confirmed, over a new connection" in said.stderr
        before = applying.state(machine)
        env = ("PORTCTL_TESTING=1", "PORTCTL_STOP_AT=load")
        assert afar.apply(controller, SECOND, "--confirm-within", "3", env=env).status == 137
        afar.rolled_back(machine)
        assert applying.state(machine) == before
        status = afar.portctl(controller, "status")
        assert status.status == 0, status.stdout
        assert afar.portctl(controller, "facts").status == 0
        assert afar.portctl(controller, "remove", "--yes").status == 0
        assert "portctl" not in applying.state(machine).lower()


OLD_HEAD = """#!/bin/sh
case $1 in -c*) echo "head: unknown option -- c" >&2; exit 1 ;; esac
exec /usr/bin/head.real "$@"
"""


def test_a_host_whose_head_counts_no_bytes_and_that_has_no_gzip_is_sent_the_same() -> None:
    """As OpenBSD's does."""
    with afar.world() as world:
        machine = world.machine
        checked(machine, "sh", "-c", "mv /usr/bin/head /usr/bin/head.real; rm -f /usr/bin/gzip /bin/gzip")
        machine.put("/usr/bin/head", OLD_HEAD.encode(), 0o755)
        said = afar.apply(world.controller, SECOND)
        assert said.status == 0, said.stderr
        assert "198.51.100.0/24" in applying.state(machine)


@dataclass
class Recorder:
    """A machine that keeps every script it is given."""

    machine: Host
    name: str = "recorder"
    scripts: dict[str, str] = field(default_factory=dict)

    def run(self, command: Command, timeout: float | None = None) -> Result:
        words = command.argv
        if words[:2] == ("sh", "-c"):
            self.scripts[words[2]] = "sh -c"
        elif words[:2] == ("sh", "-s"):
            self.scripts[command.stdin.decode()] = "sh -s"
        return self.machine.run(command, timeout)

    def put(self, path: str, data: bytes, mode: int = 0o644) -> None:
        if path.endswith(".sh"):
            self.scripts[data.decode()] = path
        self.machine.put(path, data, mode)


def test_shellcheck_dash_and_posh_accept_every_script_that_is_sent(tmp_path: Path) -> None:
    scripts = {path.read_text(): str(path) for path in sorted(templating.folder().rglob("*.sh"))}
    scripts[doors.FIRST] = "the first command"
    with worlds.machine() as machine:
        host = Recorder(machine)
        for number, backend in enumerate(BACKENDS):
            for policy in (FIRST, SECOND):
                path = tmp_path / f"{number}.yaml"
                path.write_text(policy)
                compiled = pipeline.compile(path)
                request = applying_it.Request(
                    compiled.ruleset, policy, "a test", confirm_within=0, backend=backend, exclusive=True
                )
                applying_it.apply(host, request, applying_it.Talk())
                inspection.inspect(host, compiled, datetime.now(UTC), backend)
        applying_it.plan(host, request)
        applying_it.status(host)
        applying_it.rollback(host, None, "a test")
        removal.remove(host, "a test", Window(0), applying_it.Talk())
    scripts |= host.scripts
    assert len(scripts) > 30
    for text, name in scripts.items():
        file = tmp_path / "script.sh"
        file.write_text(text if text.startswith("#!") else f"#!/bin/sh\n{text}")
        for checker in (("dash", "-n"), ("posh", "-n"), ("shellcheck", "-s", "sh", "-S", "warning")):
            found = Local().run(Command((*checker, str(file))))
            assert found.ok, f"{name}:\n{found.stdout}{found.stderr}"
