"""What a rule's words stand for on one host: the contents of tables, addresses of interfaces, names of ports."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_interface
from socket import AF_INET, AF_INET6, inet_pton

from portctl.backends.pf.names import PORTS
from portctl.backends.pf.words import CLONED
from portctl.net import Addresses, Family, Ranges

LIVE = "portctl-live-"
NOWHERE = Addresses()
EVERY = ("0.0.0.0/0", "::/0")
"""What pfctl prints as `any` in a table: one of them, or both."""


class Unclear(ValueError):
    """A word whose meaning is not known here."""


@dataclass(frozen=True, slots=True)
class Interface:
    """One interface as `ifconfig` shows it."""

    addresses: tuple[str, ...] = ()
    """With their prefix lengths, in order; no link-local ones among IPv6 for `:0`."""
    broadcasts: tuple[str, ...] = ()


@dataclass(slots=True)
class World:
    tables: dict[str, Addresses] = field(default_factory=dict)
    defined: bool = False
    """A table that is not among them was never defined, and is empty. Otherwise it was not asked for."""
    live: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Members of portctl's live groups, by the group."""
    groups_of: dict[str, str] = field(default_factory=dict)
    """The live group of a table whose name is not `portctl-live-GROUP`, as too long."""
    ports: Mapping[str, frozenset[int]] = field(default_factory=dict)
    users: Mapping[str, str] = field(default_factory=dict)
    """The name of each user by the number, which is what pfctl prints."""
    interfaces: dict[str, Interface] = field(default_factory=dict)
    groups: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Members of interface groups."""

    def members(self, table: str, elsewhere: bool = False) -> Addresses:
        """What a table holds. `elsewhere`: it may be an anchor's own. Raises `Unclear` where nothing tells."""
        hidden = elsewhere or table.startswith("__automatic_")  # the optimizer's, which `pfctl -sT` does not list
        if table not in self.tables and (hidden or not self.defined):
            raise Unclear(f"<{table}>")
        return self.tables.get(table, NOWHERE)

    def live_group(self, table: str) -> str:
        """The group whose members a table `portctl-live-…` holds."""
        return self.groups_of.get(table, table.removeprefix(LIVE))

    def port(self, word: str) -> int:
        if word.isdigit():
            return int(word)
        numbers = self.ports.get(word) or PORTS.get(word, frozenset())
        if len(numbers) != 1:
            raise Unclear(word)
        return min(numbers)

    def devices(self, names: Iterable[str]) -> tuple[str, ...]:
        """The interfaces that some words name, as patterns: a group is its members, or those of its family."""
        found: list[str] = []
        for name in names:
            if name in self.groups:
                found += self.groups[name]
            elif name in CLONED:
                found.append(f"{name}*")
            else:
                found.append(name)
        return tuple(found)

    def dynamic(self, text: str) -> Addresses:
        """The addresses of `em0`, `em0:network`, `em0:broadcast`, `em0:peer`, `em0:0`, as they are now."""
        name, *modifiers = text.split(":")
        members = list(self.interfaces) if name == "self" else list(self.groups.get(name, (name,)))
        if not self.interfaces:
            raise Unclear(f"({text})")
        texts: list[str] = []
        for member in members:
            if member not in self.interfaces:
                continue  # one that is not there has no addresses
            interface = self.interfaces[member]
            if "broadcast" in modifiers:
                texts += interface.broadcasts
            elif "peer" in modifiers:
                raise Unclear(f"({text})")
            else:
                own = [ip_interface(each) for each in interface.addresses]
                if "0" in modifiers:
                    kept = [i for i in own if not i.ip.is_link_local]
                    own = [next(i for i in kept if i.version == v) for v in (4, 6) if any(i.version == v for i in kept)]
                texts += [str(i.network if "network" in modifiers else i.ip) for i in own]
        return Addresses.of(*texts) if texts else NOWHERE


def ifconfig(text: str, world: World) -> None:
    """Reads interfaces, their addresses and their groups out of what `ifconfig -a` prints."""
    name = ""
    addresses: dict[str, list[str]] = {}
    broadcasts: dict[str, list[str]] = {}
    for line in text.splitlines():
        if match := re.match(r"([A-Za-z][\w.-]*): flags=", line):
            name = match[1]
            addresses[name], broadcasts[name] = [], []
            continue
        words = line.split()
        if not name or not words:
            continue
        if words[0] == "inet" and len(words) > 3:
            mask = words[words.index("netmask") + 1] if "netmask" in words else "0xffffffff"
            length = bin(int(mask, 16)).count("1") if mask.startswith("0x") else mask
            addresses[name].append(f"{words[1].partition('/')[0]}/{length}")
            if "broadcast" in words:
                broadcasts[name].append(words[words.index("broadcast") + 1])
        elif words[0] == "inet6" and "prefixlen" in words:
            addresses[name].append(f"{words[1].partition('%')[0]}/{words[words.index('prefixlen') + 1]}")
        elif words[0] == "groups:":
            for group in words[1:]:
                world.groups[group] = (*world.groups.get(group, ()), name)
    world.interfaces = {name: Interface(tuple(addresses[name]), tuple(broadcasts[name])) for name in addresses}


def _number(text: str, family: Family) -> int:
    """An address as a number, without making an object of it: tables are large. Raises `ValueError`."""
    try:
        return int.from_bytes(inet_pton(AF_INET if family == 4 else AF_INET6, text), "big")
    except OSError:
        raise ValueError(text) from None


def contents(texts: Iterable[str]) -> Addresses:
    """What a table holds: the longest prefix that contains an address decides, and `!` takes it out."""
    plus: dict[int, list[tuple[int, int]]] = {4: [], 6: []}
    negated: list[tuple[int, bool, str]] = []
    texts = [plain for text in texts for plain in (EVERY if text == "any" else (text,))]
    if any(text.startswith("!") for text in texts):
        for text in texts:
            bare = text.lstrip("! ")
            negated.append(
                (ip_interface(bare).network.prefixlen, text.startswith("!"), str(ip_interface(bare).network))
            )
        found = NOWHERE
        for _, out, network in sorted(negated):
            found = found - Addresses.of(network) if out else found | Addresses.of(network)
        return found
    v4, v6 = plus[4], plus[6]
    for text in texts:
        bare, _, length = text.partition("/")
        if ":" in bare:
            free = 128 - int(length) if length else 0
            low = _number(bare.partition("%")[0], 6) >> free << free
            v6.append((low, low + (1 << free) - 1))
        else:
            free = 32 - int(length) if length else 0
            low = _number(bare, 4) >> free << free
            v4.append((low, low + (1 << free) - 1))
    return Addresses(Ranges.of(plus[4]), Ranges.of(plus[6]))


def network(text: str) -> Addresses:
    """An address, network or range `a-b` of a rule. Raises `Unclear`."""
    try:
        if "-" in text:
            return Addresses.of(text)
        return Addresses.of(str(ip_interface(text.partition("%")[0]).network))
    except ValueError:
        raise Unclear(text) from None
