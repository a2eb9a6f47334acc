"""`portctl check` and `portctl schema`: the language, without a host."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from datetime import datetime

    from portctl.pipeline import Compiled
    from portctl.problems import Problem, Span


def register(app: typer.Typer) -> None:
    app.command()(check)
    app.command()(schema)


def check(
    files: Annotated[list[str], typer.Argument(metavar="FILE…", help="Policies.", show_default=False)],
    format: Annotated[Literal["text", "json"], typer.Option(help="What to print.")] = "text",
    date: Annotated[
        str | None, typer.Option(metavar="DATE", help="Judge `until` at this day or moment instead of now.")
    ] = None,
    root: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where included and address files may lie. Default: FILE's folder."),
    ] = None,
) -> None:
    """Say what is wrong with policies, all of it, and run their tests.

    Exit status: 0 all well (warnings and notes included), 1 a test of a policy fails, 2 a policy is wrong.
    """
    from portctl.pipeline import moment

    at = moment(date) if date is not None else None
    found = [(file, *_check(file, at, root)) for file in files]
    if format == "json":
        import json

        sys.stdout.write(json.dumps({"files": [_json(*result) for result in found]}, indent=2) + "\n")
    else:
        _print(found)
    if code := max(_status(compiled, problems) for _, compiled, problems in found):
        raise typer.Exit(code)


def schema() -> None:
    """Print the language as JSON Schema, for editors."""
    import json

    from portctl.policy.schema import schema as build

    sys.stdout.write(json.dumps(build(), indent=2, ensure_ascii=False) + "\n")


def _check(file: str, at: datetime | None, root: Path | None) -> tuple[Compiled | None, list[Problem]]:
    """What a policy means, where it means something, and everything found wrong with it or its tests."""
    from portctl import pipeline
    from portctl.problems import Problems, order

    try:
        compiled = pipeline.compile(Path(file), at, root)
    except Problems as error:
        return None, order(error.problems)
    failed: list[Problem] = []
    if compiled.ruleset.expectations:
        from portctl import expectations

        failed = expectations.evaluate(compiled.ruleset)
    return compiled, order([*compiled.problems, *failed])


def _status(compiled: Compiled | None, problems: list[Problem]) -> int:
    from portctl.problems import has_errors

    return 2 if compiled is None else int(has_errors(problems))


def _print(found: list[tuple[str, Compiled | None, list[Problem]]]) -> None:
    """A line for each policy on standard output, its problems on standard error."""
    from portctl.problems import text

    for file, compiled, problems in found:
        for problem in problems:
            typer.echo(text(problem) + "\n", err=True)
        typer.echo(f"{file}: {_verdict(compiled, problems)}")


def _verdict(compiled: Compiled | None, problems: list[Problem]) -> str:
    errors = sum(problem.severity == "error" for problem in problems)
    if compiled is None:
        return f"{_count(errors, 'error')}, nothing was checked beyond them"
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
    status = _status(compiled, problems)
    return {"file": file, "status": status, "problems": [_problem(problem) for problem in problems]}


def _problem(problem: Problem) -> dict[str, Any]:
    return {
        "code": problem.code,
        "severity": problem.severity,
        "message": problem.message,
        "hint": problem.hint,
        "place": problem.span and _place(problem.span),
        "others": [{"message": message, "place": _place(span)} for message, span in problem.others],
    }


def _place(span: Span) -> dict[str, Any]:
    return {"file": span.file, "line": span.line, "column": span.column, "length": span.length, "text": span.text}
