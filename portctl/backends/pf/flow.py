"""The rules of pf as chains that are read from the first line to the first that decides.

pf reads all rules and the last match decides, but for `quick`. So the lines of a chain are: what pf does before any
rule; every rule in its order, `quick` ones with their verdict, others with the tag that they set; then the others'
verdicts from the last to the first. A rule whose answer would be another one at the end (it asks for a tag, or an
address is translated on the way) leaves a bit in the mark at its own place, which is asked at the end.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from dataclasses import replace as changed
from ipaddress import IPv4Address, IPv6Address, ip_address

from portctl.backends.pf.grammar import Spec
from portctl.backends.pf.meaning import NETWORK_MARK, Tags, conditions, expanded, numbers
from portctl.backends.pf.world import Unclear, World
from portctl.net import LINK_LOCAL_V6, Address, Addresses, Ranges
from portctl.program import (
    Accept,
    Action,
    Chain,
    Condition,
    Deny,
    Field,
    Hook,
    HookName,
    Line,
    Note,
    SetMark,
    Translate,
    Unknown,
)
from portctl.ruleset import ACK, FIN, ICMPV6, KNOWN, LOOPBACK, RST, SYN, TCP, icmp

PASSED = 1 << 24
"""Bit of the mark: no later chain of the same way judges the packet."""
FIRST_BIT = 32
"""Bits of the mark from here on tell which rules without `quick` matched."""
PUSH, URGENT = 8, 32
MLD = icmp(130, 131, 132, 143)
KNOWN_PASS = Line((Condition(Field.STATE, KNOWN),), (Accept(),), "(pf: known connections)")
"""Any other packet meets the rules, those that translate first; what is new to another tracker is new to pf."""


@dataclass(slots=True)
class Reading:
    """A rule set while it is turned into chains."""

    world: World
    skipped: tuple[str, ...] = ()
    tags: Tags = field(default_factory=Tags)
    passes: bool = False
    """Some translation says `pass`, and so decides."""
    bit: int = FIRST_BIT


def chains(reading: Reading, rules: list[Spec], translations: list[Spec]) -> list[Chain]:
    """The chains of the way in and of the way out."""
    own = any(spec.label.startswith("portctl:") or spec.tag.startswith("portctl_") for spec in rules)
    reading.passes = any(spec.verb == "pass" for spec in walk(translations) if spec.action in ("rdr", "nat", "binat"))
    found: list[Chain] = []
    for direction, hook, nat in (("in", "prerouting", ("rdr", "binat")), ("out", "postrouting", ("nat", "binat"))):
        turning = [spec for spec in translations if spec.action in nat or "anchor" in spec.action]
        lines = list(translating(reading, turning, direction))
        if lines:
            lines = [*skips(reading, direction), KNOWN_PASS, *lines]
            found.append(Chain("pf", f"translate {direction}", tuple(lines), _hook(hook, -10), own=own))
        parts = filtering(reading, rules, direction)
        for index, part in enumerate(parts):
            name = direction if index == 0 else f"{direction} {index + 1}"
            found.append(Chain("pf", name, tuple(part), _hook(hook, index), own=own))
    return found


def _hook(name: str, priority: int) -> Hook:
    where: HookName = "prerouting" if name == "prerouting" else "postrouting"
    return Hook(where, priority)


def walk(rules: Iterable[Spec]) -> Iterator[Spec]:
    for spec in rules:
        yield spec
        yield from walk(spec.inner or ())


# --- before any rule -------------------------------------------------------------------------------------------------


def skips(reading: Reading, direction: str) -> Iterator[Line]:
    side = Field.IN if direction == "in" else Field.OUT
    names = tuple(LOOPBACK if name in ("lo", "lo0") else name for name in reading.skipped)
    if names:
        wanted = reading.world.devices(names)
        yield Line((Condition(side, wanted),), (Accept(),), f"set skip on {' '.join(reading.skipped)}")


def _flags(mask: int, value: int) -> tuple[Condition, ...]:
    return Condition(Field.PROTOCOL, Ranges.single(TCP)), Condition(Field.FLAGS, (mask, value))


def before(reading: Reading, direction: str) -> Iterator[Line]:
    """What pf does by itself: skipped interfaces, impossible packets, known connections."""
    yield from skips(reading, direction)
    for mask, value in (
        (SYN | RST, SYN | RST),
        (SYN | FIN, SYN | FIN),
        (SYN | ACK | RST, 0),
        (FIN | ACK, FIN),
        (PUSH | ACK, PUSH),
        (URGENT | ACK, URGENT),
    ):
        yield Line(_flags(mask, value), (Deny(),), "(pf: no such TCP flags)")
    mld = (Condition(Field.PROTOCOL, Ranges.single(ICMPV6)), Condition(Field.ICMP, MLD))
    wrong = Condition(Field.HOP_LIMIT, Ranges.single(1), negated=True)
    far = Condition(Field.SOURCE, LINK_LOCAL_V6.v6, negated=True, family=6)
    yield Line((*mld, wrong), (Deny(),), "(pf: MLD has hop limit 1)")
    yield Line((*mld, far), (Deny(),), "(pf: MLD comes from link-local addresses)")
    yield KNOWN_PASS


# --- filter rules ----------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Pending:
    """A rule without `quick`: its verdict counts if nothing after it matches."""

    conditions: tuple[Condition, ...]
    actions: tuple[Action, ...]
    spec: Spec


def filtering(reading: Reading, rules: list[Spec], direction: str) -> list[list[Line]]:
    """The lines of one way; several lists where a `match` rule translates, since later rules see the new address."""
    flat = list(flattened(reading, rules, direction, ()))
    turns = any(spec.action == "match" and spec.pools for spec, _ in flat)
    done: tuple[Action, ...] = (SetMark(PASSED, PASSED),) if turns else ()
    first = [changed(line, actions=(*done, *line.actions)) for line in before(reading, direction)]
    parts: list[list[Line]] = [[_passed(), *first] if reading.passes else first]
    pending: list[Pending] = []
    turned: set[str] = set()
    for spec, asked in flat:
        setting = tuple(_tag(reading, spec))
        if turned and not _of_others(spec, turned):
            parts.append([_passed()])
            turned = set()
        if spec.action == "end":
            parts[-1] += [changed(line, conditions=(*asked, *line.conditions)) for line in _last(pending, turns)]
            parts[-1].append(_line(spec, asked, (*done, Accept())))
        elif spec.action == "unknown":
            parts[-1].append(_line(spec, asked, (Unknown(spec.text),)))
        elif spec.action == "match":
            pools = _translations(reading, spec)
            parts[-1].append(_line(spec, asked, (*setting, *_notes(spec), *pools)))
            if pools:
                turned.add(spec.tagged[0][1] if len(spec.tagged) == 1 and not spec.tag else "")
        elif spec.quick:
            parts[-1] += _deciding(reading, spec, asked, setting, turns)
        else:
            late = bool(spec.tagged) or turns
            mark = 1 << reading.bit
            reading.bit += late
            if late or setting:
                noted = (SetMark(mark, mark),) if late else ()
                parts[-1].append(_line(spec, asked, (*setting, *noted)))
            held = (Condition(Field.MARK, (mark, mark)),) if late else asked
            pending.append(Pending(held, _verdict(reading, spec), spec))
    if turned:
        parts.append([_passed()])
    parts[-1] += _last(pending, turns)
    return parts


def _of_others(spec: Spec, turned: set[str]) -> bool:
    """Whether a rule asks for a tag that no packet bears which was translated just before: then it can stand in the
    same list, which a translation ends."""
    return len(spec.tagged) == 1 and not spec.tagged[0][0] and not {"", spec.tagged[0][1]} & turned


def _last(pending: list[Pending], turns: bool) -> list[Line]:
    """The verdicts of the rules without `quick`, the last first."""
    done = (SetMark(PASSED, PASSED),) if turns else ()
    found: list[Line] = []
    for each in reversed(pending):
        if limit(each.spec):
            within = (*each.conditions, Condition(Field.LIMIT, limit(each.spec)))
            found.append(_line(each.spec, within, (*done, *each.actions)))
            found.append(_line(each.spec, each.conditions, (Deny(answer="over its limit"),)))
        else:
            found.append(_line(each.spec, each.conditions, (*done, *each.actions)))
    return found


def _deciding(
    reading: Reading, spec: Spec, asked: tuple[Condition, ...], setting: tuple[Action, ...], turns: bool
) -> Iterator[Line]:
    done = (SetMark(PASSED, PASSED),) if turns and spec.action == "pass" else ()
    actions = (*setting, *done, *_notes(spec), *_verdict(reading, spec))
    if not limit(spec):
        yield _line(spec, asked, actions)
        return
    yield _line(spec, (*asked, Condition(Field.LIMIT, limit(spec))), actions)
    yield _line(spec, asked, (Deny(answer="over its limit"),))


def flattened(
    reading: Reading, rules: Iterable[Spec], direction: str, outer: tuple[Condition, ...]
) -> Iterator[tuple[Spec, tuple[Condition, ...]]]:
    """Every rule of one way with all that it asks, anchors' rules at the anchors' places."""
    for listed in rules:
        if listed.direction not in ("", direction):
            continue
        for plain in expanded(listed):
            spec = changed(plain, direction=direction)
            asked = (*outer, *conditions(spec, reading.world, reading.tags))
            if spec.action != "anchor":
                yield spec, asked
                continue
            if spec.inner is None:
                yield changed(spec, action="unknown", others=True), asked
            else:
                inside = [changed(each, others=True) for each in spec.inner]
                yield from flattened(reading, inside, direction, asked)
            if spec.quick:
                yield changed(spec, action="end", others=True), asked


def limit(spec: Spec) -> str:
    """The state options beyond which a packet is dropped, as text; nothing if there are none."""
    found = [o for o in spec.options if o.split(" ")[0] in LIMITS and o != "max-src-nodes 0"]
    return ", ".join([*found, *(o for o in spec.options if found and o == "source-track global")])


LIMITS = ("max", "max-src-nodes", "max-src-states", "max-src-conn", "max-src-conn-rate", "max-pkt-rate")


def _tag(reading: Reading, spec: Spec) -> Iterator[Action]:
    if spec.tag:
        yield SetMark(NETWORK_MARK, reading.tags.number(spec.tag))


def _notes(spec: Spec) -> tuple[Action, ...]:
    return (Note("log"),) if spec.log else ()


def _verdict(reading: Reading, spec: Spec) -> tuple[Action, ...]:
    if spec.action == "block":
        return (Deny(reject=spec.verb != "drop", answer="" if spec.verb == "drop" else spec.verb),)
    return _translations(reading, spec) or (Accept(),)


def _passed() -> Line:
    return Line((Condition(Field.MARK, (PASSED, PASSED)),), (Accept(),), "(pf: a rule has decided)")


def _line(spec: Spec, asked: tuple[Condition, ...], actions: tuple[Action, ...]) -> Line:
    return Line(asked, actions, spec.text, named(spec.label), spec.number, spec.packets, spec.bytes, spec.others)


def named(label: str) -> str:
    """The name in a label of portctl's (`portctl:service:web`), else the label; none in one that explains a table."""
    parts = label.split(":", 2)
    if parts[:2] == ["portctl", "live"]:
        return ""
    return parts[2] if len(parts) == 3 and parts[0] == "portctl" else label


# --- translations ----------------------------------------------------------------------------------------------------


def translating(reading: Reading, rules: list[Spec], direction: str) -> Iterator[Line]:
    """`rdr`, `nat` and `binat` rules: the first match decides."""
    for listed in rules:
        for spec in expanded(listed):
            spec = changed(spec, direction=direction)
            if "anchor" in spec.action:
                yield from translating(reading, _inner(spec, direction), direction)
            elif spec.action == "binat":
                yield from _binat(reading, spec, direction)
            else:
                asked = conditions(spec, reading.world, reading.tags)
                if spec.negated:
                    yield _line(spec, asked, (*_tag(reading, spec), Accept()))
                    continue
                passed = (SetMark(PASSED, PASSED),) if spec.verb == "pass" else ()
                yield _line(spec, asked, (*_tag(reading, spec), *passed, *_translations(reading, spec)))


def _inner(spec: Spec, direction: str) -> list[Spec]:
    action = "rdr" if direction == "in" else "nat"
    wanted = [each for each in spec.inner or () if each.action in (action, "binat") or "anchor" in each.action]
    return [changed(each, others=True) for each in wanted]


def _binat(reading: Reading, spec: Spec, direction: str) -> Iterator[Line]:
    outside = spec.pools[0][1][0] if spec.pools else ""
    inside = spec.sources[0][1] if spec.sources else ""
    if direction == "out":
        asked = conditions(spec, reading.world, reading.tags)
        yield _line(spec, asked, (_source(reading, [outside]),))
        return
    turned = changed(spec, sources=spec.destinations, destinations=[(False, outside)])
    asked = conditions(turned, reading.world, reading.tags)
    yield _line(spec, asked, _destination(reading, turned, [inside], ()))


def _translations(reading: Reading, spec: Spec) -> tuple[Action, ...]:
    for kind, addresses, port in spec.pools:
        if kind == "rdr-to" or (kind == "->" and spec.action == "rdr"):
            return _destination(reading, spec, addresses, port)
        if kind in ("nat-to", "->"):
            return (_source(reading, addresses, spec.family),)
        return (Unknown(f"{kind} {' '.join(addresses)}"),)
    return ()


def _source(reading: Reading, addresses: list[str], family: int | None = None) -> Action:
    """An interface in parentheses is whatever address it has when a packet leaves by it."""
    if len(addresses) == 1:
        try:
            return Translate("source", ip_address(addresses[0]))
        except ValueError:
            pass
        try:
            own = reading.world.dynamic(addresses[0].strip("()"))
            own = own if family is None else own.only(6 if family == 6 else 4)
            if own.v4.count() + own.v6.count() == 1:
                return Translate("masquerade" if addresses[0].startswith("(") else "source", _address(own))
        except (Unclear, ValueError):
            pass
    return Translate("masquerade")


def _destination(reading: Reading, spec: Spec, addresses: list[str], port: tuple[str, ...]) -> tuple[Action, ...]:
    text = addresses[0]
    if len(addresses) > 1:
        return (Unknown(f"rdr to a pool, {' '.join(addresses)}"),)  # which one comes next is the kernel's
    try:
        number = _port(reading, spec, port)
        if text.startswith("<"):
            members = reading.world.members(text[1:-1])
            text = str(_address(members))
    except (Unclear, ValueError, LookupError) as error:
        return (Unknown(f"rdr to {' '.join(addresses)}: {error}"),)
    if text.startswith("("):
        return (Translate("redirect", None, number),)
    asked = spec.destinations[0][1] if spec.destinations else ""
    if "/" in text:
        kept = "bitmask" in spec.notes and asked == text
        return (Translate("destination", None, number),) if kept else (Unknown(f"rdr to a pool, {text}"),)
    address = ip_address(text)
    if address.is_loopback and address.version == 6:
        return (Deny(answer="IPv6 input refuses ::1 from elsewhere"),)
    if address.is_loopback or address in _own(reading):
        return (Translate("redirect", address, number),)
    return (Translate("destination", None if asked == text else address, number),)


def _address(addresses: Addresses) -> Address:
    """The first address of some."""
    return IPv4Address(addresses.v4.bounds[0]) if addresses.v4 else IPv6Address(addresses.v6.bounds[0])


def _own(reading: Reading) -> set[object]:
    texts = [t for interface in reading.world.interfaces.values() for t in interface.addresses]
    return {ip_address(text.partition("/")[0]) for text in texts}


def _port(reading: Reading, spec: Spec, port: tuple[str, ...]) -> int | None:
    """The new port; None keeps it, also where a range is moved onto itself."""
    if not port:
        return None
    if port[0] == "=":
        return reading.world.port(port[1])
    low = reading.world.port(port[1])
    asked = numbers(spec.ports[0], reading.world) if spec.ports else Ranges()
    if asked and asked.bounds[0] == low:
        return None
    raise Unclear(f"port {' '.join(port)}")
