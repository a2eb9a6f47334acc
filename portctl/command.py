"""A command as a value: back ends and observers build it, hosts run it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


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


class HostError(Exception):
    """The host could not be reached, or refused. The message is for the person."""
