"""`--host netns://NAME`: rules in that namespace alone, and nothing of the machine's own state touched."""

from __future__ import annotations

import pytest

from portctl.command import Command
from tests.system import applying, worlds
from tests.system.test_remove import everything

pytestmark = pytest.mark.system

BLUE = ("--host", "netns://blue")


def test_apply_status_and_remove_in_a_network_namespace_leave_the_machine_alone() -> None:
    with worlds.machine() as machine:
        worlds.checked(machine, "ip", "netns", "add", "blue")
        # A machine with systemd: a guard as its timer would undo things in the wrong network.
        worlds.checked(machine, "mkdir", "-p", "/run/systemd/system", "/run/mount")
        machine.put("/root/policy.yaml", applying.FIRST.encode())
        before = everything(machine)
        said = applying.portctl(machine, "apply", "/root/policy.yaml", "--yes", *BLUE)
        assert said.status == 0, said.stderr
        assert "until the network namespace ends" in said.stderr
        assert "portctl" in worlds.checked(machine, "ip", "netns", "exec", "blue", "nft", "list", "tables")
        own = everything(machine).replace("portctl-netns", "")
        assert "portctl" not in worlds.checked(machine, "nft", "list", "ruleset")
        assert "etc/portctl/boot" not in own.replace("/blue/etc/portctl", "").replace("/blue/written/portctl", "")
        assert "In force: first" in applying.portctl(machine, "status", *BLUE).stdout
        assert "Nothing of portctl's" in applying.portctl(machine, "status").stdout
        assert applying.portctl(machine, "remove", "--yes", *BLUE).status == 0
        assert everything(machine) == before


def test_unconfirmed_the_guard_brings_the_old_rules_of_the_namespace_back() -> None:
    with worlds.machine() as machine:
        worlds.checked(machine, "ip", "netns", "add", "blue")
        machine.put("/root/policy.yaml", applying.FIRST.encode())
        stop = ("PORTCTL_TESTING=1", "PORTCTL_STOP_AT=load")
        words = ("apply", "/root/policy.yaml", "--yes", "--confirm-within", "3", *BLUE)
        assert applying.portctl(machine, *words, env=stop).status in (137, -9)
        rules = ("ip", "netns", "exec", "blue", "nft", "list", "tables")
        assert "portctl" in worlds.checked(machine, *rules)
        worlds.until(lambda: "portctl" not in worlds.checked(machine, *rules), "rolled back", 20)
        worlds.until(lambda: "rolled back" in applying.portctl(machine, "history", *BLUE).stdout, "recorded", 20)


def test_a_namespace_that_is_not_there_is_told() -> None:
    with worlds.machine() as machine:
        said = applying.portctl(machine, "status", "--host", "netns://red")
        assert said.status == 3
        assert "there is no network namespace called red" in said.stderr
        assert not machine.run(Command(("test", "-e", "/run/portctl-netns"))).ok
