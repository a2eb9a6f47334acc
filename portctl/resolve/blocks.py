"""Entries of `block`, each as its conditions on the source (`from`) or the destination (`to`) of a packet.

A rule's name comes from what the entry says, never from its place in the list, so that a new entry renames no other.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from hashlib import sha256

from portctl.net import ANYWHERE, Addresses
from portctl.policy import Entry
from portctl.policy.items import AddressItem, AddressName, AnyAddress, LiveAddresses
from portctl.policy.models import Block
from portctl.problems import Span
from portctl.resolve import scope as look
from portctl.resolve.lists import union
from portctl.resolve.scope import Scope
from portctl.ruleset import Flows, Kind, Rule, Verdict


@dataclass(frozen=True, slots=True)
class Blocked:
    """Some remote addresses, or the members of a live group, cut off in one role or in both."""

    name: str
    addresses: Addresses
    live: str | None = None
    as_source: bool = True
    as_destination: bool = True
    flows: Flows = None
    ports: bool = False
    """The entry names ports: then the answering direction of known connections is left alone."""
    interfaces: tuple[str, ...] = ()
    until: datetime | None = None
    about: tuple[str | None, str | None, str | None] = (None, None, None)
    span: Span | None = None

    def rule(self, source: bool, verdict: Verdict) -> Rule:
        description, owner, ticket = self.about
        return Rule(
            self.name,
            Kind.BLOCK,
            verdict,
            flows=self.flows,
            source=self.addresses if source else ANYWHERE,
            destination=ANYWHERE if source else self.addresses,
            live_source=self.live if source else None,
            live_destination=None if source else self.live,
            interfaces=self.interfaces,
            original_direction=self.ports,
            until=self.until,
            description=description,
            owner=owner,
            ticket=ticket,
            span=self.span,
        )


def resolve(scope: Scope, at: datetime) -> list[Blocked]:
    """All entries of `block` that hold at a moment, by name. Literal addresses are one."""
    found: dict[Blocked, None] = {}
    literal: list[Addresses] = []
    first: Span | None = None
    for entry in scope.policy.block:
        if entry.value.both is None:
            found.update(dict.fromkeys(_structured(scope, entry, at)))
        elif isinstance(entry.value.both, AddressName):
            found[_group(scope, entry, entry.value.both.name)] = None
        else:
            literal.append(look.addresses(scope, entry, (), (entry.value.both,), closes=True, single=True))
            first = first or entry.span()
    if literal:
        found[Blocked("block", union(literal), span=first)] = None
    return sorted((b for b in found if b.addresses), key=lambda b: (b.name != "block", b.name))


def rules(blocked: Iterable[Blocked], inbound: bool, outbound: bool) -> list[Rule]:
    """The rules of one direction: inbound, outbound, or (both) forwarded."""
    found: list[Rule] = []
    for entry in blocked:
        if inbound and entry.as_source:
            found.append(entry.rule(True, Verdict.DROP))
        if outbound and entry.as_destination:
            found.append(entry.rule(False, Verdict.DROP if inbound else Verdict.REJECT))
    return found


def _group(scope: Scope, entry: Entry[Block], name: str) -> Blocked:
    if name in scope.live:
        return Blocked(f"block-{name}", ANYWHERE, name, span=entry.span())
    members = look.addresses(scope, entry, (), (AddressName(name),), closes=True, single=True)
    return Blocked(f"block-{name}", members, span=entry.span())


def _structured(scope: Scope, entry: Entry[Block], at: datetime) -> list[Blocked]:
    value = entry.value
    side = "from" if value.from_ is not None else "to"
    items = value.from_ if value.from_ is not None else value.to or ()
    if side == "to" and value.in_ is not None:
        message = "`in` narrows where packets come in; a `to` entry also stops what this host itself sends"
        scope.report("block-in", message, entry.span("in"), "use `from`, or leave `in` out")
    if value.until is not None and at >= value.until.end:
        message = f"this entry held until {value.until.text}: it is left out, and blocks nothing any more"
        scope.report("expired", message, entry.span("until"), None, "note")
        return []
    live = [i.name for i in items if isinstance(i, AddressName) and i.name in scope.live]
    plain = [i for i in items if not (isinstance(i, AddressName) and i.name in scope.live)]
    carved = look.addresses(scope, entry, ("except",), value.except_ or (), closes=True)
    whole = _plain(scope, entry, side, items, plain)
    base = Blocked(
        "",
        ANYWHERE,
        as_source=side == "from",
        as_destination=side == "to",
        flows=None if value.ports is None else look.flows(scope, entry, value.ports),
        ports=value.ports is not None,
        interfaces=look.interfaces(scope, entry, "in", value.in_),
        until=value.until.end if value.until else None,
        about=(value.description, value.owner, value.ticket),
        span=entry.span(),
    )
    found = [
        replace(base, name=_name(side, value, [AddressName(n)]), live=n, addresses=ANYWHERE - carved) for n in live
    ]
    if whole:
        left = whole - carved
        if not left:
            scope.report(
                "nobody-left", "`except` leaves nobody: the entry blocks nothing", entry.span("except"), None, "warning"
            )
        found.append(replace(base, name=_name(side, value, plain), addresses=left))
    return found


def _plain(
    scope: Scope, entry: Entry[Block], side: str, items: tuple[AddressItem, ...], plain: list[AddressItem]
) -> Addresses:
    """The addresses of the members that are no live groups; each keeps its place for messages."""
    parts = [
        look.addresses(scope, entry, (side, index), (item,), closes=True, single=True)
        for index, item in enumerate(items)
        if item in plain and not isinstance(item, LiveAddresses)
    ]
    return union(parts)


def _name(side: str, value: Block, members: list[AddressItem]) -> str:
    """`block-from-feed`, or with a digest of what the entry says where that says it only in part."""
    plain = value.except_ is None and value.in_ is None and value.ports is None and value.until is None
    whole = members[0] if len(members) == 1 else None
    word = whole.name if isinstance(whole, AddressName) else "any" if isinstance(whole, AnyAddress) else ""
    if word and plain:
        return f"block-{side}-{word}"
    parts = [sorted(map(repr, part or ())) for part in (members, value.except_, value.in_, value.ports)]
    digest = sha256(repr((parts, value.until)).encode()).hexdigest()[:6]
    return "-".join(filter(None, ("block", side, word, digest)))
