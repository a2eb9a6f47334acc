"""The language as JSON Schema (draft 2020-12), for editors: every key with what it means and examples.

The schema knows the form of values; names, sets and everything that needs more than one value are `portctl check`'s.
"""

from __future__ import annotations

from dataclasses import MISSING, fields
from typing import Any

from portctl.policy.models import Block, Expected, TopFile
from portctl.policy.shape import ADDRESS_JSON, DEFINITIONS, NAME_PATTERN, Json, Nested, yaml_key


def schema() -> Json:
    """The schema of a policy file. Fragments have the same keys without `portctl` and `name`."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "portctl policy",
        "description": "Who may talk to which service of a host.",
        **_mapping(TopFile),
        "$defs": DEFINITIONS,
    }


def _mapping(model: Any) -> Json:
    properties, required = {}, []
    for field in fields(model):
        if "shape" not in field.metadata:
            continue
        key = yaml_key(field.name)
        value: Json = {"description": field.metadata["about"], **_value(field.metadata["shape"])}
        value["examples"] = list(field.metadata["examples"])
        if field.default is MISSING:
            required.append(key)
        elif field.default is not None:
            value["default"] = field.default
        properties[key] = value
    found: Json = {"type": "object", "properties": properties, "additionalProperties": False}
    if required:
        found["required"] = sorted(required, key=list(properties).index)
    return found | _EITHER.get(model, {})


_EITHER: dict[Any, Json] = {
    Block: {"oneOf": [{"required": ["from"]}, {"required": ["to"]}]},
    Expected: {"oneOf": [{"required": ["service"]}, {"required": ["ports"]}]},
}


def _value(shape: Any) -> Json:
    if not isinstance(shape, Nested):
        return dict(shape.schema)
    inner = _mapping(shape.model)
    if shape.many == "one":
        return inner
    if shape.many == "named":
        names = {"type": "string", "pattern": NAME_PATTERN}
        return {"type": "object", "propertyNames": names, "additionalProperties": inner}
    item = {"anyOf": [*ADDRESS_JSON["anyOf"], inner]} if shape.model is Block else inner
    return {"anyOf": [{"type": "array", "items": item}, item]}
