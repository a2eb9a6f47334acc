"""The policy language read word by word, packet by packet: slow, plain, and knowing nothing of portctl's own reading.

`verdict` follows the tables of the language on the YAML's plain data. Tests hold `decide` against it.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address, ip_network
from typing import Any

Plain = dict[str, Any]
NAMED = {"ssh": [(6, 22)], "http": [(6, 80)], "https": [(6, 443)], "domain": [(6, 53), (17, 53)], "smtp": [(6, 25)]}
BARE = {"esp": 50, "vrrp": 112, "gre": 47, "igmp": 2}
NUMBER = {"tcp": 6, "udp": 17, "sctp": 132}
LOOPBACK = "<loopback>"


def many(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


class Reader:
    """One policy (as YAML loads it) at one moment."""

    def __init__(self, policy: Plain, now: datetime) -> None:
        self.policy, self.now = policy, now
        self.defaults = {"inbound": "drop", "outbound": "allow", "forward": "keep", "published": "keep"}
        self.defaults |= policy.get("defaults", {})

    def inside(self, items: Any, address: Any, live: Iterable[str] = ()) -> bool:
        return any(self._inside(item, address, live) for item in many(items))

    def _inside(self, item: str, address: Any, live: Iterable[str]) -> bool:
        if item == "any":
            return True
        group = self.policy.get("addresses", {}).get(item)
        if isinstance(group, dict):
            return item in live
        if group is not None:
            return self.inside(group, address)
        if "-" in item:
            low, high = map(ip_address, item.split("-"))
            return bool(low.version == address.version and int(low) <= int(address) <= int(high))
        return address in ip_network(item)

    def device(self, groups: Any, name: str) -> bool:
        patterns = [p for group in many(groups) for p in many(self.policy["interfaces"][group])]
        return any(name.startswith(p[:-1]) if p[-1] == "*" else name == p for p in patterns)

    def port(self, items: Any, packet: Any, port: int) -> bool:
        return any(self._port(item, packet, port) for item in many(items))

    def _port(self, item: str, packet: Any, port: int) -> bool:
        if item == "any":
            return True
        if item == "ping":
            kind, version = packet.port // 256, packet.source.version
            return (packet.protocol, kind, version) in ((1, 8, 4), (58, 128, 6))
        if item in self.policy.get("ports", {}):
            return self.port(self.policy["ports"][item], packet, port)
        if item in NAMED:
            return (packet.protocol, port) in NAMED[item]
        if item in BARE or item.startswith("proto/"):
            return bool(packet.protocol == (BARE.get(item) or int(item[6:])))
        numbers, protocols = item.split("/")
        low, _, high = numbers.partition("-")
        return packet.protocol in [NUMBER[p] for p in protocols.split("+")] and int(low) <= port <= int(high or low)

    def holds(self, entry: Plain, packet: Any) -> bool:
        until = entry.get("until")
        if until is None:
            return True
        text = str(until)
        end = datetime.fromisoformat(text) if "T" in text else datetime.fromisoformat(text) + timedelta(days=1)
        end = end.replace(tzinfo=UTC) if end.tzinfo is None else end
        return self.now < end and (packet.at is None or packet.at < end)

    def block(self, packet: Any, source: bool) -> bool:
        """Whether an entry of `block` names the packet's source, or its destination."""
        address = packet.source if source else packet.destination
        live = packet.live_source if source else packet.live_destination
        return any(self._blocks(entry, packet, address, live, source) for entry in self.policy.get("block", []))

    def _blocks(self, entry: Any, packet: Any, address: Any, live: Iterable[str], source: bool) -> bool:
        if not isinstance(entry, dict):
            return self.inside(entry, address, live)
        side = "from" if source else "to"
        if side not in entry or not self.holds(entry, packet):
            return False
        if not self.inside(entry[side], address, live) or self.inside(entry.get("except", []), address):
            return False
        if "in" in entry and not self.device(entry["in"], packet.interface):
            return False
        return "ports" not in entry or (not packet.reply and self.port(entry["ports"], packet, packet.port))

    def admits(self, entry: Plain, packet: Any, remote: str, port: int, to: Any) -> bool:
        """Whether an entry admits a packet that starts a connection to `port` of `to`."""
        if packet.state.name not in ("NEW", "UNTRACKED") or not self.holds(entry, packet):
            return False
        if packet.protocol == 6 and packet.state.name == "NEW" and packet.flags & 0x17 != 0x02:
            return False
        there = to if remote == "to" else packet.source
        if not self.inside(entry.get(remote, "any"), there) or self.inside(entry.get("except", []), there):
            return False
        if remote == "from" and "to" in entry and not self.inside(entry["to"], to):
            return False
        if "in" in entry and not self.device(entry["in"], packet.interface):
            return False
        if "out" in entry and not self.device(entry["out"], packet.out_interface):
            return False
        if "user" in entry and packet.user != entry["user"]:
            return False
        return self.port(entry["ports"], packet, port)

    def opened(self, entries: Iterable[tuple[Plain, bool]], packet: Any) -> str | None:
        """The verdict of the entries that admit a packet: one without limits wins."""
        found = [entry for entry, admitted in entries if admitted]
        if not found:
            return None
        free = any("rate" not in entry and "max_connections" not in entry for entry in found)
        return "accept" if free or not packet.over_limit else "drop"

    def turned(self, packet: Any) -> tuple[Any, int] | None:
        """Where a forward translates a packet to: address (None: this host) and port."""
        if packet.state.name != "NEW" or packet.original is not None or packet.interface == LOOPBACK:
            return None
        for _, entry in sorted(self.policy.get("forwards", {}).items()):
            if "target" not in entry or not self.holds(entry, packet):
                continue
            host, port = target(entry["target"])
            if host is not None and host.version != packet.source.version:
                continue
            mine = self.inside(entry["to"], packet.destination) if "to" in entry else packet.local
            if not mine or not self.inside(entry["from"], packet.source):
                continue
            if self.inside(entry.get("except", []), packet.source):
                continue
            if "in" in entry and not self.device(entry["in"], packet.interface):
                continue
            if self.port(entry["ports"], packet, packet.port):
                return host, port or packet.port
        return None

    def essential(self, packet: Any) -> bool:
        """Line 2: neighbour discovery and multicast listeners."""
        if packet.protocol != 58 or packet.source.version != 6:
            return False
        kind = packet.port // 256
        near = packet.source in ip_network("fe80::/10") or int(packet.source) == 0
        return (133 <= kind <= 137 and packet.hop_limit == 255) or (kind in (130, 131, 132, 143) and near)

    def error(self, packet: Any) -> bool:
        kind, version = packet.port // 256, packet.source.version
        return (packet.protocol == 1 and version == 4 and kind in (3, 11, 12)) or (
            packet.protocol == 58 and version == 6 and kind in (1, 2, 3, 4)
        )

    def default(self, what: str) -> str:
        return {"allow": "accept", "keep": "accept"}.get(self.defaults[what], self.defaults[what])

    def verdict(self, packet: Any) -> str:
        """`accept`, `drop` or `reject`. The packet is as it arrives, before the policy's own translations."""
        direction = packet.direction.value
        if direction == "outbound":
            return self.outbound(packet)
        turned = self.turned(packet)
        if turned is not None:
            return self.after(packet, *turned)
        return self.inbound(packet) if direction == "inbound" else self.forwarded(packet)

    def after(self, packet: Any, host: Any, port: int) -> str:
        from dataclasses import replace

        there = replace(packet, destination=host or packet.destination, port=port)
        return self.inbound(there, packet) if host is None else self.forwarded(there, packet)

    def through(self, packet: Any, before: Any) -> list[tuple[Plain, bool]]:
        """Forwards with a target, and whether they admit what was turned: they see it as it was before."""
        found = []
        for entry in self.policy.get("forwards", {}).values():
            if "target" not in entry or before is None:
                continue
            host, _ = target(entry["target"])
            right = host is None or host.version == packet.source.version
            found.append((entry, right and self.admits(entry, packet, "from", before.port, before.destination)))
        return found

    def inbound(self, packet: Any, before: Any = None) -> str:
        if packet.interface == LOOPBACK or self.essential(packet):
            return "accept"
        if packet.protocol == 17 and packet.source.version == 4 and (packet.source_port, packet.port) == (67, 68):
            return "accept"
        if packet.protocol == 17 and packet.port == 546 and packet.source in ip_network("fe80::/10"):
            return "accept"
        if self.block(packet, True):
            return "drop"
        if packet.state.name in ("ESTABLISHED", "RELATED"):
            return "accept"
        if packet.source.is_loopback or packet.destination.is_loopback or packet.state.name == "INVALID":
            return "drop"
        if self.error(packet):
            return "accept"
        services = self.policy.get("services", {}).values()
        to = packet.destination
        entries = [(e, self.admits(e, packet, "from", packet.port, to)) for e in services]
        turned = [({k: v for k, v in e.items() if k != "out"}, ok) for e, ok in self.through(packet, before)]
        return self.opened(entries + turned, packet) or self.default("inbound")

    def outbound(self, packet: Any) -> str:
        if packet.out_interface == LOOPBACK or self.essential(packet):
            return "accept"
        if packet.protocol == 17 and (packet.source_port, packet.port) == (68, 67) and packet.source.version == 4:
            return "accept"
        if packet.protocol == 17 and (packet.source_port, packet.port) == (546, 547) and packet.source.version == 6:
            return "accept"
        if self.block(packet, False):
            return "reject"
        if self.error(packet) or packet.state.name in ("ESTABLISHED", "RELATED"):
            return "accept"
        if self.defaults["outbound"] == "allow":
            return "accept"
        entries = self.policy.get("egress", {}).values()
        found = self.opened(
            [(e, self.admits(e, packet, "to", packet.port, packet.destination)) for e in entries], packet
        )
        if found is None and packet.state.name == "UNTRACKED" and self.answers(packet):
            return "accept"
        return found or self.default("outbound")

    def answers(self, packet: Any) -> bool:
        """Whether a packet that bypasses the tracker is what a service would answer."""
        from dataclasses import replace

        back = {(1, 0): 8, (58, 129): 128}
        kind = back.get((packet.protocol, packet.port // 256))
        port = kind * 256 if kind is not None else packet.source_port
        if packet.protocol in (1, 58) and kind is None:
            port = 255 * 256
        asked = replace(
            packet,
            source=packet.destination,
            destination=packet.source,
            port=port,
            source_port=packet.port,
            interface=packet.out_interface,
        )
        services = self.policy.get("services", {}).values()
        return any(self.admits(e, asked, "from", asked.port, asked.destination) for e in services)

    def forwarded(self, packet: Any, before: Any = None) -> str:
        if self.block(packet, True) or self.block(packet, False):
            return "drop"
        if packet.state.name in ("ESTABLISHED", "RELATED") or self.error(packet):
            return "accept"
        entries = [
            (e, self.admits(e, packet, "from", packet.port, packet.destination))
            for e in self.policy.get("forwards", {}).values()
            if "target" not in e
        ]
        if packet.published:
            before = _Before(packet)
        found = self.opened(entries + self.through(packet, before), packet)
        if found is not None:
            return found
        if packet.published and packet.state.name in ("NEW", "UNTRACKED"):
            if self.defaults["published"] == "keep":
                return "accept"
            services = self.policy.get("services", {}).values()
            own = [(e, self.admits(e, packet, "from", before.port, before.destination)) for e in services]
            return self.opened(own, packet) or self.default("inbound")
        return self.default("forward")


class _Before:
    """Where a packet was going before somebody else turned it."""

    def __init__(self, packet: Any) -> None:
        self.destination, self.port = packet.original


def target(text: str) -> tuple[Any, int | None]:
    """Address and port of a `target`."""
    if text.startswith(":"):
        return None, int(text[1:])
    if text.startswith("["):
        host, _, port = text[1:].partition("]")
        return ip_address(host), int(port[1:]) if port else None
    host, _, port = text.partition(":")
    return ip_address(host), int(port) if port else None
