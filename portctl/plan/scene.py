"""Everything that is asked about before new rules are loaded, computed once."""

from __future__ import annotations

from dataclasses import dataclass

from portctl.evaluation import Answer, evaluate
from portctl.listeners import Connection
from portctl.net import Address
from portctl.observe import Facts, Observed
from portctl.plan.types import Desired
from portctl.program import Program
from portctl.ruleset import (
    Direction,
    Kind,
    Packet,
    Ruleset,
    Verdict,
    decide,
)
from portctl.wayin import Surroundings


@dataclass(frozen=True, slots=True)
class Scene:
    """Everything that is asked about, computed once."""

    desired: Desired
    observed: Observed
    around: Surroundings
    now: Program
    """What is loaded."""
    then: Program
    """What will be."""
    first: bool
    """Nothing of portctl's is loaded yet."""
    exclusive: bool = False

    @property
    def ruleset(self) -> Ruleset:
        return self.desired.ruleset

    @property
    def facts(self) -> Facts:
        return self.observed.facts

    @property
    def connections(self) -> tuple[Connection, ...]:
        return self.observed.connections or ()

    def own(self) -> tuple[Address, ...]:
        return self.facts.own_addresses()

    def devices(self) -> tuple[str, ...]:
        return tuple(interface.name for interface in self.facts.interfaces)

    def interface_of(self, address: Address) -> str:
        return next((x.name for x in self.facts.interfaces if address in x.addresses), "eth0")

    def facing(self, far: Address) -> Address | None:
        mine = [a for a in self.own() if a.version == far.version and not a.is_loopback]
        return next((a for a in mine if a.is_link_local == far.is_link_local), mine[0] if mine else None)

    def answer(self, program: Program, packet: Packet) -> Answer:
        return evaluate(program, packet, self.own())

    def admitted(self, packet: Packet) -> bool:
        """Whether the policy and everything that will be loaded let a packet through."""
        policy = decide(self.ruleset, packet)[0] is Verdict.ACCEPT
        return policy and self.answer(self.then, packet).verdict is Verdict.ACCEPT


def who(scene: Scene, packet: Packet) -> str:
    """What stands in the way of a packet, in words."""
    verdict, rule = decide(scene.ruleset, packet)
    if verdict is not Verdict.ACCEPT:
        if rule.kind is Kind.BLOCK:
            return f"`block` ({rule.name}) forbids it"
        return "no service admits it" if packet.direction is Direction.INBOUND else "no entry admits it"
    answer = scene.answer(scene.then, packet)
    return f"a rule that is not portctl's stands in the way: {step_text(answer)}"


def step_text(answer: Answer) -> str:
    if answer.decided is None:
        return "unknown"
    chain, line = answer.decided.chain, answer.decided.line
    what = f"`{line.text}`" if line else "its policy, drop"
    return f"chain {chain.name} of table {chain.table}: {what}"
