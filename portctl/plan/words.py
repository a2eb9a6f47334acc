"""A policy's entries, and the difference of two policies, in words."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from portctl.net import ANYWHERE, Addresses, describe
from portctl.ruleset import EVERY_PORT, ICMP, ICMPV6, SCTP, TCP, UDP, Direction, Flow, Flows, Kind, Rule, Ruleset

_PROTOCOLS = {TCP: "tcp", UDP: "udp", SCTP: "sctp", 2: "igmp", 47: "gre", 50: "esp", 51: "ah", 89: "ospf", 112: "vrrp"}
_MANY = 8
"""So many ports, or names, are spelled out."""


def flows_text(flows: Flows) -> str:
    """`22/tcp, 53/tcp+udp`, in short."""
    if flows is None:
        return "everything"
    if all(flow.protocol in (ICMP, ICMPV6) for flow in flows):
        pings = {ICMP: 8 * 256, ICMPV6: 128 * 256}
        if all(flow.ports.bounds[:1] == (pings[flow.protocol],) for flow in flows):
            return "ping"
    return ", ".join(text for flow in flows for text in _flow(flow))


def _flow(flow: Flow) -> Iterator[str]:
    name = _PROTOCOLS.get(flow.protocol, {ICMP: "icmp", ICMPV6: "icmpv6"}.get(flow.protocol, f"proto/{flow.protocol}"))
    if flow.ports == EVERY_PORT or flow.protocol not in (TCP, UDP, SCTP):
        yield name
        return
    pairs = list(flow.ports.pairs())
    for low, high in pairs[:_MANY]:
        yield f"{low}/{name}" if low == high else f"{low}-{high}/{name}"
    if len(pairs) > _MANY:
        yield "…"


Names = dict[Addresses, str]
"""What the policy calls a set of addresses."""


def _who(addresses: Addresses, names: Names) -> str:
    return names.get(addresses) or describe(addresses)


def entry_text(rule: Rule, names: Names) -> str:
    """What a rule admits (or blocks), without its name."""
    if rule.kind is Kind.EGRESS:
        text = f"{flows_text(rule.flows)} to {_who(rule.destination, names)}"
    elif rule.kind is Kind.BLOCK:
        side = rule.source if rule.source != ANYWHERE or rule.live_source else rule.destination
        live = rule.live_source or rule.live_destination
        text = f"the live group {live}" if live else _who(side, names)
        text = text if rule.flows is None else f"{flows_text(rule.flows)}, {text}"
    else:
        text = f"{flows_text(rule.flows)} from {_who(rule.source, names)}"
        text += "" if rule.destination == ANYWHERE else f" to {_who(rule.destination, names)}"
    text += f" in on {', '.join(rule.interfaces)}" if rule.interfaces else ""
    text += f" out on {', '.join(rule.out_interfaces)}" if rule.out_interfaces else ""
    text += f", {rule.rate.number} a {rule.rate.period} from each source" if rule.rate else ""
    text += f", {rule.max_connections} at a time from each source" if rule.max_connections else ""
    text += f", by the user {rule.user}" if rule.user else ""
    return text + (f", until {rule.until:%Y-%m-%d %H:%M}Z" if rule.until else "")


_OPENS = {Kind.SERVICE: "service", Kind.EGRESS: "egress", Kind.FORWARD: "forward", Kind.PUBLISHED: "published"}

Entries = dict[tuple[str, str], tuple[Rule, ...]]


def _entries(ruleset: Ruleset | None) -> Entries:
    found: dict[tuple[str, str], list[Rule]] = {}
    for direction in Direction if ruleset else ():
        assert ruleset is not None
        for rule in ruleset.rules(direction):
            if rule.kind in _OPENS or rule.kind is Kind.BLOCK:
                kind = _OPENS.get(rule.kind, "block")
                found.setdefault((kind, rule.name), []).append(rule)
    return {key: tuple(rules) for key, rules in found.items()}


def summary(old: Ruleset | None, new: Ruleset) -> tuple[str, ...]:
    """What becomes reachable and what no longer is. `old` None: nothing of portctl's was in force."""
    before, after = _entries(old), _entries(new)
    names: Names = {addresses: name for ruleset in (old, new) if ruleset for name, addresses in ruleset.groups}
    lines = [f"+ {_title(key)}: {_all(after[key], names)}" for key in after if key not in before]
    for key in after:
        if key in before and before[key] != after[key]:
            lines += _changed(key, before[key], after[key], names)
    lines += [f"- {_title(key)}: no longer {_all(before[key], names)}" for key in before if key not in after]
    lines += _defaults(old, new)
    return tuple(lines)


def _title(key: tuple[str, str]) -> str:
    return key[1] if key[0] == "service" else f"{key[0]} {key[1]}" if key[0] != key[1] else key[0]


def _all(rules: tuple[Rule, ...], names: Names) -> str:
    return "; ".join(dict.fromkeys(entry_text(rule, names) for rule in rules))


def _changed(key: tuple[str, str], old: tuple[Rule, ...], new: tuple[Rule, ...], names: Names) -> Iterator[str]:
    if len(old) == len(new) == 1 and old[0].flows == new[0].flows:
        more, less = new[0].source - old[0].source, old[0].source - new[0].source
        was_else = entry_text(replace(old[0], source=ANYWHERE), names)
        if (more or less) and was_else == entry_text(replace(new[0], source=ANYWHERE), names):
            if more:
                yield f"+ {_title(key)}: {flows_text(new[0].flows)} now also from {_who(more, names)}"
            if less:
                yield f"- {_title(key)}: {flows_text(new[0].flows)} no longer from {_who(less, names)}"
            return
    was, becomes = _all(old, names), _all(new, names)
    if was == becomes:
        yield f"~ {_title(key)}: reaches as before; its description, log or order changes"
    else:
        yield f"~ {_title(key)}: {becomes} (was: {was})"


_SAYS = {
    Direction.INBOUND: "whatever else comes in",
    Direction.OUTBOUND: "whatever else this host starts",
    Direction.FORWARDED: "whatever else would pass through",
}


def _defaults(old: Ruleset | None, new: Ruleset) -> Iterator[str]:
    for direction in Direction:
        if direction is Direction.FORWARDED and new.forward_kept and (old is None or old.forward_kept):
            continue
        verdict = new.rules(direction)[-1].verdict.value
        was = old.rules(direction)[-1].verdict.value if old else "accept"
        if direction is Direction.FORWARDED and new.forward_kept:
            verdict = "keep"
        if verdict != was:
            yield f"~ {_SAYS[direction]}: {verdict} (was: {was if old else 'not portctl’s'})"
