"""The sweep of connections that are older than the rules, on real sockets and a real state tracker: each keeps its
transitional rule, however idle it is, until its socket closes or the tracker knows it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from portctl.apply import connections
from portctl.command import Command
from portctl.hosts.namespaces import Room
from portctl.listeners import Connection
from portctl.observe import observe
from portctl.templating import text
from tests.system import worlds
from tests.system.worlds import World

RING = "sweep"
NEEDS = ("ss", "nft", "conntrack")
SERVE = """
import select, socket, sys
kept = []
for family, only in ((socket.AF_INET, None), (socket.AF_INET6, True), (socket.AF_INET6, False)):
    s = socket.socket(family)
    if only is not None: s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, only)
    s.bind(('', 80 if only is not False else 81)); s.listen(); kept.append(s)
u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); u.bind(('192.0.2.10', 5000)); u.connect(('192.0.2.1', 5001))
print('ready', flush=True)
accepted = [s.accept()[0] for s in kept[:3]]
while accepted:
    for c in select.select(accepted, [], [])[0]:
        if not c.recv(100): accepted.remove(c); c.close()
sys.stdin.read()
"""
CLIENT = """
import socket, sys
c = socket.create_connection((sys.argv[1], int(sys.argv[2])), 5); print('open', flush=True)
for line in sys.stdin:
    c.sendall(b'x')
"""
OPEN = '#!/bin/sh\n# open.sh add|delete: the list of those taken away\n[ "$1" = add ] || cat >>/run/swept\n'


@pytest.fixture
def world() -> Iterator[World]:
    with worlds.world() as made:
        yield made


@contextmanager
def clients(world: World) -> Iterator[dict[str, subprocess.Popen[bytes]]]:
    """Connections from the controller, by the end they came to: IPv4, IPv6, and IPv4 to a socket of both."""
    server = world.machine.start((sys.executable, "-c", SERVE))
    assert server.stdout is not None and server.stdout.readline() == b"ready\n"
    made = {}
    for end in ("192.0.2.10 80", "2001:db8::10 80", "192.0.2.10 81"):
        made[end] = world.controller.start((sys.executable, "-c", CLIENT, *end.split()))
        out = made[end].stdout
        assert out is not None and out.readline() == b"open\n"
    yield made
    for each in (*made.values(), server):
        each.kill()


def swept(machine: Room) -> set[str]:
    """The local ends of those whose transitional rules were taken away."""
    gone = machine.run(Command(("cat", "/run/swept"))).stdout.splitlines()
    return {" ".join(line.split()[2:4]) for line in gone}


def over(machine: Room) -> bool:
    return not machine.run(Command(("test", "-e", "/run/open"))).ok


def sweep(machine: Room, found: tuple[Connection, ...]) -> None:
    worlds.checked(machine, "mkdir", "-p", "/run/open")
    machine.put("/run/open/open.sh", OPEN.encode(), 0o700)
    machine.put("/run/open/sweep.sh", text("guard/sweep.sh").encode(), 0o700)
    machine.put("/run/open/list", connections.lines(found).encode())
    machine.start(("env", "SWEEP_SECONDS=0.3", "sh", "/run/open/sweep.sh"))


def test_an_idle_connection_keeps_its_rule_until_its_socket_closes(world: World) -> None:
    with clients(world) as open_now:
        found = observe(world.machine, ()).connections or ()
        assert {(str(c.local), c.local_port) for c in found} == {
            ("192.0.2.10", 80), ("2001:db8::10", 80), ("192.0.2.10", 81), ("192.0.2.10", 5000),
        }  # fmt: skip
        sweep(world.machine, found)
        # Idle, for several of its rounds: nobody sends anything.
        with pytest.raises(AssertionError, match="something was swept"):
            worlds.until(lambda: swept(world.machine), "something was swept", 2.5)
        for end, client in open_now.items():
            assert client.stdin is not None
            client.stdin.close()
            worlds.until(lambda end=end: end in swept(world.machine), f"{end} is swept", 20)  # type: ignore[misc]
        assert not over(world.machine), "the connected UDP socket is still there"


def test_what_the_state_tracker_knows_by_now_needs_no_rule(world: World) -> None:
    with clients(world) as open_now:
        tcp = tuple(c for c in observe(world.machine, ()).connections or () if c.protocol == 6)
        sweep(world.machine, tcp)
        # From here on the tracker is at work. It takes up what goes on, and knows nothing of what is idle.
        worlds.checked(
            world.machine, "nft", "add table inet t; add chain inet t c { type filter hook input priority 0; }"
        )
        worlds.checked(world.machine, "nft", "add rule inet t c ct state established accept")
        for end in ("192.0.2.10 80", "2001:db8::10 80"):
            client = open_now[end]
            assert client.stdin is not None
            client.stdin.write(b"\n")
            client.stdin.flush()
            if ":" not in end:
                worlds.until(lambda end=end: end in swept(world.machine), f"{end} is known", 20)  # type: ignore[misc]
        assert "192.0.2.10 81" not in swept(world.machine)
