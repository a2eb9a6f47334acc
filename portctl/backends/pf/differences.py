"""Where pf forces another verdict than the policy's: on which packets, and under which heading of docs/platforms.md.

`Pf.differences` offers them; `base.explained` asks them of one packet, the packet space asks their regions of all.
Conditions are plain ones, without `CONCATENATION`.
"""

from __future__ import annotations

from collections.abc import Iterator

from portctl.backends.base import Difference, Region
from portctl.backends.pf.dialects import Dialect
from portctl.backends.pf.turning import alone
from portctl.backends.pf.words import CAST
from portctl.net import LINK_LOCAL_V6, LOOPBACK_ADDRESSES, Addresses, Ranges
from portctl.program import Condition, Field
from portctl.ruleset import (
    ACK,
    EVERY_PORT,
    FIN,
    ICMP,
    ICMPV6,
    KNOWN,
    LOOPBACK,
    RST,
    SYN,
    Direction,
    Kind,
    Ruleset,
    State,
    Translation,
    Verdict,
    icmp,
)

DROPPED = frozenset((Verdict.DROP,))
REFUSED = frozenset((Verdict.DROP, Verdict.REJECT))
ACCEPTED = frozenset((Verdict.ACCEPT,))
PUSH, URGENT = 8, 32
IMPOSSIBLE = (
    (SYN | RST, SYN | RST),
    (SYN | FIN, SYN | FIN),
    (SYN | ACK | RST, 0),
    (FIN | ACK, FIN),
    (PUSH | ACK, PUSH),
    (URGENT | ACK, URGENT),
)
"""(mask, value) of TCP flags that pf_normalize_tcp drops."""
PASSING = (Direction.FORWARDED,)


def differences(ruleset: Ruleset, dialect: Dialect) -> tuple[Difference, ...]:
    """Those that apply to a rule set."""
    found = [
        *_limited_targets(ruleset),
        *_other_ways_out(ruleset),
        *_elsewhere(ruleset),
        _untracked(),
        _published(),
        _hop_limit(),
        _loopback_interface(),
        _loopback_addresses(ruleset),
        _known_and_blocked(),
        _listener_messages(),
        _flags(),
        _anycast(),
        _cast(),
    ]
    if not dialect.groups:
        heading = "macOS: what passes through is judged as sent to this host"
        found.append(Difference("passing through", heading, (Region((), PASSING),), got=REFUSED))
    if any(rule.until for direction in Direction for rule in ruleset.rules(direction)) or any(
        item.until for item in ruleset.translations
    ):
        found.append(Difference("no clock", "pf and ipfw: no clock", (Region(),), seen=(("at", None),)))
    return tuple(found)


def _untracked() -> Difference:
    where = Region((Condition(Field.STATE, State.INVALID | State.UNTRACKED),))
    seen = (("state", State.NEW), ("reply", False))
    return Difference("no tracker", "BSD: nothing is invalid, nothing bypasses the state table", (where,), seen)


def _published() -> Difference:
    where = Region((Condition(Field.TRANSLATED, True),))
    return Difference("published", "BSD: ports that container engines publish", (where,))


def _hop_limit() -> Difference:
    where = Region((*_icmp6(icmp(133, 134, 135, 136, 137)),))
    return Difference("hop limit", "pf: the hop limit is the kernel's to ask", (where,), seen=(("hop_limit", 255),))


def _icmp6(types: Ranges) -> tuple[Condition, ...]:
    return Condition(Field.PROTOCOL, Ranges.single(ICMPV6)), Condition(Field.ICMP, types)


def _loopback_interface() -> Difference:
    where = tuple(Region((Condition(side, (LOOPBACK,)),), PASSING) for side in (Field.IN, Field.OUT))
    return Difference("loopback interface", "BSD: nothing is forwarded from or to the loopback interface", where)


def _loopback_addresses(ruleset: Ruleset) -> Difference:
    """A packet may turn into one that passes through only after portctl has translated it."""
    where = [Region((end,), PASSING) for end in _ends(LOOPBACK_ADDRESSES)]
    for item in ruleset.translations:
        if item.target is not None:
            where += [Region((*asked, end), (Direction.INBOUND,)) for asked in _asked(item) for end in _ends()]
    heading = "BSD: nothing is forwarded from or to a loopback address"
    return Difference("loopback address", heading, tuple(where), got=DROPPED)


def _ends(addresses: Addresses = LOOPBACK_ADDRESSES) -> Iterator[Condition]:
    for side in (Field.SOURCE, Field.DESTINATION):
        yield from _within(side, addresses)


def _within(side: Field, addresses: Addresses) -> Iterator[Condition]:
    for family in addresses.families():
        yield Condition(side, addresses.family(family), family=family)


def _asked(item: Translation) -> Iterator[tuple[Condition, ...]]:
    """What a translation asks of a packet but its ends, in lists of conditions of which one must hold."""
    devices = (Condition(Field.IN, item.interfaces),) if item.interfaces else ()
    if item.flows is None:
        yield devices
    for flow in item.flows or ():
        found = [*devices, Condition(Field.PROTOCOL, Ranges.single(flow.protocol))]
        if flow.ports != EVERY_PORT:
            found.append(Condition(Field.ICMP if flow.protocol in (ICMP, ICMPV6) else Field.PORT, flow.ports))
        yield tuple(found)


def _limited_targets(ruleset: Ruleset) -> Iterator[Difference]:
    """A limit beside a target is asked when the packet comes in: no later entry is."""
    over = Condition(Field.LIMIT, "within", negated=True)
    rules = (*ruleset.forwarded, *ruleset.inbound)
    limited = {rule.name for rule in rules if rule.kind is Kind.FORWARD and rule.limited}
    items = [item for item in ruleset.translations if item.name in limited]
    ways = (Direction.INBOUND, *PASSING)
    where = tuple(Region((*asked, over), ways) for item in items for asked in _asked(item))
    if where:
        yield Difference(
            "limits of targets", "pf: limits", where, wanted=frozenset((Verdict.ACCEPT, Verdict.REJECT)), got=DROPPED
        )


def _other_ways_out(ruleset: Ruleset) -> Iterator[Difference]:
    """What a target turned bears the tag of its entry, and no other entry is asked on the way out."""
    outs = {r.name: r.out_interfaces for r in ruleset.forwarded if r.kind is Kind.FORWARD and r.original is not None}
    where: list[Region] = []
    for item in ruleset.translations:
        if item.target is not None and outs.get(item.name):
            elsewhere = Condition(Field.OUT, outs[item.name], negated=True)
            where += [Region((*asked, elsewhere), (Direction.INBOUND, *PASSING)) for asked in _asked(item)]
    if where:
        yield Difference("targets elsewhere", "pf: targets by another way", tuple(where), wanted=ACCEPTED, got=REFUSED)


def _elsewhere(ruleset: Ruleset) -> Iterator[Difference]:
    """A single address is taken for one of this host's; what was sent to another host's does not leave."""
    where: list[Region] = []
    for item in ruleset.translations:
        if item.target is not None or item.destination is None:
            continue
        for family in item.families():
            own = Addresses.of(*alone(item.destination.family(family), family))
            for asked in _asked(item):
                where += [
                    Region((*asked, each, Condition(Field.LOCAL, False)), (Direction.INBOUND, *PASSING))
                    for each in _within(Field.DESTINATION, own)
                ]
    if where:
        heading = "pf: ports of this host"
        yield Difference("ports of this host", heading, tuple(where), wanted=ACCEPTED, got=REFUSED)


def _known_and_blocked() -> Difference:
    where = Region((Condition(Field.STATE, KNOWN),))
    heading = "pf: a known connection is not judged again"
    return Difference("known connections", heading, (where,), wanted=REFUSED, got=ACCEPTED)


def _listener_messages() -> Difference:
    listener = _icmp6(icmp(130, 131, 132, 143))
    odd = (
        Condition(Field.HOP_LIMIT, Ranges.single(1), negated=True),
        Condition(Field.SOURCE, LINK_LOCAL_V6.v6, negated=True, family=6),
    )
    where = tuple(Region((*listener, each)) for each in odd)
    return Difference("listener messages", "pf: multicast listener messages", where, got=DROPPED)


def _flags() -> Difference:
    where = tuple(Region((Condition(Field.FLAGS, wrong),)) for wrong in IMPOSSIBLE)
    return Difference("flags", "pf: impossible TCP flags", where, got=DROPPED)


def _anycast() -> Difference:
    """What IPv6 brings to this host goes to one of its addresses, or to many."""
    asked = (Condition(Field.LOCAL, False), Condition(Field.DESTINATION, CAST.v6, negated=True, family=6))
    heading = "BSD: IPv6 has no broadcast"
    return Difference("anycast", heading, (Region(asked, (Direction.INBOUND,)),))


def _cast() -> Difference:
    where = tuple(Region((each,), PASSING) for each in _within(Field.DESTINATION, CAST))
    return Difference("multicast", "BSD: what is sent to many ends at this host", where, got=REFUSED)
