"""`portctl render`: what a policy becomes on a host, as text or as bundles to carry there."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from datetime import datetime

    from portctl.backends.base import Ability
    from portctl.ruleset import Ruleset

_SCRIPTS = ("load.sh", "save.sh", "remove.sh")


def register(app: typer.Typer) -> None:
    app.command("render")(render)


def render(
    policies: Annotated[list[Path], typer.Argument(metavar="FILE…", help="Policies.", show_default=False)],
    backend: Annotated[str, typer.Option("--backend", help="nftables, iptables, pf-freebsd, …, or all.")] = "",
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            help="Write DIR/BACKEND/ and DIR/sysctl/ (ipfw: DIR/sysctl-freebsd/) instead of printing;"
            " of several policies DIR/POLICY/BACKEND/, after the names of their files.",
        ),
    ] = None,
    date: Annotated[str | None, typer.Option("--date", help="Render for that day or moment, not for now.")] = None,
    root: Annotated[
        Path | None, typer.Option("--root", help="Included files and lists stay below this folder.")
    ] = None,
    system: Annotated[str, typer.Option("--os", help="linux, freebsd, openbsd or macos.")] = "linux",
    version: Annotated[
        str, typer.Option("--os-version", help="The system's version, 14.2: its packet filter's language.")
    ] = "",
    without: Annotated[list[str] | None, typer.Option("--without", help="What the host lacks: ipset, clock.")] = None,
    anchor: Annotated[
        bool, typer.Option("--anchor", help="pf: for the anchor `portctl` of a main rule set that is somebody else's.")
    ] = False,
) -> None:
    """Print what policies become, or write bundles that sh loads on a machine without portctl.

    Exit status 2 if a policy is wrong, or a packet filter that was asked cannot say it: what others can is rendered,
    and what is missing is named.
    """
    from portctl import backends, pipeline
    from portctl.backends.base import Ability
    from portctl.problems import Problem, Problems

    if system not in backends.SYSTEMS:
        hint = f"known are {', '.join(backends.SYSTEMS)}"
        raise Problems([Problem("unknown-system", f"there is no system `{system}`", None, hint)])
    backend = backend or backends.SYSTEMS[system][0]
    if backend != "all" and backend not in (*backends.OFFERED, *backends.EVERY):
        hint = f"known are {', '.join(backends.OFFERED)}, and `all`"
        raise Problems([Problem("unknown-backend", f"there is no back end `{backend}`", None, hint)])
    lacking = set(without or ())
    if unknown := sorted(lacking - {"ipset", "clock"}):
        raise Problems([Problem("unknown-ability", f"`--without {unknown[0]}` is nothing", None, "ipset, clock")])
    if anchor and backend != "all" and backends.package(backend) != "pf":
        raise typer.BadParameter(f"`{backend}` has no anchors: `--anchor` is for pf")
    ability = Ability(ipset="ipset" not in lacking, clock="clock" not in lacking, version=version, anchor=anchor)
    at = None if date is None else pipeline.moment(date)
    names = backends.OFFERED if backend == "all" else (backend,)
    complete = True
    for file, folder in _places(policies):
        try:
            complete = _one(file, output, folder, names, ability, at, root) and complete
        except Problems as wrong:
            if not folder:
                raise
            typer.echo(f"{wrong}\n\nportctl: {file}: nothing is rendered", err=True)
            complete = False
    if not complete:
        raise typer.Exit(2)


def _places(policies: list[Path]) -> list[tuple[Path, str]]:
    """Each policy with the name of its folder; a single one needs none."""
    if len(policies) == 1:
        return [(policies[0], "")]
    found = {file.stem: file for file in policies}
    for file in policies:
        if found[file.stem] != file:
            raise typer.BadParameter(f"{found[file.stem]} and {file} have one name: render one of them by itself")
    return [(file, name) for name, file in found.items()]


def _one(
    file: Path, output: Path | None, folder: str, asked: tuple[str, ...], ability: Ability, at: datetime | None,
    root: Path | None,
) -> bool:  # fmt: skip
    """Renders one policy; whether for every back end that was asked. Raises `Problems`, where for none."""
    from portctl import pipeline
    from portctl.problems import text

    compiled = pipeline.compile(file, at, root)
    for problem in compiled.problems:
        typer.echo(text(problem) + "\n", err=True)
    names = _sayable(compiled.ruleset, asked, ability)
    files = pipeline.render(compiled.ruleset, names, ability)
    pipeline.proved(compiled.ruleset, names, files, ability)
    if output is None:
        _print({name: content for name, content in files.items() if name.partition("/")[0] in names}, folder)
    else:
        _write_all(output / folder, files, pipeline.systems(names))
    if missing := [name for name in asked if name not in names]:
        typer.echo(f"portctl: {file}: nothing is rendered for {', '.join(missing)}, which cannot say it", err=True)
    return not missing


def _sayable(ruleset: Ruleset, names: tuple[str, ...], ability: Ability) -> tuple[str, ...]:
    """The back ends that can say the policy, once people have read what the others cannot, and what a platform makes
    different. One alone that cannot is an error."""
    from portctl import pipeline
    from portctl.problems import Problems, has_errors, text

    found = {name: pipeline.gaps(ruleset, (name,), ability) for name in names}
    able = tuple(name for name in names if not has_errors(found[name]))
    if not able:
        raise Problems(problem for name in names for problem in found[name])
    notes = pipeline.forced(ruleset, able, ability)
    for problem in (*dict.fromkeys(problem for name in names for problem in found[name]), *notes):
        typer.echo(text(problem) + "\n", err=True)
    return able


def _write_all(output: Path, files: dict[str, str], systems: list[str]) -> None:
    from portctl import backends, sysctl
    from portctl.backends.base import is_part

    for folder, content in _by_folder(files).items():
        known = {"60-portctl.conf", *_SCRIPTS}
        if folder in (*backends.OFFERED, *backends.EVERY):
            there = [path.name for path in (output / folder).glob("*")]
            known = {name for name in there if is_part(backends.load(folder), name)} | set(_SCRIPTS)
        write_folder(output / folder, content, known)
    for folder in {sysctl.folder(system) for system in systems} - set(_by_folder(files)):
        write_folder(output / folder, {}, {"60-portctl.conf", *_SCRIPTS})


def _print(files: dict[str, str], folder: str) -> None:
    shown = {name: content for name, content in files.items() if Path(name).name not in _SCRIPTS}
    for name, content in shown.items():
        if folder or len(shown) > 1:
            typer.echo(f"### {Path(folder, name).as_posix()}")
        typer.echo(content, nl=not content.endswith("\n"))


def _by_folder(files: dict[str, str]) -> dict[str, dict[str, str]]:
    folders: dict[str, dict[str, str]] = {}
    for path, content in files.items():
        folder, _, name = path.partition("/")
        folders.setdefault(folder, {})[name] = content
    return folders


def write_folder(folder: Path, files: dict[str, str], known: set[str]) -> None:
    """Puts a whole new folder in the place of an old one. Files of the old one that are not among the `known` names
    are somebody else's, and move over. No files and nobody else's: no folder."""
    folder = folder.resolve()
    strangers = [path for path in folder.iterdir() if path.name not in known] if folder.is_dir() else []
    if not files and not strangers:
        if folder.is_dir():
            shutil.rmtree(folder)
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        made.chmod(0o755)
        for name, content in files.items():
            _write(made / name, content)
        if folder.is_dir():
            for stranger in strangers:
                stranger.rename(made / stranger.name)
            old = folder.with_name(f"{made.name}.old")
            folder.rename(old)
            made.rename(folder)
            shutil.rmtree(old)
        else:
            made.rename(folder)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _write(path: Path, content: str) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    path.chmod(0o755 if path.suffix == ".sh" else 0o644)
