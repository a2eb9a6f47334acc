"""A loaded program without the lines that no packet of a question meets: asked about one address and one port, the
thousands of lines about others need not be worked out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from portctl.net import FAMILIES, Addresses, Family, Ranges
from portctl.program import Action, Chain, Condition, Field, Line, Lookup, Program, Translate
from portctl.ruleset import ICMP, ICMPV6, PROTOCOLS_WITH_PORTS, Direction
from portctl.space.dimensions import PROTOCOL, program_interfaces, whole
from portctl.space.questions import Query, interfaces


@dataclass(frozen=True, slots=True)
class _Meant:
    """What the packets of a question can be, wherever they are on their way."""

    source: Addresses
    destination: Addresses
    protocols: Ranges
    ports: Ranges | None
    """None: any, or types of ICMP."""
    inward: Ranges | None
    outward: Ranges | None


def narrowed(program: Program, query: Query) -> Program:
    """The program as it is for the packets of a question: lines that hold for none of them are left out."""
    meant = _meant(program, query)
    return replace(program, chains=tuple(_chain(chain, meant) for chain in program.chains))


def _meant(program: Program, query: Query) -> _Meant:
    turns = tuple(_translations(program))
    destination = query.destination
    for turn in turns:
        if turn.address is not None:
            destination = destination | Addresses.of(str(turn.address))
    every = whole(PROTOCOL, 6)
    flows = query.flows
    protocols = every if flows is None else Ranges.of((flow.protocol, flow.protocol) for flow in flows)
    ports = None
    if flows is not None and all(flow.protocol in PROTOCOLS_WITH_PORTS for flow in flows):
        listed = [pair for flow in flows for pair in flow.ports.pairs()]
        ports = Ranges.of([*listed, *((turn.port, turn.port) for turn in turns if turn.port is not None)])
    return _Meant(
        query.source,
        destination,
        protocols,
        ports,
        None if query.direction is Direction.OUTBOUND else interfaces(query.interfaces),
        None if query.direction is Direction.INBOUND else interfaces(query.out_interfaces),
    )


def _translations(program: Program) -> Iterator[Translate]:
    """Those of the destination, in verdict maps too."""
    for chain in program.chains:
        for line in chain.lines:
            for action in line.actions:
                found = [a for _, a in action.entries] if isinstance(action, Lookup) else [action]
                yield from (a for a in found if isinstance(a, Translate) and a.kind in ("destination", "redirect"))


def _chain(chain: Chain, meant: _Meant) -> Chain:
    kept = tuple(_line(line, meant) for line in chain.lines if _met(line.conditions, meant))
    return replace(chain, lines=kept)


def _line(line: Line, meant: _Meant) -> Line:
    """With those entries of its verdict maps that some packet meets."""
    if not any(isinstance(action, Lookup) for action in line.actions):
        return line
    return replace(line, actions=tuple(_action(action, meant) for action in line.actions))


def _action(action: Action, meant: _Meant) -> Action:
    if not isinstance(action, Lookup):
        return action
    return Lookup(tuple((asked, found) for asked, found in action.entries if _met(asked, meant)))


def _met(conditions: Iterable[Condition], meant: _Meant) -> bool:
    return all(_may_hold(condition, meant) for condition in conditions)


def _may_hold(condition: Condition, meant: _Meant) -> bool:
    """Whether a condition may hold for a packet of the question; where that is not worth finding out, it may."""
    value = condition.value
    match condition.field:
        case Field.SOURCE | Field.DESTINATION if isinstance(value, Ranges):
            ours = meant.source if condition.field is Field.SOURCE else meant.destination
            families: tuple[Family, ...] = FAMILIES if condition.family is None else (condition.family,)
            return any(_meets(ours.family(family), value, condition.negated) for family in families)
        case Field.PROTOCOL if isinstance(value, Ranges):
            return _meets(meant.protocols, value, condition.negated)
        case Field.PORT if isinstance(value, Ranges):
            return meant.ports is None or _meets(meant.ports, value, condition.negated)
        case Field.ICMP:
            return ICMP in meant.protocols or ICMPV6 in meant.protocols
        case Field.IN if isinstance(value, tuple):
            return meant.inward is None or _meets(meant.inward, program_interfaces(value), condition.negated)
        case Field.OUT if isinstance(value, tuple):
            return meant.outward is None or _meets(meant.outward, program_interfaces(value), condition.negated)
    return True


def _meets(ours: Ranges, theirs: Ranges, negated: bool) -> bool:
    return bool(ours - theirs) if negated else not ours.isdisjoint(theirs)
