"""pytest with the plugin against real machines: on the machine itself, and over ssh from beside it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from portctl.command import Command
from portctl.hosts.namespaces import Room
from tests.plugin import RUN
from tests.system import applying, worlds
from tests.system.listening import listening, process, tcp

RING = "pytest plugin"
NEEDS = ("ss", "ssh", "sshd")
HOME = str(Path(__file__).parent.parent.parent)
POLICY = """\
portctl: 1
name: web
addresses: {office: [192.0.2.0/24, "2001:db8::/64"]}
services:
  ssh: {ports: ssh, from: office, process: sshd}
  web: {ports: [80/tcp, 81/tcp], from: any, process: nginx}
sysctl: {tcp_keepalive_time: 2000}
tests:
  - {from: any, service: web, expect: allow}
  - {from: any, except: office, service: ssh, expect: deny}
"""
NGINX = process("nginx", tcp("0.0.0.0", 80), tcp("::", 80, only=True), tcp("::", 81, only=False))
REMOTE = ("--hosts=ssh://192.0.2.10", "--ssh-config=/etc/ssh/test_config")
TESTS = """\
def test_what_it_is(portctl_host, host):
    assert portctl_host.name == "ssh://192.0.2.10"
    assert portctl_host.facts.system == "Linux"
    assert "192.0.2.10" in [str(address) for address in portctl_host.facts.own_addresses()]
    assert host.check_output("hostname") == "machine"

def test_who_listens(portctl_host):
    (nginx,) = portctl_host.listening("81/tcp")
    assert nginx.process == "nginx" and nginx.dual_stack
    assert not portctl_host.listening("82/tcp")

def test_who_is_admitted(portctl_host):
    assert portctl_host.admits("any", "80/tcp")
    assert portctl_host.admits("192.0.2.0/24", "ssh")
    assert not portctl_host.admits("192.0.2.0/23", "ssh")

def test_from_outside(portctl_host):
    assert portctl_host.probe("80/tcp") == "open"
    assert portctl_host.probe("ssh", source="192.0.2.1") == "open"
    assert portctl_host.probe("82/tcp", seconds=0.5) == "silent"

def test_the_policy(portctl_host):
    assert not portctl_host.findings("policy.yaml"), portctl_host.findings("policy.yaml")

def test_that_fails(portctl_host):
    assert portctl_host.admits("203.0.113.9", "22/tcp")
"""


@contextmanager
def prepared() -> Iterator[worlds.World]:
    """A machine on which the policy was applied, which answers by ssh, and a controller; both have the tests."""
    with worlds.world() as made:
        made.start_sshd()
        applying.applied(made.machine, POLICY)
        for room in (made.machine, made.controller):
            room.put("/root/tests/policy.yaml", POLICY.encode())
            room.put("/root/tests/test_host.py", TESTS.encode())
            room.put("/root/tests/pytest.ini", b"[pytest]\n")
        with listening(made.machine, NGINX):
            yield made


@pytest.fixture(scope="module")
def world() -> Iterator[worlds.World]:
    with prepared() as made:
        yield made


def run(room: Room, *words: str) -> tuple[int, str]:
    line = 'cd /root/tests && PYTHONPATH=$1 && export PYTHONPATH && shift && exec "$@"'
    said = room.run(Command(("sh", "-c", line, "sh", HOME, *RUN, *words)), timeout=120)
    return said.status, said.stdout + said.stderr


def test_on_the_machine_itself_a_policy_in_force_passes(world: worlds.World) -> None:
    status, said = run(world.machine, "policy.yaml", "-v")
    assert status == 0, said
    assert "policy.yaml::service web [local] PASSED" in said
    assert "policy.yaml::test from: any, service: web, expect: allow [local] PASSED" in said
    assert "8 passed" in said


def test_over_ssh_from_beside_it_passes_too_and_does_not_change_it(world: worlds.World) -> None:
    before = applying.state(world.machine)
    status, said = run(world.controller, "policy.yaml", "-v", *REMOTE)
    assert status == 0, said
    assert "policy.yaml::service ssh [ssh://192.0.2.10] PASSED" in said
    assert "8 passed" in said
    assert applying.state(world.machine) == before


def test_what_does_not_hold_fails_its_own_test_with_the_evidence() -> None:
    with prepared() as world, listening(world.machine, process("redis", tcp("0.0.0.0", 82))):
        for port in ("22", "82"):
            rule = ("nft", "insert", "rule", "inet", "portctl", "input", "tcp", "dport", port, "accept")
            worlds.checked(world.machine, *rule)
        worlds.checked(world.machine, "sysctl", "-qw", "net.ipv4.tcp_keepalive_time=77")
        worlds.checked(world.machine, "rm", "-r", "/etc/portctl/boot")
        status, said = run(world.controller, "policy.yaml", "-v", *REMOTE)
    assert status == 1, said
    verdicts = dict(re.findall(r"::(.*) \[ssh://192\.0\.2\.10\] (PASSED|FAILED) ", said))
    assert verdicts == {
        "service ssh": "PASSED",
        "service web": "PASSED",
        "test from: any, service: web, expect: allow": "PASSED",
        "test from: any, except: office, service: ssh, expect: deny": "FAILED",
        "sysctl": "FAILED",
        "exposed": "FAILED",
        "drift": "FAILED",
        "boot": "FAILED",
    }
    assert "should be 2000 and is 77" in said
    assert "redis" in said and "strangers reach it" in said
    assert "tcp dport 22" in said and "accept" in said
    assert "policy.yaml:10: - {from: any, except: office, service: ssh, expect: deny}" in said


def test_the_fixture_answers_what_peoples_own_tests_ask(world: worlds.World) -> None:
    status, said = run(world.controller, "test_host.py", *REMOTE)
    assert status == 1
    assert "1 failed, 5 passed" in said, said
    assert "test_that_fails[ssh://192.0.2.10]" in said
    assert "not admitted" in said and "drop: " in said and 'comment "default"' in said


def test_without_root_a_service_is_not_called_closed_but_not_seen(world: worlds.World) -> None:
    worlds.checked(world.machine, "cp", "-r", "/root/tests", "/srv/tests")
    nobody = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "env", f"PYTHONPATH={HOME}")
    found = world.machine.run(Command((*nobody, *RUN, "/srv/tests/policy.yaml", "-v")), timeout=120)
    said = found.stdout + found.stderr
    assert found.status == 1, said
    assert "service web [local] FAILED" in said
    assert "root is needed there: pytest --sudo" in said
