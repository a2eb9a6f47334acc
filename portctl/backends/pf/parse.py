"""What pfctl printed, or what `render` wrote, as a `Program`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from portctl.backends.pf.flow import Reading, chains
from portctl.backends.pf.grammar import Spec, rule
from portctl.backends.pf.lexer import Text, Unreadable, lines, tokens, unquoted
from portctl.backends.pf.names import services, users
from portctl.backends.pf.world import LIVE, World, contents, ifconfig
from portctl.program import Program

SILENT = ("set", "scrub", "no scrub", "scrub-anchor", "queue", "altq", "antispoof", "Loading anchor")
"""First words of lines that hold no rule that decides."""


NAMED = re.compile(r"(?:[-cpairhC]{6,7}\t)?[A-Za-z_][\w.-]*(?:\t\S+)?")
"""A table's name as `pfctl -sT` prints it, or with its flags, and its anchor, as `-vsT` does."""


@dataclass(slots=True)
class Found:
    """What was read from all listings."""

    world: World
    rules: list[Spec] = field(default_factory=list)
    translations: list[Spec] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    members: dict[str, list[str]] = field(default_factory=dict)
    foreign: list[str] = field(default_factory=list)


def parse(listings: Mapping[str, str]) -> Program:
    """The loaded rules. Listings: `rules`, `translations`, `tables`, `labels`, `interfaces`, `ifconfig`, `services`,
    `users` as asked by `questions`; or `pf.conf` with the files that it names."""
    found = read(listings)
    if "anchor" in listings:
        _fill(found, listings)
    reading = Reading(found.world, tuple(found.skipped))
    program = chains(reading, found.rules, found.translations)
    live = {name: tuple(members) for name, members in found.world.live.items()}
    return Program(tuple(program), tuple(found.foreign), tuple(sorted(live.items())))


OWN = "portctl"
"""The anchor that may hold rules of portctl's, in a main rule set that is somebody else's."""


def _fill(found: Found, listings: Mapping[str, str]) -> None:
    """Puts what is in portctl's own anchor, `anchor` and `anchor tables`, in the places where it is called. Its tables
    are others than those of the same name outside."""
    beside = {name: text for name, text in listings.items() if name in ("ifconfig", "services", "users")}
    files = {name: text for name, text in listings.items() if name.endswith(".table")}
    texts = {"pf.conf": listings["anchor"]}
    texts |= {name: listings.get(f"anchor {name}", "") for name in ("tables", "labels")}
    inside = read(beside | files | texts)
    found.world.tables |= {f"{OWN}/{name}": members for name, members in inside.world.tables.items()}
    found.world.live |= inside.world.live
    found.world.groups_of |= inside.world.groups_of
    found.foreign += inside.foreign
    for spec in (*found.rules, *found.translations):
        if "anchor" in spec.action and spec.verb == OWN:
            specs = inside.rules if spec.action == "anchor" else inside.translations
            spec.inner = [_within(each) for each in specs]


def _within(spec: Spec) -> Spec:
    """A rule of the anchor, with the tables' names that they have from outside."""

    def name(text: str) -> str:
        return f"<{OWN}/{text[1:]}" if text.startswith("<") and not text.startswith(f"<{LIVE}") else text

    return replace(
        spec,
        sources=[(negated, name(text)) for negated, text in spec.sources],
        destinations=[(negated, name(text)) for negated, text in spec.destinations],
        pools=[(kind, [name(text) for text in texts], port) for kind, texts, port in spec.pools],
    )


def read(listings: Mapping[str, str]) -> Found:
    found = Found(World(ports=services(listings.get("services", "")), users=users(listings.get("users", ""))))
    ifconfig(listings.get("ifconfig", ""), found.world)
    _tables(found, listings.get("tables", ""))
    found.world.defined = "rules" in listings and "tables" in listings  # a host was asked for all of them
    for line in listings.get("interfaces", "").splitlines():
        if line.endswith(" (skip)"):
            found.skipped.append(line.split()[0])
    for name in ("translations", "rules", "pf.conf"):
        _statements(found, listings.get(name, ""), listings)
    _counters(found.rules, listings.get("labels", ""))
    for spec in found.rules:
        if spec.label.startswith("portctl:live:") and spec.sources:
            found.world.groups_of[spec.sources[0][1][1:-1]] = spec.label.removeprefix("portctl:live:")
    for name, texts in found.members.items():
        if name.startswith(LIVE):
            found.world.live[found.world.live_group(name)] = tuple(sorted(texts))
        try:
            found.world.tables[name] = contents(texts)
        except ValueError:
            found.foreign.append(f"table <{name}>: {' '.join(texts)[:200]}")
    return found


LABELED = re.compile(r"(.*?) \d+ (\d+) (\d+)(?: \d+){4,5}")
"""A line of `pfctl -s labels`: the label, evaluations, packets, bytes, both of each way, and states where they are
counted (pfctl(8))."""


def _counters(rules: list[Spec], text: str) -> None:
    """Gives labelled rules their packets and bytes. There is a line for each, in their order; if not, they changed
    between the two questions, and nobody knows."""
    counted: dict[str, list[tuple[int, int]]] = {}
    for line in text.splitlines():
        if (told := LABELED.fullmatch(line)) is not None:
            counted.setdefault(told[1], []).append((int(told[2]), int(told[3])))
    labelled: dict[str, list[Spec]] = {}
    for spec in rules:
        labelled.setdefault(spec.label, []).append(spec)
    for label, specs in labelled.items():
        if len(found := counted.get(label, [])) == len(specs):
            for spec, (packets, size) in zip(specs, found, strict=True):
                spec.packets, spec.bytes = packets, size


def _tables(found: Found, text: str) -> None:
    """`table NAME`, then its addresses as `-T show` prints them. What `-sT` and `-vvsT` print are names alone."""
    name = ""
    for line in text.splitlines():
        if line.startswith("table "):
            name = line.split()[1]
            found.members.setdefault(name, [])
        elif NAMED.fullmatch(line) or line.startswith("\t"):
            name = ""
        elif line.strip() and name:
            found.members[name].append(line.strip().replace("! ", "!"))
        elif line.strip():
            found.foreign.append(line)


def _statements(found: Found, text: str, files: Mapping[str, str]) -> None:
    """The lines of a rule set; those between the braces of an anchor are the anchor's."""
    nested: list[Spec] = []
    for line in lines(text):
        try:
            if line.text == "}":
                nested.pop()
                continue
            spec = _statement(found, line, files)
        except (Unreadable, IndexError, ValueError):
            found.foreign.append(line.text)
            spec = _unknown(line)
        if spec is None:
            found.world.defined |= line.text.startswith(("table ", "set "))
            continue
        spec.packets, spec.bytes = line.packets, line.bytes
        if nested:
            assert nested[-1].inner is not None
            nested[-1].inner.append(spec)
        elif spec.action in ("nat", "rdr", "binat", "nat-anchor", "rdr-anchor", "binat-anchor"):
            found.translations.append(spec)
        else:
            found.rules.append(spec)
        if spec.inner is not None:
            nested.append(spec)
    found.foreign += [spec.text for spec in nested]
    for spec in found.rules:
        if spec.text.startswith('anchor "*" ') and spec.inner == []:
            spec.inner = None  # macOS asks for the anchors below a name by no name, and lists nothing


def _unknown(line: Text) -> Spec | None:
    """A rule that nobody understands, in its place: it might do anything to the packets of its direction."""
    words = line.text.split()
    if words[0] not in ("pass", "block", "match", "anchor"):
        return None
    return Spec("unknown", line.text, line.number, direction=next((w for w in words[1:4] if w in ("in", "out")), ""))


def _statement(found: Found, line: Text, files: Mapping[str, str]) -> Spec | None:
    """A rule; None for a line that is none."""
    first = line.text.split()[0]
    if first == "table":
        _table(found, line.text, files)
        return None
    if first == "set" and line.text.startswith("set skip"):
        words = tokens(line.text)[3:]
        found.skipped += [unquoted(word) for word in words if word not in ("{", "}", ",")]
        return None
    if line.text.startswith(SILENT) or _definition(line.text):
        tokens(line.text)
        return None
    return rule(line.text, line.number)


def _definition(text: str) -> bool:
    """`name = "value"`: a macro, which -nv prints and uses no more."""
    words = tokens(text)
    return len(words) > 2 and words[1] == "=" and words[0][:1].isalpha()


_PLAIN_TABLE = re.compile(r"table <([\w:.-]+)>(?: (?:const|persist|counters))* \{([0-9a-fA-F:./, ]*)\}")
"""A table of addresses and networks alone, which may be many."""


def _table(found: Found, text: str, files: Mapping[str, str]) -> None:
    if (plain := _PLAIN_TABLE.fullmatch(text)) is not None:
        found.members.setdefault(plain[1].partition(":")[0], []).extend(plain[2].replace(",", " ").split())
        return
    words = tokens(text)
    name = words[1][1:-1].partition(":")[0]
    members = found.members.setdefault(name, [])
    inside = False
    index = 2
    while index < len(words):
        word = words[index]
        if word == "file":
            index += 1
            path = unquoted(words[index])
            members += _listed(files.get(path.rpartition("/")[2], ""))
        elif word in ("{", "}"):
            inside = word == "{"
        elif word == "!":
            index += 1
            members.append(f"!{words[index]}")
        elif inside and word != ",":
            members.append(word)
        index += 1


def _listed(text: str) -> list[str]:
    """The addresses of a table's file."""
    found: list[str] = []
    for line in text.splitlines():
        found += line.partition("#")[0].partition(";")[0].split()
    return found
