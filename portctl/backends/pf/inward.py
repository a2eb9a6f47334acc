"""The way in: everything that arrives, for this host and through it.

What a packet that passes through learns here goes along with it as a tag, of which a packet has one at a time:

    portctl_here          its destination is this host
    portctl_to_ENTRY      that forward translated its destination
    portctl_from_IF       some forward may let it through; it came in on IF (`portctl_from`: on any other interface)
    portctl_limit_ENTRY   it meets an entry whose several lines share one counter, that is one rule
    portctl_keep          it belongs to a forward path that is not portctl's
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from portctl.backends.pf.lines import (
    ANY_SIDE,
    Ends,
    File,
    Way,
    entry,
    matches,
    passing,
    refusing,
    says_nothing,
    sides,
    stateless,
)
from portctl.backends.pf.words import CAST_TABLE, devices, label, tag
from portctl.net import ANYWHERE, Family, Ranges, network_texts
from portctl.ruleset import KNOWN, Kind, Rule, Ruleset, Translation, Verdict, interface_matches

HERE = "portctl_here"
LOCAL: tuple[Ends, ...] = (
    (None, "any", "(self)"),
    (4, "any", "(self:broadcast)"),
    (None, "any", f"<{CAST_TABLE}>"),
)
"""The destinations that end at this host; those in parentheses follow later changes of address."""


def write(file: File) -> None:
    """Fills `file.inward` and, for pf that translates before it filters, `file.translations`."""
    lines = file.inward
    before, blocks, after = parted(file.ruleset.inbound)
    for translation in file.ruleset.translations:
        turn(file, translation)
    for rule in before:
        lines += line_two(file, rule)
    for rule in blocks:
        lines += refusing(file, rule, Way("in", rule.interfaces), sides(file, rule), rule.flows)
    lines.append("# anchors of others: in")
    loopback = [rule for rule in after if rule.kind is Kind.FIXED and rule.verdict is not Verdict.ACCEPT]
    for rule in (rule for rule in loopback if rule.source != ANYWHERE):
        lines += refusing(file, rule, Way("in"), sides(file, rule))
    for translation in file.ruleset.translations:
        lines += admitted(file, translation)
    for rule in (rule for rule in loopback if rule.destination != ANYWHERE):
        lines += refusing(file, rule, Way("in"), sides(file, rule))
    lines += [f"pass in{text} no state tag {HERE}" for _, text in matches(None, LOCAL)]
    lines += blocked_beyond(file)
    for rule in after:
        if rule.kind is Kind.FIXED and rule.verdict is Verdict.ACCEPT:
            lines += stateless(rule, Way("in"), sides(file, rule))
        elif rule.kind is Kind.SERVICE:
            lines += passing(rule, Way("in", rule.interfaces, tagged=HERE), rule.flows, sides(file, rule))
        elif rule.kind is Kind.DEFAULT:
            lines += refusing(file, rule, Way("in", tagged=HERE), ANY_SIDE)
    through(file)


def parted(rules: tuple[Rule, ...]) -> tuple[list[Rule], list[Rule], list[Rule]]:
    """Line 2 of the policy's table, the blocks, and what follows them. Rules that pf needs no line for are left out."""
    known = next((i for i, rule in enumerate(rules) if not rule.states & ~KNOWN), 0)
    first = [rule for rule in rules[:known] if rule.kind is Kind.FIXED and not says_nothing(rule)]
    blocks = [rule for rule in rules if rule.kind is Kind.BLOCK]
    rest = [rule for rule in rules[known:] if rule.kind is not Kind.BLOCK and not says_nothing(rule)]
    return first, blocks, rest


def line_two(file: File, rule: Rule) -> list[str]:
    """What every host on a network needs, as far as it is for this host."""
    lines: list[str] = []
    for family, source, destination in sides(file, rule):
        places = [(family or bound, source, where) for bound, _, where in LOCAL if family in (None, bound) or not bound]
        lines += stateless(rule, Way("in"), places if destination == "any" else [(family, source, destination)])
    return list(dict.fromkeys(lines))


def blocked_beyond(file: File) -> list[str]:
    """Blocked destinations of what passes through. Those of translated packets are judged on their way out."""
    lines: list[str] = []
    for rule in beyond(file.ruleset):
        found = refusing(file, rule, Way("in", rule.interfaces), sides(file, rule), rule.flows)
        lines += [f"{line} ! tagged {HERE}" for line in found]
    return lines


def beyond(ruleset: Ruleset) -> list[Rule]:
    """The blocks of what passes through that those of what comes in do not hold already."""
    known = {rule for rule in ruleset.inbound if rule.kind is Kind.BLOCK}
    return [rule for rule in ruleset.forwarded if rule.kind is Kind.BLOCK and rule not in known]


# --- translated destinations -----------------------------------------------------------------------------------------


def turn(file: File, translation: Translation) -> None:
    """The lines that translate a destination, before anything is judged, as the policy's table has it."""
    mark = tag("to", translation.name)
    spared = "".join(f" ! tagged {tag('to', name)}" for name in turned_twice(file.ruleset, translation))
    for patterns, ends, target in turns(file, translation):
        for _, text in matches(translation.flows, [ends]):
            if file.dialect.rules_translate:
                file.inward.append(f"match in{devices(patterns)}{text} tag {mark}{spared} rdr-to {target}")
            else:
                file.translations.append(f"rdr{devices(patterns)}{text} tag {mark} -> {target}")


def turned_twice(ruleset: Ruleset, translation: Translation) -> list[str]:
    """Earlier translations to this host, whose outcome this one would turn again: `match` rules all apply."""
    earlier = ruleset.translations[: ruleset.translations.index(translation)]
    return [each.name for each in earlier if each.target is None and meets(each, translation)]


def meets(earlier: Translation, later: Translation) -> bool:
    """Whether what the one makes of a packet may be matched by the other."""
    if earlier.flows is None or later.flows is None:
        return True
    for flow in earlier.flows:
        outcome = flow.ports if earlier.target_port is None else Ranges.single(earlier.target_port)
        if any(other.protocol == flow.protocol and not other.ports.isdisjoint(outcome) for other in later.flows):
            return True
    return False


def admitted(file: File, translation: Translation) -> list[str]:
    """The line that admits on its way in what was translated."""
    rule = entry(file.ruleset, translation.name)
    if rule is None:
        return []
    mark = tag("to", translation.name)
    plain = replace(rule, out_interfaces=())
    return passing(plain, Way("in", tagged=mark, tag=mark if rule.limited else ""), None, ANY_SIDE)


def turns(file: File, translation: Translation) -> Iterator[tuple[tuple[str, ...], Ends, str]]:
    """(interfaces, ends, target) of each line.

    Without a target address this host is meant: the address it was sent to where the policy names it, else the first of
    the incoming interface, else the loopback address (in IPv4: IPv6 input refuses it)."""
    sources = file.tables.text(translation.source, translation.name)
    port = "" if translation.target_port is None else f" port {translation.target_port}"
    for family in translation.families():
        if family not in sources:
            continue
        for patterns, place, target in places(file, translation, family):
            yield patterns, (family, sources[family], place), f"{target}{port}"


def places(file: File, translation: Translation, family: Family) -> Iterator[tuple[tuple[str, ...], str, str]]:
    """(interfaces, destination, target address)."""
    if translation.target is not None:
        name = f"{translation.name}_to"
        where = (
            {family: "(self)"} if translation.destination is None else file.tables.text(translation.destination, name)
        )
        yield translation.interfaces, where[family], str(translation.target)
    elif translation.destination is not None:
        for text in network_texts(translation.destination.family(family), family):
            yield translation.interfaces, text, text
    elif translation.interfaces:
        for name in translation.interfaces:
            yield (name,), "(self)", f"({name}:0)"
    elif family == 4:
        yield (), "(self)", "127.0.0.1"


# --- what passes through ---------------------------------------------------------------------------------------------


def through(file: File) -> None:
    """The end of the way in: nothing that comes here is for this host."""
    lines = file.inward
    for rule in file.ruleset.forwarded:
        if rule.kind is Kind.FORWARD and rule.original is None:
            for patterns, mark in classes(file.ruleset, rule):
                plain = replace(rule, rate=None, max_connections=None, log=False)
                lines += passing(plain, Way("in", patterns, tag=mark), rule.flows, sides(file, rule))
        elif rule.kind is Kind.DEFAULT and rule.verdict is Verdict.ACCEPT:
            lines.append(f"pass in quick from any to any no state{label('default', rule.name)} tag portctl_keep")
        elif rule.kind is Kind.DEFAULT:
            lines += refusing(file, rule, Way("in"), ANY_SIDE)


def classes(ruleset: Ruleset, rule: Rule) -> list[tuple[tuple[str, ...], str]]:
    """(interfaces, tag) of each class of incoming interfaces from which the rule admits, the narrowest first."""
    named = {name for each in ruleset.forwarded if each.kind is Kind.FORWARD for name in each.interfaces}
    order = sorted(named, key=lambda name: (name.endswith("*"), -len(name), name))
    wanted = [name for name in order if not rule.interfaces or interface_matches(rule.interfaces, name.rstrip("*"))]
    found: list[tuple[tuple[str, ...], str]] = [((name,), tag("from", name.rstrip("*"))) for name in wanted]
    return found if rule.interfaces else [*found, ((), tag("from"))]
