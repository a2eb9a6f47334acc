"""Ports and addresses in the policy's own words, but said on a command line."""

from __future__ import annotations

from collections.abc import Iterable

from portctl.net import ANYWHERE, NOWHERE, Addresses, Ranges
from portctl.policy import addresses as address_words
from portctl.policy import portwords
from portctl.policy.items import AddressName, AddressRange, AnyAddress, AnyPort, PortName
from portctl.policy.wrong import Wrong
from portctl.problems import Problem, Problems
from portctl.resolve.scope import item_flows, suggestion
from portctl.ruleset import Flow, Flows


def flows(text: str) -> Flows:
    """What `22/tcp`, `ssh`, `ping`, `any` and lists of them, with commas, mean. Raises `Problems`."""
    found: dict[int, list[tuple[int, int]]] = {}
    for word in text.split(","):
        try:
            item = portwords.port(word.strip())
        except Wrong as error:
            raise _problems(error) from None
        if isinstance(item, AnyPort):
            return None
        meant = item_flows(item)
        if not meant and isinstance(item, PortName):
            raise Problems([Problem("unknown-port", f"no port or service is called `{item.name}`")])
        for flow in meant:
            found.setdefault(flow.protocol, []).extend(flow.ports.pairs())
    return tuple(Flow(protocol, Ranges.of(pairs)) for protocol, pairs in sorted(found.items()))


def addresses(text: str, groups: Iterable[tuple[str, Addresses]] = ()) -> Addresses:
    """What an address, network, range, `any` or the name of a group means, or several with commas. Raises
    `Problems`."""
    known = dict(groups)
    found = NOWHERE
    for word in text.split(","):
        try:
            item = address_words.address(word.strip().removeprefix("[").removesuffix("]"))
        except Wrong as error:
            raise _problems(error) from None
        if isinstance(item, AnyAddress):
            return ANYWHERE
        if isinstance(item, AddressRange):
            bounds = Ranges((item.first, item.last + 1))
            found = found | (Addresses(bounds, Ranges()) if item.version == 4 else Addresses(Ranges(), bounds))
        elif isinstance(item, AddressName) and item.name in known:
            found = found | known[item.name]
        else:
            hint = suggestion(item.name, known) if isinstance(item, AddressName) else None
            message = f"no address group with addresses is called `{word.strip()}`"
            raise Problems([Problem("unknown-group", message, None, hint)])
    return found


def target(text: str, groups: Iterable[tuple[str, Addresses]] = ()) -> tuple[Addresses, Flows]:
    """`22/tcp`, `192.0.2.1:22/tcp`, `[2001:db8::1]:ssh`, or an address alone: everything there. Raises `Problems`."""
    if text.startswith("["):
        address, _, ports = text.partition("]")
        return addresses(address, groups), flows(ports.removeprefix(":")) if ports else None
    if text.count(":") > 1:
        return addresses(text, groups), None
    if ":" in text:
        address, _, ports = text.partition(":")
        return addresses(address, groups), flows(ports)
    if text.replace("/", ".").count(".") >= 3 or text in dict(groups):
        return addresses(text, groups), None
    return ANYWHERE, flows(text)


def _problems(error: Wrong) -> Problems:
    return Problems(Problem(fault.code, fault.message, None, fault.hint) for fault in error.faults)
