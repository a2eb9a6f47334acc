"""An older state of files, out of git. Nothing of the working tree, the index or the repository is changed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from portctl.command import HostError, Result
from portctl.hosts import process

SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Then:
    """A folder that holds what a revision has, below the same paths as in the working tree at `top`."""

    top: Path
    folder: Path


def _git(top: Path, *arguments: str, stdin: bytes = b"", index: Path | None = None) -> Result:
    env = () if index is None else ("env", f"GIT_INDEX_FILE={index}")
    return process.run((*env, "git", "-C", str(top), *arguments), stdin, SECONDS)


def _must(result: Result, what: str) -> str:
    if not result.ok:
        said = (result.stderr.strip() or "git said nothing").splitlines()[0]
        raise HostError(f"{what}: {said}")
    return result.stdout


def top(place: Path) -> Path:
    """The working tree that holds a folder. Raises `HostError`."""
    return Path(_must(_git(place, "rev-parse", "--show-toplevel"), f"{place} is in no git repository").rstrip("\n"))


def check_out(tree: Path, revision: str, paths: list[Path], into: Path) -> Then:
    """Writes what `revision` has of some files and folders below `into`. Raises `HostError`."""
    known = _git(tree, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{tree}}")
    if not known.ok:
        raise HostError(f"git knows no revision `{revision}`")
    index, folder = into / "index", into / "files"
    folder.mkdir()
    _must(_git(tree, "read-tree", known.stdout.strip(), index=index), f"{revision} cannot be read")
    asked = [str(path.resolve().relative_to(tree.resolve())) for path in paths]
    names = _must(_git(tree, "ls-files", "-z", "--", *asked, index=index), f"{revision} cannot be listed")
    out = _git(tree, "checkout-index", f"--prefix={folder}/", "-z", "--stdin", stdin=names.encode(), index=index)
    _must(out, f"{revision} cannot be written out")
    return Then(tree, folder)


def files(tree: Path, folder: Path) -> list[Path]:
    """The files below a folder that git knows or does not ignore, absolute, sorted."""
    said = _must(_git(tree, "ls-files", "-z", "-co", "--exclude-standard", "--", str(folder.resolve())), str(folder))
    return sorted({tree / name for name in said.split("\0") if name})
