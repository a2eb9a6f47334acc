"""A machine behind a door: ssh, a container, a network namespace."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from secrets import token_hex

from portctl.command import Command, Host, HostError, Lost, Result
from portctl.hosts import doors
from portctl.hosts.local import Local
from portctl.hosts.session import CONNECT_SECONDS, Session, connect, lost, plain
from portctl.hosts.target import Target
from portctl.templating import text

SMALL = 1 << 16
"""Files of up to so many bytes are written several at once."""
TESTING = ("PORTCTL_TESTING", "PORTCTL_STOP_AT")


@dataclass(slots=True)
class Remote:
    """A host over one connection, opened when it is first needed, and anew after its loss was told (`Host`)."""

    name: str
    door: tuple[str, ...]
    patience: float = CONNECT_SECONDS
    _session: Session | None = field(default=None, repr=False)

    def session(self) -> Session:
        """The connection, opened if there is none. Raises `Lost`, also if there was one: a lock that was held over it
        is held no more, so that nobody may go on as if nothing had happened."""
        if self._session is None:
            self._session = connect(self.name, self.door, _told(), self.patience)
        elif not self._session.alive:
            raise Lost(lost(self._session))
        return self._session

    def run(self, command: Command, timeout: float | None = None) -> Result:
        try:
            status, out, err = self.session().ask(command.argv, command.stdin, timeout)
        except BaseException:
            self.close()  # whatever answer was under way would be taken for that of the next request
            raise
        return Result(status, plain(out.decode("utf-8", "replace")), plain(err.decode("utf-8", "replace")))

    def put(self, path: str, data: bytes, mode: int = 0o644) -> None:
        result = self.run(Command(("sh", "-c", text("door/put.sh"), "put", path, f"{mode:o}"), data), None)
        if not result.ok:
            raise HostError(f"{self.name}: {path} could not be written: {_first(result)}")

    def put_all(self, files: Mapping[str, tuple[bytes, int]]) -> None:
        """Writes several files, {path: (contents, mode)}, in one round trip as far as they are small texts."""
        small = {path: each for path, each in files.items() if _is_small(each[0])}
        if small:
            result = self.run(Command(("sh", "-s"), _together(small)), None)
            if not result.ok:
                raise HostError(f"{self.name}: files could not be written: {_first(result)}")
        for path, (data, mode) in files.items():
            if path not in small:
                self.put(path, data, mode)

    def not_root(self) -> str | None:
        """Why portctl is not root there; None: it is. Raises `Lost`."""
        session = self.session()
        if session.uid == 0:
            return None
        return f"portctl is not root there and cannot become it without being asked ({session.why_not_root})"

    def again(self, patience: float) -> Remote:
        """The same host, over a new connection that has `patience` seconds to come about."""
        quick = doors.SOON if self.door[:1] == doors.SSH[:1] else ()
        return Remote(self.name, (*self.door[:1], *quick, *self.door[1:]), patience)

    def close(self) -> None:
        if self._session is not None:
            self._session.close()
            self._session = None


@contextmanager
def opened(target: Target) -> Iterator[Host]:
    """The host that a target names. Its connection ends with the `with`. Raises `HostError`."""
    if target.kind == "local":
        yield Local()
        return
    with doors.opened(target) as door:
        host = Remote(str(target), door)
        try:
            yield host
        finally:
            host.close()


def _told() -> dict[str, str]:
    """What a test says must reach the scripts there; nothing else of our environment does."""
    return {name: os.environ[name] for name in TESTING if name in os.environ}


def _is_small(data: bytes) -> bool:
    return len(data) <= SMALL and data.endswith(b"\n") and b"\0" not in data


def _together(files: Mapping[str, tuple[bytes, int]]) -> bytes:
    """A script for sh that writes files, each from a here-document that nothing of its contents can end."""
    from shlex import quote

    end = token_hex(16)
    parts = [f"put() (\n{text('door/put.sh')})\nset -e\n".encode()]
    for path, (data, mode) in files.items():
        parts.append(f"put {quote(path)} {mode:o} <<'{end}'\n".encode() + data + f"{end}\n".encode())
    return b"".join(parts)


def _first(result: Result) -> str:
    lines = (result.stderr.strip() or result.stdout.strip()).splitlines()
    return lines[0][:300] if lines else f"status {result.status}"
