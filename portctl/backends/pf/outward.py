"""The way out: first what passes through, told by the tag that it got on its way in; then what this host sends."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from portctl.backends.pf.inward import HERE, beyond, classes, over_loopback
from portctl.backends.pf.lines import (
    ALLOW_OPTS,
    ANY_SIDE,
    Ends,
    File,
    Way,
    keeping,
    matches,
    passing,
    passing_ways,
    refusing,
    says_nothing,
    sides,
    stateless,
)
from portctl.backends.pf.turning import NEW
from portctl.backends.pf.words import CAST_TABLE, FAMILY, devices, label, tag
from portctl.net import FAMILIES, Family
from portctl.ruleset import EVERY_PORT, ICMP, ICMPV6, Flow, Flows, Kind, Masquerade, Rule, Verdict

ANSWERS: tuple[tuple[Family, str, str], ...] = ((4, "icmp", " icmp-type 0"), (6, "icmp6", " icmp6-type 129"))
"""Echo replies."""


def write(file: File) -> None:
    """Fills `file.outward`, and `file.translations` for pf that translates before it filters."""
    lines = file.outward
    lines += [*over_loopback(file, "out"), *leaving(file)]
    rules = file.ruleset.outbound
    blocks = [index for index, rule in enumerate(rules) if rule.kind is Kind.BLOCK]
    others = blocks[-1] + 1 if blocks else next(i for i, rule in enumerate(rules) if rule.kind is not Kind.FIXED)
    for index, rule in enumerate(rules):
        if index == others:
            lines.append("# anchors of others: out")
            if file.ruleset.forwarded[-1].verdict is Verdict.ACCEPT:
                lines += keeping(file, file.ruleset.forwarded[-1], Way("out", tagged="portctl_keep"))
        if rule.kind is Kind.BLOCK:
            lines += refusing(file, rule, Way("out", rule.out_interfaces), sides(file, rule), rule.flows)
        elif says_nothing(rule):
            continue
        elif rule.kind is Kind.FIXED:
            lines += stateless(rule, Way("out"), sides(file, rule))
        elif rule.kind is Kind.EGRESS:
            lines += passing(rule, Way("out", rule.out_interfaces), rule.flows, sides(file, rule))
        elif rule.kind is Kind.DEFAULT and rule.verdict is Verdict.ACCEPT:
            lines.append(
                f"pass out quick from any to any flags any keep state{ALLOW_OPTS}{label('default', rule.name)}"
            )
        elif rule.kind is Kind.DEFAULT:
            lines += refusing(file, rule, Way("out"), ANY_SIDE)


def leaving(file: File) -> list[str]:
    """What passes through, by its tags; and the end of each tag, so that nothing that bears one goes on but what is
    left alone: that passes behind the anchors of others, which may translate or refuse it.

    What was turned to a port of this host, by an address that is another host's, does not leave."""
    ruleset, lines = file.ruleset, []
    default = ruleset.forwarded[-1]
    names = [t.name for t in ruleset.translations if t.target is not None]
    turned = [tag("to", name) for name in names]
    retagged = [] if file.dialect.rules_translate else [masquerade.name for masquerade in ruleset.masquerades]
    for rule in beyond(ruleset):
        for mark in (*turned, *(tag("nat", name) for name in retagged if name in names)):
            lines += refusing(file, rule, Way("out", tagged=mark), sides(file, rule), rule.flows)
    here = [HERE, *(tag("to", t.name) for t in ruleset.translations if t.target is None and t.destination is not None)]
    known = dict.fromkeys([*here, *turned, *(tag("nat", name) for name in retagged)])
    for rule in ruleset.forwarded:
        if rule.kind is not Kind.FORWARD:
            continue
        if rule.original is not None:
            lines += leave(file, replace(rule, rate=None, max_connections=None), [tag("to", rule.name)], [*ANY_SIDE])
            continue
        marks = [mark for _, mark in classes(ruleset, rule)]
        known |= dict.fromkeys(marks)
        lines += leave(file, rule, marks, list(sides(file, rule)))
    lines += answering(file)
    for mark in known:
        if default.verdict is Verdict.ACCEPT and mark not in here:
            lines += keeping(file, default, Way("out", tagged=mark))
        else:
            refused = replace(default, verdict=Verdict.DROP) if mark in here else default
            lines += refusing(file, refused, Way("out", tagged=mark), ANY_SIDE)
    return lines


def answering(file: File) -> list[str]:
    """This host's answers to a ping that was sent to many. They belong to no state, which is of the group's address,
    and bear the tag of what they answer: the kernel turns the very packet round, and no persistent tag of it goes
    (icmp6_reflect in FreeBSD's icmp6.c, m_dup_pkthdr). So they lose it. What passes through is sent to many, or has
    another tag."""
    return [
        f"pass out{FAMILY[family]} proto {proto} from any to ! <{CAST_TABLE}>{types} no state tag {NEW} tagged {HERE}"
        for family, proto, types in ANSWERS
        if file.dialect.groups
    ]


def leave(file: File, rule: Rule, marks: list[str], ends: list[Ends]) -> list[str]:
    """One forward on its way out, with its limits and the translation of its source."""
    flows = None if rule.original is not None else rule.flows
    masquerade = next((m for m in file.ruleset.masquerades if m.name == rule.name), None)
    ways = [Way("out", rule.out_interfaces, mark) for mark in marks]
    if masquerade is None:
        return passing_ways(rule, ways, flows, ends)
    lines: list[str] = []
    for family in kept(file, rule, masquerade):
        lines += passing_ways(rule, ways, flows, bound(ends, family))
    if file.dialect.rules_translate:
        for patterns, family, address in sources(rule, masquerade):
            ways = [Way("out", patterns, mark) for mark in marks]
            lines += passing_ways(rule, ways, flows, bound(ends, family), f" nat-to {address}")
        return lines
    turned = tag("nat", rule.name)
    for patterns, family, address in sources(rule, masquerade):
        file.translations += [
            f"nat{devices(patterns)}{text} tag {turned} tagged {mark} -> {address}"
            for mark in marks
            for _, text in matches(without_types(flows), bound(ends, family))
        ]
    asked = flows if asks_types(flows) else None
    return [*lines, *passing(rule, Way("out", rule.out_interfaces, turned), asked, ANY_SIDE)]


def kept(file: File, rule: Rule, masquerade: Masquerade) -> list[Family]:
    """The families in which an entry's packets keep their source: the address that takes its place is of another."""
    if masquerade.address is None:
        return []
    target = next((item.families() for item in file.ruleset.translations if item.name == rule.name), FAMILIES)
    return [family for family in target if family != masquerade.address.version]


def asks_types(flows: Flows) -> bool:
    """Whether some ICMP types are meant and others are not, which a `nat` rule cannot ask."""
    return any(flow.protocol in (ICMP, ICMPV6) and flow.ports != EVERY_PORT for flow in flows or ())


def without_types(flows: Flows) -> Flows:
    return flows and tuple(Flow(f.protocol) if f.protocol in (ICMP, ICMPV6) else f for f in flows)


def bound(ends: list[Ends], family: Family) -> list[Ends]:
    """The ends of one family."""
    return [(family, source, destination) for f, source, destination in ends if f in (None, family)]


def sources(rule: Rule, masquerade: Masquerade) -> Iterator[tuple[tuple[str, ...], Family, str]]:
    """(interfaces, family, address) of each way in which a source is translated."""
    if masquerade.address is not None:
        version: Family = 4 if masquerade.address.version == 4 else 6
        yield rule.out_interfaces, version, str(masquerade.address)
        return
    for name in rule.out_interfaces:
        for family in FAMILIES:
            yield (name,), family, f"({name.removesuffix('*')}:0)"
