"""A first policy of a host: what listens, who talks to it, what its rules admit; each entry with its evidence.

It is a proposal to be read: present rules say what was meant to be open, listeners what could be reached, connections
who really comes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from portctl.importing.draft import Atom
from portctl.importing.naming import Entry, unique
from portctl.importing.prepare import prepare
from portctl.importing.words import family_name, plain_name, port_words, slug
from portctl.importing.world import NOBODY, along, ordinary
from portctl.importing.write import Text, comment_lines, write
from portctl.listeners import Connection, Listener
from portctl.net import ANYWHERE, LOOPBACK_ADDRESSES, Address, Addresses, Ranges
from portctl.observe import Observed
from portctl.program import Program
from portctl.ruleset import ICMP, PROTOCOLS_WITH_PORTS, TCP, UDP, Direction
from portctl.space.dimensions import FAMILY, IN, LO, PORT, PROTOCOL, SOURCE, Dimension, family_set
from portctl.space.sets import PacketSet, Space

MOST_PEERS = 8
"""So many single peers are named in the evidence."""
_CLIENT_UDP = (68, 546)
"""DHCP clients: the fixed lines of every policy admit the answers."""


@dataclass(frozen=True, slots=True)
class First:
    """A policy's text, and what to look at before it is used."""

    text: str
    notes: tuple[str, ...] = ()


def first(observed: Observed, name: str) -> First:
    """The first policy of a host, called `name`."""
    notes = [f"could not be seen: {what}" for what in observed.unknown]
    admitted = _Admitted.of(observed.program) if observed.program is not None else None
    peers = _peers(observed)
    entries: list[Entry] = []
    taken: set[str] = set()
    silent: list[str] = []
    for group in _services(observed.listeners or ()):
        entry = _entry(group, peers, admitted, observed.facts.own_addresses())
        if entry is None:
            silent.append(_who(group.listeners))
            continue
        unique(entry, taken)
        entries.append(entry)
    if local := [each for each in observed.listeners or () if _only_local(each)]:
        silent.append(f"{len(local)} listeners on loopback alone")
    entries.append(_ping(admitted))
    if observed.listeners is None:
        notes.append("what listens could not be seen: the policy opens nothing but ping")
    entries.sort(key=lambda e: (e.name != "ssh", e.name == "ping", e.name))
    head = [
        f"A first policy of this host, {_system(observed)}. Read it line by line: it opens what listens now.",
        *(f"Not opened: {what}" for what in silent),
        *notes,
        *_tools(observed.program),
        "Next: portctl check, portctl plan, and portctl verify, which finds what this missed.",
    ]
    written = Text(name, tuple(entries), (("inbound", "drop"), ("outbound", "allow")), tuple(comment_lines(head)))
    return First(write(written), tuple(notes))


def _system(observed: Observed) -> str:
    return observed.facts.distribution or observed.facts.system


def _tools(program: Program | None) -> Iterator[str]:
    if program is not None:
        for tool in sorted(set(prepare(program).owned.values())):
            yield f"{tool} keeps rules of its own here; they stay with it."


@dataclass(frozen=True, slots=True)
class _Group:
    """Listeners of one process that belong together, on some kinds of ports."""

    name: str
    atoms: tuple[Atom, ...]
    listeners: tuple[Listener, ...]


def _only_local(listener: Listener) -> bool:
    on_lo = listener.scope in ("lo", "lo0")
    return on_lo or (listener.address is not None and listener.address in LOOPBACK_ADDRESSES)


def _services(listeners: Iterable[Listener]) -> list[_Group]:
    """Listeners that strangers can reach, by the name of what they offer."""
    found: dict[str, list[tuple[Atom, Listener]]] = {}
    for each in listeners:
        if _only_local(each) or each.protocol not in PROTOCOLS_WITH_PORTS:
            continue
        if each.protocol == UDP and each.port in _CLIENT_UDP:
            continue
        atom = Atom(each.protocol, each.port, each.port)
        process = each.process or ""
        named = family_name(atom, ()) or slug(process) or plain_name(atom)
        found.setdefault(named, []).append((atom, each))
    return [
        _Group(name, tuple(sorted({atom for atom, _ in listed})), tuple(listener for _, listener in listed))
        for name, listed in found.items()
    ]


def _who(listeners: Iterable[Listener]) -> str:
    """`sshd on 0.0.0.0:22, [::]:22`."""
    texts: dict[str, list[str]] = {}
    for each in listeners:
        address = "*" if each.address is None else str(each.address)
        address = f"[{address}]" if ":" in address else address
        word = {TCP: "tcp", UDP: "udp"}.get(each.protocol, "sctp")
        texts.setdefault(each.process or "an unknown process", []).append(f"{address}:{each.port}/{word}")
    return "; ".join(f"{who} on {', '.join(dict.fromkeys(where))}" for who, where in texts.items())


def _peers(observed: Observed) -> dict[tuple[int, int], list[Connection]]:
    """Connections from outside to what listens here, by protocol and port."""
    listening = {(each.protocol, each.port) for each in observed.listeners or ()}
    found: dict[tuple[int, int], list[Connection]] = {}
    for each in observed.connections or ():
        if (each.protocol, each.local_port) in listening and each.peer not in LOOPBACK_ADDRESSES:
            found.setdefault((each.protocol, each.local_port), []).append(each)
    return found


@dataclass(frozen=True, slots=True)
class _Admitted:
    """What the present rules admit of what comes in."""

    space: Space
    packets: PacketSet
    filters: bool
    """They deny anything at all."""

    @classmethod
    def of(cls, program: Program) -> _Admitted:
        space = Space()
        cut = prepare(program).program
        packets = ordinary(space.of_program(cut).accepted()).along(Direction.INBOUND)
        rest = ordinary(space.boxes([(Direction.INBOUND, {IN: _OTHERS, PROTOCOL: Ranges.single(TCP)})]))
        return cls(space, packets, bool(rest - packets))

    def sources(self, atom: Atom) -> Addresses:
        """Who reaches a port, on any interface but loopback."""
        asked: dict[Dimension, Ranges] = {IN: _OTHERS, PROTOCOL: Ranges.single(atom.protocol or TCP)}
        if atom.first is not None and atom.last is not None:
            asked[PORT] = Ranges((atom.first, atom.last + 1))
        cubes = [(Direction.INBOUND, {FAMILY: family_set(f), **asked}) for f in (4, 6)]
        found = along(self.space.boxes(cubes) & self.packets, SOURCE)
        return Addresses(found[4], found[6])


_OTHERS = Ranges((0, LO, LO + 1, 1 << 256))


def _entry(
    group: _Group, peers: dict[tuple[int, int], list[Connection]], admitted: _Admitted | None, own: tuple[Address, ...]
) -> Entry | None:
    """The service of some listeners; None where the present rules let nobody in."""
    evidence = [_who(group.listeners)]
    source = ANYWHERE
    filtering = admitted is not None and admitted.filters
    if filtering and admitted is not None:
        source = Addresses()
        for atom in group.atoms:
            source = source | admitted.sources(atom)
        if not source:
            return None
        source = _tidy(source)
        evidence.append("the present rules admit it" + ("" if source == ANYWHERE else ", from these alone"))
    connections = [c for atom in group.atoms for c in peers.get((atom.protocol or 0, atom.first or 0), [])]
    seen = sorted({connection.peer for connection in connections}, key=str)
    if seen:
        shown = ", ".join(map(str, seen[:MOST_PEERS])) + (", …" if len(seen) > MOST_PEERS else "")
        evidence.append(f"connected now: {shown}")
    if group.name == "ssh" and seen and source == ANYWHERE:
        source = _networks(seen)
        evidence.append("from the networks connected now: widen it if you come from elsewhere")
    destination = _at(group.listeners, own)
    return Entry(
        "services",
        group.name,
        port_words(group.atoms, group.name),
        source,
        destination,
        evidence="; ".join(evidence),
    )


def _tidy(source: Addresses) -> Addresses:
    """Without the addresses that never come from elsewhere, unless they are needed to say "any"."""
    for family in (4, 6):
        if (source | NOBODY).is_every(family):
            source = source | ANYWHERE.only(family)
        elif not source.is_every(family):
            source = source - NOBODY.only(family)
    return source


def _networks(peers: Iterable[Address]) -> Addresses:
    """The networks around some peers: /24 of IPv4, /64 of IPv6."""
    found = Addresses()
    for peer in peers:
        bits = 8 if peer.version == 4 else 64
        start = int(peer) >> bits << bits
        ranges = Ranges((start, start + (1 << bits)))
        found = found | (Addresses(ranges) if peer.version == 4 else Addresses(Ranges(), ranges))
    return found


def _at(listeners: Iterable[Listener], own: tuple[Address, ...]) -> Addresses | None:
    """The addresses on which alone somebody listens; None: all of the host's."""
    bound = [each.address for each in listeners]
    if any(address is None for address in bound):
        return None
    found = {address for address in bound if address is not None and address not in LOOPBACK_ADDRESSES}
    if found >= {a for a in own if a not in LOOPBACK_ADDRESSES and not a.is_link_local}:
        return None
    pairs = [(int(a), int(a)) for a in found if a.version == 4], [(int(a), int(a)) for a in found if a.version == 6]
    return Addresses(Ranges.of(pairs[0]), Ranges.of(pairs[1]))


def _ping(admitted: _Admitted | None) -> Entry:
    said = "answers to ping help to find faults"
    if admitted is not None and admitted.filters:
        open_now = bool(admitted.sources(Atom(ICMP, 8 * 256, 8 * 256)))
        said = "the present rules admit it" if open_now else f"{said}; the present rules do not admit it"
    return Entry("services", "ping", ["ping"], evidence=said)
