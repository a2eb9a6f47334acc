"""YAML text as plain data with the place of every key and value.

The language's YAML is less than YAML: no anchors, aliases, merges, tags, second documents, duplicate or computed keys;
only `true`, `false`, `null` and plain decimal integers are anything but text. PyYAML's events (libyaml's where it is
built in) are the parser; what they mean is decided here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import yaml

from portctl.problems import Problem, Problems, Span, order

Path = tuple[str | int, ...]
"""Keys and list indices from the top of a document to a value in it."""

MOST_BYTES = 16 * 1024 * 1024
MOST_DEPTH = 32
MOST_PROBLEMS = 100
MOST_REPAIRS = 20
LONGEST_INTEGER = 18

_CONTROL = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ufeff\ufffe\uffff\ud800-\udfff]|\r(?!\n)"
)
"""Characters that no policy needs: controls, line ends that editors do not agree on, and what turns the direction of
text around (https://trojansource.codes)."""
_record = tuple.__new__
_ITEM = re.compile(r"[0-9]+\.[0-9./]+")
"""IPv4 addresses and networks, right or wrong: the items of long lists, plain text whatever follows."""
_INTEGER = re.compile(r"-?(?:0|[1-9][0-9]*)")
_QUOTED_OR_COMMENT = re.compile(r""""(?:\\.|[^"\\])*"|'[^']*'|(?:^|(?<=\s))#.*""")
_IPV6 = re.compile(r"[0-9A-Fa-f]{0,4}(?::[0-9A-Fa-f]{0,4}){2,8}[0-9.]*(?:%\w+)?(?:/[0-9]+)?(?:-[0-9A-Fa-f:.]+)?")
_PLAIN_IPV6 = re.compile(rf"(?<![^\s\[\]{{}},])(?:{_IPV6.pattern})(?![^\s\[\]{{}},])")


class Place(NamedTuple):
    """`line` and `column` count from 0. `inside` is None for a scalar, a list of places for a list, for a mapping
    a dict of pairs: the key's place and the value's."""

    line: int
    column: int
    length: int
    inside: Any = None


@dataclass(frozen=True, slots=True)
class Document:
    """A YAML text: `data` is dict, list, str, int, bool or None. `name` is the file as the person calls it."""

    name: str
    data: Any
    lines: tuple[str, ...] = field(repr=False)
    places: Place = field(repr=False)
    problems: tuple[Problem, ...] = ()
    """Those in spite of which it could be read on."""

    def span(self, path: Path = (), key: bool = False) -> Span:
        """The place of the value at `path`, or with `key` of its key; the nearest place above where there is none."""
        place, key_place = self.places, None
        for step in path:
            inside = place.inside
            if isinstance(inside, dict) and step in inside:
                key_place, place = inside[step]
            elif isinstance(inside, list) and isinstance(step, int) and step < len(inside):
                key_place, place = None, inside[step]
            elif step == 0:  # a single value where a list may stand
                continue
            else:
                break
        return span_at(self.name, self.lines, key_place if key and key_place else place)


def read(text: bytes | str, name: str, *, on: bool = False) -> Document:
    """The data and places of a policy file; `name` is what messages call it. Raises `Problems`, all at once. With `on`
    addresses that lack their quotes alone are no reason to stop: what else is wrong may be told together with them."""
    if len(text) > MOST_BYTES:
        size = f"{len(text) / 1024 / 1024:.1f} MiB"
        raise Problems([_plain("too-large", f"`{name}` has {size}; a policy may have 16", name, HINT_LARGE)])
    decoded = (_decode(text, name) if isinstance(text, bytes) else text).removeprefix("\ufeff").replace("\r\n", "\n")
    lines = tuple(decoded.split("\n"))
    if _CONTROL.search(decoded):
        _refuse_controls(lines, name)
    return _parse(lines, name, on)


HINT_LARGE = "keep long lists of addresses in files of their own: `{file: lists/drop.txt}`"


def span_at(name: str, lines: tuple[str, ...], place: Place) -> Span:
    line = min(place.line, len(lines) - 1)
    text = lines[line]
    column = min(place.column, len(text))
    return Span(name, line + 1, column + 1, max(1, min(place.length, len(text) - column)), text)


def _plain(code: str, message: str, name: str, hint: str | None = None) -> Problem:
    """A problem of a file whose lines are not to be shown."""
    return Problem(code, message, Span(name, 1, 1, 1, ""), hint)


def _decode(data: bytes, name: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[: error.start]
        number, start = before.count(b"\n"), before.rfind(b"\n") + 1
        raw = data[start : (data.find(b"\n", start) + 1 or len(data) + 1) - 1]
        line = raw.decode("utf-8", "replace").rstrip("\r")
        column = len(data[start : error.start].decode("utf-8", "replace"))
        span = span_at(name, ("",) * number + (line,), Place(number, column, 1))
        hint = "save the file as UTF-8 text"
        raise Problems([Problem("not-utf8", "this is not UTF-8 text", span, hint)]) from None


def _refuse_controls(lines: tuple[str, ...], name: str) -> None:
    found = []
    for number, line in enumerate(lines):
        if match := _CONTROL.search(line):
            span = span_at(name, lines, Place(number, match.start(), 1))
            what = f"the character U+{ord(match[0][0]):04X} has no place in a policy"
            found.append(Problem("control-character", what, span, "remove it, or save the file as plain UTF-8 text"))
            if len(found) == 3:
                break
    raise Problems(found)


def _parse(lines: tuple[str, ...], name: str, on: bool) -> Document:
    """Reads the events. Plain IPv6 that breaks the syntax is noted, blotted out, and reading starts again."""
    noted: list[Problem] = []
    readable = lines
    for _ in range(MOST_REPAIRS):
        builder = _Builder(name, lines)
        try:
            _feed(builder, "\n".join(readable))
        except yaml.MarkedYAMLError as error:
            repaired = _blot_ipv6(error, readable, builder, noted)
            if repaired is not None:
                readable = repaired
                continue
            builder.problems.append(_syntax_problem(error, builder))
        except yaml.YAMLError as error:
            builder.problems.append(_plain("yaml-syntax", f"this is not valid YAML: {error}", name))
        except _Stop:
            pass
        noted += builder.problems
        break
    found = shorten(order(noted), MOST_PROBLEMS)
    if found and not (on and all(problem.code == UNQUOTED for problem in found)):
        raise Problems(found)
    return Document(name, builder.data, lines, builder.place, tuple(found))


def shorten(problems: list[Problem], most: int = MOST_PROBLEMS) -> list[Problem]:
    """The first problems, and a last one that says that there are more."""
    if len(problems) <= most:
        return problems
    rest = problems[most]
    more = Problem("too-many-problems", f"there are more; only the first {most} are shown", rest.span)
    return [*problems[:most], more]


def _feed(builder: _Builder, text: str) -> None:
    parser: Any = _loader()(text)
    following, scalar, is_scalar = parser.get_event, builder.scalar, yaml.ScalarEvent
    try:
        while True:
            event = following()
            kind = type(event)
            if kind is is_scalar:
                scalar(event)
            elif kind is yaml.MappingStartEvent or kind is yaml.SequenceStartEvent:
                builder.start(event)
            elif kind is yaml.MappingEndEvent or kind is yaml.SequenceEndEvent:
                builder.end(event)
            elif kind is yaml.AliasEvent:
                builder.alias(event)
            elif kind is yaml.DocumentStartEvent:
                builder.document(event)
            elif kind is yaml.StreamEndEvent:
                return
    finally:
        parser.dispose()


def _loader() -> Any:
    """libyaml's parser where PyYAML is built with it, else the one in Python (about six times slower)."""
    return yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader


class _Stop(Exception):
    """Reading further makes no sense."""


class _Frame:
    """A list or mapping that is being read. `key` is the pending key of a mapping, `_NONE` between two pairs."""

    __slots__ = ("data", "inside", "key", "key_place", "start")

    def __init__(self, data: Any, inside: Any, start: Place) -> None:
        self.data, self.inside, self.start = data, inside, start
        self.key: Any = _NONE
        self.key_place = start


_NONE, _SKIP = object(), object()


class _Builder:
    """Turns events into data and places, and notes what the language does not allow."""

    def __init__(self, name: str, lines: tuple[str, ...]) -> None:
        self.name, self.lines = name, lines
        self.problems: list[Problem] = []
        self.stack: list[_Frame] = []
        self.data: Any = None
        self.items: Any = None
        """What is being read: the list or mapping on top of the stack."""
        self.place = Place(0, 0, 1)
        self.documents = 0
        self.aliases: set[str] = set()

    def note(self, code: str, message: str, place: Place, hint: str | None = None) -> None:
        self.problems.append(Problem(code, message, span_at(self.name, self.lines, place), hint))
        if len(self.problems) > MOST_PROBLEMS:
            raise _Stop

    def document(self, event: Any) -> None:
        self.documents += 1
        place = _place(event)
        if event.tags:
            self.note("yaml-tag", "`%TAG` is not part of the language", place, "remove the line")
        if self.documents == 2:
            self.note("yaml-document", "a second document begins here; a policy is one", place, "remove the `---`")
            raise _Stop

    def start(self, event: Any) -> None:
        place = _place(event)
        if len(self.stack) >= MOST_DEPTH:
            self.note("yaml-depth", f"nested more than {MOST_DEPTH} deep", place, "no policy needs that")
            raise _Stop
        self._decorations(event, place)
        empty: tuple[Any, Any] = ({}, {}) if isinstance(event, yaml.MappingStartEvent) else ([], [])
        self.stack.append(_Frame(*empty, place))
        self.items = self.stack[-1].data

    def end(self, event: Any) -> None:
        frame = self.stack.pop()
        self.items = self.stack[-1].data if self.stack else None
        mark, start = event.end_mark, frame.start
        # A block ends where the next thing begins; then its first line stands for it.
        length = mark.column - start.column if mark.line == start.line else 1 << 30
        self.add(frame.data, Place(start.line, start.column, length, frame.inside))

    def scalar(self, event: Any) -> None:
        start, end, value = event.start_mark, event.end_mark, event.value
        line, column = start.line, start.column
        # as Place(…), which is slower
        place = _record(Place, (line, column, end.column - column if end.line == line else 1 << 30, None))
        if (
            type(self.items) is list
            and not event.style
            and _ITEM.fullmatch(value)
            and not event.tag
            and not event.anchor
        ):
            self.items.append(value)
            self.stack[-1].inside.append(place)
            return
        if event.anchor is not None or event.tag is not None:
            self._decorations(event, place)
        if event.style:
            if _CONTROL.search(value):
                self.note("control-character", "this text holds a control character", place, "remove the escape")
            self.add(value, place)
        elif value.count(":") > 1 and is_ipv6(value):
            self.note(*_quote_ipv6(value, place))
            self.add(value, place)
        else:
            self.add(_plain_value(value), place, plain=True)

    def alias(self, event: Any) -> None:
        if event.anchor not in self.aliases:
            self.aliases.add(event.anchor)
            what = f"`*{event.anchor[:40]}` is an alias; the language has none"
            self.note("yaml-anchor", what, _place(event), HINT_ANCHOR)
        self.add("", _place(event))

    def _decorations(self, event: Any, place: Place) -> None:
        if event.anchor is not None:
            what = f"`&{event.anchor[:40]}` is an anchor; the language has none"
            self.note("yaml-anchor", what, place, HINT_ANCHOR)
        if event.tag is not None:
            what = f"`{event.tag[:60]}` is a tag; the language has none"
            self.note("yaml-tag", what, place, "remove the tag; text that begins with `!` goes in quotes")

    def add(self, value: Any, place: Place, plain: bool = False) -> None:
        if not self.stack:
            self.data, self.place = value, place
            return
        frame = self.stack[-1]
        if type(frame.data) is list:
            frame.data.append(value)
            frame.inside.append(place)
        elif frame.key is _NONE:
            frame.key, frame.key_place = self._key(frame, value, place, plain), place
        else:
            if frame.key is not _SKIP:
                frame.data[frame.key] = value
                frame.inside[frame.key] = (frame.key_place, place)
            frame.key = _NONE

    def _key(self, frame: _Frame, value: Any, place: Place, plain: bool) -> Any:
        """The key to use, or `_SKIP` where it is no good."""
        if not isinstance(value, str):
            shown = (
                "null" if value is None else str(value).lower() if isinstance(value, (bool, int)) else "a collection"
            )
            self.note("yaml-key", f"a key must be text, and this is {shown}", place, _key_hint(value))
            return _SKIP
        if plain and value == "<<":
            self.note("yaml-merge", "`<<` is not part of the language", place, HINT_ANCHOR)
            return _SKIP
        if plain and value.endswith(":") and (match := _PLAIN_IPV6.match(self.lines[place.line], place.column)):
            self.note(*_quote_ipv6(match[0], place._replace(length=len(match[0]))))
            return _SKIP
        if value in frame.inside:
            first = span_at(self.name, self.lines, frame.inside[value][0])
            span = span_at(self.name, self.lines, place)
            hint = "keep one of the two"
            said = f"`{value[:60]}` stands here twice"
            self.problems.append(Problem("duplicate-key", said, span, hint, others=(("first here", first),)))
            return _SKIP
        return value


HINT_ANCHOR = "named groups under `addresses`, `ports` and `interfaces` do what anchors would"


def _key_hint(value: Any) -> str:
    return f'write it in quotes: "{str(value).lower()}"' if isinstance(value, (bool, int)) else "write a plain name"


def _place(event: Any) -> Place:
    start, end = event.start_mark, event.end_mark
    column = start.column
    return Place(start.line, column, end.column - column if end.line == start.line else 1 << 30)


def _plain_value(text: str) -> str | int | bool | None:
    """What a plain scalar means: YAML's core schema without its other spellings of numbers, booleans and null."""
    if text.isalnum() or text[:1] == "-":
        if _INTEGER.fullmatch(text) and len(text) <= LONGEST_INTEGER:
            return int(text)
        if text in _WORDS:
            return _WORDS[text]
    return text or None


_WORDS: dict[str, bool | None] = {"true": True, "false": False, "null": None}


def is_ipv6(text: str) -> bool:
    """Whether a text looks like an IPv6 address, network or range, right or wrong, rather than a time of day."""
    return ("::" in text or text.count(":") >= 7) and _IPV6.fullmatch(text) is not None


UNQUOTED = "quote-ipv6"


def _quote_ipv6(text: str, place: Place) -> tuple[str, str, Place, str]:
    return UNQUOTED, "quote IPv6 addresses: YAML reads colons in its own way", place, f'write "{text}"'


def _blot_ipv6(
    error: yaml.MarkedYAMLError, lines: tuple[str, ...], builder: _Builder, noted: list[Problem]
) -> tuple[str, ...] | None:
    """The lines with the plain IPv6 texts of the line at fault made harmless, and a problem noted for each."""
    mark = error.problem_mark
    if mark is None or mark.line >= len(lines):
        return None
    line = _QUOTED_OR_COMMENT.sub(lambda match: " " * len(match[0]), lines[mark.line])
    found = [match for match in _PLAIN_IPV6.finditer(line) if is_ipv6(match[0])]
    if not found:
        return None
    text = lines[mark.line]
    for match in found:
        place = Place(mark.line, match.start(), len(match[0]))
        code, message, _, hint = _quote_ipv6(match[0], place)
        noted.append(Problem(code, message, span_at(builder.name, builder.lines, place), hint))
        text = text[: match.start()] + "x" * len(match[0]) + text[match.end() :]
    return (*lines[: mark.line], text, *lines[mark.line + 1 :])


_SYNTAX = (
    (
        "mapping values are not allowed",
        "a `:` stands where none can",
        "check the indentation; text with `: ` goes in quotes",
    ),
    (
        "cannot start any token",
        "this character cannot begin a value",
        "indent with spaces, not tabs; put text in quotes",
    ),
    ("while scanning a quoted scalar", "this quoted text has no end", "add the closing quote"),
    ("while parsing a flow sequence", "this list has no proper end", "add the `]`, or a comma between two values"),
    ("while parsing a flow mapping", "this mapping has no proper end", "add the `}`, or a comma between two values"),
    ("while scanning a simple key", "this line has no `:`", "write `key: value`, or `- value` in a list"),
    ("did not find expected key", "the indentation changes here", "keys of one mapping begin in the same column"),
    ("expected <block end>", "the indentation changes here", "keys of one mapping begin in the same column"),
    (
        "did not find expected '-' indicator",
        "the indentation changes here",
        "items of one list begin in the same column",
    ),
    ("did not find expected <document start>", "text after the end of the document", "keep one document in a file"),
    ("expected '<document start>'", "text after the end of the document", "keep one document in a file"),
    ("directive", "a `%` at the beginning of a line is a directive", "put the text in quotes"),
    ("escape", "this escape sequence does not exist", "in double quotes write `\\\\` for a backslash"),
)
"""Words of the parsers (libyaml's and PyYAML's differ) → what it means, what to do."""


def _syntax_problem(error: yaml.MarkedYAMLError, builder: _Builder) -> Problem:
    words = f"{error.context}; {error.problem}"
    message, hint = next(((m, h) for word, m, h in _SYNTAX if word in words), (str(error.problem), None))
    mark = error.problem_mark
    if error.context_mark is not None and ("no proper end" in message or "has no" in message):
        mark = error.context_mark
    place = Place(mark.line, mark.column, 1) if mark is not None else Place(0, 0, 1)
    return Problem(
        "yaml-syntax", f"this is not valid YAML: {message}", span_at(builder.name, builder.lines, place), hint
    )
