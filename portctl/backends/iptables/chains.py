"""Rules in order become chains: fixed lines one after the other, entries reached by protocol and port.

A packet goes (`-g`) from chain to chain and never comes back, so that RETURN leaves portctl's rules altogether: what is
admitted goes on to the rules of others, what is refused ends here. Runs that only deny are called (`-j`) and fall
through.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from portctl.backends.iptables.blocks import block_run, cover_choices, covered, covers
from portctl.backends.iptables.groups import LINEAR, Group, Way, parts
from portctl.backends.iptables.names import CHAIN_LENGTH, chain_name, comment, digest
from portctl.backends.iptables.shortcuts import admission, bypass
from portctl.backends.iptables.words import (
    ANY,
    Choices,
    Speaker,
    Words,
    combine,
    flow_choices,
    protocol_word,
    state_choices,
)
from portctl.ruleset import TCP, UDP, Kind, Rule, Verdict

GROUPED = (Kind.SERVICE, Kind.EGRESS, Kind.FORWARD, Kind.PUBLISHED)
FEW = 4
OPEN_MARK = 0x04000000
"""Bit of the packet mark: one of the connections that were open before there were rules; or admitted by a stage, till
the chain that called the stage has seen it."""
CLEAR = f"-j MARK --set-xmark 0x0/0x{OPEN_MARK:x}"
ADMIT = f"-j MARK --set-xmark 0x{OPEN_MARK:x}/0x{OPEN_MARK:x}"
ADMITTED = Words(modules=(f"-m mark --mark 0x{OPEN_MARK:x}/0x{OPEN_MARK:x}",))
OPEN_CHAIN = "PORTCTL-OPEN"
OPEN_LINES = tuple(
    Words(modules=("-m conntrack --ctstate NEW", *modules)).line("", target)
    for modules, target in (
        ((), CLEAR),
        ((), f"-j {OPEN_CHAIN}"),
        (ADMITTED.modules, "-j RETURN"),
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
            plain = f"{wanted}{again + 1}"
            name = plain if len(plain) <= CHAIN_LENGTH else wanted[: CHAIN_LENGTH - 7] + "." + digest(plain, 6)
        self.chains[name] = []
        return name

    def add(self, chain: str, line: str) -> None:
        self.chains[chain].append(f"-A {chain} {line}")

    def nesting(self) -> tuple[int, int]:
        """How many chains are nested at most, the built-in one among them; how many ways lead through them.

        nf_tables refuses more than 16 nested chains, and walks every way when it loads them.
        """
        found: dict[str, tuple[int, int]] = {}
        waiting = list(self.chains)
        while waiting:
            chain = waiting[-1]
            onward = [name for line in self.chains[chain] if (name := line.rsplit(" ", 1)[1]) in self.chains]
            unknown = {name for name in onward if name not in found}
            if unknown:
                waiting += unknown
                continue
            depth = 1 + max((found[name][0] for name in onward), default=0)
            found[chain] = depth, 1 + sum(found[name][1] for name in onward)
            waiting.pop()
        return 1 + max((depth for depth, _ in found.values()), default=0), max(
            (w for _, w in found.values()), default=0
        )


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
    staged: bool = False
    """Groups are called one after the other, and what one admits comes back with a mark. So any number of them nests no
    deeper than one, for a few rules more on the way."""
    head: int = 0
    """How many lines at the beginning of the first chain are for what comes most often."""
    _memo: dict[object, str] = field(default_factory=dict)

    def sequence(self, chain: str, rules: Sequence[Rule]) -> None:
        """Writes rules into a chain, first match first."""
        rules = [rule for rule in rules if self.speaker.family in rule.families()]
        if not self.by_protocol:
            rules = self.shortcut(chain, rules)
        self.head = len(self.table.chains[chain])
        top, position = chain, 0
        while position < len(rules):
            if blocks := block_run(self.speaker, rules, position):
                self.called(chain, blocks)
                position += len(blocks)
                continue
            if same := _same_protocol(rules, position):
                chain = self.aside(chain, same)
                position += len(same)
                continue
            run = _run(rules, position)
            if not run:
                self.linear(chain, rules[position])
                position += 1
                continue
            before, position = rules[:position], position + len(run)
            if all(rule.verdict is not Verdict.ACCEPT for rule in run):
                Group(self, run, None, self.table.new(f"{self.prefix}-BLOCK")).enter(chain, "-j")
                continue
            for part in parts(run):
                lines = len(self.table.chains[top])
                chain, ways = self.group(chain, part, last=position == len(rules) and part[-1] is run[-1])
                if lines - self.head > FEW or chain != top:
                    self.bypasses(top, before, ways)
                before = [*before, *part]

    def shortcut(self, chain: str, rules: Sequence[Rule]) -> list[Rule]:
        """Known connections first: most packets belong to one. Returns the rules that are left.

        The line needs no name: iptables-nft would ask for it every time, which costs as much as another rule.
        """
        found = admission(self.speaker, covered(self.speaker, rules))
        if found is None:
            return list(rules)
        self.table.add(chain, found.words.line("", "-j RETURN"))
        return [rule for rule in rules if not found.whole or rule is not found.rule]

    def bypasses(self, top: str, before: Sequence[Rule], ways: Sequence[Way]) -> None:
        """Lines at the head of the first chain for what starts a connection and is nothing of what comes before."""
        if self.staged or self.by_protocol or any(rule.kind in GROUPED and rule.original is None for rule in before):
            return
        avoided = covered(self.speaker, before)
        for protocol, guard, target in ways:
            if protocol in (TCP, UDP) and (words := bypass(self.speaker, avoided, guard, protocol)):
                self.table.chains[top].insert(self.head, f"-A {top} {words.line('', f'-g {target}')}")
                self.head += 1

    def group(self, chain: str, rules: Sequence[Rule], last: bool) -> tuple[str, list[Way]]:
        """Writes the way from a chain to a group's entries. Returns the chain that goes on after it, and the way."""
        if self.staged:
            self.stage(chain, rules)
            return chain, []
        if last:
            return chain, Group(self, rules, None, self.prefix).enter(chain, "-g")
        rest = self.table.new(f"{self.prefix}-REST")
        ways = Group(self, rules, rest, self.prefix).enter(chain, "-g")
        self.table.add(chain, ANY.line("", f"-g {rest}"))
        return rest, ways

    def stage(self, chain: str, rules: Sequence[Rule]) -> None:
        """Calls a group; what comes back with the mark is admitted. Before the first one nothing bears it."""
        done, stage = f"{self.prefix}-DONE", self.table.new(f"{self.prefix}-STAGE")
        if done not in self.table.chains:
            self.table.new(done)
            self.table.add(done, ANY.line("", CLEAR))
            self.table.add(done, ANY.line("", "-j RETURN"))
            self.table.add(chain, ANY.line("", CLEAR))
        Group(self, rules, None, self.prefix, staged=True).enter(stage, "-g")
        self.table.add(chain, ANY.line("", f"-j {stage}"))
        self.table.add(chain, ADMITTED.line("", f"-g {done}"))

    def actions(self, rule: Rule, log: Rule | None, *, staged: bool = False) -> Actions:
        """What is done with a packet that a rule matches. In a stage, admitting it is setting the mark."""
        found = self.leaf(self, rule, log if log is not None and log.log else None)
        if not staged or found[-1] != (ANY, "-j RETURN"):
            return found
        if len(found) > 1:
            return [*found[:-1], (ANY, ADMIT)]
        name = f"{self.prefix}-ADMIT"
        if name not in self.table.chains:
            self.table.new(name)
            self.table.add(name, ANY.line("", ADMIT))
        return [(ANY, f"-g {name}")]

    def called(self, chain: str, blocks: Sequence[Rule]) -> None:
        """Many blocked lists: one look-up says whether a packet is in any of them, and only then each is asked."""
        own = self.table.new(f"{self.prefix}-BLOCK")
        for rule in blocks:
            self.linear(own, rule)
        for words in (words for cover in covers(blocks) for words in cover_choices(self.speaker, cover)):
            self.table.add(chain, words.line("", f"-j {own}"))

    def aside(self, chain: str, rules: Sequence[Rule]) -> str:
        """Fixed rules of one protocol in a chain of their own: packets of others pass them by in one step."""
        own, rest = self.table.new(f"{self.prefix}-FIXED"), self.table.new(f"{self.prefix}-REST")
        protocol = protocol_word((rules[0].flows or ())[0].protocol)
        self.table.add(chain, Words(protocol=protocol).line("", f"-g {own}"))
        for rule in rules:
            self.linear(own, rule)
        for each in (own, chain):
            self.table.add(each, ANY.line("", f"-g {rest}"))
        return rest

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

    def emit(
        self, chain: str, choices: Choices, rule: Rule, log: Rule | None, *, head: bool = False, staged: bool = False
    ) -> None:
        """The lines of one rule: what it does itself, or a way to the chain that does it."""
        if not choices:
            return
        actions = self.actions(rule, log, staged=staged)
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


def _same_protocol(rules: Sequence[Rule], start: int) -> Sequence[Rule]:
    """The fixed rules from `start` on that are all about one protocol, if they take more than a few lines."""
    end, protocols, lines = start, set[int](), 0
    while end < len(rules) and rules[end].kind is Kind.FIXED and len(flows := rules[end].flows or ()) == 1:
        protocols.add(flows[0].protocol)
        if len(protocols) > 1:
            break
        lines += len(flow_choices(flows[0]))
        end += 1
    return rules[start:end] if lines > FEW else ()


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
