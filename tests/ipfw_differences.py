"""Where ipfw forces another verdict than the policy's, each under its heading in `docs/platforms.md`.

A packet is first read as ipfw can know it; if the policy's verdict on that is the verdict of the rules, the difference
is explained by what ipfw cannot know. Tests allow these differences and no others.
"""

from __future__ import annotations

from dataclasses import replace

from portctl.backends.ipfw.layout import CAST
from portctl.ruleset import (
    ICMP,
    ICMPV6,
    LOOPBACK,
    TCP,
    Direction,
    Kind,
    Packet,
    Rule,
    Ruleset,
    State,
    Verdict,
    decide,
)

ANSWERS = {ICMP: (0, 14, 16, 18), ICMPV6: (129,)}
NO_TRACKER = "ipfw: nothing is invalid or related, nothing bypasses the states"
ICMP_REQUESTS = "ipfw: every ICMP request is judged by itself"
HOP_LIMIT = "ipfw: the hop limit of IPv6 cannot be asked"
NO_CLOCK = "ipfw: no clock"
PUBLISHED = "ipfw: nothing is published by others"
BROADCAST = "ipfw: broadcast addresses are a table"
NOT_FORWARDED = "ipfw: what is sent to many, or by the loopback interface, is not forwarded"
THROUGH = "ipfw: block entries with ports, and what passes through"
REDIRECTED = "ipfw: redirected ports"


def forced(ruleset: Ruleset, packet: Packet, answer: Verdict) -> str | None:
    """The heading that explains a verdict other than the policy's; None: nothing does."""
    if packet.original is not None or packet.published:
        return PUBLISHED
    through = packet.direction is Direction.FORWARDED
    if through and (LOOPBACK in (packet.interface, packet.out_interface) or packet.destination in CAST):
        return NOT_FORWARDED
    if packet.direction is Direction.INBOUND and not packet.local and packet.destination not in CAST:
        return BROADCAST
    seen, heading = known(packet)
    verdict, rule = decide(ruleset, seen)
    if heading is not None and verdict is answer:
        return heading
    if seen.direction is Direction.FORWARDED and _through(ruleset, seen, verdict, rule, answer):
        return THROUGH
    if seen.state is State.ESTABLISHED and any(t.target and t.matches(_new(seen)) for t in ruleset.translations):
        return REDIRECTED
    return None


def _new(packet: Packet) -> Packet:
    return replace(packet, state=State.NEW, reply=False)


def known(packet: Packet) -> tuple[Packet, str | None]:
    """A packet as ipfw knows it, and what it did not know."""
    heading: str | None = None
    if packet.at is not None:
        packet, heading = replace(packet, at=None), NO_CLOCK
    if packet.protocol == ICMPV6 and packet.hop_limit != 255:
        packet, heading = replace(packet, hop_limit=255), HOP_LIMIT
    if packet.state is State.ESTABLISHED and packet.port // 256 not in ANSWERS.get(
        packet.protocol, (packet.port // 256,)
    ):
        packet, heading = _new(packet), ICMP_REQUESTS
    if packet.state not in State.NEW | State.ESTABLISHED:
        packet, heading = _new(packet), NO_TRACKER
    return packet, heading


def _through(ruleset: Ruleset, packet: Packet, verdict: Verdict, rule: Rule, answer: Verdict) -> bool:
    """Which end began what passes through is guessed: by a low port, or by the start of a TCP connection."""
    if packet.state is not State.ESTABLISHED:
        loose = ruleset.forward_kept and packet.protocol == TCP and not packet.starts
        return loose and rule.original_direction and answer is Verdict.ACCEPT and not _low(ruleset, rule, packet)
    if verdict is Verdict.DROP and rule.kind is Kind.BLOCK and rule.original_direction:
        return answer is Verdict.ACCEPT and not _low(ruleset, rule, packet)
    blocks = [r for r in ruleset.forwarded if r.original_direction]
    forward = replace(packet, reply=False)
    return answer is Verdict.DROP and any(r.matches(forward) for r in blocks) and packet.reply


def _low(ruleset: Ruleset, rule: Rule, packet: Packet) -> bool:
    """Whether the block is asked of every packet: of low ports, and where no states are kept."""
    ends = [f.ports.bounds[-1] for f in rule.flows or () if f.protocol == packet.protocol]
    return (ruleset.forward_kept and packet.protocol != TCP) or any(end <= 1024 for end in ends)
