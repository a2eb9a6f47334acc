"""Ruleset → pf.conf. Every filter rule is `quick` (but for those that only set a tag), so that the first match decides.

pf has no forward hook: a packet that passes through is judged on its way in and again on its way out. What the way in
learns is carried by tags, of which a packet has one at a time:

    portctl_in            admitted to an address that a service names; should it not be an own one, the way out stops it
    portctl_from_IF       may pass through; came in on IF (`portctl_from` is every other interface)
    portctl_to_ENTRY      its destination was translated by that forward
    portctl_limit_ENTRY   meets a limited entry, whose several conditions must share one counter, that is one rule
    portctl_nat_ENTRY     its source was translated by that forward (pf without `nat-to`)
    portctl_keep          belongs to a forward path that is not portctl's

A packet of a known state never reaches the rules, so lines that admit known connections are not written.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from portctl import templating
from portctl.backends.pf.dialects import Dialect
from portctl.backends.pf.words import INLINE_FILE, PROTOCOLS, Tables, icmp_types, label, networks, ports, shortened
from portctl.net import ANYWHERE, FAMILIES, Addresses, Family
from portctl.ruleset import (
    ICMP,
    ICMPV6,
    KNOWN,
    LOOPBACK,
    TCP,
    Flow,
    Kind,
    Masquerade,
    Rule,
    Ruleset,
    State,
    Translation,
    Verdict,
)

CAST = Addresses.of("224.0.0.0/4", "255.255.255.255", "ff00::/8")
"""Multicast and the local broadcast: never an address of the host, always for it."""
LOCAL: tuple[dict[Family, str], ...] = (
    {4: "(self)", 6: "(self)"},
    {4: "(self:broadcast)"},
    {4: "<portctl_cast>", 6: "<portctl_cast>"},
)
"""The destinations that end at this host, in parentheses where they follow later changes of address."""
FAMILY_WORD: dict[Family, str] = {4: " inet", 6: " inet6"}
CLONED = ("tun", "tap", "wg", "vlan", "bridge", "gif", "gre", "lagg", "epair", "ppp", "utun", "trunk", "carp", "pppoe")
"""Interface families whose members bear an interface group of that name (ifconfig(8), "Cloned interfaces")."""
STARTS = " flags S/SAFR keep state"


@dataclass(slots=True)
class File:
    """What goes into one pf.conf, while it is written."""

    ruleset: Ruleset
    dialect: Dialect
    tables: Tables
    translations: list[str] = field(default_factory=list)
    inwards: list[str] = field(default_factory=list)
    outwards: list[str] = field(default_factory=list)


def render(ruleset: Ruleset, dialect: Dialect) -> dict[str, str]:
    """The files by name: `pf.conf`, and a file for each large table."""
    file = File(ruleset, dialect, Tables({addresses: name for name, addresses in ruleset.groups}))
    inbound(file)
    outbound(file)
    tables, extra = table_lines(file)
    text = templating.render(
        "pf/pf.conf.j2",
        policy=ruleset.name,
        loopback=dialect.loopback,
        reassemble=dialect.reassemble,
        tables=tables,
        translations=file.translations,
        inwards=unique(file.inwards),
        outwards=unique(file.outwards),
    )
    return {"pf.conf": text, **extra}


def unique(lines: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(lines))


def table_lines(file: File) -> tuple[list[str], dict[str, str]]:
    lines = [f"table <portctl_cast> const {{ {' '.join(networks(CAST))} }}"]
    extra: dict[str, str] = {}
    for addresses, name in sorted(file.tables.used.items(), key=lambda item: item[1]):
        texts = networks(addresses)
        if len(texts) > INLINE_FILE:
            extra[f"{name}.table"] = "\n".join(texts) + "\n"
            lines.append(f'table <{name}> const file "{name}.table"')
        else:
            lines.append(f"table <{name}> const {{ {' '.join(texts)} }}")
    lines += [f"table <{live_table(name)}> persist" for name in file.ruleset.live]
    return lines, extra


def live_table(group: str) -> str:
    return shortened(f"portctl_live_{group}")


# --- one rule of the middle as lines ---------------------------------------------------------------------------------


def sides(
    tables: Tables, rule: Rule, destinations: Iterable[dict[Family, str]] | None = None
) -> Iterator[tuple[Family | None, str, str]]:
    """(family or None for both, source, destination) of each line that the rule needs."""
    source = tables.text(rule.source, rule.name)
    if rule.live_source:
        source = dict.fromkeys(FAMILIES, f"<{live_table(rule.live_source)}>")
    if destinations is None:
        found = tables.text(rule.destination, f"{rule.name}_to")
        if rule.live_destination:
            found = dict.fromkeys(FAMILIES, f"<{live_table(rule.live_destination)}>")
        destinations = (found,)
    for destination in destinations:
        both: list[Family] = [f for f in FAMILIES if f in source and f in destination]
        if len(both) == 2 and source[4] == source[6] and destination[4] == destination[6]:
            yield None, source[4], destination[4]
        else:
            yield from ((family, source[family], destination[family]) for family in both)


def devices(patterns: tuple[str, ...]) -> str:
    """` on …`, or nothing for every interface."""
    names = [name.removesuffix("*") for name in patterns]
    if not names:
        return ""
    return " on " + (names[0] if len(names) == 1 else "{ " + " ".join(names) + " }")


def matches(
    file: File,
    flows: tuple[Flow, ...] | None,
    ends: Iterable[tuple[Family | None, str, str]],
) -> Iterator[tuple[int | None, str]]:
    """(protocol, text) of each match: family, protocol, both ends, ports, ICMP types."""
    ends = list(ends)
    if flows is None:
        for family, source, destination in ends:
            yield None, f"{FAMILY_WORD[family] if family else ''} from {source} to {destination}"
        return
    for flow in flows:
        proto = f" proto {PROTOCOLS.get(flow.protocol, flow.protocol)}"
        for family, source, destination in ends:
            bound = flow.families()
            if family is not None and family not in bound:
                continue
            family = family if len(bound) == 2 else bound[0]
            word = FAMILY_WORD[family] if family else ""
            if flow.protocol in (ICMP, ICMPV6):
                for types in icmp_types(flow):
                    yield flow.protocol, f"{word}{proto} from {source} to {destination}{types}"
            else:
                hosts = f" from {source}{ports(flow.source_ports)} to {destination}{ports(flow.ports)}"
                yield flow.protocol, f"{word}{proto}{hosts}"


def admit(protocol: int | None) -> str:
    """The state options of a rule that admits what starts a connection."""
    return STARTS if protocol in (TCP, None) else " keep state"


def passing(
    file: File,
    rule: Rule,
    way: str,
    patterns: tuple[str, ...],
    ends: Iterable[tuple[Family | None, str, str]],
    tag: str = "",
    tagged: str = "",
) -> list[str]:
    """The lines that admit a rule's packets on their way `in` or `out`; a limited rule ends in one line that counts."""
    ends = list(ends)
    log = " log" if rule.log else ""
    owner = f" user {rule.user}" if rule.user else ""
    named = label(rule.kind.value, rule.name)
    conditions = f" tagged {tagged}" if tagged else ""
    if not rule.limited:
        setting = f" tag {tag}" if tag else ""
        return [
            f"pass {way}{log} quick{devices(patterns)}{text}{owner}{admit(protocol)}{setting} {named}{conditions}"
            for protocol, text in matches(file, rule.flows, ends)
        ]
    mark = shortened(f"portctl_limit_{rule.name}")
    lines = [
        f"pass {way}{devices(patterns)}{text}{owner}{admit(protocol)} tag {mark}{conditions}"
        for protocol, text in matches(file, rule.flows, ends)
    ]
    setting = f" tag {tag}" if tag else ""
    return [*lines, f"pass {way}{log} quick all flags S/SAFR keep state ({limits(rule)}){setting} {named} tagged {mark}"]


def limits(rule: Rule) -> str:
    """The options of a limited rule. `max-src-conn` counts finished handshakes, which only TCP has."""
    only_tcp = rule.flows is not None and all(flow.protocol == TCP for flow in rule.flows)
    options = ["source-track rule"]
    if rule.max_connections is not None:
        options.append(f"max-src-{'conn' if only_tcp else 'states'} {rule.max_connections}")
    if rule.rate is not None:
        options.append(f"max-src-conn-rate {rule.rate.number}/{rule.rate.seconds}")
    return ", ".join(options)


def refusing(
    file: File, rule: Rule, way: str, patterns: tuple[str, ...], ends: Iterable[tuple[Family | None, str, str]], tagged: str = ""
) -> list[str]:
    """The lines that refuse a rule's packets."""
    log = " log" if rule.log or (rule.kind is Kind.DEFAULT and file.ruleset.log_denied) else ""
    if rule.kind is Kind.BLOCK and file.ruleset.log_denied:
        log = " log"
    verb = "return" if rule.verdict is Verdict.REJECT else "drop"
    conditions = f" tagged {tagged}" if tagged else ""
    return [
        f"block {verb} {way}{log} quick{devices(patterns)}{text} {label(rule.kind.value, rule.name)}{conditions}"
        for _, text in matches(file, rule.flows, ends)
    ]


def stateless(file: File, rule: Rule, way: str) -> list[str]:
    """A fixed line that admits without a state. MLD carries a router alert, which pf lets pass only if told so."""
    options = " no state" + (" allow-opts" if any(f.protocol == ICMPV6 for f in rule.flows or ()) else "")
    return [
        f"pass {way} quick{text}{options} {label(rule.kind.value, rule.name)}"
        for _, text in matches(file, rule.flows, sides(file.tables, rule))
    ]


def fixed(file: File, rule: Rule, way: str) -> list[str]:
    if LOOPBACK in rule.interfaces or LOOPBACK in rule.out_interfaces:
        return []  # `set skip`
    if not rule.states & ~KNOWN or not rule.states & ~State.INVALID:
        return []  # pf's states pass by themselves; it calls nothing invalid that a rule could see
    if rule.verdict is Verdict.ACCEPT:
        return stateless(file, rule, way)
    return refusing(file, rule, way, (), sides(file.tables, rule))


# --- the way in ------------------------------------------------------------------------------------------------------


def inbound(file: File) -> None:
    lines = file.inwards
    translated = False
    for rule in file.ruleset.inbound:
        if rule.kind in (Kind.SERVICE, Kind.FORWARD, Kind.DEFAULT) and not translated:
            translated = True
            for translation in file.ruleset.translations:
                lines += turning(file, translation)
        if rule.kind is Kind.FIXED:
            lines += fixed(file, rule, "in")
        elif rule.kind is Kind.BLOCK:
            lines += refusing(file, rule, "in", rule.interfaces, sides(file.tables, rule))
        elif rule.kind is Kind.SERVICE:
            lines += service(file, rule)
        elif rule.kind is Kind.DEFAULT:
            lines += refusing(file, rule, "in", (), sides(file.tables, rule, LOCAL))
    through(file)


def service(file: File, rule: Rule) -> list[str]:
    if rule.destination == ANYWHERE:
        return passing(file, rule, "in", rule.interfaces, sides(file.tables, rule, LOCAL))
    return passing(file, rule, "in", rule.interfaces, sides(file.tables, rule), tag="portctl_in")


def through(file: File) -> None:
    """The end of the way in: what is not for this host."""
    lines = file.inwards
    for rule in file.ruleset.forwarded:
        if rule.kind is Kind.BLOCK:
            lines += refusing(file, rule, "in", rule.interfaces, sides(file.tables, rule))
        elif rule.kind is Kind.FIXED and not rule.limited:
            lines += fixed(file, rule, "in")
        elif rule.kind is Kind.FORWARD and rule.original is None:
            for name, tag in classes(file, rule):
                lines += passing_in(file, rule, (name,) if name else (), tag)
        elif rule.kind is Kind.DEFAULT:
            if rule.verdict is Verdict.ACCEPT:
                lines.append(f"pass in quick all no state tag portctl_keep {label('forward', rule.name)}")
            else:
                lines += refusing(file, rule, "in", (), [(None, "any", "any")])


def passing_in(file: File, rule: Rule, patterns: tuple[str, ...], tag: str) -> list[str]:
    """A forward on its way in: its limits are counted on the way out, once."""
    return [
        f"pass in quick{devices(patterns)}{text}{admit(protocol)} tag {tag} {label(rule.kind.value, rule.name)}"
        for protocol, text in matches(file, rule.flows, sides(file.tables, rule))
    ]


def named_interfaces(ruleset: Ruleset) -> list[str]:
    """The interfaces that some forward names as incoming."""
    return sorted({i for rule in ruleset.forwarded if rule.kind is Kind.FORWARD for i in rule.interfaces})


def classes(file: File, rule: Rule) -> list[tuple[str, str]]:
    """(interface or "" for any other, tag) of each class of incoming interfaces in which the rule admits."""
    names = list(rule.interfaces) or named_interfaces(file.ruleset)
    found = [(name, shortened(f"portctl_from_{name.removesuffix('*')}")) for name in names]
    return found if rule.interfaces else [*found, ("", "portctl_from")]


def to_tag(name: str) -> str:
    return shortened(f"portctl_to_{name}")


def turning(file: File, translation: Translation) -> list[str]:
    """The lines that translate a destination, and admit what they translated on its way in."""
    rule = forward_rule(file.ruleset, translation.name)
    if rule is None:
        return []
    tag = to_tag(translation.name)
    lines: list[str] = []
    for patterns, family, destination, target in targets(translation, file.tables):
        source = file.tables.text(rule.source, rule.name)
        if family not in source:
            continue
        port = "" if translation.target_port is None else f" port {translation.target_port}"
        for _, text in matches(file, translation.flows, [(family, source[family], destination)]):
            named = label(rule.kind.value, rule.name)
            if file.dialect.translation_in_rules:
                log = " log" if rule.log and translation.target is None else ""
                lines.append(
                    f"pass in{log} quick{devices(patterns)}{text}{STARTS} tag {tag} {named} rdr-to {target}{port}"
                )
            else:
                file.translations.append(f"rdr{devices(patterns)}{text} tag {tag} -> {target}{port}")
    if not file.dialect.translation_in_rules:
        lines.append(f"pass in quick all{STARTS} {label(rule.kind.value, rule.name)} tagged {tag}")
    return lines


def targets(translation: Translation, tables: Tables) -> Iterator[tuple[tuple[str, ...], Family, str, str]]:
    """(interfaces, family, destination, target) of each line. Without a target address the host itself is meant: the
    address it was sent to where the policy names it, else the loopback address (which IPv6 input refuses: a gap)."""
    for family in translation.families():
        if translation.destination is None:
            places = ["(self)"]
        elif translation.target is not None:
            places = [tables.text(translation.destination, f"{translation.name}_to")[family]]
        else:
            places = networks(translation.destination.only(family))
        for place in places:
            if translation.target is not None:
                yield translation.interfaces, family, place, str(translation.target)
            elif translation.destination is not None:
                yield translation.interfaces, family, place, place
            elif family == 4:
                yield translation.interfaces, family, place, "127.0.0.1"


def forward_rule(ruleset: Ruleset, name: str) -> Rule | None:
    for rule in (*ruleset.forwarded, *ruleset.inbound):
        if rule.kind is Kind.FORWARD and rule.name == name:
            return rule
    return None


# --- the way out -----------------------------------------------------------------------------------------------------


def outbound(file: File) -> None:
    lines = file.outwards
    passed = False
    for rule in file.ruleset.outbound:
        if rule.kind in (Kind.EGRESS, Kind.SERVICE, Kind.DEFAULT) and not passed:
            passed = True
            lines += leaving(file)
        if rule.kind is Kind.FIXED:
            lines += fixed(file, rule, "out")
        elif rule.kind is Kind.BLOCK:
            lines += refusing(file, rule, "out", rule.out_interfaces, sides(file.tables, rule))
        elif rule.kind is Kind.EGRESS:
            lines += passing(file, rule, "out", rule.out_interfaces, sides(file.tables, rule))
        elif rule.kind is Kind.DEFAULT and rule.verdict is Verdict.ACCEPT:
            lines.append(f"pass out quick all flags any keep state {label('default', rule.name)}")
        elif rule.kind is Kind.DEFAULT:
            lines += refusing(file, rule, "out", (), [(None, "any", "any")])


def leaving(file: File) -> list[str]:
    """What passes through, on its way out, told by its tag."""
    ruleset, lines = file.ruleset, []
    default = ruleset.forwarded[-1]
    tags = [to_tag(t.name) for t in ruleset.translations if t.target is not None]
    for rule in ruleset.forwarded:
        if rule.kind is Kind.BLOCK and (rule.destination != ANYWHERE or rule.live_destination):
            for tag in tags:
                lines += refusing(file, rule, "out", rule.out_interfaces, sides(file.tables, rule), tagged=tag)
    known = {"portctl_in"} | set(tags)
    for rule in ruleset.forwarded:
        if rule.kind is not Kind.FORWARD:
            continue
        if rule.original is not None:
            lines += leave(file, rule, to_tag(rule.name), [(None, "any", "any")], None)
            continue
        for _, tag in classes(file, rule):
            known.add(tag)
            lines += leave(file, rule, tag, list(sides(file.tables, rule)), rule.flows)
    if default.verdict is Verdict.ACCEPT:
        lines.append(f"pass out quick all no state {label('forward', default.name)} tagged portctl_keep")
        lines.append(f"pass out quick all keep state {label('forward', default.name)} tagged portctl_in")
        known = {tag for tag in known if tag != "portctl_in"}
    for tag in sorted(known):
        lines += refusing(file, default, "out", (), [(None, "any", "any")], tagged=tag)
    return lines


def leave(
    file: File,
    rule: Rule,
    tag: str,
    ends: list[tuple[Family | None, str, str]],
    flows: tuple[Flow, ...] | None,
) -> list[str]:
    """One forward on its way out, with its limits and the translation of its source."""
    masquerade = next((m for m in file.ruleset.masquerades if m.name == rule.name), None)
    plain = Rule(
        rule.name, rule.kind, rule.verdict, flows=flows, rate=rule.rate, max_connections=rule.max_connections,
        log=rule.log,
    )  # fmt: skip
    if masquerade is None:
        return passing(file, plain, "out", rule.out_interfaces, ends, tagged=tag)
    if not file.dialect.translation_in_rules:
        mark = shortened(f"portctl_nat_{rule.name}")
        for patterns, family, address in sources(rule, masquerade):
            texts = matches(file, flows, [(f or family, s, d) for f, s, d in ends if f in (None, family)])
            file.translations += [f"nat{devices(patterns)}{t} tag {mark} tagged {tag} -> {address}" for _, t in texts]
        return passing(file, plain_all(plain), "out", rule.out_interfaces, [(None, "any", "any")], tagged=mark)
    lines: list[str] = []
    for patterns, family, address in sources(rule, masquerade):
        bound = [(f or family, s, d) for f, s, d in ends if f in (None, family)]
        lines += [f"{line} nat-to {address}" for line in passing(file, plain, "out", patterns, bound, tagged=tag)]
    return lines


def plain_all(rule: Rule) -> Rule:
    return Rule(
        rule.name, rule.kind, rule.verdict, rate=rule.rate, max_connections=rule.max_connections, log=rule.log
    )


def sources(rule: Rule, masquerade: Masquerade) -> Iterator[tuple[tuple[str, ...], Family, str]]:
    """(interfaces, family, address) of each way in which a source is translated."""
    if masquerade.address is not None:
        version: Family = 4 if masquerade.address.version == 4 else 6
        yield rule.out_interfaces, version, str(masquerade.address)
        return
    for name in rule.out_interfaces:
        for family in FAMILIES:
            yield (name,), family, f"({name.removesuffix('*')}:0)"
