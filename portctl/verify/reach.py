"""What the loaded rules, all of them, let strangers reach, against what the policy says: `exposed`, `unreachable`,
`foreign-rule`. Decided by running packets through every hook as the kernel would."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from portctl.evaluation import Answer, Step, evaluate
from portctl.listeners import Listener
from portctl.net import Address
from portctl.observe.types import BRIDGES
from portctl.program import Deny, Program
from portctl.ruleset import Direction, Kind, Packet, Rule, Verdict, decide, interface_matches
from portctl.verify import packets
from portctl.verify.finding import Finding, View, packet_text, protocol_name, step_text
from portctl.verify.sockets import Published, Sockets, at, by_port, destinations, items, text

MOST_EXAMPLES = 3
Case = tuple[Rule, Packet, Answer]
Cases = dict[tuple[object, ...], tuple[Step, list[Case]]]
"""Cases by the place of the loaded line that decides them."""
OPENS = (Kind.SERVICE, Kind.FORWARD)


@dataclass(slots=True)
class Difference:
    """Packets of which rules and policy say different things, and what decides them."""

    examples: list[tuple[Packet, Answer]] = field(default_factory=list)
    same: int = 0
    """Packets that the policy admits, and the rules too."""

    def evidence(self) -> tuple[str, ...]:
        lines = []
        for packet, answer in self.examples[:MOST_EXAMPLES]:
            lines += [packet_text(packet), f"  {answer.verdict.value}: {step_text(answer.decided)}"]
            lines += [f"  not understood, so not certain: {step_text(step)}" for step in answer.depends_on[:2]]
        return tuple(lines)


def exposed(view: View, listener: Listener, published: Sequence[Published]) -> Finding | None:
    """The finding, if the rules admit somebody to the socket whom the policy does not."""
    turned = {(p.protocol, p.port) for p in published}
    found = Difference()
    targets = destinations(view, listener)
    for packet, answer, admitted in _asked(view, listener.protocol, listener.port, targets, listener.scope):
        moved = answer.packet is not None and answer.packet.original is not None
        if moved and (listener.protocol, listener.port) in turned:
            continue
        if answer.verdict is Verdict.ACCEPT and not admitted:
            found.examples.append((packet, answer))
    if not found.examples:
        return None
    rule = _entry(view, listener.protocol, listener.port)
    name = rule.name if rule else f"{listener.port}/{protocol_name(listener.protocol)}"
    says = "the policy admits others, not them" if rule else "the policy does not say so"
    return Finding(
        "exposed",
        "error",
        name,
        f"{text(listener)}: strangers reach it, and {says}",
        "apply the policy; to keep it reachable, declare it in `services`; else stop it or bind it to loopback",
        found.evidence(),
        rule.span if rule else None,
    )


def exposed_published(view: View, port: Published) -> Finding | None:
    """The finding, if a port that somebody else's rules turn elsewhere is open to whom the policy does not admit."""
    found = Difference()
    for packet, answer, admitted in _asked(view, port.protocol, port.port, _outward(view)):
        moved = answer.packet is not None and answer.packet.original is not None
        if moved and answer.verdict is Verdict.ACCEPT and not admitted:
            found.examples.append((packet, answer))
    if not found.examples:
        return None
    turned = found.examples[0][1].packet
    target = f"{turned.destination}:{turned.port}" if turned else "another host"
    rule = _entry(view, port.protocol, port.port)
    advice = "set `defaults.published: govern` and apply"
    if view.ruleset.published_governed:
        advice = "apply the policy, which governs published ports"
    return Finding(
        "exposed",
        "error",
        rule.name if rule else f"{port.port}/{protocol_name(port.protocol)}",
        f"{port.port}/{protocol_name(port.protocol)} is published, as container engines do (turned to {target}):"
        " strangers reach it, and the policy does not say so",
        f"{advice}; to keep it reachable, declare it in `services`; else publish it on 127.0.0.1 alone",
        (port.line, *found.evidence()),
        rule.span if rule else None,
    )


def _outward(view: View) -> list[Address]:
    """This host's addresses, those on networks of containers and guests last: what strangers come to stands first."""
    homes = {a: i.name for i in view.facts.interfaces for a in i.addresses}
    return sorted(view.own, key=lambda a: (interface_matches(BRIDGES, homes.get(a, "")), a.version, int(a)))


def _asked(
    view: View, protocol: int, port: int, targets: Sequence[Address], only: str | None = None
) -> Iterator[tuple[Packet, Answer, bool]]:
    """Packets to a socket, what the rules do with them, and whether the policy admits them."""
    if view.program is None or not targets:
        return
    key = (protocol, port, *targets, only)
    if key not in view.narrow.asked:
        program = view.narrow.about(view.program, protocol, port)
        policy = view.narrow.policy(view.ruleset, protocol, port)
        view.narrow.asked[key] = [
            (packet, _answered(view, program, packet), decide(policy, packet)[0] is Verdict.ACCEPT)
            for packet in packets.to_listener(view, protocol, port, targets, only)
        ]
    yield from view.narrow.asked[key]


def _answered(view: View, program: Program, packet: Packet) -> Answer:
    """What the rules do with a packet. One that they turn to another host leaves by the interface nearest to that: an
    engine admits what goes to its containers by their bridge, under a FORWARD policy of DROP."""
    answer = evaluate(program, packet, view.own)
    turned = answer.packet
    if turned is None or turned.original is None or turned.direction is not Direction.FORWARDED:
        return answer
    name = packets.nearest(view.facts, turned.destination)
    return evaluate(program, replace(packet, out_interface=name), view.own) if name else answer


def _entry(view: View, protocol: int, port: int) -> Rule | None:
    """The service whose ports include one, if any."""
    for rule in view.openings():
        if any(flow.protocol == protocol and port in flow.ports for flow in rule.flows or ()):
            return rule
    return None


def closed(view: View, sockets: Iterable[Listener], published: Sequence[Published]) -> Iterator[Finding]:
    """Services that somebody answers for and that not everybody reaches whom the policy admits."""
    listeners = by_port(sockets)
    hanging: Cases = {}
    for rule in view.openings():
        own, reached = Difference(), False
        lost: list[tuple[Packet, Answer]] = []
        for packet, answer, admitted in _to_service(view, rule, listeners, published):
            if not admitted:
                continue
            if _arrives(answer, packet, published):
                reached = True
                for step in answer.depends_on:
                    _put(hanging, step, (rule, packet, answer))
            elif answer.decided is not None and not answer.decided.chain.own:
                lost.append((packet, answer))
            else:
                own.examples.append((packet, answer))
        if own.examples or (lost and not reached):
            own.examples += lost
            yield Finding(
                "unreachable",
                "error",
                rule.name,
                f"declared and listening, but the loaded rules keep out {'some' if reached else 'all'} of those whom"
                " the policy admits",
                "apply the policy"
                if any(not _is_foreign(a) for _, a in own.examples)
                else "see the foreign rule below",
                own.evidence(),
                rule.span,
            )
    for step, cases in hanging.values():
        yield _not_understood(step, cases)


def _put(found: Cases, step: Step, case: Case) -> None:
    chain = step.chain
    place = (chain.table, chain.family, chain.name, step.line.number if step.line else 0, step_text(step))
    found.setdefault(place, (step, []))[1].append(case)


def _not_understood(step: Step, cases: list[Case]) -> Finding:
    """One rule of which portctl cannot tell whether it denies what the policy admits."""
    names = list(dict.fromkeys(rule.name for rule, _, _ in cases))
    denies = step.line is not None and any(isinstance(action, Deny) for action in step.line.actions)
    return Finding(
        "unknown",
        "warning" if denies else "note",
        f"{step.chain.table} {step.chain.name}",
        f"a rule that portctl does not understand may keep packets from {', '.join(f'`{name}`' for name in names[:6])}",
        "read it; every other rule lets them in",
        (step_text(step), packet_text(cases[0][1])),
        next((rule.span for rule, _, _ in cases if rule.span), None),
    )


def _is_foreign(answer: Answer) -> bool:
    return answer.decided is not None and not answer.decided.chain.own


def _arrives(answer: Answer, packet: Packet, published: Sequence[Published]) -> bool:
    """Whether the packet is let in; one that somebody else turns away is not, unless a container answers there."""
    if answer.verdict is not Verdict.ACCEPT:
        return False
    moved = answer.packet is not None and answer.packet.original is not None
    if not moved or any(p.protocol == packet.protocol and p.port == packet.port for p in published):
        return True
    return any(step.chain.own and step.line is not None for step in answer.trace)


def _to_service(
    view: View, rule: Rule, listeners: Sockets, published: Sequence[Published]
) -> Iterator[tuple[Packet, Answer, bool]]:
    own = _outward(view)
    for flow in items(rule):
        for listener in at(flow, listeners):
            yield from _asked(view, flow.protocol, listener.port, destinations(view, listener), listener.scope)
        for port in published:
            if port.protocol == flow.protocol and port.port in flow.ports:
                yield from _asked(view, flow.protocol, port.port, own)
