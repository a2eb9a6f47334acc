"""Real packets through the rules that the iptables scripts load, of both variants."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from ipaddress import ip_address

import pytest

from portctl.backends import iptables
from portctl.backends.base import Ability, bundle
from portctl.net import ANYWHERE, Addresses
from portctl.ruleset import Kind, Masquerade, Original, Rate, Ruleset, Translation, Verdict
from tests.nftables_cases import FIRST_IN, KNOWN_IN, default, one, starts, tcp
from tests.system import worlds
from tests.system.iptables_loading import VARIANTS, Tools, services
from tests.system.worlds import checked

RING = "the iptables scripts"
NEEDS = ("iptables-nft", "ip6tables-nft", "iptables-legacy", "ip6tables-legacy", "ipset", "dash", "shellcheck")

OPEN_PAIR = "-p tcp -s 192.0.2.1 --sport 7 -d 192.0.2.10 --dport 9 -j MARK --set-xmark 0x4000000/0x4000000"

DIAL = """
import errno, socket, sys
kept = []
for word in sys.argv[2:]:
    source, host, port = word.split(",")
    s = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    s.settimeout(float(sys.argv[1]))
    try:
        if source: s.bind((source, 0))
        s.connect((host, int(port)))
        kept.append(s)
        print("open")
    except socket.timeout: print("silent")
    except ConnectionRefusedError: print("refused")
"""
LISTEN = """
import socket, sys, time
kept = []
for port in sys.argv[1:]:
    s = socket.create_server(("::", int(port)), family=socket.AF_INET6, dualstack_ipv6=True)
    kept.append(s)
print("ready", flush=True)
time.sleep(600)
"""
WHO = """
import socket
server = socket.create_server(("", 90))
print("ready", flush=True)
while True:
    connection, peer = server.accept()
    connection.send(peer[0].encode())
    connection.close()
"""


@dataclass(frozen=True, slots=True)
class Wire:
    tools: Tools
    world: worlds.World

    def dial(self, *ends: str, seconds: float = 0.9) -> list[str]:
        """`source,host,port` each, one after the other, all kept open until the end: what became of it."""
        return checked(self.world.controller, "python3", "-c", DIAL, str(seconds), *ends).split()


@pytest.fixture(params=VARIANTS)
def wire(request: pytest.FixtureRequest) -> Iterator[Wire]:
    with worlds.world() as world:
        listener = world.machine.start(("python3", "-c", LISTEN, "22", "80", "81", "8443", "9999"))
        assert listener.stdout is not None
        assert listener.stdout.readline() == b"ready\n"
        yield Wire(Tools(world.machine, request.param), world)


def to(port: int, source: str = "", host: str = "192.0.2.10") -> str:
    return f"{source},{host},{port}"


def test_what_is_admitted_gets_in_and_nothing_else(wire: Wire) -> None:
    checked(wire.world.controller, "ip", "address", "add", "198.51.100.7/32", "dev", "eth0")
    checked(wire.world.machine, "ip", "route", "add", "198.51.100.0/24", "dev", "eth0")
    wire.tools.load(services(starts("six", tcp(81), source=Addresses.of("2001:db8::/32"))))
    seen = wire.dial(to(22), to(8443), to(8443, "198.51.100.7"), to(9999), to(81), to(81, host="2001:db8::10"))
    assert seen == ["open", "silent", "open", "silent", "silent", "open"]
    rejecting = replace(services(), inbound=(*services().inbound[:-1], default(Verdict.REJECT)))
    wire.tools.load(rejecting)
    assert wire.dial(to(9999), to(9999, host="2001:db8::10"), seconds=2) == ["refused", "refused"]
    checked(wire.world.machine, "ipset", "add", "portctl-live-bans4", "192.0.2.1")
    assert wire.dial(to(80), to(80, host="2001:db8::10")) == ["silent", "open"]


def test_what_others_drop_stays_dropped(wire: Wire) -> None:
    wire.tools.load(services())
    wire.tools.rules(4, "-A", "INPUT", "-p", "tcp", "--dport", "80", "-j", "DROP")
    assert wire.dial(to(22), to(80)) == ["open", "silent"]


def test_the_counters_of_a_rate_outlive_a_load(wire: Wire) -> None:
    wire.tools.load(services())
    assert wire.dial(*[to(22)] * 4) == ["open", "open", "open", "silent"]
    wire.tools.load(services(starts("more", tcp(81))))
    assert wire.dial(to(81), to(22)) == ["open", "silent"]
    faster = services()
    changed = [replace(rule, rate=Rate(4, "hour")) if rule.name == "ssh" else rule for rule in faster.inbound]
    wire.tools.load(replace(faster, inbound=tuple(changed)))
    assert wire.dial(to(22)) == ["open"], "another rate counts anew"


def test_a_source_without_a_place_in_the_table_is_dropped(wire: Wire) -> None:
    for last in (1, 2, 3):
        checked(wire.world.controller, "ip", "address", "add", f"192.0.2.10{last}/24", "dev", "eth0")
    files = bundle(iptables, services(), Ability())
    small = files["rules.v4"].replace(
        "--hashlimit-htable-max 65536", "--hashlimit-htable-size 2 --hashlimit-htable-max 2"
    )
    wire.tools.put({**files, "rules.v4": small}, "/run/bundle")
    assert wire.tools.script("/run/bundle/load.sh").ok
    assert wire.dial(*(to(22, f"192.0.2.10{last}") for last in (1, 2, 3))) == ["open", "open", "silent"]


def test_connections_at_once_are_counted_by_source(wire: Wire) -> None:
    wire.tools.load(services())
    checked(wire.world.controller, "ip", "address", "add", "192.0.2.101/24", "dev", "eth0")
    assert wire.dial(to(80), to(80), to(80), to(80, "192.0.2.101")) == ["open", "open", "silent", "open"]


def test_connections_stay_counted_over_a_load(wire: Wire) -> None:
    """Not in the legacy variant: any change to its table makes the kernel forget the count."""
    if wire.tools.variant == "legacy":
        return
    wire.tools.load(services())
    keeper = wire.world.controller.start(
        ("python3", "-c", DIAL + "sys.stdout.flush()\nimport time; time.sleep(60)", "1", to(80), to(80))
    )
    assert keeper.stdout is not None
    assert [keeper.stdout.readline() for _ in "ab"] == [b"open\n", b"open\n"]
    wire.tools.load(services(starts("more", tcp(81))))
    assert wire.dial(to(80)) == ["silent"]


def test_an_open_connection_without_tracking_is_let_through(wire: Wire) -> None:
    """A stream that was there before the state tracker looked at anything goes on by its pair of sockets."""
    wire.tools.load(services())
    assert wire.dial(to(9999)) == ["silent"]
    pair = "-p tcp -d 192.0.2.10 --dport 9999 -j MARK --set-xmark 0x4000000/0x4000000"
    wire.tools.rules(4, "-A", "PORTCTL-OPEN", *pair.split())
    assert wire.dial(to(9999)) == ["open"]


def test_translated_and_masqueraded(wire: Wire) -> None:
    """Port 8081 leads to port 80 of this host, 8082 to a host behind it that sees this host's address."""
    behind = wire.world.join("behind", "192.0.2.30/24")
    server = behind.start(("python3", "-c", WHO))
    assert server.stdout is not None
    assert server.stdout.readline() == b"ready\n"
    checked(wire.world.machine, "sysctl", "-qw", "net.ipv4.ip_forward=1")
    wire.tools.load(routed())
    assert wire.dial(to(8081), to(8082), to(90, host="192.0.2.30")) == ["open", "open", "open"]
    ask = "import socket\ns=socket.create_connection(('192.0.2.10',8082),2)\nprint(s.recv(50).decode())"
    assert checked(wire.world.controller, "python3", "-c", ask) == "192.0.2.10\n"


def routed() -> Ruleset:
    behind = Addresses.of("192.0.2.30")
    turned = starts("near", tcp(80), kind=Kind.FORWARD, original=Original((tcp(8081),)))
    far = starts("far", tcp(90), kind=Kind.FORWARD, destination=behind, original=Original((tcp(8082),)))
    return replace(
        one(),
        inbound=(*FIRST_IN, *KNOWN_IN, turned, default(Verdict.DROP)),
        forwarded=(*KNOWN_IN[:1], far, default(Verdict.DROP)),
        translations=(
            Translation("near", (tcp(8081),), ANYWHERE, None, (), None, 80),
            Translation("far", (tcp(8082),), ANYWHERE, None, (), ip_address("192.0.2.30"), 90),
        ),
        masquerades=(Masquerade("far"),),
        clamps=("far",),
    )


def test_what_is_forwarded_and_not_admitted_is_dropped(wire: Wire) -> None:
    behind = wire.world.join("behind", "192.0.2.30/24")
    server = behind.start(("python3", "-c", LISTEN, "91"))
    assert server.stdout is not None
    assert server.stdout.readline() == b"ready\n"
    checked(wire.world.machine, "sysctl", "-qw", "net.ipv4.ip_forward=1")
    checked(wire.world.controller, "ip", "route", "add", "192.0.2.30/32", "via", "192.0.2.10")
    assert wire.dial(to(91, host="192.0.2.30")) == ["open"]
    wire.tools.load(routed())
    assert wire.dial(to(91, host="192.0.2.30")) == ["silent"]
