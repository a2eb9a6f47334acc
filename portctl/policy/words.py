"""The other values of a policy: names, words, numbers, moments, targets."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from typing import Any

from portctl.net import Address
from portctl.policy.addresses import NAME, RESERVED, bad_name, network
from portctl.policy.items import Target, Until
from portctl.policy.wrong import Fault, Wrong, below, mistyped, shown, suggestion, wrong
from portctl.ruleset import Rate

PERIODS = ("second", "minute", "hour", "day")
_RATE = re.compile(r"([0-9]+)/([a-z]+)")
_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_MOMENT = re.compile(r"([0-9]{4}-[0-9]{2}-[0-9]{2})[Tt]([0-9]{2}:[0-9]{2}(?::[0-9]{2})?)(Z|z|[+-][0-9]{2}:[0-9]{2})?")
_DEVICE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,14}\*?")
_USER = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,31}")
_SETTING = re.compile(r"[a-z][A-Za-z0-9_-]*(?:\.[A-Za-z0-9_@:+%/-]+)+")
MOST = 2**31 - 1


def name(value: Any) -> str:
    """A name that the policy gives."""
    if not isinstance(value, str):
        raise mistyped(value, "a name")
    if value in RESERVED:
        raise wrong("reserved-name", f"`{value}` is reserved: it means {RESERVED[value]}", "choose another name")
    if NAME.fullmatch(value):
        return value
    raise bad_name(value, "a name")


def names(value: Any) -> tuple[str, ...]:
    """One name of an interface group, or a list of them."""
    return many(value, _interface_group, "the name of an interface group")


def _interface_group(value: Any) -> str:
    if value == "any":
        raise wrong("reserved-name", "`any` is no interface group", "leave the key out: then every interface is meant")
    return name(value)


def devices(value: Any) -> tuple[str, ...]:
    return many(value, device, "the name of a network interface")


def device(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise mistyped(value or None, "the name of a network interface")
    if _DEVICE.fullmatch(value) and len(value.rstrip("*")) <= 15:
        return value
    hint = "up to 15 letters, digits, `.`, `-`, `_`; a `*` at the end stands for any rest"
    if "@" in value:
        hint = f"write `{value.partition('@')[0][:15]}`: what follows the `@` is not part of the name"
    elif value.endswith("+"):
        hint = f"write `{value[:-1]}*`"
    elif value == "*":
        hint = "leave `in` and `out` away where every interface is meant"
    raise wrong("bad-interface", f"{shown(value)} is no name of an interface", hint)


def many(value: Any, one: Callable[[Any], Any], what: str) -> tuple[Any, ...]:
    """A single value or a list of them, each read by `one`."""
    if not isinstance(value, list):
        return (one(value),)
    if not value:
        raise mistyped(value, what)
    items, faults = [], list[Fault]()
    for index, element in enumerate(value):
        try:
            items.append(one(element))
        except Wrong as error:
            faults += below(index, error)
    if faults:
        raise Wrong(*faults)
    return tuple(items)


def text(value: Any) -> str:
    """Words for people, on one line. A plain number is text here (`ticket: 4711`)."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str) or not value.strip():
        raise mistyped(value if isinstance(value, (dict, list, bool)) and value != [] else None, "text")
    return " ".join(value.split())


def path(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise mistyped(value or None, "the path of a file")
    return value


def paths(value: Any) -> tuple[str, ...]:
    return () if value == [] else many(value, path, "the path of a file")


def version(value: Any) -> int:
    """The version of the language."""
    if type(value) is int and value == 1:
        return 1
    said = f"{shown(value)} is no version of the language that this portctl knows"
    raise wrong("unknown-version", said, "write `portctl: 1`") if value is not None else mistyped(value, "`1`")


def user(value: Any) -> str:
    if isinstance(value, str) and _USER.fullmatch(value):
        return value
    if value is None or value == "":
        raise mistyped(None, "the name of a local user")
    raise wrong("bad-name", f"{shown(value)} is no name of a user", "write the login name, `_apt`, say")


def process(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise mistyped(value or None, "the name of a process")
    if len(value) > 64 or not value.isprintable() or "/" in value:
        raise wrong(
            "bad-name", f"{shown(value)} is no name of a process", "as `ss -p` and `ps -o comm` show it: `nginx`"
        )
    return value


def flag(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    hint = None
    if isinstance(value, str) and value.lower() in ("yes", "on", "true", "no", "off", "false"):
        hint = f"write `{'true' if value.lower() in ('yes', 'on', 'true') else 'false'}`"
    raise mistyped(value, "`true` or `false`", hint)


def number(least: int, most: int = MOST) -> Callable[[Any], int]:
    def parse(value: Any) -> int:
        if not isinstance(value, int) or isinstance(value, bool):
            raise mistyped(value, "a whole number")
        if not least <= value <= most:
            raise wrong("out-of-range", f"{shown(value)} is not between {least} and {most}")
        return value

    return parse


def one_of(*words: str) -> Callable[[Any], str]:
    *others, last = (f"`{word}`" for word in words)
    listed = f"{', '.join(others)} or {last}" if others else last

    def parse(value: Any) -> str:
        if value in words:
            return str(value)
        if isinstance(value, (dict, list)) or value is None:
            raise mistyped(value, listed)
        said = f"{shown(value)} is not {listed}"
        raise wrong("wrong-value", said, suggestion(str(value), words))

    return parse


def rate(value: Any) -> Rate:
    if not isinstance(value, str) or not value:
        hint = f"`{value}/minute`, say" if type(value) is int else None
        raise (
            mistyped(value or None, "a rate (`10/minute`)", hint)
            if type(value) is not int
            else wrong("bad-rate", f"{shown(value)} does not say in what time", hint)
        )
    match = _RATE.fullmatch(value)
    if match and match[2] in PERIODS and not match[1].startswith("0") and len(match[1]) <= 7:
        return Rate(int(match[1]), match[2])
    hint = "`N/second`, `N/minute`, `N/hour` or `N/day`, with N from 1"
    if match and (period := next((p for p in PERIODS if match[2].rstrip("s") in (p, p[0], p[:3])), None)):
        hint = f"write `{max(1, int(match[1][:7]))}/{period}`"
    raise wrong("bad-rate", f"{shown(value)} is no rate", hint)


def until(value: Any) -> Until:
    """A day, open to its end in UTC, or a moment with its zone."""
    if not isinstance(value, str) or not value:
        raise mistyped(value or None, "a day (`2027-01-31`) or a moment")
    end = moment(value, end_of_day=True)
    return Until(end, value)


def moment(value: str, end_of_day: bool = False) -> datetime:
    """A day (its beginning, or its end) or a moment as UTC. Raises `Wrong`."""
    hint = 'write a day, `2027-01-31`, or a moment with its zone, `"2027-01-31T18:00Z"`'
    try:
        if _DAY.fullmatch(value):
            day = datetime.fromisoformat(value).replace(tzinfo=UTC)
            return day + timedelta(days=1) if end_of_day else day
        if match := _MOMENT.fullmatch(value):
            if not match[3]:
                raise wrong("bad-date", f"{shown(value)} has no zone", f'write `"{value}Z"` if UTC is meant')
            return datetime.fromisoformat(value.upper()).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        if isinstance(error, Wrong):
            raise
        raise wrong("bad-date", f"{shown(value)} is not in the calendar", hint) from None
    raise wrong("bad-date", f"{shown(value)} is no day and no moment", hint)


def target(value: Any) -> Target:
    """`ADDRESS:PORT`, `[V6]:PORT`, `ADDRESS` or `:PORT`."""
    if isinstance(value, int) and not isinstance(value, bool):
        raise wrong("bad-target", f"{shown(value)} names no address", f'write `":{value}"` for a port of this host')
    if not isinstance(value, str) or not value:
        raise mistyped(value or None, "a target (`10.0.0.5:80`, `10.0.0.5`, `:80`)")
    head, port = value, None
    if match := re.fullmatch(r"\[([^\]]*)\](?::([0-9]+))?", value):
        head, port = match[1], match[2]
        if ":" not in head:
            raise wrong("bad-target", f"{shown(value)} has brackets, which are for IPv6", None)
    elif value.count(":") == 1:
        head, port = value.split(":")
    elif (match := re.fullmatch(r"(.+):([0-9]+)", value)) and _is_ipv6(match[1]):
        hint = f'write "[{match[1]}]:{match[2]}" with a port, or "[{value}]" without'
        raise wrong("bad-target", f"{shown(value)} may end in a port or not", hint)
    if port is not None and not (re.fullmatch(r"[1-9][0-9]{0,4}", port) and int(port) <= 65535):
        raise wrong("bad-target", f"{shown(value)} does not end in a port from 1 to 65535", '`"10.0.0.5:80"`, `":80"`')
    return Target(_host(head, value) if head else None, int(port) if port else None)


def _is_ipv6(text: str) -> bool:
    try:
        return ":" in text and network(text)[0] == 6
    except Wrong:
        return False


def _host(head: str, whole: str) -> Address:
    if "/" in head or not (head[:1].isdigit() or ":" in head):
        said = "is a network" if "/" in head else "does not begin with an address"
        raise wrong("bad-target", f"{shown(whole)} {said}", "a target is one address: packets must know where to go")
    version, first, _ = network(head)
    found = ip_address(first.to_bytes(4 if version == 4 else 16, "big"))
    if found.is_loopback:
        hint = 'write `":80"` for a port of this host, and let the program listen on an address that others reach'
        raise wrong(
            "loopback-target", f"{shown(whole)} is a loopback address, which nothing from outside may reach", hint
        )
    if found.is_multicast or found.is_unspecified:
        raise wrong("bad-target", f"{shown(whole)} is no address of one host")
    return found


def masquerade(value: Any) -> bool | Address:
    if isinstance(value, bool):
        return value
    if not isinstance(value, str) or not value:
        raise mistyped(value or None, "`true` or an address of this host")
    if value.lower() in ("yes", "on"):
        raise wrong("wrong-type", f"{shown(value)} is text in this language", "write `true`")
    return _host(value, value)


def port_ranges(value: Any) -> str:
    """Ports and ranges without protocols, as sysctl has them: `8080,9000-9010`."""

    def one(element: Any) -> str:
        if isinstance(element, bool) or not isinstance(element, (str, int)):
            raise mistyped(element, "a port or a range of ports")
        if not re.fullmatch(r"[1-9][0-9]{0,4}(-[1-9][0-9]{0,4})?", str(element)):
            raise wrong(
                "bad-port", f"{shown(element)} is no port and no range", "`8080` or `9000-9010`, without a protocol"
            )
        low, _, high = str(element).partition("-")
        if int(high or low) > 65535:
            raise wrong("bad-port", f"{shown(element)} goes beyond 65535", "ports go from 1 to 65535")
        if int(low) > int(high or low):
            raise wrong("reversed-range", f"{shown(element)} goes from high to low", f"write `{high}-{low}`")
        return str(element)

    return ",".join(many(value, one, "a port or a range of ports"))


def port_range(value: Any) -> str:
    if isinstance(value, str) and "-" in value:
        return port_ranges(value)
    raise (
        mistyped(value, "a range of ports (`32768-60999`)")
        if not isinstance(value, (str, int))
        else wrong("bad-port", f"{shown(value)} is no range of ports", "write `32768-60999`, say")
    )


def settings(value: Any) -> dict[str, str]:
    """Raw settings of one system: name → value as text."""
    if not isinstance(value, dict) or not value:
        raise mistyped(value, "a mapping of settings (`{net.ipv4.tcp_syncookies: 1}`)")
    found, faults = dict[str, str](), list[Fault]()
    for key, setting in value.items():
        if len(key) > 200 or not _SETTING.fullmatch(key):
            faults.append(
                Fault("bad-sysctl", f"{shown(key)} is no name of a setting", "`net.ipv4.tcp_syncookies`", (key,), True)
            )
        try:
            found[key] = _setting(setting)
        except Wrong as error:
            faults += below(key, error)
    if faults:
        raise Wrong(*faults)
    return found


def _setting(value: Any) -> str:
    if isinstance(value, bool):
        raise wrong("wrong-type", f"{shown(value)} is no value of a setting", f"write `{int(value)}`")
    if isinstance(value, int):
        return str(value)
    if not isinstance(value, str) or not value.strip():
        raise mistyped(value or None, "a number or text")
    if len(value) > 1000 or not re.fullmatch(r"[A-Za-z0-9 _.,:/+*%-]+", value):
        raise wrong(
            "bad-sysctl", f"{shown(value)} is no value that a setting takes", "letters, digits, spaces, `.,:/+-_`"
        )
    return " ".join(value.split())
