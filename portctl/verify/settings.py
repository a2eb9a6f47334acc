"""Kernel settings: `sysctl-drift`, `ephemeral-overlap`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import reduce

from portctl import sysctl
from portctl.net import Ranges
from portctl.ruleset import EVERY_PORT, SCTP, TCP, UDP, Rule, Ruleset
from portctl.sysctl import ports_of
from portctl.verify.finding import Finding, View, flows_text
from portctl.verify.sockets import EPHEMERAL

RANGE = "net.ipv4.ip_local_port_range"


def names(ruleset: Ruleset, system: str, advertised: Iterable[str] = ()) -> tuple[str, ...]:
    """The settings to ask a host for, before `compare`."""
    wanted = [name for name, _, _ in sysctl.settings(ruleset, system, advertised)]
    return tuple(dict.fromkeys([*wanted, *sysctl.port_range(system), *sysctl.reserved(system)]))


def drift(view: View) -> Iterator[Finding]:
    """Settings that the host has otherwise than the policy."""
    advertised = [interface.name for interface in view.facts.interfaces if interface.advertised]
    for name, value, setting in sysctl.settings(view.ruleset, view.facts.system, advertised):
        present = view.settings.get(name)
        value = sysctl.in_ticks(value, view.facts.slowhz)
        if present is not None and sysctl.normal(name, present) != value:
            yield Finding(
                "sysctl-drift",
                "error",
                name,
                f"should be {value or 'empty'} and is {present or 'empty'}",
                "portctl apply; then look for what changed it (/etc/sysctl.d, /etc/ufw/sysctl.conf, a program)",
                (f"{name} = {present}",),
                setting.span if setting else None,
            )


def overlap(view: View) -> Iterator[Finding]:
    """Declared ports that a client program may get before the service does."""
    wanted = {name: value for name, value, _ in sysctl.settings(view.ruleset, view.facts.system)}
    now = {**view.settings, **wanted}
    linux = view.facts.system == "Linux"
    first, kept = sysctl.port_range(view.facts.system), sysctl.reserved(view.facts.system)
    range_now = now.get(RANGE, EPHEMERAL) if linux else "-".join(now.get(name, "") for name in first[:2])
    chosen = ports_of(range_now)
    reserved = reduce(Ranges.__and__, (ports_of(now.get(name, "")) for name in kept)) if kept else Ranges()
    found = [(rule, ports) for rule in view.openings() if (ports := _ports(rule) & (chosen - reserved))]
    everything = reserved
    for _, ports in found:
        everything |= ports
    low, high = next(chosen.pairs(), (0, 0))
    for rule, ports in found:
        flows = [replace(flow, ports=flow.ports & ports) for flow in rule.flows or () if flow.ports & ports]
        reserve = ",".join(str(a) if a == b else f"{a}-{b}" for a, b in everything.pairs())
        yield Finding(
            "ephemeral-overlap",
            "warning",
            rule.name,
            f"{flows_text(flows)} lies inside the ephemeral range {low}-{high} and is not reserved: the kernel may have"
            " given it to a client when the service starts",
            f'in `sysctl`, write `reserved_ports: "{reserve}"` ({", ".join(kept)})'
            if kept
            else "move the service, or the range: in `sysctl`, `ephemeral_ports`",
            (f"{RANGE} = {low} {high}", f"{kept[0]} = {now.get(kept[0], '')}".rstrip())
            if linux
            else tuple(f"{name} = {now.get(name, 'unknown')}" for name in (*first[:2], *kept)),
            rule.span,
        )


def _ports(rule: Rule) -> Ranges:
    found = Ranges()
    for flow in rule.flows or ():
        if flow.protocol in (TCP, UDP, SCTP) and flow.ports != EVERY_PORT:
            found |= flow.ports
    return found
