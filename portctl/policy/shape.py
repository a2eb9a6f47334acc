"""What each key of the language is: how its value is read, and what an editor says of it.

`Shape.schema` is JSON Schema for the value's form; `Shape.parse` is the whole truth, and raises `Wrong`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

from portctl.policy import addresses, portwords, words
from portctl.policy.wrong import Wrong, below, mistyped

Json = dict[str, Any]


class Shape(NamedTuple):
    parse: Callable[[Any], Any]
    schema: Json


class Nested(NamedTuple):
    """Mappings whose keys are those of the dataclass `model`: one, one under each name, or a list of them."""

    model: Any
    many: str
    """`one`, `named` or `list`."""
    about: str


def key(shape: Shape | Nested, about: str, *examples: Any, default: Any = dataclasses.MISSING) -> Any:
    """A field of a model, which is a key of the language."""
    metadata = {"shape": shape, "about": about, "examples": examples}
    if default is dataclasses.MISSING:
        return dataclasses.field(metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def yaml_key(field: str) -> str:
    """The key of the policy for a field of a model: `from` for `from_`."""
    return field.rstrip("_")


def _list_of(item: Json) -> Json:
    return {"anyOf": [item, {"type": "array", "items": item, "minItems": 1}]}


def _text(pattern: str, **more: Any) -> Json:
    return {"type": "string", "pattern": pattern, **more}


NAME_PATTERN = "^(?!(any|none|self)$)[a-z][a-z0-9_-]{0,30}$"
_V4 = r"(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])(\.(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])){3}"
_V6 = r"[0-9A-Fa-f]{0,4}(:[0-9A-Fa-f]{0,4}){2,7}(:?[0-9]+(\.[0-9]+){3})?"
_ADDRESS = _text(
    rf"^({_V4}(/([0-9]|[12][0-9]|3[0-2]))?|{_V4}-{_V4}|{_V6}(/([0-9]|[1-9][0-9]|1[01][0-9]|12[0-8]))?|{_V6}-{_V6}"
    r"|(?!(none|self)$)[a-z][a-z0-9_-]{0,30})$"
)
_FILE: Json = {
    "type": "object",
    "properties": {
        "file": {"type": "string", "minLength": 1, "description": "A list of addresses, one a line, beside this file."},
        "may_be_empty": {"type": "boolean", "description": "In `block` and `except`: an empty file is no error."},
    },
    "required": ["file"],
    "additionalProperties": False,
}
_LIVE: Json = {
    "type": "object",
    "properties": {"live": {"const": True, "description": "The members live on the host: fail2ban, CrowdSec."}},
    "required": ["live"],
    "additionalProperties": False,
}
ADDRESS_JSON: Json = {"anyOf": [{"$ref": "#/$defs/address"}, {"$ref": "#/$defs/file"}]}
_PORT = _text(
    r"^([0-9]{1,5}(-[0-9]{1,5})?/(tcp|udp|sctp)(\+(tcp|udp|sctp))*|proto/[0-9]{1,3}|"
    r"(?!(none|self|tcp|udp|sctp|icmp|icmpv6)$)[a-z][a-z0-9_-]{0,30})$"
)

TEXT = Shape(words.text, {"type": ["string", "integer"], "minLength": 1})
NAME = Shape(words.name, _text(NAME_PATTERN))
ADDRESSES = Shape(addresses.addresses, _list_of(ADDRESS_JSON))
SOURCES = Shape(addresses.sources, _list_of(ADDRESS_JSON))
GROUP = Shape(addresses.group, {"anyOf": [_LIVE, *_list_of(ADDRESS_JSON)["anyOf"]]})
ENDS = Shape(addresses.ends, {"anyOf": [{"const": "self"}, *_list_of(ADDRESS_JSON)["anyOf"]]})
PORTS = Shape(portwords.ports, _list_of({"$ref": "#/$defs/port"}))
DEFINITIONS: Json = {"address": _ADDRESS, "file": _FILE, "port": _PORT}
"""What `$ref` refers to."""
INTERFACES = Shape(words.names, _list_of(_text(NAME_PATTERN)))
DEVICES = Shape(words.devices, _list_of(_text(r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,14}\*?$")))
PATHS = Shape(
    words.paths, {"anyOf": [{"type": "string", "minLength": 1}, {"type": "array", "items": {"type": "string"}}]}
)
RATE = Shape(words.rate, _text("^[1-9][0-9]{0,6}/(second|minute|hour|day)$"))
UNTIL = Shape(
    words.until,
    _text(r"^[0-9]{4}-[0-9]{2}-[0-9]{2}([Tt][0-9]{2}:[0-9]{2}(:[0-9]{2})?([Zz]|[+-][0-9]{2}:[0-9]{2}))?$"),
)
TARGET = Shape(
    words.target, _text(r"^([0-9.]+(:[0-9]{1,5})?|\[[0-9A-Fa-f:.]+\](:[0-9]{1,5})?|[0-9A-Fa-f:.]+|:[0-9]{1,5})$")
)
MASQUERADE = Shape(words.masquerade, {"type": ["boolean", "string"]})
VERSION = Shape(words.version, {"const": 1})
USER = Shape(words.user, _text("^[A-Za-z_][A-Za-z0-9_.-]{0,31}$"))
PROCESS = Shape(words.process, {"type": "string", "minLength": 1, "maxLength": 64})
FLAG = Shape(words.flag, {"type": "boolean"})
PORT_RANGE = Shape(words.port_range, _text("^[0-9]{1,5}-[0-9]{1,5}$"))
_PORT_OR_RANGE: Json = {
    "anyOf": [{"type": "integer", "minimum": 1, "maximum": 65535}, _text("^[0-9]{1,5}(-[0-9]{1,5})?$")]
}
PORT_RANGES = Shape(words.port_ranges, _list_of(_PORT_OR_RANGE))
SETTINGS = Shape(
    words.settings, {"type": "object", "additionalProperties": {"type": ["string", "integer"]}, "minProperties": 1}
)


def number(least: int, most: int = words.MOST) -> Shape:
    return Shape(words.number(least, most), {"type": "integer", "minimum": least, "maximum": most})


def one_of(*choices: str) -> Shape:
    return Shape(words.one_of(*choices), {"enum": list(choices)})


def any_of(*choices: str) -> Shape:
    """A list, perhaps empty, of some words."""
    one = words.one_of(*choices)

    def parse(value: Any) -> tuple[Any, ...]:
        return () if value == [] else words.many(value, one, "a list of words")

    item: Json = {"enum": list(choices)}
    return Shape(parse, {"anyOf": [item, {"type": "array", "items": item}]})


def named(shape: Shape) -> Shape:
    """A value under each of some names."""

    def parse(value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise mistyped(value, "a mapping of names")
        found, faults = dict[str, Any](), []
        for word, part in value.items():
            for read, is_key in ((words.name, True), (shape.parse, False)):
                try:
                    found[word] = read(word if is_key else part)
                except Wrong as error:
                    faults += [fault._replace(key=fault.key or is_key) for fault in below(word, error)]
        if faults:
            raise Wrong(*faults)
        return found

    schema = {"type": "object", "propertyNames": _text(NAME_PATTERN), "additionalProperties": shape.schema}
    return Shape(parse, schema)
