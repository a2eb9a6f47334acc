"""What a person calls protocols, ports and entries: from services' names, and from comments in the input."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from itertools import islice

from portctl import services
from portctl.evaluation import Step
from portctl.importing.draft import Atom
from portctl.net import ANYWHERE, FAMILIES, Addresses, Family, Ranges, address_text, network_texts
from portctl.ruleset import ICMP, ICMPV6, SCTP, TCP, UDP

WORDS = {TCP: "tcp", UDP: "udp", SCTP: "sctp"}
PORTS: tuple[tuple[str, dict[int, set[int]]], ...] = (
    ("web", {TCP: {80, 443}, UDP: {443}}),
    ("mail", {TCP: {25, 465, 587, 110, 143, 993, 995, 4190}}),
    ("samba", {TCP: {139, 445}, UDP: {137, 138}}),
    ("nfs", {TCP: {111, 2049, 20048}, UDP: {111, 2049, 20048}}),
    ("ipsec", {UDP: {500, 4500}}),
    ("ftp", {TCP: {20, 21}}),
    ("nodeports", {}),
)
"""Services that people open together."""


def source_ports(ranges: Ranges | None, kept: list[Atom]) -> list[str]:
    if ranges is None:
        return []
    protocols = sorted({a.protocol for a in kept if a.protocol in WORDS})
    word = "+".join(WORDS[p] for p in protocols if p is not None) or "tcp+udp"
    return [f"{_span(max(1, a), b)}/{word}" for a, b in ranges.pairs() if b]


def _span(first: int, last: int) -> str:
    return str(first) if first == last else f"{first}-{last}"


def service_of(atom: Atom) -> services.Service | None:
    """The service of portctl's table with just this port, or these."""
    if atom.first is None or atom.last is None or atom.protocol is None:
        return None
    word = WORDS[atom.protocol]
    for service in services.within(atom.first, atom.last):
        if (service.first, service.last) == (atom.first, atom.last) and word in service.protocols:
            return service
    return None


def port_words(kept: Iterable[Atom], named: str = "") -> list[str]:
    """The items of `ports`: names where the table has one that says no more, numbers else.

    A high port of an entry that has its name from a comment keeps its number: it may be anything.
    """
    words: list[str] = []
    ported: dict[int, list[tuple[int, int]]] = {}
    for atom in kept:
        if atom.protocol is None:
            return ["any"]
        if atom.protocol in (ICMP, ICMPV6):
            words.append("ping")
        elif atom.first is None or atom.last is None:
            words.append(_protocol_word(atom.protocol))
        else:
            ported.setdefault(atom.protocol, []).append((atom.first, atom.last))
    by_range: dict[tuple[int, int], list[int]] = {}
    for protocol, pairs in ported.items():
        for first, last in _merged(pairs):
            by_range.setdefault((first, last), []).append(protocol)
    found: list[str] = []
    for (first, last), protocols in sorted(by_range.items()):
        speaking = {WORDS[p] for p in protocols}
        service = next(
            (
                s
                for s in services.within(first, last)
                if (s.first, s.last) == (first, last) and set(s.protocols) == speaking
            ),
            None,
        )
        spelled = "+".join(w for w in WORDS.values() if w in speaking)
        plain = service is not None and first > 1023 and not _says(service, named)
        found.append(service.name if service and not plain else f"{_span(first, last)}/{spelled}")
    return list(dict.fromkeys([*found, *words]))


def _merged(pairs: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Ranges without those that lie within others. Single ports that only touch stay apart: those are two services."""
    found: list[tuple[int, int]] = []
    for first, last in sorted(pairs, key=lambda pair: (pair[0], -pair[1])):
        if found and last <= found[-1][1]:
            continue
        wide = found and (first < last or found[-1][0] < found[-1][1])
        if found and first <= found[-1][1] + bool(wide):
            found[-1] = (found[-1][0], last)
        else:
            found.append((first, last))
    return found


def _says(service: services.Service, named: str) -> bool:
    """Whether an entry's name speaks of the service, or of several."""
    words = {word for word, _ in PORTS} | {"ports", ""}
    if any(named.startswith(name) for name in service.names) or "-to-" in named:
        return True
    return named.rstrip("-0123456789") in words


def _protocol_word(number: int) -> str:
    return next((word for word, n in services.PROTOCOLS.items() if n == number), f"proto/{number}")


def family_name(atom: Atom, steps: tuple[Step, ...]) -> str:
    """What a person calls it; empty: nothing but a number."""
    if atom.protocol in (ICMP, ICMPV6):
        return "ping"
    if atom.first is None or atom.last is None:
        return slug(_protocol_word(atom.protocol or 0)) or "other"
    if (atom.first, atom.last) == (1, 65535):
        return f"all-{WORDS[atom.protocol or TCP]}"
    if atom.last - atom.first < 10:
        for word, ports in PORTS:
            if set(range(atom.first, atom.last + 1)) <= ports.get(atom.protocol or 0, set()):
                return word
    service = service_of(atom)
    said = next((found for step in steps if (found := comment_name(step))), "")
    if service is not None and (not said or atom.first < 1024):
        return service.name
    return said


def plain_name(atom: Atom) -> str:
    word = WORDS.get(atom.protocol or 0, "port")
    return f"{word}-{_span(atom.first or 0, atom.last or 0)}"


_NOISE = re.compile(
    r"(?i)^(allow|accept|permit|open|enable|incoming|inbound|for|the|rule|port|dapp_|user_rule)\b[\s:_-]*"
)


def comment_name(step: Step) -> str:
    """A name from a line's comment."""
    said = step.line.comment if step.line is not None else ""
    said = re.sub(r"^'|'$", "", said).removeprefix("\\'")
    said = said.replace("dapp_", "").replace("%20", " ").split("%2")[0]
    for _ in range(3):
        said = _NOISE.sub("", said)
    words = [w for w in re.split(r"[^A-Za-z0-9]+", said) if w]
    return slug("-".join(words[:3]))


def slug(text: str) -> str:
    """A name of the language from any text; empty where nothing is left."""
    found = re.sub(r"[^a-z0-9_]+", "-", text.lower()).strip("-_")
    found = re.sub(r"^[^a-z]+", "", found)[:31].strip("-_")
    return "" if found in ("any", "none", "self") else found


def texts(members: Addresses) -> list[str]:
    """Networks and ranges, whichever takes fewer words for each stretch."""
    return list(_texts(members))


@lru_cache(maxsize=20_000)
def _texts(members: Addresses) -> tuple[str, ...]:
    found: list[str] = []
    for family in FAMILIES:
        for first, last in members.family(family).pairs():
            nets = list(islice(network_texts(Ranges((first, last + 1)), family), 3))
            found += nets if len(nets) <= 2 else [_range(first, last, family)]
    return tuple(found)


def _range(first: int, last: int, family: Family) -> str:
    return f"{address_text(first, family)}-{address_text(last, family)}"


@lru_cache(maxsize=20_000)
def excepted(members: Addresses) -> tuple[Addresses, Addresses] | None:
    """A set as everything, or a family, without a few: where that takes fewer words."""
    wholes = [ANYWHERE, ANYWHERE.only(4), ANYWHERE.only(6)]
    direct = len(_texts(members))
    if direct < 2:
        return None  # nothing takes fewer words
    for base in wholes:
        if members <= base and members != base and all(members.family(f) or not base.family(f) for f in FAMILIES):
            rest = base - members
            if len(_texts(rest)) < direct:
                return base, rest
    return None
