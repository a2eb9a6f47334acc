"""One large policy of every kind of entry at once: what the nesting of chains and the time to load them are held to."""

from __future__ import annotations

from typing import Any

Plain = dict[str, Any]

LIMITS: tuple[Plain, ...] = ({"rate": "5/minute"}, {"max_connections": 20}, {"rate": "9/hour", "max_connections": 3})
PROTOCOLS = ("tcp", "udp", "tcp+udp", "sctp")
DEVICES = {"public": ["eth0", "eth1", "wan*", "ppp0"], "inside": ["lan0", "lan1", "br*", "veth7"], "vpn": ["wg0"]}


def _sources(number: int, count: int) -> list[str]:
    """Networks of both families that do not touch."""
    four = [f"10.{number % 250}.{16 * k}.{number // 250 * 8}/29" for k in range(count)]
    return [*four, *(f"2001:db8:{number:x}:{k * 16:x}::/60" for k in range(count))]


def _ports(number: int) -> list[str]:
    """One port, some, or ranges, so that no two entries merge. Below 40000."""
    first, protocol = 1030 + 12 * number, PROTOCOLS[number % len(PROTOCOLS)]
    shapes = ([first], [first, first + 2, first + 5], [f"{first}-{first + 3}", first + 7], [f"{first + 1}-{first + 9}"])
    return [f"{shape}/{protocol}" for shape in shapes[number // 7 % len(shapes)]]


def _opening(number: int) -> Plain:
    """Its conditions go round with its number. Every third one is limited."""
    found: Plain = {"ports": _ports(number)}
    if number % 3 == 0:
        found |= LIMITS[number // 3 % len(LIMITS)]
    if number % 11 == 0:
        found["log"] = True
    if number % 13 == 0:
        found["until"] = "2027-01-31"
    return found


def _service(number: int) -> Plain:
    found = _opening(number) | {"from": _sources(number, 1 + number % 6)}
    if number % 5 == 0:
        found["in"] = "public"
    if number % 17 == 0:
        found["to"] = [f"192.0.2.{k}" for k in (1, 5, 9)] + [f"2001:db8::{k}" for k in (1, 5, 9)]
    if number % 19 == 0:
        found |= {"source_ports": ["1024-65535/" + PROTOCOLS[number % len(PROTOCOLS)]]}
    return found


def _neighbours(count: int) -> dict[str, Plain]:
    """Entries on one port that each ask several things in several ways: none of them is quick to say."""
    return {
        f"close{n}": {
            "ports": "999/tcp",
            "from": _sources(2000 + n, 3),
            "to": [f"192.0.2.{k}" for k in (1, 5, 9)] + ["2001:db8::1", "2001:db8::5"],
            "in": ["public", "inside"],
            "log": n % 2 == 0,
        }
        for n in range(count)
    }


def _forward(number: int) -> Plain:
    """Two of three are translated, to other hosts, to other ports of this one or to the very same place."""
    found = _opening(number) | {"from": ["198.51.100.0/24", "2001:db8:77::/48"], "in": "public"}
    if number % 3 == 2:
        return found | {"to": _sources(number, 2), "out": "inside", "masquerade": number % 2 == 0}
    port = f":{41000 + number}" if number % 7 else ""
    host = ("10.250.0.5", "[2001:db8:250::5]" if port else "2001:db8:250::5", "" if port else "10.250.0.6")[number % 3]
    return found | {"target": host + port}


def nasty(services: int = 3000, others: int = 600) -> Plain:
    """A policy as plain data, with `services` services and as many `others` of each other kind."""
    both = {n: _service(n) for n in range(services)}
    egress = {f"e{n}": _opening(n) | {"to": _sources(n, 1 + n % 6)} for n in range(others)}
    for n, entry in enumerate(egress.values()):
        if n % 4 == 0:
            entry["user"] = "nobody"
    return {
        "portctl": 1,
        "name": "nasty",
        "addresses": {"bans": {"live": True}, "feed": [f"203.0.113.{2 * k}" for k in range(100)]},
        "interfaces": DEVICES,
        "services": {f"s{n}": entry for n, entry in both.items()}
        | _neighbours(12)
        | {
            "ping": {"ports": "ping", "from": "any", "rate": "5/second"},
            "tunnel": {"ports": ["esp", "gre"], "from": _sources(7, 5)},
            "all": {"ports": "any", "from": "192.0.2.0/24", "in": "vpn", "log": True},
        },
        "block": [
            "bans",
            "203.0.113.3",
            {"from": "feed", "except": ["203.0.113.8"], "ports": ["25/tcp", "53/udp"]},
            *({"from": f"203.0.114.{k}", "in": "public"} for k in range(40)),
            *({"to": "any", "except": [f"203.0.115.{k}"], "ports": f"{600 + k}/tcp"} for k in range(40)),
        ],
        "egress": egress,
        "forwards": {f"f{n}": _forward(n) for n in range(others)},
        "defaults": {
            "inbound": "reject",
            "outbound": "reject",
            "forward": "reject",
            "published": "govern",
            "log_denied": True,
        },
    }
