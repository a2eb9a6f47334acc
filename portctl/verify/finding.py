"""What `verify` finds, and what it looks at."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from portctl.evaluation import Step
from portctl.net import Address, address_text
from portctl.observe.types import Facts
from portctl.problems import Severity, Span
from portctl.program import Line, Program
from portctl.ruleset import ICMP, ICMPV6, SCTP, TCP, UDP, Flow, Kind, Packet, Rule, Ruleset
from portctl.verify.narrow import Narrow

Code = Literal[
    "exposed",
    "not-listening",
    "unreachable",
    "wrong-address",
    "wrong-process",
    "undeclared",
    "drift",
    "foreign-rule",
    "sysctl-drift",
    "ephemeral-overlap",
    "not-persistent",
    "expired",
    "unused",
    "unknown",
]
"""Each has a heading in docs/findings.md."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One difference between what the policy says, what the kernel has loaded, and what listens.

    A note is no difference: it only says what there is. `subject` is the entry, setting or socket it is about.
    """

    code: Code
    severity: Severity
    subject: str
    message: str
    advice: str
    evidence: tuple[str, ...] = ()
    """Lines: the rule, the socket, the packet."""
    where: Span | None = None


@dataclass(frozen=True, slots=True)
class View:
    """Everything that is held against each other."""

    ruleset: Ruleset
    facts: Facts
    program: Program | None
    """All loaded rules; None: they could not be read."""
    wanted: Program | None
    """What the policy renders to for this host, read back: portctl's part as it should be."""
    settings: Mapping[str, str]
    at: datetime
    own: frozenset[Address] = field(default=frozenset())
    """The host's addresses but for loopback."""
    suspects: tuple[Line, ...] = ()
    """Loaded lines that the policy does not account for: everybody else's, and portctl's where they were changed."""
    inside: Program | None = None
    """portctl's part as it is, where it lives within a rule set of somebody else's: `program` then has none."""
    narrow: Narrow = field(default_factory=Narrow, compare=False, repr=False)
    """What was found out of `program` and `ruleset` by port."""

    @property
    def mine(self) -> Program | None:
        """The program that holds portctl's part."""
        return self.program if self.inside is None else self.inside

    def openings(self) -> Iterator[Rule]:
        """The rules of `services`, each entry once."""
        seen = set()
        for rule in self.ruleset.inbound:
            if rule.kind is Kind.SERVICE and rule.name not in seen:
                seen.add(rule.name)
                yield rule


def protocol_name(number: int) -> str:
    names = {TCP: "tcp", UDP: "udp", SCTP: "sctp", ICMP: "icmp", ICMPV6: "icmpv6"}
    return names.get(number, f"protocol {number}")


def socket_text(address: Address | None, port: int, protocol: int, family: int = 4) -> str:
    """`192.0.2.1:22/tcp`, `[2001:db8::1]:22/tcp`; a wildcard as `*:22/tcp`, or `[::]` where it is IPv6 alone."""
    host = ("[::]" if family == 6 else "0.0.0.0") if address is None else host_text(address)
    return f"{host}:{port}/{protocol_name(protocol)}"


def host_text(address: Address) -> str:
    text = address_text(int(address), address.version)
    return f"[{text}]" if address.version == 6 else text


def packet_text(packet: Packet) -> str:
    """`203.0.113.9 → 192.0.2.1:22/tcp, in by eth0`."""
    name = protocol_name(packet.protocol)
    if packet.protocol in (ICMP, ICMPV6):
        end = f"{address_text(int(packet.destination), packet.destination.version)} ({name} type {packet.port // 256})"
    elif packet.protocol in (TCP, UDP, SCTP):
        end = socket_text(packet.destination, packet.port, packet.protocol)
    else:
        end = f"{host_text(packet.destination)} ({name})"
    by = {"inbound": f"in by {packet.interface}", "outbound": f"out by {packet.out_interface}"}.get(
        packet.direction.value, f"in by {packet.interface}, out by {packet.out_interface}"
    )
    return f"{address_text(int(packet.source), packet.source.version)} → {end}, {by}"


def step_text(step: Step | None) -> str:
    """The line that decided, with the place where it stands."""
    if step is None:
        return "no rule decides: accepted"
    chain = step.chain
    place = f"{chain.table} {chain.name}"
    if step.line is None:
        return f"{place}: policy of the hook"
    return f"{place}: {step.line.text or step.line.comment or 'a rule without text'}"


def flows_text(flows: Iterable[Flow]) -> str:
    """`80/tcp, 8000-8010/tcp, 443/udp`."""
    found = []
    for flow in flows:
        for low, high in flow.ports.pairs():
            number = str(low) if low == high else f"{low}-{high}"
            found.append(f"{number}/{protocol_name(flow.protocol)}")
    return ", ".join(found)
