"""The steps of a transaction, as `templates/guard/guard.sh` does them on a host: one call a verb."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from functools import cache

from portctl.apply.paths import PENDING
from portctl.command import Command, Host, HostError, Result, put_all
from portctl.templating import text

HELD = 75
"""Exit status of `take` where somebody else holds the lock (EX_TEMPFAIL of sysexits.h)."""
LOAD_SECONDS = 600.0


class Refused(Exception):
    """The host, or its owner, does not want it; nothing was changed, or everything is as it was. Exit code 3."""


class NothingPending(Refused):
    """There is no apply to confirm: none was begun, or it has ended."""


class RolledBack(Exception):
    """It was loaded and taken back. Exit code 4."""


@cache
def script() -> str:
    return text("guard/guard.sh")


def call(host: Host, verb: str, *words: str, timeout: float | None = 120.0) -> Result:
    """Runs one verb of the guard script on a host."""
    return host.run(Command(("sh", "-s", "--", verb, *words), stdin=script().encode()), timeout)


def must(host: Host, verb: str, *words: str, timeout: float | None = 120.0) -> str:
    """Runs a verb that has to work; its output. Raises `Refused` with what it said."""
    return _worked(host, verb, *words, timeout=timeout).strip()


def dump(host: Host, *paths: str) -> str:
    """The answer to `dump`, every byte of it: what the files below some paths hold. Raises `Refused`."""
    return _worked(host, "dump", *paths, timeout=LOAD_SECONDS)


def _worked(host: Host, verb: str, *words: str, timeout: float | None) -> str:
    result = call(host, verb, *words, timeout=timeout)
    if not result.ok:
        raise Refused((result.stderr or result.stdout).strip() or f"{verb} failed on {host.name}")
    return result.stdout


def take_lock(host: Host, who: str, wait: int) -> tuple[str, str]:
    """Takes the lock of a host, after at most `wait` seconds: its number, and the folder for the transaction. Raises
    `Refused` with who holds it."""
    result = call(host, "take", plain(who), str(wait), timeout=wait + 120.0)
    if result.status == HELD:
        raise Refused(f"another apply is under way: {result.stdout.strip()} holds the lock of {host.name}")
    if not result.ok:
        raise HostError(result.stderr.strip() or f"the lock of {host.name} could not be taken")
    number, _, folder = result.stdout.strip().splitlines()[-1].partition(" ")
    return number, folder or PENDING


def put(host: Host, files: Mapping[str, str], below: str = PENDING) -> None:
    """Writes files of a transaction: {path below `below`: text}."""
    put_all(host, {f"{below}/{p}": (c.encode(), 0o700 if p.endswith(".sh") else 0o600) for p, c in files.items()})


def plain(words: str) -> str:
    """Words that may stand in the target of a link, on one line."""
    return "".join(c if c.isalnum() or c in " @._-+:[]," else "?" for c in words)[:200]


def stop_at(step: str) -> None:
    """A test ends the process here as kill -9 would: `PORTCTL_STOP_AT=<step>`, with `PORTCTL_TESTING=1`."""
    if os.environ.get("PORTCTL_TESTING") == "1" and os.environ.get("PORTCTL_STOP_AT") == step:
        os.kill(os.getpid(), getattr(signal, os.environ.get("PORTCTL_STOP_BY", "SIGKILL")))
