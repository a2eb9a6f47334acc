"""Rules as the programs of container and virtual machine hosts leave them in a kernel, in the forms of their present
versions: `tests/observed/scenes/NAME.v4` for iptables-restore, `NAME.nft` for nft. Each with its own interfaces."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from portctl.hosts.namespaces import Room
from tests.system import worlds

FOLDER = Path(__file__).parent.parent / "observed" / "scenes"
HOST = """\
ip link add eth0 type veth peer name far
ip link set far up
ip addr add 192.0.2.10/24 dev eth0
ip -6 addr add 2001:db8::10/64 dev eth0 nodad
ip link set eth0 up
ip route add default via 192.0.2.1
ip -6 route add default via 2001:db8::1
sysctl -qw net.ipv4.ip_forward=1
"""


@dataclass(frozen=True, slots=True)
class Scene:
    """`bridges` are (name, address); `publishes` the ports that strangers reach on this host, whatever its policy says
    of them, and `to` the target of the first."""

    name: str
    bridges: tuple[tuple[str, str], ...] = ()
    publishes: tuple[str, ...] = ()
    to: str = ""

    def text(self, kind: str) -> str:
        path = FOLDER / f"{self.name}.{kind}"
        return path.read_text() if path.exists() else ""

    def play(self, machine: Room, tools: str = "") -> None:
        """Makes the interfaces and loads the rules, with `iptables` or what `tools` adds to that name."""
        script = HOST
        for name, address in self.bridges:
            script += f"ip link add {name} type bridge forward_delay 0\n"
            script += f"ip link set {name} up\nip addr add {address} dev {name}\n"
        worlds.checked(machine, "sh", "-ec", script)
        if text := self.text("v4"):
            worlds.checked(machine, f"iptables{tools}-restore", stdin=text.encode())
        if text := self.text("nft"):
            worlds.checked(machine, "nft", "-f", "-", stdin=text.encode())


_DOCKER = (("docker0", "172.17.0.1/16"), ("br-4e2f6a1b9c0d", "172.18.0.1/16"))
_PODMAN, _GUESTS = (("podman0", "10.88.0.1/16"),), (("virbr0", "192.168.122.1/24"),)
SCENES = (
    Scene("docker-28", _DOCKER, ("8080/tcp",), "172.17.0.2:80"),
    Scene("docker-27", _DOCKER, ("5353/udp", "8080/tcp"), "172.17.0.2:80"),
    Scene("libvirt", _GUESTS),
    Scene("libvirt-iptables", _GUESTS),
    Scene("netavark", _PODMAN, ("8080/tcp",), "10.88.0.2:80"),
    Scene("netavark-iptables", _PODMAN, ("8080/tcp",), "10.88.0.2:80"),
    Scene("tailscale", (("tailscale0", "100.101.102.103/32"),)),
    Scene("kube-proxy", (("cni0", "10.244.0.1/24"),), ("30080/tcp",), "10.244.0.5:8080"),
    Scene("fail2ban"),
    Scene("fail2ban-nft"),
)
"""`docker-28` is also what engine 29 writes with iptables; a bridge stands for Tailscale's tun device."""
