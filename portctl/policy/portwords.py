"""Ports in a policy: names, `22/tcp`, `8000-8010/tcp`, `22/tcp+udp`, `proto/97`, `esp`, `ping`, `any`."""

from __future__ import annotations

import re
from typing import Any

from portctl.policy.addresses import NAME, NAME_HINT
from portctl.policy.items import AnyPort, Ping, PortItem, PortName, PortRange, Protocol
from portctl.policy.wrong import Fault, Wrong, below, mistyped, shown, wrong
from portctl.services import EXTENSION_HEADERS, GOVERNED, PORT_PROTOCOLS, PROTOCOLS

WHAT = "a port (`ssh`, `22/tcp`, `8000-8010/tcp`, `ping`, `any`) or a list of them"
_PORTS = re.compile(r"([0-9]+)(?:-([0-9]+))?/([a-z]+(?:\+[a-z]+)*)")
_ICMP = ("icmp", "icmp6", "icmpv6", "ipv6-icmp")


def ports(value: Any) -> tuple[PortItem, ...]:
    """A single port item or a list of them."""
    if not isinstance(value, list):
        return (port(value),)
    if not value:
        raise mistyped(value, WHAT)
    items: list[PortItem] = []
    faults: list[Fault] = []
    for index, element in enumerate(value):
        try:
            items.append(port(element))
        except Wrong as error:
            faults += below(index, error)
    if faults:
        raise Wrong(*faults)
    return tuple(items)


def port(value: Any) -> PortItem:
    if isinstance(value, int) and not isinstance(value, bool):
        raise _bare(str(value))
    if not isinstance(value, str) or not value:
        raise mistyped(value or None, WHAT)
    if match := _PORTS.fullmatch(value):
        return _range(value, match[1], match[2] or match[1], match[3])
    if value.startswith("proto/"):
        return _protocol(value)
    return _word(value)


def _bare(text: str) -> Wrong:
    hint = f"write `{text}/tcp`, `{text}/udp` or `{text}/tcp+udp`"
    return wrong("bare-port", f"{shown(text)} does not say of which protocol", hint)


def _range(text: str, low: str, high: str, words: str) -> PortItem:
    names = words.split("+")
    for name in names:
        if name not in PORT_PROTOCOLS:
            known = name in PROTOCOLS or name in _ICMP
            hint = f"write `{name}`" if name in PROTOCOLS else "`tcp`, `udp` and `sctp` have ports"
            said = f"`{name}` has no ports" if known else f"{shown(name)} is no protocol with ports"
            raise wrong("bad-port", f"{said}, in {shown(text)}", hint)
    for number in (low, high):
        if len(number) > 1 and number[0] == "0":
            plain = f"{_plain(low)}{'-' + _plain(high) if '-' in text else ''}/{words}"
            raise wrong("leading-zero", f"{shown(text)} has leading zeros", f"write `{plain}`")
        if len(number) > 5 or not 1 <= int(number) <= 65535:
            raise wrong("bad-port", f"{shown(number)} is no port", "ports go from 1 to 65535")
    if int(low) > int(high):
        raise wrong("reversed-range", f"{shown(text)} goes from high to low", f"write `{high}-{low}/{words}`")
    return PortRange(tuple(sorted({PORT_PROTOCOLS[name] for name in names})), int(low), int(high))


def _plain(number: str) -> str:
    return number.lstrip("0") or "0"


def _protocol(text: str) -> PortItem:
    number = text.removeprefix("proto/")
    if number in PROTOCOLS:
        raise wrong("bad-port", f"{shown(text)} has a name behind `proto/`", f"write `{number}`")
    if not re.fullmatch(r"0|[1-9][0-9]{0,2}", number) or int(number) > 255:
        raise wrong("bad-port", f"{shown(text)} has no protocol number from 0 to 255", "write `proto/97`, say")
    value = int(number)
    if value in (1, 58):
        raise _icmp(text)
    if value in GOVERNED:
        name = {n: word for word, n in PORT_PROTOCOLS.items()}[value]
        raise wrong(
            "forbidden-protocol", f"{shown(text)} is {name}, which has ports", f"write `1-65535/{name}` for all"
        )
    if value in EXTENSION_HEADERS:
        hint = "name the protocol that travels inside"
        raise wrong("forbidden-protocol", f"{shown(text)} is an IPv6 extension header, no protocol", hint)
    return Protocol(value)


def _icmp(text: str) -> Wrong:
    hint = "`ping` is the echo request; what hosts need of the rest is always let in, and `any` is everything"
    return wrong("icmp", f"{shown(text)} cannot be opened as a whole", hint)


def _word(text: str) -> PortItem:
    if text == "any":
        return AnyPort()
    if text == "ping":
        return Ping()
    if text in PROTOCOLS:
        return Protocol(PROTOCOLS[text])
    if text in PORT_PROTOCOLS:
        raise wrong(
            "bad-port", f"{shown(text)} has ports, and this names none", f"write `1-65535/{text}` for all of them"
        )
    if text in _ICMP or text.partition("/")[0] in _ICMP:
        raise _icmp(text)
    if NAME.fullmatch(text) and text not in ("none", "self"):
        return PortName(text)
    raise _unreadable(text)


def _unreadable(text: str) -> Wrong:
    said = f"{shown(text)} is no port"
    if re.fullmatch(r"[0-9]+(?:-[0-9]+)?", text):
        return _bare(text)
    if match := re.fullmatch(r"(tcp|udp|sctp)[/:]([0-9]+)(?:[-:]([0-9]+))?", text.lower()):
        numbers = match[2] + (f"-{match[3]}" if match[3] else "")
        return wrong("bad-port", said, f"the number comes first: `{numbers}/{match[1]}`")
    if match := re.fullmatch(r"([0-9]+)[:–]([0-9]+)(/[a-z+]+)?", text.lower()):
        return wrong("bad-port", said, f"a range is written `{match[1]}-{match[2]}{match[3] or '/tcp'}`")
    if _PORTS.fullmatch(text.lower().replace(" ", "").replace(",", "+")):
        return wrong("bad-port", said, f"write `{text.lower().replace(' ', '').replace(',', '+')}`")
    if match := re.fullmatch(rf"({NAME.pattern})/(.+)", text):
        return wrong("bad-port", said, f"a name brings its protocols along: write `{match[1]}`, or a number: `443/udp`")
    if "," in text:
        return wrong("bad-port", said, "write a list: `[80/tcp, 443/tcp]`")
    if re.match(r"[0-9]", text):
        return wrong("bad-port", said, "write `22/tcp`, `8000-8010/tcp` or `53/tcp+udp`")
    return wrong("bad-name", f"{shown(text)} is not the name of a port", NAME_HINT)
