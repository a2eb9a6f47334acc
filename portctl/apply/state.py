"""What a host says of itself afterwards: is something pending, what is in force, has somebody changed it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from portctl import backends, observe, sysctl
from portctl.apply import boot, boot_bsd, history, returning
from portctl.apply.paths import BOOT, CURRENT, HISTORY
from portctl.apply.reading import holds, listings, loaded, same_filter
from portctl.apply.steps import Refused, call
from portctl.apply.transaction import Bundles
from portctl.backends.base import Backend, Guest, is_part
from portctl.command import Command, Host
from portctl.listeners.proc import sections
from portctl.observe import Facts
from portctl.plan.guest import uncalled
from portctl.plan.state import in_sync
from portctl.program import Program

_FULL = 65536
"""Sources that the table of a limit holds (the policy language, "Limits")."""


@dataclass(frozen=True, slots=True)
class Status:
    """`findings` are differences in words; there are none on a host that is as it was confirmed."""

    record: history.Record | None
    pending: str | None
    """Who is applying what, and for how long it can still be confirmed."""
    findings: tuple[str, ...]
    notes: tuple[str, ...] = ()
    init: str = "other"
    """What boots the host (`Facts.init`)."""


def status(host: Host) -> Status:
    """Compares what was confirmed last with what is loaded and what would be loaded at boot."""
    words = call(host, "state").stdout.split(maxsplit=3)
    pending = f"record {words[1]} waits {max(0, int(words[2]))} more seconds to be confirmed" if words else None
    if words and len(words) > 3:
        pending = f"{pending}; {words[3].strip()} applied it"
    records = history.records(host)
    force = history.in_force(records)
    notes = tuple(f"record {r.number} {_ended(r)}" for r in records[-1:] if not r.confirmed and pending is None)
    if force is None:
        return Status(None, pending, (), notes)
    known = observe.facts(host)
    bundles = history.by_part(history.below(call(host, "dump", CURRENT).stdout, CURRENT))
    written = _written(host, force)
    findings: list[str] = []
    if pending is None:
        findings += _drift(host, force, known, bundles, written)
    findings += _boot(host, force, known, bundles, written)
    findings += full_tables(host)
    if force.outcome != "confirmed":
        findings.append(f"record {force.number}: {force.outcome}")
    return Status(force, pending, tuple(findings), notes, known.init)


def _ended(record: history.Record) -> str:
    if record.outcome == "pending":
        return "was never confirmed: it was interrupted, or a reboot ended it"
    return f"{record.outcome}" + (f" ({record.why})" if record.why else "")


def _written(host: Host, force: history.Record) -> boot.Boot:
    """What the record in force wrote for the next boot."""
    folder = f"{HISTORY}/{force.number}/boot"
    return boot.from_record(history.below(call(host, "dump", folder).stdout, folder), None)


def _confirmed(bundles: Bundles, written: boot.Boot, backend: Backend) -> Program:
    """The rules that were confirmed. A rollback over two packet filters brought them back as somebody else's, with
    `exclusive`: what was written for the boot says which they were."""
    return _rules(bundles if backend.NAME in bundles else history.by_part(written.bundle or {}), backend)


def _rules(bundles: Bundles, backend: Backend) -> Program:
    files = bundles.get(backend.NAME, {})
    return backend.parse({name: text for name, text in files.items() if is_part(backend, name)})


def _settings(files: Mapping[str, str], known: Facts) -> dict[str, str]:
    """{name: value in the kernel's own unit} of the files of a part."""
    found = sysctl.parse({name: text for name, text in files.items() if name in sysctl.PARTS})
    return {name: sysctl.in_ticks(value, known.slowhz) for name, value in found.items()}


def _in_force(bundles: Bundles, written: boot.Boot, known: Facts) -> dict[str, str]:
    """The settings that the policy in force makes, {name: value}. A rollback also brought back what that policy does
    not name, and every interface's own forwarding: this is the host's, whatever becomes of it."""
    loaded_then = {
        **_settings(bundles.get(returning.PART, {}), known),
        **_settings(bundles.get(sysctl.NAME, {}), known),
    }
    at_boot = _settings(history.by_part(written.bundle or {}).get(sysctl.NAME, {}), known)
    return {name: loaded_then.get(name, value) for name, value in at_boot.items()}


def _drift(host: Host, force: history.Record, known: Facts, bundles: Bundles, written: boot.Boot) -> list[str]:
    """Differences between the kernel and the bundles that were confirmed."""
    backend = backends.load(force.about.backend)
    settings = _in_force(bundles, written, known)
    everything = tuple(observe.readers(known))
    observed = observe.observe(host, everything, settings, known)
    found = [
        f"{other.NAME} holds rules of portctl's too: only one packet filter should (`apply --exclusive`)"
        for other in everything
        if not same_filter(other, backend) and holds(other, observed)
    ]
    try:
        now = loaded(backend, observed)
    except Refused as refused:
        return [*found, str(refused)]
    wanted = _confirmed(bundles, written, backend)
    if not in_sync(now, wanted):
        found.append("drift: " + _difference(now, wanted))
    files = bundles.get(backend.NAME, {})
    if isinstance(backend, Guest) and files and (missing := backend.lacking(listings(backend, observed), files)):
        found.append(f"drift: {uncalled(missing)}")
    for name, value in settings.items():
        if observed.settings.get(name) != value:
            found.append(f"drift: {name} is {observed.settings.get(name, 'not there')}, was set to {value}")
    return found


def _difference(now: Program, wanted: Program) -> str:
    """Where two programs differ, in words."""
    if not now.own().chains:
        return "none of portctl's rules are loaded"
    here = {(c.table, c.family, c.name): c for c in now.own().chains}
    there = {(c.table, c.family, c.name): c for c in wanted.own().chains}
    wrong = sorted({key[2] for key in here.keys() | there.keys() if here.get(key) != there.get(key)})
    if not wrong:
        return "the rules are as confirmed, but others stand before them, or they are not reached"
    return f"the rules in {', '.join(wrong[:6])}{', …' if len(wrong) > 6 else ''} are not those that were confirmed"


def _boot(host: Host, force: history.Record, known: Facts, bundles: Bundles, written: boot.Boot) -> list[str]:
    """What would not be as confirmed after a reboot."""
    texts = written.texts()
    dumped = call(host, "dump", f"{BOOT}/current", *texts, *written.links).stdout
    there = sections(dumped)
    at_boot = history.below(dumped, f"{BOOT}/current")
    if not at_boot or boot.SCRIPT not in there:
        return ["not persistent: nothing of portctl's would be loaded at the next boot"]
    recorded = written.bundle or {}
    wrong = [f"{name} of the boot files" for name in recorded if at_boot.get(name) != recorded[name]]
    wrong += [path for path, text in texts.items() if written.shown(path, there.get(path, "")) != text]
    wrong += [path for path in written.links if path not in there]
    found = [f"not persistent: {name} is not what was confirmed" for name in sorted(wrong)]
    found += [f"not persistent: {line}" for line in _otherwise(force, known, bundles, written)]
    return found + [f"not persistent: {line}" for line in _checked(host)]


def _otherwise(force: history.Record, known: Facts, bundles: Bundles, written: boot.Boot) -> Iterator[str]:
    """What was written for the next boot but is not what was loaded: a rollback brings back the state that it found,
    with what somebody had changed in it by hand, and the boot files of the record before."""
    backend = backends.load(force.about.backend)
    at_boot = history.by_part(written.bundle or {})
    if _rules(at_boot, backend).own() != _confirmed(bundles, written, backend).own():
        yield "the boot would load other rules than those in force, which were once changed by hand"
    in_force = _in_force(bundles, written, known)
    for name, value in _settings(at_boot.get(sysctl.NAME, {}), known).items():
        if in_force[name] != value:
            yield f"{name} would be set to {value}, and {in_force[name]} is in force"


def _checked(host: Host) -> list[str]:
    """What would keep a BSD's or macOS's own boot from loading the rules, in words."""
    said = host.run(Command(("sh", "-c", f"[ ! -e {boot_bsd.CHECK} ] || exec sh {boot_bsd.CHECK}")), 60.0)
    return [] if said.ok else (said.stdout + said.stderr).splitlines()


def full_tables(host: Host) -> list[str]:
    """Tables of limits that are full: new sources are dropped."""
    counted = call(host, "tables").stdout
    found = []
    for line in counted.splitlines():
        name, _, number = line.rpartition(" ")
        if number.isdigit() and int(number) >= _FULL:
            found.append(f"the table of {name} is full ({number} sources): new ones are dropped")
    return found
