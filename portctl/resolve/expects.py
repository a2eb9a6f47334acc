"""Entries of `tests`, looked up: which packets each of them speaks of."""

from __future__ import annotations

from collections.abc import Iterable

from portctl.net import ANYWHERE, LOOPBACK_ADDRESSES, MULTICAST, NOWHERE, Addresses
from portctl.policy import Entry
from portctl.policy.items import AddressItem, SelfAddress
from portctl.policy.models import Expected
from portctl.resolve import scope as look
from portctl.resolve.entries import Opening
from portctl.resolve.lists import union
from portctl.resolve.scope import Scope
from portctl.ruleset import Direction, Expect, Expectation, Flows, Kind

_BROADCAST = Addresses.of("255.255.255.255")


def resolve(scope: Scope, openings: list[Opening]) -> tuple[Expectation, ...]:
    """All entries of `tests`, in the order of the files."""
    own = union(o.destination for o in openings if o.kind is Kind.SERVICE and o.destination is not None)
    return tuple(filter(None, (_expectation(scope, entry, openings, own) for entry in scope.policy.tests)))


def _expectation(scope: Scope, entry: Entry[Expected], openings: list[Opening], own: Addresses) -> Expectation | None:
    value = entry.value
    source = _side(scope, entry, "from", value.from_)
    destination = None if value.to is None else _side(scope, entry, "to", value.to)
    if source is not None:
        source = source - look.addresses(scope, entry, ("except",), value.except_ or (), closes=True)
        source = source - LOOPBACK_ADDRESSES
    elif value.except_ is not None and destination is not None:
        destination = destination - look.addresses(scope, entry, ("except",), value.except_, closes=True)
    named = None if value.service is None else _named(scope, entry, openings, source is None)
    if value.service is not None and named is None:
        return None
    if source is None and destination is None:
        destination = ANYWHERE if value.to is None else None
    direction = _direction(source, destination, named, own)
    if source is None and destination is None:
        scope.report("test-of-itself", "a host always reaches itself", entry.span("to"), "name somebody else here")
        return None
    flows: Flows = named.flows if named is not None else look.flows(scope, entry, value.ports or ())
    interfaces = look.interfaces(scope, entry, "in", value.in_)
    leaving = look.interfaces(scope, entry, "out", value.out)
    if named is not None and value.expect == "allow":
        source = _in_families(source, named)
        if value.to is None:
            destination = named.destination
        interfaces = interfaces or (named.interfaces if value.in_ is None else interfaces)
        leaving = leaving or (named.out_interfaces if value.out is None else leaving)
    if direction is Direction.FORWARDED and destination is None:
        destination = ANYWHERE
    if destination is not None:
        destination = destination - LOOPBACK_ADDRESSES
    _check_nobody(scope, entry, source, destination)
    return Expectation(
        Expect(value.expect), direction, flows, source, destination, interfaces, leaving, value.service, entry.span()
    )


def _in_families(source: Addresses | None, named: Opening) -> Addresses | None:
    """What is to be admitted by a forward is so in the family of its target alone."""
    families = named.families()
    if source is None or not named.target or len(families) != 1:
        return source
    return source.only(families[0])


def _side(scope: Scope, entry: Entry[Expected], side: str, items: Iterable[AddressItem]) -> Addresses | None:
    listed = tuple(items)
    if any(isinstance(item, SelfAddress) for item in listed):
        if len(listed) > 1:
            hint = "make one test of this host and one of the others"
            scope.report("self-and-others", "`self` stands alone", entry.span(side), hint)
        return None
    return look.addresses(scope, entry, (side,), listed)


def _named(scope: Scope, entry: Entry[Expected], openings: list[Opening], own: bool) -> Opening | None:
    """The entry whose ports a test means: an `egress` entry for what this host sends, else a service or a forward."""
    name = entry.value.service
    kinds = (Kind.EGRESS, Kind.SERVICE, Kind.FORWARD) if own else (Kind.SERVICE, Kind.FORWARD)
    for kind in kinds:
        for opening in openings:
            if opening.kind is kind and opening.name == name:
                return opening
    known = {o.name for o in openings if o.kind in kinds}
    scope.report(
        "unknown-service", f"no service is called `{name}`", entry.span("service"), look.suggestion(name or "", known)
    )
    return None


def _direction(
    source: Addresses | None, destination: Addresses | None, named: Opening | None, own: Addresses
) -> Direction:
    """Multicast and broadcast end at this host, and so does what services name in their own `to`."""
    if source is None:
        return Direction.OUTBOUND
    if destination is None:
        through = named is not None and named.kind is Kind.FORWARD and not named.target
        return Direction.FORWARDED if through else Direction.INBOUND
    if named is not None and named.kind is Kind.SERVICE:
        return Direction.INBOUND
    return Direction.INBOUND if destination <= own | MULTICAST | _BROADCAST else Direction.FORWARDED


def _check_nobody(
    scope: Scope, entry: Entry[Expected], source: Addresses | None, destination: Addresses | None
) -> None:
    if NOWHERE in (source, destination):
        scope.report("nobody-left", "this test speaks of no packet, and holds", entry.span(), None, "warning")
