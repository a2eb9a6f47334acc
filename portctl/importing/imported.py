"""From the input to the policy, its proof and its account."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from portctl import document, policy
from portctl.evaluation import Step, evaluate
from portctl.files import Files
from portctl.importing.account import Account
from portctl.importing.accounting import account, unsettled
from portctl.importing.draft import Draft, draft
from portctl.importing.effort import Effort
from portctl.importing.inputs import Inputs
from portctl.importing.listings import Read
from portctl.importing.naming import Names
from portctl.importing.naming import name as give_names
from portctl.importing.starts import of_starts
from portctl.importing.world import World, plain
from portctl.importing.write import Text, comment_lines, write
from portctl.net import Address
from portctl.problems import Problem, Problems
from portctl.resolve import resolve
from portctl.ruleset import Packet, Ruleset
from portctl.space import sides
from portctl.space.boxes import TooMany, boxes, set_of
from portctl.space.changes import Change, Way
from portctl.space.diagram import TooMuch
from portctl.space.difference import Difference, Relation
from portctl.space.examples import example
from portctl.space.internet import width
from portctl.space.sets import PacketSet
from portctl.space.words import tidy


@dataclass(frozen=True, slots=True)
class Imported:
    """What came of an input. `problems` are errors of the policy itself, where it cannot be said at all."""

    text: str
    account: Account
    difference: Difference | None
    """Policy against input: what only the policy admits is "opened". None: there is no policy to compare."""
    notes: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()
    ruleset: Ruleset | None = None
    unread: int = 0
    """Lines that may be rules and could not be read: what they do is not in the policy."""

    @property
    def equal(self) -> bool:
        """Proved: the policy admits exactly what the input admits."""
        same = self.difference is not None and self.difference.relation == "same"
        return same and not self.problems and not self.unread


def bring(
    inputs: Inputs, name: str, alike: bool = True, own: Iterable[Address] = (), effort: Effort | None = None
) -> Imported:
    """The policy called `name` of an input; none, and why, where it would take too much. Raises `Problems`.

    `own`: the host's own addresses, where known. `effort`: what describing it may take; None: the usual.
    """
    try:
        return _brought(inputs, name, alike, own, effort)
    except TooMuch:
        hint = "give a part of it: one chain with what it jumps to, say; `portctl reach --to` answers of the whole"
        why = "what the input does with all packets is too much to be worked out"
        return Imported("", unsettled(inputs, why), None, (), (Problem("too-many", why, None, hint),))


def _brought(inputs: Inputs, name: str, alike: bool, own: Iterable[Address], effort: Effort | None) -> Imported:
    found = draft(inputs, effort)
    named = give_names(found, alike)
    notes = tuple(dict.fromkeys((*found.notes, *named.notes, *_notes(found, alike))))
    text = write(_text(found, named, name, inputs, notes))
    try:
        ruleset, _ = resolve(policy.validate(document.read(text, name)), datetime.now(UTC), Files(Path()))
    except Problems as wrong:
        return Imported(text, account(found, named, found.left), None, notes, wrong.problems)
    difference = compare(found, ruleset, name, text, own)
    left = None if found.left is None else found.left - found.world.of(difference.new.partition.accepted())
    return Imported(text, account(found, named, left), difference, notes, (), ruleset, _unread(inputs))


_MAY_BE_RULE = re.compile(r"tables\b|(?:^|\s)--?[A-Za-z]")


def _unread(inputs: Inputs) -> int:
    """The lines of iptables that were not read and have its options; of nftables those that are of no table."""
    count = 0
    if any(source.listing.startswith("rules.v") for source in inputs.sources):
        count += sum(_MAY_BE_RULE.search(line) is not None for line in inputs.program.foreign)
    for source in inputs.sources:
        if source.form == "nft list ruleset":
            count += sum(status == "refused" for status, _ in source.said.values())
            count += sum(not line.startswith("table ") for line in inputs.program.foreign)
    return count


def _notes(found: Draft, alike: bool) -> Iterator[str]:
    if all(source.form == "nothing" for source in found.inputs.sources):
        yield "the input is empty: a host without rules, open to everybody; or it was not printed as root"
    for source in found.inputs.sources:
        if source.form == "iptables -L -n":
            yield f"{source.name} leaves out interfaces: its rules may hold or not; give what iptables-save prints"
    for source in found.inputs.sources:
        for number, table in _again(source.read):
            yield f"{source.name}:{number}: `{table}` begins again: read as if its lines followed those of the first"
    families = found.inputs.families
    if len(families) == 1:
        missing = 6 if families[0] == 4 else 4
        if alike:
            yield f"the input says nothing of IPv{missing}: what it opens to everybody is open in both families"
        else:
            yield f"the input says nothing of IPv{missing}: the policy admits none of it"
    if tools := sorted({tool for tool in found.prepared.owned.values()}):
        yield f"left to {', '.join(tools)}: the rules that they keep themselves"
    if found.prepared.forward_owner:
        yield f"the forward path is left as {found.prepared.forward_owner} keeps it (`forward: keep`)"
    elif ("forward", "keep") in found.defaults:
        yield "the input does not filter what passes through this host; nor does the policy"


def _again(lines: Iterable[Read]) -> Iterator[tuple[int, str]]:
    """Where a table of iptables-save begins that has begun before, with its own chains: two listings in one file, of
    which it cannot be known whether the second is to replace the first, as iptables-restore does, or not."""
    seen: set[tuple[str, str]] = set()
    begun = 0, ""
    for number, line in lines:
        line = line.strip()
        if line.startswith("*"):
            begun = number, line
        elif (chain := re.match(r":([A-Z]+) (?:ACCEPT|DROP)\b", line)) and begun[0]:
            place = begun[1], chain[1]
            if place in seen:
                yield begun
                begun = 0, ""
            seen.add(place)


def _text(found: Draft, named: Names, name: str, inputs: Inputs, notes: tuple[str, ...]) -> Text:
    given = ", ".join(dict.fromkeys(f"{source.name} ({source.form})" for source in inputs.sources))
    head = [f"Imported from {given}. What each line became: portctl import --account text", *notes]
    return Text(
        name,
        tuple(named.entries),
        found.defaults,
        tuple(comment_lines(head)),
        found.log_denied,
        group_names=tuple(named.groups.items()),
    )


def compare(found: Draft, ruleset: Ruleset, name: str, text: str, own: Iterable[Address] = ()) -> Difference:
    """The policy against the input, without what tools keep, for every connection that a policy speaks of."""
    space = found.world.space
    addresses = tuple(own)
    old = _input(found, addresses)
    new = sides.of_ruleset(space, ruleset, name, text)
    changes: list[Change] = []
    said = found.turned or space.nothing()
    many: set[Way] = set()
    for over in (False, True):
        parts = {k: p.along(*found.ways) - said for k, p in _parts(found.world, old, new, over).items()}
        for kind, packets in parts.items():
            said = said | packets
            side = new if kind in ("opened", "may open") else old
            try:
                changes += _changes(kind, packets, side, (old, new), over, found.inputs)
            except TooMany:
                many.add(kind)
    changes.sort(key=_order)
    kinds = {change.kind for change in changes} | many
    return Difference(old, new, _relation(kinds), tuple(changes), (), (), bool(many))


def _numbered(step: Step, inputs: Inputs) -> Step:
    """A line with the number that it has in its file."""
    place = inputs.place(step.chain, step.line.number) if step.line is not None else None
    return step if place is None or step.line is None else replace(step, line=replace(step.line, number=place[1]))


def _input(found: Draft, own: tuple[Address, ...]) -> sides.Side:
    """The input as a side, of which nothing is asked but the first packets of connections."""
    given = found.prepared.given

    def reason(packet: Packet) -> sides.Reason:
        return sides.step_reason(sides.deciding(evaluate(given, packet, own)))

    return sides.Side("the input", found.world.space.of_program(of_starts(given), own), reason)


def _order(change: Change) -> tuple[object, ...]:
    bounds = tuple(bound for _, ranges in change.box.asked for bound in ranges.bounds)
    return _KINDS.index(change.kind), -width(change.far), change.box.direction.value, bounds


_KINDS: tuple[Way, ...] = ("opened", "may open", "closed", "may close")


def _relation(kinds: set[Way]) -> Relation:
    if not kinds:
        return "same"
    if "opened" in kinds:
        return "both" if "closed" in kinds else "widened"
    return "narrowed" if "closed" in kinds else "uncertain"


def _parts(world: World, old: sides.Side, new: sides.Side, over: bool) -> dict[Way, PacketSet]:
    sure = world.of(old.partition.accepted(), over)
    maybe = world.of(old.partition.maybe_accepted(), over)
    mine = world.of(new.partition.accepted(), over)
    return {
        "opened": mine - maybe,
        "closed": sure - mine,
        "may open": (mine - sure) & maybe,
        "may close": maybe - sure - mine,
    }


def _changes(
    kind: Way, packets: PacketSet, side: sides.Side, both: tuple[sides.Side, sides.Side], over: bool, inputs: Inputs
) -> Iterator[Change]:
    for box in boxes(packets, 2000):
        packet = example(set_of(packets.space, box) & packets)
        assert packet is not None
        depends: tuple[str, ...] = ()
        if kind.startswith("may"):
            steps = [step for each in both for step in each.partition.depends(packet)]
            depends = tuple(dict.fromkeys(sides.step_text(_numbered(step, inputs)) for step in steps))
        yield Change(kind, tidy(plain(box)), side.reason(packet), packet, depends, "beyond the limit" if over else "")
