"""YAML text as plain data with the place of every key and value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from portctl.problems import Span

Path = tuple[str | int, ...]
"""Keys and list indices from the top of a document to a value in it."""


@dataclass(frozen=True, slots=True)
class Document:
    """A YAML text: `data` is dict, list, str, int, bool or None. `name` is the file as the person calls it."""

    name: str
    data: Any
    lines: tuple[str, ...]
    places: Any

    def span(self, path: Path = (), key: bool = False) -> Span:
        """The place of the value at `path`, or with `key` of its key; the nearest place above where there is none."""
        raise NotImplementedError(self.name, path, key)
