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
    from portctl.program import Program
    from portctl.space.proof import Proof


@dataclass(frozen=True, slots=True)
class Compiled:
    """A policy and its meaning at one moment. `problems` are warnings and notes, in the order of the file."""

    policy: Policy
    ruleset: Ruleset
    problems: tuple[Problem, ...]


def compile(
    path: Path, at: datetime | None = None, root: Path | None = None, seen: dict[str, bytes] | None = None
) -> Compiled:
    """Reads, validates and resolves a policy. `at` defaults to now; files stay below `root`, by default the policy's
    own folder. `seen` is given what its other files hold, by their names. Raises `Problems`."""
    from portctl.files import Files
    from portctl.policy import load
    from portctl.resolve import resolve

    files = Files.of(str(path), None if root is None else str(root), seen)
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


def forced(ruleset: Ruleset, names: Iterable[str], ability: Ability) -> list[Problem]:
    """A note for each back end whose platform forces differences, with their headings in docs/platforms.md."""
    from portctl import backends

    found = []
    for name in names:
        headings = dict.fromkeys(each.heading for each in backends.load(name).differences(ruleset, ability))
        if headings:
            said = f"{name} judges some packets otherwise than the policy, as docs/platforms.md says under"
            found.append(Problem("platform", f"{said}\n  " + "\n  ".join(headings), None, None, "note"))
    return found


def read_back(name: str, files: Mapping[str, str]) -> Program:
    """What the rendered files ({`nftables/rules.nft`: text, …}) of one back end say, parsed."""
    from portctl import backends
    from portctl.backends.base import is_part

    backend = backends.load(name)
    mine = {path.removeprefix(f"{name}/"): text for path, text in files.items() if path.startswith(f"{name}/")}
    return backend.parse({part: text for part, text in mine.items() if is_part(backend, part)})


def prove(ruleset: Ruleset, names: Iterable[str], files: Mapping[str, str], ability: Ability) -> dict[str, Proof]:
    """What is proved of rendered files, by back end: read back, they must do with every packet what the rule set says,
    but for the differences that the platform forces."""
    from portctl import backends
    from portctl.space import proof

    names = list(names)
    programs = {name: read_back(name, files) for name in names}
    forced = {name: backends.load(name).differences(ruleset, ability) for name in names}
    return proof.proofs(ruleset, programs, forced)


def proved(ruleset: Ruleset, names: Iterable[str], files: Mapping[str, str], ability: Ability) -> None:
    """Raises `Problems` unless `prove` finds nothing wrong."""
    if found := [problem for each in prove(ruleset, names, files, ability).values() for problem in each.problems]:
        raise Problems(found)


def sayable(ruleset: Ruleset, names: Iterable[str], ability: Ability) -> dict[str, list[Problem]]:
    """The gaps of each back end that cannot say a rule set; of all others an empty list. Raises `Problems` where none
    can."""
    found = {name: [p for p in gaps(ruleset, [name], ability) if p.severity == "error"] for name in names}
    if all(found.values()):
        raise Problems(problem for each in found.values() for problem in each)
    return found


def backend_names(asked: str) -> tuple[str, ...]:
    """The back ends that `--backend` means: one, or `all`. Raises `Problems`."""
    from portctl import backends

    if asked != "all" and asked not in (*backends.OFFERED, *backends.EVERY):
        hint = f"known are {', '.join(backends.OFFERED)}, and `all`"
        raise Problems([Problem("unknown-backend", f"there is no back end `{asked}`", None, hint)])
    return backends.OFFERED if asked == "all" else (asked,)


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
