"""Where a platform forces another verdict than the policy's, each under its heading in `docs/platforms.md`.

A function says which heading explains that a back end's rules answer a packet otherwise, or nothing. Tests allow these
differences and no others; the heading must be in the document.
"""

from __future__ import annotations

from portctl.backends import ipfw
from portctl.backends.base import Ability, explained
from portctl.net import LOOPBACK_ADDRESSES, MULTICAST, Addresses
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
    translate,
)

CAST = MULTICAST | Addresses.of("0.0.0.0", "255.255.255.255", "::")
MLD = (130, 131, 132, 143)


def forced(backend: str, ruleset: Ruleset, packet: Packet, rule: Rule, answer: Answer) -> str | None:
    """The heading that explains a difference; None: nothing does."""
    if backend == "ipfw":
        found = explained(ruleset, ipfw.differences(ruleset, Ability()), packet, answer.verdict)
        return None if found is None else found.heading
    if not backend.startswith("pf-"):
        return None
    return pf(ruleset, packet, rule, answer)


def pf(ruleset: Ruleset, packet: Packet, rule: Rule, answer: Answer) -> str | None:
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
    if packet.direction is Direction.FORWARDED and packet.destination in CAST and answer.verdict is not Verdict.ACCEPT:
        return "BSD: what is sent to many ends at this host"
    loopback = packet.source in LOOPBACK_ADDRESSES or packet.destination in LOOPBACK_ADDRESSES
    if translate(ruleset, packet).direction is Direction.FORWARDED and dropped and loopback:
        return "BSD: nothing is forwarded from or to a loopback address"
    if packet.at is not None and any(each.until for each in ruleset.rules(packet.direction)):
        return "pf and ipfw: no clock"
    return None


def impossible(flags: int) -> bool:
    """What pf's normalization drops, whatever the rules say."""
    if flags & SYN:
        return bool(flags & (RST | FIN))
    return not flags & (ACK | RST) or bool(flags & FIN and not flags & ACK)
