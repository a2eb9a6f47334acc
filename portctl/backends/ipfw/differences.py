"""Where ipfw forces another verdict than the policy's: which packets, and under which heading of docs/platforms.md."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from portctl.backends.base import Ability, Difference, Region
from portctl.backends.ipfw.layout import CAST
from portctl.backends.ipfw.nat import other_ports
from portctl.net import ANYWHERE, FAMILIES, Addresses, Ranges
from portctl.program import Condition, Field
from portctl.ruleset import (
    ACK,
    EVERY_PORT,
    FIN,
    ICMP,
    ICMPV6,
    KNOWN,
    LOOPBACK,
    PROTOCOLS_WITH_PORTS,
    RST,
    SYN,
    TCP,
    UDP,
    Direction,
    Flow,
    Flows,
    Kind,
    Rule,
    Ruleset,
    State,
    Translation,
    Verdict,
    icmp,
)

LOW_PORTS = Ranges((0, 1024))
"""A packet to one of these goes to the end that offers something; see `sections`."""
ANSWERS = {ICMP: (0, 14, 16, 18), ICMPV6: (129,)}
"""The types of ICMP that look for a state."""
ACCEPTED, DROPPED = frozenset((Verdict.ACCEPT,)), frozenset((Verdict.DROP,))
THROUGH = (Direction.FORWARDED,)
_START = Condition(Field.FLAGS, (FIN | SYN | RST | ACK, SYN))
_JUST_BEGUN = (("state", State.NEW), ("reply", False))


def differences(ruleset: Ruleset, ability: Ability) -> tuple[Difference, ...]:
    """Those that apply to a rule set."""
    del ability
    return tuple(_all(ruleset))


def _all(ruleset: Ruleset) -> Iterator[Difference]:
    yield _no_tracker()
    yield _requests()
    yield _hop_limit()
    if _ends_by_itself(ruleset):
        yield Difference("no clock", "ipfw: no clock", (Region(),), seen=(("at", None),))
    yield Difference(
        "published", "ipfw: nothing is published by others", (Region((Condition(Field.TRANSLATED, True),)),)
    )
    yield _not_forwarded()
    yield _broadcast()
    yield from _through(ruleset)
    if turned := list(_also_known(ruleset)):
        where = [Region((_state(State.ESTABLISHED), *asked), _ARRIVING) for item in turned for asked in _turned(item)]
        yield Difference("redirected ports", "ipfw: redirected ports", tuple(where))


def _also_known(ruleset: Ruleset) -> Iterator[Translation]:
    """The translations that take whatever arrives, known connections too."""
    served = any(other_ports(ruleset, rule.flows) for rule in ruleset.inbound if rule.kind in (Kind.FIXED, Kind.BLOCK))
    for item in ruleset.translations:
        datagrams = any(flow.protocol == UDP for flow in item.flows or ())
        if item.target or item.destination is not None or served or datagrams:
            yield item


_ARRIVING = (Direction.INBOUND, Direction.FORWARDED)


def _state(state: State) -> Condition:
    return Condition(Field.STATE, state)


def _no_tracker() -> Difference:
    where = Region((_state(State.RELATED | State.INVALID | State.UNTRACKED),))
    heading = "ipfw: nothing is invalid or related, nothing bypasses the states"
    return Difference("no tracker", heading, (where,), _JUST_BEGUN)


def _requests() -> Difference:
    where = tuple(
        Region((
            _state(State.ESTABLISHED),
            Condition(Field.PROTOCOL, Ranges.single(protocol)),
            Condition(Field.ICMP, icmp(*answers), negated=True),
        ))
        for protocol, answers in ANSWERS.items()
    )  # fmt: skip
    return Difference("ICMP requests", "ipfw: every ICMP request is judged by itself", where, _JUST_BEGUN)


def _hop_limit() -> Difference:
    types = Condition(Field.ICMP, icmp(133, 134, 135, 136, 137))
    where = Region((Condition(Field.PROTOCOL, Ranges.single(ICMPV6)), types))
    return Difference("hop limit", "ipfw: the hop limit of IPv6 cannot be asked", (where,), (("hop_limit", 255),))


def _ends_by_itself(ruleset: Ruleset) -> bool:
    rules = (rule for direction in Direction for rule in ruleset.rules(direction))
    return any(rule.until for rule in rules) or any(item.until for item in ruleset.translations)


def _not_forwarded() -> Difference:
    where = [Region((Condition(side, (LOOPBACK,)),), THROUGH) for side in (Field.IN, Field.OUT)]
    where += [Region((each,), THROUGH) for each in _within(Field.DESTINATION, CAST)]
    heading = "ipfw: what is sent to many, or by the loopback interface, is not forwarded"
    return Difference("not forwarded", heading, tuple(where))


def _broadcast() -> Difference:
    """Of a text alone nobody knows the broadcast addresses of the host that loads it."""
    where = tuple(
        Region((Condition(Field.LOCAL, False), Condition(Field.DESTINATION, CAST.family(f), True, f)), _INBOUND)
        for f in FAMILIES
    )
    return Difference("broadcast addresses", "ipfw: broadcast addresses are a table", where)


_INBOUND = (Direction.INBOUND,)


def follows(ruleset: Ruleset) -> bool:
    """Whether what passes through makes states: where the default refuses, and where an entry limits or translates."""
    return not ruleset.forward_kept or any(rule.syn and rule.verdict is Verdict.ACCEPT for rule in ruleset.forwarded)


def _through(ruleset: Ruleset) -> Iterator[Difference]:
    """Of what passes through no state tells which end began it: there a low port does, and of TCP the start."""
    heading = "ipfw: block entries with ports, and what passes through"
    loose: list[Region] = []
    strict: list[Region] = []
    for rule in (rule for rule in ruleset.forwarded if rule.original_direction):
        every = rule.flows is None or [f for f in by_low_ports(rule.flows) if f.protocol not in (ICMP, ICMPV6)]
        for flow in [None] if every is True else every:
            by_packet = _by_packet(flow, tracked=follows(ruleset))
            for asked in _asked(rule.flows if flow is None else (flow,), rule.source, rule.destination):
                found = (*asked, *_devices(rule))
                answer = (*found, _state(KNOWN), Condition(Field.REPLY, True))
                if by_packet:
                    strict.append(Region(answer, THROUGH))
                    continue
                loose.append(Region((*found, _state(KNOWN)), THROUGH))
                if flow is not None and flow.protocol == TCP:
                    strict.append(Region((*answer, _START), THROUGH))
                    loose.append(Region((*found, replace(_START, negated=True)), THROUGH))
    if loose:
        yield Difference("blocked ports, passing", heading, tuple(loose), wanted=DROPPED, got=ACCEPTED)
    if strict:
        yield Difference("answers from low ports", heading, tuple(strict), wanted=ACCEPTED, got=DROPPED)


def by_low_ports(flows: Iterable[Flow]) -> Iterator[Flow]:
    """Flows whose ports are either all low or all high."""
    for flow in flows:
        if flow.protocol not in PROTOCOLS_WITH_PORTS or flow.ports == EVERY_PORT:
            yield flow
            continue
        for ports in (flow.ports & LOW_PORTS, flow.ports - LOW_PORTS):
            if ports:
                yield replace(flow, ports=ports)


def _by_packet(flow: Flow | None, *, tracked: bool) -> bool:
    """Whether a block is asked of every packet, whichever end sent it."""
    if flow is None:
        return not tracked
    return flow.ports <= LOW_PORTS or (not tracked and flow.protocol != TCP)


def _devices(rule: Rule) -> Iterator[Condition]:
    if rule.interfaces:
        yield Condition(Field.IN, rule.interfaces)
    if rule.live_source is not None:
        yield Condition(Field.LIVE, rule.live_source)
    if rule.live_destination is not None:
        yield Condition(Field.LIVE_DESTINATION, rule.live_destination)


def _turned(item: Translation) -> Iterator[tuple[Condition, ...]]:
    more = [Condition(Field.IN, item.interfaces)] if item.interfaces else []
    if item.destination is None:
        more.append(Condition(Field.LOCAL, True))
    for asked in _asked(item.flows, item.source, ANYWHERE if item.destination is None else item.destination):
        yield (*asked, *more)


def _asked(flows: Flows, source: Addresses, destination: Addresses) -> Iterator[tuple[Condition, ...]]:
    """Lists of conditions, of which all must hold of one."""
    for flow in [None] if flows is None else flows:
        for here in _within(Field.SOURCE, source):
            for there in _within(Field.DESTINATION, destination):
                if here.family == there.family:
                    yield (*_of_flow(flow), here, there)


def _of_flow(flow: Flow | None) -> Iterable[Condition]:
    if flow is None:
        return
    yield Condition(Field.PROTOCOL, Ranges.single(flow.protocol))
    if flow.ports != EVERY_PORT:
        yield Condition(Field.PORT, flow.ports)
    if flow.source_ports != EVERY_PORT:
        yield Condition(Field.SOURCE_PORT, flow.source_ports)


def _within(side: Field, addresses: Addresses) -> Iterator[Condition]:
    for family in addresses.families():
        yield Condition(side, addresses.family(family), family=family)
