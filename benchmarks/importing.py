"""What `portctl import` of large rule sets costs: `python benchmarks/importing.py [LINES] [KIND…]`.

Whole processes, CPU seconds and peak memory. The rule sets are synthetic, of kinds that are found in the world, and the
hardest of their kind: their lines are drawn at random, so that nothing repeats.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

LIMIT_SECONDS, LIMIT_MEGABYTES = 60, 1500
PORTS = (22, 25, 53, 80, 110, 143, 443, 445, 993, 3306, 3389, 5432, 8080, 8443)


def address(number: int) -> str:
    return ".".join(str(number >> shift & 255) for shift in (24, 16, 8, 0))


def network(random: Random, bits: int = 22) -> str:
    """A network in the first addresses of 10.0.0.0/8, as many as so many bits count."""
    length = random.choice([32, 32, 32, 28, 24, 24, 20, 16])
    return f"{address((10 << 24) + (random.getrandbits(bits) >> 32 - length << 32 - length))}/{length}"


def mixed(lines: int) -> Iterator[str]:
    """Two lists of lines that each ask some of source, destination, interface, port."""
    random = Random(6)
    for _ in range(lines):
        chain = random.choice(["FORWARD", "FORWARD", "FORWARD", "INPUT"])
        asked = [f"-s {network(random, 20)}"] if random.random() < 0.7 else []
        asked += [f"-d {network(random)}"] if random.random() < 0.7 and chain == "FORWARD" else []
        asked += [f"-i eth{random.randrange(4)}"] if random.random() < 0.2 else []
        kind = random.choice(["tcp", "tcp", "tcp", "tcp", "udp", "icmp", ""])
        port = random.choice(PORTS) if random.random() < 0.8 else random.randrange(1, 60000)
        asked += [f"-p {kind}"] if kind else []
        asked += [f"--dport {port}"] if kind in ("tcp", "udp") else []
        yield f"-A {chain} {' '.join(asked or ['-p gre'])} -j {random.choice(['ACCEPT', 'ACCEPT', 'DROP'])}"


def pairs(lines: int) -> Iterator[str]:
    """A source, a destination and a port each."""
    random = Random(10)
    for _ in range(lines):
        port = random.choice([22, 80, 443, random.randrange(1, 9000)])
        ends = f"-s {address((10 << 24) + random.getrandbits(18))} -d {network(random)}"
        yield f"-A FORWARD {ends} -p tcp --dport {port} -j {random.choice(['ACCEPT', 'ACCEPT', 'DROP'])}"


def customers(lines: int) -> Iterator[str]:
    """Two chains for each customer, by source and by destination."""
    random = Random(4)
    for k in range(lines // 8):
        place = address((100 << 24) + (64 << 16) + k)
        yield from (f":cust{k}_in -", f":cust{k}_out -")
        yield f"-A FORWARD -s {place} -j cust{k}_out"
        yield f"-A FORWARD -d {place} -j cust{k}_in"
        yield f"-A cust{k}_out -p tcp --dport 25 -j {random.choice(['DROP', 'REJECT'])}"
        yield f"-A cust{k}_out -j ACCEPT"
        for _ in range(3):
            port = random.choice([80, 443, 22, 3389, random.randrange(1024, 65000)])
            yield f"-A cust{k}_in -p {random.choice(['tcp', 'udp'])} --dport {port} -j ACCEPT"
        yield f"-A cust{k}_in -j {random.choice(['DROP', 'ACCEPT', 'RETURN'])}"


def limited(lines: int) -> Iterator[str]:
    """Hosts and their ports, behind a limit of each source that is about everything."""
    random = Random(1)
    yield "-A FORWARD -m recent --update --seconds 60 --hitcount 121 --name all --rsource -j DROP"
    for _ in range(lines):
        host = address((131 << 24) + random.getrandbits(13))
        yield f"-A FORWARD -d {host} -p tcp --dport {random.choice(PORTS)} -j ACCEPT"


def published(lines: int) -> Iterator[str]:
    """A translation and a line that admits it, for each port."""
    random = Random(7)
    through = []
    yield from ("*nat", ":PREROUTING ACCEPT")
    for k in range(lines // 2):
        kind, to, port = random.choice(["tcp", "udp"]), address((192 << 24) + (168 << 16) + k), random.choice(PORTS)
        ask = f"-i eth0 -p {kind} --dport {random.randrange(1, 60000)}"
        yield f"-A PREROUTING {ask} -j DNAT --to-destination {to}:{port}"
        through.append(f"-A FORWARD -d {to} -i eth0 -p {kind} --dport {port} -j ACCEPT")
    yield from ("COMMIT", "*filter", *HEAD, *through)


KINDS: dict[str, Callable[[int], Iterator[str]]] = {
    "mixed": mixed,
    "pairs": pairs,
    "customers": customers,
    "limited": limited,
    "published": published,
}
HEAD = (":INPUT DROP", ":FORWARD DROP", ":OUTPUT ACCEPT")


def rule_set(kind: str, lines: int) -> str:
    """What iptables-save would print."""
    made = list(KINDS[kind](lines))
    declared = [line for line in made if line.startswith(":cust")]
    rest = [line for line in made if not line.startswith(":cust")]
    head = [] if made[0].startswith("*") else ["*filter", *HEAD]
    return "\n".join([*head, *declared, *rest, "COMMIT", ""])


def measured(path: Path) -> tuple[float, float, str]:
    """CPU seconds, megabytes at most, and how the policy and the rule set compare."""
    with tempfile.TemporaryFile("w+") as said:
        command = [sys.executable, "-m", "portctl", "import", str(path)]
        started = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=said)
        _, status, usage = os.wait4(started.pid, 0)
        said.seek(0)
        text = said.read()
    left = ", only the widest" if "only the widest" in text else ""
    end = {0: "equal", 1: f"differs{left}"}.get(os.waitstatus_to_exitcode(status), "no policy")
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, end


def main(arguments: list[str]) -> None:
    lines = int(arguments[0]) if arguments else 6000
    print(f"| {lines} lines | CPU seconds, limit {LIMIT_SECONDS} | MB, limit {LIMIT_MEGABYTES} | the policy |")
    print("|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for kind in arguments[1:] or KINDS:
            path = Path(folder) / f"{kind}.rules"
            path.write_text(rule_set(kind, lines))
            seconds, megabytes, end = measured(path)
            print(f"| {kind} | {seconds:.1f} | {megabytes:.0f} | {end} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
