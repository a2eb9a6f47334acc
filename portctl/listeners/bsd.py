"""Who listens on a FreeBSD, OpenBSD or macOS host: all its tools are asked in one round trip, the best answer is read.

FreeBSD: sockstat, else netstat. OpenBSD: netstat, with the owners that fstat names. macOS: netstat, with owners that it
or lsof names. Where none of them told, lsof alone, but only as root: to others it shows their own sockets.
"""

from __future__ import annotations

from contextlib import suppress

from portctl.listeners import Connection, Listener, fstat, lsof, netstat, sockets, sockstat
from portctl.listeners.proc import sections
from portctl.listeners.sockets import Socket

ASK = r"""say() { printf '\001%s\n' "$1"; }
say system; uname -s
say netstat; case $(uname -s) in OpenBSD) netstat -anv || netstat -an ;; Darwin) netstat -anvW || netstat -anv ;;
*) netstat -anW || netstat -an ;; esac
say waiting; sockstat -46lw || sockstat -46l
say connected; sockstat -46cw || sockstat -46c
say fstat; [ "$(uname -s)" != OpenBSD ] || fstat
say lsof; lsof -Pnl +M +c 15 -i
say passwd; cat /etc/passwd
"""
"""A script for sh that prints what `read` reads."""
SNAPSHOT = "netstat"
"""The part of an answer that the guard keeps of the moment of a load."""


def read(answer: str, everybody: bool = False) -> tuple[tuple[Listener, ...] | None, tuple[Connection, ...] | None]:
    """Listeners and connections in the answer to `ASK`; None where no tool told. `everybody`: see `ss.listeners`."""
    parts = sections(answer)
    found = _sockets(parts, everybody)
    if found is None:
        return None, None
    # Only where somebody told of owners is a socket without one the kernel's.
    kernel = everybody and any(each.process for each in found)
    told = sockets.listeners(found, kernel, sockets.passwd(parts.get("passwd", "")))
    return told, sockets.connections(found)


def _sockets(parts: dict[str, str], everybody: bool) -> list[Socket] | None:
    never = parts.get("system", "").strip() == "OpenBSD"
    owners = fstat.sockets(parts.get("fstat", ""))
    open_files: list[Socket] = []
    with suppress(ValueError):
        open_files = lsof.sockets(parts.get("lsof", ""), never)
    try:
        stat = sockstat.sockets(parts.get("waiting", "")) + sockstat.sockets(parts.get("connected", ""))
    except ValueError:
        stat = []
    if stat:
        return stat
    if listed := netstat.sockets(parts.get("netstat", "")):
        return sockets.with_owners(listed, owners + open_files)
    return open_files if everybody and open_files else None


def then(snapshot: str) -> tuple[Connection, ...]:
    """The connections in a snapshot of the guard, also half-open ones."""
    return sockets.connections(netstat.sockets(sections(snapshot).get(SNAPSHOT, "")), half_open=True)
