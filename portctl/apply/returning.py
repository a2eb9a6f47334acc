"""Settings that the policy in force has set and the new one no longer names go back to what they were before portctl.

A value that somebody else has changed since is theirs, and stays.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

from portctl import sysctl
from portctl.apply import history
from portctl.apply.paths import HISTORY
from portctl.apply.steps import dump
from portctl.command import Host

PART = "sysctl-returned"
"""The part of a transaction that sets them back. It is never part of what is loaded at boot."""
_HEAD = "# Settings that the policy no longer names, and their values from before portctl set them.\n"
_LINE = re.compile(r"^(-?)([A-Za-z0-9_][A-Za-z0-9_./@:+-]*)\s*=\s*(.*)$", re.MULTILINE)
_SWITCH = re.compile(r"net\.(ipv[46])\.(?:ip_forward|conf\.all\.forwarding)")


def bundle(host: Host, records: tuple[history.Record, ...], wanted: Iterable[str]) -> dict[str, str]:
    """The files of `PART`; none where everything that was set is still `wanted`, or reads otherwise by now.

    `records` are the host's, the oldest first; `wanted` the names that the new policy sets.
    """
    force = history.in_force(list(records))
    if force is None or not {sysctl.NAME, PART} & {*force.about.parts}:
        return {}
    paths = [
        f"{HISTORY}/{record.number}/{when}/{part}/{sysctl.FILE}"
        for record in _chain(records, force)
        for when in ("before", "after")
        for part in _parts(record)
    ]
    told = history.below(dump(host, *paths), HISTORY)
    keep = set(wanted)
    dropped = {name: value for name, value in _values(told, force, "after").items() if name not in keep}
    if not dropped:
        return {}
    now = _now(host, dropped)
    lines: list[tuple[str, str, str]] = []
    # The other way round than they were set: forwarding is off before an interface stops listening to advertisements.
    for name, value in reversed(dropped.items()):
        earlier = list(_lines(told, records, force, name))
        if now.get(name) == value and ("", name, value) not in earlier:
            lines += (line for line in earlier if line[1] not in keep)
    if not lines:
        return {}
    text = "".join(f"{prefix}{name} = {value}\n" for prefix, name, value in lines)
    return {sysctl.FILE: _HEAD + text, **sysctl.scripts()}


def _parts(record: history.Record) -> tuple[str, ...]:
    """What a record has set. A rollback sets again what the record that it takes back had set back."""
    return (sysctl.NAME, PART) if record.about.kind == "rollback" else (sysctl.NAME,)


def _chain(records: tuple[history.Record, ...], force: history.Record) -> Iterator[history.Record]:
    """The record in force, the one that was in force before it, and so on."""
    by_number = {record.number: record for record in records}
    found: history.Record | None = force
    while found is not None:
        yield found
        earlier = found.about.follows
        found = by_number.get(earlier) if earlier is not None and earlier < found.number else None


def _values(told: Mapping[str, str], record: history.Record, when: str) -> dict[str, str]:
    return sysctl.parse({"": _text(told, record, when)})


def _text(told: Mapping[str, str], record: history.Record, when: str) -> str:
    return "".join(told.get(f"{record.number}/{when}/{part}/{sysctl.FILE}", "") for part in _parts(record))


def _now(host: Host, names: Iterable[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for command in sysctl.questions(names).values():
        found |= sysctl.parse({"": host.run(command, 60.0).stdout})
    return found


def _lines(
    told: Mapping[str, str], records: tuple[history.Record, ...], force: history.Record, name: str
) -> Iterator[tuple[str, str, str]]:
    """(`-` or nothing, name, value) of a setting before portctl set it first, and of what it changed with it.

    Linux sets forwarding of every interface with that of all (ip-sysctl.rst, `ip_forward`): they come back too."""
    first: history.Record | None = None
    for record in _chain(records, force):
        if name not in _values(told, record, "after"):
            break
        first = record
    if first is None:
        return
    text = _text(told, first, "before")
    family = _SWITCH.fullmatch(name)
    for prefix, each, value in _LINE.findall(text):
        beside = family is not None and each.startswith(f"net.{family[1]}.conf.") and bool(prefix)
        redirects = family is not None and each == "net.ipv4.conf.all.accept_redirects" and family[1] == "ipv4"
        if each == name or beside or redirects:
            yield prefix, each, " ".join(value.split())
