"""`portctl prove`: the texts that a policy becomes are read back, and do with every packet what the policy says."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from portctl.problems import Problem

PROVED, NOT_PROVED = 0, 1


def register(app: typer.Typer) -> None:
    app.command("prove")(prove)


def prove(
    files: Annotated[list[Path], typer.Argument(metavar="FILE…", help="Policies.", show_default=False)],
    backend: Annotated[str, typer.Option(help="nftables, iptables, or all.")] = "all",
    date: Annotated[str | None, typer.Option(help="Render for that day or moment, not for now.")] = None,
    root: Annotated[Path | None, typer.Option(help="Included files and lists stay below this folder.")] = None,
) -> None:
    """Prove that the rendered rules accept, reject and drop exactly the packets that the policy says.

    Exit status: 0 all is proved; 1 something is not, with a packet that shows it; 2 a policy is wrong, or a packet
    filter cannot say it.
    """
    from portctl.problems import text

    wrong = [problem for file in files for problem in _prove(file, backend, date, root)]
    for problem in wrong:
        typer.echo(text(problem) + "\n", err=True)
    raise typer.Exit(NOT_PROVED if wrong else PROVED)


def _prove(file: Path, backend: str, date: str | None, root: Path | None) -> list[Problem]:
    """Says of one policy what is proved, back end by back end."""
    from portctl import pipeline
    from portctl.backends.base import Ability

    names = pipeline.backend_names(backend)
    compiled = pipeline.compile(file, None if date is None else pipeline.moment(date), root)
    found = pipeline.prove(compiled.ruleset, names, pipeline.render(compiled.ruleset, names, Ability()))
    for name in names:
        verdict = "NOT PROVED" if found[name] else "proved for every packet"
        typer.echo(f"{file}: {name}: {verdict}")
    return [problem for name in names for problem in found[name]]
