"""One document against the shape of the language: every value at its own place, all problems at once.

pydantic's core walks the data by the fields that the models declare; what it finds wrong becomes located problems here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from functools import cache
from typing import Any

from pydantic_core import SchemaValidator, ValidationError
from pydantic_core import core_schema as core

from portctl.document import Document, Path, shorten
from portctl.policy import words
from portctl.policy.addresses import address
from portctl.policy.models import About, Block, Egress, Expected, Forward, Fragment, Service, TopFile
from portctl.policy.shape import Nested, yaml_key
from portctl.policy.wrong import Fault, Wrong, kind, nearest, shown
from portctl.problems import Problem, Problems, order


def fragment(document: Document, top: bool = False) -> Fragment:
    """The document as a model: a `TopFile` or an included `Fragment`. Raises `Problems`, all at once."""
    model = TopFile if top else Fragment
    try:
        found = _validator(model).validate_python(document.data)
    except ValidationError as error:
        lines = error.errors(include_url=False, include_input=False)
        misspelt = {_intended(model, line["loc"]) for line in lines if line["type"] == "extra_forbidden"}
        problems: list[Problem] = []
        for line in lines:
            if line["type"] != "missing" or line["loc"] not in misspelt:
                problems += _problems(document, model, line)
        raise Problems(shorten(order(problems))) from None
    assert isinstance(found, Fragment)
    return found


@cache
def _validator(model: Any) -> SchemaValidator:
    return SchemaValidator(_model_schema(model))


def _model_schema(model: Any) -> core.CoreSchema:
    """A mapping with the model's keys and no others, which becomes the model."""
    keys = {}
    for field in fields(model):
        if "shape" in field.metadata:
            needed = field.default is not None and _is_missing(field.default)
            schema = _value_schema(field.metadata["shape"])
            keys[field.name] = core.typed_dict_field(schema, required=needed, validation_alias=yaml_key(field.name))
    mapping = core.typed_dict_schema(keys, extra_behavior="forbid", strict=True)
    build = _BUILD.get(model, lambda found: model(**found))
    return core.no_info_after_validator_function(build, mapping)


def _is_missing(default: Any) -> bool:
    from dataclasses import MISSING

    return default is MISSING


def _value_schema(shape: Any) -> core.CoreSchema:
    if not isinstance(shape, Nested):
        return core.no_info_plain_validator_function(shape.parse)
    inner = _model_schema(shape.model)
    if shape.many == "one":
        return inner
    if shape.many == "named":
        return core.dict_schema(core.no_info_plain_validator_function(words.name), inner, strict=True)
    if shape.model is Block:
        inner = core.no_info_wrap_validator_function(_block, inner)
    return core.no_info_before_validator_function(_as_list, core.tuple_variable_schema(inner))


def _as_list(value: Any) -> tuple[Any, ...]:
    if value is None:
        raise Wrong(Fault("empty-value", "this is empty, and a list belongs here", "write an entry, or remove the key"))
    return tuple(value) if isinstance(value, list) else (value,)


def _block(value: Any, mapping: Callable[[Any], Block]) -> Block:
    """A bare address or group, or a mapping."""
    if not isinstance(value, dict) or "file" in value or "live" in value:
        return Block(both=address(value))
    return mapping(value)


def _build_block(found: dict[str, Any]) -> Block:
    faults = []
    if ("from_" in found) == ("to" in found):
        both = "from_" in found
        message = (
            "an entry of `block` has either `from` or `to`, not both" if both else "neither `from` nor `to` is here"
        )
        hint = "write two entries; a bare name blocks both ways" if both else "`{from: feed}`, `{to: any, ports: smtp}`"
        faults.append(Fault("block-entry", message, hint, ("to",) if both else (), both))
    if faults:
        raise Wrong(*faults)
    return Block(**found)


def _build_expected(found: dict[str, Any]) -> Expected:
    if ("service" in found) == ("ports" in found):
        both = "service" in found
        message = "a test has either `service` or `ports`" if both else "neither `service` nor `ports` is here"
        raise Wrong(
            Fault("test-entry", message, "`service: ssh`, or `ports: 22/tcp`", ("ports",) if both else (), both)
        )
    return Expected(**found)


_BUILD: dict[Any, Callable[[dict[str, Any]], Any]] = {Block: _build_block, Expected: _build_expected}


def _problems(document: Document, model: Any, line: Any) -> list[Problem]:
    """What one complaint of pydantic's core says to the person."""
    path: Path = line["loc"]
    if line["type"] == "value_error":
        error = line["ctx"]["error"]
        is_key = bool(path) and path[-1] == "[key]"
        path = path[:-1] if is_key else path
        return [_located(document, path, fault, is_key) for fault in error.faults]
    if line["type"] == "extra_forbidden":
        return [_unknown_key(document, model, path)]
    if line["type"] == "missing":
        return [_missing_key(document, model, path)]
    return [_not_a_mapping(document, path)]


def _located(document: Document, path: Path, fault: Fault, is_key: bool) -> Problem:
    span = document.span(path + fault.path, key=is_key or fault.key)
    return Problem(fault.code, fault.message, span, fault.hint)


def _described(model: Any, path: Path) -> tuple[Any, str]:
    """The model of the mapping at a path, and what to call it."""
    about = "a policy" if model is TopFile else "a fragment"
    steps = list(path)
    while steps:
        field = next((f for f in fields(model) if yaml_key(f.name) == steps[0]), None)
        if field is None or not isinstance(shape := field.metadata.get("shape"), Nested):
            break
        model, about = shape.model, shape.about
        steps = steps[1:] if shape.many == "one" else steps[2:]
    return model, about


def _keys(model: Any) -> list[str]:
    """A model's keys, those that every entry has at the end."""
    keys = [yaml_key(field.name) for field in fields(model) if "shape" in field.metadata]
    return sorted(keys, key=[field.name for field in fields(About)].__contains__)


_MEANT: tuple[tuple[tuple[str, ...], str], ...] = (
    (("source", "sources", "src", "saddr", "allow", "clients"), "from"),
    (("destination", "destinations", "dest", "dst", "daddr"), "to"),
    (("interface", "interfaces", "iface", "device", "zone"), "in"),
    (("proto", "protocol", "dport", "service"), "ports"),
    (("comment", "note", "reason"), "description"),
    (("exclude", "excluding", "not", "deny"), "except"),
    (("expires", "expiry", "expire"), "until"),
    (("limit", "ratelimit", "rate_limit"), "rate"),
    (("sport", "sports"), "source_ports"),
    (("version",), "portctl"),
    (("rules", "allow", "inbound", "ingress"), "services"),
    (("outbound", "output"), "egress"),
    (("nat", "forward", "forwarding"), "forwards"),
    (("deny", "drop", "blocklist", "blacklist"), "block"),
    (("groups", "networks", "hosts"), "addresses"),
)
"""Words of other tools, and the keys that say the same."""


def _intended(top: Any, path: Path) -> Path:
    """The path of the known key that the unknown one at `path` seems to mean; empty where none does."""
    known, word = _keys(_described(top, path[:-1])[0]), str(path[-1])
    meant = next((key for words, key in _MEANT if word.lower() in words and key in known), None) or nearest(word, known)
    return (*path[:-1], meant) if meant else ()


def _unknown_key(document: Document, top: Any, path: Path) -> Problem:
    model, about = _described(top, path[:-1])
    word = str(path[-1])
    span = document.span(path, key=True)
    known = _keys(model)
    meant = _intended(top, path)[-1:]
    hint = f"did you mean `{meant[0]}`?" if meant else None
    if model is Fragment and word in _keys(TopFile):
        hint = "the policy that includes it says that"
    elif hint is None or any(word in _keys(other) for other in (Service, Egress, Forward)):
        hint = f"its keys are {', '.join(f'`{key}`' for key in known)}"
    return Problem("unknown-key", f"{shown(word)} is not a key of {about}", span, hint)


def _missing_key(document: Document, top: Any, path: Path) -> Problem:
    model, about = _described(top, path[:-1])
    word = str(path[-1])
    owner = document.span(path[:-1], key=True)
    subject = shown(path[-2]) if len(path) > 1 and isinstance(path[-2], str) else about
    field = next(field for field in fields(model) if yaml_key(field.name) == word)
    example = field.metadata["examples"][0]
    return Problem("missing-key", f"{subject} has no `{word}`", owner, f"add `{word}: {example}`, say")


def _not_a_mapping(document: Document, path: Path) -> Problem:
    value = document.data
    for step in path:
        if isinstance(value, (dict, list)):
            value = value[step]  # type: ignore[index]
    span = document.span(path)
    if value is None:
        what = "the file is empty" if not path else "this is empty"
        return Problem("empty-value", what, span, "write its keys, or remove it" if path else "begin with `portctl: 1`")
    return Problem(
        "wrong-type", f"a mapping belongs here, and this is {kind(value)}", span, "write `key: value` below it"
    )
