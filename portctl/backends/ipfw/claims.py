"""Which listing a text is, by its content."""

from __future__ import annotations

import re

from portctl.backends.ipfw.listed import TIME

_ACTIONS = (
    "allow|accept|pass|permit|deny|drop|count|check-state|skipto|reject|reset6?|unreach6?|abort6?|nat|divert|tee|fwd"
    "|forward|pipe|queue|netgraph|ngtee|call|return|reass|setfib|setdscp|setmark|tcp-setmss|nptv6|nat64lsn|nat64stl|nat64clat|eaction-\\S+"
)
_LISTED = re.compile(rf"^\d{{5}} +(?:\d+ +\d+ +)?(?:{TIME} +)?(?:set \d+ )?(?:prob [\d.]+ )?(?:{_ACTIONS})\b", re.M)
_WRITTEN = re.compile(rf"^(?:ipfw (?:-q )?)?add (?:\d+ )?(?:set \d+ )?(?:prob [\d.]+ )?(?:{_ACTIONS})\b", re.M)
_TABLE = re.compile(r"^--- table\(\S+\), set\(\d+\) ---$", re.M)
_NAT = re.compile(r"^(?:ipfw )?nat \S+ config ", re.M)


def claims(text: str) -> str | None:
    """`list` for what `ipfw list` prints, with or without `-a` and `-S`; `rules` for a file that ipfw reads; `tables`
    for `ipfw table all list` or `info`; `nat` for `ipfw nat show config`; None for anything else."""
    if _LISTED.search(text):
        return "list"
    if _WRITTEN.search(text):
        return "rules"
    if _TABLE.search(text):
        return "info" if re.search(r"^ kindex: ", text, re.M) else "tables"
    return "nat" if _NAT.search(text) else None
