"""Packets to ask a rule set with: one that an entry admits, one that a foreign line looks for."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address

from portctl.net import Address, Addresses, Family, Ranges
from portctl.program import Condition, Field, Line
from portctl.ruleset import (
    ICMP,
    ICMPV6,
    LOOPBACK,
    PROTOCOLS_WITH_PORTS,
    TCP,
    UDP,
    Direction,
    Packet,
    Rule,
    State,
)

_STRANGERS: dict[Family, Address] = {4: IPv4Address("198.51.100.77"), 6: IPv6Address("2001:db8:77::77")}
"""Documentation addresses (RFC 5737, RFC 3849), asked with where a set holds everybody."""
MOST_RANGES = 16
"""So many ranges of ports of one entry are asked about."""
_OWN: dict[Family, Address] = {4: IPv4Address("192.0.2.1"), 6: IPv6Address("2001:db8::1")}


def address(number: int, family: Family) -> Address:
    return IPv4Address(number) if family == 4 else IPv6Address(number)


def any_of(addresses: Ranges, family: Family, preferred: Address) -> Address | None:
    """One address of a set, the preferred one if it holds it. None: the set is empty."""
    if int(preferred) in addresses:
        return preferred
    return address(addresses.bounds[0], family) if addresses else None


def of_rule(
    rule: Rule, direction: Direction, own: tuple[Address, ...], interfaces: tuple[str, ...]
) -> Iterator[Packet]:
    """Packets that a rule admits: one a family and range of ports."""
    for family in rule.families():
        here = next((a for a in own if a.version == family and not a.is_loopback and not a.is_link_local), _OWN[family])
        near, far = (here, _STRANGERS[family])
        source = any_of(rule.source.family(family), family, near if direction is Direction.OUTBOUND else far)
        target = any_of(rule.destination.family(family), family, far if direction is not Direction.INBOUND else near)
        if source is None or target is None:
            continue
        for protocol, port in _ports(rule, family):
            yield Packet(
                direction,
                protocol,
                source,
                target,
                port,
                interface=_interface(rule.interfaces, interfaces),
                out_interface=_interface(rule.out_interfaces, interfaces),
                user=rule.user,
                local=target in own or target == here,
            )


def _ports(rule: Rule, family: Family) -> Iterator[tuple[int, int]]:
    if rule.flows is None:
        yield TCP, 40001
        return
    for flow in rule.flows:
        if family in flow.families():
            for port in flow.ports.bounds[: MOST_RANGES * 2 : 2] or (0,):
                yield flow.protocol, port


def _interface(patterns: tuple[str, ...], there: tuple[str, ...]) -> str:
    if not patterns:
        return next((name for name in there if name != "lo"), "eth0")
    for pattern in patterns:
        stem = pattern.removesuffix("*")
        found = next((n for n in there if n == pattern or (pattern.endswith("*") and n.startswith(stem))), None)
        if found:
            return found
    return patterns[0].replace("*", "0")


_HOOK_DIRECTION = {"input": Direction.INBOUND, "forward": Direction.FORWARDED, "output": Direction.OUTBOUND}


def of_line(line: Line, hook: str, outer: tuple[Condition, ...], own: tuple[Address, ...]) -> Iterator[Packet]:
    """New packets that a foreign line looks for, as far as its conditions can be met by choice. `outer` are the
    conditions of the jumps that lead to it."""
    conditions = (*outer, *line.conditions)
    direction = _HOOK_DIRECTION.get(hook)
    if direction is None or any(c.field is Field.STATE and not _new(c) for c in conditions):
        return
    for family in (4, 6):
        protocol = _first(conditions, Field.PROTOCOL)
        if any(c.field is Field.ICMP for c in conditions):
            protocol = ICMP if family == 4 else ICMPV6
        port = _first(conditions, Field.PORT) or _first(conditions, Field.ICMP)
        default = TCP if port is None or protocol in (None, TCP) else UDP
        source, target = _side(conditions, Field.SOURCE, family), _side(conditions, Field.DESTINATION, family)
        if (
            source is None
            or target is None
            or (protocol == ICMP and family == 6)
            or (protocol == ICMPV6 and family == 4)
        ):
            continue
        here = next((a for a in own if a.version == family and not a.is_loopback), _OWN[family])
        sender = any_of(source, family, here if direction is Direction.OUTBOUND else _STRANGERS[family])
        goal = any_of(target, family, here if direction is Direction.INBOUND else _STRANGERS[family])
        if sender is None or goal is None:
            continue
        chosen = default if protocol is None else protocol
        yield Packet(
            direction,
            chosen,
            sender,
            goal,
            port if port is not None else (40001 if chosen in PROTOCOLS_WITH_PORTS else 0),
            _first(conditions, Field.SOURCE_PORT) or 40000,
            interface=_name(conditions, Field.IN),
            out_interface=_name(conditions, Field.OUT),
            hop_limit=_first(conditions, Field.HOP_LIMIT) or 64,
            local=direction is Direction.INBOUND and not goal.is_multicast and str(goal) != "255.255.255.255",
        )


def _new(condition: Condition) -> bool:
    return isinstance(condition.value, State) and (State.NEW in condition.value) != condition.negated


def _first(conditions: tuple[Condition, ...], wanted: Field) -> int | None:
    for condition in conditions:
        if condition.field is wanted and isinstance(condition.value, Ranges) and condition.value.bounds:
            if not condition.negated:
                return condition.value.bounds[0]
            return 40001 if 40001 not in condition.value else condition.value.bounds[-1]
    return None


def _side(conditions: tuple[Condition, ...], wanted: Field, family: Family) -> Ranges | None:
    """The addresses that the conditions leave; None: none of this family."""
    everything = Addresses.of("0.0.0.0/0", "::/0").family(family)
    left = everything
    for condition in conditions:
        if condition.field is not wanted or not isinstance(condition.value, Ranges):
            if condition.field is Field.FAMILY and isinstance(condition.value, Ranges):
                left = left if (family in condition.value) != condition.negated else Ranges()
            continue
        if condition.family not in (None, family):
            return None
        left = left - condition.value if condition.negated else left & condition.value
    return left or None


def _name(conditions: tuple[Condition, ...], wanted: Field) -> str:
    for condition in conditions:
        if condition.field is wanted and isinstance(condition.value, tuple) and condition.value:
            name = str(condition.value[0])
            if not condition.negated:
                return "lo" if name == LOOPBACK else name.replace("*", "0")
    return "eth0"
