"""Rulesets built by hand for the tests of the nftables back end, and packets at the corners of their rules."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address, IPv6Address, ip_address
from random import Random

from portctl.net import ANYWHERE, LOOPBACK_ADDRESSES, Address, Addresses, Ranges
from portctl.ruleset import (
    ACK,
    EVERY_PORT,
    FIN,
    ICMP,
    ICMPV6,
    KNOWN,
    LOOPBACK,
    RST,
    SCTP,
    STARTING,
    SYN,
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
    icmp,
)

END = datetime(2031, 1, 31, 18, 30, tzinfo=UTC)
OFFICE = Addresses.of("198.51.100.0/24", "192.0.2.7", "2001:db8:10::/48", "2001:db8::1")
LAN = Addresses.of("10.0.0.0/8", "fd00::/8")


def ports(protocol: int, *given: int | tuple[int, int], source: Ranges = EVERY_PORT) -> Flow:
    return Flow(protocol, Ranges.of((p, p) if isinstance(p, int) else p for p in given), source)


def tcp(*given: int | tuple[int, int]) -> Flow:
    return ports(TCP, *given)


def udp(*given: int | tuple[int, int]) -> Flow:
    return ports(UDP, *given)


def fixed(name: str, verdict: Verdict = Verdict.ACCEPT, **more: object) -> Rule:
    return Rule(name, Kind.FIXED, verdict, **more)  # type: ignore[arg-type]


def block(name: str, verdict: Verdict = Verdict.DROP, **more: object) -> Rule:
    return Rule(name, Kind.BLOCK, verdict, **more)  # type: ignore[arg-type]


def starts(name: str, *flows: Flow, kind: Kind = Kind.SERVICE, **more: object) -> Rule:
    """An entry of the policy: it admits what starts a connection."""
    return Rule(name, kind, Verdict.ACCEPT, flows or None, states=STARTING, syn=True, **more)  # type: ignore[arg-type]


def default(verdict: Verdict) -> Rule:
    return Rule("default", Kind.DEFAULT, verdict)


FIRST_IN = (
    fixed("loopback", interfaces=(LOOPBACK,)),
    fixed("neighbour-discovery", flows=(Flow(ICMPV6, icmp(133, 134, 135, 136, 137)),), hop_limit=255),
    fixed(
        "multicast-listener",
        flows=(Flow(ICMPV6, icmp(130, 131, 132, 143)),),
        source=Addresses.of("fe80::/10", "::/128"),
    ),
    fixed("dhcp-client", flows=(ports(UDP, 68, source=Ranges.single(67)),), source=ANYWHERE.only(4)),
    fixed("dhcpv6-client", flows=(udp(546),), source=Addresses.of("fe80::/10")),
)
KNOWN_IN = (
    fixed("known", states=KNOWN),
    fixed("loopback-address", Verdict.DROP, source=LOOPBACK_ADDRESSES),
    fixed("loopback-address", Verdict.DROP, destination=LOOPBACK_ADDRESSES),
    fixed("invalid", Verdict.DROP, states=State.INVALID),
    fixed("icmp-errors", flows=(Flow(ICMP, icmp(3, 11, 12)), Flow(ICMPV6, icmp(1, 2, 3, 4)))),
)
BLOCKS_IN = (
    block("block", source=Addresses.of("203.0.113.66")),
    block("block-bans", live_source="bans"),
    block("block-from-any", source=ANYWHERE - OFFICE, flows=(tcp(25), udp((100, 200))), original_direction=True),
)
SERVICES = (
    starts("dns", tcp(53), udp(53)),
    starts("everything", source=Addresses.of("192.0.2.200-192.0.2.203"), interfaces=("wg0", "tun*")),
    starts("loud", tcp(443, (8000, 8100)), source=OFFICE, log=True),
    starts("old-web", kind=Kind.FORWARD, original=Original((tcp(8080),))),
    starts("ping", Flow(ICMP, icmp(8)), Flow(ICMPV6, icmp(128))),
    starts("same", kind=Kind.FORWARD, source=LAN, original=Original((tcp(81, 88),))),
    starts("ssh", tcp(22), source=OFFICE, until=END, description='a "quoted" \\ text\n}', owner="me", ticket="OPS-1"),
    starts("tunnel", Flow(50), Flow(47), source=OFFICE),
    starts("web", tcp(80, 443, (8000, 8010)), udp(443), destination=Addresses.of("202.54.1.1", "2001:db8:1::1")),
    starts("voice", ports(UDP, (5000, 6000), source=Ranges((1024, 2048))), ports(SCTP, 9)),
    starts("counted", tcp(2222), max_connections=3, log=True),
    starts("slow", tcp(2223, 53), source=OFFICE, rate=Rate(10, "minute")),
)
OUT = (
    fixed("loopback", out_interfaces=(LOOPBACK,)),
    block("block", Verdict.REJECT, destination=Addresses.of("203.0.113.66")),
    block("block-bans", Verdict.REJECT, live_destination="bans"),
    block("block-to-any", Verdict.REJECT, flows=(tcp(25),), original_direction=True),
    fixed("known", states=KNOWN),
    starts("apt", tcp(80, 443), kind=Kind.EGRESS, user="nobody", out_interfaces=("eth0",)),
    starts("dns", udp(53), tcp(53), kind=Kind.EGRESS, destination=Addresses.of("192.0.2.53")),
    Rule("ssh", Kind.SERVICE, Verdict.ACCEPT, (tcp(22).reversed(),), destination=OFFICE, states=State.UNTRACKED),
    Rule("web", Kind.SERVICE, Verdict.ACCEPT, (tcp(80, 443).reversed(),), states=State.UNTRACKED),
    Rule("p", Kind.SERVICE, Verdict.ACCEPT, (tcp(81).reversed(), udp(82).reversed()), states=State.UNTRACKED),
    Rule("q", Kind.SERVICE, Verdict.ACCEPT, (tcp(83).reversed(), Flow(47)), states=State.UNTRACKED),
    default(Verdict.DROP),
)
FORWARDED = (
    block("block", source=Addresses.of("203.0.113.66")),
    block("block", destination=Addresses.of("203.0.113.66")),
    fixed("known", states=KNOWN),
    starts("internet", kind=Kind.FORWARD, source=LAN, interfaces=("lan0",), out_interfaces=("eth0", "wan*")),
    starts(
        "dmz",
        kind=Kind.FORWARD,
        original=Original((tcp(8443, (9000, 9010)),), Addresses.of("202.54.1.1", "202.54.1.9")),
    ),
    starts("ssh", kind=Kind.PUBLISHED, source=OFFICE, published=True, original=Original((tcp(22),))),
    Rule("published", Kind.PUBLISHED, Verdict.REJECT, published=True, states=STARTING),
    default(Verdict.DROP),
)
TRANSLATIONS = (
    Translation("old-web", (tcp(8080),), OFFICE | LAN, None, (), None, 80, until=END),
    Translation(
        "dmz", (tcp(8443, (9000, 9010)),), ANYWHERE, Addresses.of("202.54.1.1", "202.54.1.9"), ("eth0",),
        ip_address("10.0.0.5"), 443,
    ),
    Translation("same", (tcp(81, 88),), LAN, None, (), None, 88),
    Translation("six", None, ANYWHERE, Addresses.of("2001:db8:1::9"), (), ip_address("fd00::5"), None),
)  # fmt: skip


def whole(verdict: Verdict = Verdict.DROP) -> Ruleset:
    """A ruleset that uses every field of every type."""
    return Ruleset(
        "whole",
        (*FIRST_IN, *BLOCKS_IN, *KNOWN_IN, *SERVICES, default(verdict)),
        OUT,
        FORWARDED,
        translations=TRANSLATIONS,
        masquerades=(Masquerade("internet"), Masquerade("dmz", ip_address("202.54.1.1"))),
        clamps=("internet",),
        groups=(("office", OFFICE),),
        live=("bans",),
        log_denied=True,
    )


def one(
    *rules: Rule, last: Verdict = Verdict.DROP, direction: Direction = Direction.INBOUND, **more: object
) -> Ruleset:
    """A ruleset of a few rules in one direction, the others open."""
    sides: dict[Direction, tuple[Rule, ...]] = {d: (default(Verdict.ACCEPT),) for d in Direction}
    sides[direction] = (*rules, default(last))
    return Ruleset(
        "one", sides[Direction.INBOUND], sides[Direction.OUTBOUND], sides[Direction.FORWARDED], live=("bans",), **more  # type: ignore[arg-type]
    )  # fmt: skip


def many(count: int) -> Ruleset:
    """Many services, forwards and egress entries: all that is dispatched."""
    services = tuple(
        starts(f"s{k}", tcp(1000 + 3 * k, 20000 + k), source=OFFICE if k % 2 else LAN) for k in range(count)
    )
    turned = tuple(starts(f"f{k}", kind=Kind.FORWARD, original=Original((tcp(3000 + k),))) for k in range(count))
    published = tuple(
        starts(f"s{k}", kind=Kind.PUBLISHED, published=True, original=Original((tcp(1000 + 3 * k),)))
        for k in range(count)
    )
    answers = tuple(
        Rule(
            r.name, Kind.SERVICE, Verdict.ACCEPT, (r.flows[0].reversed(),), destination=r.source, states=State.UNTRACKED
        )
        for r in services
        if r.flows
    )
    moved = tuple(
        Translation(f"f{k}", (tcp(3000 + k),), ANYWHERE, None, (), ip_address(f"10.1.0.{k % 200 + 1}"), 80)
        if k % 3
        else Translation(f"f{k}", (tcp(3000 + k),), ANYWHERE, None, (), None, None)
        for k in range(count)
    )
    return Ruleset(
        "many",
        (*FIRST_IN, *KNOWN_IN, *turned, *services, default(Verdict.REJECT)),
        (fixed("known", states=KNOWN), *answers, default(Verdict.DROP)),
        (fixed("known", states=KNOWN), *turned, *published, default(Verdict.DROP)),
        translations=moved,
    )


STRANGERS: tuple[Address, ...] = (
    IPv4Address("45.83.220.77"), IPv4Address("10.9.9.9"), IPv6Address("2a0e:b107::77"), IPv6Address("fd00::99"),
    IPv4Address("127.0.0.1"), IPv6Address("::1"), IPv6Address("fe80::7"),
)  # fmt: skip
FLAGS = (SYN, SYN, SYN, ACK, SYN | ACK, FIN | ACK, RST, 0, SYN | FIN)


def packets(ruleset: Ruleset, seed: int, count: int) -> Iterator[Packet]:
    """Packets at the corners of rules, most of them then spoilt in one place."""
    random = Random(seed)
    for _ in range(count):
        direction = random.choice(tuple(Direction))
        rule = random.choice(ruleset.rules(direction))
        packet = _for(rule, direction, random)
        if random.random() < 0.6:
            packet = _spoilt(packet, ruleset, random)
        yield packet


def _pick(ranges: Ranges, top: int, random: Random) -> int:
    """A number at a corner of a set, or just beside it."""
    pairs = list(ranges.pairs())
    if not pairs:
        return random.randrange(top)
    first, last = random.choice(pairs)
    return random.choice([first, last, max(0, first - 1), min(top - 1, last + 1), random.randint(first, last)])


def _address(addresses: Addresses, version: int, random: Random) -> Address:
    ranges = addresses.v4 if version == 4 else addresses.v6
    every = addresses.is_every(4 if version == 4 else 6)
    if every or not ranges:
        return random.choice([a for a in STRANGERS if a.version == version])
    number = _pick(ranges, 1 << (32 if version == 4 else 128), random)
    return IPv4Address(number) if version == 4 else IPv6Address(number)


def _for(rule: Rule, direction: Direction, random: Random) -> Packet:
    version = random.choice(rule.families() or (4, 6))
    asked = rule.flows or (rule.original.flows if rule.original else None)
    flow = (
        random.choice(asked) if asked else Flow(random.choice((TCP, UDP, SCTP, 47, ICMP if version == 4 else ICMPV6)))
    )
    if flow.protocol in (ICMP, ICMPV6):
        version = 4 if flow.protocol == ICMP else 6
    state = random.choice([s for s in State if s in rule.states])
    names = [name.replace("*", "7") for name in rule.interfaces] or ["eth0"]
    outs = [name.replace("*", "7") for name in rule.out_interfaces] or ["eth0"]
    packet = Packet(
        direction,
        flow.protocol,
        _address(rule.source, version, random),
        _address(rule.destination, version, random),
        port=_pick(flow.ports, 65536, random) if flow.ports != EVERY_PORT else random.randrange(65536),
        source_port=_pick(flow.source_ports, 65536, random) if flow.source_ports != EVERY_PORT else 40000,
        interface=random.choice(names),
        out_interface=random.choice(outs),
        state=state,
        reply=state is State.ESTABLISHED and random.random() < 0.5,
        hop_limit=rule.hop_limit or 64,
        user=rule.user,
        live_source=frozenset({rule.live_source} if rule.live_source else ()),
        live_destination=frozenset({rule.live_destination} if rule.live_destination else ()),
    )
    if rule.original is not None and state is State.NEW and direction is not Direction.OUTBOUND:
        before = rule.original.destination or ANYWHERE
        packet = replace(packet, original=(_address(before, version, random), packet.port), published=rule.published)
    return packet


def _spoilt(packet: Packet, ruleset: Ruleset, random: Random) -> Packet:
    """The packet with one property changed."""
    stranger = [a for a in STRANGERS if a.version == packet.source.version]
    icmp_turned = packet.original is not None and packet.protocol in (ICMP, ICMPV6)  # its type is never translated
    choices: list[dict[str, object]] = [
        {"source": random.choice(stranger)},
        {"destination": random.choice(stranger)},
        {"port": packet.port if icmp_turned else random.choice([22, 25, 53, 80, 443, 2222, 8080, 1])},
        {"source_port": random.choice([67, 22, 80, 1500])},
        {"protocol": packet.protocol if icmp_turned else random.choice([TCP, UDP, SCTP, 50])},
        {"interface": random.choice([LOOPBACK, "eth1", "wg0", "tunx", "lan0", "wan3"])},
        {"out_interface": random.choice([LOOPBACK, "eth1", "lan0", "wan3"])},
        {"flags": random.choice(FLAGS)},
        {"hop_limit": random.choice([1, 64, 255])},
        {"user": random.choice([None, "nobody", "root"])},
        {"over_limit": True},
        {"live_source": frozenset(ruleset.live)},
        {"live_destination": frozenset(ruleset.live)},
        {"at": END + random.choice([timedelta(0), timedelta(seconds=-1)])},
        {"local": False},
    ]
    if packet.original is None:
        choices += [{"state": state, "reply": False} for state in State]
        choices.append({"state": State.ESTABLISHED, "reply": True})
    else:
        choices += [{"published": not packet.published}, {"original": (random.choice(stranger), packet.original[1])}]
    return replace(packet, **random.choice(choices))  # type: ignore[arg-type]


_POOL = (
    ANYWHERE, ANYWHERE, OFFICE, LAN, ANYWHERE - OFFICE, ANYWHERE.only(4), ANYWHERE.only(6), Addresses.of("192.0.2.1"),
    Addresses.of("192.0.2.1-192.0.2.9", "2001:db8::/32"), Addresses.of("0.0.0.0/1", "8000::/1"), Addresses(),
)  # fmt: skip
_FLOWS: tuple[tuple[Flow, ...] | None, ...] = (
    None, (tcp(22),), (tcp(80, 443), udp((1, 65535))), (Flow(TCP),), (Flow(47), Flow(112)), (Flow(ICMP, icmp(8)),),
    (Flow(ICMP, icmp(8)), Flow(ICMPV6, icmp(128))), (Flow(ICMPV6, icmp(1, 2, 3, 4, 143)),), (Flow(ICMP), Flow(ICMPV6)),
    (Flow(ICMP, Ranges((3 * 256, 3 * 256 + 2))), Flow(ICMPV6, Ranges((256 + 3, 256 + 5)))),
    (ports(TCP, (1, 10), 50, source=Ranges((1024, 65536))), udp(53), ports(SCTP, 9)), (ports(TCP, 22).reversed(),),
    (Flow(TCP, source_ports=Ranges((20, 22))), Flow(UDP, Ranges((0, 1)))),
)  # fmt: skip


def random_ruleset(seed: int) -> Ruleset:
    """Rules with any few conditions at once, in any order: more than a policy can say."""
    random = Random(seed)
    directions = {d: tuple(_random_rule(d, k, random) for k in range(random.randrange(12))) for d in Direction}
    names = [rule.name for rule in directions[Direction.FORWARDED] if rule.kind is Kind.FORWARD]
    addresses = [None, ip_address("192.0.2.1"), ip_address("2001:db8::1")]
    inbound, outbound, forwarded = ((*directions[d], default(random.choice(list(Verdict)))) for d in Direction)
    return Ruleset(
        f"random {seed}",
        inbound,
        outbound,
        forwarded,
        translations=tuple(_random_translation(k, random) for k in range(random.randrange(6))),
        masquerades=tuple(Masquerade(name, random.choice(addresses)) for name in names if random.random() < 0.5),
        clamps=tuple(name for name in names if random.random() < 0.3),
        groups=(("office", OFFICE), ("1st", LAN)),
        live=("bans",),
        log_denied=random.random() < 0.3,
    )


def _random_rule(direction: Direction, number: int, random: Random) -> Rule:

    def sometimes(value: object, chance: float = 0.15) -> object:
        return random.random() < chance and value

    kind = random.choice([Kind.SERVICE, Kind.BLOCK, Kind.EGRESS, Kind.FORWARD, Kind.PUBLISHED])
    more: dict[str, object] = {
        "source": random.choice(_POOL),
        "destination": random.choice(_POOL),
        "log": bool(sometimes(True)),
        "until": sometimes(END) or None,
        "hop_limit": sometimes(255) or None,
        "original_direction": bool(sometimes(True)),
        "syn": bool(sometimes(True, 0.4)),
        "states": random.choice([*State, KNOWN, STARTING, STARTING, State(31), State(31)]),
        "live_source": sometimes("bans") or None,
        "live_destination": sometimes("bans") or None,
        "rate": sometimes(Rate(random.choice([1, 5, 60]), random.choice(["second", "minute", "hour", "day"]))) or None,
        "max_connections": sometimes(3) or None,
    }
    if direction is not Direction.OUTBOUND:
        more["interfaces"] = random.choice([(), (), ("eth0",), ("wan*", "b", "eth10"), (LOOPBACK, "zz", "eth0", "wg0")])
        if sometimes(True, 0.3):
            before = random.choice([None, None, OFFICE, Addresses.of("202.54.1.1")])
            more["original"] = Original(random.choice(_FLOWS), before)
    if direction is not Direction.INBOUND:
        more["out_interfaces"] = random.choice([(), (), ("eth0",), ("wan*", "b")])
    if direction is Direction.OUTBOUND:
        more["user"] = sometimes("nobody") or None
    if direction is Direction.FORWARDED and sometimes(True):
        more |= {"published": True, "states": State.NEW}
    flows, verdict = None if "original" in more else random.choice(_FLOWS), random.choice(list(Verdict))
    if verdict is not Verdict.ACCEPT:
        more |= {"rate": None, "max_connections": None}
    return Rule(f"r{number}", kind, verdict, flows, **more)  # type: ignore[arg-type]


def _random_translation(number: int, random: Random) -> Translation:
    target = random.choice([None, ip_address("10.0.0.5"), ip_address("fd00::5")])
    flows = random.choice([f for f in _FLOWS if f and all(x.protocol in (TCP, UDP, SCTP) for x in f)])
    return Translation(
        f"t{number}", flows, random.choice(_POOL), random.choice([None, OFFICE, ANYWHERE]),
        random.choice([(), ("eth0",)]), target, random.choice([None, 80]), random.choice([None, END]),
    )  # fmt: skip


def forwarding(*rules: Rule, **more: object) -> Ruleset:
    return one(fixed("known", states=State.ESTABLISHED), *rules, direction=Direction.FORWARDED, **more)  # type: ignore[arg-type]
