"""Sockets and their owners from `fstat` of OpenBSD. Which of them wait for strangers only `netstat -an` tells."""

from __future__ import annotations

import re

from portctl.listeners.sockets import OPEN, OTHER, PROTOCOLS, TCP, Socket, end

_LINE = re.compile(
    r"^(\S+)\s+(\S.*?)\s+(\d+)\s+\d+\*?\s+(internet6?)\s+(?:stream|dgram)\s+(tcp|udp)\s+(?:0x[0-9a-f]+\s+)?"
    r"(\S+):(\d+|\*)(?:\s+(?:<->|-->|<--|<-|->)\s+(\S+):(\d+|\*))?"
)


def sockets(output: str) -> list[Socket]:
    """The internet sockets in what fstat printed; files and the like are passed over."""
    found = []
    for line in output.splitlines():
        words = _LINE.match(line)
        if words is None:
            continue
        user, process, pid, family, protocol, address, port, far, far_port = words.groups()
        found.append(
            Socket(
                protocol=PROTOCOLS[protocol],
                family=6 if family == "internet6" else 4,
                local=end(address, port),
                peer=end(far or "*", far_port or "*"),
                state=OPEN if far and PROTOCOLS[protocol] == TCP else OTHER,
                process=process,
                pid=int(pid),
                user=user,
            )
        )
    return found
