"""What iptables cannot say, each at its place in the policy. Nothing is left out of a rule: the policy is refused."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime

from portctl.backends.base import Ability
from portctl.backends.iptables.leaves import MOST_ADDRESSES
from portctl.backends.iptables.sets import SMALL, network_count
from portctl.net import FAMILIES, Addresses, Ranges
from portctl.problems import Problem, Span, order
from portctl.ruleset import (
    EVERY_PORT,
    ICMP,
    LOOPBACK,
    PROTOCOLS_WITH_PORTS,
    Direction,
    Flows,
    Rule,
    Ruleset,
    Translation,
)

LAST = datetime(2038, 1, 1, tzinfo=UTC)
"""`--datestop` ends with the 32-bit clock; a year is what a person remembers."""
FASTEST = 10_000
"""Packets a second; the kernel rounds faster rates."""
LARGEST_BURST = 1_000_000
LARGEST_COUNT = (1 << 32) - 1
INTERFACE_LENGTH = 15
_INTERFACE = re.compile(r"[A-Za-z0-9._@:-]+\*?|\*")
_USER = re.compile(r"[A-Za-z_][A-Za-z0-9._-]*\$?|[0-9]{1,10}")
_ICMP_ANY = Ranges.of([(255 * 256, 255 * 256 + 255)])


def gaps(ruleset: Ruleset, ability: Ability) -> list[Problem]:
    """What this back end refuses to render."""
    found: list[Problem] = []
    for direction in Direction:
        for rule in ruleset.rules(direction):
            found += _rule(rule, ability)
    for item in ruleset.translations:
        found += _translation(item, ability)
    addresses = {item.address for item in ruleset.masquerades if item.address}
    if len(addresses) > MOST_ADDRESSES:
        spans = {rule.name: rule.span for rule in ruleset.forwarded}
        span = spans.get(sorted(ruleset.masquerades, key=lambda m: m.name)[-1].name)
        found.append(_gap(f"more than {MOST_ADDRESSES} different masquerade addresses", span, "use fewer, or nftables"))
    return order(found)


def _gap(what: str, span: Span | None, hint: str | None = None) -> Problem:
    return Problem("gap", f"iptables cannot say this: {what}", span, hint)


def _rule(rule: Rule, ability: Ability) -> Iterator[Problem]:
    yield from _addresses((rule.source, rule.destination), rule.span, ability)
    yield from _interfaces((*rule.interfaces, *rule.out_interfaces), rule.span)
    yield from _flows(rule.flows, rule.span)
    yield from _clock(rule.until, rule.span, ability)
    yield from _limits(rule)
    if (rule.live_source or rule.live_destination) and not ability.ipset:
        yield _gap("a live group without ipset", rule.span, "install ipset on the host, or use nftables")
    if rule.user is not None and not _USER.fullmatch(rule.user):
        yield _gap(f"a user called {rule.user!r}", rule.span)
    if rule.original is not None:
        if rule.original.destination is not None and _too_many(rule.original.destination):
            yield _gap(f"more than {SMALL} networks as the destination before a translation", rule.span)
        yield from _flows(rule.original.flows, rule.span)


def _translation(item: Translation, ability: Ability) -> Iterator[Problem]:
    yield from _addresses((item.source, item.destination or item.source), item.span, ability)
    yield from _interfaces(item.interfaces, item.span)
    yield from _flows(item.flows, item.span)
    yield from _clock(item.until, item.span, ability)
    portless = item.flows is None or any(flow.protocol not in PROTOCOLS_WITH_PORTS for flow in item.flows)
    if item.target_port is not None and portless:
        yield _gap("a target port for a protocol without ports", item.span, "leave the port out of `target`")


def _too_many(addresses: Addresses) -> bool:
    return any(
        not addresses.is_every(family) and network_count(addresses.family(family), family, SMALL) > SMALL
        for family in FAMILIES
    )


def _addresses(lists: Iterable[Addresses], span: Span | None, ability: Ability) -> Iterator[Problem]:
    if not ability.ipset and any(_too_many(addresses) for addresses in lists):
        yield _gap(
            f"a list of more than {SMALL} networks without ipset", span, "install ipset on the host, or use nftables"
        )


def _interfaces(names: Iterable[str], span: Span | None) -> Iterator[Problem]:
    for name in names:
        if name != LOOPBACK and (not _INTERFACE.fullmatch(name) or len(name) > INTERFACE_LENGTH):
            yield _gap(f"an interface called {name!r}", span, f"at most {INTERFACE_LENGTH} letters, digits, . _ - @ :")


def _flows(flows: Flows, span: Span | None) -> Iterator[Problem]:
    for flow in flows or ():
        if flow.protocol == ICMP and flow.ports != EVERY_PORT and flow.ports & _ICMP_ANY:
            yield _gap("ICMP type 255, which it reads as every type", span)


def _clock(until: datetime | None, span: Span | None, ability: Ability) -> Iterator[Problem]:
    if until is not None and ability.clock and until > LAST:
        yield _gap("an end after 2037", span, "choose an earlier `until`, or use nftables")


def _limits(rule: Rule) -> Iterator[Problem]:
    if rule.rate is not None and (rule.rate.number > FASTEST * rule.rate.seconds or rule.rate.number > LARGEST_BURST):
        yield _gap(f"a rate above {FASTEST} a second, or of more than {LARGEST_BURST} at once", rule.span)
    if rule.max_connections is not None and rule.max_connections > LARGEST_COUNT:
        yield _gap(f"more than {LARGEST_COUNT} connections", rule.span)
