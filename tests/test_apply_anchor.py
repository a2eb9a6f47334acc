"""plan, apply, status, rollback, verify and remove where portctl keeps to its anchor of pf: the main rule set is
somebody else's, and stays as it is."""

from __future__ import annotations

from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path

import pytest
from typer.testing import CliRunner

from portctl import apply as applying
from portctl import cli, inspection, observe, pipeline
from portctl.apply import boot_bsd, history, removal
from portctl.apply.transaction import Window
from portctl.command import Command
from portctl.evaluation import evaluate
from portctl.ruleset import TCP, Direction, Packet, Verdict
from tests.bsd_room import Room, room
from tests.test_apply_bsd import POLICY, texts

MAIN = ["block drop in all", 'anchor "portctl" all', "pass out all flags S/SA keep state"]
"""A main rule set that calls the anchor."""
SYSTEMS = ("FreeBSD", "OpenBSD", "Darwin")
LOADS = 'load anchor "portctl" from "/etc/portctl/boot/current/boot.conf"'
CONF = f'block in\nanchor "portctl"\n{LOADS}\npass out\n'


def machine(system: str, folder: Path, rules: list[str] | None = None) -> Room:
    host = room(folder / "machine", system, True)
    pf = host.state()["pf"] | {"enabled": True, "rules": MAIN if rules is None else rules, "skip": ["lo0"]}
    pf["nat"] = ['nat-anchor "portctl" all', 'rdr-anchor "portctl" all']
    host.change(pf=pf)
    host.file("/etc/pf.conf").write_text(CONF)
    with host.file("/etc/rc.conf").open("a") as file:
        file.write('pf_enable="YES"\n' if system == "FreeBSD" else "")
    return host


def request(folder: Path, text: str = POLICY, anchor: bool = True, **more: object) -> applying.Request:
    path = folder / "policy.yaml"
    path.write_text(text)
    asked = {"confirm_within": 0, **more}
    return applying.Request(pipeline.compile(path).ruleset, text, "a test", anchor=anchor, **asked)  # type: ignore[arg-type]


def inside(host: Room) -> list[str]:
    found: list[str] = host.state()["pf"]["anchors"].get("portctl", {}).get("rules", [])
    return found


@pytest.mark.parametrize("system", SYSTEMS)
def test_only_the_anchor_is_filled_and_emptied_again(system: str, tmp_path: Path) -> None:
    host, before = machine(system, tmp_path), MAIN
    files = texts(host)
    assert applying.apply(host, request(tmp_path), applying.Talk()) == "confirmed"
    assert any("portctl:service:web" in rule for rule in inside(host))
    assert host.state()["pf"]["rules"] == before
    (record,) = history.records(host)
    assert record.about.backend.endswith("-anchor")
    # Later commands know of it without being told, and find nothing to do.
    assert applying.apply(host, request(tmp_path, anchor=False), applying.Talk()) == "unchanged"
    assert applying.plan(host, request(tmp_path, anchor=False)).empty
    assert not [f for f in applying.status(host).findings if "drift" in f]
    assert "back" in applying.rollback(host, None, "a test")
    assert inside(host) == [] and host.state()["pf"]["rules"] == before and texts(host) == files


def test_a_main_rule_set_that_does_not_call_the_anchor_is_refused_in_words(tmp_path: Path) -> None:
    host = machine("FreeBSD", tmp_path, ["block drop in all", "pass out all flags S/SA keep state"])
    made = applying.plan(host, request(tmp_path))
    said = " ".join(refusal.message + (refusal.hint or "") for refusal in made.refusals)
    assert 'lacks `anchor "portctl"`' in said and "/etc/pf.conf" in said
    with pytest.raises(applying.Refused, match="does not call"):
        applying.apply(host, request(tmp_path), applying.Talk())
    assert inside(host) == []


def test_what_decides_before_the_anchor_is_said(tmp_path: Path) -> None:
    first = "block drop in quick inet proto tcp from 203.0.113.0/24 to any"
    host = machine("FreeBSD", tmp_path, [first, *MAIN])
    made = applying.plan(host, request(tmp_path))
    assert any(first in warning for warning in made.warnings) and not made.refusals


def test_the_plan_says_what_opens_and_closes_with_the_main_rules_around(tmp_path: Path) -> None:
    host = machine("FreeBSD", tmp_path)
    made = applying.plan(host, request(tmp_path))
    opened = [line for line in made.difference if line.startswith("+")]
    assert any("22" in line and "198.51.100.0/24" in line for line in opened), made.difference
    assert any("443" in line for line in opened)


def test_drift_inside_the_anchor_is_found(tmp_path: Path) -> None:
    host = machine("FreeBSD", tmp_path)
    applying.apply(host, request(tmp_path), applying.Talk())
    compiled = pipeline.compile(tmp_path / "policy.yaml")
    at = datetime(2026, 7, 1, tzinfo=UTC)

    def codes() -> set[str]:
        return {finding.code for finding in inspection.inspect(host, compiled, at, boot=False).findings}

    assert "drift" not in codes()
    pf = host.state()["pf"]
    pf["anchors"]["portctl"]["rules"] = [rule for rule in inside(host) if "portctl:service:web" not in rule]
    host.change(pf=pf)
    assert "drift" in codes()
    assert any("drift" in finding for finding in applying.status(host).findings)


def test_a_main_rule_set_that_no_longer_calls_the_anchor_is_drift(tmp_path: Path) -> None:
    host = machine("OpenBSD", tmp_path)
    applying.apply(host, request(tmp_path), applying.Talk())
    host.change(pf=host.state()["pf"] | {"rules": ["block drop in all", "pass out all flags S/SA keep state"]})
    assert any("does not call portctl's anchor" in finding for finding in applying.status(host).findings)
    compiled = pipeline.compile(tmp_path / "policy.yaml")
    seen = inspection.inspect(host, compiled, datetime(2026, 7, 1, tzinfo=UTC), boot=False)
    assert 'lacks `anchor "portctl"`' in seen.findings[0].message


def test_what_the_next_boot_needs_is_asked_of_the_main_rule_set(tmp_path: Path) -> None:
    host = machine("FreeBSD", tmp_path)
    host.file("/etc/pf.conf").write_text("block in\npass out\n")
    assert applying.apply(host, request(tmp_path), applying.Talk()) == "confirmed, but not written for the next boot"
    assert "pf_rules" not in host.file("/etc/rc.conf").read_text()
    said = host.run(Command(("sh", boot_bsd.CHECK))).stdout
    assert "does not call the anchor" in said and LOADS in said
    host.file("/etc/pf.conf").write_text(CONF)
    assert host.run(Command(("sh", boot_bsd.CHECK))).ok
    kept = host.file("/etc/portctl/boot/current/boot.conf").read_text()
    assert kept.startswith("# web: written by portctl for the anchor portctl.")


def test_removing_empties_the_anchor(tmp_path: Path) -> None:
    host = machine("FreeBSD", tmp_path)
    applying.apply(host, request(tmp_path), applying.Talk())
    assert "takes portctl's rules and sets out of pf-freebsd" in removal.look(host).lines()
    assert removal.remove(host, "a test", Window(0), applying.Talk()) == "removed"
    assert inside(host) == [] and host.state()["pf"]["rules"] == MAIN


def test_the_main_rule_set_takes_over_from_the_anchor(tmp_path: Path) -> None:
    host = machine("FreeBSD", tmp_path)
    applying.apply(host, request(tmp_path), applying.Talk())
    back = request(tmp_path, anchor=False, backend="pf-freebsd")
    assert applying.apply(host, back, applying.Talk()) == "confirmed"
    assert inside(host) == [] and any("portctl:service:web" in rule for rule in host.state()["pf"]["rules"])


def test_ipfw_has_no_anchors(tmp_path: Path) -> None:
    host = room(tmp_path / "machine", "FreeBSD", False)
    with pytest.raises(applying.Refused, match="no anchors"):
        applying.plan(host, request(tmp_path))


@pytest.mark.parametrize("command", ["plan", "apply"])
def test_an_anchor_takes_nothing_away_from_others(command: str, tmp_path: Path) -> None:
    (tmp_path / "policy.yaml").write_text(POLICY)
    words = [command, str(tmp_path / "policy.yaml"), "--anchor", "--exclusive"]
    said = CliRunner().invoke(cli.build([command]), words)
    assert said.exit_code == 2 and "--anchor" in said.output


def test_tables_of_the_anchor_are_its_own(tmp_path: Path) -> None:
    """A table of the same name outside holds something else."""
    host = machine("FreeBSD", tmp_path)
    text = POLICY.replace("from: 198.51.100.0/24", "from: [198.51.100.0/24, 203.0.113.9]")
    applying.apply(host, request(tmp_path, text), applying.Talk())
    pf = host.state()["pf"]
    assert pf["anchors"]["portctl"]["tables"] and "portctl_ssh" in pf["anchors"]["portctl"]["tables"]
    host.change(pf=pf | {"tables": {"portctl_ssh": ["192.0.2.77"]}})
    facts = observe.facts(host)
    observed = observe.observe(host, observe.readers(facts), (), facts)
    assert observed.program is not None and not observed.program.own().chains
    for source, verdict in (("203.0.113.9", Verdict.ACCEPT), ("192.0.2.77", Verdict.DROP)):
        packet = Packet(Direction.INBOUND, TCP, ip_address(source), ip_address("192.0.2.10"), 22)
        assert evaluate(observed.program, packet).verdict is verdict
