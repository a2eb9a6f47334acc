"""The scripts of the iptables back end on a real kernel, both variants: what they load, keep, undo and leave alone."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from ipaddress import ip_address
from typing import Literal

import pytest

from portctl.backends import iptables
from portctl.backends.base import Ability, bundle
from portctl.command import Command, Result
from portctl.hosts.namespaces import Room
from portctl.net import ANYWHERE, Addresses
from portctl.program import Program
from portctl.ruleset import Kind, Masquerade, Original, Rate, Ruleset, Translation, Verdict
from tests import crowds, generate
from tests.nftables_cases import FIRST_IN, KNOWN_IN, block, default, many, one, starts, tcp, udp, whole
from tests.system import worlds
from tests.system.worlds import checked

RING = "the iptables scripts"
NEEDS = ("iptables-nft", "ip6tables-nft", "iptables-legacy", "ip6tables-legacy", "ipset", "dash", "shellcheck")
Variant = Literal["nft", "legacy"]
VARIANTS: tuple[Variant, ...] = ("nft", "legacy")
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


@dataclass(frozen=True, slots=True)
class Tools:
    """One variant on one machine."""

    host: Room
    variant: Variant

    def tool(self, family: int, what: str) -> str:
        return f"{'iptables' if family == 4 else 'ip6tables'}-{self.variant}{what}"

    def put(self, files: Mapping[str, str], folder: str) -> None:
        checked(self.host, "mkdir", "-p", folder)
        for name, text in files.items():
            self.host.put(f"{folder}/{name}", text.encode())

    def script(self, path: str, *words: str, env: tuple[str, ...] = ()) -> Result:
        names = (f"IPTABLES={self.tool(4, '')}", f"IP6TABLES={self.tool(6, '')}")
        return self.host.run(Command(("env", *names, *env, "dash", path, *words)), timeout=120)

    def load(self, ruleset: Ruleset, folder: str = "/run/bundle", env: tuple[str, ...] = ()) -> dict[str, str]:
        files = bundle(iptables, ruleset, Ability())
        checked(self.host, "rm", "-rf", folder)
        self.put(files, folder)
        result = self.script(f"{folder}/load.sh", env=env)
        assert result.ok, result.stderr
        return files

    def save(self, folder: str) -> dict[str, str]:
        result = self.script("/run/bundle/save.sh", folder)
        assert result.ok, result.stderr
        return {name: checked(self.host, "cat", f"{folder}/{name}") for name in iptables.PARTS}

    def listings(self) -> dict[str, str]:
        found = {f"rules.v{family}": checked(self.host, self.tool(family, "-save"), "-c") for family in (4, 6)}
        users = checked(self.host, "getent", "passwd")
        return {**found, "sets.ipset": checked(self.host, "ipset", "save"), "users": users}

    def program(self) -> Program:
        return iptables.parse(self.listings())

    def rules(self, family: int, *words: str) -> None:
        checked(self.host, self.tool(family, ""), "-w", *words)

    def lines(self, *words: str) -> list[str]:
        """Rules and chains of both families, each behind its table. A table that was used once stays, empty."""
        found = []
        for family in (4, 6):
            for line in checked(self.host, self.tool(family, "-save"), *words).splitlines():
                if line.startswith("*"):
                    table = f"{family} {line[1:]}"
                elif line.startswith(":"):
                    found += [f"{table} {line.partition(' [')[0]}"] if " ACCEPT " not in line else []
                elif not line.startswith(("#", "COMMIT")):
                    found.append(f"{table} {line}")
        return sorted(found, key=lambda line: line.split()[:2])

    def state(self) -> list[str]:
        """All rules of everybody without counters, and all sets without what the kernel rolls dice for."""
        sets = re.sub(r" initval \S+", "", checked(self.host, "ipset", "save")).splitlines()
        return self.lines() + sorted(sets)

    def foreign(self) -> list[str]:
        """Everybody else's rules with their counters, in order."""
        return [line for line in self.lines("-c") if "PORTCTL" not in line]


@pytest.fixture(params=VARIANTS)
def tools(request: pytest.FixtureRequest) -> Iterator[Tools]:
    with worlds.machine("box") as room:
        yield Tools(room, request.param)


def services(*more: object, **changes: object) -> Ruleset:
    """A small policy with a live group, a list and a limit."""
    office = Addresses.of("198.51.100.0/24", "203.0.113.1", "203.0.113.3", "203.0.113.5", "203.0.113.7", "203.0.113.9")
    rules = (
        *FIRST_IN,
        block("bans", live_source="bans"),
        *KNOWN_IN,
        starts("office", tcp(8443), source=office),
        starts("ssh", tcp(22), rate=Rate(3, "hour")),
        starts("web", tcp(80), max_connections=2),
        *more,
        default(Verdict.DROP),
    )
    return replace(one(), inbound=rules, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("of", [whole, lambda: whole(Verdict.REJECT), lambda: many(30), lambda: services()])
def test_what_is_saved_is_what_was_rendered(tools: Tools, of: Callable[[], Ruleset]) -> None:
    files = tools.load(of())
    saved = tools.save("/run/saved")
    for name in ("rules.v4", "rules.v6"):
        rendered = files[name].replace("--uid-owner nobody", "--uid-owner 65534").replace("-p 47 ", "-p gre ")
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


# --- packets ---------------------------------------------------------------------------------------------------------


DIAL = """
import errno, socket, sys
kept = []
for word in sys.argv[2:]:
    source, host, port = word.split(",")
    s = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    s.settimeout(float(sys.argv[1]))
    try:
        if source: s.bind((source, 0))
        s.connect((host, int(port)))
        kept.append(s)
        print("open")
    except socket.timeout: print("silent")
    except ConnectionRefusedError: print("refused")
"""
LISTEN = """
import socket, sys, time
kept = []
for port in sys.argv[1:]:
    s = socket.create_server(("::", int(port)), family=socket.AF_INET6, dualstack_ipv6=True)
    kept.append(s)
print("ready", flush=True)
time.sleep(600)
"""
WHO = """
import socket
server = socket.create_server(("", 90))
print("ready", flush=True)
while True:
    connection, peer = server.accept()
    connection.send(peer[0].encode())
    connection.close()
"""


@dataclass(frozen=True, slots=True)
class Wire:
    tools: Tools
    world: worlds.World

    def dial(self, *ends: str, seconds: float = 0.6) -> list[str]:
        """`source,host,port` each, one after the other, all kept open until the end: what became of it."""
        return checked(self.world.controller, "python3", "-c", DIAL, str(seconds), *ends).split()


@pytest.fixture(params=VARIANTS)
def wire(request: pytest.FixtureRequest) -> Iterator[Wire]:
    with worlds.world() as world:
        listener = world.machine.start(("python3", "-c", LISTEN, "22", "80", "81", "8443", "9999"))
        assert listener.stdout is not None
        assert listener.stdout.readline() == b"ready\n"
        yield Wire(Tools(world.machine, request.param), world)


def to(port: int, source: str = "", host: str = "192.0.2.10") -> str:
    return f"{source},{host},{port}"


def test_what_is_admitted_gets_in_and_nothing_else(wire: Wire) -> None:
    checked(wire.world.controller, "ip", "address", "add", "198.51.100.7/32", "dev", "eth0")
    checked(wire.world.machine, "ip", "route", "add", "198.51.100.0/24", "dev", "eth0")
    wire.tools.load(services(starts("six", tcp(81), source=Addresses.of("2001:db8::/32"))))
    seen = wire.dial(to(22), to(8443), to(8443, "198.51.100.7"), to(9999), to(81), to(81, host="2001:db8::10"))
    assert seen == ["open", "silent", "open", "silent", "silent", "open"]
    rejecting = replace(services(), inbound=(*services().inbound[:-1], default(Verdict.REJECT)))
    wire.tools.load(rejecting)
    assert wire.dial(to(9999), to(9999, host="2001:db8::10"), seconds=2) == ["refused", "refused"]
    checked(wire.world.machine, "ipset", "add", "portctl-live-bans4", "192.0.2.1")
    assert wire.dial(to(80), to(80, host="2001:db8::10")) == ["silent", "open"]


def test_what_others_drop_stays_dropped(wire: Wire) -> None:
    wire.tools.load(services())
    wire.tools.rules(4, "-A", "INPUT", "-p", "tcp", "--dport", "80", "-j", "DROP")
    assert wire.dial(to(22), to(80)) == ["open", "silent"]


def test_the_counters_of_a_rate_outlive_a_load(wire: Wire) -> None:
    wire.tools.load(services())
    assert wire.dial(*[to(22)] * 4) == ["open", "open", "open", "silent"]
    wire.tools.load(services(starts("more", tcp(81))))
    assert wire.dial(to(81), to(22)) == ["open", "silent"]
    faster = services()
    changed = [replace(rule, rate=Rate(4, "hour")) if rule.name == "ssh" else rule for rule in faster.inbound]
    wire.tools.load(replace(faster, inbound=tuple(changed)))
    assert wire.dial(to(22)) == ["open"], "another rate counts anew"


def test_a_source_without_a_place_in_the_table_is_dropped(wire: Wire) -> None:
    for last in (1, 2, 3):
        checked(wire.world.controller, "ip", "address", "add", f"192.0.2.10{last}/24", "dev", "eth0")
    files = bundle(iptables, services(), Ability())
    small = files["rules.v4"].replace(
        "--hashlimit-htable-max 65536", "--hashlimit-htable-size 2 --hashlimit-htable-max 2"
    )
    wire.tools.put({**files, "rules.v4": small}, "/run/bundle")
    assert wire.tools.script("/run/bundle/load.sh").ok
    assert wire.dial(*(to(22, f"192.0.2.10{last}") for last in (1, 2, 3))) == ["open", "open", "silent"]


def test_connections_at_once_are_counted_by_source(wire: Wire) -> None:
    wire.tools.load(services())
    checked(wire.world.controller, "ip", "address", "add", "192.0.2.101/24", "dev", "eth0")
    assert wire.dial(to(80), to(80), to(80), to(80, "192.0.2.101")) == ["open", "open", "silent", "open"]


def test_connections_stay_counted_over_a_load(wire: Wire) -> None:
    """Not in the legacy variant: any change to its table makes the kernel forget the count."""
    if wire.tools.variant == "legacy":
        return
    wire.tools.load(services())
    keeper = wire.world.controller.start(
        ("python3", "-c", DIAL + "sys.stdout.flush()\nimport time; time.sleep(60)", "1", to(80), to(80))
    )
    assert keeper.stdout is not None
    assert [keeper.stdout.readline() for _ in "ab"] == [b"open\n", b"open\n"]
    wire.tools.load(services(starts("more", tcp(81))))
    assert wire.dial(to(80)) == ["silent"]


def test_an_open_connection_without_tracking_is_let_through(wire: Wire) -> None:
    """A stream that was there before the state tracker looked at anything goes on by its pair of sockets."""
    wire.tools.load(services())
    assert wire.dial(to(9999)) == ["silent"]
    pair = "-p tcp -d 192.0.2.10 --dport 9999 -j MARK --set-xmark 0x4000000/0x4000000"
    wire.tools.rules(4, "-A", "PORTCTL-OPEN", *pair.split())
    assert wire.dial(to(9999)) == ["open"]


def test_translated_and_masqueraded(wire: Wire) -> None:
    """Port 8081 leads to port 80 of this host, 8082 to a host behind it that sees this host's address."""
    behind = wire.world.join("behind", "192.0.2.30/24")
    server = behind.start(("python3", "-c", WHO))
    assert server.stdout is not None
    assert server.stdout.readline() == b"ready\n"
    checked(wire.world.machine, "sysctl", "-qw", "net.ipv4.ip_forward=1")
    wire.tools.load(routed())
    assert wire.dial(to(8081), to(8082), to(90, host="192.0.2.30")) == ["open", "open", "open"]
    ask = "import socket\ns=socket.create_connection(('192.0.2.10',8082),2)\nprint(s.recv(50).decode())"
    assert checked(wire.world.controller, "python3", "-c", ask) == "192.0.2.10\n"


def routed() -> Ruleset:
    behind = Addresses.of("192.0.2.30")
    turned = starts("near", tcp(80), kind=Kind.FORWARD, original=Original((tcp(8081),)))
    far = starts("far", tcp(90), kind=Kind.FORWARD, destination=behind, original=Original((tcp(8082),)))
    return replace(
        one(),
        inbound=(*FIRST_IN, *KNOWN_IN, turned, default(Verdict.DROP)),
        forwarded=(*KNOWN_IN[:1], far, default(Verdict.DROP)),
        translations=(
            Translation("near", (tcp(8081),), ANYWHERE, None, (), None, 80),
            Translation("far", (tcp(8082),), ANYWHERE, None, (), ip_address("192.0.2.30"), 90),
        ),
        masquerades=(Masquerade("far"),),
        clamps=("far",),
    )


def test_what_is_forwarded_and_not_admitted_is_dropped(wire: Wire) -> None:
    behind = wire.world.join("behind", "192.0.2.30/24")
    server = behind.start(("python3", "-c", LISTEN, "91"))
    assert server.stdout is not None
    assert server.stdout.readline() == b"ready\n"
    checked(wire.world.machine, "sysctl", "-qw", "net.ipv4.ip_forward=1")
    checked(wire.world.controller, "ip", "route", "add", "192.0.2.30/32", "via", "192.0.2.10")
    assert wire.dial(to(91, host="192.0.2.30")) == ["open"]
    wire.tools.load(routed())
    assert wire.dial(to(91, host="192.0.2.30")) == ["silent"]
