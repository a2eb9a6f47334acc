"""Rules in order become chains: fixed lines one after the other, entries reached by protocol and port.

A packet goes (`-g`) from chain to chain and never comes back, so that RETURN leaves portctl's rules altogether: what is
admitted goes on to the rules of others, what is refused ends here. Runs that only deny are called (`-j`) and fall
through.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from portctl.backends.iptables.dispatch import (
    Classes,
    Interval,
    Key,
    children,
    classify,
    grouped,
    portless,
    protocols,
)
from portctl.backends.iptables.names import CHAIN_LENGTH, COMMENT_LENGTH, chain_name, comment, cut, digest
from portctl.backends.iptables.words import (
    ANY,
    MOST_PRODUCT,
    SYN_ALONE,
    Choices,
    Speaker,
    Words,
    combine,
    flow_choices,
    port_choices,
    protocol_word,
    state_choices,
    state_words,
)
from portctl.net import Ranges
from portctl.ruleset import (
    EVERY_PORT,
    ICMP,
    ICMPV6,
    PROTOCOLS_WITH_PORTS,
    TCP,
    Flow,
    Kind,
    Rule,
    State,
    Verdict,
)

LINEAR = 8
"""As many port classes are asked one after the other; more become a tree."""
GROUPED = (Kind.SERVICE, Kind.EGRESS, Kind.FORWARD, Kind.PUBLISHED)
OPEN_MARK = 0x04000000
"""Bit of the packet mark: one of the connections that were open before there were rules."""
OPEN_CHAIN = "PORTCTL-OPEN"
OPEN_LINES = tuple(
    Words(modules=("-m conntrack --ctstate NEW", *modules)).line("portctl", target)
    for modules, target in (
        ((), f"-j MARK --set-xmark 0x0/0x{OPEN_MARK:x}"),
        ((), f"-j {OPEN_CHAIN}"),
        ((f"-m mark --mark 0x{OPEN_MARK:x}/0x{OPEN_MARK:x}",), "-j RETURN"),
    )
)
"""Asked before a packet is denied by default. The bit is taken away first: nobody else's can open anything."""


@dataclass(slots=True)
class Table:
    """The chains of one table, each with its lines."""

    name: str
    chains: dict[str, list[str]] = field(default_factory=dict)

    def new(self, wanted: str) -> str:
        """A new chain called `wanted`, or so that nobody else is."""
        name, again = wanted, 0
        while name in self.chains:
            again += 1
            name = wanted[: CHAIN_LENGTH - 7] + "." + digest(f"{wanted} {again}", 6)
        self.chains[name] = []
        return name

    def add(self, chain: str, line: str) -> None:
        self.chains[chain].append(f"-A {chain} {line}")


Actions = list[tuple[Words, str]]
"""Lines of conditions and targets."""
Leaf = Callable[["Direction", Rule, "Rule | None"], Actions]
"""What happens to a packet that a rule matches; the third is the entry that wants it logged."""


@dataclass(slots=True)
class Direction:
    """The chains of one direction (or of one job of the nat table), being written."""

    table: Table
    prefix: str
    speaker: Speaker
    leaf: Leaf
    opens: bool = False
    """Connections that were open before there were rules are let through."""
    by_protocol: bool = False
    """The leaf asks for the protocol, so that chains of two protocols are two chains."""
    _memo: dict[object, str] = field(default_factory=dict)

    def sequence(self, chain: str, rules: Sequence[Rule]) -> None:
        """Writes rules into a chain, first match first."""
        rules = [rule for rule in rules if self.speaker.family in rule.families()]
        position = 0
        while position < len(rules):
            run = _run(rules, position)
            if not run:
                self.linear(chain, rules[position])
                position += 1
                continue
            position += len(run)
            if all(rule.verdict is not Verdict.ACCEPT for rule in run):
                _Group(self, run, None, self.table.new(f"{self.prefix}-BLOCK")).enter(chain, "-j")
                continue
            if position == len(rules):
                _Group(self, run, None, self.prefix).enter(chain, "-g")
                continue
            rest = self.table.new(f"{self.prefix}-REST")
            _Group(self, run, rest, self.prefix).enter(chain, "-g")
            self.table.add(chain, ANY.line("portctl", f"-g {rest}"))
            chain = rest

    def linear(self, chain: str, rule: Rule) -> None:
        """One rule, in lines of its own."""
        family = self.speaker.family
        flows = [ANY]
        if rule.flows is not None:
            flows = [words for flow in rule.flows if family in flow.families() for words in flow_choices(flow)]
        if self.opens and rule.kind is Kind.DEFAULT and rule.verdict is not Verdict.ACCEPT:
            for text in OPEN_LINES:
                self.table.add(chain, text)
        words = combine([flows, *self.speaker.dimensions(rule), state_choices(rule)])
        self.emit(chain, words, rule, rule, head=True)

    def emit(self, chain: str, choices: Choices, rule: Rule, log: Rule | None, *, head: bool = False) -> None:
        """The lines of one rule: what it does itself, or a way to the chain that does it."""
        if not choices:
            return
        actions = self.leaf(self, rule, log if log is not None and log.log else None)
        if len(actions) == 1 and actions[0][0] == ANY:
            target = actions[0][1]
        elif choices == [ANY] or self.by_protocol:
            for words in choices:
                for more, target in actions:
                    self.table.add(chain, (words & more).line(comment(rule, head=head), target))
            return
        else:
            target = f"-g {self.leaf_chain(rule, actions)}"
        for words in choices:
            self.table.add(chain, words.line(comment(rule, head=head), target))

    def leaf_chain(self, rule: Rule, actions: Actions, suffix: str = "-DO") -> str:
        key = ("leaf", rule.name, rule.kind, tuple(actions))
        if key not in self._memo:
            name = self.table.new(chain_name(self.prefix, rule.name, suffix))
            self._memo[key] = name
            for words, target in actions:
                self.table.add(name, words.line(comment(rule), target))
        return self._memo[key]


def _run(rules: Sequence[Rule], start: int) -> Sequence[Rule]:
    """The rules from `start` on that are reached by protocol and port together; none for a rule of its own."""
    first = rules[start]
    end = start
    while end < len(rules) and _alike(first, rules[end]):
        end += 1
    run = rules[start:end]
    if first.kind in GROUPED or first.syn or (first.kind is Kind.BLOCK and len(run) > LINEAR and _some_flows(run)):
        return run
    return ()


def _alike(first: Rule, rule: Rule) -> bool:
    return (
        rule.states == first.states
        and rule.syn == first.syn
        and rule.original_direction == first.original_direction
        and (rule.kind in GROUPED) == (first.kind in GROUPED)
        and (rule.kind is Kind.BLOCK) == (first.kind is Kind.BLOCK)
        and (rule.kind is Kind.DEFAULT) == (first.kind is Kind.DEFAULT)
    )


def _some_flows(run: Sequence[Rule]) -> bool:
    return any(rule.flows is not None for rule in run)


@dataclass(slots=True)
class _Group:
    """A run of rules that differ in what they ask of ports and addresses, not of states.

    `miss` is the chain where a packet goes on that none of them matches; None: back to whoever called.
    """

    direction: Direction
    rules: Sequence[Rule]
    miss: str | None
    prefix: str
    dimensions: list[list[Choices]] = field(default_factory=list)
    final: list[bool] = field(default_factory=list)
    chains: dict[object, str] = field(default_factory=dict)
    """Those that are written already, by what they decide."""

    def __post_init__(self) -> None:
        family = self.direction.speaker.family
        self.rules = [rule for rule in self.rules if family in rule.families()]
        self.dimensions = [self.direction.speaker.dimensions(rule) for rule in self.rules]
        self.final = [not asked for asked in self.dimensions]

    def memo(self, key: object, make: Callable[[], str]) -> str:
        if key not in self.chains:
            self.chains[key] = make()
        return self.chains[key]

    def enter(self, chain: str, how: str) -> None:
        """The lines that lead from a chain into the group."""
        if not self.rules:
            return
        rest = portless(self.rules, self.final)
        for protocol in protocols(self.rules, self.direction.speaker.family):
            target = self.protocol_chain(classify(self.rules, protocol, self.final))
            for words in self.guards(protocol):
                self.direction.table.add(chain, words.line("portctl", f"{how} {target}"))
        if rest:
            target = self.key_chain(rest, None)
            for words in self.guards(None):
                self.direction.table.add(chain, words.line(self.names(rest), f"{how} {target}"))

    def guards(self, protocol: int | None) -> Choices:
        """What all rules of the group ask of the state, for one protocol or for all that are not named."""
        rule = self.rules[0]
        at = Words(protocol=protocol_word(protocol)) if protocol is not None else ANY
        if not rule.syn:
            return combine([[at], state_choices(rule)])
        if protocol not in (None, TCP):
            return combine([[at], state_choices(rule)])
        tracked = rule.states & ~State.UNTRACKED
        found = [] if protocol == TCP else combine([[Words(protocol="! -p tcp")], state_choices(rule)])
        if protocol is None and TCP in protocols(self.rules, self.direction.speaker.family):
            return found
        if tracked:
            start = Words(protocol="tcp", modules=(SYN_ALONE,))
            found += combine([[start], state_choices(replace(rule, states=tracked))])
        if State.UNTRACKED in rule.states:
            found.append(Words(protocol="tcp") & state_words(State.UNTRACKED))
        return found

    def protocol_chain(self, classes: Classes) -> str:
        """Where packets of one protocol go: to the entries by port."""
        word = {58: "ICMP6"}.get(classes.protocol, protocol_word(classes.protocol).upper())
        if not classes.intervals:
            return self.key_chain(classes.rest, classes.protocol)
        name = self.direction.table.new(f"{self.prefix}-{word}")
        miss = self.key_chain(classes.rest, classes.protocol) if classes.rest else self.miss
        self.ports(name, classes.protocol, list(classes.intervals), (0, 65535), miss, word)
        return name

    def ports(
        self, chain: str, protocol: int, intervals: list[Interval], span: tuple[int, int], miss: str | None, word: str
    ) -> None:
        """Writes the way from a chain to the entries: one after the other, or by quarters of the span."""
        lines = [
            (words, key)
            for key, pairs in grouped(intervals).items()
            for words in _class_words(protocol, Ranges.of(pairs))
        ]
        if len(lines) <= LINEAR or protocol not in PROTOCOLS_WITH_PORTS:
            for words, key in lines:
                self.direction.table.add(chain, words.line(self.names(key), self.target(key, protocol)))
        else:
            for low, high, inside in children(intervals, *span):
                self.branch(chain, protocol, inside, (low, high), miss, word)
        if miss is not None:
            self.direction.table.add(chain, ANY.line("portctl", f"-g {miss}"))

    def branch(
        self, chain: str, protocol: int, inside: list[Interval], span: tuple[int, int], miss: str | None, word: str
    ) -> None:
        words = port_choices(protocol, Ranges.of([span]), EVERY_PORT)[0]
        first, last, key = inside[0]
        if len(inside) == 1:
            exact = port_choices(protocol, Ranges.of([(first, last)]), EVERY_PORT)[0]
            self.direction.table.add(chain, exact.line(self.names(key), self.target(key, protocol)))
            return
        name = self.direction.table.new(_short(f"{self.prefix}-{word}-{span[0]}-{span[1]}"))
        self.direction.table.add(chain, words.line("portctl", f"-g {name}"))
        self.ports(name, protocol, inside, span, miss, word)

    def names(self, key: Key) -> str:
        """The comment of a way to the entries of a class."""
        names = dict.fromkeys(self.rules[i].name for i, _ in key)
        if len(names) == 1:
            return comment(self.rules[key[0][0]], head=True)
        return cut(", ".join(names), COMMENT_LENGTH)

    def target(self, key: Key, protocol: int) -> str:
        """Straight to the verdict where there is nothing left to ask, else to the entries' own chain."""
        index, sources = key[0]
        if self.final[index] and sources is None and not self.also_logging(key, 0):
            rule = self.rules[index]
            actions = self.direction.leaf(self.direction, rule, rule if rule.log else None)
            if len(actions) == 1 and actions[0][0] == ANY:
                return actions[0][1]
        return f"-g {self.key_chain(key, protocol)}"

    def key_chain(self, key: Key, protocol: int | None) -> str:
        """The chain of the entries of one class, or of several classes with the same entries."""
        asks = self.direction.by_protocol or any(sources is not None for _, sources in key)
        return self.memo((key, protocol if asks else None), lambda: self.write_key(key, protocol, asks))

    def write_key(self, key: Key, protocol: int | None, asks: bool) -> str:
        label = "+".join(dict.fromkeys(self.rules[i].name for i, _ in key))
        suffix = f"-{protocol_word(protocol).upper()}" if asks and protocol is not None else ""
        chain = first = self.direction.table.new(chain_name(self.prefix, label, suffix))
        for position, (index, sources) in enumerate(key):
            rule = self.rules[index]
            dimensions = list(self.dimensions[index])
            if sources is not None and protocol is not None:
                dimensions.insert(0, port_choices(protocol, EVERY_PORT, sources))
            elif self.direction.by_protocol and protocol is not None:
                dimensions.insert(0, [Words(protocol=protocol_word(protocol))])
            chain = self.entry(chain, rule, dimensions, self.also_logging(key, position))
            if not dimensions:
                return first
        if self.miss is not None:
            self.direction.table.add(chain, ANY.line("portctl", f"-g {self.miss}"))
        return first

    def entry(self, chain: str, rule: Rule, dimensions: list[Choices], also: list[int]) -> str:
        """Writes one entry's lines into a chain. Returns the chain where the next entry's belong."""
        table = self.direction.table
        count = 1
        for choices in dimensions:
            count *= len(choices)
        if count <= MOST_PRODUCT or len([c for c in dimensions if len(c) > 1]) < 2:
            self.decide(chain, combine(dimensions), rule, also)
            return chain
        after = table.new(chain_name(self.prefix, rule.name, "-ELSE"))
        for choices in dimensions[:-1]:
            onward = table.new(chain_name(self.prefix, rule.name, "-AND"))
            for words in choices:
                table.add(chain, words.line(comment(rule), f"-g {onward}"))
            table.add(chain, ANY.line("portctl", f"-g {after}"))
            chain = onward
        self.decide(chain, dimensions[-1], rule, also)
        table.add(chain, ANY.line("portctl", f"-g {after}"))
        return after

    def decide(self, chain: str, choices: Choices, rule: Rule, also: list[int]) -> None:
        """The verdict; where a later entry wants the packet logged, by way of a chain that asks it."""
        if not also:
            self.direction.emit(chain, choices, rule, rule)
            return
        name = self.memo(("also", rule.name, rule.kind, tuple(also)), lambda: self.write_also(rule, also))
        for words in choices:
            self.direction.table.add(chain, words.line(comment(rule), f"-g {name}"))

    def write_also(self, rule: Rule, also: list[int]) -> str:
        """Does what `rule` says, and logs what one of the entries `also` admits as well."""
        name = self.direction.table.new(chain_name(self.prefix, rule.name, "-ALSO"))
        for index in also:
            other = self.rules[index]
            self.direction.emit(name, combine(self._log_dimensions(other, index)), rule, other)
        self.direction.emit(name, [ANY], rule, None)
        return name

    def _log_dimensions(self, rule: Rule, index: int) -> list[Choices]:
        """The class is that of its ports already, but for those that it asks of the source."""
        if rule.flows is None or all(flow.source_ports == EVERY_PORT for flow in rule.flows):
            return self.dimensions[index]
        family = self.direction.speaker.family
        flows = [words for flow in rule.flows if family in flow.families() for words in flow_choices(flow)]
        return [flows, *self.dimensions[index]]

    def also_logging(self, key: Key, position: int) -> list[int]:
        """The later entries of a class that log what this one admits."""
        rule = self.rules[key[position][0]]
        if rule.log or rule.verdict is not Verdict.ACCEPT:
            return []
        return [i for i, _ in key[position + 1 :] if self.rules[i].log and self.rules[i].kind is rule.kind]


def _class_words(protocol: int, numbers: Ranges) -> Choices:
    if protocol in (ICMP, ICMPV6):
        return flow_choices(Flow(protocol, numbers))
    return port_choices(protocol, numbers, EVERY_PORT)


def _short(name: str) -> str:
    return name if len(name) <= CHAIN_LENGTH else name[: CHAIN_LENGTH - 7] + "." + digest(name, 6)
