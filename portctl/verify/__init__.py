"""Three things held against each other: what the policy says, what the kernel has loaded, what listens."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import datetime

from portctl.listeners import Listener
from portctl.net import LOOPBACK_ADDRESSES
from portctl.observe.boot import BootState
from portctl.observe.types import Observed
from portctl.problems import Problem
from portctl.program import Program
from portctl.ruleset import Ruleset
from portctl.verify import foreign, packets, reach, rules, settings, sockets
from portctl.verify.boot import persistence
from portctl.verify.finding import Code, Finding, View
from portctl.verify.settings import names as setting_names
from portctl.verify.sockets import Published

__all__ = ["CODES", "Code", "Finding", "compare", "setting_names", "wrong"]

CODES: tuple[Code, ...] = Code.__args__  # type: ignore[attr-defined]
"""In the order in which they are reported."""


def compare(
    ruleset: Ruleset,
    observed: Observed,
    wanted: Program | None,
    at: datetime,
    boot: BootState | None = None,
    files: Mapping[str, str] | None = None,
    problems: Iterable[Problem] = (),
    inside: Program | None = None,
) -> list[Finding]:
    """Every difference, the worst first.

    `wanted` is what the policy renders to for this host, read back; `files` the same as texts {part/file: text}, which
    the next boot should load; `boot` what it would load. `problems` are those of resolving the policy, for what has
    expired. `inside` is portctl's own part where it lives within somebody else's rule set.
    `at` is the moment, UTC. Nothing is asked, nothing changed.
    """
    view = _view(ruleset, observed, wanted, at, inside)
    found = list(_rules(view, observed))
    found += settings.drift(view)
    found += settings.overlap(view)
    if boot is not None:
        found += persistence(view, boot, files or {})
    found += _expired(view, problems)
    found += _unknown(observed)
    return sorted(dict.fromkeys(found), key=_order)


def wrong(findings: Iterable[Finding]) -> bool:
    """Whether there is a difference: anything but notes. What could not be seen is not "all well"."""
    return any(finding.severity != "note" for finding in findings)


def _order(finding: Finding) -> tuple[int, int, str]:
    return ("error", "warning", "note").index(finding.severity), CODES.index(finding.code), finding.subject


def _view(ruleset: Ruleset, observed: Observed, wanted: Program | None, at: datetime, inside: Program | None) -> View:
    own = frozenset(a for a in observed.facts.own_addresses() if a not in LOOPBACK_ADDRESSES)
    view = View(ruleset, observed.facts, observed.program, wanted, observed.settings, at, own, inside=inside)
    return replace(view, suspects=rules.suspects(observed.program, wanted))


def _rules(view: View, observed: Observed) -> Iterator[Finding]:
    """What has to do with packets and sockets."""
    yield from rules.drift(view)
    yield from rules.unused(view)
    published = _published(view)
    for port in published:
        if finding := reach.exposed_published(view, port):
            yield finding
    yield from reach.closed(view, observed.listeners or (), published)
    yield from foreign.foreign(view)
    if observed.listeners is None:
        return
    yield from sockets.declared(view, observed.listeners, published)
    exposed: set[Listener] = set()
    for listener in observed.listeners:
        if finding := reach.exposed(view, listener, published):
            exposed.add(listener)
            yield finding
    yield from sockets.undeclared(view, observed.listeners, frozenset(exposed))


def _published(view: View) -> list[Published]:
    """The ports of this host that somebody else's rules turn elsewhere."""
    if view.program is None:
        return []
    found: dict[tuple[int, int], Published] = {}
    for protocol, port, line, chain in packets.translated_ports(view.program, view.own):
        text = f"{chain.table} {chain.name}: {line.text}"
        found.setdefault((protocol, port), Published(protocol, port, text))
    return list(found.values())


def _expired(view: View, problems: Iterable[Problem]) -> Iterator[Finding]:
    """Entries that the policy still holds though `until` has passed, with the rules that are still loaded for them."""
    chains = view.mine.own().chains if view.mine else ()
    for problem in problems:
        if problem.code != "expired":
            continue
        name = problem.message.partition("`")[2].partition("`")[0]
        loaded = [(chain, line) for chain in chains for line in chain.lines if name and line.comment == name]
        yield Finding(
            "expired",
            "warning",
            name or view.ruleset.name,
            problem.message + ("; rules of it are still loaded" if loaded else ""),
            "portctl apply takes its rules away; then delete the entry, or move its `until`",
            tuple(f"{chain.table} {chain.name}: {line.text}" for chain, line in loaded[:4]),
            problem.span,
        )


OTHER_LAYERS = ("table bridge ", "table arp ")
"""Frames between bridge ports and ARP are not judged by a policy."""


def _unknown(observed: Observed) -> Iterator[Finding]:
    lines = observed.program.foreign if observed.program else ()
    for severity, found in (
        ("note", [line for line in lines if line.startswith(OTHER_LAYERS)]),
        ("warning", [line for line in lines if not line.startswith(OTHER_LAYERS)]),
    ):
        if found:
            yield Finding(
                "unknown",
                "note" if severity == "note" else "warning",
                "host",
                "these loaded lines are not judged by portctl, which does not know what they do to a packet",
                "read them; what they deny or let in is not in this report",
                tuple(found[:8]) + ((f"and {len(found) - 8} more",) if len(found) > 8 else ()),
            )
    for words in observed.unknown:
        yield Finding(
            "unknown",
            "warning",
            "host",
            f"could not be seen: {words}",
            "run verify as root" if not observed.facts.root else "see what the tool says, or install it",
        )
