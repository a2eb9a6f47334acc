"""What the tests of the ipfw back end share."""

from __future__ import annotations

from functools import cache
from ipaddress import ip_address

from portctl.backends import ipfw
from portctl.backends.base import Ability
from portctl.program import Program
from portctl.ruleset import (
    KNOWN,
    TCP,
    Direction,
    Kind,
    Packet,
    Rule,
    Ruleset,
    Verdict,
)
from tests import golden_cases
from tests.nftables_cases import one

SYN_IN = Packet(Direction.INBOUND, TCP, ip_address("198.51.100.9"), ip_address("202.54.1.1"), 22)


def text(ruleset: Ruleset) -> str:
    assert not ipfw.gaps(ruleset, Ability())
    return ipfw.render(ruleset, Ability())["rules"]


def program(ruleset: Ruleset, sent: list[Packet] | None = None) -> Program:
    """The rules read back, as if the broadcast addresses that some packets are sent to were part of them."""
    cast = {str(p.destination) for p in sent or () if p.direction is Direction.INBOUND and not p.local}
    written = ipfw.render(ruleset, Ability())
    rules = written["rules"].replace("table(portctl_broadcast)", "table(portctl0_these)")
    entries = "".join(f"{address} 0\n" for address in sorted(cast))
    return ipfw.parse(written | {"rules": rules, "more": f"--- table(portctl0_these), set(0) ---\n{entries}"})


@cache
def golden() -> dict[str, Ruleset]:
    found = {case.name: golden_cases.compiled(case).ruleset for case in golden_cases.cases()}
    return {name: ruleset for name, ruleset in found.items() if not ipfw.gaps(ruleset, Ability())}


def held(*rules: Rule, last: Verdict = Verdict.DROP, **more: object) -> Ruleset:
    """Rules for what comes in: blocks, known connections, entries."""
    blocks = [rule for rule in rules if rule.kind is Kind.BLOCK]
    known = Rule("known", Kind.FIXED, Verdict.ACCEPT, states=KNOWN)
    return one(*blocks, known, *(rule for rule in rules if rule not in blocks), last=last, **more)  # type: ignore[arg-type]
