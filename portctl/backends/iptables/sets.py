"""Address lists as kernel sets, named after what they hold: new sets never touch old ones."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from socket import AF_INET, AF_INET6, inet_ntop

from portctl.backends.iptables.names import SET_LENGTH, digest, fit, live_set
from portctl.net import FAMILIES, Addresses, Family, Ranges, network_texts, networks

LIVE_OPTIONS = "hashsize 1024 maxelem 1048576 timeout 0"
SMALL = 64
"""Without ipset, lists of at most this many networks are written out."""


@dataclass(frozen=True, slots=True)
class AddressSet:
    """One set as text: the line that makes it, and a block of lines that fill it."""

    create: str
    members: str


@dataclass(slots=True)
class Sets:
    """The sets that the rules of both families need. `groups` are the policy's names for lists."""

    available: bool
    inline_most: int
    groups: tuple[tuple[str, Addresses], ...] = ()
    _named: dict[tuple[Ranges, Family], str] = field(default_factory=dict)
    _quick: dict[tuple[int, Family], tuple[Ranges, str]] = field(default_factory=dict)
    _readable: dict[tuple[Ranges, Family], str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, addresses in reversed(self.groups):
            for family in FAMILIES:
                self._readable[addresses.family(family), family] = name

    def inline(self, ranges: Ranges, family: Family) -> list[str] | None:
        """The networks of a list that is written out as rules; None for one that goes into a set."""
        if not self.available:
            return list(network_texts(ranges, family))
        if len(ranges.bounds) > 2 * self.inline_most:
            return None
        found: list[str] = []
        for text in network_texts(ranges, family):
            if len(found) == self.inline_most:
                return None
            found.append(text)
        return found

    def name(self, ranges: Ranges, family: Family, readable: str) -> str:
        """The name of the set that holds a list; the same list has the same name, whoever uses it."""
        quick = (id(ranges), family)  # hashing a list of a million numbers takes a while
        if quick in self._quick:
            return self._quick[quick][1]
        key = (ranges, family)
        if key not in self._named:
            readable = self._readable.get(key, readable)
            suffix = f"-{_content_digest(ranges, family)}{family}"
            self._named[key] = fit("portctl-", readable[: SET_LENGTH - 8 - len(suffix)], suffix, SET_LENGTH)
        self._quick[quick] = (ranges, self._named[key])
        return self._named[key]

    def render(self) -> Iterator[AddressSet]:
        """All sets by name."""
        for (ranges, family), name in sorted(self._named.items(), key=lambda item: item[1]):
            yield _address_set(name, ranges, family)


def _content_digest(ranges: Ranges, family: Family) -> str:
    return digest(array("Q", ranges.bounds).tobytes() if family == 4 else repr(ranges.bounds))


def _inet(family: Family) -> str:
    return "inet" if family == 4 else "inet6"


def _address_set(name: str, ranges: Ranges, family: Family) -> AddressSet:
    lines = _lines(f"add {name} ", ranges, family)
    size = max(1024, 1 << (len(lines) // 4).bit_length())
    most = max(65536, 1 << len(lines).bit_length())
    return AddressSet(
        f"create {name} hash:net family {_inet(family)} hashsize {size} maxelem {most}", "\n".join(lines) + "\n"
    )


def _lines(prefix: str, ranges: Ranges, family: Family) -> list[str]:
    """A line for each network. Lists of a million are mostly single addresses and whole networks: these go fast."""
    code, size, width = (AF_INET, 4, 32) if family == 4 else (AF_INET6, 16, 128)
    bounds = ranges.bounds
    found: list[str] = []
    append = found.append
    for first, end in zip(bounds[::2], bounds[1::2], strict=True):
        count = end - first
        if count == 1:
            append(prefix + inet_ntop(code, first.to_bytes(size, "big")))
        elif count & (count - 1) == 0 and first & (count - 1) == 0 and count >> width == 0:
            append(f"{prefix}{inet_ntop(code, first.to_bytes(size, 'big'))}/{width + 1 - count.bit_length()}")
        elif count >> width:  # hash:net holds no /0
            found += [prefix + half for half in (("0.0.0.0/1", "128.0.0.0/1") if family == 4 else ("::/1", "8000::/1"))]
        else:
            found += [prefix + text for text in network_texts(Ranges((first, end)), family)]
    return found


def live_sets(groups: Iterable[str]) -> list[AddressSet]:
    """The sets of the live groups, empty: their members belong to the host."""
    return [
        AddressSet(
            f"create {live_set(group, f)} hash:net family {_inet(f)} hashsize 1024 maxelem 1048576 timeout 0", ""
        )
        for group in sorted(groups)
        for f in FAMILIES
    ]


def network_count(ranges: Ranges, family: Family, most: int) -> int:
    """How many networks a list has, counted no further than `most` + 1."""
    count = 0
    for _ in networks(ranges, family):
        count += 1
        if count > most:
            break
    return count
