"""Sockets that are really open, seen by ss and by /proc/net, and facts of a real machine."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from portctl.command import Command, Result
from portctl.hosts import process as running
from portctl.hosts.namespaces import Room
from portctl.listeners import Listener, proc, ss
from portctl.observe import Facts, facts, observe
from tests.system import worlds
from tests.system.listening import SCRIPT, listening, process, tcp, tell, udp

RING = "listeners"
NEEDS = ("ss", "netstat", "lsof")
PROCESSES = (
    process("plain", tcp("0.0.0.0", 8001), udp("0.0.0.0", 8001)),
    process("six", tcp("::", 8002, only=True), udp("::", 8002, only=True)),
    process("dual", tcp("::", 8003, only=False), udp("::", 8003, only=False)),
    process("both", tcp("0.0.0.0", 8004), tcp("::", 8004, only=True)),
    process("one", tcp("192.0.2.10", 8005), tcp("2001:db8::10", 8005), udp("192.0.2.10", 8005)),
    process("local", tcp("127.0.0.1", 8006), tcp("::1", 8006)),
    process("bound", udp("127.0.0.53", 8007, device="lo")),
    process("client", udp("192.0.2.10", 8008, peer=["192.0.2.1", 53])),
    process('a "name", (so)', tcp("0.0.0.0", 8009)),
    process("forks", tcp("0.0.0.0", 8010), forks=2),
    process("nobody", tcp("0.0.0.0", 8011), uid=65534),
    process("mapped", tcp("::ffff:192.0.2.10", 8012, only=False)),
)


def shown(listener: Listener) -> str:
    takes = "both" if listener.dual_stack else f"v{listener.family}"
    place = f"{listener.address or '*'}" + (f"%{listener.scope}" if listener.scope else "")
    return f"{listener.protocol} {place} {listener.port} {takes} {listener.process} {listener.user}"


def test_every_kind_of_socket_is_seen_as_what_it_is() -> None:
    with worlds.world() as world, listening(world.machine, *PROCESSES):
        seen = observe(world.machine, ())
        assert seen.listeners is not None
        assert {shown(listener) for listener in seen.listeners} == {
            "6 * 8001 v4 plain 0",
            "17 * 8001 v4 plain 0",
            "6 * 8002 v6 six 0",
            "17 * 8002 v6 six 0",
            "6 * 8003 both dual 0",
            "17 * 8003 both dual 0",
            "6 * 8004 v4 both 0",
            "6 * 8004 v6 both 0",
            "6 192.0.2.10 8005 v4 one 0",
            "6 2001:db8::10 8005 v6 one 0",
            "17 192.0.2.10 8005 v4 one 0",
            "6 127.0.0.1 8006 v4 local 0",
            "6 ::1 8006 v6 local 0",
            "17 127.0.0.53%lo 8007 v4 bound 0",
            '6 * 8009 v4 a "name", (so 0',  # ss itself cuts a name at its last parenthesis
            "6 * 8010 v4 forks 0",
            "6 * 8011 v4 nobody 65534",
            "6 192.0.2.10 8012 v6 mapped 0",
        }
        assert seen.connections is not None
        assert [(c.local_port, c.peer_port, c.process) for c in seen.connections] == [(8008, 53, "client")]


def test_proc_says_the_same_but_for_what_it_does_not_know() -> None:
    """/proc/net has neither v6only nor the device; who listens is the same."""
    with worlds.world() as world, listening(world.machine, *PROCESSES):
        by_ss = observe(world.machine, (), known=replace(facts(world.machine), tools=(("ss", ""),)))
        by_proc = observe(world.machine, (), known=replace(facts(world.machine), tools=()))
        assert by_ss.listeners is not None and by_proc.listeners is not None

        def plainly(found: tuple[Listener, ...]) -> set[tuple[object, ...]]:
            return {(x.protocol, x.address, x.port, x.family, (x.process or "")[:13], x.pid, x.user) for x in found}

        assert plainly(by_ss.listeners) == plainly(by_proc.listeners)
        dual = {x.port for x in by_proc.listeners if x.dual_stack}
        assert dual == {8002, 8003}, "8002 is IPv6 alone, which /proc does not tell: rather open than overlooked"
        assert by_proc.connections == by_ss.connections


@dataclass(frozen=True, slots=True)
class Lacking:
    """A machine without ss and /proc/net, which has one tool alone for its sockets."""

    machine: Room
    tool: str
    name: str = "lacking"

    def run(self, command: Command, timeout: float | None = None) -> Result:
        if command.argv[0] in ("netstat", "lsof") and command.argv[0] != self.tool:
            return Result(127, "", "not found")
        if proc.ASK in command.argv:
            return Result(1, "", "no such file")
        return self.machine.run(command, timeout)

    def put(self, path: str, data: bytes, mode: int = 0o644) -> None:
        self.machine.put(path, data, mode)


@pytest.mark.parametrize("tool", ["netstat", "lsof"])
def test_net_tools_and_lsof_say_the_same_but_for_what_they_do_not_know(tool: str) -> None:
    """The real ones. Neither knows the device or v6only, and netstat calls a process by its command line."""
    with worlds.world() as world, listening(world.machine, *PROCESSES):
        known = replace(facts(world.machine), sees_processes=True)
        by_ss = observe(world.machine, (), known=replace(known, tools=(("ss", ""),)))
        other = observe(Lacking(world.machine, tool), (), known=replace(known, tools=()))
        assert by_ss.listeners is not None and other.listeners is not None

        def plainly(found: tuple[Listener, ...]) -> set[tuple[object, ...]]:
            names = {x.pid: (x.process or "")[:8] if tool == "lsof" else "" for x in found}
            return {(x.protocol, x.address, x.port, x.family, names[x.pid], x.pid) for x in found}

        assert plainly(other.listeners) == plainly(by_ss.listeners)
        dual = {x.port for x in other.listeners if x.dual_stack}
        assert {8002, 8003} <= dual and 8001 not in dual
        assert (8008, 53) in {(c.local_port, c.peer_port) for c in other.connections or ()}


def test_connections_are_seen_from_both_ends() -> None:
    with worlds.world() as world, listening(world.machine, process("web", tcp("::", 80, only=False))):
        talk = "import socket, sys; s = socket.create_connection((sys.argv[1], 80)); print('in', flush=True); input()"
        for address in ("192.0.2.10", "2001:db8::10"):
            client = world.controller.start((sys.executable, "-c", talk, address))
            assert client.stdout is not None and client.stdout.readline() == b"in\n"
        found = observe(world.machine, ()).connections or ()
        assert [(str(c.local), c.local_port, str(c.peer)) for c in found] == [
            ("192.0.2.10", 80, "192.0.2.1"),
            ("2001:db8::10", 80, "2001:db8::1"),
        ]


@dataclass(frozen=True)
class Beside:
    """Another network on this machine itself, its processes among all others: as a host sees its own."""

    pid: int
    name: str = "beside"

    def run(self, command: Command, timeout: float | None = None) -> Result:
        return running.run(("nsenter", f"--net=/proc/{self.pid}/ns/net", *command.argv), command.stdin, timeout)

    def put(self, path: str, data: bytes, mode: int = 0o644) -> None:
        raise AssertionError((path, data, mode))


@contextmanager
def beside(set_up: str, *processes: dict[str, object]) -> Iterator[Beside]:
    argv = ["unshare", "-n", "sh", "-c", f'{set_up}; exec "$0" -I "$1"', sys.executable, SCRIPT]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as started:
        tell(started, list(processes))
        own = Path(f"/proc/{started.pid}/ns/net").stat().st_ino
        for owner in ("self", "1"):
            with suppress(PermissionError):
                assert own != Path(f"/proc/{owner}/ns/net").stat().st_ino
        yield Beside(started.pid)
        assert started.stdin is not None
        started.stdin.close()


def test_a_socket_of_the_kernel_has_no_owner_and_is_called_so() -> None:
    """A VXLAN device listens without any process, as WireGuard and NFS do. Where not even root sees everybody (in a
    container), it could be somebody else's, and is unknown."""
    vxlan = "ip link set lo up; ip link add v0 type vxlan id 1 dstport 4789 dev lo; ip link set v0 up"
    with beside(vxlan, process("sshd", tcp("0.0.0.0", 22))) as host:
        known = facts(host)
        expected = "kernel" if known.sees_processes else None
        for tools in ((("ss", ""),), ()):
            found = observe(host, (), known=replace(known, tools=tools)).listeners or ()
            assert {(x.port, x.process) for x in found} == {(22, "sshd"), (4789, expected)}


def test_without_root_owners_are_unknown() -> None:
    with beside("ip link set lo up", process("sshd", tcp("0.0.0.0", 22))) as host:
        seen = host.run(Command(("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *ss.LISTENERS)))
        assert [(x.port, x.process) for x in ss.listeners(seen.stdout)] == [(22, None)]
        seen = host.run(Command(("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "sh", "-c", proc.ASK)))
        assert [(x.port, x.process) for x in proc.listeners(seen.stdout)] == [(22, None)]


def test_facts_of_a_real_machine() -> None:
    with worlds.world() as world:
        known: Facts = facts(world.machine)
        assert known.system == "Linux" and known.root and not known.tracking
        addresses = {i.name: {str(a) for a in i.addresses if not a.is_link_local} for i in known.interfaces}
        assert addresses["eth0"] == {"192.0.2.10", "2001:db8::10"}
        assert {str(gateway) for gateway in known.gateways} == {"192.0.2.1", "2001:db8::1"}
        assert known.tool("nft") and known.nft_works
        worlds.checked(
            world.machine, "nft", "add table inet t; add chain inet t c { type filter hook input priority 0; }"
        )
        worlds.checked(world.machine, "nft", "add rule inet t c ct state new accept")
        assert facts(world.machine).tracking


def test_names_of_processes_are_cut_by_the_kernel() -> None:
    with worlds.machine() as machine, listening(machine, process("a-very-long-process-name", tcp("127.0.0.1", 80))):
        (found,) = observe(machine, ()).listeners or ()
        assert found.process == "a-very-long-pro"
