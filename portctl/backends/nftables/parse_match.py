"""The conditions of a rule of a listing: left side, operator, right side."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime

from portctl.backends.nftables import listed
from portctl.backends.nftables.listed import Listed, Unreadable
from portctl.backends.nftables.tokens import Cursor
from portctl.net import BITS, Family, Ranges
from portctl.program import Action, Condition, Field
from portctl.ruleset import ACK, FIN, RST, SYN, State

Entries = tuple[tuple[tuple[Condition, ...], Action], ...]
Build = Callable[[list[str]], Condition]
"""From the texts of some values to the condition that a packet's value is one of them."""


@dataclass(frozen=True, slots=True)
class Scope:
    """What a rule's words refer to: the family of its table (None: both) and its sets."""

    family: Family | None
    sets: dict[str, Listed]
    own: bool
    read: dict[tuple[str, str], Condition] = field(default_factory=dict)
    """What (left side, set) was read as: large sets are asked by several rules."""


@dataclass(frozen=True, slots=True)
class _Key:
    """A left side: what it takes for granted, and how its values read."""

    text: str
    build: Build
    implied: tuple[Condition, ...] = ()
    compare: Callable[[str], int] | None = None
    """Reads a number, where `<` and `>` make sense; with the end of the numbers in `end`."""
    end: int = 0


def match(cursor: Cursor, scope: Scope, verdict: Callable[[str], Action]) -> tuple[list[Condition], Entries | None]:
    """The next condition, or the entries of a verdict map."""
    special = _special(cursor)
    if special is not None:
        return special, None
    keys = [_key(cursor, scope)]
    while cursor.skip("."):
        keys.append(_key(cursor, scope))
    implied = [condition for key in keys for condition in key.implied]
    if cursor.skip("vmap"):
        return implied if len(keys) == 1 else [], _entries(cursor, scope, keys, verdict)
    if len(keys) == 1:
        return [*implied, _single(cursor, scope, keys[0])], None
    negated = cursor.skip("!=")
    rows = tuple(_row(keys, element) for element in _elements(cursor, scope, keys))
    return [*implied, Condition(Field.CONCATENATION, rows, negated)], None


def _row(keys: list[_Key], element: str) -> tuple[Condition, ...]:
    parts = element.split(" . ")
    if len(parts) != len(keys):
        raise Unreadable(element)
    return tuple(c for key, part in zip(keys, parts, strict=True) for c in (*key.implied, key.build([part.strip()])))


def _entries(cursor: Cursor, scope: Scope, keys: list[_Key], verdict: Callable[[str], Action]) -> Entries:
    if cursor.peek().startswith("@"):
        found = scope.sets[cursor.take()[1:]]
        if found.hidden:
            raise Unreadable(f"vmap @{found.name} {found.comment}")
        texts = listed.split(found.elements or "")
    else:
        texts = listed.split(_braces(cursor))
    entries: list[tuple[tuple[Condition, ...], Action]] = []
    for text in texts:
        key, _, action = text.rpartition(" : ")
        entries.append((_row(keys, listed.values(key)[0]), verdict(action)))
    return tuple(entries)


def _braces(cursor: Cursor) -> str:
    """The text between two braces."""
    cursor.expect("{")
    words: list[str] = []
    while not cursor.skip("}"):
        words.append(cursor.take())
    return " ".join(words).replace(" ,", ",")


def _elements(cursor: Cursor, scope: Scope, keys: list[_Key]) -> list[str]:
    """The values on the right of a condition."""
    if cursor.peek().startswith("@"):
        found = scope.sets[cursor.take()[1:]]
        if found.hidden:
            raise Unreadable(f"{' . '.join(key.text for key in keys)} @{found.name} {found.comment}")
        if scope.own and found.name in ("open-4", "open-6"):
            return []  # run-time contents: never part of a program
        return listed.values(found.elements or "")
    if cursor.peek() == "{":
        return listed.split(_braces(cursor))
    words = [cursor.take()]
    for _ in keys[1:]:
        cursor.expect(".")
        words += [".", cursor.take()]
    return [" ".join(words)]


def _single(cursor: Cursor, scope: Scope, key: _Key) -> Condition:
    operator = cursor.take() if cursor.peek() in ("==", "!=", "<", ">", "<=", ">=") else "=="
    if operator in ("==", "!="):
        live = _live(cursor, scope, key)
        condition = live or _one_of(cursor, scope, key)
    else:
        if key.compare is None:
            raise Unreadable(key.text)
        number = key.compare(cursor.take())
        bounds = {"<": (0, number), "<=": (0, number + 1), ">": (number + 1, key.end), ">=": (number, key.end)}
        like = key.build(["0"] if key.end != 1 << 32 and key.end != 1 << 128 else _zero(key))
        condition = Condition(like.field, Ranges(bounds[operator]), family=like.family)
    return Condition(condition.field, condition.value, operator == "!=", condition.family)


def _one_of(cursor: Cursor, scope: Scope, key: _Key) -> Condition:
    place = key.text, cursor.peek()
    if place in scope.read:
        cursor.take()
        return scope.read[place]
    condition = key.build(_elements(cursor, scope, [key]))
    if place[1].startswith("@"):
        scope.read[place] = condition
    return condition


def _zero(key: _Key) -> list[str]:
    return ["::"] if key.end == 1 << 128 else ["0.0.0.0"]


def _live(cursor: Cursor, scope: Scope, key: _Key) -> Condition | None:
    """A live set of portctl's own: asked by its name, its members being the host's affair."""
    name = cursor.peek().removeprefix("@")
    if not scope.own or not cursor.peek().startswith("@live-"):
        return None
    fields = {"saddr": Field.LIVE, "daddr": Field.LIVE_DESTINATION}
    side = key.text.split()[-1]
    cursor.take()
    return Condition(fields[side], name.removeprefix("live-")[:-2], family=6 if name.endswith("-6") else 4)


def _addresses(field: Field, family: Family) -> Build:
    def build(texts: list[str]) -> Condition:
        return Condition(field, listed.address_ranges(texts, v6=family == 6), family=family)

    return build


def _numbers(field: Field, read: Callable[[str], int], family: Family | None = None) -> Build:
    return lambda texts: Condition(field, listed.number_ranges(texts, read), family=family)


def _names(field: Field) -> Build:
    return lambda texts: Condition(field, tuple(sorted(text.strip('"') for text in texts)))


def _user(texts: list[str]) -> Condition:
    users = [text.strip('"') for text in texts]
    if len(users) == 1:
        return Condition(Field.USER, users[0])
    return Condition(Field.CONCATENATION, tuple((Condition(Field.USER, user),) for user in users))


def _is_protocol(number: int) -> tuple[Condition, ...]:
    return (Condition(Field.PROTOCOL, Ranges.single(number)),)


_TRANSPORTS = {"tcp": 6, "udp": 17, "sctp": 132, "dccp": 33, "udplite": 136}
_ICMPS = {"icmp": 1, "icmpv6": 58}


def _key(cursor: Cursor, scope: Scope) -> _Key:
    """The left side that stands here."""
    if cursor.peek() == "meta":
        cursor.take()
        return _meta(cursor.take())
    word = cursor.take()
    if word in ("iifname", "oifname", "iif", "oif", "mark", "skuid"):
        return _meta(word)
    if word == "ct":
        return _conntrack(cursor, scope)
    second = cursor.take()
    text = f"{word} {second}"
    if word in ("ip", "ip6"):
        return _masked(cursor, _network(word, second))
    if second in ("dport", "sport") and (word == "th" or word in _TRANSPORTS):
        field = Field.PORT if second == "dport" else Field.SOURCE_PORT
        implied = () if word == "th" else _is_protocol(_TRANSPORTS[word])
        return _Key(text, _numbers(field, listed.plain), implied, listed.plain, 65536)
    if word in _ICMPS and second in ("type", "code"):
        return _Key(text, _icmp(word, second), _is_protocol(_ICMPS[word]))
    raise Unreadable(text)


def _icmp(word: str, what: str) -> Build:
    def build(texts: list[str]) -> Condition:
        if what == "type":
            types = listed.number_ranges(texts, listed.icmp_type(word))
            return Condition(Field.ICMP, Ranges(tuple(bound << 8 for bound in types.bounds)))
        codes = list(listed.number_ranges(texts, listed.icmp_code(word)).pairs())
        return Condition(Field.ICMP, Ranges.of((t << 8 | a, t << 8 | b) for t in range(256) for a, b in codes))

    return build


def _network(word: str, second: str) -> _Key:
    family: Family = 4 if word == "ip" else 6
    text = f"{word} {second}"
    if second in ("saddr", "daddr"):
        field = Field.SOURCE if second == "saddr" else Field.DESTINATION
        end = 1 << (32 if family == 4 else 128)
        return _Key(text, _addresses(field, family), (), lambda t: _address(t, family), end)
    if text in ("ip ttl", "ip6 hoplimit"):
        return _Key(text, _numbers(Field.HOP_LIMIT, listed.plain, family), (), None)
    if text in ("ip protocol", "ip6 nexthdr"):
        return _Key(text, _numbers(Field.PROTOCOL, listed.protocol, family))
    raise Unreadable(text)


def _masked(cursor: Cursor, key: _Key) -> _Key:
    """`ip saddr & 255.255.255.0`: a value stands for all addresses that the mask turns into it."""
    if not cursor.skip("&"):
        return key
    given = cursor.take()
    family: Family = 6 if ":" in given else 4
    unset = (1 << BITS[family]) - _address(given, family)
    if unset & (unset - 1):
        raise Unreadable(f"{key.text} & {given}")  # no prefix of the address

    def build(texts: list[str]) -> Condition:
        read = key.build(texts)
        assert isinstance(read.value, Ranges)
        firsts = ((-(-first // unset) * unset, last // unset * unset) for first, last in read.value.pairs())
        pairs = [(first, last + unset - 1) for first, last in firsts if first <= last]
        return Condition(read.field, Ranges.of(pairs), family=read.family)

    return _Key(f"{key.text} & {given}", build)


def _address(text: str, family: Family) -> int:
    return listed.address_ranges([text], v6=family == 6).bounds[0]


def _meta(word: str) -> _Key:
    text = f"meta {word}"
    simple: dict[str, Build] = {
        "l4proto": _numbers(Field.PROTOCOL, listed.protocol),
        "nfproto": _numbers(Field.FAMILY, listed.family_word),
        "protocol": _numbers(Field.FAMILY, listed.ethertype),
        "iifname": _names(Field.IN),
        "iif": _names(Field.IN),
        "oifname": _names(Field.OUT),
        "oif": _names(Field.OUT),
        "skuid": _user,
    }
    return _Key(text, simple[word])


def _conntrack(cursor: Cursor, scope: Scope) -> _Key:
    word = cursor.take()
    if word == "state":
        return _Key("ct state", _state)
    if word == "direction":
        return _Key("ct direction", _direction)
    if word != "original":
        raise Unreadable(f"ct {word}")
    second = cursor.take()
    if second == "proto-dst":
        return _Key("ct original proto-dst", _numbers(Field.ORIGINAL_PORT, listed.plain), (), listed.plain, 65536)
    family: Family | None = scope.family
    if second in ("ip", "ip6"):
        family, second = (4 if second == "ip" else 6), cursor.take()
    if family is None or second not in ("saddr", "daddr"):
        raise Unreadable(f"ct original {second}")
    field = Field.ORIGINAL_SOURCE if second == "saddr" else Field.ORIGINAL_DESTINATION
    return _masked(cursor, _Key(f"ct original {second}", _addresses(field, family)))


_STATES = {
    "new": State.NEW,
    "established": State.ESTABLISHED,
    "related": State.RELATED,
    "invalid": State.INVALID,
    "untracked": State.UNTRACKED,
}


def _state(texts: list[str]) -> Condition:
    wanted = State(0)
    for text in texts:
        wanted |= _STATES[text]
    return Condition(Field.STATE, wanted)


def _direction(texts: list[str]) -> Condition:
    (word,) = texts
    return Condition(Field.REPLY, {"reply": True, "original": False}[word])


def _special(cursor: Cursor) -> list[Condition] | None:
    """Conditions with a grammar of their own."""
    two = (cursor.peek(), cursor.peek(1))
    readers: dict[tuple[str, str], Callable[[Cursor], list[Condition]]] = {
        ("ct", "state"): _states,
        ("ct", "status"): _status,
        ("ct", "count"): _count,
        ("tcp", "flags"): _flags,
        ("meta", "mark"): _mark,
        ("meta", "time"): _time,
        ("fib", "daddr"): _fib,
    }
    if two not in readers or (two == ("ct", "state") and cursor.peek(2) in ("{", "vmap")):
        return None
    cursor.take()
    cursor.take()
    return readers[two](cursor)


def _list(cursor: Cursor, separator: str = ",") -> Iterator[str]:
    yield cursor.take()
    while cursor.skip(separator):
        yield cursor.take()


def _states(cursor: Cursor) -> list[Condition]:
    if cursor.peek() in (".", "&"):
        raise Unreadable("ct state")
    negated = cursor.skip("!=")
    condition = _state(list(_list(cursor)))
    return [Condition(condition.field, condition.value, negated)]


def _status(cursor: Cursor) -> list[Condition]:
    """`dnat`, `! dnat`, `& dnat == dnat`; of the other bits nothing is known."""
    negated = cursor.skip("!")
    masked = cursor.skip("&")
    cursor.expect("dnat")
    if masked:
        negated = cursor.take() == "!="
        cursor.expect("dnat")
    if cursor.peek() == ",":
        raise Unreadable("ct status")
    return [Condition(Field.TRANSLATED, True, negated)]


def _count(cursor: Cursor) -> list[Condition]:
    over = cursor.skip("over")
    return [Condition(Field.LIMIT, f"ct count {cursor.take()}", over)]


_FLAGS = {"fin": FIN, "syn": SYN, "rst": RST, "psh": 0x08, "ack": ACK, "urg": 0x20, "ecn": 0x40, "cwr": 0x80}


def _bits(cursor: Cursor) -> int:
    bits = 0
    opened = cursor.skip("(")
    while True:
        bits |= _FLAGS[cursor.take()]
        if not (cursor.skip(",") or (opened and cursor.skip("|"))):
            break
    if opened:
        cursor.expect(")")
    return bits


def _flags(cursor: Cursor) -> list[Condition]:
    """`syn / fin,syn`, `& (fin | syn) == syn`, `syn` (any of them), `== syn` (exactly)."""
    protocol = _is_protocol(6)
    if cursor.skip("&"):
        mask = _bits(cursor)
        negated = cursor.take() == "!="
        value = 0 if cursor.skip("0x0") or cursor.skip("0") else _bits(cursor)
        return [*protocol, Condition(Field.FLAGS, (mask, value), negated)]
    negated, exact = cursor.skip("!="), cursor.skip("==")
    value = _bits(cursor)
    if cursor.skip("/"):
        return [*protocol, Condition(Field.FLAGS, (_bits(cursor), value), negated)]
    if exact or negated:
        return [*protocol, Condition(Field.FLAGS, (0xFF, value), negated)]
    return [*protocol, Condition(Field.FLAGS, (value, 0), True)]


def _mark(cursor: Cursor) -> list[Condition]:
    mask = 0xFFFFFFFF
    if cursor.skip("&"):
        mask = listed.plain(cursor.take())
    negated = cursor.skip("!=")
    cursor.skip("==")
    text, _, length = cursor.take().partition("/")
    if length:
        mask = 0xFFFFFFFF << (32 - int(length)) & 0xFFFFFFFF
    return [Condition(Field.MARK, (mask, listed.plain(text)), negated)]


def _time(cursor: Cursor) -> list[Condition]:
    """Printed in the zone of the process that lists: the questions ask in UTC."""
    operator = cursor.take()
    if operator not in ("<", ">="):
        raise Unreadable("meta time")
    moment = datetime.fromisoformat(cursor.take().strip('"')).replace(tzinfo=UTC)
    return [Condition(Field.UNTIL, moment, operator == ">=")]


def _fib(cursor: Cursor) -> list[Condition]:
    cursor.expect("type")
    negated = cursor.skip("!=")
    cursor.expect("local")
    return [Condition(Field.LOCAL, True, negated)]
