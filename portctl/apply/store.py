"""A `Ruleset` as text and back, so that a record says what a policy meant, whatever became of its files."""

from __future__ import annotations

import json
from dataclasses import MISSING, fields, is_dataclass
from datetime import datetime
from enum import Enum, Flag
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

from portctl import net, ruleset
from portctl.ruleset import Ruleset

FORMAT = 1
_TYPES: dict[str, Any] = {
    cls.__name__: cls
    for module in (net, ruleset)
    for cls in vars(module).values()
    if isinstance(cls, type) and (is_dataclass(cls) or issubclass(cls, Enum)) and cls.__module__ == module.__name__
}


def dumps(value: Ruleset) -> str:
    """JSON, one line a top field, the same for the same rule set."""
    return json.dumps({"format": FORMAT, "ruleset": _plain(value)}, indent=None, separators=(",", ":")) + "\n"


def loads(text: str) -> Ruleset | None:
    """The rule set; None where the text is of another version of portctl, or damaged."""
    try:
        held = json.loads(text)
        found = _value(held["ruleset"]) if held["format"] == FORMAT else None
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    return found if isinstance(found, Ruleset) else None


def _plain(value: object) -> object:
    if isinstance(value, Enum):
        return {"$": type(value).__name__, "=": value.value}
    if is_dataclass(value):
        held: dict[str, object] = {"$": type(value).__name__}
        for field in fields(value):
            item = getattr(value, field.name)
            if field.name not in ("span", "places") and (field.default is MISSING or item != field.default):
                held[field.name] = _plain(item)
        return held
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, IPv4Address | IPv6Address):
        return {"$": "address", "=": str(value)}
    if isinstance(value, datetime):
        return {"$": "datetime", "=": value.isoformat()}
    return value


def _value(held: object) -> Any:
    if isinstance(held, list):
        return tuple(held) if not held or isinstance(held[0], int) else tuple(_value(item) for item in held)
    if not isinstance(held, dict):
        return held
    name = held["$"]
    if name == "address":
        return ip_address(held["="])
    if name == "datetime":
        return datetime.fromisoformat(held["="])
    cls = _TYPES[name]
    if issubclass(cls, Flag | Enum):
        return cls(held["="])
    return cls(**{key: _value(item) for key, item in held.items() if key != "$"})
