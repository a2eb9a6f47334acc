"""Names as a person would give them: of entries by service or comment, of address groups and interfaces by what they
are."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain as joined
from itertools import count

from portctl.evaluation import Step
from portctl.importing.draft import Atom, Draft, Found
from portctl.importing.limits import Limit
from portctl.importing.prepare import Key, key
from portctl.importing.words import (
    comment_name,
    excepted,
    family_name,
    plain_name,
    port_words,
    service_of,
    slug,
    source_ports,
)
from portctl.importing.world import NOBODY, families_of
from portctl.net import ANYWHERE, FAMILIES, Addresses, Family, Ranges, network_texts
from portctl.program import Field, Line, Note, Place, Translate
from portctl.ruleset import ICMP, ICMPV6, PROTOCOLS_WITH_PORTS, Direction
from portctl.space.dimensions import IN, OUT, SOURCE_PORT, USER, number_name, pattern


@dataclass(slots=True)
class Entry:
    """One entry to be written."""

    section: str
    name: str
    ports: list[str]
    source: Addresses = ANYWHERE
    destination: Addresses | None = None
    interfaces: tuple[str, ...] = ()
    out_interfaces: tuple[str, ...] = ()
    source_ports: list[str] = field(default_factory=list)
    user: str | None = None
    limit: Limit | None = None
    target: str | None = None
    masquerade: str | None = None
    description: str | None = None
    mss: bool = False
    steps: tuple[Step, ...] = ()
    evidence: str | None = None


@dataclass(frozen=True, slots=True)
class _Conditions:
    """What the atoms of one entry share."""

    section: str
    source: Addresses
    destination: Addresses | None
    interfaces: tuple[str, ...]
    out_interfaces: tuple[str, ...]
    source_ports: Ranges | None
    user: str | None
    limit: Limit | None
    target: Translate | None
    masquerade: Translate | None


@dataclass(slots=True)
class Names:
    """`notes` are what could not be said exactly."""

    entries: list[Entry] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    groups: dict[Addresses, str] = field(default_factory=dict)
    """Names that the input has for sets of addresses."""
    partly: dict[Key, str] = field(default_factory=dict)
    """Lines of which not everything could be said, and what it was."""


def name(draft: Draft, alike: bool) -> Names:
    """The entries of a draft, sorted as they are written. `alike`: IPv6 is to be as IPv4 where the input is silent."""
    made = Names()
    groups: dict[_Conditions, dict[Atom, tuple[Step, ...]]] = {}
    known = _devices(draft)
    for found in draft.found:
        for conditions in _conditions(found, known, made, draft, alike):
            listed = groups.setdefault(conditions, {})
            for atom, steps in _said_atoms(found, conditions, draft).items():
                listed[atom] = _distinct((*listed.get(atom, ()), *steps))
    _join_pings(groups, alike and len(draft.inputs.families) == 1)
    taken: set[str] = set()
    for conditions, listed in groups.items():
        for entry in _entries(conditions, listed):
            if entry.section != "block":
                unique(entry, taken)
            made.entries.append(entry)
    _finish(draft, made)
    made.entries.sort(key=lambda e: (_SECTIONS.index(e.section), _order(e)))
    return made


def _distinct(steps: Iterable[Step]) -> tuple[Step, ...]:
    """Each line once; a chain, which may have thousands of them, counts by its place."""
    found: dict[tuple[Place, Line | None], Step] = {}
    for step in steps:
        found.setdefault((step.chain.place, step.line), step)
    return tuple(found.values())


def _finish(draft: Draft, made: Names) -> None:
    """Names that the input has for its sets; clamping; and what is said of forwards that go past a translation."""
    targets = {entry.target.rpartition(":")[0] or entry.target: entry.name for entry in made.entries if entry.target}
    clamps = any(
        isinstance(a, Note) and a.text.startswith(("TCPMSS", "tcp option maxseg")) and "set-mss" not in a.text
        for chain in draft.prepared.program.chains
        for line in chain.lines
        for a in line.actions
    )
    for entry in made.entries:
        for step in entry.steps:
            _name_set(entry, step, made)
        if entry.section == "forwards" and entry.target is None:
            entry.mss = clamps
            where = _texts(entry.destination) if entry.destination is not None else []
            if len(where) == 1 and where[0] in targets:
                entry.evidence = f"directly, past `{targets[where[0]]}`: leave it out if only that is meant"


def _name_set(entry: Entry, step: Step, made: Names) -> None:
    """The name of a set that a line looks its sources up in is the name of an entry's group, if it has the same."""
    found = re.search(r"match-set (\S+) src|saddr @(\S+)", step.line.text) if step.line is not None else None
    word = slug(found[1] or found[2]) if found else ""
    if not word or step.line is None:
        return
    for condition in step.line.conditions:
        if condition.field is Field.SOURCE and condition.family and isinstance(condition.value, Ranges):
            mine = entry.source.family(condition.family)
            if (
                mine
                and mine == condition.value - NOBODY.family(condition.family)
                and entry.source.families() == (condition.family,)
            ):
                made.groups[entry.source] = word


_SECTIONS = ("services", "block", "egress", "forwards")


def _order(entry: Entry) -> tuple[object, ...]:
    return entry.name != "ssh", entry.name.startswith("ping"), entry.name


def _devices(draft: Draft) -> list[tuple[str, ...]]:
    """The interfaces that the input names."""
    names: dict[str, None] = {}
    for chain in draft.prepared.program.chains:
        for line in chain.lines:
            for condition in line.conditions:
                if condition.field.name in ("IN", "OUT") and isinstance(condition.value, tuple):
                    names |= dict.fromkeys(str(n) for n in condition.value if not str(n).startswith("<") and n != "lo")
    return [(n,) for n in names]


def devices(ranges: Ranges | None, known: Iterable[tuple[str, ...]]) -> tuple[tuple[str, ...], bool]:
    """Interface patterns for a set of names, and whether they are the whole set."""
    if ranges is None:
        return (), True
    found: list[str] = []
    exact = True
    for first, last in ranges.pairs():
        text = number_name(first)
        if text and text.isprintable() and (first == last or (first, last) == pattern(f"{text}*")):
            found.append(text if first == last else f"{text}*")
        else:
            exact = False
    if not exact:
        for (device,) in known:
            first, last = pattern(device)
            if Ranges((first, last + 1)) <= ranges and device not in found:
                found.append(device)
    found = [d for d in found if not any(o != d and o.endswith("*") and d.startswith(o[:-1]) for o in found)]
    ok = [d for d in found if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,14}\*?|\*", d)]
    return tuple(sorted(ok)), exact and ok == found


EVERY_BUT = "the language cannot say “every interface but”: of those, the ones that the input names: "


def _note_devices(notes: list[str], names: set[str]) -> None:
    """One note, however many boxes it is about."""
    before = next((at for at, note in enumerate(notes) if note.startswith(EVERY_BUT)), None)
    if before is not None:
        names = names | {*notes.pop(before).removeprefix(EVERY_BUT).split(", ")} - {"none"}
    notes.append(EVERY_BUT + (", ".join(sorted(names)) or "none"))


def _conditions(
    found: Found, known: list[tuple[str, ...]], made: Names, draft: Draft, alike: bool
) -> list[_Conditions]:
    box = found.box
    coming, exact_in = devices(box.values(IN), known)
    leaving, exact_out = devices(box.values(OUT), known)
    if not (exact_in and exact_out):
        _note_devices(made.notes, {*coming, *leaving})
        made.partly |= dict.fromkeys(_keys(found), "the language cannot say “every interface but”")
        if (box.values(IN) is not None and not coming) or (box.values(OUT) is not None and not leaving):
            return []
    users: list[str | None] = [None]
    if (asked := box.values(USER)) is not None:
        users = [number_name(a) for a, b in asked.pairs() if a == b and re.fullmatch(_USER, number_name(a))]
        if len(users) < len(list(asked.pairs())):
            made.notes.append("a socket owner that is no user's name is left out")
            made.partly |= dict.fromkeys(_keys(found), "the owner of its sockets is no user's name")
    source, destination = _wide(box.source, draft, alike), _wide(box.destination, draft, alike)
    whole = all(box.destination.is_every(f) for f in families_of(box))
    if found.section == "egress":
        source_whole = all(box.source.is_every(f) for f in families_of(box))
        source = ANYWHERE if source_whole else source
    to = None if whole and found.section in ("services", "forwards", "block") else destination
    if found.section == "block" and box.direction is Direction.OUTBOUND:
        source, to = ANYWHERE, destination
    if found.target is not None and found.target.address is not None:
        version: Family = found.target.address.version
        source = ANYWHERE if source.is_every(version) else source.only(version)
    return [
        _Conditions(
            found.section,
            source,
            to,
            coming,
            leaving,
            box.values(SOURCE_PORT),
            user,
            found.limit,
            found.target,
            found.masquerade,
        )
        for user in users
    ]


def _keys(found: Found) -> list[Key]:
    return [key(step.chain, step.line) for steps in found.evidence.values() for step in steps]


_USER = r"[A-Za-z_][A-Za-z0-9_.-]{0,31}"


def _wide(addresses: Addresses, draft: Draft, alike: bool) -> Addresses:
    """The whole of the one family that the input speaks of is everywhere, where the other is to be alike."""
    if alike and len(draft.inputs.families) == 1:
        other: Family = 6 if draft.inputs.families[0] == 4 else 4
        mine = addresses.family(draft.inputs.families[0])
        if mine.count() >= 1 << (31 if other == 6 else 127) and not addresses.family(other):
            return addresses | ANYWHERE.only(other)
    return addresses


def _said_atoms(found: Found, conditions: _Conditions, draft: Draft) -> Mapping[Atom, tuple[Step, ...]]:
    """What a box consists of. Everything for everybody is said at length: the language has no short word for it."""
    everybody = not conditions.interfaces and _says_any(conditions.source)
    if conditions.section != "services" or Atom(None) not in found.evidence or not everybody:
        return found.evidence
    steps = found.evidence[Atom(None)]
    ported = {Atom(p, 1, 65535): steps for p in PROTOCOLS_WITH_PORTS}
    return {**ported, **{Atom(p): steps for p in sorted(draft.world.protocols - set(PROTOCOLS_WITH_PORTS))}}


def _says_any(source: Addresses) -> bool:
    """Whether a source is written as `any`, with an `except` or without."""
    split = excepted(source)
    return source == ANYWHERE or (split is not None and split[0] == ANYWHERE)


def _join_pings(groups: dict[_Conditions, dict[Atom, tuple[Step, ...]]], alike: bool) -> None:
    """`ping` is echo of both families: of ICMP the far end is IPv4, of ICMPv6 it is IPv6; equal ones join."""
    pings: dict[_Conditions, tuple[Addresses, tuple[Step, ...]]] = {}
    for conditions, listed in list(groups.items()):
        far = _far(conditions)
        for protocol, family in ((ICMP, FAMILIES[0]), (ICMPV6, FAMILIES[1])):
            steps = listed.pop(Atom(protocol), None)
            if steps is None:
                continue
            here = far if alike and far == ANYWHERE else far.only(family)
            blank = _with_far(conditions, ANYWHERE)
            before, lines = pings.get(blank, (Addresses(), ()))
            pings[blank] = before | here, (*lines, *steps)
        if not listed:
            del groups[conditions]
    for blank, (far, steps) in pings.items():
        if far:
            groups.setdefault(_with_far(blank, far), {})[Atom(ICMP)] = steps


def _far(conditions: _Conditions) -> Addresses:
    """Who is at the other end: where something goes out, the destination."""
    outgoing = conditions.section in ("egress", "block")
    return conditions.destination if outgoing and conditions.destination is not None else conditions.source


def _with_far(conditions: _Conditions, far: Addresses) -> _Conditions:
    outgoing = conditions.section in ("egress", "block") and conditions.destination is not None
    return replace(conditions, destination=far) if outgoing else replace(conditions, source=far)


def _entries(conditions: _Conditions, listed: dict[Atom, tuple[Step, ...]]) -> list[Entry]:
    """The atoms of one set of conditions, those that belong together in one entry."""
    bare = [atom for atom in listed if atom.protocol is not None and atom.protocol not in PROTOCOLS_WITH_PORTS]
    if conditions.section == "block" or Atom(None) in listed or conditions.target is not None or len(bare) > 8:
        kept = [Atom(None)] if Atom(None) in listed else list(listed)
        return [_entry(conditions, _whole_name(conditions, kept, listed), kept, listed)]
    named: dict[str, list[Atom]] = {}
    for atom in sorted(listed, key=lambda a: (a.protocol or 0, a.first or 0)):
        named.setdefault(family_name(atom, listed[atom]), []).append(atom)
    strangers = named.pop("", [])
    if len(strangers) == 1:
        atom = strangers[0]
        named.setdefault(plain_name(atom), []).append(atom)
    elif strangers:
        named.setdefault("ports", []).extend(strangers)
    return [_entry(conditions, each, kept, listed) for each, kept in named.items()]


def _entry(conditions: _Conditions, named: str, kept: list[Atom], listed: dict[Atom, tuple[Step, ...]]) -> Entry:
    steps = _distinct(step for atom in kept for step in listed[atom])
    target = conditions.target
    place = None
    if target is not None:
        address = "" if target.address is None else str(target.address)
        address = f"[{address}]" if ":" in address and target.port is not None else address
        port = f":{target.port}" if target.port is not None else ""
        place = (f"{address}{port}" if port else str(target.address or "")) or None
    hiding = conditions.masquerade
    return Entry(
        conditions.section,
        named,
        port_words(kept, "" if conditions.section == "block" else named),
        conditions.source,
        conditions.destination,
        conditions.interfaces,
        conditions.out_interfaces,
        source_ports(conditions.source_ports, kept),
        conditions.user,
        conditions.limit,
        place,
        None if hiding is None else (str(hiding.address) if hiding.address and hiding.kind == "source" else "true"),
        _description(steps, named) if _all_of_it(conditions.source, steps) else None,
        steps=steps,
    )


def _whole_name(conditions: _Conditions, kept: list[Atom], listed: dict[Atom, tuple[Step, ...]]) -> str:
    steps = [step for atom in kept for step in listed.get(atom, ())]
    said = next((found for step in steps if (found := comment_name(step))), "")
    if conditions.target is not None:
        atom = kept[0]
        if said:
            return said
        service = service_of(atom) if len(kept) == 1 else None
        own = service.name if service else ("" if atom.first is None else plain_name(atom))
        if len(kept) > 1:
            own = family_name(atom, ()) or "ports"
        where = str(conditions.target.address or "here").replace(":", "-").replace(".", "-")
        return slug(f"{own or 'all'}-to-{where}")
    if conditions.masquerade is not None and conditions.section == "forwards":
        return "internet" if conditions.destination is None else said or "masquerade"
    if conditions.section == "forwards":
        coming, leaving = (
            each[0].rstrip("*") if each else "" for each in (conditions.interfaces, conditions.out_interfaces)
        )
        sides = f"{coming}-to-{leaving}" if coming and leaving else f"from-{coming}" if coming else f"to-{leaving}"
        return said or (slug(sides) if coming or leaving else "through")
    if conditions.section == "egress":
        return said or "outgoing"
    if conditions.interfaces and conditions.interfaces != ("*",):
        return slug(f"all-in-{conditions.interfaces[0].rstrip('*')}") or "inside"
    return said or ("everything" if _everyone(conditions.source) else "trusted")


def _everyone(addresses: Addresses) -> bool:
    return addresses.is_every(4) or addresses.is_every(6)


def _all_of_it(source: Addresses, steps: Iterable[Step]) -> bool:
    """Whether the lines speak of all sources of an entry, not of one among several."""
    if source == ANYWHERE or len(_texts(source)) < 2:
        return True
    fields = [c.field for step in steps if step.line is not None for c in step.line.conditions]
    return Field.SOURCE not in fields


def _description(steps: Iterable[Step], named: str) -> str | None:
    """The comments of the lines, where they say more than the name."""
    said = []
    for step in steps:
        comment = step.line.comment if step.line is not None else ""
        comment = re.sub(r"^'|'$", "", comment).replace("%20", " ").strip()
        plain = "".join(c if c.isprintable() else " " for c in comment)
        if (
            plain
            and named not in (slug(plain), comment_name(step))
            and plain not in said
            and not plain.startswith("dapp_")
        ):
            said.append(plain)
    text = "; ".join(said[:3])
    return text[:200] or None


def unique(entry: Entry, taken: set[str]) -> None:
    """A name is taken once; services and forwards of one name would be confusing, and are told apart, too."""
    base = entry.name or "entry"
    device = (entry.interfaces or entry.out_interfaces or ("",))[0].rstrip("*")
    candidates = [base, *([slug(f"{base}-{device}")] if device and not base.endswith(slug(device)) else [])]
    if entry.destination is not None and entry.section != "egress":
        where = next(iter(_texts(entry.destination)), "")
        candidates.append(slug(f"{base}-at-{where}".replace(".", "-").replace(":", "-").split("/")[0]))
    for candidate in joined(candidates, (f"{base[:25]}-{number}" for number in count(2))):
        if candidate and candidate not in taken:
            entry.name = candidate
            taken.add(candidate)
            return


def _texts(addresses: Addresses) -> list[str]:
    return [t for f in FAMILIES for t in network_texts(addresses.family(f), f)]


PRIVATE = Addresses.of("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")
