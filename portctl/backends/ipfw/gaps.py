"""What ipfw cannot say, each at its place in the policy. Nothing is left out of a rule: the policy is refused."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

from portctl.backends.base import Ability
from portctl.backends.ipfw import words
from portctl.backends.ipfw.nat import MOST_ALIASES, leaving_by, parts, served
from portctl.net import ANYWHERE, Addresses, Ranges, networks
from portctl.problems import Problem, Span, order
from portctl.ruleset import (
    EVERY_PORT,
    ICMP,
    ICMPV6,
    LOOPBACK,
    PROTOCOLS_WITH_PORTS,
    TCP,
    UDP,
    Direction,
    Flows,
    Kind,
    Masquerade,
    Rule,
    Ruleset,
    Translation,
)

INTERFACE_LENGTH = 15
MOST_CONNECTIONS = 65534
"""`limit` takes 16 bits, of which 65535 means `tablearg`."""
LONGEST_CONFIG = 900
"""Bytes of a `nat` line; ipfw reads lines of 1,024."""
_UNUSED = "write `::/96` as a whole, or leave them out: no host has one"
_INTERFACE = re.compile(r"[A-Za-z][A-Za-z0-9._-]*\*?|\*")
_USER = re.compile(r"[A-Za-z_][A-Za-z0-9._-]*\$?|0|[1-9][0-9]{0,9}")
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,31}")


def gaps(ruleset: Ruleset, ability: Ability) -> list[Problem]:
    """What this back end refuses to render."""
    del ability
    found: list[Problem] = []
    for direction in Direction:
        for rule in ruleset.rules(direction):
            found += _rule(rule, direction)
    for translation in ruleset.translations:
        found += _translation(translation, _place(ruleset, translation.name, "target") or translation.span)
    found += _together(ruleset)
    for masquerade in ruleset.masquerades:
        found += _masquerade(ruleset, masquerade)
    for name in ruleset.clamps:
        found.append(_gap("clamping the segment size (`mss: path`)", _place(ruleset, name, "mss"), "leave `mss` out"))
    if ruleset.published_governed:
        found.append(_gap("which packets somebody else's DNAT turned (`published: govern`)", _published(ruleset)))
    found += [_gap(f"a live group called {n!r}", None) for n in ruleset.live if not _NAME.fullmatch(n)]
    return order(found)


def _gap(what: str, span: Span | None, hint: str | None = None) -> Problem:
    return Problem("gap", f"ipfw cannot say this: {what}", span, hint)


def _place(ruleset: Ruleset, name: str, key: str) -> Span | None:
    """The place of a part of a forward."""
    rules = (rule for each in (ruleset.forwarded, ruleset.inbound) for rule in each if rule.kind is Kind.FORWARD)
    return next((rule.place(key) for rule in rules if rule.name == name), None)


def _published(ruleset: Ruleset) -> Span | None:
    return next((rule.span for rule in ruleset.forwarded if rule.kind is Kind.PUBLISHED), None)


def _rule(rule: Rule, direction: Direction) -> Iterator[Problem]:
    if rule.rate is not None:
        yield _gap(
            "how often somebody may connect (`rate`)", rule.place("rate"), "`max_connections` limits how many at a time"
        )
    if rule.max_connections is not None and rule.max_connections > MOST_CONNECTIONS:
        yield _gap(f"a limit above {MOST_CONNECTIONS}", rule.place("max_connections"))
    yield from _interfaces(rule.interfaces, rule.place("in"))
    yield from _interfaces(rule.out_interfaces, rule.place("out"))
    yield from _flows(rule.flows, rule.place("ports"))
    for addresses, key in ((rule.source, "from"), (rule.destination, "to")):
        if _compatible(addresses):
            yield _gap("IPv6 addresses within ::/96 (its tables take them for IPv4)", rule.place(key), _UNUSED)
    if direction is Direction.OUTBOUND and rule.interfaces:
        yield _gap("an incoming interface of what this host sends", rule.place("in"))
    if direction is Direction.INBOUND and rule.out_interfaces:
        yield _gap("an outgoing interface of what this host receives", rule.place("out"))
    if rule.user is not None:
        yield from _user(rule, direction)


def _compatible(addresses: Addresses) -> bool:
    """Whether a table would have to hold one of the IPv6 addresses that once stood for IPv4 (RFC 4291, 2.5.5.1): of
    these `ipfw table` takes but `::`, `::1` and networks that begin with `::`."""
    if not addresses.v6 or addresses.v6.bounds[0] >= 1 << 32 or words.inline(addresses) is not None:
        return False
    within = addresses.v6 & Ranges((0, 1 << 32))
    return any(first > 1 for first, _ in networks(within, 6))


def _user(rule: Rule, direction: Direction) -> Iterator[Problem]:
    span = rule.place("user")
    if direction is not Direction.OUTBOUND:
        yield _gap("the user of a packet that this host did not send", span)
    elif not _USER.fullmatch(rule.user or ""):
        yield _gap(f"a user called {rule.user!r}", span)
    elif any(flow.protocol not in (TCP, UDP) for flow in rule.flows or ()) or rule.flows is None:
        yield _gap("the user who sends other packets than TCP and UDP", span, "name the ports: `443/tcp`")


def _interfaces(names: tuple[str, ...], span: Span | None) -> Iterator[Problem]:
    for name in names:
        # `recv any` asks nothing; of what is longer ipfw cuts off the end, and with it the `*`.
        fits = _INTERFACE.fullmatch(name) and len(name) <= INTERFACE_LENGTH and name != "any"
        if name != LOOPBACK and not fits:
            yield _gap(f"an interface called {name!r}", span, f"at most {INTERFACE_LENGTH} letters, digits and . _ - *")


def _flows(flows: Flows, span: Span | None) -> Iterator[Problem]:
    for flow in flows or ():
        if flow.protocol in (ICMP, ICMPV6):
            yield from _types(flow.ports.bounds, flow.protocol, span)
        elif flow.protocol not in PROTOCOLS_WITH_PORTS and flow.ports != EVERY_PORT:
            yield _gap(f"ports of protocol {flow.protocol}, which has none", span)


def _types(bounds: tuple[int, ...], protocol: int, span: Span | None) -> Iterator[Problem]:
    if bounds == EVERY_PORT.bounds:
        return
    if any(bound % 256 for bound in bounds):
        yield _gap("codes of ICMP", span, "name whole types")
    if protocol == ICMP and bounds[-1] > 32 * 256:
        yield _gap("ICMP types above 31", span)


def _translation(item: Translation, span: Span | None) -> Iterator[Problem]:
    yield from _interfaces(item.interfaces, span)
    yield from _flows(item.flows, span)
    if item.flows is None or any(flow.protocol not in (TCP, UDP) for flow in item.flows):
        yield _gap("a target for other packets than TCP and UDP", span, "name the ports: `80/tcp`")
        return
    if item.target is None:
        datagrams = tuple(flow for flow in item.flows if flow.protocol == UDP)
        if datagrams and 6 in item.families():
            hint = "list IPv4 addresses alone in `from` (0.0.0.0/0 is all); IPv6 clients may use the port that serves"
            yield _gap("a target on this host, for UDP over IPv6: answers would leave with another port", span, hint)
        if not datagrams:
            return
        item = replace(item, flows=datagrams)
    elif item.target.version == 6:
        yield _gap("a target on another host, for IPv6: its NAT is for IPv4 alone", span)
        return
    if item.destination is not None and item.destination.v4.count() > MOST_ALIASES:
        yield _gap(f"a target for more than {MOST_ALIASES} addresses", span)
        return
    ports = [flow.ports for flow in item.flows or ()]
    pieces = sum(p.count() if item.target_port is not None else len(p.bounds) // 2 for p in ports)
    aliases = 1 if item.destination is None else max(1, item.destination.v4.count())
    if pieces * aliases * 60 > LONGEST_CONFIG:
        yield _gap("a target for so many ports and addresses", span, "make several entries of it")


def _together(ruleset: Ruleset) -> Iterator[Problem]:
    """One entry may turn what another one lets in: its answers have to find the instance of `nat` that turned it."""
    rules = [rule for each in (ruleset.inbound, ruleset.forwarded) for rule in each if rule.kind is Kind.FORWARD]
    turned = [part for item in ruleset.translations for part in parts(item) if not served(part)]
    for at, first in enumerate(turned):
        bounds = [rule for rule in rules if rule.name == first.name and (rule.max_connections or rule.out_interfaces)]
        for second in turned[at + 1 :] if bounds else ():
            free = any(r.name == second.name and r.max_connections is None for r in rules)
            if _alike(first) != _alike(second) and _meet(first, second) and (free or bounds[0].out_interfaces):
                span = _place(ruleset, second.name, "target") or second.span
                what = f"a target for packets that `{first.name}` turns, but may not let in"
                yield _gap(
                    what, span, "name other ports or sources, or in both the same `ports`, `to`, `in` and `target`"
                )


def _alike(item: Translation) -> object:
    return item.flows, item.destination, item.interfaces, item.target, item.target_port


def _meet(first: Translation, second: Translation) -> bool:
    """Whether some packet may be one of both."""
    devices = (*first.interfaces, *second.interfaces)
    apart = first.interfaces and second.interfaces and not any("*" in name for name in devices)
    return (
        bool(first.source & second.source)
        and any(
            a.protocol == b.protocol and bool(a.ports & b.ports) and bool(a.source_ports & b.source_ports)
            for a in first.flows or ()
            for b in second.flows or ()
        )
        and (None in (first.destination, second.destination) or bool(_common(first.destination, second.destination)))
        and not (apart and not {*first.interfaces} & {*second.interfaces})
    )


def _common(first: Addresses | None, second: Addresses | None) -> Addresses:
    return (first or ANYWHERE) & (second or ANYWHERE)


def _masquerade(ruleset: Ruleset, item: Masquerade) -> Iterator[Problem]:
    span = _place(ruleset, item.name, "masquerade")
    rule = next((r for r in ruleset.forwarded if r.name == item.name and r.kind is Kind.FORWARD), None)
    if rule is None:
        return
    if 6 in rule.families() or (item.address is not None and item.address.version == 6):
        hint = "list IPv4 addresses alone in `from`"
        yield _gap("masquerade for IPv6: its NAT is for IPv4 alone", span, hint)
    devices = leaving_by(ruleset, item.name)
    if item.address is None and (not devices or any("*" in name for name in devices)):
        yield _gap("masquerade by an interface that is not named", span, "name it: `out`, a group without `*`")
