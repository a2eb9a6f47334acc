"""Real packets through the rules of the nftables back end, between a machine and its controller."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address

import pytest

from portctl.backends.base import Ability, bundle
from portctl.command import Command
from portctl.hosts.namespaces import Room
from portctl.net import ANYWHERE, Addresses
from portctl.ruleset import STARTING, Direction, Kind, Original, Rate, Rule, Ruleset, Translation, Verdict
from tests import nftables_cases as cases
from tests.nftables_cases import block, one, starts, tcp, udp
from tests.system import worlds
from tests.system.nftables_loading import KNOWN_FIRST, NFT, load, put, sh
from tests.system.worlds import World, checked

RING = "ring 3 (rules in the kernel), nftables"


@pytest.fixture
def world() -> Iterator[World]:
    with worlds.world() as made:
        yield made


SERVER = r"""
import socket, sys, threading
held = []
def listen(kind, family, address, port):
    s = socket.socket(family, kind)
    if family == socket.AF_INET6: s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    s.bind((address, port))
    return s
def tcp(family, address, port):
    s = listen(socket.SOCK_STREAM, family, address, port)
    s.listen(500)
    while True:
        c, _ = s.accept()
        held.append(c)
        threading.Thread(target=echo, args=(c,), daemon=True).start()
def echo(c):
    try:
        while data := c.recv(100): c.sendall(data)
    except OSError: pass
    c.close()
def udp(family, address, port):
    s = listen(socket.SOCK_DGRAM, family, address, port)
    while True:
        data, peer = s.recvfrom(100)
        s.sendto(data, peer)
for port in map(int, sys.argv[1:]):
    for family, address in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
        for serve in (tcp, udp): threading.Thread(target=serve, args=(family, address, port), daemon=True).start()
print("ready", flush=True)
sys.stdin.read()
"""

ASK = r"""
import socket, sys, time
def ask(kind, host, port, wait=0.9):
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    s = socket.socket(family, socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM); s.settimeout(wait)
    try:
        s.connect((host, int(port))); s.send(b"x")
        return "accept" if s.recv(9) == b"x" else "closed"
    except (ConnectionRefusedError, ConnectionResetError): return "reject"
    except (TimeoutError, socket.timeout): return "drop"
    finally: held.append(s)
held = []
"""


def python(room: Room, code: str, *words: str, seconds: float = 60) -> str:
    result = room.run(Command((sys.executable, "-c", ASK + code, *words)), timeout=seconds)
    assert result.ok, result.stderr
    return result.stdout


def serve(world: World, *ports: int) -> None:
    process = world.machine.start((sys.executable, "-c", SERVER, *map(str, ports)))
    assert process.stdout is not None and process.stdout.readline() == b"ready\n"


def asked(world: World, kind: str, port: int, host: str = "192.0.2.10") -> str:
    return python(world.controller, "print(ask(*sys.argv[1:]))", kind, host, str(port)).strip()


@pytest.mark.parametrize("last", [Verdict.DROP, Verdict.REJECT])
def test_packets_get_the_answers_that_the_rules_say(world: World, last: Verdict) -> None:
    serve(world, 7, 8, 9)
    rules = (
        *cases.FIRST_IN,
        block("b", Verdict.REJECT, flows=(tcp(9), udp(9))),
        KNOWN_FIRST,
        starts("x", tcp(7), udp(7)),
    )
    load(world.machine, one(*rules, last=last))
    for host in ("192.0.2.10", "2001:db8::10"):
        for kind in ("tcp", "udp"):
            found = [asked(world, kind, port, host) for port in (7, 8, 9)]
            assert found == ["accept", last.value, "reject"], (kind, host)


SILENT = """
import socket, sys
s = socket.socket(type=socket.SOCK_DGRAM)
s.bind(("", 9))
print("ready", flush=True)
sys.stdin.read()
"""
WATCH = b"""table inet watch {
    chain early {
        type filter hook input priority -300
        ip saddr 192.0.2.1 th dport { 7, 9 } counter
    }
    chain late {
        type filter hook input priority 300
        ip saddr 192.0.2.1 th dport { 7, 9 } counter
        udp dport 10 counter
    }
}
"""
"""Counts what comes to open ports before portctl's rules are asked and after, and what passes a block."""
NEAR = Addresses.of("192.0.2.0/28", "203.0.113.0/24")
CHANGING = "until [ -e /run/enough ]; do dash /run/second/load.sh && dash /run/bundle/load.sh || exit 1; done"


def test_no_packet_is_lost_and_none_let_in_while_rules_are_replaced(world: World) -> None:
    serve(world, 7, 8)
    silent = world.machine.start((sys.executable, "-c", SILENT))
    assert silent.stdout is not None and silent.stdout.readline() == b"ready\n"
    first = one(
        *cases.FIRST_IN,
        block("b", flows=(udp(10),), source=NEAR),
        KNOWN_FIRST,
        starts("x", tcp(7), udp(7, 10)),
        starts("y", udp(9), source=NEAR),
    )
    second = one(
        *cases.FIRST_IN,
        block("b", flows=(udp(10),), source=NEAR | cases.LAN),
        KNOWN_FIRST,
        starts("x", tcp((1, 7)), udp(7, 10)),
        starts("y", tcp(70), udp(9), source=NEAR | cases.LAN),
    )
    load(world.machine, first)
    put(world.machine, second, "/run/second")
    checked(world.machine, "nft", "-f", "-", stdin=WATCH)
    reloading = world.machine.start(("sh", "-c", CHANGING))
    found = python(
        world.controller,
        "end = time.time() + 5; said = {}; n = 0\n"
        "flow = socket.create_connection(('192.0.2.10', 7)); flow.settimeout(5)\n"
        "flood = socket.socket(type=socket.SOCK_DGRAM)\n"
        "while time.time() < end:\n"
        "    flow.send(b'y'); assert flow.recv(9) == b'y'\n"
        "    for port in (9, 10) * 50: flood.sendto(b'x', ('192.0.2.10', port))\n"
        "    for kind in ('tcp', 'udp'): said[kind, ask(kind, '192.0.2.10', 7, 5)] = n = n + 1\n"
        "    while held: held.pop().close()\n"
        "    if n % 40 == 0: said['denied', ask('tcp', '192.0.2.10', 8, 0.1)] = 1; n += 1\n"
        "print(n, sorted(said))",
    )
    checked(world.machine, "touch", "/run/enough")
    assert reloading.wait(60) == 0
    count, _, said = found.partition(" ")
    assert int(count) > 100
    assert said.strip() == "[('denied', 'drop'), ('tcp', 'accept'), ('udp', 'accept')]"
    early, late, blocked = re.findall(
        r"counter packets (\d+)", checked(world.machine, "nft", "list", "table", "inet", "watch")
    )
    assert int(early) > 5000
    assert (late, blocked) == (early, "0")


def limited(**limits: object) -> Ruleset:
    return one(*cases.FIRST_IN, KNOWN_FIRST, starts("x", tcp(7), **limits))  # type: ignore[arg-type]


@pytest.mark.parametrize("host", ["192.0.2.10", "2001:db8::10"])
def test_so_many_at_once_and_then_one_at_a_time(world: World, host: str) -> None:
    serve(world, 7)
    load(world.machine, limited(rate=Rate(30, "minute")))
    code = (
        "start = time.time(); first = [ask('tcp', sys.argv[1], 7, 0.1) for _ in range(32)]\n"
        "for s in held: s.close()\n"  # or SYNs sent again would take the next place
        "time.sleep(start + 2.3 - time.time())\n"  # one every two seconds
        "print(*first, ask('tcp', sys.argv[1], 7, 0.1), ask('tcp', sys.argv[1], 7, 0.1))"
    )
    said = python(world.controller, code, host).split()
    assert said == ["accept"] * 30 + ["drop", "drop", "accept", "drop"]


def test_so_many_at_the_same_time(world: World) -> None:
    serve(world, 7)
    load(world.machine, limited(max_connections=2))
    code = (
        "a = [ask('tcp', '192.0.2.10', 7) for _ in range(3)]\n"
        "held[0].close(); held[2].close(); time.sleep(0.3)\n"
        "print(*a, ask('tcp', '192.0.2.10', 7))"
    )
    checked(world.machine, "sysctl", "-qw", "net.netfilter.nf_conntrack_tcp_timeout_time_wait=0")
    checked(world.machine, "sysctl", "-qw", "net.netfilter.nf_conntrack_tcp_timeout_last_ack=0")
    assert python(world.controller, code).split() == ["accept", "accept", "drop", "accept"]


@pytest.mark.parametrize("limits", [{"max_connections": 9}, {"rate": Rate(9, "day")}])
def test_a_full_table_admits_no_new_source(world: World, limits: dict[str, object]) -> None:
    """With places for two sources, so that two sources with real connections fill it."""
    serve(world, 7)
    rules = bundle(NFT, limited(**limits), Ability())["rules.nft"]
    put(world.machine, limited(**limits))
    world.machine.put("/run/bundle/rules.nft", rules.replace("size 65536", "size 2").encode())
    assert sh(world.machine, "/run/bundle/load.sh").ok
    holding = "print(ask('tcp', '192.0.2.10', 7), flush=True); sys.stdin.read()"
    for number in range(2):
        room = world.join(f"holder{number}", f"192.0.2.{60 + number}/24")
        process = room.start((sys.executable, "-c", ASK + holding))
        assert process.stdout is not None and process.stdout.readline() == b"accept\n"
    stranger = world.join("stranger", "192.0.2.66/24")
    assert python(stranger, "print(ask('tcp', '192.0.2.10', 7))").strip() == "drop"


def test_an_entry_ends_at_its_moment_in_every_zone(world: World) -> None:
    serve(world, 7, 8)
    now = datetime.now(UTC)
    rules = (
        starts("past", tcp(7), until=now - timedelta(minutes=1)),
        starts("soon", tcp(8), until=now + timedelta(minutes=9)),
    )
    put(world.machine, one(*cases.FIRST_IN, KNOWN_FIRST, *rules))
    for zone in ("UTC", "Asia/Tokyo", "America/New_York"):
        checked(world.machine, "env", f"TZ={zone}", "dash", "/run/bundle/load.sh")
        assert (asked(world, "tcp", 7), asked(world, "tcp", 8)) == ("drop", "accept"), zone


def test_connections_older_than_the_rules_live_on_where_they_are_listed(world: World) -> None:
    serve(world, 7)
    load(world.machine, one(starts("x", tcp(22))))
    rules = (world.machine, "dash", "/run/bundle/remove.sh")
    checked(*rules)
    code = (
        "a = socket.create_connection(('192.0.2.10', 7)); b = socket.create_connection(('192.0.2.10', 7))\n"
        "a.settimeout(1); b.settimeout(1)\n"
        "print(a.getsockname()[1], flush=True); sys.stdin.readline()\n"
        "def lives(s):\n"
        "    try: s.send(b'x'); return s.recv(9) == b'x'\n"
        "    except OSError: return False\n"
        "print(lives(a), lives(b), flush=True)"
    )
    process = world.controller.start((sys.executable, "-c", ASK + code))
    assert process.stdout is not None and process.stdin is not None
    port = int(process.stdout.readline())
    loaded = one(*cases.FIRST_IN, KNOWN_FIRST, starts("x", tcp(22)))
    loaded = replace(loaded, outbound=(KNOWN_FIRST, Rule("default", loaded.outbound[0].kind, Verdict.DROP)))
    load(world.machine, loaded)
    element = f"{{ tcp . 192.0.2.10 . 7 . 192.0.2.1 . {port} }}"
    checked(world.machine, "nft", f"add element inet portctl open-4 {element}")
    checked(world.machine, "conntrack", "-F")
    process.stdin.write(b"\n")
    process.stdin.flush()
    assert process.stdout.readline().split() == [b"True", b"False"]


def test_somebody_elses_answers_do_not_open_what_others_close(world: World) -> None:
    serve(world, 7)
    load(world.machine, one(*cases.FIRST_IN, KNOWN_FIRST, starts("x", tcp(7))))
    theirs = "table inet t { chain c { type filter hook input priority 0; tcp dport 7 drop; }; }"
    checked(world.machine, "nft", theirs)
    assert asked(world, "tcp", 7) == "drop"


def test_a_forward_to_a_port_of_this_host_is_turned_before_others_turn_it(world: World) -> None:
    serve(world, 7)
    theirs = "table ip nat { chain c { type nat hook prerouting priority dstnat; tcp dport 70 redirect to :9; }; }"
    checked(world.machine, "nft", theirs)
    turned = starts("old", kind=Kind.FORWARD, original=Original((tcp(70),)))
    moved = Translation("old", (tcp(70),), ANYWHERE, None, (), None, 7)
    load(world.machine, one(*cases.FIRST_IN, KNOWN_FIRST, turned, translations=(moved,)))
    for host in ("192.0.2.10", "2001:db8::10"):
        assert asked(world, "tcp", 70, host) == "accept"
        assert asked(world, "tcp", 7, host) == "drop"


def test_what_a_forward_does_not_admit_is_not_taken_for_published(world: World) -> None:
    """A bare ACK is translated like a SYN; under `published: keep` it must not slip through as somebody else's."""
    behind = world.join("behind", "192.0.2.66/24")
    process = behind.start((sys.executable, "-c", SERVER, "7"))
    assert process.stdout is not None and process.stdout.readline() == b"ready\n"
    moved = Translation("x", (tcp(70),), ANYWHERE, None, (), ip_address("192.0.2.66"), 7)
    rules = (
        KNOWN_FIRST,
        starts("x", kind=Kind.FORWARD, original=Original((tcp(70),)), source=Addresses.of("203.0.113.0/24")),
        Rule("published", Kind.PUBLISHED, Verdict.ACCEPT, published=True, states=STARTING),
    )
    ruleset = one(*rules, direction=Direction.FORWARDED, translations=(moved,))
    load(world.machine, ruleset)
    checked(world.machine, "sysctl", "-qw", "net.ipv4.ip_forward=1")
    checked(behind, "ip", "route", "add", "192.0.2.1/32", "via", "192.0.2.10")
    assert asked(world, "tcp", 70) == "drop"
    theirs = (
        "table ip nat { chain c { type nat hook prerouting priority dstnat; tcp dport 71 dnat to 192.0.2.66:7; }; }"
    )
    checked(world.machine, "nft", theirs)
    assert asked(world, "tcp", 71) == "accept"
    assert asked(world, "tcp", 70) == "drop"


def test_direct_access_to_a_target_stays_closed(world: World) -> None:
    behind = world.join("behind", "198.51.100.66/24")
    process = behind.start((sys.executable, "-c", SERVER, "7"))
    assert process.stdout is not None and process.stdout.readline() == b"ready\n"
    checked(world.machine, "ip", "address", "add", "198.51.100.10/24", "dev", "eth0")
    checked(behind, "ip", "route", "add", "192.0.2.0/24", "via", "198.51.100.10")
    checked(world.controller, "ip", "route", "add", "198.51.100.0/24", "via", "192.0.2.10")
    checked(world.machine, "sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv4.conf.all.send_redirects=0")
    moved = Translation("x", (tcp(7),), ANYWHERE, None, (), ip_address("198.51.100.66"), None)
    turned = starts("x", kind=Kind.FORWARD, original=Original((tcp(7),)))
    load(world.machine, one(KNOWN_FIRST, turned, direction=Direction.FORWARDED, translations=(moved,)))
    assert asked(world, "tcp", 7) == "accept"
    assert asked(world, "tcp", 7, "198.51.100.66") == "drop"


def test_a_forward_to_where_the_packet_was_going_anyway(world: World) -> None:
    """The kernel does not call such a packet translated, and it must be admitted all the same."""
    serve(world, 7, 8)
    turned = starts("x", kind=Kind.FORWARD, original=Original((tcp(7, 70),)))
    moved = Translation("x", (tcp(7, 70),), ANYWHERE, None, (), None, 7)
    load(world.machine, one(*cases.FIRST_IN, KNOWN_FIRST, turned, translations=(moved,)))
    for host in ("192.0.2.10", "2001:db8::10"):
        assert [asked(world, "tcp", port, host) for port in (7, 70, 8)] == ["accept", "accept", "drop"]
