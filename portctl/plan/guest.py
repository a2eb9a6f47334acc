"""Rules of portctl's within a rule set of somebody else's: what that one lacks, and what in it decides before."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from portctl.plan.types import Refusal
from portctl.program import Program

MOST_BEFORE = 3


WRITE_IT = "write that into /etc/pf.conf before other rules of its kind, then `pfctl -f /etc/pf.conf`"


def uncalled(missing: Sequence[str]) -> str:
    """That nobody asks portctl's rules, in words."""
    return f"the main rule set does not call portctl's anchor: it lacks `{'`, `'.join(missing)}`"


@dataclass(frozen=True, slots=True)
class GuestOf:
    """`then` is all that is loaded as it will be. `missing` are lines that the others' rule set has to hold first,
    `before` rules of it that are asked before portctl's and decide."""

    then: Program
    missing: tuple[str, ...]
    before: tuple[str, ...]

    def refusals(self) -> Iterator[Refusal]:
        """One where portctl's rules would not be asked at all."""
        if self.missing:
            yield Refusal(uncalled(self.missing), WRITE_IT)

    def warnings(self) -> Iterator[str]:
        """Rules of the others' that the policy says nothing about."""
        for line in self.before[:MOST_BEFORE]:
            yield f"a rule of the main rule set decides before portctl's: {line}"
        if len(self.before) > MOST_BEFORE:
            yield f"and {len(self.before) - MOST_BEFORE} more rules of it"
