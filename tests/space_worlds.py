"""Small worlds for the packet-space engine: random rulesets, programs and packets over few values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from ipaddress import ip_address
from random import Random

from portctl.net import ANYWHERE, Address, Addresses, Ranges
from portctl.program import (
    Accept,
    Action,
    Chain,
    Condition,
    Deny,
    Field,
    Hook,
    Jump,
    Line,
    Lookup,
    Note,
    Program,
    Return,
    SetMark,
    Translate,
    Unknown,
)
from portctl.ruleset import (
    ICMP,
    ICMPV6,
    LOOPBACK,
    SCTP,
    TCP,
    UDP,
    Direction,
    Flow,
    Flows,
    Kind,
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

V4 = [ip_address(a) for a in ("0.0.0.0", "10.0.0.1", "10.0.0.2", "10.255.255.255", "192.0.2.7", "255.255.255.255")]
V6 = [ip_address(a) for a in ("::", "2001:db8::1", "fe80::5", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff")]
V4_SETS = ["10.0.0.0/8", "10.0.0.2-10.0.0.9", "192.0.2.7", "0.0.0.0/0", "0.0.0.0/1", "128.0.0.0-255.255.255.255"]
V6_SETS = ["2001:db8::/32", "fe80::/10", "::/0", "::1"]
PORTS = [0, 21, 22, 23, 80, 8 * 256, 8 * 256 + 1, 128 * 256, 65535]
PROTOCOLS = [TCP, UDP, SCTP, ICMP, ICMPV6, 47, 2]
INTERFACES = ["eth0", "eth1", "eth", "wan3", LOOPBACK]
PATTERNS = ["eth0", "eth*", "wan*", LOOPBACK, "*", "lo", "l*"]
STATES = [State.NEW, State.ESTABLISHED, State.RELATED, State.INVALID, State.UNTRACKED]
FLAGS = [0x02, 0x12, 0x10, 0x03, 0x00]
MOMENTS = [datetime(2026, 1, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC)]
USERS = ["_apt", "root"]
LIVE = ["bans", "feed"]


def addresses(random: Random) -> Addresses:
    if random.random() < 0.3:
        return ANYWHERE
    names = random.sample(V4_SETS, random.randint(0, 2)) + random.sample(V6_SETS, random.randint(0, 2))
    return Addresses.of(*names)


def ports(random: Random) -> Ranges:
    pairs = []
    for _ in range(random.randint(1, 2)):
        first = random.choice(PORTS)
        pairs.append((first, random.choice([first, *(p for p in PORTS if p > first)])))
    return Ranges.of(pairs)


def flow(random: Random) -> Flow:
    protocol = random.choice(PROTOCOLS)
    if protocol in (ICMP, ICMPV6):
        return Flow(protocol, random.choice([icmp(8), icmp(128, 0), Ranges((0, 65536))]))
    if protocol in (TCP, UDP, SCTP):
        source = ports(random) if random.random() < 0.2 else Ranges((0, 65536))
        return Flow(protocol, ports(random), source)
    return Flow(protocol)


def flows(random: Random) -> Flows:
    if random.random() < 0.25:
        return None
    return tuple({f.protocol: f for f in (flow(random) for _ in range(random.randint(1, 2)))}.values())


def some_states(random: Random) -> State:
    found = random.choice(STATES)
    for state in STATES:
        if random.random() < 0.4:
            found |= state
    return found


def rule(random: Random) -> Rule:
    """A rule with a few conditions out of all that there are."""
    made = Rule("r", Kind.SERVICE, random.choice(list(Verdict)), flows=flows(random))
    changes: dict[str, object] = {}
    choices: dict[str, Callable[[], object]] = {
        "source": lambda: addresses(random),
        "destination": lambda: addresses(random),
        "live_source": lambda: random.choice(LIVE),
        "live_destination": lambda: random.choice(LIVE),
        "interfaces": lambda: tuple(random.sample(PATTERNS, random.randint(1, 2))),
        "out_interfaces": lambda: tuple(random.sample(PATTERNS, random.randint(1, 2))),
        "states": lambda: some_states(random),
        "syn": lambda: True,
        "original_direction": lambda: True,
        "hop_limit": lambda: 255,
        "user": lambda: random.choice(USERS),
        "original": lambda: Original(flows(random), random.choice([None, addresses(random)])),
        "published": lambda: True,
        "rate": lambda: Rate(3, "minute"),
        "until": lambda: random.choice(MOMENTS),
    }
    for name in random.sample(sorted(choices), random.randint(0, 4)):
        changes[name] = choices[name]()
    return replace(made, **changes)  # type: ignore[arg-type]


LAST = Rule("default", Kind.DEFAULT, Verdict.DROP)


def translation(random: Random) -> Translation:
    target = random.choice([None, ip_address("10.0.0.2"), ip_address("2001:db8::1")])
    return Translation(
        "t",
        flows(random),
        addresses(random),
        random.choice([None, addresses(random)]),
        tuple(random.sample(PATTERNS, random.randint(0, 1))),
        target,
        random.choice([None, 80, 22]),
        random.choice([None, None, MOMENTS[0]]),
    )


def ruleset(random: Random) -> Ruleset:
    def rules() -> tuple[Rule, ...]:
        last = replace(LAST, verdict=random.choice(list(Verdict)))
        return (*(rule(random) for _ in range(random.randint(0, 6))), last)

    made = tuple(translation(random) for _ in range(random.choice([0, 0, 1, 2])))
    return Ruleset("r", rules(), rules(), rules(), made)


def packet(random: Random) -> Packet:
    """Any packet, possible or not."""
    pool: list[Address] = random.choice([V4, V6])
    made = Packet(
        direction=random.choice(list(Direction)),
        protocol=random.choice(PROTOCOLS),
        source=random.choice(pool),
        destination=random.choice(pool),
        port=random.choice(PORTS),
        source_port=random.choice(PORTS),
        interface=random.choice(INTERFACES),
        out_interface=random.choice(INTERFACES),
        state=random.choice([State.NEW, *STATES]),
        reply=random.random() < 0.3,
        flags=random.choice(FLAGS),
        hop_limit=random.choice([1, 64, 255]),
        user=random.choice([None, *USERS]),
        local=random.random() < 0.7,
        over_limit=random.random() < 0.3,
        live_source=frozenset(random.sample(LIVE, random.randint(0, 2))),
        live_destination=frozenset(random.sample(LIVE, random.randint(0, 2))),
        at=random.choice([None, *MOMENTS]),
        original=(random.choice(pool), random.choice(PORTS)) if random.random() < 0.3 else None,
        published=random.random() < 0.3,
    )
    if made.original and made.protocol in (ICMP, ICMPV6):
        return replace(made, original=(made.original[0], made.port))  # no translation changes it
    return made


def condition(random: Random, unknown: bool, depth: int = 0) -> Condition:  # noqa: C901 - one case a field
    kinds = [k for k in Field if (unknown or k is not Field.UNKNOWN) and (depth == 0 or k is not Field.CONCATENATION)]
    kind = random.choice(kinds)
    negated = random.random() < 0.3
    four = random.random() < 0.7
    family = 4 if four else 6
    of_family = addresses(random).family(4 if four else 6)
    match kind:
        case Field.FAMILY:
            return Condition(kind, Ranges.single(random.choice([4, 6])), negated)
        case Field.PROTOCOL:
            return Condition(kind, Ranges.of((p, p) for p in random.sample(PROTOCOLS, 2)), negated)
        case Field.SOURCE | Field.DESTINATION | Field.ORIGINAL_SOURCE | Field.ORIGINAL_DESTINATION:
            return Condition(kind, of_family, negated, 4 if family == 4 else 6)
        case Field.SOURCE_PORT | Field.PORT | Field.ICMP | Field.ORIGINAL_PORT:
            return Condition(kind, ports(random), negated)
        case Field.IN | Field.OUT:
            return Condition(kind, tuple(random.sample(PATTERNS, random.randint(1, 2))), negated)
        case Field.STATE:
            return Condition(kind, some_states(random), negated)
        case Field.REPLY | Field.TRANSLATED | Field.LOCAL | Field.SENT:
            return Condition(kind, random.random() < 0.5, negated)
        case Field.FLAGS:
            return Condition(kind, random.choice([(0x17, 0x02), (0x02, 0x02), (0x3F, 0), (0x10, 0x10)]), negated)
        case Field.HOP_LIMIT:
            return Condition(kind, Ranges.of([(random.choice([1, 64, 255]), 255)]), negated)
        case Field.MARK:
            return Condition(kind, random.choice([(1, 1), (1, 0), (3, 2), (0xFF, 0)]), negated)
        case Field.USER:
            return Condition(kind, random.choice(USERS), negated)
        case Field.UNTIL:
            return Condition(kind, random.choice(MOMENTS))
        case Field.LIVE | Field.LIVE_DESTINATION:
            return Condition(kind, random.choice(LIVE), negated)
        case Field.CONCATENATION:
            entries = tuple(tuple(condition(random, False, 1) for _ in range(2)) for _ in range(random.randint(0, 3)))
            return Condition(kind, entries, negated)
    return Condition(kind, "some text", negated)


def conditions(random: Random, unknown: bool, most: int = 3) -> tuple[Condition, ...]:
    return tuple(condition(random, unknown) for _ in range(random.choice([0, 1, 1, 2, 2, most])))


def action(random: Random, chains: list[str], translate: bool, unknown: bool, depth: int = 0) -> Action:
    kinds = ["accept", "deny", "return", "note", "mark", "mark"]
    kinds += ["jump", "jump", "jump"] if chains else []
    kinds += ["translate"] if translate else []
    kinds += ["lookup"] if depth == 0 else []
    kinds += ["unknown"] if unknown and random.random() < 0.3 else []
    match random.choice(kinds):
        case "accept":
            return Accept()
        case "deny":
            return Deny(random.random() < 0.5)
        case "return":
            return Return()
        case "note":
            return Note("log")
        case "mark":
            return SetMark(*random.choice([(1, 1), (3, 2), (1, 0)]))
        case "jump":
            return Jump(random.choice(chains), random.random() < 0.2)
        case "translate":
            kind = random.choice(["destination", "destination", "redirect", "source", "masquerade"])
            address = random.choice([None, ip_address("10.0.0.2"), ip_address("192.0.2.7")])
            return Translate(kind, address, random.choice([None, 80, 22]))  # type: ignore[arg-type]
        case "lookup":
            entries = tuple(
                (conditions(random, False, 1), action(random, chains, translate, unknown, 1))
                for _ in range(random.randint(1, 3))
            )
            return Lookup(entries)
    return Unknown("who knows")


def line(random: Random, chains: list[str], translate: bool, unknown: bool) -> Line:
    count = random.choice([1, 1, 1, 2])
    actions = tuple(action(random, chains, translate, unknown) for _ in range(count))
    return Line(conditions(random, unknown), actions)


def program(random: Random, unknown: bool = False) -> Program:
    """A few tables with base chains at several hooks, and chains that only jump to later ones."""
    made: list[Chain] = []
    for number in range(random.randint(1, 3)):
        family = random.choice([None, None, 4, 6])
        kind = random.choice(["filter", "filter", "nat"])
        names = [f"c{k}" for k in range(random.randint(0, 3))]
        table = f"t{number}"

        def lines(later: list[str], translate: bool) -> tuple[Line, ...]:
            return tuple(line(random, later, translate, unknown) for _ in range(random.randint(0, 4)))

        for k, name in enumerate(names):
            made.append(Chain(table, name, lines(names[k + 1 :], kind == "nat"), None, family))  # type: ignore[arg-type]
        for hook in random.sample(["prerouting", "input", "forward", "output", "postrouting"], 2):
            policy = Deny() if kind == "filter" and random.random() < 0.3 else Accept()
            place = Hook(hook, random.choice([-10, 0, 5]), policy, kind)  # type: ignore[arg-type]
            translate = kind == "nat"
            made.append(Chain(table, f"base-{hook}", lines(names, translate), place, family))  # type: ignore[arg-type]
    return Program(tuple(made))


OWN = (ip_address("192.0.2.7"),)
