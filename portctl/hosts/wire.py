"""Sends frames and packets and listens to what comes back. A program of its own, run within the sandbox.

Standard input, one a line: `frame INTERFACE HEX` is put on the wire as it is; `packet INTERFACE USER HEX` leaves by
the network's own output, from a socket of the user with that number; `pause SECONDS`. Standard output: `INTERFACE HEX`
of every frame seen (its first 160 bytes, without the Ethernet header), and `denied N` for the Nth line, counted from 0,
if the kernel refused to send it. It ends once nothing has come for `QUIET` seconds after the last line.
"""

from __future__ import annotations

import ctypes
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

Sockets = dict[tuple[str, ...], socket.socket]


def main() -> None:
    ear = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(EVERYTHING))
    for option in (socket.SO_RCVBUF, 33):  # 33: SO_RCVBUFFORCE, which only root may
        try:
            ear.setsockopt(socket.SOL_SOCKET, option, 1 << 24)
        except OSError:
            continue
    ear.setblocking(False)
    out: list[str] = []
    mouths: Sockets = {}
    for number, line in enumerate(sys.stdin):
        words = line.split()
        if words[0] == "pause":
            hear(ear, out, float(words[1]))
        elif not say(mouths, words):
            out.append(f"denied {number}")
        if number % 32 == 31:
            hear(ear, out, 0)
    hear(ear, out, QUIET)
    sys.stdout.write("\n".join(out) + "\n" if out else "")


def say(mouths: Sockets, words: list[str]) -> bool:
    data = bytes.fromhex(words[-1])
    version = data[0] >> 4
    key = (*words[:-1], str(version) if words[0] == "packet" else "")
    try:
        if key not in mouths:
            mouths[key] = on_wire(words[1]) if words[0] == "frame" else of_user(words[1], int(words[2]), version)
        if words[0] == "frame":
            mouths[key].send(data)
        elif version == 4:
            mouths[key].sendto(data, (socket.inet_ntoa(data[16:20]), 0))
        else:
            mouths[key].sendto(data, (socket.inet_ntop(socket.AF_INET6, data[24:40]), 0))
    except OSError:
        return False
    return True


def on_wire(interface: str) -> socket.socket:
    mouth = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    mouth.bind((interface, 0))
    return mouth


def of_user(interface: str, user: int, version: int) -> socket.socket:
    """A raw socket that the packet filter sees as the user's: it looks at the file system user of the opener."""
    library = ctypes.CDLL(None)
    library.setfsuid(user)
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    mouth = socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW)
    library.setfsuid(0)
    mouth.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode())
    mouth.setsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY, PRIORITY)
    mouth.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    if version == 4:
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
