"""Where destinations are translated to: a thing that two rule sets may do differently with packets that both accept.

A `Partition` of targets says of every packet where it is turned to. Its leaves name targets in the way in which others
name lines that nobody knows: by numbers, here negative ones.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass

from portctl.net import FAMILIES, Address, Ranges
from portctl.program import Action, Lookup, Program, Translate
from portctl.ruleset import Direction, Packet, Ruleset, Verdict
from portctl.space.bodies import Act, Body, Leaf
from portctl.space.dimensions import PORT, Way
from portctl.space.from_program import Maker
from portctl.space.from_ruleset import targets_of_ruleset
from portctl.space.sets import PacketSet, Partition, Space


@dataclass(frozen=True, slots=True)
class Target:
    """Where a translation leads. `address` None: it is kept, or is this host's; `port` None: it is kept. One of both is
    given: whoever is sent where it was going is not turned."""

    address: Address | None
    port: int | None

    def __str__(self) -> str:
        if self.address is None:
            return f"port {self.port} of this host"
        shown = f"[{self.address}]" if self.address.version == 6 and self.port is not None else str(self.address)
        return shown if self.port is None else f"{shown}:{self.port}"


@dataclass(frozen=True, slots=True)
class _LeadsTo:
    """Whether a leaf names a target, by its number; None: whether it names none."""

    number: int | None

    def __call__(self, leaf: Hashable) -> bool:
        assert isinstance(leaf, Leaf)
        if self.number is None:
            return all(number >= 0 for number in leaf.depends)
        return self.number in leaf.depends


def of_ruleset(space: Space, ruleset: Ruleset) -> Partition | None:
    """Where a policy turns packets to; None: it turns none."""
    if not ruleset.translations:
        return None
    bodies = targets_of_ruleset(space.lists, ruleset, _body_of(space))
    return _partition(space, lambda direction: bodies[direction])


def of_program(space: Space, program: Program, own_addresses: Iterable[Address] = ()) -> Partition | None:
    """Where a program turns packets to; None: it turns none."""
    if not any(_turns(line.actions) for chain in program.chains for line in chain.lines):
        return None
    maker = Maker(space.lists, program, frozenset(own_addresses), False, space.steps, space.numbers, to=_body_of(space))
    return _partition(space, lambda direction: maker.of_direction(direction, False))


def _turns(actions: Iterable[Action]) -> bool:
    return any(
        (isinstance(action, Translate) and action.kind in ("destination", "redirect"))
        or (isinstance(action, Lookup) and _turns(found for _, found in action.entries))
        for action in actions
    )


def _body_of(space: Space) -> Callable[[Address | None, int | None], Body]:
    """Makes what stands for a target. To the port that a packet has anyway is to keep it."""
    lists = space.lists

    def act(target: Target) -> list[Act]:
        if target == Target(None, None):
            return [Act("end", verdict=Verdict.DROP)]
        number = space.targets.setdefault((target.address, target.port), -1 - len(space.targets))
        return [Act("any", value=number), Act("end", verdict=Verdict.DROP)]

    def body(address: Address | None, port: int | None) -> Body:
        lines = [lists.line({}, act(Target(address, port)))]
        if port is not None:
            lines.insert(0, lists.line({PORT: Ranges.single(port)}, act(Target(address, None))))
        return lists.body(lines)

    return body


def _partition(space: Space, make: Callable[[Direction], Body]) -> Partition:
    roots = {}
    nowhere = space.lists.body([])
    for direction in Direction:
        for turned in (False, True):
            body = nowhere if turned else make(direction)
            for family in FAMILIES:
                left = space.lists.of_family(body, family)
                roots[Way(direction, turned, family)] = space.lists.diagram(left, family)
    return Partition(space, roots)


def target_of(targets: Partition | None, packet: Packet) -> Target | None:
    """Where one packet is turned to."""
    if targets is None:
        return None
    named = [number for number in targets.at(packet).depends if number < 0]
    return next((Target(*found) for found, number in targets.space.targets.items() if number in named), None)


def otherwise(
    old: Partition | None, new: Partition | None, among: PacketSet
) -> Iterator[tuple[Target | None, Target | None, PacketSet]]:
    """The packets of a set that the two turn to different targets: each pair of these with its packets."""
    before, after = by_target(old, among), by_target(new, among)
    for was, one in before.items():
        for is_now, other in after.items():
            if was != is_now and (both := one & other):
                yield was, is_now, both


def by_target(targets: Partition | None, among: PacketSet) -> dict[Target | None, PacketSet]:
    """The packets of a set by where they are turned to; None: nowhere."""
    if targets is None:
        return {None: among}
    found: dict[Target | None, PacketSet] = {None: targets.where(_LeadsTo(None)) & among}
    for (address, port), number in among.space.targets.items():
        if here := targets.where(_LeadsTo(number)) & among:
            found[Target(address, port)] = here
    return found
