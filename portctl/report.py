"""Findings and problems as text for a person and as JSON for a program: the same values.

A JSON report is {"version": 1, "holds": bool, "counts": {severity: number}, "findings": [finding]}. A finding has
`code`, `severity`, `subject`, `message`, `advice`, `evidence` (lines), `place` (null, or `file`, `line`, `column`,
`length`, `text`). A problem has `code`, `severity`, `message`, `hint`, `place`, and `others`, each with a `message` and
a `place`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from portctl.problems import Problem, Severity, Span

SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
VERSION = 1


class Finding(Protocol):
    """What a report needs of a finding (`verify.Finding`)."""

    @property
    def code(self) -> str: ...
    @property
    def severity(self) -> Severity: ...
    @property
    def subject(self) -> str: ...
    @property
    def message(self) -> str: ...
    @property
    def advice(self) -> str: ...
    @property
    def evidence(self) -> tuple[str, ...]: ...
    @property
    def where(self) -> Span | None: ...


def findings_text(findings: Sequence[Finding], holds: str) -> str:
    """A report of `verify` with its line end: each finding with its place and evidence, at last how many there are.

    `holds` says what was looked at, for the case that all is well. Notes that say the same stand together.
    """
    groups: dict[tuple[object, ...], list[Finding]] = {}
    for finding in findings:
        alike = finding.severity == "note" and not finding.evidence
        key = (finding.code, finding.message) if alike else (id(finding),)
        groups.setdefault(key, []).append(finding)
    return "\n\n".join([*map(_group, groups.values()), _summary(findings, holds)]) + "\n"


def _group(findings: Sequence[Finding]) -> str:
    first = findings[0]
    subjects = ", ".join(plain(finding.subject) for finding in findings)
    lines = [f"{first.severity}[{first.code}]: {subjects}: {plain(first.message)}"]
    for finding in findings:
        if finding.where:
            lines.append(f"  policy  {finding.where.file}:{finding.where.line}: {plain(finding.where.text.strip())}")
    for number, line in enumerate(first.evidence):
        lines.append(f"  {'seen' if number == 0 else '    '}    {plain(line)}")
    lines.append(f"  do      {plain(first.advice)}")
    return "\n".join(lines)


def plain(text: str) -> str:
    """Text from a host, made harmless for a terminal."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text.replace("\t", " "))


def _summary(findings: Sequence[Finding], holds: str) -> str:
    counts = count(findings)
    wrong, notes = counts["error"] + counts["warning"], counts["note"]
    also = f" ({_number(notes, 'note')})" if notes else ""
    if wrong:
        return f"{_number(wrong, 'finding')}{also}"
    return f"all holds: {holds}{also}"


def _number(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


def count(findings: Iterable[Finding]) -> dict[str, int]:
    """How many there are of each severity."""
    counts = dict.fromkeys(map(str, SEVERITIES), 0)
    for finding in findings:
        counts[finding.severity] += 1
    return counts


def findings_json(findings: Sequence[Finding]) -> str:
    """The same as JSON, with its line end."""
    counts = count(findings)
    holds = not counts["error"] and not counts["warning"]
    return _dump({"version": VERSION, "holds": holds, "counts": counts, "findings": [_plainly(f) for f in findings]})


def _plainly(finding: Finding) -> dict[str, Any]:
    return {
        "code": finding.code,
        "severity": finding.severity,
        "subject": finding.subject,
        "message": finding.message,
        "advice": finding.advice,
        "evidence": list(finding.evidence),
        "place": place(finding.where),
    }


def place(span: Span | None) -> dict[str, Any] | None:
    """A place in a file; `line` and `column` count from 1."""
    if span is None:
        return None
    return {"file": span.file, "line": span.line, "column": span.column, "length": span.length, "text": span.text}


def problem(found: Problem) -> dict[str, Any]:
    """A problem of a policy as plain data."""
    return {
        "code": found.code,
        "severity": found.severity,
        "message": found.message,
        "hint": found.hint,
        "place": place(found.span),
        "others": [{"message": message, "place": place(span)} for message, span in found.others],
    }


def _dump(value: dict[str, Any]) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"
