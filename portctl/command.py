"""A command as a value: back ends and observers build it, hosts run it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable


@dataclass(frozen=True, slots=True)
class Command:
    """A program with its arguments, never a line for a shell. `stdin` goes to its standard input."""

    argv: tuple[str, ...]
    stdin: bytes = b""


@dataclass(frozen=True, slots=True)
class Result:
    """What a command said. `status` is its exit status; 127 where the program is not there."""

    status: int
    stdout: str = ""
    stderr: str = ""

    @property
    def ok(self) -> bool:
        return self.status == 0


class Host(Protocol):
    """A machine and the door to it. Only `portctl.hosts` starts processes; everybody else is given one of these."""

    @property
    def name(self) -> str:
        """How the person calls it: `local`, `sandbox`."""
        ...

    def run(self, command: Command, timeout: float | None = None) -> Result:
        """Runs a command and waits. Never raises for its exit status; `HostError` where the host cannot be reached."""
        ...

    def put(self, path: str, data: bytes, mode: int = 0o644) -> None:
        """Writes a file whole (a temporary file beside it, synced, then renamed), making its folders.

        Raises `HostError` when it cannot; the old file is then as it was.
        """
        ...


@runtime_checkable
class Distant(Protocol):
    """A host where every step costs a journey, so that several files had better go together."""

    def put_all(self, files: Mapping[str, tuple[bytes, int]]) -> None:
        """Writes files, {path: (contents, mode)}, each as `put` does."""
        ...


def put_all(host: Host, files: Mapping[str, tuple[bytes, int]]) -> None:
    """Writes files, {path: (contents, mode)}, each whole. Raises `HostError`."""
    if isinstance(host, Distant):
        host.put_all(files)
        return
    for path, (data, mode) in files.items():
        host.put(path, data, mode)


class HostError(Exception):
    """The host could not be reached, or refused. The message is for the person."""


class Lost(HostError):
    """The connection to a host is gone, or never came about: what the last command did there is not known."""
