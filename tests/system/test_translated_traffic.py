"""New connections to translated ports while the translations change: none is lost that both policies admit, each gets
to where the old or the new policy leads it and under an address that one of them gives it, and none gets in that
neither admits. Connections that are open go on.

Each server answers with its own address and port and with the address that it sees, so that whoever asked knows how it
was led.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from portctl.hosts.namespaces import Network, Room
from tests.system import worlds
from tests.system.applying import applied, apply, portctl
from tests.system.rings import FILTERS, Filter
from tests.system.test_apply_traffic import NEEDS as NEEDS
from tests.system.test_apply_traffic import chosen, finish, patient, start
from tests.system.worlds import World, checked

RING = "translated packets while policies are applied"

LAN = """set -e
ip link add lan type veth peer name eth0 netns inner
ip link set lan up
ip addr add 10.9.0.1/24 dev lan
ip addr add fd00:9::1/64 dev lan nodad
for last in 2 3; do
  ip addr add 10.9.0.$last/24 dev lan
  ip addr add fd00:9::$last/64 dev lan nodad preferred_lft 0
done
sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
"""
INNER = """set -e
ip link set lo up
ip link set eth0 up
for last in 5 6; do
  ip addr add 10.9.0.$last/24 dev eth0
  ip addr add fd00:9::$last/64 dev eth0 nodad
done
ip route add default via 10.9.0.1
ip -6 route add default via fd00:9::1
"""
PUBLISH = """set -e
for port in 7110 7111; do
  for protocol in tcp udp; do
    iptables -t nat -A PREROUTING -p $protocol --dport $port -m addrtype --dst-type LOCAL -j DNAT --to 10.9.0.5:9001
  done
done
"""
"""What a container engine would do."""

SLOWLY = """#!/bin/sh
for word; do [ "$word" != --test ] || exec REAL-restore "$@"; done
cd "$(mktemp -d)" && awk '/^\\*/ { n++ } { print > ("part." n) }' || exit 1
for part in part.*; do
  sleep 0.1
  REAL-restore "$@" <$part || exit 1
done
"""
"""Waits before each transaction, so that what is wrong between two of them is seen."""


@dataclass(frozen=True, slots=True)
class Family:
    """Where the ports of one family lie, and the addresses of those who take part."""

    ports: int
    client: str
    machine: str
    lan: str

    def at(self, last: int) -> str:
        return f"{self.lan}{last}"

    def target(self, last: int, port: int) -> str:
        host = self.at(last)
        return f'"[{host}]:{port}"' if ":" in host else f'"{host}:{port}"'


FOUR = Family(7100, "192.0.2.1", "192.0.2.10", "10.9.0.")
SIX = Family(7200, "2001:db8::1", "2001:db8::10", "fd00:9::")


def first(of: Family) -> tuple[dict[str, str], dict[str, str]]:
    """The services and the forwards of the first policy."""
    port = of.ports
    services = {"turned": f"ports: [{port + 4}/tcp, {port + 4}/udp], from: {group(of)}"}
    forwards = {
        "moved": forward(of, 1, of.target(5, 9001)),
        "ported": forward(of, 2, of.target(5, 9001)),
        "near": forward(of, 3, '":9003"'),
        "masked": forward(of, 5, of.target(5, 9001), "masquerade: true"),
        "asked": forward(of, 6, of.target(5, 9001)),
        "kept": forward(of, 7, of.target(5, 9001), f'masquerade: "{of.at(3)}"'),
        "gone": forward(of, 9, of.target(5, 9001)),
    }
    return services, forwards


def second(of: Family) -> tuple[dict[str, str], dict[str, str]]:
    """Those of the second one. With the new address of `masked` the marks of those after it are others."""
    services = {"shop": f"ports: [{of.ports + 10}/tcp, {of.ports + 10}/udp], from: {group(of)}"}
    forwards = {
        "moved": forward(of, 1, of.target(6, 9001)),
        "ported": forward(of, 2, of.target(5, 9002)),
        "near": forward(of, 3, of.target(5, 9001)),
        "turned": forward(of, 4, of.target(6, 9001)),
        "masked": forward(of, 5, of.target(5, 9001), f'masquerade: "{of.at(2)}"'),
        "asked": forward(of, 6, of.target(5, 9001), "masquerade: true"),
        "kept": forward(of, 7, of.target(5, 9001), f'masquerade: "{of.at(3)}"'),
        "added": forward(of, 8, of.target(5, 9001)),
    }
    return services, forwards


def group(of: Family) -> str:
    return "[192.0.2.0/24]" if of is FOUR else '["2001:db8::/64"]'


def forward(of: Family, nth: int, target: str, more: str = "") -> str:
    port = of.ports + nth
    return f"ports: [{port}/tcp, {port}/udp], from: {group(of)}, target: {target}" + (f", {more}" if more else "")


def policy(name: str, four: tuple[dict[str, str], dict[str, str]], six: tuple[dict[str, str], dict[str, str]]) -> str:
    text = f"portctl: 1\nname: {name}\n"
    for key, of_four, of_six in zip(("services", "forwards"), four, six, strict=True):
        text += f"{key}:\n" + "".join(f"  {entry}: {{{words}}}\n" for entry, words in of_four.items())
        text += "".join(f"  {entry}-six: {{{words}}}\n" for entry, words in of_six.items())
    return text + f"defaults: {{forward: drop, published: {'keep' if name == 'first' else 'govern'}}}\n"


A = policy("first", first(FOUR), first(SIX))
B = policy("second", second(FOUR), second(SIX))


@dataclass(frozen=True, slots=True)
class End:
    """What a client asks, and the answers that one of the policies gives. `always`: both policies admit it."""

    host: str
    port: int
    answers: tuple[str, ...] = ()
    always: bool = True


def ends(of: Family) -> list[End]:
    def seen(last: int, port: int, by: str = of.client) -> str:
        return f"{of.at(last)} {port} {by}"

    def here(port: int) -> str:
        return f"{of.machine} {port} {of.client}"

    asked = {
        1: (seen(5, 9001), seen(6, 9001)),
        2: (seen(5, 9001), seen(5, 9002)),
        3: (here(9003), seen(5, 9001)),
        4: (here(of.ports + 4), seen(6, 9001)),
        5: (seen(5, 9001, of.at(1)), seen(5, 9001, of.at(2))),
        6: (seen(5, 9001), seen(5, 9001, of.at(1))),
        7: (seen(5, 9001, of.at(3)),),
        8: (seen(5, 9001),),
        9: (seen(5, 9001),),
    }
    found = [End(of.machine, of.ports + nth, answers, nth < 8) for nth, answers in asked.items()]
    found += [End(of.machine, 9003, (), False), End(of.at(5), 9001, (), False)]
    if of is FOUR:
        found += [End(of.machine, 7110, (seen(5, 9001),)), End(of.machine, 7111, (seen(5, 9001),), False)]
    return found


SERVER = """
import socket, sys, threading

def text(here, peer):
    return f"{here[0]} {here[1]} {peer[0]}".encode()

def talk(c, peer):
    try:
        c.sendall(text(c.getsockname(), peer))
        while data := c.recv(65536):
            c.sendall(data)
    except OSError:
        pass
    c.close()

def tcp(s):
    while True:
        c, peer = s.accept()
        threading.Thread(target=talk, args=(c, peer), daemon=True).start()

def udp(s):
    while True:
        _, peer = s.recvfrom(100)
        s.sendto(text(s.getsockname(), peer), peer)

for word in sys.argv[1:]:
    host, port = word.split(",")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for kind, work in ((socket.SOCK_STREAM, tcp), (socket.SOCK_DGRAM, udp)):
        s = socket.socket(family, kind)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        s.bind((host, int(port)))
        if kind == socket.SOCK_STREAM:
            s.listen(4096)
        else:
            s.setsockopt(socket.SOL_SOCKET, 33, 8 << 20)  # SO_RCVBUFFORCE
        threading.Thread(target=work, args=(s,), daemon=True).start()
print("ready", flush=True)
sys.stdin.read()
"""

CLIENT = """
import json, selectors, socket, sys, threading, time
ends = [word.split(",") for word in sys.argv[1:]]
going, poll, waiting = True, selectors.DefaultSelector(), {}
told = {f"{host},{port}": {"asked": 0, "answers": {}, "again": 0, "lost": []} for host, port in ends}

def ask(host, port, kind):
    s = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, kind)
    s.setblocking(False)
    s.connect_ex((host, int(port)))
    if kind == socket.SOCK_DGRAM:
        s.send(b"?")
    told[f"{host},{port}"]["asked"] += 1
    waiting[s] = f"{host},{port}", kind, time.monotonic()
    poll.register(s, selectors.EVENT_READ)

def end(s, answer):
    name, kind, since = waiting.pop(s)
    poll.unregister(s)
    if kind == socket.SOCK_STREAM and answer:
        told[name]["again"] += s.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)[100]  # tcpi_total_retrans
    s.close()
    if not answer:
        told[name]["lost"].append(f"{kind.name} {since:.2f}")
    else:
        told[name]["answers"][answer] = told[name]["answers"].get(answer, 0) + 1

def answered(seconds):
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        for key, _ in poll.select(left):
            try:
                end(key.fileobj, key.fileobj.recv(200).decode())
            except OSError as error:
                end(key.fileobj, f"{error.strerror}")
        if not going and not waiting:
            break
    for s in [s for s, (_, _, since) in waiting.items() if since < time.monotonic() - 4]:
        end(s, "")

def work():
    while going:
        for host, port in ends:
            ask(host, port, socket.SOCK_DGRAM)
        answered(0.025)
        for host, port in ends:
            ask(host, port, socket.SOCK_STREAM)
        answered(0.025)
    answered(4)
    for s in list(waiting):
        end(s, "")

thread = threading.Thread(target=work)
thread.start()
print("ready", flush=True)
sys.stdin.read()
going = False
thread.join()
print(json.dumps(told), flush=True)
"""

STREAMS = """
import json, socket, sys, threading, time
going, done, lost = True, [], []

def stream(host, port):
    s = socket.create_connection((host, int(port)))
    s.recv(200)
    ready.release()
    times = 0
    try:
        while going:
            data, back, since = b"%09d" % times * 300, b"", time.monotonic()
            s.sendall(data)
            while len(back) < len(data):
                back += s.recv(65536)
            if back != data:
                raise ValueError("another answer")
            times += 1
            if time.monotonic() - since > 7:  # after 8 seconds what is lost is sent again
                lost.append(f"{host} {port}: an answer")
            time.sleep(0.005)
        if again := s.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)[100]:  # tcpi_total_retrans
            lost.append(f"{host} {port}: {again} segments")
    except Exception as error:
        lost.append(f"{host} {port}: {error}")
    done.append(times)

ready = threading.Semaphore(0)
threads = [threading.Thread(target=stream, args=word.split(",")) for word in sys.argv[1:]]
for thread in threads:
    thread.start()
for thread in threads:
    ready.acquire()
print("ready", flush=True)
sys.stdin.read()
going = False
for thread in threads:
    thread.join()
print(json.dumps({"done": done, "lost": lost}), flush=True)
"""


@pytest.fixture(params=FILTERS, ids=lambda tried: tried.name)
def tried(request: pytest.FixtureRequest) -> Filter:
    found: Filter = request.param
    return found


@pytest.fixture
def world(tried: Filter) -> Iterator[World]:
    """A machine with two hosts behind it, and a container engine's publications."""
    with worlds.world() as made:
        machine, client = made.machine, made.controller
        chosen(machine, tried)
        if tried.backend == "iptables":
            slowly(machine, tried.name.removeprefix("iptables-"))
        inner = machine.network("inner")
        checked(machine, "sh", "-c", LAN)
        checked(inner, "sh", "-c", INNER)
        checked(machine, "sh", "-c", PUBLISH)
        checked(client, "ip", "route", "add", "10.9.0.0/24", "via", "192.0.2.10")
        checked(client, "ip", "route", "add", "fd00:9::/64", "via", "2001:db8::10")
        behind = [f"{of.at(last)},{port}" for of in (FOUR, SIX) for last, port in ((5, 9001), (5, 9002), (6, 9001))]
        serve(inner, *behind)
        # Also where nobody may get to: a port that only the other policy turns elsewhere.
        serve(machine, *(f"{of.machine},{port}" for of in (FOUR, SIX) for port in (9003, *own(of))))
        yield made


def slowly(machine: Room, variant: str) -> None:
    for tool in ("iptables", "ip6tables"):
        script = SLOWLY.replace("REAL", f"/usr/sbin/{tool}-{variant}")
        machine.put(f"/run/slowly-{tool}", script.encode(), 0o755)
        checked(machine, "ln", "-sfn", f"/run/slowly-{tool}", f"/etc/alternatives/{tool}-restore")


def own(of: Family) -> tuple[int, ...]:
    return tuple(of.ports + nth for nth in (1, 2, 3, 4, 8, 9))


def serve(host: Network | Room, *where: str) -> None:
    start(host, SERVER, *where)


def wrong(end: End, told: dict[str, object]) -> list[str]:
    """What became of the connections to an end that should not have."""
    answers, at = told["answers"], f"{end.host} port {end.port}"
    assert isinstance(answers, dict)
    found = [
        f"{end.host} port {end.port}: {n} times {text!r}" for text, n in answers.items() if text not in end.answers
    ]
    lost = int(str(told["asked"])) - sum(answers.values())
    if end.always and lost:
        found.append(f"{at}: {lost} of {told['asked']} lost ({told['lost']})")
    if end.always and told["again"]:
        found.append(f"{at}: {told['again']} segments sent again")
    return found


def test_translations_change_and_no_connection_is_lost_or_goes_astray(world: World, tried: Filter) -> None:
    machine, backend = world.machine, ("--backend", tried.backend)
    applied(machine, A, *backend)
    for room in (machine, world.controller):
        patient(room)
    four, six = ends(FOUR), ends(SIX)
    words = {f"{end.host},{end.port}": end for end in (*four, *six)}
    streams = start(world.controller, STREAMS, *(f"{end.host},{end.port}" for end in (*four[:7], *six[:7])))
    client = start(world.controller, CLIENT, *words)

    for policy in (A, B, A):
        applied(machine, policy, *backend)
    late = apply(machine, B, "--confirm-within", "1", *backend)
    assert "Not confirmed" in late.stdout + late.stderr
    for _ in range(2):
        undone = portctl(machine, "rollback")
        assert undone.status == 0, undone.stderr

    told, went_on = finish(client), finish(streams)
    assert [line for word, end in words.items() for line in wrong(end, told[word])] == []
    assert went_on["lost"] == []
    assert min(went_on["done"]) > 100
    both = [word for word, end in words.items() if len(end.answers) == 2]
    assert [word for word in both if len(told[word]["answers"]) == 1] == [], "only one policy was seen at work"
