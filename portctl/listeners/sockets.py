"""What the tools of several systems tell of one socket, and the listeners and connections that it amounts to."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from ipaddress import IPv6Address, ip_address

from portctl.listeners import Connection, Listener
from portctl.listeners.ss import ordered
from portctl.net import Address

TCP, UDP, SCTP = 6, 17, 132
PROTOCOLS: Mapping[str, int] = {"tcp": TCP, "udp": UDP, "sctp": SCTP}
LISTENING, OPEN, OTHER = "listening", "open", "other"
STATES: Mapping[str, str] = {
    "LISTEN": LISTENING,
    **dict.fromkeys(("ESTABLISHED", "CLOSE_WAIT", "FIN_WAIT_1", "FIN_WAIT_2", "FIN_WAIT1", "FIN_WAIT2"), OPEN),
}
"""Of netstat and lsof: what still exchanges data is open; all others are neither."""
HALF_OPEN = ("SYN_RECV", "SYN_RCVD", "SYN_RECEIVED")


@dataclass(frozen=True, slots=True)
class End:
    """`address` None is every one; `port` None is every one, or none yet."""

    address: Address | None
    port: int | None
    scope: str | None = None


@dataclass(frozen=True, slots=True)
class Socket:
    """`dual` says whether an IPv6 wildcard takes IPv4 too; None: the tool does not tell."""

    protocol: int
    family: int
    local: End
    peer: End | None = None
    state: str = OTHER
    dual: bool | None = False
    process: str | None = None
    pid: int | None = None
    user: str | None = None

    @property
    def ends(self) -> tuple[int, int, End, End | None]:
        """What tells it from others, whichever tool lists it. The zone of an address is not always told."""
        return self.protocol, self.family, replace(self.local, scope=None), self.peer


def end(address: str, port: str) -> End:
    """An end in words: `*`, `0.0.0.0`, `::`, `[::1]`, `fe80::1%em0`. An address that was cut off by a narrow column is
    taken for every one: rather shown as open than overlooked. The embedded zone of KAME (`fe80:4::1`) is taken out."""
    bare, _, scope = address.strip("[]").partition("%")
    scope = "lo" if scope == "lo0" else scope
    number = int(port) if port.isdigit() and port != "0" else None
    if bare in ("*", "0.0.0.0", "::", ""):
        return End(None, number, scope or None)
    try:
        found: Address = ip_address(bare)
    except ValueError:
        return End(None, number)
    if isinstance(found, IPv6Address):
        if found.is_link_local and re.match(r"fe80:[0-9a-f]+:", bare, re.I):
            found = IPv6Address(int(found) & ~(0xFFFF << 96))
        found = found.ipv4_mapped or found
    return End(found, number, scope or None)


def with_owners(found: Iterable[Socket], told: Iterable[Socket]) -> list[Socket]:
    """Sockets of one tool with the owners that another one knows."""
    owners: dict[object, Socket] = {}
    for each in told:
        owners.setdefault(each.ends, each)
    return [
        replace(x, process=y.process, pid=y.pid, user=y.user) if x.process is None and (y := owners.get(x.ends)) else x
        for x in found
    ]


def listeners(
    found: Iterable[Socket], everybody: bool = False, users: Mapping[str, str] | None = None
) -> tuple[Listener, ...]:
    """Those that wait for strangers. `everybody`: see `ss.listeners`. `users`: {name: number}.

    A wildcard of which the tool does not tell whether it takes IPv4 does so, unless an IPv4 one has the same port.
    """
    waiting = [x for x in found if x.local.port is not None and (x.state == LISTENING or (_unconnected(x)))]
    four = {(x.protocol, x.local.port) for x in waiting if x.family == 4 and x.local.address is None}
    names: dict[object, set[str]] = {}
    for each in waiting:
        names.setdefault(each.ends, set()).update([each.process] if each.process else [])
    return ordered(
        [
            Listener(
                protocol=x.protocol,
                address=x.local.address,
                port=x.local.port or 0,
                family=x.family,
                dual_stack=x.family == 6
                and x.local.address is None
                and (x.dual if x.dual is not None else (x.protocol, x.local.port) not in four),
                scope=x.local.scope,
                process=x.process or ("kernel" if everybody else None),
                pid=x.pid,
                user=(users or {}).get(x.user, x.user) if x.user else None,
                processes=tuple(sorted(names[x.ends])),
            )
            for x in waiting
        ]
    )


def _unconnected(socket: Socket) -> bool:
    return socket.protocol != TCP and (socket.peer is None or socket.peer.port is None)


def connections(found: Iterable[Socket], half_open: bool = False) -> tuple[Connection, ...]:
    """Those that exchange data; with `half_open` also those whose handshake has only begun."""
    pairs = {
        Connection(x.protocol, x.local.address, x.local.port, x.peer.address, x.peer.port, x.process, x.pid)
        for x in found
        if (x.state == OPEN or (half_open and x.state in HALF_OPEN) or (x.protocol != TCP and x.state == OTHER))
        and x.peer is not None
        and x.local.address is not None
        and x.local.port is not None
        and x.peer.address is not None
        and x.peer.port is not None
    }
    return tuple(sorted(pairs, key=lambda c: (c.protocol, c.local_port, str(c.peer), c.peer_port, str(c.local))))


def passwd(text: str) -> dict[str, str]:
    """{name: number} of passwd(5)."""
    words = (line.split(":") for line in text.splitlines())
    return {each[0]: each[2] for each in words if len(each) > 2 and each[2].isdigit()}
