"""`portctl check` and `portctl schema`: the language, without a host."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from portctl.cli import checking


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

    if code := checking.run(files, format, moment(date) if date is not None else None, root):
        raise typer.Exit(code)


def schema() -> None:
    """Print the language as JSON Schema, for editors."""
    import json

    from portctl.policy.schema import schema as build

    sys.stdout.write(json.dumps(build(), indent=2, ensure_ascii=False) + "\n")
