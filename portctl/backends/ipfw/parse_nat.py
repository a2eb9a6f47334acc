"""`nat` instances and `fwd` as translations."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address

from portctl.backends.ipfw.tables import network
from portctl.net import Ranges
from portctl.program import Accept, Action, Condition, Deny, Field, Note, Translate, Unknown

_PROTOCOLS = {"tcp": 6, "udp": 17, "sctp": 132}


def forwarded(target: str, way: str) -> Action:
    """`fwd`: to a port of this host, or by another next hop."""
    address, _, port = target.partition(",")
    if target == "tablearg":
        return Unknown("fwd tablearg")
    if ip_address(address).is_loopback and way == "in":
        return Translate("redirect", None, int(port) if port else None)
    return Accept()


def canonical(config: str, *, mine: bool) -> str:
    """A configuration in one form: ipfw lists its words in an order of its own, and redirections from the last. `mine`:
    for whatever addresses this host has, which `load.sh` filled in."""
    words, flags, found = config.split(), set[str](), set[str]()
    place, at = "", 0
    while at < len(words):
        if words[at] in ("if", "ip"):
            place, at = " ".join(words[at : at + 2]), at + 2
        elif words[at] == "redirect_port":
            protocol, target, alias = words[at + 1 : at + 4]
            before, _, port = alias.rpartition(":")
            if mine and before:
                target = f"me:{target.rpartition(':')[2]}" if target.rpartition(":")[0] == before else target
                alias = f"me:{port}"
            found.add(f"redirect_port {protocol} {target} {alias}")
            at += 4
        else:
            flags.add(words[at])
            at += 1
    return " ".join(["ip me" if mine and place.startswith("ip ") else place, *sorted(flags), *sorted(found)])


def translations(
    config: str, way: str, *, to_me: bool, mine: bool = False
) -> Iterator[tuple[tuple[Condition, ...], Action]]:
    """What an instance does with the packets that a rule hands to it, in order.

    Which connections it has translated before is not known: their answers are left as they are. `to_me`: the rule asks
    for this host's addresses, so that those of the instance, which the host filled in, need not be asked again.
    """
    words = config.split()
    if "redirect_addr" in words or "redirect_proto" in words or any("," in word for word in words):
        yield (), Note(f"nat {config}") if way == "out" else Unknown(f"nat {config}")
        return
    config = canonical(config, mine=mine)
    if way == "out":
        yield (), Note(f"nat {config}")
        return
    instance = words[words.index("ip") + 1] if "ip" in words else ""
    clauses = sorted(" ".join(words[k + 1 : k + 4]) for k, word in enumerate(words) if word == "redirect_port")
    found = [each for clause in clauses for each in _redirected(clause, "" if to_me else instance, to_me=to_me)]
    yield from dict.fromkeys(found)
    if "deny_in" in words:
        yield (), Deny(False, "nat deny_in")
    yield (), Note(f"nat {config}")


def _redirected(clause: str, instance: str, *, to_me: bool) -> Iterator[tuple[tuple[Condition, ...], Action]]:
    """`tcp 10.0.0.20:5000-5010 [192.0.2.10:]6000-6010`; to the address that it came to, only the port changes."""
    word, target, alias = clause.split()
    if "," in target or word not in _PROTOCOLS:
        yield (), Unknown(f"redirect_port {clause}")
        return
    address, _, to = target.partition(":")
    before, _, ports = alias.rpartition(":")
    here = address == before
    where = _at("" if to_me else before or instance)
    first, last = _range(ports)
    start, _ = _range(to)
    proto = Condition(Field.PROTOCOL, Ranges.single(_PROTOCOLS[word]))
    if first == start:
        asked = Condition(Field.PORT, Ranges.of([(first, last)]))
        yield (proto, where, asked), Translate("redirect") if here else Translate("destination", ip_address(address))
        return
    for port in range(first, last + 1):
        asked = Condition(Field.PORT, Ranges.single(port))
        new = port - first + start
        turned = Translate("redirect", None, new) if here else Translate("destination", ip_address(address), new)
        yield (proto, where, asked), turned


def _at(alias: str) -> Condition:
    """The address that is translated; that of an interface is not known, but is this host's."""
    found = network(alias) if alias else None
    if found is None:
        return Condition(Field.LOCAL, True)
    return Condition(Field.DESTINATION, Ranges.of([found[1:]]), family=found[0])


def _range(text: str) -> tuple[int, int]:
    low, _, high = text.partition("-")
    return int(low), int(high or low)
