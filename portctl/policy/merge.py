"""A policy and its fragments as one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

from portctl.document import Document, Path, read
from portctl.files import MOST_YAML, Files
from portctl.policy import Entry, Policy
from portctl.policy.check import fragment
from portctl.policy.models import SYSTEMS, Defaults, Fragment, TopFile
from portctl.problems import Problem, Problems, Span, order

MOST_FILES = 1000


@dataclass(frozen=True, slots=True)
class Part:
    """One file of a policy."""

    document: Document
    model: Fragment


def load(path: str, files: Files) -> Policy:
    """The policy in a file, with its fragments. Raises `Problems` with those of all files."""
    problems: list[Problem] = []
    parts: list[Part] = []
    _collect(parts, problems, files, path, files.top(path), (os.path.realpath(path),), set())
    if problems:
        raise Problems(order(problems))
    return merge(parts)


def validate(document: Document) -> Policy:
    """One document alone as a policy; what it includes is not read. Raises `Problems`."""
    return merge([Part(document, fragment(document, top=True))])


def _collect(
    parts: list[Part],
    problems: list[Problem],
    files: Files,
    name: str,
    data: bytes,
    trail: tuple[str, ...],
    seen: set[str],
) -> None:
    """Reads a file and, in order, those it includes; each file once. `trail`: the real paths that led here."""
    unquoted: tuple[Problem, ...] = ()
    try:
        document = read(data, name, on=True)
        problems += (unquoted := document.problems)
        model = fragment(document, top=len(trail) == 1)
    except Problems as error:
        # What stands beside such an address may be wrong only because of it.
        lines = {problem.span.line for problem in unquoted if problem.span}
        problems += (problem for problem in error.problems if not problem.span or problem.span.line not in lines)
        return
    parts.append(Part(document, model))
    for index, path in enumerate(model.include or ()):
        span = document.span(("include", index))
        try:
            found, real = files.locate(name, path, span)
            if real in trail:
                message = f"`{found[:100]}` includes itself" + (", through others" if real != trail[-1] else "")
                raise Problems([Problem("include-loop", message, span, "remove the line")])
            if real in seen:
                continue
            seen.add(real)
            if len(seen) > MOST_FILES:
                raise Problems([Problem("too-large", f"more than {MOST_FILES} files are included", span)])
            _, text = files.read(name, path, span, MOST_YAML)
        except Problems as error:
            problems += error.problems
            continue
        _collect(parts, problems, files, found, text, (*trail, real), seen)


def merge(parts: list[Part]) -> Policy:
    """The parts as one policy, the first of them the top file."""
    problems: list[Problem] = []
    top = parts[0]
    assert isinstance(top.model, TopFile)
    policy = Policy(
        name=top.model.name,
        description=next((part.model.description for part in parts if part.model.description), None),
        document=top.document,
        addresses=_named(parts, "addresses", problems),
        interfaces=_named(parts, "interfaces", problems),
        ports=_named(parts, "ports", problems),
        services=_named(parts, "services", problems),
        block=_listed(parts, "block"),
        egress=_named(parts, "egress", problems),
        forwards=_named(parts, "forwards", problems),
        defaults=_defaults(parts, problems),
        sysctl=_sysctl(parts, problems),
        tests=_listed(parts, "tests"),
    )
    if problems:
        raise Problems(order(problems))
    return policy


def _named(parts: list[Part], section: str, problems: list[Problem]) -> dict[str, Entry[Any]]:
    found: dict[str, Entry[Any]] = {}
    for part in parts:
        for name, value in (getattr(part.model, section) or {}).items():
            entry = Entry(name, value, part.document, (section, name))
            if name in found:
                first = (("first here", found[name].span(key=True)),)
                message = f"`{name}` is declared twice in `{section}`"
                problems.append(
                    Problem("duplicate-name", message, entry.span(key=True), "rename one of them", others=first)
                )
            else:
                found[name] = entry
    return found


def _listed(parts: list[Part], section: str) -> tuple[Entry[Any], ...]:
    found: list[Entry[Any]] = []
    for part in parts:
        for index, value in enumerate(getattr(part.model, section) or ()):
            name = f"{section.rstrip('s')}-{len(found) + 1}"
            found.append(Entry(name, value, part.document, (section, index)))
    return tuple(found)


def _agree(
    said: dict[Any, tuple[Any, Span]], key: Any, label: str, value: Any, span: Span, problems: list[Problem]
) -> bool:
    """Whether a value is the first of its key; a different second one is a problem."""
    if key not in said:
        said[key] = value, span
        return True
    first, place = said[key]
    if first != value:
        message = f"`{label}` gets two different values"
        others = (("the other value", place),)
        problems.append(Problem("conflicting-values", message, span, "keep one of them", others=others))
    return False


def _defaults(parts: list[Part], problems: list[Problem]) -> Defaults:
    said: dict[Any, tuple[Any, Span]] = {}
    require: dict[str, None] = {}
    for part in parts:
        for field in fields(Defaults) if part.model.defaults else ():
            value = getattr(part.model.defaults, field.name)
            if field.name == "require":
                require.update(dict.fromkeys(value or ()))
            elif value is not None:
                span = part.document.span(("defaults", field.name))
                _agree(said, field.name, field.name, value, span, problems)
    standard = Defaults(inbound="drop", outbound="allow", published="keep", log_denied=False)
    return replace(standard, require=tuple(require), **{name: value for name, (value, _) in said.items()})


def _settings(part: Part) -> Iterator[tuple[tuple[str, str], str, Path]]:
    """Each setting of a file: (system, name), value as text, path."""
    sysctl = part.model.sysctl
    if sysctl is None:
        return
    for field in fields(sysctl):
        value = getattr(sysctl, field.name)
        if field.name in SYSTEMS:
            for name, text in (value or {}).items():
                yield (field.name, name), text, ("sysctl", field.name, name)
        elif value is not None:
            text = str(int(value)) if isinstance(value, bool) else str(value)
            yield ("any", field.name), text, ("sysctl", field.name)


def _sysctl(parts: list[Part], problems: list[Problem]) -> dict[tuple[str, str], Entry[str]]:
    found: dict[tuple[str, str], Entry[str]] = {}
    said: dict[Any, tuple[Any, Span]] = {}
    for part in parts:
        for key, text, path in _settings(part):
            if _agree(said, key, key[1], text, part.document.span(path), problems):
                found[key] = Entry(key[1], text, part.document, path)
    return found
