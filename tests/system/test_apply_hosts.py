"""What apply promises of hosts that live: open connections, others at the same time, routes, the next boot."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator

import pytest

from portctl.command import Command
from portctl.hosts.namespaces import Room
from tests.system import applying, worlds
from tests.system.applying import BACKENDS
from tests.system.worlds import World

pytestmark = pytest.mark.system

SERVER = """
import socket, sys, threading
def serve(family, port):
    s = socket.socket(family); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6: s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    s.bind(('', port)); s.listen()
    while True:
        c, _ = s.accept(); threading.Thread(target=echo, args=(c,), daemon=True).start()
def echo(c):
    while data := c.recv(100): c.sendall(data)
for family in (socket.AF_INET, socket.AF_INET6):
    for port in (80, 9999): threading.Thread(target=serve, args=(family, port), daemon=True).start()
print('ready', flush=True); sys.stdin.read()
"""
CLIENT = """
import socket, sys
c = socket.create_connection((sys.argv[1], int(sys.argv[2])), 5); c.settimeout(4)
c.sendall(b'1'); assert c.recv(1) == b'1'
print('open', flush=True)
for line in sys.stdin:
    try:
        c.sendall(b'x'); print('alive' if c.recv(1) == b'x' else 'closed', flush=True)
    except OSError as e: print('dead', e, flush=True)
"""
WEB = """portctl: 1
name: web
services:
  web: {ports: http, from: any}
"""


@pytest.fixture
def world() -> Iterator[World]:
    with worlds.world() as made:
        yield made


class Client:
    """A connection from the controller that can be asked whether it lives."""

    def __init__(self, world: World, address: str, port: int) -> None:
        self.process = world.controller.start((sys.executable, "-c", CLIENT, address, str(port)))
        assert self.line() == "open"

    def line(self) -> str:
        assert self.process.stdout
        return self.process.stdout.readline().decode().strip()

    def alive(self) -> bool:
        assert self.process.stdin
        self.process.stdin.write(b"?\n")
        self.process.stdin.flush()
        return self.line() == "alive"


def serve(world: World) -> None:
    server = world.machine.start((sys.executable, "-c", SERVER))
    assert server.stdout and server.stdout.readline() == b"ready\n"


@pytest.mark.parametrize("backend", BACKENDS)
def test_connections_older_than_the_first_apply_survive_if_the_policy_admits_them(world: World, backend: str) -> None:
    serve(world)
    kept = [Client(world, "192.0.2.10", 80), Client(world, "2001:db8::10", 80)]
    strange = Client(world, "192.0.2.10", 9999)
    result = applying.apply(world.machine, WEB, "--confirm-within", "0", "--backend", backend)
    assert result.status == 0, result.stderr
    assert "2 open connections" in result.stdout
    assert "will be cut" in result.stdout and "9999/tcp from 192.0.2.1" in result.stdout
    idle = Client(world, "192.0.2.10", 80)
    assert [client.alive() for client in kept] == [True, True]
    assert not strange.alive()
    assert idle.alive()
    assert applying.portctl(world.machine, "status").status == 0
    # The state tracker knows them now, so the transitional rules go.
    worlds.until(lambda: not world.machine.run(Command(("test", "-e", "/run/portctl/open"))).ok, "swept", 15)
    assert [client.alive() for client in kept] == [True, True]


@pytest.mark.parametrize("backend", BACKENDS)
def test_block_cuts_a_live_connection_at_once(world: World, backend: str) -> None:
    stranger = world.join("other", "192.0.2.66/24", "2001:db8::66/64")
    applying.applied(world.machine, WEB, "--backend", backend)
    serve(world)
    friend = Client(world, "192.0.2.10", 80)
    held = stranger.start((sys.executable, "-c", CLIENT, "192.0.2.10", "80"))
    assert held.stdout and held.stdin and held.stdout.readline() == b"open\n"
    said = applying.apply(world.machine, WEB + "block: [{from: 192.0.2.66, ports: http}]\n", "--confirm-within", "0")
    assert said.status == 0, said.stderr
    assert "will be cut, `block` forbids it: 80/tcp from 192.0.2.66" in said.stdout
    held.stdin.write(b"?\n")
    held.stdin.flush()
    assert b"alive" not in held.stdout.readline()
    assert friend.alive()


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_second_apply_changes_nothing_and_runs_no_changing_command(world: World, backend: str) -> None:
    applying.applied(world.machine, applying.SECOND, "--backend", backend)
    worlds.checked(world.machine, "sh", "-c", "mkdir -p /usr/local/sbin /root/real")
    log = '#!/bin/sh\necho "$0 $*" >>/root/ran\nexec /usr/sbin/${0##*/} "$@"\n'
    for tool in ("nft", "iptables", "ip6tables", "iptables-restore", "ip6tables-restore", "ipset"):
        world.machine.put(f"/usr/local/sbin/{tool}", log.encode(), 0o755)
    before = applying.state(world.machine)
    again = applying.apply(world.machine, applying.SECOND, "--confirm-within", "0")
    assert again.status == 0
    assert "Nothing to do" in again.stdout
    assert applying.state(world.machine) == before
    assert applying.portctl(world.machine, "plan", "/root/policy.yaml", "--exit-code").status == 0
    ran = world.machine.run(Command(("cat", "/root/ran"))).stdout.splitlines()
    harmless = ("list", "save", "--version", "--test", " -c ", " -t ")
    changing = [line for line in ran if not any(word in f"{line} " for word in harmless)]
    assert ran and not changing, changing
    assert len(applying.portctl(world.machine, "history").stdout.splitlines()) == 1


def test_the_plan_shows_no_line_that_stays(world: World) -> None:
    """The kernel lists first what a load has kept."""
    machine = world.machine
    several = ("dns: {ports: 53/udp, from: any}", "mail: {ports: smtp, from: any}", "web: {ports: http, from: any}")
    for count in (1, 0, 2):
        services = "".join(f"  {entry}\n" for entry in ("ssh: {ports: ssh, from: any}", *several[count:]))
        machine.put("/root/policy.yaml", f"portctl: 1\nname: some\nservices:\n{services}".encode())
        if count < 2:
            assert applying.portctl(machine, "apply", "/root/policy.yaml", "--yes", "--confirm-within", "0").status == 0
    shown = applying.portctl(machine, "plan", "/root/policy.yaml").stdout
    changed = [line[1:].strip() for line in shown.splitlines() if line[:1] in "+-" and "chain service-" in line]
    assert sorted(changed) == ["chain service-dns {", "chain service-mail {"], shown


def test_two_at_once_do_not_mix(world: World) -> None:
    machine = world.machine
    machine.put("/root/first.yaml", applying.FIRST.encode())
    first = machine.start(
        (sys.executable, "-m", "portctl", "apply", "/root/first.yaml", "--yes", "--confirm-within", "12")
    )
    worlds.until(lambda: machine.run(Command(("test", "-e", "/run/portctl/pending/loaded"))).ok, "loaded")
    second = applying.apply(machine, applying.SECOND, "--confirm-within", "0")
    assert second.status == 3
    assert "root holds the lock" in second.stderr
    status = applying.portctl(machine, "status")
    assert "Pending: record 1" in status.stdout
    first.kill()
    first.wait()
    third = applying.apply(machine, applying.SECOND, "--confirm-within", "0", "--wait", "40")
    assert third.status == 0, third.stderr
    said = applying.portctl(machine, "history").stdout
    assert "rolled back" in said.splitlines()[0] and "confirmed" in said.splitlines()[1]


def test_many_at_once_take_turns(world: World) -> None:
    machine = world.machine
    machine.put("/root/first.yaml", applying.FIRST.encode())
    machine.put("/root/second.yaml", applying.SECOND.encode())
    ends: list[int] = []

    def one(name: str) -> None:
        words = ("apply", f"/root/{name}.yaml", "--yes", "--confirm-within", "0", "--wait", "60")
        ends.append(applying.portctl(machine, *words).status)

    threads = [threading.Thread(target=one, args=(name,)) for name in ("first", "second", "first", "second")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ends == [0, 0, 0, 0]
    assert applying.portctl(machine, "status").status == 0


ADVERTISE = """
import socket, struct, sys, time
s = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
index = socket.if_nametoindex('eth0')
prefix = struct.pack('!BBBBIII', 3, 4, 64, 0xC0, 3600, 1800, 0) + socket.inet_pton(socket.AF_INET6, '2001:db8:aa::')
packet = struct.pack('!BBHBBHII', 134, 0, 0, 64, 0, 1800, 0, 0) + prefix
for _ in range(int(sys.argv[1])):
    s.sendto(packet, ('ff02::1', 0, 0, index)); time.sleep(0.3)
"""


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_route_by_router_advertisement_outlives_forwarding(world: World, backend: str) -> None:
    machine = world.machine
    worlds.checked(machine, "sh", "-c", "ip -6 route del default; sysctl -qw net.ipv6.conf.eth0.accept_ra=1")

    def default() -> str:
        return machine.run(Command(("ip", "-6", "route", "show", "default", "proto", "ra"))).stdout

    worlds.checked(world.controller, sys.executable, "-c", ADVERTISE, "3")
    worlds.until(default, "a route came by advertisement")
    policy = (
        "portctl: 1\nname: router\ninterfaces: {lan: [eth1], wan: [eth0]}\n"
        "services: {ping: {ports: ping, from: any}}\n"
        'forwards: {all: {ports: any, from: ["2001:db8:bb::/64", 10.0.0.0/8], in: lan, to: any, out: wan}}\n'
        "defaults: {forward: drop}\n"
    )
    result = applying.apply(machine, policy, "--confirm-within", "0", "--backend", backend)
    assert result.status == 0, result.stderr
    assert "net.ipv6.conf.eth0.accept_ra" in result.stdout
    assert worlds.checked(machine, "sysctl", "-n", "net.ipv6.conf.all.forwarding").strip() == "1"
    assert "default" in default()
    worlds.checked(machine, "ip", "-6", "route", "flush", "default", "proto", "ra")
    worlds.checked(world.controller, sys.executable, "-c", ADVERTISE, "3")
    worlds.until(default, "advertisements still count")
    assert applying.portctl(machine, "rollback").status == 0
    assert worlds.checked(machine, "sysctl", "-n", "net.ipv6.conf.all.forwarding").strip() == "0"
    assert worlds.checked(machine, "sysctl", "-n", "net.ipv6.conf.eth0.accept_ra").strip() == "1"


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_next_boot_brings_the_confirmed_state_or_the_one_before_or_the_least(world: World, backend: str) -> None:
    machine = world.machine
    applying.applied(machine, applying.FIRST, "--backend", backend)
    applying.applied(machine, applying.SECOND, "--backend", backend)
    assert applying.apply(machine, WEB, "--confirm-within", "1").status == 4
    files = worlds.checked(machine, "tar", "-C", "/", "-cf", "-", "etc/portctl", "etc/sysctl.d/60-portctl.conf").encode(
        "utf-8", "surrogateescape"
    )
    wanted = applying.state(machine)

    def booted(damage: str = "true") -> tuple[int, str]:
        with worlds.machine("later") as later:
            worlds.checked(later, "tar", "-C", "/", "-xf", "-", stdin=files)
            worlds.checked(later, "sh", "-c", damage)
            said = later.run(Command(("sh", "/etc/portctl/boot/boot.sh")), 60)
            return said.status, applying.state(later)

    status, state = booted()
    assert status == 0
    assert state == wanted
    spoil = f"sed -i 's/counter/nonsense/; s/-j RETURN/-j NONSENSE/' /etc/portctl/boot/%s/{backend}/rules.*"
    status, state = booted(spoil % "current")
    assert status == 0
    assert "443" in state and "mail" not in state.split("net.ipv4")[0]
    status, state = booted(f"{spoil % 'current'}; {spoil % 'previous'}")
    assert status == 1
    rules = state.split("net.ipv4")[0]
    assert "22" in rules and "ssh" in rules and "mail" not in rules and "web" not in rules


def test_a_loader_that_fails_in_the_middle_leaves_everything_as_it_was(world: World) -> None:
    machine = world.machine
    applying.applied(machine, applying.FIRST)
    before = applying.state(machine)
    # The settings' part comes after the rules': this one passes the check, and the kernel refuses it when written.
    policy = applying.SECOND.replace("net.core.somaxconn: 1024", "net.ipv4.ip_local_port_range: '60000 50000'")
    result = applying.apply(machine, policy, "--confirm-within", "0")
    assert result.status == 3, result
    assert "as it was before" in result.stderr
    assert applying.state(machine) == before
    assert applying.portctl(machine, "status").status == 0


def test_drift_is_found(world: World) -> None:
    machine = world.machine
    applying.applied(machine, applying.FIRST, "--backend", "nftables")
    worlds.checked(
        machine, "nft", "add", "rule", "inet", "portctl", "service-web", "ip", "saddr", "203.0.113.1", "drop"
    )
    status = applying.portctl(machine, "status")
    assert status.status == 1
    assert "drift" in status.stdout and "service-web" in status.stdout
    plan = applying.portctl(machine, "plan", "/root/policy.yaml", "--exit-code")
    assert plan.status == 1
    assert "203.0.113.1" in plan.stdout
    applying.applied(machine, applying.FIRST)
    worlds.checked(
        machine, "sh", "-c", "rm -r /etc/portctl/boot/current/nftables; sysctl -qw net.ipv4.tcp_keepalive_time=5"
    )
    status = applying.portctl(machine, "status")
    assert status.status == 1
    assert "not persistent" in status.stdout and "tcp_keepalive_time is 5" in status.stdout


@pytest.mark.parametrize("backend", BACKENDS)
def test_after_a_rollback_status_says_what_is_true(world: World, backend: str) -> None:
    machine = world.machine
    applying.applied(machine, applying.FIRST, "--backend", backend)
    applying.applied(machine, applying.SECOND)  # also sets what the first does not name
    assert applying.portctl(machine, "rollback").status == 0
    status = applying.portctl(machine, "status")
    assert status.status == 0, status.stdout
    # It brought this one back; what becomes of it is not portctl's business, as the policy in force does not name it.
    worlds.checked(machine, "sysctl", "-qw", "net.core.somaxconn=99")
    assert applying.portctl(machine, "status").status == 0
    worlds.checked(machine, "sysctl", "-qw", "net.ipv4.tcp_keepalive_time=5")
    status = applying.portctl(machine, "status")
    assert status.status == 1 and "tcp_keepalive_time is 5, was set to 2000" in status.stdout
    # A rollback brings back what was there, changed by hand or not; the boot loads what was confirmed.
    applying.applied(machine, applying.SECOND)
    assert applying.portctl(machine, "rollback").status == 0
    status = applying.portctl(machine, "status")
    assert status.status == 1 and status.stdout.count("not persistent") == 1
    assert "tcp_keepalive_time would be set to 2000, and 5 is in force" in status.stdout
    applying.applied(machine, applying.FIRST)
    assert applying.portctl(machine, "status").status == 0
    worlds.checked(machine, "sh", "-c", "echo '# by hand' >>/etc/sysctl.d/60-portctl.conf")
    status = applying.portctl(machine, "status")
    assert status.status == 1 and "/etc/sysctl.d/60-portctl.conf is not what was confirmed" in status.stdout


def test_what_is_said_of_a_reboot_is_true(world: World) -> None:
    machine = world.machine
    first = applying.apply(machine, applying.FIRST, "--confirm-within", "0")
    assert first.status == 0
    by_hand = "until a reboot: portctl knows systemd and OpenRC, and this host has another init"
    assert by_hand in first.stderr and by_hand in applying.portctl(machine, "status").stdout
    machine.put("/run/openrc/softlevel", b"default\n")
    again = applying.apply(machine, applying.FIRST, "--confirm-within", "0")
    assert again.status == 0 and "+need localmount" in again.stdout.replace("+    ", "+")
    assert "It is in force, and will be after a reboot." in again.stderr
    assert "as it was confirmed, and will be after a reboot." in applying.portctl(machine, "status").stdout
    worlds.checked(machine, "rm", "/etc/runlevels/boot/portctl-boot")
    status = applying.portctl(machine, "status")
    assert status.status == 1 and "/etc/runlevels/boot/portctl-boot is not what was confirmed" in status.stdout


def test_a_rollback_over_two_packet_filters_leads_back_to_the_one_before(world: World) -> None:
    machine = world.machine
    applying.applied(machine, applying.FIRST, "--backend", "nftables")
    rules = applying.state(machine).partition("/etc/portctl")[0]
    applying.applied(machine, applying.SECOND, "--backend", "iptables", "--exclusive")
    assert applying.portctl(machine, "rollback").status == 0
    assert applying.state(machine).partition("/etc/portctl")[0] == rules
    status = applying.portctl(machine, "status")
    assert status.status == 0, status.stdout
    assert "Nothing to do" in applying.apply(machine, applying.FIRST).stderr


WITH = """portctl: 1
name: with
services: {ssh: {ports: ssh, from: any}}
sysctl: {tcp_keepalive_time: 2000, forwarding: true, linux: {net.core.somaxconn: 1024}}
"""
FEWER = """portctl: 1
name: fewer
services: {ssh: {ports: ssh, from: any}}
sysctl: {tcp_keepalive_time: 3000}
"""
NONE = """portctl: 1
name: bare
services: {ssh: {ports: ssh, from: any}}
"""
KEYS = ("net.ipv4.tcp_keepalive_time", "net.core.somaxconn", "net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding")
EACH = ("net.ipv4.conf.eth0.forwarding", "net.ipv4.conf.lo.forwarding", "net.ipv4.conf.all.accept_redirects")


def settings(machine: Room) -> list[str]:
    return worlds.checked(machine, "sysctl", "-n", *KEYS, *EACH).split()


def test_a_setting_that_the_policy_no_longer_names_goes_back_to_its_value_from_before(world: World) -> None:
    machine = world.machine
    worlds.checked(machine, "sysctl", "-qw", "net.ipv4.conf.eth0.forwarding=1", "net.core.somaxconn=777")
    first = settings(machine)
    applying.applied(machine, WITH)
    assert settings(machine)[:4] == ["2000", "1024", "1", "1"]
    plan = applying.portctl(machine, "plan", machine_file(machine, FEWER))
    assert "+net.core.somaxconn = 777" in plan.stdout
    late = applying.apply(machine, FEWER, "--confirm-within", "1")
    assert late.status == 4, late.stderr
    assert settings(machine)[:4] == ["2000", "1024", "1", "1"]
    applying.applied(machine, FEWER)
    assert settings(machine) == ["3000", *first[1:]]
    assert applying.portctl(machine, "status").status == 0
    assert "Nothing to do" in applying.apply(machine, FEWER).stderr
    assert applying.portctl(machine, "rollback").status == 0
    assert settings(machine)[:4] == ["2000", "1024", "1", "1"]
    # What somebody else has set since is theirs.
    worlds.checked(machine, "sysctl", "-qw", "net.core.somaxconn=999")
    applying.applied(machine, NONE)
    assert settings(machine) == [first[0], "999", *first[2:]]


def machine_file(machine: Room, policy: str) -> str:
    machine.put("/root/next.yaml", policy.encode())
    return "/root/next.yaml"


def test_old_records_lose_their_rules_but_not_their_description(world: World) -> None:
    machine, env = world.machine, ("PORTCTL_TESTING=1", "PORTCTL_HISTORY_KIB=1")
    for number in range(13):
        policy = NONE.replace("from: any", f"from: 10.0.0.{number}")
        result = applying.apply(machine, policy, "--confirm-within", "0", "--allow-lockout", env=env)
        assert result.status == 0, result.stderr
    assert applying.portctl(machine, "history").stdout.count("confirmed") == 13
    gone = applying.portctl(machine, "rollback", "3")
    assert gone.status == 3 and "only the description is kept" in gone.stderr
    assert applying.portctl(machine, "rollback", "12").status == 0
    assert applying.portctl(machine, "status").status == 0
