"""What nftables cannot say, each at its place in the policy. Nothing is left out of a rule: the policy is refused."""

from __future__ import annotations

import re
from collections.abc import Iterator

from portctl.backends.base import Ability
from portctl.backends.nftables.deeds import MARKS
from portctl.backends.nftables.nat import kinds
from portctl.problems import Problem, Span, order
from portctl.ruleset import (
    EVERY_PORT,
    EVERY_STATE,
    ICMP,
    ICMPV6,
    KNOWN,
    LOOPBACK,
    PROTOCOLS_WITH_PORTS,
    Direction,
    Flows,
    Rule,
    Ruleset,
    State,
    Translation,
    Verdict,
)

LARGEST = (1 << 32) - 1
"""Of a burst and of a number of connections: 32 bits in the kernel (linux/netfilter/nf_tables.h)."""
INTERFACE_LENGTH = 15
_INTERFACE = re.compile(r"[A-Za-z0-9._@:-]+\*?|\*")
_USER = re.compile(r"[A-Za-z_][A-Za-z0-9._-]*\$?|[0-9]{1,10}")
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,99}")


def gaps(ruleset: Ruleset, ability: Ability) -> list[Problem]:
    """What this back end refuses to render. Hosts without a clock in the packet filter lack no rule, only its end."""
    del ability
    found: list[Problem] = []
    for direction in Direction:
        rules = ruleset.rules(direction)
        for rule in rules:
            found += _rule(rule, direction)
        if rules[-1].states != EVERY_STATE or rules[-1].flows is not None:
            found.append(_gap("rules of which the last does not match everything", rules[-1].span))
    for item in ruleset.translations:
        found += _translation(item)
    if any(mark & ~MARKS for mark in kinds(ruleset).values()):
        found.append(_gap("more than 63 different masquerade addresses", _masquerade_span(ruleset), "use fewer"))
    for name in ruleset.live:
        if not _NAME.fullmatch(name):
            found.append(_gap(f"a live group called {name!r}", None))
    return order(found)


def _gap(what: str, span: Span | None, hint: str | None = None) -> Problem:
    return Problem("gap", f"nftables cannot say this: {what}", span, hint)


def _masquerade_span(ruleset: Ruleset) -> Span | None:
    last = max(item.name for item in ruleset.masquerades)
    return next((rule.span for rule in ruleset.forwarded if rule.name == last), None)


def _rule(rule: Rule, direction: Direction) -> Iterator[Problem]:
    yield from _interfaces((*rule.interfaces, *rule.out_interfaces), rule.span)
    yield from _flows(rule.flows, rule.span)
    if direction is Direction.OUTBOUND and rule.interfaces:
        yield _gap("an incoming interface of what this host sends", rule.span)
    if direction is Direction.INBOUND and rule.out_interfaces:
        yield _gap("an outgoing interface of what this host receives", rule.span)
    if rule.user is not None and direction is not Direction.OUTBOUND:
        yield _gap("the user of a packet that this host did not send", rule.span)
    if rule.user is not None and not _USER.fullmatch(rule.user):
        yield _gap(f"a user called {rule.user!r}", rule.span)
    if rule.published and rule.states & (KNOWN | State.INVALID):
        yield _gap("what was published, of packets that start no connection", rule.span)
    if rule.limited and rule.verdict is not Verdict.ACCEPT:
        yield _gap("a limit on what is not admitted", rule.span)
    if rule.original is not None:
        yield from _flows(rule.original.flows, rule.span)
    for number in (rule.rate.number if rule.rate else 0, rule.max_connections or 0):
        if number > LARGEST:
            yield _gap(f"a limit above {LARGEST}", rule.span)


def _interfaces(names: tuple[str, ...], span: Span | None) -> Iterator[Problem]:
    for name in names:
        if name != LOOPBACK and not (_INTERFACE.fullmatch(name) and len(name.rstrip("*")) <= INTERFACE_LENGTH):
            yield _gap(
                f"an interface called {name!r}", span, f"at most {INTERFACE_LENGTH} letters, digits and . _ @ : -"
            )


def _flows(flows: Flows, span: Span | None) -> Iterator[Problem]:
    for flow in flows or ():
        if flow.protocol not in (*PROTOCOLS_WITH_PORTS, ICMP, ICMPV6) and flow.ports != EVERY_PORT:
            yield _gap(f"ports of protocol {flow.protocol}, which has none", span)


def _translation(item: Translation) -> Iterator[Problem]:
    yield from _interfaces(item.interfaces, item.span)
    yield from _flows(item.flows, item.span)
    portless = item.flows is None or any(flow.protocol not in PROTOCOLS_WITH_PORTS for flow in item.flows)
    if item.target_port is not None and portless:
        yield _gap("a target port for a protocol without ports", item.span, "leave the port out of `target`")
