"""Questions a person asks of a policy or a host: what happens to this, who reaches that, does a test hold.

A `Query` speaks of ordinary new connections. An answer is exact: where the verdict hangs on something that the query
leaves open (the interface, the other end), there is one answer for each case.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal

from portctl.net import ANYWHERE, FAMILIES, LOOPBACK_ADDRESSES, MULTICAST, Addresses, Family, Ranges
from portctl.ruleset import LOOPBACK, PROTOCOLS_WITH_PORTS, Direction, Expect, Expectation, Flows, Packet
from portctl.space.boxes import Box, boxes, one_family
from portctl.space.conditions import Cube
from portctl.space.dimensions import (
    DESTINATION,
    FAMILY,
    IN,
    LO,
    LOCAL,
    OUT,
    PORT,
    PROTOCOL,
    SOURCE,
    SOURCE_PORT,
    Dimension,
    family_set,
    policy_interfaces,
    whole,
)
from portctl.space.entries import divided, one_of
from portctl.space.examples import example
from portctl.space.from_ruleset import flow_cubes, joined
from portctl.space.internet import width
from portctl.space.ordinary import ordinary, usual
from portctl.space.packets import packet_text
from portctl.space.sets import PacketSet, Space, possible
from portctl.space.sides import Reason, Side, step_text
from portctl.space.words import Groups, box_text, conditions_text, ports_text, tidy, words

Verdicts = Literal["accept", "deny", "reject", "drop", "depends"]
"""`depends`: it may be accepted or not; `deny`: it is not, but whether dropped or rejected nobody can know."""


@dataclass(frozen=True, slots=True)
class Query:
    """Which packets are meant. `flows` None: of every protocol. Interfaces empty: all but the loopback interface, which
    is `LOOPBACK`. Where every address is meant, those of loopback are not: on other interfaces they never exist.
    """

    direction: Direction
    flows: Flows = None
    source: Addresses = ANYWHERE
    destination: Addresses = ANYWHERE
    interfaces: tuple[str, ...] = ()
    out_interfaces: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What happens to a part of what was asked."""

    verdict: Verdicts
    box: Box
    reason: Reason
    example: Packet
    depends: tuple[str, ...] = ()
    """Lines that nobody can know, where the verdict hangs on some."""


_NOT_LOOPBACK = whole(IN, 4) - Ranges.single(LO)


def query_set(space: Space, query: Query) -> PacketSet:
    """The packets that a query means."""
    base: dict[Dimension, Ranges] = {}
    if query.direction is not Direction.OUTBOUND:
        base[IN] = interfaces(query.interfaces)
    if query.direction is not Direction.INBOUND:
        base[OUT] = interfaces(query.out_interfaces)
    cubes: list[tuple[Direction | None, Cube]] = []
    local = LOOPBACK in (*query.interfaces, *query.out_interfaces)
    for family in FAMILIES:
        source, destination = _meant(query.source, family, local), _meant(query.destination, family, local)
        if source and destination:
            place = {FAMILY: family_set(family), SOURCE: source, DESTINATION: destination}
            for flow in flow_cubes(query.flows, PORT):
                cubes += [(query.direction, cube) for cube in joined(base, place, flow)]
    return space.boxes(cubes)


def interfaces(named: tuple[str, ...]) -> Ranges:
    """The interfaces that a question means where it names some, or none."""
    return policy_interfaces(named) if named else _NOT_LOOPBACK


def _anywhere(query: Query) -> bool:
    """Whether it names no address of this host."""
    there = query.destination
    return query.direction is Direction.INBOUND and all(there.is_every(family) for family in there.families())


def _here(space: Space, verdict: Verdicts) -> PacketSet:
    """Packets to addresses of this host; of what is let in, those to groups too. What comes in for another host and is
    let pass there (ipfw sees it once on its way in) reaches nothing here."""
    cubes: list[tuple[Direction | None, Cube]] = []
    for family in FAMILIES:
        mine, groups = family_set(family), MULTICAST.family(family)
        lone = whole(DESTINATION, family) - groups
        cubes.append((Direction.INBOUND, {FAMILY: mine, DESTINATION: lone, LOCAL: Ranges.single(1)}))
        if verdict in ("accept", "depends"):
            cubes.append((Direction.INBOUND, {FAMILY: mine, DESTINATION: groups}))
    return space.boxes(cubes)


def _from_port_zero(space: Space, query: Query) -> PacketSet:
    """Packets that no connection has, of a question about ports."""
    flows = query.flows or ()
    protocols = Ranges.of((flow.protocol, flow.protocol) for flow in flows if flow.protocol in PROTOCOLS_WITH_PORTS)
    return space.boxes([(None, {PROTOCOL: protocols, SOURCE_PORT: Ranges.single(0)})] if protocols else [])


def _meant(addresses: Addresses, family: Family, local: bool) -> Ranges:
    """`local`: on the loopback interface."""
    found = addresses.family(family)
    return found - LOOPBACK_ADDRESSES.family(family) if addresses.is_every(family) and not local else found


def explain(side: Side, query: Query, at: datetime | None = None, denied: bool = True) -> list[Outcome]:
    """The verdict on everything that a query means, cut where it changes; what accepts first, the widest first. Without
    `denied` only what is accepted, or may be.

    Raises `TooMany`.
    """
    space = side.partition.space
    meant = (query_set(space, query) & possible(space)) - _from_port_zero(space, query)
    found: list[Outcome] = []
    uncertain, maybe = side.partition.uncertain(), side.partition.maybe_accepted()
    parts: list[tuple[Verdicts, PacketSet]] = [
        ("accept", side.partition.accepted()),
        ("depends", uncertain & maybe),
        ("deny", uncertain - maybe),
        ("reject", side.partition.rejected()),
        ("drop", side.partition.dropped()),
    ]
    for verdict, all_such in parts if denied else parts[:2]:
        such = all_such & meant
        if _anywhere(query):
            such = such & _here(space, verdict)
        now = usual(such, ordinary(such, at))
        found += sorted(_outcomes(side, verdict, such, now), key=_order)
    return found


def _outcomes(side: Side, verdict: Verdicts, such: PacketSet, now: PacketSet) -> Iterator[Outcome]:
    listed = boxes(now)
    for box in divided(listed, such, side) if verdict == "accept" else listed:
        packet = one_of(box, such)
        depends = tuple(dict.fromkeys(step_text(step) for step in side.partition.depends(packet)))
        yield Outcome(verdict, _alone(tidy(box)), side.reason(packet), packet, depends)


def _alone(box: Box) -> Box:
    """The box, where it is of all addresses that are one host's, without a word about groups."""
    if box.direction is not Direction.INBOUND:
        return box
    lone = {f: whole(DESTINATION, f) - MULTICAST.family(f) for f in box.destination.families()}
    if any(box.destination.family(f) != ranges for f, ranges in lone.items()):
        return box
    return replace(box, destination=Addresses(*(whole(DESTINATION, f) if f in lone else Ranges() for f in FAMILIES)))


def _order(outcome: Outcome) -> tuple[float, int, tuple[int, ...]]:
    box = outcome.box
    return (
        -max(width(box.source), width(box.destination)),
        -box.source.v4.count() - box.source.v6.count(),
        tuple(bound for _, ranges in box.asked for bound in ranges.bounds),
    )


def reach(side: Side, query: Query, at: datetime | None = None) -> list[Outcome]:
    """Who reaches what of all that a query means: its outcomes that accept, or may. Raises `TooMany`."""
    return explain(side, query, at, denied=False)


def explain_text(side: Side, outcomes: Iterable[Outcome], live: bool = False) -> str:
    """For a person: each verdict with what decides it. `live`: the side is a host, whose counters say something even
    when they are 0; a text that nobody has loaded has met no packets."""
    lines = []
    for outcome in outcomes:
        lines.append(f"{outcome.verdict}: {box_text(outcome.box, side.groups)}")
        if outcome.depends:
            what = "whether it is dropped or rejected " if outcome.verdict == "deny" else ""
            lines += [f"  {what}depends on {line}" for line in outcome.depends]
        else:
            lines.append(f"  decided by {outcome.reason.name}")
            lines += _where(outcome.reason, live)
        lines.append(f"  such as {packet_text(outcome.example)}")
    return "".join(f"{line}\n" for line in lines) or "there is no such packet\n"


def _where(reason: Reason, live: bool) -> Iterator[str]:
    if reason.place:
        yield f"  {reason.place.file}:{reason.place.line}: {reason.place.text.strip()}"
    elif reason.line:
        yield f"  {reason.line}"
    if reason.packets is not None and (live or reason.packets):
        yield f"  {reason.packets} {'packet' if reason.packets == 1 else 'packets'} so far"


def reach_text(outcomes: Iterable[Outcome], groups: Groups, asked: Literal["who", "what"]) -> str:
    """For a person: one line for each who (to one thing), or for each what (from one place)."""
    lines = []
    listed = list(outcomes)
    several = len({(each.box.values(PROTOCOL), each.box.values(PORT)) for each in listed}) > 1
    for outcome in listed:
        box = outcome.box
        said = words(box, groups)
        if asked == "who":
            line = said.source if box.direction is not Direction.OUTBOUND else "this host"
            line = f"{said.what}: {line}" if several else line
        else:
            line = ports_text(box.values(PROTOCOL), box.values(PORT))
        family = one_family(box)
        whole = box.destination == ANYWHERE or (family is not None and box.destination.is_every(family))
        if not whole and (asked == "who" or box.direction is not Direction.INBOUND):
            line += f" to {said.destination}"
        parts = [line, *conditions_text(box, () if asked == "what" else (FAMILY,))]
        if outcome.depends:
            parts.append(f"depends on {'; '.join(outcome.depends)}")
        lines.append(f"{', '.join(parts)}  [{outcome.reason.name}]")
    return "".join(f"{line}\n" for line in lines) or ("nobody\n" if asked == "who" else "nothing\n")


def of_expectation(expectation: Expectation) -> Query:
    """What an entry of `tests` speaks of."""
    return Query(
        expectation.direction,
        expectation.flows,
        ANYWHERE if expectation.source is None else expectation.source,
        ANYWHERE if expectation.destination is None else expectation.destination,
        expectation.interfaces,
        expectation.out_interfaces,
    )


def broken(side: Side, expectation: Expectation, at: datetime | None = None) -> Packet | None:
    """A packet for which an entry of `tests` does not hold; None: it holds for all. What is uncertain is not held."""
    space = side.partition.space
    meant = query_set(space, of_expectation(expectation)) & possible(space)
    allowed = expectation.expect is Expect.ALLOW
    wrong = meant - side.partition.accepted() if allowed else meant & side.partition.maybe_accepted()
    return example(wrong & cylinder) if (cylinder := usual(wrong, ordinary(wrong, at))) else None
