"""The conversation with whoever gave the command: refusals as exit codes, questions, answers, plans shown."""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

from portctl.cli import where
from portctl.cli.where import HERE

if TYPE_CHECKING:
    from portctl.apply import Talk
    from portctl.command import Host
    from portctl.plan import Plan

REFUSED, ROLLED_BACK = 3, 4


@contextmanager
def said() -> Iterator[None]:
    """Refusals and rollbacks become a line and an exit code."""
    from portctl.apply import Refused, RolledBack

    try:
        yield
    except Refused as refused:
        typer.echo(f"portctl: {refused}", err=True)
        raise typer.Exit(REFUSED) from None
    except RolledBack as undone:
        typer.echo(f"portctl: {undone}", err=True)
        raise typer.Exit(ROLLED_BACK) from None


def who(host: str = HERE) -> str:
    """Who asks, for the record; another machine is told from which one."""
    import getpass
    import platform

    name = os.environ.get("SUDO_USER") or getpass.getuser()
    source = os.environ.get("SSH_CONNECTION", "").split(" ")[0]
    if host != HERE:
        return f"{name}@{platform.node()}"
    return f"{name} from {source}" if source else name


def talk(yes: bool, found: Host | None = None, host: str = HERE, by_hand: bool = False) -> Talk:
    from portctl.apply import Talk

    answer = None if found is None or by_hand else where.comes_in_again(found, host)
    if answer is not None:
        return Talk(
            show=show,
            agree=lambda _: yes or agreed("Apply this?"),
            say=lambda text: typer.echo(text, err=True),
            answer=answer,
            confirming="Then portctl comes in anew; if it cannot within {seconds} seconds, the old rules come back.",
        )
    if host != HERE:  # the console that may answer is that machine's, not ours
        return Talk(
            show=show,
            agree=lambda _: yes or agreed("Apply this?"),
            say=lambda text: typer.echo(text, err=True),
            confirming=f"Confirm within {{seconds}} seconds: portctl confirm --host {host}",
        )
    return Talk(
        show=show,
        agree=lambda _: yes or agreed("Apply this?"),
        say=lambda text: typer.echo(text, err=True),
        answer=_answer(),
    )


def agreed(question: str) -> bool:
    """Asks; no is the default, and the answer where nobody can be asked."""
    if not sys.stdin.isatty():
        typer.echo("portctl: not a terminal, so nobody can be asked: use --yes", err=True)
        return False
    typer.echo(f"{question} [y/N] ", err=True, nl=False)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _answer() -> Callable[[], bool | None]:
    """Asks the terminal of apply itself, which only a console may: an ssh session would answer over the old
    connection."""
    from portctl.wayin import is_console, is_console_name

    def nobody() -> bool | None:
        return None

    try:
        terminal = sys.stdin.isatty()
        if sys.platform == "linux":
            console = terminal and is_console(os.fstat(sys.stdin.fileno()).st_rdev)
        else:
            console = terminal and is_console_name(os.ttyname(sys.stdin.fileno()))
    except (OSError, ValueError):
        return nobody
    asked: list[bool] = []

    def ask() -> bool | None:
        if not asked:
            asked.append(True)
            typer.echo("Keep it? [y/n] ", err=True, nl=False)
        if not select.select([sys.stdin], [], [], 0)[0]:
            return None
        word = sys.stdin.readline().strip().lower()
        return {"y": True, "yes": True, "n": False, "no": False}.get(word)

    return ask if console else nobody


def show(made: Plan) -> None:
    from portctl.plan.text import lines

    colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    for line in lines(made, colour):
        typer.echo(line, color=colour)
