"""What a packet filter has loaded, read back into typed values: tables, hooks, chains, conditions, actions.

A `Program` is what the parse half of a back end returns, for rules of portctl's and of anybody else's alike. It knows
no packet filter. Nothing is guessed: a condition or an action that the parser did not understand is `Unknown`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Literal

from portctl.net import Address, Family


class Field(Enum):
    """What a condition looks at. The type of `Condition.value` is in parentheses."""

    FAMILY = "family"  # (Ranges of 4 and 6)
    PROTOCOL = "protocol"  # (Ranges)
    SOURCE = "source"  # (Ranges of the family that `Condition.family` names)
    DESTINATION = "destination"  # (Ranges, likewise)
    SOURCE_PORT = "source port"  # (Ranges); never true of a protocol without ports
    PORT = "port"  # (Ranges); likewise
    ICMP = "icmp type and code"  # (Ranges of type × 256 + code); never true of another protocol
    IN = "incoming interface"  # (tuple of names, a trailing * stands for any rest)
    OUT = "outgoing interface"  # (likewise)
    STATE = "state"  # (State)
    REPLY = "answering direction"  # (bool); false of untracked and invalid packets, negated or not
    TRANSLATED = "destination translated"  # (bool)
    ORIGINAL_SOURCE = "original source"  # (Ranges)
    ORIGINAL_DESTINATION = "original destination"  # (Ranges)
    ORIGINAL_PORT = "original destination port"  # (Ranges)
    FLAGS = "tcp flags"  # (tuple mask, value); never true of another protocol
    HOP_LIMIT = "hop limit"  # (Ranges)
    MARK = "packet mark"  # (tuple mask, value)
    LOCAL = "destination is local"  # (bool)
    SENT = "sent by this host"  # (bool)
    USER = "socket owner"  # (str: a name or a number)
    UNTIL = "before"  # (datetime, UTC, exclusive)
    LIMIT = "limit"  # (str: its text); true of packets within the limit
    LIVE = "live set, source"  # (str: the live group's name)
    LIVE_DESTINATION = "live set, destination"  # (str)
    CONCATENATION = "concatenation"  # (tuple of tuples of Condition: true where all of one of the tuples are)
    UNKNOWN = "unknown"  # (str: its text)


@dataclass(frozen=True, slots=True)
class Condition:
    field: Field
    value: object
    negated: bool = False
    family: Family | None = None
    """For SOURCE, DESTINATION, ORIGINAL_SOURCE, ORIGINAL_DESTINATION: false of the other family, negated or not."""


@dataclass(frozen=True, slots=True)
class Accept:
    """Ends this base chain; later hooks still run."""


@dataclass(frozen=True, slots=True)
class Deny:
    """Ends everything. `reject` tells an answer from silence, `answer` what it is in the tool's words."""

    reject: bool = False
    answer: str = ""


@dataclass(frozen=True, slots=True)
class Jump:
    chain: str
    goto: bool = False


@dataclass(frozen=True, slots=True)
class Return:
    pass


@dataclass(frozen=True, slots=True)
class Lookup:
    """A verdict map: the action of the first entry of which every condition holds; none: go on."""

    entries: tuple[tuple[tuple[Condition, ...], Action], ...]


@dataclass(frozen=True, slots=True)
class SetMark:
    """The packet's mark becomes (mark & ~mask) | value."""

    mask: int
    value: int


@dataclass(frozen=True, slots=True)
class Translate:
    """Destination (`kind` "destination") or source is replaced; ends this base chain.

    `address` None keeps it, or for `redirect` becomes this host. `masquerade` takes whatever address the outgoing
    interface has then: `address` is the one that it has now, where that is known.
    """

    kind: Literal["destination", "redirect", "source", "masquerade"]
    address: Address | None = None
    port: int | None = None


@dataclass(frozen=True, slots=True)
class Note:
    """Goes on: log, counter, adding to a set, segment size, whatever changes no verdict. `text` in the tool's words."""

    text: str


@dataclass(frozen=True, slots=True)
class Unknown:
    """An action that the parser does not know; it might do anything."""

    text: str


Action = Accept | Deny | Jump | Return | Lookup | SetMark | Translate | Note | Unknown


@dataclass(frozen=True, slots=True)
class Line:
    """One rule as loaded. `comment` is the name it carries; `packets` its counter, if it has one."""

    conditions: tuple[Condition, ...]
    actions: tuple[Action, ...]
    text: str = field(default="", compare=False)
    comment: str = ""
    number: int = field(default=0, compare=False)
    """Its line in the listing it was read from, from 1."""
    packets: int | None = field(default=None, compare=False)
    bytes: int | None = field(default=None, compare=False)
    others: bool = field(default=False, compare=False)
    """It is somebody else's, in a chain of portctl's: a rule of an anchor that portctl's rule set calls."""


HookName = Literal["prerouting", "input", "forward", "output", "postrouting", "ingress"]


@dataclass(frozen=True, slots=True)
class Hook:
    """A base chain's place: at which hook, in which order (lower first), and what happens at its end."""

    name: HookName
    priority: int
    policy: Accept | Deny = Accept()
    kind: str = "filter"
    """`filter`, `nat` (sees only packets in state NEW), `route`."""


@dataclass(frozen=True, slots=True)
class Chain:
    """`family` None is both. `table` is the tool's name for where it lives ("inet portctl", "filter")."""

    table: str
    name: str
    lines: tuple[Line, ...]
    hook: Hook | None = None
    family: Family | None = None
    own: bool = False
    """It is portctl's."""

    @property
    def place(self) -> Place:
        return self.family, self.table, self.name


Place = tuple[Family | None, str, str]
"""Where a chain is found: family, table, name. A jump leads to a chain of the same family and table."""


@dataclass(frozen=True, slots=True)
class Program:
    """All chains of all tables of one packet filter. Chains are found by (family, table, name).

    `foreign` are the lines of the listing that the parser did not know, never skipped. `sets` maps a set's name to
    a digest or its members, for comparison only: conditions hold their values.
    """

    chains: tuple[Chain, ...]
    foreign: tuple[str, ...] = ()
    live: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """Members of the live groups, as text, sorted."""

    def own(self) -> Program:
        """portctl's part alone, without run-time contents."""
        mine = (replace(c, lines=tuple(map(_lasting, c.lines))) for c in self.chains if c.own)
        kept = (replace(c, lines=tuple(line for line in c.lines if not line.others)) for c in mine)
        return Program(tuple(sorted(kept, key=_chain_order)))

    def entrances(self) -> Entrances:
        """The ways into portctl's part."""
        names = {chain.name for chain in self.chains if chain.own}
        calls: dict[Place, tuple[tuple[int, Line], ...]] = {}
        for chain in self.chains:
            leading = ((at, x) for at, x in enumerate(chain.lines) if not chain.own and leads_to(x, names))
            if asked := tuple((at, line) for at, line in leading if not _goes(line)):
                calls[chain.place] = asked
        passages = set()
        for chain in self._asked():
            going = (line for line in effective(chain.lines) if _goes(line) and leads_to(line, names))
            passages |= {(chain.family, chain.table, line.conditions, line.actions) for line in going}
        return Entrances(calls, frozenset(passages))

    def _asked(self) -> Iterator[Chain]:
        """The chains of others that packets come to before they come to portctl's."""
        places = {chain.place: chain for chain in self.chains if not chain.own}
        waiting = [chain for chain in places.values() if chain.hook]
        seen = {chain.place for chain in waiting}
        while waiting:
            chain = waiting.pop()
            yield chain
            for line in effective(chain.lines):
                for name in jumps(line.actions):
                    place = (chain.family, chain.table, name)
                    if place in places and place not in seen:
                        seen.add(place)
                        waiting.append(places[place])


@dataclass(frozen=True, slots=True)
class Entrances:
    """Lines of chains that are not portctl's that lead to chains that are."""

    calls: dict[Place, tuple[tuple[int, Line], ...]]
    """Jumps, with their places: what others have before them decides first (INPUT of iptables)."""
    passages: frozenset[tuple[Family | None, str, tuple[Condition, ...], tuple[Action, ...]]]
    """Where a packet goes on, from whatever chain: in the one list of ipfw it stands after the last rule of others."""


def effective(lines: Iterable[Line]) -> Iterator[Line]:
    """Lines up to the one that ends every packet's way through a chain."""
    for line in lines:
        yield line
        ends = not line.conditions and line.actions and isinstance(line.actions[-1], Accept | Deny | Return | Jump)
        if ends and not (isinstance(line.actions[-1], Jump) and not line.actions[-1].goto):
            return


def leads_to(line: Line, names: set[str]) -> bool:
    return any(isinstance(action, Jump) and action.chain in names for action in line.actions)


def _goes(line: Line) -> bool:
    return any(isinstance(action, Jump) and action.goto for action in line.actions)


def _lasting(line: Line) -> Line:
    """A line without the address that an interface has for the time being."""
    if not any(_passing(action) for action in line.actions):
        return line
    return replace(line, actions=tuple(Translate("masquerade") if _passing(a) else a for a in line.actions))


def _passing(action: Action) -> bool:
    return isinstance(action, Translate) and action.kind == "masquerade" and action.address is not None


def jumps(actions: Iterable[Action]) -> Iterator[str]:
    """The names of the chains that actions may lead to."""
    for action in actions:
        if isinstance(action, Jump):
            yield action.chain
        elif isinstance(action, Lookup):
            yield from jumps(found for _, found in action.entries)


def _chain_order(chain: Chain) -> tuple[str, int, str]:
    return chain.table, chain.family or 0, chain.name
