"""The part of rules and policy that packets of one protocol and port can meet: the same verdicts, from far fewer lines.

A host may have a thousand services and as many sockets: lines are found by their port, not one after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial

from portctl.evaluation import Answer
from portctl.net import ANYWHERE, Addresses, Ranges
from portctl.program import Action, Chain, Condition, Field, Line, Lookup, Place, Program, Translate, jumps
from portctl.ruleset import Flow, Packet, Rule, Ruleset

FEW = 64
"""So many ports of a line are worth a place in the index each."""
Entry = tuple[tuple[Condition, ...], Action]
Asked = tuple[Packet, Answer, bool]
"""A packet, what the rules do with it, and whether the policy admits it."""


@dataclass(slots=True)
class ByPort:
    """Numbers of things by the ports that they ask for; `rest` are those that ask for none, or for many."""

    ports: dict[int, list[int]] = field(default_factory=dict)
    rest: list[int] = field(default_factory=list)

    def add(self, number: int, ranges: Iterable[Ranges] | None) -> None:
        """`ranges`: each a set of ports that the thing may be about; None: any port."""
        asked = None if ranges is None else list(ranges)
        if asked is None or sum(each.count() for each in asked) > FEW:
            self.rest.append(number)
            return
        for each in asked:
            for first, last in each.pairs():
                for port in range(first, last + 1):
                    self.ports.setdefault(port, []).append(number)

    def at(self, wanted: Iterable[int]) -> list[int]:
        """What may be about any of some ports, in order."""
        found = set(self.rest)
        for port in wanted:
            found.update(self.ports.get(port, ()))
        return sorted(found)


@dataclass(slots=True)
class Narrow:
    """What was found out of one view's rules and policy; kept from one socket to the next."""

    program: ProgramIndex | None = None
    inbound: ByPort | None = None
    named: list[Addresses] | None = None
    asked: dict[tuple[object, ...], list[Asked]] = field(default_factory=dict)

    def destinations(self, openings: Iterable[Rule]) -> list[Addresses]:
        """The destinations that the policy's services name."""
        if self.named is None:
            self.named = [rule.destination for rule in openings if rule.destination != ANYWHERE]
        return self.named

    def about(self, program: Program, protocol: int, port: int) -> Program:
        """The part of a program, always of the same one."""
        if self.program is None:
            self.program = ProgramIndex.of(program)
        return self.program.about(protocol, port)

    def rules(self, ruleset: Ruleset, protocol: int, port: int) -> tuple[Rule, ...]:
        """The inbound rules, always of the same policy, that packets of a protocol and port can match."""
        if self.inbound is None:
            self.inbound = ByPort()
            for number, rule in enumerate(ruleset.inbound):
                self.inbound.add(number, None if rule.flows is None else (flow.ports for flow in rule.flows))
        found = (ruleset.inbound[number] for number in self.inbound.at((port,)))
        return tuple(rule for rule in found if concerns(rule.flows, protocol, port))

    def policy(self, ruleset: Ruleset, protocol: int, port: int) -> Ruleset:
        """The policy with those rules; whole, where a translation concerns the port."""
        if any(concerns(translation.flows, protocol, port) for translation in ruleset.translations):
            return ruleset
        return replace(ruleset, inbound=self.rules(ruleset, protocol, port))


def concerns(flows: tuple[Flow, ...] | None, protocol: int, port: int) -> bool:
    return flows is None or any(flow.protocol == protocol and port in flow.ports for flow in flows)


@dataclass(slots=True)
class ProgramIndex:
    """A program's lines, and the entries of its verdict maps, by port."""

    program: Program
    turned: frozenset[int]
    """The ports to which translations turn packets, as those packets may become another port's."""
    chains: dict[Place, tuple[Chain, ByPort]]
    maps: dict[int, ByPort]
    """By the identity of the lookup: the program holds them all."""

    @classmethod
    def of(cls, program: Program) -> ProgramIndex:
        actions = [action for chain in program.chains for line in chain.lines for action in line.actions]
        turned = frozenset(a.port for a in actions if isinstance(a, Translate) and a.port is not None)
        return cls(program, turned, {chain.place: (chain, _indexed(chain.lines)) for chain in program.chains}, {})

    def about(self, protocol: int, port: int) -> Program:
        ports = {port, *self.turned}
        reached: dict[Place, Chain] = {}
        waiting = [chain.place for chain in self.program.chains if chain.hook]
        while waiting:
            place = waiting.pop()
            if place in reached or place not in self.chains:
                continue
            chain, index = self.chains[place]
            reached[place] = chain = replace(chain, lines=tuple(self._lines(chain, index, protocol, ports)))
            names = {name for line in chain.lines for name in jumps(line.actions)}
            waiting += [(chain.family, chain.table, name) for name in names]
        return Program(tuple(reached.values()), self.program.foreign, self.program.live)

    def _lines(self, chain: Chain, index: ByPort, protocol: int, ports: set[int]) -> Iterator[Line]:
        for number in index.at(ports):
            line = chain.lines[number]
            if not _meets(line.conditions, protocol, ports):
                continue
            if any(isinstance(action, Lookup) for action in line.actions):
                narrowed: Callable[[Action], Action] = partial(self._narrowed, protocol=protocol, ports=ports)
                line = replace(line, actions=tuple(map(narrowed, line.actions)))
            yield line

    def _narrowed(self, action: Action, protocol: int, ports: set[int]) -> Action:
        if not isinstance(action, Lookup):
            return action
        index = self.maps.get(id(action))
        if index is None:
            index = self.maps[id(action)] = ByPort()
            for number, (conditions, _) in enumerate(action.entries):
                index.add(number, _asked_ports(conditions))
        entries: list[Entry] = []
        for number in index.at(ports):
            conditions, found = action.entries[number]
            if _meets(conditions, protocol, ports):
                entries.append((conditions, self._narrowed(found, protocol, ports)))
        return Lookup(tuple(entries))


def _indexed(lines: Iterable[Line]) -> ByPort:
    found = ByPort()
    for number, line in enumerate(lines):
        found.add(number, _asked_ports(line.conditions))
    return found


def _asked_ports(conditions: Iterable[Condition]) -> tuple[Ranges, ...] | None:
    """The ports that one of the conditions asks for."""
    for condition in conditions:
        if condition.field is Field.PORT and not condition.negated and isinstance(condition.value, Ranges):
            return (condition.value,)
    return None


def _meets(conditions: Iterable[Condition], protocol: int, ports: set[int]) -> bool:
    """Whether a packet of that protocol, to one of those ports, can match as far as these two go."""
    for condition in conditions:
        if condition.negated or not isinstance(condition.value, Ranges):
            continue
        if condition.field is Field.PROTOCOL and protocol not in condition.value:
            return False
        if condition.field is Field.PORT and not any(port in condition.value for port in ports):
            return False
    return True


def may_meet(line: Line, protocol: int, port: int) -> bool:
    """Whether packets of a protocol and port can match a line, as far as these two go."""
    return _meets(line.conditions, protocol, {port})
