"""Which packets a rule set may judge otherwise than the policy because a platform forces it: `Difference`s as sets."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Address
from typing import Any

from portctl.backends.base import Difference, Region
from portctl.program import Accept, Chain, Deny, Hook, HookName, Line, Program
from portctl.ruleset import Direction, Packet
from portctl.space.dimensions import (
    FLAGS,
    HOP_LIMIT,
    LOCAL,
    OVER,
    PUBLISHED,
    REPLY,
    STATE,
    TIME,
    USER,
    Dimension,
)
from portctl.space.examples import example
from portctl.space.sets import PacketSet, Partition, possible, value_of


@dataclass(frozen=True, slots=True)
class Forced:
    """A difference that was met, with a packet that the platform judges otherwise because of it."""

    difference: Difference
    packet: Packet


@dataclass(frozen=True, slots=True)
class Explained:
    """All packets that two partitions judge differently: what no difference explains, and those that were met."""

    left: PacketSet
    forced: tuple[Forced, ...] = ()


def explained(policy: Partition, loaded: Partition, differences: Iterable[Difference]) -> Explained:
    """What `backends.base.explained` says of one packet, of every packet that can exist. `policy` is certain."""
    space = policy.space
    left = possible(space, policy.differing(loaded))
    listed = tuple(differences)
    if not left or not listed:
        return Explained(left)
    seen = [(each, region_set(policy, each.where)) for each in listed if each.seen]
    wanted = _as_seen(policy, seen)
    met: list[tuple[Difference, PacketSet]] = []
    same = left & wanted.agreeing(loaded)
    for each, where in seen:  # what one of them alone explains is told as its own
        here = where & same
        met.append((each, here & policy.fix(_values(each)).agreeing(loaded) if here else here))
        same, left = same - met[-1][1], left - met[-1][1]
    for each, where in reversed(seen):
        met.append((each, where & same))
        same, left = same - met[-1][1], left - met[-1][1]
    for each in listed:
        if not each.seen:
            asked = left & region_set(policy, each.where) if left else left
            met.append((each, asked & wanted.ending(each.wanted) & loaded.ending(each.got) if asked else asked))
            left = left - met[-1][1]
    found = {each.heading: Forced(each, packet) for each, packets in reversed(met) if (packet := example(packets))}
    headings = [each.heading for each in listed]
    return Explained(left, tuple(sorted(found.values(), key=lambda f: headings.index(f.difference.heading))))


def _as_seen(policy: Partition, seen: Sequence[tuple[Difference, PacketSet]]) -> Partition:
    """What the policy would say if the packets that the platform cannot tell apart were as it sees them."""
    for each, where in reversed(seen):
        policy = policy.within(where, policy.fix(_values(each)))
    return policy


def _values(difference: Difference) -> dict[Dimension, int]:
    """What the platform takes the dimensions for that it cannot tell."""
    changed = _changed(difference.seen)
    return {dimension: value_of(changed, dimension) for dimension in _dimensions(difference.seen)}


_NOWHERE = IPv4Address(0)
_DIMENSIONS: dict[str, Dimension] = {
    "state": STATE,
    "reply": REPLY,
    "hop_limit": HOP_LIMIT,
    "at": TIME,
    "user": USER,
    "local": LOCAL,
    "flags": FLAGS,
    "over_limit": OVER,
    "published": PUBLISHED,
}
"""The fields of a packet that a platform may not be able to tell."""


def _dimensions(seen: Iterable[tuple[str, Any]]) -> list[Dimension]:
    return [_DIMENSIONS[name] for name, _ in seen]


def _changed(seen: Iterable[tuple[str, Any]]) -> Packet:
    return replace(Packet(Direction.INBOUND, 6, _NOWHERE, _NOWHERE), **dict(seen))


_HOOKS: dict[Direction, HookName] = {
    Direction.INBOUND: "prerouting",
    Direction.OUTBOUND: "output",
    Direction.FORWARDED: "prerouting",
}


def region_set(of: Partition, regions: Iterable[Region]) -> PacketSet:
    """The packets of any of some regions, in the space of a partition."""
    found = of.space.nothing()
    for region in regions:
        for direction in region.directions:
            hook = Hook(_HOOKS[direction], 0, Deny())
            chain = Chain("region", "region", (Line(region.conditions, (Accept(),)),), hook)
            found |= of.space.of_program(Program((chain,))).accepted().along(direction)
    return found
