"""Kernel settings: `sysctl-drift`, `ephemeral-overlap`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from portctl import sysctl
from portctl.net import Ranges
from portctl.ruleset import EVERY_PORT, SCTP, TCP, UDP, Rule, Ruleset
from portctl.sysctl import ports_of
from portctl.verify.finding import Finding, View, flows_text
from portctl.verify.sockets import EPHEMERAL

RANGE, RESERVED = "net.ipv4.ip_local_port_range", "net.ipv4.ip_local_reserved_ports"


def names(ruleset: Ruleset, system: str, advertised: Iterable[str] = ()) -> tuple[str, ...]:
    """The settings to ask a host for, before `compare`."""
    wanted = [name for name, _, _ in sysctl.settings(ruleset, system, advertised)]
    asked = [RANGE, RESERVED] if system == "Linux" else list(sysctl.port_range(system))
    return tuple(dict.fromkeys([*wanted, *asked]))


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
    first = sysctl.port_range(view.facts.system)
    range_now = now.get(RANGE, EPHEMERAL) if linux else "-".join(now.get(name, "") for name in first[:2])
    chosen, reserved = ports_of(range_now), ports_of(now.get(RESERVED, ""))
    found = [(rule, ports) for rule in view.openings() if (ports := _ports(rule) & (chosen - reserved))]
    everything = reserved
    for _, ports in found:
        everything |= ports
    low, high = next(chosen.pairs(), (0, 0))
    for rule, ports in found:
        flows = [replace(flow, ports=flow.ports & ports) for flow in rule.flows or () if flow.ports & ports]
        reserve = sysctl.normal(RESERVED, ",".join(f"{a}-{b}" for a, b in everything.pairs()))
        yield Finding(
            "ephemeral-overlap",
            "warning",
            rule.name,
            f"{flows_text(flows)} lies inside the ephemeral range {low}-{high} and is not reserved: the kernel may have"
            " given it to a client when the service starts",
            f'in `sysctl`, write `reserved_ports: "{reserve}"` (net.ipv4.ip_local_reserved_ports)'
            if linux
            else "move the service, or the range: in `sysctl`, `ephemeral_ports`",
            (f"{RANGE} = {low} {high}", f"{RESERVED} = {now.get(RESERVED, '')}".rstrip())
            if linux
            else tuple(f"{name} = {now.get(name, 'unknown')}" for name in first[:2]),
            rule.span,
        )


def _ports(rule: Rule) -> Ranges:
    found = Ranges()
    for flow in rule.flows or ():
        if flow.protocol in (TCP, UDP, SCTP) and flow.ports != EVERY_PORT:
            found |= flow.ports
    return found
