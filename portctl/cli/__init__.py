"""The command line. Each command group is a module of this package with `register(app)`; only the one that is asked
for is imported, so that a small command starts fast."""

from __future__ import annotations

import gc
import sys
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import typer

GROUPS: dict[str, tuple[str, ...]] = {
    "policy": ("check", "schema"),
    "ports": ("ports",),
    "render": ("render",),
    "prove": ("prove",),
    "testing": ("test",),
    "diff": ("diff",),
    "asking": ("explain", "reach"),
    "apply": ("plan", "apply", "confirm", "rollback", "status", "history"),
    "removing": ("remove",),
    "verify": ("verify",),
    "facts": ("facts",),
    "importing": ("import", "init"),
}
"""Module of `portctl.cli` → its commands, in the order of the help page."""


def build(arguments: list[str]) -> typer.Typer:
    """The application with the commands that these arguments may need."""
    import typer

    app = typer.Typer(
        name="portctl",
        help="Says which ports of a server are open, to whom, and proves that it is so.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )

    def show(wanted: bool) -> None:
        if wanted:
            from portctl import __version__

            typer.echo(f"portctl {__version__}")
            raise typer.Exit

    @app.callback()
    def _top(
        version: bool = typer.Option(
            False, "--version", is_eager=True, callback=show, help="Print the version and stop."
        ),
    ) -> None:
        del version

    word = next((a for a in arguments if not a.startswith("-")), None)
    wanted = [group for group, commands in GROUPS.items() if word in commands] or list(GROUPS)
    for group in wanted:
        import_module(f"portctl.cli.{group}").register(app)
    return app


def main() -> None:
    """The console script. Exit codes: see the policy language; a problem with the input is 2, a refusing host 3."""
    from portctl.command import HostError
    from portctl.problems import Problems

    arguments = sys.argv[1:]
    gc.disable()  # a command is short and its values form no loops; looking for them costs a sixth of a large policy
    try:
        if arguments[:1] in (["check"], ["diff"]):
            from portctl.cli import light

            if (status := light.run(arguments)) is not None:
                raise SystemExit(status)
        build(arguments)()
    except Problems as problems:
        print(problems, file=sys.stderr)
        raise SystemExit(2) from None
    except HostError as error:
        print(f"portctl: {error}", file=sys.stderr)
        raise SystemExit(3) from None
    except BrokenPipeError:
        sys.stderr.close()
        raise SystemExit(141) from None
