"""Sockets from netstat: of the BSDs and macOS (`netstat -an`, `-anW`, `-anv`), and of Linux (`netstat -tulpn`).

The BSDs write `tcp4 *.22`, and `tcp46 *.80` for a dual stack socket; OpenBSD writes `tcp` and `tcp6`, as its IPv6
sockets never take IPv4. With `-v` macOS names the owner, as a number (`pid`), or in newer versions as `process:pid`.
Linux writes `tcp6 :::80` for any IPv6 wildcard.
"""

from __future__ import annotations

import re

from portctl.listeners.sockets import OTHER, PROTOCOLS, STATES, TCP, End, Socket, end

LINUX_LISTENERS: tuple[str, ...] = ("netstat", "-tulpnW")
LINUX_CONNECTIONS: tuple[str, ...] = ("netstat", "-tunpW")

_BSD = re.compile(r"^(tcp|udp)(4|6|46|)\s+\d+\s+\d+\s+(\S+)\s+(\S+)(?:\s+([A-Z][A-Z_0-9]+))?(.*)$")
_NAMED = re.compile(r"^(?:\s+\d+){4}\s*(.*?):(\d+)\s")
_LINUX = re.compile(r"^(tcp|udp)(6?)\s+\d+\s+\d+\s+(\S+):(\d+|\*)\s+(\S+):(\d+|\*)\s+([A-Z][A-Z_0-9]*\b)?\s*(.*)$")
_OWNER = re.compile(r"^(?:\d+\s+\d+\s+)?(\d+)/(.*?)\s*$")


def sockets(output: str) -> list[Socket]:
    """The sockets in what the netstat of a BSD or of macOS printed; its other tables are passed over."""
    found: list[Socket] = []
    columns: list[str] = []
    for line in output.splitlines():
        if line.startswith("Proto"):
            columns = line.partition("(state)")[2].split()
        words = _BSD.match(line)
        if words is None:
            continue
        protocol, family, local, peer, state, rest = words.groups()
        process, pid = _owner(rest, columns)
        six = family in ("6", "46") or ":" in local
        found.append(
            Socket(
                protocol=PROTOCOLS[protocol],
                family=6 if six else 4,
                local=_end(local),
                peer=_end(peer),
                state=STATES.get(state, state) if state else OTHER,
                dual=family == "46",
                process=process,
                pid=pid,
            )
        )
    return found


def _end(text: str) -> End:
    address, _, port = text.rpartition(".")
    return end(address, port)


def _owner(rest: str, columns: list[str]) -> tuple[str | None, int | None]:
    if "process:pid" in columns and (named := _NAMED.match(rest)):
        return named[1].strip() or None, int(named[2])
    if "pid" in columns and len(words := rest.split()) > (at := columns.index("pid")) and words[at].isdigit():
        return None, int(words[at])
    return None, None


def linux(output: str) -> list[Socket]:
    """The sockets in what the netstat of Linux printed. Raises ValueError for a line that is none."""
    found = []
    for line in output.splitlines():
        if not line.startswith(("tcp", "udp")):
            continue
        words = _LINUX.match(line)
        if words is None:
            raise ValueError(f"netstat printed something that is no socket: {line[:160]!r}")
        protocol, six, address, port, far, far_port, state, rest = words.groups()
        owner = _OWNER.match(rest)
        listening = PROTOCOLS[protocol] == TCP or state != "ESTABLISHED"
        found.append(
            Socket(
                protocol=PROTOCOLS[protocol],
                family=6 if six else 4,
                local=end(address, port),
                peer=end(far, far_port),
                state=STATES.get(state or "", state or OTHER) if listening else OTHER,
                dual=None if six else False,
                process=owner[2].partition(":")[0] if owner else None,
                pid=int(owner[1]) if owner else None,
            )
        )
    return found
