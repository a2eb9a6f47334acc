"""plan, apply, status, verify, rollback and remove where the one list of ipfw holds rules of others too."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from portctl import apply as applying
from portctl import inspection, pipeline
from portctl.apply import removal
from portctl.apply.transaction import Window
from portctl.plan import Plan
from portctl.verify import Finding
from tests.bsd_room import Room
from tests.test_apply_bsd import POLICY, machine, request

Rule = list[int | str]
RC_FIREWALL: list[Rule] = [
    [100, 0, "allow ip from any to any via lo0"],
    [200, 0, "deny ip from any to 127.0.0.0/8"],
    [300, 0, "deny ip from 127.0.0.0/8 to any"],
    [400, 0, "deny ip from any to ::1"],
    [500, 0, "deny ip from ::1 to any"],
    [600, 0, "allow ipv6-icmp from :: to ff02::/16"],
    [700, 0, "allow ipv6-icmp from fe80::/10 to fe80::/10"],
]
"""What rc.firewall(8) begins with, whatever its type."""
WORKSTATION: list[Rule] = [
    *RC_FIREWALL,
    [800, 0, "check-state :default"],
    [900, 0, "allow tcp from me to any keep-state :default"],
    [1000, 0, "allow tcp from 198.51.100.7 to me 22 in keep-state :default"],
    [65000, 0, "count ip from any to any"],
    [65500, 0, "deny log ip from any to any"],
]
NAT: list[Rule] = [
    [50, 0, "nat 123 ip4 from any to any via em0"],
    [60, 0, "count tag 7 ip from any to any in"],
    [70, 0, "allow tcp from any to me 2222 in tagged 7"],
]
FOREIGN = {"rc.firewall": RC_FIREWALL, "workstation": WORKSTATION, "nat and tags": NAT}
FORWARDING = """\
portctl: 1
name: gate
defaults: {forward: drop}
services:
  ssh: {ports: ssh, from: 198.51.100.0/24}
forwards:
  web: {ports: 8080/tcp, to: 192.0.2.10, target: "10.0.0.5:80", from: any}
"""


def host_with(folder: Path, rules: list[Rule]) -> Room:
    host = machine("FreeBSD ipfw", folder)
    host.change(rules=[list(rule) for rule in rules])
    if any("nat 123" in str(rule) for rule in rules):
        host.change(modules=["ipfw_nat"], nat={"123": "ip 192.0.2.10"})
        host.change(sysctl=host.state()["sysctl"] | {"net.inet.ip.fw.one_pass": "0"})
    return host


def others(host: Room) -> list[Rule]:
    return sorted(rule for rule in host.state()["rules"] if rule[1] not in (20, 21))


def planned(host: Room, folder: Path, *, exclusive: bool = False) -> Plan:
    return applying.plan(host, replace(request(folder), exclusive=exclusive))


def findings(host: Room, policy: Path) -> list[Finding]:
    return list(inspection.inspect(host, pipeline.compile(policy), datetime.now(UTC)).findings)


@pytest.mark.parametrize("text", [POLICY, FORWARDING], ids=["services", "forwards"])
@pytest.mark.parametrize("before", FOREIGN)
def test_rules_of_others_stay_where_they_are(before: str, text: str, tmp_path: Path) -> None:
    host, asked = host_with(tmp_path, FOREIGN[before]), request(tmp_path, text)
    was = others(host)
    assert applying.apply(host, asked, applying.Talk()) == "confirmed"
    assert others(host) == was
    assert applying.apply(host, asked, applying.Talk()) == "unchanged"
    assert [f for f in findings(host, tmp_path / "policy.yaml") if f.code == "drift"] == []
    assert [f for f in applying.status(host).findings if "drift" in f] == []
    changed = request(tmp_path, text.replace("198.51.100.0/24", "203.0.113.0/24"))
    assert applying.apply(host, changed, applying.Talk()) == "confirmed"
    assert "back" in applying.rollback(host, None, "a test")
    assert applying.apply(host, asked, applying.Talk()) == "unchanged"
    assert removal.remove(host, "a test", Window(0), applying.Talk()) == "removed"
    assert host.state()["rules"] == was


def test_what_others_deny_before_is_seen_by_the_plan(tmp_path: Path) -> None:
    host = host_with(tmp_path, [[100, 0, "deny tcp from any to me 443 in"]])
    (said,) = [line for line in planned(host, tmp_path).warnings if "overridden" in line]
    assert "`web` is overridden by a rule that is not portctl's" in said and "443" in said
    with (host.folder / "netstat").open("a") as netstat:
        netstat.write("tcp4  0  0  192.0.2.10.22  198.51.100.7.50022  ESTABLISHED\n")
    assert planned(host, tmp_path).refusals == ()
    host.change(rules=[[100, 0, "deny tcp from 198.51.100.7 to me 22 in"]])
    (refusal,) = planned(host, tmp_path).refusals
    assert "locked out: ssh from 198.51.100.7" in refusal.message
    assert planned(host, tmp_path, exclusive=True).refusals == ()


def test_what_others_let_in_before_is_named(tmp_path: Path) -> None:
    host = host_with(tmp_path, [*RC_FIREWALL[:2], [800, 0, "allow tcp from any to me 8080 in"]])
    warned = planned(host, tmp_path).warnings
    assert "a rule that is not portctl's is asked before portctl's: 00800 allow tcp from any to me 8080 in" in warned
    (loopback,) = [line for line in warned if "is asked before" in line and "lo0" in line]
    assert "00100 allow ip from any to any via lo0 (so IPv6 from this host to an address of its own" in loopback
    applying.apply(host, request(tmp_path), applying.Talk())
    found = [f for f in findings(host, tmp_path / "policy.yaml") if f.code == "foreign-rule"]
    assert ["lets in what the policy does not" in f.message for f in found] == [True]


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ([100, 0, "allow ip from any to any"], "00100 allow ip from any to any` stands before them"),
        ([100, 0, "skipto 65000 ip from any to any"], "stands before them, and decides"),
        ([100, 0, "deny ip from any to any in"], "stands before them, and decides"),
        ([100, 0, "pipe 1 ip from any to any in"], "stands before them, and decides"),
        ([100, 0, "nat 123 ip from any to any"], "stands before them, and decides"),
        ([100, 0, "skipto 20045 tcp from any to me 22"], "leads into the midst of them"),
        ([20045, 0, "allow tcp from any to me 8080 in"], "stands among them, whose numbers are 20000 to 60000"),
    ],
)
def test_a_rule_that_keeps_portctls_from_being_asked_is_refused(rule: Rule, words: str, tmp_path: Path) -> None:
    host, asked = host_with(tmp_path, [*RC_FIREWALL, rule]), request(tmp_path)
    host.change(sysctl=host.state()["sysctl"] | {"net.inet.ip.fw.one_pass": "1"})
    was = host.state()["rules"]
    with pytest.raises(applying.Refused, match="would not be asked as they are") as refused:
        applying.apply(host, asked, applying.Talk())
    assert words in str(refused.value)
    assert host.state()["rules"] == was
    exclusive = replace(asked, exclusive=True)
    assert applying.apply(host, exclusive, applying.Talk()) == "confirmed"


@pytest.mark.parametrize(
    "body",
    [
        "prob 0.500000 allow tcp from any to me 8080 in",
        "call 1000 ip from any to any",
        "divert 8668 ip4 from any to any via em0",
        "pipe 1 tcp from any to me 8080 in",
        "nat 123 ip4 from any to any via em0",
        "nat64lsn NAT64 ip6 from any to 64:ff9b::/96 in",
        "check-state :any",
    ],
)
def test_a_rule_that_may_let_something_in_before_is_named(body: str, tmp_path: Path) -> None:
    host = host_with(tmp_path, [[100, 0, body]])
    host.change(sysctl=host.state()["sysctl"] | {"net.inet.ip.fw.one_pass": "1"})
    assert f"a rule that is not portctl's is asked before portctl's: 00100 {body}" in planned(host, tmp_path).warnings


def test_what_dummynet_or_nat_lets_on_is_let_in(tmp_path: Path) -> None:
    rules: list[Rule] = [[100, 0, "pipe 1 tcp from any to me 8080 in"], [200, 0, "nat 123 ip4 from any to me 81"]]
    host = host_with(tmp_path, rules)
    host.change(sysctl=host.state()["sysctl"] | {"net.inet.ip.fw.one_pass": "1"})
    assert applying.apply(host, request(tmp_path), applying.Talk()) == "confirmed"
    told = " ".join(line for f in findings(host, tmp_path / "policy.yaml") for line in (f.message, *f.evidence))
    assert "lets in what the policy does not" in told and "8080" in told and "81/tcp" in told


def test_what_goes_on_to_portctls_rules_is_not_named(tmp_path: Path) -> None:
    goes_on = [
        "check-state :default",
        "reass ip from any to any in",
        "setfib 1 ip from any to any",
        "tee 8668 ip4 from any to any",
    ]
    host = host_with(tmp_path, [[100, 0, body] for body in goes_on])
    assert not [line for line in planned(host, tmp_path).warnings if "is asked before" in line]
    # Of a policy that translates the load sets one_pass to 0.
    host.change(rules=[[100, 0, "pipe 1 ip from any to any in"]])
    said = applying.plan(host, request(tmp_path, FORWARDING))
    assert said.refusals == () and not [line for line in said.warnings if "is asked before" in line]


def test_a_rule_of_the_kernels_set_stays_whatever_its_comment_says(tmp_path: Path) -> None:
    host = host_with(tmp_path, [[100, 31, "allow ip from any to any // see set 5 of the old rules"]])
    (refusal,) = planned(host, tmp_path, exclusive=True).refusals
    assert "stands before them, and decides" in refusal.message


def test_a_rule_that_comes_later_and_decides_is_drift(tmp_path: Path) -> None:
    host = host_with(tmp_path, RC_FIREWALL)
    applying.apply(host, request(tmp_path), applying.Talk())
    host.change(rules=[[50, 0, "allow ip from any to any"], *host.state()["rules"]])
    assert any("others stand before them" in line for line in applying.status(host).findings)
    (drift,) = [f for f in findings(host, tmp_path / "policy.yaml") if f.code == "drift"]
    assert any("rules of others before it decide" in line for line in drift.evidence)


def test_exclusive_sets_others_aside_and_gives_them_back(tmp_path: Path) -> None:
    host, asked = host_with(tmp_path, [*WORKSTATION, [900, 5, "count ip from any to any"]]), request(tmp_path)
    was = others(host)
    given = replace(asked, exclusive=True)
    made = applying.plan(host, given)
    assert any("00900 set 5 count" in change.old for change in made.changes)
    assert applying.apply(host, given, applying.Talk()) == "confirmed"
    assert {rule[1] for rule in others(host)} <= set(host.state()["off"])
    assert applying.apply(host, given, applying.Talk()) == "unchanged"
    assert applying.apply(host, asked, applying.Talk()) == "unchanged", "what is set aside stays so"
    assert not [f for f in findings(host, tmp_path / "policy.yaml") if f.code in ("drift", "foreign-rule")]
    # What somebody adds afterwards is in force, and is seen.
    host.change(rules=[*host.state()["rules"], [800, 0, "allow tcp from any to me 8080 in"]])
    assert [f for f in findings(host, tmp_path / "policy.yaml") if f.code == "foreign-rule"]
    host.change(rules=[rule for rule in host.state()["rules"] if "8080" not in rule[2]])
    assert "back" in applying.rollback(host, None, "a test")
    assert others(host) == was and not {rule[1] for rule in was} & set(host.state()["off"])
    applying.apply(host, given, applying.Talk())
    assert removal.remove(host, "a test", Window(0), applying.Talk()) == "removed"
    assert others(host) == was


def test_the_plan_tells_what_the_next_boot_will_not_load(tmp_path: Path) -> None:
    host = host_with(tmp_path, RC_FIREWALL)
    (said,) = [line for line in planned(host, tmp_path).warnings if "next boot" in line]
    assert "without `00100 allow ip from any to any via lo0` and 6 more" in said
    assert not [line for line in planned(host, tmp_path, exclusive=True).warnings if "next boot" in line]
    host.change(rules=[])
    assert not [line for line in planned(host, tmp_path).warnings if "next boot" in line]


def test_the_plan_leaves_out_what_would_pass_through_a_host_that_forwards_nothing(tmp_path: Path) -> None:
    host = host_with(tmp_path, RC_FIREWALL)
    text = POLICY.replace(", forwarding_v4: true", "")
    said = applying.plan(host, request(tmp_path, text)).difference
    assert "+ newly open to the Internet: 80/tcp (http), 443/tcp (https)  [web]" in said
    assert not [line for line in said if "forwarded" in line] and "~ without what would pass through" in str(said)
    assert [line for line in planned(host, tmp_path).difference if "newly forwarded" in line], "the policy asks for it"
    host.change(sysctl=host.state()["sysctl"] | {"net.inet.ip.forwarding": "1"})
    assert [line for line in applying.plan(host, request(tmp_path, text)).difference if "newly forwarded" in line]


def test_taking_portctl_away_says_that_the_kernel_denies_what_is_left(tmp_path: Path) -> None:
    host = host_with(tmp_path, RC_FIREWALL)
    applying.apply(host, request(tmp_path), applying.Talk())
    found = removal.look(host)
    assert found.may_close, "so that it is taken back unless confirmed"
    assert found.lines()[0].endswith("out of ipfw, which then denies whatever no rule of others lets through")
    host.change(rules=[*host.state()["rules"], [65000, 0, "allow ip from any to any"]])
    found = removal.look(host)
    assert not found.may_close and found.lines()[0].endswith("out of ipfw")
