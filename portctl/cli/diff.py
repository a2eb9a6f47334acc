"""`portctl diff`: what becomes reachable, and what no longer is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from portctl.cli import comparing
from portctl.cli.where import HERE, OnHost

Format = Literal["text", "markdown", "json", "sarif"]
FailOn = Literal["any", "widened", "internet"]


def register(app: typer.Typer) -> None:
    app.command("diff")(diff)


def diff(
    files: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="OLD NEW",
            help="Policies, rule files, bundle folders, saved rule sets (several joined with commas), `host` (see "
            "--host), or another machine as --host names it. "
            "With --git: policies, or folders of them; default: here.",
            show_default=False,
        ),
    ] = None,
    git: Annotated[
        str | None, typer.Option("--git", metavar="REV", help="Compare policies with what they were in a revision.")
    ] = None,
    form: Annotated[Format, typer.Option("--format", help="text, markdown, json or sarif.")] = "text",
    fail_on: Annotated[
        FailOn, typer.Option("--fail-on", help="Exit with 1 for: any difference, more reachable, more of the Internet.")
    ] = "any",
    date: Annotated[str | None, typer.Option(help="Judge `until` at this day or moment instead of now.")] = None,
    root: Annotated[Path | None, typer.Option(help="Included and address files may lie below this folder.")] = None,
    host: OnHost = HERE,
) -> None:
    """Say in words what opens and what closes between two rule sets, the widest first, then show the texts' diff.

    Exit status: 0 nothing does (or not what --fail-on asks for), 1 something does, 2 the input is wrong, 3 the host
    or git could not be asked.
    """
    if host != HERE and (git is not None or "host" not in (files or ())):
        raise typer.BadParameter("--host says which machine `host` is: name `host` as one of both")
    if git is None and len(files or ()) != 2:
        raise typer.BadParameter("name what was and what shall be, or --git REV and policies")
    raise typer.Exit(comparing.run(files or [], git, form, fail_on, date, root, host))
