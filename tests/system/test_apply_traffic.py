"""Policies applied, applied again and taken back while packets flow: none that is admitted is lost, no other gets in.

Counted at both ends: TCP segments sent again by either kernel, datagrams by number, connections by the time they take,
and whoever reaches a socket of the machine that no policy admits.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from portctl.hosts.namespaces import Network, Room
from tests.system import worlds
from tests.system.applying import applied, apply, portctl
from tests.system.rings import FILTERS, Filter
from tests.system.worlds import World, checked

NEEDS = ("nft", "iptables-nft", "ip6tables-nft", "iptables-legacy", "ip6tables-legacy", "ipset", "ss")
RING = "packets while policies are applied"
ADMITTED = ("192.0.2.1", "2001:db8::1")

A = """portctl: 1
name: first
addresses:
  bans: {live: true}
  near: [192.0.2.0/26, "2001:db8::/122"]
services:
  stream: {ports: 7001/tcp, from: near}
  numbers: {ports: 7002/udp, from: near}
  loop: {ports: 7003/tcp, from: near}
block: [bans]
"""
B = """portctl: 1
name: second
addresses:
  bans: {live: true}
  more: {live: true}
  near: [192.0.2.0/28, 192.0.2.48/29, "2001:db8::/124", "2001:db8::30"]
  bad: [198.51.100.0/24, 203.0.113.5, 203.0.113.9, "2001:db8:bad::/48"]
services:
  all: {ports: [7000-7001/tcp, 7002/udp], from: near}
  loop: {ports: 7003/tcp, from: near, log: true}
  mail: {ports: [smtp, imaps], from: any, except: bad}
  extra: {ports: [7100/tcp, 7102/tcp, 7104/tcp, 7106/tcp], from: bad}
forwards:
  inner: {ports: 8080/tcp, from: any, target: "10.9.0.5:80"}
  lab: {ports: any, from: 10.9.0.0/16, masquerade: true}
block: [bans, more, bad]
defaults: {forward: drop}
"""

SERVER = """
import json, socket, sys, threading
admitted, strangers, numbers = set(sys.argv[1:]), [], set()
lock = threading.Lock()

def seen(peer, port):
    if peer not in admitted or port == 7099:
        with lock:
            strangers.append([peer, port])

def bound(family, kind, port):
    s = socket.socket(family, kind)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.setsockopt(socket.SOL_SOCKET, 33, 8 << 20)  # SO_RCVBUFFORCE
    if family == socket.AF_INET6:
        s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    s.bind(("", port))
    return s

def echo(c):
    while data := c.recv(65536):
        c.sendall(data)

def tcp(s, port):
    while True:
        c, peer = s.accept()
        seen(peer[0], port)
        if port == 7001:
            threading.Thread(target=echo, args=(c,), daemon=True).start()
        else:
            c.close()

def udp(s, port):
    while True:
        data, peer = s.recvfrom(100)
        seen(peer[0], port)
        if peer[0] in admitted:
            numbers.add(data)
            s.sendto(data, peer)

for family in (socket.AF_INET, socket.AF_INET6):
    for port in (7001, 7003, 7099):
        s = bound(family, socket.SOCK_STREAM, port)
        s.listen(4096)
        threading.Thread(target=tcp, args=(s, port), daemon=True).start()
    for port in (7002, 7099):
        threading.Thread(target=udp, args=(bound(family, socket.SOCK_DGRAM, port), port), daemon=True).start()
print("ready", flush=True)
sys.stdin.read()
print(json.dumps({"strangers": strangers, "numbers": len(numbers)}), flush=True)
"""

PEER = """
import json, socket, struct, sys, threading, time
going = True
done = {"stream": 0, "again": 0, "sent": 0, "back": 0, "connections": 0, "slow": 0, "broken": []}
PLACES = ((socket.AF_INET, "192.0.2.10"), (socket.AF_INET6, "2001:db8::10"))

def stream():
    s = socket.create_connection(("192.0.2.10", 7001))
    print("ready", flush=True)
    while going:
        data = b"%09d" % done["stream"] * 400
        s.sendall(data)
        back = b""
        while len(back) < len(data):
            back += s.recv(65536)
        if back != data:
            raise ValueError("another answer")
        done["stream"] += 1
        done["again"] = struct.unpack_from("I", s.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104), 100)[0]
        time.sleep(0.005)

def datagrams():
    while going:
        for family, address in PLACES:
            s = socket.socket(family, socket.SOCK_DGRAM)
            s.settimeout(5)
            for _ in range(5):
                number = b"%09d" % done["sent"]
                s.sendto(number, (address, 7002))
                done["sent"] += 1
                try:
                    done["back"] += s.recv(100) == number
                except TimeoutError:
                    pass
                time.sleep(0.004)
            s.close()

def connections():
    while going:
        for family, address in PLACES:
            began = time.monotonic()
            s = socket.socket(family)
            s.settimeout(10)
            s.connect((address, 7003))
            s.recv(1)
            s.close()
            done["connections"] += 1
            done["slow"] += time.monotonic() - began > 0.9
            time.sleep(0.005)

def kept(work):
    try:
        work()
    except Exception as error:
        done["broken"].append(f"{work.__name__}: {error}")

threads = [threading.Thread(target=kept, args=(work,)) for work in (stream, datagrams, connections)]
for thread in threads:
    thread.start()
sys.stdin.read()
going = False
for thread in threads:
    thread.join()
print(json.dumps(done), flush=True)
"""

DENIED = """
import socket, sys, threading, time
going, tried, ports = True, 0, sys.argv[1:]
def work():
    global tried
    while going:
        for family, address in ((socket.AF_INET, "192.0.2.10"), (socket.AF_INET6, "2001:db8::10")):
            some = []
            for port in map(int, ports):
                u = socket.socket(family, socket.SOCK_DGRAM)
                u.sendto(b"denied", (address, port))
                s = socket.socket(family)
                s.setblocking(False)
                s.connect_ex((address, port))
                some += [u, s]
                tried += 1
            time.sleep(0.02)
            for s in some:
                s.close()
thread = threading.Thread(target=work)
thread.start()
print("ready", flush=True)
sys.stdin.read()
going = False
thread.join()
print(tried, flush=True)
"""


@pytest.fixture
def world() -> Iterator[World]:
    with worlds.world() as made:
        yield made


@pytest.fixture(params=FILTERS, ids=lambda tried: tried.name)
def tried(request: pytest.FixtureRequest, world: World) -> Filter:
    """A packet filter; the machine's `iptables` is the variant that it names."""
    found: Filter = request.param
    chosen(world.machine, found)
    return found


def chosen(machine: Room, tried: Filter) -> None:
    """Makes the machine's `iptables` the variant that a filter names."""
    if tried.backend == "iptables":
        variant = tried.name.removeprefix("iptables-")
        script = (
            "set -e; for t in iptables ip6tables; do for k in '' -save -restore; do"
            f" ln -sfn /usr/sbin/$t-{variant}$k /etc/alternatives/$t$k; done; done; iptables --version"
        )
        assert (variant == "legacy") == ("legacy" in checked(machine, "sh", "-c", script))


def start(room: Room | Network, code: str, *words: str) -> subprocess.Popen[bytes]:
    started = room.start((sys.executable, "-c", code, *words))
    assert started.stdout is not None
    assert started.stdout.readline() == b"ready\n"
    return started


def finish(started: subprocess.Popen[bytes]) -> Any:
    said, errors = started.communicate(timeout=60)
    assert not errors, errors.decode()
    return json.loads(said)


def sent_again(room: Room) -> int:
    """TCP segments that a kernel sent once more."""
    names, values = (
        line.split() for line in checked(room, "cat", "/proc/net/snmp").splitlines() if line.startswith("Tcp:")
    )
    return int(values[names.index("RetransSegs")])


def patient(room: Room) -> None:
    """A segment is sent again because it was lost, not because a busy machine answers late."""
    checked(room, "sysctl", "-qw", "net.ipv4.tcp_early_retrans=0")
    for network in (("192.0.2.0/24",), ("2001:db8::/64", "metric", "256")):
        checked(room, "ip", "route", "change", *network, "dev", "eth0", "proto", "kernel", "rto_min", "8s")


def ban(machine: Room, tried: Filter) -> None:
    """What fail2ban would do: 192.0.2.50, which the services admit."""
    for family, address in ((4, "192.0.2.50"), (6, "2001:db8::30")):
        if tried.backend == "nftables":
            checked(machine, "nft", "add", "element", "inet", "portctl", f"live-bans-{family}", f"{{ {address} }}")
        else:
            checked(machine, "ipset", "add", f"portctl-live-bans{family}", address)


def test_no_admitted_packet_is_lost_and_no_other_gets_in(world: World, tried: Filter) -> None:
    machine, backend = world.machine, ("--backend", tried.backend)
    applied(machine, A, *backend)
    ban(machine, tried)
    stranger = world.join("stranger", "192.0.2.66/24", "2001:db8::66/64")
    banned = world.join("banned", "192.0.2.50/24", "2001:db8::30/64")
    for room in (machine, world.controller):
        patient(room)
    server = start(machine, SERVER, *ADMITTED)
    peer = start(world.controller, PEER)
    denied = [
        start(stranger, DENIED, "7001", "7002", "7003", "7099"),
        start(banned, DENIED, "7001", "7002", "7003", "7099"),
        start(world.controller, DENIED, "7099"),
    ]
    before = sent_again(machine)

    for policy in (A, B, A):
        applied(machine, policy, *backend)
    late = apply(machine, B, "--confirm-within", "1", *backend)
    assert "Not confirmed" in late.stdout + late.stderr
    for _ in range(2):
        undone = portctl(machine, "rollback")
        assert undone.status == 0, undone.stderr

    again = sent_again(machine) - before
    did = finish(peer)
    tries = [finish(each) for each in denied]
    saw = finish(server)
    assert saw["strangers"] == []
    assert did["broken"] == []
    assert did["again"] == again == did["slow"] == 0
    assert saw["numbers"] == did["sent"] == did["back"]
    assert min(did["stream"], did["sent"], did["connections"], *tries) > 300
