"""What each chain of somebody else's does beyond the rules that are wanted, as sets of packets: what it cuts, what it
lets in. All hooks are asked together, as the kernel asks them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

from portctl.evaluation import Step, evaluate
from portctl.net import Address
from portctl.program import Accept, Action, Chain, Deny, Lookup, Note, Program, Return, Translate
from portctl.space.examples import example
from portctl.space.sets import PacketSet, Partition, possible

MOST_CHAINS = 12
"""So many chains are told apart; each costs about as much as the whole program once."""
MOST_LINES, MOST_TURNS = 20_000, 120
"""Lines, and translations of destinations, beyond which a program is not asked as a set."""
TURNS = ("destination", "redirect")
Way = Literal["cuts", "admits"]


@dataclass(frozen=True, slots=True)
class Effect:
    """The packets that are denied (`cuts`) or accepted (`admits`) because of one foreign chain, against what is wanted;
    `step` decides one of them."""

    way: Way
    packets: PacketSet
    step: Step


def too_large(program: Program) -> bool:
    """Whether a program has more than can be asked in a moment."""
    lines = [line for chain in program.chains for line in chain.lines]
    turns = sum(isinstance(a, Translate) and a.address is not None for line in lines for a in line.actions)
    return len(lines) > MOST_LINES or turns > MOST_TURNS


def effects(wanted: Partition, program: Program, loaded: Partition, own: Iterable[Address]) -> Iterator[Effect]:
    """What foreign chains do, one after the other. `loaded` is the partition of `program`, in the space of `wanted`."""
    world, own = possible(wanted.space), tuple(own)
    cut = (wanted.accepted() - loaded.maybe_accepted()) & world
    admitted = (loaded.accepted() - wanted.maybe_accepted()) & world
    yield from _by_chain("cuts", cut, program, loaded, own)
    yield from _by_chain("admits", admitted, program, loaded, own)


def _by_chain(
    way: Way, packets: PacketSet, program: Program, loaded: Partition, own: tuple[Address, ...]
) -> Iterator[Effect]:
    """The packets by the chain that decides them. Those that portctl's own chains decide are left out."""
    turn: Callable[[Action], Action] = _answered_otherwise if way == "cuts" else _passed_on
    ours = [chain for chain in program.chains if chain.own]
    left = packets
    if left and ours:
        left = left - _decided(ours, program, loaded, own, turn)
    for _ in range(MOST_CHAINS):
        packet = example(left)
        if packet is None:
            return
        answer = evaluate(program, packet, own)
        step = answer.decided if way == "cuts" else _admitting(answer.trace)
        if step is None:
            return
        found = left & _decided([step.chain], program, loaded, own, turn)
        if not found:
            return
        if not step.chain.own:
            yield Effect(way, found, step)
        left = left - found


def _admitting(trace: Iterable[Step]) -> Step | None:
    """The last line of somebody else's that accepted a packet, or turned it elsewhere."""
    found = [
        step
        for step in trace
        if not step.chain.own
        and step.line
        and any(isinstance(a, Accept | Return | Translate) for a in step.line.actions)
    ]
    return found[-1] if found else None


def _decided(
    chains: Iterable[Chain],
    program: Program,
    loaded: Partition,
    own: tuple[Address, ...],
    turn: Callable[[Action], Action],
) -> PacketSet:
    """The packets with which something else would happen if some chains acted otherwise."""
    places = {id(chain) for chain in chains}
    changed = Program(tuple(_turned(c, turn) if id(c) in places else c for c in program.chains))
    return loaded.space.of_program(changed, own).differing(loaded)


def _turned(chain: Chain, turn: Callable[[Action], Action]) -> Chain:
    lines = tuple(replace(line, actions=tuple(_each(a, turn) for a in line.actions)) for line in chain.lines)
    hook = chain.hook
    if hook is not None and isinstance(hook.policy, Deny):
        policy = turn(hook.policy)
        assert isinstance(policy, Accept | Deny)
        hook = replace(hook, policy=policy)
    return replace(chain, lines=lines, hook=hook)


def _each(action: Action, turn: Callable[[Action], Action]) -> Action:
    if isinstance(action, Lookup):
        return Lookup(tuple((conditions, _each(found, turn)) for conditions, found in action.entries))
    return turn(action)


def _answered_otherwise(action: Action) -> Action:
    """A denial that is told from all others."""
    return replace(action, reject=not action.reject) if isinstance(action, Deny) else action


def _passed_on(action: Action) -> Action:
    """Nothing in the place of what lets a packet out of the chain, or turns it elsewhere: what would the others do?"""
    if isinstance(action, Accept | Return) or (isinstance(action, Translate) and action.kind in TURNS):
        return Note("")
    return action
