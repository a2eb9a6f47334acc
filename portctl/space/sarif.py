"""A `Difference` as SARIF 2.1.0 (OASIS), for code scanning: one result a change, at the entry of the policy.

GitHub shows a result only at a place in a file: what no entry says is shown at the first line of the policy.
"""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

from portctl import __version__
from portctl.problems import Span
from portctl.space.changes import Change
from portctl.space.difference import Difference
from portctl.space.sentences import groups_of, sentences

RULES = {
    "opened-internet": ("error", "More of the Internet than a /8 can reach something new"),
    "opened": ("warning", "Something is newly reachable"),
    "closed": ("note", "Something is no longer reachable"),
    "uncertain": ("warning", "Whether something is reachable depends on lines that cannot be known"),
    "besides": ("note", "A limit, a setting or the like changes"),
}
"""Code → its level, and what it means."""


def sarif(*differences: Difference) -> str:
    """The report, with its line end."""
    results = [result for each in differences for result in _results(each)]
    rules = [
        {"id": code, "shortDescription": {"text": said}, "defaultConfiguration": {"level": level}}
        for code, (level, said) in RULES.items()
    ]
    run = {
        "tool": {"driver": {"name": "portctl diff", "version": __version__, "rules": rules}},
        "columnKind": "unicodeCodePoints",
        "results": results,
    }
    schema = "https://json.schemastore.org/sarif-2.1.0.json"
    return json.dumps({"$schema": schema, "version": "2.1.0", "runs": [run]}, indent=2) + "\n"


def _results(difference: Difference) -> list[dict[str, Any]]:
    groups = groups_of(difference)
    found = []
    for change in difference.changes:
        message = sentences([change], groups)[0].text()
        found.append(_result(_code(change), message, _place(difference, change), difference))
    for line in difference.besides:
        place = dict(difference.new.entries).get(line.partition(":")[0])
        found.append(_result("besides", line, place, difference))
    return found


def _code(change: Change) -> str:
    if change.kind.startswith("may"):
        return "uncertain"
    if change.kind == "closed":
        return "closed"
    return "opened-internet" if change.internet else "opened"


def _place(difference: Difference, change: Change) -> Span | None:
    """In the new policy where there is one: what denies now, or the entry that admitted before."""
    if change.kind not in ("closed", "may close"):
        return change.reason.place
    entries = dict(difference.new.entries)
    return difference.new.reason(change.example).place or entries.get(change.reason.name)


def _result(code: str, message: str, place: Span | None, difference: Difference) -> dict[str, Any]:
    region = {"startLine": 1}
    file = difference.new.file or difference.old.file
    if place is not None:
        file = place.file
        region = {"startLine": place.line, "startColumn": place.column, "endColumn": place.column + place.length}
    location = {"artifactLocation": {"uri": quote(file)}, "region": region}
    return {
        "ruleId": code,
        "ruleIndex": list(RULES).index(code),
        "level": RULES[code][0],
        "message": {"text": message},
        "locations": [{"physicalLocation": location}],
    }
