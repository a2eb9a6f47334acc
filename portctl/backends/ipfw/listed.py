"""What ipfw prints, and what `render` wrote, as rules, tables and nat instances still in words."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from portctl.backends.ipfw.layout import BROADCAST, REFUSED, STAND_IN, STANDS_IN
from portctl.net import Family, Ranges

TIME = r"(?:\d+|(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun) [A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d \d{4})"
"""When a rule was last used, as a number (`-T`) or as ctime(3) has it (`-t`; blanks for one that never was)."""
_LISTED = re.compile(rf"(\d{{5}}) +(?:(\d+) +(\d+) +)?(?:{TIME} +)?(?:set (\d+) )?(\S.*?) *$")
_ADDED = re.compile(r"add (\d+) (?:set (\d+) )?(\S.*?) *$")
_TABLE = re.compile(r"--- table\((\S+)\), set\((\d+)\) ---$")
_ENTRIES = re.compile(r"^table (\S+) add (\S+)\n(?:table \1 add \S+\n)*", re.M)
"""The entries of one table, without values."""
_GUESS = re.compile(rf"skipto \d+ ip4 from any to {re.escape(STAND_IN)} in // {STANDS_IN}")
_DISABLED = "# DISABLED "
GENERATION = re.compile(r"\bportctl[01]_")


@dataclass(frozen=True, slots=True)
class Listed:
    """One rule. `body` is without its comment; the generation of tables is left out of it."""

    number: int
    set: int
    body: str
    comment: str
    text: str
    line: int
    packets: int | None = None
    bytes: int | None = None


@dataclass(slots=True)
class Table:
    """`kind`: addr, number, iface, flow:…; `entries` in words, with their values."""

    kind: str = "addr"
    entries: list[tuple[str, str]] = field(default_factory=list)
    known: bool = False
    """Something told what it holds: where only rules are listed, nobody knows."""
    made: dict[str | None, dict[Family, Ranges]] = field(default_factory=dict)
    """Sets already read, by the value asked for."""


@dataclass(slots=True)
class Listing:
    """Everything of some listings. `dynamic` are states, `disabled` rules of disabled sets: neither judges a packet
    by itself. `foreign` is what nobody understands."""

    rules: list[Listed] = field(default_factory=list)
    disabled: list[str] = field(default_factory=list)
    dynamic: list[str] = field(default_factory=list)
    tables: dict[str, Table] = field(default_factory=dict)
    nat: dict[str, str] = field(default_factory=dict)
    one_pass: bool = False
    foreign: list[str] = field(default_factory=list)
    told: bool = False
    """Whether the table under way was known before: `info` does not say what one holds."""

    names: dict[str, Table] = field(default_factory=dict)
    """`tables` by the names that stand in the text."""

    def table(self, name: str) -> Table:
        if name not in self.names:
            self.names[name] = self.tables.setdefault(GENERATION.sub("portctl_", name), Table())
        return self.names[name]


def read(listings: Mapping[str, str]) -> Listing:
    """All listings together, by what their lines look like."""
    listing = Listing()
    for name, text in listings.items():
        if name.endswith(".table"):
            table = listing.table(f"portctl_{name.removesuffix('.table')}")
            table.entries += [(line, "0") for line in text.splitlines()]
            table.known = True
            continue
        number = at = 0
        for block in _ENTRIES.finditer(text):  # nearly all of a rendered file
            number = _lines(listing, text[at : block.start()], number)
            keys = block[0][block.start(2) - block.start() : -1].split(f"\ntable {block[1]} add ")
            listing.table(block[1]).entries += [(key, "0") for key in keys]
            number, at = number + len(keys), block.end()
        _lines(listing, text[at:], number)
    listing.rules.sort(key=lambda rule: rule.number)
    # What a host fills in at run time is no part of the rules: a text that was never loaded has nothing there.
    listing.table(BROADCAST).entries.clear()
    return listing


def _lines(listing: Listing, text: str, number: int) -> int:
    """Reads lines, of which the first is the one after `number`; the number of the last."""
    current, last = "", number
    for last, line in enumerate(text.splitlines(), number + 1):
        current = _line(listing, line.rstrip(), last, current)
    return last


_NUMBERED = re.compile(r"\d{5} [0-9a-f.:]+")
"""An entry of a table of numbers, which begins like a rule: 36412 20420."""


def _line(listing: Listing, line: str, number: int, current: str) -> str:
    """Reads one line; the table whose entries follow."""
    if line.startswith(_DISABLED):
        listing.disabled.append(line)
    elif found := _TABLE.match(line):
        table = listing.table(found[1])
        listing.told, table.known = table.known, True
        return found[1]
    elif line.startswith("## Dynamic rules"):
        listing.dynamic.append(line)
    elif line.startswith("#me "):
        _written(listing, line.removeprefix("#me "), number)
    elif not line.strip() or line.lstrip().startswith("#"):
        pass
    elif current and (not re.match(r"\d{5} ", line) or _NUMBERED.fullmatch(line)):
        _of_table(listing, line, current)
        return current
    elif found := _LISTED.match(line):
        _listed(listing, line, found, number)
    else:
        _written(listing, line, number)
    return ""


def _listed(listing: Listing, line: str, found: re.Match[str], number: int) -> None:
    if listing.dynamic or re.match(r"(\(\d+s\) )?(STATE|LIMIT|PARENT) ", found[5]):
        listing.dynamic.append(line)
        return
    counters = (None, None) if found[2] is None else (int(found[2]), int(found[3]))
    listing.rules.append(_rule(found[1], found[4], found[5], number, *counters))


def _rule(
    number: str, place: str | None, text: str, at: int, packets: int | None = None, size: int | None = None
) -> Listed:
    text = re.sub(r"^([^/]*(?:/(?!/)[^/]*)*)", lambda m: GENERATION.sub("portctl_", m[0]), text, count=1)
    body, mark, comment = (f" {text} ").partition(" // ")
    return Listed(int(number), int(place or 0), body.strip(), comment.strip() if mark else "", text, at, packets, size)


def _of_table(listing: Listing, line: str, name: str) -> None:
    table = listing.table(name)
    if line.startswith(" "):
        if found := re.match(r" kindex: \d+, type: (\S+?)(?:, locked)?$", line):
            table.kind, table.known = found[1], listing.told
        elif line.startswith(" items: 0,"):
            table.known = True
        elif not re.match(r" +(references|(IPv[46] )?algorithm|items|limit|size|buckets|hsize)\b", line):
            listing.foreign.append(line)
        return
    key, _, value = line.partition(" ")
    table.entries.append((key, value))


def _written(listing: Listing, line: str, number: int) -> None:
    """A line of the file `rules`, or of `ipfw nat show config`, or of sysctl."""
    words = line.split()
    if found := _ADDED.match(line):
        text = found[3]
        if " ipv6 from " in text.partition(" // ")[0]:  # in a file the family, in a listing the name of protocol 41
            text = text.replace(" ipv6 from ", " ip6 from ", 1)
        if int(found[1]) != REFUSED and not text.endswith(
            f" to {STAND_IN} in // {STANDS_IN}"
        ):  # load.sh leaves out both
            listing.rules.append(_rule(found[1].zfill(5), found[2], text, number))
    elif words[0] == "table" and len(words) > 3 and words[2] == "create":
        table = listing.table(words[1])
        table.kind, table.known = words[words.index("type") + 1] if "type" in words else "addr", True
    elif words[0] == "table" and len(words) > 3 and words[2] == "add":
        entries = listing.table(words[1]).entries
        entries += [(words[3], words[4] if len(words) > 4 else "0")]
        entries += zip(words[5::2], words[6::2], strict=True)
    elif found := re.match(r"(?:ipfw )?nat (\S+) config (.*)", line):
        listing.nat[found[1]] = found[2]
    elif words in (["disable", "one_pass"], ["enable", "one_pass"]):
        listing.one_pass = words[0] == "enable"
    elif words in (["disable", "verbose"], ["enable", "verbose"]):
        pass  # whether what is logged is written
    elif found := re.match(r"net\.inet\.ip\.fw\.one_pass[:=] ?(\d)", line):
        listing.one_pass = found[1] != "0"
    else:
        listing.foreign.append(line)
