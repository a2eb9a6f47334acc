"""A host behind a door: a shell on this machine, and scripted `docker`, `podman`, `vagrant`, `ssh` in the PATH."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from portctl.command import Command, HostError, Lost, put_all
from portctl.hosts import doors
from portctl.hosts.remote import Remote
from portctl.hosts.session import plain
from portctl.hosts.target import parse
from portctl.problems import Problems

DOOR = ("sh", "-c", doors.FIRST)


@pytest.fixture
def host() -> Iterator[Remote]:
    made = Remote("web1", DOOR)
    yield made
    made.close()


def test_a_command_gets_its_input_and_gives_its_output_and_status(host: Remote) -> None:
    result = host.run(Command(("sh", "-c", "cat; echo wrong >&2; exit 7"), b"given"))
    assert (result.status, result.stdout, result.stderr) == (7, "given", "wrong\n")
    assert host.run(Command(("no-such-program-here",))).status == 127
    assert host.run(Command(("printf", "no line end"))).stdout == "no line end"


def test_words_are_never_read_by_a_shell_of_the_host(host: Remote) -> None:
    words = "$(id); `id` * 'x' \"y\" \\ ! \n z"
    assert host.run(Command(("printf", "%s", words))).stdout == words
    assert host.run(Command(("printf", "%s|", "", "-n", " "))).stdout == "|-n| |"


@pytest.mark.parametrize("size", [0, 1, 1023, 1025, 100_000, 5_000_001])
def test_every_byte_of_the_input_arrives(host: Remote, size: int) -> None:
    data = random.Random(size).randbytes(size)
    said = host.run(Command(("sha256sum",), data)).stdout
    assert said.split()[0] == hashlib.sha256(data).hexdigest()


def test_input_that_nobody_reads_does_not_disturb_what_follows(host: Remote) -> None:
    assert host.run(Command(("true",), bytes(300_000))).ok
    assert host.run(Command(("sh", "-s"), b"exit 3\n" + b"# and more\n" * 20_000)).status == 3
    assert host.run(Command(("echo", "next"))).stdout == "next\n"


def test_much_output_and_much_input_at_once(host: Remote) -> None:
    data = b"line\n" * 400_000
    assert host.run(Command(("cat",), data)).stdout == data.decode()


def test_nothing_that_is_sent_stands_on_a_command_line(host: Remote) -> None:
    """`ps` sees the first command of the door and the programs that run, never a script's or a file's contents."""
    secret = "198.51.100.77"
    seen = host.run(Command(("sh", "-s"), f"# {secret}\ncat /proc/[0-9]*/cmdline | tr '\\000' ' '\n".encode())).stdout
    assert "/bin/sh" in seen and secret not in seen


def test_a_command_that_hangs_is_given_up(host: Remote) -> None:
    begun = time.monotonic()
    with pytest.raises(HostError, match=r"web1: sleep did not come to an end within 0\.3 s"):
        host.run(Command(("sleep", "30")), timeout=0.3)
    assert time.monotonic() - begun < 10
    assert host.run(Command(("echo", "again"))).stdout == "again\n"


def test_a_child_left_behind_keeps_nobody_waiting(host: Remote) -> None:
    begun = time.monotonic()
    assert host.run(Command(("sh", "-c", "sleep 3 >/dev/null 2>&1 </dev/null & echo gone"))).stdout == "gone\n"
    assert time.monotonic() - begun < 3


def test_a_lost_connection_is_told_once_and_then_there_is_a_new_one(host: Remote) -> None:
    assert host.run(Command(("true",))).ok
    with pytest.raises(Lost, match="web1 cannot be reached"):
        host.run(Command(("sh", "-c", "kill -9 $(ps -o ppid= -p $PPID) $PPID")))
    assert host.run(Command(("true",))).ok
    connection = host.session().process
    connection.kill()
    connection.wait()
    with pytest.raises(Lost):
        host.run(Command(("true",)))
    assert host.run(Command(("true",))).ok


def test_what_a_shell_says_before_it_begins_is_not_taken_for_an_answer() -> None:
    noisy = Remote("web1", ("sh", "-c", f"echo Welcome; echo 'Have a nice day' >&2; {doors.FIRST}"))
    assert noisy.run(Command(("echo", "it"))).stdout == "it\n"
    noisy.close()


def test_a_door_that_does_not_open_says_why() -> None:
    shut = Remote("web1", ("sh", "-c", "echo 'Host key verification failed.' >&2; exit 255"))
    with pytest.raises(Lost, match=r"web1 cannot be reached: Host key verification failed\."):
        shut.run(Command(("true",)))
    with pytest.raises(HostError, match="cannot be reached"):
        Remote("web1", ("no-such-door",)).run(Command(("true",)))


def test_control_characters_of_a_host_are_written_out(host: Remote) -> None:
    said = host.run(Command(("printf", r"eth0\033[31mred\007\tok\n")))
    assert said.stdout == "eth0\\x1b[31mred\\x07\tok\n"
    assert plain("a\u202eb\x9bc") == "a\\x202eb\\x9bc"


def test_files_are_written_whole_with_their_mode(host: Remote, tmp_path: Path) -> None:
    path = tmp_path / "a" / "it's"
    host.put(str(path), b"one\0two", 0o600)
    assert path.read_bytes() == b"one\0two" and path.stat().st_mode & 0o777 == 0o600
    first = path.stat().st_ino
    host.put(str(path), b"three", 0o640)
    assert path.stat().st_ino != first, "written in place: a reader could have seen half of it"
    assert [entry.name for entry in path.parent.iterdir()] == ["it's"]


def test_several_files_go_together_and_odd_ones_alone(host: Remote, tmp_path: Path) -> None:
    big = os.urandom(200_000)
    files = {"text": b"$HOME `id` 'x'\n\\\n", "empty": b"", "no end": b"EOF", "zero": b"\0\n", "big": big}
    put_all(host, {str(tmp_path / name): (data, 0o600) for name, data in files.items()})
    assert {entry.name: entry.read_bytes() for entry in tmp_path.iterdir()} == files


def test_a_file_that_cannot_be_written_is_an_error_with_its_reason(host: Remote, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(HostError, match="is a folder"):
        host.put(str(tmp_path / "folder"), b"x")
    with pytest.raises(HostError, match="files could not be written"):
        host.put_all({str(tmp_path / "folder"): (b"x\n", 0o600)})
    with pytest.raises(HostError, match="/proc/portctl/x could not be written"):
        host.put("/proc/portctl/x", b"x")


SCRIPTED = """#!/bin/sh
echo "$0 $*" >>"$PORTCTL_TEST_LOG"
{body}
"""


def scripted(folder: Path, name: str, body: str) -> None:
    path = folder / name
    path.write_text(SCRIPTED.format(body=body))
    path.chmod(0o755)


def ask(folder: Path, target: str) -> tuple[int, str, str]:
    """A target, asked by a process whose PATH begins with a folder: status, what it said, what the tools were told."""
    log = folder / "log"
    code = (
        "import sys\nfrom portctl.command import Command, HostError\nfrom portctl.hosts import remote, target\n"
        "try:\n    with remote.opened(target.parse(sys.argv[1])) as host:\n"
        "        print(host.name, host.run(Command(('echo', 'hello'))).stdout, end='')\n"
        "except HostError as error: sys.exit(str(error))\n"
    )
    env = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", "PORTCTL_TEST_LOG": str(log)}
    done = subprocess.run([sys.executable, "-c", code, target], env=env, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr, log.read_text() if log.exists() else ""


@pytest.mark.parametrize("program", ["docker", "podman"])
def test_a_container_is_entered_as_root_with_its_input_open(program: str, tmp_path: Path) -> None:
    scripted(tmp_path, program, 'shift 5; exec "$@"')
    status, said, told = ask(tmp_path, f"{program}://shop-db")
    assert (status, said) == (0, f"{program}://shop-db hello\n")
    assert f"{program} exec -i -u 0 shop-db /bin/sh -c" in told


def test_a_container_that_does_not_run_is_told_in_the_words_of_docker(tmp_path: Path) -> None:
    scripted(tmp_path, "docker", "echo 'Error response from daemon: No such container: shop' >&2; exit 1")
    status, said, _ = ask(tmp_path, "docker://shop")
    assert status == 1
    assert "docker://shop cannot be reached: Error response from daemon: No such container: shop" in said


SSH_CONFIG = """Host {name}
  HostName 192.0.2.10
  User vagrant
  Port 2222
  IdentityFile /home/me/.vagrant/machines/debian/key

"""


def test_vagrant_says_how_to_get_to_its_machine(tmp_path: Path) -> None:
    config = SSH_CONFIG.format(name="debian")
    scripted(tmp_path, "vagrant", f"cat <<'EOF'\n{config}EOF")
    scripted(tmp_path, "ssh", 'while [ "$1" != -F ]; do shift; done; cat "$2" >>"$PORTCTL_TEST_LOG"; exec sh -c "$5"')
    status, said, told = ask(tmp_path, "vagrant://debian")
    assert (status, said) == (0, "vagrant://debian hello\n")
    assert "vagrant ssh-config debian\n" in told
    assert "IdentityFile /home/me/.vagrant/machines/debian/key" in told
    assert " -- debian exec /bin/sh" in told


def test_several_machines_of_vagrants_must_be_named(tmp_path: Path) -> None:
    scripted(tmp_path, "vagrant", f"cat <<'EOF'\n{SSH_CONFIG.format(name='a')}{SSH_CONFIG.format(name='b')}EOF")
    status, said, _ = ask(tmp_path, "vagrant://")
    assert status == 1
    assert "Vagrant has 2 machines here: name one of them" in said


def test_vagrants_own_complaint_is_passed_on(tmp_path: Path) -> None:
    scripted(tmp_path, "vagrant", "echo 'The provider is not ready for SSH.' >&2; exit 1")
    status, said, _ = ask(tmp_path, "vagrant://debian")
    assert status == 1
    assert "`vagrant ssh-config debian` said: The provider is not ready for SSH." in said


def test_the_persons_own_path_finds_ssh_and_its_helpers(tmp_path: Path) -> None:
    scripted(tmp_path, "ssh", 'while [ "$1" != -- ]; do shift; done; exec sh -c "$3"')
    status, said, told = ask(tmp_path, "ssh://admin@web1:2222")
    assert (status, said) == (0, "ssh://admin@web1:2222 hello\n")
    assert "-p 2222 -l admin -- web1" in told
    assert "StrictHostKeyChecking" not in told


def test_a_wrong_target_is_an_input_problem() -> None:
    with pytest.raises(Problems):
        parse("web1")
