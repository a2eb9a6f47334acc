"""This machine as a host: what its commands say, and that a file is written whole or not at all."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from portctl.command import Command, HostError
from portctl.hosts.local import Local

LOCAL = Local()


def test_a_command_gets_its_input_and_gives_its_output_and_status() -> None:
    result = LOCAL.run(Command(("sh", "-c", "cat; echo wrong >&2; exit 7"), b"given"))
    assert (result.status, result.stdout, result.stderr) == (7, "given", "wrong\n")


def test_a_missing_program_is_status_127() -> None:
    result = LOCAL.run(Command(("no-such-program-here", "x")))
    assert result.status == 127
    assert "no-such-program-here" in result.stderr


def test_output_that_is_not_utf8_is_shown_with_replacements() -> None:
    assert LOCAL.run(Command(("printf", r"a\377b"))).stdout == "a\N{REPLACEMENT CHARACTER}b"


def test_words_are_never_read_by_a_shell() -> None:
    assert LOCAL.run(Command(("printf", "%s", "$(id); `id` *"))).stdout == "$(id); `id` *"


def test_messages_are_english_and_the_system_folders_are_searched() -> None:
    asked = "import os; print(os.environ['LC_ALL'], '/usr/sbin' in os.environ['PATH'].split(':'), 'LANG' in os.environ)"
    code = (
        "import sys\nfrom portctl.command import Command\nfrom portctl.hosts.local import Local\n"
        f"print(Local().run(Command((sys.executable, '-c', {asked!r}))).stdout)"
    )
    given = {**os.environ, "LANG": "de_DE.UTF-8", "LC_MESSAGES": "de_DE.UTF-8", "PATH": "/usr/bin:/bin"}
    said = subprocess.run([sys.executable, "-c", code], env=given, capture_output=True, text=True, check=True).stdout
    assert said.split() == ["C", "True", "False"]


def test_a_command_that_hangs_is_stopped_with_its_children() -> None:
    begun = time.monotonic()
    with pytest.raises(HostError, match=r"did not finish within 0\.2 s"):
        LOCAL.run(Command(("sh", "-c", "sleep 30 & sleep 30")), timeout=0.2)
    assert time.monotonic() - begun < 5


def test_a_child_left_behind_keeps_nobody_waiting() -> None:
    begun = time.monotonic()
    assert LOCAL.run(Command(("sh", "-c", "sleep 2 & echo gone"))).stdout == "gone\n"
    assert time.monotonic() - begun < 1.5


def test_a_signal_is_told_as_a_shell_tells_it() -> None:
    assert LOCAL.run(Command(("sh", "-c", "kill -TERM $$"))).status == 143


def test_put_makes_folders_and_sets_the_mode(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "rules"
    LOCAL.put(str(path), b"one\n", 0o600)
    assert path.read_bytes() == b"one\n"
    assert path.stat().st_mode & 0o777 == 0o600


def test_put_replaces_the_file_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "rules"
    LOCAL.put(str(path), b"one\n")
    before = path.stat().st_ino
    LOCAL.put(str(path), b"two\n", 0o640)
    assert path.read_bytes() == b"two\n"
    assert path.stat().st_ino != before, "written in place: a reader could have seen half of it"
    assert [entry.name for entry in tmp_path.iterdir()] == ["rules"]


def test_a_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    """A file size limit is a full disk that needs no rights: the write fails in the middle."""
    path = tmp_path / "rules"
    path.write_bytes(b"old\n")
    code = (
        "import resource, signal, sys\n"
        "from portctl.command import HostError\nfrom portctl.hosts.local import Local\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "try: Local().put(sys.argv[1], bytes(100000))\n"
        "except HostError as error: print(error)\n"
    )
    said = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True).stdout
    assert "could not be written" in said
    assert path.read_bytes() == b"old\n"
    assert [entry.name for entry in tmp_path.iterdir()] == ["rules"]


def test_a_place_that_cannot_be_written_is_an_error_with_its_name() -> None:
    with pytest.raises(HostError, match="/proc/portctl/rules could not be written"):
        LOCAL.put("/proc/portctl/rules", b"")


def test_a_folder_in_the_place_of_the_file_stays(tmp_path: Path) -> None:
    (tmp_path / "rules").mkdir()
    with pytest.raises(HostError):
        LOCAL.put(str(tmp_path / "rules"), b"x")
    assert [entry.name for entry in tmp_path.iterdir()] == ["rules"]
