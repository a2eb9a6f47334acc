"""`portctl remove`: afterwards the host is, byte for byte, what it was before the first apply."""

from __future__ import annotations

import pytest

from portctl.command import Command
from portctl.hosts.namespaces import Room
from tests.system import applying, worlds
from tests.system.applying import BACKENDS

pytestmark = pytest.mark.system

FILES = r"""cd / && find etc var/lib run ! -type s ! -path 'etc/.*.portctl*' -printf '%y %m %u %p %l\n' | sort
find etc var/lib run -type f ! -name ld.so.cache | sort | xargs sha256sum
find /proc/sys/net -type f -perm -u+r ! -name '*_count' ! -name '*random*' ! -name stat ! -name flush \
    ! -name '*secret*' ! -name 'tcp_fastopen_key' | sort |
    while read -r each; do echo "$each $(cat "$each" 2>/dev/null)"; done"""
FOREIGN = """nft add table inet theirs
nft 'add chain inet theirs in { type filter hook input priority 0; policy accept; }'
nft add rule inet theirs in tcp dport 9999 drop
nft add rule inet theirs in tcp dport 9998 counter accept"""


def everything(machine: Room, rules: str = "nft list ruleset; ipset save") -> str:
    """Rules, sets, settings of the network, files: names, owners, rights and contents."""
    return machine.run(Command(("sh", "-c", f"{rules}\n{FILES}")), 120).stdout


@pytest.mark.parametrize("backend", BACKENDS)
def test_after_apply_and_remove_the_host_is_what_it_was(backend: str) -> None:
    rules = "nft list ruleset" if backend == "nftables" else "iptables-save | grep -v '^[#*:C]'; ipset save"
    with worlds.machine() as machine:
        before = everything(machine, rules)
        applying.applied(machine, applying.FIRST, "--backend", backend)
        applying.applied(machine, applying.SECOND, "--backend", backend)
        assert everything(machine, rules) != before
        shown = applying.portctl(machine, "remove", "--dry-run")
        assert "sets net.ipv4.tcp_keepalive_time back to 7200" in shown.stdout
        assert "sets net.core.somaxconn back to 4096" in shown.stdout
        assert f"takes portctl's rules and sets out of {backend}" in shown.stdout
        assert "removes /etc/portctl" in shown.stdout and "forgets 2 records" in shown.stdout
        said = applying.portctl(machine, "remove", "--yes")
        assert said.status == 0, said.stdout + said.stderr
        machine.run(Command(("rm", "/root/policy.yaml")))
        assert everything(machine, rules) == before


def test_a_second_remove_finds_nothing_and_is_no_error() -> None:
    with worlds.machine() as machine:
        applying.applied(machine, applying.FIRST)
        assert applying.portctl(machine, "remove", "--yes").status == 0
        before = everything(machine)
        again = applying.portctl(machine, "remove", "--yes")
        assert again.status == 0
        assert "Nothing of portctl's is on this host." in again.stderr
        assert everything(machine) == before


def test_without_yes_and_without_a_terminal_nothing_is_removed() -> None:
    with worlds.machine() as machine:
        applying.applied(machine, applying.FIRST)
        before = applying.state(machine)
        said = applying.portctl(machine, "remove")
        assert said.status == 3
        assert "use --yes" in said.stderr
        assert applying.state(machine) == before


def test_what_exclusive_took_away_comes_back_and_what_others_changed_meanwhile_stays() -> None:
    with worlds.machine() as machine:
        worlds.checked(machine, "sh", "-ec", FOREIGN)
        rules = worlds.checked(machine, "nft", "list", "ruleset")
        applying.applied(machine, applying.FIRST, "--exclusive", "--backend", "nftables")
        assert "9999" not in worlds.checked(machine, "nft", "list", "ruleset")
        worlds.checked(machine, "sysctl", "-qw", "net.ipv4.tcp_keepalive_time=1234")
        said = applying.portctl(machine, "remove", "--yes", "--confirm-within", "0")
        assert said.status == 0, said.stderr
        assert "gives back the rules of others that record 1 took away" in said.stdout
        assert worlds.checked(machine, "nft", "list", "ruleset") == rules
        assert worlds.checked(machine, "sysctl", "-n", "net.ipv4.tcp_keepalive_time").strip() == "1234"


def test_policies_that_a_person_keeps_beside_portctls_files_stay() -> None:
    with worlds.machine() as machine:
        machine.put("/etc/portctl/web.yaml", b"portctl: 1\nname: web\n")
        applying.applied(machine, applying.FIRST)
        assert applying.portctl(machine, "remove", "--yes").status == 0
        assert worlds.checked(machine, "ls", "/etc/portctl") == "web.yaml\n"


def test_a_pending_apply_is_not_removed_under_its_guard() -> None:
    with worlds.machine() as machine:
        before = applying.state(machine)
        stop = ("PORTCTL_TESTING=1", "PORTCTL_STOP_AT=load")
        applying.apply(machine, applying.FIRST, "--confirm-within", "6", env=stop)
        said = applying.portctl(machine, "remove", "--yes")
        assert said.status == 3
        assert "another apply is under way" in said.stderr
        applying.settled(machine)
        assert applying.state(machine) == before


@pytest.mark.parametrize("step", ["record", "arm", "load", "decided"])
def test_killed_in_the_middle_it_can_be_finished(step: str) -> None:
    with worlds.machine() as machine:
        before = everything(machine)
        applying.applied(machine, applying.FIRST)
        stop = ("PORTCTL_TESTING=1", f"PORTCTL_STOP_AT={step}")
        killed = applying.portctl(machine, "remove", "--yes", "--confirm-within", "2", env=stop)
        assert step == "decided" or killed.status != 0
        applying.settled(machine)
        said = applying.portctl(machine, "remove", "--yes", "--confirm-within", "0")
        assert said.status == 0, said.stderr
        machine.run(Command(("rm", "/root/policy.yaml")))
        assert everything(machine) == before
