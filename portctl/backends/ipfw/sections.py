"""The passes through the rules: what comes in for this host, what it sends, and what passes through it, twice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from portctl.backends.ipfw import nat, words
from portctl.backends.ipfw.differences import ANSWERS, LOW_PORTS, by_low_ports, follows
from portctl.backends.ipfw.layout import BROADCAST, CAST, LOOPED_TAG, OPEN, STAND_IN, STANDS_IN, Layout
from portctl.backends.ipfw.matching import bodies, note
from portctl.backends.ipfw.starts import Pass, Starts
from portctl.net import ANYWHERE
from portctl.ruleset import (
    ICMP,
    ICMPV6,
    KNOWN,
    LOOPBACK,
    TCP,
    Flow,
    Kind,
    Rule,
    State,
    Verdict,
)

IN_STATE, OUT_STATE, THROUGH_STATE = "portctl_in", "portctl_out", "portctl_through"
"""Names of states: connections that others began with this host, that it began, and that pass through it."""
FORWARDED_TAG = 20000
"""Marks a packet, once it is in, that leaves again."""
LOOKED_UP = tuple(
    (words.protocol(protocol), f"{'icmptypes' if protocol == ICMP else 'icmp6types'} {','.join(map(str, types))}")
    for protocol, types in ANSWERS.items()
)
"""The answers to requests: the only ICMP that a state may admit, since a state covers every type between two hosts."""

INBOUND = Pass("in", "in", IN_STATE)
OUTBOUND = Pass("out", "out", OUT_STATE)
THROUGH_IN = Pass("through-in", "in", "")
THROUGH_OUT = Pass("through-out", "out", THROUGH_STATE)


def sections(layout: Layout) -> None:
    """All blocks, in the order of their numbers."""
    ruleset = layout.ruleset
    _head(layout)
    layout.block(THROUGH_IN.name)
    layout.add(THROUGH_IN.name, f"count tag {FORWARDED_TAG}", "ip from any to any in")
    _section(layout, THROUGH_IN, ruleset.forwarded)
    layout.block(INBOUND.name)
    _section(layout, INBOUND, ruleset.inbound)
    layout.block(THROUGH_OUT.name)
    # What leaves in a tunnel carries the tag out again, in a packet of this host's own.
    layout.add(THROUGH_OUT.name, f"count untag {FORWARDED_TAG}", "ip from any to any out")
    _section(layout, THROUGH_OUT, ruleset.forwarded)
    layout.block(OUTBOUND.name)
    _section(layout, OUTBOUND, ruleset.outbound)
    _reject(layout)
    nat.local_targets(layout)
    nat.leaving(layout)


def _head(layout: Layout) -> None:
    head = layout.block("head")
    # Frames, if net.link.ether.ipfw or a bridge hands them over: ARP would be denied too.
    layout.add(head, "allow", "ip from any to any layer2", words.comment("portctl:fixed:frames"))
    loopback = words.comment("portctl:fixed:loopback")
    layout.add(head, f"count tag {LOOPED_TAG}", "ip6 from any to any out via lo0")
    layout.add(head, "allow", "ip from any to any via lo0", loopback)
    # What goes to an own address of IPv6 leaves by lo0, and comes in by the interface that has the address. That of a
    # clone of lo0 (a jail's) is judged.
    layout.add(head, "allow", f"ip6 from any to me6 in not recv lo* tagged {LOOPED_TAG}", loopback)
    layout.add(head, f"skipto @{THROUGH_OUT.name}@", f"ip from any to any out tagged {FORWARDED_TAG}")
    layout.add(head, f"skipto @{OUTBOUND.name}@", "ip from any to any out")
    layout.add(head, "reass", "ip4 from any to any in")
    nat.arriving(layout, head)
    for body in nat.taken_in(layout):
        layout.add(head, f"skipto @{INBOUND.name}@", body)
    cast = layout.addresses(CAST, "cast")
    for target in ("me", cast, f"table({BROADCAST})"):
        layout.add(head, f"skipto @{INBOUND.name}@", f"ip from any to {target} in")
    layout.add(head, f"skipto @{INBOUND.name}@", f"ip4 from any to {STAND_IN} in", words.comment(STANDS_IN))


def _section(layout: Layout, at: Pass, rules: Sequence[Rule]) -> None:
    """Every rule of a direction, first match first."""
    *before, last = [rule for rule in rules if _said(rule)]
    tracked = at.name in (INBOUND.name, OUTBOUND.name) or follows(layout.ruleset)
    early: list[Rule] = []
    for kind, run in groupby(before, _phase):
        several = list(run)
        if kind == "known":
            if tracked:
                _known(layout, at, early)
            early = []
        elif kind == "starts":
            _starts(layout, at, several)
        else:
            for rule in several:
                if rule.original_direction:
                    early += _unless_plain(layout, at, rule, tracked)
                else:
                    # What belongs to no connection is stopped here by an entry that stops whatever starts one.
                    for stopped in early if rule.verdict is Verdict.ACCEPT else ():
                        if stopped.flows is None:
                            _plain(layout, at, stopped, rule.flows)
                    if at is THROUGH_OUT and rule.kind is Kind.FIXED and rule.verdict is Verdict.ACCEPT:
                        nat.errors(layout, _open(layout), rule)
                    _plain(layout, at, rule)
    _default(layout, at, last)


def _said(rule: Rule) -> bool:
    """Whether ipfw has a notion of what a rule asks for: nothing bypasses its tracker or is published by others."""
    loopback = rule.interfaces == (LOOPBACK,) or rule.out_interfaces == (LOOPBACK,)
    return not rule.published and bool(rule.states & (State.NEW | KNOWN)) and not (loopback and rule.kind is Kind.FIXED)


def _phase(rule: Rule) -> str:
    if not rule.states & State.NEW:
        return "known"
    return "starts" if rule.syn and rule.verdict is Verdict.ACCEPT else "plain"


def _plain(
    layout: Layout, at: Pass, rule: Rule, flows: tuple[Flow, ...] | None = None, *, starts: bool = False
) -> None:
    """A rule that looks at nothing but the packet, at the end of the pass so far."""
    found = list(bodies(layout, rule, at.way, starts=starts, flows=flows))
    if not found:
        return
    excepted = list(_excepted(layout, rule))
    turned = nat.other_ports(layout.ruleset, rule.flows if flows is None else flows) if at is INBOUND else []
    after = _after(layout, f"{at.name}-excepted") if excepted or turned else ""
    for ends in excepted:
        layout.add(_open(layout), f"skipto @{after}@", f"ip {ends} {at.way}", note(rule))
    inner: dict[str, tuple[Flow, ...]] = {}
    for translation, meant in turned:
        name = _after(layout, f"{at.name}-turned-{len(inner)}") if meant else after
        if meant:
            inner[name] = meant
        for text in nat.arriving_for(layout, translation, None):
            layout.add(_open(layout), f"skipto @{name}@", text, note(rule))
    for body in found:
        layout.add(_open(layout), _action(layout, rule), body.text, note(rule))
    for name, meant in inner.items():
        layout.add(_open(layout), f"skipto @{after}@", "ip from any to any")
        layout.block(name)
        for body in bodies(layout, rule, at.way, starts=starts, flows=meant):
            layout.add(name, _action(layout, rule), body.text, note(rule))
    if after:
        layout.block(after)


def _excepted(layout: Layout, rule: Rule) -> Iterator[str]:
    """What an `except` beside a live group leaves out: a rule has one place for the source."""
    if rule.live_source is not None and (out := ANYWHERE - rule.source):
        yield f"from {layout.addresses(out, f'except-{rule.name}')} to any"
    if rule.live_destination is not None and (out := ANYWHERE - rule.destination):
        yield f"from any to {layout.addresses(out, f'except-{rule.name}')}"


def _open(layout: Layout) -> str:
    return next(reversed(layout.blocks))


def _action(layout: Layout, rule: Rule) -> str:
    if rule.verdict is Verdict.ACCEPT:
        return "allow"
    if rule.verdict is Verdict.REJECT:
        return "skipto @reject@"
    return "deny log" if layout.ruleset.log_denied else "deny"


def _unless_plain(layout: Layout, at: Pass, rule: Rule, tracked: bool) -> list[Rule]:
    """Says a rule that means one direction of a connection, as far as a packet alone tells it; the rest, for later.

    The type tells the direction of ICMP. Of what passes through no state tells who began it: there a low port does,
    and of TCP the start. See docs/platforms.md.
    """
    flows = rule.flows or ()
    icmp = tuple(f for f in flows if f.protocol in (ICMP, ICMPV6))
    if icmp:
        _plain(layout, at, rule, icmp)
    others = tuple(f for f in flows if f.protocol not in (ICMP, ICMPV6))
    if not others and rule.flows is not None:
        return []
    if rule.flows is None and not tracked:
        _plain(layout, at, rule)
        return []
    if at.name in (INBOUND.name, OUTBOUND.name):
        return [rule]
    others = tuple(by_low_ports(others))
    low = tuple(f for f in others if f.ports <= LOW_PORTS or (not tracked and f.protocol != TCP))
    if low:
        _plain(layout, at, rule, low)
    high = tuple(f for f in others if f not in low)
    starts = tuple(f for f in high if f.protocol == TCP)
    if starts:
        _plain(layout, at, rule, starts, starts=True)
    return [rule] if high or rule.flows is None else []


def _after(layout: Layout, name: str) -> str:
    """A name for a block to come."""
    count = 2
    wanted = name
    while name in layout.blocks:
        name = f"{wanted}~{count}"
        count += 1
    return name


def _known(layout: Layout, at: Pass, early: Sequence[Rule]) -> None:
    """Connections that are known. `early`: rules on one direction of a connection, before the other may pass."""
    block = _open(layout)
    asked, after = f"{at.name}-known", f"{at.name}-unknown"
    # No reass for IPv6. The first fragment has the ports and is judged; without it the others are thrown away.
    layout.add(block, "allow", f"ip6 from any to any {at.way} frag", words.comment("portctl:fixed:fragments"))
    if at.name in (INBOUND.name, OUTBOUND.name):
        layout.add(
            block, "allow", f"ip from any to any {at.way} flow table({OPEN})", words.comment("portctl:fixed:open")
        )
    for protocol, types in LOOKED_UP:
        layout.add(block, f"skipto @{asked}@", f"{protocol} from any to any {at.way} {types}")
    for protocol, _ in LOOKED_UP:
        layout.add(block, f"skipto @{after}@", f"{protocol} from any to any {at.way}")
    layout.block(asked)
    own = at.name in (INBOUND.name, OUTBOUND.name)
    if early and own:
        layout.add(asked, "check-state", f":{OUT_STATE if at is INBOUND else IN_STATE}")
        for rule in early:
            _plain(layout, at, rule, _not_icmp(rule))
    layout.add(_open(layout), "check-state", ":any")
    layout.block(after)
    for rule in early:
        if rule.flows is None:
            _plain(layout, at, rule)
        elif not own:
            _plain(layout, at, rule, _not_icmp(rule))


def _not_icmp(rule: Rule) -> tuple[Flow, ...] | None:
    if rule.flows is None:
        return None
    return tuple(f for f in rule.flows if f.protocol not in (ICMP, ICMPV6))


def _starts(layout: Layout, at: Pass, rules: Sequence[Rule]) -> None:
    after = _after(layout, f"{at.name}-default")
    block = layout.block(f"{at.name}-starts")
    turned = [rule for rule in rules if rule.original is not None]
    direct = [rule for rule in rules if rule.original is None]
    nat.turned(layout, at, block, turned, direct)
    leaves = {m.name: nat.leave_block(m.name) for m in layout.ruleset.masquerades} if at is THROUGH_OUT else {}
    named = Pass(block, at.way, at.state)
    Starts(layout, named, direct, after, leaves).render()
    layout.block(after)


def _default(layout: Layout, at: Pass, rule: Rule) -> None:
    block = _open(layout)
    if rule.verdict is Verdict.ACCEPT and at.name in (INBOUND.name, OUTBOUND.name):
        layout.add(block, "allow", f"ip from any to any {at.way} keep-state :{at.state}", note(rule))
    else:
        _plain(layout, at, rule)


def _reject(layout: Layout) -> None:
    """RST for TCP, port unreachable for the rest. The forms of each family answer that family alone."""
    if not any("@reject@" in line for line in layout.lines()):
        return
    block, six = layout.block("reject"), "reject-6"
    why = words.comment("portctl:reject")
    if layout.ruleset.log_denied:
        layout.add(block, "count log", "ip from any to any", why)
    layout.add(block, f"skipto @{six}@", "ip6 from any to any")
    layout.add(block, "reset", "tcp from any to any", why)
    layout.block(six)
    layout.add(six, "reset6", "tcp from any to any", why)
    layout.add(six, "unreach port", "ip from any to any", why)
