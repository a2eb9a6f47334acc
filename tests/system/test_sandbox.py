"""The sandbox: what it is made of, that nothing in it reaches the machine, and that it leaves nothing behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest

from portctl.command import Command, HostError
from portctl.hosts import namespaces, probe
from portctl.hosts.sandbox import Layout, Sandbox
from portctl.net import Addresses, Ranges
from portctl.ruleset import ACK, TCP, UDP, Direction, Flow, Kind, Packet, Rule, Ruleset, Verdict
from tests.system import worlds

RING = "the sandbox"
pytestmark = pytest.mark.xdist_group("sandbox")  # they look at all processes of the machine for each other's


def service(name: str, protocol: int, *ports: tuple[int, int], **more: object) -> Rule:
    flows = (Flow(protocol, Ranges.of(ports)),)
    return Rule(name, Kind.SERVICE, Verdict.ACCEPT, flows=flows, **more)  # type: ignore[arg-type]


OWN = Addresses.of("203.0.113.5/32", "2001:db8::5/128")
RULESET = Ruleset(
    "example",
    inbound=(
        service("web", TCP, (80, 80), (8000, 8010), process="nginx"),
        service("dns", UDP, (53, 53), destination=OWN, user="portctl-nobody"),
    ),
    outbound=(),
    forwarded=(),
    interface_groups=(("public", ("eth0", "wan*")), ("vpn", ("wg0",))),
)


@pytest.fixture(scope="module")
def box() -> Iterator[Sandbox]:
    with Sandbox.for_ruleset(RULESET, with_listeners=True) as box:
        yield box


def said(box: Sandbox, *argv: str) -> str:
    return worlds.checked(box.host, *argv)


def test_it_has_the_interfaces_addresses_and_users_of_the_policy(box: Sandbox) -> None:
    listed = said(box, "ip", "-brief", "address")
    assert [line.split("@")[0].split()[0] for line in listed.splitlines()] == ["lo", "eth0", "wan0", "wg0"]
    assert "203.0.113.5/32" in listed
    assert "2001:db8::5/128" in listed
    assert "tentative" not in said(box, "ip", "address")
    assert said(box, "id", "-u", "portctl-nobody").strip().isdigit()


def test_somebody_listens_on_what_the_policy_offers_and_bears_the_name_it_says(box: Sandbox) -> None:
    lines = said(box, "ss", "-H", "-lntup").splitlines()
    tcp = {line.split()[4] for line in lines if line.startswith("tcp")}
    udp = {line.split()[4] for line in lines if line.startswith("udp")}
    assert tcp == {"*:80", "*:8000", "*:8010"}
    assert udp == {"203.0.113.5:53", "[2001:db8::5]:53"}
    assert all('"nginx"' in line for line in lines if line.startswith("tcp"))
    assert all('"dns"' in line for line in lines if line.startswith("udp"))


@pytest.mark.parametrize(
    ("source", "destination"),
    [("192.0.2.7", "203.0.113.5"), ("2001:db8:77::1", "2001:db8::5"), ("1.1.1.1", "198.18.0.2")],
)
def test_the_peer_is_whoever_it_says_it_is(box: Sandbox, source: str, destination: str) -> None:
    code = f"import socket; print(socket.create_connection(({destination!r}, 80), 3, ({source!r}, 0)).recv(20))"
    result = box.peer.run(Command((sys.executable, "-c", code)), timeout=10)
    assert result.stdout == "b'nginx\\n'\n", result.stderr


def test_what_is_written_in_it_stays_in_it(box: Sandbox) -> None:
    places = ["/etc/portctl/x", "/etc/sysctl.d/60-portctl.conf", "/var/lib/portctl/x", "/run/portctl/x"]
    places += ["/usr/portctl-x", f"/tmp/portctl-x-{os.getpid()}"]
    for place in places:
        box.host.put(place, b"here\n", 0o600)
        assert said(box, "cat", place) == "here\n"
        assert said(box, "stat", "-c", "%a", place).strip() == "600"
        assert not Path(place).exists()


@pytest.mark.parametrize(
    "name", ["vm.swappiness", "kernel.panic", "fs.file-max", "net.ipv4.ip_forward", "net.core.rmem_max"]
)
def test_settings_written_in_it_are_its_own(box: Sandbox, name: str) -> None:
    file = Path("/proc/sys") / name.replace(".", "/")
    before = file.read_text()
    said(box, "sysctl", "-q", f"{name}=1")
    assert said(box, "sysctl", "-n", name).strip() == "1"
    assert file.read_text() == before


def test_it_sees_no_process_and_no_rule_of_the_machine(box: Sandbox) -> None:
    seen = said(box, "ps", "-e", "-o", "args=").splitlines()
    assert not [line for line in seen if "pytest" in line]
    assert said(box, "nft", "list", "ruleset") == ""
    assert str(Path("/proc/self/ns/net").readlink()) not in said(box, "readlink", "/proc/self/ns/net", "/proc/1/ns/net")


def test_nothing_is_run_in_the_machines_own_network() -> None:
    descriptor = os.open("/proc/self/ns/net", os.O_RDONLY)
    try:
        with pytest.raises(HostError, match="nothing was run"):
            namespaces._refuse_the_machines_own(descriptor)
    finally:
        os.close(descriptor)


def test_a_closed_sandbox_runs_nothing() -> None:
    with Sandbox(Layout()) as box:
        host, peer = box.host, box.peer
    for closed in (host, peer):
        with pytest.raises(HostError, match="closed"):
            closed.run(Command(("true",)))


OPEN = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever runs the tests may have it ignored
from portctl.command import Command
from portctl.hosts.sandbox import Layout, Sandbox
with Sandbox(Layout(("eth0", "wan0"))) as box:
    box.host.start(("sleep", "1234.5"))
    rules = b"table inet portctl {\\nchain i {\\ntype filter hook input priority 0\\n}\\n}"
    loaded = box.host.run(Command(("nft", "-f", "-"), rules))
    legacy = box.host.run(Command(("iptables-legacy", "-A", "INPUT", "-j", "DROP")))
    sets = box.host.run(Command(("ipset", "create", "portctl-left-behind", "hash:ip")))
    assert loaded.ok and legacy.ok and sets.ok, (loaded, legacy, sets)
    deaf = "setsid sh -c 'trap : HUP INT TERM; sleep 1234.5' </dev/null >/dev/null 2>&1 &"
    box.host.run(Command(("sh", "-c", deaf)))
    print("open", flush=True)
    time.sleep(60)
"""


def left_behind() -> list[str]:
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                words = (process / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if b"1234.5" in words or b"sandbox" in words:
                found.append(b" ".join(words).decode())
    return found


def networks() -> dict[str, str]:
    """The network namespaces that any process is in, with what runs there."""
    found: dict[str, str] = {}
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                space, words = str((process / "ns/net").readlink()), (process / "cmdline").read_text()
            except OSError:
                continue
            found[space] = found.get(space, "") + words
    return found


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_it_ends_with_whoever_made_it(how: signal.Signals) -> None:
    files = set(Path("/tmp").iterdir())
    owner = subprocess.Popen([sys.executable, "-c", OPEN], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert owner.stdout is not None
    assert owner.stdout.readline() == b"open\n"
    assert any("1234.5" in line for line in left_behind())
    own = str(Path("/proc/self/ns/net").readlink())
    ours = {space for space, words in networks().items() if "1234.5" in words and space != own}
    assert ours
    owner.send_signal(how)
    owner.wait(10)
    owner.stdout.close()
    worlds.until(lambda: not any("1234.5" in line for line in left_behind()), "its processes are gone")
    worlds.until(lambda: not ours & set(networks()), "its networks are gone, and the rules with them")
    assert not re.search(r" - (overlay|tmpfs) portctl ", Path("/proc/self/mountinfo").read_text())
    assert not Path("/sys/class/net/wan0").exists()
    assert not [name for name in set(Path("/tmp").iterdir()) - files if "portctl" in name.name]


RULES = """
table inet portctl {
	chain input {
		type filter hook input priority 0; policy drop;
		iifname lo accept
		ct state established,related accept
		tcp dport 80 tcp flags & (fin | syn | rst | ack) == syn accept
		tcp dport 81 reject with tcp reset
		udp dport 81 reject
		icmp type echo-request reject
		icmpv6 type echo-request accept
		meta l4proto sctp reject
	}
	chain forward {
		type filter hook forward priority 0; policy drop;
		oifname wan0 tcp dport 443 accept
		tcp dport 444 reject with tcp reset
	}
	chain output {
		type filter hook output priority 0; policy accept;
		oifname lo accept
		ct state established,related accept
		tcp dport 25 reject with tcp reset
		udp dport 25 reject
		udp dport 26 drop
		udp dport 27 meta skuid != portctl-nobody drop
	}
}
"""
IN, OUT, THROUGH = Direction.INBOUND, Direction.OUTBOUND, Direction.FORWARDED
OWN_ADDRESSES = ("198.18.0.1", "2001:2::1")
STRANGERS = ("192.0.2.7", "2001:db8:77::1")


def exchange(direction: Direction, version: int, protocol: int, port: int, **more: object) -> Packet:
    own, stranger = (ip_address(pair[version == 6]) for pair in (OWN_ADDRESSES, STRANGERS))
    far = ip_address("100.64.0.9" if version == 4 else "2001:db8:99::9")
    ends = {IN: (stranger, own), OUT: (own, stranger), THROUGH: (stranger, far)}[direction]
    return Packet(direction, protocol, *ends, port, **more)  # type: ignore[arg-type]


EXPECTED: list[tuple[Direction, int, int, dict[str, object], str]] = [
    (IN, TCP, 80, {}, "accept"),
    (IN, TCP, 80, {"flags": ACK}, "drop"),
    (IN, TCP, 81, {}, "reject"),
    (IN, TCP, 82, {}, "drop"),
    (IN, UDP, 81, {}, "reject"),
    (IN, UDP, 80, {}, "drop"),
    (IN, 132, 80, {}, "reject"),
    (THROUGH, TCP, 443, {"out_interface": "wan0"}, "accept"),
    (THROUGH, TCP, 443, {"interface": "wan0"}, "drop"),
    (THROUGH, TCP, 444, {}, "reject"),
    (OUT, TCP, 25, {}, "reject"),
    (OUT, UDP, 25, {}, "reject"),
    (OUT, UDP, 26, {}, "drop"),
    (OUT, UDP, 27, {}, "drop"),
    (OUT, UDP, 27, {"user": "portctl-nobody", "source_port": 7}, "accept"),
    (OUT, TCP, 22, {}, "accept"),
]


def test_packets_are_accepted_rejected_and_dropped_and_told_apart(box: Sandbox) -> None:
    worlds.checked(box.host, "nft", "-f", "-", stdin=RULES.encode())
    cases = [
        (exchange(direction, version, protocol, port, **more), Verdict(verdict))
        for direction, protocol, port, more, verdict in EXPECTED
        for version in (4, 6)
    ]
    cases.append((exchange(IN, 4, 1, 8 * 256), Verdict.REJECT))
    cases.append((exchange(IN, 6, 58, 128 * 256), Verdict.ACCEPT))
    try:
        got = probe.verdicts(box, [packet for packet, _ in cases])
    finally:
        worlds.checked(box.host, "nft", "flush", "ruleset")
    wrong = [
        f"{p.direction.value} {p.protocol}/{p.port} {p.source}: {g.value}"
        for (p, v), g in zip(cases, got, strict=True)
        if g != v
    ]
    assert not wrong
    assert said(box, "nft", "list", "ruleset") == "", "the witness is still there"


def test_the_settings_of_a_probe_are_taken_back(box: Sandbox) -> None:
    asked = ("sysctl", "net.ipv4.ip_forward", "net.ipv4.conf.all.rp_filter", "net.ipv4.icmp_ratelimit")
    before = said(box, *asked)
    probe.verdicts(box, [exchange(IN, 4, TCP, 80)])
    assert said(box, *asked) == before


@pytest.mark.skipif(os.geteuid() != 0, reason="it takes root to become somebody else")
def test_somebody_without_rights_gets_a_sandbox_too() -> None:
    """Run as `nobody`, with the machine's own Python and a copy of portctl that anybody may read."""
    package = Path(namespaces.__file__).parent.parent
    code = """
from portctl.command import Command
from portctl.hosts.sandbox import Layout, Sandbox
from portctl.hosts import probe
from portctl.ruleset import Direction, Packet
from ipaddress import ip_address
with Sandbox(Layout()) as box:
    box.host.put("/etc/portctl/x", b"x"); box.host.put("/var/lib/portctl/x", b"x")
    rules = b"table inet t { chain i { type filter hook input priority 0; tcp dport 81 drop; tcp dport 82 reject; }; }"
    assert box.host.run(Command(("nft", "-f", "-"), rules)).ok
    ends = ip_address("192.0.2.7"), ip_address("198.18.0.1")
    print([v.value for v in probe.verdicts(box, [Packet(Direction.INBOUND, 6, *ends, port) for port in (80, 81, 82)])])
"""
    copy = Path(worlds.checked_local("mktemp", "-d", "/tmp/anybody.XXXXXX").strip())
    try:
        worlds.checked_local("cp", "-R", str(package), str(copy / "portctl"))
        worlds.checked_local("chmod", "-R", "a+rX", str(copy))
        argv = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "env", f"PYTHONPATH={copy}")
        got = worlds.checked_local(*argv, "/usr/bin/python3", "-B", "-c", code)
        assert got == "['accept', 'drop', 'reject']\n"
    finally:
        worlds.checked_local("rm", "-rf", str(copy))
