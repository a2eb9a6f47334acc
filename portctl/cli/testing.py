"""`portctl test`: a policy's `tests` on what is really loaded, back end by back end; and what no test would miss."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from portctl.backends.base import Difference
    from portctl.problems import Problem
    from portctl.program import Program
    from portctl.ruleset import Ruleset

HOLD, FAIL = 0, 1


def register(app: typer.Typer) -> None:
    app.command("test")(test)


def test(
    files: Annotated[list[Path], typer.Argument(metavar="FILE…", help="Policies.", show_default=False)],
    mutate: Annotated[
        bool, typer.Option("--mutate", help="Name the entries and conditions that no test would miss: exit 1.")
    ] = False,
    backend: Annotated[str, typer.Option(help="nftables, iptables, pf-freebsd, …, or all.")] = "all",
    date: Annotated[str | None, typer.Option(help="Judge `until` at this day or moment instead of now.")] = None,
    root: Annotated[Path | None, typer.Option(help="Included and address files may lie below this folder.")] = None,
) -> None:
    """Run a policy's `tests` on the policy, and on the text of each packet filter that can say it, read back.

    Exit status: 0 all hold (with --mutate: and nothing could go unnoticed), 1 not so, 2 the input is wrong.
    """
    from portctl import expectations, pipeline
    from portctl.backends.base import Ability
    from portctl.problems import text

    at = datetime.now(UTC) if date is None else pipeline.moment(date)
    names = pipeline.backend_names(backend)
    failed = False
    for file in files:
        ruleset = pipeline.compile(file, at, root).ruleset
        able = [name for name, gaps in pipeline.sayable(ruleset, names, Ability()).items() if not gaps]
        wrong = [*expectations.evaluate(ruleset), *_on_texts(ruleset, able)]
        for problem in wrong:
            typer.echo(text(problem) + "\n", err=True)
        number = len(ruleset.expectations)
        verdict = f"{len(wrong)} failure{'' if len(wrong) == 1 else 's'}" if wrong else "hold"
        typer.echo(f"{file}: {number} test{'' if number == 1 else 's'}, on the policy, {', '.join(able)}: {verdict}")
        failed = failed or bool(wrong)
        if mutate and not wrong:
            unnoticed = list(dict.fromkeys(_unnoticed(ruleset)))
            for line in unnoticed:
                typer.echo(f"  no test would miss it: {line}")
            if not unnoticed:
                typer.echo("  every entry and condition would be missed by a test")
            failed = failed or bool(unnoticed)
    raise typer.Exit(FAIL if failed else HOLD)


def _on_texts(ruleset: Ruleset, names: Sequence[str]) -> Iterator[Problem]:
    """The tests for which a text that is rendered does anything else than the policy."""
    from portctl import backends
    from portctl.backends.base import Ability

    loaded = {name: backends.load(name) for name in names}
    programs = {name: backend.parse(backend.render(ruleset, Ability())) for name, backend in loaded.items()}
    forced = {name: backend.differences(ruleset, Ability()) for name, backend in loaded.items()}
    yield from unlike(ruleset, programs, forced)


def unlike(
    ruleset: Ruleset, programs: Mapping[str, Program], forced: Mapping[str, Sequence[Difference]]
) -> Iterator[Problem]:
    """The tests for which a program does anything else than the policy, with a packet of theirs, but for what its
    platform forces. What does the same fails and holds with the policy."""
    from portctl.problems import Problem
    from portctl.space import Space
    from portctl.space.forced import explained
    from portctl.space.proof import judged
    from portctl.space.questions import of_expectation, query_set

    space = Space()
    meant = space.of_ruleset(ruleset)
    for name, program in programs.items():
        differing = explained(meant, space.of_program(program), forced.get(name, ())).left
        for expectation in ruleset.expectations if differing else ():
            packet = judged(ruleset, program, query_set(space, of_expectation(expectation)) & differing)
            if packet is not None:
                shown = packet.problem(name)
                yield Problem("failed-test", shown.message, expectation.span, shown.hint)


def _unnoticed(ruleset: Ruleset) -> Iterator[str]:
    from portctl import expectations
    from portctl.space.mutation import unmissed

    for mutant in unmissed(ruleset, lambda changed: not expectations.evaluate(changed)):
        place = mutant.rule.span
        yield f"{mutant.what}" + (f"  ({place.file}:{place.line})" if place else "")
