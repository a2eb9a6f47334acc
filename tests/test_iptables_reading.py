"""Reading what iptables-save, ip6tables-save and ipset print, whoever made the rules: all of it is known, or named."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime
from ipaddress import ip_address

import pytest

from portctl.backends import iptables
from portctl.backends.base import Ability
from portctl.evaluation import evaluate
from portctl.net import Addresses, Ranges
from portctl.program import (
    Accept,
    Action,
    Condition,
    Deny,
    Field,
    Jump,
    Line,
    Lookup,
    Note,
    Return,
    SetMark,
    Translate,
    Unknown,
)
from portctl.ruleset import (
    TCP,
    UDP,
    Direction,
    Packet,
    State,
    Verdict,
    icmp,
)
from tests.nftables_cases import (
    block,
    one,
    whole,
)

USERS = "root:x:0:0::/:\n_apt:x:42:1::/:\n"


def read(rule: str, sets: str = "", family: int = 4, table: str = "filter") -> Line:
    """One rule of a listing."""
    listing = f"*{table}\n:INPUT DROP [1:2]\n:DOCKER - [0:0]\n{rule}\nCOMMIT\n"
    program = iptables.parse(
        {f"rules.v{family}": listing, "sets.ipset": sets, "users": "root:x:0:0::/:\n_apt:x:42:1::/:\n"}
    )
    assert program.foreign == ()
    (line,) = [line for chain in program.chains for line in chain.lines]
    return line


def v4(*texts: str) -> Ranges:
    return Addresses.of(*texts).v4


SETS = """\
create bad hash:ip family inet hashsize 1024 maxelem 65536 bucketsize 12 initval 0x1
add bad 203.0.113.1
add bad 203.0.113.2
create ends hash:ip,port family inet hashsize 1024 maxelem 65536
add ends 203.0.113.1,tcp:80
create odd hash:mac hashsize 1024 maxelem 65536
"""
PROTOCOL_TCP = Condition(Field.PROTOCOL, Ranges.single(6))
END_OF_SET = (
    Condition(Field.SOURCE, Addresses.of("203.0.113.1").v4, family=4),
    PROTOCOL_TCP,
    Condition(Field.PORT, Ranges.single(80)),
)
READ: list[tuple[str, list[Condition]]] = [
    ("-s 10.0.0.5/24", [Condition(Field.SOURCE, v4("10.0.0.0/24"), family=4)]),
    ("! -s 10.0.0.5", [Condition(Field.SOURCE, v4("10.0.0.5"), True, 4)]),
    ("-s ! 10.0.0.5", [Condition(Field.SOURCE, v4("10.0.0.5"), True, 4)]),
    ("-d 10.0.0.0/255.0.0.0", [Condition(Field.DESTINATION, v4("10.0.0.0/8"), family=4)]),
    ("-s 0/0 -p tcp", [PROTOCOL_TCP]),
    ("-s 10.1/16", [Condition(Field.SOURCE, v4("10.1.0.0/16"), family=4)]),
    ("! -d 192.168.7", [Condition(Field.DESTINATION, v4("192.168.7.0"), True, 4)]),
    ("-s 10.0.9.7/255.255.0.255", [Condition(Field.SOURCE, v4(*(f"10.0.{n}.7" for n in range(256))), family=4)]),
    ("-s 10.0.9.7/255.253.255.0", [Condition(Field.SOURCE, v4("10.0.9.0/24", "10.2.9.0/24"), family=4)]),
    ("-s 0.0.0.0/0", []),
    ("-i eth0", [Condition(Field.IN, ("eth0",))]),
    ("! -o wan+", [Condition(Field.OUT, ("wan*",), True)]),
    ("-p tcp -m tcp --dport 22", [PROTOCOL_TCP, Condition(Field.PORT, Ranges.single(22))]),
    ("-p tcp --dport ssh", [PROTOCOL_TCP, Condition(Field.PORT, Ranges.single(22))]),
    ("-p 6 -m tcp ! --sport 1024:", [PROTOCOL_TCP, Condition(Field.SOURCE_PORT, Ranges((1024, 65536)), True)]),
    ("-p tcp -m tcp --dport ! 22", [PROTOCOL_TCP, Condition(Field.PORT, Ranges.single(22), True)]),
    ("! -p gre", [Condition(Field.PROTOCOL, Ranges.single(47), True)]),
    ("-p all", []),
    ("-p tcp --syn", [PROTOCOL_TCP, Condition(Field.FLAGS, (0x17, 2))]),
    ("-p tcp -m tcp ! --tcp-flags FIN,SYN,RST,ACK SYN", [PROTOCOL_TCP, Condition(Field.FLAGS, (0x17, 2), True)]),
    (
        "-p tcp -m multiport --dports 80,443,8000:8010",
        [PROTOCOL_TCP, Condition(Field.PORT, Ranges.of([(80, 80), (443, 443), (8000, 8010)]))],
    ),
    (
        "-p tcp -m multiport ! --ports 80",
        [
            PROTOCOL_TCP,
            Condition(
                Field.CONCATENATION,
                ((Condition(Field.SOURCE_PORT, Ranges.single(80)),), (Condition(Field.PORT, Ranges.single(80)),)),
                True,
            ),
        ],
    ),
    ("-m iprange --src-range 10.0.0.3-10.0.0.9", [Condition(Field.SOURCE, Ranges((0x0A000003, 0x0A00000A)), family=4)]),
    ("-m iprange --dst-range 10.0.0.9-10.0.0.3", [Condition(Field.DESTINATION, Ranges(), family=4)]),
    ("-m state --state RELATED,ESTABLISHED", [Condition(Field.STATE, State.RELATED | State.ESTABLISHED)]),
    ("-m conntrack ! --ctstate INVALID", [Condition(Field.STATE, ~State.INVALID)]),
    ("-m conntrack --ctstate DNAT", [Condition(Field.TRANSLATED, True)]),
    (
        "-m conntrack --ctstate NEW,DNAT",
        [Condition(Field.CONCATENATION, ((Condition(Field.STATE, State.NEW),), (Condition(Field.TRANSLATED, True),)))],
    ),
    ("-m conntrack --ctdir REPLY", [Condition(Field.REPLY, True)]),
    (
        "-m conntrack --ctorigdst 192.0.2.1 --ctorigdstport 80:90",
        [
            Condition(Field.ORIGINAL_DESTINATION, v4("192.0.2.1"), family=4),
            Condition(Field.ORIGINAL_PORT, Ranges((80, 91))),
        ],
    ),
    ("-p icmp -m icmp --icmp-type 8", [Condition(Field.PROTOCOL, Ranges.single(1)), Condition(Field.ICMP, icmp(8))]),
    (
        "-p icmp --icmp-type fragmentation-needed",
        [Condition(Field.PROTOCOL, Ranges.single(1)), Condition(Field.ICMP, Ranges.single(3 * 256 + 4))],
    ),
    ("-m set --match-set bad src", [Condition(Field.SOURCE, v4("203.0.113.1", "203.0.113.2"), family=4)]),
    ("-m set ! --match-set bad dst", [Condition(Field.DESTINATION, v4("203.0.113.1", "203.0.113.2"), True, 4)]),
    (
        "-m set --match-set ends src,dst",
        [
            Condition(
                Field.CONCATENATION,
                (END_OF_SET,),
            )
        ],
    ),
    ("-m set --match-set portctl-live-bans4 src", [Condition(Field.LIVE, "bans")]),
    ("-m addrtype --dst-type LOCAL", [Condition(Field.LOCAL, True)]),
    ("-m addrtype ! --dst-type LOCAL", [Condition(Field.LOCAL, True, True)]),
    ("-m mark --mark 0x4000/0x4000", [Condition(Field.MARK, (0x4000, 0x4000))]),
    ("-m mark ! --mark 0x1", [Condition(Field.MARK, (0xFFFFFFFF, 1), True)]),
    ("-m ttl --ttl-lt 5", [Condition(Field.HOP_LIMIT, Ranges((0, 5)))]),
    ("-m owner --uid-owner 42", [Condition(Field.USER, "_apt")]),
    ("-m owner ! --uid-owner 7", [Condition(Field.USER, "7", True)]),
    ("-m time --datestop 2027-01-31T23:59:59", [Condition(Field.UNTIL, datetime(2027, 2, 1, tzinfo=UTC))]),
    ("-m limit --limit 5/sec", [Condition(Field.LIMIT, "limit --limit 5/sec")]),
    ("-m recent --set --name x --mask 255.255.255.255 --rsource", []),
    ("-f", [Condition(Field.CONCATENATION, ())]),
    ("! -f", []),
]  # fmt: skip


@pytest.mark.parametrize(("text", "conditions"), READ, ids=[text for text, _ in READ])
def test_matches_are_read(text: str, conditions: list[Condition]) -> None:
    line = read(f"[5:300] -A INPUT {text} -j ACCEPT", SETS)
    assert list(line.conditions) == conditions
    assert (line.packets, line.bytes, line.number) == (5, 300, 4)
    assert line.actions == (Accept(),)


@pytest.mark.parametrize(
    "text",
    [
        "-m string --string GET --algo bm --to 65535",
        "-m mac --mac-source 00:11:22:33:44:55",
        "-m recent --update --seconds 60 --name x --rsource",
        "-m set --match-set nowhere src",
        "-m set --match-set odd src",
        "-m time --timestart 08:00 --timestop 18:00",
        "-m time --datestop 2027-01-31T23:59:59 --kerneltz",
        "-m owner --gid-owner 5",
        "-m addrtype --dst-type BROADCAST",
        "-m conntrack --ctstatus ASSURED",
        "-m statistic --mode random --probability 0.5",
        "-m brand-new --thing 5",
        "-s some.host.example",
        "-d 10.0.0.7/0.0.0.255",
        "-p nosuch",
    ],
)
def test_what_is_not_understood_is_kept_as_unknown(text: str) -> None:
    line = read(f"-A INPUT {text} -j DROP", SETS)
    assert [condition.field for condition in line.conditions] == [Field.UNKNOWN]
    packet = Packet(Direction.INBOUND, TCP, ip_address("203.0.113.1"), ip_address("192.0.2.1"), 80)
    listing = f"*filter\n:INPUT ACCEPT [0:0]\n-A INPUT {text} -j DROP\nCOMMIT\n"
    answer = evaluate(iptables.parse({"rules.v4": listing, "sets.ipset": SETS}), packet)
    assert answer.verdict is Verdict.ACCEPT
    assert len(answer.depends_on) == 1


@pytest.mark.parametrize(
    ("target", "action"),
    [
        ("-j DROP", Deny()),
        ("-j REJECT --reject-with tcp-reset", Deny(True, "tcp-reset")),
        ("-j RETURN", Return()),
        ("-j DOCKER", Jump("DOCKER")),
        ("-g DOCKER", Jump("DOCKER", True)),
        ('-j LOG --log-prefix "a \\"b\\" -j DROP"', Note('LOG -j --log-prefix a "b" -j DROP')),
        ("-j MARK --set-xmark 0x1/0x3", SetMark(3, 1)),
        ("-j MARK --or-mark 0x4", SetMark(4, 4)),
        ("-j MARK --and-mark 0xfffffffb", SetMark(4, 0)),
        ("-j CONNMARK --restore-mark", Note("CONNMARK -j --restore-mark")),
        ("-p tcp -j DNAT --to-destination 10.0.0.5:80", Translate("destination", ip_address("10.0.0.5"), 80)),
        ("-p tcp -j DNAT --to-destination :80", Translate("destination", None, 80)),
        ("-p tcp -j REDIRECT --to-ports 80", Translate("redirect", None, 80)),
        ("-j MASQUERADE", Translate("masquerade")),
        ("-j SNAT --to-source 192.0.2.1", Translate("source", ip_address("192.0.2.1"))),
        ("-j NFQUEUE --queue-num 0", Unknown("NFQUEUE -j --queue-num 0")),
        ("-j IMQ --todev 0", Note("IMQ -j --todev 0")),
        ("-j ACCOUNT --tname all", Note("ACCOUNT -j --tname all")),
        ("-j FANCY", Unknown("FANCY -j")),
    ],
)
def test_targets_are_read(target: str, action: Action) -> None:
    (found,) = read(f"-A INPUT {target}").actions
    if isinstance(action, Note | Unknown):
        assert type(found) is type(action)
    else:
        assert found == action


def test_a_rule_without_a_target_does_nothing() -> None:
    assert read("-A INPUT -s 10.0.0.0/8").actions == ()


def test_addresses_of_the_other_family_are_read_by_the_name_of_the_listing() -> None:
    line = read("-A INPUT -s 2001:db8::/32 -p ipv6-icmp -m icmp6 --icmpv6-type 135 -j ACCEPT", family=6)
    assert line.conditions[0] == Condition(Field.SOURCE, Addresses.of("2001:db8::/32").v6, family=6)
    assert line.conditions[2] == Condition(Field.ICMP, icmp(135))
    assert read("-A INPUT -d fe80::1/128 -j DROP", family=4).conditions[0].field is Field.UNKNOWN


def test_what_is_no_rule_is_foreign() -> None:
    program = iptables.parse(
        {"rules.v4": '*filter\n:INPUT DROP [0:0]\nhello\n-A INPUT -m comment --comment "x\nCOMMIT\n'}
    )
    assert len(program.foreign) == 2


def test_policies_and_hooks() -> None:
    tables = ("*raw\n:PREROUTING ACCEPT", "*nat\n:POSTROUTING ACCEPT", "*filter\n:X - [0:0]\n:INPUT DROP")
    text = "".join(f"{table} [0:0]\nCOMMIT\n" for table in tables)
    hooks = {(c.table, c.name): c.hook for c in iptables.parse({"rules.v6": text}).chains}
    raw, nat, filtering = hooks["raw", "PREROUTING"], hooks["nat", "POSTROUTING"], hooks["filter", "INPUT"]
    assert raw is not None and nat is not None and filtering is not None
    assert (raw.name, raw.priority) == ("prerouting", -300)
    assert (nat.name, nat.priority, nat.kind) == ("postrouting", 100, "nat")
    assert filtering.policy == Deny()
    assert hooks["filter", "X"] is None


def test_members_of_live_groups_are_read() -> None:
    long = "a-live-group-of-a-long-name"
    ruleset = replace(one(block("b", live_source=long)), live=(long,))
    files = iptables.render(ruleset, Ability())
    (name,) = re.findall(r"create (portctl-live-\S+4) ", files["sets.ipset"])
    files["sets.ipset"] += f"add {name} 203.0.113.7 timeout 500\n"
    program = iptables.parse(files)
    assert program.live == ((long, ("203.0.113.7",)),)
    inbound = Packet(Direction.INBOUND, UDP, ip_address("203.0.113.7"), ip_address("192.0.2.1"), 5)
    packet = replace(inbound, live_source=frozenset({long}))
    assert evaluate(program, packet).verdict is Verdict.DROP


def test_no_line_of_a_listing_is_lost() -> None:
    text = iptables.render(whole(), Ability())["rules.v4"]
    program = iptables.parse({"rules.v4": text, "sets.ipset": iptables.render(whole(), Ability())["sets.ipset"]})
    numbers = sorted(line.number for chain in program.chains for line in chain.lines if line.number)
    want = [number for number, line in enumerate(text.splitlines(), 1) if line.startswith("-A")]
    assert numbers == want


def test_a_lookup_is_never_made() -> None:
    """iptables has no verdict maps: whoever reads a program of it need not look for any."""
    program = iptables.parse(iptables.render(whole(), Ability()))
    assert not any(isinstance(a, Lookup) for c in program.chains for line in c.lines for a in line.actions)


def test_questions_ask_for_what_parse_reads() -> None:
    questions = iptables.questions()
    assert set(iptables.PARTS) < set(questions)
    assert questions["rules.v4"].argv == ("iptables-save", "-c")


def test_scripts_are_the_same_for_every_policy() -> None:
    assert sorted(iptables.scripts()) == ["load.sh", "remove.sh", "save.sh"]
    assert all(text.startswith("#!/bin/sh\n") for text in iptables.scripts().values())
