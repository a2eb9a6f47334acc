"""One knock at a port, from where pytest runs."""

from __future__ import annotations

import socket
from typing import Literal

from portctl.ruleset import TCP, UDP

Answer = Literal["open", "refused", "silent"]


def knock(address: str, protocol: int, port: int, source: str | None, seconds: float) -> Answer:
    """Connects, or sends a datagram and waits for an answer, for at most `seconds`. Raises `OSError` where the source
    address is not this machine's, or the name means nothing, and `ValueError` for other protocols."""
    if protocol not in (TCP, UDP):
        raise ValueError("only TCP and UDP can be knocked at")
    kind = socket.SOCK_STREAM if protocol == TCP else socket.SOCK_DGRAM
    family, _, _, _, place = socket.getaddrinfo(address, port, type=kind)[0]
    with socket.socket(family, kind) as made:
        made.settimeout(seconds)
        if source is not None:
            made.bind((source, 0))
        try:
            made.connect(place)
            if protocol == UDP:
                made.send(b"portctl\n")
                made.recv(1)
        except TimeoutError:
            return "silent"
        except OSError:
            return "refused"
    return "open"
