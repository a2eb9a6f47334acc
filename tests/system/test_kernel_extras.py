"""What beside verdicts the kernel does as the policy says: segments fitted to the path, and packets logged."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from portctl.command import Command
from tests.system import loading, worlds
from tests.system.worlds import World, checked

RING = "mss and log on real kernels"
NEEDS = ("nft", "iptables-nft", "iptables-legacy", "ipset")
ROUTER = """\
portctl: 1
name: router
services: {{ssh: {{ports: ssh, from: any}}}}
forwards:
  behind: {{ports: 90/tcp, from: any, to: [192.0.2.30, "2001:db8::30"]{more}}}
defaults: {{forward: drop}}
"""
LOGGING = """\
portctl: 1
name: logging
services:
  ssh: {ports: ssh, from: any}
  noted: {ports: [80/tcp, 5000/udp], from: any, log: true}
block: [{from: any, ports: 9999/tcp}]
defaults: {log_denied: true}
"""
SERVER = """
import socket, sys
s = socket.socket(socket.AF_INET6); s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, False)
s.bind(('', 90)); s.listen(); print('ready', flush=True)
while True:
    c, peer = s.accept(); print(c.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG), flush=True); c.close()
"""
DIAL = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 5).close()"
TRY = """
import socket, sys
for end in sys.argv[1:]:
    kind, host, port = end.split(',')
    s = socket.socket(socket.AF_INET6 if ':' in host else socket.AF_INET,
                      socket.SOCK_DGRAM if kind == 'udp' else socket.SOCK_STREAM)
    s.settimeout(0.3)
    try: s.sendto(b'x', (host, int(port))) if kind == 'udp' else s.connect((host, int(port)))
    except OSError: pass
"""
TIMESTAMPS = 12
"""Octets of every segment that the option takes: RFC 7323, appendix A. TCP_MAXSEG leaves them out."""


@pytest.fixture(params=loading.FILTERS)
def filtered(request: pytest.FixtureRequest) -> Iterator[tuple[World, str]]:
    """A machine whose `iptables` is of the variant that is asked for."""
    with worlds.world() as world:
        loading.choose(world.machine, request.param)
        yield world, request.param


def test_segments_fit_the_path_where_the_policy_says_so(filtered: tuple[World, str], tmp_path: Path) -> None:
    world, name = filtered
    behind = world.join("behind", "192.0.2.30/24", "2001:db8::30/64")
    for switch in ("net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"):
        checked(world.machine, "sysctl", "-qw", switch, "net.ipv4.conf.all.send_redirects=0")
    checked(world.machine, "sysctl", "-qw", "net.ipv4.conf.eth0.send_redirects=0")
    # Both go by way of the machine, which knows that the path to `behind` takes no more than 1300 octets.
    for host, to in ((world.controller, "30"), (behind, "1")):
        checked(host, "ip", "route", "add", f"192.0.2.{to}/32", "via", "192.0.2.10")
        checked(host, "ip", "-6", "route", "add", f"2001:db8::{to}/128", "via", "2001:db8::10")
        checked(host, "sysctl", "-qw", "net.ipv6.conf.eth0.accept_redirects=0")
    checked(world.machine, "ip", "route", "add", "192.0.2.30/32", "dev", "eth0", "mtu", "1300")
    checked(world.machine, "ip", "-6", "route", "add", "2001:db8::30/128", "dev", "eth0", "mtu", "1300")
    server = behind.start(("python3", "-c", SERVER))
    assert server.stdout is not None and server.stdout.readline() == b"ready\n"

    def segments(address: str) -> int:
        checked(world.controller, "python3", "-c", DIAL, address, "90")
        assert server.stdout is not None
        return int(server.stdout.readline()) + TIMESTAMPS

    loading.load(world.machine, ROUTER.format(more=""), name, tmp_path)
    assert (segments("192.0.2.30"), segments("2001:db8::30")) == (1460, 1440)
    loading.load(world.machine, ROUTER.format(more=", mss: path"), name, tmp_path)
    assert (segments("192.0.2.30"), segments("2001:db8::30")) == (1300 - 40, 1300 - 60)
    server.kill()


def test_what_is_admitted_and_what_is_denied_is_logged_by_its_name(filtered: tuple[World, str], tmp_path: Path) -> None:
    world, name = filtered
    loading.load(world.machine, LOGGING, name, tmp_path)
    admitted = logged(
        world, name, "tcp,192.0.2.10,80", "udp,192.0.2.10,5000", "tcp,2001:db8::10,80", "tcp,192.0.2.10,22"
    )
    assert len(admitted) == 1 and "noted" in admitted.pop()
    (blocked,) = logged(world, name, "tcp,192.0.2.10,9999")
    assert "block-from-any" in blocked
    (denied,) = logged(world, name, "tcp,2001:db8::10,7777")
    assert "default" in denied


TRACE = "table inet asked {\nchain c {\ntype filter hook prerouting priority -400\nmeta nftrace set 1\n}\n}\n"


def logged(world: World, name: str, *ends: str) -> set[str]:
    """The prefixes of the log lines that the machine's rules write while the controller tries some ends.

    The kernel's log is the machine's own, and takes nothing from other network namespaces (nf_log_syslog.c): the lines
    are seen as the rules are passed, by their counters, or by a trace.
    """
    machine = world.machine
    if name != "nftables":
        for tool in ("iptables", "ip6tables"):
            checked(machine, tool, "-Z")
        checked(world.controller, "python3", "-c", TRY, *ends)
        text = checked(machine, "iptables-save", "-c") + checked(machine, "ip6tables-save", "-c")
        return set(re.findall(r'^\[[1-9]\d*:.* -j LOG --log-prefix "([^"]*)"', text, re.MULTILINE))
    checked(machine, "nft", "-f", "-", stdin=TRACE.encode())
    traced = machine.start(("sh", "-c", "exec nft monitor trace >/root/trace"))
    worlds.until(lambda: _traces(world), "the trace is heard")
    checked(machine, "sh", "-c", ": >/root/trace")
    checked(world.controller, "python3", "-c", TRY, *ends)
    checked(machine, "sleep", "1")
    text = checked(machine, "cat", "/root/trace")
    traced.kill()
    checked(machine, "nft", "delete", "table", "inet", "asked")
    return set(re.findall(r'rule .*log prefix "(portctl [^"]*)"', text))


def _traces(world: World) -> bool:
    checked(world.controller, "python3", "-c", TRY, "tcp,192.0.2.10,22")
    return world.machine.run(Command(("test", "-s", "/root/trace"))).ok
