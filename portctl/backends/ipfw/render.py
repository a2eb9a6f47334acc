"""A ruleset as the text of the file `rules`."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from portctl import templating
from portctl.backends.base import Ability
from portctl.backends.ipfw.layout import BROADCAST, Layout
from portctl.backends.ipfw.matching import live
from portctl.backends.ipfw.sections import sections
from portctl.ruleset import Ruleset

SINGLY = 1000
"""So many entries of a table stand one a line; more share lines."""
IN_A_LINE = 16


def render(ruleset: Ruleset, ability: Ability) -> dict[str, str]:
    """`rules`: what `ipfw -q rules` reads. `load.sh` loads it without a gap."""
    del ability
    layout = Layout(ruleset)
    sections(layout)
    return {
        "rules": templating.render(
            "ipfw/rules.j2",
            kept=[BROADCAST, *(live(group) for group in ruleset.live)],
            tables=list(_tables(layout)),
            nat=[f"#me {line}" if " config ip me " in line else line for line in layout.nat],
            rules=layout.rules(),
        )
    }


def _tables(layout: Layout) -> Iterator[str]:
    for name in sorted(layout.tables):
        kind = layout.tables[name][0]
        yield f"table {name} create type {kind}"
        entries = iter(layout.entries(name))
        size = 1 if len(layout.tables[name][1]) <= SINGLY or kind != "addr" else IN_A_LINE
        while batch := list(islice(entries, size)):
            yield f"table {name} add {batch[0] if size == 1 else ' '.join(f'{entry} 0' for entry in batch)}"
