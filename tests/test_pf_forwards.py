"""pf: what is translated is translated once and as the policy says, and nothing beside it is opened."""

from __future__ import annotations

import re
from dataclasses import replace
from ipaddress import ip_address

import pytest

from portctl import backends
from portctl.backends.base import Ability, explained
from portctl.backends.pf.meaning import NETWORK_MARK
from portctl.evaluation import Answer, evaluate
from portctl.expectations.corners import corner_packets
from portctl.program import Chain, Hook, Line, Program, SetMark, Translate
from portctl.ruleset import ICMPV6, TCP, Direction, Packet, Ruleset, State, Verdict
from tests import generate, golden_cases
from tests.generate import Plain

BOTH = pytest.mark.parametrize("name", ["pf-freebsd14", "pf-freebsd15"])


def ruleset(**forwards: Plain) -> Ruleset:
    plain = {
        "portctl": 1,
        "name": "forwards",
        "interfaces": {"lan": ["em1", "em2"], "wan": "em0"},
        "services": {"ssh": {"ports": "ssh", "from": "198.51.100.7"}},
        "forwards": forwards,
        "defaults": {"forward": "drop", "inbound": "reject"},
    }
    found = generate.ruleset(plain)
    assert found is not None
    return found


def conf(name: str, wanted: Ruleset) -> str:
    backend = backends.load(name)
    assert not [problem for problem in backend.gaps(wanted, Ability()) if problem.severity == "error"]
    return backend.render(wanted, Ability())["pf.conf"]


def through(destination: str, port: int, source: str = "203.0.113.9") -> Packet:
    ends = (ip_address(source), ip_address(destination))
    return Packet(Direction.FORWARDED, TCP, *ends, port, interface="em0", out_interface="em1", local=False)


def sent(name: str, wanted: Ruleset, port: int, source: str = "203.0.113.9", to: str = "192.0.2.1") -> Answer:
    packet = Packet(
        Direction.INBOUND, TCP, ip_address(source), ip_address(to), port, interface="em0", out_interface="em1"
    )
    return evaluate(backends.load(name).parse({"pf.conf": conf(name, wanted)}), packet)


def arrived(answer: Answer) -> tuple[str, int]:
    assert answer.verdict is Verdict.ACCEPT and answer.packet is not None
    return str(answer.packet.destination), answer.packet.port


@BOTH
def test_a_local_port_is_served_and_not_opened(name: str) -> None:
    wanted = ruleset(alt={"ports": "8022/tcp", "from": "0.0.0.0/0", "target": ":22"})
    assert arrived(sent(name, wanted, 8022)) == ("127.0.0.1", 22)
    assert sent(name, wanted, 22).verdict is Verdict.REJECT
    assert sent(name, wanted, 22, "198.51.100.7").verdict is Verdict.ACCEPT
    assert sent(name, wanted, 22, to="127.0.0.1").verdict is Verdict.DROP
    assert sent(name, wanted, 8022, to="127.0.0.1").verdict is Verdict.DROP


@BOTH
def test_a_port_at_single_addresses_keeps_the_address(name: str) -> None:
    """They are taken for own ones. What was sent to another host's is not sent on, whatever the default."""
    wanted = ruleset(alt={"ports": "8022/tcp", "from": "any", "to": ["192.0.2.9", "192.0.2.11"], "target": ":22"})
    assert arrived(sent(name, wanted, 8022, to="192.0.2.9")) == ("192.0.2.9", 22)
    assert arrived(sent(name, wanted, 8022, to="192.0.2.11")) == ("192.0.2.11", 22)
    backend = backends.load(name)
    elsewhere = through("192.0.2.9", 8022)
    answer = evaluate(backend.parse({"pf.conf": conf(name, wanted)}), elsewhere)
    assert answer.verdict is Verdict.DROP
    found = explained(wanted, backend.differences(wanted, Ability()), elsewhere, answer.verdict)
    assert found is not None and found.heading == "pf: ports of this host"


@BOTH
def test_a_transparent_proxy_is_on_this_host(name: str) -> None:
    """What was sent to a network, or anywhere, is turned to an address of this host's, and to one only: FreeBSD 15
    drops what a second rule would turn (pf_rule_apply_nat)."""
    proxy: Plain = {"ports": ["http", "domain"], "from": "10.0.0.0/8", "in": "lan", "target": ":3128"}
    for to in ("any", "198.51.100.0/24", ["198.51.100.0/24", "192.0.2.9"]):
        wanted = ruleset(proxy={**proxy, "to": to})
        text = conf(name, wanted)
        turned = [line for line in text.splitlines() if re.search(r"(->|rdr-to) \(em1:0\) port 3128", line)]
        assert len(turned) == 2 and "bitmask" not in text, "one a protocol"
        packet = replace(through("198.51.100.7", 80, "10.1.1.1"), interface="em1", out_interface="em0")
        program = backends.load(name).parse({"pf.conf": text})
        answer = evaluate(program, packet)
        assert answer.packet is not None and answer.packet.direction is Direction.INBOUND and answer.packet.port == 3128
        assert answer.verdict is Verdict.ACCEPT
        turns = [
            step for step in answer.trace if step.line and any(isinstance(a, Translate) for a in step.line.actions)
        ]
        assert len(turns) == 1


def test_no_packet_is_turned_twice_on_its_way_in() -> None:
    """By `rdr-to` rules of which FreeBSD 15 carries out one, and drops a packet that a second one would turn."""
    backend, turned = backends.load("pf-freebsd15"), 0
    for case in golden_cases.cases():
        wanted = golden_cases.compiled(case).ruleset
        if not wanted.translations or any(p.severity == "error" for p in backend.gaps(wanted, Ability())):
            continue
        program = backend.parse(backend.render(wanted, Ability()))
        for packet in corner_packets(wanted, 1500):
            lines = [step.line for step in evaluate(program, packet).trace if step.line]
            turns = [line.text for line in lines if " rdr-to " in line.text]
            assert len(turns) < 2, turns
            turned += len(turns)
    assert turned > 60


def test_a_pool_is_not_understood() -> None:
    """A network behind the arrow, of which pf would take the first address, or one after the other."""
    line = "pass in on em0 inet proto tcp from any to 192.0.2.0/28 port 8022 rdr-to 192.0.2.0/28 port 22"
    packet = Packet(Direction.INBOUND, TCP, ip_address("203.0.113.9"), ip_address("192.0.2.9"), 8022, interface="em0")
    parse = backends.load("pf-openbsd").parse
    assert evaluate(parse({"pf.conf": line}), packet).depends_on
    kept = evaluate(parse({"pf.conf": f"{line} bitmask"}), packet)
    assert arrived(kept) == ("192.0.2.9", 22) and not kept.depends_on


def test_a_port_of_this_host_in_ipv6_needs_an_address() -> None:
    for to in ({}, {"to": "2001:db8::/64"}):
        wanted = ruleset(alt={"ports": "8022/tcp", "from": "2001:db8:1::/48", "target": ":22", **to})
        found = [p for p in backends.load("pf-openbsd").gaps(wanted, Ability()) if p.severity == "error"]
        assert ["in IPv6" in p.message for p in found] == [True]
    for way in ({"in": "wan"}, {"to": "2001:db8::1"}, {"to": "2001:db8::/64", "in": "wan"}):
        conf("pf-openbsd", ruleset(alt={"ports": "8022/tcp", "from": "2001:db8:1::/48", "target": ":22", **way}))


@BOTH
def test_what_is_turned_is_not_turned_again(name: str) -> None:
    wanted = ruleset(
        a={"ports": "8081/tcp", "from": "any", "to": "192.0.2.1", "target": ":8080"},
        b={"ports": "8080/tcp", "from": "any", "to": "192.0.2.1", "target": "10.0.0.5:80"},
        c={"ports": "http", "from": "any", "to": ["192.0.2.1", "10.0.0.5"], "target": "10.0.0.6"},
    )
    assert arrived(sent(name, wanted, 8081)) == ("192.0.2.1", 8080)
    assert arrived(sent(name, wanted, 8080)) == ("10.0.0.5", 80)
    assert arrived(sent(name, wanted, 80)) == ("10.0.0.6", 80)


@BOTH
def test_the_first_of_two_that_match_turns(name: str) -> None:
    wanted = ruleset(
        a={"ports": "http", "from": "203.0.113.0/24", "target": "10.0.0.5"},
        b={"ports": "http", "from": "0.0.0.0/0", "target": "10.0.0.6"},
    )
    assert arrived(sent(name, wanted, 80)) == ("10.0.0.5", 80)
    assert arrived(sent(name, wanted, 80, "198.51.100.9")) == ("10.0.0.6", 80)


@BOTH
def test_the_target_itself_stays_closed(name: str) -> None:
    wanted = ruleset(web={"ports": "8080/tcp", "from": "any", "target": "10.0.0.5:80", "in": "wan"})
    program = backends.load(name).parse({"pf.conf": conf(name, wanted)})
    assert evaluate(program, through("10.0.0.5", 80)).verdict is Verdict.DROP
    assert arrived(sent(name, wanted, 8080)) == ("10.0.0.5", 80)


@BOTH
def test_a_limit_of_several_ways_in_is_one_counter(name: str) -> None:
    wanted = ruleset(out={"ports": ["http", "domain"], "from": "any", "in": "lan", "out": "wan", "max_connections": 5})
    lines = conf(name, wanted).splitlines()
    counting = [index for index, line in enumerate(lines) if "max-src-states 5" in line]
    marking = [index for index, line in enumerate(lines) if " tag portctl_forward_out" in line]
    assert len(counting) == 1 and len(marking) > 2 and max(marking) < counting[0]


@BOTH
def test_a_limit_beside_a_target_counts_what_the_note_says(name: str) -> None:
    one = ruleset(web={"ports": "8080/tcp", "from": "any", "target": "10.0.0.5:80", "max_connections": 5})
    two = ruleset(web={"ports": ["8080/tcp", "8080/udp"], "from": "any", "target": "10.0.0.5", "max_connections": 5})
    for wanted, option, said in ((one, "max-src-conn 5", "handshake"), (two, "max-src-states 5", "by states")):
        assert conf(name, wanted).count(option) == 1
        notes = [p.message for p in backends.load(name).gaps(wanted, Ability()) if p.severity == "note"]
        assert len(notes) == 1 and said in notes[0]


def test_types_of_icmp_are_refused_where_rules_that_translate_know_none() -> None:
    ping = ruleset(ping={"ports": "ping", "from": "any", "target": "10.0.0.5"})
    assert "icmp-type 8" in conf("pf-openbsd", ping)
    found = backends.load("pf-freebsd14").gaps(ping, Ability())
    assert [problem.severity for problem in found if "types of ICMP" in problem.message] == ["error"]
    route: Plain = {"from": "10.0.0.0/8", "in": "lan", "out": "wan", "masquerade": True}
    lines = conf("pf-freebsd14", ruleset(out={"ports": ["ping", "http"], **route})).splitlines()
    assert not [line for line in lines if line.startswith("nat") and "icmp-type" in line]
    assert [line for line in lines if line.startswith("pass out") and "icmp-type 8" in line]
    both = ruleset(
        out={"ports": "ping", **route}, more={"ports": "any", "from": "10.0.0.0/8", "in": "lan", "out": "wan"}
    )
    found = backends.load("pf-freebsd14").gaps(both, Ability())
    assert any("types of ICMP alone" in problem.message for problem in found)
    apart = ruleset(
        out={"ports": "ping", **route},
        other={"ports": "any", "from": "10.0.0.0/8", "in": "lan", "out": "lan"},
        back={"ports": "any", "from": "10.0.0.0/8", "in": "wan", "out": "wan"},
    )
    conf("pf-freebsd14", apart)  # other ways in or out: no `nat` rule of the one meets the other


def test_openbsd_takes_no_address_of_an_interface_for_a_source_in_ipv6() -> None:
    """The first that its kernel finds is link-local."""

    def refused(name: str, **entry: object) -> list[str]:
        plain = {"ports": "https", "from": "any", "in": "lan", "to": "any", "out": "wan", "masquerade": True}
        found = backends.load(name).gaps(ruleset(out=plain | entry), Ability())
        return [problem.message for problem in found if problem.severity == "error"]

    assert refused("pf-openbsd") == ["pf cannot say this: `masquerade: true` in IPv6"]
    for entry in ({"from": "10.0.0.0/8"}, {"masquerade": "2001:db8::1"}):
        assert refused("pf-openbsd", **entry) == []
    assert refused("pf-freebsd13") == refused("pf-freebsd15") == []


def test_macos_turns_nothing_to_the_loopback_address() -> None:
    """Its IP input drops what comes in by another interface for 127.0.0.1."""
    wanted = ruleset(alt={"ports": "8022/tcp", "from": "10.0.0.0/8", "to": "192.0.2.0/28", "target": ":22"})
    found = [p for p in backends.load("pf-macos").gaps(wanted, Ability()) if p.severity == "error"]
    assert ["on whichever address" in p.message for p in found] == [True]
    text = conf(
        "pf-macos",
        ruleset(alt={"ports": "8022/tcp", "from": "10.0.0.0/8", "in": "wan", "to": "192.0.2.0/28", "target": ":22"}),
    )
    assert "-> (em0:0) port 22" in text and "-> 127.0.0.1" not in text


def test_macos_does_not_take_what_its_kernel_does_not_know() -> None:
    route = ruleset(out={"ports": "http", "from": "any", "in": "lan", "out": "wan"})
    assert any("passes through" in problem.message for problem in backends.load("pf-macos").gaps(route, Ability()))
    plain = ruleset()
    text = conf("pf-macos", plain)
    assert "(self" not in text
    program = backends.load("pf-macos").parse({"pf.conf": text})
    for address, verdict in (("198.51.100.7", Verdict.ACCEPT), ("203.0.113.9", Verdict.REJECT)):
        packet = Packet(Direction.INBOUND, TCP, ip_address(address), ip_address("192.0.2.1"), 22, state=State.NEW)
        assert evaluate(program, packet).verdict is verdict
        assert evaluate(program, through("10.0.0.5", 22, address)).verdict is not Verdict.ACCEPT


def tagged_before(program: Program, number: int) -> Program:
    """The same where each packet arrives with a tag, as out of a tunnel or from another network stack."""
    brought = Line((), (SetMark(NETWORK_MARK, number),))
    return Program((Chain("before", "before", (brought,), Hook("prerouting", -100)), *program.chains))


@pytest.mark.parametrize("name", backends.DIALECTS)
def test_a_tag_that_a_packet_brings_along_opens_and_closes_nothing(name: str) -> None:
    wanted = ruleset(
        web={"ports": "8080/tcp", "from": "198.51.100.0/24", "target": "10.0.0.5:80"},
        lan={"ports": "ssh", "from": "198.51.100.7", "in": "wan", "to": "10.0.0.0/8", "out": "lan"},
    )
    if name == "pf-macos":
        wanted = ruleset(web={"ports": "8080/tcp", "from": "198.51.100.0/24", "to": "192.0.2.1", "target": ":80"})
    whole = backends.load(name).parse({"pf.conf": conf(name, wanted)})
    inward = [
        Packet(Direction.INBOUND, TCP, ip_address(source), ip_address("192.0.2.1"), port, interface="em0")
        for source in ("198.51.100.7", "203.0.113.9")
        for port in (22, 80, 8080)
    ]
    packets = [*inward, through("10.0.0.5", 22, "198.51.100.7"), through("10.0.0.5", 80), through("10.0.0.6", 22)]
    expected = [evaluate(whole, packet).verdict for packet in packets]
    assert Verdict.ACCEPT in expected
    for number in range(1, 12):
        program = tagged_before(whole, number)
        assert [evaluate(program, packet).verdict for packet in packets] == expected, number


@pytest.mark.parametrize("name", [name for name in backends.DIALECTS if name != "pf-macos"])
def test_a_ping_to_many_is_answered(name: str) -> None:
    """The answer is the packet that came in, turned round: it leaves with the tag that it got on its way in, and
    belongs to no state. Blocks and the default are for it as for all that this host sends."""
    plain = {
        "portctl": 1,
        "name": "x",
        "services": {"ping": {"ports": "ping", "from": "any"}},
        "block": [{"to": "fe80::bad/128"}],
    }
    text = {}
    for outbound in ("allow", "drop"):
        found = generate.ruleset({**plain, "defaults": {"outbound": outbound}})
        assert found is not None
        text[outbound] = conf(name, found)
    parsed = {outbound: backends.load(name).parse({"pf.conf": each}) for outbound, each in text.items()}
    sent = [(number, pong("fe80::7", 128)) for number in range(1, 12)]
    here = next(n for n, ping in sent if evaluate(tagged_out(parsed["allow"], n), ping).verdict is Verdict.DROP)
    verdicts = {
        (outbound, to): evaluate(tagged_out(parsed[outbound], here), pong(to)).verdict
        for outbound in parsed
        for to in ("fe80::7", "fe80::bad", "ff02::1")
    }
    assert verdicts["allow", "fe80::7"] is Verdict.ACCEPT
    assert Verdict.ACCEPT not in [verdict for key, verdict in verdicts.items() if key != ("allow", "fe80::7")]


def pong(to: str, kind: int = 129) -> Packet:
    ends = (ip_address("fe80::1"), ip_address(to))
    return Packet(Direction.OUTBOUND, ICMPV6, *ends, kind * 256, out_interface="em0", local=False)


def tagged_out(program: Program, number: int) -> Program:
    """The same where each packet leaves with a tag."""
    brought = Line((), (SetMark(NETWORK_MARK, number),))
    return Program((Chain("before", "before", (brought,), Hook("postrouting", -100)), *program.chains))


@pytest.mark.parametrize("name", [name for name in backends.DIALECTS if name != "pf-macos"])
@pytest.mark.parametrize("ports", ["any", "50000/udp"])
def test_what_passes_under_keep_makes_states_beside_a_block_with_ports(name: str, ports: str) -> None:
    """Such an entry leaves the answers of known connections alone, and without a state pf knows none."""
    plain = {"portctl": 1, "name": "x", "services": {"ssh": {"ports": "ssh", "from": "any"}}}
    tracked = generate.ruleset({**plain, "block": [{"from": "203.0.113.0/24", "ports": ports}]})
    assert tracked is not None
    lines = [line for line in conf(name, tracked).splitlines() if "portctl_keep" in line]
    for way in ("in", "out"):
        first, *others = [line for line in lines if line.startswith(f"pass {way} quick from any to any ")]
        assert " flags any keep state (sloppy) allow-opts " in first
        assert all(" no state allow-opts " in line for line in others) and others
    alone = generate.ruleset({**plain, "block": ["203.0.113.0/24"]})
    assert alone is not None
    assert ("sloppy" in conf(name, alone)) == (name == "pf-openbsd")  # whose pf translates by states alone


@pytest.mark.parametrize("name", [name for name in backends.DIALECTS if name != "pf-macos"])
def test_anchors_of_others_see_what_is_left_alone(name: str) -> None:
    """`load.sh` puts calls of anchors where the comments stand: what passes under `keep` is for them, both ways."""
    wanted = generate.ruleset({"portctl": 1, "name": "x", "services": {"ssh": {"ports": "ssh", "from": "any"}}})
    assert wanted is not None
    lines = conf(name, wanted).splitlines()
    for way, mark in (("in", " tag portctl_keep"), ("out", " tagged portctl_keep")):
        place = lines.index(f"# anchors of others: {way}")
        kept = [number for number, line in enumerate(lines) if line.endswith(mark)]
        assert kept and min(kept) > place
        before = [line for line in lines[:place] if line.startswith(f"pass {way} quick from any to any ")]
        assert not before
