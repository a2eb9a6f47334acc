"""apply on FreeBSD, OpenBSD and macOS hosts: the scripts run for real, with stand-ins for the systems' tools.

Each kind of host: success with what the next boot would load, a parser that refuses, a load that fails, a text that
reads back otherwise, a lost connection, nobody who confirms.
"""

from __future__ import annotations

import subprocess
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from portctl import apply as applying
from portctl import importing, inspection, observe, pipeline, wayin
from portctl.apply import boot_bsd, removal, steps
from portctl.apply.run import locked
from portctl.apply.transaction import Window
from portctl.command import Command, HostError
from portctl.observe import Facts
from portctl.plan import Plan
from portctl.templating import folder
from tests.bsd_room import Room, room

POLICY = """\
portctl: 1
name: web
services:
  ssh: {ports: ssh, from: 198.51.100.0/24}
  web: {ports: [http, https], from: any}
sysctl: {tcp_keepalive_time: 600, forwarding_v4: true}
"""
HOSTS = ("FreeBSD pf", "FreeBSD ipfw", "OpenBSD pf", "Darwin pf")
KEEPIDLE = {"OpenBSD": "1200"}
"""Half-second ticks; the others count milliseconds."""


def machine(kind: str, folder: Path) -> Room:
    system, filter = kind.split()
    return room(folder / "machine", system, filter == "pf")


def request(folder: Path, text: str = POLICY, within: int = 0) -> applying.Request:
    path = folder / "policy.yaml"
    path.write_text(text)
    return applying.Request(pipeline.compile(path).ruleset, text, "a test", confirm_within=within)


def loaded(host: Room) -> list[object]:
    """The rules in force, whichever filter has them."""
    state = host.state()
    return list(state["pf"]["rules"]) + [rule for rule in state.get("rules", []) if rule[1] not in state["off"]]


def texts(host: Room) -> dict[str, str]:
    """The system's own files."""
    names = ("/etc/rc.conf", "/etc/rc.conf.local", "/etc/sysctl.conf", "/etc/pf.conf")
    return {name: host.file(name).read_text() for name in names if host.file(name).exists()}


@pytest.mark.parametrize("kind", HOSTS)
def test_applied_kept_for_the_boot_and_taken_back(kind: str, tmp_path: Path) -> None:
    host, asked = machine(kind, tmp_path), request(tmp_path)
    before = texts(host)
    assert applying.apply(host, asked, applying.Talk()) == "confirmed"
    assert any("portctl:service:web" in str(rule) for rule in loaded(host))
    settings = host.state()["sysctl"]
    assert settings["net.inet.tcp.keepidle"] == KEEPIDLE.get(kind.split()[0], "600000")
    assert settings["net.inet.ip.forwarding"] == "1"
    assert host.file("/var/db/portctl/history/1/outcome").read_text() == "confirmed\n"
    assert not host.file("/var/run/portctl/pending").exists()
    status = applying.status(host)
    assert (status.findings, status.pending) == ((), None)
    # The second time does nothing; the way back leaves the files of the system as they were.
    assert applying.apply(host, asked, applying.Talk()) == "unchanged"
    assert "back" in applying.rollback(host, None, "a test")
    assert texts(host) == before and not host.file("/etc/portctl/boot").exists()
    assert not any("portctl" in str(rule) for rule in loaded(host))
    assert host.state()["sysctl"]["net.inet.ip.forwarding"] == "0"


def test_what_freebsd_would_load_at_boot(tmp_path: Path) -> None:
    host = machine("FreeBSD pf", tmp_path)
    applying.apply(host, request(tmp_path), applying.Talk())
    rc = host.file("/etc/rc.conf").read_text()
    assert rc.startswith('hostname="room"\nsshd_enable="YES"\n# portctl: begin\npf_enable="YES"\n')
    assert 'pf_fallback_rules_enable="YES"' in rc, "a syntax error would boot open"
    assert 'gateway_enable="YES"' in rc, "rc.d/routing would switch forwarding off again"
    assert "net.inet.ip.forwarding=1\nnet.inet.tcp.keepidle=600000\n" in host.file("/etc/sysctl.conf").read_text()
    assert host.run(Command(("sh", boot_bsd.CHECK))).ok
    host.file("/etc/rc.conf.local").write_text('pf_rules="/etc/other.conf"\n')
    assert applying.status(host).findings == (
        "not persistent: rc.d/pf would load /etc/other.conf: a later file overrides /etc/rc.conf",
    )
    host.file("/etc/rc.conf.local").unlink()
    host.change(refuse="198.51.100.0/24")
    assert any("pfctl does not take" in finding for finding in applying.status(host).findings)


def test_a_table_that_freebsd_takes_only_when_told_so_is_there_after_a_boot(tmp_path: Path) -> None:
    host = machine("FreeBSD pf", tmp_path)
    applying.apply(host, request(tmp_path), applying.Talk())
    many = "".join(f"10.{i >> 8 & 255}.{i & 255}.{i >> 16}\n" for i in range(66_000))
    bundle = {"pf-freebsd15/pf.conf": "", "pf-freebsd15/x.table": many, "minimal/pf-freebsd15/y.table": "192.0.2.1\n"}
    loader, told = "/boot/loader.conf", 'net.pf.request_maxcount="66000"\n'
    assert not host.file(loader).exists()
    assert boot_bsd.blocks("freebsd-rc", "pf-freebsd15", {}, bundle)[loader] == told
    assert boot_bsd.blocks("freebsd-rc", "ipfw", {}, bundle)[loader] == ""
    assert loader not in boot_bsd.blocks("openbsd-rc", "pf-openbsd", {}, bundle)
    assert host.run(Command(("sh", "-c", "cat >/etc/portctl/boot/current/x.table"), many.encode())).ok
    assert "a table of 66000 networks: pf takes 65535" in host.run(Command(("sh", boot_bsd.CHECK))).stdout
    host.file(loader).write_text(f"# portctl: begin\n{told}# portctl: end\nbeastie_disable=YES\n")
    assert host.run(Command(("sh", boot_bsd.CHECK))).ok
    host.file("/boot/loader.conf.local").write_text("net.pf.request_maxcount=1000\n")
    assert "pf takes 1000" in host.run(Command(("sh", boot_bsd.CHECK))).stdout
    applying.apply(host, request(tmp_path, POLICY.replace("https", "8443/tcp")), applying.Talk())
    assert host.file(loader).read_text() == "beastie_disable=YES\n"


def test_the_boot_file_stands_alone() -> None:
    bundle = {
        "pf-openbsd/pf.conf": 'table <portctl_x> const file "x.table"\n',
        "pf-openbsd/x.table": "192.0.2.0/24\n",
        "minimal/pf-openbsd/pf.conf": "block\n",
    }
    whole = boot_bsd.standing_alone(bundle, ("pf.conf",), "pf-openbsd")
    assert whole["boot.conf"] == 'table <portctl_x> const file "/etc/portctl/boot/current/pf-openbsd/x.table"\n'
    assert whole["minimal.conf"] == "block\n"


def test_openbsd_keeps_the_pf_conf_that_was_there(tmp_path: Path) -> None:
    host = machine("OpenBSD pf", tmp_path)
    was = host.file("/etc/pf.conf").read_text()
    applying.apply(host, request(tmp_path), applying.Talk())
    applying.apply(host, request(tmp_path, POLICY.replace("https", "8443/tcp")), applying.Talk())
    assert "8443" in host.file("/etc/pf.conf").read_text()
    assert host.file("/etc/pf.conf").stat().st_mode & 0o777 == 0o600
    applying.rollback(host, 2, "a test")
    assert "8443" not in host.file("/etc/pf.conf").read_text() and host.file("/etc/pf.conf").read_text() != was
    applying.rollback(host, 1, "a test")
    assert host.file("/etc/pf.conf").read_text() == was


@pytest.mark.parametrize("kind", HOSTS)
def test_a_parser_that_refuses_changes_nothing(kind: str, tmp_path: Path) -> None:
    host = machine(kind, tmp_path)
    host.change(refuse="portctl:service:web")
    before = texts(host)
    with pytest.raises(applying.Refused, match="parser refuses"):
        applying.apply(host, request(tmp_path), applying.Talk())
    assert not any("portctl" in str(rule) for rule in loaded(host))
    assert texts(host) == before and not host.file("/var/run/portctl/pending").exists()


@pytest.mark.parametrize(("trouble", "error"), [("fail", applying.Refused), ("garble", applying.RolledBack)])
def test_a_load_that_fails_or_reads_back_otherwise_is_undone(
    trouble: str, error: type[Exception], tmp_path: Path
) -> None:
    host = machine("FreeBSD pf", tmp_path)
    applying.apply(host, request(tmp_path, POLICY.replace("web:", "old:")), applying.Talk())
    before, files = loaded(host), texts(host)
    host.change(**{trouble: "portctl:service:web"})
    with pytest.raises(error, match="Everything is as it was before"):
        applying.apply(host, request(tmp_path), applying.Talk())
    assert loaded(host) == before and texts(host) == files
    assert host.state()["sysctl"]["net.inet.ip.forwarding"] == "1"


@pytest.mark.parametrize("kind", HOSTS)
def test_unless_it_is_confirmed_the_guard_brings_the_old_rules_back(kind: str, tmp_path: Path) -> None:
    host = machine(kind, tmp_path)
    before = texts(host)

    def nobody() -> None:
        """The time is over: what the guard does then, without waiting for it."""
        steps.call(host, "expire", "1")

    with pytest.raises(applying.RolledBack, match="the old rules are back"):
        applying.apply(host, request(tmp_path, within=600), applying.Talk(answer=nobody))
    assert not any("portctl" in str(rule) for rule in loaded(host))
    assert host.state()["sysctl"]["net.inet.ip.forwarding"] == "0" and texts(host) == before
    assert host.file("/var/db/portctl/history/1/outcome").read_text() == "rolled back\n"


@pytest.mark.parametrize("kind", ["FreeBSD pf", "OpenBSD pf"])
def test_a_lost_connection_ends_in_the_old_rules(kind: str, tmp_path: Path) -> None:
    """The guard needs nobody: no connection, no portctl."""
    host = machine(kind, tmp_path)
    with pytest.raises(HostError, match="the connection is gone"):
        applying.apply(replace(host, lost="wait_for"), request(tmp_path, within=20), applying.Talk())
    assert any("portctl" in str(rule) for rule in loaded(host))
    outcome = host.file("/var/db/portctl/history/1/outcome")
    host.until(lambda: outcome.read_text() == "rolled back\n", "the guard did not act", 60)
    assert not any("portctl" in str(rule) for rule in loaded(host))


def test_confirmed_by_somebody_else(tmp_path: Path) -> None:
    host = machine("FreeBSD pf", tmp_path)

    def confirms() -> None:
        assert applying.confirm(host, "from a console") == "confirmed, from a console"

    assert applying.apply(host, request(tmp_path, within=60), applying.Talk(answer=confirms)) == "confirmed"
    assert 'pf_enable="YES"' in host.file("/etc/rc.conf").read_text()


def test_two_at_once_cannot_mix(tmp_path: Path) -> None:
    host = machine("OpenBSD pf", tmp_path)
    number, place = steps.take_lock(host, "somebody", 0)
    assert place == "/var/run/portctl/pending"
    with pytest.raises(applying.Refused, match="somebody holds the lock"):
        applying.apply(host, request(tmp_path), applying.Talk())
    steps.call(host, "release", number)


@pytest.mark.parametrize("kind", ["FreeBSD pf", "OpenBSD pf"])
def test_the_operators_own_way_in_is_found(kind: str, tmp_path: Path) -> None:
    host = machine(kind, tmp_path)
    session = "tcp4  0  0  192.0.2.10.22  203.0.113.9.50022  ESTABLISHED\n"
    with (host.folder / "netstat").open("a") as netstat:
        netstat.write(session)
    chain = wayin.read(host.run(wayin.question()).stdout).chain
    assert [process.name for process in chain][:1] == ["dash"] and len(chain) > 1
    assert all(process.started >= -2 for process in chain)
    with pytest.raises(applying.Refused, match=r"locked out: ssh from 203\.0\.113\.9"):
        applying.apply(host, request(tmp_path), applying.Talk())


def test_connections_from_before_pf_was_switched_on_are_cut_and_named(tmp_path: Path) -> None:
    """pf lets none begin in its middle; the plan says so, and the apply goes on."""
    host = machine("FreeBSD pf", tmp_path)
    with (host.folder / "netstat").open("a") as netstat:
        netstat.write("tcp4  0  0  192.0.2.10.22  198.51.100.7.50022  ESTABLISHED\n")
    plans: list[Plan] = []
    assert applying.apply(host, request(tmp_path), applying.Talk(show=plans.append)) == "confirmed"
    assert [w for w in plans[0].warnings if "older than the rules" in w and "22/tcp from 198.51.100.7" in w]


def test_translations_of_others_that_the_main_rule_set_loses_are_named(tmp_path: Path) -> None:
    host = machine("FreeBSD pf", tmp_path)
    nat = ["nat on em0 inet from 10.0.0.0/24 to any -> (em0) round-robin", 'rdr-anchor "jails" all']
    old = {"enabled": True, "rules": ["pass all flags S/SA keep state"], "nat": nat, "skip": ["lo0", "lo1", "tap0"]}
    host.change(pf=host.state()["pf"] | old)
    plans: list[Plan] = []
    asked = request(tmp_path)
    assert applying.apply(host, asked, applying.Talk(show=plans.append)) == "confirmed"
    assert [w for w in plans[0].warnings if w.startswith("no longer skipped: what lo1, tap0 bear")]
    said = [warning for warning in plans[0].warnings if warning.startswith("stops translating")]
    assert len(said) == 1 and nat[0] in said[0], "what stands in an anchor goes on"
    again = applying.plan(host, asked).warnings
    assert not [w for w in again if w.startswith(("stops translating", "no longer skipped"))]


def test_anchors_of_others_are_called_on_and_are_no_drift(tmp_path: Path) -> None:
    host = machine("Darwin pf", tmp_path)
    anchors = ['scrub-anchor "com.apple/*" all fragment reassemble', 'anchor "com.apple/*" all']
    filtered = {"enabled": True, "rules": anchors, "nat": ['rdr-anchor "com.apple/*" all']}
    host.change(pf=host.state()["pf"] | filtered, stars=True)
    asked = request(tmp_path)
    assert applying.apply(host, asked, applying.Talk()) == "confirmed"
    assert [rule for rule in loaded(host) if 'anchor "com.apple/*"' in str(rule)] == [
        'scrub-anchor "com.apple/*" all',
        'anchor "com.apple/*" in all',
        'anchor "com.apple/*" out all',
    ]
    assert applying.status(host).findings == ()
    assert applying.apply(host, asked, applying.Talk()) == "unchanged"
    found = inspection.inspect(host, pipeline.compile(tmp_path / "policy.yaml"), datetime.now(UTC)).findings
    assert ['anchor "*" in all' in str(finding.evidence) for finding in found if finding.subject == "pf in"] == [
        True
    ], "a Mac's pfctl does not tell what is in them"


@pytest.mark.parametrize("kind", ["FreeBSD pf", "OpenBSD pf"])
def test_the_boot_calls_the_anchors_of_others_too(kind: str, tmp_path: Path) -> None:
    """The system's own loader reads one file, at a time when no rules are loaded to take calls over from."""
    host = machine(kind, tmp_path)
    anchors = ['anchor "bans/*" all', 'anchor "relayd/*" in on em0 all', 'anchor "_1" all', 'anchor "portctl" all']
    nat = [] if kind.startswith("OpenBSD") else ['nat-anchor "jails" all', 'rdr-anchor "jails" all']
    host.change(pf=host.state()["pf"] | {"enabled": True, "rules": anchors, "nat": nat})
    asked = request(tmp_path)
    assert applying.apply(host, asked, applying.Talk()) == "confirmed"
    boot = host.file("/etc/portctl/boot/current/boot.conf").read_text().splitlines()
    assert [line for line in boot if "anchor " in line and not line.startswith("#")] == [
        *nat,
        'anchor "bans/*" in all',
        'anchor "relayd/*" in on em0 all',
        'anchor "bans/*" out all',
    ]
    assert "set limit states 400000" in boot[: boot.index("")], "a load without it would set the default"
    assert [line for line in boot if line.startswith("anchor")] == [
        line for line in loaded(host) if str(line).startswith("anchor")
    ], "what the load itself carries over"
    assert applying.apply(host, asked, applying.Talk()) == "unchanged"


def test_verify_sees_what_was_loaded_beside_the_policy_and_remove_takes_all_away(tmp_path: Path) -> None:
    host = machine("OpenBSD pf", tmp_path)
    before, asked = texts(host), request(tmp_path)
    applying.apply(host, asked, applying.Talk())
    compiled = pipeline.compile(tmp_path / "policy.yaml")
    at = datetime.now(UTC)
    serious = {"exposed", "drift", "not-persistent", "unreachable", "sysctl-drift"}
    assert not serious & {finding.code for finding in inspection.inspect(host, compiled, at).findings}
    pf = host.state()["pf"]
    host.change(pf=pf | {"rules": [*pf["rules"][:3], "pass in quick proto tcp all flags S/SA", *pf["rules"][3:]]})
    found = inspection.inspect(host, compiled, at).findings
    assert {"exposed", "drift"} <= {finding.code for finding in found}
    assert "in by lo" not in str(found), "what comes in by the loopback interface is no stranger"
    assert removal.remove(host, "a test", Window(0), applying.Talk()) == "removed"
    assert texts(host) == before and loaded(host) == []
    assert not host.file("/etc/portctl").exists() and not host.file("/var/db/portctl").exists()


@pytest.mark.parametrize("kind", HOSTS)
def test_verify_names_the_openings_that_nobody_used(kind: str, tmp_path: Path) -> None:
    host = machine(kind, tmp_path)
    applying.apply(host, request(tmp_path), applying.Talk())
    found = inspection.inspect(host, pipeline.compile(tmp_path / "policy.yaml"), datetime.now(UTC)).findings
    assert {finding.subject for finding in found if finding.code == "unused"} == {"ssh", "web"}


@pytest.mark.parametrize("kind", HOSTS)
def test_what_was_applied_is_imported_again(kind: str, tmp_path: Path) -> None:
    host = machine(kind, tmp_path)
    applying.apply(host, request(tmp_path), applying.Talk())
    known = observe.facts(host)
    found = importing.of_observed(observe.observe(host, observe.readers(known), (), known))
    assert found.equal
    services = "\nservices:\n  ssh: {ports: ssh, from: 198.51.100.0/24}\n  web: {ports: [http, https], from: any}\n"
    assert services in found.text


FORWARDS, TABLES = "tests/golden/forward-over-service/policy.yaml", "tests/golden/protocols/policy.yaml"
ROUTER = "policies/bsd-router.yaml"


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        ("FreeBSD ipfw", FORWARDS),
        ("FreeBSD ipfw", TABLES),
        ("FreeBSD ipfw", ROUTER),
        ("FreeBSD pf", ROUTER),
        ("OpenBSD pf", ROUTER),
        ("OpenBSD pf", FORWARDS),
    ],
)
def test_translations_and_all_kinds_of_tables_read_back_as_they_were_loaded(
    kind: str, path: str, tmp_path: Path
) -> None:
    policy = Path(__file__).parent.parent / path
    host = machine(kind, tmp_path)
    forwarding = {"net.inet.ip.forwarding": "0", "net.inet6.ip6.forwarding": "0"}
    host.change(sysctl=host.state()["sysctl"] | forwarding)
    asked = applying.Request(pipeline.compile(policy).ruleset, policy.read_text(), "a test", confirm_within=0)
    assert applying.apply(host, asked, applying.Talk()) == "confirmed"
    assert applying.apply(host, asked, applying.Talk()) == "unchanged"


def test_a_terminal_in_front_of_the_machine_is_known_by_its_name() -> None:
    assert all(wayin.is_console_name(f"/dev/{x}") for x in ("console", "ttyv0", "ttyu0", "ttyC0"))
    assert not any(wayin.is_console_name(f"/dev/{x}") for x in ("pts/0", "ttyp0", "ttys001"))


def test_a_host_whose_rules_nobody_may_change_is_left_alone(tmp_path: Path) -> None:
    host = machine("FreeBSD pf", tmp_path)
    host.change(sysctl=host.state()["sysctl"] | {"kern.securelevel": "3"})
    with pytest.raises(applying.Refused, match=r"kern\.securelevel is 3"):
        applying.apply(host, request(tmp_path), applying.Talk())
    assert locked(Facts("OpenBSD", securelevel=2)) and not locked(Facts("OpenBSD", securelevel=1))


def test_the_lines_of_others_around_the_marked_ones_stay(tmp_path: Path) -> None:
    host = machine("FreeBSD pf", tmp_path)
    applying.apply(host, request(tmp_path), applying.Talk())
    rc = host.file("/etc/rc.conf")
    rc.write_text(rc.read_text() + 'ntpd_enable="YES"\n')
    applying.apply(
        host, request(tmp_path, POLICY.replace("forwarding_v4: true", "forwarding_v4: false")), applying.Talk()
    )
    text = rc.read_text()
    assert text.startswith('hostname="room"\nsshd_enable="YES"\nntpd_enable="YES"\n# portctl: begin\n')
    assert 'gateway_enable="NO"' in text and text.count("# portctl: begin") == 1
    # A mark without its counterpart: nobody can tell whose the lines are.
    rc.write_text(text.replace("# portctl: end\n", ""))
    assert "not written for the next boot" in applying.apply(host, request(tmp_path), applying.Talk())


def test_facts_of_a_machine(tmp_path: Path) -> None:
    found = observe.facts(machine("OpenBSD pf", tmp_path))
    assert (found.system, found.init, found.slowhz, found.securelevel) == ("OpenBSD", "openbsd-rc", 2, -1)
    assert [interface.name for interface in found.interfaces] == ["em0", "lo"]


SCRIPTS = sorted((folder() / "boot").rglob("*.sh"))


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.parent.name)
def test_scripts_of_the_boot_are_plain_sh(path: Path) -> None:
    done = subprocess.run(["shellcheck", "-s", "sh", str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_broadcast_address_of_a_later_lease_is_known_to_ipfw(tmp_path: Path) -> None:
    """At boot dhclient gets its lease after the rules are loaded. What is sent to the network would be taken for
    something to forward, which `forward: keep` lets in."""
    host = machine("FreeBSD ipfw", tmp_path)
    hooks = host.file("/etc/dhclient-exit-hooks")
    hooks.write_text("echo theirs\n")
    applying.apply(host, request(tmp_path), applying.Talk())
    assert list(host.state()["tables"]["portctl_broadcast"][2]) == ["192.0.2.255/32"]
    host.change(own=[*host.state()["own"], "10.9.0.5 255.255.128.0 10.9.127.255"])
    script = "reason=BOUND; exit_status=3; set one two; . /etc/dhclient-exit-hooks; echo $exit_status $*"
    assert host.run(Command(("sh", "-c", script))).stdout == "theirs\n3 one two\n"
    assert list(host.state()["tables"]["portctl_broadcast"][2]) == ["192.0.2.255/32", "10.9.127.255/32"]
    assert host.state()["nat"] == {}
    assert removal.remove(host, "a test", Window(0), applying.Talk()) == "removed"
    assert hooks.read_text() == "echo theirs\n"


def test_a_port_of_a_later_lease_is_translated_too(tmp_path: Path) -> None:
    host = machine("FreeBSD ipfw", tmp_path)
    forward = "forwards: {web: {ports: [8080/tcp, 8081/tcp], from: any, target: '10.0.0.5'}}\n"
    applying.apply(host, request(tmp_path, f"{POLICY}{forward}defaults: {{forward: drop}}\n"), applying.Talk())
    lease = Command(("sh", "/etc/dhclient-exit-hooks"))
    ((number, before),) = host.state()["nat"].items()
    assert "192.0.2.10:8080" in before
    assert host.run(lease).ok and host.state()["nat"] == {number: before}
    assert not [line for line in host.state()["log"] if line == f"nat {number} {before}"][1:], "it is left alone"
    host.change(own=[*host.state()["own"], "10.9.0.5 255.255.128.0 10.9.127.255"])
    assert host.run(lease).ok
    ((same, now),) = host.state()["nat"].items()
    assert same == number
    for address in ("192.0.2.10", "10.9.0.5"):
        assert f" redirect_port tcp 10.0.0.5:8080-8081 {address}:8080-8081" in now
    status = applying.status(host)
    assert status.findings == ()
    # What a load would make of it is the same.
    assert host.run(Command(("sh", "/etc/portctl/boot/current/ipfw/load.sh"))).ok
    assert host.state()["nat"] == {number: now}
