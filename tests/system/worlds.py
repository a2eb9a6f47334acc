"""Machines to test on: each has its own network, files, processes, host name and sshd, and ends with the test.

    with worlds.machine("web") as web:                    # one machine, alone: a Host with `start`
        web.run(Command(("nft", "list", "ruleset")))
        web.put("/etc/portctl/x", b"…")                   # in memory; the real /etc is below, as it is

    with worlds.world() as world:                         # a machine, a controller, one wire between them
        world.machine.run(…)                              # `eth0`: 192.0.2.10/24, 2001:db8::10/64
        world.controller.run(…)                           # `eth0`: 192.0.2.1/24, 2001:db8::1/64; the machine's gateway
        world.start_sshd()                                # a real sshd on port 22; returns when it answers
        world.ssh("uptime")                               # a Result, over a new connection: status 255 if none came
        world.ssh("uptime", address="2001:db8::10", timeout=3)
        session = world.start_ssh("sh")                   # a Popen with pipes, for a session that stays
        tty = world.start_ssh("bash", terminal=True)      # the same with a terminal on the machine
        world.controller.start(("python3", "-c", "…"))    # a Popen in the controller
        stranger = world.join("other", "192.0.2.66/24", "2001:db8::66/64")    # one more host on the same wire

`world.ssh_argv` is the start of an ssh command line as the controller has to write it. Both machines are root's; the
program under test runs on a machine by `applying.portctl`, which spares the start of Python (`forked`), or as
`(sys.executable, "-m", "portctl", …)` with `world.machine.run` and `start`. What is written anywhere on a machine is
kept in memory and gone with it; /run is empty at first, and there is no systemd.
A machine starts in about 0.2 s. They end, with all their processes, at the end of the `with`, or when the test process
dies in whatever way.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from portctl.command import Command, Result
from portctl.hosts.local import Local
from portctl.hosts.namespaces import Network, Room

WIRE = """\
sysctl -qw net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.default.accept_dad=0
"""

SSHD = """\
Port 22
HostKey /etc/ssh/test_host_key
AuthorizedKeysFile /etc/ssh/test_authorized_keys
PermitRootLogin yes
PasswordAuthentication no
UsePAM no
StrictModes no
PidFile /run/sshd.pid
AcceptEnv LANG
SetEnv SWEEP_SECONDS=1
"""
"""The last line: how often the guard on the machine looks after connections from before the rules."""

SSH = """\
Host *
  User root
  IdentityFile /etc/ssh/test_key
  IdentitiesOnly yes
  StrictHostKeyChecking no
  UserKnownHostsFile /dev/null
  GlobalKnownHostsFile /dev/null
  LogLevel ERROR
  BatchMode yes
"""

HOME_FILES = ("/root/.ssh", "/root/.bashrc", "/root/.profile", "/root/.bash_profile", "/root/.bash_login")


def checked(host: Room | Network, *argv: str, stdin: bytes = b"") -> str:
    """Runs a command that must succeed, and returns what it printed."""
    result = host.run(Command(argv, stdin), timeout=60)
    if not result.ok:
        raise AssertionError(f"{host.name}: {' '.join(argv)}: {result.status}\n{result.stdout}{result.stderr}")
    return result.stdout


@contextmanager
def machine(name: str = "machine") -> Iterator[Room]:
    """One machine with nothing but loopback."""
    with Room(name) as room:
        # root's start-up files belong to whoever runs the tests, and take their time.
        checked(room, "rm", "-rf", *HOME_FILES)
        checked(room, "sh", "-c", WIRE)
        yield room


@dataclass(slots=True)
class World:
    machine: Room
    controller: Room
    ssh_argv: tuple[str, ...] = ("ssh", "-F", "/etc/ssh/test_config")
    _stack: ExitStack = field(default_factory=ExitStack)

    def join(self, name: str, *addresses: str) -> Room:
        """One more machine on the wire, with `eth0` and these addresses."""
        room = self._stack.enter_context(machine(name))
        connect(self.controller, room, name)
        plug(room, *addresses)
        return room

    def start_sshd(self) -> None:
        """Keys, configuration, and a daemon of Debian's openssh-server; returns once it answers."""
        checked(self.controller, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", "/etc/ssh/test_key")
        key = checked(self.controller, "cat", "/etc/ssh/test_key.pub")
        self.controller.put("/etc/ssh/test_config", SSH.encode())
        checked(self.machine, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", "/etc/ssh/test_host_key")
        self.machine.put("/etc/ssh/test_authorized_keys", key.encode(), 0o600)
        self.machine.put("/etc/ssh/test_sshd_config", SSHD.encode())
        # sshd refuses an account whose password field says that it is locked.
        checked(self.machine, "sed", "-i", "s/^root:[^:]*:/root:*:/", "/etc/shadow")
        checked(self.machine, "mkdir", "-p", "/run/sshd")
        checked(self.machine, "/usr/sbin/sshd", "-f", "/etc/ssh/test_sshd_config")
        until(lambda: self.ssh("true").ok, "sshd answers")

    def ssh(self, command: str, address: str = "192.0.2.10", timeout: float = 5, options: Sequence[str] = ()) -> Result:
        """Runs a command over a new connection, which must come about within `timeout` seconds."""
        argv = (*self.ssh_argv, "-o", f"ConnectTimeout={max(1, int(timeout))}", *options, address, command)
        return self.controller.run(Command(argv), timeout=60 + timeout)

    def start_ssh(
        self, command: str, address: str = "192.0.2.10", terminal: bool = False, options: Sequence[str] = ()
    ) -> subprocess.Popen[bytes]:
        """A session that stays, its streams as pipes."""
        return self.controller.start((*self.ssh_argv, *(["-tt"] if terminal else []), *options, address, command))


@contextmanager
def world() -> Iterator[World]:
    """A machine called `machine` and a controller, joined by a bridge in the controller."""
    with ExitStack() as stack:
        controller = stack.enter_context(machine("controller"))
        checked(controller, "sh", "-c", BRIDGE)
        plug_addresses(controller, "192.0.2.1/24", "2001:db8::1/64")
        made = World(stack.enter_context(machine("machine")), controller, _stack=stack)
        connect(controller, made.machine, "machine")
        plug(made.machine, "192.0.2.10/24", "2001:db8::10/64")
        checked(made.machine, "ip", "route", "add", "default", "via", "192.0.2.1")
        checked(made.machine, "ip", "-6", "route", "add", "default", "via", "2001:db8::1")
        yield made


BRIDGE = """\
set -e
ip link add wire type bridge forward_delay 0 mcast_snooping 0
ip link add eth0 type veth peer name eth0-wire
ip link set eth0-wire master wire up
ip link set wire up
ip link set eth0 up
"""


def connect(controller: Room, room: Room, name: str) -> None:
    """A cable from the bridge to the room's `eth0`."""
    port = f"port-{name}"[:15]
    checked(controller, "ip", "link", "add", port, "type", "veth", "peer", "name", f"x-{name}"[:15])
    controller.give(f"x-{name}"[:15], room, "eth0")
    checked(controller, "ip", "link", "set", port, "master", "wire", "up")


def plug(room: Room, *addresses: str) -> None:
    checked(room, "ip", "link", "set", "eth0", "up")
    plug_addresses(room, *addresses)


def plug_addresses(room: Room, *addresses: str) -> None:
    for address in addresses:
        checked(room, "ip", "address", "add", address, "dev", "eth0", *(["nodad"] if ":" in address else []))


def until(holds: Callable[[], object], what: str, seconds: float = 10.0) -> None:
    """Waits until a condition holds. AssertionError after `seconds`."""
    end, pause = time.monotonic() + seconds, 0.02
    while not holds():
        assert time.monotonic() < end, f"not within {seconds:g} s: {what}"
        time.sleep(pause)
        pause = min(1.5 * pause, 0.2)  # to ask takes processors from what is waited for


def ability() -> str | None:
    """Why machines cannot be made here, or None where they can."""
    if os.geteuid() != 0:
        return "machines of their own need root"
    try:
        with Room("trial") as room:
            checked(room, "ip", "link", "show")
    except Exception as error:
        return str(error)
    return None


def checked_local(*argv: str) -> str:
    """Runs a harmless command on this machine itself; it must succeed."""
    result = Local().run(Command(argv), timeout=60)
    if not result.ok:
        raise AssertionError(f"{' '.join(argv)}: {result.status}\n{result.stdout}{result.stderr}")
    return result.stdout
