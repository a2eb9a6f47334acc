"""The kernel's sets, from what `ipset save` (or `ipset list`) prints."""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import ip_address
from socket import AF_INET, AF_INET6, inet_pton

from portctl.backends.iptables import numbers
from portctl.net import Family, Ranges
from portctl.program import Condition, Field

LIVE = "portctl-live-"
MOST_ENTRIES = 1000
"""Sets of more entries with ports than this are not taken apart."""


@dataclass(slots=True)
class KernelSet:
    """One set. `members` are its entries as they are printed, with their options."""

    name: str
    kind: str
    family: Family
    options: str
    members: list[str] = field(default_factory=list)
    _ranges: Ranges | None = None

    @property
    def plain(self) -> bool:
        """It holds addresses alone."""
        return self.kind in ("hash:net", "hash:ip", "bitmap:ip") and "netmask" not in self.options

    def ranges(self) -> Ranges | None:
        """Its addresses; None where it holds something else, or an entry is not understood."""
        if not self.plain:
            return None
        if self._ranges is None:
            self._ranges = _ranges(self.members, self.family)
        return self._ranges

    def entries(self, roles: list[str]) -> tuple[tuple[Condition, ...], ...] | None:
        """The conditions of each entry of a set of several parts (`hash:ip,port`), matched in `roles`."""
        parts = self.kind.partition(":")[2].split(",")
        known = all(part in ("ip", "net", "port") for part in parts)
        if not known or len(parts) != len(roles) or len(self.members) > MOST_ENTRIES:
            return None
        found = []
        for member in self.members:
            conditions = _entry(member, parts, roles, self.family)
            if conditions is None:
                return None
            found.append(conditions)
        return tuple(found)


def _entry(member: str, parts: list[str], roles: list[str], family: Family) -> tuple[Condition, ...] | None:
    text, _, options = member.partition(" ")
    values = text.split(",")
    if len(values) != len(parts) or "nomatch" in options:
        return None
    found: list[Condition] = []
    for part, role, value in zip(parts, roles, values, strict=True):
        if part in ("ip", "net"):
            ranges = _ranges([value], family)
            at = Field.SOURCE if role == "src" else Field.DESTINATION
        elif part == "port" and value.partition(":")[2]:
            word, _, port = value.partition(":")
            number = numbers.protocol(word)
            ranges = numbers.ports(port.replace("-", ":"))
            if number is None:
                return None
            found.append(Condition(Field.PROTOCOL, Ranges.single(number)))
            at = Field.SOURCE_PORT if role == "src" else Field.PORT
        else:
            return None
        if ranges is None:
            return None
        found.append(Condition(at, ranges, family=family if part in ("ip", "net") else None))
    return tuple(found)


@dataclass(slots=True)
class KernelSets:
    """All sets by name. `live` are the members of portctl's live groups, by set name without the family."""

    sets: dict[str, KernelSet] = field(default_factory=dict)
    live: dict[str, tuple[str, ...]] = field(default_factory=dict)
    foreign: list[str] = field(default_factory=list)


def read_sets(text: str) -> KernelSets:
    """`create NAME TYPE OPTIONS` and `add NAME ENTRY OPTIONS` lines; others are foreign."""
    found = KernelSets()
    members: dict[str, list[str]] = {}
    for line in text.splitlines():
        verb, name, rest = (*line.split(" ", 2), "", "")[:3]
        if verb == "add" and name in members:
            members[name].append(rest)
        elif verb == "create" and rest:
            kind, _, options = rest.partition(" ")
            family: Family = 6 if "family inet6" in options else 4
            members[name] = []
            found.sets[name] = KernelSet(name, kind, family, options, members[name])
        elif line.strip() and not line.startswith("#"):
            found.foreign.append(line)
    for name, one in found.sets.items():
        if name.startswith(LIVE):
            group = name[len(LIVE) : -1]
            texts = [member.split(" ", 1)[0] for member in one.members]
            found.live[group] = tuple(sorted({*found.live.get(group, ()), *texts}))
    return found


def _ranges(members: list[str], family: Family) -> Ranges | None:
    pairs = []
    width = 32 if family == 4 else 128
    code = AF_INET if family == 4 else AF_INET6
    sizes = {"": 1, **{str(length): 1 << (width - length) for length in range(width + 1)}}
    for member in members:
        text, _, options = member.partition(" ") if " " in member else (member, "", "")
        if "nomatch" in options:
            return None
        host, _, length = text.partition("/")
        try:
            if "-" in host:
                first, _, last = host.partition("-")
                pairs.append((int(ip_address(first)), int(ip_address(last))))
                continue
            size = sizes[length]
            start = int.from_bytes(inet_pton(code, host), "big") & -size
        except (OSError, ValueError, KeyError):
            return None
        pairs.append((start, start + size - 1))
    return Ranges.of(pairs)
