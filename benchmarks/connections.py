"""New TCP connections per second through loaded rules, beside an empty rule set with connection tracking."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

import inputs

PORTCTL = str(Path(sys.executable).parent / "portctl")
SERVER, CLIENT = f"portctl-bench-{os.getpid()}-s", f"portctl-bench-{os.getpid()}-c"

LOOP = """
import socket, struct, sys, time
end = time.perf_counter() + float(sys.argv[1])
port = int(sys.argv[2])
count = 0
linger = struct.pack("ii", 1, 0)
while time.perf_counter() < end:
    s = socket.socket()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    s.connect(("10.200.0.1", port))
    s.close()
    count += 1
print(count / float(sys.argv[1]))
"""

LISTEN = """
import socket, sys
s = socket.socket()
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind(("0.0.0.0", int(sys.argv[1])))
s.listen(4096)
print("ready", flush=True)
while True:
    s.accept()[0].close()
"""

TRACKING = {
    "nftables": "table inet e {\nchain i {\ntype filter hook input priority 0;\nct state established accept\n}\n}\n",
    "iptables": "*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT\nCOMMIT\n",
}


def run(*argv: str, stdin: str = "") -> str:
    return subprocess.run(argv, input=stdin, capture_output=True, text=True, check=True).stdout


def inside(name: str, *argv: str, stdin: str = "") -> str:
    return run("ip", "netns", "exec", name, *argv, stdin=stdin)


def world() -> None:
    """Two namespaces and a veth pair; the client owns 10.0.0.0/8 addresses by routing."""
    for name in (SERVER, CLIENT):
        run("ip", "netns", "add", name)
        inside(name, "ip", "link", "set", "lo", "up")
    inside(SERVER, "ip", "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", CLIENT)
    for name, address in ((SERVER, "10.200.0.1/24"), (CLIENT, "10.200.0.2/24")):
        inside(name, "ip", "addr", "add", address, "dev", "eth0")
        inside(name, "ip", "link", "set", "eth0", "up")


def unload() -> None:
    inside(SERVER, "nft", "flush", "ruleset")
    if shutil.which("ipset"):
        inside(SERVER, "sh", "-c", "iptables-legacy -F; iptables-legacy -X; ipset destroy")


def rate(port: int, seconds: float = 1.5) -> float:
    return float(inside(CLIENT, sys.executable, "-c", LOOP, str(seconds), str(port)))


def measure(what: str, backend: str, bundle: Path, port: int) -> None:
    """Five pairs, empty and loaded in turn; prints the median of the ratios."""
    listener = subprocess.Popen(
        ["ip", "netns", "exec", SERVER, sys.executable, "-c", LISTEN, str(port)], stdout=subprocess.PIPE, text=True
    )
    assert listener.stdout is not None
    listener.stdout.readline()
    try:
        ratios = []
        for _ in range(5):
            unload()
            if backend == "nftables":
                inside(SERVER, "nft", "-f", "-", stdin=TRACKING["nftables"])
            else:
                inside(SERVER, "iptables-restore", stdin=TRACKING["iptables"])
            empty = rate(port)
            unload()
            inside(SERVER, "sh", str(bundle / backend / "load.sh"))
            ratios.append(rate(port) / empty)
        print(f"{what:<40}{backend:<10} {statistics.median(ratios):5.2f}   limit 0.95", flush=True)
    finally:
        listener.kill()
        listener.wait()


def main(folder: Path) -> None:
    print("\nNew TCP connections per second, relative to an empty rule set with connection tracking\n")
    policies = {
        "1000 services × 20 sources": (services_with_client(folder), inputs.port(999)),
        "100,000 blocked networks": (inputs.blocked(folder, 100_000), 5001),
    }
    world()
    try:
        for what, (policy, port) in policies.items():
            bundle = folder / f"bundle-{port}"
            run(PORTCTL, "render", str(policy), "--backend", "all", "--output", str(bundle))
            for backend in ("nftables", "iptables"):
                measure(what, backend, bundle, port)
    finally:
        for name in (SERVER, CLIENT):
            subprocess.run(["ip", "netns", "del", name], check=False)


def services_with_client(folder: Path) -> Path:
    """1000 services of 20 sources; the last one also admits the client."""
    path = inputs.portctl(folder, 1000, 20)
    text = path.read_text().rstrip("\n")
    path.write_text(text.removesuffix("]}") + ", 10.200.0.2]}\n")
    return path
