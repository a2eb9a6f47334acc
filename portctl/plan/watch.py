"""What a person must know before new rules are loaded, and what forbids them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from ipaddress import ip_address

from portctl import wayin
from portctl.listeners import Connection
from portctl.net import EVERY_V4, EVERY_V6, Address
from portctl.observe import Facts, Observed
from portctl.plan import samples
from portctl.plan.types import Desired, Refusal
from portctl.plan.words import flows_text
from portctl.program import Accept, Answer, Chain, Condition, Jump, Line, Program, evaluate
from portctl.ruleset import (
    IGMP,
    LOOPBACK,
    TCP,
    UDP,
    Direction,
    Kind,
    Packet,
    Rule,
    Ruleset,
    State,
    Verdict,
    decide,
    interface_matches,
)
from portctl.wayin import Surroundings, WayIn

MOST = 12
"""Lines of one kind of warning that are spelled out."""
_BRIDGES = ("docker*", "br-*", "cni*", "podman*", "virbr*", "lxcbr*", "lxdbr*", "incusbr*", "kube-bridge", "flannel*")
_BOOT_TROUBLE = {
    "ufw": "ufw is enabled: it loads its own rules at boot and writes its own settings over those of /etc/sysctl.d",
    "firewalld": "firewalld is enabled: it takes the packet filter over at boot",
    "nftables": "nftables.service is enabled: its start and its stop flush every rule of the host",
    "netfilter-persistent": "netfilter-persistent is enabled: at boot it loads the rules that it saved",
    "iptables": "iptables.service is enabled: at boot it loads the rules that it saved",
    "ip6tables": "ip6tables.service is enabled: at boot it loads the rules that it saved",
}


@dataclass(frozen=True, slots=True)
class Scene:
    """Everything that is asked about, computed once."""

    desired: Desired
    observed: Observed
    around: Surroundings
    now: Program
    """What is loaded."""
    then: Program
    """What will be."""
    first: bool
    """Nothing of portctl's is loaded yet."""
    exclusive: bool = False

    @property
    def ruleset(self) -> Ruleset:
        return self.desired.ruleset

    @property
    def facts(self) -> Facts:
        return self.observed.facts

    @property
    def connections(self) -> tuple[Connection, ...]:
        return self.observed.connections or ()

    def own(self) -> tuple[Address, ...]:
        return self.facts.own_addresses()

    def devices(self) -> tuple[str, ...]:
        return tuple(interface.name for interface in self.facts.interfaces)

    def interface_of(self, address: Address) -> str:
        return next((x.name for x in self.facts.interfaces if address in x.addresses), "eth0")

    def facing(self, far: Address) -> Address | None:
        mine = [a for a in self.own() if a.version == far.version and not a.is_loopback]
        return next((a for a in mine if a.is_link_local == far.is_link_local), mine[0] if mine else None)

    def answer(self, program: Program, packet: Packet) -> Answer:
        return evaluate(program, packet, self.own())

    def admitted(self, packet: Packet) -> bool:
        """Whether the policy and everything that will be loaded let a packet through."""
        policy = decide(self.ruleset, packet)[0] is Verdict.ACCEPT
        return policy and self.answer(self.then, packet).verdict is Verdict.ACCEPT


def who(scene: Scene, packet: Packet) -> str:
    """What stands in the way of a packet, in words."""
    verdict, rule = decide(scene.ruleset, packet)
    if verdict is not Verdict.ACCEPT:
        if rule.kind is Kind.BLOCK:
            return f"`block` ({rule.name}) forbids it"
        return "no service admits it" if packet.direction is Direction.INBOUND else "no entry admits it"
    answer = scene.answer(scene.then, packet)
    return f"a rule that is not portctl's stands in the way: {step_text(answer)}"


def step_text(answer: Answer) -> str:
    if answer.decided is None:
        return "unknown"
    chain, line = answer.decided.chain, answer.decided.line
    what = f"`{line.text}`" if line else "its policy, drop"
    return f"chain {chain.name} of table {chain.table}: {what}"


# ---- what forbids it


def refusals(scene: Scene, way: WayIn) -> Iterator[Refusal]:
    yield from _locked_out(scene, way)
    yield from _blocked_lifelines(scene)


def _locked_out(scene: Scene, way: WayIn) -> Iterator[Refusal]:
    for connection in way.connections:
        packet = wayin.packet(connection, scene.around.flows, scene.interface_of)
        if not scene.admitted(packet):
            yield Refusal(_cut_off(scene, connection, packet), _hint(scene.ruleset, packet))
        tunnel = _tunnel_of(scene, packet.interface)
        if tunnel is not None:
            yield from _outer(scene, tunnel)


def _cut_off(scene: Scene, connection: Connection, packet: Packet) -> str:
    return (
        f"you would be locked out: ssh from {connection.peer} to {packet.destination} port {packet.port} "
        f"(in on {packet.interface}) would not be admitted again; {who(scene, packet)}"
    )


def _hint(ruleset: Ruleset, packet: Packet) -> str:
    verdict, decisive = decide(ruleset, packet)
    if verdict is Verdict.ACCEPT:
        return "`--exclusive` takes the rules of others out of the hooks that portctl manages"
    if decisive.kind is Kind.BLOCK:
        return f"take {packet.source} out of `block`, or give that entry an `except`"
    fitting = [
        rule
        for rule in ruleset.inbound
        if rule.kind is Kind.SERVICE
        and rule.flows
        and any(f.protocol == TCP and packet.port in f.ports for f in rule.flows)
    ]
    if fitting:
        return f"the service `{fitting[0].name}` would have to admit {packet.source}: add it to its `from`" + (
            f", or {packet.interface} to its `in`" if fitting[0].interfaces else ""
        )
    name = "ssh" if packet.port == 22 else "your-ssh"
    entry = f"{name}: {{ports: {packet.port}/tcp, from: {_quoted(packet.source)}}}"
    return f"no service has port {packet.port}/tcp: add `{entry}`"


def _quoted(address: Address) -> str:
    return str(address) if address.version == 4 else f'"{address}"'


def _tunnel_of(scene: Scene, device: str) -> wayin.Tunnel | None:
    if device not in dict(scene.around.links):
        return None
    found = wayin.tunnels(scene.around, scene.connections, scene.facing, scene.interface_of)
    return next((tunnel for tunnel in found if tunnel.device == device), None)


def _outer(scene: Scene, tunnel: wayin.Tunnel) -> Iterator[Refusal]:
    if not tunnel.outer:
        yield Refusal(
            f"your way in runs through the tunnel {tunnel.device} ({tunnel.kind}), and which outer flow carries it "
            "cannot be told, so it cannot be checked that it stays admitted",
            "see to it that the policy admits the tunnel's own packets, then use --allow-lockout",
        )
    for packet in tunnel.outer:
        outward = replace(
            packet,
            direction=Direction.OUTBOUND,
            source=packet.destination,
            destination=packet.source,
            port=packet.source_port,
            source_port=packet.port,
            out_interface=packet.interface,
        )
        if scene.admitted(packet) or (tunnel.keeps_alive and scene.admitted(outward)):
            continue
        protocol = flows_text(None) if packet.protocol not in (TCP, UDP) else "udp" if packet.protocol == UDP else "tcp"
        ports = f"{packet.port}/{protocol}" if packet.protocol in (TCP, UDP) else f"proto/{packet.protocol}"
        yield Refusal(
            f"you would be locked out: your way in runs through the tunnel {tunnel.device}, whose outer flow "
            f"({ports} from {packet.source}) would not be admitted as a new one; {who(scene, packet)}",
            f"a service with `ports: {ports}` would have to admit {packet.source}",
        )


def _blocked_lifelines(scene: Scene) -> Iterator[Refusal]:
    blocks = [
        (d, r) for d in (Direction.INBOUND, Direction.OUTBOUND) for r in scene.ruleset.rules(d) if r.kind is Kind.BLOCK
    ]
    said: set[str] = set()
    for direction, rule in blocks:
        side = rule.source if direction is Direction.INBOUND else rule.destination
        if rule.live_source or rule.live_destination:
            continue
        for what, address, port in _lifelines(scene):
            if address in side and (rule.flows is None or _meets(rule, port)):
                said.add(f"`block` ({rule.name}) holds {address}, {what}")
        for family, every in ((4, EVERY_V4), (6, EVERY_V6)):
            if rule.flows is None and not rule.interfaces and side.family(4 if family == 4 else 6) == every:
                said.add(f"`block` ({rule.name}) holds every IPv{family} address")
    for message in sorted(said):
        yield Refusal(message, "take it out of `block`, or carve it out with `except`")


def _lifelines(scene: Scene) -> Iterator[tuple[str, Address, int | None]]:
    for interface in scene.facts.interfaces:
        for address in interface.addresses:
            if interface.name != "lo":
                yield f"an address of this host ({interface.name})", address, None
    for address in scene.facts.gateways:
        yield "the gateway", address, None
    for address in scene.facts.resolvers:
        if not address.is_loopback:
            yield "a resolver in use", address, 53
    for address in _metadata(scene):
        yield "the metadata address in use", address, 80


def _metadata(scene: Scene) -> list[Address]:
    """Metadata addresses in use: a connection to one is open, or the machine is a cloud's."""
    peers = {c.peer for c in scene.connections} | set(scene.facts.resolvers)
    used = [a for a in wayin.METADATA if a in peers]
    if scene.around.cloud and not used:
        used = [wayin.METADATA[0]]
    return used


def _meets(rule: Rule, port: int | None) -> bool:
    return port is not None and any(f.protocol in (TCP, UDP) and port in f.ports for f in rule.flows or ())


# ---- what a person must know


def warnings(scene: Scene) -> Iterator[str]:
    for topic in (
        _overridden_entries,
        _foreign_accepts,
        _unadmitted_survivors,
        _cut_connections,
        _forwarded_flows,
        _containers,
        _needs_outbound,
        _multicast,
        _boot_services,
    ):
        lines = list(dict.fromkeys(topic(scene)))
        yield from lines[:MOST]
        if len(lines) > MOST:
            yield f"… and {len(lines) - MOST} more of that kind"


def _overridden_entries(scene: Scene) -> Iterator[str]:
    """Entries that somebody else's drop or hook policy makes void."""
    if scene.exclusive:
        return
    for direction in Direction:
        for rule in scene.ruleset.rules(direction):
            if rule.kind not in (Kind.SERVICE, Kind.EGRESS, Kind.FORWARD) or rule.original is not None:
                continue
            for packet in samples.of_rule(rule, direction, scene.own(), scene.devices()):
                answer = scene.answer(scene.then, packet)
                decided = answer.decided
                if answer.verdict is not Verdict.ACCEPT and decided is not None and not decided.chain.own:
                    yield f"`{rule.name}` is overridden by a rule that is not portctl's: {step_text(answer)}"


def _foreign_accepts(scene: Scene) -> Iterator[str]:
    """What others accept today and portctl will drop: on Linux an accept holds only in its own chain."""
    for chain, line, hook, outer in accepting_lines(scene.now):
        for packet in samples.of_line(line, hook, outer, scene.own()):
            today = scene.answer(scene.now, packet)
            if today.verdict is not Verdict.ACCEPT or not any(s.line is line for s in today.trace):
                continue
            answer = scene.answer(scene.then, packet)
            if answer.verdict is not Verdict.ACCEPT and answer.decided is not None and answer.decided.chain.own:
                where = f"chain {chain.name} of table {chain.table}"
                yield f"stops working: {where} accepts `{line.text}`, the policy does not"


def accepting_lines(program: Program) -> Iterator[tuple[Chain, Line, str, tuple[Condition, ...]]]:
    """Foreign lines that accept at the hooks of a filter, with the conditions on the way to them."""
    chains = {(c.family, c.table, c.name): c for c in program.chains}

    def walk(
        chain: Chain, hook: str, outer: tuple[Condition, ...], seen: frozenset[str]
    ) -> Iterator[tuple[Chain, Line, str, tuple[Condition, ...]]]:
        for line in chain.lines:
            for action in line.actions:
                if isinstance(action, Accept) and line.conditions:
                    yield chain, line, hook, outer
                elif isinstance(action, Jump) and action.chain not in seen:
                    target = chains.get((chain.family, chain.table, action.chain))
                    if target is not None and not target.own:
                        yield from walk(target, hook, (*outer, *line.conditions), seen | {action.chain})

    for chain in program.chains:
        if (
            chain.hook
            and not chain.own
            and chain.hook.kind == "filter"
            and chain.hook.name in ("input", "forward", "output")
        ):
            yield from walk(chain, chain.hook.name, (), frozenset({chain.name}))


def inbound(scene: Scene, connection: Connection) -> bool:
    """Whether a connection came to this host: somebody listens on its port."""
    listening = {(x.protocol, x.port) for x in scene.observed.listeners or ()}
    return (connection.protocol, connection.local_port) in listening


def packet_of(scene: Scene, connection: Connection) -> Packet:
    """The first packet of a connection, were it opened again."""
    device = LOOPBACK if connection.local.is_loopback else scene.interface_of(connection.local)
    if inbound(scene, connection):
        return Packet(Direction.INBOUND, connection.protocol, connection.peer, connection.local, connection.local_port,
                      connection.peer_port, interface=device)  # fmt: skip
    return Packet(Direction.OUTBOUND, connection.protocol, connection.local, connection.peer, connection.peer_port,
                  connection.local_port, out_interface=device)  # fmt: skip


def _within(scene: Scene, connection: Connection) -> bool:
    """Both ends are this host's: it never leaves the loopback interface."""
    own = scene.own()
    return connection.peer.is_loopback or connection.peer in own


def blocked(scene: Scene) -> tuple[Connection, ...]:
    """Live connections that `block` forbids."""
    found = []
    for connection in scene.connections:
        packet = packet_of(scene, connection)
        known = replace(packet, state=State.ESTABLISHED)
        either = (decide(scene.ruleset, packet), decide(scene.ruleset, known), decide(scene.ruleset, _back(packet)))
        if not _within(scene, connection) and any(rule.kind is Kind.BLOCK for _, rule in either):
            found.append(connection)
    return tuple(found)


def _back(packet: Packet) -> Packet:
    """An answer to a packet."""
    inward = packet.direction is Direction.INBOUND
    return replace(
        packet,
        direction=Direction.OUTBOUND if inward else Direction.INBOUND,
        source=packet.destination,
        destination=packet.source,
        port=packet.source_port,
        source_port=packet.port,
        interface=packet.interface if inward else packet.out_interface,
        out_interface=packet.interface if inward else packet.out_interface,
        state=State.ESTABLISHED,
        reply=True,
    )


def unknown_to_tracker(scene: Scene) -> bool:
    """The state tracker does not know the connections that are open now."""
    return not scene.facts.tracking


def opened(scene: Scene) -> tuple[Connection, ...]:
    """Connections that the state tracker does not know, and that the policy would admit."""
    if not unknown_to_tracker(scene):
        return ()
    admitted = (c for c in scene.connections if decide(scene.ruleset, packet_of(scene, c))[0] is Verdict.ACCEPT)
    return tuple(c for c in admitted if not _within(scene, c))


def _text(scene: Scene, connection: Connection) -> str:
    arrow = "from" if inbound(scene, connection) else "to"
    port = connection.local_port if arrow == "from" else connection.peer_port
    protocol = {TCP: "tcp", UDP: "udp"}.get(connection.protocol, str(connection.protocol))
    by = f" ({connection.process})" if connection.process else ""
    return f"{port}/{protocol} {arrow} {connection.peer}{by}"


def _cut_connections(scene: Scene) -> Iterator[str]:
    for connection in blocked(scene):
        yield f"will be cut, `block` forbids it: {_text(scene, connection)}"
    if unknown_to_tracker(scene):
        for connection in scene.connections:
            if (
                not _within(scene, connection)
                and decide(scene.ruleset, packet_of(scene, connection))[0] is not Verdict.ACCEPT
            ):
                yield f"will be cut, not admitted by the policy and tracked by nobody: {_text(scene, connection)}"


def _unadmitted_survivors(scene: Scene) -> Iterator[str]:
    if unknown_to_tracker(scene):
        return
    cut = set(blocked(scene))
    for connection in scene.connections:
        packet = packet_of(scene, connection)
        if (
            connection not in cut
            and not _within(scene, connection)
            and decide(scene.ruleset, packet)[0] is not Verdict.ACCEPT
        ):
            yield f"survives although a new one would not be admitted: {_text(scene, connection)}"


def _forwarded_flows(scene: Scene) -> Iterator[str]:
    if scene.first and not scene.ruleset.forward_kept and unknown_to_tracker(scene):
        yield "flows that pass through this host now will be cut: nothing has tracked them, and `forward` is not `keep`"


def _containers(scene: Scene) -> Iterator[str]:
    """Containers and guests behind a bridge that can start connections today and no longer will."""
    if scene.ruleset.forward_kept:
        return
    outward = next((d for d in scene.devices() if d != "lo" and not interface_matches(_BRIDGES, d)), "eth0")
    for interface in scene.facts.interfaces:
        if not interface_matches(_BRIDGES, interface.name):
            continue
        inner = next((a + 1 for a in interface.addresses if a.version == 4), ip_address("172.17.0.2"))
        packet = Packet(
            Direction.FORWARDED, TCP, inner, ip_address("198.51.100.77"), 443, interface=interface.name,
            out_interface=outward, local=False,
        )  # fmt: skip
        if decide(scene.ruleset, packet)[0] is not Verdict.ACCEPT:
            yield f"container traffic stops: `defaults.forward` stops what starts behind {interface.name}"


def _needs_outbound(scene: Scene) -> Iterator[str]:
    if scene.ruleset.outbound[-1].verdict is Verdict.ACCEPT:
        return
    needs: list[tuple[str, Address, int, int, str]] = []
    needs += [("the resolver", a, UDP, 53, "domain") for a in scene.facts.resolvers if not a.is_loopback]
    needs += [("the time server", a, UDP, 123, "ntp") for a in scene.around.clocks if not a.is_loopback]
    needs += [("the metadata address", a, TCP, 80, "http") for a in _metadata(scene)]
    for what, address, protocol, port, name in needs:
        own = scene.facing(address)
        if own is None:
            continue
        packet = Packet(Direction.OUTBOUND, protocol, own, address, port, out_interface=scene.interface_of(own))
        users: tuple[str | None, ...] = (None, *(r.user for r in scene.ruleset.outbound if r.user))
        if not any(decide(scene.ruleset, replace(packet, user=user))[0] is Verdict.ACCEPT for user in users):
            yield f"{what} in use, {address}, is not covered by `egress`: add an entry with `ports: {name}` to it"


def _multicast(scene: Scene) -> Iterator[str]:
    for group in scene.around.multicast:
        if group.version == 6 or int(group) >> 8 == int(ip_address("224.0.0.0")) >> 8:
            continue
        query = Packet(Direction.INBOUND, IGMP, ip_address("198.51.100.1"), ip_address("224.0.0.1"), local=False)
        if decide(scene.ruleset, query)[0] is not Verdict.ACCEPT:
            yield f"this host has joined {group}, and no service admits `igmp`: switches may stop delivering it"


def _boot_services(scene: Scene) -> Iterator[str]:
    for name in scene.around.boot_services:
        yield _BOOT_TROUBLE.get(name, f"{name} is enabled: it may load other rules at boot") + "; disable it"
