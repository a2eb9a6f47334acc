"""The words of one rule of a listing, sorted: its own options, its matches, its target."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from itertools import pairwise

_TOKEN = re.compile(r'"((?:[^"\\]|\\.)*)"|(\S+)')
_BASE = {
    "-s": "-s", "--source": "-s", "--src": "-s", "-d": "-d", "--destination": "-d", "--dst": "-d",
    "-i": "-i", "--in-interface": "-i", "-o": "-o", "--out-interface": "-o", "-p": "-p", "--protocol": "-p",
    "--proto": "-p", "-f": "-f", "--fragment": "-f", "-m": "-m", "--match": "-m", "-j": "-j", "--jump": "-j",
    "-g": "-g", "--goto": "-g",
}  # fmt: skip
_ONE_WORD = ("--comment", "--log-prefix", "--nflog-prefix", "--string", "--hex-string", "--hashlimit-name", "--name")


def split_words(line: str) -> list[str] | None:
    """The words of a line, quotes taken away; None where a quote does not end."""
    words = []
    position = 0
    while position < len(line):
        if line[position].isspace():
            position += 1
            continue
        token = _TOKEN.match(line, position)
        if token is None or (token[1] is None and token[2].startswith('"')):
            return None
        words.append(token[2] if token[1] is None else re.sub(r"\\(.)", r"\1", token[1]))
        position = token.end()
    return words


@dataclass(frozen=True, slots=True)
class Option:
    """`! --dport 22`: negated, its name, its values."""

    negated: bool
    name: str
    values: tuple[str, ...]

    @property
    def value(self) -> str:
        return self.values[0] if self.values else ""

    def text(self) -> str:
        return " ".join((*(("!",) if self.negated else ()), self.name, *self.values))


@dataclass(slots=True)
class Segment:
    """A match or a target with its options."""

    name: str
    options: list[Option] = field(default_factory=list)

    def text(self) -> str:
        return " ".join((self.name, *(option.text() for option in self.options)))


def read_segments(words: list[str]) -> tuple[list[Option], list[Segment], Segment | None]:
    """Parts a rule into its own options, its matches, its target (`-g` keeps its word)."""
    base: list[Option] = []
    modules: list[Segment] = []
    target: Segment | None = None
    current: Segment | None = None
    position = 0
    negated = False
    while position < len(words):
        word = words[position]
        position += 1
        if word == "!":
            negated = True
            continue
        kind = None if word == "--proto" and current is not None and current.name == "policy" else _BASE.get(word)
        values, position = _values(words, position, word, kind)
        if values and values[0] == "!":
            negated, values = True, values[1:]
        if kind in ("-j", "-g"):
            current = target = Segment(values[0] if values else "", [Option(False, kind, ())])
        elif kind == "-m":
            current = Segment(values[0] if values else "")
            modules.append(current)
        elif kind is not None:
            base.append(Option(negated, kind, values))
        else:
            own = word in _PROTOCOL_OPTIONS and (current is None or current.name not in _PROTOCOL_MATCHES)
            if current is None or (own and current is not target):
                current = Segment(_protocol_of(words))
                modules.append(current)
            current.options.append(Option(negated, word, values))
        negated = False
    return base, modules, target


_PROTOCOL_MATCHES = ("tcp", "udp", "sctp", "dccp", "udplite", "icmp", "icmp6", "icmpv6", "ipv6-icmp", "")
_PROTOCOL_OPTIONS = (
    *("--dport", "--sport", "--destination-port", "--source-port", "--syn", "--tcp-flags"),
    *("--icmp-type", "--icmpv6-type"),
)
"""Options that belong to the protocol's own match, which `-p` alone brings, whatever other match stands before."""


def _protocol_of(words: list[str]) -> str:
    """The word behind `-p`, as the name of its match."""
    for word, following in pairwise(words):
        if _BASE.get(word) == "-p" and following != "!":
            return {"6": "tcp", "17": "udp", "132": "sctp", "1": "icmp", "58": "icmp6"}.get(
                following, following.lower()
            )
    return ""


def _values(words: list[str], position: int, word: str, kind: str | None) -> tuple[tuple[str, ...], int]:
    """The values of an option, and the place behind them."""
    if kind == "-f" or position >= len(words):
        return (), position
    if word in _ONE_WORD:
        return (words[position],), position + 1
    if kind is not None:
        count = 2 if words[position] == "!" else 1
        return tuple(words[position : position + count]), position + count
    start = position
    while position < len(words) and not words[position].startswith("-"):
        if words[position] == "!" and position > start:
            break
        if words[position] == "!" and (position + 1 == len(words) or words[position + 1].startswith("-")):
            break
        position += 1
    return tuple(words[start:position]), position


def comment_of(modules: list[Segment]) -> str:
    for segment in modules:
        if segment.name == "comment":
            return next((o.value for o in segment.options if o.name == "--comment"), "")
    return ""
