"""Limits of a packet filter as those of the language: so many new connections a period, or at once, for a source.

The texts are those of iptables-extensions(8), nft(8), pf.conf(5) (`max-src-conn`) and ipfw(8) (`limit src-addr`).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from portctl.importing.prepare import asks_limit
from portctl.net import Ranges
from portctl.program import Program, Translate
from portctl.ruleset import Direction
from portctl.space.conditions import ask, first_view
from portctl.space.dimensions import DESTINATION, PORT, Dimension
from portctl.space.sets import PacketSet, Space

_PERIODS = {"s": "second", "m": "minute", "h": "hour", "d": "day"}
_SECONDS = {"second": 1, "minute": 60, "hour": 3600, "day": 86400}


@dataclass(frozen=True, slots=True, order=True)
class Limit:
    """One is given, or both. `exact`: the policy means the same as the input."""

    rate: str | None = None
    connections: int | None = None
    exact: bool = False
    note: str = ""

    @property
    def words(self) -> str:
        """As a policy writes it."""
        rate = [f"rate: {self.rate}"] if self.rate else []
        return ", ".join([*rate, f"max_connections: {self.connections}"] if self.connections else rate)


def read(text: str) -> Limit | None:
    """The limit that a condition's text says; None where the language has nothing like it."""
    for reader in (_ipfw, _pf, _connections, _recent, _rate):
        found = reader(text)
        if found is not None:
            return found
    return None


def met(space: Space, program: Program, wanted: Callable[[str], bool]) -> PacketSet:
    """The packets that may meet one of the limits that are wanted, by their texts; all others surely meet none."""
    turns = any(isinstance(a, Translate) for chain in program.chains for line in chain.lines for a in line.actions)
    found: list[tuple[Direction | None, dict[Dimension, Ranges]]] = []
    for chain in program.chains:
        for line in chain.lines:
            if not any(wanted(str(condition.value)) for condition in asks_limit(line.conditions)):
                continue
            for direction in Direction:
                asked = ask(line.conditions, first_view(direction, False), True)
                if asked is not None:
                    kept = {d: r for d, r in asked.cube.items() if not (turns and d in (DESTINATION, PORT))}
                    found.append((direction, kept))
    return space.boxes(found)


def _ipfw(text: str) -> Limit | None:
    found = re.fullmatch(r"src-addr (\d+)", text)
    return Limit(None, int(found[1]), True) if found is not None and int(found[1]) else None


def _pf(text: str) -> Limit | None:
    """`max-src-conn 15, max-src-conn-rate 5/60`, with what else the state options of a rule limit."""
    words = dict(part.split(" ", 1) for part in text.split(", ") if " " in part)
    both = [int(words.pop(name, 0)) for name in ("max-src-conn", "max-src-states")]
    connections = min((number for number in both if number), default=None)
    number, _, seconds = words.pop("max-src-conn-rate", "0/1").partition("/")
    together = words.pop("source-track", "rule") == "global"
    if words or not (connections or int(number)):
        return None
    said = ["the input counts all its rules together"] if together else []
    rate, usual = _in_seconds(int(number), int(seconds)) if int(number) else (None, True)
    if not usual:
        said.append(f"the input counts {number} in {seconds} seconds")
    return Limit(rate, connections, not said, "; ".join(said))


def _in_seconds(number: int, seconds: int) -> tuple[str, bool]:
    """So many connections in so many seconds as a rate, the next wider one, and whether it is the same."""
    for name, length in _SECONDS.items():
        if seconds <= length:
            return f"{max(number, number * length // seconds)}/{name}", seconds == length
    return f"{number}/day", False


def _connections(text: str) -> Limit | None:
    found = re.search(r"--connlimit-(upto|above) (\d+)", text) or re.search(r"ct (count) (\d+)", text)
    if found is None:
        return None
    number = int(found[2])
    if number < 1:
        return None
    mask = re.search(r"--connlimit-mask (\d+)", text)
    each = "--connlimit-daddr" not in text and (mask is None or mask[1] in ("32", "64", "128"))
    said = "" if each else "the input counts whole networks, or all sources together; the policy counts each source"
    return Limit(None, number, each, said)


def _recent(text: str) -> Limit | None:
    """`--update --seconds S --hitcount H` holds at the H-th packet within S seconds."""
    seconds, hits = re.search(r"--seconds (\d+)", text), re.search(r"--hitcount (\d+)", text)
    if not text.startswith("recent") or seconds is None or hits is None:
        return None
    number, period = max(1, int(hits[1]) - 1), max(1, int(seconds[1]))
    said = f"the input counts {number} in {period} seconds, in a window that moves"
    return Limit(_in_seconds(number, period)[0], None, False, said)


def _rate(text: str) -> Limit | None:
    found = re.search(r"(?:--limit|--hashlimit-upto|--hashlimit|rate(?: over)?) (\d+)/(\w+)", text)
    if found is None or found[2][0] not in _PERIODS or not re.match(r"s|mi|m$|h|d", found[2]):
        return None
    number, period = int(found[1]), _PERIODS[found[2][0]]
    if number < 1:
        return None
    burst = re.search(r"(?:-burst|burst) (\d+)", text)
    each = "srcip" in text or "saddr" in text
    at_once = int(burst[1]) if burst else 5
    if each and at_once == number:
        return Limit(f"{number}/{period}", None, True)
    counts = "each source" if each else "all sources together"
    return Limit(f"{number}/{period}", None, False, f"the input counts {counts}, {at_once} at once")
