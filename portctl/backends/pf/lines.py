"""A rule of the middle as lines of pf.conf, whichever way its packets go."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from portctl.backends.pf.dialects import Dialect
from portctl.backends.pf.words import (
    FAMILY,
    PROTOCOLS,
    Tables,
    devices,
    icmp_types,
    label,
    live_table,
    ports,
    tag,
)
from portctl.net import FAMILIES, Family
from portctl.ruleset import ICMP, ICMPV6, IGMP, KNOWN, LOOPBACK, TCP, Flows, Kind, Rule, Ruleset, State, Verdict

STARTS = " flags S/SAFR keep state"
"""What starts a connection. pf asks the flags of TCP alone."""
ALLOW_OPTS = " allow-opts"
RSVP = 46
ANY_SIDE = ((None, "any", "any"),)
Ends = tuple[Family | None, str, str]
"""Family (None: both), source, destination."""


@dataclass(slots=True)
class File:
    """What goes into one pf.conf, while it is written."""

    ruleset: Ruleset
    dialect: Dialect
    tables: Tables
    anchor: bool = False
    """It is for the anchor `portctl`, not the main rule set."""
    translations: list[str] = field(default_factory=list)
    inward: list[str] = field(default_factory=list)
    outward: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Way:
    """`in` or `out`, and what else every line of a rule asks or does there."""

    direction: str
    patterns: tuple[str, ...] = ()
    tagged: str = ""
    tag: str = ""

    def options(self) -> str:
        setting = f" tag {self.tag}" if self.tag not in ("", self.tagged) else ""
        return setting + (f" tagged {self.tagged}" if self.tagged else "")


def says_nothing(rule: Rule) -> bool:
    """Rules that pf needs no line for: known connections pass by their states, the loopback interface is skipped, and
    pf calls nothing invalid or untracked that a rule could see."""
    return (
        not rule.states & State.NEW
        or not rule.states & ~KNOWN
        or LOOPBACK in rule.interfaces
        or LOOPBACK in rule.out_interfaces
    )


def sides(file: File, rule: Rule) -> Iterator[Ends]:
    """Both ends of each line that the rule needs: one line for both families where they read alike."""
    blocks = rule.kind is Kind.BLOCK  # load.sh finds whose connections to cut by their tables
    source = file.tables.text(rule.source, rule.name, blocks)
    if rule.live_source:
        source = dict.fromkeys(FAMILIES, f"<{live_table(rule.live_source)}>")
    found = file.tables.text(rule.destination, f"{rule.name}_to", blocks)
    if rule.live_destination:
        found = dict.fromkeys(FAMILIES, f"<{live_table(rule.live_destination)}>")
    yield from paired(source, found)


def paired(source: dict[Family, str], destination: dict[Family, str]) -> Iterator[Ends]:
    both: list[Family] = [f for f in FAMILIES if f in source and f in destination]
    if len(both) == 2 and source[4] == source[6] and destination[4] == destination[6]:
        yield None, source[4], destination[4]
    else:
        yield from ((family, source[family], destination[family]) for family in both)


def matches(flows: Flows, ends: Iterable[Ends]) -> Iterator[tuple[int | None, str]]:
    """(protocol, text) of each match: family, protocol, both ends, ports, ICMP types."""
    ends = list(ends)
    if flows is None:
        for family, source, destination in ends:
            yield None, f"{FAMILY[family]} from {source} to {destination}"
        return
    for flow in flows:
        bound = flow.families()
        proto = f" proto {PROTOCOLS.get(flow.protocol, flow.protocol)}"
        for family, source, destination in ends:
            if family is not None and family not in bound:
                continue
            word = FAMILY[family if len(bound) == 2 else bound[0]]
            if flow.protocol in (ICMP, ICMPV6):
                for types in icmp_types(flow):
                    yield flow.protocol, f"{word}{proto} from {source} to {destination}{types}"
            else:
                hosts = f" from {source}{ports(flow.source_ports)} to {destination}{ports(flow.ports)}"
                yield flow.protocol, f"{word}{proto}{hosts}"


def options(protocol: int | None) -> str:
    """Packets of these protocols bear IP options (router alert, RFC 2113), which pf drops unless the rule says so."""
    return ALLOW_OPTS if protocol in (IGMP, RSVP) else ""


def starts(protocol: int | None) -> str:
    """The options of a rule that admits what starts a connection."""
    return STARTS if protocol in (TCP, None) else " keep state"


def passing(rule: Rule, way: Way, flows: Flows, ends: Iterable[Ends], translation: str = "") -> list[str]:
    """The lines that admit a rule's packets, which come one way."""
    return passing_ways(rule, (way,), flows, ends, translation)


def passing_ways(
    rule: Rule, ways: Iterable[Way], flows: Flows, ends: Iterable[Ends], translation: str = ""
) -> list[str]:
    """The lines that admit a rule's packets; where its connections are limited, the last one counts them all."""
    log = " log" if rule.log else ""
    owner = f" user {rule.user}" if rule.user else ""
    named = label(rule.kind.value, rule.name)
    texts = list(matches(flows, ends))
    found = [(way, protocol, text) for way in ways for protocol, text in texts]
    alone = len(found) == 1 and not pfctl_expands(found[0][2], found[0][0].patterns)
    if not rule.limited or alone:
        return [
            f"pass {way.direction}{log} quick{devices(way.patterns)}{text}{owner}"
            f"{limited(rule, protocol)}{options(protocol)}{named}{way.options()}{translation}"
            for way, protocol, text in found
        ]
    mark = tag(rule.kind.value, rule.name)
    lines: list[str] = []
    for way, protocol, text in found:
        marking = Way(way.direction, way.patterns, way.tagged, mark)
        head = f"pass {way.direction}{devices(way.patterns)}{text}{owner}"
        lines.append(f"{head}{starts(protocol)}{marking.options()}")
    first = found[0][0]
    counting = Way(first.direction, (), mark, first.tag)
    routers = "".join({options(protocol) for _, protocol, _ in found})
    tail = f"{limited(rule, None)}{routers}{named}{counting.options()}{translation}"
    return [*lines, f"pass {first.direction}{log} quick from any to any{tail}"]


def pfctl_expands(text: str, patterns: tuple[str, ...]) -> bool:
    """Whether pfctl makes several rules of a line, each with counters of its own."""
    return "{" in text or len(patterns) > 1


def limited(rule: Rule, protocol: int | None) -> str:
    """The state options of a limited rule. `max-src-conn` counts finished handshakes, which only TCP has."""
    if not rule.limited:
        return starts(protocol)
    flows = rule.flows if rule.original is None else rule.original.flows
    only_tcp = flows is not None and all(flow.protocol == TCP for flow in flows)
    limits = ["source-track rule"]
    if rule.max_connections is not None:
        limits.append(f"max-src-{'conn' if only_tcp else 'states'} {rule.max_connections}")
    if rule.rate is not None:
        limits.append(f"max-src-conn-rate {rule.rate.number}/{rule.rate.seconds}")
    return f"{starts(protocol)} ({', '.join(limits)})"


def refusing(file: File, rule: Rule, way: Way, ends: Iterable[Ends], flows: Flows = None) -> list[str]:
    """The lines that refuse packets as the rule says."""
    log = " log" if file.ruleset.log_denied or rule.log else ""
    verb = "return" if rule.verdict is Verdict.REJECT else "drop"
    head = f"block {verb} {way.direction}{log} quick{devices(way.patterns)}"
    tail = f"{label(rule.kind.value, rule.name)}{way.options()}"
    return [f"{head}{text}{tail}" for _, text in matches(flows, ends)]


def stateless(rule: Rule, way: Way, ends: Iterable[Ends]) -> list[str]:
    """A fixed line that admits without a state. MLD carries a router alert, which some pf let pass only if told so."""
    said = " no state" + (ALLOW_OPTS if rule.name == "multicast-listener" else "")
    tail = f"{said}{label(rule.kind.value, rule.name)}{way.options()}"
    return [f"pass {way.direction} quick{text}{tail}" for _, text in matches(rule.flows, ends)]


def keeping(file: File, rule: Rule, way: Way) -> list[str]:
    """The lines that leave alone what passes through.

    Without states every packet is judged by itself, and an entry of `block` with ports would stop answers too. Beside
    one there are states, which ask nothing of the packets; some answers of ICMP make none, and pass by the last line.
    So there are where packets are translated by their states alone, as others may mean them to be.
    """
    tail = f"{ALLOW_OPTS}{label('default', rule.name)}{way.options()}"
    tracked = file.dialect.states_translate or any(each.original_direction for each in file.ruleset.forwarded)
    states = ("flags any keep state (sloppy)", "no state") if tracked else ("no state",)
    return [f"pass {way.direction} quick from any to any {state}{tail}" for state in states]


def entry(ruleset: Ruleset, name: str) -> Rule | None:
    """The forward of that name, limits and all."""
    for rule in (*ruleset.forwarded, *ruleset.inbound):
        if rule.kind is Kind.FORWARD and rule.name == name:
            return rule
    return None
