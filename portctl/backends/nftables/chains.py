"""From rules to chains: what stands in the base chains, and what is dispatched by port to a chain a rule."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import groupby

from portctl.backends.nftables import sets, words
from portctl.backends.nftables.conditions import Case, cases
from portctl.backends.nftables.deeds import deeds, log
from portctl.backends.nftables.dispatch import Class, Side, classes, found_by_port
from portctl.backends.nftables.table import COUNTER, Deed, Table, emit
from portctl.ruleset import EVERY_PORT, EVERY_STATE, TCP, Direction, Flows, Kind, Rule, State, Verdict, unchanged

NOT_TCP = "meta l4proto != tcp"
NOT_A_START = "tcp flags != syn / fin,syn,rst,ack"
FEW = 3
"""So many rules with ports are asked one after the other; more are dispatched."""

BASES = {Direction.INBOUND: "input", Direction.OUTBOUND: "output", Direction.FORWARDED: "forward"}


def base(table: Table, direction: Direction, head: str) -> None:
    """A base chain of the filter: every rule of a direction, first match first."""
    name = BASES[direction]
    table.chains[name] = [head]
    *before, last = table.ruleset.rules(direction)
    for _, run in groupby(before, _alike):
        _run(table, name, direction, list(run))
    if last.verdict is not Verdict.ACCEPT and direction is not Direction.FORWARDED:
        _open(table, name, direction)
    _inline(table, name, last)


def _alike(rule: Rule) -> tuple[object, ...]:
    """Neighbouring rules that agree in this are asked together."""
    return rule.states, rule.syn, rule.original_direction, rule.limited, rule.verdict is Verdict.ACCEPT


def _run(table: Table, base_name: str, direction: Direction, rules: list[Rule]) -> None:
    first = rules[0]
    asked = words.states(first.states) if first.states != EVERY_STATE else ""
    ported = sum(any(found_by_port(flow) for flow in rule.flows or ()) for rule in rules)
    if not first.syn and not first.original_direction and ported <= FEW:
        for other, several in groupby(rules, _never_tcp):
            _in_order(table, base_name, direction, list(several), asked, other=other)
        return
    word = "starting" if first.syn else "original" if first.original_direction else "ports"
    chain = table.chain(f"{direction.value}-{'limited-' if first.limited else ''}{word}")
    table.add(base_name, asked, f"jump {chain}")
    tracked = first.states & ~State.UNTRACKED
    if first.syn and tracked:
        table.add(chain, words.states(tracked), NOT_A_START, "return")
    if first.original_direction:
        table.add(chain, "ct direction reply return")
    _by_port(table, chain, direction, rules)


def _never_tcp(rule: Rule) -> bool:
    """Whether no packet of TCP ever matches."""
    return rule.flows is not None and all(flow.protocol != TCP for flow in rule.flows)


def _in_order(
    table: Table, base_name: str, direction: Direction, rules: list[Rule], asked: str, *, other: bool
) -> None:
    """One rule after the other. Those on protocols `other` than TCP in a chain of their own, where there are several:
    most packets are TCP's, and they pass all of them by one condition."""
    lines = [line for rule in rules for line in _cases(table, rule, flows=True)] if other and not asked else []
    if len(lines) < 2:
        for rule in rules:
            _inline(table, base_name, rule, asked)
        return
    chain = table.chain(f"{direction.value}-not-tcp")
    table.add(base_name, NOT_TCP, f"jump {chain}")
    for rule in rules:
        _inline(table, chain, rule)


def _by_port(table: Table, chain: str, direction: Direction, rules: list[Rule]) -> None:
    """Rules of the same states: each in a chain of its own, found by port."""
    plain = rules[0].verdict is Verdict.ACCEPT and not rules[0].limited
    turned = [rule for rule in rules if rule.original is not None]
    if plain and len(turned) > FEW:
        targets = {id(r): _own_chain(table, direction, r, rules, recheck=_recheck(r.flows, plain)) for r in rules}
        inner = table.chain(f"{chain}-turned")
        table.add(chain, "ct status dnat", f"jump {inner}")
        _dispatch_turned(table, inner, turned, [targets[id(rule)] for rule in turned])
        later = [(found, targets[id(rule)]) for rule in rules for found in _not_turned(table, rule)]
        dispatch(table, chain, [found for found, _ in later], [target for _, target in later], plain=plain)
        return
    names = [_own_chain(table, direction, rule, rules, recheck=_recheck(rule.flows, plain)) for rule in rules]
    dispatch(table, chain, [rule.flows for rule in rules], names, plain=plain)


def _not_turned(table: Table, rule: Rule) -> list[Flows]:
    """The flows by which packets find a rule that were not translated, or to where they were going anyway."""
    if rule.original is None:
        return [rule.flows]
    same = (unchanged(rule, item) for item in table.translations.get(rule.name, ()))
    return [other.flows for other in same if other is not None]


def _recheck(flows: Flows, plain: bool) -> bool:
    """Whether the dispatch leaves something of the flows to be asked in the rule's own chain."""
    return any(
        flow.source_ports != EVERY_PORT and found_by_port(flow) and (not plain or flow.ports != EVERY_PORT)
        for flow in flows or ()
    )


def dispatch(table: Table, chain: str, flows: Sequence[Flows], targets: Sequence[str], *, plain: bool) -> None:
    """Sends each packet to the targets whose flows it may belong to, in their order.

    `plain`: the order of targets decides no verdict, so those found by source port may come second.
    """
    _by_map(table, chain, classes(flows, "dport", others=not plain), targets, "dport")
    if plain:
        _by_map(table, chain, classes(flows, "sport", others=False), targets, "sport")
    for wanted, target in zip(flows, targets, strict=True):
        if wanted is None:
            table.add(chain, f"jump {target}")
            continue
        for flow in wanted:
            if found_by_port(flow) and (plain or flow.ports != EVERY_PORT):
                continue
            for text in words.flow(flow, partial(table.book.ports, target)):
                table.add(chain, text, f"jump {target}")


def _by_map(table: Table, chain: str, found: list[Class], targets: Sequence[str], side: Side) -> None:
    if not found:
        return
    for protocol, several in groupby(_goals(table, chain, found, targets), lambda goal: goal[0].protocol):
        word = words.protocol(protocol)
        for name in _maps(table, f"{chain}-{word}-{'port' if side == 'dport' else 'source-port'}", several):
            table.add(chain, f"{word} {side} vmap @{name}")


def _maps(table: Table, name: str, goals: Iterable[tuple[Class, str]]) -> Iterator[str]:
    """Maps from the ports of one protocol to where to: single ports are found by their hash.

    Ranges are looked for in a map of their own, which takes longer the more there are.
    """
    held = list(goals)
    single = [f"{c.first} : {jump}" for c, jump in held if c.first == c.last]
    ranges = [f"{c.first}-{c.last} : {jump}" for c, jump in held if c.first < c.last]
    for made, entries, interval in ((f"{name}s", single, False), (f"{name}-ranges", ranges, True)):
        if entries:
            table.book.maps[made] = sets.mapping(made, "inet_service", entries, 5, ranges=interval)
            yield made


def _goals(table: Table, chain: str, found: list[Class], targets: Sequence[str]) -> list[tuple[Class, str]]:
    """Where a packet of each class goes: to the rule, or to a chain that asks its several rules in order."""
    shared: dict[tuple[int, ...], str] = {}
    goals: list[tuple[Class, str]] = []
    for item in found:
        target = targets[item.members[0]] if len(item.members) == 1 else shared.get(item.members)
        if target is None:
            target = table.chain(f"{chain}-{words.protocol(item.protocol)}-{item.first}")
            table.chains[target] = [f"jump {targets[member]}" for member in item.members]
            shared[item.members] = target
        goals.append((item, f"jump {target}"))
    return goals


def _dispatch_turned(table: Table, chain: str, rules: Sequence[Rule], targets: Sequence[str]) -> None:
    """Rules on what a packet was before its destination was translated, by its port then."""
    flows = [rule.original.flows if rule.original else None for rule in rules]
    goals = _goals(table, chain, classes(flows, "dport", others=False), targets)
    for protocol, several in groupby(goals, lambda goal: goal[0].protocol):
        word = words.protocol(protocol)
        for name in _maps(table, f"{chain}-{word}-port", several):
            table.add(chain, f"meta l4proto {word} ct original proto-dst vmap @{name}")
    for wanted, target in zip(flows, targets, strict=True):
        if wanted is None or any(flow.ports == EVERY_PORT or not found_by_port(flow) for flow in wanted):
            table.add(chain, f"jump {target}")


def _own_chain(table: Table, direction: Direction, rule: Rule, run: Sequence[Rule], *, recheck: bool) -> str:
    """A chain with the rule's conditions, but for those that the way to it has settled."""
    kind = "answer" if direction is Direction.OUTBOUND and rule.kind is Kind.SERVICE else rule.kind.value
    name = words.identifier(rule.name)
    chain = table.chain(name if name == kind or name.startswith(f"{kind}-") else f"{kind}-{name}")
    about = words.quoted(
        "; ".join(text for text in (rule.description, rule.owner and f"owner {rule.owner}", rule.ticket) if text)
    )
    if about != '""':
        table.add(chain, f"comment {about}")
    jumps = [Deed("", f"jump {_log_chain(table, other)}") for other in _loggers(rule, run)]
    for case in _cases(table, rule, flows=recheck):
        emit(table, chain, case, jumps + deeds(table, rule, case))
    return chain


def _cases(table: Table, rule: Rule, *, flows: bool) -> Iterator[Case]:
    own = table.translations.get(rule.name, ())
    return cases(rule, table.book, flows=flows, clock=table.clock, translations=own)


def _loggers(rule: Rule, run: Sequence[Rule]) -> list[Rule]:
    """The later entries that log what this one admits silently: the log is the union of those that admit."""
    if rule.log or rule.verdict is not Verdict.ACCEPT:
        return []
    logging = [other for other in run if other.log and other.kind is rule.kind]
    if not logging:
        return []
    place = next(k for k, other in enumerate(run) if other is rule)
    later = {id(other) for other in run[place + 1 :]}
    return [other for other in logging if id(other) in later and _meet(rule, other)]


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
        for case in _cases(table, rule, flows=True):
            emit(table, name, case, [Deed("", log(rule))])
    return name


def _inline(table: Table, chain: str, rule: Rule, asked: str = "") -> None:
    """A rule in place, without a chain of its own."""
    for case in _cases(table, rule, flows=True):
        whole = Case((asked, *case.parts), case.family, case.protocol) if asked else case
        emit(table, chain, whole, deeds(table, rule, case))


def _open(table: Table, chain: str, direction: Direction) -> None:
    """Connections older than the first apply, asked just before they would be denied. See the package's docstring."""
    for family in (4, 6):
        ip = "ip" if family == 4 else "ip6"
        for transport, asked in (("tcp", NOT_A_START), ("udp", "")):
            source, target = f"{ip} saddr . {transport} sport", f"{ip} daddr . {transport} dport"
            pair = f"{target} . {source}" if direction is Direction.INBOUND else f"{source} . {target}"
            table.add(
                chain, "ct state new", asked, f'meta l4proto . {pair} @open-{family} {COUNTER} accept comment "open"'
            )
