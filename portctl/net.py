"""Sets of numbers and of IP addresses, as exact, canonical values.

`Ranges` is a set of whole numbers; `Addresses` is a pair of them, one a family. Two equal sets are equal values,
whatever they were built from, so they can be compared, hashed, sorted and rendered the same way everywhere.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from socket import AF_INET, AF_INET6, inet_ntop
from typing import Literal

Address = IPv4Address | IPv6Address
Family = Literal[4, 6]
FAMILIES: tuple[Family, Family] = (4, 6)
BITS: dict[Family, int] = {4: 32, 6: 128}


@dataclass(frozen=True, slots=True)
class Ranges:
    """A set of non-negative integers.

    `bounds` is strictly increasing and of even length: the set is [b0, b1) ∪ [b2, b3) ∪ … (half-open), so that
    membership is the parity of a bisection.
    """

    bounds: tuple[int, ...] = ()

    @classmethod
    def of(cls, pairs: Iterable[tuple[int, int]]) -> Ranges:
        """The set holding every number of the inclusive ranges `pairs`, which may overlap and come in any order."""
        bounds: list[int] = []
        for first, last in sorted(pairs):
            if bounds and first <= bounds[-1]:
                if last >= bounds[-1]:
                    bounds[-1] = last + 1
            else:
                bounds += (first, last + 1)
        return cls(tuple(bounds))

    @classmethod
    def single(cls, number: int) -> Ranges:
        return cls((number, number + 1))

    def __contains__(self, number: int) -> bool:
        return bisect_right(self.bounds, number) & 1 == 1

    def __bool__(self) -> bool:
        return bool(self.bounds)

    def pairs(self) -> Iterator[tuple[int, int]]:
        """The inclusive ranges (first, last), in order, none touching the next."""
        bounds = iter(self.bounds)
        for first in bounds:
            yield first, next(bounds) - 1

    def count(self) -> int:
        """How many numbers the set holds."""
        return sum(self.bounds[1::2]) - sum(self.bounds[::2])

    def __or__(self, other: Ranges) -> Ranges:
        if not other.bounds or self.bounds == other.bounds:
            return self
        if not self.bounds:
            return other
        return Ranges(_combine(self.bounds, other.bounds, lambda a, b: a or b))

    def __and__(self, other: Ranges) -> Ranges:
        if not self.bounds or not other.bounds:
            return Ranges()
        if self.bounds == other.bounds:
            return self
        small, large = (self, other) if len(self.bounds) <= len(other.bounds) else (other, self)
        if len(small.bounds) * 16 < len(large.bounds):
            return Ranges(_clip(small.bounds, large.bounds))
        return Ranges(_combine(self.bounds, other.bounds, lambda a, b: a and b))

    def __sub__(self, other: Ranges) -> Ranges:
        if not self.bounds or not other.bounds:
            return self
        return Ranges(_combine(self.bounds, other.bounds, lambda a, b: a and not b))

    def __le__(self, other: Ranges) -> bool:
        """Whether every number of this set is in `other`."""
        return not self - other

    def isdisjoint(self, other: Ranges) -> bool:
        return not self & other


def _combine(left: tuple[int, ...], right: tuple[int, ...], keep: Callable[[bool, bool], bool]) -> tuple[int, ...]:
    """The bounds of a boolean combination of two sets, by one sweep over both."""
    wanted = [bool(keep(a, b)) for a in (False, True) for b in (False, True)]
    out: list[int] = []
    i = j = 0
    inside = False
    left_end, right_end = len(left), len(right)
    while i < left_end or j < right_end:
        if j >= right_end or (i < left_end and left[i] <= right[j]):
            at = left[i]
            i += 1
            if j < right_end and right[j] == at:
                j += 1
        else:
            at = right[j]
            j += 1
        now = wanted[(i & 1) * 2 + (j & 1)]
        if now != inside:
            out.append(at)
            inside = now
    return tuple(out)


def _clip(small: tuple[int, ...], large: tuple[int, ...]) -> tuple[int, ...]:
    """The bounds of the intersection of a short set with a long one, without walking the long one."""
    out: list[int] = []
    for k in range(0, len(small), 2):
        first, end = small[k], small[k + 1]
        i, j = bisect_right(large, first), bisect_right(large, end)
        if i & 1:
            out.append(first)
        out += large[i:j]
        if j & 1:
            if large[j - 1] == end:
                out.pop()
            else:
                out.append(end)
    return tuple(out)


EVERY_V4 = Ranges((0, 1 << 32))
EVERY_V6 = Ranges((0, 1 << 128))


@dataclass(frozen=True, slots=True)
class Addresses:
    """A set of IP addresses of both families, each as a `Ranges` of the addresses read as unsigned integers."""

    v4: Ranges = Ranges()
    v6: Ranges = Ranges()

    def family(self, family: Family) -> Ranges:
        return self.v4 if family == 4 else self.v6

    def families(self) -> tuple[Family, ...]:
        """The families of which the set holds at least one address."""
        return tuple(family for family in FAMILIES if self.family(family))

    def only(self, family: Family) -> Addresses:
        return Addresses(v4=self.v4) if family == 4 else Addresses(v6=self.v6)

    def is_every(self, family: Family) -> bool:
        """Whether the set holds every address of `family`."""
        return self.family(family) == (EVERY_V4 if family == 4 else EVERY_V6)

    def __contains__(self, address: Address) -> bool:
        return int(address) in (self.v4 if address.version == 4 else self.v6)

    def __bool__(self) -> bool:
        return bool(self.v4 or self.v6)

    def __or__(self, other: Addresses) -> Addresses:
        return Addresses(self.v4 | other.v4, self.v6 | other.v6)

    def __and__(self, other: Addresses) -> Addresses:
        return Addresses(self.v4 & other.v4, self.v6 & other.v6)

    def __sub__(self, other: Addresses) -> Addresses:
        return Addresses(self.v4 - other.v4, self.v6 - other.v6)

    def __le__(self, other: Addresses) -> bool:
        return self.v4 <= other.v4 and self.v6 <= other.v6

    @classmethod
    def of(cls, *texts: str) -> Addresses:
        """The set of some addresses, networks or ranges `a-b` in canonical text. For constants, not for user input."""
        from ipaddress import ip_address, ip_network

        pairs: dict[int, list[tuple[int, int]]] = {4: [], 6: []}
        for text in texts:
            first, _, last = text.partition("-")
            if last:
                low, high = ip_address(first), ip_address(last)
                pairs[low.version].append((int(low), int(high)))
            else:
                network = ip_network(text)
                pairs[network.version].append((int(network[0]), int(network[-1])))
        return cls(Ranges.of(pairs[4]), Ranges.of(pairs[6]))


ANYWHERE = Addresses(EVERY_V4, EVERY_V6)
NOWHERE = Addresses()
LOOPBACK_ADDRESSES = Addresses.of("127.0.0.0/8", "::1/128")
MULTICAST = Addresses.of("224.0.0.0/4", "ff00::/8")
LINK_LOCAL_V6 = Addresses.of("fe80::/10")
UNSPECIFIED_V6 = Addresses.of("::/128")


def networks(ranges: Ranges, family: Family) -> Iterator[tuple[int, int]]:
    """The shortest list of networks (first address, prefix length) that covers exactly `ranges`, in order."""
    width = BITS[family]
    bounds = ranges.bounds
    for k in range(0, len(bounds), 2):
        first, end = bounds[k], bounds[k + 1]
        span = end - first
        if not (span & span - 1 or first & span - 1):  # one network, as nearly always
            yield first, width - span.bit_length() + 1
            continue
        while first < end:
            bits = (end - first).bit_length() - 1  # of the largest size that ends within, and that begins here
            if first and (low := (first & -first).bit_length() - 1) < bits:
                bits = low
            yield first, width - bits
            first += 1 << bits


def address_text(number: int, family: Family) -> str:
    """The canonical text of an address (RFC 5952 for IPv6)."""
    if family == 4:
        return inet_ntop(AF_INET, number.to_bytes(4, "big"))
    return inet_ntop(AF_INET6, number.to_bytes(16, "big"))


_BEHIND: dict[Family, tuple[str, ...]] = {f: (*(f"/{length}" for length in range(BITS[f])), "") for f in FAMILIES}
"""What stands behind the address of a network, by the length of its prefix."""


def network_texts(ranges: Ranges, family: Family) -> Iterator[str]:
    """`networks` as text; a single address without a prefix length, as the packet filters' listings print it."""
    code = AF_INET if family == 4 else AF_INET6
    size = BITS[family] // 8
    behind = _BEHIND[family]
    for first, length in networks(ranges, family):
        yield inet_ntop(code, first.to_bytes(size, "big")) + behind[length]


def describe(addresses: Addresses, most: int = 6) -> str:
    """A set of addresses in words for a person: "everywhere", "nobody", or its networks, shortened after `most`."""
    if addresses == ANYWHERE:
        return "everywhere"
    if not addresses:
        return "nobody"
    texts: list[str] = []
    for family in FAMILIES:
        if addresses.is_every(family):
            texts.append(f"every IPv{family} address")
            continue
        for text in network_texts(addresses.family(family), family):
            if len(texts) == most:
                return ", ".join(texts) + ", …"
            texts.append(text)
    return ", ".join(texts)
