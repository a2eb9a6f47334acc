"""One process, run to its end: how every host runs a command."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from shlex import join
from typing import IO

from portctl.command import HostError, Result

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""The PATH of every command, whatever the caller's: sudo, cron and su leave out the sbin folders."""
NOT_FOUND, NOT_EXECUTABLE = 127, 126
"""Exit statuses of a shell (POSIX, 2.8.2)."""


def environment(base: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of a command: English messages, the standard PATH, else as `base` (default: the caller's)."""
    given = os.environ if base is None else base
    kept = {k: v for k, v in given.items() if not k.startswith("LC_") and k not in ("LANG", "LANGUAGE")}
    return {**kept, "PATH": PATH, "LC_ALL": "C"}


def persons_path() -> str:
    """The PATH of whoever gave the command, before ours: for tools of theirs, as ssh and Vagrant are."""
    return f"{os.environ.get('PATH', '')}:{PATH}"


def run(
    argv: Sequence[str],
    stdin: bytes = b"",
    timeout: float | None = None,
    env: Mapping[str, str] | None = None,
    pass_fds: Sequence[int] = (),
) -> Result:
    """Runs `argv` in a session of its own and waits at most `timeout` seconds. Raises `HostError` when time is up.

    Input and output go through files, not pipes: a child that stays behind (the guard) does not keep the caller
    waiting, and a terminal's Ctrl-C does not reach a command halfway through a change.
    """
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        given.write(stdin)
        given.seek(0)
        try:
            process = subprocess.Popen(
                argv,
                stdin=given,
                stdout=out,
                stderr=err,
                env=environment(env),
                pass_fds=pass_fds,
                start_new_session=True,
            )
        except (FileNotFoundError, NotADirectoryError):
            return Result(NOT_FOUND, "", f"{argv[0]}: not found\n")
        except PermissionError:
            return Result(NOT_EXECUTABLE, "", f"{argv[0]}: permission denied\n")
        _wait(process, timeout)
        return Result(_status(process.returncode), _text(out), _text(err))


def _wait(process: subprocess.Popen[bytes], timeout: float | None) -> None:
    try:
        if timeout is not None:
            _until_ended(process, timeout)
        process.wait(timeout)
    except subprocess.TimeoutExpired:
        _kill(process)
        raise HostError(f"`{join(_argv(process))}` did not finish within {timeout:g} s and was stopped") from None
    except BaseException:
        _kill(process)
        raise


def _until_ended(process: subprocess.Popen[bytes], timeout: float) -> None:
    """Sleeps until the process ends, where the system can tell; `wait` with a timeout looks every 50 ms instead."""
    if not hasattr(os, "pidfd_open"):
        return
    try:
        descriptor = os.pidfd_open(process.pid)
    except OSError:
        return
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        if not poll.poll(timeout * 1000):
            raise subprocess.TimeoutExpired(process.args, timeout)
    finally:
        os.close(descriptor)


def _argv(process: subprocess.Popen[bytes]) -> list[str]:
    return [str(word) for word in process.args] if isinstance(process.args, list | tuple) else [str(process.args)]


def _kill(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _status(code: int) -> int:
    """As a shell says it: 128 + n for a process that signal n ended."""
    return code if code >= 0 else 128 - code


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode("utf-8", "replace")
