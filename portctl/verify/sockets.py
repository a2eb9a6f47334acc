"""Who listens, held against what the policy opens: `not-listening`, `wrong-address`, `wrong-process`, `undeclared`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from portctl.listeners import Listener
from portctl.net import ANYWHERE, FAMILIES, LOOPBACK_ADDRESSES, MULTICAST, Address, Ranges, describe
from portctl.ruleset import EVERY_PORT, PROTOCOLS_WITH_PORTS, UDP, Flow, Kind, Rule, interface_matches
from portctl.sysctl import ports_of
from portctl.verify.finding import Finding, View, flows_text, protocol_name, socket_text
from portctl.verify.narrow import ByPort, concerns

EPHEMERAL = "32768 60999"
"""Linux's own default of net.ipv4.ip_local_port_range."""
_NAME_LENGTH = 15
"""Linux cuts the name of a process there (TASK_COMM_LEN)."""


@dataclass(frozen=True, slots=True)
class Published:
    """A port of this host that somebody else's rules turn elsewhere, as container engines do."""

    protocol: int
    port: int
    line: str
    """The rule that turns it."""


def text(listener: Listener) -> str:
    """`nginx (pid 812, uid 33) on 0.0.0.0:80/tcp`."""
    family = 4 if listener.dual_stack else listener.family
    place = socket_text(listener.address, listener.port, listener.protocol, family)
    if listener.dual_stack:
        place = f"*:{listener.port}/{protocol_name(listener.protocol)}"
    if listener.scope:
        place += f" on {listener.scope}"
    return f"{who(listener)} on {place}"


def who(listener: Listener) -> str:
    if listener.process is None:
        return "a process that could not be seen"
    if listener.pid is None:
        return f"the {listener.process} itself" if listener.process == "kernel" else listener.process
    name = "".join(c if c.isprintable() else "?" for c in listener.process)
    return f"{name} (pid {listener.pid}" + (f", uid {listener.user})" if listener.user else ")")


def local_only(listener: Listener) -> bool:
    """Strangers cannot reach it, whatever the rules say."""
    return listener.scope == "lo" or (listener.address is not None and listener.address in LOOPBACK_ADDRESSES)


def destinations(view: View, listener: Listener) -> list[Address]:
    """The addresses of this host at which strangers could reach a socket, those that the policy names first."""
    if local_only(listener):
        return []
    if listener.address is not None:
        return [] if listener.address in MULTICAST else [listener.address]
    named = view.narrow.destinations(view.openings())
    taken = [address for address in view.own if listener.takes(address)]
    return sorted(taken, key=lambda a: (not any(a in n for n in named), a.version, int(a)))


def items(rule: Rule) -> list[Flow]:
    """What needs a listener: each name, number or range; protocols without ports and `any` need none."""
    if rule.items:
        found = rule.items
    else:
        found = tuple(
            replace(flow, ports=Ranges.of([pair])) for flow in rule.flows or () for pair in flow.ports.pairs()
        )
    return [flow for flow in found if flow.protocol in PROTOCOLS_WITH_PORTS and flow.ports != EVERY_PORT]


def fits(rule: Rule, listener: Listener) -> bool:
    """Whether the packets that a rule admits, or some of them, can reach the socket."""
    if local_only(listener):
        return False
    if rule.interfaces and listener.scope and not interface_matches(rule.interfaces, listener.scope):
        return False
    families = (
        {listener.address.version} if listener.address else {listener.family, *([4] if listener.dual_stack else [])}
    )
    if not families & set(rule.families()):
        return False
    if rule.destination == ANYWHERE or listener.address is None:
        return True
    return listener.address in rule.destination


Sockets = Mapping[int, Sequence[tuple[int, Listener]]]
"""Sockets by port, each with its place in the listing."""


def by_port(listeners: Iterable[Listener]) -> Sockets:
    found: dict[int, list[tuple[int, Listener]]] = {}
    for place, listener in enumerate(listeners):
        found.setdefault(listener.port, []).append((place, listener))
    return found


def at(flow: Flow, listeners: Sockets) -> list[Listener]:
    """In the order of the listing."""
    if flow.ports.count() < len(listeners):
        asked = [n for first, last in flow.ports.pairs() for n in range(first, last + 1) if n in listeners]
    else:
        asked = [n for n in listeners if n in flow.ports]
    found = [(place, x) for n in asked for place, x in listeners[n] if x.protocol == flow.protocol]
    return [x for _, x in sorted(found, key=lambda each: each[0])]


def declared(view: View, sockets: Iterable[Listener], published: Sequence[Published]) -> Iterator[Finding]:
    """The findings of the services of the policy, and of its forwards to this host."""
    listeners = by_port(sockets)
    for rule in (*view.openings(), *_local_forwards(view)):
        yield from _expected(rule, listeners, published)
        if rule.process is not None:
            yield from _process(rule, listeners)


def _local_forwards(view: View) -> Iterator[Rule]:
    """The forwards that lead to a port of this host, as rules with that port."""
    for translation in view.ruleset.translations:
        entry = view.ruleset.entry(translation.name, Kind.FORWARD)
        if translation.target is None and entry is not None:
            flows = translation.flows or ()
            if (port := translation.target_port) is not None:
                flows = tuple(dict.fromkeys(Flow(flow.protocol, Ranges.of([(port, port)])) for flow in flows))
            yield replace(entry, flows=flows, items=(), original=None, source=translation.source)


def _expected(rule: Rule, listeners: Sockets, published: Sequence[Published]) -> Iterator[Finding]:
    if not rule.listener_required:
        return
    missing, elsewhere, seen = [], [], []
    for flow in items(rule):
        found = at(flow, listeners)
        if any(p.protocol == flow.protocol and p.port in flow.ports for p in published):
            continue
        if not found:
            missing.append(flow)
        elif not any(fits(rule, listener) for listener in found):
            elsewhere.append(flow)
            seen += found
    if missing:
        yield Finding(
            "not-listening",
            "error",
            rule.name,
            f"the policy opens {flows_text(missing)}, and nothing listens there",
            "start the service, take the port out of the policy, or say `listener: optional`",
            (f"no socket on {flows_text(missing)}",),
            rule.span,
        )
    if elsewhere:
        yield Finding(
            "wrong-address",
            "error",
            rule.name,
            f"{flows_text(elsewhere)} is opened {_meant(rule)}, and what listens there listens elsewhere",
            "let the service listen on that address or on every one (0.0.0.0, [::]), or change `to`",
            tuple(text(listener) for listener in seen),
            rule.span,
        )


def _meant(rule: Rule) -> str:
    if rule.destination != ANYWHERE:
        return f"at {describe(rule.destination)}"
    families = rule.families()
    return "to strangers" if families == FAMILIES else f"to strangers by IPv{families[0]}" if families else "to nobody"


def _process(rule: Rule, listeners: Sockets) -> Iterator[Finding]:
    assert rule.process is not None
    expected = rule.process[:_NAME_LENGTH]
    found = {x: None for flow in items(rule) for x in at(flow, listeners) if fits(rule, x)}
    unseen = [listener for listener in found if listener.process is None]
    wrong = [x for x in found if x.process is not None and expected not in (x.process, *x.processes) and not _waits(x)]
    if wrong:
        yield Finding(
            "wrong-process",
            "error",
            rule.name,
            f"`{rule.process}` should listen, and somebody else does",
            "find out who that is; or change `process`, which is the name that `ps -o comm` prints",
            tuple(text(listener) for listener in wrong),
            rule.span,
        )
    if unseen:
        yield Finding(
            "unknown",
            "warning",
            rule.name,
            f"whether `{rule.process}` is who listens could not be seen",
            "run verify as root, outside of containers",
            tuple(text(listener) for listener in unseen),
            rule.span,
        )


def _waits(listener: Listener) -> bool:
    """systemd holds the socket of a service that it will start for the first client (systemd.socket(5))."""
    return listener.pid == 1 and listener.process == "systemd"


def undeclared(view: View, listeners: Sequence[Listener], exposed: frozenset[Listener]) -> Iterator[Finding]:
    """Notes of sockets that no entry of the policy is about and that the rules keep closed."""
    rules = [*view.openings(), *_local_forwards(view), *_needed(view)]
    places = ByPort()
    for number, rule in enumerate(rules):
        places.add(number, None if rule.flows is None else (flow.ports for flow in rule.flows))
    by_place: dict[tuple[int, int], list[Listener]] = {}
    for listener in listeners:
        near = (rules[number].flows for number in places.at((listener.port,)))
        known = any(concerns(flows, listener.protocol, listener.port) for flows in near)
        if not (known or local_only(listener) or listener in exposed or _client(view, listener)):
            by_place.setdefault((listener.protocol, listener.port), []).append(listener)
    for (protocol, port), found in by_place.items():
        closed = "the rules keep it closed" if view.program else "whether the rules keep it closed could not be seen"
        yield Finding(
            "undeclared",
            "note",
            f"{port}/{protocol_name(protocol)}",
            f"{who(found[0])} listens, and the policy does not mention it; {closed}",
            "declare it in `services` if strangers need it, else stop it or bind it to a loopback address",
            tuple(text(listener) for listener in found),
        )


def _needed(view: View) -> Iterator[Rule]:
    """The lines of the verdict table that let a DHCP client be answered."""
    for rule in view.ruleset.inbound:
        if rule.kind is Kind.FIXED and rule.flows and all(flow.protocol == UDP for flow in rule.flows):
            yield rule


def _client(view: View, listener: Listener) -> bool:
    """A UDP socket on a port that the kernel chose is a client's."""
    chosen = ports_of(view.settings.get("net.ipv4.ip_local_port_range", EPHEMERAL))
    return listener.protocol == UDP and listener.port in chosen
