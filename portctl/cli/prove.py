"""`portctl prove`: the texts that a policy becomes are read back, and do with every packet what the policy says."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from portctl.problems import Problem
    from portctl.space.proof import Proof

PROVED, NOT_PROVED = 0, 1


def register(app: typer.Typer) -> None:
    app.command("prove")(prove)


def prove(
    files: Annotated[list[Path], typer.Argument(metavar="FILE…", help="Policies.", show_default=False)],
    backend: Annotated[str, typer.Option(help="nftables, iptables, pf-freebsd, …, or all.")] = "all",
    form: Annotated[Literal["text", "json"], typer.Option("--format", help="text or json.")] = "text",
    date: Annotated[str | None, typer.Option(help="Render for that day or moment, not for now.")] = None,
    root: Annotated[Path | None, typer.Option(help="Included files and lists stay below this folder.")] = None,
    version: Annotated[str, typer.Option("--os-version", help="The system's version, 14.2.")] = "",
    anchor: Annotated[bool, typer.Option("--anchor", help="pf: the rules for the anchor `portctl`.")] = False,
) -> None:
    """Prove that the rendered rules accept, reject and drop exactly the packets that the policy says.

    Where a platform forces a difference (docs/platforms.md) it is named, and no other is let pass.

    Exit status: 0 all is proved; 1 something is not, with a packet that shows it; 2 a policy is wrong, or no packet
    filter that was asked can say it.
    """
    from portctl.problems import text

    found = [_prove(file, backend, date, root, version, anchor) for file in files]
    if form == "json":
        typer.echo(json.dumps({"version": 1, "policies": [each.value() for each in found]}, indent=2))
    else:
        for line in (line for each in found for line in each.lines()):
            typer.echo(line)
    wrong = [problem for each in found for problem in each.wrong()]
    for problem in wrong:
        typer.echo(text(problem) + "\n", err=True)
    raise typer.Exit(NOT_PROVED if wrong else PROVED)


@dataclass(frozen=True, slots=True)
class Found:
    """What is proved of one policy, by back end; `gaps` are those of the back ends that cannot say it."""

    file: Path
    proofs: Mapping[str, Proof]
    gaps: Mapping[str, list[Problem]] = field(default_factory=dict)

    def wrong(self) -> list[Problem]:
        return [problem for proof in self.proofs.values() for problem in proof.problems]

    def lines(self) -> Iterator[str]:
        """One for each back end, and one below it for each difference that its platform forces."""
        from portctl.space.packets import packet_text

        for name, proof in self.proofs.items():
            but = ", but for what the platform forces:" if proof.forced else ""
            yield f"{self.file}: {name}: {'NOT PROVED' if proof.problems else 'proved for every packet'}{but}"
            for each in proof.forced:
                yield f"  {each.difference.heading}; such as {packet_text(each.packet)}"
        for name, found in self.gaps.items():
            more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
            yield f"{self.file}: {name}: cannot say it: {found[0].message}{more}"

    def value(self) -> dict[str, Any]:
        """The values of the JSON report."""
        from portctl.space.packets import packet_text

        said: list[dict[str, Any]] = []
        for name, proof in self.proofs.items():
            forced = [
                {
                    "name": each.difference.name,
                    "heading": each.difference.heading,
                    "example": packet_text(each.packet),
                }
                for each in proof.forced
            ]
            wrong = [{"message": problem.message, "hint": problem.hint} for problem in proof.problems]
            said.append({"backend": name, "proved": not wrong, "forced": forced, "problems": wrong})
        for name, found in self.gaps.items():
            gaps = [{"code": gap.code, "message": gap.message} for gap in found]
            said.append({"backend": name, "proved": None, "forced": [], "problems": [], "gaps": gaps})
        return {"file": str(self.file), "backends": said}


def _prove(file: Path, backend: str, date: str | None, root: Path | None, version: str, anchor: bool) -> Found:
    """What is proved of one policy, back end by back end. Raises `Problems`."""
    from portctl import pipeline
    from portctl.backends.base import Ability

    ability = Ability(version=version, anchor=anchor)
    compiled = pipeline.compile(file, None if date is None else pipeline.moment(date), root)
    gaps = pipeline.sayable(compiled.ruleset, pipeline.backend_names(backend), ability)
    able = [name for name, found in gaps.items() if not found]
    proofs = pipeline.prove(compiled.ruleset, able, pipeline.render(compiled.ruleset, able, ability), ability)
    return Found(file, proofs, {name: found for name, found in gaps.items() if found})
