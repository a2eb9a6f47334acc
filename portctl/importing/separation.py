"""Which packets each translation of an input takes: of all of them in a few programs, not in one for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from portctl.importing.prepare import coded
from portctl.importing.starts import of_starts
from portctl.importing.world import World
from portctl.program import Program, Translate
from portctl.space.sets import PacketSet, Space


def separated(
    space: Space, world: World, program: Program, wanted: Sequence[Translate], kinds: tuple[str, ...]
) -> Mapping[Translate, PacketSet]:
    """The connections that each of some translations takes, before what else the program does with them.

    Each translation has a number. A program for each digit of the numbers, in base two, drops what the translations
    with a 0 there take, rejects what those with a 1 take, and accepts the rest: ten programs tell a thousand apart.
    """
    if not wanted:
        return {}
    digits = max(1, (len(wanted) - 1).bit_length())
    ones: list[PacketSet] = []
    taken = space.nothing()
    for digit in range(digits):
        signs = {each: bool(number >> digit & 1) for number, each in enumerate(wanted)}
        partition = space.of_program(of_starts(coded(program, signs, kinds)))
        ones.append(world.of(partition.rejected()))
        if digit == 0:
            taken = ones[0] | world.of(partition.dropped())
    found: dict[Translate, PacketSet] = {}
    _divide(dict(enumerate(wanted)), taken, ones, found)
    return {each: found[each] for each in wanted}


def _divide(
    wanted: Mapping[int, Translate], packets: PacketSet, ones: Sequence[PacketSet], found: dict[Translate, PacketSet]
) -> None:
    """Parts the packets of some translations by the first digit in which their numbers differ."""
    if len(wanted) < 2:
        for each in wanted.values():
            found[each] = packets
        return
    digit = next(d for d in range(len(ones)) if len({number >> d & 1 for number in wanted}) == 2)
    mine = packets & ones[digit]
    _divide({n: w for n, w in wanted.items() if n >> digit & 1}, mine, ones, found)
    _divide({n: w for n, w in wanted.items() if not n >> digit & 1}, packets - mine, ones, found)
