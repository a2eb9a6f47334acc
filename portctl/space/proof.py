"""Whether what was rendered does with every packet what the policy says, or a packet with which it does not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from portctl.backends.base import Difference
from portctl.evaluation import Answer, evaluate
from portctl.net import Address
from portctl.problems import Problem
from portctl.program import Program
from portctl.ruleset import Packet, Rule, Ruleset, Verdict, decide
from portctl.space.examples import example
from portctl.space.forced import Forced, explained
from portctl.space.listed import LONG, Beyond, Listed
from portctl.space.lists import Lists
from portctl.space.packets import packet_text
from portctl.space.sets import PacketSet, Space, possible
from portctl.space.sides import deciding


@dataclass(frozen=True, slots=True)
class Counterexample:
    """A packet with which a policy and a program do different things, and what decides on each side."""

    packet: Packet
    verdict: Verdict
    rule: Rule
    answer: Answer

    @property
    def uncertain(self) -> bool:
        """The program's verdict hangs on a line that nobody can know."""
        return bool(self.answer.depends_on)

    def problem(self, name: str) -> Problem:
        """In words; `name` is the back end or the file that was read back."""
        ours = f"`{self.rule.name}` ({self.rule.kind.value}) says {self.verdict.value}"
        step = deciding(self.answer)
        theirs = f"{self.answer.verdict.value} by the end of everything"
        if step is not None:
            line = step.line.text if step.line else "its policy"
            theirs = f"{self.answer.verdict.value} by {step.chain.table} {step.chain.name}: {line}"
        if self.answer.depends_on:
            hangs = self.answer.depends_on[0]
            theirs = f"depends on {hangs.chain.table} {hangs.chain.name}: {hangs.line.text if hangs.line else ''}"
        return Problem(
            "not-proved",
            f"{name} does not do what the policy says with {packet_text(self.packet)}",
            self.rule.span,
            f"{ours}; {name}: {theirs}",
            "error",
        )


def prove(
    ruleset: Ruleset, program: Program, own_addresses: Iterable[Address] = (), space: Space | None = None
) -> Counterexample | None:
    """None: the program does exactly what the policy says with every packet that can exist.

    Where the policy translates to other hosts, `own_addresses` are those that count as this host.
    """
    space = space or Space()
    own = tuple(own_addresses)
    differing = space.of_ruleset(ruleset).differing(space.of_program(program, own)) & possible(space)
    return judged(ruleset, program, differing, own)


@dataclass(frozen=True, slots=True)
class Proof:
    """What was found of one text: why it is not proved (nothing: it is), and the differences that its platform forces,
    each with a packet, that were met on the way."""

    problems: tuple[Problem, ...] = ()
    forced: tuple[Forced, ...] = ()


def proofs(
    ruleset: Ruleset,
    programs: Mapping[str, Program],
    differences: Mapping[str, Sequence[Difference]],
    own_addresses: Iterable[Address] = (),
    long: int = LONG,
) -> dict[str, Proof]:
    """Each program does what the policy says with every packet that can exist, but for the differences that its
    platform forces. Lines that the parser did not know are a problem: nothing can be proved of them.

    Lists of addresses with more than `long` ends of ranges are compared as wholes as long as that is enough.
    """
    own = tuple(own_addresses)
    try:
        return _proofs(Space(lists=Lists(listed=Listed(long=long))), ruleset, programs, differences, own)
    except Beyond:
        return _proofs(Space(), ruleset, programs, differences, own)


def _proofs(
    space: Space,
    ruleset: Ruleset,
    programs: Mapping[str, Program],
    differences: Mapping[str, Sequence[Difference]],
    own: tuple[Address, ...],
) -> dict[str, Proof]:
    policy = space.of_ruleset(ruleset)
    found: dict[str, Proof] = {}
    for name, program in programs.items():
        wrong = [Problem("not-proved", f"{name} holds a line that is not understood: {x}") for x in program.foreign]
        result = explained(policy, space.of_program(program, own), differences.get(name, ()))
        if (counterexample := judged(ruleset, program, result.left, own)) is not None:
            wrong.append(counterexample.problem(name))
        found[name] = Proof(tuple(wrong), result.forced)
    return found


def judged(
    ruleset: Ruleset, program: Program, differing: PacketSet, own_addresses: tuple[Address, ...] = ()
) -> Counterexample | None:
    """A packet of the set with which the two differ, judged by both; None: it is empty."""
    packet = example(differing)
    if packet is None:
        return None
    verdict, rule = decide(ruleset, packet)
    return Counterexample(packet, verdict, rule, evaluate(program, packet, own_addresses))
