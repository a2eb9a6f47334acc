"""The iptables back end without a kernel: what it renders means what the rule set means."""

from __future__ import annotations

import re
from dataclasses import replace
from ipaddress import ip_address

import pytest

from portctl.backends import iptables
from portctl.backends.base import Ability
from portctl.evaluation import evaluate
from portctl.expectations.corners import corner_packets
from portctl.net import ANYWHERE, Addresses, Ranges
from portctl.problems import Span
from portctl.program import Accept, Chain, Deny, Jump, Line, Program, Return, Translate
from portctl.ruleset import (
    ICMP,
    ICMPV6,
    LOOPBACK,
    TCP,
    Direction,
    Flow,
    Kind,
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
    forwarding,
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
    "out interface": (forwarding(starts("a", tcp(22), kind=Kind.FORWARD, out_interfaces=("lan0",))), r" -o lan0"),
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
        forwarding(starts("a", kind=Kind.FORWARD, original=Original((tcp(8080),)))),
        r" -m conntrack --ctorigdstport 8080",
    ),
    "original address": (
        forwarding(starts("a", kind=Kind.FORWARD, original=Original((tcp(80),), Addresses.of("192.0.2.7")))),
        r" -m conntrack --ctorigdst 192.0.2.7",
    ),
    "published": (
        forwarding(starts("a", kind=Kind.PUBLISHED, published=True, original=Original((tcp(22),)))),
        r" -m mark --mark 0x1000000/0x1000000",
    ),
    "rate": (one(starts("a", tcp(22), rate=Rate(3, "minute"))), r" -m hashlimit .*?(?= -m comment)"),
    "connections": (one(starts("a", tcp(22), max_connections=3)), r" -m connlimit .*?(?= -m comment)"),
    "until": (one(starts("a", tcp(22), until=END)), r" -m time --datestop \S+"),
    "translated to": (
        replace(
            forwarding(starts("a", kind=Kind.FORWARD, original=Original((tcp(80),)))),
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
    chains = {c.place: c for c in program.chains}

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


def test_half_of_all_addresses_fits_a_set() -> None:
    ruleset = one(starts("a", tcp(22), source=ANYWHERE - Addresses.of("10.0.0.1", "2001:db8::1")))
    files = iptables.render(ruleset, Ability())
    assert differ(ruleset, files, corners(ruleset)) == []
    assert "/0\n" not in files["sets.ipset"]


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
