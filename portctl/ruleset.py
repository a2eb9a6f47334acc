"""The middle: what a policy means, in typed values, and what it says of one packet.

Everything left of a `Ruleset` is YAML and names, everything right of it is packet filters and hosts. All lines of the
verdict table of the policy language are rules here, the fixed ones too; a back end adds no meaning of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import Enum, Flag

from portctl.net import ANYWHERE, EVERY_V4, EVERY_V6, FAMILIES, Address, Addresses, Family, Ranges
from portctl.problems import Span

ICMP, IGMP, TCP, UDP, ICMPV6, SCTP = 1, 2, 6, 17, 58, 132
"""IANA protocol numbers."""
PROTOCOLS_WITH_PORTS = (TCP, UDP, SCTP)
EVERY_PORT = Ranges((0, 65536))
LOOPBACK = "<loopback>"
"""Stands in `interfaces` for the loopback interface itself: `lo` on Linux, `lo0` on the BSDs."""

FIN, SYN, RST, ACK = 0x01, 0x02, 0x04, 0x10
"""TCP flags (RFC 9293)."""


class Direction(Enum):
    INBOUND = "inbound"
    OUTBOUND = "outbound"
    FORWARDED = "forwarded"


class Verdict(Enum):
    ACCEPT = "accept"
    DROP = "drop"
    REJECT = "reject"


class Kind(Enum):
    """Where a rule comes from."""

    FIXED = "fixed"
    BLOCK = "block"
    SERVICE = "service"
    EGRESS = "egress"
    FORWARD = "forward"
    PUBLISHED = "published"
    DEFAULT = "default"


class State(Flag):
    """What the state tracker says of a packet."""

    NEW = 1
    ESTABLISHED = 2
    RELATED = 4
    INVALID = 8
    UNTRACKED = 16


EVERY_STATE = State.NEW | State.ESTABLISHED | State.RELATED | State.INVALID | State.UNTRACKED
KNOWN = State.ESTABLISHED | State.RELATED
STARTING = State.NEW | State.UNTRACKED
"""Packets that may start a connection. Packets that bypass the tracker are judged like them, one by one."""


def icmp(*types: int) -> Ranges:
    """The `Flow.ports` of some ICMP or ICMPv6 types, with every code."""
    return Ranges.of((number * 256, number * 256 + 255) for number in types)


@dataclass(frozen=True, slots=True)
class Flow:
    """One protocol and its ports. For ICMP and ICMPv6 a number in `ports` is type × 256 + code."""

    protocol: int
    ports: Ranges = EVERY_PORT
    source_ports: Ranges = EVERY_PORT

    def families(self) -> tuple[Family, ...]:
        """ICMP exists in IPv4 only, ICMPv6 in IPv6 only."""
        return {ICMP: (4,), ICMPV6: (6,)}.get(self.protocol, FAMILIES)  # type: ignore[return-value]

    def reversed(self) -> Flow:
        """The flow of the answers."""
        return Flow(self.protocol, self.source_ports, self.ports)


Flows = tuple[Flow, ...] | None
"""One `Flow` a protocol, by protocol number; None is every protocol."""


@dataclass(frozen=True, slots=True)
class Rate:
    """At most `number` new connections at once from a source, then one every `seconds` / `number`.

    A source is an IPv4 address or an IPv6 /64.
    """

    number: int
    period: str
    """`second`, `minute`, `hour` or `day`."""

    @property
    def seconds(self) -> int:
        return {"second": 1, "minute": 60, "hour": 3600, "day": 86400}[self.period]


@dataclass(frozen=True, slots=True)
class Original:
    """Where a packet was going before its destination was translated. `destination` None: an address of this host."""

    flows: Flows
    destination: Addresses | None = None


@dataclass(frozen=True, slots=True)
class Rule:
    """One condition and its verdict. Every field but `verdict` narrows; a field at its default asks nothing."""

    name: str
    kind: Kind
    verdict: Verdict
    flows: Flows = None
    source: Addresses = ANYWHERE
    destination: Addresses = ANYWHERE
    live_source: str | None = None
    """Name of a live group that the source must belong to (then `source` is everywhere, or all but an `except`)."""
    live_destination: str | None = None
    interfaces: tuple[str, ...] = ()
    """Incoming interfaces, by name or prefix (`wan*`); empty: every one."""
    out_interfaces: tuple[str, ...] = ()
    states: State = EVERY_STATE
    syn: bool = False
    """A new TCP packet must be a SYN without ACK, RST, FIN. Asks nothing of untracked packets and other protocols."""
    original_direction: bool = False
    """Not the answering direction of a known connection."""
    hop_limit: int | None = None
    user: str | None = None
    """The local user who owns the sending socket."""
    original: Original | None = None
    """The packet's destination was translated, and was this before."""
    published: bool = False
    """Its destination was translated from an own address by somebody else."""
    rate: Rate | None = None
    max_connections: int | None = None
    log: bool = False
    until: datetime | None = None
    """The first moment, in UTC, at which the rule no longer holds."""
    process: str | None = None
    listener_required: bool = True
    items: tuple[Flow, ...] = field(default=(), compare=False)
    """What the entry's `ports` name, before they were merged: `verify` wants a listener for each."""
    description: str | None = None
    owner: str | None = None
    ticket: str | None = None
    span: Span | None = field(default=None, compare=False)
    places: tuple[tuple[str, Span], ...] = field(default=(), compare=False)
    """Where the policy says what a back end may not be able to say: (`rate`, its place), …"""

    @property
    def limited(self) -> bool:
        return self.rate is not None or self.max_connections is not None

    def place(self, *keys: str) -> Span | None:
        """The place in the policy of the first of some keys that the entry has; else of the entry."""
        found = dict(self.places)
        return next((found[key] for key in keys if key in found), self.span)

    def families(self) -> tuple[Family, ...]:
        """The families in which a packet can match."""
        return tuple(
            family
            for family in FAMILIES
            if self.source.family(family)
            and self.destination.family(family)
            and (self.flows is None or any(family in flow.families() for flow in self.flows))
        )

    def matches(self, packet: Packet) -> bool:
        """Whether every condition of the rule but its limits holds for the packet."""
        return (
            packet.state in self.states
            and (not self.syn or packet.starts)
            and not (self.original_direction and packet.reply)
            and flows_match(self.flows, packet)
            and packet.source in self.source
            and packet.destination in self.destination
            and (self.live_source is None or self.live_source in packet.live_source)
            and (self.live_destination is None or self.live_destination in packet.live_destination)
            and (not self.interfaces or interface_matches(self.interfaces, packet.interface))
            and (not self.out_interfaces or interface_matches(self.out_interfaces, packet.out_interface))
            and (self.hop_limit is None or packet.hop_limit == self.hop_limit)
            and (self.user is None or packet.user == self.user)
            and (self.original is None or original_matches(self.original, packet))
            and (not self.published or packet.published)
            and (self.until is None or packet.at is None or packet.at < self.until)
        )


@dataclass(frozen=True, slots=True)
class Translation:
    """A forward with a target: which packets are turned, and where to.

    `destination` None means this host's own unicast addresses. `target` None means this host (the address it came to
    is kept or replaced by the incoming interface's); `target_port` None keeps the port.
    """

    name: str
    flows: Flows
    source: Addresses
    destination: Addresses | None
    interfaces: tuple[str, ...]
    target: Address | None
    target_port: int | None
    until: datetime | None = None
    span: Span | None = field(default=None, compare=False)

    def families(self) -> tuple[Family, ...]:
        found = tuple(
            family
            for family in self.source.families()
            if (self.destination is None or self.destination.family(family))
            and (self.flows is None or any(family in flow.families() for flow in self.flows))
        )
        return found if self.target is None else tuple(f for f in found if f == self.target.version)

    def matches(self, packet: Packet) -> bool:
        return (
            packet.state is State.NEW
            and packet.source.version in self.families()
            and flows_match(self.flows, packet)
            and packet.source in self.source
            and (packet.local if self.destination is None else packet.destination in self.destination)
            and packet.interface != LOOPBACK
            and (not self.interfaces or interface_matches(self.interfaces, packet.interface))
            and (self.until is None or packet.at is None or packet.at < self.until)
        )


@dataclass(frozen=True, slots=True)
class Masquerade:
    """The source of what the forward `name` admits is replaced: by `address`, or by the outgoing interface's."""

    name: str
    address: Address | None = None


@dataclass(frozen=True, slots=True)
class Setting:
    """One wanted kernel setting, by the system's own name (`net.ipv4.tcp_syncookies`) and in its own units.

    `system` is `any` for a portable name, which `sysctl` converts to each system's names and units.
    """

    name: str
    value: str
    system: str = "any"
    span: Span | None = field(default=None, compare=False)


class Expect(Enum):
    ALLOW = "allow"
    DENY = "deny"


@dataclass(frozen=True, slots=True)
class Expectation:
    """One entry of the policy's `tests`: every packet it describes must be allowed, or none.

    `source` or `destination` None is this host itself. `service` names the entry whose ports are meant, for messages.
    """

    expect: Expect
    direction: Direction
    flows: Flows
    source: Addresses | None
    destination: Addresses | None
    interfaces: tuple[str, ...] = ()
    out_interfaces: tuple[str, ...] = ()
    service: str | None = None
    span: Span | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Ruleset:
    """A whole policy, resolved. The rules of each direction are read from the first, and the last matches everything.

    `groups` are the named groups of addresses that rules use, for back ends to name their sets by. `live` are the
    names of the live groups. `interface_groups` are all declared ones.
    """

    name: str
    inbound: tuple[Rule, ...]
    outbound: tuple[Rule, ...]
    forwarded: tuple[Rule, ...]
    translations: tuple[Translation, ...] = ()
    masquerades: tuple[Masquerade, ...] = ()
    clamps: tuple[str, ...] = ()
    """Names of the forwards whose TCP segment size is clamped to the path."""
    groups: tuple[tuple[str, Addresses], ...] = ()
    live: tuple[str, ...] = ()
    interface_groups: tuple[tuple[str, tuple[str, ...]], ...] = ()
    log_denied: bool = False
    forward_kept: bool = True
    """`defaults.forward: keep`: the forward path is not portctl's, but for what `block` and `published` say."""
    published_governed: bool = False
    settings: tuple[Setting, ...] = ()
    expectations: tuple[Expectation, ...] = ()
    description: str | None = None

    def rules(self, direction: Direction) -> tuple[Rule, ...]:
        return {
            Direction.INBOUND: self.inbound,
            Direction.OUTBOUND: self.outbound,
            Direction.FORWARDED: self.forwarded,
        }[direction]

    def entry(self, name: str, kind: Kind) -> Rule | None:
        """The first rule of that name and kind, in any direction."""
        for direction in Direction:
            for rule in self.rules(direction):
                if rule.name == name and rule.kind is kind:
                    return rule
        return None


@dataclass(frozen=True, slots=True)
class Packet:
    """One packet as it arrives (or as it leaves, outbound), before any translation by portctl's own rules.

    `port` is the destination port, or type × 256 + code for ICMP and ICMPv6. `direction` is INBOUND for what is
    addressed to this host. `original` is where it went before somebody else's DNAT turned it (then `published`).
    """

    direction: Direction
    protocol: int
    source: Address
    destination: Address
    port: int = 0
    source_port: int = 40000
    interface: str = "eth0"
    out_interface: str = "eth0"
    state: State = State.NEW
    reply: bool = False
    flags: int = SYN
    hop_limit: int = 64
    user: str | None = None
    local: bool = True
    """The destination is a unicast address of this host (meant for INBOUND)."""
    over_limit: bool = False
    """The source has used up whatever limit the packet meets."""
    live_source: frozenset[str] = frozenset()
    live_destination: frozenset[str] = frozenset()
    at: datetime | None = None
    original: tuple[Address, int] | None = None
    published: bool = False

    @property
    def starts(self) -> bool:
        """Whether its TCP flags, if any, start a connection; packets that bypass the tracker need none."""
        return self.protocol != TCP or self.state is State.UNTRACKED or self.flags & (FIN | SYN | RST | ACK) == SYN


def flows_match(flows: Flows, packet: Packet) -> bool:
    if flows is None:
        return True
    for flow in flows:
        if flow.protocol == packet.protocol and packet.source.version in flow.families():
            if flow.protocol in (ICMP, ICMPV6):
                return packet.port in flow.ports
            if flow.protocol in PROTOCOLS_WITH_PORTS:
                return packet.port in flow.ports and packet.source_port in flow.source_ports
            return True
    return False


def interface_matches(patterns: tuple[str, ...], name: str) -> bool:
    """Whether an interface bears one of the names, of which a trailing `*` stands for any rest."""
    return any(name.startswith(p[:-1]) if p.endswith("*") else name == p for p in patterns)


def original_matches(original: Original, packet: Packet) -> bool:
    if packet.original is None:
        return False
    address, port = packet.original
    if original.destination is not None and address not in original.destination:
        return False
    return flows_match(original.flows, replace(packet, destination=address, port=port))


def translate(ruleset: Ruleset, packet: Packet) -> Packet:
    """The packet as the filter rules see it, after the translations of the policy's own forwards."""
    if packet.direction is Direction.OUTBOUND or packet.original is not None:
        return packet
    for translation in ruleset.translations:
        if translation.matches(packet):
            return replace(
                packet,
                direction=Direction.INBOUND if translation.target is None else Direction.FORWARDED,
                destination=packet.destination if translation.target is None else translation.target,
                port=packet.port if translation.target_port is None else translation.target_port,
                local=translation.target is None,
                original=(packet.destination, packet.port),
            )
    return packet


def unchanged(rule: Rule, item: Translation) -> Rule | None:
    """The rule on packets that a translation turns to where they were going anyway, if there are any.

    Linux does not call these translated. They are in state NEW, and where `item` has no destination they go to one of
    the host's own unicast addresses.
    """
    original = rule.original
    if original is None or (item.name, item.flows, item.destination) != (
        rule.name,
        original.flows,
        original.destination,
    ):
        return None
    flows = item.flows
    if flows is not None and item.target_port is not None:
        port = Ranges.single(item.target_port)
        flows = tuple(Flow(f.protocol, f.ports & port, f.source_ports) for f in flows if f.ports & port)
    destination = ANYWHERE if item.destination is None else item.destination
    if item.target is not None:
        number = Ranges.single(int(item.target))
        destination &= Addresses(v4=number) if item.target.version == 4 else Addresses(v6=number)
    if flows == () or not destination & rule.destination:
        return None
    return replace(rule, original=None, flows=flows, destination=destination & rule.destination)


def decide(ruleset: Ruleset, packet: Packet) -> tuple[Verdict, Rule]:
    """The verdict of a policy on a packet, and the rule that decides it. This is the reference meaning."""
    packet = translate(ruleset, packet)
    for rule in ruleset.rules(packet.direction):
        if rule.matches(packet):
            return (Verdict.DROP if rule.limited and packet.over_limit else rule.verdict), rule
    raise AssertionError(f"the last rule of {packet.direction.value} does not match everything")


def logged(ruleset: Ruleset, packet: Packet) -> bool:
    """Whether the packet is logged: admitted, and one of the entries that admit it says so; or denied, and denials are.

    Several entries may admit a packet; the log is their union.
    """
    verdict, decisive = decide(ruleset, packet)
    if verdict is not Verdict.ACCEPT:
        return ruleset.log_denied
    packet = translate(ruleset, packet)
    return any(
        rule.log and rule.kind is decisive.kind and rule.matches(packet) for rule in ruleset.rules(packet.direction)
    )


def every(family: Family) -> Ranges:
    return EVERY_V4 if family == 4 else EVERY_V6
