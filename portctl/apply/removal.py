"""Taking portctl away from a host: its rules, sets, files and records go, its settings and what `--exclusive` took
from others come back as they were before the first apply."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from portctl import backends, observe, sysctl
from portctl.apply import boot, history, reading, returning, transaction
from portctl.apply.paths import HISTORY, PENDING
from portctl.apply.reading import holds
from portctl.apply.run import Talk
from portctl.apply.steps import Refused, call, dump, must
from portctl.apply.transaction import Window
from portctl.backends.base import Backend, Neighbour
from portctl.command import Host
from portctl.observe import Facts, Observed
from portctl.plan import exclusive


@dataclass(frozen=True, slots=True)
class Removal:
    """What of portctl's is on a host. `parts` are the bundles that take it out of the kernel, in their order."""

    facts: Facts
    records: tuple[history.Record, ...]
    parts: Mapping[str, Mapping[str, str]]
    remains: tuple[str, ...]
    """Paths of portctl's own on its disk."""
    closing: tuple[str, ...] = ()
    """The packet filters that deny whatever is left to them, once portctl's rules are gone."""

    @property
    def empty(self) -> bool:
        return not (self.parts or self.remains)

    @property
    def may_close(self) -> bool:
        """Rules of others come back or are all that is left, which may close what is open now."""
        return bool(self.closing) or any(part.startswith(exclusive.PART) for part in self.parts)

    def lines(self) -> list[str]:
        """In words, a line each."""
        found = []
        for part, files in self.parts.items():
            if part == returning.PART:
                values = sysctl.parse({sysctl.FILE: files[sysctl.FILE]})
                found += [f"sets {name} back to {value}" for name, value in values.items()]
            elif part.startswith(exclusive.PART):
                record = part.rpartition("-")[2]
                found.append(f"gives back the rules of others that record {record} took away with --exclusive")
            else:
                name = part.removeprefix("other-")
                then = ", which then denies whatever no rule of others lets through" if name in self.closing else ""
                found.append(f"takes portctl's rules and sets out of {name}{then}")
        found += [f"removes {path}" for path in self.remains]
        if self.records:
            number = len(self.records)
            found.append(f"forgets {number} record{'' if number == 1 else 's'}: no rollback leads back")
        return found


def look(host: Host) -> Removal:
    """What would be taken away. Raises `Refused` where it cannot be seen."""
    facts = observe.facts(host)
    records = tuple(history.records(host))
    readers = observe.readers(facts)
    observed = observe.observe(host, readers, (), facts)
    if observed.program is None:
        raise Refused("the loaded rules cannot be read: " + ("; ".join(observed.unknown) or "root is needed"))
    parts = _given_back(host, records)
    held = _held(readers, observed)
    parts |= {f"other-{each.NAME}": exclusive.away(each) for each in held}
    closing = tuple(e.NAME for e in held if isinstance(e, Neighbour) and e.closes(reading.listings(e, observed)))
    if back := returning.bundle(host, records, ()):
        parts[returning.PART] = back
    return Removal(facts, records, parts, tuple(must(host, "remains").splitlines()), closing)


def _held(readers: list[Backend], observed: Observed) -> list[Backend]:
    return [each for each in readers if holds(each, observed) or _within_others(each, observed)]


def _within_others(backend: Backend, observed: Observed) -> bool:
    """Whether there are rules of portctl's in an anchor of somebody else's rule set."""
    try:
        return holds(backends.load(backends.anchored(backend.NAME)), observed)
    except KeyError:
        return False


def _given_back(host: Host, records: tuple[history.Record, ...]) -> dict[str, Mapping[str, str]]:
    """What `--exclusive` took away since portctl had nothing loaded, the last taken first."""
    found: dict[str, Mapping[str, str]] = {}
    force = history.in_force(list(records))
    if force is None:
        return found
    since = max((r.number for r in records if r.confirmed and r.about.nothing), default=0)
    for record in reversed(records):
        if since < record.number <= force.number and record.confirmed and record.about.kind == "apply":
            folder = f"{HISTORY}/{record.number}/before/{exclusive.PART}"
            if files := history.below(dump(host, folder), folder):
                found[f"{exclusive.PART}-{record.number}"] = files
    return found


def remove(host: Host, who: str, window: Window, talk: Talk, wait: int = 0) -> str:
    """Takes everything of portctl's away; how it ended. Raises `Refused`, `RolledBack`, `HostError`.

    `talk.show` is not asked: what is found is said by `look`, before.
    """
    held = transaction.lock(host, who, wait)
    try:
        found = look(host)
        if found.empty:
            return _forget(host, held, found)
        transaction.begin(held, found.parts)
        transaction.check_and_save(held)
        old = history.by_part(history.below(dump(host, f"{PENDING}/old"), f"{PENDING}/old"))
        files = {"about.json": history.about_text(_about(who, found))}
        held = transaction.record(held, files, boot.nothing(sysctl.BOOT_FILE, found.facts.init), tuple(found.parts))
    except BaseException as error:
        transaction.give_up(held, error)
        raise
    if window.seconds:
        talk.say(talk.confirming.format(seconds=window.seconds))
    transaction.carry_out(held, window, lambda: _left(host, found), not_back=lambda: reading.not_back(host, old))
    # The transaction has ended and let its lock go; if somebody was faster now, there is something to keep.
    return _forget(host, transaction.lock(host, who, wait), found)


def _forget(host: Host, held: transaction.Transaction, found: Removal) -> str:
    result = call(host, "forget", held.lock)
    if not result.ok:
        transaction.abandon(held)
        raise Refused(f"the rules are gone, but not all files: {result.stderr.strip()}")
    return "nothing of portctl's was there" if found.empty else "removed"


def _about(who: str, found: Removal) -> history.About:
    force = history.in_force(list(found.records))
    return history.About(
        policy="",
        who=who,
        when=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        backend=force.about.backend if force else "",
        kind="remove",
        follows=force.number if force else None,
        parts=tuple(found.parts),
        nothing=True,
    )


def _left(host: Host, found: Removal) -> str | None:
    """What is still there after it was taken away."""
    wanted = sysctl.parse({"": found.parts.get(returning.PART, {}).get(sysctl.FILE, "")})
    readers = observe.readers(found.facts)
    observed = observe.observe(host, readers, wanted, found.facts)
    if left := [each.NAME for each in _held(readers, observed)]:
        return f"rules of portctl's are still loaded: {', '.join(left)}"
    for name, value in wanted.items():
        if observed.settings.get(name) != value:
            return f"{name} reads {observed.settings.get(name, 'nothing')} after it was set to {value}"
    return None
