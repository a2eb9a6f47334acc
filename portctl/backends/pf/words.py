"""Single words of pf.conf: addresses, tables, ports, protocols, labels."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import islice

from portctl.net import ANYWHERE, FAMILIES, Addresses, Family, Ranges, network_texts
from portctl.ruleset import EVERY_PORT, ICMP, ICMPV6, SCTP, TCP, UDP, Flow

PROTOCOLS = {ICMP: "icmp", TCP: "tcp", UDP: "udp", 47: "gre", 50: "esp", 51: "ah", ICMPV6: "icmp6", SCTP: "sctp"}
LONGEST_NAME = 31
"""Bytes of a table's name (PF_TABLE_NAME_SIZE less its zero) and of a tag's we keep to it too."""
LONGEST_LABEL = 63
INLINE_FILE = 500
"""Tables with more networks than this lie in a file of their own."""


def shortened(name: str, most: int = LONGEST_NAME) -> str:
    """A name that fits, distinct for distinct names: what is cut off is replaced by a digest."""
    name = re.sub(r"[^A-Za-z0-9_:.-]", "-", name)
    if len(name) <= most:
        return name
    return name[: most - 7] + "_" + sha256(name.encode()).hexdigest()[:6]


def label(kind: str, name: str) -> str:
    """A rule's label. The `$` that pf would expand, quotes and backslashes cannot be in a name."""
    return f'label "{shortened(f"portctl:{kind}:{name}", LONGEST_LABEL)}"'


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
            if (low, high) == (number * 256, number * 256 + 255):
                whole.append(str(number))
            else:
                for code in range(low % 256, high % 256 + 1):
                    yield f" {word} {number} code {code}"
    if whole:
        yield f" {word} " + (whole[0] if len(whole) == 1 else "{ " + " ".join(whole) + " }")


@dataclass(slots=True)
class Tables:
    """The tables of one file, by their contents; each named after the policy's group, or after the first entry."""

    groups: dict[Addresses, str]
    used: dict[Addresses, str] = field(default_factory=dict)

    def text(self, addresses: Addresses, hint: str) -> dict[Family, str]:
        """How rules name the set, in each family of which it holds an address."""
        if addresses == ANYWHERE:
            return {4: "any", 6: "any"}
        texts: dict[Family, str] = {family: "any" for family in FAMILIES if addresses.is_every(family)}
        rest = Addresses(
            Ranges() if 4 in texts else addresses.v4,
            Ranges() if 6 in texts else addresses.v6,
        )
        found = [(f, list(islice(network_texts(rest.family(f), f), 2))) for f in rest.families()]
        if sum(len(texts_) for _, texts_ in found) == 1:
            texts[found[0][0]] = found[0][1][0]
        elif found:
            name = self.used.get(rest) or self._name(rest, addresses, hint)
            self.used[rest] = name
            texts.update({family: f"<{name}>" for family, _ in found})
        return texts

    def _name(self, rest: Addresses, whole: Addresses, hint: str) -> str:
        group = self.groups.get(whole) or self.groups.get(rest)
        name = shortened(f"portctl_{group}" if group else f"portctl_{hint}")
        taken = set(self.used.values())
        if name in taken:
            name = shortened(f"{name}_{sha256(repr(rest.v4.bounds + rest.v6.bounds).encode()).hexdigest()[:6]}")
        return name


def networks(addresses: Addresses) -> list[str]:
    return [text for family in FAMILIES for text in network_texts(addresses.family(family), family)]
