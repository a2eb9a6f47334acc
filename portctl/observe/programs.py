"""The rules of several packet filters of one host as one program, each rule counted once."""

from __future__ import annotations

from collections.abc import Sequence

from portctl.program import Chain, Program

_COMPATIBLE = ("filter", "nat", "mangle", "raw", "security")
"""The tables that iptables-nft keeps in nftables (`ip filter`): both tools list them."""


def merge(programs: Sequence[tuple[str, Program]]) -> Program:
    """All chains of (back end's name, what it read). What iptables and nftables both list is kept as iptables read it.

    Hooks run by priority over all of them, as in the kernel.
    """
    listed = dict(programs)
    taken = {_place(chain) for chain in listed["iptables"].chains} if "iptables" in listed else set()
    chains: list[Chain] = []
    foreign: list[str] = []
    live: list[tuple[str, tuple[str, ...]]] = []
    for name, program in programs:
        chains += [chain for chain in program.chains if name == "iptables" or _place(chain) not in taken]
        foreign += [line for line in program.foreign if line not in foreign]
        live += program.live
    return Program(tuple(chains), tuple(foreign), tuple(live))


def _place(chain: Chain) -> tuple[str, str, str] | None:
    """(family, table, chain) of a chain of an iptables table, however its back end writes the table's name."""
    words = chain.table.split()
    family = {4: "ip", 6: "ip6"}.get(chain.family or 0) or (words[0] if len(words) == 2 else "")
    return (family, words[-1], chain.name) if words[-1] in _COMPATIBLE and family in ("ip", "ip6") else None
