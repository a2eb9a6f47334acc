"""Rules of others in the one list of a host: see `base.Among`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace

from portctl.backends.ipfw.layout import FIRST, LAST, LIVE, NO_ONE_PASS, OPEN, SET
from portctl.backends.ipfw.listed import TIME, Listed, Listing, read
from portctl.backends.ipfw.parse import DUMMYNET, program_of
from portctl.program import Program

KERNELS = 31
"""The set that nobody can move or disable."""
_MOVED = re.compile(rf"\d{{5}} +(?:\d+ +\d+ +)?(?:{TIME} +)?set (?!{SET} |{KERNELS} )\d+ ")
_LOOPBACK = re.compile(r" ip6? from any to any (?:out )?(?:via|xmit) lo\S*$")
_UNMARKED = " (so IPv6 from this host to an address of its own, but ::1, is judged as if it came from outside)"
"""portctl's first rules mark what leaves by the loopback interface: `layout.LOOPED_TAG`."""
_ALLOWS = ("allow", "accept", "pass", "permit", "fwd", "forward")
_GOES_ON = ("count", "setfib", "setdscp", "setmark", "tcp-setmss", "reass", "tee", "ngtee", "return", "check-state")
"""What decides nothing by itself. A state that `check-state` finds is that of a rule which is named."""
_DENIES = ("deny", "drop", "reject", "reset", "reset6", "unreach", "unreach6", "abort", "abort6")
_FINAL_WITH_ONE_PASS = (*DUMMYNET, "nat")


def then(listings: Mapping[str, str], files: Mapping[str, str]) -> Program:
    """See `base.Among`."""
    loaded, new = read(listings), read({name: text for name, text in files.items() if not name.endswith(".sh")})
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
    listing = read(listings)
    listing.one_pass = listing.one_pass and NO_ONE_PASS not in files.get("rules", "").splitlines()
    first = [each for each in _others(listing) if each.number < FIRST and _may_let(listing, each)]
    return [_text(each) + (_UNMARKED if _LOOPBACK.search(each.body) else "") for each in first]


def closes(listings: Mapping[str, str]) -> bool:
    """See `base.Neighbour`."""
    listing = read(listings)
    last = [_action(each)[0] for each in _others(listing) if _decides(listing, each)]
    return bool(last) and last[0] in _DENIES


def obstacle(listings: Mapping[str, str]) -> str:
    """See `base.Neighbour`."""
    listing = read(listings)
    for each in _others(listing):
        if FIRST <= each.number <= LAST:
            return f"`{_text(each)}` stands among them, whose numbers are {FIRST} to {LAST}"
        if each.number < FIRST and _decides(listing, each):
            return f"`{_text(each)}` stands before them, and decides"
    return "a rule of others before them leads into the midst of them, or past them"


def _others(listing: Listing) -> Iterator[Listed]:
    return (each for each in listing.rules if each.set != SET)


def _text(each: Listed) -> str:
    return f"{each.number:05} {each.text}"


def _action(each: Listed) -> list[str]:
    """The words of a rule from its action on."""
    words = each.body.split()
    return words[2:] if words[0] == "prob" else words


def _may_let(listing: Listing, each: Listed) -> bool:
    """Whether a rule may let something through, or lead it past portctl's: whatever is not known to do neither."""
    word, *rest = _action(each)
    if word == "check-state":  # portctl's states are found before its blocks are asked
        return rest[:1] == [":any"]
    return word not in (*_GOES_ON, *_DENIES, *_FINAL_WITH_ONE_PASS) or _final(listing, word)


def _final(listing: Listing, word: str) -> bool:
    """Whether a packet is accepted once dummynet or a `nat` instance has had it."""
    return listing.one_pass and word in _FINAL_WITH_ONE_PASS


def _decides(listing: Listing, each: Listed) -> bool:
    """Whether a rule decides over everything that comes in, or that goes out."""
    words = each.body.removesuffix(" in").removesuffix(" out").split()
    ends = words[0] in (*_ALLOWS, *_DENIES, "skipto") or _final(listing, words[0])
    return ends and (words[1:] == [] or words[-5:] == ["ip", "from", "any", "to", "any"])
