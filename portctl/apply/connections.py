"""Live connections: those older than the first rules are let through, those that `block` forbids are ended."""

from __future__ import annotations

from collections.abc import Iterable

from portctl.apply.paths import RUN
from portctl.apply.steps import Refused
from portctl.backends import package
from portctl.backends.base import Backend
from portctl.command import Command, Host
from portctl.listeners import Connection
from portctl.templating import text

_START = """: >"${1%/open}/pending/opened"
cd "$1" && sh ./open.sh add <list || exit 1
if command -v daemon >/dev/null && [ "$(uname -s)" = FreeBSD ]; then exec daemon -f sh "$1/sweep.sh"; fi
setsid=$(command -v setsid)
$setsid sh "$1/sweep.sh" </dev/null >/dev/null 2>&1 &
"""


def lines(connections: Iterable[Connection]) -> str:
    """`FAMILY PROTOCOL LOCAL PORT PEER PORT` of each, sorted."""
    return "".join(
        sorted(
            f"{c.local.version} {c.protocol} {c.local} {c.local_port} {c.peer} {c.peer_port}\n"
            for c in connections
            if c.local.version == c.peer.version
        )
    )


def keep(host: Host, backend: Backend, connections: tuple[Connection, ...], run: str = RUN) -> None:
    """Lets connections through that the state tracker does not know, each until its socket closes or it is known.

    Done before the load, which keeps what is put here. Raises `Refused` where the packet filter refuses it.
    """
    wanted = lines(connections)
    if not wanted:
        return
    at = f"{run}/open"
    host.put(f"{at}/open.sh", text(f"{package(backend.NAME)}/open.sh").encode(), 0o700)
    host.put(f"{at}/sweep.sh", text("guard/sweep.sh").encode(), 0o700)
    host.put(f"{at}/list", wanted.encode(), 0o600)
    result = host.run(Command(("sh", "-c", _START, "sh", at)), 60.0)
    if not result.ok:
        raise Refused(f"the connections that are open now could not be let through: {result.stderr.strip()}")


def cut(host: Host, connections: tuple[Connection, ...]) -> list[str]:
    """Ends connections. Returns, in words, those that could not be ended; `block` starves them anyway."""
    wanted = lines(connections)
    if not wanted:
        return []
    return host.run(Command(("sh", "-c", text("guard/cut.sh")), stdin=wanted.encode()), 120.0).stdout.splitlines()
