"""`portctl diff`: policies, rendered files, saved rule sets, and what git has."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from portctl import backends, cli
from portctl.cli import asking, comparing, light, sources
from portctl.hosts import process
from portctl.problems import Problems
from portctl.ruleset import Direction
from portctl.space.questions import Query

OLD = """\
portctl: 1
name: test
services:
  ssh: {ports: ssh, from: 198.51.100.0/24}
"""
NEW = OLD.replace("198.51.100.0/24", "any")
SAVED = """\
*filter
:INPUT DROP [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
-A INPUT -p tcp -m tcp --dport 22 -j ACCEPT
COMMIT
"""


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Path]:
    before = Path.cwd()
    os.chdir(tmp_path)
    (tmp_path / "old.yaml").write_text(OLD)
    (tmp_path / "new.yaml").write_text(NEW)
    yield tmp_path
    os.chdir(before)


def run(*arguments: str, command: str = "diff") -> Result:
    return CliRunner().invoke(cli.build([command]), [command, *arguments])


def git(*arguments: str) -> None:
    who = ("-c", "user.name=test", "-c", "user.email=test@example.net")
    found = process.run(("git", *who, *arguments))
    assert found.ok, found.stderr


@pytest.mark.usefixtures("here")
def test_the_words_come_first_then_the_text() -> None:
    said = run("old.yaml", "new.yaml")
    assert said.exit_code == 1
    lines = said.stdout.splitlines()
    assert lines[0] == "old.yaml -> new.yaml: widened: more is reachable"
    assert lines[1].startswith("  newly open to the Internet (everywhere except 198.51.100.0/24): 22/tcp (ssh)")
    assert "+  ssh: {ports: ssh, from: any}" in lines
    assert run("new.yaml", "new.yaml").exit_code == 0


@pytest.mark.usefixtures("here")
def test_it_fails_only_for_what_it_is_asked_to() -> None:
    assert run("new.yaml", "old.yaml").exit_code == 1
    assert run("new.yaml", "old.yaml", "--fail-on", "widened").exit_code == 0
    assert run("old.yaml", "new.yaml", "--fail-on", "internet").exit_code == 1


@pytest.mark.usefixtures("here")
def test_programs_read_it_too() -> None:
    assert json.loads(run("old.yaml", "new.yaml", "--format", "json").stdout)["relation"] == "widened"
    found = json.loads(run("old.yaml", "new.yaml", "--format", "sarif").stdout)
    assert found["runs"][0]["results"][0]["ruleId"] == "opened-internet"
    assert run("old.yaml", "new.yaml", "--format", "markdown").stdout.startswith("### old.yaml → new.yaml")


@pytest.mark.parametrize("name", [*backends.NAMES, "pf-openbsd", "pf-freebsd", "pf-macos"])
@pytest.mark.usefixtures("here")
def test_a_policy_is_what_it_renders_to(name: str) -> None:
    assert run("old.yaml", "--backend", name, "--output", "out", command="render").exit_code == 0
    said = run("old.yaml", f"out/{name}")
    assert said.exit_code == 0 and "the meaning does not" in said.stdout
    assert ("as the platform forces it" in said.stderr) == (backends.package(name) in ("pf", "ipfw"))
    files = ",".join(f"out/{name}/{part}" for part in backends.load(name).PARTS if Path(f"out/{name}/{part}").exists())
    assert run(files, "out").exit_code == 0
    assert run(files, "new.yaml", "--fail-on", "internet").exit_code == 1


def test_a_saved_rule_set_speaks_of_its_family_alone(here: Path) -> None:
    (here / "saved").write_text(SAVED)
    said = run("new.yaml", "saved")
    assert "rules of IPv4 alone" in said.stderr
    assert "no longer open to" in said.stdout and "22/tcp" not in said.stdout.split("beside")[0]


@pytest.mark.usefixtures("here")
def test_git_compares_with_what_was_committed(here: Path) -> None:
    git("init", "-q")
    (here / "gone.yaml").write_text(OLD)
    (here / "web.yaml").write_text(OLD + "include: [more.yaml]\n")
    (here / "more.yaml").write_text("services: {web: {ports: http, from: any}}\n")
    git("add", ".")
    git("commit", "-qm", "one")
    assert run("--git", "HEAD").stdout == "no difference\n"
    (here / "gone.yaml").unlink()
    (here / "more.yaml").write_text("services: {web: {ports: [http, 8080/tcp], from: any}}\n")
    (here / "fresh.yaml").write_text(OLD)
    said = run("--git", "HEAD")
    assert said.exit_code == 1
    heads = [line for line in said.stdout.splitlines() if " -> " in line]
    assert heads == [  # what opens to the Internet, what opens, what closes
        "web.yaml (HEAD) -> web.yaml: widened: more is reachable",
        "fresh.yaml (not in HEAD) -> fresh.yaml: widened: more is reachable",
        "gone.yaml (HEAD) -> gone.yaml (taken away): narrowed: less is reachable",
    ]
    assert "+services: {web: {ports: [http, 8080/tcp], from: any}}" in said.stdout.splitlines()
    first = run("--git", "HEAD", "--format", "markdown").stdout.splitlines()
    assert first[0] == "- web.yaml: **newly open to the Internet: 8080/tcp (http-alt)**"
    assert "newly open to the Internet: 8080/tcp" in said.stdout
    assert not process.run(("git", "status", "--porcelain", "--", "old.yaml")).stdout
    value = json.loads(run("--git", "HEAD", "gone.yaml", "--format", "json").stdout)
    (closed,) = value["differences"][0]["changes"]
    assert closed["where"]["file"] == "gone.yaml"


@pytest.mark.usefixtures("here")
def test_what_does_not_compile_is_said_and_the_rest_compared(here: Path) -> None:
    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "one")
    (here / "new.yaml").write_text("portctl: 1\nname: [\n")
    (here / "old.yaml").write_text(NEW)
    said = run("--git", "HEAD", ".")
    assert said.exit_code == 2 and "error[" in said.stderr and "old.yaml (HEAD) -> old.yaml: widened" in said.stdout


def test_a_bundle_of_two_back_ends_is_named_exactly(here: Path) -> None:
    from portctl.problems import Problems

    run("old.yaml", "--backend", "all", "--output", "out", command="render")
    with pytest.raises(Problems, match="holds rules for"):
        CliRunner().invoke(cli.build(["diff"]), ["diff", "out", str(here / "old.yaml")], catch_exceptions=False)


APP = """\
portctl: 1
name: app
addresses:
  office: [198.51.100.0/24, "2001:db8:10::/48"]
  trusted: [office, 203.0.113.10, 203.0.113.32/28]
  feed: {file: feed.txt}
services:
  ssh: {ports: ssh, from: office}
  ftp: {ports: ftp, from: office}
  api: {ports: 8443/tcp, from: trusted}
  metrics: {ports: 9100/tcp, from: trusted}
forwards:
  site: {ports: http, from: any, target: 10.0.0.5, masquerade: true}
block: [feed]
egress:
  dns: {ports: domain, to: 192.0.2.53}
defaults: {outbound: reject, forward: drop}
sysctl: {tcp_keepalive_time: 2000}
"""


@pytest.mark.parametrize(
    ("was", "now", "relation", "said"),
    [
        ("203.0.113.10, ", "", "narrowed", "no longer open to 203.0.113.10: 8443/tcp (https-alt), 9100/tcp"),
        ("203.0.113.10, ", "", "narrowed", "[api, metrics]"),
        ("  ftp: {ports: ftp, from: office}\n", "", "narrowed", "no longer open to office: 21/tcp (ftp)  [ftp]"),
        ("office}\n  ftp", "any}\n  ftp", "widened", "(everywhere except feed, office): 22/tcp (ssh)  [ssh]"),
        (
            "target: 10.0.0.5",
            "target: 10.0.0.6",
            "both",
            "forwarded to 10.0.0.6, no longer to 10.0.0.5: what comes from",
        ),
        ("10.0.0.5", '"10.0.0.5:80"', "text only", "the meaning does not"),
        ("10.0.0.5", '"10.0.0.5:81"', "both", "forwarded to 10.0.0.5:81, no longer to 10.0.0.5"),
        (", masquerade: true", "", "besides", "site: no longer masquerade, was yes"),
        ("time: 2000", "time: 1800", "besides", "sysctl tcp_keepalive_time 1800, was 2000"),
        ("office}\n  ftp", "office, log: true}\n  ftp", "besides", "ssh: log yes, was not set"),
        ("  metrics:", "  node-exporter:", "text only", "the meaning does not"),
        ("to: 192.0.2.53", "to: any", "widened", "may newly reach everywhere except feed, 192.0.2.53: 53/tcp (domain)"),
        ("outbound: reject", "outbound: drop", "answers", "what is denied is answered differently"),
    ],
)
def test_a_reviewer_is_told_what_a_change_does(here: Path, was: str, now: str, relation: str, said: str) -> None:
    (here / "feed.txt").write_text("192.0.2.128/25\n")
    (here / "was.yaml").write_text(APP)
    assert was in APP
    (here / "now.yaml").write_text(APP.replace(was, now, 1))
    found = run("was.yaml", "now.yaml")
    assert said in found.stdout
    assert json.loads(run("was.yaml", "now.yaml", "--format", "json").stdout)["relation"] == relation
    assert found.exit_code == (0 if relation == "text only" else 1)
    widens = run("was.yaml", "now.yaml", "--fail-on", "widened").exit_code
    assert widens == (1 if relation in ("widened", "both") else 0)


def test_a_default_that_flips_is_one_line(here: Path) -> None:
    (here / "feed.txt").write_text("192.0.2.128/25\n")
    (here / "was.yaml").write_text(APP)
    (here / "now.yaml").write_text(APP.partition("egress:")[0] + "defaults: {forward: drop}\n")
    said = run("was.yaml", "now.yaml").stdout.splitlines()
    assert [line for line in said if "this host may" in line] == [
        "  this host may newly reach everywhere except feed: all that was denied before  [default]"
    ]


def test_a_list_that_grows_says_who_is_blocked_now(here: Path) -> None:
    git("init", "-q")
    (here / "feed.txt").write_text("192.0.2.128/25\n")
    (here / "app.yaml").write_text(APP)
    git("add", ".")
    git("commit", "-qm", "one")
    (here / "feed.txt").write_text("192.0.2.128/25\n198.51.100.7\n")
    said = run("--git", "HEAD", "app.yaml").stdout.splitlines()
    assert said[0].endswith("narrowed: less is reachable")
    assert "  newly blocked: 198.51.100.7" in said and "+198.51.100.7" in said
    assert not any("icmp" in line for line in said)


def test_code_scanning_is_given_a_place_in_the_policy_for_every_result(here: Path) -> None:
    (here / "feed.txt").write_text("192.0.2.128/25\n")
    (here / "was.yaml").write_text(APP)
    new = APP.replace("  ftp: {ports: ftp, from: office}\n", "").replace("203.0.113.10, ", "").replace("2000", "1800")
    (here / "now.yaml").write_text(new.replace("to: 192.0.2.53", "to: any"))
    (found,) = json.loads(run("was.yaml", "now.yaml", "--format", "sarif").stdout)["runs"]
    rules = [rule["id"] for rule in found["tool"]["driver"]["rules"]]
    lines = {}
    for result in found["results"]:
        (location,) = result["locations"]
        assert location["physicalLocation"]["artifactLocation"]["uri"] == "now.yaml"
        assert rules[result["ruleIndex"]] == result["ruleId"]
        lines[result["message"]["text"].partition(" [")[0]] = location["physicalLocation"]["region"]["startLine"]
    where = {text: (here / "now.yaml").read_text().splitlines()[line - 1].strip() for text, line in lines.items()}
    assert where["no longer open to 203.0.113.10: 8443/tcp (https-alt)"].startswith("api:")
    assert where["no longer open to 203.0.113.10: 9100/tcp (jetdirect)"].startswith("metrics:")
    assert where["no longer open to office: 21/tcp (ftp)"] == "portctl: 1"
    assert where["sysctl tcp_keepalive_time 1800, was 2000"] == "portctl: 1"
    assert any(text.startswith("this host may newly reach") and line.startswith("dns:") for text, line in where.items())


@pytest.mark.parametrize("name", backends.NAMES)
@pytest.mark.usefixtures("here")
def test_a_policy_and_its_rules_are_compared_in_words_alone(here: Path, name: str) -> None:
    (here / "feed.txt").write_text("192.0.2.128/25\n")
    (here / "was.yaml").write_text(APP)
    (here / "now.yaml").write_text(APP.replace("target: 10.0.0.5", "target: 10.0.0.6"))
    assert run("was.yaml", "--backend", name, "--output", "out", command="render").exit_code == 0
    same = run("was.yaml", f"out/{name}")
    assert same.exit_code == 0 and len(same.stdout.splitlines()) == 1
    other = run(f"out/{name}", "now.yaml")
    assert other.exit_code == 1 and "forwarded to 10.0.0.6, no longer to 10.0.0.5" in other.stdout
    assert len(other.stdout.splitlines()) < 5


def test_a_changed_source_address_in_a_saved_rule_set_is_no_mere_text(here: Path) -> None:
    nat = "*nat\n:POSTROUTING ACCEPT [0:0]\n-A POSTROUTING -o eth0 -j SNAT --to-source 192.0.2.1\nCOMMIT\n"
    (here / "old").write_text(nat + SAVED)
    (here / "new").write_text(nat.replace("192.0.2.1", "192.0.2.2") + SAVED)
    said = run("old", "new")
    assert said.exit_code == 1 and "newly -A POSTROUTING -o eth0 -j SNAT --to-source 192.0.2.2" in said.stdout


@pytest.mark.usefixtures("here")
def test_a_text_that_nobody_has_loaded_has_met_no_packets() -> None:
    asked = ("new.yaml", "--from", "198.51.100.9", "--to", "22/tcp")
    said = run(*asked, command="explain")
    assert said.exit_code == 0 and "nftables:" in said.stdout and "so far" not in said.stdout


def test_a_hardware_address_makes_no_listing_one_of_ipv6(here: Path) -> None:
    (here / "old.rules").write_text(SAVED)
    mac = "-A INPUT -p tcp -m tcp --dport 25 -m mac --mac-source 00:16:3E:00:00:01 -j ACCEPT\nCOMMIT"
    (here / "new.rules").write_text(SAVED.replace("COMMIT", mac))
    said = run("old.rules", "new.rules")
    assert "rules of IPv4 alone" in said.stdout + said.stderr
    assert "perhaps newly open" in said.stdout


def test_a_listing_for_people_is_compared_like_a_save(here: Path) -> None:
    head = " pkts bytes target     prot opt in     out     source               destination\n"
    (here / "old.rules").write_text(SAVED)
    (here / "listed").write_text(
        f"Chain INPUT (policy DROP 0 packets, 0 bytes)\n{head}"
        " 3 180 ACCEPT     tcp  --  *      *       0.0.0.0/0            0.0.0.0/0            tcp dpt:22\n"
        f"\nChain FORWARD (policy ACCEPT 0 packets, 0 bytes)\n{head}"
        f"\nChain OUTPUT (policy ACCEPT 0 packets, 0 bytes)\n{head}"
    )
    assert "text only" in run("old.rules", "listed").stdout or run("old.rules", "listed").exit_code == 0


@pytest.mark.usefixtures("here")
def test_the_fast_way_and_the_usual_one_say_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (
        ["old.yaml", "new.yaml"],
        ["old.yaml", "new.yaml", "--format=json", "--fail-on", "internet"],
        ["new.yaml", "old.yaml", "--fail-on", "widened", "--date", "2026-11-01"],
    ):
        status = light.run(["diff", *words])
        usual = run(*words)
        assert (status, capsys.readouterr().out) == (usual.exit_code, usual.stdout)
    for unclear in (
        ["old.yaml"],
        ["old.yaml", "new.yaml", "--format", "xml"],
        ["--help"],
        ["old.yaml", "new.yaml", "-x"],
    ):
        assert light.run(["diff", *unclear]) is None


def test_what_is_too_much_to_be_compared_is_refused_in_words(here: Path) -> None:
    lines = [f"-A FORWARD -s 10.{n}.0.0/16 -d 10.0.{n}.0/24 -p tcp --dport {n} -j ACCEPT" for n in range(1, 100)]
    for name, rules in (("one", lines[:60]), ("other", lines[30:])):
        text = "\n".join(["*filter", ":INPUT DROP", ":FORWARD DROP", ":OUTPUT ACCEPT", *rules, "COMMIT", ""])
        (here / name).write_text(text)
    at = datetime(2026, 11, 1, tzinfo=UTC)
    one, other = (sources.read(name, at, None) for name in ("one", "other"))
    with pytest.raises(Problems) as caught:
        comparing.differ(one, other, at, most=500)
    assert [problem.code for problem in caught.value.problems] == ["too-many"]
    assert "one" in str(caught.value) and "other" in str(caught.value)
    assert comparing.differ(one, other, at).relation == "both"


def test_a_question_about_too_much_is_refused_in_words(here: Path) -> None:
    rules = [f"-A FORWARD -s 10.{n}.0.0/16 -d 10.0.{n}.0/24 -p tcp --dport {n} -j ACCEPT" for n in range(1, 100)]
    listing = "\n".join(["*filter", ":INPUT DROP", ":FORWARD DROP", ":OUTPUT ACCEPT", *rules, "COMMIT", ""])
    (here / "rules").write_text(listing)
    asked = asking.Asked((sources.read("rules", datetime(2026, 11, 1, tzinfo=UTC), None),))
    question = Query(Direction.FORWARDED)
    with pytest.raises(Problems) as caught:
        asked.sides(question, most=300)
    assert [problem.code for problem in caught.value.problems] == ["too-many-cases"]
    assert asked.sides(question)
