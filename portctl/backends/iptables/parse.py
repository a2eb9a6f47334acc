"""What `iptables-save`, `ip6tables-save` and `ipset save` print, as values. Shares no code with the rendering half.

Everything in a listing ends up in the program: a match or a target that is not known becomes `Unknown` in its place,
a line that is no rule goes to `foreign`. `rules.v4` and `rules.v6` tell the families apart, since their listings
do not.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from portctl.backends.iptables.ipsets import read_sets
from portctl.backends.iptables.matches import Context, read_rule
from portctl.backends.iptables.options import split_words
from portctl.net import Family
from portctl.program import Accept, Chain, Deny, Field, Hook, HookName, Jump, Line, Note, Program, Unknown
from portctl.space.tracking import before_tracking

OPEN_CHAIN = "PORTCTL-OPEN"
OWN_PREFIX = "PORTCTL-"
_CHAIN = re.compile(r":(\S+) (\S+)(?: \[\d+:\d+\])?")
_COUNTERS = re.compile(r"\[(\d+):(\d+)\] ")

PRIORITIES = {
    ("raw", "PREROUTING"): -300,
    ("raw", "OUTPUT"): -300,
    ("nat", "PREROUTING"): -100,
    ("nat", "OUTPUT"): -100,
    ("nat", "POSTROUTING"): 100,
    ("nat", "INPUT"): 100,
}
"""Priorities of the netfilter hooks (`linux/netfilter_ipv4.h`) where they are not the table's own."""
TABLE_PRIORITIES = {"raw": -300, "mangle": -150, "nat": -100, "filter": 0, "security": 50}
HOOKS: dict[str, HookName] = {
    "PREROUTING": "prerouting",
    "INPUT": "input",
    "FORWARD": "forward",
    "OUTPUT": "output",
    "POSTROUTING": "postrouting",
}
ENTRIES = {
    ("filter", "PORTCTL-IN"): "INPUT",
    ("filter", "PORTCTL-OUT"): "OUTPUT",
    ("filter", "PORTCTL-FWD"): "FORWARD",
    ("mangle", "PORTCTL-PUBLISHED"): "PREROUTING",
    ("mangle", "PORTCTL-MSS"): "FORWARD",
    ("nat", "PORTCTL-DNAT"): "PREROUTING",
    ("nat", "PORTCTL-SNAT"): "POSTROUTING",
}
"""The chains of portctl's that built-in chains jump to first. Rule files do not hold these jumps: loading adds them."""


def parse(listings: Mapping[str, str]) -> Program:
    """The program that some listings show: `rules.v4`, `rules.v6`, `sets.ipset`, and `users` (`getent passwd`)."""
    sets = read_sets(listings.get("sets.ipset", ""))
    users = _users(listings.get("users", ""))
    names: dict[str, str] = {}
    chains: list[Chain] = []
    foreign: list[str] = list(sets.foreign)
    families: tuple[Family, Family] = (4, 6)
    for family in families:
        reader = _Reader(family, Context(family, sets, users, live=names))
        reader.read(listings.get(f"rules.v{family}", ""))
        chains += reader.chains()
        foreign += reader.foreign
    live = tuple(sorted((names.get(name, name), members) for name, members in sets.live.items()))
    return before_tracking(Program(tuple(chains), tuple(foreign), live))


def _users(text: str) -> dict[str, tuple[str, ...]]:
    """Names by number, from the lines of passwd(5)."""
    found: dict[str, tuple[str, ...]] = {}
    for line in text.splitlines():
        parts = line.split(":")
        if len(parts) > 2 and parts[2].isdigit():
            found[parts[2]] = (*found.get(parts[2], ()), parts[0])
    return found


_MARKING = ("MARK ", "CONNMARK ", "HMARK ", "IPMARK ")


def _without_marks(line: Line) -> Line:
    """A line of rules in which no mark decides anything: what sets marks that are not known changes nothing."""
    if not any(isinstance(action, Unknown) for action in line.actions):
        return line
    actions = (Note(a.text) if isinstance(a, Unknown) and a.text.startswith(_MARKING) else a for a in line.actions)
    return replace(line, actions=tuple(actions))


@dataclass(slots=True)
class _Reader:
    family: Family
    context: Context
    foreign: list[str] = field(default_factory=list)
    policies: dict[tuple[str, str], str] = field(default_factory=dict)
    lines: dict[tuple[str, str], list[Line]] = field(default_factory=dict)

    def read(self, text: str) -> None:
        table = ""
        for number, raw in enumerate(text.splitlines(), 1):
            line = raw.strip()
            if not line or line.startswith("#") or line == "COMMIT":
                continue
            if line.startswith("*"):
                table = line[1:].strip()
                self.context.chains.clear()
            elif (declared := _CHAIN.fullmatch(line)) and table:
                self.policies[table, declared[1]] = declared[2]
                self.context.chains.add(declared[1])
                self.lines.setdefault((table, declared[1]), [])
            elif not (table and self.rule(table, line, number)):
                self.foreign.append(raw)

    def rule(self, table: str, line: str, number: int) -> bool:
        """Reads one rule; False for what is none."""
        packets = size = None
        counters = _COUNTERS.match(line)
        if counters:
            packets, size = int(counters[1]), int(counters[2])
            line = line[counters.end() :]
        words = split_words(line)
        if words is None or len(words) < 2 or words[0] not in ("-A", "--append"):
            return False
        found = read_rule(words[2:], self.context)
        self.lines.setdefault((table, words[1]), []).append(
            Line(found.conditions, found.actions, line, found.comment, number, packets, size)
        )
        return True

    def chains(self) -> list[Chain]:
        if not self.asks_marks():
            self.lines = {place: [_without_marks(line) for line in lines] for place, lines in self.lines.items()}
        names = list(self.lines)
        own = any(name.startswith(OWN_PREFIX) for _, name in names)
        rendered = own and not any((table, c) in self.policies for table, _ in names for c in HOOKS)
        for table, entry in ENTRIES:
            if rendered and (table, entry) in self.lines:
                self.lines[table, ENTRIES[table, entry]] = [Line((), (Jump(entry),))]
        found = []
        for (table, name), lines in self.lines.items():
            mine = name.startswith(OWN_PREFIX)
            kept = () if name == OPEN_CHAIN else tuple(lines)
            found.append(Chain(table, name, kept, self.hook(table, name), self.family, mine))
        if own and ("filter", OPEN_CHAIN) not in self.lines:
            found.append(Chain("filter", OPEN_CHAIN, (), None, self.family, True))
        return found

    def asks_marks(self) -> bool:
        """Whether marks may decide anything: in `mangle` they do only where something there denies."""
        lines = [(table, line) for (table, _), listed in self.lines.items() for line in listed]
        strange = any(
            isinstance(a, Deny) or (isinstance(a, Unknown) and not a.text.startswith(_MARKING))
            for table, line in lines
            if table == "mangle"
            for a in line.actions
        )
        strange = strange or any(self.policies.get(("mangle", hook)) == "DROP" for hook in HOOKS)
        asked = [table for table, line in lines if any(c.field is Field.MARK for c in line.conditions)]
        return any(table != "mangle" or strange for table in asked)

    def hook(self, table: str, name: str) -> Hook | None:
        if name not in HOOKS or table not in TABLE_PRIORITIES:
            return None
        policy = self.policies.get((table, name), "ACCEPT")
        priority = PRIORITIES.get((table, name), TABLE_PRIORITIES[table])
        kind = "nat" if table == "nat" else "filter"
        return Hook(HOOKS[name], priority, Deny() if policy == "DROP" else Accept(), kind)
