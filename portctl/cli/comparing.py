"""What `portctl diff` does, apart from the command line, so that its plain form starts fast."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from portctl.hosts.target import HERE

if TYPE_CHECKING:
    from portctl.cli.sources import Source
    from portctl.hosts.git import Then
    from portctl.problems import Problems
    from portctl.space.difference import Difference
    from portctl.space.sets import PacketSet, Space
    from portctl.space.sides import Side

AS_BEFORE, DIFFERENT, WRONG = 0, 1, 2
SUFFIXES = (".yaml", ".yml")


def run(
    files: Sequence[str],
    git: str | None = None,
    form: str = "text",
    fail_on: str = "any",
    date: str | None = None,
    root: Path | None = None,
    host: str = HERE,
) -> int:
    """Compares two things, or policies with what they were in a revision of git; prints the differences and returns the
    exit status. Raises `Problems`, `HostError`."""
    from portctl import pipeline
    from portctl.space import report

    at = datetime.now(UTC) if date is None else pipeline.moment(date)
    wrong: list[Problems] = []
    if git is not None:
        found = sorted(_since(git, [Path(name) for name in files or ["."]], at, root, wrong), key=report.order)
    else:
        from portctl.cli import sources

        old, new = (sources.read(name, at, root, host) for name in files)
        found = [differ(old, new, at)]
    sys.stdout.write(_text(found, form, git is not None))
    sys.stdout.flush()
    for problems in wrong:
        print(f"{problems}\n", file=sys.stderr)
    failed = any(report.failed(each, fail_on) for each in found)
    return WRONG if wrong else DIFFERENT if failed else AS_BEFORE


MOST_CUTS = 25_000_000
"""Cuts of the diagrams of both sides and of what is between them: most of a gigabyte, and most of a minute."""


def differ(old: Source, new: Source, at: datetime, most: int = MOST_CUTS) -> Difference:
    """The one against the other. Raises `Problems` where that takes more than so many cuts to work out."""
    from portctl.problems import Problem, Problems
    from portctl.space import Space
    from portctl.space.diagram import TooMuch

    space = Space()
    space.diagrams.most = most
    try:
        return _differ(space, old, new, at)
    except TooMuch:
        why = f"`{old.title}` and `{new.title}` distinguish too many kinds of packets to be compared as a whole"
        hint = (
            "compare parts: one chain with what it jumps to, say; or ask both with `portctl reach --to` and `explain`"
        )
        raise Problems([Problem("too-many", why, None, hint)]) from None


def _differ(space: Space, old: Source, new: Source, at: datetime) -> Difference:
    from portctl.space.difference import differ

    both = tuple(family for family in old.families if family in new.families)
    if len(both) == 1:
        print(f"Compared are the rules of IPv{both[0]} alone: one side says nothing of the other.", file=sys.stderr)
    sides = old.side(space), new.side(space)
    if isinstance(old.meaning, type(new.meaning)):
        return differ(*sides, at, both)
    return differ(*sides, at, both, _untold(old, new, sides))


def _untold(old: Source, new: Source, sides: tuple[Side, Side]) -> PacketSet:
    """The packets with which a packet filter forces another verdict than the policy's; says which differences these
    are."""
    from portctl import backends
    from portctl.backends.base import Ability
    from portctl.program import Program
    from portctl.ruleset import Ruleset
    from portctl.space.forced import explained

    loaded, policy = (old, new) if isinstance(old.meaning, Program) else (new, old)
    assert isinstance(policy.meaning, Ruleset)
    version = loaded.observed.facts.release if loaded.observed is not None else ""
    names = loaded.language.split("+")
    able = [backends.load(name).differences(policy.meaning, Ability(version=version)) for name in names]
    forced = [each for listed in able for each in listed] if len(names) == 1 else []
    one, other = (side.partition for side in (sides if policy is old else reversed(sides)))
    found = explained(one, other, forced)
    headings = "; ".join(each.difference.heading for each in found.forced)
    if headings:
        print(f"Not told, as the platform forces it (docs/platforms.md): {headings}.", file=sys.stderr)
    return one.differing(other) - found.left


def _since(
    revision: str, asked: list[Path], at: datetime, root: Path | None, wrong: list[Problems]
) -> Iterator[Difference]:
    """Each policy with what it was in a revision; those that are as they were are left out."""
    from portctl.command import HostError
    from portctl.hosts import git
    from portctl.problems import Problems

    places = [path if path.is_dir() else path.parent for path in asked]
    tree = git.top(next((place for place in places if place.is_dir()), Path()))
    if outside := [path for path in asked if not path.resolve().is_relative_to(tree.resolve())]:
        raise HostError(f"{outside[0]} is not in the repository {tree}")
    with tempfile.TemporaryDirectory(prefix="portctl-diff-") as made:
        then = git.check_out(tree, revision, [root or tree, *places], Path(made))
        for name in _policies(asked, then):
            try:
                found = _one(name, then, revision, at, root)
            except Problems as problems:
                wrong.append(problems)
                continue
            if found.relation != "same":
                yield found


def _policies(asked: list[Path], then: Then) -> list[str]:
    """The policies among what was named, now or then, relative to the tree."""
    from portctl.cli import sources
    from portctl.hosts import git

    names: dict[str, None] = {}
    for path in asked:
        relative = path.resolve().relative_to(then.top.resolve())
        if not path.is_dir() and not (then.folder / relative).is_dir():
            names[str(relative)] = None
            continue
        before = [each for each in sorted((then.folder / relative).rglob("*")) if each.is_file()]
        now = [each for each in git.files(then.top, path) if each.is_file()] if path.is_dir() else []
        for each, base in (*((e, then.top) for e in now), *((e, then.folder) for e in before)):
            if each.suffix in SUFFIXES and sources.POLICY.search(each.read_text(encoding="utf-8", errors="replace")):
                names[str(each.relative_to(base))] = None
    return sorted(names)


def _one(name: str, then: Then, revision: str, at: datetime, root: Path | None) -> Difference:
    """A policy compared with what it was. One that is not there opens nothing."""
    from portctl.cli import sources

    now, before = then.top / name, then.folder / name
    top = then.top.resolve()
    shown = str(now.resolve().relative_to(Path.cwd())) if now.resolve().is_relative_to(Path.cwd()) else name
    old_root = None if root is None else then.folder / root.resolve().relative_to(top)
    old = new = None
    if before.is_file():
        old = sources.policy(before, at, old_root, f"{shown} ({revision})", str(then.folder))
    if now.is_file():
        new = sources.policy(Path(shown) if Path(shown).is_file() else now, at, root, shown)
    old, new = (
        old or sources.nothing(f"{shown} (not in {revision})", _there(new)),
        new or sources.nothing(f"{shown} (taken away)", _there(old)),
    )
    return differ(old, new, at)


def _there(source: Source | None) -> Source:
    assert source is not None, "a policy is there now, or was then"
    return source


def _text(found: list[Difference], form: str, several: bool) -> str:
    from portctl.space import report

    if form == "json":
        if not several:
            return report.as_json(found[0])
        return json.dumps({"version": report.VERSION, "differences": [report.value(d) for d in found]}, indent=2) + "\n"
    if form == "sarif":
        from portctl.space import sarif

        return sarif.sarif(*found)
    if not found:
        return "no difference\n"
    if form == "markdown":
        return report.markdown(*found)
    return report.text(*found)
