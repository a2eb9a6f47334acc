"""From rules to chains: what stands in the base chains, what a port is dispatched to, what a rule does."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import groupby

from portctl.backends.base import MASQUERADE_MARK
from portctl.backends.nftables import sets, words
from portctl.backends.nftables.conditions import Case, Part, cases
from portctl.backends.nftables.dispatch import classes, found_by_port
from portctl.backends.nftables.sets import Book
from portctl.net import Family
from portctl.ruleset import (
    EVERY_PORT,
    EVERY_STATE,
    TCP,
    Direction,
    Flows,
    Kind,
    Rule,
    Ruleset,
    State,
    Verdict,
)

COUNTER = "counter packets 0 bytes 0"
NO_START = "ct state new tcp flags != syn / fin,syn,rst,ack"
DENIED_LOG = "limit rate 10/second"
FEW = 3
"""So many rules with ports are asked one after the other; more are dispatched."""

BASES = {Direction.INBOUND: "input", Direction.OUTBOUND: "output", Direction.FORWARDED: "forward"}


@dataclass(slots=True)
class Table:
    """The table as it grows."""

    ruleset: Ruleset
    clock: bool
    book: Book
    marks: dict[str, int]
    """Packet mark of each forward whose source is translated."""
    chains: dict[str, list[str]] = field(default_factory=dict)

    def chain(self, wanted: str) -> str:
        """Makes an empty chain; the name gets a number if it is taken."""
        name, number = wanted, 1
        while name in self.chains:
            number += 1
            name = f"{wanted}-{number}"
        self.chains[name] = []
        return name

    def add(self, chain: str, *parts: str) -> None:
        self.chains[chain].append(" ".join(part for part in parts if part))


@dataclass(frozen=True, slots=True)
class Deed:
    """What a rule does once its conditions hold: one more condition, or none, and statements."""

    condition: str
    statements: str


def base(table: Table, direction: Direction, head: str) -> None:
    """A base chain of the filter: every rule of a direction, first match first."""
    name = BASES[direction]
    table.chains[name] = [head]
    rules = table.ruleset.rules(direction)
    *before, last = rules
    _all(table, name, direction, before)
    if last.verdict is not Verdict.ACCEPT and direction is not Direction.FORWARDED:
        _open(table, name, direction)
    _inline(table, name, last)


def _all(table: Table, base_name: str, direction: Direction, rules: Sequence[Rule]) -> None:
    for (states, syn, original), run in groupby(rules, lambda r: (r.states, r.syn, r.original_direction)):
        members = list(run)
        ported = sum(any(found_by_port(flow) for flow in rule.flows or ()) for rule in members)
        asked = words.states(states) if states != EVERY_STATE else ""
        if not syn and not original and ported <= FEW:
            for rule in members:
                _inline(table, base_name, rule, asked)
            continue
        stem = f"{direction.value}-{'starting' if syn else 'original' if original else 'ports'}"
        chain = table.chain(stem)
        table.add(base_name, asked, f"jump {chain}")
        if syn and State.NEW in states:
            table.add(chain, NO_START, "return")
        if original:
            table.add(chain, "ct direction reply return")
        _run(table, chain, members)


def _run(table: Table, chain: str, rules: list[Rule]) -> None:
    """Rules of the same states: each in a chain of its own, found by port."""
    plain = all(rule.verdict is Verdict.ACCEPT and not rule.limited for rule in rules)
    flows = [rule.flows for rule in rules]
    targets = [_own_chain(table, rule, rules, recheck=_recheck(rule.flows, plain=plain)) for rule in rules]
    dispatch(table, chain, flows, targets, plain=plain)


def _recheck(flows: Flows, *, plain: bool) -> bool:
    """Whether the dispatch leaves something of the flows to be asked in the rule's own chain."""
    return any(
        flow.source_ports != EVERY_PORT and found_by_port(flow) and (not plain or flow.ports != EVERY_PORT)
        for flow in flows or ()
    )


def dispatch(table: Table, chain: str, flows: Sequence[Flows], targets: Sequence[str], *, plain: bool) -> None:
    """Sends each packet to the targets whose flows it may belong to, in their order.

    `plain`: the order of targets decides no verdict, so those found by source port may come second.
    """
    _map(table, chain, flows, targets, "dport", others=not plain)
    if plain:
        _map(table, chain, flows, targets, "sport", others=False)
    for wanted, target in zip(flows, targets, strict=True):
        if wanted is None:
            table.add(chain, f"jump {target}")
            continue
        for flow in wanted:
            if found_by_port(flow) and (plain or flow.ports != EVERY_PORT):
                continue
            for text in words.flow(flow):
                table.add(chain, text, f"jump {target}")


def _map(table: Table, chain: str, flows: Sequence[Flows], targets: Sequence[str], side: str, *, others: bool) -> None:
    found = classes(flows, "dport" if side == "dport" else "sport", others=others)
    if not found:
        return
    shared: dict[tuple[int, ...], str] = {}
    entries: list[str] = []
    for item in found:
        target = targets[item.members[0]] if len(item.members) == 1 else shared.get(item.members)
        if target is None:
            target = table.chain(f"{chain}-{words.protocol(item.protocol)}-{item.first}")
            table.chains[target] = [f"jump {targets[member]}" for member in item.members]
            shared[item.members] = target
        ports = str(item.first) if item.first == item.last else f"{item.first}-{item.last}"
        entries.append(f"{words.protocol(item.protocol)} . {ports} : jump {target}")
    name = f"{chain}-{'ports' if side == 'dport' else 'source-ports'}"
    table.book.maps[name] = sets.mapping(name, "inet_proto . inet_service", entries)
    table.add(chain, f"meta l4proto . th {side} vmap @{name}")


def _own_chain(table: Table, rule: Rule, run: Sequence[Rule], *, recheck: bool) -> str:
    chain = table.chain(f"{rule.kind.value}-{words.identifier(rule.name)}")
    about = "; ".join(
        text for text in (rule.description, rule.owner and f"owner {rule.owner}", rule.ticket) if text is not None
    )
    if words.FORBIDDEN.sub(" ", about).strip():
        table.add(chain, f"comment {words.quoted(about)}")
    later = _loggers(rule, run)
    deeds = [Deed("", f"jump {_log_chain(table, other)}") for other in later] + _deeds(table, rule)
    for case in cases(rule, table.book, flows=recheck, clock=table.clock):
        emit(table, chain, case, _fit(table, rule, case, deeds))
    return chain


def _loggers(rule: Rule, run: Sequence[Rule]) -> list[Rule]:
    """The later entries that log what this one admits silently: the log is the union of those that admit."""
    if rule.log or rule.verdict is not Verdict.ACCEPT:
        return []
    later = run[next(k for k, other in enumerate(run) if other is rule) + 1 :]
    return [other for other in later if other.log and other.kind is rule.kind and _meet(rule, other)]


def _meet(left: Rule, right: Rule) -> bool:
    """Whether a packet may match both, by addresses and ports."""
    if not (left.source & right.source) or not (left.destination & right.destination):
        return False
    if left.flows is None or right.flows is None:
        return True
    return any(a.protocol == b.protocol and a.ports & b.ports for a in left.flows for b in right.flows)


def _log_chain(table: Table, rule: Rule) -> str:
    name = f"log-{rule.kind.value}-{words.identifier(rule.name)}"
    if name not in table.chains:
        table.chains[name] = []
        for case in cases(rule, table.book, flows=True, clock=table.clock):
            emit(table, name, case, [Deed("", _log(rule))])
    return name


def _inline(table: Table, chain: str, rule: Rule, asked: str = "") -> None:
    """A rule in place, without a chain of its own."""
    deeds = _deeds(table, rule)
    for case in cases(rule, table.book, flows=True, clock=table.clock):
        whole = Case(((asked, *case.parts) if asked else case.parts), case.family, case.protocol)
        emit(table, chain, whole, _fit(table, rule, case, deeds))


def _log(rule: Rule) -> str:
    return f'log prefix {words.quoted(f"portctl {rule.name}")[:-1]} "'


def _deeds(table: Table, rule: Rule) -> list[Deed]:
    comment = f"comment {words.quoted(rule.name)}"
    if rule.verdict is Verdict.ACCEPT:
        mark = mark_text(table.marks, rule)
        log = _log(rule) if rule.log else ""
        return [Deed("", " ".join(part for part in (mark, COUNTER, log, "accept", comment) if part))]
    return _denials(table, rule, rule.verdict, comment)


def _denials(table: Table, rule: Rule, verdict: Verdict, comment: str) -> list[Deed]:
    log = [Deed("", f"{DENIED_LOG} {_log(rule)}")] if table.ruleset.log_denied or rule.log else []
    if verdict is Verdict.DROP:
        return [*log, Deed("", f"{COUNTER} drop {comment}")]
    return [
        *log,
        Deed("meta l4proto tcp", f"{COUNTER} reject with tcp reset {comment}"),
        Deed("", f"{COUNTER} reject {comment}"),
    ]


def mark_text(marks: dict[str, int], rule: Rule) -> str:
    """The mark by which `nat-postrouting` knows what a forward admitted."""
    if rule.kind is not Kind.FORWARD or rule.name not in marks:
        return ""
    value = marks[rule.name]
    if set(marks.values()) == {MASQUERADE_MARK}:
        return f"meta mark set meta mark | {value:#010x}"
    return f"meta mark set meta mark & {0xFFFFFFFF & ~MARKS | value:#010x} | {value:#010x}"


MARKS = 0x7E000000
"""The bits that tell apart several kinds of source translation: `MASQUERADE_MARK` and the five above."""


def _fit(table: Table, rule: Rule, case: Case, deeds: list[Deed]) -> list[Deed]:
    """The deeds for one case: its own limit tables, and only the answers that its protocol can get."""
    if rule.limited and rule.verdict is Verdict.ACCEPT:
        assert case.family is not None
        within = " ".join(_limits(table, rule, case.family))
        over = _denials(table, rule, Verdict.DROP, f"comment {words.quoted(rule.name + ' over its limit')}")
        *first, admit = deeds
        return [*first, Deed(within, admit.statements), *over]
    if rule.verdict is Verdict.REJECT:
        return _answers(case, deeds)
    return deeds


def _answers(case: Case, deeds: list[Deed]) -> list[Deed]:
    *first, reset, unreachable = deeds
    if case.protocol == TCP:
        return [*first, Deed("", reset.statements)]
    if case.family is not None:
        word = "icmp" if case.family == 4 else "icmpv6"
        unreachable = Deed("", unreachable.statements.replace("reject ", f"reject with {word} port-unreachable ", 1))
    return [*first, unreachable] if case.protocol is not None else [*first, reset, unreachable]


def _limits(table: Table, rule: Rule, family: Family) -> Iterable[str]:
    """Conditions that hold within the limits. In a full table a new source has no place, so they do not hold."""
    source = "ip saddr" if family == 4 else "ip6 saddr & ffff:ffff:ffff:ffff::"
    stem = f"{rule.kind.value}-{words.identifier(rule.name)}"
    if rule.max_connections is not None:
        name = f"limit-{stem}-{_digest('connections', rule.max_connections)}-{family}"
        table.book.limits[name] = sets.connections(name, family)
        yield f"add @{name} {{ {source} ct count {rule.max_connections} }}"
    if rule.rate is not None:
        name = f"limit-{stem}-{_digest('rate', rule.rate.number, rule.rate.period)}-{family}"
        table.book.limits[name] = sets.rate(name, family, rule.rate.seconds)
        burst = f" burst {rule.rate.number} packets" if rule.rate.number != 5 else ""
        yield f"update @{name} {{ {source} limit rate {rule.rate.number}/{rule.rate.period}{burst} }}"


def _digest(*values: object) -> str:
    """Part of a name: the table of a limit is kept as long as the limit stays the same."""
    return sha256(repr(values).encode()).hexdigest()[:8]


def emit(table: Table, chain: str, case: Case, deeds: list[Deed]) -> None:
    """The lines of one case. A large set becomes a map to its parts, each of which jumps to the rest of the rule."""
    for position, part in enumerate(case.parts):
        if not isinstance(part, str):
            _emit_large(table, chain, case, position, deeds)
            return
    parts = [part for part in case.parts if isinstance(part, str)]
    for deed in deeds:
        table.add(chain, *_joined(parts, deed.condition), deed.statements)


def _joined(parts: list[str], condition: str) -> list[str]:
    """A limit's table names the family already: nft leaves out the condition that would say it again."""
    kept = [p for p in parts if not p.startswith("meta nfproto ")] if "@limit-" in condition else parts
    return [*kept, condition]


def _emit_large(table: Table, chain: str, case: Case, position: int, deeds: list[Deed]) -> None:
    part = case.parts[position]
    assert not isinstance(part, str)
    left, large = part
    rest: tuple[Part, ...] = case.parts[position + 1 :]
    stem = f"split-{chain}-{large.name}"
    then = table.chain(f"{stem}-then")
    emit(table, then, Case(rest, case.family, case.protocol), deeds)
    entries: list[str] = []
    for suffix, network, right in large.parts:
        member = table.chain(f"{stem}-{suffix}")
        table.add(member, f"{left} {right} jump {then}")
        entries.append(f"{network} : jump {member}")
    name = f"{then.removesuffix('-then')}-parts"
    row = 2 if large.family == 4 else 1
    table.book.maps[name] = sets.mapping(name, sets.type_of(large.family), entries, row)
    before = [p for p in case.parts[:position] if isinstance(p, str)]
    table.add(chain, *before, f"{left} vmap @{name}")


def _open(table: Table, chain: str, direction: Direction) -> None:
    """Connections older than the first apply, asked just before they would be denied. See the package's docstring."""
    for family in (4, 6):
        ip = "ip" if family == 4 else "ip6"
        for transport, asked in (("tcp", NO_START), ("udp", "ct state new")):
            source, target = f"{ip} saddr . {transport} sport", f"{ip} daddr . {transport} dport"
            pair = f"{target} . {source}" if direction is Direction.INBOUND else f"{source} . {target}"
            table.add(chain, asked, f'meta l4proto . {pair} @open-{family} {COUNTER} accept comment "open"')
