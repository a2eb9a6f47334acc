"""Opens sockets of every kind, as a program of its own: `python3 open_sockets.py` with a JSON list on its first line.

Each entry is {"name", "sockets": [{"type": "tcp|udp", "address", "port", "only": bool, "device", "reuse", "peer"}],
"uid", "forks"}: one process, which bears the name. They say `ready` together and end when standard input does.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import sys


def main() -> None:
    for entry in json.loads(sys.stdin.readline()):
        os.seteuid(entry.get("uid", 0))
        opened = [listen(**wanted) for wanted in entry["sockets"]]
        os.seteuid(0)
        if os.fork() == 0:
            stay(entry)
        for made in opened:
            made.close()
    print("ready", flush=True)
    sys.stdin.read()


def stay(entry: dict) -> None:  # type: ignore[type-arg]
    for _ in range(entry.get("forks", 0)):
        if os.fork() == 0:
            break
    os.setuid(entry.get("uid", 0))
    library = ctypes.CDLL(None)
    library.prctl(15, entry["name"].encode()[:15])  # PR_SET_NAME, linux/prctl.h
    library.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    library.prctl(4, 1)  # PR_SET_DUMPABLE, so that its own user may see its sockets
    while True:
        signal.pause()


def listen(
    type: str,
    address: str,
    port: int,
    only: bool | None = None,
    device: str | None = None,
    reuse: bool = False,
    peer: list | None = None,  # type: ignore[type-arg]
) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    made = socket.socket(family, socket.SOCK_STREAM if type == "tcp" else socket.SOCK_DGRAM)
    if only is not None:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, only)
    if reuse:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    if device:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
    made.bind(socket.getaddrinfo(address, port, family, made.type)[0][4])
    if peer:
        made.connect(tuple(peer))
    elif type == "tcp":
        made.listen(16)
    return made


main()
