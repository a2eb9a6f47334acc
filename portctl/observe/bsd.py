"""The facts of a FreeBSD, OpenBSD or macOS host: the answer to `templates/observe/bsd.sh`, read.

Sources: uname(1), ifconfig(8), netstat(1), pfctl(8), ipfw(8), rc.conf(5), kldstat(8), scutil(8), security(7).
"""

from __future__ import annotations

import re
from ipaddress import ip_address

from portctl.listeners.proc import sections
from portctl.net import Address
from portctl.observe.types import Facts, Interface
from portctl.templating import text

SYSTEMS: tuple[str, ...] = ("FreeBSD", "OpenBSD", "Darwin")
"""As `uname -s` names them."""
_INIT = {"FreeBSD": "freebsd-rc", "OpenBSD": "openbsd-rc", "Darwin": "launchd"}
_BOOT = {"pf": "pf", "pf_enable": "pf", "firewall_enable": "ipfw"}
_YES = ("yes", "true", "on", "1")
"""What rc.subr(8) takes for yes."""


def ask() -> str:
    """The part of the question that these hosts answer, for a `case` of sh."""
    return text("observe/bsd.sh")


def read(answer: str) -> Facts:
    """The facts in the answer; what is missing there stays at its default."""
    parts = {name: body.strip("\n") for name, body in sections(answer).items()}
    system, root = parts.get("system", "").strip(), parts.get("user") == "0"
    filters = dict(line.split() for line in parts.get("filters", "").splitlines() if len(line.split()) == 2)
    product = parts.get("product", "").strip()
    return Facts(
        system=system,
        release=product or parts.get("release", "").strip(),
        distribution=f"macos {product}" if product else f"{system.lower()} {parts.get('release', '').strip()}",
        init=_INIT.get(system, "other"),
        root=root,
        tools=tuple((name[5:], "") for name in parts if name.startswith("tool ")),
        interfaces=interfaces(parts.get("addresses", "")),
        gateways=gateways(parts.get("routes", "")),
        resolvers=_resolvers(parts.get("resolvers", "")),
        tracking=filters.get("pf") == "on" or parts.get("dynamic", "0") not in ("", "0"),
        nft_works=False,
        sees_processes=root and parts.get("jail", "0") in ("", "0"),
        filters=tuple(sorted(name for name, state in filters.items() if state != "off")),
        boot_filters=_boot(parts.get("boot", "")),
        modules=tuple(parts.get("modules", "").split()),
        securelevel=_number(parts.get("securelevel", "")),
        forwards=set(parts.get("forwarding", "").split()) != {"0"},
        hides_sockets=bool(parts.get("hidden")) and not root,
        slowhz=_number(parts.get("slowhz", "")),
    )


def _number(text: str) -> int | None:
    return int(text) if re.fullmatch(r"-?\d+", text.strip()) else None


def _boot(text: str) -> tuple[str, ...]:
    """The filters that rc.conf(5) starts; of two assignments the last one holds."""
    found: dict[str, bool] = {}
    for line in text.splitlines():
        name, _, value = line.strip().partition("=")
        word = value.partition("#")[0].strip().strip("\"'").lower()
        if name in _BOOT:
            found[_BOOT[name]] = word in _YES
    return tuple(sorted(name for name, on in found.items() if on))


def _address(text: str) -> Address | None:
    try:
        return ip_address(text.partition("/")[0].partition("%")[0])
    except ValueError:
        return None


def interfaces(text: str) -> tuple[Interface, ...]:
    """Of `ifconfig -a`: an interface begins a line, its addresses come below it; `autoconf` is a router's work."""
    found: dict[str, list[Address]] = {}
    advertised: set[str] = set()
    name = ""
    for line in text.splitlines():
        if line[:1].strip():
            name = line.partition(":")[0]
            name = "lo" if name == "lo0" else name  # the loopback interface has one name in portctl
            found.setdefault(name, [])
        words = line.split()
        if len(words) > 1 and words[0] in ("inet", "inet6") and (address := _address(words[1])):
            found[name].append(address)
            if "autoconf" in words:
                advertised.add(name)
    return tuple(
        Interface(each, tuple(sorted(set(found[each]), key=lambda a: (a.version, int(a)))), each in advertised)
        for each in sorted(found)
    )


def gateways(text: str) -> tuple[Address, ...]:
    """Of `netstat -rn`: the second word of every route with the flag G."""
    found: set[Address] = set()
    for line in text.splitlines():
        words = line.split()
        if len(words) > 2 and re.fullmatch(r"[A-Za-z0-9]*G[A-Za-z0-9]*", words[2]) and (far := _address(words[1])):
            found.add(far)
    return tuple(sorted(found, key=lambda a: (a.version, int(a))))


def _resolvers(text: str) -> tuple[Address, ...]:
    """Of resolv.conf(5), and of `scutil --dns` of macOS, which uses no such file."""
    found = re.findall(r"^\s*nameserver(?:\[\d+\] :)?\s+(\S+)", text, re.MULTILINE)
    return tuple(dict.fromkeys(address for each in found if (address := _address(each))))
