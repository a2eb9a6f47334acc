"""portctl on a machine without a new start of Python for every command.

One process has imported all of portctl. For each command it forks, enters the namespaces of the machine, and runs it:
the command is a process of its own all the same, in a session of its own, with its own environment and streams, and can
be killed at any moment. What is spared is the import, which takes more than most commands do.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import pkgutil
import platform
import re
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import redirect_stdout, suppress
from functools import cache
from importlib import import_module, reload
from io import StringIO
from pathlib import Path
from typing import IO

import portctl
from portctl import cli
from portctl.command import Result
from portctl.hosts import process
from portctl.hosts.namespaces import Room

STREAMS = 3
"""Of the descriptors that come with a request these are standard input, output and error; the next gets the exit
status; the others are namespaces."""
LONGEST = 1 << 16
FIRST = "portctl: 1\nname: first\nservices: {ssh: {ports: ssh, from: any}}\n"


def run(machine: Room, words: Sequence[str], env: Sequence[str] = (), timeout: float = 120) -> Result:
    """Runs `portctl WORDS` on a machine, as `machine.run` would run it: in the root folder, with the standard PATH.
    AssertionError after `timeout` seconds."""
    namespaces = [int(number) for number in re.findall(r"=/proc/self/fd/(\d+)", " ".join(machine.prefix()))]
    outside = {name: value for name, value in os.environ.items() if not name.startswith("SSH_")}
    told = process.environment(outside) | dict(each.split("=", 1) for each in env)
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        status, ended = os.pipe()
        try:
            request = json.dumps({"words": list(words), "env": told}).encode()
            socket.send_fds(mother(), [request], [given.fileno(), out.fileno(), err.fileno(), ended, *namespaces])
        finally:
            os.close(ended)
        with open(status, "rb") as answer:  # noqa: PTH123 - a descriptor has no path
            over = select.select([answer], [], [], timeout)[0]
            assert over, f"portctl {' '.join(words)}: not within {timeout:g} s\n{_text(out)}{_text(err)}"
            said = answer.read()
        assert said, f"portctl {' '.join(words)} was not started\n{_text(err)}"
        code = int(said)
        return Result(code if code >= 0 else 128 - code, _text(out), _text(err))


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode("utf-8", "replace")


@cache
def mother() -> socket.socket:
    """Where commands are asked for. The process behind it ends with this one."""
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    argv = (sys.executable, "-m", __name__)
    subprocess.Popen(argv, stdin=there.fileno(), env=process.environment(), start_new_session=True)
    there.close()
    return here


# ---- the other side


def serve() -> None:
    """Reads requests and forks for each. Returns in the process of a command, to run it; otherwise at the end."""
    for module in pkgutil.walk_packages(portctl.__path__, "portctl."):
        if module.name not in ("portctl.__main__", "portctl.pytest_plugin"):
            import_module(module.name)
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(StringIO()), suppress(SystemExit):
        policy = Path(folder, "policy.yaml")
        policy.write_text(FIRST)
        sys.argv = ["portctl", "prove", str(policy), "--backend", "all"]
        cli.main()  # which imports what is imported when it is needed, and reads the templates
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    asked = socket.socket(fileno=os.dup(0))
    while True:
        request, descriptors, _, _ = socket.recv_fds(asked, LONGEST, 16)
        if not request:
            sys.exit(0)
        if os.fork() == 0:
            attend(descriptors)
            become(request, descriptors)
            return
        for each in descriptors:
            os.close(each)


def attend(descriptors: list[int]) -> None:
    """Enters the namespaces, and returns in a child; the parent waits for the child, says how it ended, and ends."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    library = ctypes.CDLL(None, use_errno=True)
    for namespace in descriptors[STREAMS + 1 :]:
        if library.setns(namespace, 0):
            os.write(2, f"setns: {os.strerror(ctypes.get_errno())}\n".encode())
            os._exit(1)
    child = os.fork()
    if child:
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        os.write(descriptors[STREAMS], str(code).encode())
        os._exit(0)


def become(request: bytes, descriptors: list[int]) -> None:
    os.setsid()
    for stream in range(STREAMS):
        os.dup2(descriptors[stream], stream)
    os.closerange(STREAMS, max(descriptors) + 1)
    asked = json.loads(request)
    os.environ.clear()
    os.environ.update(asked["env"])
    time.tzset()
    reload(platform)  # it keeps the name of the host
    sys.argv = ["portctl", *asked["words"]]


if __name__ == "__main__":
    serve()
    runpy.run_module("portctl", run_name="__main__", alter_sys=True)
