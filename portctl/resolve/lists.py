"""Address files: one address, network or range a-b a line, `#` and `;` start a comment.

A million lines are the common large case, so plain lines take a short way; whatever is odd about a line is looked at
by the careful one, which also words the error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from socket import AF_INET, AF_INET6, inet_pton

from portctl.net import Addresses, Ranges
from portctl.policy.items import AddressRange
from portctl.problems import Problem, Span

Careful = Callable[[str], "AddressRange | tuple[str, str, str | None]"]
"""The careful way for one text: its addresses, or code, message and hint of what is wrong with it."""

MOST_PROBLEMS = 20
"""A wrong file (a web page, say) has thousands of wrong lines; so many are shown."""

_HOSTS_V4 = {"": 0, **{f"/{n}": (1 << (32 - n)) - 1 for n in range(33)}}
_HOSTS_V6 = {"": 0, **{f"/{n}": (1 << (128 - n)) - 1 for n in range(129)}}
_MAPPED = 0xFFFF
"""The upper 96 bits of an IPv4-mapped IPv6 address (RFC 4291, section 2.5.5.2)."""


def parse(data: bytes, name: str, careful: Careful) -> tuple[Addresses, list[Problem]]:
    """The addresses of a file called `name`, and what is wrong with it."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        span = Span(name, line, 1, 1, "")
        return Addresses(), [Problem("bad-address", "the file is not UTF-8 text", span)]
    lines = _bare(text)
    v4, v6, odd = _short_way(lines)
    pairs: dict[int, list[tuple[int, int]]] = {4: [], 6: []}
    problems: list[Problem] = []
    for number in odd:
        found = careful(lines[number])
        if isinstance(found, AddressRange):
            pairs[found.version].append((found.first, found.last))
        elif len(problems) < MOST_PROBLEMS:
            problems.append(_problem(text, name, number, lines[number], found))
    addresses = Addresses(_merge(v4, 6) | Ranges.of(pairs[4]), _merge(v6, 8) | Ranges.of(pairs[6]))
    return addresses, problems


def _bare(text: str) -> list[str]:
    """The lines without comments and the blanks around them."""
    lines = text.split("\n")
    if "#" in text or ";" in text:
        lines = [line.partition("#")[0].partition(";")[0] for line in lines]
    return [line.strip() for line in lines]


def _short_way(lines: list[str]) -> tuple[list[int], list[int], list[int]]:
    """Networks in the usual form, each as first address << 6 (IPv4) or 8 (IPv6) | host bits; numbers of odd lines."""
    v4: list[int] = []
    v6: list[int] = []
    odd: list[int] = []
    number_of, to_int = inet_pton, int.from_bytes
    for index, line in enumerate(lines):
        if not line:
            continue
        head, slash, length = line.partition("/")
        try:
            if ":" in head:
                first = to_int(number_of(AF_INET6, head), "big")
                hosts = _HOSTS_V6[slash + length]
                if first & hosts or first >> 32 == _MAPPED or first >> 120 == 0xFF or "." in head:
                    odd.append(index)
                else:
                    v6.append(first << 8 | hosts.bit_length())
            else:
                first = to_int(number_of(AF_INET, head), "big")
                hosts = _HOSTS_V4[slash + length]
                if first & hosts:
                    odd.append(index)
                else:
                    v4.append(first << 6 | hosts.bit_length())
        except (OSError, KeyError, ValueError):
            odd.append(index)
    return v4, v6, odd


def _merge(keys: list[int], shift: int) -> Ranges:
    """The set of all networks. Networks nest or are disjoint, so the sorted keys need one look back only."""
    keys.sort()
    bounds: list[int] = []
    end = -1
    mask = (1 << shift) - 1
    for key in keys:
        first = key >> shift
        past = first + (1 << (key & mask))
        if first > end:
            bounds.append(end)
            bounds.append(first)
            end = past
        elif past > end:
            end = past
    return Ranges((*bounds[1:], end)) if bounds else Ranges()


def _problem(text: str, name: str, index: int, bare: str, found: tuple[str, str, str | None]) -> Problem:
    whole = _line(text.split("\n"), index)
    column = whole.find(bare) + 1
    return Problem(found[0], found[1], Span(name, index + 1, max(1, column), len(bare), whole), found[2])


def _line(lines: list[str], index: int) -> str:
    return lines[index].rstrip("\r")


def union(parts: Iterable[Addresses]) -> Addresses:
    """All addresses of some sets; linear in their number."""
    found = [part for part in parts if part]
    if len(found) <= 2:
        return found[0] | found[1] if len(found) == 2 else found[0] if found else Addresses()
    v4 = [pair for part in found for pair in part.v4.pairs()]
    v6 = [pair for part in found for pair in part.v6.pairs()]
    return Addresses(Ranges.of(v4), Ranges.of(v6))
