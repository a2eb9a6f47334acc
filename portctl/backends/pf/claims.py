"""Which listing a text is, by its content."""

from __future__ import annotations

import re

_RULE = re.compile(
    r"^(?:@\d+ )?(?:(?:pass|block|match|scrub|no scrub|antispoof)(?: |$)"
    r'|(?:no )?(?:nat|rdr|binat) (?:on|pass|from|inet6?|proto|all)\b|(?:[a-z]+-)?anchor "'
    r"|set (?:skip|block-policy|reassemble)\b"
    r"|table <[^>]+>)",
    re.M,
)
_TRANSLATION = re.compile(r"(?:@\d+ )?(?:(?:no )?(?:nat|rdr|binat) |(?:nat|rdr|binat)-anchor |  \[ | +[^ ]|\}|$)")
_NAMES = re.compile(r"\A(?:[-cpairhC]{6,7}\t\S+(?:\t\S+)?\n(?:\t.*\n)*)+\Z")
"""`pfctl -vsT`, `-vvsT`. What `-sT` prints could be any words."""
_MEMBERS = re.compile(r"\A(?: +!? ?[0-9A-Fa-f][0-9A-Fa-f.:]*(?:/\d+)?\n(?:\t.*\n)*)+\Z")
"""`pfctl -t NAME -T show`, with `-vv` too."""
_TABLES = re.compile(r"\Atable \S+\n(?:(?:table \S+| +!? ?[0-9A-Fa-f][0-9A-Fa-f.:/]*)\n?)*\Z")


def claims(text: str) -> str | None:
    """`pf.conf` for rules in the language of pf.conf(5), whether written or listed (`pfctl -sr`, `-sn`, `-vvsr`), with
    the tables' lists among them, `translations` for those of `nat`, `rdr` and `binat` alone; `tables` for lists of
    tables' contents, each after a line `table NAME`, or of their names; `members` for the contents of one table."""
    text = f"{text.rstrip()}\n"
    if _TABLES.match(text) or _NAMES.match(text):
        return "tables"
    if _MEMBERS.match(text):
        return "members"
    if _RULE.search(text) and all(_TRANSLATION.match(line) for line in text.splitlines()):
        return "translations"
    return "pf.conf" if _RULE.search(text) else None
