"""`iptables-save` of every version, `iptables -S`, and lists of `iptables` commands, as the listing that they leave.

Rules may be inserted, replaced and deleted on the way, in a list of commands as in a file for `iptables-restore`.
Lines keep their numbers, wherever in the listing they come to stand.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import takewhile

from portctl.importing.account import Status
from portctl.importing.listings import Read
from portctl.net import Family

_OPERATIONS = {
    "-A": "-A", "--append": "-A", "-I": "-I", "--insert": "-I", "-D": "-D", "--delete": "-D", "-R": "-R",
    "--replace": "-R", "-F": "-F", "--flush": "-F", "-X": "-X", "--delete-chain": "-X", "-Z": "-Z", "--zero": "-Z",
    "-P": "-P", "--policy": "-P", "-N": "-N", "--new-chain": "-N", "--new": "-N", "-L": "-L", "--list": "-L",
    "-S": "-L", "--list-rules": "-L", "-C": "-L", "--check": "-L",
}  # fmt: skip
"""The commands of iptables(8), each by its short name."""
_RULES = ("-A", "-N", "-P")
"""Those that a listing prints, too."""
_WAITING = r"(?:(?:-w|-W|--wait|--wait-interval)(?:[ =]\d+)?\s+)*"
_PREFIX = re.compile(rf"^(?:sudo\s+)?(?:\S*/)?(ip6?tables)(?:-legacy|-nft)?\s+{_WAITING}")
_TABLE = re.compile(r"(?:^|\s)(?:-t|--table)[ =](\w+)\b")
_COUNTED = re.compile(r"^(\[\d+:\d+\])\s*(.*)$")
_SET_COUNTERS = re.compile(r"\s+(?:-c|--set-counters)\s+(\d+)\s+(\d+)(?=\s)")
RULE = re.compile(
    r"^\s*(?:\[\d+:\d+\]\s*)?(?:(?:sudo\s+)?(?:\S*/)?ip6?tables(?:-\S+)?\s+)?(?:-w\s+)?(?:(?:-t|--table)[ =]\w+\s+)?"
    r"(?:-[AINPX]|--(?:append|insert|new-chain|policy))\s",
    re.M,
)
"""A line that makes such a text what it is."""
_LISTED = re.compile(r"^\*\w+\s*$", re.M)
_CHANGES = re.compile(r"^\s*(?:-[IDRFX]\s|--(?:insert|delete|replace|flush|delete-chain)\s|\S*ip6?tables\s+-)", re.M)


def makes(text: str) -> bool:
    """Whether a text is no listing as it stands, but makes one: it names commands, or changes what it has added."""
    return bool(_CHANGES.search(text) or (RULE.search(text) and not _LISTED.search(text)))


@dataclass(frozen=True, slots=True)
class Left:
    """What some lines leave: the listing, and what is to be said of lines that leave nothing in it."""

    reads: list[Read]
    said: Mapping[int, tuple[Status, str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Command:
    number: int
    family: Family | None
    """Of the command's name; None for a line without."""
    operation: str
    """Empty for what is no command: a comment, a table's name, a declaration, what nobody knows."""
    table: str
    chain: str
    rest: str
    """What follows the chain's name; of what is no command the line."""
    counters: str = ""


def left(lines: Iterable[Read], family: Family) -> dict[Family, Left]:
    """The listings that lines of one text leave, by family; `family` is that of lines that do not say theirs."""
    by_family: dict[Family, list[_Command]] = {}
    for number, line in lines:
        command = _command(number, line.strip())
        by_family.setdefault(command.family or family, []).append(command)
    spoken = [each for each, commands in by_family.items() if any(c.operation for c in commands)]
    if family not in spoken and len(spoken) == 1:
        by_family[spoken[0]] = sorted((c for listed in by_family.values() for c in listed), key=lambda c: c.number)
        by_family.pop(family, None)
    return {each: _left(commands) for each, commands in by_family.items()}


def _command(number: int, line: str) -> _Command:
    prefixed = _PREFIX.match(line)
    family: Family | None = None if prefixed is None else (6 if prefixed[1] == "ip6tables" else 4)
    rest = _unshelled(line[prefixed.end() :]) if prefixed else line
    counted = _COUNTED.match(rest)
    counters, rest = (counted[1] + " ", counted[2]) if counted else ("", rest)
    plain, quote, quoted = rest.partition('"')
    table = ""
    if named := _TABLE.search(plain):
        table = named[1]
        plain = f"{plain[: named.start()]}{plain[named.end() :]}".lstrip()
    words = plain.split(maxsplit=2)
    operation = _OPERATIONS.get(words[0], "") if words else ""
    needed = 3 if operation in ("-P", "-R", "-D") else 1 if operation in ("-F", "-X", "-Z", "-L") else 2
    if not operation or len(words) < needed:
        return _Command(number, family, "", table, "", line)
    behind = (words[2] if len(words) > 2 else "") + quote + quoted
    if found := _SET_COUNTERS.search(behind.split('"')[0]):
        counters = f"[{found[1]}:{found[2]}] "
        behind = behind[: found.start()] + behind[found.end() :]
    return _Command(number, family, operation, table, words[1] if len(words) > 1 else "", behind, counters)


def _unshelled(text: str) -> str:
    """The words of a command as a listing has them: quoted in its way alone, without what is the shell's."""
    if not re.search(r"['#;&|<>\\]", text):
        return text
    lexer = shlex.shlex(_REDIRECTED.sub(" ", text), posix=True, punctuation_chars=";&|<>")
    lexer.whitespace_split = True
    try:
        words = list(takewhile(lambda word: not word or word[0] not in ";&|<>", lexer))
    except ValueError:
        return text
    return " ".join(_quoted(word) for word in words)


_REDIRECTED = re.compile(r"(?:^|(?<=\s))[0-9&]?>{1,2}\s*(?:&\d|\S+)")


def _quoted(word: str) -> str:
    if word and not re.search(r"[\s\"'\\]", word):
        return word
    return '"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _left(commands: list[_Command]) -> Left:
    if all(c.operation in ("", *_RULES) for c in commands):
        return Left(list(_as_listed(commands)))
    state = _State()
    for command in commands:
        state.run(command)
    return Left(list(state.reads()), state.said)


def _as_listed(commands: Iterable[_Command]) -> Iterator[Read]:
    """Lines that only add, in their order."""
    current = ""
    for c in commands:
        if not c.operation:
            if c.rest.startswith("*"):
                current = (c.rest[1:].split() or [""])[0]
                yield c.number, f"*{current}"
            else:
                current = "" if c.rest == "COMMIT" else current
                yield c.number, " ".join(c.rest.split()) if c.rest.startswith(":") else c.rest
            continue
        if (c.table or not current) and (c.table or "filter") != current:
            current = c.table or "filter"
            yield c.number, f"*{current}"
        yield c.number, _declared(c) or f"{c.counters}-A {c.chain} {c.rest}".rstrip()


def _declared(command: _Command) -> str | None:
    if command.operation == "-P":
        return f":{command.chain} {command.rest.split()[0]} [0:0]"
    return f":{command.chain} - [0:0]" if command.operation == "-N" else None


@dataclass(slots=True)
class _Table:
    first: int
    declared: dict[str, Read] = field(default_factory=dict)
    rules: dict[str, list[Read]] = field(default_factory=dict)
    strange: list[Read] = field(default_factory=list)


@dataclass(slots=True)
class _State:
    """Tables as the commands so far have made them."""

    tables: dict[str, _Table] = field(default_factory=dict)
    said: dict[int, tuple[Status, str]] = field(default_factory=dict)
    current: str = ""

    def run(self, c: _Command) -> None:
        if not c.operation:
            self.other(c)
            return
        table = self.tables.setdefault(c.table or self.current or "filter", _Table(c.number))
        rules = table.rules.setdefault(c.chain, []) if c.operation in ("-A", "-I", "-D", "-R") else []
        if declared := _declared(c):
            self.declare(table, c.chain, (c.number, declared))
        elif c.operation == "-A":
            rules.append(_rule(c))
        elif c.operation == "-I":
            place = re.match(r"(\d+)(?:\s+|$)", c.rest)
            at = int(place[1]) if place else 1
            rules.insert(max(0, at - 1), _rule(c, place.end() if place else 0))
        elif c.operation in ("-D", "-R"):
            self.change(c, rules)
        elif c.operation in ("-F", "-X"):
            self.clear(c, table)
        else:
            self.said[c.number] = "modelled", "it changes no rule"

    def other(self, c: _Command) -> None:
        """What is no command."""
        if c.rest.startswith("*"):
            self.current = (c.rest[1:].split() or [""])[0]
            self.tables.setdefault(self.current, _Table(c.number))
        elif c.rest == "COMMIT":
            self.current = ""
        elif c.rest and not c.rest.startswith("#"):
            table = self.tables.setdefault(self.current or "filter", _Table(c.number))
            if c.rest.startswith(":") and len(c.rest.split()) > 1:
                self.declare(table, c.rest[1:].split()[0], (c.number, " ".join(c.rest.split())))
            else:
                table.strange.append((c.number, c.rest))

    def declare(self, table: _Table, chain: str, read: Read) -> None:
        before = table.declared.get(chain)
        if before is not None:
            self.said[before[0]] = "modelled", f"line {read[0]} sets it again"
        table.declared[chain] = read
        table.rules.setdefault(chain, [])

    def change(self, c: _Command, rules: list[Read]) -> None:
        """A rule is deleted, or another put in its place; by its number, or deleted by all its words."""
        number = re.match(r"(\d+)(?:\s+|$)", c.rest)
        same = (at for at, (_, text) in enumerate(rules) if text.split("-A ", 1)[1].split()[1:] == c.rest.split())
        at = int(number[1]) - 1 if number else next(same, -1)
        if not 0 <= at < len(rules) or (c.operation == "-R" and not number):
            self.said[c.number] = "refused", "there is no such rule that it could change"
            return
        gone, _ = rules.pop(at)
        word = "takes its place" if c.operation == "-R" else "deletes it"
        self.said[gone] = "modelled", f"line {c.number} {word}"
        if c.operation == "-R" and number:
            rules.insert(at, _rule(c, number.end()))
        else:
            self.said[c.number] = "modelled", f"it deletes line {gone}"

    def clear(self, c: _Command, table: _Table) -> None:
        """Chains are emptied, or deleted."""
        for chain in [c.chain] if c.chain else list(table.rules):
            if c.operation == "-F":
                for gone, _ in table.rules.get(chain, ()):
                    self.said[gone] = "modelled", f"line {c.number} deletes it"
                table.rules[chain] = []
            elif not table.rules.get(chain) and table.declared.get(chain, (0, ": -"))[1].split()[1:2] == ["-"]:
                gone, _ = table.declared.pop(chain, (0, ""))
                table.rules.pop(chain, None)
                if gone:
                    self.said[gone] = "modelled", f"line {c.number} deletes it"
        self.said[c.number] = "modelled", "it empties chains" if c.operation == "-F" else "it deletes empty chains"

    def reads(self) -> Iterator[Read]:
        for name, table in self.tables.items():
            yield table.first, f"*{name}"
            yield from table.declared.values()
            yield from table.strange
            for rules in table.rules.values():
                yield from rules


def _rule(c: _Command, start: int = 0) -> Read:
    return c.number, f"{c.counters}-A {c.chain} {c.rest[start:]}".rstrip()
