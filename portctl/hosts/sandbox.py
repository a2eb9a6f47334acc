"""The sandbox: a throwaway host made for one policy, and a peer that can pretend to be anybody.

The host has an interface for every one that the policy names, the addresses that it names as its own, and, if asked
for, somebody listening on the ports that it opens. Each interface is a wire to the peer, which takes every address for
its own: it sends from any source, and stands for every host behind.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.resources import as_file, files
from ipaddress import IPv4Address, IPv6Address
from types import TracebackType

from portctl.command import Command, HostError
from portctl.hosts.frames import MAC
from portctl.hosts.namespaces import Network, Room
from portctl.net import FAMILIES, LINK_LOCAL_V6, LOOPBACK_ADDRESSES, MULTICAST, Address, Addresses, Ranges
from portctl.ruleset import LOOPBACK, PROTOCOLS_WITH_PORTS, SCTP, Direction, Kind, Rule, Ruleset

FIRST = "eth0"
MOST_ADDRESSES, MOST_PORTS = 16, 4
"""Of one entry: how many of its `to` addresses the host gets, and on how many ports of a range somebody listens."""
_WIRE_V4, _WIRE_V6 = int(IPv4Address("198.18.0.1")), int(IPv6Address("2001:2::1"))
"""The host's own addresses, one an interface, count from here: for measuring only (RFC 2544, RFC 5180)."""
_NOBODY = 65000
"""User numbers from here are given to users that the policy names and the machine has not."""


@dataclass(frozen=True, slots=True)
class Layout:
    """What a sandbox is made of. The first interface is the way to everywhere."""

    interfaces: tuple[str, ...] = (FIRST,)
    addresses: tuple[Address, ...] = ()
    """The host's own, beside one of each family on every interface."""
    users: tuple[str, ...] = ()

    @classmethod
    def of(cls, *rulesets: Ruleset, interfaces: Iterable[str] = ()) -> Layout:
        """What some policies need to be tried, one after the other."""
        names = dict.fromkeys((FIRST, *interfaces))
        addresses: dict[Address, None] = {}
        users: dict[str, None] = {}
        for ruleset in rulesets:
            members = (pattern for _, patterns in ruleset.interface_groups for pattern in patterns)
            names |= dict.fromkeys(instance(pattern) for pattern in members if pattern not in ("lo", LOOPBACK))
            addresses |= dict.fromkeys(a for rule in ruleset.inbound for a in own_addresses(rule))
            rules = (rule for direction in Direction for rule in ruleset.rules(direction))
            users |= dict.fromkeys(rule.user for rule in rules if rule.user)
        return cls(tuple(names), tuple(addresses), tuple(users))

    def address(self, interface: str, version: int) -> Address:
        """The host's own address on an interface (of the first, for an interface it has not)."""
        at = self.interfaces.index(interface) if interface in self.interfaces else 0
        return IPv4Address(_WIRE_V4 + at) if version == 4 else IPv6Address(_WIRE_V6 + at)

    def owns(self, address: Address) -> bool:
        own = {self.address(name, address.version) for name in self.interfaces}
        return address.is_loopback or address in own or address in self.addresses


def instance(pattern: str) -> str:
    """An interface that a pattern means: `wan*` → `wan0`."""
    return f"{pattern[:-1]}0"[:15] if pattern.endswith("*") else pattern


def own_addresses(rule: Rule) -> list[Address]:
    """Some of the addresses of this host that a rule names, if it names any."""
    found: list[Address] = []
    strange = MULTICAST | LOOPBACK_ADDRESSES | LINK_LOCAL_V6 | Addresses.of("0.0.0.0/8", "240.0.0.0/4", "::/128")
    for family in FAMILIES:
        if not rule.destination.is_every(family) and rule.kind in (Kind.SERVICE, Kind.PUBLISHED):
            own = rule.destination.family(family) - strange.family(family)
            numbers = (n for first, last in own.pairs() for n in range(first, min(last, first + 3) + 1))
            kind = IPv4Address if family == 4 else IPv6Address
            found += [kind(n) for n, _ in zip(numbers, range(MOST_ADDRESSES), strict=False)]
    return found


class Sandbox:
    """Open it with `with Sandbox.for_ruleset(ruleset) as box:`. `box.host` is the host, `box.peer` its peer."""

    def __init__(self, layout: Layout, listeners: Iterable[Listening] = (), name: str = "sandbox") -> None:
        self.layout = layout
        self.host = Room(name)
        self.peer: Network
        self._listeners = tuple(listeners)
        self._stack = ExitStack()

    @classmethod
    def for_ruleset(cls, ruleset: Ruleset, with_listeners: bool = False, interfaces: Iterable[str] = ()) -> Sandbox:
        layout = Layout.of(ruleset, interfaces=interfaces)
        return cls(layout, listening(ruleset) if with_listeners else ())

    def __enter__(self) -> Sandbox:
        with ExitStack() as stack:
            stack.enter_context(self.host)
            self.peer = self.host.network("peer")
            must(self.host, "sh", "-c", _SETTINGS)
            must(self.host, "ip", "-batch", "-", stdin="\n".join(_wires(self.layout)))
            must(self.peer, "sh", "-c", _PEER_SETTINGS)
            must(self.peer, "ip", "-4", "-batch", "-", stdin="\n".join(_peer_wires(self.layout, 4)))
            must(self.peer, "ip", "-6", "-batch", "-", stdin="\n".join(_peer_wires(self.layout, 6)))
            self._add_users()
            if self._listeners:
                self._listen()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stack.close()

    def _add_users(self) -> None:
        known = {line.split(":")[0] for line in must(self.host, "cat", "/etc/passwd").splitlines()}
        missing = [name for name in self.layout.users if name not in known]
        lines = [f"{name}:x:{_NOBODY + at}:65534::/nonexistent:/usr/sbin/nologin" for at, name in enumerate(missing)]
        if lines:
            must(self.host, "sh", "-c", "cat >>/etc/passwd", stdin="\n".join(lines) + "\n")

    def _listen(self) -> None:
        script = self._script("serve.py")
        server = self.host.start((interpreter(), "-I", "-S", script))
        assert server.stdin is not None and server.stdout is not None
        server.stdin.write(json.dumps([item.plain() for item in self._listeners]).encode() + b"\n")
        server.stdin.flush()
        if server.stdout.readline().strip() != b"ready":
            assert server.stderr is not None
            raise HostError(f"nobody listens in the sandbox: {server.stderr.read().decode().strip()}")

    def _script(self, name: str) -> str:
        return str(self._stack.enter_context(as_file(files("portctl.hosts") / name)))


@dataclass(frozen=True, slots=True)
class Listening:
    """One process and the sockets it waits on: (protocol number, address or None for every one, port)."""

    process: str
    sockets: tuple[tuple[int, Address | None, int], ...]

    def plain(self) -> list[object]:
        return [self.process, [[p, None if a is None else str(a), port] for p, a, port in self.sockets]]


def listening(ruleset: Ruleset) -> list[Listening]:
    """Who listens where the policy's services are offered, and where its forwards lead to on this host."""
    found: dict[str, list[tuple[int, Address | None, int]]] = {}
    for rule in ruleset.inbound:
        if rule.kind is not Kind.SERVICE or rule.process == "kernel":
            continue
        everywhere = any(rule.destination.is_every(family) for family in FAMILIES)
        addresses: list[Address | None] = [None] if everywhere else [*own_addresses(rule)]
        for flow in rule.flows or ():
            if flow.protocol in PROTOCOLS_WITH_PORTS and flow.protocol != SCTP:
                ports = corner_ports(flow.ports)
                sockets = found.setdefault(rule.process or rule.name, [])
                sockets += [(flow.protocol, address, port) for address in addresses for port in ports]
    return [Listening(name, tuple(dict.fromkeys(sockets))) for name, sockets in found.items()]


def corner_ports(ports: Ranges) -> list[int]:
    """The first and last port of each range, a few of each set."""
    return sorted({port for pair in list(ports.pairs())[: 4 * MOST_PORTS] for port in pair if port})


def interpreter() -> str:
    """Python as the sandbox can start it, without the modules of its environment."""
    return sys.executable


def must(host: Room | Network, *argv: str, stdin: str = "") -> str:
    """Runs a command that has to succeed for the sandbox to be one. Raises `HostError`."""
    result = host.run(Command(argv, stdin.encode()), timeout=30)
    if not result.ok:
        raise HostError(f"the sandbox could not be made: {argv[0]}: {result.stderr.strip() or result.status}")
    return result.stdout


_SETTINGS = """\
for file in /proc/sys/net/ipv6/conf/default/accept_dad /proc/sys/net/ipv6/conf/default/router_solicitations; do
	echo 0 >$file
done
"""
_PEER_SETTINGS = """\
ip link set lo up
for name in ipv4/ip_nonlocal_bind ipv6/ip_nonlocal_bind; do echo 1 >/proc/sys/net/$name; done
for name in all default; do echo 0 >/proc/sys/net/ipv4/conf/$name/rp_filter; done
"""


def _wires(layout: Layout) -> Iterable[str]:
    for at, name in enumerate(layout.interfaces):
        yield f"link add {name} type veth peer name {name} netns peer"
        yield f"link set {name} address {MAC.hex(':')} arp off addrgenmode none up"
        yield f"address add {layout.address(name, 4)}/32 dev {name}"
        yield f"address add {layout.address(name, 6)}/128 dev {name} nodad"
        yield f"address add fe80::1:{at + 1:x}/10 dev {name} nodad"
    yield from (f"address add {address} dev {layout.interfaces[0]}" for address in layout.addresses)
    yield f"route add 0.0.0.0/0 dev {layout.interfaces[0]}"
    yield f"route add ::/0 dev {layout.interfaces[0]}"


def _peer_wires(layout: Layout, version: int) -> Iterable[str]:
    every = "0.0.0.0/0" if version == 4 else "::/0"
    for name in layout.interfaces:
        if version == 4:
            yield f"link set {name} address {MAC.hex(':')} arp off addrgenmode none up"
        else:
            yield f"address add fe80::2/10 dev {name} nodad"
        yield f"rule add iif {name} lookup 100"
        yield f"route add {layout.address(name, version)} dev {name}"
    # What comes in is for the peer, whatever its destination; what goes out may have any source, and leaves.
    yield f"route add local {every} dev lo table 100"
    yield f"route add local {every} dev lo table local"
    yield f"route add {every} dev {layout.interfaces[0]}"
    yield "rule add pref 40000 lookup local"
    yield "rule del pref 0"
