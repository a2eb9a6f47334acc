"""What the tests of verify share: a policy, and a host on which it holds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path

from portctl import backends, pipeline
from portctl.backends.base import Ability
from portctl.listeners import Listener
from portctl.observe import Facts, Interface, Observed
from portctl.program import Chain, Hook, Line, Program
from portctl.verify import Finding, compare

AT = datetime(2027, 1, 1, tzinfo=UTC)
POLICY = """\
portctl: 1
name: web
services:
  ssh: {ports: ssh, from: 198.51.100.0/24}
  web: {ports: [http, https], from: any, process: nginx}
defaults: {forward: keep}
"""
V4, V6 = ip_address("192.0.2.10"), ip_address("2001:db8::10")
FACTS = Facts(
    "Linux",
    init="systemd",
    root=True,
    tools=(("nft", "1.0.6"),),
    interfaces=(Interface("eth0", (V4, V6)), Interface("lo", (ip_address("127.0.0.1"), ip_address("::1")))),
    sees_processes=True,
)
SSHD = Listener(6, None, 22, 6, dual_stack=True, process="sshd", pid=700, processes=("sshd",))
HTTP = Listener(6, None, 80, 6, dual_stack=True, process="nginx", pid=800, processes=("nginx",))
HTTPS = replace(HTTP, port=443)
ALL = (SSHD, HTTP, HTTPS)


@dataclass(frozen=True)
class Case:
    """A policy, rendered, and a host on which it holds."""

    compiled: pipeline.Compiled
    wanted: Program

    def observed(self, *foreign: Chain, listeners: tuple[Listener, ...] | None = ALL, **changed: object) -> Observed:
        program = replace(self.wanted, chains=(*self.wanted.chains, *foreign))
        return replace(Observed(FACTS, program, listeners=listeners), **changed)  # type: ignore[arg-type]

    def findings(self, observed: Observed, **more: object) -> list[Finding]:
        found = compare(
            self.compiled.ruleset,
            observed,
            self.wanted,
            AT,
            problems=self.compiled.problems,
            **more,  # type: ignore[arg-type]
        )
        return [finding for finding in found if finding.code != "unused"]


def cases(folder: Path) -> Callable[..., Case]:
    """Makes a case of a policy's text, whose file lies in the folder."""

    def made(text: str = POLICY) -> Case:
        path = folder / "web.yaml"
        path.write_text(text)
        compiled = pipeline.compile(path, AT)
        backend = backends.load("nftables")
        return Case(compiled, backend.parse(backend.render(compiled.ruleset, Ability())))

    return made


def told(findings: list[Finding]) -> list[tuple[str, str]]:
    return [(finding.code, finding.subject) for finding in findings]


def foreign(*lines: Line, name: str = "INPUT", hook: Hook | None = None) -> Chain:
    return Chain("filter", name, lines, hook or Hook("input", 10), 4)
