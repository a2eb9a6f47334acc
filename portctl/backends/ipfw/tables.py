"""Tables as sets: addresses by family, ports, interfaces, flows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from socket import AF_INET, AF_INET6, inet_pton

from portctl.backends.ipfw.listed import Listing, Table
from portctl.net import FAMILIES, Family, Ranges
from portctl.program import Condition, Field

LIVE = "portctl_live_"
NO_PACKET = Condition(Field.PROTOCOL, Ranges())
"""True of nothing that is a packet here: of a frame, of a fragment without its beginning, of what the host puts into a
table at run time. The rule stays in its place, so that its loss is noticed."""


def network(text: str) -> tuple[Family, int, int] | None:
    """(family, first address, last address) of an address or a network; None: it is neither."""
    address, slash, length = text.partition("/")
    family: Family = 6 if ":" in address else 4
    width = 128 if family == 6 else 32
    try:
        first = int.from_bytes(inet_pton(AF_INET6 if family == 6 else AF_INET, address), "big")
        size = 1 << (width - int(length)) if slash else 1
    except (OSError, ValueError):
        return None
    first -= first % size
    return family, first, first + size - 1


def addresses(table: Table, value: str | None = None) -> dict[Family, Ranges]:
    """The addresses of a table; with `value`, those whose longest entry has it."""
    if value not in table.made:
        entries = [(found, v) for key, v in table.entries if (found := network(key)) is not None]
        table.made[value] = {family: _set(entries, family, value) for family in FAMILIES}
    return table.made[value]


def _set(entries: list[tuple[tuple[Family, int, int], str]], family: Family, value: str | None) -> Ranges:
    mine = [((first, last), v) for (f, first, last), v in entries if f == family]
    if value is None:
        return Ranges.of(pair for pair, _ in mine)
    found = Ranges()
    for pair, v in sorted(mine, key=lambda entry: entry[0][0] - entry[0][1]):
        found = found | Ranges.of([pair]) if v == value else found - Ranges.of([pair])
    return found


def asked(listing: Listing, spec: str, side: Field) -> Condition:
    """`table(NAME)`, `table(NAME,tag=VALUE)` as a condition on the source or the destination."""
    name, _, value = spec.removeprefix("table(").removesuffix(")").partition(",")
    if name.startswith(LIVE):
        return Condition(Field.LIVE if side is Field.SOURCE else Field.LIVE_DESTINATION, name.removeprefix(LIVE))
    found = addresses(listing.table(name), value.removeprefix("tag=") if value else None)
    ways = [(Condition(side, found[family], family=family),) for family in FAMILIES if found[family]]
    return either(ways) if ways else NO_PACKET


def either(ways: Sequence[tuple[Condition, ...]]) -> Condition:
    """True where all conditions of one of the ways are."""
    return ways[0][0] if len(ways) == 1 and len(ways[0]) == 1 else Condition(Field.CONCATENATION, tuple(ways))


def numbers(table: Table) -> dict[str, list[tuple[int, int]]]:
    """{value: numbers} of a table of numbers."""
    found: dict[str, list[tuple[int, int]]] = {}
    for key, value in table.entries:
        if key.isdigit():
            found.setdefault(value, []).append((int(key), int(key)))
    return found


def flows(table: Table, value: str | None) -> Iterator[tuple[Condition, ...]]:
    """The entries of a flow table as conditions; an entry's order is fixed, whatever the type says."""
    named = table.kind.split(":")[1].split(",")
    fields = [f for f in ("src-ip", "proto", "src-port", "dst-ip", "dst-port") if f in named]
    for key, has in table.entries:
        if value is None or has == value:
            yield tuple(_flow(name, text) for name, text in zip(fields, key.split(","), strict=True))


def _flow(name: str, text: str) -> Condition:
    if name.endswith("-ip"):
        found = network(text)
        if found is None:
            return Condition(Field.UNKNOWN, text)
        side = Field.SOURCE if name == "src-ip" else Field.DESTINATION
        return Condition(side, Ranges.of([found[1:]]), family=found[0])
    where = {"proto": Field.PROTOCOL, "src-port": Field.SOURCE_PORT, "dst-port": Field.PORT}[name]
    return Condition(where, Ranges.single(int(text))) if text.isdigit() else Condition(Field.UNKNOWN, text)
