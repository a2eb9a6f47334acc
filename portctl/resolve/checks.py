"""What can be wrong between entries: limits that clash, forwards that shadow services, fields that are required."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import permutations

from portctl.net import ANYWHERE, FAMILIES, MULTICAST, Addresses
from portctl.policy import Entry
from portctl.policy.models import About
from portctl.problems import Span
from portctl.resolve.entries import Opening
from portctl.resolve.pairs import meeting
from portctl.resolve.scope import Scope
from portctl.ruleset import PROTOCOLS_WITH_PORTS, Flow, Flows, Kind

MOST_CLASHES = 20
"""Pairs of entries whose limits clash may be very many; so many are shown."""
_NOT_OWN = MULTICAST | Addresses.of("0.0.0.0", "255.255.255.255", "::")
_OWN = ANYWHERE - _NOT_OWN


def check(scope: Scope, holding: list[Opening]) -> None:
    """All checks of the openings that admit something at the given moment."""
    _required(scope)
    _egress_unused(scope)
    _forward_default(scope, holding)
    _forwarding_off(scope, holding)
    _shadowed_services(scope, holding)
    for kinds in ((Kind.SERVICE, Kind.FORWARD), (Kind.EGRESS,)):
        _limits(scope, [o for o in holding if o.kind in kinds])


def _required(scope: Scope) -> None:
    """Bare entries of `block` (`- bans`) have no fields, and so cannot lack one."""
    policy = scope.policy
    structured: list[Entry[About]] = [entry for entry in policy.block if entry.value.both is None]
    named = (policy.services, policy.egress, policy.forwards)
    every = [*(e for entries in named for e in entries.values()), *structured]
    for entry in every:
        missing = [field for field in policy.defaults.require or () if getattr(entry.value, field) is None]
        if missing:
            fields = ", ".join(f"`{field}`" for field in missing)
            hint = "`defaults.require` asks it of every entry"
            scope.report("required-field", f"`{entry.name}` lacks {fields}", entry.span(key=True), hint)


def _egress_unused(scope: Scope) -> None:
    policy = scope.policy
    if policy.egress and policy.defaults.outbound == "allow":
        first = next(iter(policy.egress.values()))
        scope.report(
            "egress-unused",
            "`egress` limits nothing while `defaults.outbound` is `allow`",
            first.span(key=True),
            "write `outbound: drop` or `reject` under `defaults`, or leave `egress` out",
            "warning",
        )


def _forward_default(scope: Scope, holding: list[Opening]) -> None:
    """Switching on forwarding opens the forward path to everybody, unless something closes it."""
    said = scope.policy.defaults.forward
    leading = [o for o in holding if o.leads_off]
    if said in ("drop", "reject") or not leading:
        return
    first = leading[0]
    families = " and ".join(f"IPv{f}" for f in FAMILIES if any(f in o.families() for o in leading))
    opens = f"it switches on forwarding of {families}, and `keep` lets everything else through this host too"
    hint = "write `forward: drop` under `defaults`; `forward: keep` there says that others close the forward path"
    if said is None:
        message = f"`{first.name}` leads off this host, and `defaults.forward` is not said: {opens}"
        scope.report("forward-default", message, first.entry.span(key=True), hint)
    else:
        message = f"`{first.name}` leads off this host under `forward: keep`: {opens}, unless others' rules stop it"
        hint = "write `forward: drop` under `defaults`, if portctl is to close the rest"
        scope.report("forward-default", message, first.entry.span(key=True), hint, "warning")


def _forwarding_off(scope: Scope, holding: list[Opening]) -> None:
    off = {name: entry for (system, name), entry in scope.policy.sysctl.items() if system == "any"}
    for family in FAMILIES:
        opening = next((o for o in holding if o.leads_off and family in o.families()), None)
        entry = off.get(f"forwarding_v{family}") or off.get("forwarding")
        if opening and entry and entry.value in ("0", "false"):
            scope.report(
                "forwarding-off",
                f"`{opening.name}` needs forwarding of IPv{family}, which `sysctl` switches off",
                entry.span(),
                "leave the setting out: forwards switch it on for the families they use",
                others=(("the forward is here", opening.entry.span(key=True)),),
            )
            return


def _shadowed_services(scope: Scope, holding: list[Opening]) -> None:
    services = [o for o in holding if o.kind is Kind.SERVICE]
    translating = [o for o in holding if o.target]
    for at, other in meeting(translating, services):
        forward, service = translating[at], services[other]
        if _common(forward, service):
            scope.report(
                "forward-over-service",
                f"`{forward.name}` takes packets away from the service `{service.name}`: it is asked first",
                forward.entry.span("ports"),
                None,
                "warning",
                (("the service is here", service.entry.span(key=True)),),
            )


def _limits(scope: Scope, openings: list[Opening]) -> None:
    """Two limits on one packet have no common meaning, unless an entry without limits admits it anyway."""
    limited = [o for o in openings if o.limited]
    free = [o for o in openings if not o.limited]
    clashes = 0
    for at, other in meeting(limited, limited):
        if clashes == MOST_CLASHES:
            return
        if at >= other:
            continue
        first, second = limited[at], limited[other]
        if _limit(first) == _limit(second) or _apart(first, second) or not _common(first, second):
            continue
        if not _covered(first, second, free):
            clashes += 1
            scope.report(
                "limits-clash",
                f"`{first.name}` and `{second.name}` limit the same packets differently",
                _limit_place(second),
                "give both the same limit, or let them name different ports or sources",
                others=((f"`{first.name}` is limited here", _limit_place(first)),),
            )


def _apart(first: Opening, second: Opening) -> bool:
    """Whether one is of what comes to this host and the other of what passes through: a forward that translates nothing
    never comes to a service."""
    both = permutations((first, second))
    return any(a.kind is Kind.SERVICE and b.kind is Kind.FORWARD and not b.target for a, b in both)


def _limit(opening: Opening) -> tuple[object, int | None]:
    return opening.entry.value.rate, opening.entry.value.max_connections


def _limit_place(opening: Opening) -> Span:
    return opening.entry.span("rate" if opening.entry.value.rate else "max_connections")


def _common(first: Opening, second: Opening) -> bool:
    """Whether some packet meets both entries before any translation."""
    common_source = first.source & second.source
    if not common_source or not _destinations_meet(first, second, common_source):
        return False
    if first.interfaces and second.interfaces and not patterns_meet(first.interfaces, second.interfaces):
        return False
    if (
        first.out_interfaces
        and second.out_interfaces
        and not patterns_meet(first.out_interfaces, second.out_interfaces)
    ):
        return False
    return flows_meet(first.flows, second.flows)


def _destinations_meet(first: Opening, second: Opening, source: Addresses) -> bool:
    common = _before(first) & _before(second)
    return any(common.family(family) and source.family(family) for family in FAMILIES)


def _before(opening: Opening) -> Addresses:
    """Where a packet of the entry may be going: a translation without `to` takes this host's own addresses only."""
    if opening.destination is not None:
        return opening.destination
    return _OWN if opening.target else ANYWHERE


def _covered(first: Opening, second: Opening, free: Iterable[Opening]) -> bool:
    """Whether one entry without limits admits all that two limited ones have in common."""
    source = first.source & second.source
    return any(
        source <= other.source
        and not other.interfaces
        and not other.out_interfaces
        and (other.destination is None or (_before(first) & _before(second)) <= other.destination)
        and not other.target
        and _flows_within(first.flows, other.flows)
        for other in free
    )


def _flows_within(flows: Flows, others: Flows) -> bool:
    if others is None:
        return True
    by_protocol = {flow.protocol: flow for flow in others}
    return flows is not None and all(
        flow.protocol in by_protocol
        and flow.ports <= by_protocol[flow.protocol].ports
        and flow.source_ports <= by_protocol[flow.protocol].source_ports
        for flow in flows
    )


def flows_meet(first: Flows, second: Flows) -> bool:
    """Whether a packet can belong to both."""
    if first is None or second is None:
        return True
    by_protocol = {flow.protocol: flow for flow in second}
    return any(f.protocol in by_protocol and _flow_meets(f, by_protocol[f.protocol]) for f in first)


def _flow_meets(first: Flow, second: Flow) -> bool:
    if first.ports.isdisjoint(second.ports):
        return False
    return first.protocol not in PROTOCOLS_WITH_PORTS or not first.source_ports.isdisjoint(second.source_ports)


def patterns_meet(first: Iterable[str], second: Iterable[str]) -> bool:
    """Whether a device can bear a name that both lists of names and patterns allow."""
    return any(_names_meet(a, b) for a in first for b in second)


def _names_meet(first: str, second: str) -> bool:
    if first.endswith("*") and second.endswith("*"):
        return first[:-1].startswith(second[:-1]) or second[:-1].startswith(first[:-1])
    if first.endswith("*"):
        return second.startswith(first[:-1])
    if second.endswith("*"):
        return first.startswith(second[:-1])
    return first == second
