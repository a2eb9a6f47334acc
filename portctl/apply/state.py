"""What a host says of itself afterwards: is something pending, what is in force, has somebody changed it."""

from __future__ import annotations

from dataclasses import dataclass

from portctl import backends, observe, sysctl
from portctl.apply import boot, boot_bsd, history
from portctl.apply.paths import BOOT, CURRENT
from portctl.apply.run import holds, loaded, same_filter
from portctl.apply.steps import Refused, call
from portctl.backends.base import is_part
from portctl.command import Command, Host
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
    findings: list[str] = []
    if pending is None:
        findings += _drift(host, force)
    findings += _boot(host, force)
    findings += full_tables(host)
    if force.outcome != "confirmed":
        findings.append(f"record {force.number}: {force.outcome}")
    return Status(force, pending, tuple(findings), notes)


def _ended(record: history.Record) -> str:
    if record.outcome == "pending":
        return "was never confirmed: it was interrupted, or a reboot ended it"
    return f"{record.outcome}" + (f" ({record.why})" if record.why else "")


def _drift(host: Host, force: history.Record) -> list[str]:
    """Differences between the kernel and the bundles that were confirmed."""
    bundles = history.by_part(history.below(call(host, "dump", CURRENT).stdout, CURRENT))
    backend = backends.load(force.about.backend)
    rules = {name: text for name, text in bundles.get(backend.NAME, {}).items() if is_part(backend, name)}
    settings = sysctl.parse({name: text for name, text in bundles.get(sysctl.NAME, {}).items() if name in sysctl.PARTS})
    known = observe.facts(host)
    settings = {name: sysctl.in_ticks(value, known.slowhz) for name, value in settings.items()}
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
    if not in_sync(now, backend.parse(rules)):
        found.append("drift: " + _difference(now, backend.parse(rules)))
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


def _boot(host: Host, force: history.Record) -> list[str]:
    """What would not be as confirmed after a reboot."""
    dumped = call(host, "dump", f"{BOOT}/current", boot.SCRIPT).stdout
    at_boot = history.below(dumped, f"{BOOT}/current")
    confirmed = history.below(call(host, "dump", CURRENT).stdout, CURRENT)
    if not at_boot or boot.SCRIPT not in dumped:
        return ["not persistent: nothing of portctl's would be loaded at the next boot"]
    parts = (force.about.backend, sysctl.NAME)  # the others did something once, and have nothing to do at boot
    different = [  # a part that holds nothing is not among the boot files
        name for name, text in confirmed.items() if name.partition("/")[0] in parts and at_boot.get(name, "") != text
    ]
    found = [f"not persistent: {name} of the boot files is not what was confirmed" for name in different]
    return found + [f"not persistent: {line}" for line in _checked(host)]


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
