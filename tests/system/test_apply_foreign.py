"""What is not portctl's stays byte for byte as it was: fail2ban, Docker, libvirt, a person's own rules."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from portctl.command import Command
from portctl.hosts.namespaces import Room
from tests.system import applying, worlds

pytestmark = pytest.mark.system

DOCKER = """set -e
iptables-restore --noflush <<'END'
*nat
:DOCKER - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
-A DOCKER ! -i docker0 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 172.17.0.2:80
COMMIT
*filter
:FORWARD DROP [0:0]
:DOCKER - [0:0]
:DOCKER-USER - [0:0]
-A FORWARD -j DOCKER-USER
-A FORWARD -o docker0 -j DOCKER
-A FORWARD -i docker0 ! -o docker0 -j ACCEPT
-A DOCKER -d 172.17.0.2/32 ! -i docker0 -o docker0 -p tcp -m tcp --dport 80 -j ACCEPT
-A DOCKER-USER -j RETURN
COMMIT
END
"""
LIBVIRT = """nft -f - <<'END'
table ip libvirt_network {
	chain guest_input {
		type filter hook input priority filter; policy accept;
		iifname "virbr0" udp dport { 53, 67 } counter packets 0 bytes 0 accept
		iifname "virbr0" tcp dport 53 counter packets 0 bytes 0 accept
	}
	chain guest_nat {
		type nat hook postrouting priority srcnat; policy accept;
		ip saddr 192.168.122.0/24 ip daddr != 192.168.122.0/24 counter packets 0 bytes 0 masquerade
	}
}
END
"""
HAND_MADE = """set -e
iptables -A INPUT -s 203.0.113.99 -m comment --comment "by hand" -j DROP
iptables -A INPUT -p tcp --dport 9999 -j ACCEPT
ip6tables -A INPUT -s 2001:db8:99::/48 -j DROP
ip6tables -A OUTPUT -d 2001:db8:98::1 -j REJECT
iptables -t mangle -A PREROUTING -p udp --dport 5060 -j TOS --set-tos 0x10
ipset create mine hash:ip; ipset add mine 203.0.113.7
"""
JAIL = """[DEFAULT]
banaction = iptables-multiport
usedns = no
ignoreself = false
[sshd]
enabled = true
backend = polling
logpath = /var/log/test-auth.log
maxretry = 1
findtime = 1h
bantime = 1h
"""
SAVE = """iptables-save -c; ip6tables-save -c; ipset save mine 2>/dev/null
nft list tables | grep -vE ' ip6? (filter|nat|mangle|raw|security)$| inet portctl$' |
while read -r t; do nft list $t; done
"""


def foreign(machine: Room) -> list[str]:
    """Every rule of both tools that is not portctl's, with counters."""
    said = machine.run(Command(("sh", "-c", SAVE))).stdout
    lines = (line for line in said.splitlines() if "PORTCTL" not in line and not line.startswith("#"))
    # iptables shows a table and its built-in chains once anybody has touched it.
    empty = re.compile(r"^\*|^COMMIT|^:[A-Z]+ ACCEPT \[0:0\]")
    return [line for line in lines if not empty.match(line)]


@pytest.fixture
def machine() -> Iterator[Room]:
    with worlds.world() as world:
        yield world.machine


@pytest.mark.parametrize("backend", applying.BACKENDS)
def test_rules_of_others_stay_as_they_are_whoever_came_first(machine: Room, backend: str) -> None:
    for script in (DOCKER, LIBVIRT, HAND_MADE):
        worlds.checked(machine, "sh", "-c", script)
    before = foreign(machine)
    assert any("172.17.0.2:80" in line for line in before)
    for policy, within, status in ((applying.FIRST, "0", 0), (applying.FIRST, "0", 0), (applying.SECOND, "1", 4)):
        result = applying.apply(machine, policy, "--backend", backend, "--confirm-within", within)
        assert result.status == status, result.stderr
        assert foreign(machine) == before
    worlds.checked(machine, "sh", "-c", "iptables -I INPUT -s 203.0.113.123 -j DROP; iptables -t nat -N LATE")
    later = foreign(machine)
    assert later != before
    applying.applied(machine, applying.SECOND, "--backend", backend)
    assert foreign(machine) == later
    assert applying.portctl(machine, "rollback").status == 0
    assert applying.portctl(machine, "rollback", "1").status == 0
    assert foreign(machine) == later


@pytest.mark.parametrize("backend", applying.BACKENDS)
def test_a_real_fail2ban_bans_before_and_after(machine: Room, backend: str) -> None:
    machine.put("/etc/fail2ban/jail.local", JAIL.encode())
    worlds.checked(
        machine, "sh", "-c", "rm -f /etc/fail2ban/jail.d/*; mkdir -p /run/fail2ban; : >/var/log/test-auth.log"
    )
    worlds.checked(machine, "fail2ban-server", "-b", "--pidfile", "/run/fail2ban/f.pid", "-s", "/run/fail2ban/f.sock")
    client = ("fail2ban-client", "-s", "/run/fail2ban/f.sock")
    worlds.until(lambda: machine.run(Command((*client, "status", "sshd"))).ok, "fail2ban answers", 20)

    def fails(address: str) -> None:
        """What sshd writes when a password is wrong: the filter of the jail reads that, and bans."""
        moment = datetime.now(UTC).astimezone().strftime("%b %d %H:%M:%S")
        line = f"{moment} machine sshd[4711]: Failed password for root from {address} port 40001 ssh2"
        worlds.checked(machine, "sh", "-c", 'echo "$1" >>/var/log/test-auth.log', "sh", line)

    def banned(address: str) -> bool:
        return f"-s {address}/32" in machine.run(Command(("iptables-save",))).stdout

    fails("203.0.113.20")
    worlds.until(lambda: banned("203.0.113.20"), "the first ban", 20)
    before = foreign(machine)
    applying.applied(machine, applying.FIRST, "--backend", backend)
    assert foreign(machine) == before
    fails("203.0.113.21")
    worlds.until(lambda: banned("203.0.113.21"), "the second ban", 20)
    after = foreign(machine)
    assert applying.apply(machine, applying.SECOND, "--confirm-within", "1").status == 4
    assert foreign(machine) == after
    worlds.checked(machine, *client, "set", "sshd", "unbanip", "203.0.113.20")
    worlds.until(lambda: not banned("203.0.113.20"), "the ban is lifted")
    machine.run(Command((*client, "stop")), 30)


@pytest.mark.parametrize("backend", applying.BACKENDS)
def test_the_plan_names_what_stops_working_and_what_overrides_an_entry(machine: Room, backend: str) -> None:
    worlds.checked(machine, "sh", "-c", "ip link add virbr0 type bridge; ip addr add 192.168.122.1/24 dev virbr0")
    worlds.checked(machine, "sh", "-c", "ip link add docker0 type bridge; ip addr add 172.17.0.1/16 dev docker0")
    for script in (DOCKER, LIBVIRT):
        worlds.checked(machine, "sh", "-c", script)
    policy = applying.FIRST + (
        "interfaces: {lan: [docker0], out: [eth0]}\n"
        "forwards: {guests: {ports: https, from: 172.17.0.0/16, in: lan, to: any, out: out}}\n"
        "defaults: {forward: drop}\n"
    )
    machine.put("/root/policy.yaml", policy.encode())

    def warnings() -> str:
        said = applying.portctl(machine, "plan", "/root/policy.yaml", "--backend", backend)
        assert said.status == 0, said.stderr
        return "\n".join(line for line in said.stdout.splitlines() if line.startswith("warning: "))

    first = warnings()
    assert re.search("stops working: .*guest_input.* 67", first), first
    assert re.search("container traffic stops.*virbr0", first), first
    assert "container traffic stops: `defaults.forward` stops what starts behind docker0" not in first
    assert "overridden" not in first
    worlds.checked(machine, "sh", "-c", "iptables -P INPUT DROP; iptables -A INPUT -p tcp --dport 22 -j ACCEPT")
    worlds.checked(machine, "sh", "-c", "iptables -F FORWARD")
    second = warnings()
    assert re.search("`web` is overridden .*chain INPUT of table filter: its policy", second), second
    assert re.search("`guests` is overridden .*chain FORWARD of table filter: its policy", second), second
    assert "`ssh` is overridden" not in second.replace("2001:", "")


@pytest.mark.parametrize("backend", applying.BACKENDS)
def test_exclusive_takes_others_out_of_the_hooks_and_the_undo_gives_them_back(machine: Room, backend: str) -> None:
    for script in (LIBVIRT, HAND_MADE):
        worlds.checked(machine, "sh", "-c", script)
    worlds.checked(machine, "iptables", "-P", "INPUT", "DROP")
    worlds.checked(machine, "iptables", "-A", "INPUT", "-p", "tcp", "--dport", "22", "-j", "ACCEPT")
    before = [re.sub(r"packets \d+ bytes \d+|\[\d+:\d+\]", "", line) for line in foreign(machine)]
    words = ("--backend", backend, "--exclusive")
    undone = applying.apply(machine, applying.FIRST, *words, "--confirm-within", "1")
    assert undone.status == 4, undone.stdout + undone.stderr
    assert [re.sub(r"packets \d+ bytes \d+|\[\d+:\d+\]", "", line) for line in foreign(machine)] == before
    result = applying.apply(machine, applying.FIRST, *words, "--confirm-within", "0")
    assert result.status == 0, result.stdout + result.stderr
    assert "-A INPUT -s 203.0.113.99" in result.stdout
    left = "\n".join(foreign(machine))
    assert "203.0.113.99" not in left and "9999" not in left and "udp dport" not in left and ":INPUT DROP" not in left
    assert "masquerade" in left and "--dport 5060" in left
    again = applying.apply(machine, applying.FIRST, *words, "--confirm-within", "0")
    assert "Nothing to do" in again.stdout, again.stdout
    worlds.checked(machine, "iptables", "-A", "INPUT", "-s", "203.0.113.55", "-j", "DROP")
    assert applying.portctl(machine, "rollback").status == 0
    after = [re.sub(r"packets \d+ bytes \d+|\[\d+:\d+\]", "", line) for line in foreign(machine)]
    assert [line for line in after if "203.0.113.55" not in line] == before
    assert len(after) == len(before) + 1


def test_rules_in_the_other_packet_filter_are_named_and_taken_out_with_exclusive(machine: Room) -> None:
    applying.applied(machine, applying.FIRST, "--backend", "iptables")
    machine.put("/root/policy.yaml", applying.FIRST.encode())
    said = applying.portctl(machine, "plan", "/root/policy.yaml", "--backend", "nftables").stdout
    assert "iptables holds rules of portctl's too" in said
    applying.applied(machine, applying.FIRST, "--backend", "nftables")
    status = applying.portctl(machine, "status")
    assert status.status == 1 and "iptables holds rules of portctl's too" in status.stdout
    applying.applied(machine, applying.FIRST, "--backend", "nftables", "--exclusive")
    assert "PORTCTL" not in machine.run(Command(("iptables-save",))).stdout
    assert "table inet portctl" in machine.run(Command(("nft", "list", "tables"))).stdout
    assert applying.portctl(machine, "rollback").status == 0
    assert "PORTCTL-IN" in machine.run(Command(("iptables-save",))).stdout
