"""Real packets through a sandbox's real rules: accepted, rejected, or dropped.

A packet counts as accepted when a witness behind the packet filter saw it: a table of our own at the very end of the
hooks. It counts as rejected when the witness did not, and an answer refused it; as dropped when neither happened. The
witness stands there only while packets are sent.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from importlib.resources import as_file, files
from subprocess import Popen
from types import TracebackType

from portctl.command import Command, HostError
from portctl.hosts import sendable
from portctl.hosts.frames import ethernet, internet, refused
from portctl.hosts.namespaces import Network, Room
from portctl.hosts.representatives import Spent, representatives
from portctl.hosts.sandbox import Sandbox, interpreter, must
from portctl.hosts.sendable import BROADCAST
from portctl.net import MULTICAST, Address
from portctl.ruleset import (
    ACK,
    ICMP,
    ICMPV6,
    LOOPBACK,
    TCP,
    Direction,
    Expect,
    Expectation,
    Packet,
    Ruleset,
    Verdict,
    translate,
)

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
    with Prober(box) as prober:
        return prober.observe(packets, ruleset)


class Prober:
    """Everything that sending packets needs, set up once: `with Prober(box) as prober: prober.observe(…)`. Rules may be
    loaded and removed meanwhile."""

    def __init__(self, box: Sandbox) -> None:
        self.box = box
        self._stack = ExitStack()
        self._ways = _Ways(box)
        self._wires: dict[Host, Popen[bytes]] = {}
        self._users: dict[str, int] = {}

    def __enter__(self) -> Prober:
        with ExitStack() as stack:
            script = str(stack.enter_context(as_file(files("portctl.hosts") / "wire.py")))
            argv = (interpreter(), "-I", "-S", script)
            self._wires = {host: stack.enter_context(host.lend(argv)) for host in (self.box.peer, self.box.host)}
            stack.enter_context(_witness(self.box))
            stack.callback(self._ways.take_up)
            self._users = _users(self.box)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stack.close()

    def open(self, packets: Sequence[Packet]) -> None:
        """Begins the connections of packets in state `ESTABLISHED` (TCP and UDP, each of another one), by sending and
        answering for both ends. To be done before rules are loaded that would not let them begin."""
        steps: list[list[Packet]] = [[], [], []]
        for packet in packets:
            first, second = sendable.opening(packet)
            steps[0].append(first)
            steps[1].append(second)
            if packet.protocol == TCP:
                steps[2].append(replace(first, flags=ACK))
        _prepare(self.box, [])
        with self.muted():
            for step in steps:
                self._prepare_for(step, None)
                self._send(dict(enumerate(step)))

    @contextmanager
    def muted(self) -> Iterator[None]:
        """The host's own kernel, which knows nothing of connections begun for it, says nothing, and so ends none."""
        _nft(self.box.host, _MUTE)
        try:
            yield
        finally:
            _nft(self.box.host, "delete chain inet witness mute")

    def _prepare_for(self, packets: Iterable[Packet], ruleset: Ruleset | None, forget: bool = False) -> None:
        ways = self._ways.change(need for packet in packets for need in needs(packet, ruleset))
        _prepare(self.box, ways, forget)

    def observe(
        self, packets: Sequence[Packet], ruleset: Ruleset | None = None, known: bool = False
    ) -> list[Observation]:
        """What becomes of each packet, in order. `known`: connections opened before are kept, and packets may belong to
        them."""
        for packet in packets:
            if why := sendable.reason(packet, self.box.layout, known):
                raise ValueError(f"{packet}: {why}")
        found: dict[int, Observation] = {}
        for numbers in rounds(packets, ruleset):
            self._prepare_for((packets[at] for at in numbers), ruleset, not known)
            found |= self._send({at: packets[at] for at in numbers})
        return [found[at] for at in range(len(packets))]

    def _send(self, packets: dict[int, Packet]) -> dict[int, Observation]:
        """One round. Packets are numbered from 1."""
        lines: dict[Host, list[str]] = {host: [] for host in self._wires}
        for number, packet in enumerate(packets.values(), 1):
            outside = packet.direction is not Direction.OUTBOUND and packet.interface != LOOPBACK
            lines[self.box.peer if outside else self.box.host].append(_line(packet, number, self._users))
        refusals: set[int] = set()
        busy = [host for host, said in lines.items() if said and _tell(self._wires[host], said)]
        for host in busy:
            # What comes to the host by wire are the peer's own packets; what it refuses itself comes by loopback.
            refusals |= _answers(self._wires[host], (b"lo",) if host is self.box.host else None)
        witnessed = _witnessed(must(self.box.host, "nft", "list", "table", "inet", "witness"))
        numbered = enumerate(packets.items(), 1)
        return {at: _observation(packet, number, witnessed, refusals) for number, (at, packet) in numbered}


@dataclass(frozen=True, slots=True)
class Trial:
    """One entry of a policy's `tests`, tried: how many packets were sent for it, and those that went another way.

    With `sent` 0 it was not tried: nothing that it speaks of can be sent here.
    """

    expectation: Expectation
    sent: int
    wrong: tuple[tuple[Packet, Verdict], ...] = ()

    @property
    def holds(self) -> bool:
        return not self.wrong


def expectations(box: Sandbox, ruleset: Ruleset) -> list[Trial]:
    """Sends real packets for every entry of the policy's `tests`, in their order, through whatever rules are loaded."""
    spent: Spent = set()
    chosen = [representatives(ruleset, e, box.layout, spent) for e in ruleset.expectations]
    got = iter(verdicts(box, [packet for packets in chosen for packet in packets], ruleset))
    trials = []
    for expectation, packets in zip(ruleset.expectations, chosen, strict=True):
        seen = [(packet, next(got)) for packet in packets]
        allow = expectation.expect is Expect.ALLOW
        wrong = tuple((packet, verdict) for packet, verdict in seen if (verdict is Verdict.ACCEPT) != allow)
        trials.append(Trial(expectation, len(seen), wrong))
    return trials


Host = Room | Network
Need = tuple[Address, str, bool]
"""An address, where it leads (an interface, `LOCAL`, or `AWAY` by whichever), and whether it is a group to join."""
LOCAL, AWAY = "local", "away"


def needs(packet: Packet, ruleset: Ruleset | None) -> Iterator[Need]:
    """Where a packet's destination must lead, before and after translation."""
    turned = translate(ruleset, packet) if ruleset else packet
    for at in dict.fromkeys((packet, turned)):
        if at.destination in MULTICAST:
            # A group that was joined is an address of this host: what goes there never leaves.
            yield at.destination, at.interface if at.direction is Direction.INBOUND else AWAY, True
        elif at.direction is Direction.INBOUND:
            yield at.destination, LOCAL, False
        elif at.out_interface != LOOPBACK:
            yield at.destination, at.out_interface, False
    if packet.direction is Direction.OUTBOUND:
        yield packet.source, LOCAL, False
    elif packet.source != packet.destination:
        yield packet.source, AWAY, False  # or the answers never leave this host


def _connection(packet: Packet) -> tuple[object, ...]:
    """What the state tracker knows a flow by; ICMP bears a number of its own."""
    ends = packet.protocol, packet.source, packet.destination
    return (*ends, len(ends)) if packet.protocol in (ICMP, ICMPV6) else (*ends, packet.source_port, packet.port)


def rounds(packets: Sequence[Packet], ruleset: Ruleset | None) -> Iterator[list[int]]:
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
            if fits and all(_agree(leads.get(key, to), to, key[1]) for key, to in wanted.items()):
                chosen.append(at)
                flows.add(flow)
                leads |= {key: to for key, to in wanted.items() if leads.get(key, AWAY) == AWAY}
            else:
                left.append(at)
        yield chosen
        rest = left


def _agree(one: str, other: str, group: bool) -> bool:
    return one == other or (not group and AWAY in (one, other) and LOCAL not in (one, other))


@dataclass(slots=True)
class _Ways:
    """The routes and groups that the packets of the round need."""

    box: Sandbox
    laid: dict[tuple[Address, bool], str] = field(default_factory=dict)

    def change(self, wanted: Iterable[Need]) -> list[str]:
        """What to tell ip(8), after which they are as wanted."""
        lines: list[str] = []
        for address, to, group in wanted:
            key = address, group
            laid = self.laid.get(key, AWAY)
            if laid == to or self.box.layout.owns(address) or address == BROADCAST:
                continue
            if to == AWAY and laid != LOCAL and not group:
                continue  # whichever way it goes
            if laid != AWAY:
                lines.append(_way("del", address, laid, group, self.box))
                del self.laid[key]
            if to != AWAY:
                self.laid[key] = to
                lines.append(_way("replace", address, to, group, self.box))
        return lines

    def take_up(self) -> None:
        lines = [_way("del", address, to, group, self.box) for (address, group), to in self.laid.items()]
        self.laid.clear()
        must(self.box.host, "ip", "-force", "-batch", "-", stdin="\n".join([*lines, ""]))


def _way(verb: str, address: Address, to: str, group: bool, box: Sandbox) -> str:
    if group:
        name = to if to in box.layout.interfaces else box.layout.interfaces[0]
        return f"address {verb} {address} dev {name}" + (" autojoin" if verb != "del" else "")
    if to == LOCAL:
        return f"route {verb} local {address} dev {box.layout.interfaces[0]} table local"
    return f"route {verb} {address} dev {to}"


_FORCED = {
    "ipv4/conf/*/rp_filter": 0,
    "ipv4/conf/all/accept_local": 1,
    "ipv4/conf/all/route_localnet": 1,
    "ipv4/ip_forward": 1,
    "ipv6/conf/all/forwarding": 1,
    "netfilter/nf_conntrack_tcp_be_liberal": 1,
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
		old=$(cat "$file") # not `read`: byte by byte, a setting ends after the first
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
    # Asking for it once switches the state tracker on: connections can begin before any other rule does.
    lines.append("chain tracked { type filter hook prerouting priority 10000; policy accept; ct state new counter; }")
    return "\n".join([*lines, "}"])


def _nft(host: Host, text: str) -> None:
    result = host.run(Command(("nft", "-f", "-"), text.encode()), timeout=PATIENCE)
    if result.status == 127:
        raise HostError("packets can be sent through the sandbox only where nft is installed")
    if not result.ok:
        raise HostError(f"the sandbox refused its witness: {result.stderr.strip()}")


_CLEAR = "".join(f"flush set inet witness {name}{version}\n" for name in _SETS for version in (4, 6))


_MUTE = """add chain inet witness mute { type filter hook output priority -400; }
add rule inet witness mute meta priority != 0:5 drop
"""
_PREPARE = """\
nft -f - <<'END'
{clear}END
{forget}
ip -force -batch - <<'END'
{ways}
END
"""


def _prepare(box: Sandbox, ways: Iterable[str], forget: bool = True) -> None:
    """Forgets the packets before, and the connections that they began, and lays the ways for the next."""
    flush = "conntrack -F >/dev/null 2>&1" if forget else ""
    script = _PREPARE.format(clear=_CLEAR, forget=flush, ways="\n".join(ways))
    must(box.host, "sh", "-s", stdin=script)


def _line(packet: Packet, number: int, users: dict[str, int]) -> str:
    if packet.direction is Direction.OUTBOUND:
        interface = "lo" if packet.out_interface == LOOPBACK else packet.out_interface
        user = users[packet.user] if packet.user else 0
        return f"packet {interface} {user} {internet(packet, number).hex()}"
    interface = "lo" if packet.interface == LOOPBACK else packet.interface
    return f"frame {interface} {ethernet(packet, number).hex()}"


def _tell(wire: Popen[bytes], lines: list[str]) -> bool:
    assert wire.stdin is not None
    with suppress(BrokenPipeError):  # it says why when it is asked for answers
        wire.stdin.write(("\n".join([*lines, "go"]) + "\n").encode())
        wire.stdin.flush()
    return True


def _answers(wire: Popen[bytes], interfaces: tuple[bytes, ...] | None) -> set[int]:
    """The numbers of the packets that something refused, heard on some interfaces (None: on any)."""
    assert wire.stdout is not None and wire.stderr is not None
    refusals: set[int] = set()
    for heard in wire.stdout:
        words = heard.split()
        if words == [b"end"]:
            return refusals
        if interfaces is not None and words[0] not in interfaces:
            continue
        if number := refused(bytes.fromhex(words[1].decode())):
            refusals.add(number)
    raise HostError(f"the sandbox could not send packets: {wire.stderr.read().decode().strip()}")


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
