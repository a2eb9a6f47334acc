"""Ring 3 for nftables: rules in a real kernel. Loaded, listed, loaded again, saved, undone; contents kept, no gap; and
a few real packets where only the kernel can tell what a rule means (limits, moments, answers, open connections)."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address

import pytest

from portctl import backends
from portctl.backends.base import Ability, bundle
from portctl.command import Command, Result
from portctl.hosts.namespaces import Room
from portctl.net import ANYWHERE, Addresses, Ranges
from portctl.ruleset import KNOWN, STARTING, Direction, Kind, Original, Rate, Rule, Ruleset, Translation, Verdict
from tests import nftables_cases as cases
from tests.nftables_cases import block, fixed, one, starts, tcp, udp
from tests.system import worlds
from tests.system.worlds import World, checked

RING = "ring 3 (rules in the kernel), nftables"
NFT = backends.load("nftables")
KNOWN_FIRST = fixed("known", states=KNOWN)


def text(ruleset: Ruleset) -> str:
    assert not NFT.gaps(ruleset, Ability())
    return NFT.render(ruleset, Ability())["rules.nft"]


def put(room: Room, ruleset: Ruleset, folder: str = "/run/bundle") -> None:
    for name, content in bundle(NFT, ruleset, Ability()).items():
        room.put(f"{folder}/{name}", content.encode())


def sh(room: Room, *words: str) -> Result:
    return room.run(Command(("dash", *words)), timeout=120)


def load(room: Room, ruleset: Ruleset) -> None:
    put(room, ruleset)
    result = sh(room, "/run/bundle/load.sh")
    assert (result.status, result.stdout, result.stderr) == (0, "", "")


def listed(room: Room) -> str:
    return checked(room, "env", "TZ=UTC", "nft", "-u", "list", "table", "inet", "portctl")


def told(room: Room) -> str:
    """The listing without what the packets counted."""
    return re.sub(r"counter packets \d+ bytes \d+", "counter packets 0 bytes 0", listed(room))


def by_number(listing: str) -> str:
    """nft prints names of protocols from /etc/protocols; rules are written so that nothing is read from there."""
    return listing.replace("l4proto gre", "l4proto 47").replace("l4proto vrrp", "l4proto 112")


@pytest.fixture
def room() -> Iterator[Room]:
    with worlds.machine() as made:
        yield made


@pytest.fixture
def world() -> Iterator[World]:
    with worlds.world() as made:
        yield made


def test_the_kernel_lists_what_was_rendered(room: Room) -> None:
    rulesets = [cases.whole(), cases.whole(Verdict.REJECT), cases.many(5), *map(cases.random_ruleset, range(30))]
    for ruleset in rulesets:
        load(room, ruleset)
        assert by_number(told(room)) == text(ruleset), ruleset.name
        answers = {name: checked(room, *command.argv) for name, command in NFT.questions().items()}
        assert NFT.parse(answers).own() == NFT.parse({"rules.nft": text(ruleset)}).own(), ruleset.name
        checked(room, "dash", "/run/bundle/remove.sh")


def test_any_rules_replace_any_others(room: Room) -> None:
    for seed in (*range(100, 112), *range(110, 100, -2)):
        ruleset = cases.random_ruleset(seed)
        load(room, ruleset)
        loaded = NFT.parse({"listing": listed(room)})
        assert loaded.own() == NFT.parse({"rules.nft": text(ruleset)}).own(), ruleset.name
        assert not {name for _, name in objects(room)} - {name for _, name in re.findall(OBJECT, text(ruleset))}


OBJECT = re.compile(r"^\t(set|map|chain) (\S+) \{$", re.M)


def objects(room: Room) -> list[tuple[str, str]]:
    return OBJECT.findall(listed(room))


def test_a_check_changes_nothing(room: Room) -> None:
    put(room, cases.whole())
    assert sh(room, "/run/bundle/load.sh", "check").ok
    assert checked(room, "nft", "list", "ruleset") == ""
    load(room, cases.whole())
    before = listed(room)
    put(room, cases.many(5))
    assert sh(room, "/run/bundle/load.sh", "check").ok
    assert listed(room) == before


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (("accept", "acept"), "syntax error"),
        (('skuid "nobody"', 'skuid "no-such-user"'), "User does not exist"),
        (("jump service-ssh", "jump service-gone"), "No such file"),
        (("table inet portctl {", "table inet other {"), "does not begin with the table of portctl"),
    ],
)
def test_a_load_that_fails_changes_nothing(room: Room, spoil: tuple[str, str], words: str) -> None:
    load(room, cases.many(3))
    before = checked(room, "nft", "list", "ruleset")
    put(room, cases.whole())
    room.put("/run/bundle/rules.nft", text(cases.whole()).replace(*spoil).encode())
    for arguments in ([], ["check"]):
        result = sh(room, "/run/bundle/load.sh", *arguments)
        assert result.status == 1 and words in result.stderr
        assert checked(room, "nft", "list", "ruleset") == before


CONTENTS = """\
add element inet portctl live-bans-4 { 192.0.2.66 timeout 1h, 203.0.113.0/24 }
add element inet portctl live-bans-6 { 2001:db8:66::/48 timeout 2h }
add element inet portctl open-4 { tcp . 192.0.2.10 . 22 . 192.0.2.1 . 50000 }
add element inet portctl LIMIT-4 { 192.0.2.5 limit rate 10/minute burst 10 packets }
"""


def members(room: Room) -> list[str]:
    found = re.findall(r"elements = \{([^}]*)\}", listed(room))
    runtime = [f for f in found if "jump" not in f and ("expires" in f or "50000" in f)]
    return sorted(re.sub(r" expires \w+", "", " ".join(f.split())) for f in runtime)


def test_run_time_contents_outlive_loads_and_undo(room: Room) -> None:
    ruleset = cases.whole()
    load(room, ruleset)
    limit = next(
        name[:-2] for kind, name in objects(room) if name.startswith("limit-service-slow") and name.endswith("-4")
    )
    checked(room, "nft", "-f", "-", stdin=CONTENTS.replace("LIMIT", limit).encode())
    before = members(room)
    assert len(before) == 4
    checked(room, "dash", "/run/bundle/save.sh", "/run/saved")
    load(room, ruleset)
    assert members(room) == before
    changed = replace(ruleset, inbound=(*ruleset.inbound[:-1], starts("new", tcp(7)), ruleset.inbound[-1]))
    load(room, changed)
    assert members(room) == before
    checked(room, "dash", "/run/saved/load.sh")
    assert members(room) == before
    harder = tuple(replace(r, rate=Rate(9, "minute")) if r.rate else r for r in ruleset.inbound)
    load(room, replace(ruleset, inbound=harder))
    assert members(room) == [m for m in before if "limit" not in m], "another limit counts anew"


FOREIGN = """\
table ip filter {
	chain INPUT {
		type filter hook input priority filter; policy accept;
		tcp dport 9 counter packets 7 bytes 9 drop
	}
}
table inet f2b {
	set s {
		type ipv4_addr
		flags timeout
		elements = { 192.0.2.3 }
	}
	chain c {
		type filter hook input priority -1
		ip saddr @s reject
	}
}
table ip portctl {
	chain c {
		accept
	}
}
"""


def in_order(listing: str) -> list[str]:
    """The tables, sets and chains of a listing by themselves: what a load keeps comes first in the kernel's lists."""
    return sorted(re.split(r"\n\n?(?=\t?(?:table|set|map|chain) )", listing.replace("\n}\n", "\n")))


def test_save_brings_back_what_was_there_byte_for_byte(room: Room) -> None:
    checked(room, "nft", "-f", "-", stdin=FOREIGN.encode())
    foreign = checked(room, "nft", "-a", "list", "ruleset")
    first, second = cases.whole(), cases.many(5)
    load(room, first)
    before = checked(room, "nft", "list", "ruleset")
    checked(room, "dash", "/run/bundle/save.sh", "/run/saved one")
    load(room, second)
    assert checked(room, "nft", "list", "ruleset") != before
    checked(room, "dash", "/run/saved one/load.sh")
    assert in_order(checked(room, "nft", "list", "ruleset")) == in_order(before)
    load(room, replace(first, inbound=(*first.inbound[:-1], starts("new", tcp(7)), first.inbound[-1])))
    assert in_order(checked(room, "nft", "list", "ruleset")) != in_order(before)
    again = checked(room, "nft", "list", "ruleset")
    checked(room, "dash", "/run/bundle/save.sh", "/run/saved two")
    load(room, first)
    checked(room, "dash", "/run/saved two/load.sh")
    assert checked(room, "nft", "list", "ruleset") == again
    checked(room, "dash", "/run/saved one/load.sh")
    checked(room, "dash", "/run/saved one/remove.sh")
    assert checked(room, "nft", "-a", "list", "ruleset") == foreign
    checked(room, "dash", "/run/saved one/remove.sh")
    checked(room, "dash", "/run/bundle/save.sh", "/run/nothing")
    load(room, first)
    checked(room, "dash", "/run/nothing/load.sh")
    checked(room, "dash", "/run/nothing/load.sh")
    assert checked(room, "nft", "-a", "list", "ruleset") == foreign


def test_saved_counters_and_moments_are_the_same_in_every_zone(room: Room) -> None:
    load(room, one(starts("x", tcp(22), until=cases.END)))
    before = listed(room)
    checked(room, "env", "TZ=Asia/Tokyo", "dash", "/run/bundle/save.sh", "/run/saved")
    checked(room, "env", "TZ=America/New_York", "dash", "/run/saved/load.sh")
    assert listed(room) == before
    assert 'meta time < "2031-01-31 18:30:00"' in before


NASTY = ('"; accept; comment "', "a\\", "\n}\nadd rule inet portctl input accept", "ÄÖ€" * 60, "$x {{ 7 }} `id`", "'")


@pytest.mark.parametrize("words", NASTY)
def test_what_people_write_loads_and_breaks_nothing(room: Room, words: str) -> None:
    ruleset = one(starts("x", tcp(22), description=words, owner=words, ticket=words))
    load(room, ruleset)
    assert told(room) == text(ruleset)


def test_a_large_list_loads_in_parts_and_is_listed_again(room: Room) -> None:
    feed = Addresses(Ranges.of((n, n) for n in range(0x0B000000, 0x0B000000 + 8 * 45_000, 8)))
    ruleset = one(block("block-feed", source=feed), block("block-feed", destination=feed), last=Verdict.REJECT)
    load(room, ruleset)
    assert told(room) == text(ruleset)
    load(room, ruleset)
    assert told(room) == text(ruleset)


# ---- real packets

SERVER = r"""
import socket, sys, threading
held = []
def listen(kind, family, address, port):
    s = socket.socket(family, kind)
    if family == socket.AF_INET6: s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    s.bind((address, port))
    return s
def tcp(family, address, port):
    s = listen(socket.SOCK_STREAM, family, address, port)
    s.listen(500)
    while True:
        c, _ = s.accept()
        held.append(c)
        threading.Thread(target=echo, args=(c,), daemon=True).start()
def echo(c):
    try:
        while data := c.recv(100): c.sendall(data)
    except OSError: pass
    c.close()
def udp(family, address, port):
    s = listen(socket.SOCK_DGRAM, family, address, port)
    while True:
        data, peer = s.recvfrom(100)
        s.sendto(data, peer)
for port in map(int, sys.argv[1:]):
    for family, address in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
        for serve in (tcp, udp): threading.Thread(target=serve, args=(family, address, port), daemon=True).start()
print("ready", flush=True)
sys.stdin.read()
"""

ASK = r"""
import socket, sys, time
def ask(kind, host, port, wait=0.4):
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    s = socket.socket(family, socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM); s.settimeout(wait)
    try:
        s.connect((host, int(port))); s.send(b"x")
        return "accept" if s.recv(9) == b"x" else "closed"
    except (ConnectionRefusedError, ConnectionResetError): return "reject"
    except (TimeoutError, socket.timeout): return "drop"
    finally: held.append(s)
held = []
"""


def python(room: Room, code: str, *words: str, seconds: float = 60) -> str:
    result = room.run(Command((sys.executable, "-c", ASK + code, *words)), timeout=seconds)
    assert result.ok, result.stderr
    return result.stdout


def serve(world: World, *ports: int) -> None:
    process = world.machine.start((sys.executable, "-c", SERVER, *map(str, ports)))
    assert process.stdout is not None and process.stdout.readline() == b"ready\n"


def asked(world: World, kind: str, port: int, host: str = "192.0.2.10") -> str:
    return python(world.controller, "print(ask(*sys.argv[1:]))", kind, host, str(port)).strip()


@pytest.mark.parametrize("last", [Verdict.DROP, Verdict.REJECT])
def test_packets_get_the_answers_that_the_rules_say(world: World, last: Verdict) -> None:
    serve(world, 7, 8, 9)
    rules = (
        *cases.FIRST_IN,
        block("b", Verdict.REJECT, flows=(tcp(9), udp(9))),
        KNOWN_FIRST,
        starts("x", tcp(7), udp(7)),
    )
    load(world.machine, one(*rules, last=last))
    for host in ("192.0.2.10", "2001:db8::10"):
        for kind in ("tcp", "udp"):
            found = [asked(world, kind, port, host) for port in (7, 8, 9)]
            assert found == ["accept", last.value, "reject"], (kind, host)


def test_no_packet_is_lost_and_none_let_in_while_rules_are_replaced(world: World) -> None:
    serve(world, 7, 8)
    first = one(*cases.FIRST_IN, KNOWN_FIRST, starts("x", tcp(7), udp(7)))
    second = one(
        *cases.FIRST_IN,
        block("b", source=cases.OFFICE),
        KNOWN_FIRST,
        starts("x", tcp((1, 7)), udp(7)),
        starts("y", tcp(70)),
    )
    load(world.machine, first)
    put(world.machine, second, "/run/second")
    script = (
        "i=0; while [ $i -lt 25 ]; do dash /run/second/load.sh && dash /run/bundle/load.sh || exit 1; i=$((i+1)); done"
    )
    reloading = world.machine.start(("sh", "-c", script))
    found = python(
        world.controller,
        "end = time.time() + 2.5; said = {}; n = 0\n"
        "flow = socket.create_connection(('192.0.2.10', 7)); flow.settimeout(1)\n"
        "while time.time() < end:\n"
        "    flow.send(b'y'); assert flow.recv(9) == b'y'\n"
        "    for kind in ('tcp', 'udp'): said[kind, ask(kind, '192.0.2.10', 7, 0.9)] = n = n + 1\n"
        "    while held: held.pop().close()\n"
        "    if n % 40 == 0: said['denied', ask('tcp', '192.0.2.10', 8, 0.1)] = 1; n += 1\n"
        "print(n, sorted(said))",
    )
    assert reloading.wait(60) == 0
    count, _, said = found.partition(" ")
    assert int(count) > 100
    assert said.strip() == "[('denied', 'drop'), ('tcp', 'accept'), ('udp', 'accept')]"


def limited(**limits: object) -> Ruleset:
    return one(*cases.FIRST_IN, KNOWN_FIRST, starts("x", tcp(7), **limits))  # type: ignore[arg-type]


@pytest.mark.parametrize("host", ["192.0.2.10", "2001:db8::10"])
def test_so_many_at_once_and_then_one_at_a_time(world: World, host: str) -> None:
    serve(world, 7)
    load(world.machine, limited(rate=Rate(30, "minute")))
    code = (
        "start = time.time(); first = [ask('tcp', sys.argv[1], 7, 0.1) for _ in range(32)]\n"
        "for s in held: s.close()\n"  # or SYNs sent again would take the next place
        "time.sleep(start + 2.3 - time.time())\n"  # one every two seconds
        "print(*first, ask('tcp', sys.argv[1], 7, 0.1), ask('tcp', sys.argv[1], 7, 0.1))"
    )
    said = python(world.controller, code, host).split()
    assert said == ["accept"] * 30 + ["drop", "drop", "accept", "drop"]


def test_so_many_at_the_same_time(world: World) -> None:
    serve(world, 7)
    load(world.machine, limited(max_connections=2))
    code = (
        "a = [ask('tcp', '192.0.2.10', 7) for _ in range(3)]\n"
        "held[0].close(); held[2].close(); time.sleep(0.3)\n"
        "print(*a, ask('tcp', '192.0.2.10', 7))"
    )
    checked(world.machine, "sysctl", "-qw", "net.netfilter.nf_conntrack_tcp_timeout_time_wait=0")
    checked(world.machine, "sysctl", "-qw", "net.netfilter.nf_conntrack_tcp_timeout_last_ack=0")
    assert python(world.controller, code).split() == ["accept", "accept", "drop", "accept"]


@pytest.mark.parametrize("limits", [{"max_connections": 9}, {"rate": Rate(9, "day")}])
def test_a_full_table_admits_no_new_source(world: World, limits: dict[str, object]) -> None:
    """With places for two sources, so that two sources with real connections fill it."""
    serve(world, 7)
    rules = bundle(NFT, limited(**limits), Ability())["rules.nft"]
    put(world.machine, limited(**limits))
    world.machine.put("/run/bundle/rules.nft", rules.replace("size 65536", "size 2").encode())
    assert sh(world.machine, "/run/bundle/load.sh").ok
    holding = "print(ask('tcp', '192.0.2.10', 7), flush=True); sys.stdin.read()"
    for number in range(2):
        room = world.join(f"holder{number}", f"192.0.2.{60 + number}/24")
        process = room.start((sys.executable, "-c", ASK + holding))
        assert process.stdout is not None and process.stdout.readline() == b"accept\n"
    stranger = world.join("stranger", "192.0.2.66/24")
    assert python(stranger, "print(ask('tcp', '192.0.2.10', 7))").strip() == "drop"


def test_an_entry_ends_at_its_moment_in_every_zone(world: World) -> None:
    serve(world, 7, 8)
    now = datetime.now(UTC)
    rules = (
        starts("past", tcp(7), until=now - timedelta(minutes=1)),
        starts("soon", tcp(8), until=now + timedelta(minutes=9)),
    )
    put(world.machine, one(*cases.FIRST_IN, KNOWN_FIRST, *rules))
    for zone in ("UTC", "Asia/Tokyo", "America/New_York"):
        checked(world.machine, "env", f"TZ={zone}", "dash", "/run/bundle/load.sh")
        assert (asked(world, "tcp", 7), asked(world, "tcp", 8)) == ("drop", "accept"), zone


def test_connections_older_than_the_rules_live_on_where_they_are_listed(world: World) -> None:
    serve(world, 7)
    load(world.machine, one(starts("x", tcp(22))))
    rules = (world.machine, "dash", "/run/bundle/remove.sh")
    checked(*rules)
    code = (
        "a = socket.create_connection(('192.0.2.10', 7)); b = socket.create_connection(('192.0.2.10', 7))\n"
        "a.settimeout(1); b.settimeout(1)\n"
        "print(a.getsockname()[1], flush=True); sys.stdin.readline()\n"
        "def lives(s):\n"
        "    try: s.send(b'x'); return s.recv(9) == b'x'\n"
        "    except OSError: return False\n"
        "print(lives(a), lives(b), flush=True)"
    )
    process = world.controller.start((sys.executable, "-c", ASK + code))
    assert process.stdout is not None and process.stdin is not None
    port = int(process.stdout.readline())
    loaded = one(*cases.FIRST_IN, KNOWN_FIRST, starts("x", tcp(22)))
    loaded = replace(loaded, outbound=(KNOWN_FIRST, Rule("default", loaded.outbound[0].kind, Verdict.DROP)))
    load(world.machine, loaded)
    element = f"{{ tcp . 192.0.2.10 . 7 . 192.0.2.1 . {port} }}"
    checked(world.machine, "nft", f"add element inet portctl open-4 {element}")
    checked(world.machine, "conntrack", "-F")
    process.stdin.write(b"\n")
    process.stdin.flush()
    assert process.stdout.readline().split() == [b"True", b"False"]


def test_somebody_elses_answers_do_not_open_what_others_close(world: World) -> None:
    serve(world, 7)
    load(world.machine, one(*cases.FIRST_IN, KNOWN_FIRST, starts("x", tcp(7))))
    theirs = "table inet t { chain c { type filter hook input priority 0; tcp dport 7 drop; }; }"
    checked(world.machine, "nft", theirs)
    assert asked(world, "tcp", 7) == "drop"


def test_a_forward_to_a_port_of_this_host_is_turned_before_others_turn_it(world: World) -> None:
    serve(world, 7)
    theirs = "table ip nat { chain c { type nat hook prerouting priority dstnat; tcp dport 70 redirect to :9; }; }"
    checked(world.machine, "nft", theirs)
    turned = starts("old", kind=Kind.FORWARD, original=Original((tcp(70),)))
    moved = Translation("old", (tcp(70),), ANYWHERE, None, (), None, 7)
    load(world.machine, one(*cases.FIRST_IN, KNOWN_FIRST, turned, translations=(moved,)))
    for host in ("192.0.2.10", "2001:db8::10"):
        assert asked(world, "tcp", 70, host) == "accept"
        assert asked(world, "tcp", 7, host) == "drop"


def test_what_a_forward_does_not_admit_is_not_taken_for_published(world: World) -> None:
    """A bare ACK is translated like a SYN; under `published: keep` it must not slip through as somebody else's."""
    behind = world.join("behind", "192.0.2.66/24")
    process = behind.start((sys.executable, "-c", SERVER, "7"))
    assert process.stdout is not None and process.stdout.readline() == b"ready\n"
    moved = Translation("x", (tcp(70),), ANYWHERE, None, (), ip_address("192.0.2.66"), 7)
    rules = (
        KNOWN_FIRST,
        starts("x", kind=Kind.FORWARD, original=Original((tcp(70),)), source=Addresses.of("203.0.113.0/24")),
        Rule("published", Kind.PUBLISHED, Verdict.ACCEPT, published=True, states=STARTING),
    )
    ruleset = one(*rules, direction=Direction.FORWARDED, translations=(moved,))
    load(world.machine, ruleset)
    checked(world.machine, "sysctl", "-qw", "net.ipv4.ip_forward=1")
    checked(behind, "ip", "route", "add", "192.0.2.1/32", "via", "192.0.2.10")
    assert asked(world, "tcp", 70) == "drop"
    theirs = (
        "table ip nat { chain c { type nat hook prerouting priority dstnat; tcp dport 71 dnat to 192.0.2.66:7; }; }"
    )
    checked(world.machine, "nft", theirs)
    assert asked(world, "tcp", 71) == "accept"
    assert asked(world, "tcp", 70) == "drop"


def test_direct_access_to_a_target_stays_closed(world: World) -> None:
    behind = world.join("behind", "198.51.100.66/24")
    process = behind.start((sys.executable, "-c", SERVER, "7"))
    assert process.stdout is not None and process.stdout.readline() == b"ready\n"
    checked(world.machine, "ip", "address", "add", "198.51.100.10/24", "dev", "eth0")
    checked(behind, "ip", "route", "add", "192.0.2.0/24", "via", "198.51.100.10")
    checked(world.controller, "ip", "route", "add", "198.51.100.0/24", "via", "192.0.2.10")
    checked(world.machine, "sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv4.conf.all.send_redirects=0")
    moved = Translation("x", (tcp(7),), ANYWHERE, None, (), ip_address("198.51.100.66"), None)
    turned = starts("x", kind=Kind.FORWARD, original=Original((tcp(7),)))
    load(world.machine, one(KNOWN_FIRST, turned, direction=Direction.FORWARDED, translations=(moved,)))
    assert asked(world, "tcp", 7) == "accept"
    assert asked(world, "tcp", 7, "198.51.100.66") == "drop"


def test_a_forward_to_where_the_packet_was_going_anyway(world: World) -> None:
    """The kernel does not call such a packet translated, and it must be admitted all the same."""
    serve(world, 7, 8)
    turned = starts("x", kind=Kind.FORWARD, original=Original((tcp(7, 70),)))
    moved = Translation("x", (tcp(7, 70),), ANYWHERE, None, (), None, 7)
    load(world.machine, one(*cases.FIRST_IN, KNOWN_FIRST, turned, translations=(moved,)))
    for host in ("192.0.2.10", "2001:db8::10"):
        assert [asked(world, "tcp", port, host) for port in (7, 70, 8)] == ["accept", "accept", "drop"]
