"""Texts that no tool prints: an account of every line, or a refusal, never a failure."""

from __future__ import annotations

import re

from hypothesis import given, settings
from hypothesis import strategies as st

from portctl import importing
from portctl.problems import Problems
from tests.test_import import SETS, files_of

WORDS = [
    *("-A", "INPUT", "FORWARD", "OUTPUT", "c1", "-p", "tcp", "udp", "icmp", "-m", "state", "--state", "!", "-s", "-d"),
    *("10.0.0.0/8", "192.0.2.1", "::1/128", "--dport", "--sport", "22", "80:90", "ssh", "-j", "ACCEPT", "DROP", "LOG"),
    *("DNAT", "--to-destination", "10.0.0.1:80", "[1:2]", "*filter", "*nat", "COMMIT", ":INPUT", ":c1", "-", '"'),
    *("\\", "set", "--match-set", "x", "src", "limit", "--limit", "3/min", "99999999999", "-1", "eth0", "-i", "+"),
]


@settings(max_examples=150, deadline=None)
@given(st.lists(st.lists(st.sampled_from(WORDS), max_size=12).map(" ".join), max_size=12), st.booleans())
def test_no_mutated_save_makes_it_fail(lines: list[str], headed: bool) -> None:
    text = "\n".join([*(["*filter", ":INPUT DROP", ":c1 - [0:0]"] if headed else []), *lines])
    assert _is_accounted_for(text)


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(SETS), st.data())
def test_no_mutation_of_a_real_one_makes_it_fail(name: str, data: st.DataObject) -> None:
    text = next(iter(files_of(name).values()))
    at = data.draw(st.integers(0, len(text)))
    length = data.draw(st.integers(0, 40))
    insert = data.draw(st.text(max_size=12))
    assert _is_accounted_for(text[:at] + insert + text[at + length :])


def _is_accounted_for(text: str) -> bool:
    """Whether a text is refused in words, or each of its lines is in the account. Of JSON no line stands by itself."""
    try:
        found = importing.from_texts({"x": text}, "test")
    except Problems as refused:
        return bool(refused.problems)
    lines = re.split(r"\r\n|\n|\r", text.removeprefix("\ufeff"))
    return text.lstrip().startswith("{") or len(found.account.entries) == len(lines) - (not lines[-1])
