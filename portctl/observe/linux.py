"""The facts of a Linux host: a fixed part of the question's script for sh, and its answer read."""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address, ip_address

from portctl.listeners.proc import sections
from portctl.net import Address
from portctl.observe.types import Facts, Interface

TOOLS: tuple[str, ...] = (
    *("nft", "iptables", "ip6tables", "iptables-legacy", "ip6tables-legacy", "ipset", "ip", "ss", "netstat", "lsof"),
    *("conntrack", "sysctl", "systemd-run"),
)

INITIAL_PROCESSES, INITIAL_USERS = "pid:[4026531836]", "user:[4026531837]"
"""The machine's own namespaces have fixed numbers (include/linux/proc_ns.h)."""

ASK = (
    r"""say() { printf '\001%s\n' "$1"; }
say system; uname -s
say release; uname -r
say distribution; cat /etc/os-release || cat /usr/lib/os-release
say init
if [ -d /run/systemd/system ]; then echo systemd
elif [ -e /run/openrc/softlevel ]; then echo openrc
else echo other; fi
say user; id -u
say namespaces; readlink /proc/self/ns/pid /proc/self/ns/user; readlink /proc/1/ns/pid >/dev/null && echo all
for tool in """
    + " ".join(TOOLS)
    + r"""; do
command -v $tool >/dev/null || continue
say "tool $tool"
if [ $tool = lsof ]; then lsof -v 2>&1; else $tool --version 2>&1; fi
done
say nft; nft list tables >/dev/null && echo works
say legacy; cat /proc/net/ip_tables_names /proc/net/ip6_tables_names
say addresses; ip -o address show || ifconfig -a
say addresses6; cat /proc/net/if_inet6
say routes; ip -4 route show
say routes4; cat /proc/net/route
say routes6; cat /proc/net/ipv6_route
say advertised; ip -6 route show proto ra
say accept_ra
for each in /proc/sys/net/ipv6/conf/*; do echo "${each##*/} $(cat "$each/accept_ra")"; done
say resolvers; cat /etc/resolv.conf
say tracked; cat /proc/sys/net/netfilter/nf_conntrack_count
say tracking
{ nft list ruleset; iptables-save; ip6tables-save; [ -n "$(cat /proc/net/ip_tables_names)" ] && iptables-legacy-save
[ -n "$(cat /proc/net/ip6_tables_names)" ] && ip6tables-legacy-save; } |
grep -E '(^|[^a-z_])ct [a-z]|type nat|conntrack|-m state|-j (MASQUERADE|[SD]NAT|REDIRECT)' | head -n 1
:
"""
)


def read(answer: str) -> Facts:
    """The facts in the answer to `ASK`; what is missing there stays at its default."""
    parts = {name: body.strip("\n") for name, body in sections(answer).items()}
    root = parts.get("user") == "0"
    versions = {name[5:]: version(body) for name, body in parts.items() if name.startswith("tool ")}
    return Facts(
        system=parts.get("system", "").strip() or "unknown",
        release=parts.get("release", "").strip(),
        distribution=_distribution(parts.get("distribution", "")),
        init=parts.get("init", "other"),
        root=root,
        tools=tuple((name, versions[name]) for name in TOOLS if name in versions),
        interfaces=_interfaces(parts),
        gateways=_gateways(parts),
        resolvers=_resolvers(parts.get("resolvers", "")),
        tracking=parts.get("tracked", "0") not in ("", "0") or bool(parts.get("tracking")),
        nft_works="nft" in versions and (not root or parts.get("nft") == "works"),
        legacy=bool(parts.get("legacy", "").strip()),
        sees_processes=root and parts.get("namespaces", "").split() == [INITIAL_PROCESSES, INITIAL_USERS, "all"],
    )


def version(said: str) -> str:
    """The number in what a tool says of itself, with the variant of iptables behind it; empty: it does not say."""
    found = re.search(r"(\d+(?:\.\d+)+)(?: (\((?:nf_tables|legacy)\)))?", said)
    if not found:
        found = re.search(r"\b(\d{2,3})()\b", said.splitlines()[0] if said else "")
    return " ".join(filter(None, found.groups())) if found else ""


def _distribution(text: str) -> str:
    """`debian 12` of an os-release(5) file."""
    fields = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    words = (fields.get(key, "").strip().strip("\"'") for key in ("ID", "VERSION_ID"))
    return " ".join(word for word in words if word)


def _address(text: str) -> Address | None:
    try:
        return ip_address(text.partition("/")[0].partition("%")[0])
    except ValueError:
        return None


def _interfaces(parts: dict[str, str]) -> tuple[Interface, ...]:
    found: dict[str, set[Address]] = {}
    text = parts.get("addresses", "")
    for name, address in _from_ip(text) or _from_ifconfig(text):
        found.setdefault(name, set()).add(address)
    for line in parts.get("addresses6", "").splitlines():
        words = line.split()
        if len(words) == 6:
            found.setdefault(words[5], set()).add(IPv6Address(bytes.fromhex(words[0])))
    for line in parts.get("accept_ra", "").splitlines():
        name = line.split(" ")[0]
        if name not in ("", "all", "default", "*"):
            found.setdefault(name, set())
    advertised = _advertised(parts)
    return tuple(
        Interface(name, tuple(sorted(found[name], key=lambda a: (a.version, int(a)))), name in advertised)
        for name in sorted(found)
    )


def _from_ip(text: str) -> list[tuple[str, Address]]:
    """Of `ip -o address`: `2: eth0    inet 10.0.0.1/24 …`."""
    found = re.findall(r"^\d+: +(\S+?)(?:@\S+)? +inet6? ([0-9a-f.:]+)", text, re.MULTILINE)
    return [(name, address) for name, each in found if (address := _address(each))]


def _from_ifconfig(text: str) -> list[tuple[str, Address]]:
    """Of `ifconfig -a`: an interface begins a line, `inet ADDRESS` or `inet addr:ADDRESS` comes below it."""
    found, name = [], ""
    for line in text.splitlines():
        if line[:1].strip():
            name = line.split()[0].rstrip(":")
        for each in re.findall(r"\binet (?:addr:)?(\d+\.\d+\.\d+\.\d+)", line):
            if address := _address(each):
                found.append((name, address))
    return found


_BY_ADVERTISEMENT = 0x00040000
"""RTF_ADDRCONF, include/uapi/linux/ipv6_route.h: the kernel made the route from a router advertisement."""


def _advertised(parts: dict[str, str]) -> frozenset[str]:
    """Interfaces with an IPv6 route by router advertisement which the kernel itself listens to (accept_ra).

    Where a program of the system does that (systemd-networkd), accept_ra is 0, and must stay so.
    """
    listening = {
        line.split(" ")[0]
        for line in parts.get("accept_ra", "").splitlines()
        if line.rpartition(" ")[2] not in ("", "0")
    }
    found = set(re.findall(r"\bdev (\S+)", parts.get("advertised", "")))
    for line in parts.get("routes6", "").splitlines():
        words = line.split()
        if len(words) == 10 and int(words[8], 16) & _BY_ADVERTISEMENT:
            found.add(words[9])
    return frozenset(found & listening)


def _gateways(parts: dict[str, str]) -> tuple[Address, ...]:
    found: set[Address] = set()
    for each in re.findall(r"\bvia (\d[0-9.]+)", parts.get("routes", "")):
        if address := _address(each):
            found.add(address)
    for line in parts.get("routes4", "").splitlines()[1:]:
        words = line.split()
        if len(words) > 3 and int(words[2], 16):
            found.add(IPv4Address(bytes.fromhex(words[2])[::-1]))
    for line in parts.get("routes6", "").splitlines():
        words = line.split()
        if len(words) == 10 and words[4].strip("0"):
            found.add(IPv6Address(bytes.fromhex(words[4])))
    return tuple(sorted(found, key=lambda a: (a.version, int(a))))


def _resolvers(text: str) -> tuple[Address, ...]:
    found = re.findall(r"^\s*nameserver\s+(\S+)", text, re.MULTILINE)
    return tuple(address for each in found if (address := _address(each)))
