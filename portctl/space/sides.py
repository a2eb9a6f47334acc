"""A policy or a loaded program to be asked: what it does, and what decides one packet."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cache

from portctl.evaluation import Answer, Step, evaluate
from portctl.net import Address
from portctl.problems import Span
from portctl.program import Program, Return
from portctl.ruleset import Direction, Kind, Packet, Ruleset, Verdict, decide
from portctl.space import besides, turning
from portctl.space.besides import Besides
from portctl.space.sets import Partition, Space
from portctl.space.words import Groups

NO_LINE = "no line"
"""The name of the reason where nothing decides, and the packet goes on."""


@dataclass(frozen=True, slots=True)
class Reason:
    """What decides a packet: an entry of a policy, or a line of a listing."""

    name: str
    place: Span | None = None
    line: str = ""
    fixed: bool = False
    """One of the lines that every policy has."""
    packets: int | None = None
    """The line's counter, if it has one."""
    general: bool = False
    """It is a policy's default: it speaks of all that no entry names."""


def _nowhere() -> Partition | None:
    return None


@dataclass(frozen=True, slots=True)
class Side:
    """What one rule set does, how it decides one packet, and the names of its groups."""

    title: str
    partition: Partition
    reason: Callable[[Packet], Reason]
    groups: Groups = ()
    text: str = ""
    """What it was made of: two sides that mean the same may differ in this."""
    besides: Besides = field(default_factory=Besides)
    targets: Callable[[], Partition | None] = _nowhere
    """Where it turns packets to."""
    entries: tuple[tuple[str, Span], ...] = ()
    """The places of a policy's entries, by their names."""
    file: str = ""
    """The file it was read from, if it was one."""
    parts: tuple[tuple[str, str], ...] = ()
    """The texts of further files that belong to it, by their names."""


def of_ruleset(space: Space, ruleset: Ruleset, title: str, text: str = "") -> Side:
    """A policy as a side."""

    def reason(packet: Packet) -> Reason:
        rule = decide(ruleset, packet)[1]
        return Reason(
            rule.name,
            rule.span,
            f"{rule.kind.value} {rule.name}",
            rule.kind is Kind.FIXED,
            None,
            rule.kind is Kind.DEFAULT,
        )

    places = {r.name: r.span for d in Direction for r in ruleset.rules(d) if r.span is not None}
    return Side(
        title,
        space.of_ruleset(ruleset),
        reason,
        ruleset.groups,
        text,
        besides.of_ruleset(ruleset),
        cache(lambda: turning.of_ruleset(space, ruleset)),
        tuple(places.items()),
    )


def of_program(
    space: Space,
    program: Program,
    title: str,
    own_addresses: Iterable[Address] = (),
    text: str = "",
    language: str = "",
) -> Side:
    """A loaded or saved rule set as a side. `language` names the back ends whose listings it is."""
    own = tuple(own_addresses)

    def reason(packet: Packet) -> Reason:
        return step_reason(deciding(evaluate(program, packet, own)))

    return Side(
        title,
        space.of_program(program, own),
        reason,
        text=text,
        besides=besides.of_program(program, language),
        targets=cache(lambda: turning.of_program(space, program, own)),
    )


def deciding(answer: Answer) -> Step | None:
    """The line that decides; where nothing ends a packet's way, the last of portctl's own that lets it go on to what
    others say, and so to the end."""
    if answer.decided is not None or answer.verdict is not Verdict.ACCEPT:
        return answer.decided
    passed = [s for s in answer.trace if s.chain.own and s.line and any(isinstance(a, Return) for a in s.line.actions)]
    return passed[-1] if passed else None


def step_reason(step: Step | None) -> Reason:
    """The line that decided, by the name it carries if it has one."""
    if step is None:
        return Reason(NO_LINE)
    place = f"{step.chain.table} {step.chain.name}"
    if step.line is None:
        return Reason(f"policy of {place}")
    return Reason(step.line.comment or place, None, step.line.text, False, step.line.packets)


def step_text(step: Step) -> str:
    """A line by its number and text."""
    line = step.line
    if line is None:
        return f"the policy of {step.chain.table} {step.chain.name}"
    return f"line {line.number}: {line.text}" if line.number else line.text
