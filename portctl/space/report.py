"""A `Difference` as text for a person, Markdown for a review, JSON for programs. All end with a line end.

JSON: {"version": 1, "old": title, "new": title, "relation": word, "internet": bool, "complete": bool,
"changes": [change], "other": [change], "besides": [text]}. A change has `kind`, `direction`, `ports` (text),
`protocols` and `port_ranges` ([[first, last]], or null: all), `sources`, `destinations` (networks), `among`,
`conditions` (words), `entry`, `line`, `where` (null, or `file`, `line`, `column`), `internet`, `example` (words),
`depends` (lines), `to` and `was` (where a forward leads, and led where that changes; null: it does not).
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Sequence
from typing import Any

from portctl.net import FAMILIES, Addresses, Ranges, network_texts
from portctl.space.changes import Change
from portctl.space.difference import Difference
from portctl.space.dimensions import PORT, PROTOCOL
from portctl.space.packets import packet_text
from portctl.space.sentences import Sentence, groups_of, sentences
from portctl.space.words import words

VERSION = 1
MOST_OTHER = 8
"""So many lines about other packets are printed; JSON has them all."""
MOST_LINES = 400
"""So many lines of a text diff go into Markdown: a review takes 65,536 characters."""

RELATIONS = {
    "same": "no difference",
    "text only": "the texts differ, the meaning does not",
    "besides": "nothing opens or closes; what changes is named below",
    "answers": "nothing opens or closes; what is denied is answered differently",
    "widened": "widened: more is reachable",
    "narrowed": "narrowed: less is reachable",
    "both": "widened and narrowed",
    "uncertain": "may be different: it depends on lines that cannot be known",
}


_WIDEST_FIRST = ("widened", "both", "uncertain", "narrowed", "answers", "besides", "text only", "same")


def order(difference: Difference) -> tuple[bool, int, str]:
    """What to read first: what opens more to the Internet, then whatever opens."""
    return not difference.opens_internet, _WIDEST_FIRST.index(difference.relation), difference.new.title


def text(*differences: Difference) -> str:
    """For a person: the words, then the texts' differences. A file that belongs to several is shown once."""
    shown: set[tuple[str, str]] = set()
    return "\n".join("\n".join([in_words(each), *_new_diffs(each, shown)]) for each in differences)


def _new_diffs(difference: Difference, shown: set[tuple[str, str]]) -> list[str]:
    found = [pair for pair in text_diffs(difference).items() if not pair[0] or pair not in shown]
    shown.update(found)
    return [diff for _, diff in found]


def in_words(difference: Difference) -> str:
    """What opens, what closes and what changes besides."""
    lines = [f"{difference.old.title} -> {difference.new.title}: {RELATIONS[difference.relation]}"]
    groups = groups_of(difference)
    for sentence in sentences(difference.changes, groups):
        lines.append(f"  {sentence.text()}  [{sentence.entries()}]")
    lines += [f"  {line}" for line in difference.besides]
    other = sentences(difference.other, groups)
    if other:
        shown = sentences(_worth_a_line(difference), groups)[:MOST_OTHER]
        if shown:
            lines.append("  beside ordinary new connections:")
            lines += [f"    {sentence.text()}  [{sentence.entries()}]" for sentence in shown]
        if more := len(other) - len(shown):
            lines.append(f"  and {more} more of packets that are seldom seen (--format json)")
    if difference.too_many:
        lines.append("  and more than can be listed")
    return "\n".join(lines) + "\n"


def _worth_a_line(difference: Difference) -> list[Change]:
    """Other packets of which ordinary traffic has some, unless it is plain that they are blocked now or no longer."""
    old, new = difference.old.besides.blocked, difference.new.besides.blocked
    plain = (new - old, old - new)
    kept = [
        c for c in difference.other if not any(of and (c.box.source <= of or c.box.destination <= of) for of in plain)
    ]
    usual = [c for c in kept if not c.rare]
    return usual if usual or difference.changes or difference.besides else kept


def text_diffs(difference: Difference) -> dict[str, str]:
    """The unified diff of each file of both sides that differs, by its name; that of the sides themselves by "".
    None where the two are written in different languages."""
    old, new = difference.old, difference.new
    if old.besides.language != new.besides.language:
        return {}
    before, after = dict(old.parts), dict(new.parts)
    found = {"": _unified(old.text, new.text, old.title, new.title)}
    for name in sorted(before.keys() & after.keys()):
        found[name] = _unified(before[name], after[name], name, name)
    return {name: diff for name, diff in found.items() if diff}


def _unified(old: str, new: str, before: str, after: str) -> str:
    lines = difflib.unified_diff(old.splitlines(), new.splitlines(), before, after, lineterm="")
    return "".join(f"{line}\n" for line in lines)


def markdown(*differences: Difference) -> str:
    """For a review: of several what each does, then of each a table, the widest first, and the rest folded away."""
    shown: set[tuple[str, str]] = set()
    parts = [_overview(differences)] if len(differences) > 1 else []
    return "\n".join([*parts, *(_markdown(each, shown) for each in differences)])


def _overview(differences: Sequence[Difference]) -> str:
    lines = []
    for each in differences:
        to_internet = [s.text() for s in sentences(each.changes, groups_of(each)) if s.internet]
        said = f"**{_cell('; '.join(to_internet))}**" if to_internet else RELATIONS[each.relation]
        lines.append(f"- {_cell(each.new.title)}: {said}\n")
    return "".join(lines)


def _markdown(difference: Difference, shown: set[tuple[str, str]]) -> str:
    title = f"### {_cell(difference.old.title)} → {_cell(difference.new.title)}"
    parts = [title, f"**{RELATIONS[difference.relation]}**"]
    groups = groups_of(difference)
    if rows := sentences(difference.changes, groups):
        parts.append(_table(rows))
    if difference.besides:
        parts.append("\n".join(f"- {_cell(line)}" for line in difference.besides))
    if rows := sentences(difference.other, groups):
        summary = f"<details><summary>{len(rows)} beside ordinary new connections</summary>"
        parts.append(f"{summary}\n\n{_table(rows)}\n\n</details>")
    if difference.too_many:
        parts.append("There is more than can be listed.")
    if changed := "".join(_new_diffs(difference, shown)):
        parts.append(f"<details><summary>text</summary>\n\n{_fenced(_shortened(changed))}\n\n</details>")
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
    return "".join("\\" + c if c in "\\`*_[]|~" else c for c in safe)


def _shortened(diff: str) -> str:
    lines = diff.splitlines(keepends=True)
    more = len(lines) - MOST_LINES
    return diff if more <= 0 else "".join([*lines[:MOST_LINES], f"… and {more} lines more\n"])


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
        "besides": list(difference.besides),
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
        "to": None if change.to is None else str(change.to),
        "was": None if change.was is None else str(change.was),
    }


def _pairs(ranges: Ranges | None) -> list[list[int]] | None:
    return None if ranges is None else [list(pair) for pair in ranges.pairs()]


def _networks(addresses: Addresses) -> list[str]:
    return [text for family in FAMILIES for text in network_texts(addresses.family(family), family)]


def failed(difference: Difference, on: str) -> bool:
    """Whether a command that was told to fail on `widened`, `any` or `internet` fails."""
    if on == "any":
        return difference.relation not in ("same", "text only")
    if on == "internet":
        return difference.opens_internet
    return difference.widened or difference.relation == "uncertain"
