"""Addresses in a policy: networks, single addresses, ranges, group names, `any`, `{file: …}`, `{live: true}`."""

from __future__ import annotations

import re
from socket import AF_INET, AF_INET6, inet_pton
from typing import Any

from portctl.net import Family, Ranges, address_text, networks
from portctl.policy.items import (
    AddressFile,
    AddressItem,
    AddressName,
    AddressRange,
    AnyAddress,
    LiveAddresses,
    SelfAddress,
)
from portctl.policy.wrong import Fault, Wrong, below, mistyped, shown, suggestion, wrong

NAME = re.compile(r"[a-z][a-z0-9_-]{0,30}")
_LENGTHS: dict[Family, dict[str, int]] = {4: {str(n): n for n in range(33)}, 6: {str(n): n for n in range(129)}}
_LEADING_ZERO = re.compile(r"(?:^|\.)0[0-9]")
_DOTTED = re.compile(r"[0-9]+(?:\.[0-9]+){3}")
_MULTICAST: dict[Family, tuple[int, int]] = {4: (0xE0000000, 0xEFFFFFFF), 6: (0xFF << 120, (1 << 128) - 1)}
FIRST_MULTICAST = min(low for low, _ in _MULTICAST.values())
ANY, SELF, LIVE = AnyAddress(), SelfAddress(), LiveAddresses()

_record = tuple.__new__
WHAT = "a group, an address, a network, a range `a-b`, or `any`"


def addresses(value: Any) -> tuple[AddressItem, ...]:
    """A single address item or a list of them."""
    return _many(value, source=False)


def sources(value: Any) -> tuple[AddressItem, ...]:
    """The same, of addresses that send: no multicast."""
    return _many(value, source=True)


def group(value: Any) -> tuple[AddressItem, ...]:
    """What a name under `addresses` stands for; `{live: true}` alone is a live group."""
    if isinstance(value, dict) and "live" in value:
        return (_live(value),)
    return _many(value, source=False)


def ends(value: Any) -> tuple[AddressItem, ...]:
    """`from` and `to` of `tests`: the same as `addresses`, and `self`."""
    if value == "self" or value == ["self"]:
        return (SELF,)
    if isinstance(value, list) and "self" in value:
        return (SELF, *_many([item for item in value if item != "self"], source=False))
    return _many(value, source=False)


def address(value: Any) -> AddressItem:
    """One item."""
    return _one(value)


def _many(value: Any, source: bool) -> tuple[AddressItem, ...]:
    if type(value) is not list:
        item: AddressItem = _one(value)
        if source and type(item) is AddressRange:
            _refuse_multicast(item, value)
        return (item,)
    if not value:
        raise mistyped(value, WHAT, "name who is meant; `any` is everybody")
    items: list[AddressItem] = []
    faults: list[Fault] = []
    for index, element in enumerate(value):
        try:
            if type(element) is str and element[:1].isdigit() and "-" not in element:
                item = _record(AddressRange, network(element))  # as AddressRange(*…), which is slower
            else:
                item = _one(element)
            if source and type(item) is AddressRange and item.first >= FIRST_MULTICAST:
                _refuse_multicast(item, element)
            items.append(item)
        except Wrong as error:
            faults += below(index, error)
    if faults:
        raise Wrong(*faults)
    return tuple(items)


def _one(value: Any) -> AddressItem:
    if type(value) is str:
        if value[:1].isdigit() or ":" in value:
            return _range(value) if "-" in value else AddressRange(*network(value))
        return _word(value)
    if isinstance(value, dict):
        return _file(value)
    raise mistyped(value, WHAT)


def network(text: str) -> tuple[Family, int, int]:
    """Version, first and last address of an address or network. Raises `Wrong`."""
    head, slash, bits = text.partition("/")
    version: Family = 6 if ":" in head else 4
    try:
        number = int.from_bytes(inet_pton(AF_INET6 if version == 6 else AF_INET, head), "big")
    except (OSError, ValueError):
        raise _no_address(text, head, version) from None
    if version == 4:
        # glibc refuses leading zeros itself, other C libraries do not.
        if (".0" in head or head[0] == "0") and _LEADING_ZERO.search(head):
            raise _no_address(text, head, version)
    elif number >> 32 == 0xFFFF:
        plain = address_text(number & 0xFFFFFFFF, 4)
        tail = f"/{int(bits) - 96}" if bits.isdigit() and 96 <= int(bits) < 128 else ""
        raise wrong("ipv4-mapped", f"{shown(text)} is an IPv4 address in IPv6 clothes", f"write `{plain}{tail}`")
    width = 32 if version == 4 else 128
    length = _LENGTHS[version].get(bits, -1) if slash else width
    if length < 0:
        raise _no_length(text, head, bits, version)
    rest = (1 << (width - length)) - 1
    if number & rest:
        whole = f"{address_text(number & ~rest, version)}/{length}"
        hint = (
            f"write `{_quoted(whole)}` for the network, or `{_quoted(address_text(number, version))}` for the address"
        )
        raise wrong("host-bits", f"{shown(text)} names an address inside a network, not the network", hint)
    return version, number, number | rest


def _quoted(text: str) -> str:
    return f'"{text}"' if ":" in text else text


def _no_address(text: str, head: str, version: Family) -> Wrong:
    if "%" in text:
        hint = "write the address without its zone; `in` and `out` name interfaces"
        return wrong("zone-id", f"{shown(text)} has a zone", hint)
    if version == 4 and re.fullmatch(r"[0-9]+(?:\.[0-9]+){3}", head) and _LEADING_ZERO.search(head):
        plain = ".".join(str(int(part[:9])) for part in head.split("."))
        message = f"{shown(text)} has leading zeros, which some programs read as octal"
        return wrong("leading-zero", message, f"write `{plain}{text[len(head) :]}`")
    if "://" in text:
        return wrong("bad-address", f"{shown(text)} is a URL", "write the addresses themselves")
    if re.search(r"[g-zG-Z]", head) and version == 4:
        return _hostname(text) if "." in head else wrong("bad-name", f"{shown(text)} is no name", NAME_HINT)
    port = re.fullmatch(r"([0-9.]+):[0-9]+", head)
    if port and _DOTTED.fullmatch(port[1]):
        return wrong("bad-address", f"{shown(text)} has a port", f"write `{port[1]}`; ports belong under `ports`")
    short = _DOTTED.fullmatch(head) is None and version == 4 and re.fullmatch(r"[0-9.]+", head)
    hint = "an IPv4 address has four numbers from 0 to 255" if version == 4 else "see RFC 4291 for the forms of IPv6"
    if short and "/" in text and 0 < head.count(".") + 1 < 4:
        numbers = head.rstrip(".")
        hint = f"write all four numbers: `{numbers}{'.0' * (3 - numbers.count('.'))}{text[len(head) :]}`"
    return wrong("bad-address", f"{shown(text)} is no IPv{version} address", hint)


def _no_length(text: str, head: str, bits: str, version: Family) -> Wrong:
    if version == 4 and _DOTTED.fullmatch(bits):
        return _netmask(text, head, bits)
    if re.fullmatch(r"0[0-9]+", bits):
        return wrong(
            "leading-zero", f"the length of {shown(text)} has a leading zero", f"write `{head}/{int(bits[:9])}`"
        )
    most = 32 if version == 4 else 128
    return wrong("bad-address", f"{shown(text)} has no prefix length from 0 to {most} behind the `/`", None)


def _netmask(text: str, head: str, bits: str) -> Wrong:
    message = f"{shown(text)} has a dotted netmask"
    try:
        mask = int.from_bytes(inet_pton(AF_INET, bits), "big")
    except OSError:
        return wrong("netmask", message, "write the length of the network: `/24`")
    length = mask.bit_count()
    if mask != ((1 << length) - 1) << (32 - length):
        return wrong("netmask", message, "write networks with their length, `/24`; this mask is none")
    return wrong("netmask", message, f"write `{head}/{length}`")


def _range(text: str) -> AddressRange:
    low, _, high = text.partition("-")
    if ":" not in text and re.search("[a-zA-Z]", text):
        raise _word_fault(text)
    if low != low.strip() or high != high.strip():
        raise wrong("bad-address", f"{shown(text)} has spaces", f"write `{low.strip()}-{high.strip()}`")
    if "/" in text:
        raise wrong("bad-address", f"{shown(text)} mixes a range and a network", "a range is `first-last`, without `/`")
    if high.isdigit() and _DOTTED.fullmatch(low):
        full = f"{low.rpartition('.')[0]}.{high}"
        raise wrong("bad-address", f"{shown(text)} has a shortened end", f"write `{low}-{full}`")
    (version, first, _), (other, last, _) = network(low), network(high)
    if version != other:
        raise wrong(
            "mixed-families", f"{shown(text)} goes from IPv{version} to IPv{other}", "a range stays in one family"
        )
    if first > last:
        raise wrong("reversed-range", f"{shown(text)} goes from high to low", f"write `{_quoted(f'{high}-{low}')}`")
    return AddressRange(version, first, last)


def _word(text: str) -> AddressItem:
    if text == "any":
        return ANY
    if NAME.fullmatch(text) and text not in RESERVED:
        return AddressName(text)
    raise _word_fault(text)


RESERVED = {"any": "everybody", "none": "nobody", "self": "this host"}
NAME_HINT = "a lower-case letter, then up to 30 lower-case letters, digits, `-` or `_`"


def _word_fault(text: str) -> Wrong:
    if text == "self":
        hint = "leave `to` out: a service is this host's; in `tests`, `from: self` is this host"
        return wrong("reserved-name", "`self` stands in `from` and `to` of `tests` alone, by itself", hint)
    if text == "none":
        return wrong("reserved-name", "`none` is reserved", "an entry that admits nobody is best left out")
    if "%" in text:
        return wrong("zone-id", f"{shown(text)} has a zone", "write the address without it; `in` names interfaces")
    if re.fullmatch(r"(?=.*[A-Za-z])[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)+\.?", text) and len(text) < 254:
        return _hostname(text)
    return bad_name(text, "an address or the name of a group")


def _hostname(text: str) -> Wrong:
    message = f"{shown(text)} is a hostname: it would be resolved once, and by whom?"
    hint = "write addresses, a file that something refreshes (`{file: …}`), let a proxy decide, or `user` in egress"
    return wrong("hostname", message, hint)


def bad_name(text: str, what: str) -> Wrong:
    if not text:
        return wrong("empty-value", f"this is empty, and {what} belongs here", "write a value, or remove the key")
    lower = re.sub(r"[^a-z0-9_-]+", "-", text.lower()).strip("-")[:31]
    hint = NAME_HINT + (f"; `{lower}`, say" if NAME.fullmatch(lower) and lower not in RESERVED else "")
    return wrong("bad-name", f"{shown(text)} is not {what}", hint)


def _file(value: dict[str, Any]) -> AddressItem:
    if "live" in value and "file" not in value:
        hint = "give it a name under `addresses` (`bans: {live: true}`), and name that in `block`"
        raise wrong("live-group", "live members are a group of their own", hint)
    faults = [
        Fault(
            "unknown-key",
            f"{shown(key)} is not a key here",
            suggestion(key, FILE_KEYS) or "`file`, `may_be_empty`",
            (key,),
            True,
        )
        for key in value
        if key not in FILE_KEYS
    ]
    path, may = value.get("file"), value.get("may_be_empty", False)
    if "file" not in value and not faults:
        faults.append(Fault("missing-key", "`file` is missing", "`{file: lists/drop.txt}`"))
    elif "file" in value and (not isinstance(path, str) or not path):
        faults += below("file", mistyped(path, "the path of a file"))
    if not isinstance(may, bool):
        faults += below("may_be_empty", mistyped(may, "`true` or `false`"))
    if faults:
        raise Wrong(*faults)
    return AddressFile(str(path), bool(may))


FILE_KEYS = ("file", "may_be_empty")


def _live(value: dict[str, Any]) -> AddressItem:
    faults = [
        Fault("unknown-key", f"{shown(k)} is not a key here", "`{live: true}`", (k,), True)
        for k in value
        if k != "live"
    ]
    if value["live"] is not True:
        faults.append(Fault("wrong-value", "a live group is written `{live: true}`", None, ("live",)))
    if faults:
        raise Wrong(*faults)
    return LIVE


def _refuse_multicast(item: AddressRange, text: Any) -> None:
    low, high = _MULTICAST[item.version]
    if item.first >= low and item.last <= high:
        hint = "multicast addresses are destinations: they belong in `to`"
        raise wrong("multicast-source", f"{shown(text)} is multicast: no packet comes from there", hint)


def canonical(item: AddressRange) -> str:
    """The item as text, as short as it goes."""
    whole = list(networks(Ranges.of([(item.first, item.last)]), item.version))
    if len(whole) > 1:
        return f"{address_text(item.first, item.version)}-{address_text(item.last, item.version)}"
    first, length = whole[0]
    text = address_text(first, item.version)
    return text if length == (32 if item.version == 4 else 128) else f"{text}/{length}"
