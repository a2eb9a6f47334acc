"""Single words of ipfw(8), in the form in which `ipfw list` of FreeBSD 15.1 prints them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from portctl.net import ANYWHERE, FAMILIES, Addresses, network_texts
from portctl.ruleset import EVERY_PORT, ICMP, ICMPV6, LOOPBACK, SCTP, TCP, UDP, Flow

PROTOCOLS = {ICMP: "icmp", TCP: "tcp", UDP: "udp", ICMPV6: "ipv6-icmp", SCTP: "sctp"}
"""Names of protocols that `ipfw list` prints whatever the services database says; the rest go by number."""
START = "tcpflags syn,!fin,!ack,!rst"
"""`setup` would admit SYN with FIN or RST."""
MOST_PORTS = 30
"""Ports or ranges at one end of a rule; the kernel refuses more."""
MOST_AT_BOTH = 15
"""Ports or ranges at each end where both name some."""
MOST_INTERFACES = 8
"""In one rule, each way: ipfw reads lines of 1,023 bytes (BUFSIZ, main.c), into rules of 255 words (ipfw2.c)."""
MOST_INLINE = 4
LONGEST_INLINE = 66
"""Networks, and bytes of them, that stand in a rule itself: as long as the longest name of a table in it. The kernel
has room for 127 tables, unless it is told otherwise."""
LONGEST_COMMENT = 80
"""Bytes; ipfw takes 83."""
IPV6_ENCAPSULATED = 41
AUTHENTICATION = 51
"""AH, which ipfw looks through in IPv6: there it is a header on the way to a protocol."""

_UNSAFE = re.compile(r"[#\x00-\x20\x7f-\x9f\u2028\u2029]+")


def comment(*texts: str | None) -> str:
    """` // …`, as `ipfw list` prints it again. A `#` would cut the line of the file."""
    whole = _UNSAFE.sub(" ", "; ".join(text for text in texts if text)).strip()
    cut = _as_read(whole).encode()[:LONGEST_COMMENT].decode(errors="ignore").strip(" ,")
    return f" // {cut}" if cut else ""


def named(comment: str) -> str:
    """The name in a comment of portctl's (`portctl:service:web; what people say of it`), else the whole comment."""
    parts = comment.partition(";")[0].split(":", 2)
    return parts[2] if len(parts) == 3 and parts[0] == "portctl" else comment


def _as_read(text: str) -> str:
    """What ipfw makes of a line before it cuts it into words: no blank behind a blank or a comma; but a comma behind
    one of these is a letter like others. At its end either is lost."""
    kept: list[str] = []
    behind = True
    for letter in text:
        if not behind or letter != " ":
            kept.append(letter)
            behind = not behind and letter in " ,"
    return "".join(kept)


def identifier(text: str) -> str:
    """A part of the name of a table: letters, digits, dash and underscore."""
    return re.sub(r"[^A-Za-z0-9_-]", "-", text)


def protocol(number: int) -> str:
    return PROTOCOLS.get(number, str(number))


def ports(pairs: Iterable[tuple[int, int]]) -> str:
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in pairs)


def port_lists(flow: Flow) -> list[tuple[str, str]]:
    """(source ports, destination ports) of one flow, in as many rules as their number asks for; "" is every port."""
    most = MOST_PORTS if EVERY_PORT in (flow.source_ports, flow.ports) else MOST_AT_BOTH
    sides = [
        [""] if ranges == EVERY_PORT else [ports(part) for part in _parts(list(ranges.pairs()), most)]
        for ranges in (flow.source_ports, flow.ports)
    ]
    return [(source, target) for source in sides[0] for target in sides[1]]


def _parts(pairs: Sequence[tuple[int, int]], most: int) -> list[Sequence[tuple[int, int]]]:
    return [pairs[k : k + most] for k in range(0, len(pairs), most)]


def types(flow: Flow) -> str:
    """The option for the ICMP types of a flow; "" for every type. Types are whole here: see `gaps`."""
    if flow.ports == EVERY_PORT:
        return ""
    numbers = [number for first, last in flow.ports.pairs() for number in range(first >> 8, (last >> 8) + 1)]
    return f"{'icmptypes' if flow.protocol == ICMP else 'icmp6types'} {','.join(map(str, numbers))}"


def interfaces(word: str, names: tuple[str, ...]) -> str:
    """`recv em0`, `{ recv em0 or recv em1 }`."""
    parts = [f"{word} {'lo0' if name == LOOPBACK else name}" for name in names]
    if not parts:
        return ""
    return parts[0] if len(parts) == 1 else "{ " + " or ".join(parts) + " }"


def few(names: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Interfaces in as many rules as their number asks for; () is every interface."""
    yield from (names[k : k + MOST_INTERFACES] for k in range(0, max(1, len(names)), MOST_INTERFACES))


def inline(addresses: Addresses) -> str | None:
    """A set of addresses that needs no table: `any`, or a few networks of one family. `::/0` would mean `me6`, and
    0.0.0.0/0 every address of both."""
    if addresses == ANYWHERE:
        return "any"
    found = [t for family in FAMILIES for t in islice(network_texts(addresses.family(family), family), MOST_INLINE + 1)]
    text = ",".join(found)
    mixed = bool(addresses.v4) and bool(addresses.v6)
    if not found or mixed or len(found) > MOST_INLINE or len(text) > LONGEST_INLINE:
        return None
    return None if any(each.endswith("/0") for each in found) else text


def networks(addresses: Addresses) -> list[str]:
    """The entries of a table."""
    return [text for family in FAMILIES for text in network_texts(addresses.family(family), family)]
