"""Listeners and connections from `/proc/net`, for a Linux without `ss`. Its format: proc(5), `proc_net_tcp.txt`.

It does not tell whether an IPv6 wildcard also takes IPv4; so does every one beside which no IPv4 wildcard listens on
the same port, unless the system's default says otherwise: rather shown as open than overlooked.
"""

from __future__ import annotations

import re
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address

from portctl.listeners import Connection, Listener
from portctl.listeners.ss import ordered
from portctl.net import Address

ASK = r"""say() { printf '\001%s\n' "$1"; }
say order; printf '\001\000\000\000' | od -An -tu4
say only; cat /proc/sys/net/ipv6/bindv6only
for table in tcp tcp6 udp udp6; do say $table; cat /proc/net/$table; done
say owners
for each in /proc/[0-9]*; do
inodes=$(ls -l "$each/fd" | sed -n 's/.*socket:\[\([0-9]*\)\].*/\1/p')
[ -n "$inodes" ] || continue
printf '%s %s %s\n' "${each#/proc/}" "$(echo $inodes | tr ' ' ,)" "$(tr '\n\001' '??' <"$each/comm")"
done
"""
"""A script for sh that prints what `listeners` and `connections` read."""

_LISTEN, _ESTABLISHED, _UNCONNECTED = 0x0A, 0x01, 0x07
_TABLES = (("tcp", 6), ("tcp6", 6), ("udp", 17), ("udp6", 17))
_OPEN = (_ESTABLISHED, 0x04, 0x05, 0x08)


def listeners(output: str, everybody: bool = False) -> tuple[Listener, ...]:
    """The listeners in the answer to `ASK`. `everybody`: see `ss.listeners`."""
    parts = sections(output)
    owners = _owners(parts.get("owners", ""))
    found = []
    for table, protocol in _TABLES:
        for local, peer, state, user, inode in _rows(parts.get(table, ""), _little(parts)):
            if state != (_LISTEN if protocol == 6 else _UNCONNECTED) or peer[1]:
                continue
            held = owners.get(inode, [])
            name, pid = min(held, key=lambda o: (o[1] == 1, o[1])) if held else ("kernel" if everybody else None, None)
            wild = int(local[0]) == 0
            found.append(
                Listener(
                    protocol=protocol,
                    address=None if wild else _unmapped(local[0]),
                    port=local[1],
                    family=local[0].version,
                    dual_stack=wild and local[0].version == 6,
                    process=name,
                    pid=pid,
                    user=user,
                    processes=tuple(sorted({owner for owner, _ in held})),
                )
            )
    return ordered(_told_apart(found, only=parts.get("only", "").strip() == "1"))


def _told_apart(found: list[Listener], only: bool) -> list[Listener]:
    taken = {(x.protocol, x.port) for x in found if x.family == 4 and x.wildcard}
    return [replace(x, dual_stack=not only and (x.protocol, x.port) not in taken) if x.dual_stack else x for x in found]


def connections(output: str) -> tuple[Connection, ...]:
    """The open connections in the answer to `ASK`."""
    parts = sections(output)
    owners = _owners(parts.get("owners", ""))
    found = set()
    for table, protocol in _TABLES:
        for local, peer, state, _, inode in _rows(parts.get(table, ""), _little(parts)):
            if state not in _OPEN or not peer[1]:
                continue
            held = owners.get(inode, [])
            name, pid = min(held, key=lambda o: (o[1] == 1, o[1])) if held else (None, None)
            found.add(Connection(protocol, _unmapped(local[0]), local[1], _unmapped(peer[0]), peer[1], name, pid))
    return tuple(sorted(found, key=lambda c: (c.protocol, c.local_port, str(c.peer), c.peer_port, str(c.local))))


def sections(output: str) -> dict[str, str]:
    """The parts of an answer, each after a line that begins with the character 1 and names it."""
    parts = output.split("\x01")[1:]
    return {name: body for name, _, body in (part.partition("\n") for part in parts)}


def _little(parts: dict[str, str]) -> bool:
    return parts.get("order", "").strip() != str(1 << 24)


_End = tuple[Address, int]
_ROW = re.compile(r"^\s*\d+: ([0-9A-F]+):([0-9A-F]{4}) ([0-9A-F]+):([0-9A-F]{4}) ([0-9A-F]{2}) (.*)$", re.MULTILINE)


def _rows(table: str, little: bool) -> list[tuple[_End, _End, int, str, int]]:
    """(local end, far end, state, user, inode) of each line."""
    rows = []
    for local, local_port, peer, peer_port, state, rest in _ROW.findall(table):
        words = rest.split()
        ends = (_address(local, little), int(local_port, 16)), (_address(peer, little), int(peer_port, 16))
        rows.append((*ends, int(state, 16), words[3], int(words[5])))
    return rows


def _address(text: str, little: bool) -> Address:
    """Four bytes at a time, each in the machine's own order."""
    raw = bytes.fromhex(text)
    words = [raw[k : k + 4] for k in range(0, len(raw), 4)]
    raw = b"".join(word[::-1] if little else word for word in words)
    return IPv4Address(raw) if len(raw) == 4 else IPv6Address(raw)


def _unmapped(address: Address) -> Address:
    return address.ipv4_mapped or address if isinstance(address, IPv6Address) else address


def _owners(text: str) -> dict[int, list[tuple[str, int]]]:
    """{inode: [(process, pid)]}."""
    owners: dict[int, list[tuple[str, int]]] = {}
    for line in text.splitlines():
        pid, inodes, name = line.split(" ", 2)
        for inode in inodes.split(","):
            owners.setdefault(int(inode), []).append((name.removesuffix("?"), int(pid)))
    return owners
