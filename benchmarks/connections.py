"""New TCP connections per second through loaded rules, beside an empty rule set with connection tracking.

Two servers in namespaces of their own, one with the empty rule set and one with the rules to be measured, and one
client that opens connections to them in turn, a few dozen each time: whatever else the machine does hits both alike.
A measurement of the empty rule set beside itself says how far the figures can be trusted.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import inputs

PORTCTL = str(Path(sys.executable).parent / "portctl")
NAMES = {role: f"portctl-bench-{os.getpid()}-{role}" for role in ("client", "empty", "loaded")}
SERVERS = {"empty": "10.200.0.1", "loaded": "10.201.0.1"}
SECONDS = 8.0
ADMITTING = (99, 299, 499, 699, 899)
"""The services that connections are made to, of 1000."""
BATCH = 2
"""Connections to each port before it is the other server's turn."""

LOOP = """
import ctypes, os, socket, statistics, struct, sys, time
seconds, batch, servers = float(sys.argv[1]), int(sys.argv[2]), sys.argv[4:]
ports = [int(port) for port in sys.argv[3].split(",")]
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
libc = ctypes.CDLL(None, use_errno=True)

def enter(path):
    with open(path) as namespace:
        if libc.setns(namespace.fileno(), 0x40000000):
            raise OSError(ctypes.get_errno(), path)

def listen(name, address, port):
    enter("/run/netns/" + name)
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((address, port))
    listener.listen(64)
    return listener

pairs = [server.split("=") for server in servers]
own = open("/proc/self/ns/net")
listeners = [[(listen(name, address, port), (address, port)) for port in ports] for name, address in pairs]
if libc.setns(own.fileno(), 0x40000000):
    raise OSError(ctypes.get_errno(), "own namespace")
reset = struct.pack("ii", 1, 0)
took = [[] for _ in listeners]
end = time.perf_counter() + seconds
while time.perf_counter() < end:
    for places, times in zip(listeners, took):
        began = time.perf_counter()
        for listener, address in places * batch:
            s = socket.socket()
            s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
            s.connect(address)
            accepted, _ = listener.accept()
            s.close()
            accepted.close()
        times.append((time.perf_counter() - began) / batch / len(ports))
print(*(statistics.quantiles(times, n=4)[0] for times in took))
"""

TRACKING = {
    "nftables": "table inet e {\nchain i {\ntype filter hook input priority 0;\nct state established accept\n}\n}\n",
    "iptables": "*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT\nCOMMIT\n",
}


@dataclass(frozen=True, slots=True)
class Kind:
    """A back end, and the variant of its tools that is measured."""

    name: str
    backend: str
    tools: tuple[str, ...] = ()


KINDS = (
    Kind("nftables", "nftables"),
    Kind("iptables-nft", "iptables", ("iptables-nft", "ip6tables-nft")),
    Kind("iptables-legacy", "iptables", ("iptables-legacy", "ip6tables-legacy")),
)


def run(*argv: str, stdin: str = "") -> str:
    return subprocess.run(argv, input=stdin, stdout=subprocess.PIPE, text=True, check=True).stdout


def inside(role: str, *argv: str, stdin: str = "") -> str:
    return run("ip", "netns", "exec", NAMES[role], *argv, stdin=stdin)


def make_world() -> None:
    """Three namespaces: the client and, each behind its own veth pair, the two servers."""
    for name in NAMES.values():
        run("ip", "netns", "add", name)
        run("ip", "-n", name, "link", "set", "lo", "up")
    for role, address in SERVERS.items():
        server, client = NAMES[role], NAMES["client"]
        run("ip", "-n", server, "link", "add", "eth0", "type", "veth", "peer", "name", role, "netns", client)
        run("ip", "-n", server, "addr", "add", f"{address}/24", "dev", "eth0")
        run("ip", "-n", server, "link", "set", "eth0", "up")
        run("ip", "-n", client, "addr", "add", address.removesuffix("1") + "2/24", "dev", role)
        run("ip", "-n", client, "link", "set", role, "up")


def remove_world() -> None:
    for name in NAMES.values():
        subprocess.run(["ip", "netns", "del", name], check=False)


def load_tracking(role: str, kind: Kind) -> None:
    """The empty rule set. The kernel forgets closed connections at once: none of them is in the next one's way."""
    if kind.tools:
        inside(role, f"{kind.tools[0]}-restore", stdin=TRACKING["iptables"])
    else:
        inside(role, "nft", "-f", "-", stdin=TRACKING["nftables"])
    inside(role, "sysctl", "-qw", "net.netfilter.nf_conntrack_tcp_timeout_close=1")


def load_bundle(kind: Kind, bundle: Path) -> None:
    env = ["env", f"IPTABLES={kind.tools[0]}", f"IP6TABLES={kind.tools[1]}"] if kind.tools else []
    inside("loaded", *env, "sh", str(bundle / kind.backend / "load.sh"))
    inside("loaded", "sysctl", "-qw", "net.netfilter.nf_conntrack_tcp_timeout_close=1")


def take(ports: Sequence[int]) -> tuple[float, float]:
    """Seconds a connection to the empty and to the loaded server: the lower quartile of batches."""
    servers = [f"{NAMES[role]}={address}" for role, address in SERVERS.items()]
    text = inside("client", sys.executable, "-c", LOOP, str(SECONDS), str(BATCH), ",".join(map(str, ports)), *servers)
    empty, loaded = (float(word) for word in text.split())
    return empty, loaded


def measure(what: str, kind: Kind, bundle: Path | None, ports: Sequence[int]) -> None:
    make_world()
    try:
        load_tracking("empty", kind)
        if bundle is None:
            load_tracking("loaded", kind)
        else:
            load_bundle(kind, bundle)
        empty, loaded = take(ports)
    finally:
        remove_world()
    limit = "" if bundle is None else "   limit 0.95"
    print(
        f"{what:<28}{kind.name:<16}{1 / empty:8.0f} /s{1 / loaded:8.0f} /s   {empty / loaded:5.3f}{limit}", flush=True
    )


def main(folder: Path) -> None:
    print("\nNew TCP connections per second: an empty rule set with connection tracking, the rules, their ratio\n")
    policies = {
        "1000 services × 20 sources": (services_with_client(folder), [inputs.port(n) for n in ADMITTING]),
        "100,000 blocked networks": (inputs.blocked(folder, 100_000), [5001]),
    }
    for kind in KINDS:
        measure("(empty beside empty)", kind, None, (5001,))
    for what, (policy, ports) in policies.items():
        bundle = folder / f"bundle-{ports[0]}"
        run(PORTCTL, "render", str(policy), "--backend", "all", "--output", str(bundle))
        for kind in KINDS:
            measure(what, kind, bundle, ports)


def services_with_client(folder: Path) -> Path:
    """1000 services of 20 sources; some, from all over the range of ports, also admit the client."""
    path = inputs.portctl(folder, 1000, 20)
    lines = path.read_text().splitlines()
    for number in ADMITTING:
        place = next(k for k, line in enumerate(lines) if line.startswith(f"  s{number}:"))
        lines[place] = lines[place].removesuffix("]}") + ", 10.201.0.2]}"
    path.write_text("\n".join(lines) + "\n")
    return path
