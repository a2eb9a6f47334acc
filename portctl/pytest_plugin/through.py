"""A host of pytest-testinfra as one of ours: by its connection, whatever that is, our own questions are asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from portctl.command import Command, HostError, Result

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""Of every command there, as `portctl.hosts` sets it: an account without root may lack the sbin folders."""


class Said(Protocol):
    """What testinfra returns of a command (`testinfra.backend.base.CommandResult`)."""

    @property
    def rc(self) -> int: ...
    @property
    def stdout_bytes(self) -> bytes: ...
    @property
    def stderr_bytes(self) -> bytes: ...


class Connection(Protocol):
    """`testinfra.backend.base.BaseBackend`."""

    def run(self, command: str, *args: str) -> Said: ...
    def get_pytest_id(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Through:
    """Only for looking (`command.Host`): nothing is ever written there, and nothing that changes it is run. How long a
    command may take is for the connection's own configuration."""

    name: str
    connection: Connection

    def run(self, command: Command, timeout: float | None = None) -> Result:  # noqa: ARG002
        if command.stdin:
            raise HostError(f"{self.name}: through pytest-testinfra nothing can be given to a command to read")
        argv = ("env", f"PATH={PATH}", "LC_ALL=C", *command.argv)
        try:
            said = self.connection.run(" ".join(["%s"] * len(argv)), *argv)
        except HostError:
            raise
        except Exception as error:  # each of testinfra's connections raises errors of its own
            raise HostError(f"{self.name} cannot be reached: {_why(error)}") from None
        return Result(said.rc, _text(said.stdout_bytes), _text(said.stderr_bytes))

    def put(self, path: str, data: bytes, mode: int = 0o644) -> None:  # noqa: ARG002
        raise HostError(f"{self.name}: through pytest-testinfra nothing is written ({path})")


def connections(hosts: Sequence[object]) -> list[Through]:
    """Those of testinfra's hosts, sorted by the names that pytest shows."""
    found: list[Connection] = [host.backend for host in hosts]  # type: ignore[attr-defined]
    return sorted((Through(each.get_pytest_id(), each) for each in found), key=lambda each: each.name)


def _why(error: Exception) -> str:
    """ssh's own words, where testinfra raises the result of a command."""
    said = error.args[0] if error.args else error
    stderr = getattr(said, "stderr_bytes", b"")
    lines = _text(stderr).strip().splitlines() if stderr else str(error).strip().splitlines()
    return lines[-1][:300] if lines else type(error).__name__


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")
