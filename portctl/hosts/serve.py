"""Listens where a policy's services are offered, and answers. A program of its own, run within the sandbox.

The first line of standard input is a JSON list of [process name, [[protocol number, address or null, port], …]]. There
is one process for each name, which it bears. They say `ready` together and end when standard input does.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import socket
import sys

PR_SET_NAME, PR_SET_PDEATHSIG = 15, 1  # linux/prctl.h
TCP = 6


def main() -> None:
    all_named, named = os.pipe()
    for name, sockets in json.loads(sys.stdin.readline()):
        opened = [made for wanted in sockets if (made := listen(*wanted))]
        if opened and os.fork() == 0:
            library = ctypes.CDLL(None)
            library.prctl(PR_SET_NAME, name.encode()[:15])
            library.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            os.close(named)
            answer(name, opened)
        for made in opened:
            made.close()
    os.close(named)
    os.read(all_named, 1)  # ends once no process holds the other side: each bears its name
    print("ready", flush=True)
    sys.stdin.read()


def listen(protocol: int, address: str | None, port: int) -> socket.socket | None:
    """A socket on the port, on IPv4 and IPv6 where no address is given; None where somebody has it already."""
    family = socket.AF_INET if address is not None and ":" not in address else socket.AF_INET6
    made = socket.socket(family, socket.SOCK_STREAM if protocol == TCP else socket.SOCK_DGRAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1 if protocol == TCP else 0)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if address is None else 1)
        made.bind((address or "::", port))
        if protocol == TCP:
            made.listen(16)
        made.setblocking(False)
    except OSError:
        made.close()
        return None
    return made


def answer(name: str, opened: list[socket.socket]) -> None:
    while True:
        for ready in select.select(opened, [], [])[0]:
            try:
                if ready.type == socket.SOCK_STREAM:
                    connection = ready.accept()[0]
                    connection.sendall(f"{name}\n".encode())
                    connection.close()
                else:
                    ready.sendto(f"{name}\n".encode(), ready.recvfrom(512)[1])
            except OSError:
                continue


if __name__ == "__main__":
    main()
