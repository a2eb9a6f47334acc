"""One rule of pf, taken apart, as the conditions of lines of a `Program`."""

from __future__ import annotations

from collections.abc import Iterator
from copy import copy
from itertools import product

from portctl.backends.pf.grammar import Spec
from portctl.backends.pf.names import CODES, CODES6, FLAGS, PROTOCOLS, TYPES, TYPES6
from portctl.backends.pf.world import LIVE, Unclear, World, network
from portctl.net import FAMILIES, Addresses, Ranges
from portctl.program import Condition, Field
from portctl.ruleset import ICMPV6, LOOPBACK, TCP, UDP

NETWORK_MARK = 0x00FFFFFF
"""The part of the mark that stands for the packet's tag."""
CAST = Addresses.of("224.0.0.0/4", "255.255.255.255", "0.0.0.0", "::", "ff00::/8")


class Tags:
    """Numbers for the names of tags, from 1."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}

    def number(self, name: str) -> int:
        return self.numbers.setdefault(name, len(self.numbers) + 1)


def expanded(spec: Spec) -> list[Spec]:
    """The rules that pfctl makes of one with lists, in its order."""
    fields = ("devices", "protocols", "types", "sources", "source_ports", "destinations", "ports", "users")
    if all(len(getattr(spec, name)) < 2 for name in fields):
        return [spec]
    found: list[Spec] = []
    for chosen in product(*(getattr(spec, name) or [None] for name in fields)):
        one = copy(spec)
        for name, value in zip(fields, chosen, strict=True):
            setattr(one, name, [] if value is None else [value])
        if not _families_differ(one):
            found.append(one)
    return found


def _families_differ(spec: Spec) -> bool:
    """Whether source and destination are of different families: pfctl leaves such a rule out."""
    seen = {spec.family} if spec.family else set()
    for _, text in (*spec.sources, *spec.destinations):
        if text[:1] not in "<(" and text not in ("any", "self") and ("." in text or ":" in text):
            seen.add(6 if ":" in text else 4)
    return len(seen) > 1


def conditions(spec: Spec, world: World, tags: Tags) -> tuple[Condition, ...]:
    """What the rule asks of a packet, but for its direction. An unclear word is an `UNKNOWN` condition."""
    found: list[Condition] = []
    for part in (_devices, _family, _protocol, _hosts, _ports, _types, _flags, _users, _tagged):
        try:
            found += part(spec, world, tags)
        except (Unclear, ValueError, KeyError) as error:
            found.append(Condition(Field.UNKNOWN, f"{part.__name__.strip('_')}: {error}"))
    found += [Condition(Field.UNKNOWN, text) for text in spec.narrows]
    return tuple(found)


def _devices(spec: Spec, world: World, _tags: Tags) -> Iterator[Condition]:
    here = Field.OUT if spec.direction == "out" else Field.IN
    for side, devices in ((here, spec.devices), (Field.IN, spec.received)):
        for negated, name in devices:
            if name in ("all", "any"):
                continue
            yield Condition(side, tuple(LOOPBACK if n in ("lo0", "lo") else n for n in world.devices([name])), negated)


def _family(spec: Spec, _world: World, _tags: Tags) -> Iterator[Condition]:
    if spec.family is not None:
        yield Condition(Field.FAMILY, Ranges.single(spec.family))


def protocol(spec: Spec) -> int | None:
    if not spec.protocols:
        return None
    word = spec.protocols[0]
    return int(word) if word.isdigit() else PROTOCOLS[word]


def _protocol(spec: Spec, _world: World, _tags: Tags) -> Iterator[Condition]:
    number = protocol(spec)
    if number is not None:
        yield Condition(Field.PROTOCOL, Ranges.single(number))


def _hosts(spec: Spec, world: World, _tags: Tags) -> Iterator[Condition]:
    for hosts, where in ((spec.sources, Field.SOURCE), (spec.destinations, Field.DESTINATION)):
        for negated, text in hosts:
            yield from _host(world, where, negated, text, spec.others)


def _host(world: World, where: Field, negated: bool, text: str, others: bool) -> Iterator[Condition]:
    if text == "any":
        return
    if text.startswith(f"<{LIVE}"):
        field = Field.LIVE if where is Field.SOURCE else Field.LIVE_DESTINATION
        yield Condition(field, world.live_group(text[1:-1]), negated)
        return
    if text == "(self)" and where is Field.DESTINATION:
        yield Condition(Field.LOCAL, True, negated)
        return
    if text == "(self:broadcast)" and where is Field.DESTINATION:
        yield Condition(
            Field.CONCATENATION,
            (
                (
                    Condition(Field.LOCAL, False),
                    Condition(Field.OUT, ("*",), negated=True),
                    Condition(Field.DESTINATION, CAST.v4, negated=True, family=4),
                ),
            ),
            negated,
        )
        return
    yield from within(where, _addresses(world, text, others), negated)


def _addresses(world: World, text: str, others: bool) -> Addresses:
    if text.startswith("<"):
        return world.members(text[1:-1], others)
    if text.startswith("("):
        return world.dynamic(text[1:-1])
    if text == "urpf-failed" or text == "no-route" or text.startswith("route "):
        raise Unclear(text)
    if text == "self" or (text[:1].isalpha() and ":" not in text.partition("/")[0] and "." not in text):
        return world.dynamic(text)
    return network(text)


def within(where: Field, addresses: Addresses, negated: bool = False) -> Iterator[Condition]:
    """That an address is among some of either family."""
    families = addresses.families()
    if len(families) == 1 and not negated:
        yield Condition(where, addresses.family(families[0]), family=families[0])
    else:
        both = tuple((Condition(where, addresses.family(family), family=family),) for family in FAMILIES)
        yield Condition(Field.CONCATENATION, both, negated)


def numbers(numbers: tuple[str, ...], world: World, most: int = 65535) -> Ranges:
    """The set that a comparison admits."""
    operator, *texts = numbers
    values = [world.port(text) for text in texts if text != "*"]
    first = values[0]
    everything = Ranges((0, most + 1))
    match operator:
        case "=":
            return Ranges.single(first)
        case "!=":
            return everything - Ranges.single(first)
        case "<":
            return Ranges((0, first)) if first else Ranges()
        case "<=":
            return Ranges((0, first + 1))
        case ">":
            return Ranges((first + 1, most + 1)) if first < most else Ranges()
        case ">=":
            return Ranges((first, most + 1))
        case ":":
            return _between(first, values[1])
        case "><":
            return _between(first + 1, values[1] - 1)
        case "<>":
            return everything - _between(first, values[1])
    raise Unclear(operator)


def _between(first: int, last: int) -> Ranges:
    """None where it runs backwards, which FreeBSD 12 takes."""
    return Ranges((first, last + 1)) if first <= last else Ranges()


def _ports(spec: Spec, world: World, _tags: Tags) -> Iterator[Condition]:
    for each, where in ((spec.source_ports, Field.SOURCE_PORT), (spec.ports, Field.PORT)):
        for one in each:
            yield Condition(where, numbers(one, world))


def _types(spec: Spec, _world: World, _tags: Tags) -> Iterator[Condition]:
    six = protocol(spec) == ICMPV6
    for kind, code in spec.types:
        number = int(kind) if kind.isdigit() else (TYPES6 if six else TYPES)[kind]
        if not code:
            yield Condition(Field.ICMP, Ranges((number * 256, number * 256 + 256)))
        else:
            exact = int(code) if code.isdigit() else (CODES6 if six else CODES)[code]
            yield Condition(Field.ICMP, Ranges.single(number * 256 + exact))


def _flags(spec: Spec, _world: World, _tags: Tags) -> Iterator[Condition]:
    """A rule that keeps state and names no flags asks S/SA of TCP; other protocols have none to ask."""
    text = spec.flags
    number = protocol(spec)
    if not text and spec.action == "pass" and spec.state != "no" and number in (None, TCP):
        text = "S/SA"
    if not text or text == "any" or number not in (None, TCP):
        return
    wanted, _, mask = text.partition("/")
    asked = Condition(Field.FLAGS, (sum(FLAGS[c] for c in mask), sum(FLAGS[c] for c in wanted)))
    if number == TCP:
        yield asked
    else:
        tcp = Ranges.single(TCP)
        yield Condition(
            Field.CONCATENATION,
            ((Condition(Field.PROTOCOL, tcp, negated=True),), (Condition(Field.PROTOCOL, tcp), asked)),
        )


def _users(spec: Spec, world: World, _tags: Tags) -> Iterator[Condition]:
    for operator, *names in spec.users:
        if operator == "=":
            if protocol(spec) not in (TCP, UDP):
                yield Condition(Field.PROTOCOL, Ranges.of([(TCP, TCP), (UDP, UDP)]))
            yield Condition(Field.USER, world.users.get(names[0], names[0]))
        else:
            yield Condition(Field.UNKNOWN, f"user {operator} {' '.join(names)}")


def _tagged(spec: Spec, _world: World, tags: Tags) -> Iterator[Condition]:
    for negated, name in spec.tagged:
        yield Condition(Field.MARK, (NETWORK_MARK, tags.number(name)), negated)
