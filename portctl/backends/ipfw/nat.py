"""Translations: `nat` instances for other hosts, for masquerade, and for UDP to a port of this host (all IPv4); `fwd`
for TCP to a port of this host. A socket that `fwd` hands a datagram to would answer from its own port (udp_usrreq.c).

A state is the action of the rule that made it, so what is translated on its way out makes its states with a `skipto`
to a block that translates. What came in translated is known by its tag, so that direct access to the target stays shut.
An instance's number is a digest of its configuration: the same one is not configured again, and keeps its connections.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from hashlib import sha256
from itertools import product
from typing import TYPE_CHECKING

from portctl.backends.ipfw import words
from portctl.backends.ipfw.layout import Layout
from portctl.backends.ipfw.matching import bodies, note
from portctl.net import Addresses, address_text
from portctl.ruleset import EVERY_PORT, ICMP, TCP, UDP, Flow, Flows, Kind, Masquerade, Rule, Ruleset, Translation

if TYPE_CHECKING:
    from portctl.backends.ipfw.starts import Pass

FIRST_TAG = 20001
FIRST_INSTANCE, INSTANCES = 10000, 50000
MOST_ALIASES = 32


def arriving(layout: Layout, block: str) -> None:
    """The first thing that happens to a packet: its destination is translated (back)."""
    for masquerade in layout.ruleset.masquerades:
        for number, text in _sources(layout, masquerade):
            where = f"ip4 from any to {text.removeprefix('ip ')} in"
            if text.startswith("if "):
                where = f"ip4 from any to any in recv {text.removeprefix('if ')}"
            rule = f"nat {number} {where}{_why(masquerade.name)}"
            if rule not in layout.blocks[block]:
                layout.blocks[block].append(rule)
    # All tags come first: of entries that name the same packets one turns them, and each may admit what it turned.
    turned: list[tuple[str, str, str]] = []
    for translation in _by_nat(layout.ruleset):
        why = _why(translation.name)
        for number, device in _instances(layout, translation):
            for body in arriving_for(layout, translation, device):
                layout.add(block, f"count tag {tag(layout.ruleset, translation.name)}", body, why)
                turned.append((f"nat {number}", body, why))
    for action, body, why in turned:
        layout.add(block, action, body, why)


def _why(name: str) -> str:
    return words.comment(f"portctl:{Kind.FORWARD.value}:{name}")


def _by_nat(ruleset: Ruleset) -> list[Translation]:
    return [part for translation in ruleset.translations for part in parts(translation) if not served(part)]


def _by_fwd(ruleset: Ruleset) -> list[Translation]:
    return [part for translation in ruleset.translations for part in parts(translation) if served(part)]


def served(part: Translation) -> bool:
    """Whether a part of a translation leaves addresses and ports alone: `fwd`."""
    return part.target is None and any(flow.protocol != UDP for flow in part.flows or ())


def parts(translation: Translation) -> list[Translation]:
    """A translation cut into what `nat` does and what `fwd` does."""
    if translation.target is not None:
        return [translation]
    datagrams = tuple(flow for flow in translation.flows or () if flow.protocol == UDP)
    others = tuple(flow for flow in translation.flows or () if flow.protocol != UDP)
    found = [replace(translation, flows=datagrams, source=translation.source.only(4))] if datagrams else []
    return [*found, replace(translation, flows=others)] if others else found


def tag(ruleset: Ruleset, name: str) -> int:
    return FIRST_TAG + [translation.name for translation in ruleset.translations].index(name)


def arriving_for(layout: Layout, translation: Translation, device: str | None, flags: str = "") -> Iterator[str]:
    """What a translation means, before it is translated."""
    # Its NAT would take an IPv6 packet for one of IPv4.
    source = layout.addresses(
        translation.source if translation.target is None else translation.source.only(4), f"from-{translation.name}"
    )
    there = "me" if translation.destination is None else layout.addresses(translation.destination, translation.name)
    devices = translation.interfaces if device is None else (device,)
    for flow in translation.flows or ():
        asked = flags if flow.protocol == TCP else ""
        for (source_ports, ports), names in product(words.port_lists(flow), words.few(devices)):
            parts = [words.protocol(flow.protocol), "from", source, source_ports, "to", there, ports, "in"]
            yield " ".join(part for part in (*parts, words.interfaces("recv", names), asked) if part)


def aliases(translation: Translation) -> list[str]:
    """The addresses before translation, one by one; none where it is whatever the interface has."""
    if translation.destination is None:
        return []
    return list(_each(translation.destination))


def _each(addresses: Addresses) -> Iterator[str]:
    for first, last in addresses.v4.pairs():
        for number in range(first, min(last, first + MOST_ALIASES) + 1):
            yield address_text(number, 4)


def _instances(layout: Layout, translation: Translation) -> Iterator[tuple[int, str | None]]:
    """The instances of a translation, with the interface that each is for (None: as the translation says)."""
    before = aliases(translation)
    if before:
        clauses = [clause for alias in before for clause in _redirects(translation, f"{alias}:")]
        yield _instance(layout, f"config ip {before[0]} deny_in reset {' '.join(clauses)}"), None
        return
    if own_addresses(translation):
        yield _instance(layout, f"config ip me deny_in reset {' '.join(_redirects(translation, 'me:'))}"), None
        return
    for device in translation.interfaces:
        yield _instance(layout, f"config if {device} deny_in reset {' '.join(_redirects(translation, ''))}"), device


def own_addresses(translation: Translation) -> bool:
    """Whether only the host knows which addresses are translated: `load.sh` fills them in, where the file says `me`."""
    devices = translation.interfaces
    nowhere = translation.target is None or not devices or any("*" in name for name in devices)
    return translation.destination is None and nowhere


def _redirects(translation: Translation, alias: str) -> Iterator[str]:
    target = alias.removesuffix(":") if translation.target is None else translation.target
    for flow in translation.flows or ():
        word = f"redirect_port {words.protocol(flow.protocol)} {target}"
        for first, last in flow.ports.pairs():
            if translation.target_port is None:
                text = words.ports([(first, last)])
                yield f"{word}:{text} {alias}{text}"
            else:
                for port in range(first, last + 1):
                    yield f"{word}:{translation.target_port} {alias}{port}"


def _instance(layout: Layout, config: str) -> int:
    taken = {line.split()[1]: line for line in layout.nat}
    number = FIRST_INSTANCE + int(sha256(config.encode()).hexdigest()[:8], 16) % INSTANCES
    while taken.get(str(number), f"nat {number} {config}") != f"nat {number} {config}":
        number = FIRST_INSTANCE + (number + 1 - FIRST_INSTANCE) % INSTANCES
    line = f"nat {number} {config}"
    if line not in layout.nat:
        layout.nat.append(line)
    return number


def _sources(layout: Layout, masquerade: Masquerade) -> Iterator[tuple[int, str]]:
    """The instances of a masquerade: (number, `if wan0` or `ip 192.0.2.1`)."""
    if masquerade.address is not None:
        yield _instance(layout, f"config ip {masquerade.address} same_ports reset"), f"ip {masquerade.address}"
        return
    for device in leaving_by(layout.ruleset, masquerade.name):
        yield _instance(layout, f"config if {device} same_ports reset"), f"if {device}"


def leaving_by(ruleset: Ruleset, name: str) -> tuple[str, ...]:
    """The interfaces by which what a forward admits leaves."""
    rules = [rule for rule in ruleset.forwarded if rule.kind is Kind.FORWARD and rule.name == name]
    return rules[0].out_interfaces if rules else ()


def leave_block(name: str) -> str:
    return f"leave-{name}"


def turned(layout: Layout, at: Pass, block: str, rules: Sequence[Rule], direct: Sequence[Rule]) -> None:
    """Entries whose packets have been translated, or are to be served by another port of this host.

    `direct`: rules that may admit the same packets without a limit, and then win."""
    by_name = {translation.name: translation for translation in layout.ruleset.translations}
    for rule, translation in [(each, part) for each in rules for part in parts(by_name[each.name])]:
        action, lines = _asked(layout, at, rule, translation)
        if rule.log and at.state:
            for body in lines:
                layout.add(block, "count log", body, note(rule))
        free = list(_free(translation, direct)) if at.state and rule.max_connections is not None else []
        into = layout.block(f"{block}-turned-{rule.name}") if free else block
        if free:
            for body in lines:
                layout.add(block, f"skipto @{into}@", body, note(rule))
        for other in free:
            for found in bodies(layout, other, at.way):
                if other.log:
                    layout.add(into, "count log", found.text, note(other))
                layout.add(into, action, f"{found.text} record-state :{at.state}", note(other))
        for body in lines:
            layout.add(into, action, f"{body} {_state(rule, at)}".rstrip(), note(rule))


def _asked(layout: Layout, at: Pass, rule: Rule, translation: Translation) -> tuple[str, list[str]]:
    """What happens to the packets that an entry has turned, and which they are."""
    if served(translation):
        return f"skipto @to-{rule.name}@", list(arriving_for(layout, translation, None, words.START))
    leaving = list(words.few(rule.out_interfaces if at.way == "out" else ()))
    lines = [_tagged(layout, at, rule, flow, names) for flow in translation.flows or () for names in leaving]
    return (f"skipto @{leave_block(rule.name)}@" if at.state else "allow"), lines


def _tagged(layout: Layout, at: Pass, rule: Rule, flow: Flow, devices: tuple[str, ...]) -> str:
    """What was turned, of what one flow of an entry names."""
    out = words.interfaces("xmit", devices)
    asked = words.START if flow.protocol == TCP else ""
    marked = f"tagged {tag(layout.ruleset, rule.name)}"
    source = layout.addresses(rule.source, f"from-{rule.name}")
    text = [words.protocol(flow.protocol), "from", source, "to any", at.way, out, asked, marked]
    return " ".join(part for part in text if part)


def _target(layout: Layout, translation: Translation, flow: Flow) -> tuple[str, str]:
    """The address and the ports behind a translation by `nat`, in words."""
    ports = words.ports(flow.ports.pairs()) if translation.target_port is None else str(translation.target_port)
    if translation.target is not None:
        return str(translation.target), ports
    if translation.destination is not None:
        return layout.addresses(translation.destination, f"to-{translation.name}"), ports
    return "me", ports


def _free(translation: Translation, rules: Sequence[Rule]) -> Iterator[Rule]:
    """The rules without a limit, about the packets that have been turned. `fwd` leaves them the port they came to."""
    protocols = {flow.protocol for flow in translation.flows or ()}
    port = translation.target_port
    for rule in rules:
        if rule.max_connections is not None:
            continue
        flows = [f for f in rule.flows or map(Flow, sorted(protocols)) if f.protocol in protocols]
        if served(translation) and port is not None:
            flows = [replace(f, ports=EVERY_PORT) for f in flows if port in f.ports]
        if flows:
            yield replace(rule, flows=tuple(flows))


def _state(rule: Rule, at: Pass) -> str:
    if not at.state:
        return ""
    if rule.max_connections is None:
        return f"record-state :{at.state}"
    return f"set-limit src-addr {rule.max_connections} :{at.state}"


def other_ports(ruleset: Ruleset, flows: Flows) -> list[tuple[Translation, tuple[Flow, ...]]]:
    """What a rule about `flows` has to leave to the port that is served in their place: `fwd` leaves packets the port
    they came to. Each flow of a translation to a port of this host, in order, and of the rule's those that name that
    port. None where it makes no difference."""
    found: list[tuple[Translation, tuple[Flow, ...]]] = []
    differs = False
    for translation in _by_fwd(ruleset):
        port = translation.target_port
        if port is None:
            continue
        for flow in translation.flows or ():
            about = [f for f in flows or () if f.protocol == flow.protocol]
            if not about:
                continue
            meant = tuple(replace(f, ports=EVERY_PORT) for f in about if port in f.ports)
            differs |= any(not flow.ports <= f.ports if port in f.ports else bool(flow.ports & f.ports) for f in about)
            found.append((replace(translation, flows=(flow,)), meant))
    return found if differs else []


_LOOPBACK = {6: "::1", 4: "127.0.0.1"}


def taken_in(layout: Layout) -> Iterator[str]:
    """Packets that are served here, to addresses that may not be this host's."""
    for translation in _by_fwd(layout.ruleset):
        if translation.destination is not None:
            yield from arriving_for(layout, translation, None)


def local_targets(layout: Layout) -> None:
    """`fwd` changes no address: the socket of the other port sees the connection as it came."""
    used = layout.lines()
    for translation in _by_fwd(layout.ruleset):
        block = f"to-{translation.name}"
        if not any(f"@{block}@" in line for line in used):
            continue
        layout.lasting[block] = []
        for flow in translation.flows or ():
            word = words.protocol(flow.protocol)
            for family in translation.families()[::-1]:
                action = f"fwd {_LOOPBACK[family]},{translation.target_port}"
                there = {6: "me6", 4: "me"}[family]
                if translation.destination is not None:
                    there = layout.addresses(translation.destination.only(family), f"to-{translation.name}-{family}")
                layout.add(block, action, f"{word} from any to {there} in", _why(translation.name))
        layout.add(block, "allow", "ip from any to any", _why(translation.name))


def leaving(layout: Layout) -> None:
    """What is translated on its way out: answers of redirected connections, and sources that are masqueraded."""
    targets = {translation.name: translation for translation in _by_nat(layout.ruleset)}
    masquerades = {masquerade.name: masquerade for masquerade in layout.ruleset.masquerades}
    for name in sorted({*targets, *masquerades}):
        block = leave_block(name)
        if not any(f"@{block}@" in line for line in layout.lines()):
            continue
        layout.lasting[block] = []
        if name in targets:
            _answers(layout, block, targets[name])
        if name in masquerades:
            devices = leaving_by(layout.ruleset, name)
            for number, text in _sources(layout, masquerades[name]):
                source = _masqueraded(layout, name)
                for names in words.few((text.removeprefix("if "),) if text.startswith("if ") else devices):
                    body = f"ip4 from {source} to any out {words.interfaces('xmit', names)}".rstrip()
                    layout.add(block, f"nat {number}", body, _why(name))
        layout.add(block, "allow", "ip from any to any", _why(name))


def errors(layout: Layout, block: str, rule: Rule) -> None:
    """An ICMP error of a host behind this one quotes what was translated: the instance that did it knows the
    connection, and translates the error too. One about anything else it leaves alone (alias.c, `IcmpAliasOut2`)."""
    types = next((words.types(flow) for flow in rule.flows or () if flow.protocol == ICMP), "")
    if not types:
        return
    sources: list[tuple[str, int, str, tuple[str, ...]]] = []
    for masquerade in layout.ruleset.masquerades:
        behind = _masqueraded(layout, masquerade.name)
        devices = leaving_by(layout.ruleset, masquerade.name)
        for number, text in _sources(layout, masquerade):
            by = (text.removeprefix("if "),) if text.startswith("if ") else devices
            sources += [(masquerade.name, number, behind, names) for names in words.few(by)]
    for translation in _by_nat(layout.ruleset):
        if translation.target is not None:
            found = _instances(layout, translation)
            sources += [(translation.name, number, str(translation.target), ()) for number, _ in found]
    for name, number, behind, names in sources:
        asked = ["icmp from", behind, "to any out", words.interfaces("xmit", names), types]
        layout.add(block, f"nat {number}", " ".join(part for part in asked if part), _why(name))


def _masqueraded(layout: Layout, name: str) -> str:
    rule = next(r for r in layout.ruleset.forwarded if r.kind is Kind.FORWARD and r.name == name)
    return layout.addresses(rule.source, f"from-{name}")


def _answers(layout: Layout, block: str, translation: Translation) -> None:
    for number, _ in _instances(layout, translation):
        for flow in translation.flows or ():
            source, ports = _target(layout, translation, flow)
            body = f"{words.protocol(flow.protocol)} from {source} {ports} to any out"
            layout.add(block, f"nat {number}", body, _why(translation.name))
