"""`portctl remove`."""

from __future__ import annotations

from typing import Annotated

import typer

from portctl.cli.where import HERE, OnHost

AT_ONCE = 0
REFUSED = 3


def register(app: typer.Typer) -> None:
    app.command("remove")(remove)


def remove(
    host: OnHost = HERE,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go, and stop.")] = False,
    confirm_within: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Seconds after which everything comes back unless confirmed; default: 60 on another machine and where "
            "it may close what is open now, else 0: at once.",
        ),
    ] = None,
    wait: Annotated[int, typer.Option(min=0, help="Seconds to wait for another apply to end.")] = 0,
) -> None:
    """Take portctl away from a host: its rules, sets, settings, boot files, records; back to before the first apply.

    Exit status: 0, also where nothing was there; 3 the host refused, or you declined; 4 it was taken back.
    """
    from portctl.apply import removal
    from portctl.apply.transaction import Window
    from portctl.cli import talking, where

    with where.host(host, changes=True) as machine, talking.said():
        found = removal.look(machine)
        for line in found.lines():
            typer.echo(line)
        if found.empty:
            typer.echo("Nothing of portctl's is on this host.", err=True)
            return
        if dry_run:
            return
        talk = talking.talk(yes, machine, host)
        if not yes and not talking.agreed("Remove all this?"):
            typer.echo("portctl: nothing was changed", err=True)
            raise typer.Exit(REFUSED)
        seconds = confirm_within
        if seconds is None:
            seconds = 60 if host != HERE or found.may_close else AT_ONCE
        window = Window(seconds, talk.answer, found.facts.init == "systemd")
        removal.remove(machine, talking.who(host), window, talk, wait)
        typer.echo("Removed. Nothing of portctl's is left on this host.", err=True)
