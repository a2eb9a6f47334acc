"""Ordinary new connections: what a person means who asks what is open."""

from __future__ import annotations

from datetime import datetime

from portctl.net import ANYWHERE, FAMILIES, LOOPBACK_ADDRESSES, MULTICAST, Ranges
from portctl.ruleset import Direction
from portctl.space.dimensions import (
    DESTINATION,
    FAMILY,
    IN,
    LIVE_DESTINATION,
    LIVE_SOURCE,
    LOCAL,
    OUT,
    SOURCE,
    TIME,
    USER,
    Dimension,
    family_set,
    moment,
)
from portctl.space.sets import PacketSet, Space
from portctl.space.words import NOT_LOOPBACK, STARTS

Values = dict[Dimension, int]


def ordinary(packets: PacketSet, at: datetime | None = None) -> Values:
    """What the first packet of an ordinary connection is, in all that the set asks: new, within limits, of no live
    group, at a moment where one is given (else before anything ends)."""
    live = {d: 0 for d in packets.dimensions() if d.rank in (LIVE_SOURCE, LIVE_DESTINATION)}
    return {**STARTS, **live, TIME: moment(at) if at else 0}


def martians(space: Space) -> PacketSet:
    """Packets with a loopback address that come in on another interface, or leave by one: no host takes them, and none
    sends them (RFC 1122, 3.2.1.3)."""
    cubes: list[tuple[Direction | None, dict[Dimension, Ranges]]] = []
    for family in FAMILIES:
        for dimension in (SOURCE, DESTINATION):
            cube = {FAMILY: family_set(family), dimension: LOOPBACK_ADDRESSES.family(family)}
            cubes += [(way, {**cube, IN: NOT_LOOPBACK}) for way in (Direction.INBOUND, Direction.FORWARDED)]
            cubes.append((Direction.OUTBOUND, {**cube, OUT: NOT_LOOPBACK}))
    return space.boxes(cubes)


def strangers(space: Space) -> PacketSet:
    """Packets that come in for one address which is not this host's. Only broadcasts of its networks are taken, and
    those of an address of the host's network are found by nobody who does not know the network; a packet filter that
    sees what passes through on its way in, too (ipfw), lets pass there what it denies or admits later."""
    cubes: list[tuple[Direction | None, dict[Dimension, Ranges]]] = []
    for family in FAMILIES:
        alone = ANYWHERE.family(family) - MULTICAST.family(family)
        cubes.append((Direction.INBOUND, {FAMILY: family_set(family), DESTINATION: alone, LOCAL: Ranges.single(0)}))
    return space.boxes(cubes)


def usual(packets: PacketSet, fixed: Values, turned: bool = False) -> PacketSet:
    """The part of a set with some values, which are no longer asked; nor is who owns the socket of what comes in."""
    space = packets.space
    empty = space.diagrams.leaf(False)
    roots = {w: root if w.turned == turned else empty for w, root in packets.roots.items()}
    found = PacketSet(space, roots).fix(fixed).any(LOCAL)
    coming = found.along(Direction.INBOUND, Direction.FORWARDED).fix({USER: 0})
    return coming | found.along(Direction.OUTBOUND)
