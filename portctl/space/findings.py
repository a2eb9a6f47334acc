"""What is odd about a policy that is right: warnings with codes, each to be accepted in place.

A finding is silenced by a comment on the line where the entry begins: `# portctl: accept CODE: reason`. Without a
reason it is not silenced, and says so.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from portctl.net import ANYWHERE, EVERY_V4, EVERY_V6, Addresses, Ranges
from portctl.problems import Problem
from portctl.ruleset import TCP, UDP, Direction, Flow, Flows, Kind, Rule, Ruleset
from portctl.space.dimensions import policy_interfaces

if TYPE_CHECKING:
    from portctl.space.sets import PacketSet, Space

CLEARTEXT = {(TCP, 20): "FTP", (TCP, 21): "FTP", (TCP, 23): "Telnet", (UDP, 69): "TFTP", (TCP, 512): "rexec",
             (TCP, 513): "rlogin", (TCP, 514): "rsh"}  # fmt: skip
"""Services that send passwords, or everything, in clear (RFC 959, RFC 854, RFC 1350, RFC 1282)."""
DATABASES = {
    (TCP, 1433): "SQL Server", (UDP, 1434): "SQL Server", (TCP, 1521): "Oracle", (TCP, 2379): "etcd",
    (TCP, 3306): "MySQL", (TCP, 5432): "PostgreSQL", (TCP, 5984): "CouchDB", (TCP, 6379): "Redis",
    (TCP, 9042): "Cassandra", (TCP, 9200): "Elasticsearch", (TCP, 11211): "memcached", (UDP, 11211): "memcached",
    (TCP, 27017): "MongoDB",
}  # fmt: skip
PUBLIC = {(TCP, 25), (TCP, 53), (UDP, 53), (TCP, 80), (UDP, 123), (TCP, 443), (UDP, 443), (TCP, 465), (TCP, 587),
          (TCP, 853), (TCP, 993), (TCP, 995)}  # fmt: skip
"""What is there for everybody by its nature: the web, mail, names, time."""
OPENING = (Kind.SERVICE, Kind.FORWARD, Kind.EGRESS)


def findings(ruleset: Ruleset) -> list[Problem]:
    """All findings on a policy that are not silenced, in no particular order."""
    found = [
        *_covered(ruleset),
        *_blocked(ruleset),
        *_same_groups(ruleset),
        *_open(ruleset),
    ]
    return list(silenced(found))


def _entries(ruleset: Ruleset, direction: Direction) -> list[Rule]:
    """The rules that an entry is about: not its answers, and not what it says of ports that others publish."""
    outward = direction is Direction.OUTBOUND
    return [
        rule
        for rule in ruleset.rules(direction)
        if rule.kind in OPENING and (rule.kind is Kind.EGRESS) == outward and not rule.published
    ]


def _flows(rule: Rule) -> Flows:
    """What an entry opens, before its translation."""
    return rule.original.flows if rule.original is not None else rule.flows


def _internet(addresses: Addresses) -> bool:
    if addresses == ANYWHERE:
        return True
    from portctl.space.internet import is_internet

    return is_internet(addresses)


def _who(addresses: Addresses) -> str:
    if addresses == ANYWHERE:
        return "everybody"
    from portctl.space.words import addresses_text

    return addresses_text(addresses)


def _open(ruleset: Ruleset) -> Iterator[Problem]:
    told: set[tuple[Kind, str, str]] = set()
    for direction in (Direction.INBOUND, Direction.FORWARDED):
        for rule in _entries(ruleset, direction):
            for problem in _openness(rule):
                if (rule.kind, rule.name, problem.code) not in told:
                    told.add((rule.kind, rule.name, problem.code))
                    yield problem


def _openness(rule: Rule) -> Iterator[Problem]:
    """At most one finding on how much of the Internet an entry lets in: the gravest."""
    if rule.live_source is not None or not _internet(rule.source):
        return
    who = _who(rule.source)
    for table, code, why in (
        (CLEARTEXT, "cleartext-open", "it sends passwords in clear"),
        (DATABASES, "database-open", "a database is seldom meant for everybody"),
    ):
        names = sorted({name for (protocol, port), name in table.items() if _holds(rule, protocol, port)})
        if names:
            hint = "name in `from` who needs it"
            message = f"`{rule.name}` opens {', '.join(names)} to {who}: {why}"
            yield _problem(rule, code, message, hint)
            return
    if not rule.interfaces and not (_whole(rule) and _public(rule)):
        hint = "narrow `from`, if not all of those need it"
        yield _problem(rule, "wide-open", f"`{rule.name}` is open to more of the Internet than a /8: {who}", hint)


def _whole(rule: Rule) -> bool:
    """Everybody is meant, of both families or of the one that a translation leaves."""
    return all(not r or r == every for r, every in ((rule.source.v4, EVERY_V4), (rule.source.v6, EVERY_V6)))


def _holds(rule: Rule, protocol: int, port: int) -> bool:
    """Whether an entry names a port; one that opens everything names none, and is found as wide."""
    return any(f.protocol == protocol and port in f.ports for f in _flows(rule) or ())


def _public(rule: Rule) -> bool:
    """Whether all that an entry opens is for everybody by its nature, or a ping."""
    flows = _flows(rule)
    if flows is None:
        return False
    for flow in flows:
        if flow.protocol not in (TCP, UDP):
            continue
        if flow.ports.count() > len(PUBLIC):
            return False
        named = (port for first, last in flow.ports.pairs() for port in range(first, last + 1))
        if any((flow.protocol, port) not in PUBLIC for port in named):
            return False
    return True


def _problem(rule: Rule, code: str, message: str, hint: str, other: Rule | None = None) -> Problem:
    others = ((f"`{other.name}` is here", other.span),) if other is not None and other.span else ()
    return Problem(code, message, rule.span, hint, "warning", others)


def _covered(ruleset: Ruleset) -> Iterator[Problem]:
    """Entries whose every packet one other entry admits too, without limits."""
    for direction in Direction:
        rules = _entries(ruleset, direction)
        by_name: dict[tuple[Kind, str], list[Rule]] = {}
        for rule in rules:
            by_name.setdefault((rule.kind, rule.name), []).append(rule)
        index = _Index(rules)
        for (kind, name), own in by_name.items():
            if any(rule.original for rule in own):
                continue  # it also translates
            for other in index.cover(own[0]):
                if (other.kind, other.name) != (kind, name) and all(
                    any(covers(wide, rule) for wide in by_name[other.kind, other.name]) for rule in own
                ):
                    equal = covers(own[0], other)
                    if equal and (other.name, other.kind.value) > (name, kind.value):
                        continue  # told once, of the later name
                    message = f"`{name}` opens nothing that `{other.name}` does not open already"
                    yield _problem(own[0], "covered-entry", message, "remove it, or say what only it opens", other)
                    break


class _Index:
    """Entries by a port that they open, so that few are compared."""

    def __init__(self, rules: Iterable[Rule]) -> None:
        self.wide: list[Rule] = []
        self.by_port: dict[tuple[int, int], list[Rule]] = {}
        for rule in rules:
            if rule.flows is None or any(flow.ports.count() > 64 for flow in rule.flows):
                self.wide.append(rule)
                continue
            for flow in rule.flows:
                for first, last in flow.ports.pairs():
                    for port in range(first, last + 1):
                        self.by_port.setdefault((flow.protocol, port), []).append(rule)

    def cover(self, rule: Rule) -> list[Rule]:
        """Entries that may cover a rule."""
        some: list[Rule] = []
        if rule.flows:
            some = self.by_port.get((rule.flows[0].protocol, rule.flows[0].ports.bounds[0]), [])
        return [other for other in (*some, *self.wide) if other is not rule and covers(other, rule)]


def covers(wide: Rule, narrow: Rule) -> bool:
    """Whether one rule admits every packet that another does: condition by condition, which is exact, for a rule is
    one box a flow."""
    return (
        not wide.limited
        and _flows_cover(wide, narrow)
        and narrow.source <= wide.source
        and narrow.destination <= wide.destination
        and (wide.live_source, wide.live_destination) in ((None, None), (narrow.live_source, narrow.live_destination))
        and _interfaces(narrow.interfaces) <= _interfaces(wide.interfaces)
        and _interfaces(narrow.out_interfaces) <= _interfaces(wide.out_interfaces)
        and wide.user in (None, narrow.user)
        and (wide.until is None or (narrow.until is not None and narrow.until <= wide.until))
        and narrow.states in wide.states
        and wide.original in (None, narrow.original)
        and wide.published <= narrow.published
        and wide.hop_limit in (None, narrow.hop_limit)
    )


def _flows_cover(wide: Rule, narrow: Rule) -> bool:
    if wide.flows is None:
        return True
    if narrow.flows is None:
        return False
    known = {flow.protocol: flow for flow in wide.flows}
    return all(flow.protocol in known and _flow_covers(known[flow.protocol], flow) for flow in narrow.flows)


def _flow_covers(wide: Flow, narrow: Flow) -> bool:
    return narrow.ports <= wide.ports and narrow.source_ports <= wide.source_ports


def _interfaces(patterns: tuple[str, ...]) -> Ranges:
    return policy_interfaces(patterns or ("*",))


def _blocked(ruleset: Ruleset) -> Iterator[Problem]:
    """Entries of which `block` leaves nothing."""
    space: Space | None = None
    for direction in Direction:
        blocks = [
            r for r in ruleset.rules(direction) if r.kind is Kind.BLOCK and not (r.live_source or r.live_destination)
        ]
        if not blocks:
            continue
        if space is None:
            from portctl.space.sets import Space

            space = Space()
        closed = _set(space, direction, blocks)
        for name in dict.fromkeys((rule.kind, rule.name) for rule in _entries(ruleset, direction)):
            own = [rule for rule in _entries(ruleset, direction) if (rule.kind, rule.name) == name]
            if not _set(space, direction, own) - closed:
                message = f"`{name[1]}` opens nothing: all that it admits is blocked"
                yield _problem(own[0], "blocked-entry", message, "take it out, or what blocks it", blocks[0])


def _set(space: Space, direction: Direction, rules: Iterable[Rule]) -> PacketSet:
    from portctl.space.from_ruleset import rule_cubes

    return space.boxes([(direction, cube) for r in rules for turned in (False, True) for cube in rule_cubes(r, turned)])


def _same_groups(ruleset: Ruleset) -> Iterator[Problem]:
    names: dict[Addresses, list[str]] = {}
    for name, members in ruleset.groups:
        if members:
            names.setdefault(members, []).append(name)
    for alike in names.values():
        if len(alike) > 1:
            message = f"{' and '.join(f'`{name}`' for name in sorted(alike))} are two names for one set of addresses"
            yield Problem("same-group", message, None, "keep one, or let one name the other", "note")


ACCEPTED = re.compile(r"#\s*portctl:\s*accept\s+([a-z][a-z0-9-]*)\s*(?::\s*(\S.*))?$")


def silenced(problems: Iterable[Problem]) -> Iterator[Problem]:
    """The problems without those that the policy accepts, with a reason, on the line where they are."""
    for problem in problems:
        found = ACCEPTED.search(problem.span.text) if problem.span else None
        if found is None or found[1] != problem.code:
            yield problem
        elif not found[2]:
            hint = f"write why: `# portctl: accept {problem.code}: reason`"
            yield replace(problem, hint=hint)
