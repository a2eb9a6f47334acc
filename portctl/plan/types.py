"""A plan as a value: what would change, what a person should know before, and what forbids it."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from portctl.backends.base import Ability
from portctl.listeners import Connection
from portctl.program import Program
from portctl.ruleset import Ruleset


@dataclass(frozen=True, slots=True)
class Change:
    """One text that becomes another. `name` is a file of a bundle (`nftables/rules.nft`) or a path on the host."""

    name: str
    old: str
    new: str

    def diff(self) -> Iterator[str]:
        """The lines of a unified diff, without line ends. Zero counters are left out for the reader."""
        old, new = _lines(self.old), _lines(self.new)
        names = (f"now/{self.name.lstrip('/')}", self.name)
        if len(old) + len(new) > MOST_COMPARED and old and new:
            yield from _members(old, new, *names)
        else:
            yield from difflib.unified_diff(old, new, *names, lineterm="", n=2)


MOST_COMPARED = 40_000
"""Lines of both sides together: beyond that an ordered comparison takes minutes, and lists have no order anyway."""


def _lines(text: str) -> list[str]:
    return text.replace("counter packets 0 bytes 0", "counter").splitlines()


def _members(old: list[str], new: list[str], was: str, becomes: str) -> Iterator[str]:
    """The lines of either side that the other does not have, in their order."""
    gone, come = set(old), set(new)
    yield from (f"--- {was}", f"+++ {becomes}", f"@@ only the lines that differ, of {len(old)} and {len(new)} @@")
    yield from (f"-{line}" for line in old if line not in come)
    yield from (f"+{line}" for line in new if line not in gone)


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why it must not be applied as it is. `hint` says what to write instead."""

    message: str
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Desired:
    """What a host shall be: bundles, and the values that they mean."""

    ruleset: Ruleset
    backend: str
    bundles: Mapping[str, Mapping[str, str]]
    """{part: {file: text}}, the rules' part and `sysctl`."""
    boot_bundle: Mapping[str, str]
    """What is loaded at the next boot: the same, with the minimal rule set."""
    program: Program
    settings: Mapping[str, str]
    parts: tuple[str, ...]
    """The rule files among those of the back end's bundle."""
    ability: Ability = field(default_factory=Ability)
    """What the host's tools can do."""
    returned: str | None = None
    """The part among `bundles` that sets back what the policy no longer names."""


@dataclass(frozen=True, slots=True)
class Before:
    """What is on a host, as text. `saved` are the bundles that bring it back, `boot` what it would load at boot."""

    saved: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    boot: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    """{path: text} of the other files for the next boot, where they exist."""
    ruleset: Ruleset | None = None
    """Of the policy in force, as the last record has it."""
    last_backend: str | None = None
    number: int | None = None
    """Of the record in force."""


@dataclass(frozen=True, slots=True)
class Plan:
    """`order` are the bundles to load, in this order; empty where the kernel is as wanted already."""

    changes: tuple[Change, ...]
    boot: tuple[Change, ...]
    order: tuple[str, ...]
    difference: tuple[str, ...] = ()
    """What opens (`+`) and closes (`-`) on the host, over all its rules; `~`: what cannot be told, or other packets."""
    summary: tuple[str, ...] = ()
    """What changes in the policy, entry by entry."""
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    refusals: tuple[Refusal, ...] = ()
    cut: tuple[Connection, ...] = ()
    """Live connections that `block` forbids: they are ended, not only starved."""
    opened: tuple[Connection, ...] = ()
    """Connections that the state tracker does not know yet, and that shall survive."""

    @property
    def empty(self) -> bool:
        """Nothing would change: neither in the kernel nor at the next boot."""
        return not (self.order or self.boot)
