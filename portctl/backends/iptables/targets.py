"""The targets of rules as actions."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_address

from portctl.backends.iptables.numbers import whole
from portctl.net import Address
from portctl.program import Accept, Action, Deny, Jump, Note, Return, SetMark, Translate, Unknown

_NOTES = (
    *("LOG", "NFLOG", "ULOG", "AUDIT", "TRACE", "LED", "IDLETIMER", "RATEEST", "TEE", "SET", "CHECKSUM", "HMARK"),
    *("TCPMSS", "TCPOPTSTRIP", "CLASSIFY", "DSCP", "TOS", "TTL", "HL", "ECN", "SECMARK", "CONNSECMARK"),
    *("CT", "NOTRACK"),
)
"""Targets that go on and change no verdict. (A packet's state is given, so not tracking it is such a one.)"""

Options = Mapping[str, tuple[str, ...]]


def read_target(name: str, goto: bool, options: Options, text: str, chains: set[str]) -> tuple[Action, ...]:
    """The actions of `-j NAME OPTIONS` (`-g`: a chain to go to). `chains` are those that the listing declares."""
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
            return (_translate(name, options) or Unknown(text),)
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


def _translate(name: str, options: Options) -> Translate | None:
    if name == "MASQUERADE":
        return Translate("masquerade")
    if name == "REDIRECT":
        text = " ".join(options.get("--to-ports", ()))
        return Translate("redirect", None, int(text) if text else None) if text.isdigit() or not text else None
    found = _endpoint(" ".join(options.get("--to-destination" if name == "DNAT" else "--to-source", ())))
    if found is None:
        return None
    if name == "SNAT":
        return Translate("source", found[0])
    return Translate("destination", found[0], found[1])


def _endpoint(text: str) -> tuple[Address | None, int | None] | None:
    """`10.0.0.5:80`, `[2001:db8::1]:80`, `10.0.0.5`, `:80`. A range of addresses or ports is not one place."""
    if text.startswith("["):
        host, _, port = text[1:].partition("]")
        port = port.removeprefix(":")
    elif text.count(":") > 1:
        host, port = text, ""
    else:
        host, _, port = text.partition(":")
    if port and not port.isdigit():
        return None
    try:
        address = ip_address(host) if host else None
    except ValueError:
        return None
    return (address, int(port) if port else None) if address or port else None
