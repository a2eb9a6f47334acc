"""`tests` of a policy hold for every packet, or a packet shows the contrary."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from portctl.expectations import evaluate, failures
from portctl.expectations.corners import corner_packets
from portctl.ruleset import Direction, Packet, Verdict, decide
from tests import generate
from tests.test_resolve import meaning

OFFICE = {"office": ["198.51.100.0/24", "2001:db8:10::/48"]}
SSH = {"ssh": {"ports": "ssh", "from": "office"}}
WAN = {"wan": ["eth0"], "lan": ["lan*"]}


def failing(test: dict[str, Any], **keys: Any) -> Packet | None:
    """The packet that shows that a test does not hold; None: it holds."""
    ruleset, _ = meaning(tests=[test], **keys)
    found = failures(ruleset)
    for failure in found:
        verdict, rule = decide(ruleset, failure.packet)
        assert (verdict, rule) == (failure.verdict, failure.rule), "the packet shows what is said of it"
    return found[0].packet if found else None


@pytest.mark.parametrize(
    "test",
    [
        {"from": "office", "service": "ssh", "expect": "allow"},
        {"from": "any", "except": "office", "ports": "22/tcp", "expect": "deny"},
        {"from": "any", "except": "office", "service": "ssh", "expect": "deny"},
        {"from": "any", "ports": ["23/tcp", "22/udp", "esp", "ping"], "expect": "deny"},
        {"from": "any", "except": "office", "ports": "any", "expect": "deny"},
        {"from": "self", "to": "any", "ports": "any", "expect": "allow"},
    ],
)
def test_what_holds(test: dict[str, Any]) -> None:
    assert failing(test, addresses=OFFICE, services=SSH) is None


def test_one_address_outside_is_found() -> None:
    test = {"from": ["office", "198.51.101.0"], "service": "ssh", "expect": "allow"}
    packet = failing(test, addresses=OFFICE, services=SSH)
    assert packet is not None and str(packet.source) == "198.51.101.0"


def test_one_port_of_many_is_found() -> None:
    test = {"from": "office", "ports": ["20-30/tcp"], "expect": "deny"}
    packet = failing(test, addresses=OFFICE, services=SSH)
    assert packet is not None and packet.port == 22
    test = {"from": "office", "ports": ["22-23/tcp"], "expect": "allow"}
    packet = failing(test, addresses=OFFICE, services=SSH)
    assert packet is not None and packet.port == 23


def test_one_family_is_found() -> None:
    four = {"ssh": {"ports": "ssh", "from": "0.0.0.0/0"}}
    packet = failing({"from": "any", "service": "ssh", "expect": "allow"}, services=four)
    assert packet is not None and packet.source.version == 6


def test_one_interface_is_found() -> None:
    services = {"ssh": {"ports": "ssh", "from": "any", "in": "wan"}}
    assert failing({"from": "any", "service": "ssh", "expect": "allow"}, services=services, interfaces=WAN) is None
    packet = failing({"from": "any", "ports": "ssh", "expect": "allow"}, services=services, interfaces=WAN)
    assert packet is not None and packet.interface != "eth0"
    packet = failing({"from": "any", "ports": "ssh", "expect": "deny"}, services=services, interfaces=WAN)
    assert packet is not None and packet.interface == "eth0"
    assert (
        failing({"from": "any", "in": "lan", "ports": "ssh", "expect": "deny"}, services=services, interfaces=WAN)
        is None
    )


def test_one_source_port_is_found() -> None:
    services = {"ntp": {"ports": "123/udp", "source_ports": "123/udp", "from": "any"}}
    assert failing({"from": "any", "service": "ntp", "expect": "allow"}, services=services) is None
    packet = failing({"from": "any", "ports": "ntp", "expect": "allow"}, services=services)
    assert packet is not None and packet.source_port != 123


def test_block_wins() -> None:
    services = {"web": {"ports": "http", "from": "any"}}
    packet = failing({"from": "any", "service": "web", "expect": "allow"}, services=services, block=["203.0.113.7"])
    assert packet is not None and str(packet.source) == "203.0.113.7"


def test_users() -> None:
    keys: dict[str, Any] = {
        "egress": {"apt": {"ports": "https", "to": "any", "user": "_apt"}},
        "defaults": {"outbound": "drop"},
    }
    assert failing({"from": "self", "service": "apt", "expect": "allow"}, **keys) is None
    packet = failing({"from": "self", "to": "any", "ports": "https", "expect": "allow"}, **keys)
    assert packet is not None and packet.user is None
    packet = failing({"from": "self", "to": "any", "ports": "https", "expect": "deny"}, **keys)
    assert packet is not None and packet.user == "_apt"


def test_translations() -> None:
    keys: dict[str, Any] = {
        "forwards": {
            "web": {"ports": "8080/tcp", "from": "0.0.0.0/0", "target": "10.0.0.5:80"},
            "local": {"ports": "8081/tcp", "from": "198.51.100.0/24", "target": ":80"},
        },
        "defaults": {"forward": "drop"},
    }
    assert failing({"from": "any", "service": "web", "expect": "allow"}, **keys) is None
    assert failing({"from": "any", "to": "10.0.0.5", "ports": "80/tcp", "expect": "deny"}, **keys) is None
    assert failing({"from": "198.51.100.7", "service": "local", "expect": "allow"}, **keys) is None
    packet = failing({"from": "any", "ports": "8081/tcp", "expect": "deny"}, **keys)
    assert packet is not None and str(packet.source).startswith("198.51.100.")


def test_through_this_host() -> None:
    keys: dict[str, Any] = {
        "interfaces": WAN,
        "forwards": {"out": {"ports": "any", "from": "10.0.0.0/8", "in": "lan", "to": "any", "out": "wan"}},
        "defaults": {"forward": "drop"},
    }
    test = {"from": "10.0.0.7", "in": "lan", "to": "8.8.8.8", "ports": "https", "expect": "allow"}
    packet = failing(test, **keys)
    assert packet is not None and packet.out_interface != "eth0", "`out` was not said"
    assert failing({**test, "out": "wan"}, **keys) is None
    assert failing({"from": "10.0.0.7", "service": "out", "to": "8.8.8.8", "expect": "allow"}, **keys) is None


def test_a_quarter_of_a_million_sources_are_asked_about_together(tmp_path: Path) -> None:
    lines = [f"{n >> 14 & 127}.{n >> 6 & 255}.{(n & 63) * 4}.0/24" for n in range(1 << 14, 1 << 18)]
    (tmp_path / "feed.txt").write_text("\n".join(lines))
    ruleset, _ = meaning(
        tmp_path,
        addresses={"feed": {"file": "feed.txt"}},
        block=["feed"],
        services={f"s{n}": {"ports": f"{n}/tcp", "from": "any"} for n in range(1000, 1200)},
        tests=[
            {"from": "any", "except": "feed", "ports": "1000-1199/tcp", "expect": "allow"},
            {"from": "feed", "ports": "any", "expect": "deny"},
        ],
    )
    assert evaluate(ruleset) == []


def test_the_message_says_which_packet_and_which_rule() -> None:
    ruleset, _ = meaning(services=SSH, addresses=OFFICE, tests=[{"from": "any", "service": "ssh", "expect": "deny"}])
    (problem,) = evaluate(ruleset)
    assert problem.code == "failed-test"
    assert "tcp from 198.51.100.1 to port 22 of this host" in problem.message
    assert "accepted by the service `ssh`" in problem.message
    assert problem.span is not None and problem.others


def test_corner_packets_are_the_same_each_time_and_meet_every_rule() -> None:
    for plain in generate.policies(5, 5):
        ruleset = generate.ruleset(plain)
        assert ruleset is not None
        packets = corner_packets(ruleset, 1200)
        assert packets == corner_packets(ruleset, 1200)
        assert len(packets) == len(set(packets)) <= 1200
        verdicts = {decide(ruleset, packet)[0] for packet in packets}
        assert verdicts >= {Verdict.ACCEPT, Verdict.DROP}
        assert {packet.direction for packet in packets} == set(Direction)
