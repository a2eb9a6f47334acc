"""The pure half from end to end: a policy file becomes a rule set, a rule set becomes the files of a bundle."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from portctl.problems import Problem, Problems, has_errors
from portctl.ruleset import Ruleset

if TYPE_CHECKING:
    from portctl.backends.base import Ability
    from portctl.policy import Policy


@dataclass(frozen=True, slots=True)
class Compiled:
    """A policy and its meaning at one moment. `problems` are warnings and notes, in the order of the file."""

    policy: Policy
    ruleset: Ruleset
    problems: tuple[Problem, ...]


def compile(path: Path, at: datetime | None = None, root: Path | None = None) -> Compiled:
    """Reads, validates and resolves a policy. `at` defaults to now; files stay below `root`, by default the policy's
    own folder. Raises `Problems`."""
    from portctl.files import Files
    from portctl.policy import load
    from portctl.resolve import resolve

    files = Files.of(str(path), None if root is None else str(root))
    policy = load(str(path), files)
    ruleset, problems = resolve(policy, at or datetime.now(UTC), files)
    return Compiled(policy, ruleset, problems)


def gaps(ruleset: Ruleset, names: Iterable[str], ability: Ability) -> list[Problem]:
    """What some back ends, or the settings of a system, cannot say of a rule set."""
    from portctl import backends, sysctl

    names = list(names)
    found = [problem for name in names for problem in backends.load(name).gaps(ruleset, ability)]
    return found + [problem for system in systems(names) for problem in sysctl.gaps(ruleset, system)]


def systems(names: Iterable[str]) -> list[str]:
    """The systems on which some back ends run, each once, as `uname -s` names them."""
    from portctl import backends

    return list(dict.fromkeys(backends.system(name) for name in names)) or ["Linux"]


def render(ruleset: Ruleset, names: Iterable[str], ability: Ability, advertised: Iterable[str] = ()) -> dict[str, str]:
    """All files of the bundles, by path: `nftables/rules.nft`, `nftables/load.sh`, …, `sysctl/60-portctl.conf`.

    `advertised`: see `sysctl.bundle`. Raises `Problems` where something cannot be said; nothing is ever weakened.
    """
    from portctl import backends, sysctl
    from portctl.backends.base import bundle

    names = list(names)
    if has_errors(found := gaps(ruleset, names, ability)):
        raise Problems(found)
    files = {
        f"{name}/{file}": text for name in names for file, text in bundle(backends.load(name), ruleset, ability).items()
    }
    for system in systems(names):
        folder = sysctl.folder(system)
        files |= {f"{folder}/{file}": text for file, text in sysctl.bundle(ruleset, system, advertised).items()}
    return files


def prove(ruleset: Ruleset, names: Iterable[str], files: Mapping[str, str]) -> dict[str, list[Problem]]:
    """What is not proved of rendered files ({`nftables/rules.nft`: text, …}), by back end: read back, they must do
    with every packet what the rule set says."""
    from portctl import backends
    from portctl.space import proof

    programs = {}
    for name in names:
        backend = backends.load(name)
        programs[name] = backend.parse(
            {part: files[f"{name}/{part}"] for part in backend.PARTS if f"{name}/{part}" in files}
        )
    return {name: proof.problems(ruleset, {name: program}) for name, program in programs.items()}


def proved(ruleset: Ruleset, names: Iterable[str], files: Mapping[str, str]) -> None:
    """Raises `Problems` unless `prove` finds nothing. It asks the back ends of Linux: where a platform forces
    differences (docs/platforms.md), the texts are held to exactly those by the tests, not here."""
    from portctl import backends

    exact = [name for name in names if name in backends.NAMES]
    if found := [problem for each in prove(ruleset, exact, files).values() for problem in each]:
        raise Problems(found)


def backend_names(asked: str) -> tuple[str, ...]:
    """The back ends that `--backend` means: one, or `all`. Raises `Problems`."""
    from portctl import backends

    if asked != "all" and asked not in backends.NAMES:
        hint = f"known are {', '.join(backends.NAMES)}, and `all`"
        raise Problems([Problem("unknown-backend", f"there is no back end `{asked}`", None, hint)])
    return backends.NAMES if asked == "all" else (asked,)


_MOMENT = re.compile(r"\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d)?(?:Z|[+-]\d\d:\d\d))?")


def moment(text: str) -> datetime:
    """A day (its first moment, UTC) or a moment with its zone, as `--date` takes it. Raises `Problems`."""
    try:
        if not _MOMENT.fullmatch(text):
            raise ValueError
        found = datetime.fromisoformat(text)
    except ValueError:
        hint = "write a day, 2027-01-31, or a moment with its zone, 2027-01-31T18:00Z"
        raise Problems([Problem("bad-date", f"`{text}` is neither a day nor a moment", None, hint)]) from None
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
