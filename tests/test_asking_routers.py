"""`portctl explain` and `reach` on saved rule sets of routers: pairs of addresses, interfaces, reverse paths."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from portctl import cli, importing
from portctl.problems import Problems

ROUTER = """\
*raw
:PREROUTING ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:from_wan - [0:0]
-A PREROUTING -m rpfilter --invert -j DROP
-A PREROUTING ! -s 192.0.2.0/28 -i lan0 -j DROP
-A PREROUTING -i wan0 -j from_wan
-A from_wan -s 192.0.2.0/24 -j DROP
COMMIT
*nat
:PREROUTING ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
-A POSTROUTING -o wan0 -j MASQUERADE
COMMIT
*filter
:INPUT DROP [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
:out - [0:0]
-A INPUT -i lo -j ACCEPT
-A INPUT -p tcp -m tcp --dport 22 -j ACCEPT
-A FORWARD -d 203.0.113.99/32 -m string --algo bm --string "x" -j DROP
-A FORWARD -d 203.0.113.99/32 -j REJECT --reject-with icmp-port-unreachable
-A FORWARD -i lan0 -j out
-A FORWARD -j REJECT --reject-with icmp-host-unreachable
-A out -o wan0 -p tcp -m tcp --dport 443 -j ACCEPT
COMMIT
"""


@pytest.fixture
def router(tmp_path: Path) -> str:
    path = tmp_path / "rules.v4"
    path.write_text(ROUTER)
    return str(path)


def run(command: str, *arguments: str) -> Result:
    return CliRunner().invoke(cli.build([command]), [command, *arguments])


def through(router: str, source: str, target: str, *more: str) -> Result:
    return run("explain", router, "--direction", "through", "--from", source, "--to", target, *more)


def test_both_interfaces_of_what_passes_may_be_named(router: str) -> None:
    said = through(router, "192.0.2.5", "203.0.113.7:443/tcp", "--in", "lan0", "--out", "wan0")
    assert said.exit_code == 0
    assert said.stdout.startswith(
        "accept: forwarded 443/tcp (https) from 192.0.2.5 to 203.0.113.7, in on lan0, out on wan0"
    )
    said = through(router, "192.0.2.5", "203.0.113.7:443/tcp", "--in", "lan0", "--out", "dmz0")
    assert (said.exit_code, said.stdout.split(":")[0]) == (1, "reject")
    who = run("reach", router, "--direction", "through", "--to", "443/tcp", "--out", "wan0")
    assert (
        who.stdout == "192.0.2.0/28 to every IPv4 address except 203.0.113.99, in on lan0, out on wan0  [filter out]\n"
    )
    assert run("explain", router, "--to", "22/tcp", "--out", "wan0").exit_code == 2


def test_what_admits_is_the_rule_not_the_masquerading_after_it(router: str) -> None:
    said = through(router, "192.0.2.5", "203.0.113.7:443/tcp", "--in", "lan0", "--out", "wan0")
    assert "  -A out -o wan0 -p tcp -m tcp --dport 443 -j ACCEPT\n" in said.stdout
    assert "MASQUERADE" not in said.stdout


def test_what_comes_by_the_way_back_is_asked_and_that_is_said(router: str) -> None:
    said = run("explain", router, "--from", "198.51.100.7", "--to", "22/tcp", "--in", "wan0")
    assert (said.exit_code, said.stdout.split(":")[0]) == (0, "accept")
    assert "comes by the way back to its source; line 5: -A PREROUTING -m rpfilter --invert -j DROP" in said.stderr


def test_what_is_denied_either_way_depends_on_nothing(router: str) -> None:
    said = through(router, "192.0.2.5", "203.0.113.99:443/tcp", "--in", "lan0")
    assert said.exit_code == 1
    assert said.stdout.startswith("deny: forwarded 443/tcp (https) from 192.0.2.5 to 203.0.113.99, in on lan0\n")
    assert "  whether it is dropped or rejected depends on line 22: -A FORWARD" in said.stdout
    assert run("reach", router, "--direction", "through", "--to", "203.0.113.99").stdout == "nobody\n"


def test_which_sources_an_interface_lets_in_is_told(router: str) -> None:
    assert run("reach", router, "--to", "any", "--in", "lan0").stdout == "192.0.2.0/28, in on lan0  [filter INPUT]\n"
    (found,) = json.loads(run("reach", router, "--to", "22/tcp", "--in", "wan0", "--format", "json").stdout)["outcomes"]
    assert "192.0.2.0/24" not in found["source"] and "192.0.3.0/24" in found["source"]
    assert found["destination"] == ["0.0.0.0/0"]


def test_the_loopback_interface_may_be_asked_of(router: str) -> None:
    said = run("explain", router, "--from", "127.0.0.1", "--to", "127.0.0.1:80/tcp", "--in", "lo")
    assert (said.exit_code, said.stdout.split(":")[0]) == (0, "accept")
    assert (
        run("reach", router, "--to", "80/tcp", "--in", "lo").stdout == "every IPv4 address, in on lo  [filter INPUT]\n"
    )
    nothing = run("explain", router, "--direction", "through", "--to", "80/tcp", "--in", "lo")
    assert (nothing.exit_code, nothing.stdout) == (1, "there is no such packet\n")


@pytest.mark.parametrize("check", ["oif missing", "check missing", "oif 0"])
def test_reverse_path_filters_of_nft_are_known_as_every_version_prints_them(tmp_path: Path, check: str) -> None:
    path = tmp_path / "rules.nft"
    path.write_text(
        "table inet t {\n"
        "	chain a {\n"
        "		type filter hook prerouting priority raw; policy accept;\n"
        f"		meta nfproto ipv6 fib saddr . mark . iif {check} drop\n"
        "	}\n"
        "	chain b {\n"
        "		type filter hook input priority filter; policy drop;\n"
        "		tcp dport 22 accept\n"
        "	}\n"
        "}\n"
    )
    said = run("explain", str(path), "--from", "2001:db8::1", "--to", "22/tcp")
    assert (said.exit_code, said.stdout.split(":")[0]) == (0, "accept")
    assert importing.from_texts({"rules.nft": path.read_text()}, "test").equal


def test_a_filter_that_returns_what_comes_by_the_way_back_closes_nothing() -> None:
    way_back = "-A PREROUTING -j rp\n-A rp -m rpfilter --validmark -j RETURN\n-A rp -j DROP\n"
    rules = f"*mangle\n:PREROUTING ACCEPT\n:rp - [0:0]\n{way_back}COMMIT\n"
    rules += "*filter\n:INPUT DROP\n-A INPUT -p tcp -m tcp --dport 22 -j ACCEPT\nCOMMIT\n"
    found = importing.from_texts({"rules.v4": rules}, "test")
    assert found.equal, found.account
    assert "ssh: {ports: ssh, from: any}" in found.text
    assert [entry.status for entry in found.account.entries if "rpfilter" in entry.text] == ["approximated"]


def test_the_sender_s_port_may_be_said_and_is_never_zero(tmp_path: Path) -> None:
    path = tmp_path / "rules.v4"
    path.write_text(
        "*filter\n:INPUT DROP [0:0]\n-A INPUT -p tcp -m tcp --sport 0 --dport 22 -j DROP\n"
        "-A INPUT -p tcp -m tcp --dport 22 -j ACCEPT\n-A INPUT -p tcp -m tcp --sport 53 -j ACCEPT\nCOMMIT\n"
    )
    said = run("explain", str(path), "--from", "198.51.100.7", "--to", "22/tcp")
    assert said.exit_code == 0
    assert [line for line in said.stdout.splitlines() if line[0] != " "] == [
        "accept: inbound 22/tcp (ssh) from 198.51.100.7"
    ]
    both = run("explain", str(path), "--from", "198.51.100.7", "--to", "25/tcp").stdout
    assert both.startswith("accept: inbound 25/tcp (smtp) from 198.51.100.7, source port 53\n")
    one = run("explain", str(path), "--from", "198.51.100.7", "--to", "25/tcp", "--source-port", "10000")
    assert (one.exit_code, one.stdout.split(":")[0], "accept" in one.stdout) == (1, "drop", False)
    assert run("reach", str(path), "--to", "25/tcp", "--source-port", "1024-65535").stdout == "nobody\n"
    for wrong in (("--to", "22/tcp", "--source-port", "0"), ("--to", "ping", "--source-port", "10000")):
        assert run("explain", str(path), *wrong).exit_code == 2


def test_of_what_is_denied_at_every_address_of_a_host_no_groups_are_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "rules.v4"
    path.write_text(
        "*filter\n:INPUT DROP [0:0]\n-A INPUT -m addrtype --dst-type MULTICAST -j DROP\n"
        "-A INPUT -j REJECT --reject-with icmp-port-unreachable\nCOMMIT\n"
    )
    said = run("explain", str(path), "--from", "198.51.100.7", "--to", "22/tcp").stdout
    assert [line for line in said.splitlines() if line[0] != " "] == ["reject: inbound 22/tcp (ssh) from 198.51.100.7"]


def test_loopback_addresses_are_asked_of_on_the_loopback_interface(router: str) -> None:
    """No host takes them on another one, unless it is named."""
    said = run("explain", router, "--from", "127.0.0.1", "--to", "80/tcp")
    assert (said.exit_code, said.stdout.splitlines()[0]) == (
        0,
        "accept: inbound 80/tcp (http) from 127.0.0.1, in on lo",
    )
    said = run("explain", router, "--from", "127.0.0.1", "--to", "80/tcp", "--in", "wan0")
    assert (said.exit_code, said.stdout.split(":")[0]) == (1, "drop")
    said = run("explain", router, "--direction", "out", "--to", "127.0.0.1:80/tcp")
    assert ", out on lo\n" in said.stdout
    assert run("explain", router, "--direction", "out", "--to", "203.0.113.1:80/tcp").stdout.count(" lo\n") == 0


@pytest.mark.parametrize("text", ["#!/bin/sh\n. /etc/functions\necho hello\n", "1: lo: <LOOPBACK,UP> mtu 65536\n"])
def test_what_is_neither_policy_nor_listing_is_called_so(tmp_path: Path, text: str) -> None:
    path = tmp_path / "what"
    path.write_text(text)
    said = run("explain", str(path), "--to", "22/tcp")
    assert isinstance(said.exception, Problems)
    assert [problem.code for problem in said.exception.problems] == ["bad-file"]
    assert "is no policy, and no listing" in said.exception.problems[0].message
