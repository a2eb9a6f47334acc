"""Whole valid policies made by Hypothesis, from universes so small that entries meet at their corners.

`policies(seed, count)` gives the same policies for the same seed (and version of Hypothesis): the system tests load
them into real kernels.
"""

from __future__ import annotations

import json
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from portctl import document, policy
from portctl.files import Files
from portctl.problems import Problems
from portctl.resolve import resolve
from portctl.ruleset import Ruleset

AT = datetime(2026, 7, 1, tzinfo=UTC)
Plain = dict[str, Any]

GROUPS = {
    "office": ["198.51.100.0/24", "2001:db8:10::/48"],
    "guests": ["198.51.100.128/25", "2001:db8:10:ff::/64"],
    "four": ["203.0.113.0/26", "203.0.113.64-203.0.113.70"],
    "mixed": ["office", "203.0.113.7", "2001:db8:20::1-2001:db8:20::9"],
}
SOURCES = ["any", "198.51.100.0/25", "198.51.100.7", "203.0.113.60-203.0.113.67", "0.0.0.0/0", "::/0", "2001:db8:10::7"]
SOURCES += ["10.0.0.0/8", "fe80::/10", "0.0.0.0", *GROUPS]
DESTINATIONS = ["192.0.2.1", "192.0.2.0/28", "224.0.0.251", "2001:db8::1", "ff02::fb", "192.0.2.2-192.0.2.9"]
OWN = ["192.0.2.1", "2001:db8::1", "192.0.2.0/28", "any"]
"""Sources of what this host starts."""
NARROW: list[Any] = ["22/tcp", "http", "80-90/tcp", ["443/tcp", "1-65535/tcp"]]
SOURCE_PORTS = ["1024-65535/tcp", "53/tcp"]
"""Ports of one protocol, so that source ports may be asked for beside them."""
REMOTE = ["any", "203.0.113.5", "203.0.113.0/24", "10.0.0.0/8", "2001:db8:9::/48", "office", "four"]
TARGETS = ["10.0.0.5:80", "10.0.0.5", ":80", "[2001:db8:9::5]:443", "10.0.0.6:22"]
INTERFACES = {"public": ["eth0", "wan*"], "lan": ["lan0"], "both": ["eth0", "lan0"]}
PORT_GROUPS = {"app": ["9000/tcp", "9001/udp"], "more": ["app", "9002-9004/tcp"]}
PORTS = ["ssh", "22/tcp", "http", "80-90/tcp", "85-100/tcp+udp", "domain", "ping", "esp", "443/tcp+udp", "app", "more"]
PORTS += ["proto/97", "5000/sctp", "1-65535/udp", "vrrp", "25/tcp", "65535/tcp", "1/udp"]
LIMITS: list[Plain] = [{"rate": "3/minute"}, {"max_connections": 5}, {"rate": "3/minute", "max_connections": 5}]
NAMES = ["alpha", "beta", "gamma", "delta", "on", "drop", "eps_1", "zeta-2"]


def some(values: list[str], most: int = 3) -> st.SearchStrategy[Any]:
    """One value, or a list of some."""
    return st.one_of(st.sampled_from(values), st.lists(st.sampled_from(values), min_size=1, max_size=most, unique=True))


def seldom(value: st.SearchStrategy[Any], one_in: int = 4) -> st.SearchStrategy[Any]:
    """A value once in so many times, else None."""
    return st.integers(1, one_in).flatmap(lambda number: value if number == 1 else st.none())


@st.composite
def entry(draw: st.DrawFn, /, **fields: st.SearchStrategy[Any]) -> Plain:
    """A mapping of those fields that are not None."""
    drawn = {name.rstrip("_"): draw(strategy) for name, strategy in fields.items()}
    found = {name: value for name, value in drawn.items() if value is not None}
    return found | (found.pop("limit", None) or {})


def _opening(limit: st.SearchStrategy[Any], **fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Plain]:
    return entry(
        ports=st.one_of(some(PORTS), st.just("any")),
        limit=seldom(limit),
        log=seldom(st.just(True)),
        until=seldom(st.sampled_from(["2026-12-31", "2026-06-30", "2027-01-31T18:00Z"]), 6),
        **fields,
    )


def _narrow(opening: st.SearchStrategy[Plain]) -> st.SearchStrategy[Plain]:
    """The same, now and then of TCP alone and with source ports."""
    asked = entry(ports=st.sampled_from(NARROW), source_ports=st.sampled_from(SOURCE_PORTS))
    return st.one_of(opening, opening, st.builds(lambda one, other: {**one, **other}, opening, asked))


def _service(limit: st.SearchStrategy[Any]) -> st.SearchStrategy[Plain]:
    return _opening(
        limit,
        from_=some(SOURCES),
        except_=seldom(some(SOURCES[1:])),
        to=seldom(some(DESTINATIONS), 6),
        in_=seldom(some(list(INTERFACES)), 3),
    )


def _egress(limit: st.SearchStrategy[Any], wide: bool) -> st.SearchStrategy[Plain]:
    more: dict[str, st.SearchStrategy[Any]] = {"from_": seldom(some(OWN, 2))} if wide else {}
    return _opening(
        limit,
        **more,
        to=some(REMOTE),
        except_=seldom(some(REMOTE[1:])),
        out=seldom(some(list(INTERFACES))),
        user=seldom(st.sampled_from(["_apt", "nobody"])),
    )


def _forward(limit: st.SearchStrategy[Any], wide: bool) -> st.SearchStrategy[Plain]:
    more = {"mss": seldom(st.just("path"), 2), "except_": seldom(some(SOURCES[1:]), 2)} if wide else {}
    addresses: list[Any] = ["192.0.2.1", "2001:db8::1"] if wide else []
    route = _opening(
        limit,
        **more,
        from_=some(SOURCES),
        to=seldom(some(REMOTE), 2),
        in_=seldom(some(list(INTERFACES)), 2),
        out=seldom(some(list(INTERFACES)), 2),
        masquerade=seldom(st.sampled_from([True, *addresses]), 2 if wide else 4),
    )
    if wide:
        route = _narrow(route)
    turned = entry(
        ports=st.sampled_from(["8080/tcp", "8081/tcp+udp", "http", "ssh", ["8080-8090/tcp", "53/udp"]]),
        from_=some(SOURCES),
        except_=seldom(some(SOURCES[1:])),
        in_=seldom(some(list(INTERFACES))),
        to=seldom(st.just("192.0.2.80"), 5),
        target=st.sampled_from(TARGETS),
        limit=seldom(limit),
    )
    return st.one_of(route, turned)


def _block(wide: bool) -> st.SearchStrategy[Any]:
    literal = st.sampled_from(["203.0.113.66", "198.51.100.200", "2001:db8:bad::/48", "four", "guests", "bans"])
    source = entry(
        from_=some([*SOURCES[1:], "bans"], 2),
        except_=seldom(some(["198.51.100.7", "office", "2001:db8:10::7"]), 2),
        in_=seldom(some(list(INTERFACES))),
        ports=seldom(some(PORTS), 2),
    )
    destination = entry(
        to=some(["any", *(["bans", "bans"] if wide else []), *REMOTE[1:]], 2),
        except_=seldom(some(["203.0.113.5", "10.0.0.0/9"]), 2),
        ports=some(["25/tcp", "domain", "ping", "80-90/tcp"]),
    )
    return st.one_of(literal, literal, source, destination)


def _named(strategy: st.SearchStrategy[Plain], least: int, most: int) -> st.SearchStrategy[dict[str, Plain]]:
    return st.dictionaries(st.sampled_from(NAMES), strategy, min_size=least, max_size=most)


@cache
def _parts(limit: int, wide: bool) -> dict[str, st.SearchStrategy[Any]]:
    """The entries of a policy whose limits are all the same: made once, Hypothesis takes long to look at each anew."""
    same = st.just(LIMITS[limit])
    service, egress = _service(same), _egress(same, wide)
    return {
        "forwards": st.one_of(st.just({}), _named(_forward(same, wide), 1, 3)),
        "services": _named(_narrow(service) if wide else service, 1, 5),
        "block": st.lists(_block(wide), max_size=3),
        "egress": _named(_narrow(egress) if wide else egress, 1, 4),
    }


@st.composite
def policies_of_all_kinds(draw: st.DrawFn, wide: bool = False) -> Plain:
    """A policy as plain data. Most are valid; `ruleset` tells. `wide`: with the keys too that not every packet filter
    can say."""
    parts = _parts(draw(st.sampled_from(range(len(LIMITS)))), wide)
    forwards = draw(parts["forwards"])
    outbound = draw(st.sampled_from(["allow", "drop", "reject"]))
    defaults: Plain = {
        "inbound": draw(st.sampled_from(["drop", "reject"])),
        "outbound": outbound,
        "forward": draw(st.sampled_from(["drop", "reject", "keep"])),
        "published": draw(st.sampled_from(["keep", "govern"])),
        "log_denied": draw(st.booleans()),
    }
    found: Plain = {
        "portctl": 1,
        "name": "generated",
        "addresses": {**GROUPS, "bans": {"live": True}},
        "interfaces": INTERFACES,
        "ports": PORT_GROUPS,
        "services": draw(parts["services"]),
        "block": draw(parts["block"]),
        "egress": draw(parts["egress"]) if outbound != "allow" else {},
        "forwards": forwards,
        "defaults": defaults,
    }
    return {key: value for key, value in found.items() if value not in ({}, [])}


def text(plain: Plain) -> str:
    """A policy file. JSON is YAML."""
    return json.dumps(plain, indent=1) + "\n"


def ruleset(plain: Plain) -> Ruleset | None:
    """What a policy means; None for one that is not valid."""
    try:
        read = policy.validate(document.read(text(plain), "policy.yaml"))
        return resolve(read, AT, Files(Path()))[0]
    except Problems:
        return None


def _entries(plain: Plain) -> int:
    return sum(len(plain.get(part, ())) for part in ("services", "block", "egress", "forwards"))


class Enough(BaseException):
    """Ends Hypothesis, which takes any `Exception` for a failure of the test."""


def policies(number: int, count: int, wide: bool = False) -> list[Plain]:
    """So many different valid policies, the same for the same seed."""
    found: dict[str, Plain] = {}

    @seed(number)
    @settings(
        max_examples=5 * count,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(policies_of_all_kinds(wide))
    def collect(plain: Plain) -> None:
        if len(found) < count and _entries(plain) > 2 and ruleset(plain) is not None:
            found[text(plain)] = plain
        if len(found) == count:
            raise Enough

    with suppress(Enough):
        collect()
    return list(found.values())
