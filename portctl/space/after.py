"""Which rules of a policy may be for what its translations have turned: found by address and port, not one by one.

A policy may have hundreds of translations, and a rule for each, which all others need not be asked about.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from portctl.net import EVERY_V4, EVERY_V6, FAMILIES, Family
from portctl.ruleset import Flows, Rule, Translation
from portctl.space.index import Index, indexed

PortKey = tuple[int, int]
"""A protocol and one port."""


@dataclass(slots=True)
class AfterTranslation:
    """The rules of one direction."""

    rules: Sequence[Rule]
    _plain: dict[Family, Index[int]] = field(default_factory=dict)
    """Those that do not ask where a packet went before, by number."""
    _ports: dict[PortKey, list[int]] = field(default_factory=dict)
    """Those that ask for one port or a few to which it went before."""
    _wide: list[int] = field(default_factory=list)
    """Those that ask else where it went before."""

    def __post_init__(self) -> None:
        plain = [(number, rule) for number, rule in enumerate(self.rules) if rule.original is None]
        for family in FAMILIES:
            every = EVERY_V4 if family == 4 else EVERY_V6
            sides = ((number, rule.destination.family(family)) for number, rule in plain)
            self._plain[family] = indexed((number, None if side == every else side) for number, side in sides)
        for number, rule in enumerate(self.rules):
            if rule.original is not None:
                keys = _ports(rule.original.flows)
                if keys is None:
                    self._wide.append(number)
                else:
                    for key in keys:
                        self._ports.setdefault(key, []).append(number)

    def rules_for(self, together: Sequence[Translation]) -> list[Rule]:
        """The rules that may be for what some translations to one place have turned, in their order."""
        to = together[0].target
        numbers = {number for number, rule in enumerate(self.rules) if rule.original is None} if to is None else set()
        if to is not None:
            numbers.update(number for _, number in self._plain[to.version].placed(int(to)))
        for translation in together:
            keys = _ports(translation.flows)
            if keys is None:
                numbers.update(number for number, rule in enumerate(self.rules) if rule.original is not None)
            else:
                numbers.update(number for key in keys for number in self._ports.get(key, ()))
        numbers.update(self._wide)
        return [self.rules[number] for number in sorted(numbers)]


def _ports(flows: Flows) -> list[PortKey] | None:
    """The ports of some flows one by one; None: they are too many."""
    if flows is None or sum(flow.ports.count() for flow in flows) > FEW:
        return None
    pairs = ((flow.protocol, first, last) for flow in flows for first, last in flow.ports.pairs())
    return [(protocol, port) for protocol, first, last in pairs for port in range(first, last + 1)]


FEW = 64
"""So many ports are looked up one by one."""
