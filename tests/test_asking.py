"""`portctl explain` and `portctl reach`: one packet with the lines that decide it; who, and what."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from portctl import backends, cli
from portctl.net import ANYWHERE, Addresses, Ranges
from portctl.problems import Problems
from portctl.resolve import spoken
from portctl.ruleset import TCP, UDP, Flow

POLICY = """\
portctl: 1
name: test
addresses: {office: [198.51.100.0/24]}
services:
  ssh: {ports: ssh, from: office}
  web: {ports: [http, https], from: any}
block: [198.51.100.66]
"""


@pytest.fixture
def policy(tmp_path: Path) -> str:
    path = tmp_path / "policy.yaml"
    path.write_text(POLICY)
    return str(path)


def run(command: str, *arguments: str) -> Result:
    return CliRunner().invoke(cli.build([command]), [command, *arguments])


def test_what_is_admitted_is_explained_by_the_policy_and_by_each_text(policy: str) -> None:
    said = run("explain", policy, "--from", "198.51.100.7", "--to", "ssh")
    assert said.exit_code == 0
    assert f"{policy}:5: ssh: {{ports: ssh, from: office}}" in said.stdout
    for name in backends.OFFERED:
        _, _, part = said.stdout.partition(f"\n{name}:\n")
        assert part.splitlines()[0] == "  accept: inbound 22/tcp (ssh) from 198.51.100.7"
        assert part.splitlines()[1] == "    decided by ssh"
        assert "198.51.100.0/24" in part.splitlines()[2]


def test_one_back_end_may_be_asked_alone(policy: str) -> None:
    said = run("explain", policy, "--backend", "pf-openbsd", "--to", "80/tcp")
    assert [line for line in said.stdout.splitlines() if not line.startswith(" ")] == [f"{policy}:", "pf-openbsd:"]
    rules = Path(policy).with_name("rules")
    rules.write_text("*filter\n:INPUT ACCEPT [0:0]\nCOMMIT\n")
    refused = run("explain", str(rules), "--backend", "iptables", "--to", "80/tcp")
    assert refused.exit_code == 2
    assert "--backend" in refused.stderr


def test_what_passes_to_another_host_is_no_answer_for_this_one(policy: str) -> None:
    """ipfw sees a packet that is forwarded once on its way in, and must let it in there."""
    said = run("explain", policy, "--backend", "ipfw", "--from", "203.0.113.9", "--to", "23/tcp").stdout
    assert said.count("drop: inbound 23/tcp (telnet) from 203.0.113.9\n") == 2
    assert "accept" not in said


def test_what_is_denied_names_what_denies_it(policy: str) -> None:
    said = run("explain", policy, "--from", "198.51.100.66", "--to", "192.0.2.1:443/tcp")
    assert said.exit_code == 1
    assert "drop: inbound 443/tcp (https) from 198.51.100.66 to 192.0.2.1" in said.stdout
    assert f"{policy}:7: block: [198.51.100.66]" in said.stdout


def test_a_group_may_be_named_and_the_answer_is_cut_where_it_changes(policy: str) -> None:
    value = json.loads(run("explain", policy, "--from", "office", "--to", "22/tcp", "--format", "json").stdout)
    assert [side["title"] for side in value["sides"]] == [policy, *backends.OFFERED]
    for side in value["sides"]:
        assert list(dict.fromkeys(outcome["verdict"] for outcome in side["outcomes"])) == ["accept", "drop"]
    assert value["sides"][0]["outcomes"][0]["place"]["line"] == 5


def test_who_reaches_this_and_what_does_one_reach(policy: str) -> None:
    assert run("reach", policy, "--to", "22/tcp").stdout == "office (but 198.51.100.66)  [ssh]\n"
    lines = run("reach", policy, "--from", "203.0.113.9").stdout.splitlines()
    assert any(line.startswith("80/tcp (http), 443/tcp (https)") for line in lines)
    assert not any("22/tcp" in line for line in lines)
    assert run("reach", policy, "--to", "9/tcp").stdout == "nobody\n"
    assert run("reach", policy).exit_code == 2


@pytest.mark.parametrize(
    ("text", "place", "flows"),
    [
        ("22/tcp", ANYWHERE, (Flow(TCP, Ranges.single(22)),)),
        ("53/tcp+udp", ANYWHERE, (Flow(TCP, Ranges.single(53)), Flow(UDP, Ranges.single(53)))),
        ("192.0.2.1:ssh", Addresses.of("192.0.2.1"), (Flow(TCP, Ranges.single(22)),)),
        ("192.0.2.0/24", Addresses.of("192.0.2.0/24"), None),
        ("[2001:db8::1]:80/tcp", Addresses.of("2001:db8::1"), (Flow(TCP, Ranges.single(80)),)),
        ("2001:db8::1", Addresses.of("2001:db8::1"), None),
        ("any", ANYWHERE, None),
    ],
)
def test_targets_are_said_as_people_say_them(text: str, place: Addresses, flows: object) -> None:
    assert spoken.target(text) == (place, flows)


@pytest.mark.parametrize(("text", "code"), [("22", "bare-port"), ("nosuch", "unknown-port"), ("1.2.3:22/tcp", "bad-")])
def test_what_cannot_be_read_is_refused(text: str, code: str) -> None:
    with pytest.raises(Problems, match=code):
        spoken.target(text)
    with pytest.raises(Problems, match="unknown-group"):
        spoken.addresses("offices", [("office", ANYWHERE)])


def test_what_somebody_reaches_is_told_entry_by_entry(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    api = "  api: {ports: [8443/tcp, 8444/tcp], from: any}\n  ping: {ports: ping, from: any}\nblock:"
    path.write_text(POLICY.replace("block:", api))
    said = run("reach", str(path), "--from", "198.51.100.7").stdout.splitlines()
    assert "22/tcp (ssh)  [ssh]" in said
    assert "80/tcp (http), 443/tcp (https)  [web]" in said
    assert "8443-8444/tcp  [api]" in said
    assert "icmp echo-request  [ping]" in said


SAVED = """\
*filter
:INPUT ACCEPT [0:0]
:FORWARD DROP [0:0]
-A FORWARD -s 192.0.2.1 -d 198.51.100.9 -i eth0 -j ACCEPT
-I FORWARD -s 192.0.2.1 -d 198.51.100.9 -p tcp --dport 25 -j DROP
COMMIT
"""


def test_a_listing_of_one_family_is_asked_of_that_family(tmp_path: Path) -> None:
    path = tmp_path / "rules.v4"
    path.write_text(SAVED)
    said = run("reach", str(path), "--to", "22/tcp", "--direction", "through")
    assert said.stdout == "192.0.2.1 to 198.51.100.9, in on eth0  [filter FORWARD]\n"
    assert f"note: `{path}` says nothing of IPv6: asked is IPv4 alone" in said.output
    wrong = run("explain", str(path), "--from", "2001:db8::1", "--to", "22/tcp")
    assert isinstance(wrong.exception, Problems) and wrong.exception.problems[0].code == "no-family"


def test_what_decides_has_the_number_of_its_line_wherever_it_was_put(tmp_path: Path) -> None:
    path = tmp_path / "rules.v4"
    path.write_text(SAVED.replace("-p tcp --dport 25", "-m string --algo bm --string x -p tcp --dport 25"))
    said = run("explain", str(path), "--from", "192.0.2.1", "--to", "198.51.100.9:25/tcp", "--direction", "through")
    assert "depends on line 5: -A FORWARD" in said.stdout
