"""What a back end is: four pure functions, a few files of text, and shell scripts that a host runs.

A back end is a module (or package) of `portctl.backends` with the names of `Backend`, and one folder
`templates/<backend>/`. It never imports another.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from portctl.command import Command
from portctl.problems import Problem
from portctl.program import Program
from portctl.ruleset import Ruleset

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


class Backend(Protocol):
    """The names that a back end module offers."""

    NAME: str
    PARTS: tuple[str, ...]
    """The rule files that `render` may write, in the order they are loaded (`rules.nft`); beside them `*.table`."""

    def gaps(self, ruleset: Ruleset, ability: Ability) -> list[Problem]:
        """What this back end cannot say, each at its place in the YAML. Anything unlisted it cannot say."""
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


def is_part(backend: Backend, name: str) -> bool:
    """Whether a file of a bundle holds rules, or the addresses of a table that rules name."""
    return name in backend.PARTS or name.endswith(".table")


def bundle(backend: Backend, ruleset: Ruleset, ability: Ability) -> dict[str, str]:
    """All files of `DIR/<backend>/`: the rules and the scripts lying next to them."""
    return {**backend.render(ruleset, ability), **backend.scripts()}
