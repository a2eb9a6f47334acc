"""The packets that tell rule sets apart: from the corners of every address set that could matter, and from strangers.

Not every packet there is: that is asked of the rules themselves, by comparing them (`drift`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address
from itertools import islice

from portctl.net import FAMILIES, LOOPBACK_ADDRESSES, MULTICAST, Address, Addresses, Family, Ranges
from portctl.observe.types import Facts
from portctl.program import Action, Chain, Condition, Field, Jump, Line, Lookup, Place, Program, Translate
from portctl.ruleset import EVERY_PORT, ICMP, ICMPV6, LOOPBACK, PROTOCOLS_WITH_PORTS, Direction, Flow, Packet, Rule
from portctl.verify.finding import View
from portctl.verify.narrow import may_meet

STRANGERS: dict[Family, tuple[Address, ...]] = {
    4: (ip_address("45.83.220.77"), ip_address("10.217.93.14"), ip_address("192.168.219.201")),
    6: (ip_address("2a0e:b107:9f0::77"), ip_address("fd6b:94c2:77::41")),
}
"""Nobody in particular, in the Internet and in private networks."""
MOST_SOURCES, MOST_DESTINATIONS, MOST_INTERFACES, MOST_RANGES, FEW_RANGES = 160, 12, 6, 12, 2
ENOUGH = 4 * MOST_SOURCES
"""Addresses, of which some are nobody's."""
_IMPOSSIBLE = LOOPBACK_ADDRESSES | MULTICAST | Addresses.of("0.0.0.0/8", "240.0.0.0/4", "::/128")
ENOUGH_BITS = 8
"""Leading bits that a host shares with an address of ours if both are on one network."""


def address(number: int, family: Family) -> Address:
    return IPv4Address(number) if family == 4 else IPv6Address(number)


def corners(ranges: Ranges, family: Family, most: int = MOST_RANGES) -> list[Address]:
    """The first and last of a set and their neighbours outside, of up to `most` ranges spread over it."""
    pairs = list(ranges.pairs())
    step = max(1, -(-len(pairs) // most))
    top = (1 << (32 if family == 4 else 128)) - 1
    numbers: dict[int, None] = {}
    for low, high in [*pairs[::step], *pairs[-1:]]:
        numbers |= dict.fromkeys(n for n in (low, high, low - 1, high + 1) if 0 <= n <= top)
    return [address(n, family) for n in numbers]


def interfaces(facts: Facts) -> list[str]:
    """The names of the interfaces through which strangers may come; `eth0` where none is known."""
    found = [i.name for i in facts.interfaces if i.name != "lo" and i.addresses]
    return found or [i.name for i in facts.interfaces if i.name != "lo"][:1] or ["eth0"]


def nearest(facts: Facts, target: Address) -> str | None:
    """The interface of which an address has the most leading bits in common with a host, at least 8: its way there, if
    it is on a network of this host's."""
    found = [
        (a.max_prefixlen - (int(a) ^ int(target)).bit_length(), i.name)
        for i in facts.interfaces
        for a in i.addresses
        if a.version == target.version and not a.is_loopback
    ]
    shared, name = max(found, key=lambda pair: pair[0], default=(0, ""))
    return name if shared >= ENOUGH_BITS else None


def to_listener(
    view: View, protocol: int, port: int, destinations: Sequence[Address], only: str | None = None
) -> Iterator[Packet]:
    """Packets that start a connection with one socket, each from somebody else, in by every way that may matter.

    `only` is the one interface that the socket takes packets from.
    """
    homes = {a: i.name for i in view.facts.interfaces for a in i.addresses}
    names = [only] if only else interfaces(view.facts)
    rules = view.narrow.rules(view.ruleset, protocol, port)
    suspects = [line for line in view.suspects if may_meet(line, protocol, port)]
    source_ports = _source_ports(rules, protocol, port)
    for family in FAMILIES:
        here = sorted((d for d in destinations if d.version == family), key=lambda a: a.is_link_local)
        here = here[:MOST_DESTINATIONS]
        if not here:
            continue
        ways = [(d, homes.get(d, names[0]) if only is None else only) for d in here]
        ways += [(here[0], name) for name in names[:MOST_INTERFACES] if (here[0], name) not in ways]
        for source in _sources(rules, suspects, port, family):
            near = _near(source, here)
            for source_port in source_ports:
                for destination, name in ways:
                    if source not in view.own and (near or not destination.is_link_local):
                        yield Packet(
                            Direction.INBOUND,
                            protocol,
                            source,
                            destination,
                            port,
                            source_port=source_port,
                            interface=name,
                            at=view.at,
                        )


def _near(source: Address, here: Sequence[Address]) -> bool:
    """Whether somebody may send to a link-local address: from one, or because the socket has no other."""
    return source.is_link_local or all(a.is_link_local for a in here)


def _sources(rules: Iterable[Rule], suspects: Sequence[Line], port: int, family: Family) -> Iterator[Address]:
    """Strangers, then the corners of what the policy and each suspect line ask for. Where no line is suspect, portctl's
    own rules are as rendered, and a few corners show that they say what the policy does."""
    found: dict[Address, None] = dict.fromkeys(STRANGERS[family])
    most = MOST_RANGES if suspects else FEW_RANGES
    for rule in rules:
        if not rule.source.is_every(family):
            found |= dict.fromkeys(corners(rule.source.family(family), family, most))
    for line in suspects:
        if len(found) > ENOUGH:
            break
        found |= dict.fromkeys(_line_sources(line, port, family))
    yield from islice((source for source in found if source not in _IMPOSSIBLE), MOST_SOURCES)


def _source_ports(rules: Iterable[Rule], protocol: int, port: int) -> list[int]:
    """An ordinary one, and one that each rule asks for."""
    found = {40000: None}
    for rule in rules:
        for flow in rule.flows or ():
            if flow.protocol == protocol and port in flow.ports and flow.source_ports != EVERY_PORT:
                found |= {next(flow.source_ports.pairs())[0]: None}
    return list(found)[:4]


def _line_sources(line: Line, port: int, family: Family) -> Iterator[Address]:
    conditions = list(_conditions(line))
    ports = [c for c in conditions if c.field is Field.PORT and not c.negated and isinstance(c.value, Ranges)]
    if ports and not any(port in c.value for c in ports if isinstance(c.value, Ranges)):
        return
    for condition in conditions:
        ours = condition.family in (None, family)
        if condition.field is Field.SOURCE and ours and isinstance(condition.value, Ranges):
            yield from corners(condition.value, family)


def _conditions(line: Line) -> Iterator[Condition]:
    """The conditions of a line, those within its concatenations and lookups too."""
    yield from _flat(line.conditions)
    for action in line.actions:
        yield from _of_action(action)


def _of_action(action: Action) -> Iterator[Condition]:
    if isinstance(action, Lookup):
        for conditions, found in action.entries:
            yield from _flat(conditions)
            yield from _of_action(found)


def _flat(conditions: Iterable[Condition]) -> Iterator[Condition]:
    for condition in conditions:
        yield condition
        if condition.field is Field.CONCATENATION and isinstance(condition.value, tuple):
            for each in condition.value:
                yield from _flat(each)


def of_rule(view: View, rule: Rule, direction: Direction) -> Iterator[Packet]:
    """A few packets for each protocol and family of a rule: within it, at its first and last port and address."""
    names = interfaces(view.facts)
    for family in rule.families():
        inside, outside = _pick(rule.source, family), _pick(rule.destination, family)
        here = [a for a in view.own if a.version == family] or [address(1 << 24, family)]
        for flow in rule.flows or (Flow(6),):
            if family not in flow.families():
                continue
            for port in _ends(flow):
                for source in inside if direction is not Direction.OUTBOUND else here[:1]:
                    for destination in outside if direction is not Direction.INBOUND else here[:1]:
                        yield Packet(
                            direction,
                            flow.protocol,
                            source,
                            destination,
                            port,
                            source_port=next(flow.source_ports.pairs(), (40000, 0))[0] or 40000,
                            interface=_name(rule.interfaces, names, 0),
                            out_interface=_name(rule.out_interfaces, names, -1),
                            hop_limit=64 if rule.hop_limit is None else rule.hop_limit,
                            user=rule.user,
                            local=direction is Direction.INBOUND,
                            at=view.at,
                        )


def _pick(addresses: Addresses, family: Family) -> list[Address]:
    """Somebody of the set, and the ends of its first range."""
    whole = addresses.family(family)
    found = [stranger for stranger in STRANGERS[family][:1] if int(stranger) in whole]
    if not addresses.is_every(family):
        found += [address(n, family) for pair in list(whole.pairs())[:2] for n in pair]
    return found


def _ends(flow: Flow) -> list[int]:
    pairs = list(flow.ports.pairs()) if flow.protocol in PROTOCOLS_WITH_PORTS or flow.protocol in (1, 58) else [(0, 0)]
    return list(dict.fromkeys(max(1, n) if flow.protocol in PROTOCOLS_WITH_PORTS else n for p in pairs[:4] for n in p))


def _name(patterns: Sequence[str], names: Sequence[str], default: int) -> str:
    """An interface that a rule asks for, if it asks."""
    if not patterns:
        return names[default]
    pattern = patterns[0]
    if pattern == LOOPBACK:
        return "lo"
    if pattern.endswith("*"):
        return next((name for name in names if name.startswith(pattern[:-1])), pattern[:-1] + "0")
    return pattern


def of_line(view: View, line: Line, chain: Chain) -> Iterator[Packet]:
    """Packets that a loaded line might be about, whatever comes before it: for finding an example of a difference."""
    conditions = list(_conditions(line))
    protocols = _values(conditions, Field.PROTOCOL) or [6, 17]
    ports = _values(conditions, Field.PORT) or [22, 9]
    names = interfaces(view.facts)
    asked = [str(n) for c in conditions if c.field is Field.IN and isinstance(c.value, tuple) for n in c.value]
    for family in FAMILIES if chain.family is None else (chain.family,):
        sources = [a for c in conditions if c.field is Field.SOURCE for a in _ofs(c, family)] or list(STRANGERS[family])
        aimed = [a for c in conditions if c.field is Field.DESTINATION for a in _ofs(c, family)]
        here = sorted((a for a in view.own if a.version == family), key=int)[:2]
        for protocol in [p for p in protocols if p != (ICMPV6 if family == 4 else ICMP)][:4]:
            for port in ports[:12]:
                for name in [*[_name([a], names, 0) for a in asked[:4]], names[0]]:
                    for source in sources[:24]:
                        for destination in [*here, *aimed[:4]]:
                            local = destination in view.own
                            yield Packet(
                                Direction.INBOUND if local else Direction.FORWARDED,
                                protocol,
                                source,
                                destination,
                                port,
                                interface=name,
                                local=local,
                                at=view.at,
                            )
                    for destination in aimed[:8] or STRANGERS[family][:1]:
                        if here:
                            yield Packet(
                                Direction.OUTBOUND, protocol, here[0], destination, port, out_interface=name, at=view.at
                            )


def _values(conditions: Iterable[Condition], field: Field) -> list[int]:
    found: dict[int, None] = {}
    for condition in conditions:
        if condition.field is field and isinstance(condition.value, Ranges):
            for pair in list(condition.value.pairs())[:6]:
                found |= dict.fromkeys(pair)
    return list(found)


def _ofs(condition: Condition, family: Family) -> list[Address]:
    if condition.family not in (None, family) or not isinstance(condition.value, Ranges):
        return []
    return [a for a in corners(condition.value, family) if a not in _IMPOSSIBLE]


def translated_ports(program: Program, own: Iterable[Address] = ()) -> list[tuple[int, int, Line, Chain]]:
    """(protocol, port, line, chain) that somebody else's rules turn elsewhere before they reach this host. The port
    may be asked for by a line that led to the one that turns; what goes to none of `own` is not this host's."""
    callers: dict[Place, list[tuple[list[Condition], Chain]]] = {}
    for chain in program.chains:
        for line in chain.lines if not chain.own else ():
            for conditions, name in _leads(line):
                callers.setdefault((chain.family, chain.table, name), []).append((conditions, chain))
    here = tuple(own)
    found: dict[tuple[int, int], tuple[int, int, Line, Chain]] = {}
    for chain in program.chains:
        for line in chain.lines if not chain.own else ():
            if any(isinstance(a, Translate) and a.kind in ("destination", "redirect") for a in line.actions):
                for protocol, port in _ports_to(list(_conditions(line)), chain.place, callers, here, frozenset()):
                    found.setdefault((protocol, port), (protocol, port, line, chain))
    return list(found.values())


def _leads(line: Line) -> Iterator[tuple[list[Condition], str]]:
    """The chains that a line leads to, each with what it asks before."""
    before = list(_flat(line.conditions))
    for action in line.actions:
        if isinstance(action, Jump):
            yield before, action.chain
        elif isinstance(action, Lookup):
            for conditions, found in action.entries:
                if isinstance(found, Jump):
                    yield [*before, *_flat(conditions)], found.chain


def _ports_to(
    conditions: list[Condition],
    place: Place,
    callers: Mapping[Place, list[tuple[list[Condition], Chain]]],
    own: tuple[Address, ...],
    seen: frozenset[Place],
) -> Iterator[tuple[int, int]]:
    """The (protocol, port) that some conditions ask for, or those on a way to their chain."""
    if not _for_us(conditions, own):
        return
    if ports := _values(conditions, Field.PORT):
        for protocol in _values(conditions, Field.PROTOCOL) or [6, 17]:
            yield from ((protocol, port) for port in ports)
        return
    for before, chain in callers.get(place, ()):
        if chain.place not in seen:
            yield from _ports_to([*conditions, *before], chain.place, callers, own, seen | {place})


def _for_us(conditions: Iterable[Condition], own: tuple[Address, ...]) -> bool:
    """Whether packets to this host may meet some conditions."""
    for condition in conditions:
        if (
            condition.field is Field.DESTINATION
            and not condition.negated
            and isinstance(condition.value, Ranges)
            and own
        ):
            of_family = [a for a in (*own, *_SELF) if condition.family in (None, a.version)]
            if not any(int(a) in condition.value for a in of_family):
                return False
    return True


_SELF = (ip_address("127.0.0.1"), ip_address("::1"))
