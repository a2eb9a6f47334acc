"""Servers that echo, and clients that say what became of their packets."""

from __future__ import annotations

import sys

from portctl.hosts.namespaces import Network, Room
from tests.system.worlds import checked

ECHO = """
import socket, sys, threading
held = []
def tcp(family, port):
    s = bound(family, socket.SOCK_STREAM, port)
    s.listen(100)
    ready.release()
    while True:
        held.append(s.accept()[0])
        threading.Thread(target=echo, args=(held[-1],), daemon=True).start()
def echo(c):
    try:
        while data := c.recv(100): c.sendall(data)
    except OSError: pass
def udp(family, port):
    s = bound(family, socket.SOCK_DGRAM, port)
    ready.release()
    while True: s.sendto(*s.recvfrom(100))
def bound(family, kind, port):
    s = socket.socket(family, kind)
    if family == socket.AF_INET6: s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    s.bind(("", port))
    return s
ready = threading.Semaphore(0)
ports = [int(word) for word in sys.argv[1:]]
for port in ports:
    for family in (socket.AF_INET, socket.AF_INET6):
        for serve in (tcp, udp): threading.Thread(target=serve, args=(family, port), daemon=True).start()
for _ in range(4 * len(ports)): ready.acquire()
print("ready", flush=True)
sys.stdin.read()
"""

DIAL = """
import socket, sys
from concurrent.futures import ThreadPoolExecutor
held = []
def dial(word):
    kind, source, host, port = word.split(",")
    s = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, getattr(socket, kind))
    held.append(s)
    s.settimeout(float(sys.argv[1]))
    try:
        if source: s.bind((source, 0))
        s.connect((host, int(port)))
        s.send(b"x")
        return "open" if s.recv(9) == b"x" else "closed"
    except TimeoutError: return "silent"
    except (ConnectionRefusedError, ConnectionResetError): return "refused"
with ThreadPoolExecutor(20) as pool: print(*pool.map(dial, sys.argv[2:]))
"""


def serve(host: Room | Network, *ports: int) -> None:
    """Echoes on these ports, TCP and UDP of both families, until the host ends; returns once all of them listen."""
    started = host.start((sys.executable, "-c", ECHO, *map(str, ports)))
    assert started.stdout is not None and started.stderr is not None
    assert started.stdout.readline() == b"ready\n", started.stderr.read().decode()


def tcp(port: int, host: str = "192.0.2.10", source: str = "") -> str:
    return f"SOCK_STREAM,{source},{host},{port}"


def udp(port: int, host: str = "192.0.2.10", source: str = "") -> str:
    return f"SOCK_DGRAM,{source},{host},{port}"


def dial(host: Room | Network, *ends: str, seconds: float = 0.9) -> list[str]:
    """What becomes of a connection, or a datagram, to each end, all at once: open, silent, refused."""
    return checked(host, sys.executable, "-c", DIAL, str(seconds), *ends).split()
