"""apply against scripted hosts: which commands it runs, in which order, and what it makes of the answers.

A transcript: `> words` is a command it must run (a verb of the guard script, or a whole argv), `< STATUS text` what the
host answers, `+ path` a file it must write, `! text` a host that is lost, `= outcome` how it ends.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from portctl.apply import steps, transaction
from portctl.apply.boot import Boot
from portctl.apply.state import full_tables
from portctl.command import Command, HostError, Result

CASES = sorted((Path(__file__).parent / "transcripts").iterdir())


@dataclass
class Scripted:
    lines: list[str]
    at: int = 0
    name: str = "scripted"
    said: list[str] = field(default_factory=list)

    def next(self) -> str:
        line = self.lines[self.at] if self.at < len(self.lines) else "(the transcript is at its end)"
        self.at += 1
        return line

    def run(self, command: Command, timeout: float | None = None) -> Result:  # noqa: ARG002 - the protocol has it
        words = command.argv
        if words[:3] == ("sh", "-s", "--"):
            assert command.stdin == steps.script().encode()
            words = words[3:]
        assert f"> {' '.join(words)}" == self.next()
        answer = self.next()
        if answer.startswith("! "):
            raise HostError(answer[2:])
        status, _, text = answer[2:].partition(" ")
        return Result(int(status), text, "") if status in ("0", "75") else Result(int(status), "", text)

    def put(self, path: str, data: bytes, mode: int = 0o644) -> None:  # noqa: ARG002
        assert f"+ {path}" == self.next()


def play(case: Path) -> None:
    lines = [x for x in (case / "transcript.txt").read_text().splitlines() if x and not x.startswith("#")]
    settings = dict(line.split(" ", 1) for line in lines if line[0] not in "><+!=")
    host = Scripted([line for line in lines if line[0] in "><+!="])
    window = transaction.Window(int(settings["confirm-within"]), systemd=settings["init"] == "systemd")
    held = transaction.lock(host, "a test", 0)
    try:
        transaction.begin(held, {"rules": {"load.sh": "exit 0\n"}})
        transaction.check_and_save(held)
        boot = Boot(None, {"/etc/portctl/boot/boot.sh": (0o700, "exit 0\n")}, {})
        held = transaction.record(held, {"policy.yaml": "portctl: 1\n"}, boot, ("rules",))
    except steps.Refused:
        transaction.abandon(held)
        raise
    said = transaction.carry_out(held, window, lambda: settings.get("wrong"))
    assert host.next() == f"= {said}"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_transcript(case: Path) -> None:
    wanted = (case / "transcript.txt").read_text().splitlines()[-1].removeprefix("= ")
    kind, _, message = wanted.partition(": ")
    errors = {"Refused": steps.Refused, "RolledBack": steps.RolledBack, "HostError": HostError}
    if kind not in errors:
        play(case)
        return
    with pytest.raises(errors[kind]) as caught:
        play(case)
    assert str(caught.value).splitlines()[0] == message


def test_a_full_table_of_a_limit_is_a_finding() -> None:
    host = Scripted(["> tables", "< 0 limit-ssh 65536\nportctl-web 12"])
    (found,) = full_tables(host)
    assert "limit-ssh is full" in found
