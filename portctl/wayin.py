"""Who asks, how they came in, and whether new rules would still let them in.

A session over the network proves nothing once it is up: it lives on the state tracker. So the question is always
whether the operator's way in would be admitted as a new connection. Where that way is cannot be read from one place:
sudo strips SSH_CONNECTION, tmux keeps a stale one, cron has none. All processes above this one are asked, and what they
say counts only if sshd holds that very connection now.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from ipaddress import ip_address

from portctl.command import Command
from portctl.listeners import Connection, Listener
from portctl.net import Address
from portctl.observe import others
from portctl.observe.others import BootService
from portctl.ruleset import LOOPBACK, TCP, UDP, Direction, Packet
from portctl.templating import text

SSHD = ("sshd", "sshd-session", "dropbear", "tinysshd")
METADATA = tuple(ip_address(a) for a in ("169.254.169.254", "168.63.129.16", "100.100.100.200", "fd00:ec2::254"))
"""Where the big clouds answer an instance's questions; credentials and, on some, DHCP and DNS depend on it."""
_CLOUDS = ("Amazon", "Google", "Microsoft", "DigitalOcean", "OpenStack", "Alibaba", "Hetzner", "Oracle", "Scaleway")
_TUNNELS = ("wireguard", "tun", "gre", "gretap", "ip6gre", "ipip", "sit", "ip6tnl", "vti", "xfrm", "vxlan", "geneve")


@dataclass(frozen=True, slots=True)
class Process:
    """One of the chain from the asking shell upwards. `started` is in seconds since boot, `device` its terminal's."""

    pid: int
    device: int
    started: float
    name: str
    ssh: str


@dataclass(frozen=True, slots=True)
class Tracked:
    """A flow that the state tracker knows, as its first packet went: before any translation."""

    protocol: int
    source: Address
    destination: Address
    source_port: int = 0
    port: int = 0
    reply_source: Address | None = None
    """Who answers: another one than `destination` where the destination was translated."""
    reply_port: int = 0


@dataclass(frozen=True, slots=True)
class Tunnel:
    """A device that carries packets inside others. `outer` are its flows, as packets from and to the far ends."""

    device: str
    kind: str
    outer: tuple[Packet, ...] = ()
    keeps_alive: bool = False
    """This host itself opens the flow, again and again."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    chain: tuple[Process, ...] = ()
    flows: tuple[Tracked, ...] = ()
    boot_services: tuple[BootService, ...] = ()
    """Other services that load rules at boot, if enabled."""
    multicast: tuple[Address, ...] = ()
    cloud: str | None = None
    clocks: tuple[Address, ...] = ()
    links: tuple[tuple[str, str], ...] = ()
    """(device, kind) of tunnel devices."""
    tunnel_text: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class WayIn:
    """How the operator came. `connections` must all stay admitted as new ones; `said` is a sentence for people."""

    said: str
    console: bool = False
    connections: tuple[Connection, ...] = ()
    own: bool = False
    """They are the operator's own, not every session there is."""


def question() -> Command:
    """What to ask a host; its answer goes to `read`."""
    return Command(("sh", "-s"), stdin=(others.ask() + text("guard/surroundings.sh")).encode())


def read(answer: str) -> Surroundings:
    """The surroundings in the answer to `question`."""
    parts = {name: body for name, _, body in (part.partition("\n") for part in answer.split("\x01")[1:])}
    ticks = int(parts.get("ticks", "").strip() or 100)
    vendor = parts.get("vendor", "").strip()
    clocks = [a for a in map(_address, parts.get("clocks", "").split()) if a is not None]
    return Surroundings(
        chain=tuple(_chain(parts.get("chain", ""), ticks)),
        flows=tuple(flow for line in parts.get("flows", "").splitlines() if (flow := tracked(line))),
        boot_services=others.read(parts.get("boot", "")),
        multicast=tuple(
            sorted({a for a in map(_address, re.findall(r"inet6? +(\S+)", parts.get("multicast", ""))) if a}, key=str)
        ),
        cloud=vendor if vendor.startswith(_CLOUDS) else None,
        clocks=tuple(dict.fromkeys(clocks)),
        links=tuple(_links(parts.get("links", ""))),
        tunnel_text=tuple((n, parts.get(n, "")) for n in _TUNNEL_PARTS),
    )


_TUNNEL_PARTS = ("wireguard", "wireguard-port", "wireguard-keepalive", "tunnels", "links")


def _chain(listing: str, ticks: int) -> Iterable[Process]:
    for line in listing.splitlines():
        head, _, ssh = line.partition("|")
        words = head.split()
        if len(words) == 5 and all(re.fullmatch(r"-?\d+", word) for word in words[:4]):
            yield Process(int(words[0]), int(words[2]), int(words[3]) / ticks, words[4].rstrip("?"), ssh.strip())


def tracked(line: str) -> Tracked | None:
    """A line of `conntrack -L -o extended` or /proc/net/nf_conntrack."""
    protocol = re.search(r"^ipv[46]\s+\d+\s+\S+\s+(\d+)", line)
    ends = re.findall(r"\b(src|dst|sport|dport)=(\S+)", line)
    if protocol is None or len(ends) < 4:
        return None
    firsts: dict[str, str] = {}
    answers: dict[str, str] = {}
    for key, value in ends:
        (answers if key in firsts else firsts)[key] = value
    source, destination = _address(firsts["src"]), _address(firsts["dst"])
    if source is None or destination is None:
        return None
    return Tracked(
        int(protocol[1]),
        source,
        destination,
        int(firsts.get("sport", 0)),
        int(firsts.get("dport", 0)),
        _address(answers.get("src", "")),
        int(answers.get("sport", 0)),
    )


def _links(listing: str) -> Iterable[tuple[str, str]]:
    for line in listing.splitlines():
        name = re.match(r"\d+: ([^:@\s]+)", line)
        kind = next((k for k in _TUNNELS if re.search(rf"\s{k}\s", line + " ")), None)
        if name and kind:
            yield name[1], kind


def _address(word: str) -> Address | None:
    try:
        found = ip_address(word.partition("%")[0])
    except ValueError:
        return None
    return getattr(found, "ipv4_mapped", None) or found


def is_console(device: int) -> bool:
    """Whether a terminal device is one that stands in front of the machine: a virtual console, a serial line,
    /dev/console, a hypervisor's console (devices.txt of the kernel). A pseudo-terminal never is."""
    major, minor = (device >> 8) & 0xFFF, (device & 0xFF) | ((device >> 12) & 0xFFF00)
    return (major == 4 and minor > 0) or (major == 5 and minor == 1) or major in (204, 229)


def is_console_name(name: str) -> bool:
    """The same of a BSD's or macOS's terminal, by its name: a virtual console, a serial line, /dev/console."""
    return re.fullmatch(r"/dev/(console|ttyv[0-9a-f]+|ttyu\d+|ttyC\w+)", name) is not None


_LENDERS = ("sudo", "su", "runuser", "doas")
"""They may run a command on a terminal of their own making, for whoever sits at theirs."""


def at_console(chain: Iterable[Process]) -> bool:
    """Whether the terminal from which a chain of processes was started stands in front of the machine.

    The first of the chain may have none: what portctl asks with is in a session of its own. Any other process that
    gives a terminal (tmux, a terminal on the web) may serve somebody who sits elsewhere.
    """
    terminal = 0
    for number, process in enumerate(chain):
        if terminal not in (0, process.device) and process.name not in _LENDERS:
            return False
        terminal = process.device
        if is_console(terminal):
            return True
        if not terminal and number:
            return False
    return False


def named(process: Process, connections: Iterable[Connection]) -> Connection | None:
    """The connection that a process says it came over, if it is open now."""
    words = process.ssh.split()
    if len(words) != 4 or not (words[1].isdigit() and words[3].isdigit()):
        return None
    peer, local = _address(words[0]), _address(words[2])
    wanted = (peer, int(words[1]), local, int(words[3]))
    return next((c for c in connections if (c.peer, c.peer_port, c.local, c.local_port) == wanted), None)


def find(
    around: Surroundings, connections: tuple[Connection, ...] | None, listeners: tuple[Listener, ...] | None
) -> WayIn:
    """The way in of whoever asks, and what must stay admitted where it cannot be told."""
    ports = {x.port for x in listeners or () if x.protocol == TCP}
    sessions = tuple(
        c
        for c in connections or ()
        if c.protocol == TCP
        and (c.process in SSHD or (c.process is None and c.local_port == 22))
        and c.local_port in ports
    )
    # A session from this host to itself (ssh localhost) says nothing of the network: its other end is here too.
    here = {(c.local, c.local_port) for c in connections or ()}
    own = _own(around.chain, tuple(c for c in sessions if (c.peer, c.peer_port) not in here and not c.peer.is_loopback))
    if own:
        peers = ", ".join(dict.fromkeys(f"{c.peer} to port {c.local_port}" for c in own))
        return WayIn(f"You came by ssh from {peers}.", connections=own, own=True)
    if not any(p.name in SSHD for p in around.chain) and at_console(around.chain):
        return WayIn("You sit at a console of this host.", console=True)
    if sessions:
        peers = ", ".join(dict.fromkeys(f"{c.peer}" for c in sessions))
        said = f"How you came in cannot be told, so every ssh session that is open must stay admitted: {peers}."
        return WayIn(said, connections=sessions)
    if any(x.process in SSHD for x in listeners or ()):
        return WayIn("sshd runs on this host and nobody is connected: no way in could be checked.")
    return WayIn("No sshd runs on this host: no way in could be checked.")


def _own(chain: tuple[Process, ...], sessions: tuple[Connection, ...]) -> tuple[Connection, ...]:
    found = [c for c in (named(process, sessions) for process in chain) if c is not None]
    pids = {process.pid for process in chain if process.name in SSHD}
    found += [c for c in sessions if c.pid in pids]
    return tuple(dict.fromkeys(found))


def packet(connection: Connection, flows: Iterable[Tracked], interface_of: Callable[[Address], str]) -> Packet:
    """The first packet of the same way in, taken again: to where it went before this host translated it."""
    destination, port = connection.local, connection.local_port
    for flow in flows:
        if (flow.protocol, flow.source, flow.source_port) == (TCP, connection.peer, connection.peer_port) and (
            flow.reply_source,
            flow.reply_port,
        ) == (connection.local, connection.local_port):
            destination, port = flow.destination, flow.port
    interface = LOOPBACK if destination.is_loopback else interface_of(connection.local)
    return Packet(Direction.INBOUND, TCP, connection.peer, destination, port, 40000, interface=interface)


def tunnels(around: Surroundings, connections: tuple[Connection, ...], own_address: Callable[[Address], Address | None],
            interface_of: Callable[[Address], str]) -> tuple[Tunnel, ...]:  # fmt: skip
    """The tunnel devices, with their outer flows where these can be told. `own_address` is the own address that faces
    a far one."""
    texts = dict(around.tunnel_text)
    found = []
    for device, kind in around.links:
        ends: list[tuple[int, Address, int, int]] = []  # protocol, far address, far port, own port
        keeps = False
        if kind == "wireguard":
            port = _second(texts["wireguard-port"], device)
            keeps = any(
                re.search(r"\s\d+$", x) for x in texts["wireguard-keepalive"].splitlines() if x.startswith(device)
            )
            for address, far in _endpoints(texts["wireguard"], device):
                ends.append((UDP, address, far, int(port or 51820)))
        elif kind == "tun":
            pids = {int(line.split()[1]) for line in texts["tunnels"].splitlines() if line.split()[0] == device}
            ends += [(c.protocol, c.peer, c.peer_port, c.local_port) for c in connections if c.pid in pids]
        else:
            ends += _configured(kind, device, texts["links"])
        outer = tuple(
            Packet(Direction.INBOUND, protocol, far, own, own_port, far_port, interface=interface_of(own))
            for protocol, far, far_port, own_port in ends
            if (own := own_address(far)) is not None
        )
        found.append(Tunnel(device, kind, outer, keeps))
    return tuple(found)


def _second(listing: str, device: str) -> str | None:
    return next((line.split()[1] for line in listing.splitlines() if line.split()[:1] == [device]), None)


def _endpoints(listing: str, device: str) -> Iterable[tuple[Address, int]]:
    for line in listing.splitlines():
        words = line.split()
        if len(words) == 3 and words[0] == device and (end := re.fullmatch(r"\[?([0-9A-Fa-f.:]+?)\]?:(\d+)", words[2])):
            address = _address(end[1])
            if address is not None:
                yield address, int(end[2])


_PROTOCOL_OF = {"gre": 47, "gretap": 47, "ip6gre": 47, "ipip": 4, "sit": 41, "ip6tnl": 41, "vti": 50, "xfrm": 50}
_PORT_OF = {"vxlan": 4789, "geneve": 6081}


def _configured(kind: str, device: str, links: str) -> Iterable[tuple[int, Address, int, int]]:
    """Far ends of a tunnel that is configured with one, from `ip -d -o link`."""
    line = next((x for x in links.splitlines() if re.match(rf"\d+: {re.escape(device)}[:@]", x)), "")
    remote = re.search(rf"\s{kind}\s.*?remote (\S+)", line)
    address = _address(remote[1]) if remote else None
    if address is not None:
        port = _PORT_OF.get(kind, 0)
        yield (UDP if port else _PROTOCOL_OF[kind]), address, 40000 if port else 0, port


@dataclass(frozen=True, slots=True)
class Session:
    """From where a confirmation comes. `why_not` is None where it proves that a new connection can be made."""

    why_not: str | None
    said: str


def may_confirm(
    around: Surroundings,
    connections: tuple[Connection, ...],
    listeners: tuple[Listener, ...],
    then: tuple[Connection, ...],
    loaded: float,
) -> Session:
    """Whether whoever asks came over a connection younger than the load, or sits at a console.

    `then` are the connections that were there when the rules had been loaded, also half-open ones; `loaded` is when
    that was, in seconds since boot. Both are asked: the connection must be none of those, and the process of sshd that
    serves it must have started later. A multiplexed session is served by the process, and comes over the connection,
    of the first one.
    """
    way = find(around, connections, listeners)
    if way.console:
        return Session(None, "from a console")
    if not way.own:
        if not way.connections and not any(x.process in SSHD for x in listeners):
            return Session(None, "on a host without sshd")
        return Session("it cannot be told over which connection you came; log in anew and confirm from there", "")
    ends = {(c.peer, c.peer_port, c.local, c.local_port) for c in then}
    old = [c for c in way.connections if (c.peer, c.peer_port, c.local, c.local_port) in ends]
    servers = [p for p in around.chain if p.name in SSHD and p.started > loaded]
    if old or not servers:
        return Session(
            "you came over a connection that is older than the new rules, and an open connection proves nothing; "
            "open a new one (not a shared one: ssh -o ControlPath=none) and run `portctl confirm` there",
            "",
        )
    return Session(None, f"over a new connection from {way.connections[0].peer}")
