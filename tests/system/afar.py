"""What the tests of `--host ssh://…` share: a controller that knows the machine's host key, and portctl run there.

`stopped` begins an apply and halts it at a step, so that a test can break something at exactly that moment.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from portctl.command import Command, Result
from portctl.hosts.namespaces import Room
from tests.system import forked, worlds
from tests.system.worlds import World, checked

TARGET = "ssh://root@192.0.2.10"
PORTCTL = (sys.executable, "-m", "portctl")
CONFIG = """\
Host *
  IdentityFile /etc/ssh/test_key
  IdentitiesOnly yes
  StrictHostKeyChecking yes
  UserKnownHostsFile /root/.ssh/known_hosts
"""


@contextmanager
def world() -> Iterator[World]:
    """A machine with sshd, and a controller whose root knows it by its key."""
    with worlds.world() as made:
        made.start_sshd()
        ready(made, made.controller)
        yield made


def ready(made: World, controller: Room) -> None:
    """Lets root of a room reach the machine by ssh, as a person would have set it up."""
    if controller is not made.controller:
        for name in ("test_key", "test_key.pub"):
            key = checked(made.controller, "cat", f"/etc/ssh/{name}")
            controller.put(f"/etc/ssh/{name}", key.encode(), 0o600)
    key = checked(made.machine, "cat", "/etc/ssh/test_host_key.pub")
    controller.put("/root/.ssh/known_hosts", f"192.0.2.10,2001:db8::10 {key}".encode())
    controller.put("/root/.ssh/config", CONFIG.encode(), 0o600)


def portctl(controller: Room, *words: str, env: Sequence[str] = (), timeout: float = 240) -> Result:
    """Runs a command of portctl on the controller, about the machine."""
    return forked.run(controller, (*words, "--host", TARGET), env, timeout)


def apply(controller: Room, policy: str, *words: str, env: Sequence[str] = ()) -> Result:
    controller.put("/root/policy.yaml", policy.encode())
    return portctl(controller, "apply", "/root/policy.yaml", "--yes", *words, env=env)


def start(controller: Room, policy: str, *words: str, env: Sequence[str] = ()) -> subprocess.Popen[bytes]:
    """Begins an apply, its streams as pipes."""
    controller.put("/root/policy.yaml", policy.encode())
    argv = ("env", *env, *PORTCTL, "apply", "/root/policy.yaml", "--yes", "--host", TARGET, *words)
    return controller.start(argv)


@contextmanager
def stopped(controller: Room, step: str, policy: str, *words: str) -> Iterator[subprocess.Popen[bytes]]:
    """An apply that stands still at a step while the body runs; it goes on afterwards, and is to be ended by `said`."""
    env = ("PORTCTL_TESTING=1", f"PORTCTL_STOP_AT={step}", "PORTCTL_STOP_BY=SIGSTOP")
    process = start(controller, policy, *words, env=env)
    inside = ("sh", "-c", "pgrep -f -- '-m portctl apply' | head -n 1")
    pid = ""

    def halted() -> bool:
        nonlocal pid
        pid = controller.run(Command(inside)).stdout.strip()
        return controller.run(Command(("grep", "-q", "^State:.T", f"/proc/{pid or 0}/status"))).ok

    worlds.until(halted, f"apply stands still at {step}", 60)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGCONT)  # nsenter(1), which stopped with its child, and wakes it first


def said(process: subprocess.Popen[bytes], seconds: float = 120) -> tuple[int, str]:
    """The exit status of an apply and all that it told."""
    out, err = process.communicate(timeout=seconds)
    return process.returncode, (out + err).decode()


def cable(made: World, state: str) -> None:
    """Takes the machine's wire `down`, or `up` again."""
    checked(made.controller, "ip", "link", "set", "port-machine", state)


def rolled_back(machine: Room, seconds: float = 40) -> None:
    """Waits until the guard on the machine has done its work."""
    end = time.monotonic() + seconds
    while machine.run(Command(("test", "-e", "/run/portctl/pending"))).ok:
        assert time.monotonic() < end, machine.run(Command(("ls", "-lR", "/run/portctl"))).stdout
        time.sleep(0.2)
