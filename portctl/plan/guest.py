"""Rules of portctl's among those of somebody else's: what these lack, and what of them decides before."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from portctl.plan.types import Refusal
from portctl.program import Program

MOST_BEFORE = 3


WRITE_IT = "write that into /etc/pf.conf before other rules of its kind, then `pfctl -f /etc/pf.conf`"
MOVE_IT = "give it a number beyond portctl's, take it away, or use `--exclusive`"


def uncalled(missing: Sequence[str]) -> str:
    """That nobody asks portctl's rules, in words."""
    return f"the main rule set does not call portctl's anchor: it lacks `{'`, `'.join(missing)}`"


@dataclass(frozen=True, slots=True)
class GuestOf:
    """`then` is all that is loaded as it will be. `missing` are lines that the others' rule set has to hold first,
    `before` rules of it that are asked before portctl's and may let something through; `obstacle` is what keeps
    portctl's from being asked, in words, where there is such a thing."""

    then: Program
    missing: tuple[str, ...] = ()
    before: tuple[str, ...] = ()
    obstacle: str = ""
    unbooted: tuple[str, ...] = ()
    """Rules of theirs that the next boot does not load, because it loads portctl's in their place."""

    def refusals(self) -> Iterator[Refusal]:
        """One where portctl's rules would not be asked at all."""
        if self.missing:
            yield Refusal(uncalled(self.missing), WRITE_IT)
        if self.obstacle:
            yield Refusal(f"portctl's rules would not be asked as they are: {self.obstacle}", MOVE_IT)

    def warnings(self) -> Iterator[str]:
        """Rules of the others' that the policy says nothing about."""
        for line in self.before[:MOST_BEFORE]:
            yield f"a rule that is not portctl's is asked before portctl's: {line}"
        if len(self.before) > MOST_BEFORE:
            yield f"and {len(self.before) - MOST_BEFORE} more rules of that kind"
        if self.unbooted:
            number = f" and {len(self.unbooted) - 1} more" if len(self.unbooted) > 1 else ""
            yield (
                f"the next boot loads portctl's rules in place of others': without `{self.unbooted[0]}`{number}. "
                "What they do belongs into the policy"
            )
