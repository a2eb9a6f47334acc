"""What became of every line of the input."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Status = Literal["modelled", "approximated", "refused", "left"]
STATUSES: tuple[Status, ...] = ("modelled", "approximated", "refused", "left")
MEANINGS: dict[Status, str] = {
    "modelled": "the policy says the same",
    "approximated": "the policy says nearly the same; the reason says what differs",
    "refused": "the policy cannot say it",
    "left": "it belongs to a tool that keeps its own rules, and stays with it",
}


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of one input file. `line` counts from 1; of JSON it is the object's place in the list."""

    file: str
    line: int
    status: Status
    reason: str
    text: str
    structure: bool = False
    """No rule: an empty line, a comment, a brace, a table's name."""


@dataclass(frozen=True, slots=True)
class Account:
    entries: tuple[Entry, ...]

    def count(self) -> dict[Status, int]:
        """Rules, sets and policies of each status; lines that hold no rule are not counted."""
        found = Counter(entry.status for entry in self.entries if not entry.structure)
        return {status: found[status] for status in STATUSES}


def summary(account: Account) -> str:
    """`12 lines modelled, 2 approximated, 1 refused`."""
    counted = account.count()
    structure = sum(entry.structure for entry in account.entries)
    words = [f"{number} {status}" for status, number in counted.items() if number]
    return f"{len(account.entries)} lines: " + ", ".join([*words, f"{structure} without a rule"])


def text(account: Account) -> str:
    """Every line with what became of it: `file:line: status: reason`, then the line itself."""
    return "".join(f"{e.file}:{e.line}: {e.status}: {e.reason}\n    {_shown(e.text)}\n" for e in account.entries)


def as_json(account: Account) -> str:
    """{"version": 1, "count": {status: number}, "lines": [{"file", "line", "status", "reason", "text", "rule"}]}."""
    value = {
        "version": 1,
        "count": account.count(),
        "lines": [
            {
                "file": e.file,
                "line": e.line,
                "status": e.status,
                "reason": e.reason,
                "text": e.text,
                "rule": not e.structure,
            }
            for e in account.entries
        ],
    }
    return json.dumps(value, indent=2) + "\n"


def trouble(account: Account, most: int = 12) -> list[str]:
    """The lines that a person must look at: refused ones, then approximated ones, those of one reason together."""
    found: list[str] = []
    for status in ("refused", "approximated"):
        reasons: dict[str, list[Entry]] = {}
        for entry in account.entries:
            if entry.status == status:
                reasons.setdefault(entry.reason, []).append(entry)
        for reason, entries in list(reasons.items())[:most]:
            found.append(f"{status}: {_places(entries)}: {reason}")
        if len(reasons) > most:
            found.append(f"{status}: and {len(reasons) - most} reasons more (`--account text`)")
    return found


def _places(entries: Iterable[Entry]) -> str:
    listed = list(entries)
    shown = ", ".join(f"{e.file}:{e.line}" for e in listed[:4])
    return shown if len(listed) <= 4 else f"{shown} and {len(listed) - 4} lines more"


def _shown(line: str) -> str:
    safe = "".join(c if c.isprintable() else " " for c in line)
    return safe if len(safe) <= 200 else safe[:199] + "…"
