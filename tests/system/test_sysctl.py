"""The scripts of the settings' bundle, on a real kernel, with dash and with busybox where it is there."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from portctl import sysctl
from portctl.command import Command, Result
from portctl.hosts.namespaces import Room
from portctl.observe import facts
from portctl.ruleset import Ruleset, Setting
from tests.system import worlds

RING = "sysctl"
SHELLS = [shell for shell in ("dash", "bash", "busybox") if shutil.which(shell)]
ALL = "cd /proc/sys/net && grep -r . ipv4 ipv6 core/somaxconn 2>/dev/null | grep -v -e stable_secret -e flush | sort"


@pytest.fixture(scope="module")
def machine() -> Iterator[Room]:
    with worlds.machine("settings") as room:
        worlds.checked(room, "ip", "link", "add", "v0.1", "type", "veth", "peer", "name", "v1")
        worlds.checked(room, "sysctl", "-qw", "net.ipv4.conf.all.accept_redirects=0", "net.ipv4.conf.v1.forwarding=1")
        yield room


def put(machine: Room, folder: str, *settings: Setting, advertised: tuple[str, ...] = ()) -> str:
    """Writes a bundle, and says where."""
    bundle = sysctl.bundle(Ruleset("test", (), (), (), settings=settings), advertised=advertised)
    for name, text in bundle.items():
        machine.put(f"{folder}/{name}", text.encode())
    return folder


def run(machine: Room, shell: str, script: str, *words: str) -> Result:
    first = ("busybox", "sh") if shell == "busybox" else (shell,)
    return machine.run(Command((*first, script, *words)))


def state(machine: Room) -> str:
    return worlds.checked(machine, "sh", "-c", ALL)


def value(machine: Room, name: str) -> str:
    return " ".join(worlds.checked(machine, "sysctl", "-n", name).split())


@pytest.mark.parametrize("shell", SHELLS)
def test_loaded_read_back_and_undone(machine: Room, shell: str) -> None:
    settings = (
        Setting("ephemeral_ports", "2000-30000"),
        Setting("reserved_ports", "9100,8080,9000-9099"),
        Setting("forwarding", "1"),
        Setting("tcp_keepalive_time", "2000"),
        Setting("net.ipv4.ip_unprivileged_port_start", "1500", "linux"),
        Setting("net.ipv4.conf.all.accept_redirects", "0", "linux"),
    )
    folder = put(machine, f"/run/{shell}", *settings, advertised=("v0.1",))
    before = state(machine)
    assert run(machine, shell, f"{folder}/save.sh", f"{folder}-undo").ok
    assert run(machine, shell, f"{folder}/load.sh", "check").ok and state(machine) == before
    for _ in range(2):
        assert run(machine, shell, f"{folder}/load.sh") == Result(0)
    assert value(machine, "net.ipv4.ip_local_port_range") == "2000 30000"
    assert value(machine, "net.ipv4.ip_local_reserved_ports") == "8080,9000-9100"
    assert value(machine, "net.ipv6.conf.v0/1.accept_ra") == "2"
    assert value(machine, "net.ipv6.conf.all.forwarding") == value(machine, "net.ipv4.ip_forward") == "1"
    assert value(machine, "net.ipv4.conf.all.accept_redirects") == "0", "Linux turns it when it begins to forward"
    assert run(machine, shell, f"{folder}/remove.sh").ok
    assert run(machine, shell, f"{folder}-undo/load.sh") == Result(0)
    assert state(machine) == before, "what forwarding changed on every interface too"


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (Setting("net.ipv4.tcp_nonsense", "1", "linux"), "this kernel has no setting net.ipv4.tcp_nonsense"),
        (
            Setting("net.ipv4.tcp_keepalive_probes", "many", "linux"),
            "net.ipv4.tcp_keepalive_probes: wanted many, reads 9",
        ),
        (Setting("net.ipv4.tcp_timestamps", "0x1", "linux"), "net.ipv4.tcp_timestamps: wanted 0x1, reads 1"),
        (Setting("net.ipv4.ip_local_port_range", "9 8", "linux"), "reads 32768 60999"),
        (Setting("net.ipv4.route.flush", "1", "linux"), "net.ipv4.route.flush cannot be read back"),
    ],
)
def test_what_does_not_read_as_wanted_leaves_all_as_it_was(machine: Room, shell: str, bad: Setting, said: str) -> None:
    folder = put(machine, f"/run/bad-{shell}", Setting("forwarding", "1"), Setting("tcp_keepalive_time", "2000"), bad)
    before = state(machine)
    result = run(machine, shell, f"{folder}/load.sh")
    assert result.status == 1 and said in result.stderr, result
    assert state(machine) == before


def test_the_order_in_which_two_ranges_may_be_changed(machine: Room) -> None:
    """Each refuses what the other's old value forbids: up and down again, by the same script."""
    start = "net.ipv4.ip_unprivileged_port_start"
    for low, first in ((6000, 5000), (1500, 1400), (32768, 1024)):
        settings = (Setting("ephemeral_ports", f"{low}-60999"), Setting(start, str(first), "linux"))
        folder = put(machine, "/run/order", *settings)
        assert run(machine, "sh", f"{folder}/load.sh") == Result(0)
        assert value(machine, start) == str(first)


def test_an_interface_that_went_away_does_not_stop_the_undo(machine: Room) -> None:
    worlds.checked(machine, "ip", "link", "add", "w0", "type", "veth", "peer", "name", "w1")
    folder = put(machine, "/run/gone", Setting("forwarding", "1"))
    assert run(machine, "sh", f"{folder}/save.sh", f"{folder}-undo").ok
    assert run(machine, "sh", f"{folder}/load.sh").ok
    worlds.checked(machine, "ip", "link", "del", "w0")
    assert run(machine, "sh", f"{folder}-undo/load.sh") == Result(0)
    assert value(machine, "net.ipv4.ip_forward") == "0"


def test_a_name_cannot_lead_out_of_proc_sys(machine: Room) -> None:
    for name in ("net.ipv4.//.//.//.//.tmp.x", "..", "/etc/passwd", "net.ipv4/../../x", "a b", "$(touch /run/pwned)"):
        folder = put(machine, "/run/names", Setting("tcp_keepalive_time", "7200"))
        machine.put(f"{folder}/{sysctl.FILE}", f"{name} = 1\n".encode())
        assert run(machine, "sh", f"{folder}/load.sh").status == 1, name
    assert not machine.run(Command(("ls", "/run/pwned"))).ok


def test_advertised_routes_survive_forwarding() -> None:
    """A real router advertisement: the route is there before, and after forwarding was switched on."""
    with worlds.world() as world:
        worlds.checked(world.machine, "sh", "-c", "ip -6 route del default; sysctl -qw net.ipv6.conf.eth0.accept_ra=1")
        advertise(world)
        routed = ("ip", "-6", "route", "show", "default", "dev", "eth0")
        worlds.until(lambda: "proto ra" in worlds.checked(world.machine, *routed), "the advertised route")
        known = facts(world.machine)
        advertised = tuple(i.name for i in known.interfaces if i.advertised)
        assert advertised == ("eth0",)
        folder = put(world.machine, "/run/forward", Setting("forwarding", "1"), advertised=advertised)
        assert run(world.machine, "sh", f"{folder}/load.sh") == Result(0)
        assert "proto ra" in worlds.checked(world.machine, *routed)
        assert tuple(i.name for i in facts(world.machine).interfaces if i.advertised) == ("eth0",), "and a second time"


def advertise(world: worlds.World) -> None:
    """One router advertisement (RFC 4861, 4.2) to all nodes, from the controller."""
    script = (
        "import socket, struct\n"
        "s = socket.socket(socket.AF_INET6, socket.SOCK_RAW, 58)\n"
        "s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)\n"
        "at = socket.if_nametoindex('eth0')\n"
        "s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, at)\n"
        "s.sendto(struct.pack('!BBHBBHII', 134, 0, 0, 64, 0, 1800, 0, 0), ('ff02::1', 0, 0, at))\n"
    )
    worlds.checked(world.controller, "python3", "-c", script)
