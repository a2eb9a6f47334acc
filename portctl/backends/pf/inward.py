"""The way in: everything that arrives, for this host and through it.

What a packet that passes through learns here goes along with it as a tag, of which a packet has one at a time:

    portctl_new           nothing yet: each begins with it, whatever a tunnel or another network stack had left
    portctl_here          its destination is this host
    portctl_to_ENTRY      that forward translated its destination
    portctl_from_IF       some forward may let it through; it came in on IF (`portctl_from`: on any other interface)
    portctl_KIND_ENTRY    it meets a service, egress entry or forward whose several lines share one counter, one rule
    portctl_keep          it belongs to a forward path that is not portctl's
"""

from __future__ import annotations

from dataclasses import replace

from portctl.backends.pf import turning
from portctl.backends.pf.lines import (
    ALLOW_OPTS,
    ANY_SIDE,
    Ends,
    File,
    Way,
    keeping,
    matches,
    passing,
    refusing,
    says_nothing,
    sides,
    stateless,
)
from portctl.backends.pf.words import CAST_TABLE, label, live_table, tag
from portctl.net import ANYWHERE
from portctl.ruleset import KNOWN, Kind, Rule, Ruleset, Verdict, interface_matches

HERE = "portctl_here"
LOCAL: tuple[Ends, ...] = (
    (None, "any", "(self)"),
    (4, "any", "(self:broadcast)"),
    (None, "any", f"<{CAST_TABLE}>"),
)
"""The destinations that end at this host; those in parentheses follow later changes of address."""
EVERYTHING: tuple[Ends, ...] = ((None, "any", "any"),)


def local(file: File) -> tuple[Ends, ...]:
    """What is judged as sent to this host: everything, where pf cannot tell."""
    return LOCAL if file.dialect.groups else EVERYTHING


def write(file: File) -> None:
    """Fills `file.inward` and, for pf that translates before it filters, `file.translations`."""
    lines = file.inward
    lines += over_loopback(file, "in")
    lines += [f"pass in from <{table}> to any no state{label('live', name)}" for name, table in renamed(file.ruleset)]
    before, blocks, after = parted(file.ruleset.inbound)
    turning.write(file)
    for rule in before:
        lines += line_two(file, rule)
    for rule in blocks:
        lines += refusing(file, rule, Way("in", rule.interfaces), sides(file, rule), rule.flows)
    lines.append("# anchors of others: in")
    loopback = [rule for rule in after if rule.kind is Kind.FIXED and rule.verdict is not Verdict.ACCEPT]
    for rule in (rule for rule in loopback if rule.source != ANYWHERE):
        lines += refusing(file, rule, Way("in"), sides(file, rule))
    for translation in file.ruleset.translations:
        lines += turning.admitted(file, translation)
    for rule in (rule for rule in loopback if rule.destination != ANYWHERE):
        lines += refusing(file, rule, Way("in"), sides(file, rule))
    lines += [f"pass in{text} no state tag {HERE}" for _, text in matches(None, local(file))]
    lines += blocked_beyond(file)
    for rule in after:
        if rule.kind is Kind.FIXED and rule.verdict is Verdict.ACCEPT:
            lines += stateless(rule, Way("in"), sides(file, rule))
        elif rule.kind is Kind.SERVICE:
            way = Way("in", rule.interfaces, HERE, HERE if rule.limited else "")
            lines += passing(rule, way, rule.flows, sides(file, rule))
        elif rule.kind is Kind.DEFAULT:
            lines += refusing(file, rule, Way("in", tagged=HERE), ANY_SIDE)
    through(file)


def over_loopback(file: File, direction: str) -> list[str]:
    """What passes on the loopback interface, where no option skips it."""
    if not file.anchor:
        return []
    named = label(Kind.FIXED.value, "loopback")
    return [f"pass {direction} quick on lo0 from any to any no state{ALLOW_OPTS}{named}"]


def renamed(ruleset: Ruleset) -> list[tuple[str, str]]:
    """(group, table) of each live group whose name does not fit into its table's. A rule that decides nothing says it,
    for who reads a listing."""
    return [(name, live_table(name)) for name in ruleset.live if live_table(name) != f"portctl-live-{name}"]


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
        places = [
            (family or bound, source, where) for bound, _, where in local(file) if family in (None, bound) or not bound
        ]
        lines += stateless(
            rule, Way("in", tag=HERE), places if destination == "any" else [(family, source, destination)]
        )
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


# --- what passes through ---------------------------------------------------------------------------------------------


def through(file: File) -> None:
    """The end of the way in: nothing that comes here is for this host."""
    lines = file.inward
    if not file.dialect.groups:
        default = replace(file.ruleset.forwarded[-1], verdict=Verdict.DROP)
        lines += refusing(file, default, Way("in"), ANY_SIDE)
        return
    for rule in file.ruleset.forwarded:
        if rule.kind is Kind.FORWARD and rule.original is None:
            for patterns, mark in classes(file.ruleset, rule):
                plain = replace(rule, rate=None, max_connections=None, log=False)
                lines += passing(plain, Way("in", patterns, tag=mark), rule.flows, sides(file, rule))
        elif rule.kind is Kind.DEFAULT and rule.verdict is Verdict.ACCEPT:
            lines += keeping(file, rule, Way("in", tag="portctl_keep"))
        elif rule.kind is Kind.DEFAULT:
            lines += refusing(file, rule, Way("in"), ANY_SIDE)


def classes(ruleset: Ruleset, rule: Rule) -> list[tuple[tuple[str, ...], str]]:
    """(interfaces, tag) of each class of incoming interfaces from which the rule admits, the narrowest first."""
    named = {name for each in ruleset.forwarded if each.kind is Kind.FORWARD for name in each.interfaces}
    order = sorted(named, key=lambda name: (name.endswith("*"), -len(name), name))
    wanted = [name for name in order if not rule.interfaces or interface_matches(rule.interfaces, name.rstrip("*"))]
    found: list[tuple[tuple[str, ...], str]] = [((name,), tag("from", name.rstrip("*"))) for name in wanted]
    return found if rule.interfaces else [*found, ((), tag("from"))]
