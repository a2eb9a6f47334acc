"""Tables as sets: addresses by family, ports, interfaces, flows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from socket import AF_INET, AF_INET6, inet_pton

from portctl.backends.ipfw.listed import Listing, Table
from portctl.net import FAMILIES, Family, Ranges
from portctl.program import Condition, Field

LIVE = "portctl_live_"
NO_PACKET = Condition(Field.PROTOCOL, Ranges())
"""True of nothing that is a packet here: of a frame, of a fragment without its beginning, of what the host puts into a
table at run time. The rule stays in its place, so that its loss is noticed."""


_SIZES: dict[Family, dict[str, int]] = {4: {"": 1}, 6: {"": 1}}
for _length in range(129):
    _SIZES[6][str(_length)] = 1 << (128 - _length)
    if _length <= 32:
        _SIZES[4][str(_length)] = 1 << (32 - _length)


def network(text: str) -> tuple[Family, int, int] | None:
    """(family, first address, last address) of an address or a network; None: it is neither."""
    address, slash, length = text.partition("/")
    family: Family = 6 if ":" in address else 4
    try:
        first = int.from_bytes(inet_pton(AF_INET6 if family == 6 else AF_INET, address), "big")
    except (OSError, ValueError):
        return None
    size = _SIZES[family].get(length)
    if size is None or (slash and not length):
        return None
    first &= -size
    return family, first, first + size - 1


def addresses(table: Table, value: str | None = None) -> dict[Family, Ranges]:
    """The addresses of a table; with `value`, those whose longest entry has it."""
    if value not in table.made:
        if value is None:
            table.made[value] = _all(key for key, _ in table.entries)
        else:
            entries = [(found, v) for key, v in table.entries if (found := network(key)) is not None]
            table.made[value] = {family: _longest(entries, family, value) for family in FAMILIES}
    return table.made[value]


def _all(keys: Iterable[str]) -> dict[Family, Ranges]:
    """The addresses of many texts; see `network`. Lists are long, and nearly all of IPv4."""
    pairs: dict[Family, list[tuple[int, int]]] = {4: [], 6: []}
    sizes, add = _SIZES[4], pairs[4].append
    for key in keys:
        address, slash, length = key.partition("/")
        try:
            last = (first := int.from_bytes(inet_pton(AF_INET, address), "big")) | (sizes[length] - 1)
            if slash and not length:
                continue
            add((first & -sizes[length], last))
        except (OSError, KeyError, ValueError):
            if (found := network(key)) is not None:
                pairs[found[0]].append(found[1:])
    return {family: Ranges.of(pairs[family]) for family in FAMILIES}


def _longest(entries: list[tuple[tuple[Family, int, int], str]], family: Family, value: str) -> Ranges:
    mine = [((first, last), v) for (f, first, last), v in entries if f == family]
    found = Ranges()
    for pair, v in sorted(mine, key=lambda entry: entry[0][0] - entry[0][1]):
        found = found | Ranges.of([pair]) if v == value else found - Ranges.of([pair])
    return found


def asked(listing: Listing, spec: str, side: Field) -> Condition:
    """`table(NAME)`, `table(NAME,tag=VALUE)` as a condition on the source or the destination."""
    name, _, value = spec.removeprefix("table(").removesuffix(")").partition(",")
    if name.startswith(LIVE):
        return Condition(Field.LIVE if side is Field.SOURCE else Field.LIVE_DESTINATION, name.removeprefix(LIVE))
    if not listing.table(name).known:
        return Condition(Field.UNKNOWN, spec)
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
