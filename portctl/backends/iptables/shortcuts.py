"""Lines at the head of a chain for the packets that come most often, past the lines that would not decide them.

Each says of every rule before the one that it leads to why a packet does not match it, so that it changes no verdict:
packets of which it cannot say so take the long way.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from portctl.backends.iptables.names import live_set
from portctl.backends.iptables.words import ANY, Speaker, Words, interface_word, port_text, protocol_word, state_words
from portctl.ruleset import EVERY_PORT, EVERY_STATE, KNOWN, STARTING, UDP, Kind, Rule, Verdict

MOST = 24
"""Conditions that one line adds; nf_tables holds 128 expressions in a rule."""


@dataclass(frozen=True, slots=True)
class Admission:
    """The line that admits what `rule` does. `whole`: the rule itself is left with nothing to decide."""

    words: Words
    rule: Rule
    whole: bool


def admission(speaker: Speaker, rules: Sequence[Rule]) -> Admission | None:
    """The first rule that admits known connections, or everything."""
    words, whole = ANY, True
    for rule in rules:
        if _admits_all(speaker, rule):
            known = ANY if rule.states == EVERY_STATE else state_words(rule.states)
            return Admission(known & words, rule, whole)
        if rule.verdict is Verdict.ACCEPT:
            if rule.kind is not Kind.FIXED or rule.log:
                return None
            continue
        more = _avoided(speaker, rule, words)
        if more is None or len(more.modules) > MOST:
            return None
        words, whole = more, False
    return None


def bypass(speaker: Speaker, rules: Sequence[Rule], guard: Words, protocol: int) -> Words | None:
    """`guard`, which is of packets of a protocol that start a connection, for those that none of the rules matches."""
    words = guard
    # What is fixed has addresses of its own; entries may have to give way to it, and become sets.
    for rule in sorted(rules, key=lambda rule: rule.kind is not Kind.FIXED):
        named = rule.flows is None or any(flow.protocol == protocol for flow in rule.flows)
        if not named or not rule.states & STARTING:
            continue
        more = _avoided(speaker, rule, words, protocol)
        if more is None or len(more.modules) - len(guard.modules) > MOST:
            return None
        words = more
    return words


def _admits_all(speaker: Speaker, rule: Rule) -> bool:
    return (
        rule.verdict is Verdict.ACCEPT
        and rule.kind in (Kind.FIXED, Kind.DEFAULT)
        and rule.states in (KNOWN, EVERY_STATE)
        and rule.flows is None
        and not (rule.limited or rule.log or rule.syn or rule.original_direction)
        and not speaker.dimensions(rule)
    )


def _avoided(speaker: Speaker, rule: Rule, words: Words, protocol: int | None = None) -> Words | None:
    """`words`, and one condition more that keeps out all that a rule matches, if one line can hold it."""
    for more in _opposites(speaker, rule, protocol):
        slots = [field for field in ("source", "destination", "incoming", "outgoing") if getattr(more, field)]
        if any(getattr(words, field) not in ("", getattr(more, field)) for field in slots):
            continue
        if protocol == UDP and "-m udp" in "".join(more.modules) and "-m udp" in "".join(words.modules):
            continue
        return words & more
    return None


def _opposites(speaker: Speaker, rule: Rule, protocol: int | None) -> Iterator[Words]:
    """Conditions none of which a packet meets that the rule matches: the cheapest first."""
    if rule.original is not None:
        yield Words(modules=("-m conntrack ! --ctstate DNAT",))
    if rule.interfaces not in ((), ("*",)) and len(rule.interfaces) == 1:
        yield Words(incoming=f"! {interface_word(rule.interfaces[0])}")
    if rule.out_interfaces not in ((), ("*",)) and len(rule.out_interfaces) == 1:
        yield Words(outgoing=f"! {interface_word(rule.out_interfaces[0])}")
    flows = [flow for flow in rule.flows or () if flow.protocol == protocol]
    # Beside the flags of TCP its ports would be a second match, which iptables-nft lists otherwise than it was given.
    if protocol == UDP and len(flows) == 1 and flows[0].ports != EVERY_PORT and len(flows[0].ports.bounds) == 2:
        (pair,) = flows[0].ports.pairs()
        yield Words(modules=(f"-m {protocol_word(UDP)} ! --dport {port_text(*pair)}",))
    for addresses, role in ((rule.source, "src"), (rule.destination, "dst")):
        if addresses.is_every(speaker.family):
            continue
        for most in (1, 0):
            choices = speaker.address_choices(addresses, role, rule.name, most=most)
            if len(choices) == 1:
                yield _opposite(choices[0])
    for live, role in ((rule.live_source, "src"), (rule.live_destination, "dst")):
        if live is not None:
            yield _opposite(Words(modules=(f"-m set --match-set {live_set(live, speaker.family)} {role}",)))


def _opposite(words: Words) -> Words:
    """One address or one set, turned round."""
    return replace(
        words,
        source=words.source and f"! {words.source}",
        destination=words.destination and f"! {words.destination}",
        modules=tuple(module.replace("-m set ", "-m set ! ") for module in words.modules),
    )
