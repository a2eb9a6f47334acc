"""What starts a connection: each entry's rules, found by the destination port in a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from portctl.backends.ipfw import words
from portctl.backends.ipfw.dispatch import Class, classes, ported
from portctl.backends.ipfw.layout import Layout
from portctl.backends.ipfw.matching import bodies, note
from portctl.net import ANYWHERE
from portctl.ruleset import (
    EVERY_PORT,
    PROTOCOLS_WITH_PORTS,
    TCP,
    Flow,
    Rule,
)

FEW = 3
"""So many rules with ports are asked one after the other; more are dispatched."""
MOST_IN_TABLE = 1024
"""A table of numbers takes no ranges: a wider range of ports is a rule."""


@dataclass(frozen=True, slots=True)
class Pass:
    """One of the passes through the rules. `name` prefixes its blocks; `state` names the states it makes.

    `state` "" makes none: forwarded packets on the way in, which are judged again on the way out.
    """

    name: str
    way: str
    state: str


@dataclass(slots=True)
class Starts:
    """The rules under way for one run of entries."""

    layout: Layout
    at: Pass
    rules: Sequence[Rule]
    after: str
    """The block to go to when no entry admits."""
    leaves: dict[str, str]
    """{entry: block in which what it admits is translated}."""

    def render(self) -> None:
        block = self.at.name
        if sum(ported(rule.flows) for rule in self.rules) > FEW:
            self._dispatch(block)
            inline = [self._without_ports(rule) for rule in self.rules]
            rest = [rule for rule in inline if rule is not None]
        else:
            rest = list(self.rules)
        follows = next(reversed(self.layout.blocks)) == block
        last = self.layout.block(f"{block}-rest") if rest else ""
        if rest:
            self._only_starts(block, last, rest)
            if not follows:
                self.layout.add(block, f"skipto @{last}@", "ip from any to any")
            self._lines(last, rest)
            self.layout.add(last, f"skipto @{self.after}@", "ip from any to any")
        else:
            self.layout.add(block, f"skipto @{self.after}@", "ip from any to any")
        self._limits()

    def _only_starts(self, block: str, rest: str, rules: Sequence[Rule]) -> None:
        if any(rule.flows is None or any(f.protocol == TCP for f in rule.flows) for rule in rules):
            self.layout.add(block, f"skipto @{rest}@", f"tcp from any to any {self.at.way} {words.START}")
        self.layout.add(block, f"skipto @{self.after}@", "tcp from any to any")

    def _without_ports(self, rule: Rule) -> Rule | None:
        """What of a rule the dispatch by port does not find."""
        if rule.flows is None:
            return rule
        kept = tuple(f for f in rule.flows if f.protocol not in PROTOCOLS_WITH_PORTS or f.ports == EVERY_PORT)
        return replace(rule, flows=kept) if kept else None

    def _dispatch(self, block: str) -> None:
        shared: dict[tuple[int, tuple[int, ...]], str] = {}
        flows = [rule.flows for rule in self.rules]
        for protocol in PROTOCOLS_WITH_PORTS:
            found = classes(flows, protocol)
            if not found:
                continue
            entries: list[tuple[int, str]] = []
            wide: list[tuple[str, list[tuple[int, int]]]] = []
            targets: list[tuple[Class, str]] = []
            for each in found:
                key = protocol, each.members
                if key not in shared:
                    shared[key] = f"{block}-{words.protocol(protocol)}-{each.ports.bounds[0]}"
                    targets.append((each, shared[key]))
                ranges = list(each.ports.pairs())
                entries += [(p, shared[key]) for a, b in ranges if b - a < MOST_IN_TABLE for p in range(a, b + 1)]
                if broad := [pair for pair in ranges if pair[1] - pair[0] >= MOST_IN_TABLE]:
                    wide.append((shared[key], broad))
            self._look_up(block, protocol, sorted(entries), wide)
            for each, name in targets:
                self.layout.block(name)
                self._lines(name, [self._of_protocol(self.rules[k], protocol) for k in each.members])
                self.layout.add(name, f"skipto @{self.after}@", "ip from any to any")

    def _look_up(
        self,
        block: str,
        protocol: int,
        entries: Sequence[tuple[int, str]],
        wide: Sequence[tuple[str, list[tuple[int, int]]]],
    ) -> None:
        word = words.protocol(protocol)
        flags = f" {words.START}" if protocol == TCP else ""
        if entries:
            name = self.layout.table(f"{block}-{word}", "number valtype skipto", [f"{p} @{to}@" for p, to in entries])
            self.layout.add(
                block, "skipto tablearg", f"{word} from any to any {self.at.way}{flags} lookup dst-port {name}"
            )
        for target, pairs in wide:
            for k in range(0, len(pairs), words.MOST_PORTS):
                ports = words.ports(pairs[k : k + words.MOST_PORTS])
                self.layout.add(block, f"skipto @{target}@", f"{word} from any to any {ports} {self.at.way}{flags}")

    def _of_protocol(self, rule: Rule, protocol: int) -> Rule:
        """A rule among packets of one protocol whose destination port the dispatch has found."""
        if rule.flows is None:
            return replace(rule, flows=(Flow(protocol),))
        return replace(rule, flows=tuple(replace(f, ports=EVERY_PORT) for f in rule.flows if f.protocol == protocol))

    def _lines(self, block: str, rules: Sequence[Rule]) -> None:
        """The rules in order. The log is the union of the entries that admit: those that log behind one that does not
        are asked first. It stands in rules of its own: as part of one that makes a state it would log every packet."""
        silent = False
        logged_first: set[int] = set()
        for rule in rules:
            if rule.log and silent:
                logged_first.add(id(rule))
            silent = silent or not rule.log
        for rule in rules:
            if id(rule) in logged_first:
                self._log(block, rule)
        for rule in rules:
            if rule.log and id(rule) not in logged_first:
                self._log(block, rule)
            for body in bodies(self.layout, rule, self.at.way):
                self.layout.add(block, self._action(rule), f"{body.text} {self._state(rule)}".rstrip(), note(rule))

    def _log(self, block: str, rule: Rule) -> None:
        if self.at.state:
            for body in bodies(self.layout, rule, self.at.way):
                self.layout.add(block, "count log", body.text, note(rule))

    def _action(self, rule: Rule) -> str:
        if self.at.state and rule.max_connections is not None:
            return f"skipto @{self._limit(rule)}@"
        if self.at.state and rule.name in self.leaves:
            return f"skipto @{self.leaves[rule.name]}@"
        return "allow"

    def _state(self, rule: Rule) -> str:
        """`keep-state` would look for a state again, before it asks anything else."""
        return f"record-state :{self.at.state}" if self.at.state and rule.max_connections is None else ""

    def _limit(self, rule: Rule) -> str:
        return f"{self.at.name}-limit-{rule.name}"

    def _limits(self) -> None:
        """One rule a protocol for each limited entry: each rule counts by itself."""
        if not self.at.state:
            return
        for rule in self.rules:
            if rule.max_connections is None:
                continue
            block = self.layout.block(self._limit(rule))
            any_flows = None if rule.flows is None else tuple(Flow(f.protocol) for f in rule.flows)
            wide = Rule(rule.name, rule.kind, rule.verdict, any_flows, ANYWHERE, ANYWHERE)
            action = f"skipto @{self.leaves[rule.name]}@" if rule.name in self.leaves else "allow"
            for body in bodies(self.layout, wide, self.at.way):
                # Requests that belong to a state get here too: it is looked for, or they would count again.
                word = "set-limit" if body.protocol in PROTOCOLS_WITH_PORTS else "limit"
                limit = f"{word} src-addr {rule.max_connections} :{self.at.state}"
                self.layout.add(block, action, f"{body.text} {limit}", note(rule))
            self.layout.add(block, "deny", "ip from any to any", note(rule))
