"""What `portctl check` does, apart from the command line, so that its plain form starts fast."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datetime import datetime

    from portctl.pipeline import Compiled
    from portctl.problems import Problem


def run(files: Iterable[str], format: str = "text", at: datetime | None = None, root: Path | None = None) -> int:
    """Checks policies, prints what was found as `text` or `json`, and returns the exit status: 0, 1 or 2."""
    found = [(file, *examine(file, at, root)) for file in files]
    if format == "json":
        import json

        sys.stdout.write(json.dumps({"files": [_json(*result) for result in found]}, indent=2) + "\n")
    else:
        _print(found)
    return max((_status(compiled, problems) for _, compiled, problems in found), default=0)


def examine(file: str, at: datetime | None = None, root: Path | None = None) -> tuple[Compiled | None, list[Problem]]:
    """What a policy means, where it means something, and everything found wrong with it or its tests."""
    from portctl import pipeline
    from portctl.problems import Problems, order

    try:
        compiled = pipeline.compile(Path(file), at, root)
    except Problems as error:
        return None, order(error.problems)
    failed: list[Problem] = []
    if compiled.ruleset.settings:
        from portctl import sysctl

        if impossible := sysctl.gaps(compiled.ruleset):
            return None, order([*compiled.problems, *impossible])
    if compiled.ruleset.expectations:
        from portctl import expectations

        failed = expectations.evaluate(compiled.ruleset)
    from portctl.space.findings import findings

    return compiled, order([*compiled.problems, *failed, *findings(compiled.ruleset)])


def _status(compiled: Compiled | None, problems: list[Problem]) -> int:
    from portctl.problems import has_errors

    return 2 if compiled is None else int(has_errors(problems))


def _print(found: list[tuple[str, Compiled | None, list[Problem]]]) -> None:
    """A line for each policy on standard output, its problems on standard error."""
    from portctl.problems import text

    for file, compiled, problems in found:
        for problem in problems:
            sys.stderr.write(text(problem) + "\n\n")
        sys.stdout.write(f"{file}: {_verdict(compiled, problems)}\n")


def _verdict(compiled: Compiled | None, problems: list[Problem]) -> str:
    errors = sum(problem.severity == "error" for problem in problems)
    if compiled is None:
        return f"{_count(errors, 'error')}, more may show when they are gone"
    policy = compiled.policy
    parts = [_count(len(policy.services), "service")]
    for number, word in ((len(policy.egress), "egress entry"), (len(policy.forwards), "forward")):
        parts += [_count(number, word)] if number else []
    parts += [f"{len(policy.block)} blocked"] if policy.block else []
    if tests := len(policy.tests):
        parts.append(f"{tests - errors} of {tests} tests hold" if errors else f"{_count(tests, 'test')} hold")
    others = len(problems) - errors
    parts += [_count(others, "warning or note", "warnings or notes")] if others else []
    return f"{'failed' if errors else 'ok'}, {', '.join(parts)}"


def _count(number: int, word: str, several: str | None = None) -> str:
    plural = several or (word[:-1] + "ies" if word.endswith("y") else word + "s")
    return f"{number} {word if number == 1 else plural}"


def _json(file: str, compiled: Compiled | None, problems: list[Problem]) -> dict[str, Any]:
    from portctl import report

    status = _status(compiled, problems)
    return {"file": file, "status": status, "problems": [report.problem(problem) for problem in problems]}
