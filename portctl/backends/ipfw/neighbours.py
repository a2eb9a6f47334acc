"""Rules of others in the one list of a host: see `base.Among`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace

from portctl.backends.ipfw.layout import FIRST, LAST, LIVE, OPEN, SET
from portctl.backends.ipfw.listed import Listed, Listing, read
from portctl.backends.ipfw.parse import program_of
from portctl.program import Program

KERNELS = 31
"""The set that nobody can move or disable."""
_MOVED = re.compile(rf"\d{{5}} (?:.*? )??set (?!{SET} |{KERNELS} )\d+ ")
_LOOPBACK = re.compile(r" ip6? from any to any (?:out )?(?:via|xmit) lo\S*$")
_UNMARKED = " (so IPv6 from this host to an address of its own, but ::1, is judged as if it came from outside)"
"""portctl's first rules mark what leaves by the loopback interface: `layout.LOOPED_TAG`."""
_LETS = ("allow", "accept", "pass", "permit", "skipto", "fwd", "forward")
_ENDS = (*_LETS, "deny", "drop", "reject", "reset", "reset6", "unreach", "unreach6", "abort", "abort6")


def then(listings: Mapping[str, str], files: Mapping[str, str]) -> Program:
    """See `base.Among`."""
    loaded, new = read(listings), read(files)
    tables = {
        name: table for name, table in loaded.tables.items() if name.startswith((LIVE, OPEN)) or name not in new.tables
    }
    return program_of(
        replace(
            loaded,
            rules=sorted([*_others(loaded), *new.rules], key=lambda each: each.number),
            tables={**new.tables, **tables},
            nat={**loaded.nat, **new.nat},
            one_pass=loaded.one_pass and not new.nat,
            foreign=[*loaded.foreign, *new.foreign],
            names={},
        )
    )


def others(listings: Mapping[str, str]) -> list[str]:
    """See `base.Neighbour`."""
    return [_text(each) for each in _others(read(listings)) if each.set != KERNELS]


def alone(listings: Mapping[str, str]) -> dict[str, str]:
    """See `base.Neighbour`."""
    return {name: "".join(x for x in text.splitlines(True) if not _MOVED.match(x)) for name, text in listings.items()}


def before(listings: Mapping[str, str], files: Mapping[str, str]) -> list[str]:
    """See `base.Among`."""
    del files
    first = [each for each in _others(read(listings)) if each.number < FIRST and each.body.split()[0] in _LETS]
    return [_text(each) + (_UNMARKED if _LOOPBACK.search(each.body) else "") for each in first]


def obstacle(listings: Mapping[str, str]) -> str:
    """See `base.Neighbour`."""
    for each in _others(read(listings)):
        if FIRST <= each.number <= LAST:
            return f"`{_text(each)}` stands among them, whose numbers are {FIRST} to {LAST}"
        if each.number < FIRST and _decides(each):
            return f"`{_text(each)}` stands before them, and decides"
    return "a rule of others before them leads into the midst of them, or past them"


def _others(listing: Listing) -> Iterator[Listed]:
    return (each for each in listing.rules if each.set != SET)


def _text(each: Listed) -> str:
    return f"{each.number:05} {each.text}"


def _decides(each: Listed) -> bool:
    """Whether a rule decides over everything that comes in, or that goes out."""
    words = each.body.removesuffix(" in").removesuffix(" out").split()
    return words[0] in _ENDS and (words[1:] == [] or words[-5:] == ["ip", "from", "any", "to", "any"])
