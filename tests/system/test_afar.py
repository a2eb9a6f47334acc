"""`--host ssh://…`: whatever fails between here and there, the host ends in exactly the old or exactly the new
confirmed state, and portctl says in which."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from portctl.command import Command
from tests.system import afar, applying, worlds
from tests.system.applying import FIRST, SECOND
from tests.system.test_apply_ssh import CLOSED
from tests.system.worlds import World, checked

pytestmark = pytest.mark.system
NEEDS = ("sshd", "ssh", "sudo")
SHARED = pytest.mark.xdist_group("one world from afar")
"""For tests that ask for `shared`: one process makes it for all of them."""


def begun(made: World) -> World:
    """The first policy is in force on the machine, applied from afar."""
    first = afar.apply(made.controller, FIRST)
    assert first.status == 0, first.stdout + first.stderr
    # The connection that came before there was any rule is let through until the state tracker knows it.
    swept = Command(("test", "!", "-e", "/run/portctl/open"))
    worlds.until(lambda: made.machine.run(swept).ok, "the sweep has ended", 30)
    return made


@pytest.fixture
def world() -> Iterator[World]:
    with afar.world() as made:
        yield begun(made)


@pytest.fixture(scope="module")
def kept() -> Iterator[tuple[World, set[str]]]:
    """A world, and the states of its machine with the first policy in force."""
    with afar.world() as made:
        yield begun(made), {applying.state(made.machine)}


@pytest.fixture
def shared(kept: tuple[World, set[str]]) -> World:
    """As `world`, for tests that leave a machine on which all can be applied."""
    made, first = kept
    applying.settled(made.machine, 60)
    if applying.state(made.machine) not in first:
        assert afar.apply(made.controller, FIRST).status == 0
        first.add(applying.state(made.machine))
    return made


def new_state(world: World) -> str:
    """What the machine is with the second policy; it is the first one's again afterwards."""
    assert afar.apply(world.controller, SECOND).status == 0
    found = applying.state(world.machine)
    assert afar.apply(world.controller, FIRST).status == 0
    return found


@SHARED
def test_all_commands_work_and_the_confirmation_comes_over_a_new_connection(shared: World) -> None:
    controller, machine = shared.controller, shared.machine
    assert "over a new connection from 192.0.2.1" in afar.portctl(controller, "history").stdout
    assert "root@controller" in afar.portctl(controller, "history").stdout
    again = afar.apply(controller, FIRST)
    assert again.status == 0 and "Nothing to do" in again.stderr
    assert afar.portctl(controller, "plan", "/root/policy.yaml", "--exit-code").status == 0
    assert afar.portctl(controller, "status").stdout.startswith("In force: first")
    verified = afar.portctl(controller, "verify", "/root/policy.yaml")
    assert "ssh" not in verified.stdout.replace("/root/.ssh", "") and "not-listening" in verified.stdout
    explained = afar.portctl(controller, "explain", "--to", "22/tcp", "--from", "192.0.2.1")
    assert explained.status == 0 and "listening: sshd on" in explained.stdout
    facts = afar.portctl(controller, "facts").stdout
    assert "192.0.2.10" in facts and "nftables" in facts
    assert "name: machine" in afar.portctl(controller, "init").stdout
    assert "everything:" in afar.portctl(controller, "import").stdout
    compared = afar.portctl(controller, "diff", "host", "/root/policy.yaml")
    assert compared.status == 0 and "the meaning does not" in compared.stdout
    before = applying.state(machine)
    assert afar.portctl(controller, "rollback").status == 0
    assert applying.state(machine) != before


@SHARED
def test_a_policy_that_would_lock_the_controller_out_is_refused(shared: World) -> None:
    before = applying.state(shared.machine)
    said = afar.apply(shared.controller, CLOSED)
    assert said.status == 3
    assert "You came by ssh from 192.0.2.1" in said.stdout
    assert "locked out" in said.stderr
    assert applying.state(shared.machine) == before


@SHARED
def test_locked_out_all_the_same_no_new_connection_comes_and_the_old_rules_are_back(shared: World) -> None:
    before = applying.state(shared.machine)
    said = afar.apply(shared.controller, CLOSED, "--allow-lockout", "--confirm-within", "8")
    assert said.status == 4, said.stderr
    assert "no new connection yet" in said.stderr
    assert "the old rules are back" in said.stderr
    assert applying.state(shared.machine) == before


@SHARED
@pytest.mark.parametrize("step", ["lock", "save", "plan", "record", "arm", "load", "read-back", "loaded-nftables"])
def test_a_controller_that_is_killed_before_the_confirmation_leaves_the_old_state(shared: World, step: str) -> None:
    before = applying.state(shared.machine)
    env = ("PORTCTL_TESTING=1", f"PORTCTL_STOP_AT={step}")
    said = afar.apply(shared.controller, SECOND, "--confirm-within", "3", env=env)
    assert said.status == (3 if step.startswith("loaded-") else 137), said.stderr
    applying.settled(shared.machine)
    assert applying.state(shared.machine) == before
    # The lock went with the connection: the next one is not kept waiting.
    assert afar.apply(shared.controller, SECOND).status == 0


@SHARED
def test_a_controller_that_is_killed_after_the_confirmation_leaves_the_new_state(shared: World) -> None:
    wanted = new_state(shared)
    env = ("PORTCTL_TESTING=1", "PORTCTL_STOP_AT=decided")
    said = afar.apply(shared.controller, SECOND, "--confirm-within", "20", env=env)
    assert said.status == 137
    afar.rolled_back(shared.machine)
    assert applying.state(shared.machine) == wanted
    assert "confirmed" in afar.portctl(shared.controller, "history").stdout.splitlines()[-1]


def test_the_network_is_cut_after_the_load(world: World) -> None:
    before = applying.state(world.machine)
    with afar.stopped(world.controller, "read-back", SECOND, "--confirm-within", "5") as process:
        afar.cable(world, "down")
        afar.rolled_back(world.machine)
        assert applying.state(world.machine) == before
    afar.cable(world, "up")
    status, said = afar.said(process)
    assert status == 4
    assert "the old rules are back" in said
    assert applying.state(world.machine) == before


def test_the_network_is_cut_after_the_confirmation(world: World) -> None:
    wanted = new_state(world)
    with afar.stopped(world.controller, "decided", SECOND, "--confirm-within", "30") as process:
        afar.cable(world, "down")
        afar.rolled_back(world.machine)
        assert applying.state(world.machine) == wanted
    afar.cable(world, "up")
    status, said = afar.said(process)
    assert status == 0, said
    assert "Confirmed. It is in force" in said
    assert applying.state(world.machine) == wanted


def test_the_network_is_cut_before_the_load_and_stays_so(world: World) -> None:
    before = applying.state(world.machine)
    with afar.stopped(world.controller, "save", SECOND) as process:
        afar.cable(world, "down")
    status, said = afar.said(process)
    assert status == 3
    assert "cannot be reached" in said
    assert "Nothing was changed there: the old rules are in force." in said
    afar.cable(world, "up")
    assert applying.state(world.machine) == before


KILL_SSHD = "kill $(pgrep sshd)"


def test_sshd_is_killed_after_the_load(world: World) -> None:
    machine = world.machine
    before = applying.state(machine)
    with afar.stopped(world.controller, "read-back", SECOND, "--confirm-within", "5") as process:
        checked(machine, "sh", "-c", KILL_SSHD)
        afar.rolled_back(machine)
        checked(machine, "/usr/sbin/sshd", "-f", "/etc/ssh/test_sshd_config")
    status, said = afar.said(process)
    assert status == 4
    assert "the old rules are back" in said
    assert applying.state(machine) == before


def test_sshd_is_killed_before_the_load(world: World) -> None:
    machine = world.machine
    before = applying.state(machine)
    with afar.stopped(world.controller, "plan", SECOND) as process:
        checked(machine, "sh", "-c", KILL_SSHD)
    status, said = afar.said(process)
    assert status == 3
    assert "Nothing was changed there" in said
    assert applying.state(machine) == before


@pytest.mark.parametrize("place", ["/var/lib/portctl", "/etc/portctl"])
def test_a_full_disk_is_told_and_nothing_changes(world: World, place: str) -> None:
    machine = world.machine
    small = (
        f"cp -a {place} /root/kept && mount -t tmpfs -o size=1m,mode=755 small {place} && cp -a /root/kept/. {place}"
    )
    checked(machine, "sh", "-c", small)
    machine.run(Command(("dd", "if=/dev/zero", f"of={place}/filler", "bs=4k")))
    before = applying.state(machine).replace("filler", "")
    said = afar.apply(world.controller, SECOND)
    assert said.status == 3, said.stderr
    assert "No space left" in said.stderr or "cannot be written" in said.stderr
    assert applying.state(machine).replace("filler", "") == before
    checked(machine, "rm", f"{place}/filler")
    assert afar.apply(world.controller, SECOND).status == 0


def test_a_read_only_etc_is_told_and_nothing_changes(world: World) -> None:
    machine = world.machine
    before = applying.state(machine)
    checked(machine, "mount", "-o", "remount,bind,ro", "/etc")
    said = afar.apply(world.controller, SECOND)
    assert said.status == 3, said.stderr
    assert "/etc/portctl/boot cannot be written" in said.stderr
    assert applying.state(machine) == before


def test_two_controllers_at_once_do_not_mix(world: World) -> None:
    other = world.join("other", "192.0.2.2/24", "2001:db8::2/64")
    afar.ready(world, other)
    wanted = new_state(world)
    with afar.stopped(world.controller, "plan", SECOND) as process:
        said = afar.apply(other, FIRST.replace("2000", "2222"))
        assert said.status == 3
        assert "another apply is under way: root@controller holds the lock" in said.stderr
        waits = afar.start(other, FIRST.replace("2000", "2222"), "--wait", "60")
    status, told = afar.said(process)
    assert status == 0, told
    status, told = afar.said(waits)
    assert status == 0, told
    names = [line.split()[-3] for line in afar.portctl(other, "history").stdout.splitlines()]
    assert names[-2:] == ["second", "first"]
    assert afar.portctl(other, "rollback").status == 0
    # What the boot would fall back to is the state that was taken back.
    assert applying.state(world.machine).replace("2222", "2000") == wanted


def test_a_controller_that_was_silent_for_too_long_has_lost_its_lock_and_is_told(world: World) -> None:
    machine = world.machine
    with afar.stopped(world.controller, "plan", SECOND) as process:
        checked(machine, "sh", "-c", "touch -d '20 minutes ago' /run/portctl/beat.*")
        assert afar.apply(world.controller, FIRST.replace("2000", "2222")).status == 0
        between = applying.state(machine)
    status, said = afar.said(process)
    assert status == 3
    assert "idle for too long" in said
    assert applying.state(machine) == between


@SHARED
def test_by_hand_portctl_waits_for_a_confirmation_from_elsewhere(shared: World) -> None:
    process = afar.start(shared.controller, SECOND, "--by-hand", "--confirm-within", "60")
    loaded = Command(("test", "-e", "/run/portctl/pending/loaded"))
    worlds.until(lambda: shared.machine.run(loaded).ok, "loaded", 40)
    confirmed = afar.portctl(shared.controller, "confirm")
    assert confirmed.status == 0, confirmed.stderr
    assert "over a new connection from 192.0.2.1" in confirmed.stderr
    status, said = afar.said(process)
    assert status == 0
    assert f"portctl confirm --host {afar.TARGET}" in said
