"""This machine."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from portctl.command import Command, HostError, Result
from portctl.hosts import process


@dataclass(frozen=True, slots=True)
class Local:
    """The machine that portctl runs on, with the rights that portctl has."""

    name: str = "local"

    def run(self, command: Command, timeout: float | None = None) -> Result:
        return process.run(command.argv, command.stdin, timeout)

    def put(self, path: str, data: bytes, mode: int = 0o644) -> None:
        target = Path(path)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            _write(target, data, mode)
        except OSError as error:
            raise HostError(f"{path} could not be written: {error.strerror or error}") from None


def _write(target: Path, data: bytes, mode: int) -> None:
    descriptor, temporary = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        Path(temporary).replace(target)
    except BaseException:
        with suppress(FileNotFoundError):
            Path(temporary).unlink()
        raise
    _sync_folder(target.parent)


def _sync_folder(folder: Path) -> None:
    """The rename itself reaches the disk. Some file systems refuse to sync a folder; they have nothing to sync."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
