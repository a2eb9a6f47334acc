"""More moments at which an apply may die: by each signal, the first one of a host, and while its guard is at work."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

import pytest

from portctl.command import Command, Result
from portctl.hosts.namespaces import Room
from tests.system import applying, worlds
from tests.system.test_apply_kills import BEFORE_THE_LOAD, LOADED, WINDOW, each, killed

pytestmark = pytest.mark.system

SIGNALS = ("SIGHUP", "SIGTERM")
LONG = "40"
"""Seconds of a window that no scenario waits for: somebody else has to act."""

Scenario = Callable[[Room], None]


def side_by_side(todo: Iterable[Callable[[], None]]) -> None:
    """Runs what makes its machines itself, four at a time."""
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda scenario: scenario(), todo))


def stop(step: str, how: str = "SIGKILL") -> tuple[str, ...]:
    return "PORTCTL_TESTING=1", f"PORTCTL_STOP_AT={step}", f"PORTCTL_STOP_BY={how}"


def prepared(machine: Room, backend: str, first: bool) -> None:
    """A machine that shows systemd's folder, so that a unit is written; `first`: nothing was ever applied to it."""
    worlds.checked(machine, "mkdir", "-p", "/run/systemd/system")
    if not first:
        applying.applied(machine, applying.FIRST, "--backend", backend)


def loaded(machine: Room, backend: str) -> None:
    """The second policy is loaded and pending, its apply is dead, its guard lives."""
    words = ("--confirm-within", LONG, "--backend", backend)
    said = applying.apply(machine, applying.SECOND, *words, env=stop("load"))
    assert "3000" in applying.state(machine), said


def outcome(machine: Room) -> str:
    """How the last apply ended, as people see it."""
    return applying.portctl(machine, "history").stdout.splitlines()[-1]


def shoot_the_guard(machine: Room) -> None:
    worlds.checked(machine, "sh", "-c", "kill -9 -$(cut -d' ' -f2 /run/portctl/pending/guard)")


def guard_again(machine: Room, step: str = "") -> Result:
    """What a timer of systemd's runs when the window ends; it dies at a step."""
    line = "exec sh /run/portctl/pending/guard.sh expire $(cat /run/portctl/pending/lock)"
    return machine.run(Command(("env", *(stop(step) if step else ()), "sh", "-c", line)), 60)


@pytest.mark.parametrize("backend", applying.BACKENDS)
def test_ended_by_a_signal_before_the_confirmation_the_old_state_is_back(backend: str) -> None:
    def at(step: str, how: str) -> Scenario:
        def scenario(machine: Room) -> None:
            before = applying.state(machine)
            killed(machine, backend, step, how)
            assert applying.state(machine) == before, f"{step}, {how}"

        return scenario

    steps = (*(BEFORE_THE_LOAD[:-1] if backend == "nftables" else ()), "read-back")
    each(backend, [at(step, how) for step in steps for how in SIGNALS])


@pytest.mark.parametrize("backend", applying.BACKENDS)
def test_a_first_apply_that_is_killed_leaves_nothing(backend: str) -> None:
    def at(step: str, how: str) -> Scenario:
        def scenario(machine: Room) -> None:
            before = applying.state(machine)
            killed(machine, backend, step, how)
            assert applying.state(machine) == before, f"{step}, {how}"
            boot = "find /etc/portctl /etc/systemd/system /etc/sysctl.d -name '*portctl*'"
            assert machine.run(Command(("sh", "-c", boot))).stdout == "", f"{step}, {how}"

        return scenario

    steps = [step.format(backend=backend) for step in (*(BEFORE_THE_LOAD if backend == "nftables" else ()), *LOADED)]
    todo = [at(step, "SIGKILL") for step in steps]
    todo += [at("load", how) for how in (SIGNALS if backend == "nftables" else ())]

    def series(number: int) -> None:
        with worlds.machine(f"m{number}") as machine:
            prepared(machine, backend, first=True)
            for scenario in todo[number::4]:
                scenario(machine)

    side_by_side([functools.partial(series, number) for number in range(4)])


def confirmed(backend: str, first: bool) -> str:
    """The state of a machine to which the second policy was applied undisturbed."""
    with worlds.machine() as machine:
        prepared(machine, backend, first)
        applying.applied(machine, applying.SECOND, "--backend", backend)
        return applying.state(machine)


AFTER = {
    ("nftables", "first"): ("decided", "persisted-1", "persisted-4", "recorded"),
    ("nftables", "second"): ("persisted-3", "persisted-5", "persisted-6"),  # the others have a test elsewhere
    ("iptables", "second"): ("persisted-2", "persisted-3", "persisted-4", "recorded"),
}
"""Lines of the manifest: the bundle, the one before, boot.sh, the settings, systemd's unit, the link to it."""


@pytest.mark.parametrize(("backend", "nth"), AFTER)
def test_killed_after_the_confirmation_the_new_state_is_finished(backend: str, nth: str) -> None:
    first = nth == "first"
    wanted = confirmed(backend, first)
    assert "portctl-boot.service" in wanted

    def at(step: str, how: str, at_once: bool) -> None:
        with worlds.machine() as machine:
            prepared(machine, backend, first)
            if at_once:
                words = ("--confirm-within", "0", "--backend", backend)
                said = applying.apply(machine, applying.SECOND, *words, env=stop(step, how))
            else:
                loaded(machine, backend)
                said = applying.portctl(machine, "confirm", env=stop(step, how))
            assert said.status != 0, (step, how, said)
            applying.settled(machine)
            assert applying.state(machine) == wanted, (step, how, said)
            assert "confirmed" in outcome(machine), (step, how)

    todo = [(step, "SIGKILL", False) for step in AFTER[backend, nth]]
    if first:
        todo += [("decided", how, at_once) for how in SIGNALS for at_once in (False, True)]
        todo += [("persisted-2", "SIGKILL", True)]
    side_by_side([functools.partial(at, *one) for one in todo])


@pytest.mark.parametrize("backend", applying.BACKENDS)
def test_whoever_takes_an_apply_back_and_is_killed_the_guard_takes_it_back(backend: str) -> None:
    def interrupted(machine: Room, step: str, how: str) -> None:
        """Ctrl-C while the confirmation is awaited."""
        machine.put("/root/policy.yaml", applying.SECOND.encode())
        words = ("apply", "/root/policy.yaml", "--yes", "--confirm-within", LONG, "--backend", backend)
        running = machine.start(("env", *stop(step, how), sys.executable, "-m", "portctl", *words))
        worlds.until(lambda: machine.run(Command(("pgrep", "-f", "sh -s -- wait_for"))).ok, "it waits", 60)
        worlds.checked(machine, "sh", "-c", "kill -INT $(readlink /run/portctl/lock.* | cut -d: -f1)")
        assert running.wait(60) != 0

    def taken_back(machine: Room, step: str, how: str) -> None:
        loaded(machine, backend)
        said = applying.portctl(machine, "rollback", env=stop(step, how))
        assert said.status != 0, (step, said)

    def at(way: Callable[[Room, str, str], None], step: str, how: str = "SIGKILL") -> Scenario:
        def scenario(machine: Room) -> None:
            before = applying.state(machine)
            way(machine, step, how)
            applying.settled(machine)
            assert applying.state(machine) == before, (way, step, how)
            assert "rolled back" in outcome(machine), (way, step, how)

        return scenario

    todo = [at(interrupted, "undo"), at(taken_back, f"undone-{backend}")]
    if backend == "nftables":
        todo += [at(interrupted, "undone-sysctl"), *(at(interrupted, "undo", how) for how in SIGNALS)]
    each(backend, todo, 3)


@pytest.mark.parametrize("backend", applying.BACKENDS)
def test_a_guard_killed_while_it_undoes_is_followed_by_another_or_by_the_next_command(backend: str) -> None:
    def half_undone(machine: Room, step: str) -> None:
        loaded(machine, backend)
        shoot_the_guard(machine)
        assert guard_again(machine, step).status in (137, -9), step

    def shot_in_the_midst(machine: Room, part: str) -> None:
        """The guard itself dies, by the script with which it loads a part of the old state."""
        words = ("--confirm-within", str(WINDOW), "--backend", backend)
        applying.apply(machine, applying.SECOND, *words, env=stop("load"))
        shot = "mkdir /run/portctl/pending/shot 2>/dev/null \\&\\& { kill -9 $PPID; exit 1; }"
        worlds.checked(machine, "sed", "-i", f"1s|$|\\n{shot}|", f"/run/portctl/pending/old/{part}/load.sh")
        worlds.until(lambda: machine.run(Command(("test", "-d", "/run/portctl/pending/shot"))).ok, "the guard was shot")

    def another(machine: Room) -> None:
        assert guard_again(machine).status == 0

    def next_command(machine: Room) -> None:
        said = applying.portctl(machine, "confirm")
        assert said.status == 3, said
        said = applying.apply(machine, applying.FIRST, "--confirm-within", "0", "--backend", backend)
        assert said.status == 0, said

    def at(way: Callable[[Room, str], None], where: str, then: Callable[[Room], None]) -> Scenario:
        def scenario(machine: Room) -> None:
            before = applying.state(machine)
            way(machine, where)
            then(machine)
            applying.settled(machine)
            assert applying.state(machine) == before, (where, then)
            assert "rolled back" in outcome(machine), (where, then)

        return scenario

    todo = [at(half_undone, "undone-sysctl", next_command), at(shot_in_the_midst, backend, next_command)]
    if backend == "nftables":
        todo += [at(half_undone, "undone-nftables", another), at(shot_in_the_midst, "sysctl", next_command)]
    each(backend, todo)


def test_a_guard_killed_while_it_finishes_is_followed_by_another_or_by_the_next_command() -> None:
    wanted = confirmed("nftables", first=False)

    def at(step: str, again: bool) -> None:
        with worlds.machine() as machine:
            prepared(machine, "nftables", first=False)
            loaded(machine, "nftables")
            said = applying.portctl(machine, "confirm", env=stop("persisted-1"))
            assert said.status != 0, said
            shoot_the_guard(machine)
            assert guard_again(machine, step).status in (137, -9), step
            if again:
                assert guard_again(machine).status == 0
            else:
                said = applying.apply(machine, applying.SECOND, "--confirm-within", "0", "--backend", "nftables")
                assert said.status == 0, said
            applying.settled(machine)
            assert applying.state(machine) == wanted, (step, again)
            assert "confirmed" in outcome(machine), (step, again)

    todo = [("persisted-2", True), ("persisted-5", False), ("recorded", False)]
    side_by_side([functools.partial(at, *one) for one in todo])


@pytest.mark.parametrize("decision", ["confirmed", "undone"])
def test_a_rollback_after_the_guard_died_takes_back_that_apply_and_none_before_it(decision: str) -> None:
    with worlds.machine() as machine:
        prepared(machine, "nftables", first=False)
        before = applying.state(machine)
        loaded(machine, "nftables")
        if decision == "confirmed":
            assert applying.portctl(machine, "confirm", env=stop("decided")).status != 0
        shoot_the_guard(machine)
        if decision == "undone":
            assert guard_again(machine, "undone-sysctl").status in (137, -9)
        said = applying.portctl(machine, "rollback")
        assert said.status == 0, said
        assert rules(applying.state(machine)) == rules(before), said


def rules(state: str) -> list[str]:
    """The rules and settings of a state in whatever order; a way back keeps the bundle before it for the next boot."""
    return sorted(state.partition("\n/etc/")[0].splitlines())
