"""Where a platform forces another verdict than the policy's, each under its heading in `docs/platforms.md`.

A function says which heading explains that a back end's rules answer a packet otherwise, or nothing. Tests allow these
differences and no others; the heading must be in the document.
"""

from __future__ import annotations

from portctl.net import LOOPBACK_ADDRESSES
from portctl.program import Answer
from portctl.ruleset import (
    ACK,
    FIN,
    ICMPV6,
    KNOWN,
    LOOPBACK,
    RST,
    SYN,
    TCP,
    Direction,
    Kind,
    Packet,
    Rule,
    Ruleset,
    State,
    Verdict,
)

TRANSLATING = ("pf-openbsd", "pf-freebsd15")
MLD = (130, 131, 132, 143)


def forced(backend: str, ruleset: Ruleset, packet: Packet, verdict: Verdict, rule: Rule, answer: Answer) -> str | None:
    """The heading that explains a difference; None: nothing does."""
    if not backend.startswith("pf-"):
        return None
    if backend in TRANSLATING and not packet.starts and any(t.matches(packet) for t in ruleset.translations):
        return None if answer.verdict is Verdict.ACCEPT else "pf: what starts no connection is not translated"
    return pf(ruleset, packet, verdict, rule, answer)


def pf(ruleset: Ruleset, packet: Packet, verdict: Verdict, rule: Rule, answer: Answer) -> str | None:
    dropped = answer.verdict is Verdict.DROP
    if packet.state in State.INVALID | State.UNTRACKED:
        return "BSD: nothing is invalid, nothing bypasses the state table"
    if packet.original is not None:
        return "BSD: ports that container engines publish"
    if packet.direction is Direction.FORWARDED and LOOPBACK in (packet.interface, packet.out_interface):
        return "BSD: nothing is forwarded from or to the loopback interface"
    if packet.state in KNOWN and rule.kind is Kind.BLOCK:
        return "pf: a known connection is not judged again"
    if packet.protocol == ICMPV6 and packet.port // 256 in MLD and dropped:
        return "pf: multicast listener messages"
    if packet.protocol == ICMPV6 and 133 <= packet.port // 256 <= 137 and packet.hop_limit != 255:
        return "pf: the hop limit is the kernel's to ask"
    if packet.protocol == TCP and impossible(packet.flags) and dropped:
        return "pf: impossible TCP flags"
    if packet.direction is Direction.FORWARDED and dropped:
        if packet.source in LOOPBACK_ADDRESSES or packet.destination in LOOPBACK_ADDRESSES:
            return "BSD: nothing is forwarded from or to a loopback address"
    if rule.until is not None or any(r.until for r in ruleset.rules(packet.direction)) and packet.at is not None:
        return "pf and ipfw: no clock"
    return None


def impossible(flags: int) -> bool:
    """What pf's normalization drops, whatever the rules say."""
    if flags & SYN:
        return bool(flags & (RST | FIN))
    return not flags & (ACK | RST) or bool(flags & FIN and not flags & ACK)
