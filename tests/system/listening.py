"""Real sockets on a test's machine, opened by `open_sockets.py`."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from portctl.hosts.namespaces import Network, Room

SCRIPT = str(Path(__file__).with_name("open_sockets.py"))


def tcp(address: str, port: int, **more: Any) -> dict[str, Any]:
    return {"type": "tcp", "address": address, "port": port, **more}


def udp(address: str, port: int, **more: Any) -> dict[str, Any]:
    return {"type": "udp", "address": address, "port": port, **more}


def process(name: str, *sockets: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"name": name, "sockets": list(sockets), **more}


@contextmanager
def listening(machine: Room | Network, *processes: dict[str, Any]) -> Iterator[None]:
    """Processes with sockets, until the end of the `with`."""
    started = machine.start((sys.executable, "-I", SCRIPT))
    try:
        tell(started, list(processes))
        yield
    finally:
        assert started.stdin is not None
        started.stdin.close()
        started.wait(5)


def tell(started: subprocess.Popen[bytes], processes: list[dict[str, Any]]) -> None:
    assert started.stdin is not None and started.stdout is not None and started.stderr is not None
    started.stdin.write(json.dumps(processes).encode() + b"\n")
    started.stdin.flush()
    if started.stdout.readline() != b"ready\n":
        raise AssertionError(started.stderr.read().decode())
