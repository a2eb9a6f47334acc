"""What a person must know before new rules are loaded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address

from portctl.backends import package
from portctl.listeners import Connection
from portctl.net import Address
from portctl.observe import others
from portctl.observe.types import BRIDGES
from portctl.plan import samples
from portctl.plan.lockout import metadata
from portctl.plan.scene import Scene, step_text
from portctl.program import Accept, Chain, Condition, Jump, Line, Program, Translate
from portctl.ruleset import (
    IGMP,
    LOOPBACK,
    TCP,
    UDP,
    Direction,
    Kind,
    Packet,
    State,
    Verdict,
    decide,
    interface_matches,
)
from portctl.templating import folder

MOST = 12
"""Lines of one kind of warning that are spelled out."""


def warnings(scene: Scene) -> Iterator[str]:
    for topic in (
        _overridden_entries,
        _foreign_accepts,
        _replaced_translations,
        _no_longer_skipped,
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


def _replaced_translations(scene: Scene) -> Iterator[str]:
    """What others translate today and nothing will: portctl's main rule set of pf takes the place of theirs."""
    still = {line.text for line in _translating(scene.then)}
    for line in _translating(scene.now):
        if line.text not in still:
            yield f"stops translating: `{line.text}` is not portctl's, and the policy's rules take its place"


def _no_longer_skipped(scene: Scene) -> Iterator[str]:
    """Interfaces that an old main rule set of pf left alone (`set skip on lo1`): the new one judges what they bear."""
    if names := _skipped(scene.now) - _skipped(scene.then):
        yield f"no longer skipped: what {', '.join(sorted(names))} bear is judged by the policy from now on"


def _skipped(program: Program) -> set[str]:
    texts = (line.text for chain in program.chains for line in chain.lines)
    return {name for text in texts if text.startswith("set skip on ") for name in text.split()[3:]} - {"lo", "lo0"}


def _translating(program: Program) -> Iterator[Line]:
    for chain in program.chains:
        if not chain.own:
            yield from (line for line in chain.lines if any(isinstance(a, Translate) for a in line.actions))


def accepting_lines(program: Program) -> Iterator[tuple[Chain, Line, str, tuple[Condition, ...]]]:
    """Foreign lines that accept at the hooks of a filter, with the conditions on the way to them."""
    chains = {c.place: c for c in program.chains}

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
    return (*found, *_blocked_flows(scene))


def _blocked_flows(scene: Scene) -> Iterator[Connection]:
    """Flows between others that pass through this host and that a `block` entry forbids to begin."""
    own = scene.own()
    for flow in scene.around.flows:
        if flow.source in own or flow.destination in own or (flow.reply_source or flow.destination) in own:
            continue
        packet = Packet(Direction.FORWARDED, flow.protocol, flow.source, flow.destination, flow.port,
                        flow.source_port, local=False)  # fmt: skip
        if decide(scene.ruleset, packet)[1].kind is Kind.BLOCK:
            yield Connection(flow.protocol, flow.destination, flow.port, flow.source, flow.source_port)


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


def keeps_open(scene: Scene) -> bool:
    """Whether connections that are older than the rules can be let through: pf lets none begin in its middle."""
    return (folder() / package(scene.desired.backend) / "open.sh").is_file()


def opened(scene: Scene) -> tuple[Connection, ...]:
    """Connections that the state tracker does not know, and that the policy would admit."""
    if not unknown_to_tracker(scene) or not keeps_open(scene):
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
    if unknown_to_tracker(scene) and not keeps_open(scene):
        for connection in scene.connections:
            if not _within(scene, connection):
                yield f"will be cut, as it is older than the rules, which judge a new one: {_text(scene, connection)}"
    elif unknown_to_tracker(scene):
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
    outward = next((d for d in scene.devices() if d != "lo" and not interface_matches(BRIDGES, d)), "eth0")
    for interface in scene.facts.interfaces:
        if not interface_matches(BRIDGES, interface.name):
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
    needs += [("the metadata address", a, TCP, 80, "http") for a in metadata(scene)]
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
    for service, does in others.trouble(scene.around.boot_services, package(scene.desired.backend)):
        yield f"{service.name} is enabled ({service.link}): {does}; disable it"
