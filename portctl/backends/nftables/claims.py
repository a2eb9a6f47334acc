"""Which listing a text is, by its content."""

from __future__ import annotations

import re

_TABLE = re.compile(r"^table (?:(?:inet|ip6?|arp|bridge|netdev) )?\S+ \{", re.M)


def claims(text: str) -> str | None:
    """`ruleset` for what `nft list ruleset` prints, or a file of the same form; None for anything else."""
    return "ruleset" if _TABLE.search(text) else None
