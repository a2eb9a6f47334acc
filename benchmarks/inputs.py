"""The same synthetic rule set in portctl's language and in those of its peers: N services with M sources each."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path


def sources(service: int, count: int) -> Iterator[str]:
    """`count` /28 networks of 10.0.0.0/8 that do not touch one another, others for each service."""
    for k in range(count):
        number = (service * count + k) * 32 % (1 << 24)
        yield f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 240}/28"


def port(service: int) -> int:
    """Every second port, so that no two services merge into a range."""
    return 1025 + 2 * service


def portctl(folder: Path, services: int, count: int) -> Path:
    lines = ["portctl: 1", "name: bench", "services:"]
    for n in range(services):
        lines.append(f"  s{n}: {{ports: {port(n)}/tcp, from: [{', '.join(sources(n, count))}]}}")
    path = folder / f"portctl-{services}x{count}.yaml"
    path.write_text("\n".join(lines) + "\n")
    return path


def portctl_list(folder: Path, count: int) -> Path:
    """One service for a file of `count` networks."""
    with (folder / f"list-{count}.txt").open("w") as file:
        for k in range(count):
            number = (k * 4001 % (223 << 20)) * 16 + (1 << 24)
            file.write(f"{number >> 24 & 255}.{number >> 16 & 255}.{number >> 8 & 255}.{number & 240}/29\n")
    path = folder / f"portctl-list-{count}.yaml"
    path.write_text(f"portctl: 1\nname: bench\nservices:\n  web: {{ports: https, from: {{file: list-{count}.txt}}}}\n")
    return path


def blocked(folder: Path, count: int) -> Path:
    """One open service and `count` blocked networks."""
    name = f"blocked-{count}.txt"
    with (folder / name).open("w") as file:
        for k in range(count):
            number = (k * 4001 % (1 << 20)) * 2048 + (16 << 24)
            file.write(f"{number >> 24 & 255}.{number >> 16 & 255}.{number >> 8 & 255}.0/24\n")
    path = folder / f"portctl-blocked-{count}.yaml"
    path.write_text(
        f"portctl: 1\nname: bench\naddresses:\n  feed: {{file: {name}}}\n"
        "services:\n  open: {ports: 5001/tcp, from: any}\nblock: [feed]\n"
    )
    return path


def ferm(folder: Path, services: int, count: int) -> Path:
    lines = ["table filter chain INPUT {", "  policy DROP;", "  mod state state (ESTABLISHED RELATED) ACCEPT;"]
    for n in range(services):
        lines.append(f"  proto tcp dport {port(n)} saddr ({' '.join(sources(n, count))}) ACCEPT;")
    path = folder / f"ferm-{services}x{count}.conf"
    path.write_text("\n".join([*lines, "}"]) + "\n")
    return path


def aerleon(folder: Path, services: int, count: int) -> Path:
    """A folder with Aerleon's `def/` and `pol/`."""
    top = folder / f"aerleon-{services}x{count}"
    (top / "def").mkdir(parents=True, exist_ok=True)
    (top / "pol").mkdir(exist_ok=True)
    networks = ["networks:"]
    named = ["services:"]
    terms = []
    for n in range(services):
        networks += [f"  NET{n}:", "    values:", *(f"      - address: {a}" for a in sources(n, count))]
        named += [f"  S{n}:", "    - protocol: tcp", f"      port: {port(n)}"]
        terms += [
            f"      - name: s{n}",
            "        protocol: tcp",
            f"        source-address: NET{n}",
            f"        destination-port: S{n}",
            "        action: accept",
        ]
    (top / "def" / "networks.yaml").write_text("\n".join(networks) + "\n")
    (top / "def" / "services.yaml").write_text("\n".join(named) + "\n")
    (top / "pol" / "bench.yaml").write_text(
        "\n".join(["filters:", "  - header:", "      targets:", "        nftables: mixed input", "    terms:", *terms])
        + "\n"
    )
    return top
