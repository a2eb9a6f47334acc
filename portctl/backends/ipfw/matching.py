"""The bodies of rules: which packets a rule of the policy means, in as many lines as ipfw needs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from portctl.backends.ipfw import words
from portctl.backends.ipfw.layout import Layout
from portctl.ruleset import EVERY_PORT, ICMP, ICMPV6, PROTOCOLS_WITH_PORTS, TCP, Flow, Rule


@dataclass(frozen=True, slots=True)
class Body:
    """`PROTOCOL from … to … OPTIONS`, and the protocol that it names (None: every one)."""

    text: str
    protocol: int | None


def bodies(
    layout: Layout, rule: Rule, way: str, *, starts: bool = False, flows: tuple[Flow, ...] | None = None, more: str = ""
) -> Iterator[Body]:
    """The lines of a rule on the way `in` or `out`.

    `flows`: these instead of the rule's. `starts`: of TCP only what starts a connection; a rule for every protocol then
    becomes two. What cannot be asked on the way in (`xmit`) is left out there.
    """
    for arriving in words.few(rule.interfaces):
        for leaving in words.few(rule.out_interfaces if way == "out" else ()):
            part = replace(rule, interfaces=arriving, out_interfaces=leaving)
            yield from _bodies(layout, part, way, starts, flows, more)


def _bodies(
    layout: Layout, rule: Rule, way: str, starts: bool, flows: tuple[Flow, ...] | None, more: str
) -> Iterator[Body]:
    wanted = rule.flows if flows is None else flows
    if wanted is None:
        if starts:
            yield _body(layout, rule, way, TCP, "", "", words.START, more)
            yield _body(layout, rule, way, None, "", "", "", more, word="not tcp")
        else:
            yield _body(layout, rule, way, None, "", "", "", more)
        return
    for flow in wanted:
        if not any(family in flow.families() for family in rule.families()):
            continue
        flags = words.START if starts and flow.protocol == TCP else ""
        if flow.protocol in (ICMP, ICMPV6):
            yield _body(layout, rule, way, flow.protocol, "", "", words.types(flow), more)
        elif flow.protocol not in PROTOCOLS_WITH_PORTS:
            if flow.protocol != words.AUTHENTICATION or 4 in rule.families():
                yield _body(layout, rule, way, flow.protocol, "", "", "", more)
            if flow.protocol == words.AUTHENTICATION and 6 in rule.families():
                yield replace(_body(layout, rule, way, None, "", "", "ext6hdr ah", more, word="ip6"), protocol=51)
        else:
            for source, target in words.port_lists(flow):
                yield _body(layout, rule, way, flow.protocol, source, target, flags, more)


def _body(
    layout: Layout, rule: Rule, way: str, protocol: int | None, source: str, target: str, asked: str, more: str,
    word: str = "ip",
) -> Body:  # fmt: skip
    # For ipfw that protocol is the word `ip6`: it would read an address of IPv4 as one of IPv6, and refuse it.
    listed = protocol == words.IPV6_ENCAPSULATED
    there = layout.addresses(rule.destination, f"to-{rule.name}", listed=listed)
    if rule.live_destination is not None:
        there = f"table({live(rule.live_destination)})"
    here = layout.addresses(rule.source, f"from-{rule.name}", listed=listed)
    if rule.live_source is not None:
        here = f"table({live(rule.live_source)})"
    options = [
        way,
        words.interfaces("recv", rule.interfaces),
        words.interfaces("xmit", rule.out_interfaces),
        f"uid {rule.user}" if rule.user is not None else "",
        asked,
        more,
    ]
    name = word if protocol is None else words.protocol(protocol)
    parts = [name, "from", here, source, "to", there, target, *options]
    return Body(" ".join(part for part in parts if part), protocol)


def live(group: str) -> str:
    """The table of a live group's members."""
    from portctl.backends.ipfw.layout import LIVE

    return LIVE + words.identifier(group)


def note(rule: Rule) -> str:
    """The comment of a rule: where it comes from, and what people say of it."""
    about = [rule.description, rule.owner and f"owner {rule.owner}", rule.ticket]
    return words.comment(f"portctl:{rule.kind.value}:{rule.name}", *about)


def portless(rule: Rule, protocol: int) -> bool:
    """Whether a rule may admit packets of a protocol whatever their destination port."""
    return rule.flows is None or any(f.protocol == protocol and f.ports == EVERY_PORT for f in rule.flows)
