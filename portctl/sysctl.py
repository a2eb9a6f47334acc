"""Kernel settings: the policy's names and units turned into a system's own, and the bundle that sets them.

The same shape as a back end: `render`, `parse`, `gaps`, `scripts`. Sources of names and units: Linux,
Documentation/networking/ip-sysctl.rst; FreeBSD, ip(4), tcp(4) and captured output of 15.1; OpenBSD, sysctl(2) and
tcp_timer.c (keepalive in seconds, or in ticks of `net.inet.tcp.slowhz` where the kernel has that: `load.sh` looks);
macOS, its tcp(4) and xnu's tcp_timer.c. A system is named as `uname -s` does.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from portctl.command import Command
from portctl.net import Ranges
from portctl.problems import Problem
from portctl.ruleset import Ruleset, Setting
from portctl.templating import render as _render
from portctl.templating import text

NAME = "sysctl"
FILE = "60-portctl.conf"
PARTS: tuple[str, ...] = (FILE,)
BOOT_FILE = f"/etc/sysctl.d/{FILE}"

Kind = Literal["port range", "ports", "seconds", "count", "switch"]


@dataclass(frozen=True, slots=True)
class Portable:
    """One setting with a name and a unit that are the same on every system.

    `least` and `most` bound the number (seconds, counts) as the kernel does. `linux` and the others are the kernels'
    names; a range has the knobs of its two ends one after the other, and no name means that there is no such setting.
    """

    name: str
    kind: Kind
    linux: tuple[str, ...]
    about: str
    least: int = 0
    most: int = 2147483647
    freebsd: tuple[str, ...] = ()
    openbsd: tuple[str, ...] = ()
    macos: tuple[str, ...] = ()

    def names(self, system: str) -> tuple[str, ...]:
        """The names on a system; the others are none that we know."""
        return {"linux": self.linux, "freebsd": self.freebsd, "openbsd": self.openbsd, "macos": self.macos}.get(
            key(system), ()
        )


def key(system: str) -> str:
    """How policies call a system: `uname -s` in small letters, but `macos`."""
    return {"darwin": "macos"}.get(system.lower(), system.lower())


def _bsd(*names: str) -> tuple[str, ...]:
    return tuple(f"net.inet{name}" for name in names)


_RANGES = _bsd(*(f".ip.portrange.{end}" for end in ("first", "last", "hifirst", "hilast")))
_OPENBSD_RANGES = _bsd(*(f".ip.port{end}" for end in ("first", "last", "hifirst", "hilast")))
_RESERVED = _bsd(".tcp.baddynamic", ".udp.baddynamic")
"""OpenBSD's sysctl prints each port of them by itself; the text is what one argument of a command may hold."""
MOST_RESERVED = 4096
_B4, _B6 = "net.inet.ip.forwarding", "net.inet6.ip6.forwarding"
_V4, _V6 = "net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"
PORTABLE: tuple[Portable, ...] = (
    Portable(
        "ephemeral_ports", "port range", ("net.ipv4.ip_local_port_range",), "ports that clients get, `low-high`",
        freebsd=_RANGES, openbsd=_OPENBSD_RANGES, macos=_RANGES,
    ),
    Portable(
        "forwarding", "switch", (_V4, _V6), "pass packets on between interfaces",
        freebsd=(_B4, _B6), openbsd=(_B4, _B6), macos=(_B4, _B6),
    ),
    Portable(
        "forwarding_v4", "switch", (_V4,), "pass IPv4 packets on between interfaces",
        freebsd=(_B4,), openbsd=(_B4,), macos=(_B4,),
    ),
    Portable(
        "forwarding_v6", "switch", (_V6,), "pass IPv6 packets on between interfaces",
        freebsd=(_B6,), openbsd=(_B6,), macos=(_B6,),
    ),
    Portable(
        "reserved_ports", "ports", ("net.ipv4.ip_local_reserved_ports",), "ports that clients never get",
        openbsd=_RESERVED,
    ),
    Portable(
        "tcp_keepalive_intvl", "seconds", ("net.ipv4.tcp_keepalive_intvl",), "between two probes", 1, 32767,
        *(_bsd(".tcp.keepintvl"),) * 3,
    ),
    Portable(
        "tcp_keepalive_probes", "count", ("net.ipv4.tcp_keepalive_probes",), "lost before the end", 1, 127,
        freebsd=_bsd(".tcp.keepcnt"), macos=_bsd(".tcp.keepcnt"),
    ),
    Portable(
        "tcp_keepalive_time", "seconds", ("net.ipv4.tcp_keepalive_time",), "idle before the first probe", 1, 32767,
        *(_bsd(".tcp.keepidle"),) * 3,
    ),
)  # fmt: skip
"""By name. Keepalive only matters for sockets that ask for it (SO_KEEPALIVE); its bounds are those of tcp.h."""

_BY_NAME = {portable.name: portable for portable in PORTABLE}
_BSD_NAME = re.compile(r"[a-z][A-Za-z0-9_-]*(\.[A-Za-z0-9_%-]+)+")
LOWEST_EPHEMERAL = 1024
"""The BSDs keep ports below it for root: FreeBSD raises a lower end to it without a word."""
_LINUX_NAME = re.compile(r"[a-z][A-Za-z0-9_-]*(\.[A-Za-z0-9_@:+-][A-Za-z0-9_/@:+-]*)+")
_SAME = {"net.ipv4.conf.all.forwarding": "net.ipv4.ip_forward"}
"""Two names of one variable."""


def problem(setting: Setting) -> str | None:
    """What is wrong with the value (portable) or the name (raw) of a setting, in words; None: nothing.

    An unknown portable name is wrong too; `PORTABLE` holds the known ones.
    """
    if setting.system != "any":
        return _raw_problem(setting)
    portable = _BY_NAME.get(setting.name)
    if portable is None:
        return f"no setting is called `{setting.name}`"
    return _value_problem(portable, setting.value)


def _raw_problem(setting: Setting) -> str | None:
    if setting.system == "linux" and (not _LINUX_NAME.fullmatch(setting.name) or "//" in setting.name):
        return f"`{setting.name}` is not the name of a Linux setting, as `sysctl -a` prints them"
    if setting.system != "linux" and not _BSD_NAME.fullmatch(setting.name):
        return f"`{setting.name}` is not the name of a setting, as `sysctl -a` prints them"
    if not setting.value.strip() and setting.name != "net.ipv4.ip_local_reserved_ports":
        return "the value is empty"
    if any(not c.isprintable() and c != "\t" for c in setting.value):
        return "the value must be one line of text"
    return None


def _value_problem(portable: Portable, value: str) -> str | None:
    if portable.kind in ("port range", "ports"):
        ports = _ports(value)
        if ports is None or (portable.kind == "port range" and len(ports.bounds) != 2):
            wanted = "one range of ports, low-high" if portable.kind == "port range" else "ports and ranges of ports"
            return f"`{value}` is not {wanted}, within 1-65535"
        return None
    if portable.kind == "switch":
        return None if value in ("0", "1", "false", "true") else f"`{value}` is neither true nor false"
    if not re.fullmatch(r"0|[1-9]\d{0,9}", value) or not portable.least <= int(value) <= portable.most:
        return f"`{value}` is not a whole number from {portable.least} to {portable.most}"
    return None


def _ports(value: str) -> Ranges | None:
    """The ports of `32768-60999`, `8080, 9000-9100`, or Linux's own `32768 60999`; None: it is no such text."""
    value = value.strip().removesuffix("/tcp").removesuffix("/udp")
    if both := re.fullmatch(r"(\d+)\s+(\d+)", value):
        value = f"{both[1]}-{both[2]}"
    pairs: list[tuple[int, int]] = []
    for item in filter(None, (part.strip() for part in value.split(","))):
        found = re.fullmatch(r"([1-9]\d{0,4})(?:-([1-9]\d{0,4}))?", item)
        if not found:
            return None
        low, high = int(found[1]), int(found[2] or found[1])
        if low > high or high > 65535:
            return None
        pairs.append((low, high))
    return Ranges.of(pairs)


def ports_of(value: str) -> Ranges:
    """The ports that a value of `ip_local_port_range` or `ip_local_reserved_ports` means; none, if it is no such text.

    An empty value is an empty set.
    """
    return _ports(value) or Ranges()


def _linux(setting: Setting) -> list[tuple[str, str]]:
    """The kernel's own names, with the value in its units."""
    portable = _BY_NAME.get(setting.name) if setting.system == "any" else None
    if portable is None:
        return [(setting.name, normal(setting.name, setting.value))]
    value = setting.value
    if portable.kind == "port range":
        value = "{} {}".format(*next(ports_of(value).pairs()))
    if portable.kind == "switch":
        value = {"true": "1", "false": "0"}.get(value, value)
    return [(name, normal(name, value)) for name in portable.linux]


def _written(setting: Setting, system: str) -> list[tuple[str, str]]:
    """The names and values of a setting on a system, in its own units. `N s` is left to `load.sh` on OpenBSD."""
    if key(system) == "linux":
        return _linux(setting)
    portable = _BY_NAME.get(setting.name) if setting.system == "any" else None
    if portable is None:
        return [(setting.name, normal(setting.name, setting.value))]
    names, value = portable.names(system), setting.value
    if portable.kind == "ports":
        return [(name, normal(name, value)) for name in names]
    if portable.kind == "port range":
        low, high = next(ports_of(value).pairs())
        return [(name, str(end)) for name, end in zip(names, (low, high) * (len(names) // 2), strict=True)]
    if portable.kind == "switch":
        value = {"true": "1", "false": "0"}.get(value, value)
    elif portable.kind == "seconds":
        value = f"{value} s" if key(system) == "openbsd" else str(int(value) * 1000)
    return [(name, value) for name in names]


def port_range(system: str) -> tuple[str, ...]:
    """The names of the ends of the range that clients get ports from, the usual one's first; of Linux one name."""
    return _BY_NAME["ephemeral_ports"].names(system)


def reserved(system: str) -> tuple[str, ...]:
    """The names of the ports that clients never get; none where a system has no such setting."""
    return _BY_NAME["reserved_ports"].names(system)


def in_ticks(value: str, slowhz: int | None) -> str:
    """A value in the kernel's own unit: `N s` is seconds, or ticks of `net.inet.tcp.slowhz` where OpenBSD has that."""
    seconds = re.fullmatch(r"(\d+) s", value)
    return str(int(seconds[1]) * (slowhz or 1)) if seconds else value


def normal(name: str, value: str) -> str:
    """A value as the kernel would print it: single blanks, port lists merged and sorted."""
    value = " ".join(value.split())
    if name == "net.ipv4.ip_local_reserved_ports" and (ports := _ports(value)) is not None:
        return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in ports.pairs())
    if name in _RESERVED and (ports := _ports(value)) is not None:
        return ",".join(str(port) for low, high in ports.pairs() for port in range(low, high + 1))
    return value


def settings(
    ruleset: Ruleset, system: str = "Linux", advertised: Iterable[str] = ()
) -> tuple[tuple[str, str, Setting | None], ...]:
    """The settings of one system in the order in which they must be written: (name, value, where it comes from).

    `advertised` names the interfaces whose IPv6 addresses or routes come by router advertisement
    (`Interface.advertised`): Linux forgets those when forwarding is switched on, unless `accept_ra` is 2 before.
    """
    found: dict[str, tuple[str, Setting | None]] = {}
    for setting in ruleset.settings:
        if setting.system in ("any", key(system)):
            found |= {name: (value, setting) for name, value in _written(setting, system)}
    if found.get("net.ipv6.conf.all.forwarding", ("0", None))[0] == "1":
        for interface in advertised:
            found.setdefault(f"net.ipv6.conf.{interface.replace('.', '/')}.accept_ra", ("2", None))
    return tuple((name, *found[name]) for name in sorted(found, key=_rank))


def _rank(name: str) -> tuple[int, str]:
    """What must be written before something else: accept_ra before forwarding, forwarding before accept_redirects
    (which it changes), all interfaces before one."""
    if re.fullmatch(r"net\.ipv6\.conf\.[^.]+\.accept_ra", name):
        return 0, name
    if name == "net.ipv4.ip_forward" or re.fullmatch(r"net\.ipv[46]\.conf\.all\.forwarding", name):
        return 1, name
    if re.match(r"net\.ipv[46]\.(conf|neigh)\.all\.", name):
        return 2, name
    if re.match(r"net\.ipv[46]\.(conf|neigh)\.default\.", name):
        return 3, name
    return 4, name.replace("first", "0").replace("last", "1")


def gaps(ruleset: Ruleset, system: str = "Linux") -> list[Problem]:
    """Settings that cannot be rendered for a system: wrong names or values, and two values of one setting."""
    found: list[Problem] = []
    seen: dict[str, tuple[str, Setting]] = {}
    for setting in ruleset.settings:
        if setting.system not in ("any", key(system)):
            continue
        if wrong := problem(setting):
            found.append(Problem("bad-sysctl", wrong, setting.span))
            continue
        if lacking := _lacking(setting, system):
            found.append(lacking)
            continue
        for name, value in _written(setting, system):
            name = _SAME.get(name, name)
            if name in seen and seen[name][0] != value:
                first = seen[name][1].span
                others = ((f"set to {seen[name][0]} here", first),) if first else ()
                message = f"{name} gets two values, {seen[name][0]} and {value}"
                found.append(Problem("sysctl-conflict", message, setting.span, others=others))
            seen.setdefault(name, (value, setting))
    return found + _port_order(seen)


def _lacking(setting: Setting, system: str) -> Problem | None:
    """What a system has no setting for."""
    portable = _BY_NAME.get(setting.name) if setting.system == "any" else None
    if portable is None or key(system) == "linux":
        return None
    if not portable.names(system):
        hint = f"say it for the systems that have it: `linux: {{{portable.linux[0]}: …}}`"
        return Problem("gap", f"{system} has no setting for `{setting.name}`", setting.span, hint)
    if portable.kind == "ports" and not 0 < ports_of(setting.value).count() <= MOST_RESERVED:
        return Problem("gap", f"{system} reserves from 1 to {MOST_RESERVED} ports", setting.span)
    if portable.kind == "port range" and ports_of(setting.value).bounds[0] < LOWEST_EPHEMERAL:
        message = f"{system} gives clients no ports below {LOWEST_EPHEMERAL}"
        return Problem("bad-sysctl", message, setting.span)
    return None


def _port_order(seen: Mapping[str, tuple[str, Setting]]) -> list[Problem]:
    """Linux refuses an ephemeral range that begins below the first unprivileged port (EINVAL)."""
    start, ports = seen.get("net.ipv4.ip_unprivileged_port_start"), seen.get("net.ipv4.ip_local_port_range")
    if start is None or ports is None or int(ports[0].split()[0]) >= int(start[0]):
        return []
    message = f"the ephemeral range {ports[0].replace(' ', '-')} begins below {start[0]}, the first unprivileged port"
    return [Problem("sysctl-conflict", message, ports[1].span)]


def render(ruleset: Ruleset, system: str = "Linux", advertised: Iterable[str] = ()) -> dict[str, str]:
    """`60-portctl.conf`, in the form of sysctl.d(5); nothing, if the policy asks for no setting."""
    lines = [(name, value) for name, value, _ in settings(ruleset, system, advertised)]
    return {FILE: _render(f"sysctl/{FILE}.j2", settings=lines)} if lines else {}


def parse(listings: Mapping[str, str]) -> dict[str, str]:
    """{name: value} of a `60-portctl.conf`, or of the answer to `questions`; blanks in values are single."""
    found: dict[str, str] = {}
    for listing in listings.values():
        for line in listing.splitlines():
            if line.strip() and line.lstrip()[0] not in "#;" and "=" in line:
                name, _, value = line.partition("=")
                found[name.strip().removeprefix("-")] = " ".join(value.split())
    return found


def folder(system: str) -> str:
    """Where the bundle of a system lies: `sysctl`, `sysctl-freebsd`, …"""
    return NAME if key(system) == "linux" else f"{NAME}-{key(system)}"


def scripts() -> dict[str, str]:
    """`load.sh`, `save.sh`, `remove.sh`, the same text for every policy."""
    return {name: text(f"sysctl/{name}") for name in ("load.sh", "remove.sh", "save.sh")}


def bundle(ruleset: Ruleset, system: str = "Linux", advertised: Iterable[str] = ()) -> dict[str, str]:
    """All files of `DIR/sysctl/`; none, if the policy asks for no setting."""
    files = render(ruleset, system, advertised)
    return {**files, **scripts()} if files else {}


_ASK = """system=$(uname -s)
for name do
if [ "$system" = Linux ]; then value=$(tr -s '[:space:]' ' ' <"/proc/sys/$(printf %s "$name" | tr ./ /.)")
else value=$(sysctl -n "$name"); fi && printf '%s = %s\\n' "$name" "$value"
done 2>/dev/null
:"""


def questions(wanted: Iterable[str]) -> dict[str, Command]:
    """What to ask a host for the present values of some settings; those it lacks are left out of its answer."""
    return {"settings": Command(("sh", "-c", _ASK, "sh", *wanted))}
