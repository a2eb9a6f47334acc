"""The verdict tables of the policy language, line by line, as rules. Nothing that decides a packet lies elsewhere."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from portctl.net import (
    ANYWHERE,
    EVERY_V4,
    LINK_LOCAL_V6,
    LOOPBACK_ADDRESSES,
    UNSPECIFIED_V6,
    Addresses,
    Ranges,
)
from portctl.policy.models import Defaults
from portctl.resolve.entries import Opening
from portctl.ruleset import (
    ICMP,
    ICMPV6,
    KNOWN,
    LOOPBACK,
    STARTING,
    UDP,
    Flow,
    Flows,
    Kind,
    Original,
    Rule,
    State,
    Verdict,
    icmp,
)

_EVERY_V4_ADDRESS = Addresses(v4=EVERY_V4)
_ANSWERS = {ICMP: {8: 0}, ICMPV6: {128: 129}}
"""The type that answers an ICMP type, where there is one."""


def _fixed(name: str, verdict: Verdict, flows: Flows = None, **conditions: object) -> Rule:
    return Rule(name, Kind.FIXED, verdict, flows, **conditions)  # type: ignore[arg-type]


def _udp(port: int, source_port: int | None = None) -> Flows:
    if source_port is None:
        return (Flow(UDP, Ranges.single(port)),)
    return (Flow(UDP, Ranges.single(port), Ranges.single(source_port)),)


LOOPBACK_IN = _fixed("loopback", Verdict.ACCEPT, interfaces=(LOOPBACK,))
LOOPBACK_OUT = _fixed("loopback", Verdict.ACCEPT, out_interfaces=(LOOPBACK,))
NEIGHBOURS = (
    _fixed("neighbour-discovery", Verdict.ACCEPT, (Flow(ICMPV6, icmp(133, 134, 135, 136, 137)),), hop_limit=255),
    _fixed(
        "multicast-listener",
        Verdict.ACCEPT,
        (Flow(ICMPV6, icmp(130, 131, 132, 143)),),
        source=LINK_LOCAL_V6 | UNSPECIFIED_V6,
    ),
)
"""RFC 4890, 4.4: an IPv6 host without them loses its network. Reports of MLD may come from :: (RFC 3810, 5.2.13)."""
DHCP_IN = (
    _fixed("dhcp-client", Verdict.ACCEPT, _udp(68, 67), source=_EVERY_V4_ADDRESS),
    _fixed("dhcpv6-client", Verdict.ACCEPT, _udp(546), source=LINK_LOCAL_V6),
)
DHCP_OUT = (
    _fixed("dhcp-client", Verdict.ACCEPT, _udp(67, 68), destination=_EVERY_V4_ADDRESS),
    _fixed("dhcpv6-client", Verdict.ACCEPT, _udp(547, 546), destination=Addresses(v6=ANYWHERE.v6)),
)
KNOWN_CONNECTIONS = _fixed("known", Verdict.ACCEPT, states=KNOWN)
LOOPBACK_ELSEWHERE = (
    _fixed("loopback-address", Verdict.DROP, source=LOOPBACK_ADDRESSES),
    _fixed("loopback-address", Verdict.DROP, destination=LOOPBACK_ADDRESSES),
)
INVALID = _fixed("invalid", Verdict.DROP, states=State.INVALID)
ICMP_ERRORS = _fixed("icmp-errors", Verdict.ACCEPT, (Flow(ICMP, icmp(3, 11, 12)), Flow(ICMPV6, icmp(1, 2, 3, 4))))


def in_order(rules: Iterable[Rule]) -> list[Rule]:
    """Entries without limits first, since they win; then by name."""
    return sorted(rules, key=lambda rule: (rule.limited, rule.name, rule.kind.value))


def default(name: str | None, kind: Kind = Kind.DEFAULT, rule_name: str = "default") -> Rule:
    verdict = {"allow": Verdict.ACCEPT, "drop": Verdict.DROP, "reject": Verdict.REJECT}[name or "drop"]
    return Rule(rule_name, kind, verdict)


def inbound(defaults: Defaults, block: Iterable[Rule], openings: list[Opening]) -> tuple[Rule, ...]:
    """What ends at this host. Forwards with a target are here too: the target may be one of its own addresses."""
    services = [o.rule() for o in openings if o.kind is Kind.SERVICE]
    turned = [o.turned() for o in openings if o.target]
    return (
        LOOPBACK_IN,
        *NEIGHBOURS,
        *DHCP_IN,
        *block,
        KNOWN_CONNECTIONS,
        *LOOPBACK_ELSEWHERE,
        INVALID,
        ICMP_ERRORS,
        *in_order(services + [replace(rule, out_interfaces=()) for rule in turned]),
        default(defaults.inbound),
    )


def outbound(defaults: Defaults, block: Iterable[Rule], openings: list[Opening]) -> tuple[Rule, ...]:
    """What this host sends."""
    egress: list[Rule] = []
    answers: list[Rule] = []
    if defaults.outbound != "allow":
        egress = [o.rule() for o in openings if o.kind is Kind.EGRESS]
        answers = [answer(o.rule()) for o in openings if o.kind is Kind.SERVICE]
    return (
        LOOPBACK_OUT,
        *NEIGHBOURS,
        *DHCP_OUT,
        *block,
        ICMP_ERRORS,
        KNOWN_CONNECTIONS,
        *in_order(egress),
        *sorted(answers, key=lambda rule: rule.name),
        default(defaults.outbound),
    )


def answer(rule: Rule) -> Rule:
    """What a service sends back past the state tracker: its own conditions the other way round."""
    return Rule(
        rule.name,
        Kind.SERVICE,
        Verdict.ACCEPT,
        flows=None if rule.flows is None else tuple(_answering(flow) for flow in rule.flows),
        source=rule.destination,
        destination=rule.source,
        out_interfaces=rule.interfaces,
        states=State.UNTRACKED,
        until=rule.until,
        description=rule.description,
        owner=rule.owner,
        ticket=rule.ticket,
        span=rule.span,
    )


def _answering(flow: Flow) -> Flow:
    types = _ANSWERS.get(flow.protocol)
    if types is None:
        return flow.reversed()
    return Flow(flow.protocol, icmp(*(back for asked, back in types.items() if asked * 256 in flow.ports)))


def forwarded(defaults: Defaults, block: Iterable[Rule], openings: list[Opening]) -> tuple[Rule, ...]:
    """What passes through this host."""
    kept = defaults.forward in (None, "keep")
    forwards = [o.turned() if o.target else o.rule() for o in openings if o.kind is Kind.FORWARD and o.leads_off]
    return (
        *block,
        KNOWN_CONNECTIONS,
        ICMP_ERRORS,
        *in_order(forwards),
        *_published(defaults, kept, [o for o in openings if o.kind is Kind.SERVICE]),
        default("allow", rule_name="keep") if kept else default(defaults.forward),
    )


def _published(defaults: Defaults, kept: bool, services: list[Opening]) -> list[Rule]:
    """What somebody else's DNAT turned from this host to another."""
    if defaults.published == "govern":
        own = [
            replace(
                o.rule(), flows=None, destination=ANYWHERE, published=True, original=Original(o.flows, o.destination)
            )
            for o in services
        ]
        end = replace(default(defaults.inbound, Kind.PUBLISHED, "published"), published=True, states=STARTING)
        return [*in_order(own), end]
    if kept:
        return []
    return [Rule("published", Kind.PUBLISHED, Verdict.ACCEPT, published=True, states=STARTING)]
