"""What forbids to load new rules: whoever asks would be locked out, or the host cut off from what it lives on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from portctl import wayin
from portctl.listeners import Connection
from portctl.net import EVERY_V4, EVERY_V6, Address
from portctl.plan.scene import Scene, who
from portctl.plan.types import Refusal
from portctl.plan.words import flows_text
from portctl.ruleset import (
    TCP,
    UDP,
    Direction,
    Kind,
    Packet,
    Rule,
    Ruleset,
    Verdict,
    decide,
)
from portctl.wayin import WayIn


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
    for address in metadata(scene):
        yield "the metadata address in use", address, 80


def metadata(scene: Scene) -> list[Address]:
    """Metadata addresses in use: a connection to one is open, or the machine is a cloud's."""
    peers = {c.peer for c in scene.connections} | set(scene.facts.resolvers)
    used = [a for a in wayin.METADATA if a in peers]
    if scene.around.cloud and not used:
        used = [wayin.METADATA[0]]
    return used


def _meets(rule: Rule, port: int | None) -> bool:
    return port is not None and any(f.protocol in (TCP, UDP) and port in f.ports for f in rule.flows or ())
