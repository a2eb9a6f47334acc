"""Ports of a container that others publish by DNAT, dialled by a peer: reachable as before under `published: keep`, and
under `published: govern` only as the services say, by the address and port from before the translation."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.system import applying, worlds
from tests.system.dialling import dial, serve, tcp, udp
from tests.system.worlds import World, checked

RING = "ring 4 (real packets), published ports"
NEEDS = ("iptables", "ip6tables", "ipset", "ss")
V6 = "2001:db8::10"
OTHER = "192.0.2.77"
STRANGERS = (tcp(8080), udp(8080), tcp(8080, V6), udp(8080, V6), tcp(8081))
"""A stranger's ways to what is published: 8080 to port 80 of the container, 8081 to its port 81."""
OPEN, SILENT = ["open"] * 5, ["silent"] * 5

CONTAINER = """set -e
ip link add docker0 type bridge forward_delay 0 mcast_snooping 0
ip link add vethc type veth peer name eth0 netns container
ip link set vethc master docker0 up
ip addr add 172.17.0.1/16 dev docker0
ip addr add fd00:172::1/64 dev docker0 nodad
ip link set docker0 up
sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
"""
INSIDE = """set -e
ip link set lo up
ip link set eth0 up
ip addr add 172.17.0.2/16 dev eth0
ip addr add fd00:172::2/64 dev eth0 nodad
ip route add default via 172.17.0.1
ip -6 route add default via fd00:172::1
"""

PUBLISH = {
    "iptables": """set -e
for tool in iptables ip6tables; do
  case $tool in iptables) net=172.17.0.0/16 to=172.17.0.2 ;; *) net=fd00:172::/64 to=[fd00:172::2] ;; esac
  $tool -P FORWARD DROP
  $tool -N DOCKER
  $tool -A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
  $tool -A FORWARD -o docker0 -j DOCKER
  $tool -A FORWARD -i docker0 ! -o docker0 -j ACCEPT
  $tool -t nat -N DOCKER
  $tool -t nat -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
  $tool -t nat -A POSTROUTING -s $net ! -o docker0 -j MASQUERADE
  for pair in tcp:8080:80 udp:8080:80 tcp:8081:81; do
    IFS=: read -r protocol port inner <<END
$pair
END
    $tool -A DOCKER ! -i docker0 -o docker0 -p $protocol --dport $inner -j ACCEPT
    $tool -t nat -A DOCKER ! -i docker0 -p $protocol --dport $port -j DNAT --to-destination $to:$inner
  done
done
""",
    "nft": """nft -f - <<'END'
table inet engine {
	chain nat {
		type nat hook prerouting priority dstnat;
		fib daddr type local meta nfproto ipv4 meta l4proto { tcp, udp } th dport 8080 dnat ip to 172.17.0.2:80
		fib daddr type local meta nfproto ipv4 tcp dport 8081 dnat ip to 172.17.0.2:81
		fib daddr type local meta nfproto ipv6 meta l4proto { tcp, udp } th dport 8080 dnat ip6 to [fd00:172::2]:80
	}
	chain out {
		type nat hook postrouting priority srcnat;
		ip saddr 172.17.0.0/16 oifname != "docker0" masquerade
	}
}
END
""",
}


@dataclass(frozen=True, slots=True)
class Published:
    """A world whose machine has a container behind docker0, with published ports, and the back end under test."""

    world: World
    backend: str

    def apply(self, policy: str) -> None:
        applying.applied(self.world.machine, policy, "--backend", self.backend)

    def strangers(self, *ends: str) -> list[str]:
        return dial(self.world.controller, *(ends or STRANGERS))

    def exposed(self) -> set[str]:
        """What `portctl verify` of the applied policy calls exposed, which its exit status tells, too."""
        result = applying.portctl(self.world.machine, "verify", "/root/policy.yaml", "--format", "json")
        found = {f["subject"] for f in json.loads(result.stdout)["findings"] if f["code"] == "exposed"}
        assert result.status == 1 or not found, result.stdout + result.stderr
        return found


@pytest.fixture(params=[(backend, engine) for backend in applying.BACKENDS for engine in PUBLISH], ids="-".join)
def published(request: pytest.FixtureRequest) -> Iterator[Published]:
    """The two ways in which engines publish, for each back end."""
    backend, engine = request.param
    with worlds.world() as world:
        container = world.machine.network("container")
        checked(world.machine, "sh", "-c", CONTAINER)
        checked(container, "sh", "-c", INSIDE)
        serve(container, 80, 81)
        checked(world.machine, "sh", "-c", PUBLISH[engine])
        checked(world.controller, "ip", "address", "add", f"{OTHER}/24", "dev", "eth0")
        yield Published(world, backend)


def policy(published: str, services: str = "", more: str = "") -> str:
    return (
        "portctl: 1\nname: host\n"
        f"services:\n  ssh: {{ports: ssh, from: any, listener: optional}}\n{services}"
        f"defaults: {{published: {published}{more}}}\n"
    )


def test_govern_closes_what_is_published_and_the_services_open_it(published: Published) -> None:
    assert published.strangers() == OPEN
    published.apply(policy("govern"))
    assert published.strangers() == SILENT
    inner = "  inner: {ports: [80/tcp, 81/tcp, 80/udp], from: any, listener: optional}\n"
    published.apply(policy("govern", inner))
    assert published.strangers() == SILENT, "the port inside the container is not the one that strangers address"
    published.apply(policy("govern", "  shop: {ports: [8080/tcp, 8080/udp], from: any}\n"))
    assert published.strangers() == ["open"] * 4 + ["silent"]
    published.apply(policy("govern", f"  shop: {{ports: 8081/tcp, from: {OTHER}}}\n"))
    ends = (tcp(8081), tcp(8081, source=OTHER), tcp(8080, source=OTHER))
    assert published.strangers(*ends) == ["silent", "open", "silent"]
    published.apply(policy("govern", more=", inbound: reject"))
    assert published.strangers() == ["refused"] * 5


def test_verify_shows_as_exposed_what_is_kept_and_not_what_is_governed(published: Published) -> None:
    published.apply(policy("keep"))
    assert published.strangers() == OPEN
    assert published.exposed() == {"8080/tcp", "8080/udp", "8081/tcp"}
    published.apply(policy("keep", "  shop: {ports: [8080/tcp, 8080/udp], from: any}\n"))
    assert published.exposed() == {"8081/tcp"}
    published.apply(policy("govern", "  shop: {ports: [8080/tcp, 8080/udp], from: any}\n"))
    assert published.exposed() == set()
    assert published.strangers() == ["open"] * 4 + ["silent"]
