"""Sets of packets in words: `tcp 22 from everywhere except 10.0.0.0/8`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial

from portctl import services
from portctl.net import ANYWHERE, FAMILIES, LOOPBACK_ADDRESSES, NOWHERE, Addresses, Ranges, describe, network_texts
from portctl.ruleset import ICMP, ICMPV6, PROTOCOLS_WITH_PORTS, SYN, State
from portctl.space.boxes import Box, one_family
from portctl.space.dimensions import (
    FAMILY,
    FLAGS,
    HOP_LIMIT,
    IN,
    LIVE_DESTINATION,
    LIVE_SOURCE,
    LO,
    LOCAL,
    ORIGINAL_PORT,
    OUT,
    OVER,
    PORT,
    PROTOCOL,
    PUBLISHED,
    REPLY,
    SOURCE_PORT,
    STATE,
    STATES,
    TIME,
    USER,
    Dimension,
    moment_text,
    number_name,
    pattern,
    size,
    whole,
)
from portctl.space.internet import is_internet
from portctl.space.packets import protocol_name

Groups = tuple[tuple[str, Addresses], ...]
"""Named groups of addresses."""

NOT_LOOPBACK = Ranges((0, LO, LO + 1, size(IN, 4)))
"""Interfaces: what passes the loopback interface is everywhere accepted, and not worth a word."""
FEW = 4
"""So many exceptions are still read as exceptions."""


_EVERY_SOURCE_PORT = Ranges((1, 65536))


def tidy(box: Box) -> Box:
    """The box with what never exists and is not worth a word: loopback addresses among many others, which never come
    from elsewhere, the other family's ICMP among all protocols, and that no connection comes from port 0."""
    asked = tuple((d, ranges) for d, ranges in box.asked if d != SOURCE_PORT or ranges != _EVERY_SOURCE_PORT)
    if (family := one_family(box)) and (protocols := box.values(PROTOCOL)) is not None and box.values(PORT) is None:
        missing = whole(PROTOCOL, family) - protocols
        if missing == Ranges.single(ICMPV6 if family == 4 else ICMP):
            asked = tuple((dimension, ranges) for dimension, ranges in asked if dimension != PROTOCOL)
    return replace(box, source=_tidy(box.source), destination=_tidy(box.destination), asked=asked)


def _tidy(addresses: Addresses) -> Addresses:
    if is_internet(addresses) and not addresses & LOOPBACK_ADDRESSES:
        local = Addresses(
            LOOPBACK_ADDRESSES.v4 if addresses.v4 else NOWHERE.v4, LOOPBACK_ADDRESSES.v6 if addresses.v6 else NOWHERE.v6
        )
        return addresses | local
    return addresses


def addresses_text(addresses: Addresses, groups: Groups = (), most: int = 8) -> str:
    """`everywhere`, a group's name, `everywhere except …`, or networks, whichever is shortest."""
    if addresses in (ANYWHERE, NOWHERE):
        return describe(addresses)
    direct = _terms(addresses, groups)
    best, terms = "", direct
    for whole_name, base in _WHOLES:
        if addresses <= base and is_internet(addresses):
            outside = _terms(base - addresses, groups)
            if len(outside) < len(terms) or len(direct) > most:
                best, terms = whole_name, outside
                break
    text = ", ".join(terms[:most]) + (", …" if len(terms) > most else "")
    return f"{best} except {text}" if best and terms else best or text


_WHOLES = (
    ("every IPv4 address", ANYWHERE.only(4)),
    ("every IPv6 address", ANYWHERE.only(6)),
    ("everywhere", ANYWHERE),
)
MOST_TERMS = 40
"""More are not compared: nobody reads them."""


def _terms(addresses: Addresses, groups: Groups) -> list[str]:
    """A set as groups it holds whole, or nearly, and networks; at most `MOST_TERMS` + 1 of them."""
    rest, names = addresses, []
    halves = [(f"{name} (IPv{f})", g.only(f)) for name, g in groups if g.v4 and g.v6 for f in FAMILIES]
    largest_first = sorted((*groups, *halves), key=lambda g: -g[1].v4.count() - g[1].v6.count())
    for nearly in (False, True):
        for name, members in largest_first:
            if not members or members == ANYWHERE or not members & rest:
                continue
            missing = members - rest
            if not missing:
                names.append(name)
            elif nearly and _few(missing) and _nearly(members, missing):
                names.append(f"{name} (but {describe(missing, FEW)})")
            else:
                continue
            rest = rest - members
    return [*sorted(names), *_network_terms(rest)]


def _few(addresses: Addresses) -> bool:
    return len(_network_terms(addresses, FEW)) <= FEW


def _nearly(members: Addresses, missing: Addresses) -> bool:
    """Whether little enough is missing of a group to call it by its name."""
    return all(missing.family(f).count() * 8 <= members.family(f).count() for f in FAMILIES)


def _network_terms(addresses: Addresses, most: int = MOST_TERMS) -> list[str]:
    """Networks and whole families, up to `most` + 1."""
    found: list[str] = []
    for family in FAMILIES:
        if addresses.is_every(family):
            found.append(f"every IPv{family} address")
            continue
        for text in network_texts(addresses.family(family), family):
            found.append(text)
            if len(found) > most:
                return found
    return found


def ports_text(protocols: Ranges | None, ports: Ranges | None, named: bool = True) -> str:
    """`22/tcp (ssh)`, `8000-8010/tcp`, `all tcp (but 22, 80)`, `every protocol`."""
    if protocols is None:
        return "every protocol" if ports is None else f"port {ranges_text(ports)} of every protocol"
    if protocols.count() > 8:
        return "all other protocols" if ports is None else f"port {ranges_text(ports)} of other protocols"
    return ", ".join(_protocol_ports(number, ports, named) for number in _numbers(protocols))


def _numbers(ranges: Ranges) -> Iterator[int]:
    for first, last in ranges.pairs():
        yield from range(first, last + 1)


def _protocol_ports(protocol: int, ports: Ranges | None, named: bool) -> str:
    name = protocol_name(protocol)
    if ports is None:
        return f"all {name}" if protocol in PROTOCOLS_WITH_PORTS else name
    every = whole(PORT, 4)
    others = every - ports
    said = partial(icmp_text, protocol) if protocol in (ICMP, ICMPV6) else ranges_text
    if ports.count() > every.count() // 2 and len(others.bounds) < len(ports.bounds):
        return f"all {name} (but {said(others)})"
    if protocol in (ICMP, ICMPV6):
        return f"{name} {said(ports)}"
    texts = []
    for first, last in ports.pairs():
        text = f"{first}/{name}" if first == last else f"{first}-{last}/{name}"
        known = _service(first, name) if named and first == last else None
        texts.append(f"{text} ({known})" if known else text)
        if len(texts) == 12:
            texts.append("…")
            break
    return ", ".join(texts)


def _service(port: int, protocol: str) -> str | None:
    found = services.within(port, port)
    return next((s.name for s in found if s.first == s.last and protocol in s.protocols), None)


def icmp_text(protocol: int, ports: Ranges) -> str:
    """`ping`, `type 3`, `type 3 code 4`."""
    echo = 8 if protocol == ICMP else 128
    if ports in (Ranges((echo * 256, echo * 256 + 256)), Ranges.single(echo * 256)):
        return "echo-request"
    texts = []
    for first, last in ports.pairs():
        if first & 255 == 0 and last & 255 == 255:
            types = (first >> 8, last >> 8)
            texts.append(f"type {types[0]}" if types[0] == types[1] else f"types {types[0]}-{types[1]}")
        elif first == last:
            texts.append(f"type {first >> 8} code {first & 255}")
        else:
            texts.append(f"type {first >> 8} code {first & 255} to type {last >> 8} code {last & 255}")
    return ", ".join(texts[:6])


def ranges_text(ranges: Ranges) -> str:
    texts = [str(first) if first == last else f"{first}-{last}" for first, last in ranges.pairs()]
    return ", ".join(texts if len(texts) <= 12 else [*texts[:12], "…"])


def names_text(ranges: Ranges, family_size: int) -> str:
    """Interfaces: `eth0`, `wan*`, `every one but lo`."""
    inside = list(_names(ranges))
    outside = list(_names(Ranges((0, family_size)) - ranges))
    if None not in outside and (None in inside or len(outside) < len(inside)):
        return f"every one but {', '.join(str(o) for o in outside)}"
    return ", ".join(name or "others" for name in dict.fromkeys(inside))


def interface_names(ranges: Ranges) -> tuple[str, ...] | None:
    """The names and patterns that are exactly a set of interfaces; None: there are none."""
    names = list(_names(ranges))
    found = tuple(name for name in names if name is not None)
    return found if len(found) == len(names) else None


def _names(ranges: Ranges) -> Iterator[str | None]:
    """The names and patterns whose numbers a set holds; None for what lies between those."""
    for first, last in ranges.pairs():
        text = number_name(first)
        if first == last:
            yield text if text.isprintable() else None
        elif text.isprintable() and (first, last) == pattern(f"{text}*"):
            yield f"{text}*"
        else:
            yield None


def conditions_text(box: Box, leave_out: Iterable[Dimension] = ()) -> list[str]:
    """What a box asks besides protocol, ports and addresses, each in words. FAMILY may be left out where addresses are
    said beside them: those of one family name it."""
    without = {PROTOCOL, PORT, *leave_out}
    found = [
        _condition(dimension, ranges)
        for dimension, ranges in box.asked
        if dimension not in without and not (dimension in (IN, OUT) and ranges == NOT_LOOPBACK)
    ]
    family = one_family(box)
    if family and FAMILY not in without and box.source.is_every(family) and box.destination.is_every(family):
        found.append(f"IPv{family} only")
    return [text for text in found if text]


def _condition(dimension: Dimension, ranges: Ranges) -> str:
    yes = 1 in ranges
    if dimension.rank == LIVE_SOURCE:
        return f"source {'in' if yes else 'not in'} {dimension.name}"
    if dimension.rank == LIVE_DESTINATION:
        return f"destination {'in' if yes else 'not in'} {dimension.name}"
    if dimension in _YES_NO:
        return _YES_NO[dimension][0 if yes else 1]
    if dimension == STATE:
        return " or ".join(
            str(STATES[k].name).lower() for first, last in ranges.pairs() for k in range(first, last + 1)
        )
    if dimension in (IN, OUT):
        word = "in on" if dimension == IN else "out on"
        return f"{word} {names_text(ranges, size(dimension, 6))}"
    if dimension == USER:
        return f"of user {names_text(ranges, size(dimension, 6))}"
    if dimension == TIME:
        return _time_text(ranges)
    if dimension == FLAGS:
        return _flags_text(ranges)
    return f"{_NUMBERS.get(dimension, 'value')} {ranges_text(ranges)}"


_YES_NO = {
    PUBLISHED: ("published by somebody else", "not published"),
    LOCAL: ("to an address of this host", "to multicast, broadcast or others"),
    REPLY: ("answering direction", "original direction"),
    OVER: ("beyond the limit", "within the limit"),
}
_NUMBERS = {HOP_LIMIT: "hop limit", SOURCE_PORT: "source port", ORIGINAL_PORT: "original port"}


def _time_text(ranges: Ranges) -> str:
    texts = []
    for first, last in ranges.pairs():
        if first:
            texts.append(f"from {moment_text(first):%Y-%m-%dT%H:%MZ}")
        if last + 1 < whole(TIME, 4).bounds[1]:
            texts.append(f"until {moment_text(last + 1):%Y-%m-%dT%H:%MZ}")
    return " ".join(texts)


def _flags_text(ranges: Ranges) -> str:
    if SYN in ranges:
        return "" if ranges.count() < 128 else "TCP flags"
    return "TCP that does not start a connection"


@dataclass(frozen=True, slots=True)
class Words:
    """One box in words."""

    what: str
    source: str
    destination: str
    conditions: tuple[str, ...]


def words(box: Box, groups: Groups = (), leave_out: Iterable[Dimension] = ()) -> Words:
    return Words(
        ports_text(box.values(PROTOCOL), box.values(PORT)),
        addresses_text(box.source, groups),
        addresses_text(box.destination, groups),
        tuple(conditions_text(box, (FAMILY, *leave_out))),
    )


def box_text(box: Box, groups: Groups = ()) -> str:
    """One box on one line: `inbound 22/tcp (ssh) from everywhere except 10.0.0.0/8`."""
    said = words(box, groups)
    text = f"{box.direction.value} {said.what} from {said.source}"
    if box.destination != ANYWHERE and not (one_family(box) and box.destination.is_every(one_family(box) or 4)):
        text += f" to {said.destination}"
    if box.original is not None:
        text += ", turned by somebody else"
        if box.original != ANYWHERE:
            text += f" from {addresses_text(box.original, groups)}"
    return ", ".join([text, *said.conditions])


STARTS: dict[Dimension, int] = {
    STATE: STATES.index(State.NEW),
    REPLY: 0,
    FLAGS: SYN,
    HOP_LIMIT: 64,
    OVER: 0,
    PUBLISHED: 0,
}
"""What the first packet of an ordinary connection is."""
