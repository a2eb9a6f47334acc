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
from portctl.net import Family, network_texts
from portctl.ruleset import Flow, Flows, Kind, Translation

NEW = "portctl_new"
LOOPBACK_NETWORK: dict[Family, str] = {4: "127.0.0.0/8", 6: "::1"}


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
        where = turn.where if turn.pool.startswith(f"{turn.where} ") else "any"
        for _, text in matches(protocols(item.flows), [(turn.family, "any", where)]):
            yield f"match in{devices(turn.interfaces)}{text} tagged {mark} rdr-to {turn.pool}"


def protocols(flows: Flows) -> Flows:
    """Without the ports, which a packet with the tag has."""
    return None if flows is None else tuple(Flow(flow.protocol) for flow in flows)


def loopback(item: Translation, turn: Turn) -> Iterator[str]:
    """What is sent to a loopback address, itself one of this host's, is dropped, and not turned to another address."""
    if item.target is None and item.destination is None:
        yield LOOPBACK_NETWORK[turn.family]


def wheres(file: File, item: Translation) -> dict[Family, str]:
    """The destinations of the packets that are turned."""
    if item.destination is None:
        return {4: "(self)", 6: "(self)"}
    return file.tables.text(item.destination, f"{item.name}_to")


def turns(file: File, item: Translation) -> Iterator[Turn]:
    """Without a target address this host is meant: the address it was sent to where the policy names it, else the first
    of the incoming interface, else the loopback address (in IPv4: IPv6 input refuses it)."""
    port = "" if item.target_port is None else f" port {item.target_port}"
    sources = item.source.families()
    for family in (family for family in item.families() if family in sources):
        if item.target is not None:
            yield Turn(item.interfaces, family, wheres(file, item)[family], f"{item.target}{port}")
        elif item.destination is not None:
            for text in network_texts(item.destination.family(family), family):
                kept = " bitmask" if "/" in text else ""  # or pf would take one address of the network after the other
                yield Turn(item.interfaces, family, text, f"{text}{port}{kept}")
        elif item.interfaces:
            yield from (Turn((name,), family, "(self)", f"({name}:0){port}") for name in item.interfaces)
        elif family == 4:
            yield Turn((), family, "(self)", f"127.0.0.1{port}")


def admitted(file: File, item: Translation) -> list[str]:
    """The lines that judge on its way in what was translated. What was turned to a loopback address ends here."""
    rule = entry(file.ruleset, item.name)
    if rule is None:
        return []
    mark = tag("to", item.name)
    plain = replace(rule, out_interfaces=())
    found = passing(plain, Way("in", tagged=mark, tag=mark if rule.limited else ""), None, ANY_SIDE)
    if item.target is None and item.destination is None and not item.interfaces:
        default = next(each for each in file.ruleset.inbound if each.kind is Kind.DEFAULT)
        found += refusing(file, default, Way("in", tagged=mark), ANY_SIDE)
    return found
