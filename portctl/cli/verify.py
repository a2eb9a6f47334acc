"""`portctl verify`: does the policy hold on this host?"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from portctl.cli.where import HERE, OnHost

if TYPE_CHECKING:
    from portctl.command import Host
    from portctl.pipeline import Compiled

HOLDS, DIFFERS, REFUSED = 0, 1, 3


def register(app: typer.Typer) -> None:
    app.command("verify")(verify)


def verify(
    file: Annotated[Path, typer.Argument(help="The policy.", show_default=False)],
    form: Annotated[Literal["text", "json"], typer.Option("--format", help="text or json.")] = "text",
    backend: Annotated[
        str | None, typer.Option(help="nftables or iptables; default: what the last apply used, or fits.")
    ] = None,
    anchor: Annotated[
        bool, typer.Option("--anchor", help="pf: portctl keeps to an anchor; default: as the last apply.")
    ] = False,
    date: Annotated[
        str | None, typer.Option(help="Judge `until` at this moment: 2027-01-31, or 2027-01-31T18:00Z.")
    ] = None,
    root: Annotated[Path | None, typer.Option(help="Included and address files may lie below this folder.")] = None,
    sandbox: Annotated[
        bool, typer.Option("--sandbox", help="Apply it to a throwaway host of its own first, and verify that one.")
    ] = False,
    with_listeners: Annotated[
        bool, typer.Option("--with-listeners", help="In the sandbox: somebody listens on what the policy opens.")
    ] = False,
    machine: OnHost = HERE,
) -> None:
    """Hold the policy, the loaded rules and the listening sockets against each other.

    Exit status: 0 all holds (notes included), 1 something differs or could not be seen, 2 the policy is wrong, 3 the
    host could not be asked.
    """
    from portctl import backends, pipeline, report
    from portctl.inspection import inspect
    from portctl.problems import Problem, Problems, text
    from portctl.verify import wrong

    known = dict.fromkeys((*backends.OFFERED, *backends.EVERY))
    if backend is not None and backend not in known:
        hint = f"known are {', '.join(known)}"
        raise Problems([Problem("unknown-backend", f"there is no back end `{backend}`", None, hint)])
    at = datetime.now(UTC) if date is None else pipeline.moment(date)
    compiled = pipeline.compile(file, at, root)
    for problem in compiled.problems:
        if problem.code != "expired":
            typer.echo(text(problem) + "\n", err=True)
    with _host(compiled, file, backend, sandbox, with_listeners, machine) as host:
        seen = inspect(host, compiled, at, backend, boot=not sandbox, anchor=anchor)
    findings = seen.findings
    typer.echo(
        report.findings_json(findings) if form == "json" else report.findings_text(findings, seen.looked_at()), nl=False
    )
    raise typer.Exit(DIFFERS if wrong(findings) else HOLDS)


@contextmanager
def _host(
    compiled: Compiled, file: Path, backend: str | None, sandbox: bool, with_listeners: bool, machine: str
) -> Iterator[Host]:
    """The host; or a sandbox to which the policy was applied."""
    if not sandbox:
        from portctl.cli import where

        with where.host(machine) as found:
            yield found
        return
    if machine != HERE:
        raise typer.BadParameter("a sandbox is a host of its own: take one of --sandbox and --host")
    from portctl import apply as applying
    from portctl.hosts.sandbox import Sandbox

    text = file.read_text(encoding="utf-8")
    request = applying.Request(compiled.ruleset, text, "portctl verify", confirm_within=0, backend=backend)
    with Sandbox.for_ruleset(compiled.ruleset, with_listeners) as box:
        try:
            applying.apply(box.host, request, applying.Talk())
        except (applying.Refused, applying.RolledBack) as refused:
            typer.echo(f"portctl: the sandbox could not be made as the policy says: {refused}", err=True)
            raise typer.Exit(REFUSED) from None
        yield box.host
