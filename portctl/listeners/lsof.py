"""Sockets from `lsof -Pnl +M -i`, of any system.

Without root it lists the caller's own processes alone: what it leaves out is not closed. It does not tell whether an
IPv6 wildcard takes IPv4. Blanks in a process's name are written `\\x20`; `+M` puts the name of a registered RPC
program behind the port.
"""

from __future__ import annotations

import re

from portctl.listeners.sockets import OTHER, PROTOCOLS, STATES, Socket, end

ASK: tuple[str, ...] = ("lsof", "-Pnl", "+M", "+c", "15", "-i")
_LINE = re.compile(
    r"^(\S+)\s+(\d+)\s+(\S+)\s+\S+\s+IPv([46])\s+(\S+)\s+\S+\s+(TCP|UDP)\s+(\S+?)(?:->(\S+))?(?:\s+\((\S+)\))?\s*$"
)
_END = re.compile(r"^(\*|\[[^\]]+\]|[^:\[]+):(\d+|\*)(?:\[[^\]]*\])?$")


def sockets(output: str, never_dual: bool = False) -> list[Socket]:
    """The sockets in what lsof printed. `never_dual`: the system's IPv6 sockets take no IPv4 (OpenBSD).

    Raises ValueError for an address that it writes in another way.
    """
    found = []
    seen: set[tuple[str, ...]] = set()
    for line in output.splitlines():
        words = _LINE.match(line)
        if words is None:
            continue
        process, pid, user, family, device, protocol, local, peer, state = words.groups()
        if (one := (device, protocol, local, peer or "", process)) in seen:
            continue  # one socket that several processes of the same name hold: the first of them stands for it
        seen.add(one)
        found.append(
            Socket(
                protocol=PROTOCOLS[protocol.lower()],
                family=int(family),
                local=end(*_split(local)),
                peer=end(*_split(peer or "*:*")),
                state=STATES.get(state, state) if state else OTHER,
                dual=False if never_dual or family == "4" else None,
                process=re.sub(r"\\x([0-9a-f]{2})", lambda m: chr(int(m[1], 16)), process),
                pid=int(pid),
                user=user,
            )
        )
    return found


def _split(text: str) -> tuple[str, str]:
    found = _END.match(text)
    if found is None:
        raise ValueError(f"lsof wrote an address that nobody can read: {text[:100]!r}")
    return found[1], found[2]
