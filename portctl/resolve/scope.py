"""Names and files of one policy, looked up: groups of addresses, interfaces and ports."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from portctl import services
from portctl.files import Files
from portctl.net import ANYWHERE, FAMILIES, NOWHERE, Addresses, Family, Ranges
from portctl.policy import Entry, Policy
from portctl.policy.addresses import address
from portctl.policy.items import (
    AddressFile,
    AddressItem,
    AddressName,
    AddressRange,
    AnyAddress,
    AnyPort,
    LiveAddresses,
    Ping,
    PortItem,
    PortName,
    PortRange,
    Protocol,
)
from portctl.policy.wrong import Wrong, shown
from portctl.problems import Problem, Problems, Severity, Span
from portctl.resolve import lists
from portctl.ruleset import EVERY_PORT, ICMP, ICMPV6, PROTOCOLS_WITH_PORTS, Flow, Flows, icmp

Where = tuple[str | int, ...]

_PING = Flow(ICMP, icmp(8)), Flow(ICMPV6, icmp(128))


@dataclass(slots=True)
class Scope:
    """What the names of a policy mean. `problems` gathers all that is found wrong on the way."""

    policy: Policy
    files: Files
    problems: list[Problem] = field(default_factory=list)
    groups: dict[str, Addresses] = field(default_factory=dict)
    """Plain groups, resolved."""
    live: frozenset[str] = frozenset()
    ports: dict[str, dict[int, Ranges] | None] = field(default_factory=dict)
    """Groups of ports, resolved: {protocol: ports}; None is `any`."""
    used: set[str] = field(default_factory=set)
    """Groups of addresses that entries name themselves."""
    read: dict[str, Addresses] = field(default_factory=dict)
    """Address files, each read once."""
    hollow: dict[str, tuple[str, Span]] = field(default_factory=dict)
    """Groups with an empty file in them: the file, and the place that names it."""

    def report(
        self,
        code: str,
        message: str,
        span: Span | None,
        hint: str | None = None,
        severity: Severity = "error",
        others: tuple[tuple[str, Span], ...] = (),
    ) -> None:
        self.problems.append(Problem(code, message, span, hint, severity, others))


def build(policy: Policy, files: Files) -> Scope:
    """The scope of a policy, with all its groups resolved."""
    live = frozenset(
        name for name, entry in policy.addresses.items() if any(isinstance(i, LiveAddresses) for i in entry.value)
    )
    scope = Scope(policy, files, live=live)
    _group_addresses(scope)
    _group_ports(scope)
    return scope


def _group_addresses(scope: Scope) -> None:
    groups = scope.policy.addresses
    edges = {n: [(i.name, k) for k, i in enumerate(e.value) if isinstance(i, AddressName)] for n, e in groups.items()}
    for name in _inner_first(scope, edges, groups, "addresses"):
        if name not in scope.live:
            scope.groups[name] = addresses(scope, groups[name], (), groups[name].value, group=True)


def _group_ports(scope: Scope) -> None:
    groups = scope.policy.ports
    for name, entry in groups.items():
        if (known := services.find(name)) is not None or name in services.PROTOCOLS:
            meaning = f"{known.ports}/{'+'.join(known.protocols)}" if known else f"protocol {services.PROTOCOLS[name]}"
            scope.report(
                "known-port-name",
                f"`{name}` already means {meaning} everywhere",
                entry.span(key=True),
                "give the group another name; `portctl ports` prints all known ones",
            )
    edges = {n: [(i.name, k) for k, i in enumerate(e.value) if isinstance(i, PortName)] for n, e in groups.items()}
    for name in _inner_first(scope, edges, groups, "ports"):
        scope.ports[name] = _ports(scope, groups[name], (), groups[name].value)


def _inner_first(
    scope: Scope, edges: Mapping[str, list[tuple[str, int]]], groups: Mapping[str, Entry[object]], what: str
) -> list[str]:
    """Group names, each after those it names. A group that contains itself is reported, once a loop."""
    order: list[str] = []
    state: dict[str, int] = {}
    for top in edges:
        stack: list[tuple[str, int]] = [] if top in state else [(top, 0)]
        while stack:
            name, position = stack.pop()
            state[name] = 1
            if position == len(edges[name]):
                state[name] = 2
                order.append(name)
                continue
            stack.append((name, position + 1))
            inner, index = edges[name][position]
            if inner in edges and state.get(inner) is None:
                stack.append((inner, 0))
            elif state.get(inner) == 1:
                _report_cycle(scope, [n for n, _ in stack], inner, groups[name].span(index), what)
    return order


def _report_cycle(scope: Scope, path: list[str], name: str, span: Span, what: str) -> None:
    loop = [*path[path.index(name) :], name]
    scope.report(
        "group-cycle",
        f"the group `{name}` contains itself: {' → '.join(loop)}",
        span,
        f"take one of these names out of `{what}`",
    )


def addresses(
    scope: Scope,
    entry: Entry[object],
    where: Where,
    items: Iterable[AddressItem],
    *,
    group: bool = False,
    closes: bool = False,
    source: bool = False,
    single: bool = False,
) -> Addresses:
    """The set that a list of addresses means. `where` is the list's place in the entry.

    `closes`: in `block` or `except`, where an empty file would open. `source`: packets come from there. `single`: the
    one item stands at `where` itself.
    """
    pairs: dict[Family, list[tuple[int, int]]] = {4: [], 6: []}
    sets: list[Addresses] = []
    for index, item in enumerate(items):
        if type(item) is AddressRange:
            pairs[item.version].append((item.first, item.last))
        else:
            sets.append(_address_item(scope, entry, where if single else (*where, index), item, group, closes))
    plain = Addresses(Ranges.of(pairs[4]), Ranges.of(pairs[6]))
    found = lists.union([plain, *sets]) if sets else plain
    if source:
        _refuse_multicast(scope, entry, where, pairs, sets)
    return found


def _address_item(
    scope: Scope, entry: Entry[object], where: Where, item: AddressItem, group: bool, closes: bool
) -> Addresses:
    if isinstance(item, AnyAddress):
        return ANYWHERE
    if isinstance(item, AddressName):
        return _named(scope, entry, where, item.name, group, closes)
    if isinstance(item, AddressFile):
        return _file(scope, entry, where, item, closes, group)
    return NOWHERE


def _named(scope: Scope, entry: Entry[object], where: Where, name: str, group: bool, closes: bool) -> Addresses:
    if name in scope.live:
        hint = "live groups stand alone in `block`, so that nothing on the host ever opens a port"
        if group:
            hint = "a live group stands alone: name it in `block` beside this one"
        message = f"`{name}` is a live group: its members are known on the host alone"
        scope.report("live-group", message, entry.span(*where), hint)
        return NOWHERE
    if name not in scope.policy.addresses:
        scope.report(
            "unknown-group",
            f"no address group is called `{name}`",
            entry.span(*where),
            suggestion(name, (*scope.policy.addresses, "any")),
        )
        return NOWHERE
    if name in scope.hollow:
        file, place = scope.hollow[name]
        if group:
            scope.hollow.setdefault(entry.name, (file, place))
        else:
            _report_empty(scope, file, entry.span(*where), closes, place)
    if not group:
        scope.used.add(name)
    return scope.groups.get(name, NOWHERE)


def suggestion(name: str, known: Iterable[str], otherwise: str | None = None) -> str | None:
    """A hint that names the known name most like `name`, else what is known."""
    from difflib import get_close_matches

    names = sorted(known)
    if near := get_close_matches(name, names, n=1, cutoff=0.5):
        return f"did you mean `{near[0]}`?"
    if otherwise is not None:
        return otherwise
    listed = ", ".join(f"`{n}`" for n in names[:8])
    return f"declared are {listed}{', …' if len(names) > 8 else ''}" if names else "none is declared"


def _refuse_multicast(
    scope: Scope,
    entry: Entry[object],
    where: Where,
    pairs: Mapping[Family, list[tuple[int, int]]],
    sets: list[Addresses],
) -> None:
    multicast = {4: (0xE0000000, 0xEFFFFFFF), 6: (0xFF << 120, (1 << 128) - 1)}
    for family in FAMILIES:
        low, high = multicast[family]
        everything = [
            *pairs[family],
            *(pair for s in sets for pair in _ends_within(s.family(family), low, high)),
        ]
        if any(low <= first and last <= high for first, last in everything):
            scope.report(
                "multicast-source",
                "no packet comes from a multicast address",
                entry.span(*where),
                "name the senders here, and the multicast address in `to`",
            )
            return


def _ends_within(ranges: Ranges, low: int, high: int) -> Iterator[tuple[int, int]]:
    """The ranges of a set that lie between two numbers, without those that are part of a wider one."""
    for first, last in (ranges & Ranges((low, high + 1))).pairs():
        if not ((first == low and low - 1 in ranges) or (last == high and high + 1 in ranges)):
            yield first, last


def _file(scope: Scope, entry: Entry[object], where: Where, item: AddressFile, closes: bool, group: bool) -> Addresses:
    found, name = _read(scope, entry, where, item)
    if name is not None and not found and not item.may_be_empty:
        if group:
            scope.hollow.setdefault(entry.name, (name, entry.span(*where)))
        else:
            _report_empty(scope, name, entry.span(*where), closes)
    return found


def _report_empty(scope: Scope, name: str, span: Span, closes: bool, group: Span | None = None) -> None:
    others = (("the file is named here", group),) if group else ()
    if closes:
        message = f"{name} holds no address, and here that would open what it is to close"
        scope.report(
            "empty-list", message, span, "if it may be so, write `may_be_empty: true` beside `file`", "error", others
        )
    else:
        scope.report("empty-list", f"{name} holds no address: it admits nobody", span, None, "warning", others)


def _read(scope: Scope, entry: Entry[object], where: Where, item: AddressFile) -> tuple[Addresses, str | None]:
    """The addresses of a file, and what the person calls it; no name where it could not be read."""
    try:
        name, data = scope.files.read(entry.document.name, item.path, entry.span(*where, "file"))
    except Problems as error:
        scope.problems += error.problems
        return NOWHERE, None
    if name not in scope.read:
        scope.read[name], problems = lists.parse(data, name, careful)
        scope.problems += problems
    return scope.read[name], name


def careful(text: str) -> AddressRange | tuple[str, str, str | None]:
    """One line of an address file, read like an address in a policy."""
    try:
        item = address(text)
    except Wrong as error:
        fault = error.faults[0]
        return fault.code, fault.message, fault.hint
    if isinstance(item, AddressRange):
        return item
    return "bad-address", f"{shown(text)} is a name", "a file holds one address, network or range a line, and no names"


def interfaces(scope: Scope, entry: Entry[object], where: str, names: tuple[str, ...] | None) -> tuple[str, ...]:
    """The devices of some interface groups, tidied."""
    devices: set[str] = set()
    for index, name in enumerate(names or ()):
        group = scope.policy.interfaces.get(name)
        if group is None:
            scope.report(
                "unknown-interface",
                f"no interface group is called `{name}`",
                entry.span(where, index),
                suggestion(name, scope.policy.interfaces, "devices are named in `interfaces` alone, and groups here"),
            )
        else:
            devices.update(group.value)
    return tidy(devices)


def tidy(devices: Iterable[str]) -> tuple[str, ...]:
    """Device names, sorted; those that a pattern beside them covers are left out."""
    names = set(devices)
    patterns = {d for d in names if d.endswith("*")}
    return tuple(sorted(d for d in names if not any(p != d and d.startswith(p[:-1]) for p in patterns)))


def flows(
    scope: Scope,
    entry: Entry[object],
    items: Iterable[PortItem],
    source_items: Iterable[PortItem] | None = None,
) -> Flows:
    """What the `ports` (and `source_ports`) of an entry mean."""
    found = _ports(scope, entry, ("ports",), items)
    sources = None if source_items is None else _ports(scope, entry, ("source_ports",), source_items)
    if source_items is not None and not _same_protocols(found, sources):
        scope.report(
            "source-ports",
            "`source_ports` must be of the same protocols as `ports`, all of them with ports (tcp, udp, sctp)",
            entry.span("source_ports"),
            "make two entries where the protocols differ",
        )
    if found is None:
        return None
    return tuple(
        Flow(protocol, ports, (sources or {}).get(protocol, EVERY_PORT)) for protocol, ports in sorted(found.items())
    )


def items(scope: Scope, ports: Iterable[PortItem]) -> tuple[Flow, ...]:
    """What the `ports` of an entry name, one by one, groups of ports opened up."""
    found: dict[Flow, None] = {}
    waiting = list(ports)
    seen: set[str] = set()
    while waiting:
        item = waiting.pop(0)
        if isinstance(item, PortName) and item.name in scope.policy.ports:
            if item.name not in seen:
                seen.add(item.name)
                waiting += scope.policy.ports[item.name].value
            continue
        found.update(dict.fromkeys(item_flows(item)))
    return tuple(found)


def item_flows(item: PortItem) -> tuple[Flow, ...]:
    """What one item means; nothing for `any`, and for names that portctl's own table does not have."""
    if isinstance(item, PortRange):
        return tuple(Flow(protocol, Ranges((item.first, item.last + 1))) for protocol in item.protocols)
    if isinstance(item, Protocol):
        return (Flow(item.number),)
    if isinstance(item, Ping):
        return _PING
    if isinstance(item, PortName):
        if service := services.find(item.name):
            ranges = Ranges((service.first, service.last + 1))
            return tuple(Flow(services.PORT_PROTOCOLS[protocol], ranges) for protocol in service.protocols)
        if item.name in services.PROTOCOLS:
            return (Flow(services.PROTOCOLS[item.name]),)
    return ()


def _same_protocols(ports: Mapping[int, Ranges] | None, sources: Mapping[int, Ranges] | None) -> bool:
    if ports is None or sources is None:
        return False
    return set(ports) == set(sources) and all(protocol in PROTOCOLS_WITH_PORTS for protocol in ports)


def _ports(scope: Scope, entry: Entry[object], where: Where, items: Iterable[PortItem]) -> dict[int, Ranges] | None:
    found: dict[int, list[tuple[int, int]]] = {}
    everything = False
    for index, item in enumerate(items):
        part = _port_item(scope, entry, (*where, index), item)
        if part is None:
            everything = True
        else:
            for protocol, ranges in part.items():
                found.setdefault(protocol, []).extend(ranges.pairs())
    return None if everything else {protocol: Ranges.of(pairs) for protocol, pairs in found.items()}


def _port_item(scope: Scope, entry: Entry[object], where: Where, item: PortItem) -> dict[int, Ranges] | None:
    if isinstance(item, AnyPort):
        return None
    if isinstance(item, PortName) and item.name in scope.policy.ports:
        return scope.ports.get(item.name, {})
    found = {flow.protocol: flow.ports for flow in item_flows(item)}
    if isinstance(item, PortName) and not found:
        message, hint = f"no port or service is called `{item.name}`", _port_hint(scope, item.name)
        scope.report("unknown-port", message, entry.span(*where), hint)
    return found


def _port_hint(scope: Scope, name: str) -> str:
    otherwise = (
        "write the number with its protocol (`9000/tcp`), or name it in `ports`; `portctl ports` prints all names"
    )
    hint = suggestion(name, [*scope.policy.ports, *services.by_name(), *services.PROTOCOLS], otherwise)
    return hint or otherwise
