"""The text of pf.conf and of pfctl's listings as logical lines of tokens."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

TOKEN = re.compile(
    r"""(?P<string>"(?:[^"\\]|\\.)*")"""
    r"""|(?P<table><[A-Za-z0-9_.-]+(?::(?:[0-9]+|\*))?>)"""
    r"""|(?P<sign>->|<-|>=|<=|!=|><|<>|[{}(),=<>!])"""
    r"""|(?P<word>[^\s{}(),"=<>!]+)"""
    r"""|(?P<space>\s+)"""
    r"""|(?P<wrong>.)"""
)
LABEL = re.compile(r' label "(.*)"')
COUNTERS = re.compile(r"\s+\[ .*")
"""What a verbose listing says below a rule: counters, skip steps, queues."""
PACKETS = re.compile(r"Packets: (\d+)\s+Bytes: (\d+)")


class Unreadable(ValueError):
    """A line that is not of pf's language."""


@dataclass(frozen=True, slots=True)
class Text:
    """One logical line. `packets` and `bytes` are the counters that a verbose listing prints below it."""

    text: str
    number: int
    packets: int | None = None
    bytes: int | None = None


def lines(text: str) -> Iterator[Text]:
    """Logical lines: without comments, joined where one ends in a backslash (a comment too), with their counters."""
    held: Text | None = None
    whole = ""
    first = 0
    for number, line in enumerate(text.splitlines(), 1):
        if COUNTERS.fullmatch(line):
            counted = PACKETS.search(line)
            if held is not None and counted:
                held = Text(held.text, held.number, int(counted[1]), int(counted[2]))
            continue
        first = first if whole else number
        if line.endswith("\\"):
            whole += line[:-1] + " "
            continue
        whole = re.sub(r"^\s*@\d+ ", "", uncommented(whole + line)).strip()
        if held is not None and whole:
            yield held
            held = None
        if whole:
            held = Text(whole, first)
        whole = ""
    if held is not None:
        yield held
    if whole.strip() and uncommented(whole).strip():
        yield Text(uncommented(whole).strip(), first)


def uncommented(line: str) -> str:
    """The line up to a `#` outside quotes."""
    if "#" not in line:
        return line
    quoted = False
    for index, letter in enumerate(line):
        if letter == '"' and (index == 0 or line[index - 1] != "\\"):
            quoted = not quoted
        elif letter == "#" and not quoted:
            return line[:index]
    return line


def tokens(text: str) -> list[str]:
    """The tokens of a line; strings keep their quotes. Raises `Unreadable`."""
    found: list[str] = []
    label = LABEL.search(text)
    if label:
        # pfctl prints a quote inside a label as it is, so it ends at the line's last one.
        first = label[1].partition('" label "')[0]
        end = label.end(1) + 1
        return [*tokens(text[: label.start()]), "label", f'"{first}"', *tokens(text[end:])]
    for match in TOKEN.finditer(text):
        if match.lastgroup == "wrong":
            raise Unreadable(text)
        if match.lastgroup != "space":
            found.append(match[0])
    return found


def unquoted(token: str) -> str:
    return token[1:-1].replace('\\"', '"') if token.startswith('"') and len(token) > 1 else token
