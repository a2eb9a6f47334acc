"""The middle as text, one rule a line: for golden cases, and for people who want to see what a policy means."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from portctl.net import ANYWHERE, FAMILIES, Addresses, Family, Ranges, address_text, network_texts
from portctl.ruleset import (
    EVERY_PORT,
    EVERY_STATE,
    ICMP,
    ICMPV6,
    IGMP,
    LOOPBACK,
    PROTOCOLS_WITH_PORTS,
    SCTP,
    TCP,
    UDP,
    Direction,
    Expectation,
    Flow,
    Flows,
    Rule,
    Ruleset,
    State,
    Translation,
)

_PROTOCOLS = {ICMP: "icmp", IGMP: "igmp", TCP: "tcp", UDP: "udp", ICMPV6: "icmpv6", SCTP: "sctp"}
_MOST = 12
"""So many ranges of a set are listed; of the rest only the number."""


def text(ruleset: Ruleset) -> str:
    """A whole rule set. Every line is one rule or one fact, and says everything that it asks of a packet."""
    return "".join(f"{line}\n" for line in _lines(ruleset))


def _lines(ruleset: Ruleset) -> Iterator[str]:
    yield f"policy {ruleset.name}"
    for name, devices in ruleset.interface_groups:
        yield f"interfaces {name}: {', '.join(devices)}"
    for name, members in ruleset.groups:
        yield f"group {name}: {addresses(members)}"
    for name in ruleset.live:
        yield f"live group {name}"
    for setting in ruleset.settings:
        yield f"setting {setting.system} {setting.name} = {setting.value}"
    if ruleset.log_denied:
        yield "log what is denied"
    for direction in Direction:
        yield ""
        yield f"{direction.value}:"
        for rule in ruleset.rules(direction):
            yield f"  {rule_text(rule)}"
    yield from _translations(ruleset)
    if ruleset.expectations:
        yield ""
        yield "tests:"
        for expectation in ruleset.expectations:
            yield f"  {expectation_text(expectation)}"


def _translations(ruleset: Ruleset) -> Iterator[str]:
    if ruleset.translations or ruleset.masquerades or ruleset.clamps:
        yield ""
        yield "translations:"
    for translation in ruleset.translations:
        yield f"  {_translation(translation)}"
    for masquerade in ruleset.masquerades:
        address = masquerade.address or "the outgoing interface's address"
        yield f"  what {masquerade.name} admits leaves from {address}"
    for name in ruleset.clamps:
        yield f"  what {name} admits has its segment size clamped to the path"


def rule_text(rule: Rule) -> str:
    """One rule: verdict, conditions, and where it comes from."""
    words = [rule.verdict.value, *_conditions(rule)]
    if rule.rate is not None:
        words.append(f"rate {rule.rate.number}/{rule.rate.period}")
    if rule.max_connections is not None:
        words.append(f"max-connections {rule.max_connections}")
    if rule.log:
        words.append("log")
    if rule.until is not None:
        words.append(f"until {rule.until:%Y-%m-%dT%H:%MZ}")
    return " ".join([*words, f"[{rule.kind.value} {rule.name}]"])


def _conditions(rule: Rule) -> Iterator[str]:
    if rule.states != EVERY_STATE:
        yield states(rule.states)
    if rule.syn:
        yield "syn"
    if rule.original_direction:
        yield "original-direction"
    if rule.flows is not None:
        yield flows(rule.flows)
    yield from _side("from", rule.source, rule.live_source)
    yield from _side("to", rule.destination, rule.live_destination)
    if rule.interfaces:
        yield f"in {devices(rule.interfaces)}"
    if rule.out_interfaces:
        yield f"out {devices(rule.out_interfaces)}"
    if rule.hop_limit is not None:
        yield f"hop-limit {rule.hop_limit}"
    if rule.user is not None:
        yield f"user {rule.user}"
    if rule.published:
        yield "published"
    if rule.original is not None:
        where = "this host" if rule.original.destination is None else addresses(rule.original.destination)
        ports = "" if rule.original.flows is None else f"{flows(rule.original.flows)} "
        yield f"turned-from {ports}at {where}"


def _side(word: str, members: Addresses, live: str | None) -> Iterator[str]:
    if live is not None:
        yield f"{word} live {live}"
    if members != ANYWHERE:
        yield f"{word} {addresses(members)}"


def _translation(translation: Translation) -> str:
    words = ["turn"]
    if translation.flows is not None:
        words.append(flows(translation.flows))
    words += _side("from", translation.source, None)
    words.append("to this host" if translation.destination is None else f"to {addresses(translation.destination)}")
    if translation.interfaces:
        words.append(f"in {devices(translation.interfaces)}")
    words.append(f"into {translation.target or 'this host'}")
    if translation.target_port is not None:
        words.append(f"port {translation.target_port}")
    if translation.until is not None:
        words.append(f"until {translation.until:%Y-%m-%dT%H:%MZ}")
    return " ".join([*words, f"[{translation.name}]"])


def expectation_text(expectation: Expectation) -> str:
    """One entry of a policy's `tests`."""
    words = [expectation.expect.value, expectation.direction.value]
    words.append("every protocol" if expectation.flows is None else flows(expectation.flows))
    words.append("from this host" if expectation.source is None else f"from {addresses(expectation.source)}")
    words.append("to this host" if expectation.destination is None else f"to {addresses(expectation.destination)}")
    if expectation.interfaces:
        words.append(f"in {devices(expectation.interfaces)}")
    if expectation.out_interfaces:
        words.append(f"out {devices(expectation.out_interfaces)}")
    return " ".join([*words, f"[{expectation.service}]"] if expectation.service else words)


def flows(value: Flows) -> str:
    """Protocols and ports: `tcp 22,80-81 udp 53 icmp 8`."""
    if value is None:
        return "every protocol"
    return " ".join(flow(each) for each in value)


def flow(value: Flow) -> str:
    """One protocol and its ports."""
    name = _PROTOCOLS.get(value.protocol, f"protocol {value.protocol}")
    if value.protocol in (ICMP, ICMPV6):
        return f"{name} {_icmp(value.ports)}".rstrip()
    if value.protocol not in PROTOCOLS_WITH_PORTS:
        return name
    if value.source_ports != EVERY_PORT:
        name += f" {ports(value.source_ports)} >"
    return name if value.ports == EVERY_PORT and value.source_ports == EVERY_PORT else f"{name} {ports(value.ports)}"


def _icmp(value: Ranges) -> str:
    """ICMP types, with the code where not every code of the type is meant."""
    if value == EVERY_PORT:
        return ""
    words: list[str] = []
    for first, last in value.pairs():
        if first % 256 == 0 and last % 256 == 255:
            words.append(str(first // 256) if first // 256 == last // 256 else f"{first // 256}-{last // 256}")
        else:
            words.append(f"{first // 256}/{first % 256}" + ("" if first == last else f"-{last // 256}/{last % 256}"))
    return ",".join(words)


def ports(value: Ranges) -> str:
    """Port numbers: `22,8000-8010`; `any` for all of them."""
    if value == EVERY_PORT:
        return "any"
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in value.pairs())


def addresses(value: Addresses) -> str:
    """Networks and ranges separated by commas, shortened with their number where there are many."""
    if value == ANYWHERE:
        return "any"
    words: list[str] = []
    for family in FAMILIES:
        members = value.family(family)
        if value.is_every(family):
            words.append("0.0.0.0/0" if family == 4 else "::/0")
            continue
        listed = [_range(first, last, family) for first, last in islice(members.pairs(), _MOST)]
        words += listed
        if more := len(members.bounds) // 2 - len(listed):
            words.append(f"… {more} more ranges of IPv{family}")
    return ",".join(words) or "nobody"


def _range(first: int, last: int, family: Family) -> str:
    """A network where it is one, else the first and the last address."""
    found = list(islice(network_texts(Ranges((first, last + 1)), family), 2))
    return found[0] if len(found) == 1 else f"{address_text(first, family)}-{address_text(last, family)}"


def states(value: State) -> str:
    """States of the tracker: `new,untracked`."""
    return ",".join(str(state.name).lower() for state in State if state in value)


def devices(value: tuple[str, ...]) -> str:
    """Interface names and patterns."""
    return ",".join("loopback" if name == LOOPBACK else name for name in value)
