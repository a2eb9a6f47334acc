"""What the input admits, as entries of a policy that have no names yet."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from portctl.evaluation import Step, evaluate
from portctl.importing.effort import Effort
from portctl.importing.inputs import Inputs
from portctl.importing.limited import by_limit, limit_of
from portctl.importing.limits import Limit
from portctl.importing.prepare import (
    TURNS,
    Key,
    Prepared,
    denies,
    hidings,
    key,
    prepare,
    reached,
    translations,
    without_translation,
)
from portctl.importing.separation import separated
from portctl.importing.starts import of_starts
from portctl.importing.world import NOBODY, World, cover, exotic, families_of, world
from portctl.net import ANYWHERE, EVERY_V4, EVERY_V6, FAMILIES, Addresses, Family, Ranges
from portctl.program import Chain, Field, Line, Program, Translate
from portctl.ruleset import ICMP, ICMPV6, PROTOCOLS_WITH_PORTS, TCP, UDP, Direction, Packet, State, Verdict
from portctl.space.boxes import Box, set_of
from portctl.space.dimensions import IN, OUT, PORT, PROTOCOL, SOURCE_PORT, Dimension
from portctl.space.examples import example
from portctl.space.sets import PacketSet, Partition, Space, union


@dataclass(frozen=True, slots=True, order=True)
class Atom:
    """A protocol and one range of its ports; protocol None is everything."""

    protocol: int | None
    first: int | None = None
    last: int | None = None


Evidence = dict[Atom, tuple[Step, ...]]
"""The lines that decide connections to each."""


@dataclass(frozen=True, slots=True)
class Found:
    """One box of connections that the input admits (or, for `block`, denies), and what decides them there."""

    section: str
    """`services`, `egress`, `forwards`, `block`."""
    box: Box
    limit: Limit | None = None
    target: Translate | None = None
    masquerade: Translate | None = None
    evidence: Evidence = field(default_factory=dict, compare=False)


@dataclass(frozen=True, slots=True)
class Draft:
    inputs: Inputs
    prepared: Prepared
    world: World
    found: tuple[Found, ...]
    defaults: tuple[tuple[str, str], ...]
    ways: tuple[Direction, ...]
    """The directions in which policy and input are to be equal; not the forward path where others keep it."""
    notes: tuple[str, ...] = ()
    turned: PacketSet | None = None
    """What the input translates on its way through; a policy translates what is for this host's own addresses."""
    useless: tuple[Key, ...] = ()
    """Translations of connections that nothing admits."""
    log_denied: bool = False
    left: PacketSet | None = None
    """Connections that the input admits, and that are in more pieces than are described: no entry is for them."""


@dataclass(slots=True)
class _Work:
    """The sets of one input."""

    space: Space
    world: World
    program: Program
    partition: Partition
    within: PacketSet
    """Admitted within every limit."""
    beyond: PacketSet
    """Admitted whatever the limits."""
    effort: Effort
    notes: list[str] = field(default_factory=list)


def draft(inputs: Inputs, effort: Effort | None = None) -> Draft:
    """The entries of an input. What is in more pieces than anybody could read is not among them, but in `left`.

    Raises `TooMuch`.
    """
    prepared = prepare(inputs.program)
    space = Space()
    all_of = world(space, inputs.families, _named_protocols(inputs.program))
    effort = effort or Effort()
    space.diagrams.most = effort.cuts
    work = _work(space, all_of, prepared.program, effort)
    found: list[Found] = []
    useless: list[Key] = []
    defaults: list[tuple[str, str]] = [("inbound", _default(work, Direction.INBOUND))]
    turned, passing = _targets(work, found, useless)
    admitted = turned & work.within
    plain = _work(space, all_of, without_translation(prepared.program), effort)
    ways = [Direction.INBOUND, Direction.OUTBOUND]
    defaults += _inbound(plain, turned, admitted, found, _filters_forward(plain, prepared))
    defaults += _outbound(plain, prepared, found)
    defaults += _forwarded(plain, prepared, found, ways)
    notes = (*work.notes, *plain.notes, *effort.notes())
    merged = dict(defaults)
    order = [(name, merged[name]) for name in ("inbound", "outbound", "forward") if name in merged]
    if passing & work.within and Direction.FORWARDED in ways:
        notes += ("translations are for what comes to this host's own addresses, not for what only passes through",)
    return Draft(
        inputs,
        prepared,
        all_of,
        tuple(found),
        tuple(order),
        tuple(ways),
        notes,
        passing,
        tuple(useless),
        _logs(prepared),
        union(space, effort.left) if effort.left else None,
    )


def _work(space: Space, all_of: World, program: Program, effort: Effort) -> _Work:
    partition = space.of_program(of_starts(program))
    admitted = partition.accepted()
    return _Work(space, all_of, program, partition, all_of.of(admitted), all_of.of(admitted, over=True), effort)


def _named_protocols(program: Program) -> set[int]:
    """The protocols that the input names one by one."""
    found: set[int] = set()
    for chain in program.chains:
        for line in chain.lines:
            for condition in line.conditions:
                value = condition.value
                if condition.field is Field.PROTOCOL and isinstance(value, Ranges) and value.count() < 20:
                    found |= {n for first, last in value.pairs() for n in range(first, min(last, 255) + 1)}
    return found


def _logs(prepared: Prepared) -> bool:
    """Whether the input logs some of what comes in."""
    hooks = reached(prepared.program)
    return any(
        "input" in hooks[chain.place]
        and any(getattr(a, "text", "").upper().startswith(("LOG", "NFLOG", "ULOG")) for a in line.actions)
        for chain in prepared.program.chains
        for line in chain.lines
    )


def _default(work: _Work, direction: Direction) -> str:
    """How what nothing admits is denied."""
    families = {way.family for way, root in work.world.meant.roots.items() if _holds(work, root)}
    answers = [evaluate(work.program, exotic(direction, f, p)).verdict for f in sorted(families) for p in (TCP, UDP)]
    return "reject" if answers and all(a is Verdict.REJECT for a in answers) else "drop"


def _holds(work: _Work, root: int) -> bool:
    return root != work.space.diagrams.leaf(False)


def _open(work: _Work, direction: Direction) -> bool:
    """Whether what no rule is about is admitted."""
    families = {way.family for way, root in work.world.meant.roots.items() if _holds(work, root)}
    packets = [exotic(direction, f, p) for f in sorted(families) for p in (TCP, UDP, GRE)]
    return bool(packets) and all(evaluate(work.program, p).verdict is Verdict.ACCEPT for p in packets)


GRE = 47
"""It stands for the protocols without ports that rules seldom name (RFC 2784)."""


def _targets(work: _Work, found: list[Found], useless: list[Key]) -> tuple[PacketSet, PacketSet]:
    """The forwards with a target; returns all that a translation takes away from this host's own services, and what
    it takes on its way through."""
    taken: list[PacketSet] = []
    passing: list[PacketSet] = []
    inbound = work.within.along(Direction.INBOUND)
    beside = work.world.beside.along(Direction.INBOUND)
    listed = translations(work.program)
    apart = separated(work.space, work.world, work.program, tuple(listed), TURNS)
    hiding = hidings(work.program)
    for wanted, lines in listed.items():
        packets = apart[wanted].along(Direction.INBOUND)
        taken.append(packets)
        passing.append(apart[wanted].along(Direction.FORWARDED))
        admitted = inbound & packets
        if not admitted:
            useless += [key(chain, line) for chain, line in lines]
            continue
        allowed = admitted | beside
        hidden = _hidden_target(hiding, wanted)
        for box in cover(admitted, allowed, work.effort):
            over = set_of(work.space, box) & admitted - work.beyond
            limit = limit_of(work.program, example(over)) if over else None
            steps = tuple(Step(chain, line) for chain, line in lines)
            evidence = {atom: (*steps, *more) for atom, more in _steps(work, box, admitted).items()}
            found.append(Found("forwards", box, limit, wanted, hidden, evidence))
    return union(work.space, taken), union(work.space, passing)


def _hidden_target(hidden: Mapping[Translate, Iterable[tuple[Chain, Line]]], wanted: Translate) -> Translate | None:
    """The hiding of the source of what goes to a target, where a line names the target."""
    for hiding, lines in hidden.items():
        for _, line in lines:
            for condition in line.conditions:
                value = condition.value
                if condition.field is not Field.DESTINATION or condition.negated or not isinstance(value, Ranges):
                    continue
                if wanted.address and value.count() < 1 << 16 and int(wanted.address) in value:
                    return hiding
    return None


def _steps(work: _Work, box: Box, packets: PacketSet) -> Evidence:
    """What the box consists of, each with the lines that decide one of its packets, in each family."""
    found: dict[Atom, dict[int, Step]] = {atom: {} for atom in atoms(box, work.world.protocols)}
    for family in families_of(box) if work.effort.finds() else ():
        half = replace(box, source=box.source.only(family), destination=box.destination.only(family))
        base = example(set_of(work.space, half) & packets)
        for atom in list(found)[:MOST_EVIDENCE] if base is not None else ():
            if not work.effort.reads(work.program):
                break
            assert base is not None
            answer = evaluate(work.program, _as(base, atom))
            turning = (s for s in answer.trace if s.line and any(isinstance(a, Translate) for a in s.line.actions))
            found[atom] |= {id(step.line): step for step in (answer.decided, *turning) if step is not None}
    return {atom: tuple(steps.values()) for atom, steps in found.items()}


MOST_EVIDENCE = 100
"""For so many kinds of packets of one box the deciding line is looked for."""


def _as(packet: Packet, atom: Atom) -> Packet:
    """The packet, as one to that port."""
    if atom.protocol is None:
        return packet
    port = atom.first or 0
    if atom.protocol in (ICMP, ICMPV6):
        port = 8 * 256 if atom.protocol == ICMP else 128 * 256
    source_port = packet.source_port if atom.protocol in PROTOCOLS_WITH_PORTS else 0
    return replace(packet, protocol=atom.protocol, port=port, source_port=source_port)


def _admitted(
    work: _Work, section: str, wanted: PacketSet, allowed: PacketSet, masquerade: Translate | None = None
) -> Iterator[Found]:
    """Entries for some connections: those without limits, then those of each limit."""
    free = wanted & work.beyond
    spare = allowed & (work.beyond | work.world.beside | (allowed - work.within))
    for box in cover(free, spare, work.effort):
        yield Found(section, box, None, None, masquerade, _steps(work, box, free))
    parts, none = by_limit(work.space, work.world, work.program, wanted - work.beyond, work.beyond, work.effort)
    if none:
        work.notes.append("a limit that the language does not have is left out, with what it admitted")
    for limit, part in parts.items():
        alike = part.any(*(part.dimensions() - {PROTOCOL, PORT}))  # a limit is named at what it is about
        for box in cover(part, part | (spare & alike), work.effort):
            yield Found(section, box, limit, None, masquerade, _steps(work, box, part))


def _filters_forward(work: _Work, prepared: Prepared) -> bool:
    """Whether the forward path is to be as the input has it."""
    here, meant = (s.along(Direction.FORWARDED) for s in (work.within, work.world.meant))
    return prepared.forward_owner is None and not (here == meant and here <= work.beyond)


def _inbound(
    work: _Work, turned: PacketSet, admitted: PacketSet, found: list[Found], filtered: bool
) -> Iterator[tuple[str, str]]:
    """Services, and what is blocked. Of what is turned elsewhere and not `admitted` there nothing is open here."""
    here = work.within.along(Direction.INBOUND) - turned
    meant = work.world.meant.along(Direction.INBOUND)
    allowed = (work.within - turned) | work.world.beside | admitted
    if _open(work, Direction.INBOUND) and here <= work.beyond:
        denied = list(_denied(work, meant - here - admitted, admitted, Direction.INBOUND))
        if all(_sayable(each.box) for each in denied) and not (filtered and _cuts_passing(work, denied)):
            found += denied
            everything = Box(Direction.INBOUND, _every(work), _every(work))
            found.append(Found("services", everything, None, None, None, _steps(work, everything, here)))
            return
    plain = cover(here, allowed, work.effort)
    blocks = _candidates(work, filtered)
    if blocks:
        closed = union(work.space, [packets for _, packets, _ in blocks])
        with_blocks = cover(here, allowed | closed, work.effort)
        open_to = union(work.space, [set_of(work.space, box) for box in with_blocks]) & work.world.meant
        used = [each for each in blocks if each[1] & open_to]
        spoken = work.world.protocols
        if _words(with_blocks, spoken) + len(used) <= _words(plain, spoken):
            found += _joined_blocks(used, spoken)
            allowed = allowed | union(work.space, [packets for _, packets, _ in used])
    found += _admitted(work, "services", here, allowed)
    yield from ()


def _words(listed: list[Box], spoken: Collection[int]) -> int:
    """How much there is to read of some boxes: of their ports, and of the addresses that they leave out."""
    total = 0
    for box in listed:
        holes = sum(len(side.family(f).bounds) // 2 for side in (box.source, box.destination) for f in FAMILIES)
        total += 1 + min(len(atoms(box, spoken)), 30) + max(0, holes - 2)
    return total


def _every(work: _Work) -> Addresses:
    families = {way.family for way, root in work.world.meant.roots.items() if _holds(work, root)}
    return Addresses(EVERY_V4 if 4 in families else Ranges(), EVERY_V6 if 6 in families else Ranges())


def _denied(work: _Work, wanted: PacketSet, free: PacketSet, way: Direction) -> Iterator[Found]:
    for box in cover(wanted, (wanted | work.world.beside | free).along(way), work.effort):
        yield Found("block", box, None, None, None, _steps(work, box, wanted))


def _sayable(box: Box) -> bool:
    """Whether `block` can say it: a far end, interfaces of what comes in, ports."""
    asked = {dimension for dimension, _ in box.asked}
    near = box.destination if box.direction is not Direction.OUTBOUND else box.source
    whole = all(near.is_every(f) for f in families_of(box))
    allowed = {IN, PORT, PROTOCOL} if box.direction is not Direction.OUTBOUND else {PORT, PROTOCOL}
    ported = box.values(PROTOCOL) is None and box.values(PORT) is not None
    return whole and asked <= allowed and not ported


Candidate = tuple[Box, PacketSet, Step]


def _candidates(work: _Work, filtered: bool) -> list[Candidate]:
    """What lines deny that `block` can say, where nothing of it is admitted, neither here nor on its way through."""
    hooks = reached(work.program)
    admitted = work.within.along(Direction.INBOUND)
    through = work.within.along(Direction.FORWARDED)
    found: list[Candidate] = []
    for chain in work.program.chains:
        if not hooks[chain.place] & {"input", "prerouting"}:
            continue
        for line in chain.lines:
            box = _box_of(line) if denies(work.program, chain, line) else None
            if box is None or len(found) >= MOST_BLOCKS:
                continue
            packets = set_of(work.space, box)
            passing = set_of(work.space, replace(box, direction=Direction.FORWARDED)) if filtered else None
            if not admitted & packets and not (passing is not None and through & passing):
                found.append((box, packets, Step(chain, line)))
    return found


MOST_BLOCKS = 400


def _box_of(line: Line) -> Box | None:
    """The connections that a line matches, where `block` can say them: by source, ports, incoming interface."""
    source: dict[Family, Ranges] = {4: EVERY_V4, 6: EVERY_V6}
    asked: dict[Dimension, Ranges] = {}
    narrow = False
    for condition in line.conditions:
        value = condition.value
        if condition.field is Field.STATE and isinstance(value, State) and State.NEW in value:
            continue
        if condition.field is Field.FLAGS and value == (0x17, 0x02) and not condition.negated:
            continue
        if condition.field is Field.SOURCE and isinstance(value, Ranges) and condition.family is not None:
            mine = source[condition.family]
            source = {4: Ranges(), 6: Ranges(), condition.family: mine - value if condition.negated else mine & value}
            narrow = True
        elif condition.field in (Field.PROTOCOL, Field.PORT) and isinstance(value, Ranges) and not condition.negated:
            at = PROTOCOL if condition.field is Field.PROTOCOL else PORT
            asked[at] = value & asked.get(at, value)
            narrow = narrow or at == PORT
        else:
            return None
    whole = {4: EVERY_V4, 6: EVERY_V6}
    members = Addresses(*(source[f] if source[f] == whole[f] else source[f] - NOBODY.family(f) for f in FAMILIES))
    if not narrow or not members or (PORT in asked) != (PROTOCOL in asked):
        return None
    return Box(Direction.INBOUND, members, ANYWHERE, tuple(sorted(asked.items())))


def _joined_blocks(used: list[Candidate], spoken: Collection[int]) -> list[Found]:
    """Blocked sources of the same ports are one entry."""
    groups: dict[tuple[object, ...], tuple[Box, tuple[Step, ...]]] = {}
    for box, _, step in used:
        before = groups.get(box.asked)
        whole = replace(box, source=before[0].source | box.source) if before else box
        groups[box.asked] = whole, (*(before[1] if before else ()), step)
    return [Found("block", box, evidence=dict.fromkeys(atoms(box, spoken), steps)) for box, steps in groups.values()]


def _cuts_passing(work: _Work, denied: list[Found]) -> bool:
    """Whether entries of `block` would stop something that is admitted on its way through this host."""
    through = work.within.along(Direction.FORWARDED)
    return any(through & set_of(work.space, replace(each.box, direction=Direction.FORWARDED)) for each in denied)


def _outbound(work: _Work, prepared: Prepared, found: list[Found]) -> Iterator[tuple[str, str]]:
    here = work.within.along(Direction.OUTBOUND)
    meant = work.world.meant.along(Direction.OUTBOUND)
    if here == meant and here <= work.beyond:
        yield "outbound", "allow"
        return
    if _open(work, Direction.OUTBOUND) and here <= work.beyond:
        denied = list(_denied(work, meant - here, work.space.nothing(), Direction.OUTBOUND))
        cuts = _filters_forward(work, prepared) and _cuts_passing(work, denied)
        if all(_sayable(each.box) for each in denied) and len(denied) <= 20 and not cuts:
            found += denied
            yield "outbound", "allow"
            return
    yield "outbound", _default(work, Direction.OUTBOUND)
    found += _admitted(work, "egress", here, here | work.world.beside)


def _forwarded(work: _Work, prepared: Prepared, found: list[Found], ways: list[Direction]) -> Iterator[tuple[str, str]]:
    here = work.within.along(Direction.FORWARDED)
    meant = work.world.meant.along(Direction.FORWARDED)
    kept = not _filters_forward(work, prepared)
    if not kept:
        ways.append(Direction.FORWARDED)
    rest = here
    hiding_all = tuple(hidings(work.program))
    apart = separated(work.space, work.world, work.program, hiding_all, ("source", "masquerade"))
    for hiding in hiding_all:
        hidden = apart[hiding].along(Direction.FORWARDED) & rest
        for each in _admitted(work, "forwards", hidden, hidden | work.world.beside, hiding):
            if each.box.values(IN) is None or each.box.values(IN) != each.box.values(OUT):
                found.append(each)
                rest = rest - set_of(work.space, each.box)
                if hiding.kind == "source" and hiding.address is None:
                    work.notes.append(
                        "of several source addresses a policy cannot choose: `masquerade: true` is written"
                    )
    if not kept:
        found += _admitted(work, "forwards", rest, here | work.world.beside)
        yield "forward", _default(work, Direction.FORWARDED)
    elif prepared.forward_owner is not None:
        if rest != meant:
            found += _admitted(work, "forwards", rest, here | work.world.beside)
        yield "forward", "keep"
    else:
        yield "forward", "keep"


def atoms(box: Box, spoken: Collection[int]) -> list[Atom]:
    """Protocols with their ports, of those protocols that are spoken of."""
    protocols, ports = box.values(PROTOCOL), box.values(PORT)
    from_ports = box.values(SOURCE_PORT) is not None
    if protocols is None and ports is None and not from_ports:
        return [Atom(None)]
    found: list[Atom] = []
    for number in sorted(n for n in spoken if protocols is None or n in protocols):
        if number in PROTOCOLS_WITH_PORTS:
            pairs = ((1, 65535),) if ports is None else ports.pairs()
            found += [Atom(number, max(1, first), last) for first, last in pairs if last]
        elif from_ports:
            continue
        elif number in (ICMP, ICMPV6):
            echo, family = (8, 4) if number == ICMP else (128, 6)
            if family in families_of(box) and (ports is None or echo * 256 in ports):
                found.append(Atom(number))
        elif ports is None or 0 in ports:
            found.append(Atom(number))
    return found
