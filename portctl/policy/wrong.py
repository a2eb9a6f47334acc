"""How a parser of values says what is wrong, and where below the value it was given."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple


class Fault(NamedTuple):
    """`path` leads from the value that was parsed to the part at fault; `key`: it is the part's key that is wrong."""

    code: str
    message: str
    hint: str | None = None
    path: tuple[str | int, ...] = ()
    key: bool = False


class Wrong(ValueError):
    """A value that the language does not have. `faults` is never empty."""

    def __init__(self, *faults: Fault) -> None:
        self.faults = faults
        super().__init__("; ".join(fault.message for fault in faults))


def wrong(code: str, message: str, hint: str | None = None, *path: str | int, key: bool = False) -> Wrong:
    return Wrong(Fault(code, message, hint, path, key))


def below(step: str | int, error: Wrong) -> list[Fault]:
    """The faults of a part, as faults of the whole."""
    return [fault._replace(path=(step, *fault.path)) for fault in error.faults]


def shown(value: Any) -> str:
    """A value for a message: short, and harmless."""
    text = (
        {True: "true", False: "false", None: "null"}[value] if isinstance(value, bool) or value is None else str(value)
    )
    text = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
    return f"`{text if len(text) <= 60 else text[:57] + '…'}`"


def kind(value: Any) -> str:
    """What sort of YAML value it is, with its article."""
    names = {
        dict: "a mapping",
        list: "a list",
        str: "text",
        bool: "true or false",
        int: "a number",
        type(None): "nothing",
    }
    return names.get(type(value), "something else")


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that looks most like this one, if one does."""
    from difflib import get_close_matches

    found = get_close_matches(word[:60].lower(), list(known), 1, 0.6)
    return found[0] if found else None


def suggestion(word: str, known: Iterable[str]) -> str | None:
    """The same as a hint."""
    found = nearest(word, known)
    return f"did you mean `{found}`?" if found else None


def mistyped(value: Any, wanted: str, hint: str | None = None) -> Wrong:
    if value is None or value == [] or value == {}:
        return wrong(
            "empty-value", f"this is empty, and {wanted} belongs here", hint or "write a value, or remove the key"
        )
    return wrong("wrong-type", f"{wanted} belongs here, and this is {kind(value)}", hint)
