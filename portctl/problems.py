"""What is wrong with a policy, where, and what to write instead.

Each phase collects its problems and raises them together as one `Problems`. Each code has a heading in
`docs/problems.md`; a test holds the two lists together.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True, slots=True, order=True)
class Span:
    """A place in a text file: `line` and `column` count from 1; `length` is in characters of that line."""

    file: str
    line: int
    column: int
    length: int
    text: str
    """The whole line, without its line end."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with the input. `span` is None where the problem lies in no file (an argument, say)."""

    code: str
    message: str
    span: Span | None = None
    hint: str | None = None
    severity: Severity = "error"
    others: tuple[tuple[str, Span], ...] = ()
    """Further places, each with what it says there ("first declared here")."""


class Problems(Exception):
    """All problems that one phase found. `problems` holds at least one error."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems: tuple[Problem, ...] = tuple(problems)
        super().__init__("\n\n".join(text(problem) for problem in self.problems))


def has_errors(problems: Iterable[Problem]) -> bool:
    return any(problem.severity == "error" for problem in problems)


def order(problems: Iterable[Problem]) -> list[Problem]:
    """Problems in the order of the file, each once."""
    seen: dict[Problem, None] = dict.fromkeys(problems)
    return sorted(seen, key=lambda p: (p.span.file, p.span.line, p.span.column) if p.span else ("", 0, 0))


def text(problem: Problem) -> str:
    """A problem as the person reads it, without a line end."""
    lines = [f"{problem.severity}[{problem.code}]: {problem.message}"]
    if problem.span:
        lines += _place(problem.span)
    for note, span in problem.others:
        lines.append(f"note: {note}")
        lines += _place(span)
    if problem.hint:
        lines.append(f"hint: {problem.hint}")
    return "\n".join(lines)


MOST_COLUMNS = 160


def _place(span: Span) -> list[str]:
    number = str(span.line)
    margin = " " * len(number)
    line, column, length = _window(span)
    caret = " " * (column - 1) + "^" * max(1, min(length, len(line) - column + 1))
    return [
        f"{margin}--> {span.file}:{span.line}:{span.column}",
        f"{margin} |",
        f"{number} | {line}",
        f"{margin} | {caret}",
    ]


def _window(span: Span) -> tuple[str, int, int]:
    """The part of a long line that shows the span, with control characters made harmless."""
    line = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in span.text.replace("\t", " "))
    start = 0
    if len(line) > MOST_COLUMNS:
        start = max(0, min(span.column - 1 - MOST_COLUMNS // 4, len(line) - MOST_COLUMNS))
        line = line[start : start + MOST_COLUMNS]
    return line, max(1, span.column - start), span.length
