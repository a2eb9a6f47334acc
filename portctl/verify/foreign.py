"""What everybody else's rules do to what the policy says, chain by chain, as sets of packets: `foreign-rule`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from portctl.evaluation import evaluate
from portctl.net import ANYWHERE, FAMILIES, LOOPBACK_ADDRESSES, Address, Addresses, Ranges
from portctl.problems import Span
from portctl.program import Deny, Program, Translate
from portctl.ruleset import ICMP, ICMPV6, STARTING, Direction, Kind, Rule, Ruleset, State, Verdict
from portctl.space import Space, turning
from portctl.space import foreign as foreign_space
from portctl.space.boxes import Box
from portctl.space.changes import Change, changes_of
from portctl.space.dimensions import (
    DESTINATION,
    FAMILY,
    IN,
    LO,
    OUT,
    PORT,
    PROTOCOL,
    SOURCE,
    STATE,
    WAYS,
    Dimension,
    family_set,
    name_number,
    states,
)
from portctl.space.foreign import Effect
from portctl.space.from_ruleset import rule_cubes
from portctl.space.ordinary import martians
from portctl.space.sets import PacketSet, possible
from portctl.space.sides import Side, of_program, of_ruleset
from portctl.space.words import NOT_LOOPBACK, box_text
from portctl.verify import packets
from portctl.verify.finding import Finding, View, packet_text, step_text
from portctl.verify.rules import ours

MOST_SENTENCES = MOST_NAMES = 6
MOST_SINGLE = 65_536
MOST_ENTRIES = 400
"""So many entries of a policy are asked by name whether a foreign chain cuts them."""
_LO = Ranges.single(LO)
_MANY = Addresses.of("224.0.0.0/4", "255.255.255.255", "ff00::/8")
OPENINGS = (Kind.SERVICE, Kind.EGRESS, Kind.FORWARD)


@dataclass(frozen=True, slots=True)
class _Sides:
    """The policy, and all that is loaded; what the policy admits, not by default, and with `outbound: allow`."""

    policy: Side
    loaded: Side
    named: PacketSet
    allowed: PacketSet
    elsewhere: PacketSet
    """What neither comes in nor goes out by the loopback interface."""
    starting: PacketSet
    """What of that may start a connection."""


def foreign(view: View) -> Iterator[Finding]:
    """Chains of others that deny what the policy admits, or let in what it does not. Ports that others publish are
    `exposed`, and what the policy leaves alone (`forward: keep`) is nobody's business here."""
    program, wanted = view.program, view.wanted
    if program is None or wanted is None or all(chain.own for chain in program.chains):
        return
    if not (view.suspects or _denies_by_policy(program)):  # portctl's own jumps alone
        return
    if foreign_space.too_large(program):
        yield _too_large(sum(len(chain.lines) for chain in program.chains if not chain.own))
        return
    space = Space()
    meant = of_program(space, ours(wanted), "policy", view.own)
    policy = replace(of_ruleset(space, view.ruleset, "policy"), partition=meant.partition)
    loaded = replace(of_program(space, program, "loaded", view.own), groups=view.ruleset.groups)
    named, allowed = (space.of_ruleset(_without(view.ruleset, d)).accepted() for d in (tuple(Direction), _BUT_OUTBOUND))
    elsewhere = space.boxes([(None, {IN: NOT_LOOPBACK, OUT: NOT_LOOPBACK})])
    starting = elsewhere & space.boxes([(None, {STATE: states(STARTING)})])
    sides = _Sides(policy, loaded, named, allowed, elsewhere, starting)
    in_force = any(chain.own for chain in (view.mine or program).chains)
    met, published = _met(view, space, loaded)
    for effect in foreign_space.effects(meant.partition, program, loaded.partition, view.own):
        effect = replace(effect, packets=effect.packets & met)
        if effect.way == "cuts":
            yield from _cuts(view, sides, effect)
        elif in_force and not _publishes(effect):
            yield from _admits(view, sides, replace(effect, packets=effect.packets - published))


def _met(view: View, space: Space, loaded: Side) -> tuple[PacketSet, PacketSet]:
    """The packets that this host meets; and those of them that it turns to others at ports that are published.

    What comes in was sent to an address of its own, and what passes through was not. What the loaded rules turn to
    another host leaves by the interface that leads there, and was not sent by this host to itself: the kernel turns
    that before it is sent (nf_nat_core.c: one translation for a connection, at its first hook). Nobody else turns
    anything: all rules have been read.
    """
    unturned = PacketSet(space, {w: space.diagrams.leaf(not w.turned) for w in WAYS})
    met = (possible(space) & unturned) - martians(space) - space.boxes(_never())
    if view.own:
        here, there = _destined(_taken(view.own)), _destined(ANYWHERE - _taken(view.own))
        met -= space.boxes([(Direction.INBOUND, cube) for cube in there])
        met -= space.boxes([(Direction.FORWARDED, cube) for cube in here])
        met -= space.boxes([(Direction.OUTBOUND, {**cube, OUT: _LO}) for cube in there])
    away = space.nothing()
    for target, turned in turning.by_target(loaded.targets(), met).items():
        if target is None or target.address is None or target.address in view.own:
            continue
        way = packets.nearest(view.facts, target.address)
        lead = NOT_LOOPBACK if way is None else Ranges.single(name_number(way))
        found = turned.along(Direction.INBOUND, Direction.OUTBOUND)
        out = [(Direction.INBOUND, {IN: NOT_LOOPBACK, OUT: lead}), (Direction.OUTBOUND, {OUT: lead})]
        met -= found - space.boxes(out)
        away |= found.along(Direction.INBOUND)
    ports = packets.translated_ports(view.program, view.own) if view.program else []
    return met, away & space.boxes(
        [(None, {PROTOCOL: Ranges.single(protocol), PORT: Ranges.single(port)}) for protocol, port, _, _ in ports]
    )


def _taken(own: Iterable[Address]) -> Addresses:
    """What a host with these addresses takes in."""
    return Addresses.of(*map(str, own)) | LOOPBACK_ADDRESSES | _MANY


def _destined(addresses: Addresses) -> list[dict[Dimension, Ranges]]:
    return [{FAMILY: family_set(f), DESTINATION: addresses.family(f)} for f in FAMILIES]


def _denies_by_policy(program: Program) -> bool:
    """Whether a hook of somebody else's denies what none of its lines decides."""
    return any(
        chain.hook is not None and isinstance(chain.hook.policy, Deny) for chain in program.chains if not chain.own
    )


def _never() -> Iterator[tuple[Direction | None, dict[Dimension, Ranges]]]:
    """What no host meets, or nobody asks for: an ICMP error that starts a connection (it is related to one, or invalid:
    nf_conntrack_proto_icmp.c); packets to a loopback address from another; what passes through in no
    connection."""
    yield Direction.FORWARDED, {STATE: states(State.INVALID | State.UNTRACKED)}
    for number, types in ((ICMP, (3, 11, 12)), (ICMPV6, (1, 2, 3, 4))):
        for t in types:
            error = {PROTOCOL: Ranges.single(number), PORT: Ranges.of(((t << 8, t << 8 | 255),))}
            yield None, {STATE: states(State.NEW), **error}
    for family in FAMILIES:
        to = {FAMILY: family_set(family), DESTINATION: LOOPBACK_ADDRESSES.family(family)}
        others = {SOURCE: (ANYWHERE - LOOPBACK_ADDRESSES).family(family)}
        yield Direction.INBOUND, {**to, **others, IN: _LO}
        yield Direction.OUTBOUND, {**to, **others, OUT: _LO}


_BUT_OUTBOUND = (Direction.INBOUND, Direction.FORWARDED)


def _without(ruleset: Ruleset, directions: tuple[Direction, ...]) -> Ruleset:
    """The rule set where nothing is admitted by default in some directions; and of what passes through only what an
    entry lets through, for others keep their own guests apart."""

    def closed(direction: Direction) -> tuple[Rule, ...]:
        rules = ruleset.rules(direction)
        if direction not in directions:
            return rules
        kinds: tuple[Kind, ...] = (Kind.DEFAULT, Kind.PUBLISHED)
        if direction is Direction.FORWARDED:
            kinds = (*kinds, Kind.FIXED)
        return tuple(replace(r, verdict=Verdict.DROP) if r.kind in kinds else r for r in rules)

    return replace(
        ruleset,
        inbound=closed(Direction.INBOUND),
        outbound=closed(Direction.OUTBOUND),
        forwarded=closed(Direction.FORWARDED),
    )


def _publishes(effect: Effect) -> bool:
    line = effect.step.line
    return line is not None and any(isinstance(action, Translate) for action in line.actions)


def _cuts(view: View, sides: _Sides, effect: Effect) -> Iterator[Finding]:
    """A warning where a chain cuts what the policy names; a note where it hits single addresses, or cuts what only
    `outbound: allow` admits."""
    named, default = effect.packets & sides.named, effect.packets & sides.allowed & sides.starting
    cut = named & sides.starting or default or named & sides.elsewhere or named
    if not cut:
        return
    by_default = cut is default
    hit, cut = ([], cut) if by_default else _entries(view, cut)
    changes, _ = changes_of("closed", cut, (sides.policy, sides.loaded), view.at, by_entry=False)
    anybody = any(map(_hits_anybody, changes))
    against = ", ".join(f"`{rule.name}`" for rule in hit[:MOST_NAMES]) or "what goes out by default"
    more = f" and {len(hit) - MOST_NAMES} more" if len(hit) > MOST_NAMES else ""
    yield Finding(
        "foreign-rule",
        "note" if by_default or not anybody else "warning",
        _place(effect),
        f"a rule that is not portctl's decides first, against {against}{more}"
        + ("" if anybody else f", for {_few(changes)}"),
        "take it away, or change the policy to say the same; `portctl apply --exclusive` takes it out of the way",
        _evidence(view, changes, "cut"),
        _where(hit),
    )


def _admits(view: View, sides: _Sides, effect: Effect) -> Iterator[Finding]:
    if not effect.packets:
        return
    changes, _ = changes_of("opened", effect.packets, (sides.policy, sides.loaded), view.at, by_entry=False)
    yield Finding(
        "foreign-rule",
        "warning",
        _place(effect),
        "a rule that is not portctl's decides first, and lets in what the policy does not",
        "take it away, or declare it in the policy; `portctl apply` puts portctl's own rules first where it can, "
        "with `--exclusive` alone",
        _evidence(view, changes, "let in"),
    )


def _evidence(view: View, changes: list[Change], word: str) -> tuple[str, ...]:
    """The set in words, ordinary connections first; then a packet of it, and the line that decides."""
    ordinary = [change for change in changes if not change.among]
    shown = ordinary or changes
    lines = [
        f"{word}: {box_text(_to_here(each.box, view), view.ruleset.groups)}" + (f", {each.among}" if each.among else "")
        for each in shown[:MOST_SENTENCES]
    ]
    if len(shown) > MOST_SENTENCES:
        lines.append(f"{word}: and {len(shown) - MOST_SENTENCES} more")
    if shown and view.program is not None:
        answer = evaluate(view.program, shown[0].example, view.own)
        lines += [packet_text(shown[0].example), f"  {answer.verdict.value}: {step_text(answer.decided)}"]
    return tuple(lines)


def _to_here(box: Box, view: View) -> Box:
    """What is sent to any address of this host is sent to it, which is not worth a word."""
    if box.direction is not Direction.INBOUND or not view.own:
        return box
    here, to = _taken(view.own) - LOOPBACK_ADDRESSES, box.destination
    v4 = ANYWHERE.v4 if here.v4 <= to.v4 else to.v4
    v6 = ANYWHERE.v6 if here.v6 <= to.v6 else to.v6
    return replace(box, destination=Addresses(v4, v6))


def _entries(view: View, cut: PacketSet) -> tuple[list[Rule], PacketSet]:
    """The entries of which a set has packets, and these packets; where it has none of any entry, the fixed lines."""
    rules = [(d, rule) for d in Direction for rule in view.ruleset.rules(d) if rule.verdict is Verdict.ACCEPT]
    for kinds in (OPENINGS, (Kind.FIXED,)):
        asked = [(d, rule) for d, rule in rules if rule.kind in kinds]
        found: dict[str, Rule] = {}
        together = cut.space.nothing()
        for direction, rule in asked[:MOST_ENTRIES]:
            if part := cut & cut.space.boxes((direction, cube) for cube in rule_cubes(rule)):
                found.setdefault(rule.name, rule)
                together |= part
        if found:
            return list(found.values()), together
    return [], cut


def _few(changes: list[Change]) -> str:
    """Whom it hits, where it is not everybody."""
    single = all(change.far.v4.count() <= MOST_SINGLE for change in changes)
    return "single addresses (a ban?)" if single else "some networks"


def _hits_anybody(change: Change) -> bool:
    """Whether it hits more than the addresses it names: somebody in particular is banned, or everybody is cut off."""
    if change.box.direction is not Direction.INBOUND:
        return True
    return any(stranger in change.box.source for family in packets.STRANGERS.values() for stranger in family)


def _where(rules: list[Rule]) -> Span | None:
    return next((rule.span for rule in rules if rule.span), None)


def _place(effect: Effect) -> str:
    return f"{effect.step.chain.table} {effect.step.chain.name}"


def _too_large(lines: int) -> Finding:
    return Finding(
        "unknown",
        "note",
        "host",
        f"{lines} rules of others are too many to be asked as a set of packets",
        "every entry was asked with packets of its own; `portctl explain --host` asks about one address or port",
    )
