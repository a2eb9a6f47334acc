"""A `Difference` as text for a person, Markdown for a review, JSON and SARIF for programs. All end with a line end.

JSON: {"version": 1, "old": title, "new": title, "relation": word, "internet": bool, "complete": bool,
"changes": [change], "other": [change]}. A change has `kind`, `direction`, `ports` (text), `protocols` and `port_ranges`
([[first, last]], or null: all), `sources`, `destinations` (networks), `among`, `conditions` (words), `entry`, `line`,
`where` (null, or `file`, `line`, `column`), `internet`, `example` (words), `depends` (lines).
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from portctl.net import ANYWHERE, FAMILIES, Addresses, Ranges, network_texts
from portctl.ruleset import Direction
from portctl.space.boxes import one_family
from portctl.space.difference import Change, Difference
from portctl.space.dimensions import PORT, PROTOCOL
from portctl.space.internet import is_internet
from portctl.space.packets import packet_text
from portctl.space.sides import Reason
from portctl.space.words import Groups, addresses_text, words

VERSION = 1
MOST_OTHER = 8
"""So many lines about other packets are printed; JSON has them all."""

RELATIONS = {
    "same": "no difference",
    "text only": "the texts differ, the meaning does not",
    "answers": "nothing opens or closes; what is denied is answered differently",
    "widened": "widened: more is reachable",
    "narrowed": "narrowed: less is reachable",
    "both": "widened and narrowed",
    "uncertain": "may be different: it depends on lines that cannot be known",
}


@dataclass(frozen=True, slots=True)
class Sentence:
    """Changes that say the same of several ports, as one."""

    head: str
    """`newly open to the Internet`."""
    whats: tuple[str, ...]
    conditions: tuple[str, ...]
    reasons: tuple[Reason, ...]
    internet: bool
    depends: tuple[str, ...]

    def text(self) -> str:
        parts = [", ".join(filter(None, self.whats)), ", ".join(self.conditions)]
        line = f"{self.head}: {'; '.join(filter(None, parts))}"
        if self.depends:
            line += f"; depends on {'; '.join(self.depends)}"
        return line

    def entries(self) -> str:
        return ", ".join(dict.fromkeys(reason.name for reason in self.reasons))


def sentences(changes: Iterable[Change], groups: Groups) -> list[Sentence]:
    """Changes in words, in their order, those of one head and condition together."""
    found: dict[Sentence, list[tuple[str, Reason]]] = {}
    for change in changes:
        said = words(change.box, groups)
        what = "" if change.among.startswith("some ") else said.what
        conditions = (change.among, *said.conditions) if change.among else said.conditions
        internet = change.internet and "open" in change.kind
        key = Sentence(_head(change, groups), (), conditions, (), internet, change.depends)
        found.setdefault(key, []).append((what, change.reason))
    return [
        replace(
            key,
            whats=tuple(dict.fromkeys(what for what, _ in members)),
            reasons=tuple(dict.fromkeys(reason for _, reason in members)),
        )
        for key, members in found.items()
    ]


def _head(change: Change, groups: Groups) -> str:
    maybe, opens = change.kind.startswith("may"), change.kind.endswith("open") or change.kind == "opened"
    box = change.box
    if box.direction is Direction.OUTBOUND:
        said = f"this host may {'newly' if opens else 'no longer'} reach {addresses_text(box.destination, groups)}"
    elif box.direction is Direction.FORWARDED:
        way = f"from {addresses_text(box.source, groups)} to {addresses_text(box.destination, groups)}"
        said = f"{'newly' if opens else 'no longer'} forwarded {way}"
    else:
        who = "the Internet" if box.source == ANYWHERE else addresses_text(box.source, groups)
        if box.source != ANYWHERE and is_internet(box.source):
            who = f"the Internet ({who})"
        said = f"{'newly' if opens else 'no longer'} open to {who}{_at(box.destination, one_family(box), groups)}"
    return f"perhaps {said}" if maybe else said


def _at(destination: Addresses, family: Any, groups: Groups) -> str:
    if destination == ANYWHERE or (family and destination.is_every(family)):
        return ""
    return f" at {addresses_text(destination, groups)}"


def _groups(difference: Difference) -> Groups:
    """The names of both sides, the new one's first."""
    known = dict(difference.new.groups)
    return (*difference.new.groups, *((n, a) for n, a in difference.old.groups if n not in known))


def text(difference: Difference) -> str:
    """For a person."""
    lines = [f"{difference.old.title} -> {difference.new.title}: {RELATIONS[difference.relation]}"]
    groups = _groups(difference)
    for sentence in sentences(difference.changes, groups):
        lines.append(f"  {sentence.text()}  [{sentence.entries()}]")
    other = sentences(difference.other, groups)
    if other:
        lines.append("  beside ordinary new connections:")
        lines += [f"    {sentence.text()}  [{sentence.entries()}]" for sentence in other[:MOST_OTHER]]
        if len(other) > MOST_OTHER:
            lines.append(f"    and {len(other) - MOST_OTHER} more")
    if difference.too_many:
        lines.append("  and more than can be listed")
    return "\n".join(lines) + "\n"


def text_diff(difference: Difference) -> str:
    """The texts of both sides, as a unified diff; empty where they are equal."""
    old, new = difference.old, difference.new
    lines = difflib.unified_diff(old.text.splitlines(), new.text.splitlines(), old.title, new.title, lineterm="")
    return "".join(f"{line}\n" for line in lines)


def markdown(difference: Difference) -> str:
    """For a review: one table, the widest first, then the rest folded away."""
    title = f"### {_cell(difference.old.title)} → {_cell(difference.new.title)}"
    parts = [title, f"**{RELATIONS[difference.relation]}**"]
    groups = _groups(difference)
    if rows := sentences(difference.changes, groups):
        parts.append(_table(rows))
    if rows := sentences(difference.other, groups):
        summary = f"<details><summary>{len(rows)} beside ordinary new connections</summary>"
        parts.append(f"{summary}\n\n{_table(rows)}\n\n</details>")
    if difference.too_many:
        parts.append("There is more than can be listed.")
    if changed := text_diff(difference):
        parts.append(f"<details><summary>text</summary>\n\n{_fenced(changed)}\n\n</details>")
    return "\n\n".join(parts) + "\n"


def _table(rows: Sequence[Sentence]) -> str:
    lines = ["| change | ports | when | entry |", "|---|---|---|---|"]
    for row in rows:
        head = f"**{_cell(row.head)}**" if row.internet else _cell(row.head)
        when = ", ".join([*row.conditions, *(f"depends on {line}" for line in row.depends)])
        lines.append(f"| {head} | {_cell(', '.join(row.whats))} | {_cell(when)} | {_cell(row.entries())} |")
    return "\n".join(lines)


def _cell(said: str) -> str:
    """Text that no Markdown and no HTML is made of."""
    safe = "".join(c if c.isprintable() else " " for c in said)
    safe = safe.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return "".join("\\" + c if c in "\\`*_[]|" else c for c in safe)


def _fenced(said: str) -> str:
    fence = "```"
    while fence in said:
        fence += "`"
    return f"{fence}diff\n{said}{fence}"


def value(difference: Difference) -> dict[str, Any]:
    """The values of the JSON report."""
    return {
        "version": VERSION,
        "old": difference.old.title,
        "new": difference.new.title,
        "relation": difference.relation,
        "internet": difference.opens_internet,
        "complete": not difference.too_many,
        "changes": [_change(change) for change in difference.changes],
        "other": [_change(change) for change in difference.other],
    }


def as_json(difference: Difference) -> str:
    return json.dumps(value(difference), indent=2) + "\n"


def _change(change: Change) -> dict[str, Any]:
    said = words(change.box)
    place = change.reason.place
    return {
        "kind": change.kind,
        "direction": change.box.direction.value,
        "ports": said.what,
        "protocols": _pairs(change.box.values(PROTOCOL)),
        "port_ranges": _pairs(change.box.values(PORT)),
        "sources": _networks(change.box.source),
        "destinations": _networks(change.box.destination),
        "among": change.among,
        "conditions": list(said.conditions),
        "entry": change.reason.name,
        "line": change.reason.line,
        "where": None if place is None else {"file": place.file, "line": place.line, "column": place.column},
        "internet": change.internet,
        "example": packet_text(change.example),
        "depends": list(change.depends),
    }


def _pairs(ranges: Ranges | None) -> list[list[int]] | None:
    return None if ranges is None else [list(pair) for pair in ranges.pairs()]


def _networks(addresses: Addresses) -> list[str]:
    return [text for family in FAMILIES for text in network_texts(addresses.family(family), family)]


RULES = {
    "opened-internet": "More of the Internet than a /8 can reach something new",
    "opened": "Something is newly reachable",
    "closed": "Something is no longer reachable",
    "uncertain": "Whether something is reachable depends on lines that cannot be known",
}


def sarif(*differences: Difference) -> str:
    """SARIF 2.1.0 (OASIS): one result a change, at the entry that accepts."""
    results = [_result(change, _groups(each)) for each in differences for change in each.changes]
    rules = [{"id": code, "shortDescription": {"text": said}} for code, said in RULES.items()]
    driver = {"name": "portctl diff", "rules": rules}
    run = {"tool": {"driver": driver}, "results": results}
    schema = "https://json.schemastore.org/sarif-2.1.0.json"
    return json.dumps({"$schema": schema, "version": "2.1.0", "runs": [run]}, indent=2) + "\n"


def _result(change: Change, groups: Groups) -> dict[str, Any]:
    code = "closed" if change.kind == "closed" else "opened-internet" if change.internet else "opened"
    if change.kind.startswith("may"):
        code = "uncertain"
    level = {"opened-internet": "error", "opened": "warning", "uncertain": "warning"}.get(code, "note")
    message = sentences([change], groups)[0].text()
    found: dict[str, Any] = {"ruleId": code, "level": level, "message": {"text": message}}
    if change.reason.place is not None:
        place = change.reason.place
        region = {"startLine": place.line, "startColumn": place.column, "endColumn": place.column + place.length}
        location = {"artifactLocation": {"uri": place.file}, "region": region}
        found["locations"] = [{"physicalLocation": location}]
    return found


def failed(difference: Difference, on: str) -> bool:
    """Whether a command that was told to fail on `widened`, `any` or `internet` fails."""
    if on == "any":
        return difference.relation not in ("same", "text only")
    if on == "internet":
        return difference.opens_internet
    return difference.widened or difference.relation == "uncertain"
