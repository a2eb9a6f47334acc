"""The command line. Each command group is a module of this package with `register(app)`; only the one that is asked
for is imported, so that a small command starts fast."""

from __future__ import annotations

import sys
from importlib import import_module

import typer

GROUPS: dict[str, tuple[str, ...]] = {
    "policy": ("check", "schema"),
    "ports": ("ports",),
    "render": ("render",),
    "apply": ("plan", "apply", "confirm", "rollback", "status", "history"),
    "verify": ("verify",),
}
"""Module of `portctl.cli` → its commands, in the order of the help page."""


def build(arguments: list[str]) -> typer.Typer:
    """The application with the commands that these arguments may need."""
    app = typer.Typer(
        name="portctl",
        help="Says which ports of a server are open, to whom, and proves that it is so.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_top)
    word = next((a for a in arguments if not a.startswith("-")), None)
    wanted = [group for group, commands in GROUPS.items() if word in commands] or list(GROUPS)
    for group in wanted:
        import_module(f"portctl.cli.{group}").register(app)
    return app


def _top(version: bool = typer.Option(False, "--version", is_eager=True, help="Print the version and stop.")) -> None:
    if version:
        from portctl import __version__

        typer.echo(f"portctl {__version__}")
        raise typer.Exit


def main() -> None:
    """The console script. Exit codes: see the policy language; a problem with the input is 2, a refusing host 3."""
    from portctl.command import HostError
    from portctl.problems import Problems

    try:
        build(sys.argv[1:])()
    except Problems as problems:
        typer.echo(str(problems), err=True)
        raise SystemExit(2) from None
    except HostError as error:
        typer.echo(f"portctl: {error}", err=True)
        raise SystemExit(3) from None
    except BrokenPipeError:
        sys.stderr.close()
        raise SystemExit(141) from None
