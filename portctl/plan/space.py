"""What a load does to every packet: the difference in words, and what it cuts off of the ways in."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from portctl import wayin
from portctl.listeners import Connection
from portctl.net import Addresses, Ranges
from portctl.plan.scene import Scene
from portctl.plan.types import Refusal
from portctl.ruleset import LOOPBACK, Direction, Flow
from portctl.space import Space, guard
from portctl.space.boxes import TooMany
from portctl.space.difference import differ
from portctl.space.questions import Query
from portctl.space.sentences import Sentence, sentences
from portctl.space.sides import NO_LINE, Side, of_program
from portctl.wayin import WayIn

MOST_SENTENCES = 24
"""So many lines of one kind are shown: more is what a first load into an open host closes."""


@dataclass(frozen=True, slots=True)
class Worlds:
    """All that is loaded on the host, portctl's and others', as it is and as it would be."""

    now: Side
    then: Side


def worlds(scene: Scene) -> Worlds:
    space, own, groups = Space(), scene.own(), scene.ruleset.groups
    now, then = (of_program(space, p, title, own) for p, title in ((scene.now, "now"), (scene.then, "then")))
    return Worlds(replace(now, groups=groups), replace(then, groups=groups))


def difference(both: Worlds, forwards: bool) -> tuple[str, ...]:
    """What becomes reachable, marked `+`, and what no longer is, `-`; what hangs on unknown lines, `~`. Without
    `forwards` nothing passes through this host, whatever its rules say of it."""
    found = differ(both.now, both.then)
    lines = []
    met = [c for c in found.changes if forwards or c.box.direction is not Direction.FORWARDED]
    opens = [c for c in met if c.kind == "opened"]
    closes = [c for c in met if c.kind == "closed"]
    unsure = [c for c in met if c.kind.startswith("may")]
    for mark, changes in (("+", opens), ("-", closes), ("~", unsure)):
        said = sentences(changes, both.then.groups)
        lines += [f"{mark} {_sentence(each)}" for each in said[:MOST_SENTENCES]]
        if len(said) > MOST_SENTENCES:
            lines.append(f"{mark} and {len(said) - MOST_SENTENCES} more")
    if len(met) < len(found.changes):
        lines.append("~ without what would pass through: this host forwards nothing")
    if found.other:
        number = len(sentences(found.other, both.then.groups))
        lines.append(f"~ beside ordinary new connections: {number} more, such as packets of known ones")
    if found.too_many:
        lines.append("~ and more than can be listed")
    return tuple(lines)


def _sentence(said: Sentence) -> str:
    """With the entry or line that admits it, where one does."""
    named = [reason for reason in said.reasons if reason.name != NO_LINE]
    return f"{said.text()}  [{said.entries()}]" if named else said.text()


def cut_off(scene: Scene, both: Worlds, way: WayIn) -> Iterator[Refusal]:
    """Refusals for the parts of the ways in that are denied afterwards: whatever the source port, whoever denies."""
    for said, certain in _cut(scene, both, way):
        if certain:
            yield Refusal(f"you would be locked out: {said}", "see which rule decides, and let it admit you")


def doubts(scene: Scene, both: Worlds, way: WayIn) -> Iterator[str]:
    """Warnings for the parts of the ways in that hang on a line that nobody can know."""
    for said, certain in _cut(scene, both, way):
        if not certain:
            yield f"it cannot be told whether you would be locked out: {said}"


def _cut(scene: Scene, both: Worlds, way: WayIn) -> Iterator[tuple[str, bool]]:
    ways = [query for connection in way.connections if (query := _query(scene, connection))]
    try:
        found = guard.cut_off(ways, both.then, both.now)
    except TooMany:
        yield "the loaded rules judge your way in by more cases than can be listed", False
        return
    for each in found:
        yield each.text(both.then.groups), each.certain


def _query(scene: Scene, connection: Connection) -> Query | None:
    """A new connection along a way in, from any source port. None where the single packet is refused already."""
    packet = wayin.packet(connection, scene.around.flows, scene.interface_of)
    if packet.interface == LOOPBACK or not scene.admitted(packet):
        return None
    flow = Flow(packet.protocol, Ranges.single(packet.port))
    source, destination = Addresses.of(str(packet.source)), Addresses.of(str(packet.destination))
    return Query(Direction.INBOUND, (flow,), source, destination, (packet.interface,))
