"""Rooms: throwaway namespaces with files, processes and interfaces of their own; they end with whoever made them.

A room is a set of network, mount, process, host name and message queue namespaces. Its first process (`room.sh`)
waits on a pipe from this one. When the pipe ends, and be it by kill -9, that process exits and the kernel ends every
process, mount and interface of the room. Nothing of it is ever seen outside.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from importlib.resources import as_file, files
from pathlib import Path
from types import TracebackType

from portctl.command import Command, HostError, Result
from portctl.hosts import process

START_SECONDS = 20.0
KINDS = ("mount", "uts", "ipc", "pid", "net")
"""Long options of unshare(1) and nsenter(1), in an order in which they can be entered."""
_LINKS = {"mount": "mnt"}

_PUT = """set -eu
folder=${1%/*}
mkdir -p "${folder:-/}"
temporary=$1.portctl-$$
trap 'rm -f "$temporary"' EXIT
umask 077
cat >"$temporary"
chmod "$2" "$temporary"
sync "$temporary"
mv -f -T "$temporary" "$1"
"""


class Room:
    """A machine within the machine (`Host`). Open it with `with Room("name") as room:`; root has all of its rights
    there, anybody else those of a root without power outside."""

    def __init__(self, name: str = "sandbox") -> None:
        self.name = name
        self._stack = ExitStack()
        self._fds: dict[str, int] = {}
        self._pid = 0
        self._first: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Room:
        try:
            self._open()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _open(self) -> None:
        unprivileged = os.geteuid() != 0
        kinds = (("user",) if unprivileged else ()) + KINDS
        script = self._stack.enter_context(as_file(files("portctl.hosts") / "room.sh"))
        argv = ["unshare", *(f"--{kind}" for kind in kinds), "--fork", "--kill-child"]
        argv += (["--map-root-user"] if unprivileged else []) + ["sh", str(script)]
        self._first = self._start([*argv, "user" if unprivileged else "root", self.name])
        self._pid = _ready(self._first)
        self._fds = {kind: self._pin(self._pid, kind) for kind in kinds}
        _refuse_the_machines_own(self._fds["net"])

    def _start(self, argv: Sequence[str]) -> subprocess.Popen[bytes]:
        """A process that ends when we close its standard input, or are gone."""
        started = self._begin(argv, None)
        self._stack.callback(_end, started)
        return started

    def _begin(self, argv: Sequence[str], env: Mapping[str, str] | None) -> subprocess.Popen[bytes]:
        pipe = subprocess.PIPE
        fds = tuple(self._fds.values())
        try:
            return subprocess.Popen(
                argv,
                stdin=pipe,
                stdout=pipe,
                stderr=pipe,
                env=process.environment(env),
                pass_fds=fds,
                start_new_session=True,
            )
        except OSError as error:
            raise HostError(f"{argv[0]} could not be started: {error.strerror}") from None

    def _pin(self, pid: int, kind: str) -> int:
        """Keeps a namespace by an open file: a process number may come to mean another process, this cannot."""
        return self._open_pinned(f"/proc/{pid}/ns/{_LINKS.get(kind, kind)}")

    def _open_pinned(self, path: str) -> int:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._stack.callback(os.close, descriptor)
        return descriptor

    def network(self, name: str) -> Network:
        """Another network in the same room, `name` to ip(8): its interfaces are its own, files and processes the
        room's."""
        made = self.run(Command(("ip", "netns", "add", name)))
        if not made.ok:
            raise HostError(f"no network could be made in the sandbox: {made.stderr.strip()}")
        descriptor = self._open_pinned(f"/proc/{self._pid}/root/run/netns/{name}")
        self._fds[f"net {name}"] = descriptor
        _refuse_the_machines_own(descriptor)
        return Network(name, self, descriptor)

    def prefix(self, network: int | None = None) -> tuple[str, ...]:
        """What to put before a command, so that it runs in the room."""
        fds = {kind: fd for kind, fd in self._fds.items() if " " not in kind}
        if not fds:
            raise HostError(f"{self.name} is closed")
        fds["net"] = fds["net"] if network is None else network
        return ("nsenter", *(f"--{kind}=/proc/self/fd/{fd}" for kind, fd in fds.items()), *_KEEP["user" in fds])

    def run(self, command: Command, timeout: float | None = None) -> Result:
        return self._run(self.prefix(), command, timeout)

    def _run(self, prefix: tuple[str, ...], command: Command, timeout: float | None) -> Result:
        argv = (*prefix, *command.argv)
        return process.run(argv, command.stdin, timeout, _outsiders(), pass_fds=tuple(self._fds.values()))

    def put(self, path: str, data: bytes, mode: int = 0o644) -> None:
        result = self.run(Command(("sh", "-c", _PUT, "put", path, f"{mode:o}"), data))
        if not result.ok:
            raise HostError(f"{path} could not be written: {result.stderr.strip()}")

    def start(
        self, argv: Sequence[str], env: Mapping[str, str] | None = None, network: int | None = None
    ) -> subprocess.Popen[bytes]:
        """A process that stays: its standard streams are pipes. It ends with the room at the latest."""
        started = self._begin((*self.prefix(network), *argv), _outsiders() if env is None else env)
        self._stack.callback(_end, started)
        return started

    @contextmanager
    def lend(self, argv: Sequence[str], network: int | None = None) -> Iterator[subprocess.Popen[bytes]]:
        """A process as `start` gives it, for a while."""
        started = self._begin((*self.prefix(network), *argv), _outsiders())
        try:
            yield started
        finally:
            _end(started)

    def give(self, interface: str, other: Room, name: str) -> None:
        """Moves an interface of this room into another one, under a new name."""
        net = other._fds["net"]
        argv = ("ip", "link", "set", interface, "netns", f"/proc/self/fd/{net}", "name", name)
        result = process.run((*self.prefix(), *argv), pass_fds=(*self._fds.values(), net))
        if not result.ok:
            raise HostError(f"{interface} could not be moved: {result.stderr.strip()}")

    def close(self) -> None:
        """Ends everything in the room, the first process before all others, and waits until it is gone."""
        self._fds = {}
        if self._first is not None:
            _end(self._first)
        self._first = None
        self._stack.close()


class Network:
    """One more network of a room (`Host`)."""

    def __init__(self, name: str, room: Room, descriptor: int) -> None:
        self.name = name
        self.room = room
        self._descriptor = descriptor

    def run(self, command: Command, timeout: float | None = None) -> Result:
        return self.room._run(self.room.prefix(self._descriptor), command, timeout)

    def put(self, path: str, data: bytes, mode: int = 0o644) -> None:
        self.room.put(path, data, mode)

    def start(self, argv: Sequence[str], env: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
        return self.room.start(argv, env, self._descriptor)

    def lend(self, argv: Sequence[str]) -> AbstractContextManager[subprocess.Popen[bytes]]:
        return self.room.lend(argv, self._descriptor)


def _outsiders() -> dict[str, str]:
    """The caller's environment without its ssh session, which does not lead into the room."""
    return {name: value for name, value in os.environ.items() if not name.startswith("SSH_")}


_KEEP: dict[bool, tuple[str, ...]] = {True: ("--preserve-credentials", "--"), False: ("--",)}


def _ready(first: subprocess.Popen[bytes]) -> int:
    assert first.stdout is not None and first.stderr is not None
    line = first.stdout.readline().split()
    if len(line) != 2 or line[0] != b"ready":
        first.kill()
        said = first.stderr.read().decode("utf-8", "replace").strip()
        raise HostError(f"no sandbox could be made: {said or 'unshare said nothing'}")
    return int(line[1])


def _refuse_the_machines_own(descriptor: int) -> None:
    """Raises `HostError` unless the network is another one than ours and the first process's."""
    made = os.fstat(descriptor).st_ino
    for owner in ("self", "1"):
        with suppress(PermissionError, FileNotFoundError):
            if Path(f"/proc/{owner}/ns/net").stat().st_ino == made:
                raise HostError("the sandbox's network is the machine's own; nothing was run in it")


def _end(started: subprocess.Popen[bytes]) -> None:
    assert started.stdin is not None and started.stdout is not None and started.stderr is not None
    with suppress(OSError):  # what was not yet written has nobody left to read it
        started.stdin.close()
    try:
        started.wait(2)
    except subprocess.TimeoutExpired:
        with suppress(ProcessLookupError):
            os.killpg(started.pid, 9)
        started.wait()
    started.stdout.close()
    started.stderr.close()
