"""One look at a host with a policy in hand: what it says now, and every difference from the policy."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

from portctl import observe, sysctl
from portctl.apply import history
from portctl.apply.reading import listings
from portctl.apply.run import chosen
from portctl.backends.base import Guest
from portctl.command import Host
from portctl.observe import Observed
from portctl.observe.boot import boot_state
from portctl.pipeline import Compiled
from portctl.plan.guest import WRITE_IT, uncalled
from portctl.plan.state import desire
from portctl.verify import Finding, compare, setting_names


@dataclass(frozen=True, slots=True)
class Inspection:
    """What was seen, and the findings, the worst first. `backend` is the one that the policy is rendered for there."""

    compiled: Compiled
    backend: str
    observed: Observed
    findings: tuple[Finding, ...]

    def looked_at(self) -> str:
        """In words: how much was compared, and where."""
        services, listeners = len(self.compiled.policy.services), len(self.observed.listeners or ())
        where = f" on {self.observed.facts.distribution}" if self.observed.facts.distribution else ""
        sockets = f"{listeners} listening socket{'' if listeners == 1 else 's'}"
        return f"{services} service{'' if services == 1 else 's'}, {sockets}, {self.backend}{where}"


def inspect(
    host: Host, compiled: Compiled, at: datetime, backend: str | None = None, boot: bool = True, anchor: bool = False
) -> Inspection:
    """Asks a host and compares; nothing is changed. `boot`: also what its next boot would load. Raises `Problems`,
    `HostError`."""
    known = observe.facts(host)
    mine = chosen(known, last_backend(host), backend, anchor)
    desired = desire(compiled.ruleset, mine, known)
    advertised = [interface.name for interface in known.interfaces if interface.advertised]
    wanted = setting_names(compiled.ruleset, known.system, advertised)
    observed = observe.observe(host, observe.readers(known), wanted, known)
    state = boot_state(host) if boot else None
    if boot and state is None:
        observed = replace(observed, unknown=(*observed.unknown, "what the next boot would load (needs root)"))
    rules = (*desired.parts, *sysctl.PARTS)
    files = {f"{part}/{file}": text for part, each in desired.bundles.items() for file, text in each.items()}
    told = listings(mine, observed)
    findings = compare(
        compiled.ruleset,
        observed,
        desired.program,
        at,
        boot=state,
        files={path: text for path, text in files.items() if path.rpartition("/")[2] in rules},
        problems=compiled.problems,
        inside=mine.parse(told) if isinstance(mine, Guest) and told else None,
    )
    if isinstance(mine, Guest) and told and (missing := mine.lacking(told, desired.bundles[mine.NAME])):
        findings = [Finding("drift", "error", compiled.ruleset.name, uncalled(missing), WRITE_IT), *findings]
    return Inspection(compiled, mine.NAME, observed, tuple(findings))


def last_backend(host: Host) -> str | None:
    """The back end of the last confirmed apply of a host, if there was one."""
    force = history.in_force(history.records(host))
    return force.about.backend if force else None
