"""Entries reached by protocol and port: a few one after the other, many through a tree, so that one more is free."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from itertools import groupby
from typing import TYPE_CHECKING

from portctl.backends.iptables.dispatch import Asked, Classes, Interval, Key, children, grouped
from portctl.backends.iptables.names import CHAIN_LENGTH, COMMENT_LENGTH, chain_name, comment, cut, digest
from portctl.backends.iptables.words import (
    ANY,
    MOST_PRODUCT,
    SYN_ALONE,
    Choices,
    Words,
    combine,
    count,
    flow_choices,
    port_choices,
    port_text,
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
    Flows,
    Rule,
    State,
    Verdict,
)

if TYPE_CHECKING:
    from portctl.backends.iptables.chains import Direction

LINEAR = 8
"""As many port classes are asked one after the other; more become a tree."""


Way = tuple[int, Words, str]
"""A protocol, the condition of the line that leads its packets on, and the chain where to."""


def _turned(rule: Rule) -> bool:
    return rule.original is not None and rule.flows is None


def parts(run: Sequence[Rule]) -> list[Sequence[Rule]]:
    """A run, parted into rules about translated packets and others, which are reached by different ports.

    Rules without limits that say the same may change places; the entry that translated a packet also names it. What
    exceeds the limit of a forward is dropped before anybody asks whether somebody else has published it.
    """
    first = any(rule.limited and not rule.published for rule in run)
    ordered = sorted(run, key=lambda rule: (first and rule.published, rule.limited, not _turned(rule)))
    if not any(_turned(rule) for rule in run):
        return [run]
    return [list(part) for _, part in groupby(ordered, key=_turned)]


class _Axis(Enum):
    """Which port tells a group's rules apart."""

    PORT = "destination"
    SOURCE_PORT = "source"
    ORIGINAL_PORT = "destination before translation"


def _axis(rules: Sequence[Rule]) -> _Axis:
    if all(_turned(rule) for rule in rules):
        return _Axis.ORIGINAL_PORT
    flows = [flow for rule in rules for flow in rule.flows or () if flow.protocol in PROTOCOLS_WITH_PORTS]
    by_source = sum(flow.source_ports != EVERY_PORT for flow in flows)
    return _Axis.SOURCE_PORT if by_source > sum(flow.ports != EVERY_PORT for flow in flows) else _Axis.PORT


def _flows(rule: Rule, axis: _Axis) -> Flows:
    """A rule's flows, the ports of the axis in the place of destination ports."""
    if axis is _Axis.ORIGINAL_PORT:
        return rule.original.flows if rule.original else None
    if axis is _Axis.PORT or rule.flows is None:
        return rule.flows
    return tuple(flow.reversed() if flow.protocol in PROTOCOLS_WITH_PORTS else flow for flow in rule.flows)


@dataclass(slots=True)
class Group:
    """A run of rules that differ in what they ask of ports and addresses, not of states.

    `miss` is the chain where a packet goes on that none of them matches; None: back to whoever called. `staged`: so
    does what they admit, with a mark.
    """

    direction: Direction
    rules: Sequence[Rule]
    miss: str | None
    prefix: str
    staged: bool = False
    axis: _Axis = _Axis.PORT
    dimensions: list[list[Choices]] = field(default_factory=list)
    asked: Asked = field(default_factory=lambda: Asked((), (), ()))
    chains: dict[object, str] = field(default_factory=dict)
    """Those that are written already, by what they decide."""

    def __post_init__(self) -> None:
        family = self.direction.speaker.family
        self.rules = [rule for rule in self.rules if family in rule.families()]
        self.axis = _axis(self.rules)
        turned = self.axis is _Axis.ORIGINAL_PORT
        if turned:
            self.prefix = f"{self.prefix}-DNAT"
        self.dimensions = [self.asks(rule, turned) for rule in self.rules]
        self.asked = Asked(
            [_flows(rule, self.axis) for rule in self.rules],
            [not asked for asked in self.dimensions],
            [rule.log for rule in self.rules],
        )

    def asks(self, rule: Rule, turned: bool) -> list[Choices]:
        """What a rule asks beside ports and state. Lists of addresses are sets where else there were many lines."""
        speaker = self.direction.speaker
        found = speaker.dimensions(rule, turned=turned)
        return found if count(found) <= MOST_PRODUCT else speaker.dimensions(rule, turned=turned, most=1)

    def memo(self, key: object, make: Callable[[], str]) -> str:
        if key not in self.chains:
            self.chains[key] = make()
        return self.chains[key]

    def enter(self, chain: str, how: str) -> list[Way]:
        """Writes the lines that lead from a chain into the group. Returns the first of each protocol that is named."""
        if not self.rules:
            return []
        ways = []
        rest = self.asked.portless()
        for protocol in self.asked.protocols(self.direction.speaker.family):
            target = self.protocol_chain(self.asked.classify(protocol))
            guards = self.guards(protocol)
            ways.append((protocol, guards[0], target))
            for words in guards:
                self.direction.table.add(chain, words.line("", f"{how} {target}"))
        if rest:
            target = self.key_chain(rest, None)
            for words in self.guards(None):
                self.direction.table.add(chain, words.line(self.names(rest), f"{how} {target}"))
        return ways

    def guards(self, protocol: int | None) -> Choices:
        """What all rules of the group ask of the state, for one protocol or for all that are not named."""
        rule = self.rules[0]
        at = Words(protocol=protocol_word(protocol)) if protocol is not None else ANY
        if self.axis is _Axis.ORIGINAL_PORT:
            at &= Words(modules=("-m conntrack --ctstate DNAT",))
        if not rule.syn:
            return combine([[at], state_choices(rule)])
        if protocol not in (None, TCP):
            return combine([[at], state_choices(rule)])
        tracked = rule.states & ~State.UNTRACKED
        found = [] if protocol == TCP else combine([[at & Words(protocol="! tcp")], state_choices(rule)])
        if protocol is None and TCP in self.asked.protocols(self.direction.speaker.family):
            return found
        if tracked:
            start = at & Words(protocol="tcp", modules=(SYN_ALONE,))
            found += combine([[start], state_choices(replace(rule, states=tracked))])
        if State.UNTRACKED in rule.states and self.axis is not _Axis.ORIGINAL_PORT:
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
        """Writes the way from a chain to the entries: one after the other, or by sixteenths of the span."""
        lines = [
            (words, key)
            for key, pairs in grouped(intervals).items()
            for words in _class_words(self.axis, protocol, Ranges.of(pairs))
        ]
        if len(lines) <= LINEAR or protocol not in PROTOCOLS_WITH_PORTS:
            for words, key in lines:
                self.leaf(chain, words, key, protocol)
        else:
            for low, high, inside in children(intervals, *span):
                self.branch(chain, protocol, inside, (low, high), miss, word)
        if miss is not None:
            self.direction.table.add(chain, ANY.line("", f"-g {miss}"))

    def branch(
        self, chain: str, protocol: int, inside: list[Interval], span: tuple[int, int], miss: str | None, word: str
    ) -> None:
        words = _class_words(self.axis, protocol, Ranges.of([span]))[0]
        first, last, key = inside[0]
        if len(inside) == 1:
            exact = _class_words(self.axis, protocol, Ranges.of([(first, last)]))[0]
            self.leaf(chain, exact, key, protocol)
            return
        # The longest names just fit: what is translated is TCP most often.
        part = "" if self.axis is _Axis.ORIGINAL_PORT and protocol == TCP else f"-{word}"
        name = self.direction.table.new(_short(f"{self.prefix}{part}-{span[0]}-{span[1]}"))
        self.direction.table.add(chain, words.line("", f"-g {name}"))
        self.ports(name, protocol, inside, span, miss, word)

    def names(self, key: Key) -> str:
        """The comment of a way to the entries of a class."""
        names = dict.fromkeys(self.rules[i].name for i, _ in key)
        if len(names) == 1:
            return comment(self.rules[key[0][0]], head=True)
        return cut(", ".join(names), COMMENT_LENGTH)

    def leaf(self, chain: str, words: Words, key: Key, protocol: int) -> None:
        """The line of a class: all that its entry says, where one line can, or the way to what is left to ask."""
        index, sources = key[0]
        if len(key) == 1 and sources is None and count(self.dimensions[index]) == 1:
            actions = self.direction.actions(self.rules[index], self.rules[index], staged=self.staged)
            if len(actions) == 1 and actions[0][0] == ANY:
                asked = words & combine(self.dimensions[index])[0]
                self.direction.table.add(chain, asked.line(self.names(key), actions[0][1]))
                return
        self.direction.table.add(chain, words.line(self.names(key), self.target(key, protocol)))

    def target(self, key: Key, protocol: int) -> str:
        """Straight to the verdict where there is nothing left to ask, else to the entries' own chain."""
        index, sources = key[0]
        if self.asked.final[index] and sources is None and not self.also_logging(key, 0):
            rule = self.rules[index]
            actions = self.direction.actions(rule, rule, staged=self.staged)
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
                dimensions.insert(0, self.other_ports(protocol, sources))
            elif self.direction.by_protocol and protocol is not None:
                dimensions.insert(0, [Words(protocol=protocol_word(protocol))])
            chain = self.entry(chain, rule, dimensions, self.also_logging(key, position))
            if not dimensions:
                return first
        if self.miss is not None:
            self.direction.table.add(chain, ANY.line("", f"-g {self.miss}"))
        return first

    def other_ports(self, protocol: int, numbers: Ranges) -> Choices:
        """The ports at the other end than those that the axis goes by."""
        if self.axis is _Axis.SOURCE_PORT:
            return port_choices(protocol, numbers, EVERY_PORT)
        return port_choices(protocol, EVERY_PORT, numbers)

    def entry(self, chain: str, rule: Rule, dimensions: list[Choices], also: list[int]) -> str:
        """Writes one entry's lines into a chain. Returns the chain where the next entry's belong."""
        table = self.direction.table
        flat = self.direction.staged or len([c for c in dimensions if len(c) > 1]) < 2
        if flat or count(dimensions) <= MOST_PRODUCT:
            self.decide(chain, combine(dimensions), rule, also)
            return chain
        after = table.new(chain_name(self.prefix, rule.name, "-ELSE"))
        for choices in dimensions[:-1]:
            onward = table.new(chain_name(self.prefix, rule.name, "-AND"))
            for words in choices:
                table.add(chain, words.line(comment(rule), f"-g {onward}"))
            table.add(chain, ANY.line("", f"-g {after}"))
            chain = onward
        self.decide(chain, dimensions[-1], rule, also)
        table.add(chain, ANY.line("", f"-g {after}"))
        return after

    def decide(self, chain: str, choices: Choices, rule: Rule, also: list[int]) -> None:
        """The verdict; where a later entry wants the packet logged, by way of a chain that asks it."""
        if not also:
            self.direction.emit(chain, choices, rule, rule, staged=self.staged)
            return
        name = self.memo(("also", rule.name, rule.kind, tuple(also)), lambda: self.write_also(rule, also))
        for words in choices:
            self.direction.table.add(chain, words.line(comment(rule), f"-g {name}"))

    def write_also(self, rule: Rule, also: list[int]) -> str:
        """Does what `rule` says, and logs what one of the entries `also` admits as well."""
        name = self.direction.table.new(chain_name(self.prefix, rule.name, "-ALSO"))
        for index in also:
            other = self.rules[index]
            asked = combine(self._log_dimensions(index))
            self.direction.emit(name, asked, rule, other, staged=self.staged)
            if asked == [ANY]:
                return name  # Admitting a packet in a stage does not end the chain: limits would count it twice.
        self.direction.emit(name, [ANY], rule, None, staged=self.staged)
        return name

    def _log_dimensions(self, index: int) -> list[Choices]:
        """The class is that of its ports already, but for those that it asks of the source."""
        flows = self.asked.flows[index]
        if flows is None or all(flow.source_ports == EVERY_PORT for flow in flows):
            return self.dimensions[index]
        family = self.direction.speaker.family
        named = [flow for flow in flows if family in flow.families()]
        ports = [words for flow in named for words in self.other_ports(flow.protocol, flow.source_ports)]
        return [ports, *self.dimensions[index]]

    def also_logging(self, key: Key, position: int) -> list[int]:
        """The later entries of a class that log what this one admits."""
        rule = self.rules[key[position][0]]
        if rule.log or rule.verdict is not Verdict.ACCEPT:
            return []
        return [i for i, _ in key[position + 1 :] if self.rules[i].log and self.rules[i].kind is rule.kind]


def _class_words(axis: _Axis, protocol: int, numbers: Ranges) -> Choices:
    if protocol in (ICMP, ICMPV6):
        return flow_choices(Flow(protocol, numbers))
    if axis is _Axis.SOURCE_PORT:
        return port_choices(protocol, EVERY_PORT, numbers)
    if axis is _Axis.PORT:
        return port_choices(protocol, numbers, EVERY_PORT)
    word = protocol_word(protocol)
    texts = [port_text(first, last) for first, last in numbers.pairs()]
    return [Words(protocol=word, modules=(f"-m conntrack --ctorigdstport {text}",)) for text in texts]


def _short(name: str) -> str:
    return name if len(name) <= CHAIN_LENGTH else name[: CHAIN_LENGTH - 7] + "." + digest(name, 6)
