"""The list of rules under way: blocks that `skipto` can reach, tables, and at the end their numbers.

A rule is text without number and set. `@name@` in it stands for the number of the first rule of the block `name`;
blocks are numbered in the order in which they were opened, so a jump goes forward where its block was opened later.

A connection that outlives a load keeps the action of the rule that let it in, and if that is a jump, the number too
(ip_fw_dynamic.c, `dyn_keep_states`). So a block that such a jump leads to has a number of its own name's, whatever
else is in the list.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256

from portctl.backends.ipfw import words
from portctl.net import Addresses
from portctl.ruleset import Ruleset

FIRST, LAST = 20000, 60000
"""Numbers of portctl's rules. Rules of others come before or after."""
LASTING = 50000
"""From here on the number of a block comes from its name, and all its rules have that number."""
REFUSED = 65535
"""The kernel's own rule: no other has this number."""
SET = 20
"""The set of portctl's rules; `load.sh` fills 21, disabled, and swaps."""
GENERATION = "portctl0_"
"""Prefix of the tables that belong to one load; `load.sh` takes `portctl1_` where these are in use."""
LIVE = "portctl_live_"
BROADCAST = "portctl_broadcast"
"""This host's broadcast addresses, which `me` does not mean: `load.sh` fills it. Kept by a load, as live groups are."""
STAND_IN, STANDS_IN = "0.0.0.255:0.0.0.255", "portctl:by-hand"
"""What stands for the broadcast addresses where ipfw alone reads the file, which cannot fill that table: IPv4 addresses
that end in 255; and the comment of its rule, which `load.sh` leaves out of the file, as `parse` does."""
OPEN = "portctl_open"
"""Connections that were open before there were rules: `open.sh` fills it. Kept by a load."""
OPEN_TYPE = "flow:src-ip,proto,src-port,dst-ip,dst-port"
LOOPED_TAG = 18432
"""Marks what this host sends to itself. The bit 0x800 of its number keeps it on a packet that turns back in the
loopback interface (MTAG_PERSISTENT in FreeBSD's mbuf.h)."""
CAST = Addresses.of("0.0.0.0", "224.0.0.0/4", "255.255.255.255", "ff00::/8")
"""What may be addressed to this host and is no address of an interface."""
LONGEST_TABLE = 60
NO_ONE_PASS = "disable one_pass"
"""Where there are `nat` instances: or what one has looked at would be accepted."""


@dataclass(slots=True)
class Layout:
    """What one rules file is made of."""

    ruleset: Ruleset
    blocks: dict[str, list[str]] = field(default_factory=dict)
    lasting: dict[str, list[str]] = field(default_factory=dict)
    """Blocks that connections jump to."""
    tables: dict[str, tuple[str, tuple[str, ...]]] = field(default_factory=dict)
    """{name: (type, entries)}; entries may hold `@name@`."""
    sets: dict[Addresses, str] = field(default_factory=dict)
    nat: list[str] = field(default_factory=list)
    """`nat N config …`."""

    def block(self, name: str) -> str:
        """Opens a block, under that name or one like it; the name it got."""
        wanted, count = name, 1
        while name in self.blocks:
            count += 1
            name = f"{wanted}~{count}"
        self.blocks[name] = []
        return name

    def add(self, block: str, action: str, body: str, note: str = "") -> None:
        lines = self.lasting[block] if block in self.lasting else self.blocks[block]
        lines.append(f"{action} {body}{note}")

    def table(self, name: str, kind: str, entries: Sequence[str]) -> str:
        """A table that belongs to this load, under a name like `name`."""
        name = GENERATION + words.identifier(name)
        if len(name) > LONGEST_TABLE or name in self.tables:
            digest = sha256("\n".join([name, kind, *entries[:50], str(len(self.tables))]).encode()).hexdigest()[:6]
            name = f"{name[: LONGEST_TABLE - 7]}_{digest}"
        self.tables[name] = (kind, tuple(entries))
        return name

    def addresses(self, wanted: Addresses, hint: str, *, listed: bool = False) -> str:
        """How a rule names a set of addresses. `listed`: all but `any` by a table."""
        if (text := words.inline(wanted)) is not None and (text == "any" or not listed):
            return text
        if wanted not in self.sets:
            groups = {members: name for name, members in self.ruleset.groups}
            name = groups.get(wanted)
            self.sets[wanted] = self.table(f"group-{name}" if name else hint, "addr", words.networks(wanted))
        return f"table({self.sets[wanted]})"

    def lines(self) -> list[str]:
        """The rules so far, without numbers."""
        return [line for blocks in (self.blocks, self.lasting) for lines in blocks.values() for line in lines]

    def numbers(self) -> dict[str, int]:
        """The number of each block's first rule."""
        step = self._step()
        found: dict[str, int] = {}
        number = FIRST
        for name, lines in self.blocks.items():
            found[name] = number
            number += max(1, len(lines)) * step if step else 1
        taken: set[int] = set()
        for name in sorted(self.lasting):
            number = int(sha256(name.encode()).hexdigest()[:8], 16) % (LAST - LASTING)
            while number in taken:
                number = (number + 1) % (LAST - LASTING)
            taken.add(number)
            found[name] = LASTING + number
        return found

    def _step(self) -> int:
        """From one rule to the next; 0: the rules of a block share a number."""
        total = sum(max(1, len(lines)) for lines in self.blocks.values())
        return next((step for step in (10, 1) if total * step <= LASTING - FIRST), 0)

    def rules(self) -> list[str]:
        """All rules with number and set, in order."""
        numbers, step = self.numbers(), self._step()
        moving = ((numbers[name] + k * step, line) for name, each in self.blocks.items() for k, line in enumerate(each))
        lasting = (
            (numbers[name], line)
            for name in sorted(self.lasting, key=lambda n: numbers[n])
            for line in self.lasting[name]
        )
        return [f"add {number} set {SET} {_filled(line, numbers)}" for number, line in (*moving, *lasting)]

    def entries(self, name: str) -> Sequence[str]:
        kind, entries = self.tables[name]
        if not kind.endswith("skipto"):
            return entries
        numbers = self.numbers()
        return [_filled(entry, numbers) for entry in entries]


def _filled(line: str, numbers: dict[str, int]) -> str:
    rule, mark, text = line.partition(" // ")
    return re.sub(r"@([^@]+)@", lambda found: str(numbers[found[1]]), rule) + mark + text
