"""YAML as the language has it: values, places, and everything that it refuses."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from portctl import document
from portctl.problems import Problems


def codes(text: bytes | str) -> list[tuple[str, int, int]]:
    """Code, line and column of each problem."""
    with pytest.raises(Problems) as caught:
        document.read(text, "p.yaml")
    spans = [(p.code, p.span) for p in caught.value.problems]
    return [(code, span.line, span.column) for code, span in spans if span is not None]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("12", 12),
        ("-3", -3),
        ("0", 0),
        ("true", True),
        ("false", False),
        ("null", None),
        ("", None),
        ("'12'", "12"),
        ('"true"', "true"),
        *(
            (text, text)
            for text in ("no", "on", "yes", "True", "NULL", "~", "22:30", "08", "1_000", "0x10", "0o17", "1e3")
        ),
        *(
            (text, text)
            for text in ("2027-01-31", "1.5", ".inf", "+5", "22:30:15", "eth0", "10.0.0.0/8", "=", "9" * 30)
        ),
    ],
)
def test_plain_values(text: str, value: object) -> None:
    data = document.read(f"key: {text}\n", "p.yaml").data
    assert data == {"key": value}
    assert type(data["key"]) is type(value)


def test_keys_that_other_readers_take_for_booleans_are_names() -> None:
    assert document.read("no: 1\non: 2\nyes: 3\n", "p.yaml").data == {"no": 1, "on": 2, "yes": 3}


def test_byte_order_mark_and_crlf_change_nothing() -> None:
    plain = document.read("a: 1\nb: [x, y]\n", "p.yaml")
    assert document.read(b"\xef\xbb\xbfa: 1\r\nb: [x, y]\r\n", "p.yaml") == plain
    assert plain.span(("b", 1)).text == "b: [x, y]"


def test_spans() -> None:
    found = document.read("a:\n  b: [x, {c: yy}]\n  long: 'q'\n", "p.yaml")
    place = found.span(("a", "b", 1, "c"))
    assert (place.line, place.column, place.length, place.text) == (2, 14, 2, "  b: [x, {c: yy}]")
    assert found.span(("a", "b", 1, "c"), key=True).column == 11
    assert found.span(("a", "b")).length == len("[x, {c: yy}]")
    assert found.span(("a", "long", 0)) == found.span(("a", "long"))
    assert found.span(("a", "nothing"), key=True) == found.span(("a",), key=True)


@pytest.mark.parametrize(
    ("text", "column", "hint"),
    [
        ("a: [::1]", 5, "::1"),
        ("a: {from: ::/0}", 11, "::/0"),
        ("a: [x, 2001:db8::/32, y]", 8, "2001:db8::/32"),
        ("a: [fe80::1-fe80::9]", 5, "fe80::1-fe80::9"),
        ("a: {b: 2001:db8::, c: d}", 8, "2001:db8::"),
        ("a: [2001:db8:0:1:2:3:4:5]", 5, "2001:db8:0:1:2:3:4:5"),
        ("a: [10.0.0.1,::1]", 14, "::1"),
        ("a: ::1", 4, "::1"),
        ("a: 2001:db8::", 4, "2001:db8::"),
        ("- ::", 3, "::"),
    ],
)
def test_plain_ipv6_is_one_error_whatever_yaml_makes_of_it(text: str, column: int, hint: str) -> None:
    with pytest.raises(Problems) as caught:
        document.read(text + "\n", "p.yaml")
    first = caught.value.problems[0]
    assert first.code == "quote-ipv6"
    assert first.span is not None and first.span.column == column
    assert first.hint == f'write "{hint}"'
    assert [p.code for p in caught.value.problems].count("quote-ipv6") == 1


def test_quoted_ipv6_times_and_prose_are_text() -> None:
    text = "a: [\"::1\", '::/0']  # not [::1]\nb: 22:30:15\nc: see RFC 4291 about ::1 and 2001:db8::1 there\n"
    assert document.read(text, "p.yaml").data["a"] == ["::1", "::/0"]


def test_problems_after_plain_ipv6_are_found_too() -> None:
    assert codes("a: [::1]\nb: &x [::/0]\nb: 2\n") == [
        ("quote-ipv6", 1, 5),
        ("yaml-anchor", 2, 4),
        ("quote-ipv6", 2, 8),
        ("duplicate-key", 3, 1),
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"a: 1\nb: \xff\n", ("not-utf8", 2, 4)),
        (b"\x7fELF\x02\x01\x01\x00", ("control-character", 1, 1)),
        ("a: 1\nb: x\u202ey\n", ("control-character", 2, 5)),
        ("a: x\u2028y\n", ("control-character", 1, 5)),
        ("a: 1\rb: 2\n", ("control-character", 1, 5)),
        ('a: "\\0"\n', ("control-character", 1, 4)),
        ("a: [1\nb: 2\n", ("yaml-syntax", 1, 4)),
        ("a: 1\n---\nb: 2\n", ("yaml-document", 2, 1)),
        ("3: 4\n", ("yaml-key", 1, 1)),
        ("? {a: b}\n: c\n", ("yaml-key", 1, 3)),
        ("<<: {a: b}\n", ("yaml-merge", 1, 1)),
        ("a: !!int '3'\n", ("yaml-tag", 1, 4)),
        ("%TAG ! tag:x,2000:\n---\na: 1\n", ("yaml-tag", 1, 1)),
        ("a: b\nc: d\na: e\n", ("duplicate-key", 3, 1)),
        ("a: " + "[" * 33, ("yaml-depth", 1, 35)),
        ("a: " + "{x: " * 100_000, ("yaml-depth", 1, 128)),
    ],
)
def test_refused(text: bytes | str, expected: tuple[str, int, int]) -> None:
    assert codes(text)[0] == expected


def test_huge_text_is_refused_for_its_size_alone() -> None:
    assert codes(b"a: [x, y]\n" * 10_000_000) == [("too-large", 1, 1)]


def test_an_anchor_bomb_is_never_unfolded() -> None:
    levels = "".join(f"k{n}: &k{n} [{', '.join([f'*k{n - 1}'] * 9)}]\n" for n in range(1, 60))
    assert set(code for code, _, _ in codes(f"k0: &k0 [x]\n{levels}")) == {"yaml-anchor", "too-many-problems"}


def test_many_problems_end_after_a_hundred() -> None:
    found = codes("".join(f"{n}: x\n" for n in range(1000)))
    assert len(found) == 101
    assert found[-1][0] == "too-many-problems"


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_data_or_problems(data: bytes) -> None:
    try:
        found = document.read(data, "p.yaml")
    except Problems as error:
        assert all(problem.span is not None for problem in error.problems)
    else:
        found.span(("a", 0, "b"))


@settings(max_examples=400, deadline=None)
@given(st.text(alphabet=" \n:-[]{},&*!|>'\"%@`#?a1~\t.\\<\u00e9", max_size=60))
def test_any_punctuation_is_data_or_problems(text: str) -> None:
    try:
        document.read(text, "p.yaml")
    except Problems as error:
        assert error.problems
