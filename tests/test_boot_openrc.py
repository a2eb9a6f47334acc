"""The OpenRC script, run by the shells that OpenRC runs it with: its functions, with OpenRC's own words stubbed."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from portctl.templating import folder

SCRIPT = folder() / "guard" / "portctl-boot.openrc"
WORDS = """\
ebegin() { echo "begin $*"; }
eend() { echo "end $1"; return "$1"; }
need() { echo "need $*"; }
after() { echo "after $*"; }
before() { echo "before $*"; }
. "$1"
"$2"
"""
"""Stand-ins for what /sbin/openrc-run gives to a service's script: openrc-run(8), "BUILTINS" and "DEPENDENCIES"."""
SHELLS = (("dash",), ("busybox", "sh"), ("mksh",), ("posh",))


def run(shell: tuple[str, ...], tmp_path: Path, function: str, boot: str) -> subprocess.CompletedProcess[str]:
    """Runs one function of the script; `boot` is what stands in the place of /etc/portctl/boot/boot.sh."""
    (tmp_path / "boot.sh").write_text(boot)
    text = SCRIPT.read_text().replace("/etc/portctl/boot/boot.sh", str(tmp_path / "boot.sh"))
    (tmp_path / "service").write_text(text)
    (tmp_path / "words").write_text(WORDS)
    argv = [*shell, str(tmp_path / "words"), str(tmp_path / "service"), function]
    return subprocess.run(argv, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("shell", SHELLS, ids=lambda shell: shell[0])
def test_it_starts_what_was_confirmed_and_says_how_that_went(shell: tuple[str, ...], tmp_path: Path) -> None:
    well = run(shell, tmp_path, "start", "echo loaded\n")
    assert (well.returncode, well.stderr) == (0, "")
    assert well.stdout.splitlines() == ["begin Loading the rules of portctl", "loaded", "end 0"]
    badly = run(shell, tmp_path, "start", "exit 1\n")
    assert badly.returncode == 1 and badly.stdout.endswith("end 1\n")


@pytest.mark.parametrize("shell", SHELLS, ids=lambda shell: shell[0])
def test_a_stop_leaves_the_rules_where_they_are(shell: tuple[str, ...], tmp_path: Path) -> None:
    stopped = run(shell, tmp_path, "stop", "echo loaded\n")
    assert (stopped.returncode, stopped.stdout, stopped.stderr) == (0, "", "")


@pytest.mark.parametrize("shell", SHELLS, ids=lambda shell: shell[0])
def test_it_comes_before_the_network_and_after_whoever_flushes(shell: tuple[str, ...], tmp_path: Path) -> None:
    said = run(shell, tmp_path, "depend", "").stdout.splitlines()
    assert "before net" in said and "need localmount" in said
    (after,) = (line.split()[1:] for line in said if line.startswith("after "))
    assert {"sysctl", "iptables", "ip6tables", "nftables"} <= set(after)


def test_shellcheck_finds_nothing_but_the_words_of_openrc(tmp_path: Path) -> None:
    assert SCRIPT.read_text().startswith("#!/sbin/openrc-run\n")
    copy = tmp_path / "service"
    copy.write_text(SCRIPT.read_text().replace("#!/sbin/openrc-run\n", "#!/bin/sh\n"))
    # SC2034: OpenRC reads `description`.
    done = subprocess.run(
        ["shellcheck", "-s", "sh", "-e", "SC2034", str(copy)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
