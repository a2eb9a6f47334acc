"""A policy as the text that a person would have written: names first, one entry a line where it fits."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Set
from dataclasses import dataclass, field

from portctl.importing.naming import PRIVATE, Entry
from portctl.importing.words import excepted, slug, texts
from portctl.net import ANYWHERE, Addresses

WIDTH = 110
"""Columns of an entry on one line."""
FEW = 3
"""Longer lists of addresses get a name."""


@dataclass(frozen=True, slots=True)
class Text:
    """What is written. `comments` stand above the first key, each without its `#`."""

    name: str
    entries: tuple[Entry, ...]
    defaults: tuple[tuple[str, str], ...]
    comments: tuple[str, ...] = ()
    log_denied: bool = False
    description: str | None = None
    group_names: tuple[tuple[Addresses, str], ...] = ()
    """Names that the input has for sets of addresses."""


@dataclass(slots=True)
class _Groups:
    addresses: dict[Addresses, str] = field(default_factory=dict)
    interfaces: dict[tuple[str, ...], str] = field(default_factory=dict)


def write(text: Text) -> str:
    """The YAML, ending in a line end."""
    groups = _groups(text)
    lines = [f"# {comment}".rstrip() for comment in text.comments]
    lines += ["portctl: 1", f"name: {text.name}"]
    if text.description:
        lines.append(f"description: {scalar(text.description)}")
    if groups.addresses:
        lines += ["", "addresses:"]
        width = max(len(name) for name in groups.addresses.values()) + 1
        for members, name in groups.addresses.items():
            lines += _list(f"  {(name + ':').ljust(width)} ", [_quoted(t) for t in texts(members)])
    if groups.interfaces:
        lines += ["", "interfaces:"]
        for devices, name in groups.interfaces.items():
            lines.append(f"  {name}: [{', '.join(scalar(d) for d in devices)}]")
    for section in ("services", "block", "egress", "forwards"):
        mine = [entry for entry in text.entries if entry.section == section]
        if mine:
            lines += ["", f"{section}:"]
            for entry in mine:
                lines += _entry(entry, groups)
    defaults = [*text.defaults, *((("log_denied", "true"),) if text.log_denied else ())]
    lines += ["", "defaults:", *(f"  {key}: {value}" for key, value in defaults)]
    return "".join(f"{line}\n" for line in lines)


def _quoted(text: str) -> str:
    return f'"{text}"' if ":" in text else text


def scalar(text: str) -> str:
    """A text as YAML, quoted where it must be."""
    plain = re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9 _./+-]*", text)
    if plain and not re.fullmatch(r"[0-9.eE+-]+|true|false|null", text) and not text.endswith(" "):
        return text
    clean = "".join(c if c.isprintable() else " " for c in text).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{clean}"'


def _groups(text: Text) -> _Groups:
    """Names for what is long, or said more than once."""
    found = _Groups()
    used: Counter[Addresses] = Counter()
    holders: dict[Addresses, list[Entry]] = {}
    for entry in text.entries:
        for members in _sides(entry):
            used[members] += 1
            holders.setdefault(members, []).append(entry)
    given = dict(text.group_names)
    taken: set[str] = {"any", "none", "self"}
    for members, count in used.items():
        length = len(texts(members))
        if length > FEW or (length > 1 and count > 1) or (members in given and count):
            name = _free(given.get(members) or _group_name(members, holders[members]), taken)
            found.addresses[members] = name
    devices_taken: set[str] = set()
    every = {name for entry in text.entries for name in (*entry.interfaces, *entry.out_interfaces)}
    for entry in text.entries:
        for devices in (entry.interfaces, entry.out_interfaces):
            if devices and devices not in found.interfaces:
                found.interfaces[devices] = _free(_device_name(devices, every), devices_taken)
    found.addresses = dict(sorted(found.addresses.items(), key=lambda item: item[1]))
    found.interfaces = dict(sorted(found.interfaces.items(), key=lambda item: item[1]))
    return found


def _sides(entry: Entry) -> Iterator[Addresses]:
    """The sets of addresses that an entry lists."""
    for side in (entry.source, entry.destination):
        if side is None or side == ANYWHERE:
            continue
        split = excepted(side)
        if split is None:
            if not all(side.is_every(f) for f in side.families()):
                yield side
        else:
            yield split[1]


def _group_name(members: Addresses, holders: list[Entry]) -> str:
    if members == PRIVATE:
        return "private"
    if len(holders) == 1:
        suffix = "blocked" if holders[0].section == "block" else f"{holders[0].name}-from"
        if holders[0].destination is not None and members == holders[0].destination:
            suffix = f"{holders[0].name}-to"
        if excepted(holders[0].source):
            suffix = f"not-{holders[0].name}"
        return slug(suffix) or "group"
    if any(excepted(h.source) for h in holders):
        return "excluded"
    if members <= PRIVATE:
        return "inside"
    return "trusted" if all(h.section == "services" for h in holders) else "group"


def _device_name(devices: tuple[str, ...], every: Set[str]) -> str:
    """`eth0-eth1`; of many `all-but-eth0`, where those are all others that the policy names, or `eth0-and-4-more`."""
    if devices == ("*",):
        return "every"
    plain = [device.rstrip("*") for device in devices]
    left = sorted(name.rstrip("*") for name in every - set(devices))
    if len(plain) > 2 and 0 < len(left) < 3:
        return slug("all-but-" + "-".join(left)) or "devices"
    whole = "-".join(plain)
    if len(plain) > 3 or (len(plain) > 1 and len(whole) > MOST_NAME):
        whole = f"{plain[0]}-and-{len(plain) - 1}-more"
    return slug(whole) or "devices"


MOST_NAME = 24


def _free(name: str, taken: set[str]) -> str:
    found, number = name, 2
    while found in taken:
        found, number = f"{name[:27]}-{number}", number + 1
    taken.add(found)
    return found


def _entry(entry: Entry, groups: _Groups) -> list[str]:
    fields = list(_fields(entry, groups))
    lines = [f"  # {entry.evidence}"] if entry.evidence else []
    if entry.section == "block":
        if len(fields) == 1 and fields[0][0] == "from" and not entry.description:
            # As a source alone: what this host itself reaches there is another matter.
            return [*lines, *_list("  - from: ", fields[0][1])]
        head, indent = "  - ", "    "
    else:
        head, indent = f"  {entry.name}: ", "    "
    flow = head + "{" + ", ".join(f"{key}: {_flow(values)}" for key, values in fields) + "}"
    if len(flow) <= WIDTH:
        return [*lines, flow]
    lines.append(head.rstrip()) if entry.section != "block" else None
    for number, (key, values) in enumerate(fields):
        start = head if entry.section == "block" and number == 0 else indent
        lines += _list(f"{start}{key}: ", values)
    return lines


def _flow(values: list[str]) -> str:
    return values[0] if len(values) == 1 else f"[{', '.join(values)}]"


def _list(start: str, values: list[str]) -> list[str]:
    """A value or a list of them, on as many lines as it takes."""
    line = start + _flow(values)
    if len(line) <= WIDTH or len(values) == 1:
        return [line]
    indent = " " * (len(start) - len(start.lstrip()) + 2)
    if start.lstrip().startswith("- "):
        indent += "  "
    lines = [start.rstrip() + " ["]
    current = indent
    for value in values:
        if len(current) + len(value) + 2 > WIDTH:
            lines.append(current.rstrip())
            current = indent
        current += f"{value}, "
    return [*lines, current.rstrip(" ,"), indent[:-2] + "]"]


Fields = Iterator[tuple[str, list[str]]]


def _fields(entry: Entry, groups: _Groups) -> Fields:
    """The keys of an entry with their values, in the order in which the language lists them."""
    if entry.ports != ["any"] or entry.section != "block":
        yield "ports", entry.ports
    if entry.source_ports:
        yield "source_ports", entry.source_ports
    far = entry.destination if entry.section == "egress" or (entry.section == "block" and entry.destination) else None
    if entry.section == "egress":
        if entry.source != ANYWHERE:
            yield "from", _addresses(entry.source, groups)
        yield from _far("to", far or ANYWHERE, groups)
    elif entry.section == "block" and entry.destination is not None:
        yield from _far("to", entry.destination, groups)
    else:
        yield from _far("from", entry.source, groups)
        if entry.destination is not None:
            yield "to", _addresses(entry.destination, groups)
    if entry.interfaces:
        yield "in", [groups.interfaces[entry.interfaces]]
    if entry.out_interfaces:
        yield "out", [groups.interfaces[entry.out_interfaces]]
    yield from _rest(entry)


def _rest(entry: Entry) -> Fields:
    if entry.user:
        yield "user", [entry.user]
    if entry.target:
        yield "target", [f'"{entry.target}"']
    if entry.masquerade:
        yield "masquerade", [_quoted(entry.masquerade)]
    if entry.mss:
        yield "mss", ["path"]
    if entry.limit is not None and entry.limit.rate:
        yield "rate", [entry.limit.rate]
    if entry.limit is not None and entry.limit.connections:
        yield "max_connections", [str(entry.limit.connections)]
    if entry.description:
        yield "description", [f'"{_inside(entry.description)}"']


def _inside(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')


def _far(key: str, members: Addresses, groups: _Groups) -> Fields:
    split = excepted(members)
    if split is None:
        yield key, _addresses(members, groups)
    else:
        yield key, _addresses(split[0], groups)
        yield "except", _addresses(split[1], groups)


def _addresses(members: Addresses, groups: _Groups) -> list[str]:
    if members == ANYWHERE:
        return ["any"]
    if members in groups.addresses:
        return [groups.addresses[members]]
    return [_quoted(text) for text in texts(members)]


def comment_lines(said: Iterable[str], width: int = 100) -> list[str]:
    """Sentences as comment lines of a comfortable width."""
    import textwrap

    return [line for sentence in said for line in textwrap.wrap(sentence, width, subsequent_indent="  ") or [""]]
