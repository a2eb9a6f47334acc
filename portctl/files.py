"""The files that a policy names, kept below one folder."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from portctl.problems import Problem, Problems, Span

MOST_YAML = 16 * 1024 * 1024
MOST_LIST = 512 * 1024 * 1024
"""A million addresses take some 18 MB."""


@dataclass(frozen=True, slots=True)
class Files:
    """Reads a policy, its fragments and its address files. Nothing outside `root` is read, through links neither."""

    root: Path
    seen: dict[str, bytes] | None = None
    """Where given, all that is read besides the policy itself is kept here, by its name."""

    @classmethod
    def of(cls, path: str, root: str | None = None, seen: dict[str, bytes] | None = None) -> Files:
        """For the policy at `path`: its own folder, or `root` where the person widens it."""
        return cls(Path(root) if root is not None else Path(path).parent, seen)

    def top(self, path: str) -> bytes:
        """The text of the policy itself, which the person named. Raises `Problems` without a place."""
        return _bytes(path, path, None, MOST_YAML)

    def locate(self, base: str, path: str, span: Span | None = None) -> tuple[str, str]:
        """What messages call a file that `base` names (relative to the folder of `base`), and where it really is.

        Raises `Problems`, at `span`, where it lies outside the root.
        """
        name = os.path.normpath(os.path.join(os.path.dirname(base), path))  # noqa: PTH118, PTH120
        if "\0" in path or os.path.isabs(path):  # noqa: PTH117
            raise _problem(
                "bad-file", f"`{_short(path)}` is not a relative path", span, "paths are relative to this file"
            )
        real, root = os.path.realpath(name), os.path.realpath(self.root)
        if os.path.commonpath((real, root)) != root:
            said = f"`{_short(path)}` leads out of the folder `{self.root}`"
            raise _problem("path-escape", said, span, "move the file below it, or widen it with `--root`")
        return name, real

    def read(self, base: str, path: str, span: Span | None = None, most: int = MOST_LIST) -> tuple[str, bytes]:
        """The name of a file that `base` names, and its bytes. Raises `Problems` at `span`."""
        name, real = self.locate(base, path, span)
        data = _bytes(real, name, span, most)
        if self.seen is not None:
            self.seen[name] = data
        return name, data


def _bytes(real: str, name: str, span: Span | None, most: int) -> bytes:
    try:
        found = os.stat(real)  # noqa: PTH116
        if not stat.S_ISREG(found.st_mode):
            what = "a folder" if stat.S_ISDIR(found.st_mode) else "no regular file"
            raise _problem("bad-file", f"`{_short(name)}` is {what}", span)
        with open(real, "rb") as file:  # noqa: PTH123
            data = file.read(most + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "it cannot be opened"
        raise _problem("bad-file", f"cannot read `{_short(name)}`: {reason}", span) from None
    if len(data) > most:
        said = f"`{_short(name)}` has more than {most // 1024 // 1024} MiB"
        raise _problem("too-large", said, span, "keep long lists of addresses in files of their own: `{file: …}`")
    return data


def _problem(code: str, message: str, span: Span | None, hint: str | None = None) -> Problems:
    return Problems([Problem(code, message, span, hint)])


def _short(path: str) -> str:
    text = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in path)
    return text if len(text) <= 100 else "…" + text[-99:]
