"""What FreeBSD's ipfw makes of a rendered file: read as its own reader reads (sbin/ipfw: main.c, ipfw2.c, ipv6.c,
tables.c), and what its kernel does with a packet that turns back."""

from __future__ import annotations

import re
from dataclasses import replace
from ipaddress import ip_address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from portctl.backends import ipfw
from portctl.backends.base import Ability
from portctl.evaluation import evaluate
from portctl.net import ANYWHERE, Addresses
from portctl.ruleset import KNOWN, TCP, Direction, Flow, Kind, Packet, Rule, Ruleset, Verdict, decide
from portctl.space import proof
from tests import generate, golden_cases
from tests.nftables_cases import block, one, starts, tcp

WRITTEN = st.text(st.sampled_from("ab ,,;:/!\t#é"), max_size=120)
PEER = Addresses.of("198.51.100.5")


def text(ruleset: Ruleset) -> str:
    return ipfw.render(ruleset, Ability())["rules"]


def as_ipfw_reads(line: str) -> list[str]:
    """The words of a line: `ipfw_main` copies it in place, and drops what is blank behind a blank or a comma."""
    kept, copy = "", False
    for letter in line.partition("#")[0]:
        if copy:
            kept += letter
            copy = letter not in ", \t\n"
        else:
            copy = letter not in " \t\n"
            kept += letter if copy else ""
    return (kept if copy else kept[:-1]).split()


@given(WRITTEN, WRITTEN)
@settings(max_examples=200, deadline=None)
def test_a_comment_is_listed_as_it_was_written(description: str, owner: str) -> None:
    """Or a host would never be found in sync."""
    for line in text(one(starts("x", tcp(22), description=description, owner=owner))).splitlines():
        if line.startswith("add "):
            assert " ".join(as_ipfw_reads(line + "\n")) == line


def test_a_blank_behind_a_comma_is_not_kept() -> None:
    (line,) = (line for line in text(one(starts("x", tcp(22), description="why, when"))).splitlines() if "why" in line)
    assert line.endswith("// portctl:service:x; why,when")


@pytest.mark.parametrize("protocol", [4, 41, 47])
def test_no_address_of_ipv4_stands_in_a_rule_for_protocol_41(protocol: int) -> None:
    """`add_src` takes that number for the word `ip6`, and looks for an address of IPv6."""
    ruleset = one(starts("x", Flow(protocol), source=PEER, destination=Addresses.of("192.0.2.1")))
    (line,) = (line for line in text(ruleset).splitlines() if f" {protocol} from " in line)
    assert ("198.51.100.5" in line) is (protocol != 41)
    assert ("192.0.2.1" in line) is (protocol != 41)
    packet = Packet(Direction.INBOUND, protocol, ip_address("198.51.100.5"), ip_address("192.0.2.1"), 0)
    loaded = ipfw.parse({"rules": text(ruleset)})
    assert evaluate(loaded, packet).verdict is Verdict.ACCEPT
    assert evaluate(loaded, replace(packet, source=ip_address("198.51.100.6"))).verdict is Verdict.DROP


def test_ipv6_is_a_family_in_a_file_and_a_protocol_in_a_listing() -> None:
    packet = Packet(Direction.INBOUND, TCP, ip_address("2001:db8::9"), ip_address("2001:db8::1"), 22)
    file = ipfw.parse(
        {"rules": "add 100 allow ipv6 from any to any in // ipv6 from\nadd 200 deny ip from any to any\n"}
    )
    listing = ipfw.parse({"list": "00100 allow ipv6 from any to any in\n65535 deny ip from any to any\n"})
    assert evaluate(file, packet).verdict is Verdict.ACCEPT
    of_ipv4 = replace(packet, source=ip_address("192.0.2.9"), destination=ip_address("192.0.2.1"))
    assert evaluate(file, of_ipv4).verdict is Verdict.DROP
    assert evaluate(listing, packet).verdict is Verdict.DROP
    assert evaluate(listing, replace(packet, protocol=41)).verdict is Verdict.ACCEPT


@pytest.mark.parametrize(
    ("addresses", "refused"),
    [
        (Addresses.of("::/96") - Addresses.of("::1"), True),
        (Addresses.of("::2", "::9"), False),
        (Addresses.of("::2", "::9", "::11", "::13", "::15"), True),
        (Addresses.of("192.0.2.1", "::8000:0/97"), True),
        (Addresses.of("::", "::1", "2001:db8::/32"), False),
        (Addresses.of("::/64", "192.0.2.1"), False),
        (Addresses.of("::5"), False),
        (ANYWHERE - Addresses.of("2001:db8::5"), False),
    ],
)
def test_what_a_table_takes_for_ipv4_is_refused(addresses: Addresses, refused: bool) -> None:
    for rule in (starts("x", tcp(22), source=addresses), block("x", source=addresses)):
        found = ipfw.gaps(one(rule), Ability())
        assert [problem.code for problem in found] == ["gap"] * refused
        if not refused:
            for line in text(one(rule)).splitlines():
                found_entry = re.match(r"table \S+ add (\S+:\S*)", line)
                first = int(ip_address(found_entry[1].partition("/")[0])) if found_entry else 0
                assert first < 2 or first >= 1 << 32, line


def test_what_the_host_sends_to_its_own_address_of_ipv6_comes_back() -> None:
    """It leaves by lo0 and comes in by the interface that has the address, with only what marks it."""
    known = Rule("known", Kind.FIXED, Verdict.ACCEPT, states=KNOWN)
    written = text(one(known))
    rules = [line for line in written.splitlines() if line.startswith("add ")]
    (marked,) = (
        k for k, line in enumerate(rules) if re.search(r" count tag \d+ ip6 from any to any out via lo0$", line)
    )
    number = int(rules[marked].split(" tag ")[1].split()[0])
    assert number & 0x800, "a tag without MTAG_PERSISTENT is taken away in the loopback interface"
    (taken,) = (
        k for k, line in enumerate(rules) if f"allow ip6 from any to me6 in not recv lo* tagged {number} " in line
    )
    (loopback,) = (k for k, line in enumerate(rules) if "allow ip from any to any via lo0" in line)
    assert marked < loopback and taken < min(k for k, line in enumerate(rules) if " skipto " in line)
    own = ip_address("2001:db8::10")
    forged = Packet(Direction.INBOUND, TCP, own, own, 22, interface="em0")
    assert evaluate(ipfw.parse({"rules": written}), forged).verdict is Verdict.DROP


def test_a_file_with_nat_does_not_leave_the_last_word_to_nat() -> None:
    for name, has in (("forward-over-service", True), ("web-server", False)):
        written = text(golden_cases.compiled(golden_cases.FOLDER / name).ruleset)
        assert (" nat " in written) is has
        assert ("disable one_pass" in written.splitlines()) is has
        assert written.index("disable one_pass") < written.index("\ntable ") if has else True


TURNED = {
    "portctl": 1,
    "name": "turned",
    "addresses": {"bans": {"live": True}},
    "services": {"web": {"ports": "80/tcp", "from": "any"}},
    "block": [
        {"from": "203.0.113.0/24", "ports": ["22/tcp", "80/tcp"]},
        {"from": "bans", "ports": ["22/tcp", "90/udp"]},
    ],
    "forwards": {
        "a": {"ports": ["22/tcp", "8080/tcp"], "from": "any", "target": ":443"},
        "b": {"ports": "2200-2201/tcp+udp", "from": ["203.0.113.7", "198.51.100.7"], "target": ":80"},
    },
}


def test_a_block_asks_for_the_port_that_serves() -> None:
    """`fwd` leaves a packet the port it came to, and a `block` means the one behind."""
    ruleset = generate.ruleset(TURNED)
    assert ruleset is not None and not ipfw.gaps(ruleset, Ability())
    loaded = ipfw.parse({"rules": text(ruleset)})
    forced = {"ipfw": ipfw.differences(ruleset, Ability())}
    assert not proof.proofs(ruleset, {"ipfw": loaded}, forced)["ipfw"].problems
    start = Packet(Direction.INBOUND, TCP, ip_address("203.0.113.7"), ip_address("192.0.2.1"), 22)
    for port, source, wanted in (
        (22, "203.0.113.7", Verdict.ACCEPT),
        (2200, "203.0.113.7", Verdict.DROP),
        (2200, "198.51.100.7", Verdict.ACCEPT),
        (80, "203.0.113.7", Verdict.DROP),
        (80, "198.51.100.7", Verdict.ACCEPT),
    ):
        packet = replace(start, port=port, source=ip_address(source))
        assert decide(ruleset, packet)[0] is wanted is evaluate(loaded, packet).verdict


def test_ah_is_a_header_of_ipv6() -> None:
    """The kernel goes on to the protocol behind it, so that no rule for protocol 51 holds."""
    both = Addresses.of("198.51.100.5", "2001:db8::5")
    written = text(one(starts("x", Flow(51), source=both)))
    assert re.search(r" allow 51 from table\(\S+\) to any in record-state", written)
    assert re.search(r" allow ip6 from table\(\S+\) to any in ext6hdr ah record-state", written)
    assert " ext6hdr " not in text(one(starts("x", Flow(51), source=PEER)))
    assert " 51 from " not in text(one(starts("x", Flow(51), source=Addresses.of("2001:db8::5"))))
    packet = Packet(Direction.INBOUND, 51, ip_address("2001:db8::5"), ip_address("2001:db8::1"), 0)
    for listing in (
        {"rules": "add 100 allow 51 from any to any in\nadd 200 deny ip from any to any\n"},
        {"list": "00100 allow ah from any to any in\n65535 deny ip from any to any\n"},
    ):
        assert evaluate(ipfw.parse(listing), packet).verdict is Verdict.DROP
    listed = "00100 allow ip6 from any to any in extension header: authentication header record-state :a // x\n"
    assert evaluate(ipfw.parse({"list": listed + "65535 deny ip from any to any\n"}), packet).verdict is Verdict.ACCEPT


CROWDED = {
    "portctl": 1,
    "name": "crowded",
    "interfaces": {"many": [f"interface{k:06}" for k in range(40)], "more": [f"other{k:010}" for k in range(30)]},
    "ports": {"scattered": [f"{k}-{k + 1}/tcp+udp" for k in range(20000, 20150, 3)]},
    "services": {
        "s": {"ports": "scattered", "source_ports": "scattered", "from": "any", "in": "many", "owner": "o" * 90}
    },
    "egress": {"e": {"ports": "scattered", "to": "any", "out": "many", "user": "u" * 30}},
    "forwards": {
        "f": {"ports": "scattered", "source_ports": "scattered", "from": "any", "in": "many", "out": "more"},
        "l": {"ports": "22/tcp", "from": "any", "in": "many", "target": ":2222"},
        "m": {"ports": "any", "from": "10.0.0.0/8", "in": "many", "out": "more", "masquerade": "192.0.2.1"},
    },
    "block": [{"from": "203.0.113.0/24", "ports": "scattered", "in": "many"}],
    "defaults": {"outbound": "drop", "forward": "drop"},
}


def test_no_line_is_longer_than_ipfw_reads() -> None:
    """Lines of 1,023 bytes (BUFSIZ, main.c), 30 ports at an end, and instructions of 255 words in all: each interface
    takes 6, two ports one."""
    ruleset = generate.ruleset(CROWDED)
    assert ruleset is not None and not ipfw.gaps(ruleset, Ability())
    written = ipfw.render(ruleset, Ability())
    for line in written["rules"].splitlines():
        assert len(line.encode()) < 1024, line
        lists = re.findall(r" (\d[\d-]*(?:,[\d-]+)+) ", line.partition(" // ")[0])
        assert max((len(text.split(",")) for text in lists), default=0) <= 30, line
        words = 6 * len(re.findall(r" (?:recv|xmit) ", line)) + sum(len(text.split(",")) + 1 for text in lists)
        assert words <= 200, line
    forced = {"ipfw": ipfw.differences(ruleset, Ability())}
    assert not proof.proofs(ruleset, {"ipfw": ipfw.parse(written)}, forced)["ipfw"].problems


def together(**zz: object) -> Ruleset:
    """Two entries that turn the same packets to the same place; of the first a source may have three at a time. A field
    of the second that is None is left out."""
    aa = {"ports": "8080/tcp", "from": "any", "in": "wan", "target": "10.0.0.5:80", "max_connections": 3}
    second = {k: v for k, v in {**aa, "from": "198.51.100.0/24", **zz}.items() if v is not None}
    policy = {"portctl": 1, "name": "t", "interfaces": {"wan": "em0"}, "defaults": {"forward": "drop"}}
    ruleset = generate.ruleset({**policy, "forwards": {"aa": aa, "zz": second}})
    assert ruleset is not None
    return ruleset


def test_an_entry_admits_what_another_one_has_turned() -> None:
    ruleset = together(max_connections=None)
    assert not ipfw.gaps(ruleset, Ability())
    loaded = ipfw.parse({"rules": text(ruleset)})
    forced = {"ipfw": ipfw.differences(ruleset, Ability())}
    assert not proof.proofs(ruleset, {"ipfw": loaded}, forced)["ipfw"].problems
    sent = Packet(Direction.INBOUND, TCP, ip_address("198.51.100.9"), ip_address("192.0.2.1"), 8080, interface="em0")
    for source, wanted in (("198.51.100.9", Verdict.ACCEPT), ("203.0.113.9", Verdict.DROP)):
        packet = replace(sent, source=ip_address(source), over_limit=True, out_interface="em1")
        assert decide(ruleset, packet)[0] is wanted is evaluate(loaded, packet).verdict


def test_answers_have_to_find_what_turned_their_requests() -> None:
    """Each instance of nat knows its own connections alone."""
    (problem,) = ipfw.gaps(together(ports=["8080/tcp", "8090/tcp"], max_connections=None), Ability())
    assert problem.code == "gap" and "`aa` turns" in problem.message
    assert not ipfw.gaps(together(ports=["8080/tcp", "8090/tcp"]), Ability())
    assert not ipfw.gaps(together(ports="8090/tcp", max_connections=None), Ability())


def test_an_error_about_what_was_translated_is_translated() -> None:
    policy = {"portctl": 1, "name": "t", "interfaces": {"wan": "em0", "lan": "em1"}, "defaults": {"forward": "drop"}}
    net = {"ports": "any", "from": "10.0.0.0/24", "in": "lan", "to": "any", "out": "wan", "masquerade": True}
    web = {"ports": "80/tcp", "from": "any", "in": "wan", "target": "10.0.0.80"}
    ruleset = generate.ruleset({**policy, "forwards": {"net": net, "web": web}})
    assert ruleset is not None
    found = text(ruleset).splitlines()
    instances = {line.split()[1]: line for line in found if line.startswith("nat ")}
    errors = [line.split(" ", 4)[4] for line in found if " icmptypes 3,11,12" in line and " out " in line]
    masquerade, redirect = (n for n in sorted(instances, key=lambda n: "redirect" in instances[n]))
    assert [each.partition(" // ")[0] for each in errors[:3]] == [
        f"nat {masquerade} icmp from 10.0.0.0/24 to any out xmit em0 icmptypes 3,11,12",
        f"nat {redirect} icmp from 10.0.0.80 to any out icmptypes 3,11,12",
        "allow icmp from any to any out icmptypes 3,11,12",
    ]


@pytest.mark.parametrize("to", [100, 300])
def test_a_jump_never_leads_back(to: int) -> None:
    """`jump_lookup_pos` of ip_fw2.c goes on with the next number. Such rules are somebody else's: ours go forward."""
    rules = (
        "00100 count ip from any to any",
        "00200 allow tcp from any to me 22",
        f"00300 skipto {to} ip from any to any",
    )
    rest = ("00300 allow tcp from any to me 23", "00400 allow tcp from any to me 80", "65535 deny ip from any to any")
    program = ipfw.parse({"list": "\n".join((*rules, *rest))})

    def verdict(port: int) -> Verdict:
        source, target = ip_address("198.51.100.5"), ip_address("192.0.2.1")
        return evaluate(program, Packet(Direction.INBOUND, TCP, source, target, port, 40000)).verdict

    ends = [verdict(port) for port in (22, 23, 80, 443)]
    assert ends == [Verdict.ACCEPT, Verdict.DROP, Verdict.ACCEPT, Verdict.DROP]
