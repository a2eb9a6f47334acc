"""Every problem has a heading in docs/problems.md and a case that shows its exact text.

`tests/golden/errors/<case>/` holds `policy.yaml` (and what it names), and `problems.txt`: what `portctl check` says.
PORTCTL_ACCEPT=1 rewrites the texts (`make accept`).
"""

from __future__ import annotations

import ast
import os
import re
from pathlib import Path

import pytest

from portctl import pipeline
from portctl.cli.checking import examine
from portctl.problems import text

ROOT = Path(__file__).parent.parent
CASES = sorted(path.parent for path in (ROOT / "tests/golden/errors").glob("*/policy.yaml"))
MAKERS = {"Problem", "wrong", "Fault", "report", "note", "_problem", "_plain", "_gap"}
CODE = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
AT = pipeline.moment("2026-11-01")
NO_CASE = {
    "too-large": "the file would be large: test_document",
    "too-many-problems": "the text would be long: test_document",
    "not-proved": "a back end would have to be wrong: test_space_proof",
    "gap": "a policy is right, and a back end cannot say it",
    "too-many-cases": "an argument",
    "unknown-ability": "an argument",
    "bad-input": "no policy: test_import",
    "too-many": "no policy: test_import",
    "no-file": "an argument",
    "no-family": "an argument: test_asking",
    "cannot-write": "an argument",
    "unknown-backend": "an argument",
    "bad-host": "an argument: test_hosts_target",
    "unknown-system": "an argument",
    "platform": "a policy is right, and a platform does one thing differently",
}


def codes_in_source() -> set[str]:
    """First arguments of everything that makes a problem."""
    found = set()
    for path in sorted((ROOT / "portctl").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and node.args and isinstance(first := node.args[0], ast.Constant):
                name = getattr(node.func, "id", getattr(node.func, "attr", ""))
                if name in MAKERS and isinstance(first.value, str) and CODE.fullmatch(first.value):
                    found.add(first.value)
    return found


def literals_in_source() -> set[str]:
    found = set()
    for path in (ROOT / "portctl").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(node.value)
    return found


def headings() -> list[str]:
    return re.findall(r"^## `([a-z0-9-]+)`$", (ROOT / "docs/problems.md").read_text(), re.M)


def said(case: Path) -> str:
    """What `portctl check policy.yaml`, run in the folder of the case, writes to standard error."""
    before = Path.cwd()
    os.chdir(case)
    try:
        _, problems = examine("policy.yaml", AT)
    finally:
        os.chdir(before)
    return "\n\n".join(text(problem) for problem in problems) + "\n"


def test_each_code_has_a_heading_and_each_heading_a_code() -> None:
    listed = headings()
    assert len(listed) == len(set(listed))
    assert codes_in_source() - set(listed) == set()
    assert set(listed) - literals_in_source() == set()


def test_each_heading_shows_what_is_wrong_and_what_is_right() -> None:
    sections = re.split(r"^## ", (ROOT / "docs/problems.md").read_text(), flags=re.M)[1:]
    bare = [section.split("`")[1] for section in sections if "Wrong:" not in section or "Right:" not in section]
    assert bare == []


@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case.name))
def test_case(case: Path) -> None:
    found = said(case)
    expected = case / "problems.txt"
    if os.environ.get("PORTCTL_ACCEPT"):
        expected.write_text(found)
    assert expected.read_text() == found


def test_each_code_has_a_case() -> None:
    shown = {
        code
        for case in CASES
        for code in re.findall(r"^(?:error|warning|note)\[([a-z0-9-]+)\]:", (case / "problems.txt").read_text(), re.M)
    }
    assert set(headings()) - shown - set(NO_CASE) == set()
