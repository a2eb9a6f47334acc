"""The rules of several packet filters of one host as one program, each rule counted once."""

from __future__ import annotations

from collections.abc import Sequence

from portctl.program import Chain, Program

_COMPATIBLE = ("filter", "nat", "mangle", "raw", "security")
"""The tables that iptables-nft keeps in nftables (`ip filter`): both tools list them."""


def merge(programs: Sequence[Program]) -> Program:
    """All chains. What both list, as table `filter` (iptables) and `ip filter` (nftables), is kept as iptables read it.

    Hooks run by priority over all of them, as in the kernel.
    """
    listed = {_place(chain) for program in programs for chain in program.chains if " " not in chain.table}
    foreign = dict.fromkeys(line for program in programs for line in program.foreign)
    return Program(
        chains=tuple(c for p in programs for c in p.chains if " " not in c.table or _place(c) not in listed),
        foreign=tuple(foreign),
        live=tuple(sorted(dict.fromkeys(each for program in programs for each in program.live))),
    )


def _place(chain: Chain) -> tuple[str, str, str] | None:
    """(family, table, chain) of a chain of an iptables table, however its table's name is written."""
    words = chain.table.split()
    family = words[0] if len(words) == 2 else {4: "ip", 6: "ip6"}.get(chain.family or 0, "")
    return (family, words[-1], chain.name) if words[-1] in _COMPATIBLE and family in ("ip", "ip6") else None
