"""plan, apply, confirm, rollback, status, history."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, cast

import typer

from portctl.cli import talking, where
from portctl.cli.where import HERE, OnHost

if TYPE_CHECKING:
    from portctl.apply import Request
    from portctl.apply.history import Record
    from portctl.command import Host
    from portctl.hosts.probe import Trial
    from portctl.ruleset import Ruleset

Format = Literal["text", "json"]
File = Annotated[Path, typer.Argument(help="The policy.", show_default=False)]
Backend = Annotated[str | None, typer.Option(help="nftables or iptables; default: what the last apply used, or fits.")]
Exclusive = Annotated[bool, typer.Option("--exclusive", help="Take others' rules out of the hooks portctl manages.")]
Anchor = Annotated[
    bool, typer.Option("--anchor", help="pf: keep to the anchor `portctl` of a main rule set that is somebody else's.")
]
InSandbox = Annotated[bool, typer.Option("--sandbox", help="On a throwaway host of its own instead of this one.")]
WithListeners = Annotated[
    bool, typer.Option("--with-listeners", help="In the sandbox: somebody listens on what the policy opens.")
]
Date = Annotated[str | None, typer.Option(help="Render for this moment: 2027-01-31, or 2027-01-31T18:00Z.")]
Root = Annotated[Path | None, typer.Option(help="Included and address files may lie below this folder.")]
Wait = Annotated[int, typer.Option(min=0, help="Seconds to wait for another apply to end.")]
AS_IS, CHANGED, REFUSED, ROLLED_BACK = 0, 1, 3, 4


def register(app: typer.Typer) -> None:
    app.command("plan")(plan)
    app.command("apply")(apply)
    app.command("confirm")(confirm)
    app.command("rollback")(rollback)
    app.command("status")(status)
    app.command("history")(history)


def plan(
    file: File,
    backend: Backend = None,
    exclusive: Exclusive = False,
    anchor: Anchor = False,
    sandbox: InSandbox = False,
    with_listeners: WithListeners = False,
    exit_code: Annotated[bool, typer.Option("--exit-code", help="Exit with 1 where something would change.")] = False,
    date: Date = None,
    root: Root = None,
    host: OnHost = HERE,
) -> None:
    """Show what apply would change, and change nothing."""
    from portctl import apply as applying

    request = _request(file, date, root, host, backend=backend, exclusive=exclusive, anchor=anchor)
    with _host(request.ruleset, sandbox, with_listeners, host) as found, talking.said():
        made = applying.plan(found, request)
    talking.show(made)
    raise typer.Exit(CHANGED if exit_code and not made.empty else AS_IS)


def apply(
    file: File,
    confirm_within: Annotated[
        int, typer.Option(min=0, help="Seconds after which the old rules come back unless confirmed; 0: never.")
    ] = 60,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask. This does not confirm.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Stop after the plan.")] = False,
    backend: Backend = None,
    allow_lockout: Annotated[bool, typer.Option("--allow-lockout", help="Even if you would be locked out.")] = False,
    exclusive: Exclusive = False,
    anchor: Anchor = False,
    wait: Wait = 0,
    sandbox: InSandbox = False,
    with_listeners: WithListeners = False,
    date: Date = None,
    root: Root = None,
    host: OnHost = HERE,
    by_hand: Annotated[
        bool,
        typer.Option(
            "--by-hand", help="With --host: wait for `portctl confirm`, and do not confirm by coming in anew."
        ),
    ] = False,
) -> None:
    """Load a policy. Unless it is confirmed over a new connection, the old rules come back by themselves.

    With --host, portctl itself confirms, by coming in anew from here once the rules are loaded.
    """
    from portctl import apply as applying

    if dry_run:
        plan(file, backend, exclusive, anchor, sandbox, with_listeners, False, date, root, host)
    request = _request(
        file,
        date,
        root,
        host,
        confirm_within=0 if sandbox else confirm_within,
        backend=backend,
        allow_lockout=allow_lockout,
        exclusive=exclusive,
        anchor=anchor,
        wait=wait,
    )
    if sandbox:
        raise typer.Exit(_in_sandbox(file, request, with_listeners, date, root))
    with where.host(host, changes=True) as found, talking.said():
        ended = applying.apply(found, request, talking.talk(yes, found, host, by_hand))
        typer.echo(_ENDED.get(ended, ended).format(how_long=where.how_long(host, _init(found))), err=True)
        if ended not in _ENDED:
            raise typer.Exit(CHANGED)


def _init(host: Host) -> str:
    """What boots a host; `other` where it does not answer any more."""
    from portctl.command import HostError
    from portctl.observe import facts

    try:
        return facts(host).init
    except HostError:
        return "other"


def _in_sandbox(file: Path, request: Request, with_listeners: bool, date: str | None, root: Path | None) -> int:
    """The whole of apply and verify on a throwaway host, with real packets for the policy's `tests`."""
    from datetime import UTC, datetime

    from portctl import apply as applying
    from portctl import pipeline, report
    from portctl.hosts.probe import expectations
    from portctl.hosts.sandbox import Sandbox
    from portctl.inspection import inspect
    from portctl.verify import wrong

    at = datetime.now(UTC) if date is None else pipeline.moment(date)
    compiled = pipeline.compile(file, at, root)
    with Sandbox.for_ruleset(request.ruleset, with_listeners) as box, talking.said():
        applying.apply(box.host, request, talking.talk(True))
        trials = expectations(box, request.ruleset)
        seen = inspect(box.host, compiled, at, request.backend, boot=False)
    typer.echo(f"\nIn force in the sandbox. Sent real packets for the {len(trials)} entries of `tests`:")
    for trial in trials:
        typer.echo(_trial_text(trial))
    typer.echo(report.findings_text(seen.findings, seen.looked_at()), nl=False)
    if any(not trial.holds for trial in trials):
        return CHANGED
    # Without listeners nothing is there to listen: only that is no finding in a sandbox.
    serious = [f for f in seen.findings if with_listeners or f.code != "not-listening"]
    return CHANGED if wrong(serious) else AS_IS


def _trial_text(trial: Trial) -> str:
    span = trial.expectation.span
    where = f"{span.file}:{span.line}" if span else "tests"
    if not trial.sent:
        return f"  not tried  {where}: nothing that it speaks of can be sent here"
    packets = f"{trial.sent} packet{'' if trial.sent == 1 else 's'}"
    if trial.holds:
        return f"  holds      {where}: {packets}, {trial.expectation.expect.value}"
    packet, verdict = trial.wrong[0]
    return f"  FAILS      {where}: {packet.source} → {packet.destination} port {packet.port}: {verdict.value}"


_ENDED = {
    "unchanged": "Nothing to do: this host is as the policy wants it.",
    "confirmed": "Confirmed. It is in force, {how_long}.",
}


def confirm(host: OnHost = HERE) -> None:
    """Confirm the pending apply: from a console, or over a connection that is younger than the new rules."""
    from portctl import apply as applying

    with where.host(host, changes=True) as found, talking.said():
        typer.echo(applying.confirm(found, where.beside(host)).capitalize() + ".", err=True)


def rollback(
    number: Annotated[int | None, typer.Argument(help="Of the record to take back; default: the last.")] = None,
    wait: Wait = 0,
    host: OnHost = HERE,
) -> None:
    """Bring back, at once, the state before the pending or the last apply, or before record NUMBER."""
    from portctl import apply as applying

    with where.host(host, changes=True) as found, talking.said():
        said = applying.rollback(found, number, talking.who(host), wait)
        typer.echo(said[:1].upper() + said[1:] + ".", err=True)


def status(
    form: Annotated[Format, typer.Option("--format", help="text or json.")] = "text", host: OnHost = HERE
) -> None:
    """Say what is in force, whether something is pending, and what is not as it was confirmed."""
    from portctl import apply as applying

    with where.host(host) as machine, talking.said():
        found = applying.status(machine)
    if form == "json":
        typer.echo(json.dumps(asdict(found), indent=2, ensure_ascii=False))
    else:
        _print_status(found.record, found.pending, found.findings, found.notes, where.how_long(host, found.init))
    raise typer.Exit(CHANGED if found.findings else AS_IS)


def _print_status(
    record: Record | None, pending: str | None, findings: tuple[str, ...], notes: tuple[str, ...], how_long: str
) -> None:
    if record is None:
        typer.echo("Nothing of portctl's is in force on this host.")
    else:
        about = record.about
        typer.echo(f"In force: {about.policy} ({about.backend}), record {record.number}, by {about.who}, {about.when}.")
        if about.kind == "rollback":
            typer.echo(f"It is the state before record {about.takes_back}, brought back.")
    if pending:
        typer.echo(f"Pending: {pending}.")
    for finding in findings:
        typer.echo(f"! {finding}")
    for note in notes:
        typer.echo(f"  {note}")
    if record is not None and not findings and not pending:
        typer.echo(f"The host is as it was confirmed, {how_long}.")


def history(
    form: Annotated[Format, typer.Option("--format", help="text or json.")] = "text", host: OnHost = HERE
) -> None:
    """List every apply of a host: when, by whom, and how it ended."""
    from portctl.apply.history import records

    with where.host(host) as machine, talking.said():
        found = records(machine)
    if form == "json":
        typer.echo(json.dumps([asdict(record) for record in found], indent=2, ensure_ascii=False))
        return
    for record in found:
        about = record.about
        what = about.policy if about.kind == "apply" else about.kind
        if about.takes_back is not None:
            what = f"rollback of {about.takes_back}: {about.policy or 'nothing'}"
        why = f" ({record.why})" if record.why else ""
        typer.echo(f"{record.number:>4}  {about.when}  {record.outcome}{why}  {what}  {about.backend}  {about.who}")


# ---- between the command line and the functions


def _request(file: Path, date: str | None, root: Path | None, host: str = HERE, **options: object) -> Request:
    """What is asked for. A policy whose own `tests` fail is not applied: exit status 1."""
    from portctl import backends, expectations, pipeline
    from portctl.apply import Request
    from portctl.problems import Problem, Problems, has_errors, text

    if options.get("anchor") and options.get("exclusive"):
        raise typer.BadParameter("an anchor leaves others' rules as they are: take one of --anchor and --exclusive")
    known = dict.fromkeys((*backends.OFFERED, *backends.EVERY))
    if options.get("backend") not in (None, *known):
        hint = f"known are {', '.join(known)}"
        raise Problems([Problem("unknown-backend", f"there is no back end `{options['backend']}`", None, hint)])
    compiled = pipeline.compile(file, None if date is None else pipeline.moment(date), root)
    failed = expectations.evaluate(compiled.ruleset)
    for problem in (*compiled.problems, *failed):
        typer.echo(text(problem) + "\n", err=True)
    if has_errors(failed):
        raise typer.Exit(CHANGED)
    return Request(compiled.ruleset, file.read_text(encoding="utf-8"), talking.who(host), **options)  # type: ignore[arg-type]


@contextmanager
def _host(ruleset: Ruleset, sandbox: bool, with_listeners: bool, host: str) -> Iterator[Host]:
    if not sandbox:
        with where.host(host) as found:
            yield found
        return
    if host != HERE:
        raise typer.BadParameter("a sandbox is a host of its own: take one of --sandbox and --host")
    from portctl.hosts.sandbox import Sandbox

    with Sandbox.for_ruleset(ruleset, with_listeners) as box:
        yield cast("Host", box.host)
