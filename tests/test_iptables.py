"""The iptables back end without a kernel: what it renders means what the rule set means, and what it reads is known."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime
from ipaddress import ip_address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from portctl.backends import iptables
from portctl.backends.base import Ability
from portctl.backends.iptables.leaves import rate_words
from portctl.backends.iptables.names import chain_name, live_set
from portctl.expectations.corners import corner_packets
from portctl.net import ANYWHERE, Addresses, Ranges
from portctl.problems import Span
from portctl.program import (
    Accept,
    Action,
    Chain,
    Condition,
    Deny,
    Field,
    Jump,
    Line,
    Lookup,
    Note,
    Program,
    Return,
    SetMark,
    Translate,
    Unknown,
    evaluate,
)
from portctl.ruleset import (
    ICMP,
    ICMPV6,
    LOOPBACK,
    TCP,
    UDP,
    Direction,
    Flow,
    Kind,
    Masquerade,
    Original,
    Packet,
    Rate,
    Rule,
    Ruleset,
    State,
    Translation,
    Verdict,
    decide,
    icmp,
)
from tests import crowds, generate
from tests.nftables_cases import (
    END,
    FIRST_IN,
    KNOWN_IN,
    LAN,
    OFFICE,
    block,
    default,
    fixed,
    many,
    one,
    packets,
    ports,
    starts,
    tcp,
    udp,
    whole,
)

NO_IPSET = Ability(ipset=False)
SPAN = Span("p.yaml", 3, 5, 4, "  a: b c d")


def differ(ruleset: Ruleset, text: dict[str, str], sent: list[Packet]) -> list[str]:
    """Packets on which some rendered text and the rule set disagree, in words."""
    program = iptables.parse(text)
    wrong = []
    for packet in sent:
        verdict, rule = decide(ruleset, packet)
        answer = evaluate(program, packet)
        if answer.verdict is not verdict or answer.depends_on:
            line = answer.decided.line.text if answer.decided and answer.decided.line else ""
            wrong.append(f"{packet}: {verdict} by {rule.name}, not {answer.verdict} by {line}")
    return wrong


def corners(ruleset: Ruleset, count: int = 1500) -> list[Packet]:
    return [*packets(ruleset, 7, count), *corner_packets(ruleset, count)]


def small() -> Ruleset:
    """`whole` without live groups, for hosts without ipset."""
    bare = whole()

    def kept(rules: tuple[Rule, ...]) -> tuple[Rule, ...]:
        return tuple(rule for rule in rules if not rule.live_source and not rule.live_destination)

    nearby = Addresses.of("192.0.2.8/31")
    inbound = kept(bare.inbound)
    return replace(
        bare,
        inbound=tuple(replace(rule, source=nearby) if rule.name == "block-from-any" else rule for rule in inbound),
        outbound=kept(bare.outbound),
        forwarded=kept(bare.forwarded),
        live=(),
    )


def grid() -> Ruleset:
    """Entries on the same ports, with lists in several respects at once, that log and that do not."""
    sources = Addresses.of(*(f"10.{k}.0.0/16" for k in range(0, 12, 2)), "2001:db8:5::/48", "2001:db8:7::/48")
    places = Addresses.of("192.0.2.1", "192.0.2.5", "192.0.2.9", "2001:db8::1", "2001:db8::9")
    return one(
        *FIRST_IN,
        *KNOWN_IN,
        starts("a", tcp((1000, 2000)), source=sources, destination=places, interfaces=("eth0", "eth1", "wan*")),
        starts("b", tcp((1500, 2500)), destination=places, log=True),
        starts("c", tcp((1, 3000)), source=LAN, interfaces=("eth0", "lan0")),
        starts("d", ports(TCP, 1800, source=Ranges((1024, 65536))), source=OFFICE, rate=Rate(5, "second"), log=True),
    )


def test_the_rendered_rules_mean_the_same() -> None:
    for ruleset in (whole(), whole(Verdict.REJECT), many(40), grid()):
        assert iptables.gaps(ruleset, Ability()) == []
        assert differ(ruleset, iptables.render(ruleset, Ability()), corners(ruleset)) == []


def test_they_mean_the_same_without_ipset() -> None:
    for ruleset in (small(), grid(), many(12)):
        assert iptables.gaps(ruleset, NO_IPSET) == []
        files = iptables.render(ruleset, NO_IPSET)
        assert sorted(files) == ["rules.v4", "rules.v6"]
        assert "--match-set" not in "".join(files.values())
        assert differ(ruleset, files, corners(ruleset)) == []


def test_a_rule_set_that_allows_everything_needs_no_rules() -> None:
    assert iptables.render(one(last=Verdict.ACCEPT), Ability()) == {
        **iptables.render(one(last=Verdict.ACCEPT), Ability()),
        "rules.v4": "",
        "rules.v6": "",
    }


# --- every condition counts: without it the rules mean something else -----------------------------------------------


def _forward(*rules: Rule, **more: object) -> Ruleset:
    return one(fixed("known", states=State.ESTABLISHED), *rules, direction=Direction.FORWARDED, **more)  # type: ignore[arg-type]


CONDITIONS: dict[str, tuple[Ruleset, str]] = {
    "protocol": (one(starts("a", Flow(47))), r" -p 47\b"),
    "port": (one(starts("a", tcp(22))), r" -m tcp --dport 22"),
    "ports": (one(starts("a", tcp(22, 80))), r" -m multiport --dports 22,80"),
    "source port": (one(starts("a", ports(TCP, 22, source=Ranges.single(5)))), r" -m tcp --sport 5"),
    "icmp type": (one(starts("a", Flow(ICMP, icmp(8)))), r" -m icmp --icmp-type 8"),
    "icmp code": (one(starts("a", Flow(ICMPV6, Ranges.single(1 * 256 + 3)))), r" -m icmp6 --icmpv6-type 1/3"),
    "source": (one(starts("a", tcp(22), source=Addresses.of("192.0.2.7"))), r" -s 192.0.2.7/32"),
    "source set": (one(starts("a", tcp(22), source=grid().inbound[10].source)), r" -m set --match-set \S+ src"),
    "destination": (one(starts("a", tcp(22), destination=Addresses.of("192.0.2.7"))), r" -d 192.0.2.7/32"),
    "live source": (one(block("a", live_source="bans"), last=Verdict.ACCEPT), r" -m set (?:! )?--match-set \S+ src"),
    "live destination": (
        one(block("a", live_destination="bans"), last=Verdict.ACCEPT, direction=Direction.OUTBOUND),
        r" -m set (?:! )?--match-set \S+ dst",
    ),
    "interface": (one(starts("a", tcp(22), interfaces=("wan*",))), r" -i wan\+"),
    "loopback": (one(fixed("a", interfaces=(LOOPBACK,))), r" -i lo\b"),
    "out interface": (_forward(starts("a", tcp(22), kind=Kind.FORWARD, out_interfaces=("lan0",))), r" -o lan0"),
    "states": (one(fixed("a", states=State.ESTABLISHED)), r" -m conntrack --ctstate ESTABLISHED"),
    "starting": (one(starts("a", tcp(22))), r" -m conntrack --ctstate NEW\b"),
    "syn": (one(starts("a", tcp(22))), r" -m tcp --tcp-flags FIN,SYN,RST,ACK SYN"),
    "original direction": (
        one(block("a", flows=(tcp(25),), original_direction=True), last=Verdict.ACCEPT),
        r" -m conntrack --ctdir ORIGINAL",
    ),
    "hop limit": (one(fixed("a", flows=(Flow(ICMPV6, icmp(135)),), hop_limit=255)), r" -m hl --hl-eq 255"),
    "hop limit, IPv4": (one(fixed("a", flows=(udp(5),), hop_limit=255)), r" -m ttl --ttl-eq 255"),
    "user": (
        one(starts("a", tcp(22), kind=Kind.EGRESS, user="nobody"), direction=Direction.OUTBOUND),
        r" -m owner --uid-owner nobody",
    ),
    "original port": (
        _forward(starts("a", kind=Kind.FORWARD, original=Original((tcp(8080),)))),
        r" -m conntrack --ctorigdstport 8080",
    ),
    "original address": (
        _forward(starts("a", kind=Kind.FORWARD, original=Original((tcp(80),), Addresses.of("192.0.2.7")))),
        r" -m conntrack --ctorigdst 192.0.2.7",
    ),
    "published": (
        _forward(starts("a", kind=Kind.PUBLISHED, published=True, original=Original((tcp(22),)))),
        r" -m mark --mark 0x1000000/0x1000000",
    ),
    "rate": (one(starts("a", tcp(22), rate=Rate(3, "minute"))), r" -m hashlimit .*?(?= -m comment)"),
    "connections": (one(starts("a", tcp(22), max_connections=3)), r" -m connlimit .*?(?= -m comment)"),
    "until": (one(starts("a", tcp(22), until=END)), r" -m time --datestop \S+"),
    "translated to": (
        replace(
            _forward(starts("a", kind=Kind.FORWARD, original=Original((tcp(80),)))),
            inbound=(default(Verdict.DROP),),
            translations=(Translation("a", (tcp(80),), LAN, None, ("eth0",), ip_address("10.0.0.5"), 80),),
        ),
        r" -m addrtype --dst-type LOCAL",
    ),
}


@pytest.mark.parametrize("name", CONDITIONS)
def test_without_a_condition_the_rules_mean_something_else(name: str) -> None:
    ruleset, condition = CONDITIONS[name]
    files = iptables.render(ruleset, Ability())
    sent = [*corners(ruleset, 3000), *_answers()]
    assert differ(ruleset, files, sent) == []
    found = sum(len(re.findall(condition, text)) for text in files.values())
    assert found, "the condition is not where it should be"
    assert differ(ruleset, {name: re.sub(condition, "", text) for name, text in files.items()}, sent)


def _answers() -> list[Packet]:
    """Packets of known connections to a port that may be blocked, one each way."""
    here, there = ip_address("192.0.2.1"), ip_address("198.51.100.9")
    base = Packet(Direction.INBOUND, TCP, there, here, 25, state=State.ESTABLISHED)
    return [replace(base, reply=reply) for reply in (False, True)]


def test_an_address_of_one_family_makes_no_rule_in_the_other() -> None:
    ruleset = one(
        starts("a", tcp(22), source=Addresses.of("192.0.2.7")), starts("b", udp(5), source=Addresses.of("2001:db8::7"))
    )
    files = iptables.render(ruleset, Ability())
    assert "--comment a" in files["rules.v4"]
    assert "--comment b" not in files["rules.v4"]
    assert "--comment a" not in files["rules.v6"]
    assert "--comment b" in files["rules.v6"]


def test_admitted_packets_go_on_to_the_rules_of_others() -> None:
    files = iptables.render(whole(), Ability())
    assert "-j ACCEPT" not in files["rules.v4"] + files["rules.v6"]
    drop = "*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -j PORTCTL-IN\n-A INPUT -p tcp -m tcp --dport 443 -j DROP\nCOMMIT\n"
    packet = Packet(Direction.INBOUND, TCP, ip_address("198.51.100.9"), ip_address("202.54.1.1"), 443)
    assert evaluate(iptables.parse(files), packet).verdict is Verdict.ACCEPT
    both = {**files, "rules.v4": drop.replace("COMMIT\n", "") + files["rules.v4"].partition("*filter\n")[2]}
    assert evaluate(iptables.parse(both), packet).verdict is Verdict.DROP


# --- what it costs a packet -----------------------------------------------------------------------------------------


def cost(program: Program, table: str, chain: str, packet: Packet, seen: int = 0) -> int:
    """How many rules the kernel compares a packet with, from a chain on."""
    chains = {(c.family, c.table, c.name): c for c in program.chains}

    def walk(name: str) -> tuple[int, bool]:
        count = 0
        for line in chains[4, table, name].lines:
            count += 1
            if not evaluate_line(line, packet):
                continue
            for action in line.actions:
                if isinstance(action, Jump):
                    more, ended = walk(action.chain)
                    count += more
                    if ended or action.goto:
                        return count, ended or action.goto
                if isinstance(action, Accept | Deny | Return | Translate):
                    return count, not isinstance(action, Return)
        return count, False

    return seen + walk(chain)[0]


def evaluate_line(line: Line, packet: Packet) -> bool:
    """Whether a line's conditions hold, by asking a program of that line alone."""
    probe = Chain("filter", "INPUT", (Line(line.conditions, (Deny(),)),), hook=_INPUT, family=4)
    return evaluate(Program((probe,)), packet).verdict is Verdict.DROP


_INPUT = next(c.hook for c in iptables.parse({"rules.v4": "*filter\n:INPUT ACCEPT [0:0]\nCOMMIT\n"}).chains)


def crowd(count: int) -> Ruleset:
    services = (starts(f"s{k}", tcp(1000 + 13 * k), source=OFFICE) for k in range(count))
    return one(*FIRST_IN, *KNOWN_IN, *services)


def test_a_packet_does_not_pay_for_the_number_of_services() -> None:
    few, lots = (iptables.parse(iptables.render(crowd(count), Ability())) for count in (100, 1000))
    source, here = ip_address("198.51.100.9"), ip_address("192.0.2.1")
    sent = [Packet(Direction.INBOUND, TCP, source, here, port) for port in (1000, 1013, 1000 + 13 * 99, 6200, 7, 65535)]
    costs = [[cost(program, "filter", "PORTCTL-IN", packet) for packet in sent] for program in (few, lots)]
    assert max(costs[1]) <= 40
    assert all(after <= before + 8 for before, after in zip(*costs, strict=True))


def test_a_known_connection_costs_one_rule() -> None:
    """Nearly all packets belong to one; those of a blocked source are looked up in the same rule."""
    blocked = Addresses.of(*(f"10.7.{k}.0/24" for k in range(0, 99, 2)))
    ruleset = one(*FIRST_IN, block("feed", source=blocked), *KNOWN_IN, starts("ssh", tcp(22)))
    program = iptables.parse(iptables.render(ruleset, Ability()))
    known = Packet(
        Direction.INBOUND, TCP, ip_address("198.51.100.9"), ip_address("192.0.2.1"), 22, state=State.ESTABLISHED
    )
    assert cost(program, "filter", "PORTCTL-IN", known) == 1
    assert cost(program, "filter", "PORTCTL-IN", replace(known, state=State.NEW)) <= 3
    assert evaluate(program, replace(known, source=ip_address("10.7.2.1"))).verdict is Verdict.DROP


def test_a_list_costs_one_rule() -> None:
    sources = Addresses.of(*(f"10.0.{k}.1" for k in range(200)))
    text = iptables.render(one(starts("a", tcp(22), source=sources)), Ability())
    assert text["rules.v4"].count("--match-set") == 1
    assert text["sets.ipset"].count("add ") == 200


def test_one_more_service_changes_its_own_rules_alone() -> None:
    before, after = (iptables.render(crowd(count), Ability())["rules.v4"].splitlines() for count in (500, 501))
    assert len(set(before) ^ set(after)) <= 8


# --- names and words ------------------------------------------------------------------------------------------------


@given(st.lists(st.text(alphabet="abcz019-_", min_size=1, max_size=31), min_size=2, max_size=20, unique=True))
def test_chains_of_different_entries_have_different_names(names: list[str]) -> None:
    found = {chain_name("PORTCTL-FWD", name, "-DO") for name in names}
    assert len(found) == len(names)
    assert all(len(name) <= 28 and re.fullmatch(r"[!-~]+", name) for name in found)
    sets = {live_set(name, 6) for name in names}
    assert len(sets) == len(names)
    assert all(len(name) <= 31 for name in sets)


TEXT = st.text(max_size=300) | st.text(alphabet="\"'\\\n\r\t $`;-é♥ x\x00\x85\u2028", max_size=40)


@given(TEXT, TEXT, TEXT)
@settings(max_examples=150, deadline=None)
def test_what_people_write_stays_in_its_place(description: str, owner: str, ticket: str) -> None:
    entries = starts("a", tcp(22), log=True), block("b", source=OFFICE)
    plain = one(*entries)
    told = one(*(replace(entry, description=description, owner=owner, ticket=ticket) for entry in entries))
    files = iptables.render(told, Ability())
    assert {name: text.count("\n") for name, text in files.items()} == {
        name: text.count("\n") for name, text in iptables.render(plain, Ability()).items()
    }
    assert iptables.parse(files) == iptables.parse(iptables.render(plain, Ability()))
    for comment in re.findall(r'--comment (?:"([^"]*)"|(\S+))', files["rules.v4"]):
        assert len("".join(comment).encode()) <= 255


def test_descriptions_are_carried_in_comments() -> None:
    entry = starts("web", tcp(80), description="the front door", owner="web team", ticket="OPS-1")
    text = iptables.render(one(entry), Ability())["rules.v4"]
    assert '--comment "web -- the front door; owner web team; ticket OPS-1"' in text
    program = iptables.parse({"rules.v4": text})
    assert {line.comment for chain in program.chains for line in chain.lines} >= {"web", "default"}


def test_a_log_prefix_is_short_enough_for_the_kernel() -> None:
    name = "a-name-of-thirty-one-characters"
    text = iptables.render(replace(one(starts(name, tcp(22), log=True)), log_denied=True), Ability())["rules.v4"]
    prefixes = re.findall(r'--log-prefix "([^"]*)"', text)
    assert len(prefixes) == 2
    assert all(len(prefix) <= 29 for prefix in prefixes)


@pytest.mark.parametrize(
    ("rate", "printed"),
    [
        (Rate(1, "day"), "1/day"),
        (Rate(7, "day"), "7/day"),
        (Rate(999, "hour"), "999/hour"),
        (Rate(60, "minute"), "1/sec"),
        (Rate(7, "minute"), "7/min"),
        (Rate(86400, "day"), "1/sec"),
        (Rate(1_000_000, "day"), "1000000/day"),
        (Rate(10_000, "second"), "10000/sec"),
        (Rate(100_000, "minute"), "1666/sec"),
    ],
)
def test_rates_are_written_as_iptables_save_prints_them(rate: Rate, printed: str) -> None:
    """Taken from iptables 1.8.9, both variants."""
    assert rate_words(rate)[0] == printed


def test_a_rate_counts_sources() -> None:
    files = iptables.render(one(starts("a", tcp(22), rate=Rate(10, "hour"))), Ability())
    limit = "--hashlimit-above 10/hour --hashlimit-burst 10 --hashlimit-mode srcip --hashlimit-name portctl-a-"
    assert limit in files["rules.v4"]
    assert "srcmask" not in files["rules.v4"]
    assert "--hashlimit-srcmask 64 " in files["rules.v6"]
    other = iptables.render(one(starts("a", tcp(22), rate=Rate(11, "hour"))), Ability())
    names = [re.findall(r"--hashlimit-name (\S+)", text["rules.v4"]) for text in (files, other)]
    assert names[0] != names[1], "a changed limit must not go on with the old table"


def test_logs_are_the_union_of_the_entries_that_admit() -> None:
    ruleset = one(*KNOWN_IN, starts("a", tcp(80)), starts("b", tcp(80), source=LAN, log=True))
    program = iptables.parse(iptables.render(ruleset, Ability()))
    for source, logs in (("10.0.0.9", True), ("192.0.2.99", False)):
        packet = Packet(Direction.INBOUND, TCP, ip_address(source), ip_address("192.0.2.1"), 80)
        lines = [step.line for step in evaluate(program, packet).trace if step.line]
        said = [line for line in lines if any(isinstance(a, Note) and a.text.startswith("LOG") for a in line.actions)]
        assert bool(said) is logs


def test_a_set_bears_the_name_of_its_group_and_what_it_holds() -> None:
    group = Addresses.of(*(f"10.0.{k}.1" for k in range(9)))
    ruleset = replace(one(starts("a", tcp(22), source=group)), groups=(("office-of-the-far-north", group),))
    text = iptables.render(ruleset, Ability())["sets.ipset"]
    (name,) = re.findall(r"create (portctl-office\S+) hash:net family inet ", text)
    assert len(name) <= 31
    other = replace(ruleset, inbound=(starts("a", tcp(22), source=group | LAN), default(Verdict.DROP)))
    assert name not in iptables.render(other, Ability())["sets.ipset"]


def test_half_of_all_addresses_fits_a_set() -> None:
    ruleset = one(starts("a", tcp(22), source=ANYWHERE - Addresses.of("10.0.0.1", "2001:db8::1")))
    files = iptables.render(ruleset, Ability())
    assert differ(ruleset, files, corners(ruleset)) == []
    assert "/0\n" not in files["sets.ipset"]


def test_masquerades_are_told_apart_by_marks() -> None:
    admitted = (
        starts("one", tcp(1), kind=Kind.FORWARD, source=LAN),
        starts("two", tcp(2), kind=Kind.FORWARD, source=LAN),
        starts("two2", tcp(3), kind=Kind.FORWARD, source=LAN),
    )
    address = ip_address("202.54.1.1")
    ruleset = _forward(
        *admitted, masquerades=(Masquerade("one"), Masquerade("two", address), Masquerade("two2", address))
    )
    text = iptables.render(ruleset, Ability())["rules.v4"]
    assert "-m mark --mark 0x2000000/0x3a000000 -m comment --comment one -j MASQUERADE" in text
    assert '-m mark --mark 0xa000000/0x3a000000 -m comment --comment "two, two2" -j SNAT --to-source 202.54.1.1' in text
    assert "-j SNAT" not in iptables.render(ruleset, Ability())["rules.v6"]


# --- gaps -----------------------------------------------------------------------------------------------------------

LONG = Addresses.of(*(f"10.0.{k}.1" for k in range(65)))
MASQUERADES = tuple(Masquerade(f"f{k}", ip_address(f"192.0.2.{k}")) for k in range(8))


@pytest.mark.parametrize(
    ("rule", "ability", "said"),
    [
        (starts("a", tcp(1), until=datetime(2038, 1, 1, 0, 0, 1, tzinfo=UTC)), Ability(), "after 2037"),
        (starts("a", tcp(1), source=LONG), NO_IPSET, "more than 64 networks"),
        (block("a", live_source="bans"), NO_IPSET, "live group"),
        (starts("a", tcp(1), interfaces=("an-interface-too-long",)), Ability(), "interface"),
        (starts("a", tcp(1), interfaces=("wan+",)), Ability(), "interface"),
        (starts("a", Flow(ICMP, icmp(255))), Ability(), "255"),
        (starts("a", tcp(1), rate=Rate(10_001, "second")), Ability(), "rate"),
        (starts("a", tcp(1), rate=Rate(1_000_001, "day")), Ability(), "rate"),
        (starts("a", tcp(1), kind=Kind.EGRESS, user="no body"), Ability(), "user"),
        (starts("a", tcp(1), original=Original((tcp(2),), LONG)), Ability(), "before a translation"),
    ],
)
def test_what_cannot_be_said_is_refused_where_it_is_written(rule: Rule, ability: Ability, said: str) -> None:
    (gap,) = iptables.gaps(one(replace(rule, span=SPAN)), ability)
    assert gap.code == "gap"
    assert gap.severity == "error"
    assert said in gap.message
    assert gap.span == SPAN


def test_what_can_just_be_said_is_not_refused() -> None:
    last = datetime(2038, 1, 1, tzinfo=UTC)
    assert iptables.gaps(one(starts("a", tcp(1), until=last, rate=Rate(10_000, "second"))), Ability()) == []
    assert iptables.gaps(one(starts("a", tcp(1), until=datetime(2050, 1, 1, tzinfo=UTC))), Ability(clock=False)) == []
    sources = Addresses.of(*(f"10.0.{k}.1" for k in range(64)))
    assert iptables.gaps(one(starts("a", tcp(1), source=sources)), NO_IPSET) == []


def test_too_many_masquerade_addresses_are_refused() -> None:
    forwards = tuple(starts(f"f{k}", tcp(k + 1), kind=Kind.FORWARD) for k in range(8))
    assert [g.code for g in iptables.gaps(_forward(*forwards, masquerades=MASQUERADES), Ability())] == ["gap"]
    assert iptables.gaps(_forward(*forwards, masquerades=MASQUERADES[:7]), Ability()) == []


# --- reading everybody's rules --------------------------------------------------------------------------------------


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
        "-p nosuch",
        "-f",
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
        ("-j CONNMARK --restore-mark", Unknown("CONNMARK -j --restore-mark")),
        ("-p tcp -j DNAT --to-destination 10.0.0.5:80", Translate("destination", ip_address("10.0.0.5"), 80)),
        ("-p tcp -j DNAT --to-destination :80", Translate("destination", None, 80)),
        ("-p tcp -j REDIRECT --to-ports 80", Translate("redirect", None, 80)),
        ("-j MASQUERADE", Translate("masquerade")),
        ("-j SNAT --to-source 192.0.2.1", Translate("source", ip_address("192.0.2.1"))),
        ("-j NFQUEUE --queue-num 0", Unknown("NFQUEUE -j --queue-num 0")),
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


# --- how deep chains are nested -------------------------------------------------------------------------------------


def nested(text: str) -> int:
    """The most chains on a way through the rules, the built-in one among them, which nf_tables holds to 16."""
    onward: dict[str, set[str]] = {}
    for line in text.splitlines():
        if found := re.match(r"-A (\S+) .*-[jg] (PORTCTL-\S+)$", line):
            onward.setdefault(found[1], set()).add(found[2])
    depths: dict[str, int] = {}

    def depth(name: str) -> int:
        if name not in depths:
            depths[name] = 1 + max(map(depth, onward.get(name, ())), default=0)
        return depths[name]

    return 1 + max(map(depth, onward))


def crowded(services: int, others: int) -> Ruleset:
    found = generate.ruleset(crowds.nasty(services, others))
    assert found is not None
    return found


def test_entries_of_every_kind_nest_no_deeper_than_the_kernel_does() -> None:
    """Those of limits, translations, users and states come one after the other."""
    for count in (5, 120):
        files = iptables.render(crowded(count, count), Ability())
        assert nested(files["rules.v4"]) <= 16
        assert nested(files["rules.v6"]) <= 16
    assert "PORTCTL-IN-STAGE2" in files["rules.v4"]


def test_entries_in_stages_mean_the_same() -> None:
    ruleset = crowded(40, 30)
    files = iptables.render(ruleset, Ability())
    assert "PORTCTL-IN-STAGE2" in files["rules.v4"], "there are too few entries for stages"
    assert differ(ruleset, files, corner_packets(ruleset, 60)) == []


def test_many_blocked_lists_are_one_look_up_for_others() -> None:
    """Each entry keeps a line with its name and conditions; only packets of some blocked address come to it."""
    entries: list[dict[str, object]] = [{"from": f"203.0.114.{n}", "in": "public"} for n in range(0, 60, 2)]
    entries += [{"to": f"2001:db8:{n}::/48"} for n in range(1, 30)]
    plain = {
        "portctl": 1,
        "name": "banned",
        "interfaces": {"public": ["eth0", "wan*"]},
        "block": entries,
        "services": {"web": {"ports": "http", "from": "any"}},
        "defaults": {"inbound": "drop", "outbound": "reject", "forward": "drop"},
    }
    ruleset = generate.ruleset(plain)
    assert ruleset is not None
    files = iptables.render(ruleset, Ability())
    assert differ(ruleset, files, corner_packets(ruleset, 400)) == []
    lines = files["rules.v4"].splitlines()
    first = [line for line in lines if line.startswith("-A PORTCTL-IN ")]
    assert len(first) < 25
    assert sum("--match-set portctl-block-" in line and line.endswith(" -j PORTCTL-IN-BLOCK") for line in first) == 1
    assert "--ctstate RELATED,ESTABLISHED" in first[0]
    blocked = [line for line in lines if line.startswith("-A PORTCTL-IN-BLOCK ")]
    assert len(blocked) == 60 and len({line.split("--comment ")[1] for line in blocked}) == 30
    without = iptables.render(ruleset, Ability(ipset=False))
    assert differ(ruleset, without, corner_packets(ruleset, 50)) == []


def test_what_a_stage_admits_is_counted_once() -> None:
    """Setting the mark does not end a chain, as RETURN would: a second entry that logs the packet comes to no limit."""
    plain = crowds.nasty(40, 30)
    limit = {"ports": "100/tcp", "from": "any", "rate": "5/minute"}
    plain["services"] |= {"once": limit, "once-more": limit | {"log": True}, "once-again": limit | {"log": True}}
    ruleset = generate.ruleset(plain)
    assert ruleset is not None
    lines = iptables.render(ruleset, Ability())["rules.v4"].splitlines()
    assert any("PORTCTL-IN-STAGE2" in line for line in lines), "there are too few entries for stages"
    admitting = re.compile(r"-A (\S+) (-m comment --comment \S+ )?-j MARK --set-xmark 0x4000000/0x4000000")
    found = [(at, said[1]) for at, line in enumerate(lines) if (said := admitting.fullmatch(line))]
    assert any("once" in chain for _, chain in found)
    assert [lines[at + 1] for at, chain in found if lines[at + 1].startswith(f"-A {chain} ")] == []


def test_a_mark_that_others_left_opens_nothing() -> None:
    """A stage tells by a bit of the mark what it admitted; whoever set that bit before is not believed."""
    ruleset = crowded(40, 30)
    files = iptables.render(ruleset, Ability())
    jump = "-A INPUT -j MARK --set-xmark 0x4000000/0x4000000\n-A INPUT -j PORTCTL-IN\n"
    files["rules.v4"] = files["rules.v4"].replace("-A PORTCTL-IN ", f"{jump}-A PORTCTL-IN ", 1)
    files["rules.v4"] = files["rules.v4"].replace("*filter\n", "*filter\n:INPUT ACCEPT [0:0]\n")
    stranger = Packet(Direction.INBOUND, TCP, ip_address("203.0.113.250"), ip_address("192.0.2.1"), 22)
    assert differ(ruleset, files, [stranger]) == []


def test_many_long_names_make_chains_that_can_be_loaded() -> None:
    names = ("a-name-of-thirty-one-characters", "another-name-of-thirty-one-char")
    rules = [
        starts(name, kind=Kind.FORWARD, original=Original((Flow(132, Ranges((5, 9))), Flow(47))), source=OFFICE)
        for name in names
    ]
    text = iptables.render(one(*rules, direction=Direction.FORWARDED), Ability())["rules.v4"]
    assert all(len(name) <= 28 for name in re.findall(r"^:(\S+)", text, re.M))
