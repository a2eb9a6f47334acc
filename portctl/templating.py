"""The files under `templates/`: scripts as they are, and Jinja2 templates that place lines made in Python."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jinja2 import Environment


def folder() -> Path:
    """Where the templates lie: inside the installed package, or at the top of a checkout."""
    inside = Path(__file__).parent / "templates"
    return inside if inside.is_dir() else Path(__file__).parent.parent / "templates"


def text(name: str) -> str:
    """A file under `templates/`, as it is."""
    return (folder() / name).read_text(encoding="utf-8")


def render(name: str, **values: object) -> str:
    """A template under `templates/`, filled in. An unknown name is an error, never an empty text."""
    return _environment().get_template(name).render(**values)


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader(folder()),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # the output is a rule file, not HTML; values come from typed data, names are checked
    )
