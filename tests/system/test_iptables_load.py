"""The scripts of the iptables back end on a real kernel, both variants: what they load, keep, undo and leave alone."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import pytest

from portctl.backends import iptables
from portctl.backends.base import Ability, bundle
from portctl.net import Addresses
from portctl.ruleset import Ruleset, Verdict
from tests import crowds, generate
from tests.nftables_cases import many, one, starts, tcp, udp, whole
from tests.system import worlds
from tests.system.iptables_loading import VARIANTS, Tools, services
from tests.system.worlds import checked

RING = "the iptables scripts"
NEEDS = ("iptables-nft", "ip6tables-nft", "iptables-legacy", "ip6tables-legacy", "ipset", "dash", "shellcheck")

OPEN_PAIR = "-p tcp -s 192.0.2.1 --sport 7 -d 192.0.2.10 --dport 9 -j MARK --set-xmark 0x4000000/0x4000000"
FOREIGN = """\
*nat
:DOCKER - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A DOCKER ! -i docker0 -p tcp -m tcp --dport 8088 -j DNAT --to-destination 172.17.0.2:80
-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
COMMIT
*filter
:DOCKER - [0:0]
:DOCKER-USER - [0:0]
:f2b-sshd - [0:0]
-A INPUT -p tcp -m multiport --dports 22 -j f2b-sshd
-A INPUT -i lo -m comment --comment "by hand, \\"quoted\\"" -j ACCEPT
-A FORWARD -j DOCKER-USER
-A FORWARD -o docker0 -j DOCKER
-A DOCKER -d 172.17.0.2/32 ! -i docker0 -o docker0 -p tcp -m tcp --dport 80 -j ACCEPT
-A DOCKER-USER -j RETURN
-A f2b-sshd -s 203.0.113.99/32 -j REJECT --reject-with icmp-port-unreachable
-A f2b-sshd -j RETURN
COMMIT
"""
FOREIGN6 = """\
*filter
-A INPUT -s 2001:db8:bad::/48 -j DROP
-A INPUT -i lo -j ACCEPT
COMMIT
"""


@pytest.fixture(params=VARIANTS)
def tools(request: pytest.FixtureRequest) -> Iterator[Tools]:
    with worlds.machine("box") as room:
        yield Tools(room, request.param)


@pytest.mark.parametrize("of", [whole, lambda: whole(Verdict.REJECT), lambda: many(30), lambda: services()])
def test_what_is_saved_is_what_was_rendered(tools: Tools, of: Callable[[], Ruleset]) -> None:
    files = tools.load(of())
    saved = tools.save("/run/saved")
    for name in ("rules.v4", "rules.v6"):
        rendered = files[name].replace("-p 47 ", "-p gre ")
        assert saved[name] == rendered
    want = iptables.parse(files).own()
    assert iptables.parse({**saved, "users": checked(tools.host, "getent", "passwd")}).own() == want
    assert tools.program().own() == want


@pytest.fixture(scope="module")
def crowd() -> dict[str, str]:
    """3000 services and hundreds of entries of every other kind, rendered."""
    ruleset = generate.ruleset(crowds.nasty(3000, 150))
    assert ruleset is not None
    return iptables.render(ruleset, Ability())


@pytest.mark.xdist_group("crowd")
def test_the_kernel_takes_a_crowd_of_every_kind(tools: Tools, crowd: dict[str, str]) -> None:
    """nf_tables nests 16 chains, and walks every way through them; the scripts would take most of the time."""
    tools.put(crowd, "/run")
    checked(tools.host, "sh", "-c", "ipset restore </run/sets.ipset")
    for family in (4, 6):
        hooked = "-A INPUT -j PORTCTL-IN\n-A OUTPUT -j PORTCTL-OUT\n-A FORWARD -j PORTCTL-FWD\n"
        text = crowd[f"rules.v{family}"].replace("*filter\n", "*filter\n:PORTCTL-OPEN - [0:0]\n", 1)
        text = text.replace("-A PORTCTL-FWD ", f"{hooked}-A PORTCTL-FWD ", 1)
        tools.host.put(f"/run/rules.v{family}", text.encode())
        checked(tools.host, "sh", "-c", f"{tools.tool(family, '-restore')} </run/rules.v{family}")
        listed = checked(tools.host, tools.tool(family, "-save")).splitlines()
        assert sum(line.startswith("-A PORTCTL") for line in listed) == text.count("\n-A PORTCTL")


def test_loading_again_changes_nothing(tools: Tools) -> None:
    tools.load(whole())
    checked(tools.host, "ip", "link", "set", "lo", "up")
    checked(tools.host, "ping", "-c1", "-W1", "127.0.0.1")
    before = {name: text for name, text in tools.listings().items() if name != "users"}
    assert "[1:84]" in before["rules.v4"], "the ping was not counted"
    tools.load(whole())
    after = tools.listings()
    assert {name: _stable(text) for name, text in before.items()} == {name: _stable(after[name]) for name in before}


def _stable(text: str) -> str:
    return "\n".join(line for line in text.splitlines() if not line.startswith("#"))


def test_the_scripts_are_plain_sh() -> None:
    with worlds.machine("box") as room:
        for name, text in iptables.scripts().items():
            room.put(f"/run/{name}", text.encode())
            checked(room, "shellcheck", "--shell=sh", f"/run/{name}")


def test_check_loads_nothing(tools: Tools) -> None:
    before = tools.state()
    tools.put(bundle(iptables, services(), Ability()), "/run/bundle")
    assert tools.script("/run/bundle/load.sh", "check").ok
    assert tools.state() == before


def test_a_jump_to_nowhere_is_refused(tools: Tools) -> None:
    files = bundle(iptables, services(), Ability())
    broken = re.sub(r":PORTCTL-IN-TCP .*\n|-A PORTCTL-IN-TCP .*\n", "", files["rules.v4"])
    tools.put({**files, "rules.v4": broken}, "/run/bundle")
    result = tools.script("/run/bundle/load.sh", "check")
    assert not result.ok
    assert "PORTCTL-IN-TCP" in result.stderr


def test_undo_brings_back_exactly_what_was(tools: Tools) -> None:
    nothing = tools.state()
    tools.put(bundle(iptables, services(), Ability()), "/run/bundle")
    tools.save("/run/none")
    tools.load(services())
    first = tools.state()
    tools.save("/run/first")
    tools.load(whole(), env=("PORTCTL_KEEP_SETS=1",))
    assert tools.state() != first
    assert tools.script("/run/first/load.sh").ok
    assert tools.state() == first
    assert tools.script("/run/none/load.sh").ok
    assert tools.state() == nothing


def test_remove_takes_everything_of_ours(tools: Tools) -> None:
    tools.load(whole())
    checked(tools.host, "ipset", "add", "portctl-live-bans4", "203.0.113.1")
    assert tools.script("/run/bundle/remove.sh").ok
    assert tools.state() == []


def test_members_of_live_groups_and_open_connections_stay(tools: Tools) -> None:
    tools.load(services())
    checked(tools.host, "ipset", "add", "portctl-live-bans4", "203.0.113.66", "timeout", "600")
    checked(tools.host, "ipset", "add", "portctl-live-bans6", "2001:db8:66::/64")
    tools.rules(4, "-A", "PORTCTL-OPEN", *OPEN_PAIR.split())
    program = tools.program()
    assert program.live == (("bans", ("2001:db8:66::/64", "203.0.113.66")),)
    tools.save("/run/first")
    tools.load(services(starts("more", tcp(99))))
    assert tools.script("/run/first/load.sh").ok
    assert "--dport 9" in checked(tools.host, tools.tool(4, ""), "-S", "PORTCTL-OPEN")
    assert tools.program() == program
    listed = checked(tools.host, "ipset", "list", "portctl-live-bans4")
    assert re.search(r"203\.0\.113\.66 timeout 5\d\d", listed), listed


def test_open_connections_come_before_the_first_rules(tools: Tools) -> None:
    tools.rules(4, "-N", "PORTCTL-OPEN")
    tools.rules(4, "-A", "PORTCTL-OPEN", *OPEN_PAIR.split())
    tools.load(services())
    assert "--dport 9" in checked(tools.host, tools.tool(4, ""), "-S", "PORTCTL-OPEN")


def test_unchanged_sets_are_not_touched_and_old_ones_go(tools: Tools) -> None:
    tools.load(services())
    names = checked(tools.host, "ipset", "list", "-n").split()
    office = next(name for name in names if name.startswith("portctl-office"))
    made = checked(tools.host, "ipset", "save", office)
    other = starts("other", udp(5), source=Addresses.of(*(f"10.0.{k}.1" for k in range(9))))
    tools.load(services(other))
    assert checked(tools.host, "ipset", "save", office) == made
    tools.load(services())
    assert checked(tools.host, "ipset", "list", "-n").split() == names
    tools.load(one(), env=("PORTCTL_KEEP_SETS=1",))
    assert office in checked(tools.host, "ipset", "list", "-n").split()
    tools.load(one())
    assert office not in checked(tools.host, "ipset", "list", "-n").split()


def test_foreign_rules_stay_as_they_are(tools: Tools) -> None:
    checked(tools.host, "ip", "link", "set", "lo", "up")
    checked(tools.host, tools.tool(4, "-restore"), "--noflush", stdin=FOREIGN.encode())
    checked(tools.host, tools.tool(6, "-restore"), "--noflush", stdin=FOREIGN6.encode())
    checked(tools.host, "ping", "-c2", "-i0.1", "127.0.0.1")
    before = tools.foreign()
    assert any("[4:336]" in line for line in before), "nothing was counted"
    tools.load(whole())
    assert tools.foreign() == before
    tools.save("/run/first")
    tools.load(services())
    assert tools.foreign() == before
    assert tools.script("/run/first/load.sh").ok
    assert tools.foreign() == before
    assert tools.script("/run/bundle/remove.sh").ok
    assert tools.foreign() == before


def test_a_jump_that_others_moved_down_stands_first_again(tools: Tools) -> None:
    tools.load(services())
    tools.rules(4, "-I", "INPUT", "-s", "203.0.113.5", "-j", "ACCEPT")
    tools.rules(4, "-A", "INPUT", "-i", "eth9", "-j", "PORTCTL-IN")
    tools.load(services())
    listed = checked(tools.host, tools.tool(4, ""), "-S", "INPUT").splitlines()
    assert listed[1:] == ["-A INPUT -j PORTCTL-IN", "-A INPUT -s 203.0.113.5/32 -j ACCEPT"]


@pytest.mark.parametrize(("tool", "table"), [("ip6tables", "filter"), ("iptables", "nat")])
def test_a_load_that_fails_half_way_is_undone(tools: Tools, tool: str, table: str) -> None:
    """The loader of one family, or of a late table, refuses when it is too late for a check."""
    tools.load(services())
    before = tools.state()
    real = tools.tool(4 if tool == "iptables" else 6, "")
    late = f"""#!/bin/sh
for word; do [ "$word" != --test ] || exec {real}-restore "$@"; done
cat >/run/late/input
if grep -q '^\\*{table}' /run/late/input && [ ! -e /run/late/once ]; then
  touch /run/late/once
  sed '/^\\*{table}/,$d' /run/late/input | {real}-restore "$@"
  echo "{table} fails" >&2
  exit 4
fi
exec {real}-restore "$@" </run/late/input
"""
    tools.put({"fake-restore": late, "fake-save": f'#!/bin/sh\nexec {real}-save "$@"\n'}, "/run/late")
    checked(tools.host, "chmod", "755", "/run/late/fake-restore", "/run/late/fake-save")
    tools.put(bundle(iptables, whole(), Ability()), "/run/new")
    result = tools.script("/run/new/load.sh", env=(f"{tool.upper()}=/run/late/fake",))
    assert not result.ok
    assert f"{table} fails" in result.stderr
    assert tools.state() == before


def test_a_missing_ip6tables_is_an_error(tools: Tools) -> None:
    tools.put(bundle(iptables, services(), Ability()), "/run/bundle")
    before = tools.state()
    result = tools.script("/run/bundle/load.sh", env=("IP6TABLES=/nowhere/ip6tables",))
    assert not result.ok
    assert "/nowhere/ip6tables-save is missing" in result.stderr
    assert tools.state() == before


def test_sets_that_do_not_load_leave_everything_as_it_was(tools: Tools) -> None:
    tools.load(services())
    before = tools.state()
    files = bundle(iptables, whole(), Ability())
    tools.put({**files, "sets.ipset": files["sets.ipset"] + "add portctl-nowhere4 1.2.3.4\n"}, "/run/new")
    assert not tools.script("/run/new/load.sh").ok
    assert tools.state() == before
