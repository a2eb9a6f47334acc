"""`portctl import` and `portctl init`: a policy of what is there."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from portctl.cli.where import HERE, OnHost

if TYPE_CHECKING:
    from collections.abc import Mapping

    from portctl.importing import Imported

EQUAL, DIFFERS, WRONG = 0, 1, 2
MOST_WORDS = 40
"""So many lines of differences are printed."""
MOST_CHANGES = 80
"""So many changes are put into words."""
MOST_GROUPS = 300
"""Of more, none is named in them: to find each set among thousands takes a minute."""


def register(app: typer.Typer) -> None:
    app.command("import")(bring)
    app.command("init")(init)


def bring(
    files: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Saved rule sets, `-` for standard input; none: what --host has loaded.", show_default=False
        ),
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write the policy here.")] = None,
    account: Annotated[
        Literal["text", "json"] | None, typer.Option(help="Print what became of every line, instead of the policy.")
    ] = None,
    name: Annotated[str, typer.Option(help="Name of the policy.")] = "imported",
    ipv6: Annotated[
        Literal["alike", "closed"],
        typer.Option(
            help="Where the input speaks of IPv4 alone: what it opens to everybody is open in IPv6 too, or not."
        ),
    ] = "alike",
    host: OnHost = HERE,
) -> None:
    """Make a policy of rules that somebody else wrote, account for every line, and prove that both admit the same.

    Reads what iptables-save, ip6tables-save, ipset save, nft list ruleset and nft -j list ruleset print, several
    files at once. Exit status: 0 the policy admits exactly what the input admits, 1 it differs (standard error says
    how), 2 the input is no rule set, or too much of one, 3 the host could not be asked.
    """
    from portctl import importing
    from portctl.importing import account as accounts

    _check_name(name)
    if files and host != HERE:
        raise typer.BadParameter("name saved rule sets, or --host")
    alike = ipv6 == "alike"
    found = importing.from_texts(_texts(files), name, alike) if files else _of_host(host, name, alike)
    if output is not None and found.text:
        _write(output, found.text)
    if account is not None:
        typer.echo(accounts.text(found.account) if account == "text" else accounts.as_json(found.account), nl=False)
    elif output is None:
        typer.echo(found.text, nl=False)
    _say(found)
    raise typer.Exit(EQUAL if found.equal else DIFFERS if found.text else WRONG)


def _check_name(name: str) -> None:
    import re

    from portctl.policy.shape import NAME_PATTERN
    from portctl.problems import Problem, Problems

    if not re.match(NAME_PATTERN, name):
        hint = "a lower-case letter, then up to 30 lower-case letters, digits, `-` or `_`"
        raise Problems([Problem("bad-name", f"`{name}` is no name for a policy", None, hint)])


def _texts(files: list[Path]) -> Mapping[str, str]:
    from portctl.problems import Problem, Problems

    texts: dict[str, str] = {}
    for path in files:
        try:
            data = sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
        except OSError as error:
            raise Problems([Problem("no-file", f"`{path}` cannot be read: {error.strerror}")]) from None
        texts["stdin" if str(path) == "-" else str(path)] = data.decode("utf-8", errors="replace")
    return texts


def _write(path: Path, text: str) -> None:
    """Never over a file that is there."""
    from portctl.problems import Problem, Problems

    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise Problems([Problem("cannot-write", f"`{path}`: {error.strerror}", None, "give a new name")]) from None


def _of_host(target: str, name: str, alike: bool) -> Imported:
    from portctl import observe
    from portctl.cli import where
    from portctl.command import HostError
    from portctl.importing import of_observed

    with where.host(target) as host:
        known = observe.facts(host)
        observed = observe.observe(host, observe.readers(known), (), known)
    if observed.program is None:
        raise HostError("; ".join(observed.unknown) or "the loaded rules could not be read")
    return of_observed(observed, name, alike)


def _say(found: Imported) -> None:
    """The summary, on standard error."""
    from portctl.importing import account as accounts
    from portctl.problems import text
    from portctl.space import report

    say = [accounts.summary(found.account), *accounts.trouble(found.account), *(f"note: {n}" for n in found.notes)]
    for problem in found.problems:
        say.append(text(problem))
    if found.equal:
        say.append("proved: the policy admits exactly what the input admits")
    elif found.unread and found.difference is not None and found.difference.relation == "same":
        say.append(f"the policy admits exactly what was read; not read: {found.unread} lines that may be rules")
    elif found.difference is not None:
        say.append("the policy does not admit exactly what the input admits:")
        first = replace(found.difference, changes=found.difference.changes[:MOST_CHANGES])
        if len(first.new.groups) > MOST_GROUPS:
            first = replace(first, new=replace(first.new, groups=()))
        listed = report.in_words(first).splitlines()[1:]
        say += listed[:MOST_WORDS]
        more = len(listed[MOST_WORDS:]) + len(found.difference.changes[MOST_CHANGES:])
        if more:
            say.append(f"  and {more} more")
    for line in say:
        typer.echo(line, err=True)


def init(
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write the policy here.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the policy; default: the host's.")] = None,
    host: OnHost = HERE,
) -> None:
    """Make a first policy of a host: what listens, who talks to it, what its rules admit now; each line with its
    evidence as a comment. Exit status: 0, or 3 where the host could not be asked.
    """
    from portctl import observe
    from portctl.cli import where
    from portctl.command import Command
    from portctl.importing.first import first
    from portctl.importing.words import slug

    if name is not None:
        _check_name(name)
    with where.host(host) as machine:
        known = observe.facts(machine)
        observed = observe.observe(machine, observe.readers(known), (), known)
        called = machine.run(Command(("uname", "-n"))).stdout.strip()
    found = first(observed, name or slug(called.split(".")[0]) or "host")
    if output is None:
        typer.echo(found.text, nl=False)
    else:
        _write(output, found.text)
    for note in found.notes:
        typer.echo(f"note: {note}", err=True)
