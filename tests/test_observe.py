# ruff: noqa: ARG002 - doubles take what their Protocol says
"""What a host's answers mean: facts, loaded rules of several filters, what could not be seen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address

import pytest

from portctl.backends.base import Ability, Difference
from portctl.command import Command, HostError, Result
from portctl.observe import Facts, Interface, choose_backend, facts, observe
from portctl.observe.boot import boot_state
from portctl.observe.linux import read, version
from portctl.observe.programs import merge
from portctl.problems import Problem
from portctl.program import Chain, Hook, Line, Program
from portctl.ruleset import Ruleset

DEBIAN = """\
\x01system
Linux
\x01release
6.1.0-18-amd64
\x01distribution
PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"
ID=debian
VERSION_ID="12"
\x01init
systemd
\x01user
0
\x01namespaces
pid:[4026531836]
user:[4026531837]
all
\x01tool nft
nftables v1.0.6 (Lester Gooch #5)
\x01tool iptables
iptables v1.8.9 (nf_tables)
\x01tool ss
ss utility, iproute2-6.1.0
\x01tool systemd-run
systemd 252 (252.22-1~deb12u1)
\x01nft
works
\x01addresses
1: lo    inet 127.0.0.1/8 scope host lo\\       valid_lft forever preferred_lft forever
2: eth0    inet 192.0.2.10/24 brd 192.0.2.255 scope global eth0\\       valid_lft forever preferred_lft forever
5: eth0.100@eth0    inet 10.1.0.1/16 scope global eth0.100\\       valid_lft forever preferred_lft forever
6: tun0    inet 10.8.0.2 peer 10.8.0.1/32 scope global tun0\\       valid_lft forever preferred_lft forever
\x01addresses6
20010db8000000000000000000000010 02 40 00 00     eth0
\x01routes
default via 192.0.2.1 dev eth0
\x01routes6
NOWHERE 00 NOWHERE 00 fe80000000000000000000000000fffe 00000400 00000001 00000000 00450003     eth0
NOWHERE 00 NOWHERE 00 fe80000000000000000000000000fffd 00000400 00000001 00000000 00450003     lan0
\x01accept_ra
all 1
default 1
eth0 1
eth0.100 1
lan0 0
\x01resolvers
search example.org
nameserver 192.0.2.53
nameserver fe80::1%eth0
\x01tracked
0
\x01tracking
""".replace("NOWHERE", "0" * 32)


def test_facts_of_a_debian_host() -> None:
    found = read(DEBIAN)
    assert (found.system, found.distribution, found.init, found.root) == ("Linux", "debian 12", "systemd", True)
    assert found.tools == (
        ("nft", "1.0.6"),
        ("iptables", "1.8.9 (nf_tables)"),
        ("ss", "6.1.0"),
        ("systemd-run", "252.22"),
    )
    assert found.sees_processes and found.nft_works and not found.tracking
    assert found.gateways == tuple(map(ip_address, ("192.0.2.1", "fe80::fffd", "fe80::fffe")))
    assert found.resolvers == tuple(map(ip_address, ("192.0.2.53", "fe80::1")))


@pytest.mark.parametrize("seen", ["pid:[4026531836]", "user:[4026531837]", "all\n"])
def test_root_does_not_see_everything_everywhere(seen: str) -> None:
    """In a container's namespaces, or where a security module keeps process 1 to itself."""
    assert not read(DEBIAN.replace(seen, "")).sees_processes


def test_addresses_belong_to_interfaces_under_their_plain_names() -> None:
    found = {interface.name: interface.addresses for interface in read(DEBIAN).interfaces}
    assert found["eth0"] == (ip_address("192.0.2.10"), ip_address("2001:db8::10"))
    assert found["eth0.100"] == (ip_address("10.1.0.1"),)
    assert found["tun0"] == (ip_address("10.8.0.2"),)


def test_only_the_kernels_own_advertisements_count() -> None:
    """lan0's are listened to by a program: accept_ra is 0 there and must stay so."""
    assert [interface.name for interface in read(DEBIAN).interfaces if interface.advertised] == ["eth0"]


def test_addresses_without_ip() -> None:
    old = "\x01addresses\neth0: flags=4163<UP>  mtu 1500\n        inet 192.0.2.10  netmask 255.255.255.0\n"
    busybox = "\x01addresses\neth0      Link encap:Ethernet\n          inet addr:192.0.2.10  Bcast:192.0.2.255\n"
    for answer in (old, busybox):
        assert read(answer).interfaces == (Interface("eth0", (ip_address("192.0.2.10"),)),)


@pytest.mark.parametrize("said", ["\x01tracked\n3\n", '\x01tracking\n\tct state established accept comment "x"\n'])
def test_tracking_is_seen_by_its_table_or_by_a_rule(said: str) -> None:
    assert read(said).tracking
    assert not read("\x01tracked\n0\n\x01tracking\n").tracking


def test_versions() -> None:
    assert version("iptables v1.8.9 (legacy)") == "1.8.9 (legacy)"
    assert version("ipset v7.17, protocol version: 7") == "7.17"
    assert version("something else") == ""


def test_a_host_that_does_not_answer_is_an_error() -> None:
    with pytest.raises(HostError, match="silent: asked what it is, it said: no shell"):
        facts(Scripted("silent", otherwise=Result(127, "", "no shell\n")))


NFT, BOTH, NONE = (("nft", "1.0.6"),), (("nft", "1.0.6"), ("iptables", "1.8.9 (nf_tables)")), ()


@pytest.mark.parametrize(
    ("tools", "works", "last", "asked", "chosen"),
    [
        (BOTH, True, None, None, "nftables"),
        (BOTH, False, None, None, "iptables"),
        (BOTH, True, "iptables", None, "iptables"),
        (BOTH, True, "iptables", "nftables", "nftables"),
        (NFT, True, None, None, "nftables"),
        (BOTH[1:], True, None, None, "iptables"),
    ],
)
def test_which_back_end(tools: object, works: bool, last: str | None, asked: str | None, chosen: str) -> None:
    assert choose_backend(Facts("Linux", tools=tools, nft_works=works), last, asked) == chosen  # type: ignore[arg-type]


def test_no_back_end_fits() -> None:
    with pytest.raises(HostError, match="install nftables"):
        choose_backend(Facts("Linux", tools=NONE))
    with pytest.raises(HostError, match="SunOS"):
        choose_backend(Facts("SunOS"))


NOT_FOUND = Result(127, "", "not found\n")


@dataclass(frozen=True)
class Scripted:
    """A host that answers from a table by a command's first word."""

    name: str = "scripted"
    answers: Mapping[str, Result] = field(default_factory=dict)
    otherwise: Result = NOT_FOUND

    def run(self, command: Command, timeout: float | None = None) -> Result:
        return self.answers.get(command.argv[0], self.otherwise)

    def put(self, path: str, data: bytes, mode: int = 0o644) -> None:
        raise AssertionError(f"{path} is written while observing")


@dataclass
class Listing:
    """A back end whose listing is one chain for each line."""

    NAME: str
    PARTS: tuple[str, ...] = ()

    def gaps(self, ruleset: Ruleset, ability: Ability) -> list[Problem]:
        raise AssertionError

    def differences(self, ruleset: Ruleset, ability: Ability) -> tuple[Difference, ...]:
        raise AssertionError

    def render(self, ruleset: Ruleset, ability: Ability) -> dict[str, str]:
        raise AssertionError

    def scripts(self) -> dict[str, str]:
        raise AssertionError

    def questions(self) -> Mapping[str, Command]:
        return {"rules": Command((self.NAME, "list"))}

    def parse(self, listings: Mapping[str, str]) -> Program:
        return Program(tuple(Chain(line, "INPUT", (), family=4) for line in listings.get("rules", "").splitlines()))

    def claims(self, text: str) -> str | None:
        raise AssertionError


def test_what_needs_root_is_unknown_and_not_empty() -> None:
    host = Scripted(answers={"nft": Result(1, "", "Operation not permitted (you must be root)\n")})
    found = observe(host, [Listing("nft")], known=Facts("Linux"))
    assert found.program is None
    assert "Operation not permitted" in found.unknown[0]
    assert found.listeners is None
    assert any("what listens" in words for words in found.unknown)


def test_owners_that_could_not_be_seen_are_named() -> None:
    host = Scripted(answers={"ss": Result(0, "tcp LISTEN 0 16 0.0.0.0:22 0.0.0.0:* ino:1 sk:1 <->\n")})
    found = observe(host, [], known=Facts("Linux", tools=(("ss", "6.1.0"),)))
    assert found.listeners is not None
    assert [listener.process for listener in found.listeners] == [None]
    assert found.unknown == ("who owns the sockets of other users (needs root)",)


def test_where_ss_says_something_else_proc_is_asked() -> None:
    table = "\x01order\n          1\n\x01tcp\n  sl  local_address rem_address   st\n"
    row = "   0: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 9 1 0 100 0 0 10 0\n"
    host = Scripted(answers={"ss": Result(0, "ss: a new form\n"), "sh": Result(0, table + row)})
    found = observe(host, [], known=Facts("Linux", tools=(("ss", "9"),)))
    assert [listener.port for listener in found.listeners or ()] == [22]


def test_a_tool_that_is_not_there_has_loaded_nothing() -> None:
    host = Scripted(answers={"nft": Result(0, "ip filter\n")})
    found = observe(host, [Listing("nft"), Listing("iptables")], known=Facts("Linux", root=True))
    assert found.program is not None
    assert [chain.table for chain in found.program.chains] == ["ip filter"]


def test_a_rule_that_two_tools_list_is_counted_once() -> None:
    hook = Hook("input", 0)
    iptables = Program((Chain("filter", "INPUT", (Line((), (), "-j x"),), hook, 4),))
    nftables = Program(
        (
            Chain("ip filter", "INPUT", (Line((), (), "xt x"),), hook, 4),
            Chain("ip filter", "by-hand", (), hook, 4),
            Chain("ip6 filter", "INPUT", (), hook, 6),
            Chain("inet filter", "INPUT", (), hook),
        )
    )
    found = merge([nftables, iptables])
    assert sorted(f"{chain.table}/{chain.name}" for chain in found.chains) == [
        "filter/INPUT",
        "inet filter/INPUT",
        "ip filter/by-hand",
        "ip6 filter/INPUT",
    ]


def test_what_would_be_loaded_at_boot() -> None:
    answer = (
        "\x01file nftables/rules.nft\ntable inet portctl {\n}\n\x01settings\nnet.ipv4.ip_forward = 1\n"
        "\x01starts\n/etc/systemd/system/sysinit.target.wants/portctl-boot.service\n"
        "\x01others\nnftables /etc/systemd/system/sysinit.target.wants/nftables.service flushes\n\x01readable\nyes\n"
    )
    state = boot_state(Scripted(answers={"sh": Result(0, answer)}))
    assert state is not None
    assert state.bundle == {"nftables/rules.nft": "table inet portctl {\n}\n"}
    assert state.settings == "net.ipv4.ip_forward = 1\n"
    assert [service.name for service in state.others] == ["nftables"]
    assert boot_state(Scripted(answers={"sh": Result(0, "\x01readable\n")})) is None
