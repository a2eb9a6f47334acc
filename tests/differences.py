"""Where a platform forces another verdict than the policy's, each under its heading in `docs/platforms.md`."""

from __future__ import annotations

from portctl.program import Answer
from portctl.ruleset import Packet, Rule, Ruleset, Verdict
from tests import ipfw_differences


def forced(backend: str, ruleset: Ruleset, packet: Packet, verdict: Verdict, rule: Rule, answer: Answer) -> str | None:
    """The heading that explains a difference; None: nothing does."""
    del verdict, rule
    if backend == "ipfw":
        return ipfw_differences.forced(ruleset, packet, answer.verdict)
    return None
