"""Which listing a text is, by its content."""

from __future__ import annotations

import re

_RULE = re.compile(
    r"^(?:@\d+ )?(?:(?:pass|block|match|scrub|no scrub|antispoof)(?: |$)"
    r'|(?:no )?(?:nat|rdr|binat) (?:on|pass|from|inet|proto)\b|(?:[a-z]+-)?anchor "'
    r"|set (?:skip|block-policy|reassemble)\b"
    r"|table <[^>]+>)",
    re.M,
)
_TABLES = re.compile(r"\Atable \S+\n(?:(?:table \S+| +!? ?[0-9A-Fa-f][0-9A-Fa-f.:/]*)\n?)*\Z")


def claims(text: str) -> str | None:
    """`pf.conf` for rules in the language of pf.conf(5), whether written or listed (`pfctl -sr`, `-sn`, `-vvsr`), with
    the tables' lists among them; `tables` for lists of tables' contents alone, each after a line `table NAME`."""
    if _TABLES.match(text):
        return "tables"
    return "pf.conf" if _RULE.search(text) else None
