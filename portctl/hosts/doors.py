"""How to get to a host: the command that starts a shell there, with its streams as pipes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from portctl.command import HostError
from portctl.hosts import process
from portctl.hosts.target import Target
from portctl.templating import text

FIRST = """exec /bin/sh -c 'read -r n && eval "$(dd bs=1 count="$n" 2>/dev/null)"'"""
"""What the host's own shell, whichever it is, is told: go on with the script on standard input. The login shell of a
person may be csh or fish: one line, single quotes, no exclamation mark."""

SSH = (
    *("ssh", "-T", "-a", "-x", "-C"),
    *("-o", "ControlMaster=no", "-o", "ControlPath=none"),
    *("-o", "ClearAllForwardings=yes", "-o", "RemoteCommand=none", "-o", "PermitLocalCommand=no"),
    *("-o", "ServerAliveInterval=5", "-o", "ServerAliveCountMax=6"),
)
"""A connection of its own, shared with nothing, that notices within 30 s when the other side is gone; compressed, as
what is listed is as long as what was loaded. All else, and above all how the host proves who it is, is as the person's
ssh configuration says."""

SOON = ("-o", "ConnectTimeout=5")
"""For a connection that is tried again and again: sshd has to answer at once, or the rules keep us out."""


@contextmanager
def opened(target: Target) -> Iterator[tuple[str, ...]]:
    """The command of a target's door. Each run of it is a new connection. Raises `HostError`."""
    if target.kind == "vagrant":
        with _vagrant(target.name) as found:
            yield found
        return
    try:
        yield _ON_THIS_MACHINE[target.kind](target.name) if target.kind in _ON_THIS_MACHINE else _ssh(target)
    finally:
        if target.kind == "netns":
            process.run(("sh", "-c", text("door/netns-clear.sh"), "netns", target.name), timeout=30.0)


def _ssh(target: Target) -> tuple[str, ...]:
    port = ("-p", str(target.port)) if target.port else ()
    user = ("-l", target.user) if target.user else ()
    return (*SSH, *port, *user, "--", target.name, FIRST)


def _docker(name: str, program: str = "docker") -> tuple[str, ...]:
    return (program, "exec", "-i", "-u", "0", name, "/bin/sh", "-c", FIRST)


def _podman(name: str) -> tuple[str, ...]:
    return _docker(name, "podman")


def _namespace(name: str) -> tuple[str, ...]:
    """A network namespace has the machine's files: a part of these is covered, so that nothing of the machine's own
    state is touched, and nothing is left for its boot."""
    return ("sh", "-c", text("door/netns.sh"), "netns", name, FIRST)


_ON_THIS_MACHINE = {"docker": _docker, "podman": _podman, "netns": _namespace}


@contextmanager
def _vagrant(machine: str) -> Iterator[tuple[str, ...]]:
    """By the configuration that Vagrant says is the machine's, in the folder where portctl was started."""
    argv = ("vagrant", "ssh-config", *((machine,) if machine else ()))
    said = process.run(("env", f"PATH={process.persons_path()}", *argv), timeout=120.0)
    if not said.ok:
        lines = (said.stderr.strip() or said.stdout.strip()).splitlines()
        raise HostError(f"`{' '.join(argv)}` said: {lines[0] if lines else f'status {said.status}'}")
    names = [words[1] for words in map(str.split, said.stdout.splitlines()) if len(words) == 2 and words[0] == "Host"]
    if len(names) != 1:
        raise HostError(f"Vagrant has {len(names) or 'no'} machines here: name one of them, vagrant://MACHINE")
    with TemporaryDirectory(prefix="portctl-vagrant-") as folder:
        path = Path(folder) / "config"
        path.write_text(said.stdout, encoding="utf-8")
        yield (*SSH, "-F", str(path), "--", names[0], FIRST)
