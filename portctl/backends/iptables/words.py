"""The conditions of a rule in the words of iptables, in the order in which `iptables-save` prints them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from itertools import product
from math import prod

from portctl.backends.base import PUBLISHED_MARK, Ability
from portctl.backends.iptables.names import live_set, quoted
from portctl.backends.iptables.sets import Sets
from portctl.net import Addresses, Family, Ranges, network_texts
from portctl.ruleset import (
    EVERY_PORT,
    EVERY_STATE,
    ICMP,
    ICMPV6,
    LOOPBACK,
    PROTOCOLS_WITH_PORTS,
    SCTP,
    TCP,
    UDP,
    Flow,
    Rule,
    State,
)

PROTOCOL_WORDS = {ICMP: "icmp", TCP: "tcp", UDP: "udp", ICMPV6: "ipv6-icmp", SCTP: "sctp", 50: "esp", 51: "ah"}
"""Those that iptables knows without a file of the host (`xtables_chain_protos`); others are numbers."""
SYN_ALONE = "-m tcp --tcp-flags FIN,SYN,RST,ACK SYN"
SLOTS = 15
"""What one `multiport` match holds; a range takes two (iptables-extensions(8))."""
INLINE = 4
"""Longer lists of networks go into a set."""
MOST_PRODUCT = 12
"""More lines than this for one rule become chains that ask one thing each."""

_STATES = (
    (State.INVALID, "INVALID"),
    (State.NEW, "NEW"),
    (State.RELATED, "RELATED"),
    (State.ESTABLISHED, "ESTABLISHED"),
    (State.UNTRACKED, "UNTRACKED"),
)


@dataclass(frozen=True, slots=True)
class Words:
    """The conditions of one line, a `! ` before those that must not hold.

    `modules` are whole matches (`-m conntrack --ctstate NEW`).
    """

    source: str = ""
    destination: str = ""
    incoming: str = ""
    outgoing: str = ""
    protocol: str = ""
    modules: tuple[str, ...] = ()

    def __and__(self, other: Words) -> Words:
        return Words(
            self.source or other.source,
            self.destination or other.destination,
            self.incoming or other.incoming,
            self.outgoing or other.outgoing,
            self.protocol or other.protocol,
            self.modules + tuple(m for m in other.modules if m not in self.modules),
        )

    def line(self, comment: str, target: str) -> str:
        """The text behind `-A CHAIN `. A rule that only leads on has no comment: iptables-nft runs each as a match."""
        parts = [
            _base("-s", self.source),
            _base("-d", self.destination),
            _base("-i", self.incoming),
            _base("-o", self.outgoing),
            _base("-p", self.protocol),
            *self.modules,
            f"-m comment --comment {quoted(comment)}" if comment else "",
            target,
        ]
        return " ".join(part for part in parts if part)


def _base(option: str, value: str) -> str:
    if not value:
        return ""
    return f"! {option} {value[2:]}" if value.startswith("! ") else f"{option} {value}"


ANY = Words()
Choices = list[Words]
"""Alternatives: the condition holds where one of them does."""


def protocol_word(number: int) -> str:
    return PROTOCOL_WORDS.get(number, str(number))


def state_words(states: State) -> Words:
    names = ",".join(word for state, word in _STATES if state in states)
    return Words(modules=(f"-m conntrack --ctstate {names}",))


def state_choices(rule: Rule) -> Choices:
    """The state, and the direction where one is asked for. Packets without a connection have no direction."""
    if not rule.original_direction:
        return [ANY] if rule.states == EVERY_STATE else [state_words(rule.states)]
    bare = rule.states & (State.INVALID | State.UNTRACKED)
    tracked = rule.states & (State.NEW | State.ESTABLISHED | State.RELATED)
    choices = [state_words(bare)] if bare else []
    if tracked == State.NEW | State.ESTABLISHED | State.RELATED:
        choices.append(Words(modules=("-m conntrack --ctdir ORIGINAL",)))
    elif tracked:
        choices.append(Words(modules=(f"{state_words(tracked).modules[0]} --ctdir ORIGINAL",)))
    return choices


def port_text(first: int, last: int) -> str:
    return str(first) if first == last else f"{first}:{last}"


def port_lists(ports: Ranges) -> Iterator[list[tuple[int, int]]]:
    """The ranges of a set of ports, in portions that one `multiport` holds."""
    portion: list[tuple[int, int]] = []
    slots = 0
    for first, last in ports.pairs():
        need = 1 if first == last else 2
        if slots + need > SLOTS:
            yield portion
            portion, slots = [], 0
        portion.append((first, last))
        slots += need
    if portion:
        yield portion


def port_choices(protocol: int, ports: Ranges, source_ports: Ranges) -> Choices:
    """A protocol with its ports. One range of each uses the protocol's own match, more use `multiport`."""
    word = protocol_word(protocol)
    asked_ports: list[list[tuple[int, int]]] = [[]] if ports == EVERY_PORT else list(port_lists(ports))
    asked_sources: list[list[tuple[int, int]]] = [[]] if source_ports == EVERY_PORT else list(port_lists(source_ports))
    choices = []
    for sources, destinations in product(asked_sources, asked_ports):
        own, modules = [], []
        for name, portion in (("sport", sources), ("dport", destinations)):
            if not portion:
                continue
            if len(portion) == 1:
                own.append(f"--{name} {port_text(*portion[0])}")
            else:
                modules.append(f"-m multiport --{name}s {','.join(port_text(a, b) for a, b in portion)}")
        first = (f"-m {word} {' '.join(own)}",) if own else ()
        choices.append(Words(protocol=word, modules=(*first, *modules)))
    return choices


def icmp_choices(protocol: int, numbers: Ranges) -> Choices:
    """ICMP types, each with every code or with single ones."""
    word = protocol_word(protocol)
    if numbers == EVERY_PORT:
        return [Words(protocol=word)]
    module, option = ("icmp", "--icmp-type") if protocol == ICMP else ("icmp6", "--icmpv6-type")
    choices = []
    for first, last in numbers.pairs():
        number = first
        while number <= last:
            whole = number % 256 == 0 and number + 255 <= last
            text = str(number // 256) if whole else f"{number // 256}/{number % 256}"
            choices.append(Words(protocol=word, modules=(f"-m {module} {option} {text}",)))
            number += 256 if whole else 1
    return choices


def flow_choices(flow: Flow) -> Choices:
    if flow.protocol in PROTOCOLS_WITH_PORTS:
        return port_choices(flow.protocol, flow.ports, flow.source_ports)
    if flow.protocol in (ICMP, ICMPV6):
        return icmp_choices(flow.protocol, flow.ports)
    return [Words(protocol=protocol_word(flow.protocol))]


def interface_word(name: str) -> str:
    if name == LOOPBACK:
        return "lo"
    return name[:-1] + "+" if name.endswith("*") else name


@dataclass(slots=True)
class Speaker:
    """Says conditions in one family, and collects the address sets that it needs for them."""

    family: Family
    ability: Ability
    sets: Sets
    local: frozenset[Rule] = frozenset()
    """Rules whose destination must be an address of this host."""
    unturned: frozenset[Rule] = frozenset()
    """Rules on packets that the tracker sees and whose destination nobody translated."""

    def address_choices(self, addresses: Addresses, role: str, name: str, *, most: int = INLINE) -> Choices:
        """`role` is `src` or `dst`. A list of more than `most` becomes a set, named after its group or after `name`."""
        ranges = addresses.family(self.family)
        if addresses.is_every(self.family):
            return [ANY]
        found = self.sets.inline(ranges, self.family)
        if found is None or (self.sets.available and len(found) > most):
            word = self.sets.name(ranges, self.family, name)
            return [Words(modules=(f"-m set --match-set {word} {role}",))]
        width = 32 if self.family == 4 else 128
        texts = (text if "/" in text else f"{text}/{width}" for text in found)
        return [Words(source=t) if role == "src" else Words(destination=t) for t in texts]

    def original_addresses(self, rule: Rule) -> Choices:
        """Only the address: the rest is asked on the way."""
        assert rule.original is not None
        if rule.original.destination is None or rule.original.destination.is_every(self.family):
            return [ANY]
        ranges = rule.original.destination.family(self.family)
        return [Words(modules=(f"-m conntrack --ctorigdst {t}",)) for t in network_texts(ranges, self.family)]

    def original_choices(self, rule: Rule) -> Choices:
        """Where a packet went before its destination was translated, from the connection's first packet."""
        assert rule.original is not None
        networks: Iterable[str] = [""]
        if rule.original.destination is not None and not rule.original.destination.is_every(self.family):
            networks = [
                f" --ctorigdst {t}" for t in network_texts(rule.original.destination.family(self.family), self.family)
            ]
        choices: Choices = []
        for network, (words, ports) in product(networks, self._original_ports(rule)):
            module = f"-m conntrack --ctstate DNAT{network}{ports}"
            choices.append(Words(protocol=words.protocol, modules=(*words.modules, module)))
        return choices

    def _original_ports(self, rule: Rule) -> list[tuple[Words, str]]:
        assert rule.original is not None
        if rule.original.flows is None:
            return [(ANY, "")]
        found = []
        for flow in rule.original.flows:
            if self.family not in flow.families():
                continue
            if flow.protocol not in PROTOCOLS_WITH_PORTS:
                found += [(words, "") for words in flow_choices(flow)]
                continue
            pairs = (
                [""] if flow.ports == EVERY_PORT else [f" --ctorigdstport {port_text(*p)}" for p in flow.ports.pairs()]
            )
            for words in port_choices(flow.protocol, EVERY_PORT, flow.source_ports):
                found += [(words, text) for text in pairs]
        return found

    def dimensions(self, rule: Rule, *, turned: bool = False, most: int = INLINE) -> list[Choices]:
        """All conditions of a rule but protocol, ports and state: lists of alternatives, all of which must hold.

        `turned`: that it was translated, and its original protocol and port, has been asked. `most` is for lists of
        addresses.
        """
        found = [
            self.address_choices(rule.source, "src", rule.name, most=most),
            self.address_choices(rule.destination, "dst", rule.name, most=most),
        ]
        if rule.interfaces and "*" not in rule.interfaces:
            found.append([Words(incoming=interface_word(name)) for name in rule.interfaces])
        if rule.out_interfaces and "*" not in rule.out_interfaces:
            found.append([Words(outgoing=interface_word(name)) for name in rule.out_interfaces])
        found.append([Words(modules=self._modules(rule))])
        if rule.original is not None:
            found.append(self.original_addresses(rule) if turned else self.original_choices(rule))
        return [choices for choices in found if choices != [ANY]]

    def _modules(self, rule: Rule) -> tuple[str, ...]:
        """The conditions that take one match each."""
        found = ["-m addrtype --dst-type LOCAL"] if self.local and rule in self.local else []
        if self.unturned and rule in self.unturned:
            found.append("-m conntrack ! --ctstate UNTRACKED,DNAT")
        if rule.hop_limit is not None:
            found.append(f"-m ttl --ttl-eq {rule.hop_limit}" if self.family == 4 else f"-m hl --hl-eq {rule.hop_limit}")
        if rule.live_source is not None:
            found.append(f"-m set --match-set {live_set(rule.live_source, self.family)} src")
        if rule.live_destination is not None:
            found.append(f"-m set --match-set {live_set(rule.live_destination, self.family)} dst")
        if rule.published:
            found.append(f"-m mark --mark 0x{PUBLISHED_MARK:x}/0x{PUBLISHED_MARK:x}")
            if rule.original is None:
                found.append("-m conntrack --ctstate DNAT")
        if rule.user is not None:
            found.append(f"-m owner --uid-owner {rule.user}")
        if rule.until is not None and self.ability.clock:
            last = rule.until - timedelta(seconds=1)
            found.append(f"-m time --datestop {last:%Y-%m-%dT%H:%M:%S}")
        return tuple(found)


def count(dimensions: Iterable[Choices]) -> int:
    """How many combinations of alternatives there are."""
    return prod(len(choices) for choices in dimensions)


def combine(dimensions: Iterable[Choices]) -> Choices:
    """Every combination of alternatives."""
    found: Choices = [ANY]
    for choices in dimensions:
        found = [left & right for left in found for right in choices if _agree(left.protocol, right.protocol)]
    return found


def _agree(left: str, right: str) -> bool:
    return not left or not right or left == right
