"""Listeners and connections from `ss` (iproute2), Linux.

`ss` writes an IPv6 wildcard that takes IPv4 too as `*`, one that does not as `[::]`, and with `-e` says it in words
(`v6only:1`). The name of a process is whatever it calls itself: quotes, blanks and line ends included.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from portctl.listeners import Connection, Listener
from portctl.net import Address

LISTENERS: tuple[str, ...] = ("ss", "-H", "-tulSpne")
CONNECTIONS: tuple[str, ...] = ("ss", "-H", "-tunpe")

_PROTOCOLS = {"tcp": 6, "udp": 17, "sctp": 132}
_START = re.compile(r"(?=^(?:tcp|udp|sctp|mptcp|dccp|raw|icmp6|\?\?\?) +[A-Z])", re.MULTILINE)
_OWNER = re.compile(r'\("(.*?)",pid=(\d+),fd=\d+\)', re.DOTALL)
_OPEN = ("ESTAB", "CLOSE-WAIT", "FIN-WAIT-1", "FIN-WAIT-2")


def listeners(output: str, everybody: bool = False) -> tuple[Listener, ...]:
    """The listeners in what `ss -H -tulSpne` printed.

    `everybody` says that `ss` could see the sockets of every process of the machine: root, in no container. Only then
    does a socket without an owner belong to the kernel. Raises ValueError for a line that is no socket.
    """
    found = []
    for words, rest in _sockets(output):
        if words[1] not in ("LISTEN", "UNCONN") or words[0] not in _PROTOCOLS:
            continue
        address, scope, port = _endpoint(words[4])
        if port is None:
            continue
        six = words[4].startswith(("[", "*"))
        owners = _owners(rest)
        name = _name(owners)
        found.append(
            Listener(
                protocol=_PROTOCOLS[words[0]],
                address=_unmapped(address),
                port=port,
                family=6 if six else 4,
                dual_stack=six and address is None and _takes_both(words[4], rest),
                scope=scope,
                process=name[0] if name else ("kernel" if everybody else None),
                pid=name[1] if name else None,
                user=_user(rest),
                processes=tuple(sorted({owner for owner, _ in owners})),
            )
        )
    return ordered(found)


def ordered(found: list[Listener]) -> tuple[Listener, ...]:
    """Each listener once, by protocol, port and address; sockets that share a port are as many as they are."""
    return tuple(
        sorted(set(found), key=lambda x: (x.protocol, x.port, x.family, str(x.address), x.scope or "", x.pid or 0))
    )


def connections(output: str) -> tuple[Connection, ...]:
    """The open connections in what `ss -H -tunpe` printed: what still exchanges data, both protocols."""
    found = []
    for words, rest in _sockets(output):
        if words[1] not in _OPEN or words[0] not in _PROTOCOLS:
            continue
        local, _, local_port = _endpoint(words[4])
        peer, _, peer_port = _endpoint(words[5])
        local, peer = _unmapped(local), _unmapped(peer)
        if local is None or peer is None or local_port is None or peer_port is None:
            continue
        name = _name(_owners(rest))
        found.append(
            Connection(_PROTOCOLS[words[0]], local, local_port, peer, peer_port, *(name if name else (None, None)))
        )
    return tuple(sorted(set(found), key=lambda c: (c.protocol, c.local_port, str(c.peer), c.peer_port, str(c.local))))


def _sockets(output: str) -> Iterator[tuple[list[str], str]]:
    """Of each socket: its netid, state, queues, local end, far end; and the rest of its line (or lines)."""
    for line in _START.split(output):
        if not line.strip():
            continue
        words = line.split(None, 6)
        if len(words) < 6 or not _START.match(line):
            raise ValueError(f"ss printed something that is no socket: {line.splitlines()[0][:160]!r}")
        yield words[:6], words[6] if len(words) > 6 else ""


def _endpoint(text: str) -> tuple[Address | None, str | None, int | None]:
    """Address (None: every one), interface and port (None: every one) of `[fe80::1]%eth0:546`, `*:22`, `10.0.0.1:*`."""
    from ipaddress import ip_address

    host, _, port = text.rpartition(":")
    scope: str | None = None
    if "%" in host:
        bare, _, scope = host.partition("%")
        host, scope = (bare + "]", scope.removesuffix("]")) if host.endswith("]") else (bare, scope)
    host = host.strip("[]")
    address = None if host in ("*", "0.0.0.0", "::") else ip_address(host)
    return address, scope, None if port == "*" else int(port)


def _unmapped(address: Address | None) -> Address | None:
    """An IPv4 address bound through an IPv6 socket is an IPv4 address."""
    if address is not None and address.version == 6 and address.ipv4_mapped:
        return address.ipv4_mapped
    return address


def _owners(rest: str) -> list[tuple[str, int]]:
    at = rest.find("users:((")
    return [(name, int(pid)) for name, pid in _OWNER.findall(rest[at:])] if at >= 0 else []


def _name(owners: list[tuple[str, int]]) -> tuple[str, int] | None:
    """Whom to name: the oldest, but not the service manager that opened the socket for somebody else."""
    return min(owners, key=lambda owner: (owner[1] == 1, owner[1]), default=None)


def _takes_both(local: str, rest: str) -> bool:
    """What the last word on it says (a process may be called `v6only:1`), else how the wildcard is written."""
    said = re.findall(r"v6only:([01])(?=\s|$)", rest)
    return said[-1] == "0" if said else local.startswith("*")


def _user(rest: str) -> str | None:
    """ss leaves out a uid of 0."""
    found = re.search(r"(?:^|fd=\d+\)\) )(?:uid:(\d+) )?ino:\d+ sk:", rest)
    return (found[1] or "0") if found else None
