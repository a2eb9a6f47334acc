"""What a rule does once its conditions hold: accept, mark, log, drop, answer, and ask its limits first."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256

from portctl.backends.base import MASQUERADE_MARK
from portctl.backends.nftables import sets, words
from portctl.backends.nftables.conditions import Case
from portctl.backends.nftables.table import COUNTER, Deed, Table
from portctl.net import Family
from portctl.ruleset import ICMP, ICMPV6, TCP, Kind, Rule, Verdict

DENIED_LOG = "limit rate 10/second"
TCP_ONLY = "meta l4proto tcp"
MARKS = 0x7E000000
"""The bits that tell apart several kinds of source translation: `MASQUERADE_MARK` and the five above."""


def deeds(table: Table, rule: Rule, case: Case) -> list[Deed]:
    """The ends of the lines that one case of a rule needs, in order."""
    comment = f"comment {words.quoted(rule.name)}"
    if rule.verdict is not Verdict.ACCEPT:
        return _denials(table, rule, case, comment)
    logged = log(rule) if rule.log else ""
    parts = (_mark(table.marks, rule), COUNTER, logged, "accept", comment)
    statements = " ".join(part for part in parts if part)
    if not rule.limited:
        return [Deed("", statements)]
    assert case.family is not None
    over = replace(rule, verdict=Verdict.DROP, log=False)
    comment = f"comment {words.quoted(rule.name + ' over its limit')}"
    return [Deed(" ".join(_limits(table, rule, case.family)), statements), *_denials(table, over, case, comment)]


def log(rule: Rule) -> str:
    return f'log prefix {words.quoted(f"portctl {rule.name}")[:-1]} "'


def _denials(table: Table, rule: Rule, case: Case, comment: str) -> list[Deed]:
    noted = [Deed("", f"{DENIED_LOG} {log(rule)}")] if table.ruleset.log_denied or rule.log else []
    if rule.verdict is Verdict.DROP:
        return [*noted, Deed("", f"{COUNTER} drop {comment}")]
    return noted + _answers(case, comment)


def _answers(case: Case, comment: str) -> list[Deed]:
    """RST for TCP, port unreachable for the rest; the kernel answers neither broadcast nor multicast."""
    reset = f"{COUNTER} reject with tcp reset {comment}"
    if case.protocol == TCP:
        return [Deed("", reset)]
    how: dict[Family | None, str] = {
        None: "reject",
        4: "reject with icmp port-unreachable",
        6: "reject with icmpv6 port-unreachable",
    }
    family: Family | None = {ICMP: 4, ICMPV6: 6}.get(case.protocol or 0, case.family)  # type: ignore[assignment]
    rest = Deed("", f"{COUNTER} {how[family]} {comment}")
    return [rest] if case.protocol is not None else [Deed(TCP_ONLY, reset), rest]


def _mark(marks: dict[str, int], rule: Rule) -> str:
    """The mark by which `nat-postrouting` knows what a forward admitted."""
    if rule.kind is not Kind.FORWARD or rule.name not in marks:
        return ""
    value = marks[rule.name]
    if set(marks.values()) == {MASQUERADE_MARK}:
        return f"meta mark set meta mark | {value:#010x}"
    return f"meta mark set meta mark & {0xFFFFFFFF & ~MARKS | value:#010x} | {value:#010x}"


def _limits(table: Table, rule: Rule, family: Family) -> Iterator[str]:
    """Conditions that hold within the limits. In a full table a new source has no place, so they do not hold."""
    source = "ip saddr" if family == 4 else "ip6 saddr & ffff:ffff:ffff:ffff::"
    stem = f"{rule.kind.value}-{words.identifier(rule.name)}"
    if rule.max_connections is not None:
        name = f"limit-{stem}-{_digest('connections', rule.max_connections)}-{family}"
        table.book.limits[name] = sets.connections(name, family)
        yield f"add @{name} {{ {source} ct count {rule.max_connections} }}"
    if rule.rate is not None:
        name = f"limit-{stem}-{_digest('rate', rule.rate.number, rule.rate.period)}-{family}"
        table.book.limits[name] = sets.rate(name, family, rule.rate.seconds)
        burst = f" burst {rule.rate.number} packets" if rule.rate.number != 5 else ""  # 5 is nft's own default
        yield f"update @{name} {{ {source} limit rate {rule.rate.number}/{rule.rate.period}{burst} }}"


def _digest(*values: object) -> str:
    """Part of a name: the table of a limit is kept as long as the limit stays the same."""
    return sha256(repr(values).encode()).hexdigest()[:8]
