"""A ruleset as the text of the file `rules`."""

from __future__ import annotations

from collections.abc import Iterator

from portctl import templating
from portctl.backends.base import Ability
from portctl.backends.ipfw import words
from portctl.backends.ipfw.layout import BROADCAST, GENERATION, NO_ONE_PASS, OPEN, OPEN_TYPE, REFUSED, SET, Layout
from portctl.backends.ipfw.matching import live
from portctl.backends.ipfw.sections import sections
from portctl.ruleset import Ruleset

MOST_HERE = 10000
"""So many entries of a table stand in `rules`, for `ipfw -q rules` to make; more lie in a file of their own."""
MOST_TABLES = 120
"""The kernel has room for 127 (`net.inet.ip.fw.tables_max`), and the host may have some of its own."""
WHY_REFUSED = "only load.sh fills the long tables"


def render(ruleset: Ruleset, ability: Ability) -> dict[str, str]:
    """`rules`: what `ipfw -q rules` reads; `NAME.table`: the addresses of a long table, one a line. `load.sh` loads all
    of it without a gap."""
    del ability
    layout = Layout(ruleset)
    sections(layout)
    rules = templating.render(
        "ipfw/rules.j2",
        by_hand=list(_by_hand(layout)),
        settings=list(_settings(layout)),
        kept=list(_kept(ruleset)),
        tables=list(_tables(layout)),
        nat=[f"#me {line}" if " config ip me " in line else line for line in layout.nat],
        rules=[*_refusal(layout), *layout.rules()],
    )
    return {"rules": rules} | {
        f"{name.removeprefix(GENERATION)}.table": "".join(f"{entry}\n" for entry in layout.entries(name))
        for name in sorted(layout.tables)
        if _is_long(layout, name)
    }


def _by_hand(layout: Layout) -> Iterator[str]:
    """What makes of the rules, read by ipfw alone, what `load.sh` makes of them."""
    if any(_is_long(layout, name) for name in layout.tables):
        yield "  not at all: the tables that `#file` names would be empty, so ipfw alone stops before the first rule."
        return
    yield "  sysctl net.inet6.ip6.fw.deny_unknown_exthdrs=0"
    if len(layout.tables) > MOST_TABLES:
        yield f"  sysctl net.inet.ip.fw.tables_max={len(layout.tables) + 64}"
    if layout.nat:
        yield "  kldload -n ipfw_nat"
    yield "  ipfw -q /full/path/of/this/file"
    yield f"  ipfw table {BROADCAST} add ADDRESS    (each broadcast address; those in .255 are known)"
    if any(" config ip me " in line for line in layout.nat):
        yield "  ipfw nat N config ...    (each line after `#me`, with this host's address in place of `me`)"


def _settings(layout: Layout) -> Iterator[str]:
    """What `load.sh` sets by sysctl, as far as a file can say it."""
    if layout.nat:
        yield NO_ONE_PASS
    if any(line.partition(" // ")[0].split()[1:2] == ["log"] for line in layout.lines()):
        yield "enable verbose"


def _refusal(layout: Layout) -> Iterator[str]:
    """The tables that lie in files of their own would be empty, and block nobody, where ipfw alone reads `rules`: it
    stops at a rule whose number the kernel does not take. `load.sh` leaves the rule out."""
    if any(_is_long(layout, name) for name in layout.tables):
        yield f"add {REFUSED} set {SET} deny ip from any to any{words.comment(WHY_REFUSED)}"


def _is_long(layout: Layout, name: str) -> bool:
    kind, entries = layout.tables[name]
    return kind == "addr" and len(entries) > MOST_HERE


def _kept(ruleset: Ruleset) -> Iterator[str]:
    """The tables whose contents belong to the host."""
    for name in (BROADCAST, *(live(group) for group in ruleset.live)):
        yield f"table {name} create type addr missing"
    yield f"table {OPEN} create type {OPEN_TYPE} missing"


def _tables(layout: Layout) -> Iterator[str]:
    """The lines of each table, together."""
    for name in sorted(layout.tables):
        first = f"table {name} create type {layout.tables[name][0]}"
        if _is_long(layout, name):
            yield f"{first}\n#file {name}"
        else:
            yield f"\ntable {name} add ".join((first, *layout.entries(name)))
