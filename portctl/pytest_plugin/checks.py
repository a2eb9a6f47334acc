"""Which tests a policy amounts to, and what of a look at a host makes each of them fail."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Literal

from portctl import inspection, pipeline, report
from portctl.command import Host, HostError
from portctl.evaluation import evaluate
from portctl.inspection import Inspection
from portctl.problems import Problems, Span
from portctl.problems import text as problem_text
from portctl.ruleset import Expect, Expectation
from portctl.space import Space, sides
from portctl.space.packets import packet_text
from portctl.space.questions import broken
from portctl.space.sides import Side
from portctl.verify import Finding, wrong

Kind = Literal["service", "test", "sysctl", "exposed", "boot", "drift"]
BY_CODE: dict[str, Kind] = {
    "sysctl-drift": "sysctl",
    "ephemeral-overlap": "sysctl",
    "exposed": "exposed",
    "not-persistent": "boot",
    "drift": "drift",
}
"""Whatever else is wrong is told by the test of the service that it is about; where there is none, by `drift`."""


@dataclass(frozen=True, slots=True)
class Check:
    """One test. `subject` is the service; `expectation` the entry of `tests`; `where` the place in the policy."""

    name: str
    kind: Kind
    subject: str = ""
    expectation: Expectation | None = None
    where: Span | None = None


def checks(compiled: pipeline.Compiled) -> list[Check]:
    """All tests of a policy, in the order of the policy."""
    ruleset = compiled.ruleset
    places = {rule.name: rule.span for rule in reversed(ruleset.inbound)}
    found = [Check(f"service {name}", "service", name, where=places.get(name)) for name in compiled.policy.services]
    names = _names(ruleset.expectations)
    found += [Check(n, "test", expectation=e, where=e.span) for n, e in zip(names, ruleset.expectations, strict=True)]
    kinds: tuple[Kind, ...] = ("sysctl", "exposed", "drift", "boot")
    return [*found, *(Check(kind, kind) for kind in kinds)]


def _names(expectations: Iterable[Expectation]) -> list[str]:
    """`test from: any, service: web, expect: allow`: the words of the policy; twice the same with their places."""
    found = [(f"test {_words(each.span)}", each.span) for each in expectations]
    often = Counter(name for name, _ in found)
    return [name if often[name] == 1 or span is None else f"{name} ({Path(span.file).name}:{span.line})"
            for name, span in found]  # fmt: skip


def _words(span: Span | None) -> str:
    words = re.sub(r"\s#.*", "", span.text if span else "").strip().removeprefix("- ").strip()
    return words[1:-1].strip() if words.startswith("{") and words.endswith("}") else words


@dataclass
class Look:
    """A look at one host with one policy, taken when a test first asks. It is taken once: also its failure."""

    host: Host
    compiled: pipeline.Compiled
    at: datetime

    @cached_property
    def _taken(self) -> Inspection | str:
        try:
            return inspection.inspect(self.host, self.compiled, self.at)
        except HostError as error:
            return str(error)
        except Problems as error:
            return "\n".join(problem_text(problem) for problem in error.problems)

    @property
    def inspection(self) -> Inspection:
        """What was seen. Raises `HostError`."""
        if isinstance(self._taken, str):
            raise HostError(self._taken)
        return self._taken

    @cached_property
    def side(self) -> Side | None:
        """The loaded rules, all of them, to be asked; None: they could not be read."""
        observed = self.inspection.observed
        if observed.program is None:
            return None
        return sides.of_program(Space(), observed.program, self.host.name, observed.facts.own_addresses())


def failure(check: Check, look: Look) -> str | None:
    """Why a test fails, with the evidence; None: it holds. Raises `HostError`."""
    if check.expectation is not None:
        return _expectation(check.expectation, look)
    seen = look.inspection
    services = frozenset(seen.compiled.policy.services)
    found = [f for f in seen.findings if (kind_of(f, services) == check.kind and check.subject in ("", f.subject))]
    if check.kind == "service" and (unseen := _unseen(seen)):
        return unseen
    return report.findings_text(found, "") if wrong(found) else None


def kind_of(finding: Finding, services: frozenset[str]) -> Kind:
    """The test that a finding fails."""
    about_one = finding.subject in services and finding.where is not None
    return BY_CODE.get(finding.code) or ("service" if about_one else "drift")


def _unseen(seen: Inspection) -> str | None:
    """What keeps a service from being judged at all: nothing seen is not "all well"."""
    if seen.observed.program is not None and seen.observed.listeners is not None:
        return None
    return "".join(f"{line}\n" for line in _reasons(seen))


def _reasons(seen: Inspection) -> Iterator[str]:
    yield from (f"could not be seen: {report.plain(words)}" for words in seen.observed.unknown)
    if not seen.observed.facts.root:
        yield "root is needed there: pytest --sudo"


def _expectation(expectation: Expectation, look: Look) -> str | None:
    """Whether an entry of `tests` holds on what is loaded."""
    side, seen = look.side, look.inspection
    if side is None or seen.observed.program is None:
        return _unseen(seen)
    packet = broken(side, expectation, look.at)
    if packet is None:
        return None
    verdict = evaluate(seen.observed.program, packet, seen.observed.facts.own_addresses()).verdict
    reason = side.reason(packet)
    wanted = "allowed" if expectation.expect is Expect.ALLOW else "denied"
    place = expectation.span
    return "".join(
        f"{line}\n"
        for line in (
            f"this is to be {wanted}, and the rules loaded on {look.host.name} do not hold to it",
            *([f"  policy  {place.file}:{place.line}: {place.text.strip()}"] if place else []),
            f"  packet  {packet_text(packet)}",
            f"  verdict {verdict.value}, by {report.plain(reason.line or reason.name)}",
        )
    )
