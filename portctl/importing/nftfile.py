"""Files for `nft -f` as people write them, as the listing that `nft list ruleset` would print of what they leave.

A statement may go on over lines, several may stand on one, comments anywhere; tables come in parts, with commands
between them (nft(8), "Lexical conventions"). Lines keep their numbers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from portctl.importing.account import Status
from portctl.importing.commands import Left
from portctl.importing.listings import Read

_BY_HAND = re.compile(
    r"^\s*(?:flush|delete|destroy|define|redefine|include|add|insert|create)\s+(?!@)"
    r"|^\s*table [^{\n]*$|^\s*\}[ \t]*[^\s#]"
    r"|^\s*type \w+ hook [^;\n]*$"
    r'|^[^"#\n]*[^\s"#][^"#\n]*#(?! handle \d+$| xt_)'
    r"|^\s*(?:table|chain|set|map)\b[^\n{]*\{[ \t]*[^\s#]"
    r"|^(?![ \t]*(?:table |chain |set |map |flowtable |ct |counter |quota |limit |synproxy |secmark |elements ))"
    r"[ \t]*[^\s#][^\n]*\{[ \t]*$"
    r"|^(?![ \t]*(?:type |\}|elements ))[^\n\";{]*;[ \t]*[^\s#]",
    re.M,
)
_TOKEN = re.compile(r'"[^"]*"|#[^\n]*|\\\n|\n|[;{}]|[^\s"#;{}\\]+|\\')
FOREIGN = "# xt_"
"""So nft prints a match of iptables that it cannot: no comment, but a condition."""
_FAMILIES = ("ip", "ip6", "inet", "arp", "bridge", "netdev")
_VERDICT = re.compile(r"(?<=\S) ?: ?(?=(?:accept|drop|continue|return|reject|jump|goto)\b)")


def by_hand(text: str) -> bool:
    """Whether a text is written in another form than `nft list ruleset` prints."""
    return _BY_HAND.search(text) is not None


@dataclass(slots=True)
class _Statement:
    number: int
    words: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        return _VERDICT.sub(" : ", " ".join(self.words))


@dataclass(slots=True)
class _Block:
    """A chain, a set, or another thing of a table, with its statements."""

    kind: str
    name: str
    number: int
    lines: list[Read] = field(default_factory=list)


@dataclass(slots=True)
class _Reader:
    tables: dict[tuple[str, str], dict[tuple[str, str], _Block]] = field(default_factory=dict)
    numbers: dict[tuple[str, str], int] = field(default_factory=dict)
    said: dict[int, tuple[Status, str]] = field(default_factory=dict)
    values: dict[str, list[str]] = field(default_factory=dict)
    table: tuple[str, str] | None = None
    block: _Block | None = None
    inner: int = 0
    now: _Statement = field(default_factory=lambda: _Statement(0))

    def read(self, lines: Iterable[Read]) -> Left:
        text = "".join(f"{line}\n" for _, line in lines)
        number = 1
        for found in _TOKEN.finditer(text):
            token = found[0]
            if token in ("\n", "\\\n"):
                number += 1
            if token == "\\\n" or (token.startswith("#") and not token.startswith(FOREIGN)):
                continue
            for word in self.put(token):
                self.word(word, number)
        self.end()
        return Left(list(self.reads()), self.said)

    def put(self, token: str) -> list[str]:
        """A token, with the value of a variable in its place; a set of values within another is part of it."""
        if "$" not in token or token.startswith('"'):
            return [token]
        name = re.match(r"\$(\w+)(,?)$", token)
        value = self.values.get(name[1]) if name else None
        if name is None or value is None:
            return [token]
        inside = value[1:-1] if self.inner and value[:1] == ["{"] and value[-1:] == ["}"] else value
        return [*inside[:-1], inside[-1] + name[2]] if inside and name[2] and inside[-1] != "}" else inside

    def word(self, word: str, number: int) -> None:
        if word == "{":
            self.open(number)
        elif word == "}":
            self.close()
        elif word == ";" or word == "\n":
            if not self.inner:
                self.end()
        else:
            if not self.now.words:
                self.now = _Statement(number)
            if word.startswith(",") and self.now.words:
                self.now.words[-1] += ","
                word = word[1:]
            if not word:
                return
            spaced = re.sub(r",(?=[^\s])", ", ", word) if self.inner and not word.startswith('"') else word
            self.now.words.append(spaced)

    def open(self, number: int) -> None:
        words = self.now.words
        if self.inner or self.block is not None or words[:1] in (["define"], ["redefine"]) or "rule" in words[:2]:
            self.inner += 1
            self.now.number = self.now.number or number
            words.append("{")
            return
        named = words[1:] if words[:1] in (["add"], ["create"]) else words
        if self.table is None and named[:1] == ["table"]:
            self.begin(named[1:])
        elif self.table is not None and len(named) > 1:
            self.enter(self.table, " ".join(named[:-1]), named[-1])
        elif self.table is None and len(named) > 2 and named[0] in ("chain", "set", "map"):
            family, table, rest = _placed(named[1:])
            self.enter((family, table), named[0], rest[0] if rest else "")
        else:
            self.inner += 1
            words.append("{")
            return
        self.now = _Statement(number)

    def begin(self, words: list[str]) -> None:
        family, name, _ = _placed(words)
        self.table = (family, name)
        self.tables.setdefault(self.table, {})
        self.numbers.setdefault(self.table, self.now.number)

    def enter(self, table: tuple[str, str], kind: str, name: str) -> None:
        self.numbers.setdefault(table, self.now.number)
        blocks = self.tables.setdefault(table, {})
        self.block = blocks.setdefault((kind, name), _Block(kind, name, self.now.number))

    def close(self) -> None:
        if self.inner:
            self.inner -= 1
            last = self.now.words[-1:]
            if last and last[0].endswith(",") and last[0] != ",":
                self.now.words[-1] = last[0][:-1]
            self.now.words.append("}")
            return
        self.end()
        if self.block is not None:
            self.block = None
        else:
            self.table = None

    def end(self) -> None:
        """A statement is whole."""
        statement, self.now = self.now, _Statement(0)
        if not statement.words:
            return
        if self.block is not None:
            self.into(self.block, statement)
        elif self.table is None:
            self.command(statement)
        elif statement.words[0] not in ("flags", "comment"):
            self.said[statement.number] = "refused", "this is no rule that portctl can read"

    def into(self, block: _Block, statement: _Statement) -> None:
        hook = next(
            (at for at, (_, text) in enumerate(block.lines) if text.startswith("type ") and " hook " in text), None
        )
        if block.kind == "chain" and statement.words[0] == "policy" and hook is not None:
            number, text = block.lines[hook]
            block.lines[hook] = number, f"{text.split('; policy')[0]}; policy {statement.words[-1]};"
        elif block.kind == "chain" and statement.words[0] == "type" and "hook" in statement.words:
            block.lines.insert(0, (statement.number, f"{statement.text}; policy accept;"))
        else:
            block.lines.append((statement.number, statement.text))

    def command(self, statement: _Statement) -> None:
        words = statement.words
        match words:
            case ["define" | "redefine", name, "=", *value]:
                self.values[name] = value
                self.said[statement.number] = "modelled", "a variable"
            case ["flush", "ruleset", *_]:
                self.forget(statement, list(self.tables))
            case ["delete" | "destroy", "table", *rest]:
                family, name, _ = _placed(rest)
                self.forget(statement, [(family, name)])
            case ["table", *rest] | ["add" | "create", "table", *rest]:
                family, name, _ = _placed(rest)
                self.tables.setdefault((family, name), {})
                self.numbers.setdefault((family, name), statement.number)
            case ["add" | "insert" as where, "rule", *rest]:
                self.rule(statement, rest, where == "insert")
            case ["add" | "create", "chain", *rest]:
                family, name, left = _placed(rest)
                self.enter((family, name), "chain", left[0] if left else "")
                self.block = None
            case ["include", *_]:
                self.said[statement.number] = "refused", "what it includes was not given"
            case _:
                self.said[statement.number] = "refused", "this is no rule that portctl can read"

    def forget(self, statement: _Statement, tables: Iterable[tuple[str, str]]) -> None:
        for table in tables:
            for block in self.tables.pop(table, {}).values():
                self.said |= {n: ("modelled", f"line {statement.number} deletes it") for n, _ in block.lines}
        self.said[statement.number] = "modelled", "it empties what was there before"

    def rule(self, statement: _Statement, rest: list[str], first: bool) -> None:
        family, table, left = _placed(rest)
        blocks = self.tables.setdefault((family, table), {})
        self.numbers.setdefault((family, table), statement.number)
        if len(left) < 2 or left[1] in ("position", "handle", "index"):
            self.said[statement.number] = "refused", "this is no rule that portctl can read"
            return
        block = blocks.setdefault(("chain", left[0]), _Block("chain", left[0], statement.number))
        read = statement.number, _VERDICT.sub(" : ", " ".join(left[1:]))
        hooked = bool(block.lines) and " hook " in block.lines[0][1]
        block.lines.insert(int(hooked) if first else len(block.lines), read)

    def reads(self) -> Iterator[Read]:
        for (family, name), blocks in self.tables.items():
            yield self.numbers[family, name], f"table {family} {name} {{"
            for block in blocks.values():
                yield block.number, f"\t{block.kind} {block.name} {{"
                for number, text in block.lines:
                    yield number, f"\t\t{text}"
                yield block.number, "\t}"
            yield self.numbers[family, name], "}"


def _placed(words: list[str]) -> tuple[str, str, list[str]]:
    """Family, name of the table, and what follows."""
    family = words[0] if words[:1] and words[0] in _FAMILIES and len(words) > 1 else "ip"
    rest = words[1:] if words[:1] == [family] and len(words) > 1 else words
    return family, rest[0] if rest else "", rest[1:]


def read(lines: Iterable[Read]) -> Left:
    """What a file written by hand leaves."""
    return _Reader().read(lines)
