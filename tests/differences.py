"""Where a platform forces another verdict than the policy's, each under its heading in `docs/platforms.md`.

`forced` says which heading explains that a back end's rules answer a packet otherwise, or nothing. Tests allow these
differences and no others; the heading must be in the document.
"""

from __future__ import annotations

from portctl import backends
from portctl.backends.base import Ability, explained
from portctl.evaluation import Answer
from portctl.ruleset import Packet, Rule, Ruleset


def forced(backend: str, ruleset: Ruleset, packet: Packet, _rule: Rule, answer: Answer) -> str | None:
    """The heading that explains a difference; None: nothing does."""
    differences = backends.load(backend).differences(ruleset, Ability())
    found = explained(ruleset, differences, packet, answer.verdict)
    return None if found is None else found.heading
