"""What a pf cannot say, each at its place in the policy. Nothing is left out of a rule: the policy is refused.

Notes say where the platform forces a difference that is no refusal (`docs/platforms.md`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from portctl.backends.pf.dialects import Dialect
from portctl.backends.pf.outward import asks_types
from portctl.backends.pf.words import CLONED
from portctl.net import ANYWHERE
from portctl.problems import Problem, Span, order
from portctl.ruleset import (
    EVERY_PORT,
    ICMP,
    ICMPV6,
    LOOPBACK,
    PROTOCOLS_WITH_PORTS,
    SCTP,
    TCP,
    UDP,
    Direction,
    Flows,
    Kind,
    Rule,
    Ruleset,
    State,
    Translation,
    Verdict,
)

LARGEST = (1 << 32) - 1
LARGEST_RATE = 4_000_000
"""pf multiplies it by a thousand in 32 bits (pf_init_threshold)."""
INTERFACE_LENGTH = 15
_INTERFACE = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*")
_USER = re.compile(r"[A-Za-z_][A-Za-z0-9._-]*|[0-9]{1,9}")
KEYWORDS = frozenset(
    """all allow-opts altq anchor antispoof any bandwidth binat binat-anchor bitmask block block-policy buckets cbq code
    codelq const debug dl-domain divert-reply divert-to dnpipe dnqueue drop dup-to endpi ethernet fail-policy
    fairq fastroute file fingerprints flags floating flush for fragment from global group hfsc hostid icmp-type
    icmp6-type if-bound in include inet inet6 interval keep label limit linkshare load log loginterface match max
    max-mss max-pkt-rate max-pkt-size max-src-conn max-src-conn-rate max-src-nodes max-src-states min-ttl modulate
    nat nat-anchor nat-to no no-df no-route no-sync on once optimization os out overload pass pflow port prio priority
    priq probability proto qlimit queue quick random random-id rdr rdr-anchor rdr-to realtime reassemble received-on
    reply-to require-order return return-icmp return-icmp6 return-rst ridentifier round-robin route route-to rtable
    rule ruleset-optimization scrub scrub-anchor self set skip sloppy source-hash source-track state state-defaults
    state-policy static-port sticky-address syncookies synproxy table tag tagged tbrsize timeout to tos ttl upperlimit
    urpf-failed user yes""".split()  # noqa: SIM905
)
"""Words that pf.conf reserves (parse.y of OpenBSD and FreeBSD)."""


def gaps(ruleset: Ruleset, dialect: Dialect) -> list[Problem]:
    """What this dialect refuses to render, and notes."""
    found: list[Problem] = []
    for direction in Direction:
        for rule in ruleset.rules(direction):
            found += _rule(rule, direction, dialect)
    for item in ruleset.translations:
        found += _translation(item, dialect)
    found += _masquerades(ruleset)
    if not dialect.rules_translate:
        found += _types_of_others(ruleset)
    for name in ruleset.clamps:
        found.append(
            _gap("a segment size clamped to the path", _span(ruleset, name), "leave `mss` out, or set it on the link")
        )
    if ruleset.published_governed:
        span = next((rule.span for rule in ruleset.forwarded if rule.kind is Kind.PUBLISHED), None)
        found.append(_gap("whether somebody else's translation turned a packet", span, "write `published: keep`"))
    return order(found)


def _gap(what: str, span: Span | None, hint: str | None = None) -> Problem:
    return Problem("gap", f"pf cannot say this: {what}", span, hint)


def _note(what: str, span: Span | None) -> Problem:
    return Problem("platform", what, span, "see docs/platforms.md", "note")


def _span(ruleset: Ruleset, name: str) -> Span | None:
    return next((rule.span for rule in ruleset.forwarded if rule.name == name and rule.kind is Kind.FORWARD), None)


def _rule(rule: Rule, direction: Direction, dialect: Dialect) -> Iterator[Problem]:
    if rule.kind is Kind.FIXED or not rule.states & State.NEW:
        return
    yield from _interfaces((*rule.interfaces, *rule.out_interfaces), rule.span, dialect)
    if not dialect.groups and rule.kind is Kind.FORWARD and direction is Direction.FORWARDED:
        yield _gap("what passes through this host", rule.span, "macOS does not tell pf which addresses are its own")
    yield from _flows(rule.flows, rule.span, dialect)
    if rule.user is not None:
        yield from _user(rule, direction)
    live = (rule.live_source and rule.source != ANYWHERE) or (rule.live_destination and rule.destination != ANYWHERE)
    if live:
        yield _gap("exceptions to a live group", rule.span, "leave `except` out, or keep the group free of them")
    if rule.limited:
        yield from _limits(rule)
    if rule.until is not None:
        yield _note(
            "pf has no clock: after `until` an apply is due, and `verify` reports the entry as expired", rule.span
        )


def _user(rule: Rule, direction: Direction) -> Iterator[Problem]:
    if direction is not Direction.OUTBOUND:
        yield _gap("the user of a packet that this host did not send", rule.span)
    if not _USER.fullmatch(rule.user or "") or rule.user in KEYWORDS or rule.user == "unknown":  # pf: no socket at all
        yield _gap(f"a user called {rule.user!r}", rule.span)
    if rule.flows is None or any(flow.protocol not in (TCP, UDP) for flow in rule.flows):
        yield _gap("the user of anything but TCP and UDP", rule.span, "name TCP and UDP ports beside `user`")


def _limits(rule: Rule) -> Iterator[Problem]:
    flows = rule.original.flows if rule.original is not None else rule.flows
    only_tcp = flows is not None and all(flow.protocol == TCP for flow in flows)
    if rule.verdict is not Verdict.ACCEPT:
        yield _gap("a limit on what is not admitted", rule.span)
    if rule.rate is not None and not only_tcp:
        yield _gap(
            "a rate of anything but TCP", rule.span, "use `max_connections`, or put TCP into an entry of its own"
        )
    elif rule.rate is not None:
        yield _note("pf counts a `rate` when a handshake ends, and IPv6 sources by address, not by /64", rule.span)
    if rule.rate is not None and rule.rate.number > LARGEST_RATE:
        yield _gap(f"a rate above {LARGEST_RATE}", rule.span)
    if rule.max_connections is not None and rule.max_connections > LARGEST:
        yield _gap(f"a limit above {LARGEST}", rule.span)
    if rule.max_connections is not None:
        what = "when a handshake ends" if only_tcp else "by states"
        yield _note(f"pf counts `max_connections` {what}, and IPv6 sources by address, not by /64", rule.span)


def _interfaces(names: tuple[str, ...], span: Span | None, dialect: Dialect) -> Iterator[Problem]:
    for name in names:
        plain = name.removesuffix("*")
        if name == LOOPBACK:
            continue
        if name.endswith("*") and not dialect.groups:
            yield _gap(f"every interface whose name begins with {plain!r}", span, "name each interface")
        elif name.endswith("*") and plain not in CLONED:
            hint = "name each interface; pf knows families of cloned ones alone: " + ", ".join(CLONED)
            yield _gap(f"every interface whose name begins with {plain!r}", span, hint)
        elif not _INTERFACE.fullmatch(plain) or len(plain) > INTERFACE_LENGTH or plain in KEYWORDS:
            yield _gap(f"an interface called {name!r}", span, f"at most {INTERFACE_LENGTH} letters, digits and . _ -")
        elif not name.endswith("*") and plain in CLONED:
            yield _gap(f"an interface called {name!r}, which is a group's name", span)


def _flows(flows: Flows, span: Span | None, dialect: Dialect) -> Iterator[Problem]:
    for flow in flows or ():
        ports = flow.ports != EVERY_PORT or flow.source_ports != EVERY_PORT
        if flow.protocol == SCTP and ports and not dialect.sctp_ports:
            yield _gap("ports of SCTP", span, f"{dialect.name} knows the protocol alone; FreeBSD 15 knows its ports")
        elif ports and flow.protocol not in (*PROTOCOLS_WITH_PORTS, ICMP, ICMPV6):
            yield _gap(f"ports of protocol {flow.protocol}, which has none", span)


def _translation(item: Translation, dialect: Dialect) -> Iterator[Problem]:
    yield from _interfaces(item.interfaces, item.span, dialect)
    if not dialect.groups and item.target is None and item.destination is None:
        yield _gap("a port of this host on whichever address", item.span, "name the address with `to`")
    yield from _flows(item.flows, item.span, dialect)
    if not dialect.rules_translate and asks_types(item.flows):
        yield _gap("a target for some types of ICMP", item.span, "leave `ping` out: this pf would turn every type")
    portless = item.flows is None or any(flow.protocol not in PROTOCOLS_WITH_PORTS for flow in item.flows)
    if item.target_port is not None and portless:
        yield _gap("a target port for a protocol without ports", item.span, "leave the port out of `target`")
    here = item.target is None and item.destination is None
    here = here and dialect.groups
    if here and 6 in item.families() and not item.interfaces:
        hint = "name the address with `to`, or the interface with `in`, or admit IPv4 sources alone"
        yield _gap("a port of this host, in IPv6, on whichever address", item.span, hint)
    if here and any(name.endswith("*") for name in item.interfaces):
        yield _gap(
            "a port of this host on a family of interfaces", item.span, "name the interfaces, or an address with `to`"
        )


def _types_of_others(ruleset: Ruleset) -> Iterator[Problem]:
    """`nat` rules ask for no ICMP type: what one entry means may be translated for another."""
    routes = [r for r in ruleset.forwarded if r.kind is Kind.FORWARD and r.original is None]
    for item in ruleset.masquerades:
        for rule in (r for r in routes if r.name == item.name and asks_types(r.flows)):
            for other in routes:
                common = other.source & rule.source and other.destination & rule.destination
                if other is not rule and common and _icmp(other.flows) and other.flows != rule.flows:
                    hint = f"leave `ping` out of it, or of {other.name}"
                    yield _gap("a source that is replaced for some types of ICMP alone", rule.span, hint)


def _icmp(flows: Flows) -> bool:
    return flows is None or any(flow.protocol in (ICMP, ICMPV6) for flow in flows)


def _masquerades(ruleset: Ruleset) -> Iterator[Problem]:
    for item in ruleset.masquerades:
        rule = next((r for r in ruleset.forwarded if r.kind is Kind.FORWARD and r.name == item.name), None)
        if rule is None:
            continue
        if item.address is None and not rule.out_interfaces:
            yield _gap("`masquerade: true` without `out`", rule.span, "name the outgoing interface, or an address")
        if item.address is None and any(name.endswith("*") for name in rule.out_interfaces):
            yield _gap("`masquerade: true` on a family of interfaces", rule.span, "name the interfaces")
        if rule.limited and rule.original is None:
            yield _gap("a limit beside `masquerade`", rule.span, "limit it in an entry without `masquerade`")
