"""Sends frames and packets and listens to what comes back. A program of its own, run within the sandbox.

Standard input, one a line: `frame INTERFACE HEX` is put on the wire as it is; `packet INTERFACE USER HEX` leaves by
the network's own output, from a socket of the user with that number; `go` asks for what was seen since the last time.
Standard output, then: `INTERFACE HEX` of every frame seen (its first 160 bytes, without the Ethernet header), and `end`
once nothing has come for `QUIET` seconds.
"""

from __future__ import annotations

import select
import socket
import sys
import time

QUIET = 0.03
MOST = 160
EVERYTHING = 0x0003  # ETH_P_ALL, linux/if_ether.h
OUTGOING = 4  # PACKET_OUTGOING, linux/if_packet.h
PRIORITY = 5
"""SO_PRIORITY of packets from here: how the witness knows them from the network's own answers."""

Sockets = dict[str, socket.socket]


def main() -> None:
    wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(EVERYTHING))
    for option in (socket.SO_RCVBUF, 33):  # 33: SO_RCVBUFFORCE, which only root may
        try:
            wire.setsockopt(socket.SOL_SOCKET, option, 1 << 24)
        except OSError:
            continue
    wire.setblocking(False)
    heard: list[str] = []
    mouths: Sockets = {}
    sent = 0
    for line in sys.stdin:
        words = line.split()
        if words[0] == "go":
            hear(wire, heard, QUIET)
            sys.stdout.write("".join(f"{text}\n" for text in [*heard, "end"]))
            sys.stdout.flush()
            heard, sent = [], 0
            continue
        if not sent:
            hear(wire, [], 0)
        say(wire, mouths, words)
        sent += 1
        if sent % 32 == 0:
            hear(wire, heard, 0)


def say(wire: socket.socket, mouths: Sockets, words: list[str]) -> None:
    """What cannot be sent (a packet filter refuses it) is silence."""
    data = bytes.fromhex(words[-1])
    try:
        if words[0] == "frame":
            wire.sendto(data, (words[1], 0))
            return
        family, raw = (socket.AF_INET, data[16:20]) if data[0] >> 4 == 4 else (socket.AF_INET6, data[24:40])
        # Only where no route tells the way: a reset to the sender is routed as its socket is bound.
        bound = words[1] if ambiguous(family, raw) else ""
        key = f"{family} {words[2]} {bound}"
        if key not in mouths:
            mouths[key] = of_user(bound, int(words[2]), family)
        mouths[key].sendto(data, (socket.inet_ntop(family, raw), 0))
    except OSError:
        pass


def ambiguous(family: int, address: bytes) -> bool:
    """Whether an address is on every wire at once: of a group, of everybody, or of one link."""
    if family == socket.AF_INET:
        return address[0] >> 4 == 14 or address == b"\xff" * 4
    return address[0] == 0xFF or (address[0] == 0xFE and address[1] >> 6 == 2)


def of_user(interface: str, user: int, family: int) -> socket.socket:
    """A raw socket that the packet filter sees as the user's: it looks at the file system user of the opener."""
    import ctypes  # takes a while, and is seldom needed

    library = ctypes.CDLL(None)
    library.setfsuid(user)
    mouth = socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW)
    library.setfsuid(0)
    if interface:
        mouth.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode())
    mouth.setsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY, PRIORITY)
    mouth.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    if family == socket.AF_INET:
        mouth.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 0)
    else:
        mouth.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_LOOP, 0)
    return mouth


def hear(ear: socket.socket, out: list[str], quiet: float) -> None:
    """Takes in what has come, until nothing has for `quiet` seconds (and for ten times that at most)."""
    end = time.monotonic() + 10 * quiet
    while select.select([ear], [], [], quiet)[0]:
        try:
            while True:
                data, address = ear.recvfrom(MOST + 14)
                if address[2] != OUTGOING:
                    out.append(f"{address[0]} {data[14:].hex()}")
        except BlockingIOError:
            pass
        if time.monotonic() > end:
            return


if __name__ == "__main__":
    main()
