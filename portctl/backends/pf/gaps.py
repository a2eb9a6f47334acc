"""What a pf cannot say, each at its place in the policy. Nothing is left out of a rule: the policy is refused.

Notes say where the platform forces a difference that is no refusal (`docs/platforms.md`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from portctl.backends.pf.dialects import Dialect
from portctl.backends.pf.outward import asks_types
from portctl.backends.pf.turning import by_interface
from portctl.backends.pf.words import CLONED
from portctl.net import ANYWHERE, Family
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
    interface_matches,
)

AH = 51
LARGEST = (1 << 32) - 1
LARGEST_RATE = 4_000_000
"""pf multiplies it by a thousand in 32 bits (pf_init_threshold)."""
INTERFACE_LENGTH = 15
_INTERFACE = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*")
_USER = re.compile(r"[A-Za-z_][A-Za-z0-9._-]*|[0-9]{1,9}")
KEYWORDS = frozenset(
    """af-to all allow-opts altq anchor antispoof any bandwidth binat binat-anchor binat-to bitmask block block-policy
    bridge-to buckets burst cbq code codelq const crop debug delay divert-packet divert-reply divert-to dl-domain
    dnpipe dnqueue drop drop-ovl dscp dummynet dummynet-anchor dup-to endpi ether ethernet extfilter extmap
    fail-policy fairq fastroute file fingerprints flags floating flows flush for fragment from global group hfsc
    hogs hostid icmp-type icmp6-type if-bound in include inet inet6 interval keep keepcounters l3 label least-states
    limit limiter linkshare load log loginterface map-e-portset match max max-mss max-pkt-rate max-pkt-size
    max-src-conn max-src-conn-rate max-src-nodes max-src-states min min-ttl modulate nat nat-anchor nat-to no no-df
    no-route no-sync on once optimization os out overload parent pass pflow port prefer-ipv6-nexthop prio priority
    priq probability proto qlimit queue quick random random-id rdr rdr-anchor rdr-to realtime reassemble received-on
    reply-to require-order return return-icmp return-icmp6 return-rst ridentifier round-robin route route-to rtable
    rule ruleset-optimization sc scrub scrub-anchor self set set-tos skip sloppy source source-hash source-track
    sourcelim spi state state-defaults state-policy statelim static-port sticky-address syncookies synproxy table
    tag tagged target tbrsize timeout to tos ttl upperlimit urpf-failed user validity weight yes""".split()  # noqa: SIM905
)
"""Words that pf.conf reserves, or may soon (parse.y of OpenBSD, FreeBSD and macOS)."""


def gaps(ruleset: Ruleset, dialect: Dialect) -> list[Problem]:
    """What this dialect refuses to render, and notes."""
    found: list[Problem] = []
    for direction in Direction:
        for rule in ruleset.rules(direction):
            found += _rule(rule, direction, dialect)
    for item in ruleset.translations:
        found += _translation(ruleset, item, dialect)
    found += _masquerades(ruleset, dialect)
    if not dialect.rules_translate:
        found += _types_of_others(ruleset)
    for name in ruleset.clamps:
        found.append(
            _gap(
                "a segment size clamped to the path",
                _place(ruleset, name, "mss"),
                "leave `mss` out, or set it on the link",
            )
        )
    if ruleset.published_governed:
        span = next((rule.span for rule in ruleset.forwarded if rule.kind is Kind.PUBLISHED), None)
        found.append(_gap("whether somebody else's translation turned a packet", span, "write `published: keep`"))
    return order(found)


def _gap(what: str, span: Span | None, hint: str | None = None) -> Problem:
    return Problem("gap", f"pf cannot say this: {what}", span, hint)


def _note(what: str, span: Span | None) -> Problem:
    return Problem("platform", what, span, "see docs/platforms.md", "note")


def _place(ruleset: Ruleset, name: str, *keys: str) -> Span | None:
    """The place of a part of a forward."""
    rules = (rule for each in (ruleset.forwarded, ruleset.inbound) for rule in each if rule.kind is Kind.FORWARD)
    return next((rule.place(*keys) for rule in rules if rule.name == name), None)


def _rule(rule: Rule, direction: Direction, dialect: Dialect) -> Iterator[Problem]:
    if rule.kind is Kind.FIXED or not rule.states & State.NEW:
        return
    yield from _interfaces(rule.interfaces, rule.place("in"), dialect)
    yield from _interfaces(rule.out_interfaces, rule.place("out"), dialect)
    if not dialect.groups and rule.kind is Kind.FORWARD and direction is Direction.FORWARDED:
        yield _gap("what passes through this host", rule.span, "macOS does not tell pf which addresses are its own")
    yield from _flows(rule.flows, rule.families(), rule.place("ports"), dialect)
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
        yield _gap("the user of a packet that this host did not send", rule.place("user"))
    if not _USER.fullmatch(rule.user or "") or rule.user in KEYWORDS or rule.user == "unknown":  # pf: no socket at all
        yield _gap(f"a user called {rule.user!r}", rule.place("user"))
    if rule.flows is None or any(flow.protocol not in (TCP, UDP) for flow in rule.flows):
        yield _gap("the user of anything but TCP and UDP", rule.place("user"), "name TCP and UDP ports beside `user`")


def _limits(rule: Rule) -> Iterator[Problem]:
    flows = rule.original.flows if rule.original is not None else rule.flows
    only_tcp = flows is not None and all(flow.protocol == TCP for flow in flows)
    if rule.verdict is not Verdict.ACCEPT:
        yield _gap("a limit on what is not admitted", rule.span)
    if rule.rate is not None and not only_tcp:
        hint = "use `max_connections`, or put TCP into an entry of its own"
        yield _gap("a rate of anything but TCP", rule.place("rate"), hint)
    elif rule.rate is not None:
        what = "pf counts a `rate` when a handshake ends, and IPv6 sources by address, not by /64"
        yield _note(what, rule.place("rate"))
    if rule.rate is not None and rule.rate.number > LARGEST_RATE:
        yield _gap(f"a rate above {LARGEST_RATE}", rule.place("rate"))
    if rule.max_connections is not None and rule.max_connections > LARGEST:
        yield _gap(f"a limit above {LARGEST}", rule.place("max_connections"))
    if rule.max_connections is not None:
        when = "when a handshake ends" if only_tcp else "by states"
        what = f"pf counts `max_connections` {when}, and IPv6 sources by address, not by /64"
        yield _note(what, rule.place("max_connections"))


def _interfaces(names: tuple[str, ...], span: Span | None, dialect: Dialect) -> Iterator[Problem]:
    for name in names:
        plain = name.removesuffix("*")
        if name == LOOPBACK:
            continue
        if re.fullmatch(r"([a-z]+)\d*", plain) and plain.rstrip("0123456789") in dialect.below:
            yield _gap(f"the interface {name!r}: pf sees what it bears on the one below", span, "name that one")
        elif name.endswith("*") and not dialect.groups:
            yield _gap(f"every interface whose name begins with {plain!r}", span, "name each interface")
        elif name.endswith("*") and plain not in dialect.families:
            hint = "name each interface; pf knows families of cloned ones alone: " + ", ".join(dialect.families)
            yield _gap(f"every interface whose name begins with {plain!r}", span, hint)
        elif not _INTERFACE.fullmatch(plain) or len(plain) > INTERFACE_LENGTH or plain in KEYWORDS:
            yield _gap(f"an interface called {name!r}", span, f"at most {INTERFACE_LENGTH} letters, digits and . _ -")
        elif not name.endswith("*") and plain in CLONED:
            yield _gap(f"an interface called {name!r}, which is a group's name", span)


def _flows(flows: Flows, families: tuple[Family, ...], span: Span | None, dialect: Dialect) -> Iterator[Problem]:
    for flow in flows or ():
        if flow.protocol == AH and (dialect.through_ah or 6 in families):
            which = "AH" if dialect.through_ah else "AH of IPv6"
            yield _note(f"pf looks through {which}: a packet is judged by what it carries, and `ah` admits none", span)
        ports = flow.ports != EVERY_PORT or flow.source_ports != EVERY_PORT
        if flow.protocol == SCTP and ports and not dialect.sctp_ports:
            yield _gap("ports of SCTP", span, f"{dialect.name} knows the protocol alone; FreeBSD 15 knows its ports")
        elif ports and flow.protocol not in (*PROTOCOLS_WITH_PORTS, ICMP, ICMPV6):
            yield _gap(f"ports of protocol {flow.protocol}, which has none", span)


def _translation(ruleset: Ruleset, item: Translation, dialect: Dialect) -> Iterator[Problem]:
    places = {key: _place(ruleset, item.name, key) or item.span for key in ("in", "ports", "target")}
    target = places["target"]
    yield from _interfaces(item.interfaces, places["in"], dialect)
    if not dialect.groups and item.target is None and item.destination is None:
        yield _gap("a port of this host on whichever address", target, "name the address with `to`")
    yield from _flows(item.flows, item.families(), places["ports"], dialect)
    if not dialect.rules_translate and asks_types(item.flows):
        hint = "leave `ping` out: this pf would turn every type"
        yield _gap("a target for some types of ICMP", places["ports"], hint)
    portless = item.flows is None or any(flow.protocol not in PROTOCOLS_WITH_PORTS for flow in item.flows)
    if item.target_port is not None and portless:
        yield _gap("a target port for a protocol without ports", target, "leave the port out of `target`")
    here = {family for family in item.families() if by_interface(item, family)}
    here = here if dialect.groups or item.destination is not None else set()
    if not item.interfaces and (6 in here or (here and not dialect.to_loopback)):
        also = ", or admit IPv4 sources alone" if dialect.to_loopback else ""
        hint = f"name single addresses with `to`, or the interface with `in`{also}"
        which = ", in IPv6," if dialect.to_loopback else ""
        yield _gap(f"a port of this host{which} on whichever address", target, hint)
    if here and any(name.endswith("*") for name in item.interfaces):
        hint = "name the interfaces, or an address with `to`"
        yield _gap("a port of this host on a family of interfaces", places["in"], hint)


def _types_of_others(ruleset: Ruleset) -> Iterator[Problem]:
    """`nat` rules ask for no ICMP type: what one entry means may be translated for another."""
    routes = [r for r in ruleset.forwarded if r.kind is Kind.FORWARD and r.original is None]
    for item in ruleset.masquerades:
        for rule in (r for r in routes if r.name == item.name and asks_types(r.flows)):
            for other in routes:
                common = other.source & rule.source and other.destination & rule.destination
                ways = meet(rule.interfaces, other.interfaces) and meet(rule.out_interfaces, other.out_interfaces)
                if other is not rule and common and ways and _icmp(other.flows) and other.flows != rule.flows:
                    hint = f"leave `ping` out of it, or of {other.name}"
                    what = "a source that is replaced for some types of ICMP alone"
                    yield _gap(what, rule.place("masquerade"), hint)


def meet(some: tuple[str, ...], others: tuple[str, ...]) -> bool:
    """Whether an interface may bear a name among both."""
    pairs = [(each, other) for each in some for other in others]
    return not (some and others) or any(
        interface_matches((one,), two.rstrip("*")) for a, b in pairs for one, two in ((a, b), (b, a))
    )


def _icmp(flows: Flows) -> bool:
    return flows is None or any(flow.protocol in (ICMP, ICMPV6) for flow in flows)


def _masquerades(ruleset: Ruleset, dialect: Dialect) -> Iterator[Problem]:
    for item in ruleset.masquerades:
        rule = next((r for r in ruleset.forwarded if r.kind is Kind.FORWARD and r.name == item.name), None)
        if rule is None:
            continue
        if item.address is None and not rule.out_interfaces:
            hint = "name the outgoing interface, or an address"
            yield _gap("`masquerade: true` without `out`", rule.place("masquerade"), hint)
        if item.address is None and any(name.endswith("*") for name in rule.out_interfaces):
            yield _gap("`masquerade: true` on a family of interfaces", rule.place("out"), "name the interfaces")
        if item.address is None and 6 in _after(ruleset, rule) and not dialect.first_is_global:
            hint = "name an address, or admit IPv4 sources alone: pf takes the interface's first, which is link-local"
            yield _gap("`masquerade: true` in IPv6", rule.place("masquerade"), hint)
        if rule.limited and rule.original is None:
            hint = "limit it in an entry without `masquerade`"
            yield _gap("a limit beside `masquerade`", rule.place("rate", "max_connections"), hint)


def _after(ruleset: Ruleset, rule: Rule) -> tuple[Family, ...]:
    """The families in which a forward's packets leave."""
    turned = next((item for item in ruleset.translations if item.name == rule.name), None)
    return rule.families() if turned is None else turned.families()
