"""What `nft list ruleset` (or `list table`, or `rules.nft`) says, as a program. Knows nothing of `render`.

Tables of the families ip, ip6 and inet are read; bridge, arp and netdev judge frames that portctl does not, and end
in `Program.foreign`, line by line. Tables that iptables-nft keeps (`ip filter`) are read too, their `xt` parts as
unknown: who also asks iptables takes them from there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from portctl.backends.nftables.listed import Listed, values
from portctl.backends.nftables.parse_rule import Scope, apart, line_of
from portctl.net import Family
from portctl.program import Accept, Chain, Deny, Hook, HookName, Line, Program
from portctl.space.tracking import before_tracking

OWN = "inet portctl"
_HANDLE = re.compile(r" # handle \d+$")
_OPEN = re.compile(r"(table|set|map|chain|\S+(?: \S+)*?) (\S+) \{$")
_HOOK = re.compile(r"type (\w+) hook (\w+)(?: devices? = .*?)? priority (.+?);(?: policy (\w+);)?$")
_HOOK_NAMES: dict[str, HookName] = {
    "prerouting": "prerouting",
    "input": "input",
    "forward": "forward",
    "output": "output",
    "postrouting": "postrouting",
    "ingress": "ingress",
}
_PRIORITIES = {"raw": -300, "mangle": -150, "dstnat": -100, "filter": 0, "security": 50, "srcnat": 100}
_FAMILIES: dict[str, Family | None] = {"ip": 4, "ip6": 6, "inet": None}


@dataclass(slots=True)
class _Block:
    """A chain, set or map as it stands: (line number, text) of its lines."""

    kind: str
    name: str
    lines: list[tuple[int, str]] = field(default_factory=list)


@dataclass(slots=True)
class _Table:
    family: str
    name: str
    blocks: list[_Block] = field(default_factory=list)

    @property
    def title(self) -> str:
        return f"{self.family} {self.name}"


def parse(listings: Mapping[str, str]) -> Program:
    """All tables of all listings, as one program."""
    chains: list[Chain] = []
    foreign: list[str] = []
    live: list[tuple[str, tuple[str, ...]]] = []
    for text in listings.values():
        for table in _tables(text, foreign):
            if table.family not in _FAMILIES:
                foreign += [f"table {table.title}: {line}" for block in table.blocks for _, line in block.lines]
                continue
            sets = {b.name: _listed(b) for b in table.blocks if b.kind in ("set", "map")}
            scope = Scope(_FAMILIES[table.family], sets, own=table.title == OWN)
            chains += [_chain(table, block, scope, foreign) for block in table.blocks if block.kind == "chain"]
            foreign += [f"table {table.title}: flowtable {b.name}" for b in table.blocks if b.kind == "flowtable"]
            if scope.own:
                live += _live(sets)
    return before_tracking(Program(tuple(chains), tuple(foreign), tuple(live)))


def _tables(text: str, foreign: list[str]) -> Iterator[_Table]:
    """Cuts a listing at its braces. nft ends a line after each opening and before each closing one."""
    table: _Table | None = None
    block: _Block | None = None
    depth = 0
    for number, raw in enumerate(text.split("\n"), 1):
        line = _HANDLE.sub("", raw.strip()) if "# handle" in raw else raw.strip()
        if not line or line.startswith("#"):
            continue
        if line == "}":
            depth -= 1
            if depth == 0 and table is not None:
                yield table
                table = None
            if depth == 1:
                block = None
        elif depth < 2 and (opened := _OPEN.match(line)):
            depth += 1
            if depth == 1:
                family, _, name = line.removeprefix("table ").removesuffix(" {").partition(" ")
                table = _Table(family, name) if name else _Table("ip", family)
            elif table is not None:
                block = _Block(opened[1], opened[2])
                table.blocks.append(block)
        elif block is not None:
            depth += line.endswith("{") and not line.startswith("elements")
            block.lines.append((number, line))
        elif not line.startswith(("comment ", "flags ")):
            foreign.append(line)


def _listed(block: _Block) -> Listed:
    """A set or a map. Its elements are read when a rule asks for them."""
    types: tuple[str, ...] = ()
    data, comment = "", ""
    flags: frozenset[str] = frozenset()
    texts: list[str] | None = None
    for _, line in block.lines:
        word, _, rest = line.partition(" ")
        if texts is not None:
            texts.append(line)
        elif word in ("type", "typeof"):
            keys, _, data = rest.partition(" : ")
            types = tuple(keys.split(" . "))
        elif word == "flags":
            flags = frozenset(rest.split(","))
        elif word == "comment":
            comment = rest.strip('"')
        elif word == "elements":
            texts = [rest.removeprefix("= { ")]
    whole = None if texts is None else " ".join(texts).removesuffix("}").rstrip()
    return Listed(block.name, types, data, flags, comment, whole)


def _chain(table: _Table, block: _Block, scope: Scope, foreign: list[str]) -> Chain:
    lines: list[Line] = []
    hook: Hook | None = None
    for number, text in block.lines:
        if text.startswith("type ") and (found := _HOOK.match(text)):
            hook = _hook(found)
            if hook is None:
                foreign.append(f"table {table.title}: {text}")
        elif not (text.startswith('comment "') and not lines):
            lines += apart(line_of(text, number, scope))
    family = _FAMILIES[table.family]
    return Chain(table.title, block.name, tuple(lines), hook, family, own=scope.own)


def _hook(found: re.Match[str]) -> Hook | None:
    name = _HOOK_NAMES.get(found[2])
    priority = _priority(found[3])
    if name is None or priority is None:
        return None
    return Hook(name, priority, Deny() if found[4] == "drop" else Accept(), found[1])


def _priority(text: str) -> int | None:
    """`filter - 10`, `filter`, `-10`."""
    words = text.split()
    start = 0
    if words[0] in _PRIORITIES:
        start = _PRIORITIES[words.pop(0)]
    try:
        return start + int("".join(words) or "0")
    except ValueError:
        return None


def _live(sets: Mapping[str, Listed]) -> list[tuple[str, tuple[str, ...]]]:
    """The members of live groups, both families together."""
    members: dict[str, list[str]] = {}
    for name, listed in sets.items():
        found = re.fullmatch(r"live-(.+)-[46]", name)
        if found:
            members.setdefault(found[1], []).extend(values(listed.elements or ""))
    return [(group, tuple(sorted(found))) for group, found in sorted(members.items())]
