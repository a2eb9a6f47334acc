"""Forwards with a target: what turns a destination, and what then admits the packet on its way in.

The policy translates before it judges, and the first translation that matches is the only one. `rdr` rules are like
that. `match … rdr-to` rules are not: all that match translate, each what the one before made of the packet. So there a
first run of rules only tags, the policy's first translation last, and a second run translates what bears the tag.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from portctl.backends.pf.lines import ANY_SIDE, File, Way, entry, matches, passing, refusing
from portctl.backends.pf.words import devices, label, tag
from portctl.net import LOOPBACK_ADDRESSES, Addresses, Family, Ranges, network_texts
from portctl.ruleset import Flow, Flows, Kind, Translation

NEW = "portctl_new"
LOOPBACK_NETWORK: dict[Family, str] = {4: "127.0.0.0/8", 6: "::1"}
LOCALHOST = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Turn:
    """One new destination, for packets to `where` that come in by `interfaces`. `pool`: the words after the arrow."""

    interfaces: tuple[str, ...]
    family: Family
    where: str
    pool: str


def write(file: File) -> None:
    """Fills `file.translations`, or the beginning of `file.inward`.

    A packet may come with a tag: it came out of a tunnel, or from another virtual network stack, where the tag's number
    is another name's (PACKET_TAG_PF persists: FreeBSD's mbuf.h). So each begins with a tag that nothing asks for. Where
    `rdr` rules come first, one that turns nothing sets it: pf_match_translation tags for those too.
    """
    if not file.dialect.rules_translate:
        file.translations += ["no rdr on lo0 from any to any"] if file.anchor else []
        for item in file.ruleset.translations:
            file.translations += redirecting(file, item)
        file.translations.append(f"no rdr from any to any tag {NEW}")
        return
    file.inward.append(f"match in from any to any tag {NEW}")
    for item in reversed(file.ruleset.translations):
        file.inward += tagging(file, item)
    for item in file.ruleset.translations:
        file.inward += turning(file, item)


def redirecting(file: File, item: Translation) -> Iterator[str]:
    """`rdr` rules: of those that match a packet the first decides."""
    sources = file.tables.text(item.source, item.name)
    for turn in turns(file, item):
        for spared in loopback(item, turn):
            for _, text in matches(item.flows, [(turn.family, sources[turn.family], spared)]):
                yield f"no rdr{devices(turn.interfaces)}{text} tag {NEW}"
        for _, text in matches(item.flows, [(turn.family, sources[turn.family], turn.where)]):
            yield f"rdr{devices(turn.interfaces)}{text} tag {tag('to', item.name)} -> {turn.pool}"


def tagging(file: File, item: Translation) -> Iterator[str]:
    """Labelled, since FreeBSD drops a rule that differs from another in its tag alone (pf_hash_rule of pf_ioctl.c)."""
    named = label(Kind.FORWARD.value, item.name)
    sources = file.tables.text(item.source, item.name)
    places = wheres(file, item)
    for family in item.families():
        if family in sources:
            for _, text in matches(item.flows, [(family, sources[family], places[family])]):
                yield f"match in{devices(item.interfaces)}{text}{named} tag {tag('to', item.name)}"


def turning(file: File, item: Translation) -> Iterator[str]:
    mark = tag("to", item.name)
    for turn in turns(file, item):
        for spared in loopback(item, turn):
            for _, text in matches(None, [(turn.family, "any", spared)]):
                yield f"block drop in quick{text}{label('fixed', 'loopback-address')} tagged {mark}"
        where = "any" if item.target is not None or item.destination is None else turn.where
        for _, text in matches(protocols(item.flows), [(turn.family, "any", where)]):
            yield f"match in{devices(turn.interfaces)}{text} tagged {mark} rdr-to {turn.pool}"


def protocols(flows: Flows) -> Flows:
    """Without the ports, which a packet with the tag has."""
    return None if flows is None else tuple(Flow(flow.protocol) for flow in flows)


def loopback(item: Translation, turn: Turn) -> Iterator[str]:
    """What is sent to a loopback address, itself one of this host's, is dropped, and not turned to another address."""
    asked = LOOPBACK_ADDRESSES if item.destination is None else item.destination
    if item.target is None and (asked & LOOPBACK_ADDRESSES).family(turn.family):
        yield LOOPBACK_NETWORK[turn.family]


def alone(addresses: Ranges, family: Family) -> list[str]:
    """The addresses that are no part of a network: with a target on this host, each is taken for one of its own."""
    return [text for text in network_texts(addresses, family) if "/" not in text]


def networks(item: Translation, family: Family) -> Addresses | None:
    """The other destinations of a target on this host; None: this host's own addresses."""
    if item.destination is None:
        return None
    own = Addresses.of(*alone(item.destination.family(family), family))
    return item.destination.only(family) - own


def by_interface(item: Translation, family: Family) -> bool:
    """Whether the new destination is an address of this host that only the incoming interface tells."""
    return item.target is None and (item.destination is None or bool(networks(item, family)))


def wheres(file: File, item: Translation) -> dict[Family, str]:
    """The destinations of the packets that are turned."""
    if item.destination is None:
        return {4: "(self)", 6: "(self)"}
    return file.tables.text(item.destination, f"{item.name}_to")


def turns(file: File, item: Translation) -> Iterator[Turn]:
    """Without a target address this host is meant: the address it was sent to where the policy names it alone, else the
    first of the incoming interface, else the loopback address (in IPv4: IPv6 input refuses it)."""
    port = "" if item.target_port is None else f" port {item.target_port}"
    sources = item.source.families()
    for family in (family for family in item.families() if family in sources):
        if item.target is not None:
            yield Turn(item.interfaces, family, wheres(file, item)[family], f"{item.target}{port}")
            continue
        if item.destination is not None:
            for text in alone(item.destination.family(family), family):
                yield Turn(item.interfaces, family, text, f"{text}{port}")
        if by_interface(item, family):
            rest = networks(item, family)
            where = "(self)" if rest is None else file.tables.text(rest, f"{item.name}_to")[family]
            yield from to_this_host(item, family, where, port)


def to_this_host(item: Translation, family: Family, where: str, port: str) -> Iterator[Turn]:
    for name in item.interfaces:
        yield Turn((name,), family, where, f"({name}:0){port}")
    if not item.interfaces and family == 4:
        yield Turn((), family, where, f"{LOCALHOST}{port}")


def admitted(file: File, item: Translation) -> list[str]:
    """The lines that judge on its way in what was translated. What was turned to a loopback address, or kept one that
    may be another host's, ends here."""
    rule = entry(file.ruleset, item.name)
    if rule is None:
        return []
    mark = tag("to", item.name)
    plain = replace(rule, out_interfaces=())
    found = passing(plain, Way("in", tagged=mark, tag=mark if rule.limited else ""), None, ANY_SIDE)
    if item.target is None and (item.destination is not None or not item.interfaces):
        default = next(each for each in file.ruleset.inbound if each.kind is Kind.DEFAULT)
        found += refusing(file, default, Way("in", tagged=mark), ANY_SIDE)
    return found
