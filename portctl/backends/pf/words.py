"""Single words of pf.conf: addresses, tables, ports, protocols, names, labels."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import islice

from portctl.net import ANYWHERE, FAMILIES, Addresses, Family, Ranges, network_texts
from portctl.ruleset import EVERY_PORT, ICMP, ICMPV6, SCTP, TCP, UDP, Flow

PROTOCOLS = {ICMP: "icmp", TCP: "tcp", UDP: "udp", 47: "gre", 50: "esp", ICMPV6: "icmp6", SCTP: "sctp"}
LONGEST_NAME = 31
"""Bytes of a table's name: PF_TABLE_NAME_SIZE less its zero. Tags are kept to it too."""
LONGEST_LABEL = 63
"""Bytes of a label: PF_RULE_LABEL_SIZE less its zero."""
INLINE = 10_000
"""Tables with more networks than this lie in a file of their own, which pfctl looks for from where it runs."""
CAST_TABLE = "portctl_cast"
CAST = Addresses.of("0.0.0.0", "224.0.0.0/4", "255.255.255.255", "::", "ff00::/8")
"""Multicast, and what IP takes for a broadcast to everybody: never an address of the host, always for it."""
FAMILY: dict[Family | None, str] = {None: "", 4: " inet", 6: " inet6"}
CLONED = (
    *("bridge", "carp", "epair", "gif", "gre", "ipsec", "lagg", "ovpn", "pflow", "ppp", "pppoe", "tap", "trunk"),
    *("tun", "utun", "vether", "vlan", "vport", "vxlan", "wg", "wlan"),
)
"""Interface families whose members all bear an interface group of that name (ifconfig(8): cloned interfaces)."""


def shortened(name: str, most: int = LONGEST_NAME) -> str:
    """A name that fits, distinct for distinct names: what is cut off is replaced by a digest."""
    name = re.sub(r"[^A-Za-z0-9_:.-]", "-", name)
    if len(name) <= most:
        return name
    return name[: most - 7] + "_" + sha256(name.encode()).hexdigest()[:6]


def label(kind: str, name: str) -> str:
    """A rule's label. What pf would expand, and what would end the string, cannot be in it."""
    return f' label "{shortened(f"portctl:{kind}:{name}", LONGEST_LABEL)}"'


def tag(kind: str, name: str = "") -> str:
    """A tag's name."""
    return shortened(f"portctl_{kind}_{name}" if name else f"portctl_{kind}")


def live_table(group: str) -> str:
    """The table that holds the members of a live group."""
    return shortened(f"portctl-live-{group}")


def devices(patterns: tuple[str, ...]) -> str:
    """` on …`, or nothing for every interface. A family of cloned interfaces is the group of its name."""
    names = sorted({name.removesuffix("*") for name in patterns})
    if not names:
        return ""
    return " on " + (names[0] if len(names) == 1 else "{ " + " ".join(names) + " }")


def ports(ranges: Ranges) -> str:
    """` port …`, or nothing for every port."""
    if ranges == EVERY_PORT:
        return ""
    texts = [str(a) if a == b else f"{a}:{b}" for a, b in ranges.pairs()]
    return " port " + (texts[0] if len(texts) == 1 else "{ " + " ".join(texts) + " }")


def icmp_types(flow: Flow) -> Iterator[str]:
    """The `icmp-type …` options that together are the flow; one empty text for every type."""
    if flow.ports == EVERY_PORT:
        yield ""
        return
    word = "icmp-type" if flow.protocol == ICMP else "icmp6-type"
    whole: list[str] = []
    for first, last in flow.ports.pairs():
        for number in range(first // 256, last // 256 + 1):
            low, high = max(first, number * 256), min(last, number * 256 + 255)
            if high - low == 255:
                whole.append(str(number))
            else:
                yield from (f" {word} {number} code {code % 256}" for code in range(low, high + 1))
    if whole:
        yield f" {word} " + (whole[0] if len(whole) == 1 else "{ " + " ".join(whole) + " }")


def networks(addresses: Addresses) -> list[str]:
    return [text for family in FAMILIES for text in network_texts(addresses.family(family), family)]


@dataclass(slots=True)
class Tables:
    """The tables of one file, by their contents; each named after the policy's group, or after the first entry."""

    groups: dict[Addresses, str]
    used: dict[Addresses, str] = field(default_factory=dict)
    taken: set[str] = field(default_factory=lambda: {CAST_TABLE})
    known: dict[tuple[Addresses, bool], dict[Family, str]] = field(default_factory=dict)

    def text(self, addresses: Addresses, hint: str, always: bool = False) -> dict[Family, str]:
        """How rules name the set, in each family of which it holds an address. `always`: by a table even where one
        network would do."""
        if addresses == ANYWHERE:
            return {4: "any", 6: "any"}
        found = self.known.get((addresses, always))
        if found is None:
            found = self.known[addresses, always] = self._text(addresses, hint, always)
        return found

    def _text(self, addresses: Addresses, hint: str, always: bool) -> dict[Family, str]:
        texts: dict[Family, str] = {family: "any" for family in FAMILIES if addresses.is_every(family)}
        rest = Addresses(
            Ranges() if 4 in texts else addresses.v4,
            Ranges() if 6 in texts else addresses.v6,
        )
        found = [(f, list(islice(network_texts(rest.family(f), f), 2))) for f in rest.families()]
        if sum(len(some) for _, some in found) == 1 and not always:
            texts[found[0][0]] = found[0][1][0]
        elif found:
            name = self.used.get(rest) or self._name(rest, addresses, hint)
            self.used[rest] = name
            self.taken.add(name)
            texts.update({family: f"<{name}>" for family, _ in found})
        return texts

    def _name(self, rest: Addresses, whole: Addresses, hint: str) -> str:
        group = self.groups.get(whole) or self.groups.get(rest)
        name = shortened(f"portctl_{group}" if group else f"portctl_{hint}")
        if name in self.taken:
            name = shortened(f"{name}_{sha256(repr(rest.v4.bounds + rest.v6.bounds).encode()).hexdigest()[:6]}")
        return name
