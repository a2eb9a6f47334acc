"""Rule sets such as other people write, made by chance: the same ones for the same seed.

Not one construct is portctl's way of saying things: jumps, gotos and returns, negations, lists of ports, address
ranges, sets, marks, several tables and base chains with priorities, verdict maps, DNAT. What they leave out is what
depends on anything beyond one packet: limits and known connections.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import ip_address
from random import Random

from portctl.net import ANYWHERE, Addresses, Family, Ranges
from portctl.ruleset import TCP, Flow, Translation

INTERFACES = ("eth0", "wan0", "wan1", "lan0")
NETS: dict[Family, tuple[str, ...]] = {
    4: ("10.0.0.0/8", "10.7.0.0/16", "10.7.7.7", "198.51.100.0/24", "198.51.100.128/25", "203.0.113.9"),
    6: ("2001:db8:1::/48", "2001:db8:1:7::/64", "2001:db8:1:7::7", "2001:db8:2::/48", "2001:db8:2:8000::/49"),
}
POOL = Addresses.of("10.0.0.0/8", "198.51.100.0/24", "203.0.113.0/24", "2001:db8:1::/48", "2001:db8:2::/48")
"""Where packets come from and go to."""
PORTS = (22, 25, 53, 80, 443, 8080)
TARGET = ip_address("10.7.7.7")


@dataclass(frozen=True, slots=True)
class Foreign:
    """Texts for `iptables-restore`, `ip6tables-restore` and `ipset restore`, or for `nft -f`; what their DNAT does."""

    v4: str = ""
    v6: str = ""
    sets: str = ""
    nft: str = ""
    translations: tuple[Translation, ...] = field(default=())


def iptables(random: Random) -> Foreign:
    sets = []
    for family, suffix, kind in ((4, "4", "inet"), (6, "6", "inet6")):
        sets.append(f"create nets{suffix} hash:net family {kind}")
        members = random.sample(NETS[4 if family == 4 else 6], 2)
        sets += [f"add nets{suffix} {member}" for member in members]
        sets.append(f"create pairs{suffix} hash:ip,port family {kind}")
        lone = {4: "10.7.7.7", 6: "2001:db8:1:7::7"}[family]
        sets += [f"add pairs{suffix} {lone},tcp:{port}" for port in random.sample(PORTS, 2)]
    turned = random.choice(PORTS) if random.random() < 0.4 else None
    texts = {family: _tables(random, family, turned if family == 4 else None) for family in (4, 6)}
    found: tuple[Translation, ...] = ()
    if turned:
        flow = (Flow(TCP, Ranges.single(turned)),)
        found = (Translation("t", flow, ANYWHERE, ANYWHERE, ("wan0",), TARGET, 8080),)
    return Foreign(texts[4], texts[6], "\n".join(sets) + "\n", "", found)


def _tables(random: Random, family: int, turned: int | None) -> str:
    of: Family = 4 if family == 4 else 6
    lines = ["*mangle", *(f":{c} ACCEPT" for c in ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"))]
    for _ in range(random.randint(0, 2)):
        lines.append(f"-A PREROUTING {_matches(random, of)} -j MARK --set-xmark 0x{random.choice((1, 2)):x}/0xff")
    if random.random() < 0.3:
        lines.append(f"-A FORWARD {_matches(random, of)} -j DROP")
    lines += ["COMMIT", "*raw", ":PREROUTING ACCEPT", ":OUTPUT ACCEPT"]
    if random.random() < 0.3:
        lines.append(f"-A PREROUTING {_protocol(random, of)} -j DROP")
    if random.random() < 0.4 and not turned:
        lines += [f"-A {c} {_protocol(random, of)} -j CT --notrack" for c in ("PREROUTING", "OUTPUT")]
    lines.append("COMMIT")
    if turned:
        to = f"-j DNAT --to-destination {TARGET}:8080"
        lines += ["*nat", ":PREROUTING ACCEPT", f"-A PREROUTING -i wan0 -p tcp -m tcp --dport {turned} {to}", "COMMIT"]
    policies = [random.choice(("ACCEPT", "DROP")) for _ in range(3)]
    lines += ["*filter", *(f":{c} {p}" for c, p in zip(("INPUT", "FORWARD", "OUTPUT"), policies, strict=True))]
    chains = [f"user-{n}" for n in range(random.randint(1, 4))]
    lines += [f":{chain} -" for chain in chains]
    for chain in ("INPUT", "FORWARD", "OUTPUT"):
        rules = [_rule(random, of, chains) for _ in range(random.randint(3, 7))]
        lines += [f"-A {chain} {rule.replace('-i ', '-o ') if chain == 'OUTPUT' else rule}" for rule in rules]
    for number, chain in enumerate(chains):
        lines += [f"-A {chain} {_rule(random, of, chains[number + 1 :])}" for _ in range(random.randint(1, 5))]
    return "\n".join([*lines, "COMMIT", ""])


def _rule(random: Random, family: Family, chains: list[str]) -> str:
    matches = _matches(random, family)
    targets = ["ACCEPT", "ACCEPT", "DROP", "REJECT", "RETURN", *(2 * chains)]
    target = random.choice(targets)
    verb = "-g" if target in chains and random.random() < 0.25 else "-j"
    if target == "REJECT" and matches.startswith("-p tcp"):
        target = "REJECT --reject-with tcp-reset"
    return f"{matches} {verb} {target}"


def _not(random: Random) -> str:
    return "! " if random.random() < 0.25 else ""


def _matches(random: Random, family: Family) -> str:
    found = [_protocol(random, family)] if random.random() < 0.7 else []
    suffix = str(family)
    low, high = {4: ("10.7.0.0", "10.7.7.9"), 6: ("2001:db8:1:7::", "2001:db8:1:7::9")}[family]
    others: list[Callable[[], str]] = [
        lambda: f"{_not(random)}-s {random.choice(NETS[family])}",
        lambda: f"{_not(random)}-d {random.choice(NETS[family])}",
        lambda: f"{_not(random)}-i {random.choice(('eth0', 'wan+', 'lan0'))}",
        lambda: f"-m iprange {_not(random)}--src-range {low}-{high}",
        lambda: f"-m set {_not(random)}--match-set nets{suffix} {random.choice(('src', 'dst'))}",
        lambda: f"-m set --match-set pairs{suffix} dst,dst",
        lambda: "-m state --state NEW",
        lambda: f"-m conntrack {_not(random)}--ctstate {random.choice(('INVALID,ESTABLISHED', 'UNTRACKED'))}",
        lambda: f"-m mark {_not(random)}--mark 0x1/0xff",
        lambda: f"-m addrtype {_not(random)}--dst-type LOCAL",
    ]
    found += [make() for make in random.sample(others, random.choice((0, 1, 1, 2)))]
    return " ".join(found)


def _protocol(random: Random, family: Family) -> str:
    icmp, echo = ("icmp", "-m icmp --icmp-type 8") if family == 4 else ("ipv6-icmp", "-m icmp6 --icmpv6-type 128")
    protocol = random.choice(("tcp", "tcp", "udp", icmp))
    if protocol == icmp:
        return random.choice((f"-p {icmp}", f"-p {icmp} {echo}", f"! -p {icmp}"))
    ports = sorted(random.sample(PORTS, 3))
    return f"-p {protocol} " + random.choice(
        (
            f"-m {protocol} {_not(random)}--dport {random.choice(PORTS)}",
            f"-m {protocol} --dport {ports[0]}:{ports[1]}",
            f"-m {protocol} --sport 1024:65535",
            f"-m multiport {_not(random)}--dports {ports[0]},{ports[1]}:{ports[2]}",
            f"-m multiport --ports {ports[0]},{ports[2]}",
            "-m tcp --tcp-flags FIN,SYN,RST,ACK SYN" if protocol == "tcp" else "",
        )
    )


def nftables(random: Random) -> Foreign:
    """One or two tables, each with base chains at hooks of any priority, verdict maps, and concatenations."""
    tables = []
    for number in range(random.randint(1, 2)):
        chains = [f"user{n}" for n in range(random.randint(1, 3))]
        lines = [f"table inet other{number} {{"]
        lines.append(f"set nets {{ type ipv4_addr; flags interval; elements = {{ {', '.join(_apart(random))} }}; }}")
        for at, chain in reversed(list(enumerate(chains))):
            rules = [_nft_rule(random, chains[at + 1 :]) for _ in range(random.randint(1, 4))]
            lines.append(f"chain {chain} {{ {'; '.join(rules)}; }}")
        for hook in random.sample(("prerouting", "input", "input", "forward", "output"), 3):
            name = f"base{len(lines)}"
            policy = "drop" if hook != "prerouting" and random.random() < 0.3 else "accept"
            head = f"type filter hook {hook} priority {random.choice((-20, -5, 0, 7, 30))}; policy {policy}"
            reached = chains if hook != "prerouting" else []
            rules = [_nft_rule(random, reached, hook != "prerouting") for _ in range(random.randint(2, 5))]
            lines.append(f"chain {name} {{ {head}; {'; '.join(rules)}; }}")
        tables.append("\n".join([*lines, "}", ""]))
    return Foreign(nft="".join(tables))


def _apart(random: Random) -> list[str]:
    return random.choice((["10.7.0.0/16", "203.0.113.9"], ["198.51.100.0/24", "10.7.7.7"], ["10.0.0.0/8"]))


def _nft_rule(random: Random, chains: list[str], answers: bool = True) -> str:
    ends = ["accept", "accept", "drop", "return", *(f"jump {c}" for c in chains), *(f"goto {c}" for c in chains[:1])]
    ends += ["reject"] if answers and not chains else []
    some = [end for end in ends if end != "reject"]
    ports = sorted(random.sample(PORTS, 3))
    maps = (
        f"tcp dport vmap {{ {ports[0]} : {random.choice(some)}, {ports[1]}-{ports[2]} : {random.choice(some)} }}",
        f"ip saddr vmap {{ 10.0.0.0/8 : {random.choice(some)}, 203.0.113.9 : {random.choice(some)} }}",
        f"meta l4proto vmap {{ tcp : {random.choice(some)}, udp : {random.choice(some)} }}",
        f'iifname . tcp dport vmap {{ "wan0" . {ports[0]} : {random.choice(some)}, "lan0" . 22 : drop }}',
    )
    if random.random() < 0.3:
        return random.choice(maps)
    return f"{_nft_matches(random)} {random.choice(ends)}"


def _nft_matches(random: Random) -> str:
    no = "!= " if random.random() < 0.25 else ""
    ports = sorted(random.sample(PORTS, 3))
    asked = (
        f"ip saddr {no}{{ 10.7.0.0/16, 203.0.113.9 }}",
        f"ip6 saddr {no}{random.choice(NETS[6])}",
        f"ip daddr {no}{random.choice(NETS[4])}",
        f"ip saddr {no}@nets",
        f"tcp dport {no}{{ {ports[0]}, {ports[1]}-{ports[2]} }}",
        f"udp dport {random.choice(('', '< ', '>= '))}{ports[1]}",
        f'iifname {no}"{random.choice(("eth0", "wan*", "lan0"))}"',
        f"meta l4proto {{ tcp, udp }} th dport {ports[0]}",
        f"ip saddr . tcp dport {{ 10.7.7.7 . {ports[0]}, 203.0.113.9 . {ports[1]} }}",
        "ct state new",
        "tcp flags & (fin | syn | rst | ack) == syn",
        f"meta nfproto {random.choice(('ipv4', 'ipv6'))}",
        "icmp type echo-request",
    )
    beside = random.choice(("", "", "ct state new ", 'iifname "wan*" ', 'iifname != "lan0" '))
    return beside + random.choice(asked)
