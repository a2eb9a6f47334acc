"""Each finding provoked for real: rules loaded into a kernel, sockets opened and closed, rules of others."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from portctl import pipeline
from portctl.command import Command, Result
from portctl.hosts.namespaces import Room
from portctl.inspection import inspect
from portctl.verify import Finding, wrong
from tests.system import applying, worlds
from tests.system.listening import listening, process, tcp, udp

RING = "verify"
NEEDS = ("ss", "iptables", "ip6tables", "ipset")
POLICY = """\
portctl: 1
name: web
addresses: {office: [192.0.2.0/24, "2001:db8::/64"]}
services:
  ssh: {ports: ssh, from: office, process: sshd}
  web: {ports: [80/tcp, 81/tcp], from: any, process: nginx}
  dns: {ports: domain, from: any, to: [192.0.2.10, "2001:db8::10"]}
  ping: {ports: ping, from: any}
sysctl: {tcp_keepalive_time: 2000}
"""
SSHD = process("sshd", tcp("::", 22, only=False))
NGINX = process("nginx", tcp("0.0.0.0", 80), tcp("::", 80, only=True), tcp("::", 81, only=False))
NAMED = process("named", tcp("192.0.2.10", 53), udp("192.0.2.10", 53), udp("2001:db8::10", 53))
ALL = (SSHD, NGINX, NAMED)


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=pytest.mark.xdist_group(f"verify {name}")) for name in applying.BACKENDS],
)
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def world(backend: str) -> Iterator[worlds.World]:
    """A machine on which the policy holds but for the sockets, which each test opens; and a controller."""
    with worlds.world() as made:
        applying.applied(made.machine, POLICY, "--backend", backend)
        yield made


@pytest.fixture(scope="module")
def machine(world: worlds.World) -> Room:
    return world.machine


@pytest.fixture
def findings(tmp_path: Path) -> Callable[..., list[Finding]]:
    def found(machine: Room, policy: str = POLICY) -> list[Finding]:
        path = tmp_path / "policy.yaml"
        path.write_text(policy)
        at = datetime.now(UTC)
        return [f for f in inspect(machine, pipeline.compile(path, at), at).findings if f.code != "unused"]

    return found


@contextmanager
def changed(machine: Room, command: str, undo: str) -> Iterator[None]:
    worlds.checked(machine, "sh", "-ec", command)
    try:
        yield
    finally:
        worlds.checked(machine, "sh", "-ec", undo)


def told(findings: list[Finding]) -> list[tuple[str, str]]:
    return [(finding.code, finding.subject) for finding in findings]


def only(findings: Sequence[Finding], code: str) -> Finding:
    (found,) = (finding for finding in findings if finding.code == code)
    return found


Look = Callable[..., list[Finding]]


def test_all_holds(machine: Room, findings: Look) -> None:
    with listening(machine, *ALL):
        assert findings(machine) == []


def test_an_opening_is_unused_until_somebody_comes(world: worlds.World, backend: str, tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(POLICY)

    def unused() -> set[str]:
        at = datetime.now(UTC)
        found = inspect(world.machine, pipeline.compile(path, at), at).findings
        return {finding.subject for finding in found if finding.code == "unused"}

    applying.applied(world.machine, POLICY.replace("name: web", "name: again"), "--backend", backend)
    applying.applied(world.machine, POLICY, "--backend", backend)
    with listening(world.machine, *ALL):
        before = unused()
        talk = "import socket; socket.create_connection(('192.0.2.10', 80), 5)"
        worlds.checked(world.controller, "python3", "-c", talk)
        assert "web" in before and before - unused() == {"web"}


def test_a_service_stops(machine: Room, findings: Look) -> None:
    with listening(machine, SSHD, NAMED, process("nginx", tcp("0.0.0.0", 80))):
        found = findings(machine)
    assert told(found) == [("not-listening", "web")]
    assert "81/tcp" in found[0].message and "80/tcp" not in found[0].message


def test_an_undeclared_socket_behind_closed_rules_is_a_note(machine: Room, findings: Look) -> None:
    with listening(machine, *ALL, process("redis", tcp("0.0.0.0", 6379)), process("local", tcp("127.0.0.1", 5432))):
        found = findings(machine)
    assert told(found) == [("undeclared", "6379/tcp")] and not wrong(found)
    assert found[0].evidence[0].startswith("redis (pid ")


def test_another_process_listens(machine: Room, findings: Look) -> None:
    with listening(machine, process("netcat", tcp("::", 22, only=False)), NGINX, NAMED):
        found = findings(machine)
    assert told(found) == [("wrong-process", "ssh")]
    assert "netcat" in found[0].evidence[0]


def test_it_listens_elsewhere(machine: Room, findings: Look) -> None:
    loopback = process("named", tcp("127.0.0.1", 53), udp("127.0.0.1", 53), udp("::1", 53))
    with listening(machine, SSHD, NGINX, loopback):
        found = findings(machine)
    assert told(found) == [("wrong-address", "dns")]
    assert "192.0.2.10" in found[0].message


def test_a_setting_changes(machine: Room, findings: Look) -> None:
    name = "net.ipv4.tcp_keepalive_time"
    with listening(machine, *ALL), changed(machine, f"sysctl -qw {name}=7000", f"sysctl -qw {name}=2000"):
        found = findings(machine)
    assert told(found) == [("sysctl-drift", name)]


def test_a_port_that_clients_may_get(machine: Room, findings: Look) -> None:
    text = POLICY.replace("  ping:", "  app: {ports: 40000/tcp, from: any}\n  ping:")
    with ExitStack() as stack:
        stack.enter_context(listening(machine, *ALL, process("app", tcp("::", 40000, only=False))))
        assert "ephemeral-overlap" in dict(told(findings(machine, text)))
        reserve = "sysctl -qw net.ipv4.ip_local_reserved_ports="
        stack.enter_context(changed(machine, f"{reserve}40000", reserve))
        assert "ephemeral-overlap" not in dict(told(findings(machine, text)))


FOREIGN_DROP = {
    "iptables": ("iptables -A INPUT -p tcp --dport 80 -j DROP", "iptables -D INPUT -p tcp --dport 80 -j DROP"),
    "iptables-legacy": (
        "iptables-legacy -A INPUT -p tcp --dport 80 -j DROP",
        "iptables-legacy -D INPUT -p tcp --dport 80 -j DROP",
    ),
    "nft": (
        "nft -f - <<E\ntable inet other {\nchain in { type filter hook input priority 5; tcp dport 80 drop\n}\n}\nE",
        "nft delete table inet other",
    ),
}


@pytest.mark.parametrize("tool", FOREIGN_DROP)
def test_a_foreign_drop_decides_first(machine: Room, findings: Look, tool: str) -> None:
    with listening(machine, *ALL), changed(machine, *FOREIGN_DROP[tool]):
        found = findings(machine)
    rule = only(found, "foreign-rule")
    assert rule.severity == "warning" and "`web`" in rule.message
    assert any("80" in line and "drop" in line.lower() for line in rule.evidence)
    assert not any(finding.code == "drift" for finding in found)


def test_a_ban_is_a_note_and_nothing_else(machine: Room, findings: Look) -> None:
    """As fail2ban bans: a chain of its own, jumped to from INPUT."""
    ban = (
        "iptables -N f2b-sshd; iptables -A f2b-sshd -s 203.0.113.9/32 -j REJECT; iptables -A f2b-sshd -j RETURN;"
        "iptables -A INPUT -p tcp -m multiport --dports 22,80 -j f2b-sshd"
    )
    undo = (
        "iptables -D INPUT -p tcp -m multiport --dports 22,80 -j f2b-sshd; iptables -F f2b-sshd; iptables -X f2b-sshd"
    )
    with listening(machine, *ALL), changed(machine, ban, undo):
        found = findings(machine)
    assert [(finding.code, finding.severity) for finding in found] == [("foreign-rule", "note")]


def test_a_foreign_hook_policy(machine: Room, findings: Look) -> None:
    """As ufw: everything that reaches the end of INPUT is dropped."""
    with listening(machine, *ALL), changed(machine, "iptables -P INPUT DROP", "iptables -P INPUT ACCEPT"):
        found = findings(machine)
    assert ("foreign-rule", "filter INPUT") in told(found)
    assert any("policy of the hook" in line for line in only(found, "foreign-rule").evidence)


def test_a_foreign_accept_opens_nothing(machine: Room, findings: Look) -> None:
    accept = ("iptables -A INPUT -p tcp --dport 6379 -j ACCEPT", "iptables -D INPUT -p tcp --dport 6379 -j ACCEPT")
    with listening(machine, *ALL, process("redis", tcp("0.0.0.0", 6379))), changed(machine, *accept):
        found = findings(machine)
    assert told(found) == [("undeclared", "6379/tcp")]


def test_the_rules_are_gone(machine: Room, backend: str, findings: Look) -> None:
    flush = {"nftables": "nft delete table inet portctl", "iptables": "iptables -F INPUT; ip6tables -F INPUT"}[backend]
    worlds.checked(machine, "sh", "-ec", flush)
    try:
        with listening(machine, *ALL, process("redis", tcp("0.0.0.0", 6379))):
            found = findings(machine)
    finally:
        applying.applied(machine, POLICY, "--backend", backend)
    assert {("exposed", "6379/tcp"), ("exposed", "ssh"), ("drift", "web")} <= set(told(found))
    assert ("exposed", "web") not in told(found), "the policy opens it to everybody"
    assert findings_of(machine) == 0


def findings_of(machine: Room) -> int:
    """How many differences the command itself counts on a machine where nobody listens: those of the services alone."""
    result = applying.portctl(machine, "verify", "/root/policy.yaml")
    return result.stdout.count("[drift]") + result.stdout.count("[exposed]")


def test_a_rule_by_hand_among_ours(machine: Room, backend: str, findings: Look) -> None:
    opened = {
        "nftables": "nft insert rule inet portctl input tcp dport 6379 accept",
        "iptables": "chain=$(iptables -S INPUT 1 | sed -n 's/.*-j //p');"
        " iptables -I $chain -p tcp --dport 6379 -j RETURN",
    }[backend]
    worlds.checked(machine, "sh", "-ec", opened)
    try:
        with listening(machine, *ALL, process("redis", tcp("0.0.0.0", 6379))):
            found = findings(machine)
    finally:
        applying.applied(machine, POLICY, "--backend", backend)
    assert told(found)[:2] == [("exposed", "6379/tcp"), ("drift", "web")]
    drift = only(found, "drift")
    assert ":6379/tcp" in drift.evidence[0] and any(line.startswith("+ ") and "6379" in line for line in drift.evidence)


def test_a_chain_is_flushed(machine: Room, backend: str, findings: Look) -> None:
    """An empty chain closes where it says what is admitted, and opens where it says what is not."""
    flushed, expected = {
        "nftables": ("nft flush chain inet portctl service-web", ("unreachable", "web")),
        "iptables": ("iptables -F PORTCTL-IN-TCP; ip6tables -F PORTCTL-IN-TCP", ("exposed", "ssh")),
    }[backend]
    worlds.checked(machine, "sh", "-ec", flushed)
    try:
        with listening(machine, *ALL):
            found = findings(machine)
    finally:
        applying.applied(machine, POLICY, "--backend", backend)
    assert ("drift", "web") in told(found)
    assert expected in told(found)


def docker(port: int) -> tuple[str, str]:
    """As Docker publishes a port: DNAT in a chain of its own for what is addressed to this host."""
    return (
        "iptables -t nat -N DOCKER; iptables -t nat -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER;"
        f"iptables -t nat -A DOCKER -p tcp -m tcp --dport {port} -j DNAT --to-destination 172.17.0.2:80",
        "iptables -t nat -D PREROUTING -m addrtype --dst-type LOCAL -j DOCKER; iptables -t nat -F DOCKER;"
        "iptables -t nat -X DOCKER",
    )


def test_a_port_that_a_container_publishes(machine: Room, backend: str, findings: Look) -> None:
    with listening(machine, *ALL), changed(machine, *docker(8080)):
        found = findings(machine)
        assert told(found) == [("exposed", "8080/tcp")]
        assert "172.17.0.2:80" in found[0].message and "published: govern" in found[0].advice
        governed = f"{POLICY}defaults: {{published: govern}}\n"
        applying.applied(machine, governed, "--backend", backend)
        assert findings(machine, governed) == []
    applying.applied(machine, POLICY, "--backend", backend)


def test_a_published_port_counts_as_a_listener(machine: Room, findings: Look) -> None:
    with listening(machine, SSHD, NAMED, process("nginx", tcp("::", 81, only=False))), changed(machine, *docker(80)):
        assert findings(machine) == []


def test_what_would_not_survive_a_reboot(machine: Room, findings: Look) -> None:
    conf = "/etc/sysctl.d/60-portctl.conf"
    enabled = "/etc/systemd/system/sysinit.target.wants/nftables.service"
    with listening(machine, *ALL):
        with changed(machine, f"cp {conf} /run/kept; echo '# changed' >>{conf}", f"cp /run/kept {conf}"):
            assert told(findings(machine)) == [("not-persistent", "web")]
        with changed(machine, f"mkdir -p {Path(enabled).parent}; : >{enabled}", f"rm {enabled}"):
            assert told(findings(machine)) == [("not-persistent", "nftables")]


def test_an_entry_whose_time_has_come(machine: Room, backend: str, findings: Look) -> None:
    """It is still loaded: the policy of today has an entry of yesterday."""
    soon = (datetime.now(UTC) - timedelta(days=2)).date().isoformat()
    text = POLICY.replace("process: sshd", f"process: sshd, until: {soon}")
    with listening(machine, *ALL):
        found = findings(machine, text)
    assert ("expired", "ssh") in told(found)
    assert "rules of it are still loaded" in only(found, "expired").message
    assert ("drift", "web") in told(found) and backend


@dataclass(frozen=True)
class Nobody:
    """The machine as somebody without any rights sees it."""

    machine: Room
    name: str = "nobody"

    def run(self, command: Command, timeout: float | None = None) -> Result:
        argv = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *command.argv)
        return self.machine.run(Command(argv, command.stdin), timeout)

    def put(self, path: str, data: bytes, mode: int = 0o644) -> None:
        raise AssertionError((path, data, mode))


def test_without_root_nothing_is_called_closed_and_not_all_is_well(machine: Room, backend: str, tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(POLICY)
    compiled = pipeline.compile(path)
    with listening(machine, *ALL, process("redis", tcp("0.0.0.0", 6379))):
        found = inspect(Nobody(machine), compiled, datetime.now(UTC), backend).findings
    assert {finding.code for finding in found} == {"unknown", "undeclared"}
    assert wrong(found)
    said = " ".join(finding.message for finding in found if finding.code == "unknown")
    assert "the loaded rules" in said and "needs root" in said and "`nginx`" in said
    assert "could not be seen" in only(found, "undeclared").message


def test_the_command_itself(machine: Room) -> None:
    machine.put("/root/policy.yaml", POLICY.encode())
    with listening(machine, *ALL):
        result = applying.portctl(machine, "verify", "/root/policy.yaml")
        assert result.status == 0, result.stdout + result.stderr
        assert "all holds: 4 services" in result.stdout
    result = applying.portctl(machine, "verify", "/root/policy.yaml", "--format", "json")
    assert result.status == 1 and '"code": "not-listening"' in result.stdout
    machine.put("/root/bad.yaml", POLICY.replace("from: office", "from: offce").encode())
    assert applying.portctl(machine, "verify", "/root/bad.yaml").status == 2
