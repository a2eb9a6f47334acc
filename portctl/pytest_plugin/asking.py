"""What a test can ask of a host: `PortctlHost`, which the fixture gives."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from ipaddress import ip_address
from pathlib import Path

from portctl import inspection, observe, pipeline, report
from portctl.command import Command, HostError
from portctl.hosts.local import Local
from portctl.listeners import Listener
from portctl.observe import Facts, Observed
from portctl.pytest_plugin import probing
from portctl.pytest_plugin.probing import Answer
from portctl.pytest_plugin.through import Through
from portctl.resolve import spoken
from portctl.ruleset import Direction
from portctl.space import Space, questions, reverse, sides
from portctl.space.sides import Side
from portctl.verify import Finding


@dataclass(frozen=True, slots=True)
class Admission:
    """Whether loaded rules admit something: true where they admit all of what was asked. `text` says what decides."""

    admitted: bool
    text: str

    def __bool__(self) -> bool:
        return self.admitted

    def __repr__(self) -> str:
        return f"{'admitted' if self.admitted else 'not admitted'}:\n{self.text}"


@dataclass(frozen=True, slots=True)
class Findings:
    """What `portctl verify` says; `text` as a person reads it. True where there is anything but notes."""

    every: tuple[Finding, ...]
    text: str

    @property
    def codes(self) -> set[str]:
        """Of what is wrong; notes are not."""
        return {finding.code for finding in self.every if finding.severity != "note"}

    def __bool__(self) -> bool:
        return bool(self.codes)

    def __repr__(self) -> str:
        return self.text


@dataclass
class PortctlHost:
    """One machine, asked through pytest-testinfra's connection. Answers are those of the first time that something was
    asked; `again()` gives the machine anew. Its methods raise `HostError` where it cannot be asked."""

    through: Through
    folder: Path
    root: Path | None = None

    @property
    def name(self) -> str:
        """As pytest shows it: `ssh://web1`."""
        return self.through.name

    def again(self) -> PortctlHost:
        """The same machine with nothing known of it yet."""
        return PortctlHost(self.through, self.folder, self.root)

    @cached_property
    def facts(self) -> Facts:
        """System, version, tools, interfaces, addresses."""
        return observe.facts(self.through)

    @cached_property
    def observed(self) -> Observed:
        """Rules, listeners, connections; what could not be seen is named in `observed.unknown`."""
        return observe.observe(self.through, observe.readers(self.facts), (), self.facts)

    @cached_property
    def listeners(self) -> tuple[Listener, ...]:
        """Who waits for strangers. Raises `HostError` where that could not be seen."""
        if self.observed.listeners is None:
            raise HostError(f"{self.name}: who listens could not be seen")
        return self.observed.listeners

    def listening(self, port: str) -> list[Listener]:
        """Those who wait at `443/udp`, `https`, `8000-8010/tcp`."""
        flows = spoken.flows(port) or ()
        return [x for x in self.listeners if any(f.protocol == x.protocol and x.port in f.ports for f in flows)]

    def admits(self, source: str, to: str) -> Admission:
        """Whether the loaded rules, everybody's, admit new connections from an address or network (or `any`) to
        `22/tcp` or `192.0.2.1:ssh`: from all of it, to all of it."""
        destination, flows = spoken.target(to)
        query = questions.Query(Direction.INBOUND, flows, spoken.addresses(source), destination)
        outcomes = questions.explain(self._side, query, datetime.now(UTC))
        every = bool(outcomes) and all(each.verdict == "accept" for each in outcomes)
        return Admission(every, questions.explain_text(self._side, outcomes, live=True))

    @cached_property
    def _side(self) -> Side:
        if self.observed.program is None:
            raise HostError(f"{self.name}: the loaded rules could not be read: {'; '.join(self.observed.unknown)}")
        program, _ = reverse.taken(self.observed.program)
        return sides.of_program(Space(), program, self.name, self.facts.own_addresses())

    def findings(self, policy: str | Path) -> Findings:
        """What `portctl verify` finds, now. `policy` is a file, from pytest's root folder on. Raises `Problems`."""
        at = datetime.now(UTC)
        seen = inspection.inspect(self.through, pipeline.compile(self.folder / policy, at, self.root), at)
        return Findings(seen.findings, report.findings_text(seen.findings, seen.looked_at()))

    def probe(self, port: str, source: str | None = None, seconds: float = 3) -> Answer:
        """Knocks for real, from here: `80/tcp`, `https`, `443/udp`. `source` is one of this machine's addresses.

        `open`: somebody answered (TCP: the connection came about); `refused`: a reset or an ICMP error; `silent`:
        nothing came within `seconds`. A UDP service that does not answer what it does not understand is silent too.
        """
        flows = spoken.flows(port)
        if not flows or any(flow.ports.count() != 1 for flow in flows):
            raise ValueError(f"`{port}` is not one port: write 80/tcp or ssh")
        protocol, (number, _) = flows[0].protocol, next(flows[0].ports.pairs())
        return probing.knock(self.address, protocol, number, source, seconds)

    @cached_property
    def address(self) -> str:
        """Where probes go: the address or name of the machine as ssh's own configuration has it."""
        return address_of(self.through)


def address_of(through: Through) -> str:
    kind, _, _ = through.name.partition("://")
    if kind == "local":
        return "127.0.0.1"
    name = str(getattr(through.connection, "hostname", ""))
    try:
        return str(ip_address(name.strip("[]")))
    except ValueError:
        pass
    config = getattr(through.connection, "ssh_config", None)
    if kind not in ("ssh", "safe-ssh", "paramiko"):
        return name
    said = Local().run(Command(("ssh", *(("-F", str(config)) if config else ()), "-G", "--", name)), 10)
    found = [line.split(" ", 1)[1] for line in said.stdout.splitlines() if line.startswith("hostname ")]
    return found[0] if found else name
