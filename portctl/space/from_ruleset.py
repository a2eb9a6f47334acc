"""A policy's ruleset as lists of lines: its translations, then the rules of the direction, first match first."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from portctl.net import ANYWHERE, FAMILIES, Address, Addresses, Family, Ranges
from portctl.ruleset import (
    ACK,
    EVERY_PORT,
    EVERY_STATE,
    FIN,
    ICMP,
    ICMPV6,
    PROTOCOLS_WITH_PORTS,
    RST,
    SYN,
    TCP,
    Direction,
    Flow,
    Flows,
    Original,
    Rule,
    Ruleset,
    State,
    Translation,
    Verdict,
)
from portctl.space.after import AfterTranslation
from portctl.space.bodies import Act, Body, Line
from portctl.space.dimensions import (
    DESTINATION,
    FAMILY,
    FLAGS,
    HOP_LIMIT,
    IN,
    LIVE_DESTINATION,
    LIVE_SOURCE,
    LO,
    LOCAL,
    ORIGINAL_DESTINATION,
    ORIGINAL_PORT,
    OUT,
    OVER,
    PORT,
    PROTOCOL,
    PUBLISHED,
    REPLY,
    SOURCE,
    SOURCE_PORT,
    STATE,
    TIME,
    USER,
    Dimension,
    family_set,
    moment,
    name_number,
    policy_interfaces,
    states,
)
from portctl.space.lists import Lists

Cube = dict[Dimension, Ranges]
ToTarget = Callable[[Address | None, int | None], Body]
"""The body that stands for being turned to an address (None: kept, or this host's) and a port (None: kept)."""

YES, NO = Ranges.single(1), Ranges.single(0)
STARTING_FLAGS = Ranges.of((f, f) for f in range(256) if f & (FIN | SYN | RST | ACK) == SYN)
UNTRACKED = states(State.UNTRACKED)
ONLY_TCP = Ranges.single(TCP)
NOT_TCP = Ranges((0, TCP, TCP + 1, 256))


def of_ruleset(lists: Lists, ruleset: Ruleset) -> dict[tuple[Direction, bool], Body]:
    """What a policy does with the packets of each direction, by whether somebody else has translated them before."""
    found: dict[tuple[Direction, bool], Body] = {}
    for direction in Direction:
        rules = ruleset.rules(direction)
        plain = [line for rule in rules for line in _lines(lists, rule, False)]
        turned = plain
        if any(rule.original for rule in rules):
            turned = [line for rule in rules for line in _lines(lists, rule, True)]
        if direction is not Direction.OUTBOUND and ruleset.translations:
            plain = [*_translated(lists, ruleset), *plain]
        found[direction, False] = lists.body(plain)
        found[direction, True] = lists.body(turned)
    return found


def targets_of_ruleset(lists: Lists, ruleset: Ruleset, to: ToTarget) -> dict[Direction, Body]:
    """Where a policy's translations turn the packets of each direction to; the rules are left out."""
    lines = [
        lists.line(cube, [Act("become", body=to(item.target, item.target_port))])
        for item in ruleset.translations
        for cube in translation_cubes(item)
    ]
    turning, nowhere = lists.body(lines), lists.body([])
    return {d: nowhere if d is Direction.OUTBOUND else turning for d in Direction}


def _translated(lists: Lists, ruleset: Ruleset) -> Iterator[Line]:
    """The lines that turn a packet; what comes after it is the list of its new direction, seen with its new place."""
    together: dict[tuple[Address | None, int | None], list[Translation]] = {}
    for translation in ruleset.translations:
        together.setdefault((translation.target, translation.target_port), []).append(translation)
    known: dict[tuple[Address | None, int | None], Body] = {}
    inbound, forwarded = (AfterTranslation(ruleset.rules(d)) for d in (Direction.INBOUND, Direction.FORWARDED))
    for translation in ruleset.translations:
        place = translation.target, translation.target_port
        rest = known.get(place)
        if rest is None:
            rules = (inbound if translation.target is None else forwarded).rules_for(together[place])
            listed = (_lines_after(lists, rule, together[place]) for rule in rules)
            rest = known[place] = lists.body(line for lines in listed for line in lines)
        for cube in translation_cubes(translation):
            yield lists.line(cube, [Act("become", body=rest)])


def _lines_after(lists: Lists, rule: Rule, together: Sequence[Translation]) -> Iterable[Line]:
    """A rule as lines for what some translations to one place have turned: most rules ask nothing that it changes, ask
    elsewhere, or are for what others turn."""
    by = together[0]
    if by.target is not None and by.target not in rule.destination:
        return ()
    if rule.original is not None and not any(_may_meet(rule.original, each) for each in together):
        return ()
    kept = by.target_port is None or rule.flows is None
    if kept and rule.original is None and (by.target is None or rule.destination == ANYWHERE):
        return _lines(lists, rule, False)
    return rule_lines(lists, rule, False, by)


def _may_meet(original: Original, by: Translation) -> bool:
    """Whether a rule may be for what a translation turns: asked of the ends of their ranges alone, since most differ
    there already."""
    if original.destination is not None and by.destination is not None:
        pairs = ((original.destination.family(f), by.destination.family(f)) for f in FAMILIES)
        if not any(_overlap(one, other) for one, other in pairs):
            return False
    if original.flows is None or by.flows is None:
        return True
    return any(
        one.protocol == other.protocol and _overlap(one.ports, other.ports)
        for one in original.flows
        for other in by.flows
    )


def _overlap(one: Ranges, other: Ranges) -> bool:
    """Whether the spans of two sets overlap."""
    if not one.bounds or not other.bounds:
        return False
    return one.bounds[0] < other.bounds[-1] and other.bounds[0] < one.bounds[-1]


def translation_cubes(translation: Translation) -> Iterator[Cube]:
    base: Cube = {STATE: states(State.NEW)}
    if translation.destination is None:
        base[LOCAL] = YES
    interfaces = policy_interfaces(translation.interfaces or ("*",)) - Ranges.single(LO)
    base[IN] = interfaces
    if translation.until:
        base[TIME] = Ranges((0, moment(translation.until)))
    destination = translation.destination or ANYWHERE
    for family in translation.families():
        for flow in flow_cubes(translation.flows, PORT):
            yield from joined(base, flow, _place(translation.source, destination, family))


def rule_lines(lists: Lists, rule: Rule, turned: bool, by: Translation | None) -> Iterator[Line]:
    """A rule as lines, for packets that somebody else has turned, or that the translation `by` has, or neither."""
    act = Act("end", verdict=rule.verdict)
    acts = [act]
    if rule.limited:
        over = lists.line({OVER: YES}, [Act("end", verdict=Verdict.DROP)])
        acts = [Act("case", body=lists.body([over, lists.line({}, acts)]))]
    for cube in rule_cubes(rule, turned, by):
        yield lists.line(cube, acts)


def _lines(lists: Lists, rule: Rule, turned: bool) -> list[Line]:
    """The lines of a rule, made once for all rule sets of the space that hold it."""
    key = id(rule), turned and rule.original is not None
    if key not in lists.of_rules:
        lists.of_rules[key] = rule, list(rule_lines(lists, rule, turned, None))
    return lists.of_rules[key][1]


def rule_cubes(rule: Rule, turned: bool = False, by: Translation | None = None) -> Iterator[Cube]:
    """The packets that a rule matches, as a union of boxes."""
    base = _plain_conditions(rule)
    starts = [cube for flow in flow_cubes(rule.flows, PORT) for cube in _syn_cubes(rule, flow)]
    places = list(_places(rule, by))
    for original in _original_cubes(rule.original, turned, by):
        for start in starts:
            if (moved := _moved(start, by)) is not None:
                for place in places:
                    yield from joined(base, moved, place, original)


def _plain_conditions(rule: Rule) -> Cube:
    cube: Cube = {}
    if rule.states != EVERY_STATE:
        cube[STATE] = states(rule.states)
    if rule.original_direction:
        cube[REPLY] = NO
    if rule.live_source is not None:
        cube[Dimension(LIVE_SOURCE, rule.live_source)] = YES
    if rule.live_destination is not None:
        cube[Dimension(LIVE_DESTINATION, rule.live_destination)] = YES
    if rule.interfaces:
        cube[IN] = policy_interfaces(rule.interfaces)
    if rule.out_interfaces:
        cube[OUT] = policy_interfaces(rule.out_interfaces)
    if rule.hop_limit is not None:
        cube[HOP_LIMIT] = Ranges.single(rule.hop_limit)
    if rule.user is not None:
        cube[USER] = Ranges.single(name_number(rule.user))
    if rule.published:
        cube[PUBLISHED] = YES
    if rule.until:
        cube[TIME] = Ranges((0, moment(rule.until)))
    return cube


def _syn_cubes(rule: Rule, flow: Cube) -> list[Cube]:
    """A flow's box, of TCP only what starts a connection where the rule asks for that."""
    protocols = flow.get(PROTOCOL)
    if not rule.syn or (protocols is not None and TCP not in protocols):
        return [flow]
    found: list[Cube] = []
    if tracked := rule.states & ~State.UNTRACKED:
        found.append({**flow, PROTOCOL: ONLY_TCP, STATE: states(tracked), FLAGS: STARTING_FLAGS})
    if State.UNTRACKED in rule.states:
        found.append({**flow, PROTOCOL: ONLY_TCP, STATE: UNTRACKED})
    return found if protocols is not None else [{PROTOCOL: NOT_TCP}, *found]


def flow_cubes(flows: Flows, port: Dimension) -> Iterator[Cube]:
    if flows is None:
        yield {}
        return
    for flow in flows:
        yield _flow_cube(flow, port)


def _flow_cube(flow: Flow, port: Dimension) -> Cube:
    cube: Cube = {PROTOCOL: Ranges.single(flow.protocol)}
    if len(families := flow.families()) == 1:
        cube[FAMILY] = family_set(families[0])
    if flow.protocol in (ICMP, ICMPV6) and flow.ports != EVERY_PORT:
        cube[PORT] = flow.ports  # no translation changes it
    if flow.protocol in PROTOCOLS_WITH_PORTS and flow.ports != EVERY_PORT:
        cube[port] = flow.ports
    if flow.protocol in PROTOCOLS_WITH_PORTS and flow.source_ports != EVERY_PORT:
        cube[SOURCE_PORT] = flow.source_ports
    return cube


def _moved(cube: Cube, by: Translation | None) -> Cube | None:
    """A flow's box where a translation has changed the port: that condition is then true or false."""
    if by is None or by.target_port is None or PORT not in cube:
        return cube
    return {d: r for d, r in cube.items() if d != PORT} if by.target_port in cube[PORT] else None


def _original_cubes(original: Original | None, turned: bool, by: Translation | None) -> list[Cube]:
    """Where the packet went before: on dimensions of its own if somebody else turned it, else those of the packet."""
    if original is None:
        return [{}]
    if not turned and by is None:
        return []
    port, destination = (ORIGINAL_PORT, ORIGINAL_DESTINATION) if turned else (PORT, DESTINATION)
    found = list(flow_cubes(original.flows, port))
    if original.destination is None or original.destination == ANYWHERE:
        return found
    return [
        {**cube, **place}
        for cube in found
        for family in original.destination.families()
        for place in joined(cube, {FAMILY: family_set(family), destination: original.destination.family(family)})
    ]


def _places(rule: Rule, by: Translation | None) -> Iterator[Cube]:
    destination = rule.destination
    if by is not None and by.target is not None:
        if by.target not in destination:
            return
        destination = ANYWHERE
    if rule.source == ANYWHERE and destination == ANYWHERE:
        yield {}
        return
    for family in FAMILIES:
        if rule.source.family(family) and destination.family(family):
            yield _place(rule.source, destination, family)


def _place(source: Addresses, destination: Addresses, family: Family) -> Cube:
    cube: Cube = {FAMILY: family_set(family)}
    if not source.is_every(family):
        cube[SOURCE] = source.family(family)
    if not destination.is_every(family):
        cube[DESTINATION] = destination.family(family)
    return cube


def joined(*cubes: Mapping[Dimension, Ranges]) -> Iterator[Cube]:
    """The intersection of some boxes, unless it is empty."""
    found: Cube = {}
    for cube in cubes:
        if found.keys().isdisjoint(cube):
            found.update(cube)
            continue
        for dimension, ranges in cube.items():
            common = found[dimension] & ranges if dimension in found else ranges
            if not common:
                return
            found[dimension] = common
    yield found
