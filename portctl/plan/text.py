"""A plan as a person reads it: words first, then every change as a diff."""

from __future__ import annotations

from collections.abc import Iterator

from portctl.plan.types import Change, Plan

_RED, _GREEN, _YELLOW, _BOLD, _PLAIN = "\x1b[31m", "\x1b[32m", "\x1b[33m", "\x1b[1m", "\x1b[0m"
_COLOURS = {"+": _GREEN, "-": _RED, "~": _YELLOW}
_BOOT = "/etc/portctl/boot/"
MOST_LINES = 4000
"""Lines of one diff that are shown: the diff of a list of a million networks helps nobody."""


def lines(plan: Plan, colour: bool = False) -> Iterator[str]:
    """The plan, line by line. Control characters in it are made visible."""
    for line in _lines(plan, colour):
        yield "".join(c if c.isprintable() or c in "\t\x1b" else "�" for c in line)


def _lines(plan: Plan, colour: bool) -> Iterator[str]:
    yield from _words(plan, colour)
    if plan.empty:
        yield "Nothing to do: this host is as the policy wants it."
        return
    for change in plan.changes:
        yield from _diff(change, colour)
    if plan.boot:
        yield _in(_BOLD, "For the next boot, once confirmed", colour)
    shown = {change.new for change in plan.changes}
    folders: dict[str, int] = {}
    for change in plan.boot:
        if change.new in shown or change.name.endswith(".sh") or "/minimal/" in change.name:
            folder = _BOOT if change.name.startswith(_BOOT) else change.name
            verb = "writes" if not change.old else "removes" if not change.new else "rewrites"
            folders[f"{verb} {folder}"] = folders.get(f"{verb} {folder}", 0) + 1
        else:
            yield from _diff(change, colour)
    for what, files in folders.items():
        yield f"  {what}" + (f" ({files} files: these rules, a minimal set, and what loads them)" if files > 1 else "")


def _words(plan: Plan, colour: bool) -> Iterator[str]:
    if plan.difference:
        yield _in(_BOLD, "What opens and closes on this host", colour)
    for line in plan.difference:
        yield "  " + _in(_COLOURS.get(line[0], ""), line, colour)
    if plan.summary:
        yield _in(_BOLD, "What changes", colour)
    for line in plan.summary:
        yield "  " + _in(_COLOURS.get(line[0], ""), line, colour)
    for note in plan.notes:
        yield f"  {note}"
    for warning in plan.warnings:
        yield _in(_YELLOW, f"warning: {warning}", colour)
    if plan.opened:
        yield f"  {len(plan.opened)} open connections that nothing has tracked yet will be let through until they end"
    for refusal in plan.refusals:
        yield _in(_RED, f"refused: {refusal.message}", colour)
        if refusal.hint:
            yield f"  hint: {refusal.hint}"


def _diff(change: Change, colour: bool) -> Iterator[str]:
    for at, line in enumerate(change.diff()):
        if at == MOST_LINES:
            yield f"… the diff of {change.name} goes on"
            return
        yield _in(_BOLD if line.startswith(("---", "+++")) else _COLOURS.get(line[:1], ""), line, colour)


def _in(code: str, text: str, colour: bool) -> str:
    return f"{code}{text}{_PLAIN}" if colour and code else text
