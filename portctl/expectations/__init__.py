"""Whether a policy's `tests` hold: for every packet that each speaks of, or with a packet that proves the contrary.

Everything about a packet but its addresses is cut into classes that no rule tells apart, and one packet stands for each
class. Addresses are swept as sets: what of the remaining set a rule matches is decided, the rest goes on to the next.
So the answer is exact, and a list of a million networks costs a few set operations.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv6Address
from itertools import product

from portctl.net import ANYWHERE, FAMILIES, LOOPBACK_ADDRESSES, MULTICAST, NOWHERE, Address, Addresses, Family, Ranges
from portctl.problems import Problem
from portctl.ruleset import (
    EVERY_PORT,
    ICMP,
    ICMPV6,
    LOOPBACK,
    PROTOCOLS_WITH_PORTS,
    SCTP,
    TCP,
    UDP,
    Direction,
    Expect,
    Expectation,
    Flow,
    Kind,
    Original,
    Packet,
    Rule,
    Ruleset,
    Verdict,
    interface_matches,
)

UNNAMED_PROTOCOL = 253
"""Stands for all protocols that no rule names (RFC 3692 gives it to experiments)."""
_UNICAST = ANYWHERE - MULTICAST - Addresses.of("255.255.255.255", "0.0.0.0", "::")
_EXAMPLES = tuple(
    [IPv4Address(a) for a in ("198.51.100.1", "203.0.113.1", "192.0.2.1", "8.8.8.8")]
    + [IPv6Address(a) for a in ("2001:db8::1", "2001:4860:4860::8888")]
)
_PROTOCOL_WORDS = {ICMP: "icmp", TCP: "tcp", UDP: "udp", ICMPV6: "icmpv6", SCTP: "sctp"}


@dataclass(frozen=True, slots=True)
class Failure:
    """An entry of `tests` that does not hold, with one packet that shows it and the rule that decides that packet."""

    expectation: Expectation
    packet: Packet
    verdict: Verdict
    rule: Rule

    def problem(self) -> Problem:
        """In words, for the person."""
        wanted = "allowed" if self.expectation.expect is Expect.ALLOW else "denied"
        done = {Verdict.ACCEPT: "accepted", Verdict.DROP: "dropped", Verdict.REJECT: "rejected"}[self.verdict]
        others = ((_origin(self.rule), self.rule.span),) if self.rule.span else ()
        return Problem(
            "failed-test",
            f"this is to be {wanted}, but {describe(self.packet)} is {done} by {_origin(self.rule)}",
            self.expectation.span,
            others=others,
        )


@dataclass(frozen=True, slots=True)
class _Box:
    """Packets of one class: all pairs of a source and a destination, and where those were going before translation."""

    source: Addresses
    destination: Addresses
    before: Addresses | None = None

    def __bool__(self) -> bool:
        return bool(self.source) and bool(self.destination) and (self.before is None or bool(self.before))


_Candidate = tuple[Rule, Rule]
"""A rule, and the same without its addresses."""


@dataclass(slots=True)
class _Sets:
    """Set operations, each done once: the same rules meet the same sets in every class. And the rules of a protocol."""

    done: dict[tuple[str, int, int], tuple[Addresses, Addresses, Addresses]] = field(default_factory=dict)
    rules: dict[tuple[Direction, int], list[tuple[_Candidate, Ranges | None]]] = field(default_factory=dict)

    def candidates(self, ruleset: Ruleset, packet: Packet) -> list[_Candidate]:
        """The rules of a packet's direction, in order, that its protocol and port leave. Nobody is in a live group."""
        key = packet.direction, packet.protocol
        if key not in self.rules:
            self.rules[key] = []
            for rule in ruleset.rules(packet.direction):
                ports = None if rule.flows is None else _ports_of(rule, packet.protocol)
                if rule.live_source is None and rule.live_destination is None and (ports is None or ports):
                    self.rules[key].append(((rule, _without_addresses(rule)), ports))
        return [each for each, ports in self.rules[key] if ports is None or packet.port in ports]

    def meet(self, left: Addresses, right: Addresses) -> Addresses:
        if right == ANYWHERE or left is right:
            return left
        key = ("&", id(left), id(right))
        if key not in self.done:
            self.done[key] = (left & right, left, right)
        return self.done[key][0]

    def less(self, left: Addresses, right: Addresses) -> Addresses:
        if right == ANYWHERE or left is right:
            return NOWHERE
        key = ("-", id(left), id(right))
        if key not in self.done:
            common = self.meet(left, right)
            self.done[key] = (left - common if common else left, left, right)
        return self.done[key][0]


def _ports_of(rule: Rule, protocol: int) -> Ranges:
    """The ports that a rule names of a protocol; every port (and none, 0) of one that has no ports."""
    flow = next((flow for flow in rule.flows or () if flow.protocol == protocol), None)
    return Ranges() if flow is None else flow.ports


def evaluate(ruleset: Ruleset) -> list[Problem]:
    """The entries of `tests` that do not hold, each with a packet that shows it. Codes: `failed-test`."""
    return [failure.problem() for failure in failures(ruleset)]


def failures(ruleset: Ruleset) -> list[Failure]:
    """The same as values, at most one for each entry."""
    sets = _Sets()
    found = (next(_failures(ruleset, expectation, sets), None) for expectation in ruleset.expectations)
    return [failure for failure in found if failure is not None]


def _failures(ruleset: Ruleset, expectation: Expectation, sets: _Sets) -> Iterator[Failure]:
    for family in FAMILIES:
        box = _box(expectation, family)
        if not box:
            continue
        for packet in _classes(ruleset, expectation, box, family):
            for verdict, rule, seen in _judge(ruleset, packet, box, sets):
                if expectation.flows is None and rule.kind is Kind.FIXED and rule.flows is not None:
                    continue  # what every host needs to live on a network starts no connection
                if (verdict is Verdict.ACCEPT) != (expectation.expect is Expect.ALLOW):
                    yield Failure(expectation, seen, verdict, rule)


def _box(expectation: Expectation, family: Family) -> _Box:
    """The addresses that a test speaks of. Loopback addresses are never on the wire.

    Without `to`, what is to be denied is so at every address that reaches this host, multicast and broadcast too; what
    is to be allowed is so at the addresses that are its own.
    """
    here = ANYWHERE - LOOPBACK_ADDRESSES
    own = here & _UNICAST if expectation.expect is Expect.ALLOW else here
    source = here if expectation.source is None else expectation.source - LOOPBACK_ADDRESSES
    destination = own if expectation.destination is None else expectation.destination - LOOPBACK_ADDRESSES
    return _Box(source.only(family), destination.only(family))


def _classes(ruleset: Ruleset, expectation: Expectation, box: _Box, family: Family) -> Iterator[Packet]:
    """One packet for each class that some rule may tell from another."""
    base = Packet(expectation.direction, TCP, _example(box.source), _example(box.destination))
    own = expectation.destination is None
    users = _users(ruleset, expectation)
    devices = product(_devices(ruleset, expectation.interfaces), _devices(ruleset, expectation.out_interfaces))
    for (coming, leaving), user in product(list(devices), users):
        for protocol, port, source_port in _shapes(ruleset, expectation, family):
            yield replace(
                base,
                protocol=protocol,
                port=port,
                source_port=source_port,
                interface=coming,
                out_interface=leaving,
                user=user,
                local=own,
            )


def _users(ruleset: Ruleset, expectation: Expectation) -> list[str | None]:
    """Senders on this host that rules tell apart. A test that names an entry speaks of that entry's user."""
    if expectation.direction is not Direction.OUTBOUND:
        return [None]
    if expectation.service is not None and expectation.expect is Expect.ALLOW:
        entry = ruleset.entry(expectation.service, Kind.EGRESS)
        return [entry.user if entry else None]
    return [None, *sorted({rule.user for rule in ruleset.outbound if rule.user is not None})]


def _devices(ruleset: Ruleset, named: tuple[str, ...]) -> list[str]:
    """Interfaces, of which rules may tell one from another: an example for every pattern, and one that none names."""
    known = {_device(name) for group in ruleset.interface_groups for name in group[1]}
    if named:
        return sorted({_device(name) for name in named} | {d for d in known if interface_matches(named, d)})
    patterns = tuple(name for group in ruleset.interface_groups for name in group[1])
    others = [name for name in ("eth0", "other0", "unnamed0", "z0") if not interface_matches(patterns, name)]
    return [*sorted(known - {LOOPBACK, "lo"}), *others[:1]]


def _device(pattern: str) -> str:
    return f"{pattern[:-1]}0" if pattern.endswith("*") else pattern


def _shapes(ruleset: Ruleset, expectation: Expectation, family: Family) -> Iterator[tuple[int, int, int]]:
    """(protocol, port, source port), one of each class."""
    named = _named_flows(ruleset)
    if expectation.flows is not None:
        flows: Iterable[Flow] = expectation.flows
    else:
        known = {flow.protocol for flow in named} | {TCP, UDP, SCTP, ICMP, ICMPV6, UNNAMED_PROTOCOL}
        flows = [Flow(protocol) for protocol in sorted(known)]
    for flow in flows:
        if family not in flow.families():
            continue
        if flow.protocol not in (*PROTOCOLS_WITH_PORTS, ICMP, ICMPV6):
            yield flow.protocol, 0, 0
            continue
        same = [other for other in named if other.protocol == flow.protocol]
        first = 0 if flow.protocol in (ICMP, ICMPV6) else 1
        ports = cut(flow.ports & Ranges((first, 65536)), (other.ports for other in same))
        sources = cut(flow.source_ports & Ranges((1, 65536)), (other.source_ports for other in same))
        for port, source_port in product(ports, sources):
            yield flow.protocol, port, source_port


def _named_flows(ruleset: Ruleset) -> list[Flow]:
    """Every flow that a rule or a translation names, once."""
    found: dict[Flow, None] = {}
    for direction in Direction:
        for rule in ruleset.rules(direction):
            found.update(dict.fromkeys(rule.flows or ()))
            found.update(dict.fromkeys((rule.original.flows if rule.original else None) or ()))
    for translation in ruleset.translations:
        found.update(dict.fromkeys(translation.flows or ()))
    return list(found)


def cut(whole: Ranges, parts: Iterable[Ranges]) -> list[int]:
    """The first number of each piece into which the bounds of `parts` cut a set."""
    bounds = {bound for part in parts if part != EVERY_PORT for bound in part.bounds if bound in whole}
    return sorted(bounds | {first for first, _ in whole.pairs()})


def _judge(ruleset: Ruleset, packet: Packet, box: _Box, sets: _Sets) -> Iterator[tuple[Verdict, Rule, Packet]]:
    """What happens to the packets of a class: each part with its verdict, its rule, and one packet of it."""
    for turned, part in _translated(ruleset, packet, box, sets):
        remaining = [part]
        for rule, asking in sets.candidates(ruleset, turned):
            if not asking.matches(turned):
                continue
            left: list[_Box] = []
            for each in remaining:
                inside, outside = _split(rule, each, sets)
                left += outside
                if inside:
                    yield rule.verdict, rule, _witness(packet, inside)
            remaining = left
            if not remaining:
                break


def _without_addresses(rule: Rule) -> Rule:
    """The rule with every condition but those on addresses."""
    original = None if rule.original is None else Original(rule.original.flows)
    return replace(rule, source=ANYWHERE, destination=ANYWHERE, original=original)


def _translated(ruleset: Ruleset, packet: Packet, box: _Box, sets: _Sets) -> Iterator[tuple[Packet, _Box]]:
    """The class after the policy's own translations, as packets of (perhaps) another direction."""
    remaining = [box]
    if packet.direction is not Direction.OUTBOUND:
        for translation in ruleset.translations:
            open_to_all = replace(translation, source=ANYWHERE.only(packet.source.version), destination=ANYWHERE)
            if not open_to_all.matches(packet) or packet.source.version not in translation.families():
                continue
            own = _UNICAST if packet.local else NOWHERE
            where = own if translation.destination is None else translation.destination
            left: list[_Box] = []
            for each in remaining:
                source, destination = sets.meet(each.source, translation.source), each.destination & where
                if source and destination:
                    yield (
                        _turn(packet, translation.target, translation.target_port),
                        _after(source, destination, translation.target),
                    )
                left += _rest(each, translation.source, where, sets)
            remaining = left
    yield from ((packet, each) for each in remaining)


def _turn(packet: Packet, target: Address | None, port: int | None) -> Packet:
    return replace(
        packet,
        direction=Direction.INBOUND if target is None else Direction.FORWARDED,
        destination=packet.destination if target is None else target,
        port=packet.port if port is None else port,
        local=target is None,
        original=(packet.destination, packet.port),
    )


def _after(source: Addresses, destination: Addresses, target: Address | None) -> _Box:
    there = destination if target is None else Addresses.of(str(target))
    return _Box(source, there, destination)


def _rest(box: _Box, source: Addresses, destination: Addresses, sets: _Sets) -> list[_Box]:
    """What of a box lies outside a source and a destination."""
    common = sets.meet(box.source, source)
    found = [
        replace(box, source=sets.less(box.source, source)),
        replace(box, source=common, destination=sets.less(box.destination, destination)),
    ]
    return [each for each in found if each]


def _split(rule: Rule, box: _Box, sets: _Sets) -> tuple[_Box | None, list[_Box]]:
    """The part of a box that a rule's conditions on addresses match, and the rest."""
    source, destination = sets.meet(box.source, rule.source), sets.meet(box.destination, rule.destination)
    if not source or not destination:
        return None, [box]
    inside = replace(box, source=source, destination=destination)
    outside = _rest(box, rule.source, rule.destination, sets)
    if rule.original is not None and rule.original.destination is not None and box.before is not None:
        before = sets.meet(box.before, rule.original.destination)
        if not before:
            return None, [box]
        outside += [b for b in [replace(inside, before=sets.less(box.before, rule.original.destination))] if b]
        inside = replace(inside, before=before)
    return inside, outside


def _witness(packet: Packet, box: _Box) -> Packet:
    """A packet of a box, as it arrives."""
    return replace(packet, source=_example(box.source), destination=_example(box.before or box.destination))


def _example(addresses: Addresses) -> Address:
    """An address of a set, one that people know from examples if there is such."""
    for address in _EXAMPLES:
        if address in addresses:
            return address
    if addresses.v4:
        return IPv4Address(addresses.v4.bounds[0])
    return IPv6Address(addresses.v6.bounds[0])


def _origin(rule: Rule) -> str:
    """The rule in words: "the service `ssh`", "the default"."""
    if rule.kind is Kind.DEFAULT:
        return "`defaults`" if rule.name == "default" else "`defaults.forward: keep`"
    words = {Kind.SERVICE: "service", Kind.EGRESS: "egress", Kind.FORWARD: "forward", Kind.PUBLISHED: "rule"}
    return f"the {words.get(rule.kind, 'rule')} `{rule.name}`"


def describe(packet: Packet) -> str:
    """A packet in words: "tcp from 198.51.100.1 to port 22 of this host"."""
    protocol = _PROTOCOL_WORDS.get(packet.protocol, f"protocol {packet.protocol}")
    words = [protocol]
    if packet.direction is not Direction.OUTBOUND:
        words.append(f"from {packet.source}")
    if packet.protocol in PROTOCOLS_WITH_PORTS:
        words.append(f"to port {packet.port}")
    elif packet.protocol in (ICMP, ICMPV6):
        words.append(f"type {packet.port // 256}")
    here = packet.direction is Direction.INBOUND
    word = "of" if packet.protocol in PROTOCOLS_WITH_PORTS else "to"
    words.append(f"{word} this host" if here and packet.local else f"{word} {packet.destination}")
    if packet.user is not None:
        words.append(f"sent by {packet.user}")
    if packet.direction is not Direction.OUTBOUND:
        words.append(f"in on {packet.interface}")
    if packet.direction is Direction.FORWARDED:
        words.append(f"out on {packet.out_interface}")
    return " ".join(words)
