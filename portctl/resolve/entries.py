"""Entries of `services`, `egress` and `forwards` with their names looked up, and the rules that they become."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal

from portctl.net import ANYWHERE, FAMILIES, NOWHERE, Addresses, Family
from portctl.policy import Entry
from portctl.policy.items import AddressItem, AnyAddress
from portctl.policy.models import Egress, Forward, Service
from portctl.problems import Span
from portctl.resolve import scope as look
from portctl.resolve.scope import Scope
from portctl.ruleset import (
    STARTING,
    Flow,
    Flows,
    Kind,
    Masquerade,
    Original,
    Rule,
    Translation,
    Verdict,
)

Remote = Literal["from", "to"]
Opens = Service | Egress | Forward
_NOT_EVERYWHERE = {
    "ports": "ports", "in": "in_", "out": "out", "rate": "rate", "max_connections": "max_connections", "user": "user",
    "target": "target", "masquerade": "masquerade", "mss": "mss",
}  # fmt: skip
"""{key: field} of what a back end may not be able to say."""


@dataclass(frozen=True, slots=True)
class Opening:
    """One entry that opens something. `destination` None: the policy does not say."""

    entry: Entry[Opens]
    kind: Kind
    flows: Flows
    source: Addresses
    destination: Addresses | None = None
    interfaces: tuple[str, ...] = ()
    out_interfaces: tuple[str, ...] = ()
    expired: bool = False
    items: tuple[Flow, ...] = ()
    """What `ports` names, one by one."""

    @property
    def name(self) -> str:
        return self.entry.name

    @property
    def limited(self) -> bool:
        return self.entry.value.rate is not None or self.entry.value.max_connections is not None

    @property
    def target(self) -> bool:
        return isinstance(self.entry.value, Forward) and self.entry.value.target is not None

    @property
    def leads_off(self) -> bool:
        """A forward that (as far as a policy can tell) leads to another host."""
        value = self.entry.value
        return isinstance(value, Forward) and (value.target is None or value.target.address is not None)

    def families(self) -> tuple[Family, ...]:
        """The families of which packets can match."""
        value = self.entry.value
        found = [f for f in self.source.families() if self.destination is None or self.destination.family(f)]
        if self.flows is not None:
            found = [f for f in found if any(f in flow.families() for flow in self.flows)]
        if isinstance(value, Forward) and value.target is not None and value.target.address is not None:
            found = [f for f in found if f == value.target.address.version]
        return tuple(found)

    def rule(self) -> Rule:
        """Its conditions on packets that start a connection, and what it carries into reports."""
        value = self.entry.value
        return Rule(
            self.name,
            self.kind,
            Verdict.ACCEPT,
            flows=self.flows,
            source=self.source,
            destination=ANYWHERE if self.destination is None else self.destination,
            interfaces=self.interfaces,
            out_interfaces=self.out_interfaces,
            states=STARTING,
            syn=True,
            user=value.user if isinstance(value, Egress) else None,
            rate=value.rate,
            max_connections=value.max_connections,
            log=value.log,
            until=value.until.end if value.until else None,
            process=value.process if isinstance(value, Service) else None,
            listener_required=value.listener == "required" if isinstance(value, Service) else True,
            items=self.items,
            description=value.description,
            owner=value.owner,
            ticket=value.ticket,
            span=self.entry.span(key=True),
            places=self._places(),
        )

    def _places(self) -> tuple[tuple[str, Span], ...]:
        """Of what some back end cannot say."""
        said = (key for key, name in _NOT_EVERYWHERE.items() if getattr(self.entry.value, name, None))
        return tuple((key, self.entry.span(key)) for key in said)

    def turned(self) -> Rule:
        """The rule that admits what the entry (a forward with a target) has translated."""
        rule, target = self.rule(), self.entry.value.target if isinstance(self.entry.value, Forward) else None
        source = rule.source if target is None or target.address is None else rule.source.only(target.address.version)
        original = Original(self.flows, self.destination)
        return replace(rule, flows=None, source=source, destination=ANYWHERE, original=original)


def service(scope: Scope, entry: Entry[Service], at: datetime) -> Opening:
    value = entry.value
    source = remote(scope, entry, "from", value.from_)
    destination = _destination(scope, entry, value.to)
    flows = look.flows(scope, entry, value.ports, value.source_ports)
    found = Opening(
        entry,
        Kind.SERVICE,
        flows,
        source,
        destination,
        look.interfaces(scope, entry, "in", value.in_),
        (),
        expired(entry, at),
    )
    everyone = source == ANYWHERE or any(isinstance(item, AnyAddress) for item in value.from_)
    if flows is None and everyone and value.in_ is None:
        scope.report(
            "opens-everything",
            f"`{entry.name}` opens every port to everyone",
            entry.span("ports"),
            "say which ports, or from where, or through which interfaces (`in`)",
        )
    _check_dhcp(scope, entry, flows, source)
    return checked(scope, found)


def egress(scope: Scope, entry: Entry[Egress], at: datetime) -> Opening:
    value = entry.value
    source = ANYWHERE if value.from_ is None else look.addresses(scope, entry, ("from",), value.from_, source=True)
    destination = remote(scope, entry, "to", value.to)
    flows = look.flows(scope, entry, value.ports, value.source_ports)
    out = look.interfaces(scope, entry, "out", value.out)
    return checked(scope, Opening(entry, Kind.EGRESS, flows, source, destination, (), out, expired(entry, at)))


def forward(scope: Scope, entry: Entry[Forward], at: datetime) -> Opening:
    value = entry.value
    source = remote(scope, entry, "from", value.from_)
    destination = _destination(scope, entry, value.to)
    flows = look.flows(scope, entry, value.ports, value.source_ports)
    coming = look.interfaces(scope, entry, "in", value.in_)
    leaving = look.interfaces(scope, entry, "out", value.out)
    found = Opening(entry, Kind.FORWARD, flows, source, destination, coming, leaving, expired(entry, at))
    return checked(scope, found)


def expired(entry: Entry[Opens], at: datetime) -> bool:
    return entry.value.until is not None and at >= entry.value.until.end


def _destination(scope: Scope, entry: Entry[Opens], items: tuple[AddressItem, ...] | None) -> Addresses | None:
    return None if items is None else look.addresses(scope, entry, ("to",), items)


def remote(scope: Scope, entry: Entry[Opens], side: Remote, items: tuple[AddressItem, ...]) -> Addresses:
    """The remote side of an entry less its `except`."""
    found = look.addresses(scope, entry, (side,), items, source=side == "from")
    if entry.value.except_ is None:
        return found
    left = found - look.addresses(scope, entry, ("except",), entry.value.except_, closes=True)
    if found and not left:
        scope.report(
            "nobody-left",
            f"`except` leaves nobody: `{entry.name}` admits nothing",
            entry.span("except"),
            None,
            "warning",
        )
    return left


def checked(scope: Scope, opening: Opening) -> Opening:
    """The opening with its single items, after the checks that all kinds share."""
    opening = replace(opening, items=look.items(scope, opening.entry.value.ports))
    _check_families(scope, opening)
    if opening.expired:
        until = opening.entry.value.until
        text = until.text if until else ""
        message = f"`{opening.name}` was open until {text}: its rules are left out"
        scope.report("expired", message, opening.entry.span("until"), None, "note")
    return opening


def _check_families(scope: Scope, opening: Opening) -> None:
    sides = [("from", opening.source), ("to", opening.destination)]
    given = [(name, side) for name, side in sides if side is not None]
    if not all(side for _, side in given) or opening.flows == ():
        return
    value = opening.entry.value
    if opening.families():
        _check_masquerade(scope, opening, value)
        return
    words = [f"`{name}` is {_words(side.families())}" for name, side in given]
    if isinstance(value, Forward) and value.target is not None and value.target.address is not None:
        words.append(f"`target` is IPv{value.target.address.version}")
    scope.report(
        "no-common-family",
        f"`{opening.name}` can match no packet: {', '.join(words)}",
        _place(opening),
        "add addresses of the other family, or make an entry for each",
    )


def _check_masquerade(scope: Scope, opening: Opening, value: object) -> None:
    """An address that no packet of the entry can take would leave all of them with their own."""
    if not isinstance(value, Forward) or isinstance(value.masquerade, bool):
        return
    version = value.masquerade.version
    if version not in opening.families():
        scope.report(
            "no-common-family",
            f"`{opening.name}` matches {_words(opening.families())}, and `masquerade` is IPv{version}",
            opening.entry.span("masquerade"),
            "write an address of that family, or `true` for the outgoing interface's",
        )


def _words(families: tuple[Family, ...]) -> str:
    return "of both families" if families == FAMILIES else f"IPv{families[0]} only"


def _place(opening: Opening) -> Span:
    value = opening.entry.value
    if opening.target:
        return opening.entry.span("target")
    if getattr(value, "to", None) is not None:
        return opening.entry.span("to")
    return opening.entry.span("from")


def _check_dhcp(scope: Scope, entry: Entry[Service], flows: Flows, source: Addresses) -> None:
    served = any(flow.protocol == 17 and 67 in flow.ports for flow in flows or ())
    if served and source != NOWHERE and 0 not in source.v4:
        scope.report(
            "dhcp-source",
            "a client without an address asks from 0.0.0.0, which `from` leaves out",
            entry.span("from"),
            "add 0.0.0.0 to `from`, and limit it by `in`",
            "warning",
        )


def translation(opening: Opening) -> Translation | None:
    """How the packets of a forward with a target are turned; None for other entries."""
    value = opening.entry.value
    if not isinstance(value, Forward) or value.target is None:
        return None
    return Translation(
        opening.name,
        opening.flows,
        opening.turned().source,
        opening.destination,
        opening.interfaces,
        value.target.address,
        value.target.port,
        value.until.end if value.until else None,
        opening.entry.span(key=True),
    )


def masquerade(opening: Opening) -> Masquerade | None:
    value = opening.entry.value
    if not isinstance(value, Forward) or value.masquerade is False:
        return None
    return Masquerade(opening.name, None if value.masquerade is True else value.masquerade)
