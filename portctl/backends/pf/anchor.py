"""Anchors on a host: portctl's own, in a main rule set that is somebody else's, and others' in portctl's."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from portctl.backends.base import Ability, Backend, Difference
from portctl.command import Command
from portctl.problems import Problem
from portctl.program import Program
from portctl.ruleset import Ruleset

CALL = re.compile(r'anchor "portctl" all\b')
_HOLDS = {"nat": re.compile(r"^(?:no )?nat ", re.M), "rdr": re.compile(r"^(?:no )?rdr ", re.M)}
_FINAL = re.compile(r"^(?:@\d+ )?(?:pass|block) (?:\S+ )*?quick\b")
CALLED = "pfctl -s nat; pfctl -s rules; pfctl -s memory"
"""Not `-a '*'`, which lists what is in the anchors too, but names `bans/*` as `bans`."""
_LIMIT = re.compile(r"([a-z-]+) +hard limit +([1-9]\d*)$", re.M)
_SET = re.compile(r"set limit ([a-z-]+) (\d+)$", re.M)
_USUAL = {"states": 100_000, "src-nodes": 10_000, "frags": 5_000, "table-entries": 200_000}
"""pfctl's own: a host where pf was never loaded lists none, and after a load these."""
_SCRUB = "# anchors of others: scrub"
_REASSEMBLE = "scrub in all fragment reassemble"
"""Where there are rules for `scrub`, FreeBSD puts fragments together by them alone: pf_normalize_ip of 14 and 15."""
_PLACES = {
    _SCRUB: ("scrub-anchor",),
    "# anchors of others: translation": ("nat-anchor", "binat-anchor", "rdr-anchor"),
}
_WAYS = {"# anchors of others: in": ("in", "out"), "# anchors of others: out": ("out", "in")}


def calling(text: str, loaded: str) -> str:
    """See `base.Caller`: what `rules` of load.sh prints."""
    lines: list[str] = []
    head = True
    for line in text.splitlines():
        if head and not line.startswith(("#", "set ")):
            lines += limits(text, loaded)
            head = False
        lines.append(line)
        for kind in _PLACES.get(line, ()):
            lines += calls(loaded, kind)
        if line == _SCRUB and calls(loaded, "scrub-anchor") and "\nset reassemble yes\n" in text:
            lines.append(_REASSEMBLE)
        if line in _WAYS:
            lines += directed(calls(loaded, "anchor"), *_WAYS[line])
    return "".join(f"{line}\n" for line in lines)


def limits(text: str, loaded: str) -> list[str]:
    """The host's own limits, as far as they are above pfctl's defaults, which it would set. load.sh keeps them all."""
    wanted = {name: int(number) for name, number in _SET.findall(text)}
    known = [(name, int(number)) for name, number in _LIMIT.findall(loaded) if name in _USUAL]
    return [f"set limit {name} {now}" for name, now in known if now > wanted.get(name, _USUAL[name])]


def calls(loaded: str, kind: str) -> list[str]:
    """The calls of others' anchors of a kind. Rules in braces are no anchors of others, nor is our own."""
    named = [line for line in loaded.splitlines() if re.match(f'{kind} "[^_"].*[^{{]$', line)]
    return [line.removesuffix(" fragment reassemble") for line in named if not line.startswith(f'{kind} "portctl" ')]


def directed(found: list[str], way: str, other: str) -> Iterator[str]:
    """The calls for one direction: those that name it, and those that name none."""
    for line in found:
        name, rest = line[: line.index('"', len('anchor "')) + 1], line[line.index('"', len('anchor "')) + 2 :]
        if not rest.startswith(f"{other} "):
            yield line if rest.startswith(f"{way} ") else f"{name} {way} {rest}"


@dataclass(frozen=True, slots=True)
class Anchored:
    """The back end of one dialect that keeps to its anchor: a `base.Guest`."""

    NAME: str
    host: Backend
    PARTS: tuple[str, ...] = ("pf.conf",)

    def gaps(self, ruleset: Ruleset, ability: Ability) -> list[Problem]:
        return self.host.gaps(ruleset, replace(ability, anchor=True))

    def differences(self, ruleset: Ruleset, ability: Ability) -> tuple[Difference, ...]:
        return self.host.differences(ruleset, replace(ability, anchor=True))

    def render(self, ruleset: Ruleset, ability: Ability) -> dict[str, str]:
        return self.host.render(ruleset, replace(ability, anchor=True))

    def scripts(self) -> dict[str, str]:
        return self.host.scripts()

    def questions(self) -> Mapping[str, Command]:
        return self.host.questions()

    def parse(self, listings: Mapping[str, str]) -> Program:
        """What is in the anchor, as if it were all."""
        if "pf.conf" in listings:
            return self.host.parse(listings)
        kept = {name: listings[name] for name in ("ifconfig", "services", "users") if name in listings}
        inside = {"rules": listings.get("anchor", ""), "tables": listings.get("anchor tables", "")}
        return self.host.parse(kept | inside)

    def claims(self, text: str) -> str | None:
        return self.host.claims(text)

    def then(self, listings: Mapping[str, str], files: Mapping[str, str]) -> Program:
        """See `base.Among`."""
        tables = {name: text for name, text in files.items() if name.endswith(".table")}
        return self.host.parse({**listings, "anchor": files["pf.conf"], "anchor tables": "", **tables})

    def before(self, listings: Mapping[str, str], files: Mapping[str, str]) -> list[str]:
        """See `base.Among`."""
        del files
        found = []
        for line in listings.get("rules", "").splitlines():
            if CALL.match(line):
                break
            found += [line] if _FINAL.match(line) else []
        return found

    def lacking(self, listings: Mapping[str, str], files: Mapping[str, str]) -> list[str]:
        """See `base.Guest`."""
        rules, translations = (listings.get(name, "").splitlines() for name in ("rules", "translations"))
        missing = [] if any(map(CALL.match, rules)) else ['anchor "portctl"']
        for kind, holds in _HOLDS.items():
            call = f'{kind}-anchor "portctl"'
            if holds.search(files["pf.conf"]) and not any(line.startswith(f"{call} all") for line in translations):
                missing.append(call)
        return missing
