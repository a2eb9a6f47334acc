"""One packet through a program: every hook in its order, as the kernel would run it, and which line decided.

A verdict that depends on something unknown comes back with its lines in `depends_on`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

from portctl.net import Address, Ranges
from portctl.program import (
    Accept,
    Action,
    Chain,
    Condition,
    Deny,
    Field,
    HookName,
    Jump,
    Line,
    Lookup,
    Note,
    Place,
    Program,
    Return,
    SetMark,
    Translate,
    Unknown,
)
from portctl.ruleset import (
    ICMP,
    ICMPV6,
    LOOPBACK,
    PROTOCOLS_WITH_PORTS,
    Direction,
    Packet,
    State,
    Verdict,
    interface_matches,
)


@dataclass(frozen=True, slots=True)
class Step:
    """One line that a packet matched on its way."""

    chain: Chain
    line: Line | None
    """None: the chain's policy."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a program does with a packet. `decided` is the line (or policy) that denied it, or the last that accepted
    (one that only translates where no other did).

    `trace` holds every line that matched. `depends_on` is not empty where the verdict hangs on something unknown;
    the verdict is then the one with that condition false.
    """

    verdict: Verdict
    decided: Step | None
    trace: tuple[Step, ...]
    depends_on: tuple[Step, ...] = ()
    packet: Packet | None = None
    """The packet as it left, after translations."""


_HOOKS: dict[Direction, tuple[HookName, ...]] = {
    Direction.INBOUND: ("prerouting", "input"),
    Direction.OUTBOUND: ("output", "postrouting"),
    Direction.FORWARDED: ("prerouting", "forward", "postrouting"),
}


@dataclass(slots=True)
class _Walk:
    """The state of one packet on its way."""

    packet: Packet
    arrived: Packet
    chains: Mapping[Place, Chain]
    mark: int = 0
    translated: bool = False
    within_limits: bool = True
    hook: HookName = "prerouting"
    owners: frozenset[str] = frozenset()
    trace: list[Step] = field(default_factory=list)
    depends: list[Step] = field(default_factory=list)


def evaluate(program: Program, packet: Packet, own_addresses: Iterable[Address] = ()) -> Answer:
    """Runs a packet through every hook of a program in priority order.

    After a destination translation the packet goes to this host if the new address is among `own_addresses` or the
    action says so, else it is forwarded.
    """
    own = frozenset(own_addresses)
    chains = {c.place: c for c in program.chains}
    walk = _Walk(packet, packet, chains, within_limits=not packet.over_limit)
    walk.translated = packet.original is not None
    hooks = list(_HOOKS[packet.direction])
    last: Step | None = None
    while hooks:
        name = walk.hook = hooks.pop(0)
        at_hook = [
            c for c in program.chains if c.hook and c.hook.name == name and c.family in (None, packet.source.version)
        ]
        for chain in sorted(at_hook, key=lambda c: c.hook.priority if c.hook else 0):
            assert chain.hook is not None
            turned = packet.original is not None or (walk.translated and name != "postrouting")
            if chain.hook.kind == "nat" and (packet.state is not State.NEW or turned):
                continue
            verdict, step = _run_base(walk, chain)
            if step is not None and (last is None or chain.hook.kind != "nat"):
                last = step
            if isinstance(verdict, Deny):
                outcome = Verdict.REJECT if verdict.reject else Verdict.DROP
                return Answer(outcome, step, tuple(walk.trace), tuple(walk.depends), walk.packet)
            if isinstance(verdict, Translate) and verdict.kind in ("destination", "redirect"):
                _turn(walk, verdict, own)
                hooks = hooks if name != "prerouting" else list(_HOOKS[walk.packet.direction][1:])
            elif isinstance(verdict, Translate) and _sources(verdict, walk):
                walk.packet = replace(walk.packet, source=verdict.address or walk.packet.source)
    return Answer(Verdict.ACCEPT, last, tuple(walk.trace), tuple(walk.depends), walk.packet)


def _sources(action: Translate, walk: _Walk) -> bool:
    """Whether a translation of the source can be: at the last hook of a packet's way, to an address of its family."""
    address = action.address
    last = walk.hook in ("input", "postrouting")
    return last and address is not None and address.version == walk.packet.source.version


def holds(conditions: Iterable[Condition], packet: Packet) -> bool:
    """Whether a packet, as it arrives, fulfils all of some conditions; unknown ones it does not."""
    walk = _Walk(packet, packet, {}, within_limits=not packet.over_limit, translated=packet.original is not None)
    walk.hook = _HOOKS[packet.direction][0]
    return _all(walk, conditions) is True


def _turn(walk: _Walk, action: Translate, own: frozenset[Address]) -> None:
    packet = walk.packet
    local = action.kind == "redirect" or (action.address is None and packet.local) or action.address in own
    walk.translated = True
    walk.packet = replace(
        packet,
        destination=action.address or packet.destination,
        port=action.port if action.port is not None else packet.port,
        original=(packet.destination, packet.port),
        direction=packet.direction
        if packet.direction is Direction.OUTBOUND
        else (Direction.INBOUND if local else Direction.FORWARDED),
        local=local,
    )


def _run_base(walk: _Walk, chain: Chain) -> tuple[Accept | Deny | Translate, Step | None]:
    action, step = _run(walk, chain, 0)
    if isinstance(action, Accept | Deny | Translate):
        return action, step
    assert chain.hook is not None
    policy = Step(chain, None)
    if isinstance(chain.hook.policy, Deny):
        walk.trace.append(policy)
        return chain.hook.policy, policy
    return Accept(), step


def _run(walk: _Walk, chain: Chain, depth: int) -> tuple[Action | None, Step | None]:
    """The action that ends the chain, with its line; None where it runs to its end or returns."""
    if depth > 64:
        return Unknown("jumps nest deeper than 64"), None
    for line in chain.lines:
        holds = _all(walk, line.conditions)
        step = Step(chain, line)
        if holds is None:
            walk.depends.append(step)
            continue
        if not holds:
            continue
        walk.trace.append(step)
        for action in line.actions:
            ended, result, at = _act(walk, chain, action, step, depth)
            if ended:
                return result, at
    return None, None


def _act(walk: _Walk, chain: Chain, action: Action, step: Step, depth: int) -> tuple[bool, Action | None, Step | None]:
    """Whether the chain ends with this action, with what, and at which line."""
    match action:
        case Accept() | Deny() | Translate():
            return True, action, step
        case Return():
            return True, None, None
        case Jump():
            target = walk.chains.get((chain.family, chain.table, action.chain))
            if target is None:
                walk.depends.append(step)
                return False, None, None
            result, at = _run(walk, target, depth + 1)
            return (result is not None or action.goto), result, at
        case Lookup():
            for conditions, found in action.entries:
                if _all(walk, conditions):
                    return _act(walk, chain, found, step, depth)
            return False, None, None
        case SetMark():
            walk.mark = walk.mark & ~action.mask | action.value
            return False, None, None
        case Unknown():
            walk.depends.append(step)
            return False, None, None
        case Note():
            return False, None, None


def _all(walk: _Walk, conditions: Iterable[Condition]) -> bool | None:
    """Whether all hold; None where that hangs on an unknown one."""
    unknown = False
    for condition in conditions:
        holds = _holds(walk, condition)
        if holds is None:
            unknown = True
        elif not holds:
            return False
    return None if unknown else True


def _holds(walk: _Walk, condition: Condition) -> bool | None:
    packet = walk.packet
    if condition.family is not None and packet.source.version != condition.family:
        return False
    truth = _truth(walk, packet, condition)
    if truth is None:
        return None
    return False if isinstance(truth, _Never) else truth != condition.negated


class _Never:
    """A condition that cannot be asked of this packet: false, negated or not."""

    def __bool__(self) -> bool:
        return False


_never = _Never()


def _truth(walk: _Walk, packet: Packet, condition: Condition) -> bool | _Never | None:  # noqa: C901 - one case a field
    value = condition.value
    match condition.field:
        case Field.FAMILY:
            return packet.source.version in _ranges(value)
        case Field.PROTOCOL:
            return packet.protocol in _ranges(value)
        case Field.SOURCE:
            return int(packet.source) in _ranges(value)
        case Field.DESTINATION:
            return int(packet.destination) in _ranges(value)
        case Field.PORT | Field.SOURCE_PORT:
            if packet.protocol not in PROTOCOLS_WITH_PORTS:
                return _never
            return (packet.port if condition.field is Field.PORT else packet.source_port) in _ranges(value)
        case Field.ICMP:
            return packet.port in _ranges(value) if packet.protocol in (ICMP, ICMPV6) else _never
        case Field.IN:
            return packet.direction is not Direction.OUTBOUND and _interface(value, packet.interface)
        case Field.OUT:
            return packet.direction is not Direction.INBOUND and _interface(value, packet.out_interface)
        case Field.STATE:
            assert isinstance(value, State)
            return packet.state in value
        case Field.REPLY:
            return _never if packet.state in State.INVALID | State.UNTRACKED else packet.reply == value
        case Field.TRANSLATED:
            return walk.translated is value
        case Field.ORIGINAL_SOURCE:
            return int(packet.source) in _ranges(value)
        case Field.ORIGINAL_DESTINATION:
            return int(packet.original[0] if packet.original else packet.destination) in _ranges(value)
        case Field.ORIGINAL_PORT:
            return (packet.original[1] if packet.original else packet.port) in _ranges(value)
        case Field.FLAGS:
            assert isinstance(value, tuple)
            return bool(packet.flags & value[0] == value[1]) if packet.protocol == 6 else _never
        case Field.HOP_LIMIT:
            return packet.hop_limit in _ranges(value)
        case Field.MARK:
            assert isinstance(value, tuple)
            return bool(walk.mark & value[0] == value[1])
        case Field.LOCAL:
            # What somebody else's DNAT turned still had its own destination before routing.
            before = walk.hook == "prerouting" and walk.arrived.original is not None
            return (walk.arrived.published if before else packet.local) is value
        case Field.SENT:
            return (packet.direction is Direction.OUTBOUND) is value
        case Field.USER:
            return bool(packet.user == value)
        case Field.UNTIL:
            assert isinstance(value, datetime)
            return packet.at is None or bool(packet.at < value)
        case Field.LIMIT:
            return walk.within_limits
        case Field.LIVE:
            return value in packet.live_source
        case Field.LIVE_DESTINATION:
            return value in packet.live_destination
        case Field.CONCATENATION:
            assert isinstance(value, tuple)
            return any(_all(walk, conditions) is True for conditions in value)
        case Field.UNKNOWN:
            return None


def _ranges(value: object) -> Ranges:
    assert isinstance(value, Ranges)
    return value


def _interface(value: object, name: str) -> bool:
    assert isinstance(value, tuple)
    return interface_matches(tuple("lo" if p == LOOPBACK else p for p in value), "lo" if name == LOOPBACK else name)
