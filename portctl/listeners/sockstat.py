"""Sockets from `sockstat` of FreeBSD: `sockstat -46lw` (waiting) and `sockstat -46cw` (connected).

A dual stack socket is `tcp46 *:80`, one of IPv6 alone `tcp6 *:80`. Without `-w` it cuts long addresses and the port
with them. `?` (from 15 on `??`) stands for the owner of a socket that no process holds. An SCTP socket of several
addresses goes on in lines of its own, which begin with blanks, or with `??` in every column up to the addresses
(sockstat.c, `display_sock`). Sockets of protocols that no policy can open by their ports are passed over.
"""

from __future__ import annotations

import re
from dataclasses import replace

from portctl.listeners.sockets import LISTENING, OPEN, OTHER, PROTOCOLS, TCP, End, Socket, end

_LINE = re.compile(
    r"^(\S+)\s+(\S.*?)\s+(\d+|\?+)\s+(\d+|\?+)\s+([a-z]+?)(4|6|46|)\s+(\S+)(?:\s+(\S+))?(?:\s+(\S.*?))?\s*$"
)
_MORE = re.compile(r"^(?:\s+|(?:\?\?\s+){5})(?=\S*:)(\S+)(?:\s+(\S+))?.*$")


def sockets(output: str) -> list[Socket]:
    """The sockets in what sockstat printed. Raises ValueError for a line that is none, or whose port was cut off."""
    found: list[Socket] = []
    before: Socket | None = None
    for line in output.splitlines():
        if not line.strip() or line.startswith("USER "):
            continue
        if more := _MORE.match(line):
            if before is not None:
                found.append(replace(before, local=_end(more[1], line), peer=_peer(more[2])))
            continue
        words = _LINE.match(line)
        if words is None:
            raise ValueError(f"sockstat printed something that is no socket: {line[:160]!r}")
        before = _socket(line, words) if words[5] in PROTOCOLS else None
        found += [before] if before else []
    return found


def _socket(line: str, words: re.Match[str]) -> Socket:
    user, process, pid, _, name, family, local, peer, said = words.groups()
    here, there = _end(local, line), _peer(peer)
    state = OTHER
    if PROTOCOLS[name] == TCP:
        state = OPEN if there.port is not None else LISTENING
        if said and said.split()[0] not in ("LISTEN", "ESTABLISHED", "CLOSE_WAIT", "FIN_WAIT_1", "FIN_WAIT_2"):
            state = said.split()[0] if said.split()[0].isupper() else state
    return Socket(
        protocol=PROTOCOLS[name],
        family=4 if family == "4" or (not family and ":" not in local.rpartition(":")[0]) else 6,
        local=here,
        peer=there,
        state=state,
        dual=family == "46",
        process=None if process.strip("?") == "" else process,
        pid=int(pid) if pid.isdigit() else None,
        user=None if user.strip("?") == "" else user,
    )


def _end(text: str, line: str) -> End:
    address, colon, port = text.rpartition(":")
    if not colon or not re.fullmatch(r"\d+|\*", port):
        raise ValueError(f"sockstat cut off an address (ask with -w): {line[:160]!r}")
    return end(address, port)


def _peer(text: str | None) -> End:
    address, colon, port = (text or "*:*").rpartition(":")
    return end(address, port) if colon else end("*", "*")
