"""What a back end is: four pure functions, a few files of text, and shell scripts that a host runs.

A back end is a module (or package) of `portctl.backends` with the names of `Backend`, and one folder
`templates/<backend>/`. It never imports another.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

from portctl.command import Command
from portctl.evaluation import holds
from portctl.problems import Problem
from portctl.program import Condition, Program
from portctl.ruleset import Direction, Packet, Ruleset, Verdict, decide

PUBLISHED_MARK = 0x01000000
"""Bit of the packet mark: addressed to this host before destination NAT. Kubernetes uses 0x4000 and 0x8000,
Tailscale 0xff0000."""
MASQUERADE_MARK = 0x02000000
"""Bit of the packet mark: admitted by a forward whose source is to be translated."""


@dataclass(frozen=True, slots=True)
class Ability:
    """What the host's tools can do, as data. The defaults are those of a current Debian."""

    ipset: bool = True
    """iptables only: address lists go into kernel sets."""
    clock: bool = True
    """The packet filter can compare the time of day and date."""
    version: str = ""
    """The system's version (`14.2`), for back ends whose language changed; empty: the newest that is known."""
    anchor: bool = False
    """pf only: the rules go into the anchor `portctl` of a main rule set that is somebody else's."""


@dataclass(frozen=True, slots=True)
class Region:
    """Packets of some directions of which all conditions hold, as they arrive: before portctl translates them."""

    conditions: tuple[Condition, ...] = ()
    directions: tuple[Direction, ...] = tuple(Direction)

    def __contains__(self, packet: Packet) -> bool:
        return packet.direction in self.directions and holds(self.conditions, packet)


EVERY_VERDICT = frozenset(Verdict)


@dataclass(frozen=True, slots=True)
class Difference:
    """Where a platform forces another verdict than the policy's, on the packets of any of its regions.

    There are two kinds. With `seen` the platform cannot tell something of a packet, and the verdict is the policy's on
    the packet with those fields of `Packet` changed (`(("state", State.NEW),)`): exactly that one, no other. Without
    it, a verdict among `wanted` may have become one among `got`, as the platform itself decides before or after any
    rule. Regions of the first kind do not ask what another difference of that kind changes.
    """

    name: str
    """A word or two, for a table (`no clock`)."""
    heading: str
    """In docs/platforms.md, without its `## `."""
    where: tuple[Region, ...]
    seen: tuple[tuple[str, Any], ...] = ()
    wanted: frozenset[Verdict] = EVERY_VERDICT
    got: frozenset[Verdict] = EVERY_VERDICT

    def covers(self, packet: Packet) -> bool:
        return any(packet in region for region in self.where)

    def holds(self, packet: Packet, wanted: Verdict, got: Verdict) -> bool:
        """Whether it explains `got` where the policy, read as all those with `seen` say, wants `wanted`."""
        return not self.seen and wanted in self.wanted and got in self.got and self.covers(packet)


def explained(ruleset: Ruleset, differences: Iterable[Difference], packet: Packet, got: Verdict) -> Difference | None:
    """The difference because of which a back end's rules answer a packet with `got`, other than the policy; None:
    nothing explains it, the back end is wrong."""
    listed, seen, by = tuple(differences), packet, None
    for each in listed:
        if each.seen and each.covers(packet):
            seen, by = replace(seen, **dict(each.seen)), each
    wanted, _ = decide(ruleset, seen)
    if wanted is got:
        return by
    return next((each for each in listed if each.holds(packet, wanted, got)), None)


class Backend(Protocol):
    """The names that a back end module offers."""

    NAME: str
    PARTS: tuple[str, ...]
    """The rule files that `render` may write, in the order they are loaded (`rules.nft`); beside them `*.table`."""

    def gaps(self, ruleset: Ruleset, ability: Ability) -> list[Problem]:
        """What this back end cannot say, each at its place in the YAML. Anything unlisted it cannot say."""
        ...

    def differences(self, ruleset: Ruleset, ability: Ability) -> tuple[Difference, ...]:
        """Where the platform forces another verdict on what this rule set says: those differences, and no others, that
        `evaluate(parse(render(ruleset)), packet)` may have from `decide(ruleset, packet)`. None where it is exact.

        A test asks `explained` of one packet; the packet space asks the regions (`Condition`s, as in a `Program`)."""
        ...

    def render(self, ruleset: Ruleset, ability: Ability) -> dict[str, str]:
        """The rule files by name, canonical: what the tool's own listing prints of them once loaded."""
        ...

    def scripts(self) -> dict[str, str]:
        """`load.sh`, `save.sh`, `remove.sh`: POSIX sh, the same text for every policy. See ARCHITECTURE.md."""
        ...

    def questions(self) -> Mapping[str, Command]:
        """What to ask a host in order to learn its loaded rules, portctl's and everybody else's: {listing: command}."""
        ...

    def parse(self, listings: Mapping[str, str]) -> Program:
        """What a host printed (the answers to `questions`), or what `render` wrote, as values. Shares no code with
        `render`. A line it does not know is in `Program.foreign`, or is an `Unknown` in its place; never skipped."""
        ...

    def claims(self, text: str) -> str | None:
        """The listing that a text is, by its content, by its name in `questions`; None for none of this back end's."""
        ...


@runtime_checkable
class Among(Protocol):
    """A back end whose rules stand among rules of somebody else's, which it leaves as they are: where they come in the
    order of all is known only of both together."""

    def then(self, listings: Mapping[str, str], files: Mapping[str, str]) -> Program:
        """All that is loaded as it will be with `files` loaded, of the answers to `questions`."""
        ...

    def before(self, listings: Mapping[str, str], files: Mapping[str, str]) -> list[str]:
        """The others' rules that are asked before portctl's and may let something through, in words."""
        ...


@runtime_checkable
class Guest(Among, Protocol):
    """A back end whose rules live within a rule set of somebody else's, which has to call them."""

    host: Backend
    """What reads all of them, its own in their place."""

    def lacking(self, listings: Mapping[str, str], files: Mapping[str, str]) -> list[str]:
        """What the others' rules lack for `files` to be of use, in words."""
        ...


@runtime_checkable
class Neighbour(Among, Protocol):
    """A back end that has one list with others, in which a rule can keep portctl's from being asked."""

    def others(self, listings: Mapping[str, str]) -> list[str]:
        """Their rules, in words."""
        ...

    def alone(self, listings: Mapping[str, str]) -> dict[str, str]:
        """The answers to `questions` as they are once `--exclusive` has taken the others' rules away."""
        ...

    def closes(self, listings: Mapping[str, str]) -> bool:
        """Whether without portctl's rules whatever no rule of the others lets through is denied."""
        ...

    def obstacle(self, listings: Mapping[str, str]) -> str:
        """Where `then` does not come to portctl's rules: what of the others is in their way, in words."""
        ...


@runtime_checkable
class Caller(Protocol):
    """A back end whose rules call those of others, by names that its loader takes over from what is loaded."""

    def called(self) -> Command:
        """What asks a host for the calls that are loaded."""
        ...

    def calling(self, text: str, loaded: str) -> str:
        """The rules as `load.sh` loads them where a host answers `called` with `loaded`."""
        ...


@runtime_checkable
class Arranged(Protocol):
    """A back end that lists what a load kept before what it made, in whatever order they were written."""

    def arranged(self, listing: str, text: str) -> str:
        """The listing in the order of `text`."""
        ...


def is_part(backend: Backend, name: str) -> bool:
    """Whether a file of a bundle holds rules, or the addresses of a table that rules name."""
    return name in backend.PARTS or name.endswith(".table")


def bundle(backend: Backend, ruleset: Ruleset, ability: Ability) -> dict[str, str]:
    """All files of `DIR/<backend>/`: the rules and the scripts lying next to them."""
    return {**backend.render(ruleset, ability), **backend.scripts()}
