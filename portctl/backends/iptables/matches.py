"""One rule of a listing as values: its matches as conditions, its target as actions."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from portctl.backends.iptables import numbers
from portctl.backends.iptables.ipsets import LIVE, KernelSets
from portctl.backends.iptables.options import Option, Segment, comment_of, read_segments
from portctl.backends.iptables.targets import read_target
from portctl.net import MULTICAST, Family, Ranges
from portctl.program import Action, Condition, Field
from portctl.ruleset import EVERY_STATE, ICMP, ICMPV6, State

_STATES = {
    "NEW": State.NEW,
    "ESTABLISHED": State.ESTABLISHED,
    "RELATED": State.RELATED,
    "INVALID": State.INVALID,
    "UNTRACKED": State.UNTRACKED,
}
_BARE = State.INVALID | State.UNTRACKED


@dataclass(slots=True)
class Context:
    """What rules refer to: sets, users' names by number. `live` collects the full names of live groups."""

    family: Family
    sets: KernelSets
    users: dict[str, tuple[str, ...]]
    chains: set[str] = field(default_factory=set)
    notes: str = ""
    protocol: int = 0
    live: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Read:
    conditions: tuple[Condition, ...]
    actions: tuple[Action, ...]
    comment: str


def read_rule(words: list[str], context: Context) -> Read:
    """The values of what stands behind `-A CHAIN`."""
    base, modules, target = read_segments(words)
    said = comment_of(modules)
    own = target is not None or bool(said)
    name, _, notes = said.partition(" -- ") if own else (said, "", "")
    context.notes = notes
    conditions = [condition for option in base for condition in _base(option, context)]
    for segment in modules:
        conditions += _match(segment, context)
    return Read(tuple(conditions), _actions(target, context, _ports(conditions)), name)


def _ports(conditions: list[Condition]) -> Ranges | None:
    """The destination ports that a rule asks for; None: any."""
    found: Ranges | None = None
    for condition in conditions:
        if condition.field is Field.PORT and isinstance(condition.value, Ranges) and not condition.negated:
            found = condition.value if found is None else found & condition.value
    return found


def _unknown(text: str) -> list[Condition]:
    return [Condition(Field.UNKNOWN, text)]


def _base(option: Option, context: Context) -> list[Condition]:
    match option.name:
        case "-s" | "-d":
            return _address(option, Field.SOURCE if option.name == "-s" else Field.DESTINATION, context)
        case "-i" | "-o":
            name = option.value[:-1] + "*" if option.value.endswith("+") else option.value
            if name == "*" and not option.negated:
                return []
            return [Condition(Field.IN if option.name == "-i" else Field.OUT, (name,), option.negated)]
        case "-p":
            number = numbers.protocol(option.value)
            context.protocol = number or 0
            if number is None:
                return _unknown(option.text())
            return [Condition(Field.PROTOCOL, Ranges.single(number), option.negated)] if number else []
        case "-f":
            return [] if option.negated else [_NEVER]
        case _:
            return _unknown(option.text())


_NEVER = Condition(Field.CONCATENATION, ())
"""True of no packet here: a fragment without its beginning begins no connection; who tracks them never sees one."""


def _address(option: Option, at: Field, context: Context) -> list[Condition]:
    found = numbers.addresses(option.value, context.family)
    if found is None:
        return _unknown(option.text())
    every = found.count() == 1 << (32 if context.family == 4 else 128)
    return [] if every and not option.negated else [Condition(at, found, option.negated, context.family)]


def _match(segment: Segment, context: Context) -> list[Condition]:
    """The conditions of one match. One option that is not understood makes the whole match unknown."""
    reader = _READERS.get(segment.name)
    if reader is None:
        return _unknown(segment.text())
    found = reader(segment, context)
    return _unknown(segment.text()) if found is None else found


Found = list[Condition] | None


def _each(segment: Segment, read: Callable[[Option], Found]) -> Found:
    found: list[Condition] = []
    for option in segment.options:
        one = read(option)
        if one is None:
            return None
        found += one
    return found


def _ported(segment: Segment, context: Context) -> Found:
    del context

    def read(option: Option) -> Found:
        name = option.name
        if name in ("--sport", "--source-port", "--dport", "--destination-port"):
            ports = numbers.ports(option.value)
            at = Field.SOURCE_PORT if "s" in name.removeprefix("--")[:1] else Field.PORT
            return None if ports is None else [Condition(at, ports, option.negated)]
        if name == "--syn":
            return [Condition(Field.FLAGS, (0x17, 0x02), option.negated)]
        if name == "--tcp-flags" and len(option.values) == 2:
            mask, value = (numbers.flags(text) for text in option.values)
            return None if mask is None or value is None else [Condition(Field.FLAGS, (mask, value), option.negated)]
        return None

    return _each(segment, read)


def _multiport(segment: Segment, context: Context) -> Found:
    del context

    def read(option: Option) -> Found:
        ports = numbers.ports(option.value)
        if ports is None:
            return None
        source = Condition(Field.SOURCE_PORT, ports)
        destination = Condition(Field.PORT, ports)
        if option.name in ("--sports", "--source-ports"):
            return [Condition(Field.SOURCE_PORT, ports, option.negated)]
        if option.name in ("--dports", "--destination-ports"):
            return [Condition(Field.PORT, ports, option.negated)]
        if option.name == "--ports":
            return [Condition(Field.CONCATENATION, ((source,), (destination,)), option.negated)]
        return None

    return _each(segment, read)


def _iprange(segment: Segment, context: Context) -> Found:
    def read(option: Option) -> Found:
        found = numbers.span(option.value)
        at = {"--src-range": Field.SOURCE, "--dst-range": Field.DESTINATION}.get(option.name)
        if found is None or at is None:
            return None
        return [Condition(at, found, option.negated, context.family)]

    return _each(segment, read)


def _states(option: Option) -> tuple[State, bool] | None:
    """The states that an option holds for, and whether also for what was translated."""
    found, translated = State(0), False
    for word in option.value.split(","):
        if word == "DNAT":
            translated = True
        elif word in _STATES:
            found |= _STATES[word]
        else:
            return None
    return (EVERY_STATE & ~found if option.negated else found), translated


def _conntrack(segment: Segment, context: Context) -> Found:
    states: State | None = None
    rest: list[Condition] = []
    for option in segment.options:
        if option.name in ("--ctstate", "--state"):
            read = _states(option)
            if read is None or (read[1] and (option.negated or read[0])):
                return _mixed_states(segment, option, read)
            if read[1]:
                rest.append(Condition(Field.TRANSLATED, True))
            else:
                states = read[0]
        else:
            one = _tuple(option, context)
            if one is None:
                return None
            rest += one
    if states is None:
        return rest
    if rest and states & _BARE and Condition(Field.TRANSLATED, True) not in rest:
        # A packet without a connection is asked nothing but its state (conntrack_mt in xt_conntrack.c).
        bare = (Condition(Field.STATE, states & _BARE),)
        tracked = (Condition(Field.STATE, states & ~_BARE), *rest)
        return [Condition(Field.CONCATENATION, (bare, tracked))]
    return [Condition(Field.STATE, states), *rest]


def _mixed_states(segment: Segment, option: Option, read: tuple[State, bool] | None) -> Found:
    """`--ctstate NEW,DNAT` holds for either."""
    if read is None or option.negated or len(segment.options) > 1:
        if read is not None and option.negated and len(segment.options) == 1:
            return [Condition(Field.STATE, read[0]), Condition(Field.TRANSLATED, False)]
        return None
    either = ((Condition(Field.STATE, read[0]),), (Condition(Field.TRANSLATED, True),))
    return [Condition(Field.CONCATENATION, either)]


def _tuple(option: Option, context: Context) -> Found:
    """What a connection's first packet looked like."""
    if option.name in ("--ctorigsrc", "--ctorigdst"):
        at = Field.ORIGINAL_SOURCE if option.name == "--ctorigsrc" else Field.ORIGINAL_DESTINATION
        return _address(option, at, context)
    if option.name == "--ctorigdstport":
        ports = numbers.ports(option.value)
        return None if ports is None else [Condition(Field.ORIGINAL_PORT, ports, option.negated)]
    if option.name == "--ctdir" and option.value in ("ORIGINAL", "REPLY"):
        return [Condition(Field.REPLY, option.value == "REPLY", option.negated)]
    return None


def _icmp(segment: Segment, context: Context) -> Found:
    del context
    number = ICMP if segment.name == "icmp" else ICMPV6

    def read(option: Option) -> Found:
        found = numbers.icmp(option.value, number)
        if found is None or option.name not in ("--icmp-type", "--icmpv6-type"):
            return None
        return [Condition(Field.ICMP, found, option.negated)]

    return _each(segment, read)


def _set(segment: Segment, context: Context) -> Found:
    def read(option: Option) -> Found:
        if option.name not in ("--match-set", "--set") or len(option.values) != 2:
            return None
        name, roles = option.values[0], option.values[1].split(",")
        if roles[0] not in ("src", "dst"):
            return None
        if name.startswith(LIVE) and len(roles) == 1:
            said = re.search(r"(?:^|; )live ([^;]+)", context.notes)
            group = said[1] if said else name[len(LIVE) : -1]
            context.live[name[len(LIVE) : -1]] = group
            return [Condition(Field.LIVE if roles[0] == "src" else Field.LIVE_DESTINATION, group, option.negated)]
        kernel = context.sets.sets.get(name)
        if kernel is None:
            return None
        found = kernel.ranges()
        if found is not None and len(roles) == 1:
            at = Field.SOURCE if roles[0] == "src" else Field.DESTINATION
            return [Condition(at, found, option.negated, kernel.family)]
        entries = kernel.entries(roles)
        return None if entries is None else [Condition(Field.CONCATENATION, entries, option.negated)]

    return _each(segment, read)


def _addrtype(segment: Segment, context: Context) -> Found:
    def read(option: Option) -> Found:
        if option.name == "--dst-type" and option.value == "LOCAL":
            return [Condition(Field.LOCAL, True, option.negated)]
        if option.value == "MULTICAST" and option.name in ("--dst-type", "--src-type"):
            at = Field.DESTINATION if option.name == "--dst-type" else Field.SOURCE
            return [Condition(at, MULTICAST.family(context.family), option.negated, context.family)]
        return None

    return _each(segment, read)


def _mark(segment: Segment, context: Context) -> Found:
    del context

    def read(option: Option) -> Found:
        value, _, mask = option.value.partition("/")
        number, bits = numbers.whole(value), numbers.whole(mask) if mask else 0xFFFFFFFF
        if option.name != "--mark" or number is None or bits is None:
            return None
        return [Condition(Field.MARK, (bits, number), option.negated)]

    return _each(segment, read)


def _limit(segment: Segment, context: Context) -> Found:
    """Rates and counts: true of what is within. `above` asks for what is beyond, and so does `!`, but not both."""
    del context
    beyond = any(o.negated != o.name.endswith("-above") for o in segment.options if "limit" in o.name)
    words = [segment.name]
    for option in segment.options:
        name = option.name.replace("-above", "-upto")
        words += [name, *option.values]
    return [Condition(Field.LIMIT, " ".join(words), beyond)]


def _owner(segment: Segment, context: Context) -> Found:
    def read(option: Option) -> Found:
        if option.name != "--uid-owner" or ("-" in option.value[1:] and option.value[0].isdigit()):
            return None
        names = context.users.get(option.value, ())
        said = re.search(r"(?:^|; )user ([^;]+)", context.notes)
        wanted = said[1] if said and (said[1] in names or said[1] == option.value) else None
        return [Condition(Field.USER, wanted or (names[0] if names else option.value), option.negated)]

    return _each(segment, read)


def _hops(segment: Segment, context: Context) -> Found:
    del context

    def read(option: Option) -> Found:
        number = numbers.whole(option.value)
        if number is None:
            return None
        match option.name.rpartition("-")[2]:
            case "eq":
                found = Ranges.single(number)
            case "lt":
                found = Ranges.of([(0, number - 1)] if number else [])
            case "gt":
                found = Ranges.of([(number + 1, 255)] if number < 255 else [])
            case _:
                return None
        return [Condition(Field.HOP_LIMIT, found, option.negated)]

    return _each(segment, read)


def _time(segment: Segment, context: Context) -> Found:
    """An end in UTC; times of day, weekdays, the kernel's own zone are not understood."""
    del context

    def read(option: Option) -> Found:
        if option.name == "--utc":
            return []
        if option.name != "--datestop" or option.negated:
            return None
        try:
            last = datetime.fromisoformat(option.value).replace(tzinfo=UTC)
        except ValueError:
            return None
        return [Condition(Field.UNTIL, last + timedelta(seconds=1))]

    return _each(segment, read)


def _recent(segment: Segment, context: Context) -> Found:
    """`--set` notes the source and always holds. Where a source's own packets are counted over some seconds it is a
    limit, that holds for what is beyond it; the rest asks the kernel's memory."""
    del context
    names = {option.name for option in segment.options}
    counts = {"--seconds", "--hitcount"} <= names and names & {"--update", "--rcheck"}
    if counts and not names & {"--remove", "--rdest"} and not any(o.negated for o in segment.options):
        return [Condition(Field.LIMIT, segment.text(), True)]
    asks = names & {"--update", "--rcheck", "--remove"} or any(o.negated for o in segment.options)
    return None if asks or "--set" not in names else []


def _nothing(segment: Segment, context: Context) -> Found:
    del segment, context
    return []


_READERS: dict[str, Callable[[Segment, Context], Found]] = {
    "tcp": _ported, "udp": _ported, "sctp": _ported, "dccp": _ported, "udplite": _ported, "multiport": _multiport,
    "mport": _multiport,  # its name in the patches of Linux 2.4
    "iprange": _iprange, "conntrack": _conntrack, "state": _conntrack, "icmp": _icmp, "icmp6": _icmp,
    "icmpv6": _icmp, "ipv6-icmp": _icmp, "set": _set, "addrtype": _addrtype, "mark": _mark, "limit": _limit,
    "hashlimit": _limit, "connlimit": _limit, "owner": _owner, "ttl": _hops, "hl": _hops, "time": _time,
    "recent": _recent, "comment": _nothing,
}  # fmt: skip


def _actions(target: Segment | None, context: Context, ports: Ranges | None) -> tuple[Action, ...]:
    if target is None:
        return ()
    options = {option.name: option.values for option in target.options[1:]}
    return read_target(target.name, target.options[0].name == "-g", options, target.text(), context.chains, ports)
