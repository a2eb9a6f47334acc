"""A rule set as the files that `iptables-restore`, `ip6tables-restore` and `ipset restore` read.

The text is what `iptables-save` prints of portctl's chains once it is loaded: chains by name, rules behind them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from portctl import templating
from portctl.backends.base import PUBLISHED_MARK, Ability
from portctl.backends.iptables.chains import Direction, Leaf, Table
from portctl.backends.iptables.leaves import (
    MASQUERADE_MASK,
    filter_leaf,
    masquerade_marks,
    translation_leaf,
)
from portctl.backends.iptables.names import cut
from portctl.backends.iptables.sets import Sets, live_sets
from portctl.backends.iptables.words import ANY, INLINE, Choices, Speaker, Words, combine, flow_choices
from portctl.net import ANYWHERE, FAMILIES, Family
from portctl.ruleset import (
    TCP,
    Flow,
    Kind,
    Rule,
    Ruleset,
    Translation,
    Verdict,
    unchanged,
)

CLAMP = "-m tcp --tcp-flags SYN,RST SYN"


def render(ruleset: Ruleset, ability: Ability) -> dict[str, str]:
    """`rules.v4`, `rules.v6`, and `sets.ipset` where there are sets."""
    sets = Sets(ability.ipset, INLINE, ruleset.groups)
    files: dict[str, str] = {}
    for family in FAMILIES:
        tables = family_tables(ruleset, Speaker(family, ability, sets))
        files[f"rules.v{family}"] = templating.render(f"iptables/rules.v{family}.j2", tables=_texts(tables))
    found = [*live_sets(ruleset.live), *sets.render()] if ability.ipset else []
    if found:
        files = {"sets.ipset": templating.render("iptables/sets.ipset.j2", sets=found), **files}
    return files


NESTED = 16
"""Chains that nf_tables nests (NFT_JUMP_STACK_SIZE), by jumps and gotos alike; iptables-nft is bound by it."""
WAYS = 50_000
"""Ways through the chains, each of which nf_tables walks when it loads them; more would take noticeable time."""


def _written(make: Callable[[bool], Table]) -> Table:
    """The chains of a direction: groups of entries one behind the other, or in stages where that nests too deep."""
    table = make(False)
    depth, ways = table.nesting()
    return make(True) if depth > NESTED or ways > WAYS else table


def _texts(tables: Sequence[Table]) -> list[dict[str, object]]:
    return [
        {"name": table.name, "chains": sorted(table.chains), "blocks": [table.chains[c] for c in sorted(table.chains)]}
        for table in tables
        if table.chains
    ]


def family_tables(ruleset: Ruleset, speaker: Speaker) -> list[Table]:
    """The tables in the order in which they are loaded: marks, then verdicts, then translations."""
    mangle, filtering, nat = Table("mangle"), Table("filter"), Table("nat")
    _verdicts(filtering, ruleset, speaker)
    if any(rule.published for rules in (ruleset.inbound, ruleset.forwarded) for rule in rules):
        _published(mangle)
    _clamps(mangle, ruleset, speaker)
    _translations(nat, ruleset, speaker)
    _masquerades(nat, ruleset, speaker.family)
    return [mangle, filtering, nat]


def needed(rules: Sequence[Rule]) -> Sequence[Rule]:
    """The rules without a tail that only says again what the last one says: nothing, where all is accepted."""
    if not rules or not _plain(rules[-1]):
        return rules
    end = len(rules) - 1
    while end and _plain(rules[end - 1]) and rules[end - 1].kind is Kind.FIXED:
        end -= 1
    return [*rules[:end], rules[-1]] if end else ()


def _plain(rule: Rule) -> bool:
    return rule.verdict is Verdict.ACCEPT and not rule.limited and not rule.log


def _verdicts(table: Table, ruleset: Ruleset, speaker: Speaker) -> None:
    marks = masquerade_marks(ruleset.masquerades)
    leaf = filter_leaf(ruleset.log_denied, {m.name: marks[m.address] for m in ruleset.masquerades})
    for name, rules in (("IN", ruleset.inbound), ("OUT", ruleset.outbound), ("FWD", ruleset.forwarded)):
        kept, local, unturned = _with_unchanged(needed(rules), ruleset.translations, through=name == "FWD")
        if not kept:
            continue
        prefix = f"PORTCTL-{name}"
        aware = replace(speaker, local=local, unturned=unturned)
        table.chains |= _written(partial(_direction, prefix, kept, aware, leaf)).chains


def _direction(prefix: str, rules: Sequence[Rule], speaker: Speaker, leaf: Leaf, staged: bool) -> Table:
    table = Table("filter")
    direction = Direction(table, prefix, speaker, leaf, opens=prefix != "PORTCTL-FWD", staged=staged)
    direction.sequence(table.new(prefix), rules)
    return table


def _with_unchanged(
    rules: Sequence[Rule], translations: Sequence[Translation], *, through: bool
) -> tuple[list[Rule], frozenset[Rule], frozenset[Rule]]:
    """The rules, with those on packets turned to where they were going anyway.

    With them the rules that ask for an address of this host, and those that ask that nobody translated the packet.
    """
    added: dict[Rule, bool] = {}
    for rule in rules:
        for item in translations if rule.original is not None and rule.kind is Kind.FORWARD else ():
            same = unchanged(rule, item)
            own = item.destination is None
            if same is not None and not (own and through):  # what goes to an own address passes through nothing
                added[same] = own
    # Beside the services, since each change between kinds of rules costs a chain on the way, and 16 may be nested.
    opening = next((n for n, rule in enumerate(rules) if rule.kind in (Kind.SERVICE, Kind.FORWARD)), len(rules))
    free = [rule for rule in added if not rule.limited]
    limited = [rule for rule in added if rule.limited]
    found = [*rules[:opening], *free, *rules[opening:-1], *limited, *rules[-1:]]
    return found, frozenset(rule for rule, own in added.items() if own), frozenset(added)


def _published(table: Table) -> None:
    """Marks what is addressed to this host, before anybody translates it."""
    words = Words(modules=("-m addrtype --dst-type LOCAL", "-m conntrack --ctstate NEW"))
    table.add(
        table.new("PORTCTL-PUBLISHED"),
        words.line("", f"-j MARK --set-xmark 0x{PUBLISHED_MARK:x}/0x{PUBLISHED_MARK:x}"),
    )


def _clamps(table: Table, ruleset: Ruleset, speaker: Speaker) -> None:
    """The segment size of what a forward admits, and of its answers."""
    for name in sorted(ruleset.clamps):
        rules = [r for r in ruleset.forwarded if r.name == name and r.kind is Kind.FORWARD]
        for rule in rules:
            for choices in (_syns(rule, speaker), _syns(_answers(rule), speaker)):
                for words in choices:
                    chain = "PORTCTL-MSS" if "PORTCTL-MSS" in table.chains else table.new("PORTCTL-MSS")
                    table.add(chain, words.line(name, "-j TCPMSS --clamp-mss-to-pmtu"))


def _answers(rule: Rule) -> Rule:
    """The condition that answers to a rule's packets meet."""
    return replace(
        rule,
        flows=None if rule.flows is None else tuple(flow.reversed() for flow in rule.flows if flow.protocol == TCP),
        source=rule.destination,
        destination=rule.source,
        interfaces=rule.out_interfaces,
        out_interfaces=rule.interfaces,
        until=None,
    )


def _syns(rule: Rule, speaker: Speaker) -> Choices:
    """The TCP packets that open a connection of a rule, in one direction."""
    flows = [Flow(TCP)] if rule.flows is None else [flow for flow in rule.flows if flow.protocol == TCP]
    if speaker.family not in rule.families():
        return []
    ports = [words for flow in flows for words in flow_choices(flow)]
    clamp = [Words(protocol="tcp", modules=(CLAMP,))]
    return combine([clamp, ports, *speaker.dimensions(replace(rule, until=None))])


def _translations(table: Table, ruleset: Ruleset, speaker: Speaker) -> None:
    found: dict[Rule, Translation] = {}
    for number, item in enumerate(ruleset.translations):
        if speaker.family in item.families():
            found[_as_rule(item, number)] = item
    if not found:
        return
    local = {rule: item.destination is None for rule, item in found.items()}
    speaker = replace(speaker, local=frozenset(rule for rule, here in local.items() if here))
    governed = any(rule.published for rule in ruleset.forwarded)
    leaf = translation_leaf(found, governed)
    table.chains |= _written(partial(_translating, list(found), speaker, leaf)).chains


def _translating(rules: Sequence[Rule], speaker: Speaker, leaf: Leaf, staged: bool) -> Table:
    table = Table("nat")
    direction = Direction(table, "PORTCTL-DNAT", speaker, leaf, by_protocol=True, staged=staged)
    chain = table.new("PORTCTL-DNAT")
    table.add(chain, Words(incoming="lo").line("", "-j RETURN"))
    direction.sequence(chain, rules)
    return table


def _as_rule(item: Translation, number: int) -> Rule:
    """A translation as a rule, so that it is reached as rules are. Its place makes it unlike any other."""
    return Rule(
        name=item.name,
        kind=Kind.FORWARD,
        verdict=Verdict.ACCEPT,
        flows=item.flows,
        source=item.source,
        destination=ANYWHERE if item.destination is None else item.destination,
        interfaces=item.interfaces,
        until=item.until,
        ticket=str(number),
    )


def _masquerades(table: Table, ruleset: Ruleset, family: Family) -> None:
    """Sources of what was admitted to be translated, by the mark that the admission left."""
    admitted = {r.name for r in ruleset.forwarded if r.kind is Kind.FORWARD and family in r.families()}
    marks = masquerade_marks(ruleset.masquerades)
    for address, mark in marks.items():
        names = sorted(m.name for m in ruleset.masquerades if m.address == address and m.name in admitted)
        if not names or (address is not None and address.version != family):
            continue
        chain = "PORTCTL-SNAT" if "PORTCTL-SNAT" in table.chains else table.new("PORTCTL-SNAT")
        words = ANY & Words(modules=(f"-m mark --mark 0x{mark:x}/0x{MASQUERADE_MASK:x}",))
        target = "-j MASQUERADE" if address is None else f"-j SNAT --to-source {address}"
        table.add(chain, words.line(cut(", ".join(names), 255), target))
