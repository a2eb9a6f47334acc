"""Real packets through a sandbox's real rules: accepted, rejected, or dropped.

A packet counts as accepted when a witness behind the packet filter saw it: a table of our own at the very end of the
hooks. It counts as rejected when the witness did not, and an answer refused it; as dropped when neither happened. The
witness stands there only while packets are sent.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib.resources import as_file, files

from portctl.command import Command, HostError
from portctl.hosts import sendable
from portctl.hosts.frames import ethernet, internet, refused
from portctl.hosts.namespaces import Network, Room
from portctl.hosts.sandbox import Sandbox, interpreter, must
from portctl.net import MULTICAST, Address
from portctl.ruleset import ICMP, ICMPV6, LOOPBACK, Direction, Packet, Ruleset, Verdict, translate

MOST_AT_ONCE = 10_000
"""Packets of one round; they are numbered with 16 bits, and numbers are not used again at once."""
PATIENCE = 30.0
"""Seconds that a round may take."""

_SETS = {
    "seen": ("prerouting priority -500", "iifname != lo"),
    "input": ("input priority 10000", "iifname != lo"),
    "forward": ("forward priority 10000", ""),
    "output": ("postrouting priority 10000", "meta priority 0:5"),
    "loopback": ("input priority 10000", "iifname lo"),
}
"""Chains of the witness, where they hang, and whom they look at: not at what the host itself sends, or sends itself.
Each notes the numbers of the packets that come by."""


@dataclass(frozen=True, slots=True)
class Observation:
    """What became of one packet. `arrived` False: the kernel let it go before any packet filter could see it."""

    verdict: Verdict
    arrived: bool = True


def verdicts(box: Sandbox, packets: Sequence[Packet], ruleset: Ruleset | None = None) -> list[Verdict]:
    """What the loaded rules do with each packet, in order. `ruleset` says where translated packets will go.

    Raises `ValueError` for a packet that `sendable.reason` names a reason against.
    """
    return [observation.verdict for observation in observe(box, packets, ruleset)]


def observe(box: Sandbox, packets: Sequence[Packet], ruleset: Ruleset | None = None) -> list[Observation]:
    """As `verdicts`, with what else there is to know."""
    for packet in packets:
        if why := sendable.reason(packet, box.layout):
            raise ValueError(f"{packet}: {why}")
    found: dict[int, Observation] = {}
    with _witness(box), _ways(box) as ways, ExitStack() as stack:
        script = str(stack.enter_context(as_file(files("portctl.hosts") / "wire.py")))
        users = _users(box) if any(packet.user for packet in packets) else {}
        for numbers in _rounds(packets, ruleset):
            ways.lay(need for at in numbers for need in needs(packets[at], ruleset))
            found |= _send(box, script, users, {at: packets[at] for at in numbers})
    return [found[at] for at in range(len(packets))]


Need = tuple[Address, str, bool]
"""An address, where it leads (`local`, or an interface), and whether that is a multicast group to join."""


def needs(packet: Packet, ruleset: Ruleset | None) -> Iterator[Need]:
    """Where a packet's destination must lead, before and after translation."""
    turned = translate(ruleset, packet) if ruleset else packet
    for at in dict.fromkeys((packet, turned)):
        if at.destination in MULTICAST:
            yield at.destination, at.interface if at.direction is Direction.INBOUND else at.out_interface, True
        elif at.direction is Direction.INBOUND:
            yield at.destination, "local", False
        elif at.out_interface != LOOPBACK:
            yield at.destination, at.out_interface, False
    if packet.direction is Direction.OUTBOUND:
        yield packet.source, "local", False


def _connection(packet: Packet) -> tuple[object, ...]:
    """What the state tracker knows a flow by; ICMP bears a number of its own."""
    ends = packet.protocol, packet.source, packet.destination
    return (*ends, len(ends)) if packet.protocol in (ICMP, ICMPV6) else (*ends, packet.source_port, packet.port)


def _rounds(packets: Sequence[Packet], ruleset: Ruleset | None) -> Iterator[list[int]]:
    """Packets by their place, such that those of a round get on: no two of one flow, none contradicting another's
    ways."""
    rest = list(range(len(packets)))
    while rest:
        chosen: list[int] = []
        left: list[int] = []
        flows: set[tuple[object, ...]] = set()
        leads: dict[tuple[Address, bool], str] = {}
        for at in rest:
            packet = packets[at]
            flow = _connection(packet)
            wanted = {(address, group): to for address, to, group in needs(packet, ruleset)}
            fits = len(chosen) < MOST_AT_ONCE and (packet.protocol in (ICMP, ICMPV6) or flow not in flows)
            if fits and all(leads.get(key, to) == to for key, to in wanted.items()):
                chosen.append(at)
                flows |= {flow}
                leads |= wanted
            else:
                left.append(at)
        yield chosen
        rest = left


@dataclass(slots=True)
class _Ways:
    """The routes and groups that the packets of the round need."""

    box: Sandbox
    laid: dict[tuple[Address, bool], str] = field(default_factory=dict)

    def lay(self, wanted: Iterable[Need]) -> None:
        lines: dict[int, list[str]] = {4: [], 6: []}
        for address, to, group in wanted:
            key = address, group
            if self.laid.get(key) == to or (to == "local" and self._own(address)):
                continue
            if key in self.laid:
                lines[address.version].append(self._undo(key))
            self.laid[key] = to
            lines[address.version].append(_way("add", address, to, group, self.box))
        self._batch(lines)

    def _own(self, address: Address) -> bool:
        layout = self.box.layout
        own = {layout.address(name, address.version) for name in layout.interfaces}
        return address.is_loopback or address in own or address in layout.addresses or str(address) == "255.255.255.255"

    def _undo(self, key: tuple[Address, bool]) -> str:
        return _way("del", key[0], self.laid[key], key[1], self.box)

    def _batch(self, lines: dict[int, list[str]]) -> None:
        for version, commands in lines.items():
            if commands:
                must(self.box.host, "ip", f"-{version}", "-force", "-batch", "-", stdin="\n".join(commands) + "\n")

    def take_up(self) -> None:
        lines: dict[int, list[str]] = {4: [], 6: []}
        for key in self.laid:
            lines[key[0].version].append(self._undo(key))
        self._batch(lines)


def _way(verb: str, address: Address, to: str, group: bool, box: Sandbox) -> str:
    if group:
        name = to if to in box.layout.interfaces else box.layout.interfaces[0]
        return f"address {verb} {address} dev {name}" + (" autojoin" if verb == "add" else "")
    if to == "local":
        return f"route {verb} local {address} dev {box.layout.interfaces[0]} table local"
    return f"route {verb} {address} dev {to}"


@contextmanager
def _ways(box: Sandbox) -> Iterator[_Ways]:
    ways = _Ways(box)
    try:
        yield ways
    finally:
        ways.take_up()


_FORCED = {
    "ipv4/conf/*/rp_filter": 0,
    "ipv4/conf/all/accept_local": 1,
    "ipv4/conf/all/route_localnet": 1,
    "ipv4/ip_forward": 1,
    "ipv6/conf/all/forwarding": 1,
    "ipv4/icmp_ratelimit": 0,
    "ipv4/icmp_msgs_per_sec": 1_000_000,
    "ipv4/icmp_msgs_burst": 1_000_000,
    "ipv6/icmp/ratelimit": 0,
}
"""Settings under which every packet reaches the packet filter and every answer leaves: what is tried is the rules."""

_FORCE = """\
cd /proc/sys/net
while read -r pattern value; do
	for file in $pattern; do
		[ -e "$file" ] || continue
		read -r old <"$file" || old=
		[ "$old" = "$value" ] || { echo "$file $old"; echo "$value" >"$file" 2>/dev/null; }
	done
done
"""

_QUIET = "table inet quiet { chain output { type filter hook output priority 0; policy drop; }; }"
"""On the peer while it pretends: its own kernel knows nothing of the connections and would end them."""


@contextmanager
def _witness(box: Sandbox) -> Iterator[None]:
    old = must(box.host, "sh", "-c", _FORCE, stdin="".join(f"{k} {v}\n" for k, v in _FORCED.items()))
    try:
        _nft(box.host, _witness_text())
        _nft(box.peer, _QUIET)
        yield
    finally:
        must(box.host, "sh", "-c", _FORCE, stdin=old)
        for host, table in ((box.host, "witness"), (box.peer, "quiet")):
            host.run(Command(("nft", "delete", "table", "inet", table)))


def _witness_text() -> str:
    """IPv4's identification and the lower half of IPv6's flow label, by their place in the header."""
    lines = ["table inet witness {"]
    for name, (hook, which) in _SETS.items():
        lines += [
            f"set {name}4 {{ typeof ip id; flags dynamic; size 65535; }}",
            f"set {name}6 {{ typeof ip id; flags dynamic; size 65535; }}",
            f"chain {name} {{ type filter hook {hook}; policy accept;",
            f"{which} meta nfproto ipv4 add @{name}4 {{ @nh,32,16 }}",
            f"{which} meta nfproto ipv6 add @{name}6 {{ @nh,16,16 }}",
            "}",
        ]
    return "\n".join([*lines, "}"])


def _nft(host: Room | Network, text: str) -> None:
    result = host.run(Command(("nft", "-f", "-"), text.encode()), timeout=PATIENCE)
    if result.status == 127:
        raise HostError("packets can be sent through the sandbox only where nft is installed")
    if not result.ok:
        raise HostError(f"the sandbox refused its witness: {result.stderr.strip()}")


_CLEAR = "".join(f"flush set inet witness {name}{version}\n" for name in _SETS for version in (4, 6))


def _send(box: Sandbox, script: str, users: dict[str, int], packets: dict[int, Packet]) -> dict[int, Observation]:
    """One round. Packets are numbered from 1 as they are sent."""
    _nft(box.host, _CLEAR)
    box.host.run(Command(("conntrack", "-F")), timeout=PATIENCE)
    outside: list[str] = []
    inside: list[str] = []
    for number, packet in enumerate(packets.values(), 1):
        lines = outside if packet.direction is not Direction.OUTBOUND and packet.interface != LOOPBACK else inside
        lines.append(_line(packet, number, users))
    refusals: set[int] = set()
    for host, lines in ((box.peer, outside), (box.host, inside)):
        if lines:
            refusals |= _wire(host, script, lines)
    witnessed = _witnessed(must(box.host, "nft", "list", "table", "inet", "witness"))
    return {
        at: _observation(packet, number, witnessed, refusals) for number, (at, packet) in enumerate(packets.items(), 1)
    }


def _line(packet: Packet, number: int, users: dict[str, int]) -> str:
    if packet.direction is Direction.OUTBOUND:
        interface = "lo" if packet.out_interface == LOOPBACK else packet.out_interface
        user = users[packet.user] if packet.user else 0
        return f"packet {interface} {user} {internet(packet, number).hex()}"
    interface = "lo" if packet.interface == LOOPBACK else packet.interface
    return f"frame {interface} {ethernet(packet, number).hex()}"


def _wire(host: Room | Network, script: str, lines: list[str]) -> set[int]:
    argv = (interpreter(), "-I", "-S", script)
    result = host.run(Command(argv, ("\n".join(lines) + "\n").encode()), timeout=PATIENCE)
    if not result.ok:
        raise HostError(f"the sandbox could not send packets: {result.stderr.strip()}")
    heard = (line.split() for line in result.stdout.splitlines())
    return {number for words in heard if words[0] != "denied" and (number := refused(bytes.fromhex(words[1])))}


def _witnessed(listing: str) -> dict[str, set[int]]:
    """The members of the witness's sets."""
    found: dict[str, set[int]] = {}
    for name, body in re.findall(r"\tset (\w+) \{\n(.*?)\n\t\}", listing, re.DOTALL):
        elements = re.search(r"elements = \{(.*?)\}", body, re.DOTALL)
        found[name] = {int(word) for word in elements[1].replace(",", " ").split()} if elements else set()
    return found


def _observation(packet: Packet, number: int, witnessed: dict[str, set[int]], refusals: set[int]) -> Observation:
    def came(name: str) -> bool:
        return number in witnessed[f"{name}{packet.source.version}"]

    ends: tuple[str, ...] = ("input", "forward")
    begin = came("seen")
    if packet.direction is Direction.OUTBOUND:
        ends, begin = ("output",), True
    elif packet.interface == LOOPBACK:
        ends, begin = ("loopback",), True
    if any(came(end) for end in ends):
        return Observation(Verdict.ACCEPT)
    return Observation(Verdict.REJECT if number in refusals else Verdict.DROP, begin)


def _users(box: Sandbox) -> dict[str, int]:
    lines = must(box.host, "cat", "/etc/passwd").splitlines()
    return {words[0]: int(words[2]) for line in lines if len(words := line.split(":")) > 2}
