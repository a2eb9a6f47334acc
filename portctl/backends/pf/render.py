"""Ruleset → pf.conf. Every rule that decides is `quick`, so that the first match decides.

pf has no forward hook: what passes through is judged on its way in (`inward`) and again on its way out (`outward`).
A packet of a known state never reaches the rules, so lines that admit known connections are not written.
"""

from __future__ import annotations

from portctl import templating
from portctl.backends.pf import inward, outward
from portctl.backends.pf.dialects import Dialect
from portctl.backends.pf.lines import File
from portctl.backends.pf.words import CAST, CAST_TABLE, INLINE, LONGEST_LABEL, Tables, live_table, networks, shortened
from portctl.ruleset import Direction, Ruleset

MANY = 100_000
"""Networks from which on the limit of pf's tables (200,000) is raised: a reload needs room for old and new ones."""

SOURCES = 65_536
"""Sources that the language wants each limit to hold. pf has room for 10,000 in all, and drops who finds none."""


def render(ruleset: Ruleset, dialect: Dialect, anchor: bool = False) -> dict[str, str]:
    """The files by name: `pf.conf`, and a file for each large table. `anchor`: for the anchor `portctl`."""
    file = File(ruleset, dialect, Tables({addresses: name for name, addresses in ruleset.groups}), anchor)
    inward.write(file)
    outward.write(file)
    lines, extra, total = tables(file)
    limited = {(rule.kind, rule.name) for direction in Direction for rule in ruleset.rules(direction) if rule.limited}
    text = templating.render(
        "pf/pf.conf.j2",
        anchor=anchor,
        translates=dialect.rules_translate,
        policy=shortened(ruleset.name, LONGEST_LABEL),
        reassemble=dialect.reassemble,
        limit=total * 2 + MANY if total > MANY else 0,
        sources=SOURCES * len(limited),
        tables=lines,
        translations=list(dict.fromkeys(file.translations)),
        inward=listed(file, file.inward),
        outward=listed(file, file.outward),
    )
    return {"pf.conf": text, **extra}


def listed(file: File, lines: list[str]) -> list[str]:
    """Each line once. An anchor calls no anchors of others."""
    return [line for line in dict.fromkeys(lines) if not (file.anchor and line.startswith("#"))]


def tables(file: File) -> tuple[list[str], dict[str, str], int]:
    """The lines that define tables, the files that hold the large ones, and how many networks there are in all."""
    lines = [f"table <{CAST_TABLE}> const {{ {' '.join(networks(CAST))} }}"]
    extra: dict[str, str] = {}
    total = 0
    for addresses, name in sorted(file.tables.used.items(), key=lambda item: item[1]):
        texts = networks(addresses)
        total += len(texts)
        if len(texts) > INLINE:
            extra[f"{name}.table"] = "\n".join(texts) + "\n"
            lines.append(f'table <{name}> const file "{name}.table"')
        else:
            lines.append(f"table <{name}> const {{ {' '.join(texts)} }}")
    lines += [f"table <{live_table(name)}> persist" for name in file.ruleset.live]
    return lines, extra, total
