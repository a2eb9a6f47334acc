"""What is asked of a packet, each question as whole numbers: the dimensions of packet space.

Names (interfaces, users) are numbers too, in the order of their bytes, so that a prefix is one range and any set of
names is a `Ranges`. Direction, family and whether somebody else has turned the destination are not dimensions: they
choose the diagram (`Way`).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from portctl.net import BITS, FAMILIES, Family, Ranges
from portctl.ruleset import LOOPBACK, Direction, State


class Dimension(NamedTuple):
    """Dimensions are compared by `rank`: a diagram asks the lower first. `name` tells live groups apart."""

    rank: int
    name: str = ""


FAMILY = Dimension(0)
"""0 is IPv4, 1 is IPv6. Gone before a diagram is made."""
STATE = Dimension(1)
"""The position in `STATES`."""
PROTOCOL = Dimension(2)
PUBLISHED = Dimension(3)
LOCAL = Dimension(4)
REPLY = Dimension(5)
IN = Dimension(6)
OUT = Dimension(7)
LIVE_SOURCE = 8
LIVE_DESTINATION = 9
"""Ranks: one dimension a live group, 1 for its members."""
HOP_LIMIT = Dimension(10)
FLAGS = Dimension(11)
PORT = Dimension(12)
"""Destination port; type × 256 + code of ICMP and ICMPv6."""
SOURCE_PORT = Dimension(13)
OVER = Dimension(14)
"""1: beyond the limit that the packet meets."""
TIME = Dimension(15)
"""Microseconds since 1970, UTC; 0 is "no time given", before everything."""
USER = Dimension(16)
"""The name's number; 0 is nobody."""
ORIGINAL_PORT = Dimension(17)
ORIGINAL_DESTINATION = Dimension(18)
LISTED = 19
"""Rank: one dimension a long list of addresses, 1 for those on it; see `listed`."""
SOURCE = Dimension(20)
DESTINATION = Dimension(21)

ADDRESSES = (SOURCE, DESTINATION, ORIGINAL_DESTINATION)
STATES = (State.NEW, State.ESTABLISHED, State.RELATED, State.INVALID, State.UNTRACKED)
NAME_BYTES = 32

_SIZES = {
    FAMILY.rank: 2,
    STATE.rank: len(STATES),
    PROTOCOL.rank: 256,
    IN.rank: 1 << 8 * NAME_BYTES,
    OUT.rank: 1 << 8 * NAME_BYTES,
    USER.rank: 1 << 8 * NAME_BYTES,
    HOP_LIMIT.rank: 256,
    FLAGS.rank: 256,
    PORT.rank: 65536,
    SOURCE_PORT.rank: 65536,
    ORIGINAL_PORT.rank: 65536,
    TIME.rank: 1 << 64,
}


class Way(NamedTuple):
    """`turned`: somebody else has translated the packet's destination before portctl sees it."""

    direction: Direction
    turned: bool
    family: Family


WAYS = tuple(Way(d, turned, family) for d in Direction for turned in (False, True) for family in FAMILIES)


def size(dimension: Dimension, family: Family) -> int:
    """How many values a dimension has, from 0."""
    if dimension in ADDRESSES:
        return 1 << BITS[family]
    return _SIZES.get(dimension.rank, 2)


def whole(dimension: Dimension, family: Family) -> Ranges:
    return Ranges((0, size(dimension, family)))


def interior(bounds: tuple[int, ...], end: int) -> tuple[int, ...]:
    """Of the ends of some ranges those between which something changes, of the values from 0 up to `end`."""
    if bounds and bounds[0] == 0:
        bounds = bounds[1:]
    return bounds if not bounds or bounds[-1] < end else bounds[: bisect_left(bounds, end)]


def family_set(family: Family) -> Ranges:
    """The value of `FAMILY`."""
    return Ranges.single(0 if family == 4 else 1)


def name_number(name: str) -> int:
    """The place of a name among all names, by its bytes; what lies beyond 32 bytes is cut off."""
    return int.from_bytes(name.encode()[:NAME_BYTES].ljust(NAME_BYTES, b"\0"), "big")


def number_name(number: int) -> str:
    return number.to_bytes(NAME_BYTES, "big").rstrip(b"\0").decode(errors="replace")


def pattern(text: str) -> tuple[int, int]:
    """The numbers (first, last) of the names that one interface pattern stands for."""
    if not text.endswith("*"):
        return name_number(text), name_number(text)
    prefix = text[:-1].encode()[:NAME_BYTES]
    return name_number(text[:-1]), int.from_bytes(prefix.ljust(NAME_BYTES, b"\xff"), "big")


LO = name_number("lo")
"""The loopback interface itself; of a policy's patterns only `LOOPBACK` and `*` mean it."""


def policy_interfaces(patterns: Iterable[str]) -> Ranges:
    """The interfaces that a policy's rule names."""
    listed = tuple(patterns)
    others = Ranges.of(pattern(p) for p in listed if p != LOOPBACK) - Ranges.single(LO)
    return others | Ranges.single(LO) if LOOPBACK in listed or "*" in listed else others


def program_interfaces(patterns: Iterable[str]) -> Ranges:
    """The interfaces that a condition of a packet filter names."""
    return Ranges.of(pattern("lo" if p == LOOPBACK else p) for p in patterns)


_STATE_SETS = [Ranges.of((k, k) for k in range(len(STATES)) if number >> k & 1) for number in range(1 << len(STATES))]
"""By the value of a `State`: its flags are in the order of `STATES`."""


def states(wanted: State) -> Ranges:
    return _STATE_SETS[wanted.value]


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def moment(at: datetime) -> int:
    aware = at if at.tzinfo else at.replace(tzinfo=UTC)
    return max(1, (aware - _EPOCH) // timedelta(microseconds=1))


def moment_text(number: int) -> datetime:
    return _EPOCH + timedelta(microseconds=number)
