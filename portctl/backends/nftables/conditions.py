"""The conditions of one rule of the middle, in nft's words. Every field of a `Rule` is said here or in `chains`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import product

from portctl.backends.base import PUBLISHED_MARK
from portctl.backends.nftables import words
from portctl.backends.nftables.large import Large
from portctl.backends.nftables.sets import Book
from portctl.net import ANYWHERE, Addresses, Family
from portctl.ruleset import (
    EVERY_PORT,
    ICMP,
    ICMPV6,
    LOOPBACK,
    PROTOCOLS_WITH_PORTS,
    Flow,
    Flows,
    Original,
    Rule,
    Translation,
    unchanged,
)

Part = str | tuple[str, Large]
"""A condition as text; or (left side, large set)."""


@dataclass(frozen=True, slots=True)
class Case:
    """One way to meet a rule's conditions: all `parts` hold. `protocol` is the one that they settle, if they do."""

    parts: tuple[Part, ...]
    family: Family | None = None
    protocol: int | None = None


def cases(
    rule: Rule, book: Book, *, flows: bool, clock: bool, translations: Iterable[Translation] = ()
) -> Iterator[Case]:
    """The alternatives of a rule without its states and limits; without its flows where the dispatch settled them."""
    yield from _plain_cases(rule, book, flows=flows, clock=clock)
    for item in translations:
        same = unchanged(rule, item)
        if same is not None:
            local = ("fib daddr type local",) if item.destination is None else ()
            for case in _plain_cases(same, book, flows=True, clock=clock):
                yield Case(("ct state new", UNTURNED, *local, *case.parts), case.family, case.protocol)


UNTURNED = "ct status & dnat != dnat"


def _plain_cases(rule: Rule, book: Book, *, flows: bool, clock: bool) -> Iterator[Case]:
    wanted = rule.flows if flows else None
    for family in _families(rule):
        possible = None if wanted is None else [f for f in wanted if family is None or family in f.families()]
        network = _family(rule, family, book)
        after = _after(rule, clock=clock)
        flows_of = _flows(possible, rule.name, book)
        sides_of = _interfaces(rule.interfaces, rule.out_interfaces)
        for ways, (protocol, flow), original in product(sides_of, flows_of, _original(rule, family, book)):
            if original.protocol is not None and protocol is not None and original.protocol != protocol:
                continue
            extra = original.parts if protocol is None else tuple(p for p in original.parts if p != _l4(protocol))
            settled = protocol if protocol is not None else original.protocol
            parts = (*ways, *network, *([flow] if flow else []), *extra, *after)
            yield Case(tuple(p for p in parts if not _told(p, settled)), family, settled)


def _told(part: Part, protocol: int | None) -> bool:
    """ICMP tells the family: nft leaves out the condition that would say it again."""
    return protocol in (ICMP, ICMPV6) and isinstance(part, str) and part.startswith("meta nfproto ")


def _after(rule: Rule, *, clock: bool) -> list[str]:
    """What costs most to ask comes last."""
    parts: list[str] = []
    if rule.user:
        parts.append(f"meta skuid {rule.user}" if rule.user.isdigit() else f'meta skuid "{rule.user}"')
    if rule.until and clock:
        parts.append(words.until(rule.until))
    if rule.published:
        parts.append(f"meta mark & {PUBLISHED_MARK:#010x} == {PUBLISHED_MARK:#010x} ct status dnat")
    return parts


def _families(rule: Rule) -> list[Family | None]:
    neutral = (
        rule.source == ANYWHERE
        and rule.destination == ANYWHERE
        and rule.live_source is None
        and rule.live_destination is None
        and rule.hop_limit is None
        and not rule.limited
        and (rule.original is None or rule.original.destination in (None, ANYWHERE))
    )
    return [None] if neutral else list(rule.families())


def _interfaces(incoming: tuple[str, ...], outgoing: tuple[str, ...]) -> list[list[str]]:
    """Alternatives of conditions."""
    return [[*one, *other] for one, other in product(_interface("iif", incoming), _interface("oif", outgoing))]


def _interface(side: str, names: tuple[str, ...]) -> list[list[str]]:
    """The loopback interface by its index, which is 1 in every network namespace (include/net/flow.h,
    `LOOPBACK_IFINDEX`): every packet is asked for it, and a number is compared faster than a name."""
    if names == (LOOPBACK,):
        return [[f'{side} "lo"']]
    return [[f"{side}name {text}"] for text in words.interfaces(names)] or [[]]


def _family(rule: Rule, family: Family | None, book: Book) -> list[Part]:
    """What a rule asks of the network header."""
    if family is None:
        return []
    ip = "ip" if family == 4 else "ip6"
    parts: list[Part] = []
    if rule.hop_limit is not None:
        parts.append(f"{'ip ttl' if family == 4 else 'ip6 hoplimit'} {rule.hop_limit}")
    parts += sides(rule.name, family, rule.source, rule.destination, book)
    if rule.live_source is not None:
        parts.append(f"{ip} saddr @live-{rule.live_source}-{family}")
    if rule.live_destination is not None:
        parts.append(f"{ip} daddr @live-{rule.live_destination}-{family}")
    return parts or [f"meta nfproto ipv{family}"]


def sides(entry: str, family: Family, source: Addresses, destination: Addresses, book: Book) -> list[Part]:
    """Conditions on source and destination; none on one that is every address."""
    ip = "ip" if family == 4 else "ip6"
    parts: list[Part] = []
    for left, side, wanted in (("saddr", "from", source), ("daddr", "to", destination)):
        if not wanted.is_every(family):
            right = book.addresses(side, entry, family, wanted.family(family))
            parts.append((f"{ip} {left}", right) if isinstance(right, Large) else f"{ip} {left} {right}")
    return parts


def _flows(flows: list[Flow] | None, entry: str, book: Book) -> list[tuple[int | None, str]]:
    """(protocol, condition) of each alternative."""
    if flows is None:
        return [(None, "")]
    return [(flow.protocol, text) for flow in flows for text in words.flow(flow, partial(book.ports, entry))]


def _l4(protocol: int) -> str:
    return f"meta l4proto {words.protocol(protocol)}"


def _original(rule: Rule, family: Family | None, book: Book) -> list[Case]:
    """Where the packet was going before its destination was translated."""
    if rule.original is None:
        return [Case(())]
    before: list[Part] = ["ct status dnat"]
    destination = rule.original.destination
    if family is not None and destination is not None and not destination.is_every(family):
        if not destination.family(family):
            return []
        ip = "ip" if family == 4 else "ip6"
        right = book.addresses("before", rule.name, family, destination.family(family))
        before.append(
            (f"ct original {ip} daddr", right) if isinstance(right, Large) else f"ct original {ip} daddr {right}"
        )
    return [
        Case((*before, *parts), family, protocol)
        for protocol, parts in _original_flows(rule.original, rule, family, book)
    ]


def _original_flows(
    original: Original, rule: Rule, family: Family | None, book: Book
) -> Iterator[tuple[int | None, tuple[str, ...]]]:
    if original.flows is None:
        yield None, ()
        return
    for flow in original.flows:
        if family is not None and family not in flow.families():
            continue
        if flow.protocol not in PROTOCOLS_WITH_PORTS:
            for text in words.flow(flow, partial(book.ports, rule.name)):
                yield flow.protocol, (text,)
            continue
        parts = [_l4(flow.protocol)]
        if flow.source_ports != EVERY_PORT:
            parts = [f"{words.protocol(flow.protocol)} sport {book.ports(rule.name, flow.source_ports)}"]
        if flow.ports != EVERY_PORT:
            parts.append(f"ct original proto-dst {book.ports(rule.name, flow.ports, named=True)}")
        yield flow.protocol, tuple(parts)


def translation_cases(item: Translation, book: Book, *, clock: bool) -> Iterator[Case]:
    """The alternatives of a translation. The chain sees new connections only: the kernel shows it nothing else."""
    for family in item.families():
        flows: Flows = None if item.flows is None else tuple(f for f in item.flows if family in f.families())
        destination = ANYWHERE if item.destination is None else item.destination
        ways = _interfaces(item.interfaces, ()) if item.interfaces else [['iifname != "lo"']]
        network = sides(item.name, family, item.source, destination, book) or [f"meta nfproto ipv{family}"]
        network += ["fib daddr type local"] if item.destination is None else []
        after = [words.until(item.until)] if item.until and clock else []
        for way, (protocol, flow) in product(ways, _flows(None if flows is None else list(flows), item.name, book)):
            parts = (*way, *network, *([flow] if flow else []), *after)
            yield Case(tuple(p for p in parts if not _told(p, protocol)), family, protocol)
