"""Captured output of tools, and the values it means: `tests/observed/<tool>/<case>/`.

`output.txt` was printed by the tool itself, asked about real sockets; `listeners.txt` is what it means, one a line.
`PORTCTL_ACCEPT=1` rewrites the latter.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path

import pytest

from portctl.listeners import Connection, Listener, bsd, fstat, lsof, netstat, proc, sockets, sockstat, ss

OBSERVED = Path(__file__).parent / "observed"
TOOLS: dict[str, Callable[[str, bool], tuple[Listener, ...]]] = {
    "ss": ss.listeners,
    "proc": proc.listeners,
    "netstat": lambda output, everybody: sockets.listeners(netstat.linux(output), everybody),
    "lsof": lambda output, everybody: sockets.listeners(lsof.sockets(output), everybody),
}
CASES = sorted(path.parent.relative_to(OBSERVED).as_posix() for path in OBSERVED.glob("*/*/output.txt"))


def text(listener: Listener) -> str:
    """Every field in a fixed order, so that a difference is read at a glance."""
    takes = "both" if listener.dual_stack else f"v{listener.family}"
    place = f"{listener.address or '*'}{'%' + listener.scope if listener.scope else ''}"
    owner = f"process={listener.process!r} pid={listener.pid} user={listener.user}"
    others = f" processes={','.join(listener.processes)!r}" if listener.processes != (listener.process,) else ""
    return f"{listener.protocol} {listener.port} {place} {takes} {owner}{others}"


def read(case: str, everybody: bool) -> tuple[Listener, ...]:
    output = (OBSERVED / case / "output.txt").read_bytes().decode("utf-8", "replace")
    return TOOLS[case.split("/")[0]](output, everybody)


@pytest.mark.parametrize("case", CASES)
def test_output_means_listeners(case: str) -> None:
    found = read(case, everybody="unprivileged" not in case)
    told = "".join(f"{text(listener)}\n" for listener in found)
    expected = OBSERVED / case / "listeners.txt"
    if os.environ.get("PORTCTL_ACCEPT") == "1":
        expected.write_text(told, encoding="utf-8")
    assert told == expected.read_text(encoding="utf-8")


def test_there_are_cases_of_both_tools() -> None:
    assert sum(case.startswith("ss/") for case in CASES) >= 10
    assert sum(case.startswith("proc/") for case in CASES) >= 10


@pytest.mark.parametrize("tool", ["ss", "proc"])
def test_a_socket_without_an_owner_is_the_kernels_only_where_everybody_was_seen(tool: str) -> None:
    (seen,) = (listener for listener in read(f"{tool}/kernel", everybody=True) if listener.port == 4789)
    (unseen,) = (listener for listener in read(f"{tool}/kernel", everybody=False) if listener.port == 4789)
    assert (seen.process, unseen.process) == ("kernel", None)


def test_a_name_cannot_make_itself_a_socket() -> None:
    """A process may call itself by a line of ss; it stays a name."""
    output = 'tcp LISTEN 0 16 0.0.0.0:80 0.0.0.0:* users:(("\ntcp  LISTEN 0 1",pid=7,fd=3)) ino:1 sk:1 <->\n'
    with pytest.raises(ValueError, match="no socket"):
        ss.listeners("nonsense\n" + output)
    assert [listener.port for listener in ss.listeners(output.replace("\ntcp  LISTEN", "\ntcp? LISTEN"))] == [80]


def test_connections_are_what_still_exchanges_data() -> None:
    output = (
        'tcp   ESTAB 0 0 192.0.2.10:22 198.51.100.9:51234 users:(("sshd",pid=40,fd=4)) ino:9 sk:1 <->\n'
        "tcp   TIME-WAIT 0 0 192.0.2.10:22 198.51.100.9:51235 ino:0 sk:2\n"
        'tcp   ESTAB 0 0 [::ffff:192.0.2.10]:80 [::ffff:198.51.100.9]:51236 users:(("nginx",pid=41,fd=4)) ino:8 sk:3\n'
        'udp   ESTAB 0 0 192.0.2.10%eth0:68 192.0.2.1:67 users:(("dhcpcd",pid=42,fd=4)) ino:7 sk:4 <->\n'
    )
    here, peer = ip_address("192.0.2.10"), ip_address("198.51.100.9")
    assert ss.connections(output) == (
        Connection(6, here, 22, peer, 51234, "sshd", 40),
        Connection(6, here, 80, peer, 51236, "nginx", 41),
        Connection(17, here, 68, ip_address("192.0.2.1"), 67, "dhcpcd", 42),
    )


def test_a_listener_takes_what_is_sent_to_it() -> None:
    both = Listener(6, None, 80, 6, dual_stack=True)
    six = Listener(6, None, 80, 6)
    one = Listener(6, ip_address("192.0.2.1"), 80, 4)
    v4, v6 = ip_address("192.0.2.1"), ip_address("2001:db8::1")
    assert [x.takes(v4) for x in (both, six, one)] == [True, False, True]
    assert [x.takes(v6) for x in (both, six, one)] == [True, True, False]


def test_connections_from_proc() -> None:
    answer = (
        "\x01order\n          1\n\x01tcp\n  sl  local_address rem_address   st\n"
        "   0: 0A0200C0:0016 096433C6:C822 01 00000000:00000000 00:00000000 00000000 0 0 9 1 0 20 4 30 10 -1\n"
        "   1: 0A0200C0:0016 096433C6:C823 06 00000000:00000000 00:00000000 00000000 0 0 0 1 0 20 4 30 10 -1\n"
        "\x01owners\n40 9,10 sshd?\n"
    )
    here, peer = ip_address("192.0.2.10"), ip_address("198.51.100.9")
    assert proc.connections(answer) == (Connection(6, here, 22, peer, 51234, "sshd", 40),)


def test_proc_on_a_machine_that_counts_from_the_other_end() -> None:
    answer = (
        "\x01order\n   16777216\n\x01tcp\n  sl  local_address rem_address   st\n"
        "   0: C000020A:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 9 1 0 100 0 0 10 0\n"
    )
    assert [listener.address for listener in proc.listeners(answer)] == [ip_address("192.0.2.10")]


# --- BSD and macOS ----------------------------------------------------------------------------------------------------

FREEBSD = OBSERVED / "bsd"


def where(listener: Listener) -> tuple[int, int, str, str]:
    takes = "both" if listener.dual_stack else f"v{listener.family}"
    return listener.protocol, listener.port, str(listener.address or "*"), takes


def freebsd(tool: str) -> str:
    return (FREEBSD / f"freebsd15.{tool}.txt").read_text()


def test_sockstat_and_netstat_of_freebsd_tell_the_same() -> None:
    told = sockets.listeners(sockstat.sockets(freebsd("sockstat-46lw")))
    assert {where(x) for x in told} == {where(x) for x in sockets.listeners(netstat.sockets(freebsd("netstat-anW")))}
    assert (6, 80, "*", "both") in map(where, told) and (6, 443, "*", "v4") in map(where, told)
    assert [where(x)[3] for x in told if x.port == 22] == ["v4", "v6"]
    assert {x.scope for x in told if x.port == 9003} == {"em0"}
    pairs = sockets.connections(sockstat.sockets(freebsd("sockstat-46c")))
    plain = [(c.protocol, c.local_port, str(c.peer), c.peer_port) for c in pairs]
    listed = sockets.connections(netstat.sockets(freebsd("netstat-anW")))
    assert plain == [(c.protocol, c.local_port, str(c.peer), c.peer_port) for c in listed]
    assert (6, 22, "203.0.113.9", 4001) in plain and (17, 40000, "203.0.113.53", 53) in plain
    assert {c.process for c in pairs} == {"sshd", "nginx", "lsn"} and {c.process for c in listed} == {None}


def test_a_connected_udp_socket_waits_for_nobody() -> None:
    for found in (
        sockstat.sockets(freebsd("sockstat-46lw") + freebsd("sockstat-46c")),
        netstat.sockets(freebsd("netstat-an")),
    ):
        assert not {x.port for x in sockets.listeners(found)} & {40000, 40001}


def test_an_address_cut_off_by_sockstat_is_no_answer() -> None:
    with pytest.raises(ValueError, match="cut off"):
        sockstat.sockets(freebsd("sockstat-46l"))
    answer = f"\x01system\nFreeBSD\n\x01waiting\n{freebsd('sockstat-46l')}\x01netstat\n{freebsd('netstat-anW')}"
    listening, _ = bsd.read(answer, everybody=True)
    assert (6, 9003, "fe80::ff:fe00:10", "v6") in map(where, listening or ())
    assert {x.process for x in listening or ()} == {None}, "nobody told of owners, so none is the kernel's"


def test_an_address_cut_off_by_netstat_is_shown_as_open() -> None:
    cut = "tcp6       0      0  fe80::e484:d5ff:.22   *.*                    LISTEN\n"
    assert [where(x) for x in sockets.listeners(netstat.sockets(cut))] == [(6, 22, "*", "v6")]


UNOWNED = {
    "14": "?        ?          ?     ?   tcp4   *:2049                                        *:*\n",
    "15": "??      ??         ?? ?? tcp4  *:2049                      *:*            \n",
}
"""A socket of the kernel's own, as sockstat.c of either release writes it."""


@pytest.mark.parametrize("release", UNOWNED)
def test_who_listens_on_freebsd(release: str) -> None:
    answer = (
        f"\x01system\nFreeBSD\n\x01waiting\n{freebsd('sockstat-46lw')}{UNOWNED[release]}"
        f"\x01connected\n{freebsd('sockstat-46c')}\x01passwd\nroot:*:0:0::/root:/bin/sh\nwww:*:80:80::/:/nologin\n"
    )
    listening, connected = bsd.read(answer, everybody=True)
    assert {(x.process, x.user) for x in listening or () if x.port == 80} == {("nginx", "80")}
    assert {x.process for x in listening or () if x.port == 2049} == {"kernel"}
    assert {x.process for x in bsd.read(answer)[0] or () if x.port == 2049} == {None}
    assert len(connected or ()) == 5


SEVERAL = {
    "14": "y        app        52    6   sctp4  192.0.2.10:36412      *:*\n"
    "                                     10.0.0.1:36412        \n",
    "15": "y       app         52  6 sctp4 192.0.2.10:36412            *:*            \n"
    "??      ??          ?? ?? ??    10.0.0.1:36412              ??             \n",
}


@pytest.mark.parametrize("release", SEVERAL)
def test_sockstat_lists_every_address_of_a_socket_and_protocols_without_a_policy(release: str) -> None:
    divert = "root    natd        60  3 div4  *:8668                      *:*            \n"
    light = "root    lsn         61  3 udplite4 *:5004                   *:*            \n"
    told = sockets.listeners(sockstat.sockets(freebsd("sockstat-46lw") + divert + light + SEVERAL[release]))
    others = sockets.listeners(sockstat.sockets(freebsd("sockstat-46lw")))
    more = [x for x in told if x not in others]
    assert [where(x) for x in more] == [(132, 36412, "10.0.0.1", "v4"), (132, 36412, "192.0.2.10", "v4")]
    assert {x.process for x in more} == {"app"}


def test_an_address_that_lsof_writes_in_another_way_does_not_hide_what_netstat_tells() -> None:
    strange = "COMMAND PID USER FD TYPE DEVICE SIZE/OFF NODE NAME\nx 1 0 3u IPv4 0x1 0t0 TCP here (LISTEN)\n"
    answer = f"\x01system\nFreeBSD\n\x01netstat\n{freebsd('netstat-anW')}\x01lsof\n{strange}"
    listening, _ = bsd.read(answer, everybody=True)
    assert (6, 80, "*", "both") in map(where, listening or ())
    assert bsd.read(f"\x01system\nFreeBSD\n\x01lsof\n{strange}", everybody=True) == (None, None)


OPENBSD = """\
\x01system
OpenBSD
\x01netstat
Active Internet connections (including servers)
Proto   Recv-Q Send-Q  Local Address          Foreign Address        (state)
tcp          0      0  192.0.2.20.22          203.0.113.9.50122      ESTABLISHED
tcp          0      0  *.22                   *.*                    LISTEN
tcp          0      0  127.0.0.1.25           *.*                    LISTEN
udp          0      0  192.0.2.20.19339       192.0.2.123.123
udp          0      0  *.*                    *.*
Active Internet connections (including servers)
Proto   Recv-Q Send-Q  Local Address          Foreign Address        (state)
tcp6         0      0  *.22                   *.*                    LISTEN
tcp6         0      0  fe80::1%lo0.25         *.*                    LISTEN
\x01fstat
USER     CMD          PID   FD MOUNT        INUM  MODE         R/W    SZ|DV
root     sshd       75629   wd /                2  drwxr-xr-x    r      512
root     sshd       75629    3* internet stream tcp 0xffff8000008e9660 *:22
root     sshd       75629    4* internet6 stream tcp 0xffff8000008e9440 *:22
root     sshd       81234    4* internet stream tcp 0x0 192.0.2.20:22 <-- 203.0.113.9:50122
_smtpd   smtpd      20075    7* internet stream tcp 0x0 127.0.0.1:25
_smtpd   smtpd      20075    8* internet6 stream tcp 0x0 [fe80::1%lo0]:25
_ntp     ntpd       20080    8* internet dgram udp 192.0.2.20:19339 <-> 192.0.2.123:123
root     dhcpleased 17467    3* internet dgram udp *:0
\x01passwd
_smtpd:*:95:95:SMTP Daemon:/var/empty:/sbin/nologin
"""


def test_openbsd_never_maps_ipv4_into_its_ipv6_sockets() -> None:
    listening, connected = bsd.read(OPENBSD, everybody=True)
    assert [(*where(x), x.process) for x in listening or ()] == [
        (6, 22, "*", "v4", "sshd"),
        (6, 22, "*", "v6", "sshd"),
        (6, 25, "127.0.0.1", "v4", "smtpd"),
        (6, 25, "fe80::1", "v6", "smtpd"),
    ]
    assert {x.user for x in listening or () if x.port == 25} == {"95"}
    assert [(c.process, c.pid, str(c.peer)) for c in connected or ()] == [
        ("sshd", 81234, "203.0.113.9"),
        ("ntpd", 20080, "192.0.2.123"),
    ]


HEAD = "Proto Recv-Q Send-Q  Local Address          Foreign Address        (state)  "
NAMED = f"""\
{HEAD}rxbytes      txbytes  rhiwat  shiwat          process:pid    state  options           gencnt    flags   flags1
tcp46      0      0  *.9229     *.*           LISTEN       0     0  131072  131072  Google Chrome He:101  00100 0006
tcp4       0      0  192.0.2.30.22 192.0.2.2.61043 ESTABLISHED 90 200  131072  131328  sshd-session:5021  00082 0008
tcp6       0      0  *.22       *.*          LISTEN       0     0  131072  131072         launchd:1      00100 0006
udp46      0      0  *.5353     *.*                       0     0  786896    9216   mDNSResponder:405    00100 0000
"""
NUMBERED = f"""\
{HEAD}   rhiwat shiwat    pid   epid  state    options
tcp46      0      0  *.6380          *.*                    LISTEN      131072 131072  31195      0 0x0100 0x00000106
"""
LSOF = """\
COMMAND           PID     USER   FD   TYPE             DEVICE SIZE/OFF NODE NAME
redis\\x20server 31195      501    6u  IPv6 0x9cef83178f07187d      0t0  TCP *:6380 (LISTEN)
rpcbind            88        0    9u  IPv4 0x9cef83178f07187e      0t0  UDP *:111[portmap]
mDNSRespo         405       65   11u  IPv6 0x9cef83178f07187f      0t0  UDP [fe80:4::1]:123
"""


def test_netstat_of_macos_names_owners_in_two_ways() -> None:
    listening, connected = bsd.read(f"\x01system\nDarwin\n\x01netstat\n{NAMED}")
    assert [(*where(x), x.process, x.pid) for x in listening or ()] == [
        (6, 22, "*", "v6", "launchd", 1),
        (6, 9229, "*", "both", "Google Chrome He", 101),
        (17, 5353, "*", "both", "mDNSResponder", 405),
    ]
    assert [(c.process, c.pid) for c in connected or ()] == [("sshd-session", 5021)]
    listening, _ = bsd.read(f"\x01system\nDarwin\n\x01netstat\n{NUMBERED}\x01lsof\n{LSOF}")
    assert [(x.process, x.pid, x.user, x.dual_stack) for x in listening or ()] == [("redis server", 31195, "501", True)]


def test_lsof_alone_counts_only_as_root() -> None:
    answer = f"\x01system\nDarwin\n\x01netstat\n\x01lsof\n{LSOF}"
    assert bsd.read(answer) == (None, None), "what it leaves out is not closed"
    listening, _ = bsd.read(answer, everybody=True)
    assert [where(x) for x in listening or ()] == [
        (6, 6380, "*", "both"),
        (17, 111, "*", "v4"),
        (17, 123, "fe80::1", "v6"),
    ]


def test_netstat_of_linux_tells_connections() -> None:
    found = sockets.connections(netstat.linux((OBSERVED / "netstat/linux/connected.txt").read_text()))
    assert {(c.protocol, c.peer_port) for c in found} >= {(6, 80), (17, 111)}


def test_a_snapshot_of_a_load_holds_half_open_connections() -> None:
    row = "tcp4  0  0  192.0.2.10.22  203.0.113.9."
    rows = f"{row}4001  ESTABLISHED\n{row}4002  SYN_RCVD\n"
    assert {c.peer_port for c in bsd.then(f"\x01netstat\n{rows}")} == {4001, 4002}
    assert {c.peer_port for c in sockets.connections(netstat.sockets(rows))} == {4001}


def test_a_file_is_no_socket() -> None:
    assert fstat.sockets("root  sshd  75629  wd /   2  drwxr-xr-x  r  512\n") == []
