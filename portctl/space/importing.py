"""A policy in portctl's language from a rule set that others wrote, with an account of every line of it.

The policy says what the first packets of ordinary connections meet. Whether it is equal in everything else is proved
afterwards, by `difference.differ` of the two: what cannot be said is listed there and never quietly left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from portctl import services
from portctl.net import ANYWHERE, FAMILIES, Addresses, Family, Ranges, network_texts
from portctl.program import Chain, Condition, Field, Line, Lookup, Program, Translate, Unknown
from portctl.ruleset import ICMP, ICMPV6, PROTOCOLS_WITH_PORTS, Direction
from portctl.space.boxes import Box, TooMany, boxes, set_of
from portctl.space.dimensions import IN, OUT, PORT, PROTOCOL, SOURCE_PORT, USER, Dimension, number_name, size
from portctl.space.examples import example
from portctl.space.internet import is_internet
from portctl.space.ordinary import martians, ordinary, usual
from portctl.space.sets import PacketSet, possible
from portctl.space.sides import Side
from portctl.space.words import NOT_LOOPBACK, box_text, interface_names, tidy

State = Literal["modelled", "approximated", "refused"]
NAME = re.compile(r"[a-z][a-z0-9_-]{0,30}")
RESERVED = {"any", "none", "self"}


@dataclass(frozen=True, slots=True)
class Accounted:
    """What became of one line of the input, and why."""

    number: int
    text: str
    state: State
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Imported:
    """The policy's text; the account of the input; and what no policy can say, in words."""

    text: str
    account: tuple[Accounted, ...]
    unsaid: tuple[str, ...]


def account(program: Program) -> tuple[Accounted, ...]:
    """Every line of a program: understood as it is, over- and under-approximated, or not imported."""
    found = [_accounted(line) for chain in program.chains for line in chain.lines]
    found += [Accounted(0, text, "refused", "not understood") for text in program.foreign]
    return tuple(found)


def _accounted(line: Line) -> Accounted:
    if any(isinstance(action, Translate) for action in line.actions):
        return Accounted(line.number, line.text, "refused", "a translation: write it as an entry of `forwards`")
    unknown = [str(action.text) for action in line.actions if isinstance(action, Unknown)]
    unknown += [str(c.value) for c in _conditions(line) if c.field is Field.UNKNOWN]
    if unknown:
        return Accounted(line.number, line.text, "approximated", f"nobody can know: {', '.join(unknown)}")
    limits = [str(c.value) for c in _conditions(line) if c.field is Field.LIMIT]
    if limits:
        return Accounted(line.number, line.text, "approximated", f"the limit is left out: {', '.join(limits)}")
    return Accounted(line.number, line.text, "modelled")


def _conditions(line: Line) -> Iterator[Condition]:
    yield from line.conditions
    for action in line.actions:
        if isinstance(action, Lookup):
            for conditions, _ in action.entries:
                yield from conditions


def untranslated(program: Program) -> Program:
    """The program without its translations, from which entries are read."""
    return replace(program, chains=tuple(_without_translations(chain) for chain in program.chains))


def _without_translations(chain: Chain) -> Chain:
    kept = tuple(line for line in chain.lines if not any(isinstance(action, Translate) for action in line.actions))
    return replace(chain, lines=kept)


@dataclass(slots=True)
class _Writer:
    """Collects the parts of the policy."""

    groups: dict[Addresses, str] = field(default_factory=dict)
    interfaces: dict[tuple[str, ...], str] = field(default_factory=dict)
    names: set[str] = field(default_factory=set)
    unsaid: list[str] = field(default_factory=list)

    def interface_group(self, names: tuple[str, ...]) -> str:
        if names not in self.interfaces:
            plain = re.sub(r"[^a-z0-9_-]", "", names[0].lower()) or "devices"
            self.interfaces[names] = self.unique(plain if NAME.fullmatch(plain) else f"if-{plain}")
        return self.interfaces[names]

    def unique(self, wanted: str) -> str:
        name, number = wanted[:28], 2
        while name in self.names or name in RESERVED:
            name, number = f"{wanted[:26]}-{number}", number + 1
        self.names.add(name)
        return name


def policy(name: str, side: Side, base: Side, account_of: Program, families: tuple[Family, ...] = FAMILIES) -> Imported:
    """The policy that a rule set amounts to. `side`: the rule set, read `untranslated`; `base`: a policy that says
    nothing, made in the same space; `families`: those of which the rule set is known. Raises `TooMany`."""
    writer = _Writer()
    parts: list[str] = []
    defaults: dict[str, str] = {}
    for direction, title, key in (
        (Direction.INBOUND, "services", "inbound"),
        (Direction.OUTBOUND, "egress", "outbound"),
        (Direction.FORWARDED, "forwards", "forward"),
    ):
        accepted = _accepted(side, direction).of_families(families)
        rest = _rest(side, direction).of_families(families)
        if not rest and direction is not Direction.INBOUND:
            continue
        defaults[key] = "reject" if _refuses(rest, side) else "drop"
        entries = list(_entries(writer, side, accepted, base, direction))
        if entries:
            parts.append("\n".join([f"{title}:", *entries]))
    head = ["portctl: 1", f"name: {name}"]
    if writer.groups:
        head.append("addresses:")
        head += [f"  {group}: [{', '.join(_networks(members))}]" for members, group in writer.groups.items()]
    if writer.interfaces:
        head.append("interfaces:")
        head += [f"  {group}: [{', '.join(_quoted(n) for n in names)}]" for names, group in writer.interfaces.items()]
    said = ", ".join(f"{key}: {value}" for key, value in defaults.items() if (key, value) != ("inbound", "drop"))
    tail = [f"defaults: {{{said}}}"] if said else []
    return Imported("\n".join([*head, *parts, *tail]) + "\n", account(account_of), tuple(writer.unsaid))


def _accepted(side: Side, direction: Direction) -> PacketSet:
    """The ordinary new connections of a direction that are surely accepted."""
    accepted = (side.partition.accepted() & possible(side.partition.space)).along(direction)
    return usual(accepted, ordinary(accepted)) - _looped(side, direction)


def _rest(side: Side, direction: Direction) -> PacketSet:
    denied = (possible(side.partition.space) - side.partition.accepted()).along(direction)
    return usual(denied, ordinary(denied)) - _looped(side, direction)


def _looped(side: Side, direction: Direction) -> PacketSet:
    """What passes the loopback interface: every policy accepts it."""
    dimension = OUT if direction is Direction.OUTBOUND else IN
    only = Ranges((0, size(dimension, 6))) - NOT_LOOPBACK
    return side.partition.space.boxes([(direction, {dimension: only})])


def _refuses(rest: PacketSet, side: Side) -> bool:
    """Whether what is denied is mostly rejected: judged by a usual packet of it."""
    packet = example(rest)
    return packet is not None and packet in side.partition.rejected()


def _entries(writer: _Writer, side: Side, accepted: PacketSet, base: Side, direction: Direction) -> Iterator[str]:
    """The lines of one section: boxes that differ in their ports alone are one entry."""
    space = side.partition.space
    allowed = accepted | _accepted(base, direction) | _looped(side, direction) | martians(space)
    allowed = allowed | (space.everything() - possible(space))
    wanted = accepted - _accepted(base, direction) - martians(space)
    together: dict[str, list[tuple[Box, list[str]]]] = {}
    for box in _cover(wanted, allowed):
        fields = _fields(writer, tidy(box), direction)
        ports = _ports(writer, box)
        if fields is None or not ports:
            writer.unsaid.append(box_text(box))
            continue
        together.setdefault(fields, []).append((box, ports))
    for fields, members in together.items():
        ports = _merged([port for _, listed in members for port in listed])
        packet = example(set_of(space, members[0][0]) & wanted & side.partition.accepted())
        title = side.reason(packet).name.lower() if packet is not None else ""
        if not NAME.fullmatch(title) or title in RESERVED:
            title = _title(ports[0])
        listed = ports[0] if len(ports) == 1 else f"[{', '.join(ports)}]"
        yield f"  {writer.unique(title)}: {{ports: {listed}, {fields}}}"


def _title(port: str) -> str:
    """A name for an entry, of the first that it opens: `ssh`, `tcp-8080`."""
    number, _, protocol = port.partition("/")
    if protocol:
        return f"{protocol}-{number.partition('-')[0]}"
    return "everything" if port == "any" else port if NAME.fullmatch(port) else "entry"


_WIDENED: tuple[tuple[Dimension, ...], ...] = (
    (IN,), (OUT,), (IN, OUT), (USER,), (SOURCE_PORT,), (PORT, SOURCE_PORT), (PROTOCOL, PORT, SOURCE_PORT),
)  # fmt: skip


def _cover(wanted: PacketSet, allowed: PacketSet) -> list[Box]:
    """Boxes that hold all that is wanted, and nothing that is not allowed: each as wide as it can be, and none that the
    others make needless. They may overlap, as what people write does."""
    space = wanted.space
    wide = list(dict.fromkeys(_widened(box, allowed) for box in boxes(wanted, MOST_ENTRIES)))
    sets = {box: set_of(space, box) for box in wide}
    kept = sorted(wide, key=lambda box: len(box.asked))
    for box in reversed(kept[:]):
        rest = wanted & sets[box]
        for other in kept:
            if other is not box and rest:
                rest = rest - sets[other]
        if not rest:
            kept.remove(box)
        elif (narrow := _narrowed(box, rest)) != box:
            kept[kept.index(box)] = narrow
            sets[narrow] = set_of(space, narrow)
    return kept


def _narrowed(box: Box, needed: PacketSet) -> Box:
    """The box without values for which other boxes suffice, where that makes it shorter."""
    parts = boxes(needed)
    asked = []
    for dimension, ranges in box.asked:
        pairs = [pair for part in parts for pair in (part.values(dimension) or ranges).pairs()]
        used = Ranges.of(pairs) & ranges
        asked.append((dimension, used if len(used.bounds) <= len(ranges.bounds) else ranges))
    source = destination = Addresses()
    for part in parts:
        source, destination = source | part.source, destination | part.destination
    return replace(
        box,
        asked=tuple(asked),
        source=_shorter(source & box.source, box.source),
        destination=_shorter(destination & box.destination, box.destination),
    )


def _shorter(one: Addresses, other: Addresses) -> Addresses:
    return one if len(_networks(one)) < len(_networks(other)) else other


MOST_ENTRIES = 400
"""More boxes than this are no policy that a person would read."""


def _widened(box: Box, allowed: PacketSet) -> Box:
    for dimensions in _WIDENED:
        asked = tuple((d, ranges) for d, ranges in box.asked if d not in dimensions)
        wider = replace(box, asked=asked)
        if wider != box and set_of(allowed.space, wider) <= allowed:
            box = wider
    for wider in (replace(box, source=ANYWHERE), replace(box, destination=ANYWHERE)):
        if wider != box and set_of(allowed.space, wider) <= allowed:
            box = wider
    return box


def _fields(writer: _Writer, box: Box, direction: Direction) -> str | None:
    """All of an entry but its ports; None: the language cannot say it."""
    parts = []
    outbound = direction is Direction.OUTBOUND
    far, near = (box.destination, box.source) if outbound else (box.source, box.destination)
    parts += _side_fields(writer, far, "to" if outbound else "from")
    family = [f for f in FAMILIES if far.family(f)]
    if near != ANYWHERE and not (len(family) == 1 and near.is_every(family[0])):
        parts.append(f"{'from' if outbound else 'to'}: {_members(writer, near)}")
    for dimension, key in ((IN, "in"), (OUT, "out")):
        ranges = box.values(dimension)
        if ranges is None or ranges == NOT_LOOPBACK:
            continue
        names = interface_names(ranges)
        if names is None:
            return None
        parts.append(f"{key}: {writer.interface_group(names)}")
    for dimension, ranges in box.asked:
        if dimension == SOURCE_PORT:
            parts.append(f"source_ports: [{', '.join(_source_ports(box, ranges))}]")
        elif dimension == USER:
            users = [number_name(first) for first, last in ranges.pairs() if first == last]
            if len(users) != 1 or ranges.count() != 1:
                return None
            parts.append(f"user: {_quoted(users[0])}")
        elif dimension not in _SAID:
            return None
    if box.values(PROTOCOL) is None and far == ANYWHERE and direction is Direction.INBOUND and box.values(IN) is None:
        return None  # everything from everywhere: the language refuses it
    return ", ".join(parts)


_SAID: tuple[Dimension, ...] = (IN, OUT, PORT, PROTOCOL)


def _side_fields(writer: _Writer, members: Addresses, key: str) -> list[str]:
    """`from: any, except: […]`, or `from: […]`, whichever is shorter."""
    if members == ANYWHERE:
        return [f"{key}: any"]
    missing = ANYWHERE - members
    if members.v4 and members.v6 and is_internet(members) and len(_networks(missing)) < len(_networks(members)):
        return [f"{key}: any", f"except: {_members(writer, missing)}"]
    return [f"{key}: {_members(writer, members)}"]


MOST_IN_LINE = 6


def _members(writer: _Writer, members: Addresses) -> str:
    """Networks, or the name of a group made for many."""
    texts = _networks(members)
    if len(texts) == 1:
        return texts[0]
    if len(texts) <= MOST_IN_LINE:
        return f"[{', '.join(texts)}]"
    if members not in writer.groups:
        writer.groups[members] = writer.unique("hosts")
    return writer.groups[members]


def _networks(members: Addresses) -> list[str]:
    return [_quoted(text) for family in FAMILIES for text in network_texts(members.family(family), family)]


def _quoted(text: str) -> str:
    return text if re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_./-]*", text) else '"' + text.replace('"', "") + '"'


def _ports(writer: _Writer, box: Box) -> list[str]:
    """The ports of a box as the language writes them; empty: it cannot."""
    protocols, ports = box.values(PROTOCOL), box.values(PORT)
    if protocols is None:
        return ["any"] if ports is None else []
    found: list[str] = []
    for first, last in protocols.pairs():
        for protocol in range(first, last + 1):
            found += _protocol_ports(protocol, ports)
    if protocols.count() > 32:
        return []
    if len(found) == 0:
        writer.unsaid.append(f"some of {box_text(box)}")
    return found


def _protocol_ports(protocol: int, ports: Ranges | None) -> Iterator[str]:
    if protocol in PROTOCOLS_WITH_PORTS:
        name = next(n for n, number in services.PORT_PROTOCOLS.items() if number == protocol)
        for first, last in (ports or Ranges((0, 65536))).pairs():
            first = max(first, 1)
            yield f"{first}/{name}" if first == last else f"{first}-{last}/{name}"
    elif protocol in (ICMP, ICMPV6):
        echo = (8 if protocol == ICMP else 128) * 256
        if ports is None or echo in ports:
            yield "ping"
    elif protocol not in services.EXTENSION_HEADERS:
        yield next((n for n, number in services.PROTOCOLS.items() if number == protocol), f"proto/{protocol}")


def _source_ports(box: Box, ranges: Ranges) -> Iterator[str]:
    protocols = box.values(PROTOCOL) or Ranges()
    for first, last in protocols.pairs():
        for protocol in range(first, last + 1):
            if protocol in PROTOCOLS_WITH_PORTS:
                yield from _protocol_ports(protocol, ranges)


def _merged(ports: Sequence[str]) -> list[str]:
    """Ports with the names that people use in place of numbers, where a name says exactly that."""
    left = list(dict.fromkeys(ports))
    for service in services.table():
        numbers = [f"{service.ports}/{protocol}" for protocol in service.protocols]
        if all(number in left for number in numbers):
            left[left.index(numbers[0])] = service.name
            left = [port for port in left if port not in numbers]
    return left


def account_text(accounted: Iterable[Accounted]) -> str:
    """How many lines of each kind, and those that are not modelled, with the reason."""
    listed = list(accounted)
    counts = {state: sum(a.state == state for a in listed) for state in ("modelled", "approximated", "refused")}
    lines = [", ".join(f"{count} {state}" for state, count in counts.items())]
    for one in listed:
        if one.state != "modelled":
            place = f"line {one.number}: " if one.number else ""
            lines.append(f"{one.state}: {place}{one.text}\n  {one.reason}")
    return "\n".join(lines) + "\n"


__all__ = ["Accounted", "Imported", "TooMany", "account", "account_text", "policy", "untranslated"]
