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

from portctl.listeners import Connection, Listener, proc, ss

OBSERVED = Path(__file__).parent / "observed"
TOOLS: dict[str, Callable[[str, bool], tuple[Listener, ...]]] = {"ss": ss.listeners, "proc": proc.listeners}
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


@pytest.mark.parametrize("tool", TOOLS)
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
