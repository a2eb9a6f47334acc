"""`portctl check` without typer, which costs a third of what the command may take: editors run it at every save.

What is not plainly right (an unknown option, a value that is none, a wish for help) is left to typer, which says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

OPTIONS = ("--format", "--date", "--root")
FORMATS = ("text", "json")


def check(arguments: Sequence[str]) -> int | None:
    """The exit status; None where typer has to see the arguments. They are those after the word `check`."""
    read = _read(arguments)
    if read is None:
        return None
    from portctl.cli import checking

    files, options = read
    at = None
    if "--date" in options:
        from portctl.pipeline import moment

        at = moment(options["--date"])
    root = Path(options["--root"]) if "--root" in options else None
    return checking.run(files, options.get("--format", "text"), at, root)


def _read(arguments: Sequence[str]) -> tuple[list[str], dict[str, str]] | None:
    """Files and options, the last of each; None where something is not plain."""
    files: list[str] = []
    options: dict[str, str] = {}
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        if word == "--":
            files += rest
            break
        if not word.startswith("-"):
            files.append(word)
            continue
        name, given, value = word.partition("=")
        if name not in OPTIONS or not (given or rest):
            return None
        options[name] = value if given else rest.pop(0)
        if options[name].startswith("-"):
            return None
    if not files or options.get("--format", "text") not in FORMATS:
        return None
    return files, options
