"""Rules that others wrote are read as the kernel runs them, where that is not what they seem to say."""

from __future__ import annotations

import json
from dataclasses import replace
from ipaddress import ip_address

import pytest

from portctl import importing
from portctl.backends import iptables, nftables
from portctl.evaluation import evaluate
from portctl.program import Chain, Program, Translate, Unknown
from portctl.ruleset import Direction, Packet, State, Verdict
from portctl.space.sets import Space

PACKET = Packet(
    Direction.INBOUND, 6, ip_address("198.51.100.7"), ip_address("192.0.2.1"), 50000, 22, "eth0", "", local=True
)


def saved(table: str, *lines: str, others: str = "") -> Program:
    heads = {"filter": ":INPUT ACCEPT [0:0]", "nat": ":POSTROUTING ACCEPT [0:0]"}
    head = heads.get(table, "") + "\n:PREROUTING ACCEPT [0:0]"
    if table == "filter":
        head = heads[table]
    return iptables.parse({"rules.v4": f"*{table}\n{head}\n" + "\n".join(lines) + f"\nCOMMIT\n{others}"})


def both(program: Program, packet: Packet) -> Verdict:
    """The verdict, on which one packet's way and the packet space agree."""
    answer = evaluate(program, packet)
    assert Space().of_program(program).at(packet).verdicts == {answer.verdict}
    return answer.verdict


# Each was tried in a kernel (6.18): a ping through a veth pair, with iptables-legacy, iptables-nft and nft.
BEFORE_TRACKING = [
    ("--ctstate NEW", "ct state new", False),
    ("--ctstate INVALID", "ct state invalid", True),
    ("--ctstate UNTRACKED", "ct state untracked", False),
    ("--ctstate ESTABLISHED", "ct state established", False),
    ("--ctstate NEW,INVALID", "ct state invalid,new", True),
    ("! --ctstate NEW", "ct state != new", True),
    ("--ctdir ORIGINAL", "ct direction original", False),
    ("! --ctorigdst 10.9.0.1", "ct original ip daddr != 10.9.0.1", False),
]


@pytest.mark.parametrize(("iptables_words", "nft_words", "holds"), BEFORE_TRACKING)
@pytest.mark.parametrize("state", [State.NEW, State.ESTABLISHED])
def test_before_connections_are_tracked_nothing_is_known_of_them(
    iptables_words: str, nft_words: str, holds: bool, state: State
) -> None:
    wanted = Verdict.DROP if holds else Verdict.ACCEPT
    packet = replace(PACKET, state=state)
    assert both(saved("raw", f"-A PREROUTING -m conntrack {iptables_words} -j DROP"), packet) is wanted
    chain = "type filter hook prerouting priority raw; policy accept;"
    text = f"table ip t {{\n\tchain c {{\n\t\t{chain}\n\t\t{nft_words} drop\n\t}}\n}}\n"
    assert both(nftables.parse({"ruleset": text}), packet) is wanted


def test_after_that_the_state_is_known() -> None:
    packet = replace(PACKET, state=State.ESTABLISHED)
    rule = "-A PREROUTING -m conntrack --ctstate INVALID -j DROP"
    assert both(saved("mangle", rule), packet) is Verdict.ACCEPT
    assert both(saved("raw", rule), packet) is Verdict.DROP


def test_a_chain_that_is_asked_before_and_after_tracking_is_not_guessed() -> None:
    text = (
        "table ip t {\n\tchain both {\n\t\tct state new drop\n\t}\n"
        "\tchain early {\n\t\ttype filter hook prerouting priority raw; policy accept;\n\t\tjump both\n\t}\n"
        "\tchain late {\n\t\ttype filter hook input priority filter; policy accept;\n\t\tjump both\n\t}\n}\n"
    )
    assert evaluate(nftables.parse({"ruleset": text}), PACKET).depends_on


def test_what_an_input_asks_before_tracking_is_accounted_for() -> None:
    rules = "*raw\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -m state --state NEW -j DROP\nCOMMIT\n"
    found = importing.from_texts(
        {"x": rules + "*filter\n:INPUT DROP [0:0]\n-A INPUT -p tcp --dport 22 -j ACCEPT\nCOMMIT\n"}
    )
    assert "ssh: {ports: ssh, from: any}" in found.text and found.equal
    assert next(e.reason for e in found.account.entries if "NEW" in e.text).startswith(
        "connections are not tracked yet"
    )


def _only(program: Program) -> tuple[object, ...]:
    chains: list[Chain] = [chain for chain in program.chains if chain.lines]
    return chains[0].lines[0].actions


@pytest.mark.parametrize(
    ("rule", "port"),
    [
        ("-p tcp -m tcp --dport 80:90 -j DNAT --to-destination 10.0.0.5:80-90", None),
        ("-p tcp -m tcp --dport 82 -j DNAT --to-destination 10.0.0.5:80-90", None),
        ("-p tcp -m tcp --dport 80 -j DNAT --to-destination 10.0.0.5:8080-8080", 8080),
    ],
)
def test_a_port_in_the_range_of_a_translation_is_kept(rule: str, port: int | None) -> None:
    assert _only(saved("nat", f"-A PREROUTING {rule}")) == (Translate("destination", ip_address("10.0.0.5"), port),)


@pytest.mark.parametrize(
    "rule",
    [
        "-p tcp -m tcp --dport 80:90 -j DNAT --to-destination 10.0.0.5:180-190",
        "-p tcp -m tcp --dport 80:91 -j DNAT --to-destination 10.0.0.5:80-90",
        "-p tcp -m tcp ! --dport 80 -j DNAT --to-destination 10.0.0.5:80-90",
        "-p tcp -m tcp --dport 80 -j DNAT --to-destination 10.0.0.5-10.0.0.9",
    ],
)
def test_a_choice_of_places_is_not_guessed(rule: str) -> None:
    assert isinstance(_only(saved("nat", f"-A PREROUTING {rule}"))[0], Unknown)


def test_a_pool_of_source_addresses_denies_nothing() -> None:
    rule = "-A POSTROUTING -o eth0 -j SNAT --to-source 192.0.2.8-192.0.2.15"
    assert _only(saved("nat", rule)) == (Translate("source"),)


def test_the_protocol_of_a_tunnel_is_not_that_of_the_packet() -> None:
    program = saved("filter", "-A INPUT -m policy --dir in --pol ipsec --proto esp -j DROP")
    assert evaluate(program, PACKET).depends_on


def test_marks_that_nothing_asks_for_change_nothing() -> None:
    restore = "-A PREROUTING -j CONNMARK --restore-mark"
    assert not evaluate(saved("mangle", restore), PACKET).depends_on
    asked = "*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -m mark --mark 0x1 -j DROP\nCOMMIT\n"
    assert evaluate(saved("mangle", restore, others=asked), PACKET).depends_on


NFT_NAT = (
    "table ip nat {{\n\tchain pre {{\n\t\ttype nat hook prerouting priority dstnat; policy accept;\n"
    '\t\tiifname "eth0" {}\n\t}}\n}}\n'
)


@pytest.mark.parametrize(
    ("rule", "targets"),
    [
        ("dnat to tcp dport map { 80 : 10.0.0.5, 443 : 10.0.0.6 }", {80: ("10.0.0.5", None), 443: ("10.0.0.6", None)}),
        ("dnat ip to tcp dport map { 8080 : 10.0.0.7 . 80 }", {8080: ("10.0.0.7", 80)}),
        ("tcp dport 90-99 dnat to 10.0.0.9:90-99", {90: ("10.0.0.9", None), 99: ("10.0.0.9", None)}),
        ("tcp dport { 5050, 8080} dnat 10.0.0.4", {5050: ("10.0.0.4", None)}),
    ],
)
def test_translations_of_nft_go_where_they_say(rule: str, targets: dict[int, tuple[str, int | None]]) -> None:
    program = nftables.parse({"ruleset": NFT_NAT.format(rule)})
    for port, (address, to) in targets.items():
        answer = evaluate(program, replace(PACKET, port=port))
        assert answer.packet is not None and not answer.depends_on
        assert (str(answer.packet.destination), answer.packet.port) == (address, to or port)
    missed = evaluate(program, replace(PACKET, port=7))
    assert missed.packet == replace(PACKET, port=7) and not missed.depends_on


def test_a_statement_of_json_that_is_not_known_may_do_anything() -> None:
    rule = {"family": "ip", "table": "t", "chain": "c", "handle": 3, "expr": [{"strange": {"of": "kind"}}]}
    chain = {"family": "ip", "table": "t", "name": "c", "handle": 2, "type": "filter", "hook": "input", "prio": 0}
    listed = [{"table": {"family": "ip", "name": "t", "handle": 1}}, {"chain": {**chain, "policy": "drop"}}]
    found = importing.from_texts({"x": json.dumps({"nftables": [*listed, {"rule": rule}]})})
    assert [entry.status for entry in found.account.entries if "strange" in entry.text] == ["refused"]
    assert not found.equal


NOTRACK = """\
*raw
:PREROUTING ACCEPT
:OUTPUT ACCEPT
-A PREROUTING -p udp -m udp --dport 53 -j CT --notrack
-A PREROUTING -p tcp -m tcp --dport 80 -j NOTRACK
-A PREROUTING -p tcp -m tcp --dport 22 -j CT --helper ftp
COMMIT
*nat
:PREROUTING ACCEPT
-A PREROUTING -p tcp -m tcp --dport 80 -j DNAT --to-destination 192.0.2.9
COMMIT
*filter
:INPUT DROP
:FORWARD DROP
-A INPUT -p udp -m udp --dport 53 -m conntrack --ctstate UNTRACKED -j ACCEPT
-A INPUT -p tcp -m conntrack --ctstate NEW -j ACCEPT
-A INPUT -p tcp -m tcp --dport 80 -m conntrack ! --ctstate INVALID,ESTABLISHED -j ACCEPT
COMMIT
"""


def test_what_is_not_tracked_is_in_no_other_state_and_is_not_translated() -> None:
    program = iptables.parse({"rules.v4": NOTRACK})
    for protocol, port, line in ((17, 53, "UNTRACKED"), (6, 80, "INVALID"), (6, 22, "NEW")):
        asked = replace(PACKET, protocol=protocol, port=port)
        assert both(program, asked) is Verdict.ACCEPT
        decided = evaluate(program, asked).decided
        assert decided is not None and decided.line is not None and line in decided.line.text
    found = importing.from_texts({"x": NOTRACK})
    assert [e.status for e in found.account.entries if "-j CT" in e.text or "NOTRACK" in e.text] == ["approximated"] * 3


@pytest.mark.parametrize(("asked", "verdict"), [("untracked", Verdict.ACCEPT), ("new", Verdict.DROP)])
def test_nft_untracks_too(asked: str, verdict: Verdict) -> None:
    early = "\tchain a {\n\t\ttype filter hook prerouting priority raw; policy accept;\n\t\ttcp dport 22 notrack\n\t}\n"
    late = "\tchain b {\n\t\ttype filter hook input priority filter; policy drop;\n"
    text = f"table inet t {{\n{early}{late}\t\tct state vmap {{ {asked} : accept, invalid : drop }}\n\t}}\n}}\n"
    assert both(nftables.parse({"ruleset": text}), replace(PACKET, port=22)) is verdict
    assert both(nftables.parse({"ruleset": text}), replace(PACKET, port=23)) is (
        Verdict.ACCEPT if asked == "new" else Verdict.DROP
    )


BEYOND = [
    ("--connlimit-above 4", True),
    ("--connlimit-upto 4", False),
    ("! --connlimit-above 4", False),  # as iptables before 1.4.12 printed it
    ("! --connlimit-upto 4", True),
]


@pytest.mark.parametrize(("words", "beyond"), BEYOND)
def test_not_above_a_limit_is_within_it(words: str, beyond: bool) -> None:
    program = saved("filter", f"-A INPUT -p tcp -m connlimit {words} -j DROP")
    for over in (False, True):
        wanted = Verdict.DROP if over is beyond else Verdict.ACCEPT
        assert both(program, replace(PACKET, over_limit=over)) is wanted
