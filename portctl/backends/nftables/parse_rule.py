"""One rule of a listing: its statements from left to right, as conditions and actions.

What the parser cannot read is one `UNKNOWN` condition, from where it begins to the next word that starts an action.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from ipaddress import ip_address

from portctl.backends.nftables.listed import Listed, Unreadable, plain
from portctl.backends.nftables.parse_match import Scope, match
from portctl.backends.nftables.tokens import Cursor, tokens
from portctl.net import Address, Family, Ranges
from portctl.program import (
    Accept,
    Action,
    Condition,
    Deny,
    Field,
    Jump,
    Line,
    Lookup,
    Note,
    Return,
    SetMark,
    Translate,
    Unknown,
)

__all__ = ["Listed", "Scope", "apart", "line_of"]

_ACTIONS = """accept drop return continue jump goto reject log counter comment dnat snat masquerade redirect queue
 notrack tproxy synproxy dup fwd flow add update delete quota""".split()  # noqa: SIM905 - a list of words reads better


@dataclass(slots=True)
class _Rule:
    """A rule while it is read."""

    cursor: Cursor
    scope: Scope
    conditions: list[Condition] = field(default_factory=list)
    actions: list[Action] = field(default_factory=list)
    comment: str = ""
    packets: int | None = None
    bytes: int | None = None


def line_of(text: str, number: int, scope: Scope) -> Line:
    """A rule as it stands in a listing, without its handle."""
    rule = _Rule(Cursor(tokens(text)), scope)
    while rule.cursor.peek():
        start = rule.cursor.position
        try:
            _statement(rule)
        except (Unreadable, KeyError, ValueError, IndexError):
            rule.cursor.position = start
            _unknown(rule)
    return Line(tuple(rule.conditions), tuple(rule.actions), text, rule.comment, number, rule.packets, rule.bytes)


def _unknown(rule: _Rule) -> None:
    """Takes what cannot be read, up to the next action. An action that cannot be read may do anything."""
    cursor = rule.cursor
    words = [cursor.take()]
    acts = words[0] in _ACTIONS
    while cursor.peek() and cursor.peek() not in _ACTIONS:
        words.append(cursor.take())
    text = " ".join(words)
    if acts or " set " in text or text.startswith(("xt target", "statement ")):
        rule.actions.append(Unknown(text))
    else:
        rule.conditions.append(Condition(Field.UNKNOWN, text))


def _statement(rule: _Rule) -> None:
    word = rule.cursor.peek()
    if word in _STATEMENTS:
        rule.cursor.take()
        _STATEMENTS[word](rule)
        return
    if _setter(rule):
        return
    conditions, lookup = match(rule.cursor, rule.scope, verdict)
    if rule.actions and any(isinstance(a, SetMark | Unknown) for a in rule.actions):
        raise Unreadable("a condition after a change")
    rule.conditions += conditions
    if lookup is not None:
        rule.actions.append(Lookup(lookup))


def verdict(text: str) -> Action:
    """A verdict as it stands in a map."""
    word, _, name = text.partition(" ")
    if word in ("jump", "goto"):
        return Jump(name, goto=word == "goto")
    simple: dict[str, Action] = {"accept": Accept(), "drop": Deny(), "return": Return(), "continue": Note("continue")}
    return simple.get(text, Unknown(text))


def _counter(rule: _Rule) -> None:
    cursor = rule.cursor
    if cursor.skip("packets"):
        rule.packets = int(cursor.take())
        cursor.expect("bytes")
        rule.bytes = int(cursor.take())
    elif cursor.skip("name"):
        cursor.take()


def _comment(rule: _Rule) -> None:
    rule.comment = rule.cursor.take().strip('"')


def _jump(rule: _Rule) -> None:
    rule.actions.append(Jump(rule.cursor.take()))


def _goto(rule: _Rule) -> None:
    rule.actions.append(Jump(rule.cursor.take(), goto=True))


def _reject(rule: _Rule) -> None:
    cursor = rule.cursor
    answer: list[str] = []
    if cursor.skip("with"):
        answer = [cursor.take(), cursor.take()]
        if answer[1] == "type":
            answer = [answer[0], cursor.take()]
    rule.actions.append(Deny(reject=True, answer=" ".join(answer)))


_LOG_OPTIONS = ("prefix", "group", "level", "snaplen", "queue-threshold")


def _log(rule: _Rule) -> None:
    words = ["log"]
    cursor = rule.cursor
    while cursor.peek() in (*_LOG_OPTIONS, "flags"):
        words.append(cursor.take())
        words.append(cursor.take())
        if words[-2] == "flags" and words[-1] in ("tcp", "ip"):
            words.append(cursor.take())
        while cursor.skip(","):
            words.append(cursor.take())
    rule.actions.append(Note(" ".join(words)))


def _limit(rule: _Rule) -> None:
    text, over = limit_text(rule.cursor)
    rule.conditions.append(Condition(Field.LIMIT, text, negated=over))


def limit_text(cursor: Cursor) -> tuple[str, bool]:
    """After `limit`: its text, and whether it asks for what is beyond it."""
    if cursor.skip("name"):
        return f"limit name {cursor.take()}", False
    cursor.expect("rate")
    over = cursor.skip("over")
    words = ["limit", "rate", cursor.take()]
    if cursor.peek() in ("bytes/second", "kbytes/second", "mbytes/second"):
        words.append(cursor.take())
    if cursor.skip("burst"):
        words += ["burst", cursor.take(), cursor.take()]
    return " ".join(words), over


def _dynamic(rule: _Rule) -> None:
    """`add @set { key … }`: what the element carries is asked; where it carries nothing, it only adds."""
    cursor = rule.cursor
    name = cursor.take()
    cursor.expect("{")
    words: list[str] = []
    limits: list[tuple[str, bool]] = []
    while not cursor.skip("}"):
        if cursor.skip("limit"):
            limits.append(limit_text(cursor))
        elif cursor.peek() == "ct" and cursor.peek(1) == "count":
            cursor.take()
            cursor.take()
            over = cursor.skip("over")
            limits.append((f"ct count {cursor.take()}", over))
        else:
            words.append(cursor.take())
    key = " ".join(words)
    family: Family | None = 4 if "ip" in words else 6 if "ip6" in words else None  # the key is asked too
    for text, over in limits:
        rule.conditions.append(Condition(Field.LIMIT, f"{name} {key} {text}", over, family))
    if not limits:
        rule.actions.append(Note(f"add {name} {{ {key} }}"))


def _translate(kind: str) -> Callable[[_Rule], None]:
    def read(rule: _Rule) -> None:
        cursor = rule.cursor
        address, port = None, None
        if cursor.peek() in ("ip", "ip6"):
            cursor.take()
        said = cursor.skip("to")  # nft before 0.8 printed none
        if said and kind == "destination" and _map_at(cursor) is not None:
            _by_map(rule)
            return
        if said or _ENDPOINT.match(cursor.peek()):
            text = cursor.take()
            if cursor.peek() in ("map", ".", ","):
                raise Unreadable(text)
            address, port = _pool(text) if kind == "source" else _endpoint(_kept(text, rule.conditions))
        while cursor.peek() in ("random", "fully-random", "persistent", ","):
            cursor.take()
        if kind == "destination" or kind == "redirect":
            rule.actions.append(Translate("redirect" if kind == "redirect" else "destination", address, port))
        else:
            rule.actions.append(Translate("source" if kind == "source" else "masquerade", address, port))

    return read


_ENDPOINT = re.compile(r"\d+\.\d+\.\d+\.\d+|\[|[0-9a-fA-F]*:")


def _map_at(cursor: Cursor) -> int | None:
    """How far away the map of a translation stands, if it asks one."""
    rest = cursor.rest()
    return rest.index("map") if "map" in rest and not set(_ACTIONS) & set(rest[: rest.index("map")]) else None


def _by_map(rule: _Rule) -> None:
    """`tcp dport map { 80 : 10.0.0.5, 443 : 10.0.0.6 . 8443 }`: a look-up whose answers are places."""
    words = list(rule.cursor.words)
    at = _map_at(rule.cursor)
    assert at is not None
    words[rule.cursor.position + at] = "vmap"
    cursor = Cursor(words, rule.cursor.position)
    conditions, lookup = match(cursor, rule.scope, _target)
    if lookup is None:
        raise Unreadable("map")
    rule.cursor.position = cursor.position
    rule.conditions += conditions
    rule.actions.append(Lookup(lookup))


def _target(text: str) -> Action:
    """A place as it stands in a map."""
    address, _, port = text.partition(" . ")
    try:
        return Translate("destination", ip_address(address.strip()), int(port) if port else None)
    except ValueError:
        return Unknown(f"dnat to {text}")


def apart(line: Line) -> list[Line]:
    """A rule that translates by a map as a rule for each of its answers: no two can hold for one packet."""
    last = line.actions[-1] if line.actions else None
    if not isinstance(last, Lookup) or not any(isinstance(found, Translate) for _, found in last.entries):
        return [line]
    first = line.actions[:-1]
    return [
        replace(line, conditions=(*line.conditions, *conditions), actions=(*first, found))
        for conditions, found in last.entries
    ]


def _kept(text: str, conditions: Iterable[Condition]) -> str:
    """`10.0.0.5:80-90` without the ports, if the rule asks for ports of that range alone: a packet then keeps its own
    (`get_unique_tuple` in nf_nat_core.c)."""
    found = re.fullmatch(r"(.+):(\d+)-(\d+)", text)
    if found is None:
        return text
    wanted = Ranges.of([(int(found[2]), int(found[3]))])
    asked = (c.value for c in conditions if c.field is Field.PORT and not c.negated and isinstance(c.value, Ranges))
    return found[1] if any(not ports - wanted for ports in asked) else text


def _pool(text: str) -> tuple[Address | None, int | None]:
    """A source to take; of several it is not known which, and its ports ask nothing."""
    first, dash, _ = text.partition("-")
    if not dash:
        return _endpoint(text)
    address, _ = _endpoint(first)
    return (address, None) if ":" in text and "-" not in text.rsplit(":", 1)[0] else (None, None)


def _endpoint(text: str) -> tuple[Address | None, int | None]:
    """`10.0.0.5:80`, `10.0.0.5`, `[2001:db8::5]:80`, `2001:db8::5`, `:80`."""
    if re.fullmatch(r":\d+", text):
        return None, int(text[1:])
    found = re.fullmatch(r"(?:\[(.+)\]|([0-9.]+))(?::(\d+))?", text)
    if found is None:
        return ip_address(text), None
    return ip_address(found[1] or found[2]), int(found[3]) if found[3] else None


def _setter(rule: _Rule) -> bool:
    """`KEY set VALUE`: marks are kept account of, values that no condition here asks for are notes."""
    rest = rule.cursor.rest()
    for length in (1, 2, 4):  # four words are `tcp option maxseg size`, not a match of two before `meta mark`
        if len(rest) > length and rest[length] == "set" and (length < 4 or rest[1] == "option"):
            key = " ".join(rest[:length])
            break
    else:
        return False
    end = next((k for k, word in enumerate(rest) if k > length and word in _ACTIONS), len(rest))
    value = rest[length + 1 : end]
    rule.cursor.position += end
    text = f"{key} set {' '.join(value)}"
    if key in ("meta mark", "mark"):
        rule.actions.append(_mark(value) or Unknown(text))
    elif key.startswith(("tcp option", "ct mark", "ct label", "meta priority", "meta nftrace", "ip dscp", "ip6 dscp")):
        rule.actions.append(Note(text))
    else:
        rule.actions.append(Unknown(text))
    return True


def _mark(value: list[str]) -> SetMark | None:
    words = value[2:] if value[:2] == ["meta", "mark"] else ["&", "0x0", "|", *value]
    keep, bits = 0xFFFFFFFF, 0
    if words[:1] == ["&"]:
        keep, words = plain(words[1]), words[2:]
    if words[:1] == ["|"]:
        bits, words = plain(words[1]), words[2:]
    return None if words else SetMark(0xFFFFFFFF & ~keep, bits)


def _simple(action: Action) -> Callable[[_Rule], None]:
    return lambda rule: rule.actions.append(action)


def _flow(rule: _Rule) -> None:
    rule.cursor.expect("add")
    rule.actions.append(Note(f"flow add {rule.cursor.take()}"))


_STATEMENTS: dict[str, Callable[[_Rule], None]] = {
    "accept": _simple(Accept()),
    "drop": _simple(Deny()),
    "return": _simple(Return()),
    "continue": _simple(Note("continue")),
    "notrack": _simple(Note("notrack")),
    "counter": _counter,
    "comment": _comment,
    "jump": _jump,
    "goto": _goto,
    "reject": _reject,
    "log": _log,
    "limit": _limit,
    "add": _dynamic,
    "update": _dynamic,
    "dnat": _translate("destination"),
    "snat": _translate("source"),
    "masquerade": _translate("masquerade"),
    "redirect": _translate("redirect"),
    "flow": _flow,
}
