"""One rule of pf as pfctl prints it, or as a pf.conf without macros says it, taken apart."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from portctl.backends.pf.lexer import Unreadable, tokens, unquoted

ACTIONS = ("pass", "block", "match", "anchor", "nat", "rdr", "binat", "no", "nat-anchor", "rdr-anchor", "binat-anchor")
SIGNS = ("=", "!=", "<", "<=", ">", ">=")
BETWEEN = ("><", "<>")
T = TypeVar("T")


@dataclass(slots=True)
class Spec:
    """One rule. Lists hold alternatives, all of which a packet must fail for the rule not to match.

    A host is (negated, text): `any`, an address or network or range, `<table>`, `(interface:modifier)`, a name.
    A number is its operator and operands as text: ("=", "ssh"), (":", "8000", "8010"), ("><", "1", "9").
    """

    action: str
    text: str
    number: int = 0
    verb: str = ""
    """Of a block: `drop`, `return`, `return-rst`, ….; of an anchor: its name; of a translation: `pass` or nothing."""
    direction: str = ""
    log: bool = False
    quick: bool = False
    negated: bool = False
    """`no nat`, `no rdr`."""
    devices: list[tuple[bool, str]] = field(default_factory=list)
    family: int | None = None
    protocols: list[str] = field(default_factory=list)
    sources: list[tuple[bool, str]] = field(default_factory=list)
    destinations: list[tuple[bool, str]] = field(default_factory=list)
    source_ports: list[tuple[str, ...]] = field(default_factory=list)
    ports: list[tuple[str, ...]] = field(default_factory=list)
    types: list[tuple[str, str]] = field(default_factory=list)
    """(type, code or nothing) of ICMP."""
    users: list[tuple[str, ...]] = field(default_factory=list)
    flags: str = ""
    state: str = ""
    """keep, modulate, synproxy, no; nothing where the text says nothing."""
    options: list[str] = field(default_factory=list)
    """Of the state."""
    label: str = ""
    tag: str = ""
    tagged: list[tuple[bool, str]] = field(default_factory=list)
    received: list[tuple[bool, str]] = field(default_factory=list)
    pools: list[tuple[str, list[str], tuple[str, ...]]] = field(default_factory=list)
    """(`nat-to`, `rdr-to`, `af-to`, `binat-to`, `->`; addresses; port) of each translation."""
    allow_opts: bool = False
    narrows: list[str] = field(default_factory=list)
    """Conditions that are outside the model, as text."""
    others: bool = False
    """It stands in an anchor."""
    notes: list[str] = field(default_factory=list)
    """What changes no verdict."""
    inner: list[Spec] | None = None
    """The rules of an anchor, where they are known."""
    packets: int | None = None
    bytes: int | None = None


class Reader:
    """The tokens of one line, read from the left."""

    def __init__(self, text: str) -> None:
        self.text, self.words, self.at = text, tokens(text), 0

    def peek(self, ahead: int = 0) -> str:
        return self.words[self.at + ahead] if self.at + ahead < len(self.words) else ""

    def next(self) -> str:
        word = self.peek()
        if not word:
            raise Unreadable(self.text)
        self.at += 1
        return word

    def take(self, *words: str) -> str:
        """The next token if it is one of these, else nothing."""
        if self.peek() in words and self.peek():
            return self.next()
        return ""

    def want(self, word: str) -> None:
        if self.next() != word:
            raise Unreadable(self.text)

    def parenthesised(self) -> list[str]:
        """The tokens between parentheses."""
        self.want("(")
        found: list[str] = []
        depth = 1
        while True:
            word = self.next()
            depth += (word == "(") - (word == ")")
            if depth == 0:
                return found
            found.append(word)

    def argument(self) -> None:
        """Passes over one word, or what stands in parentheses or braces."""
        if self.peek() == "(":
            self.parenthesised()
        elif self.take("{"):
            while not self.take("}"):
                self.argument()
        else:
            self.next()


_POOL = (
    *("round-robin", "random", "source-hash", "bitmask", "sticky-address", "static-port", "least-states", "endpi"),
    "prefer-ipv6-nexthop",
)
"""Words behind the addresses of a pool: how one of them is chosen."""


def rule(text: str, number: int = 0) -> Spec:
    """A line as a rule. Raises `Unreadable` for what is none, or holds a word that nobody knows."""
    reader = Reader(text)
    spec = Spec(reader.take(*ACTIONS), text, number)
    if not spec.action:
        raise Unreadable(text)
    _head(reader, spec)
    while reader.peek():
        if reader.peek() == "{" and "anchor" in spec.action:
            reader.next()
            spec.inner = []
            if reader.peek():
                raise Unreadable(text)
            break
        _option(reader, spec)
    return spec


def _head(reader: Reader, spec: Spec) -> None:  # noqa: C901 - one case a word
    """What stands in its fixed order: verb, direction, log, quick, interface, family, protocol, both ends."""
    if spec.action == "no":
        spec.negated, spec.action = True, reader.next()
    if spec.action in ("nat", "rdr", "binat"):
        spec.verb = reader.take("pass")
    elif spec.action == "block":
        spec.verb = _verb(reader)
    elif "anchor" in spec.action and (reader.peek().startswith('"')):
        spec.verb = unquoted(reader.next())
    spec.direction = reader.take("in", "out")
    while word := reader.take("log", "quick"):
        if word == "quick":
            spec.quick = True
            continue
        spec.log = True
        if reader.peek() == "(":
            reader.parenthesised()
    if reader.take("on"):
        if reader.take("rdomain"):
            spec.narrows.append(f"rdomain {reader.next()}")
        else:
            spec.devices = _list(reader, _device)
    for word in ("route-to", "reply-to", "dup-to"):
        if reader.take(word):
            spec.notes.append(word)
            reader.argument()
            while reader.take(*_POOL):
                pass
    if word := reader.take("inet", "inet6"):
        spec.family = 4 if word == "inet" else 6
    if reader.take("proto"):
        spec.protocols = _list(reader, lambda r: r.next())
    _ends(reader, spec)


def _verb(reader: Reader) -> str:
    word = reader.take("drop", "return", "return-rst", "return-icmp", "return-icmp6") or "drop"
    if word.startswith("return") and reader.peek() == "(":
        reader.parenthesised()
    return word


def _ends(reader: Reader, spec: Spec) -> None:
    if reader.take("all"):
        return
    if reader.take("from"):
        spec.sources = _list(reader, _host)
        if reader.take("port"):
            spec.source_ports = _list(reader, _number)
        if reader.take("os"):
            spec.narrows.append("os " + " ".join(_list(reader, lambda r: r.next())))
    if reader.take("to"):
        spec.destinations = _list(reader, _host)
        if reader.take("port"):
            spec.ports = _list(reader, _number)


def _list(reader: Reader, one: Callable[[Reader], T]) -> list[T]:
    """One item, or several in braces, nested or not, with or without commas."""
    if not reader.take("{"):
        return [one(reader)]
    found: list[T] = []
    while not reader.take("}"):
        if reader.take(","):
            continue
        found += _list(reader, one)
    return found


def _device(reader: Reader) -> tuple[bool, str]:
    negated = bool(reader.take("!"))
    return negated, unquoted(reader.next())


def _host(reader: Reader) -> tuple[bool, str]:
    negated = bool(reader.take("!"))
    if reader.peek() == "(":
        return negated, f"({' '.join(reader.parenthesised())})"
    word = reader.next()
    if word.startswith("<"):
        word = f"<{word[1:-1].partition(':')[0]}>"
    if reader.peek() == "-":
        reader.next()
        word = f"{word}-{reader.next()}"
    if word == "route":
        return negated, f"route {reader.next()}"
    return negated, unquoted(word)


def _number(reader: Reader) -> tuple[str, ...]:
    """A port, a user: alone, compared, a range."""
    if word := reader.take(*SIGNS):
        return word, reader.next()
    if word := reader.take("!"):
        reader.take("=")
        return "!=", reader.next()
    first = reader.next()
    if word := reader.take(*BETWEEN):
        return word, first, reader.next()
    if ":" in first:
        low, _, high = first.partition(":")
        return ":", low, high
    return "=", first


def _option(reader: Reader, spec: Spec) -> None:  # noqa: C901 - one case a word
    word = reader.next()
    match word:
        case "flags":
            spec.flags = reader.next()
        case "icmp-type" | "icmp6-type":
            spec.types = _list(reader, _type)
        case "user":
            spec.users = _list(reader, _number)
        case "group":
            spec.narrows.append("group " + " ".join(" ".join(each) for each in _list(reader, _number)))
        case "keep" | "modulate" | "synproxy" | "no":
            spec.state = word
            reader.want("state")
            if reader.peek() == "(":
                spec.options = _joined(reader.parenthesised())
        case "label":
            spec.label = spec.label or unquoted(reader.next())
        case "tag":
            spec.tag = unquoted(reader.next())
        case "tagged":
            spec.tagged.append((False, unquoted(reader.next())))
        case "!":
            reader.want("tagged")
            spec.tagged.append((True, unquoted(reader.next())))
        case "received-on":
            spec.received = _list(reader, _device)
        case "nat-to" | "rdr-to" | "->" | "binat-to" | "af-to":
            spec.pools.append(_pool(reader, word))
        case "allow-opts":
            spec.allow_opts = True
        case "fragment" | "once" | "pflow":
            spec.narrows.append(word) if word != "pflow" else spec.notes.append(word)
        case "probability" | "tos" | "prio" | "rtable" | "max-pkt-rate" | "max-pkt-size":
            said = f"{word} {reader.next()}"
            spec.notes.append(said) if word == "rtable" else spec.narrows.append(said)
        case "set" | "scrub" | "min-ttl" | "max-mss" | "ridentifier" | "queue" | "dnpipe" | "dnqueue" | "map-e-portset":
            spec.notes.append(word)
            reader.argument()
        case "route-to" | "reply-to" | "dup-to":
            spec.notes.append(word)
            reader.argument()
        case "divert-to" | "divert-packet":
            spec.notes.append(word)
            if reader.peek() != "port":
                reader.argument()
            if reader.take("port"):
                reader.next()
        case "divert-reply" | "random" | "source-hash" | "round-robin" | "bitmask" | "sticky-address" | "static-port":
            spec.notes.append(word)
        case "least-states" | "endpi" | "prefer-ipv6-nexthop":
            spec.notes.append(word)
        case _:
            raise Unreadable(spec.text)


def _type(reader: Reader) -> tuple[str, str]:
    kind = reader.next()
    return kind, reader.next() if reader.take("code") else ""


def _joined(words: list[str]) -> list[str]:
    """The options between commas."""
    return [part.strip() for part in " ".join(words).split(",")]


def _pool(reader: Reader, kind: str) -> tuple[str, list[str], tuple[str, ...]]:
    if kind == "af-to":
        reader.take("inet", "inet6")
        reader.take("from")
    addresses = [text for _, text in _list(reader, _host)]
    if kind == "af-to" and reader.take("to"):
        addresses += [text for _, text in _list(reader, _host)]
    port = _number(reader) if reader.take("port") else ()
    return kind, addresses, port
