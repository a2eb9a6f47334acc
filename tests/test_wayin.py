"""Who asks, and how they came in: sudo, tmux, cron, a console, a shared ssh connection, a tunnel."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from portctl import wayin
from portctl.listeners import Connection, Listener
from portctl.ruleset import LOOPBACK, UDP
from portctl.wayin import Process, Surroundings

HERE, FAR = ip_address("192.0.2.10"), ip_address("203.0.113.5")
SSHD = Listener(6, None, 22, 4, process="sshd", pid=10)
OLD = Connection(6, HERE, 22, FAR, 4001, "sshd", 500)
OTHER = Connection(6, HERE, 22, ip_address("198.51.100.8"), 4002, "sshd", 600)
PTS, CONSOLE, SERIAL = 0x8803, 0x0401, 0x0440


def chain(*processes: tuple[int, str, str], device: int = PTS, started: float = 100.0) -> Surroundings:
    return Surroundings(chain=tuple(Process(pid, device, started, name, ssh) for pid, name, ssh in processes))


ENV = "203.0.113.5 4001 192.0.2.10 22"
STALE = "203.0.113.5 3999 192.0.2.10 22"


def find(around: Surroundings, *connections: Connection) -> wayin.WayIn:
    return wayin.find(around, connections, (SSHD,))


def test_the_environment_of_an_ancestor_counts_where_sudo_stripped_it() -> None:
    around = chain((900, "sh", ""), (899, "sudo", ""), (700, "bash", ENV), (1, "systemd", ""))
    way = find(around, OLD, OTHER)
    assert way.own and way.connections == (OLD,)
    assert "203.0.113.5 to port 22" in way.said


def test_the_sshd_above_counts_where_every_environment_is_empty() -> None:
    assert find(chain((900, "sh", ""), (500, "sshd", ""), (10, "sshd", "")), OLD, OTHER).connections == (OLD,)


def test_a_stale_environment_under_tmux_does_not_count_and_everybody_must_stay_admitted() -> None:
    way = find(chain((900, "sh", STALE), (800, "tmux", STALE), (1, "systemd", "")), OLD, OTHER)
    assert not way.own
    assert set(way.connections) == {OLD, OTHER}
    assert "every ssh session that is open must stay admitted" in way.said


def test_cron_has_no_way_in_and_says_so() -> None:
    way = find(chain((900, "sh", ""), (800, "cron", ""), (1, "systemd", ""), device=0))
    assert not way.connections and not way.console
    assert "no way in could be checked" in way.said


DEVICES = [(CONSOLE, True), (SERIAL, True), (0x0501, True), (PTS, False), (0, False)]


@pytest.mark.parametrize(("device", "is_one"), DEVICES)
def test_a_console_is_a_terminal_in_front_of_the_machine(device: int, is_one: bool) -> None:
    assert wayin.is_console(device) is is_one
    assert find(chain((900, "bash", ""), (1, "login", ""), device=device), OLD).console is is_one


@pytest.mark.parametrize(
    ("terminals", "is_one"),
    [
        ([("sh", 0), ("python3", CONSOLE), ("bash", CONSOLE), ("login", 0)], True),  # what asks is in its own session
        ([("sh", 0), ("python3", PTS), ("sudo", PTS), ("sudo", CONSOLE), ("bash", CONSOLE)], True),
        ([("sh", 0), ("python3", PTS), ("bash", PTS), ("tmux: server", 0), ("systemd", 0)], False),
        ([("sh", 0), ("python3", PTS), ("bash", PTS), ("ttyd", CONSOLE), ("bash", CONSOLE)], False),
        ([("sh", 0), ("python3", 0), ("cron", 0), ("bash", CONSOLE)], False),
        ([("sh", 0), ("python3", CONSOLE), ("bash", CONSOLE), ("sshd", 0)], False),
    ],
)
def test_the_terminal_that_counts_is_the_one_somebody_sits_at(terminals: list[tuple[str, int]], is_one: bool) -> None:
    processes = tuple(Process(900 - n, device, 100.0, name, "") for n, (name, device) in enumerate(terminals))
    assert find(Surroundings(chain=processes), OLD).console is is_one


def test_an_ssh_forward_that_sshd_opened_itself_is_no_session() -> None:
    outward = Connection(6, HERE, 51000, ip_address("192.0.2.99"), 5432, "sshd", 500)
    assert find(chain((900, "sh", "")), OLD, outward).connections == (OLD,)


def may(around: Surroundings, then: tuple[Connection, ...], *connections: Connection) -> str | None:
    return wayin.may_confirm(around, connections, (SSHD,), then, loaded=200).why_not


def test_only_a_connection_younger_than_the_load_confirms() -> None:
    new = chain((900, "sh", ""), (700, "bash", ENV), (500, "sshd", ""), started=300)
    assert may(new, (), OLD) is None
    assert "older" in (may(new, (OLD,), OLD) or "")
    before = chain((900, "sh", ""), (700, "bash", ENV), (500, "sshd", ""), started=100)
    assert "older" in (may(before, (), OLD) or "")


def test_a_shared_connection_is_served_by_the_first_ones_process_and_does_not_confirm() -> None:
    shared = Surroundings(
        chain=(
            Process(900, PTS, 300, "sh", ENV),
            Process(700, PTS, 300, "bash", ENV),
            Process(500, 0, 100, "sshd", ""),
            Process(10, 0, 1, "sshd", ""),
        )
    )
    assert "older" in (may(shared, (), OLD) or "")


def test_a_console_confirms_and_a_session_of_unknown_origin_does_not() -> None:
    assert may(chain((900, "bash", ""), (1, "login", ""), device=CONSOLE), (OLD,), OLD) is None
    assert "cannot be told" in (may(chain((900, "bash", STALE), (800, "tmux", "")), (), OLD) or "")
    assert "cannot be told" in (may(chain((900, "sh", ""), device=0), ()) or "")
    nobody = wayin.may_confirm(chain((900, "sh", "")), (), (), (), 200)
    assert nobody.why_not is None and "without sshd" in nobody.said


def test_ssh_from_the_host_to_itself_proves_nothing() -> None:
    served = Connection(6, HERE, 22, ip_address("192.0.2.11"), 4001, "sshd", 500)
    client = Connection(6, ip_address("192.0.2.11"), 4001, HERE, 22, "ssh", 450)
    around = chain((900, "sh", "192.0.2.11 4001 192.0.2.10 22"), (500, "sshd", ""), started=300)
    assert may(around, (), served) is None
    assert "cannot be told" in (may(around, (), served, client) or "")
    home = Connection(6, ip_address("127.0.0.1"), 22, ip_address("127.0.0.1"), 4001, "sshd", 500)
    assert "cannot be told" in (may(around, (), home) or "")


ANSWER = "\x01".join(
    (
        "",
        "chain\n900 800 0 12345 sh?|\n800 1 34817 12000 bash?|203.0.113.5 4001 192.0.2.10 22\n",
        "ticks\n100\n",
        "flows\nipv4     2 tcp      6 431999 ESTABLISHED src=203.0.113.5 dst=192.0.2.77 sport=4001 dport=2222 "
        "src=192.0.2.10 dst=203.0.113.5 sport=22 dport=4001 [ASSURED] use=1\nnonsense\n",
        "boot\nnftables /etc/runlevels/boot/nftables flushes\nufw /etc/rcS.d/S01ufw denies\n$(x)\n",
        "multicast\n2:\teth0\n\tlink  01:00:5e:00:00:fb\n\tinet  224.0.0.251\n\tinet  239.1.1.1 users 2\n",
        "vendor\nAmazon EC2\n",
        "clocks\n192.0.2.123\n\n",
        "links\n3: wg0: <POINTOPOINT,UP> mtu 1420     link/none  promiscuity 0     wireguard addrgenmode none\n"
        "4: gre1@NONE: <POINTOPOINT> mtu 1476     link/gre 192.0.2.10     gre remote 198.51.100.9 local\n",
        "wireguard\nwg0\tAAAA=\t198.51.100.3:40000\nwg0\tBBBB=\t(none)\n",
        "wireguard-port\nwg0\t51820\n",
        "wireguard-keepalive\nwg0\tAAAA=\toff\n",
        "tunnels\n",
    )
)


def test_the_answer_of_a_host_is_read() -> None:
    around = wayin.read(ANSWER)
    assert around.chain[1] == Process(800, 34817, 120.0, "bash", "203.0.113.5 4001 192.0.2.10 22")
    assert [service.name for service in around.boot_services] == ["nftables", "ufw"]
    assert ip_address("239.1.1.1") in around.multicast
    assert around.cloud == "Amazon EC2"
    assert around.clocks == (ip_address("192.0.2.123"),)
    assert dict(around.links) == {"wg0": "wireguard", "gre1": "gre"}


def test_a_translated_way_in_is_asked_about_as_it_came() -> None:
    around = wayin.read(ANSWER)
    packet = wayin.packet(OLD, around.flows, lambda _: "eth3")
    assert (packet.destination, packet.port, packet.interface) == (ip_address("192.0.2.77"), 2222, "eth3")
    plain = wayin.packet(OTHER, around.flows, lambda _: "eth3")
    assert (plain.destination, plain.port, plain.source) == (HERE, 22, OTHER.peer)
    home = Connection(6, ip_address("127.0.0.1"), 22, ip_address("127.0.0.1"), 5, "sshd", 9)
    assert wayin.packet(home, (), lambda _: "lo").interface == LOOPBACK


def test_the_outer_flow_of_a_tunnel_is_found() -> None:
    found = wayin.tunnels(wayin.read(ANSWER), (), lambda _: HERE, lambda _: "eth0")
    wireguard, gre = found
    (packet,) = wireguard.outer
    assert (packet.protocol, packet.source) == (UDP, ip_address("198.51.100.3"))
    assert (packet.port, packet.source_port) == (51820, 40000)
    assert not wireguard.keeps_alive
    assert [(p.protocol, p.source) for p in gre.outer] == [(47, ip_address("198.51.100.9"))]


def test_hostile_text_in_an_answer_is_no_address_and_no_process() -> None:
    flow = "ipv4 2 tcp 6 src=$(x) dst=y sport=1 dport=2\n"
    around = wayin.read(f"\x01chain\n1 2 3\nx y z a b|$(reboot)\n\x01flows\n{flow}")
    assert around.chain == () and around.flows == ()
