"""`nft -j list ruleset` (libnftables-json(5)) as the lines that `nft list ruleset` prints of the same rules.

An expression that is not known becomes the words `json EXPRESSION`, which no parser of nft's language knows: it is
then unknown in its place, and never left out.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

from portctl.problems import Problem, Problems

Lines = list[tuple[int, str]]


def as_lines(text: str) -> tuple[list[str], Lines]:
    """Each object of the listing as its own text, and the lines of nft with the number of their object, from 1.

    Raises `Problems` for what is no listing.
    """
    try:
        listed = json.loads(text)["nftables"]
        objects = [each if isinstance(each, dict) else {"json": each} for each in listed]
    except (ValueError, KeyError, TypeError, RecursionError):
        hint = "give what `nft -j list ruleset` prints"
        raise Problems([Problem("bad-input", "the JSON is no listing of nft's", None, hint)]) from None
    texts = [json.dumps(each) for each in objects]
    lines: Lines = []
    tables: dict[tuple[str, str], dict[str, Lines]] = {}
    order: list[tuple[str, str, int]] = []
    for number, each in enumerate(objects, 1):
        kind, value = next(iter(each.items()), ("json", None))
        value = value if isinstance(value, dict) else {}
        place = (_text(value.get("family", "")), _text(value.get("name" if kind == "table" else "table", "")))
        if kind == "metainfo":
            continue
        if place not in tables and place[1]:
            tables[place] = {}
            order.append((*place, number))
        if kind in ("set", "map", "chain", "rule"):
            blocks = tables.setdefault(place, {})
            name = _text(value.get("chain" if kind == "rule" else "name", ""))
            word = "chain" if kind == "rule" else kind
            made = _safely(kind, value)
            blocks.setdefault(f"{word} {name}", [(number, "")]).extend((number, line) for line in made)
        elif kind != "table":
            lines.append((number, f"# json {kind}") if kind in ("counter", "quota") else (number, f"json {kind}"))
    for family, name, number in order:
        lines.append((number, f"table {family} {name} {{"))
        for head, body in tables[family, name].items():
            lines.append((body[0][0], f"{head} {{"))
            lines += [line for line in body if line[1]]
            lines.append((body[0][0], "}"))
        lines.append((number, "}"))
    return texts, lines


def _safely(kind: str, value: dict[str, Any]) -> list[str]:
    """The lines of an object; one line that no parser knows where it is not as the manual says."""
    try:
        return [" ".join(line.split()) for line in _MAKERS[kind](value)]
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, RecursionError):
        return [f"json {json.dumps(value)[:2000]}"]


def _chain(value: dict[str, Any]) -> Iterator[str]:
    if "hook" in value:
        policy = f" policy {value['policy']};" if "policy" in value else ""
        yield f"type {value['type']} hook {value['hook']} priority {value['prio']};{policy}"


def _set(value: dict[str, Any]) -> Iterator[str]:
    keys = value["type"] if isinstance(value["type"], list) else [value["type"]]
    data = f" : {value['map']}" if "map" in value else ""
    yield "type " + " . ".join(_text(key) for key in keys) + data
    if value.get("flags"):
        flags = value["flags"]
        yield "flags " + (",".join(flags) if isinstance(flags, list) else _text(flags))
    if value.get("elem"):
        yield "elements = { " + ", ".join(_element(each) for each in value["elem"]) + " }"


def _element(value: Any) -> str:
    if isinstance(value, dict) and "elem" in value:
        return _expression(value["elem"]["val"])
    if isinstance(value, list) and len(value) == 2:
        return f"{_element(value[0])} : {_verdict_or(value[1])}"
    return _expression(value)


def _rule(value: dict[str, Any]) -> Iterator[str]:
    words = [_statement(each) for each in value["expr"]]
    if "comment" in value:
        words.append("comment " + _quoted(value["comment"]))
    yield " ".join(word for word in words if word)


_MAKERS: dict[str, Callable[[dict[str, Any]], Iterator[str]]] = {
    "chain": _chain, "set": _set, "map": _set, "rule": _rule,
}  # fmt: skip


def _quoted(value: Any) -> str:
    return '"' + "".join(c for c in str(value) if c.isprintable() and c not in '"\\') + '"'


def _text(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise TypeError
    return " ".join(str(value).split())


def _statement(value: dict[str, Any]) -> str:
    if not isinstance(value, dict) or len(value) != 1:
        return f"json {json.dumps(value)}"
    kind, body = next(iter(value.items()))
    maker = _STATEMENTS.get(kind)
    try:
        if maker is not None:
            return maker(body)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError):
        pass
    asks = kind in ("match", "limit") or (kind == "xt" and isinstance(body, dict) and body.get("type") == "match")
    return f"{'' if asks else 'statement '}json {json.dumps(value)[:500]}"


def _match(body: dict[str, Any]) -> str:
    left, right = _expression(body["left"]), _expression(body["right"])
    operator = body["op"]
    if operator in ("in", "=="):
        return f"{left} {right}"
    if operator in ("!=", "<", ">", "<=", ">="):
        return f"{left} {operator} {right}"
    raise ValueError


def _verdict(word: str) -> Callable[[Any], str]:
    return lambda _: word


def _jump(word: str) -> Callable[[Any], str]:
    return lambda body: f"{word} {_text(body['target'])}"


def _counter(body: Any) -> str:
    if isinstance(body, dict) and "packets" in body:
        return f"counter packets {int(body['packets'])} bytes {int(body['bytes'])}"
    return "counter"


def _limit(body: dict[str, Any]) -> str:
    unit = "" if body.get("rate_unit", "packets") == "packets" else f" {body['rate_unit']}"
    rate = f"{int(body['rate'])}/{body['per']}" if not unit else f"{int(body['rate'])}{unit}/{body['per']}"
    burst = f" burst {int(body['burst'])} packets" if body.get("burst") else ""
    return f"limit rate {'over ' if body.get('inv') else ''}{rate}{burst}"


def _count(body: dict[str, Any]) -> str:
    return f"ct count {'over ' if body.get('inv') else ''}{int(body['val'])}"


def _log(body: Any) -> str:
    prefix = body.get("prefix") if isinstance(body, dict) else None
    return f"log prefix {_quoted(prefix)}" if prefix else "log"


def _reject(body: Any) -> str:
    if not isinstance(body, dict) or "type" not in body:
        return "reject"
    if body["type"] == "tcp reset":
        return "reject with tcp reset"
    return f"reject with {_text(body['type'])} {_text(body['expr'])}"


def _nat(word: str) -> Callable[[Any], str]:
    def make(body: Any) -> str:
        if not isinstance(body, dict) or not (body.keys() & {"addr", "port"}):
            return word
        address = _expression(body["addr"]) if "addr" in body else ""
        port = f":{_expression(body['port'])}" if "port" in body else ""
        if port and ":" in address:
            address = f"[{address}]"
        family = f" {body['family']}" if "family" in body else ""
        return f"{word}{family} to {address}{port}"

    return make


def _map(body: dict[str, Any]) -> str:
    key, data = _expression(body["key"]), body["data"]
    if isinstance(data, str):
        return f"{key} vmap {_text(data)}"
    return f"{key} vmap {{ {', '.join(_element(each) for each in data['set'])} }}"


def _data_map(body: dict[str, Any]) -> str:
    """Of a translation: `tcp dport map { 80 : 10.0.0.5 }`."""
    return _map(body).replace(" vmap ", " map ", 1)


def _mangle(body: dict[str, Any]) -> str:
    return f"{_expression(body['key'])} set {_expression(body['value'])}"


def _dynamic(body: dict[str, Any]) -> str:
    statements = " ".join(_statement(each) for each in body.get("stmt", []))
    return f"{_text(body['op'])} {_text(body['set'])} {{ {_expression(body['elem'])} {statements} }}"


_STATEMENTS: dict[str, Callable[[Any], str]] = {
    "match": _match, "accept": _verdict("accept"), "drop": _verdict("drop"), "return": _verdict("return"),
    "continue": _verdict("continue"), "notrack": _verdict("notrack"), "jump": _jump("jump"), "goto": _jump("goto"),
    "counter": _counter, "limit": _limit, "ct count": _count, "log": _log, "reject": _reject, "vmap": _map,
    "mangle": _mangle, "set": _dynamic, "dnat": _nat("dnat"), "snat": _nat("snat"), "redirect": _nat("redirect"),
    "masquerade": _nat("masquerade"),
}  # fmt: skip


def _verdict_or(value: Any) -> str:
    if isinstance(value, dict):
        word = next(iter(value))
        if word in ("accept", "drop", "return", "continue", "jump", "goto"):
            return _statement(value)
    return _expression(value)


def _expression(value: Any) -> str:
    if isinstance(value, str | int) and not isinstance(value, bool):
        return _text(value)
    if isinstance(value, list):
        return ",".join(_expression(each) for each in value)
    kind, body = next(iter(value.items()))
    return _EXPRESSIONS[kind](body)


def _payload(body: dict[str, Any]) -> str:
    return f"{_text(body['protocol'])} {_text(body['field'])}"


def _meta(body: dict[str, Any]) -> str:
    key = _text(body["key"])
    return key if key in ("iifname", "oifname", "iif", "oif") else f"meta {key}"


def _ct(body: dict[str, Any]) -> str:
    words = [_text(body[key]) for key in ("dir", "family") if key in body]
    return " ".join(["ct", *words, _text(body["key"])])


def _fib(body: dict[str, Any]) -> str:
    flags = body["flags"] if isinstance(body["flags"], list) else [body["flags"]]
    return f"fib {' . '.join(_text(flag) for flag in flags)} {_text(body['result'])}"


_EXPRESSIONS: dict[str, Callable[[Any], str]] = {
    "payload": _payload,
    "meta": _meta,
    "ct": _ct,
    "fib": _fib,
    "map": _data_map,
    "prefix": lambda body: f"{_expression(body['addr'])}/{int(body['len'])}",
    "range": lambda body: f"{_expression(body[0])}-{_expression(body[1])}",
    "set": lambda body: "{ " + ", ".join(map(_element, body if isinstance(body, list) else [body])) + " }",
    "concat": lambda body: " . ".join(_expression(each) for each in body),
    "&": lambda body: f"{_expression(body[0])} & {_expression(body[1])}",
    "|": lambda body: " | ".join(_expression(each) for each in body),
}
