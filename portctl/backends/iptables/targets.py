"""The targets of rules as actions."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_address
from typing import NamedTuple

from portctl.backends.iptables.numbers import whole
from portctl.net import Address, Ranges
from portctl.program import Accept, Action, Deny, Jump, Note, Return, SetMark, Translate, Unknown

_NOTES = (
    *("LOG", "NFLOG", "ULOG", "AUDIT", "TRACE", "LED", "IDLETIMER", "RATEEST", "TEE", "SET", "CHECKSUM", "IMQ"),
    *("TCPMSS", "TCPOPTSTRIP", "CLASSIFY", "DSCP", "TOS", "TTL", "HL", "ECN", "SECMARK", "CONNSECMARK"),
    *("CT", "NOTRACK", "ACCOUNT", "LOGMARK"),
)
"""Targets that go on and change no verdict. (A packet's state is given, so not tracking it is such a one.)"""

Options = Mapping[str, tuple[str, ...]]


def read_target(
    name: str, goto: bool, options: Options, text: str, chains: set[str], ports: Ranges | None = None
) -> tuple[Action, ...]:
    """The actions of `-j NAME OPTIONS` (`-g`: a chain to go to). `chains` are those that the listing declares, `ports`
    the destination ports that the rule asks for; None: any."""
    if goto or name in chains or name.startswith("PORTCTL-"):
        return (Jump(name, goto),)
    match name:
        case "ACCEPT":
            return (Accept(),)
        case "DROP" | "TARPIT" | "DELUDE" | "CHAOS" | "STEAL":
            return (Deny(),)  # those of xtables-addons mislead the sender: nothing reaches a socket
        case "REJECT":
            return (Deny(True, " ".join(options.get("--reject-with", ()))),)
        case "RETURN":
            return (Return(),)
        case "MARK":
            return (_mark(options) or Unknown(text),)
        case "CONNMARK":
            return (Unknown(text) if "--restore-mark" in options else Note(text),)
        case "DNAT" | "SNAT" | "REDIRECT" | "MASQUERADE":
            return (_translate(name, options, ports) or Unknown(text),)
    return (Note(text) if name in _NOTES else Unknown(text),)


def _mark(options: Options) -> SetMark | None:
    for name, values in options.items():
        value_text, _, mask_text = (values[0] if values else "").partition("/")
        value, mask = whole(value_text), whole(mask_text) if mask_text else 0xFFFFFFFF
        if value is None or mask is None:
            return None
        match name:
            case "--set-xmark" if not value & ~mask:
                return SetMark(mask, value)
            case "--set-mark":
                return SetMark(mask | value, value)
            case "--or-mark":
                return SetMark(value, value)
            case "--and-mark":
                return SetMark(~value & 0xFFFFFFFF, 0)
    return None


def _translate(name: str, options: Options, ports: Ranges | None) -> Translate | None:
    if name == "MASQUERADE":
        return Translate("masquerade")
    written = {"SNAT": "--to-source", "REDIRECT": "--to-ports"}.get(name, "--to-destination")
    place = " ".join(options.get(written) or options.get("--to", ()))  # people abbreviate what a listing spells out
    if name == "SNAT":
        return _source(place)
    if name == "REDIRECT":
        found = _port(place, ports)
        return None if found is None else Translate("redirect", None, found.port)
    return _endpoint(place, ports)


def _source(text: str) -> Translate | None:
    """`10.0.0.1`, `10.0.0.1:1024-2048`, `10.0.0.1-10.0.0.4`: of some addresses it is not known which it takes."""
    host, _ = _parts(text)
    first, dash, last = host.partition("-")
    address = _address(first)
    if address is None or (dash and _address(last) is None):
        return None
    return Translate("source", None if dash else address)


def _endpoint(text: str, ports: Ranges | None) -> Translate | None:
    """`10.0.0.5:80`, `[2001:db8::1]:80`, `10.0.0.5`, `:80`. A range of addresses is not one place."""
    host, port = _parts(text)
    address = _address(host) if host else None
    found = _port(port, ports)
    if found is None or (host and address is None) or not (host or port):
        return None
    return Translate("destination", address, found.port)


def _parts(text: str) -> tuple[str, str]:
    """Address and port."""
    if text.startswith("["):
        host, _, port = text[1:].partition("]")
        return host, port.removeprefix(":")
    if text.count(":") > 1:
        return text, ""
    host, _, port = text.partition(":")
    return host, port


def _address(text: str) -> Address | None:
    try:
        return ip_address(text)
    except ValueError:
        return None


class _To(NamedTuple):
    port: int | None
    """None: the packet keeps its own."""


def _port(text: str, ports: Ranges | None) -> _To | None:
    """`80`, nothing, or `80-90`: of a range a packet keeps its port if that is in it (`get_unique_tuple` in
    nf_nat_core.c); which of them another gets nobody can know: None."""
    if not text:
        return _To(None)
    first, dash, last = text.partition("-")
    if not first.isdigit() or (dash and not last.isdigit()) or not int(first) <= int(last or first) <= 65535:
        return None
    if not dash or first == last:
        return _To(int(first))
    kept = ports is not None and not ports - Ranges.of([(int(first), int(last))])
    return _To(None) if kept else None
