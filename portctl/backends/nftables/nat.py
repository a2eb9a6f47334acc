"""Translations: destination before routing, source after it, and TCP segment sizes."""

from __future__ import annotations

from collections.abc import Iterator

from portctl.backends.base import MASQUERADE_MARK, PUBLISHED_MARK
from portctl.backends.nftables import words
from portctl.backends.nftables.chains import dispatch
from portctl.backends.nftables.conditions import Case, cases, translation_cases
from portctl.backends.nftables.deeds import MARKS
from portctl.backends.nftables.table import COUNTER, Deed, Table, emit
from portctl.net import Address
from portctl.ruleset import TCP, Flow, Kind, Rule, Ruleset, Translation

FEW = 3


def kinds(ruleset: Ruleset) -> dict[str, int]:
    """The mark of each forward whose source is translated: one a set of addresses, so that one bit mostly does."""
    addresses = _addresses(ruleset)
    distinct = sorted(set(addresses.values()))
    return {name: MASQUERADE_MARK * (1 + distinct.index(wanted)) for name, wanted in addresses.items()}


def _addresses(ruleset: Ruleset) -> dict[str, tuple[tuple[int, int], ...]]:
    """(family, address) pairs of each forward, sorted; none: the outgoing interface's."""
    found: dict[str, set[tuple[int, int]]] = {}
    for item in ruleset.masquerades:
        wanted = found.setdefault(item.name, set())
        if item.address is not None:
            wanted.add((item.address.version, int(item.address)))
    return {name: tuple(sorted(wanted)) for name, wanted in found.items()}


def prerouting(table: Table) -> None:
    """Destinations are translated before anybody else does it: a forward of the policy's wins over a container's."""
    items = table.ruleset.translations
    if not items:
        return
    base = table.chain("nat-prerouting")
    table.add(base, "type nat hook prerouting priority dstnat - 10; policy accept;")
    if len(items) <= FEW:
        for item in items:
            _translate(table, base, item)
        return
    targets = [table.chain(f"nat-{words.identifier(item.name)}") for item in items]
    for item, chain in zip(items, targets, strict=True):
        _translate(table, chain, item)
    dispatch(table, base, [item.flows for item in items], targets, plain=False)


def _translate(table: Table, chain: str, item: Translation) -> None:
    for case in translation_cases(item, table.book, clock=table.clock):
        mine = f"meta mark set meta mark & {0xFFFFFFFF & ~PUBLISHED_MARK:#010x} " if _asked_for(table.ruleset) else ""
        statements = f"{mine}{COUNTER} {_action(item)} comment {words.quoted(item.name)}"
        emit(table, chain, case, [Deed("", statements)])


def _action(item: Translation) -> str:
    port = "" if item.target_port is None else f":{item.target_port}"
    if item.target is None:
        return f"redirect to {port}" if port else "redirect"
    return f"dnat {_to(item.target, port)}"


def _to(address: Address, port: str = "") -> str:
    if address.version == 4:
        return f"ip to {address}{port}"
    return f"ip6 to [{address}]{port}" if port else f"ip6 to {address}"


def _asked_for(ruleset: Ruleset) -> bool:
    """Whether any rule asks what others have published."""
    return any(rule.published for rule in (*ruleset.inbound, *ruleset.forwarded))


def published(table: Table) -> None:
    """What is addressed to this host is marked, until a translation of the policy's own takes the mark off again.

    A mark set between two translations would not do: the kernel runs all of them at one place, whatever their
    priorities, which only order them among each other (net/netfilter/nf_nat_core.c, `nf_nat_register_fn`).
    """
    if _asked_for(table.ruleset):
        chain = table.chain("prerouting")
        table.add(chain, "type filter hook prerouting priority mangle + 10; policy accept;")
        table.add(chain, f"ct state new fib daddr type local meta mark set meta mark | {PUBLISHED_MARK:#010x}")


def postrouting(table: Table) -> None:
    if not table.marks:
        return
    base = table.chain("nat-postrouting")
    table.add(base, "type nat hook postrouting priority srcnat - 10; policy accept;")
    several = set(table.marks.values()) != {MASQUERADE_MARK}
    done: set[int] = set()
    for name, wanted in sorted(_addresses(table.ruleset).items()):
        mark = table.marks[name]
        if mark in done:
            continue
        done.add(mark)
        mask = MARKS if several else MASQUERADE_MARK
        asked = f"meta mark & {mask:#010x} == {mark:#010x}"
        names = ", ".join(other for other, value in sorted(table.marks.items()) if value == mark)
        for action in _sources(wanted):
            table.add(base, f"{asked} {COUNTER} {action} comment {words.quoted(names)}")


def _sources(wanted: tuple[tuple[int, int], ...]) -> Iterator[str]:
    from ipaddress import IPv4Address, IPv6Address

    if not wanted:
        yield "masquerade"
    for family, number in wanted:
        yield f"snat {_to(IPv4Address(number) if family == 4 else IPv6Address(number))}"


def clamps(table: Table) -> None:
    """Segment sizes are set in a chain of their own: the answering SYN too, which the state rules accept at once."""
    rules = [r for r in table.ruleset.forwarded if r.kind is Kind.FORWARD and r.name in table.ruleset.clamps]
    if not rules:
        return
    base = table.chain("mangle-forward")
    table.add(base, "type filter hook forward priority mangle; policy accept;")
    done: set[tuple[str, ...]] = set()
    for rule in rules:
        for way in _both_ways(table, rule):
            case = Case(tuple(p for p in way.parts if p != "meta l4proto tcp"), way.family, TCP)  # the flags say it
            if case.parts not in done:
                done.add(case.parts)  # type: ignore[arg-type]
                set_size = f"tcp flags syn / syn,rst {COUNTER} tcp option maxseg size set rt mtu"
                emit(table, base, case, [Deed("", f"{set_size} comment {words.quoted(rule.name)}")])


def _both_ways(table: Table, rule: Rule) -> Iterator[Case]:
    """The rule's TCP packets, and the answers: its conditions on addresses, interfaces and ports, turned round."""
    flows = None if rule.flows is None else tuple(f for f in rule.flows if f.protocol == TCP)
    if flows == ():
        return
    back: tuple[Flow, ...] | None = None if flows is None else tuple(f.reversed() for f in flows)
    there = Rule(
        rule.name, rule.kind, rule.verdict, flows, rule.source, rule.destination,
        interfaces=rule.interfaces, out_interfaces=rule.out_interfaces,
    )  # fmt: skip
    answer = Rule(
        rule.name, rule.kind, rule.verdict, back, rule.destination, rule.source,
        interfaces=rule.out_interfaces, out_interfaces=rule.interfaces,
    )  # fmt: skip
    for way in (there, answer):
        yield from cases(way, table.book, flows=True, clock=table.clock)
