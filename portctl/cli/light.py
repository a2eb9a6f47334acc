"""`portctl check` and `portctl diff` without typer, which costs a third of what they may take: editors run the one at
every save, reviews the other for every commit.

What is not plainly right (an unknown option, a value that is none, a wish for help) is left to typer, which says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

Values = Mapping[str, frozenset[str] | None]
"""The options of a command with the values that each takes; None: any."""
CHECK: Values = {"--format": frozenset(("text", "json")), "--date": None, "--root": None}
DIFF: Values = {
    "--format": frozenset(("text", "markdown", "json", "sarif")),
    "--fail-on": frozenset(("any", "widened", "internet")),
    "--git": None,
    "--date": None,
    "--root": None,
}


def run(arguments: Sequence[str]) -> int | None:
    """The exit status of a command; None where typer has to see the arguments."""
    command = {"check": check, "diff": diff}.get(arguments[0]) if arguments else None
    return None if command is None else command(arguments[1:])


def check(arguments: Sequence[str]) -> int | None:
    """The exit status; None where typer has to see the arguments. They are those after the word `check`."""
    read = _read(arguments, CHECK)
    if read is None or not read[0]:
        return None
    from portctl.cli import checking

    files, options = read
    at = None
    if "--date" in options:
        from portctl.pipeline import moment

        at = moment(options["--date"])
    return checking.run(files, options.get("--format", "text"), at, _root(options))


def diff(arguments: Sequence[str]) -> int | None:
    """The same of `diff`."""
    read = _read(arguments, DIFF)
    if read is None or ("--git" not in read[1] and len(read[0]) != 2):
        return None
    from portctl.cli import comparing

    files, options = read
    form, fail_on = options.get("--format", "text"), options.get("--fail-on", "any")
    return comparing.run(files, options.get("--git"), form, fail_on, options.get("--date"), _root(options))


def _root(options: Mapping[str, str]) -> Path | None:
    return Path(options["--root"]) if "--root" in options else None


def _read(arguments: Sequence[str], known: Values) -> tuple[list[str], dict[str, str]] | None:
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
        if name not in known or not (given or rest):
            return None
        options[name] = value if given else rest.pop(0)
        values = known[name]
        if options[name].startswith("-") or (values is not None and options[name] not in values):
            return None
    return files, options
