"""Findings and problems as a person and as a program read them."""

from __future__ import annotations

import json

from portctl import report
from portctl.problems import Problem, Span
from portctl.verify import Finding

SPAN = Span("web.yaml", 4, 3, 3, "  ssh: {ports: ssh, from: any}")
ERROR = Finding("exposed", "error", "ssh", "strangers reach it", "apply the policy", ("packet", "  rule"), SPAN)
WARNING = Finding("expired", "warning", "old", "it was open until 2026", "delete it")
NOTES = tuple(Finding("unused", "note", name, "no packet came", "take it out", (), SPAN) for name in ("ssh", "web"))


def test_a_report_for_a_person() -> None:
    assert report.findings_text([ERROR, WARNING, *NOTES], "1 service") == (
        "error[exposed]: ssh: strangers reach it\n"
        "  policy  web.yaml:4: ssh: {ports: ssh, from: any}\n"
        "  seen    packet\n"
        "            rule\n"
        "  do      apply the policy\n"
        "\n"
        "warning[expired]: old: it was open until 2026\n"
        "  do      delete it\n"
        "\n"
        "note[unused]: ssh, web: no packet came\n"
        "  policy  web.yaml:4: ssh: {ports: ssh, from: any}\n"
        "  policy  web.yaml:4: ssh: {ports: ssh, from: any}\n"
        "  do      take it out\n"
        "\n"
        "2 findings (2 notes)\n"
    )


def test_all_holds() -> None:
    assert report.findings_text([], "1 service") == "all holds: 1 service\n"
    assert report.findings_text(NOTES[:1], "1 service").endswith("\n\nall holds: 1 service (1 note)\n")
    assert report.findings_text([WARNING], "1 service").endswith("\n\n1 finding\n")


def test_what_a_host_says_cannot_command_the_terminal() -> None:
    evil = Finding("undeclared", "note", "\x1b[2J", "a\nb", "do", ("\x1b]0;title\x07", "tab\there"))
    text = report.findings_text([evil], "")
    assert "\x1b" not in text and "\x07" not in text and "tab here" in text
    assert text.count("\n") == 6


def test_a_report_for_a_program_holds_the_same() -> None:
    said = json.loads(report.findings_json([ERROR, *NOTES]))
    assert (said["version"], said["holds"], said["counts"]) == (1, False, {"error": 1, "warning": 0, "note": 2})
    assert said["findings"][0] == {
        "code": "exposed",
        "severity": "error",
        "subject": "ssh",
        "message": "strangers reach it",
        "advice": "apply the policy",
        "evidence": ["packet", "  rule"],
        "place": {"file": "web.yaml", "line": 4, "column": 3, "length": 3, "text": SPAN.text},
    }
    assert json.loads(report.findings_json(NOTES))["holds"] is True
    assert json.loads(report.findings_json([WARNING]))["findings"][0]["place"] is None


def test_problems_for_a_program() -> None:
    found = Problem("unknown-group", "no group `offce`", SPAN, "did you mean `office`?", others=(("here", SPAN),))
    said = report.problem(found)
    assert said["place"] == {"file": "web.yaml", "line": 4, "column": 3, "length": 3, "text": SPAN.text}
    assert (said["code"], said["severity"], said["hint"]) == ("unknown-group", "error", "did you mean `office`?")
    assert said["others"] == [{"message": "here", "place": said["place"]}]
