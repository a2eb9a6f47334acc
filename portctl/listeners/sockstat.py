"""Sockets from `sockstat` of FreeBSD: `sockstat -46lw` (waiting) and `sockstat -46cw` (connected).

A dual stack socket is `tcp46 *:80`, one of IPv6 alone `tcp6 *:80`. Without `-w` it cuts long addresses and the port
with them. `?` stands for the owner of a socket that no process holds.
"""

from __future__ import annotations

import re

from portctl.listeners.sockets import LISTENING, OPEN, OTHER, PROTOCOLS, TCP, Socket, end

_LINE = re.compile(
    r"^(\S+)\s+(\S.*?)\s+(\d+|\?)\s+(\d+|\?)\s+(tcp|udp|sctp)(4|6|46)\s+(\S+)(?:\s+(\S+))?(?:\s+(\S.*?))?\s*$"
)


def sockets(output: str) -> list[Socket]:
    """The sockets in what sockstat printed. Raises ValueError for a line that is none, or whose port was cut off."""
    found = []
    for line in output.splitlines():
        if not line.strip() or line.startswith("USER "):
            continue
        words = _LINE.match(line)
        if words is None:
            raise ValueError(f"sockstat printed something that is no socket: {line[:160]!r}")
        user, process, pid, _, name, family, local, peer, said = words.groups()
        address, colon, port = local.rpartition(":")
        if not colon or not re.fullmatch(r"\d+|\*", port):
            raise ValueError(f"sockstat cut off an address (ask with -w): {line[:160]!r}")
        far, _, far_port = (peer or "*:*").rpartition(":")
        there = end(far, far_port)
        state = OTHER
        if PROTOCOLS[name] == TCP:
            state = OPEN if there.port is not None else LISTENING
            if said and said.split()[0] not in ("LISTEN", "ESTABLISHED", "CLOSE_WAIT", "FIN_WAIT_1", "FIN_WAIT_2"):
                state = said.split()[0] if said.split()[0].isupper() else state
        found.append(
            Socket(
                protocol=PROTOCOLS[name],
                family=4 if family == "4" else 6,
                local=end(address, port),
                peer=there,
                state=state,
                dual=family == "46",
                process=None if process == "?" else process,
                pid=int(pid) if pid.isdigit() else None,
                user=None if user == "?" else user,
            )
        )
    return found
