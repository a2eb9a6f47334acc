"""Whatever is killed, and whenever: the host ends in the state before or in the confirmed one, within the window."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from portctl.command import Command
from portctl.hosts.namespaces import Room
from tests.system import applying, worlds

pytestmark = pytest.mark.system

BEFORE_THE_LOAD = ("lock", "begin", "check", "save", "plan", "record", "arm")
LOADED = ("load", "read-back", "loaded-{backend}", "loaded-sysctl")
CONFIRMED = ("decided", "persisted-1", "persisted-2", "persisted-4", "recorded")
WINDOW = 2
ENDED_BY = {"SIGKILL": (137, -9), "SIGHUP": (129, -1), "SIGTERM": (143, -15)}


def killed(machine: Room, backend: str, step: str, how: str = "SIGKILL") -> None:
    """Applies the second policy and is killed at a step."""
    env = ("PORTCTL_TESTING=1", f"PORTCTL_STOP_AT={step}", f"PORTCTL_STOP_BY={how}")
    said = applying.apply(machine, applying.SECOND, "--confirm-within", str(WINDOW), "--backend", backend, env=env)
    assert "-sysctl" in step or "loaded-" in step or said.status in ENDED_BY[how], (step, said)
    applying.settled(machine)


def each(backend: str, todo: list[Callable[[Room], None]], workers: int = 4) -> None:
    """Runs scenarios on machines that start with the first policy, one after the other on each."""

    def series(number: int) -> None:
        with worlds.machine(f"m{number}") as machine:
            applying.applied(machine, applying.FIRST, "--backend", backend)
            for scenario in todo[number::workers]:
                scenario(machine)

    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(series, range(workers)))


@pytest.mark.parametrize("backend", applying.BACKENDS)
def test_killed_before_the_confirmation_the_old_state_is_back(backend: str) -> None:
    def at(step: str, how: str) -> Callable[[Room], None]:
        def scenario(machine: Room) -> None:
            before = applying.state(machine)
            assert "3000" not in before
            killed(machine, backend, step, how)
            assert applying.state(machine) == before, f"{step}, {how}"

        return scenario

    # What lies before the load is the same for every back end.
    steps = [step.format(backend=backend) for step in (*(BEFORE_THE_LOAD if backend == "nftables" else ()), *LOADED)]
    todo = [at(step, "SIGKILL") for step in steps]
    todo += [at(step, how) for how in ("SIGHUP", "SIGTERM") for step in ("arm", "load")]
    each(backend, todo)


@pytest.mark.parametrize("backend", applying.BACKENDS)
def test_killed_after_the_confirmation_the_new_state_is_finished(backend: str) -> None:
    with worlds.machine() as machine:
        applying.applied(machine, applying.FIRST, "--backend", backend)
        applying.applied(machine, applying.SECOND, "--backend", backend)
        wanted = applying.state(machine)

    def at(step: str) -> Callable[[Room], None]:
        def scenario(machine: Room) -> None:
            applying.applied(machine, applying.FIRST, "--backend", backend)
            machine.put("/root/policy.yaml", applying.SECOND.encode())
            stop = ("PORTCTL_TESTING=1", "PORTCTL_STOP_AT=load")
            applying.portctl(machine, "apply", "/root/policy.yaml", "--yes", "--confirm-within", "20", env=stop)
            stop = ("PORTCTL_TESTING=1", f"PORTCTL_STOP_AT={step}")
            said = applying.portctl(machine, "confirm", env=stop)
            assert said.status != 0, (step, said)
            applying.settled(machine)
            assert applying.state(machine) == wanted, (step, said)
            told = applying.portctl(machine, "history")
            assert told.status == 0 and "confirmed" in told.stdout.splitlines()[-1], told

        return scenario

    each(backend, [at(step) for step in (CONFIRMED if backend == "nftables" else CONFIRMED[1:2])])


def test_the_guard_ignores_what_ends_sessions_and_outlives_its_starter() -> None:
    with worlds.machine() as machine:
        before = applying.state(machine)
        stop = ("PORTCTL_TESTING=1", "PORTCTL_STOP_AT=load")
        applying.apply(machine, applying.SECOND, "--confirm-within", "2", env=stop)
        assert applying.state(machine) != before
        guard = machine.run(Command(("sh", "-c", "cut -d' ' -f2 /run/portctl/pending/guard"))).stdout.strip()
        machine.run(Command(("sh", "-c", f"for s in HUP INT TERM; do kill -$s {guard} -{guard}; done")))
        applying.settled(machine)
        assert applying.state(machine) == before


def test_a_killed_guard_is_replaced_by_the_next_command() -> None:
    with worlds.machine() as machine:
        before = applying.state(machine)
        stop = ("PORTCTL_TESTING=1", "PORTCTL_STOP_AT=load")
        applying.apply(machine, applying.SECOND, "--confirm-within", "2", env=stop)
        machine.run(Command(("sh", "-c", "kill -9 -$(cut -d' ' -f2 /run/portctl/pending/guard)")))
        time.sleep(0.1)
        result = applying.apply(machine, applying.FIRST, "--dry-run")
        assert result.status == 0
        result = applying.portctl(machine, "rollback")
        assert result.status == 0, result.stderr
        assert applying.state(machine) == before
