"""How far what is loaded lies from what is wanted, as a set of packets, in words."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime

from portctl.net import Address
from portctl.program import Program
from portctl.space import Space, guard
from portctl.space.changes import Change
from portctl.space.sentences import sentences
from portctl.space.sides import of_program
from portctl.space.words import Groups

MOST_SENTENCES = 8


def drift(wanted: Program, loaded: Program, own: Iterable[Address], groups: Groups, at: datetime) -> list[str]:
    """What the loaded rules let through beyond the wanted ones, `+`, and what they do not, `-`. Empty: nothing."""
    space, own = Space(), tuple(own)
    policy, now = of_program(space, wanted, "policy", own), of_program(space, loaded, "loaded", own)
    found = guard.drift(replace(policy, groups=groups), replace(now, groups=groups), at)
    lines = [
        *_marked("+", [c for c in found.changes if c.kind in ("opened", "may open")], groups),
        *_marked("-", [c for c in found.changes if c.kind in ("closed", "may close")], groups),
    ]
    if found.other:
        number = len(sentences(found.other, groups))
        lines.append(f"~ beside ordinary new connections: {number} more, such as packets of known ones")
    if found.too_many:
        lines.append("~ and more than can be listed")
    return ["beyond the policy (+) and short of it (-):", *lines] if lines else []


def _marked(mark: str, changes: list[Change], groups: Groups) -> list[str]:
    said = sentences(changes, groups)
    lines = [f"{mark} {each.text().replace('newly ', '').replace('no longer ', '')}" for each in said[:MOST_SENTENCES]]
    return [*lines, f"{mark} and {len(said) - MOST_SENTENCES} more"] if len(said) > MOST_SENTENCES else lines
