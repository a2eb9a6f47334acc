"""Entries with `until` on the iptables back end, both variants: the kernel ends them by itself, in every time zone."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from portctl.backends import iptables
from portctl.backends.base import Ability, bundle
from portctl.ruleset import Ruleset
from tests.nftables_cases import FIRST_IN, KNOWN_IN, block, one, starts
from tests.nftables_cases import tcp as tcp_flow
from tests.system import worlds
from tests.system.dialling import dial, serve, tcp
from tests.system.worlds import World, checked, until

RING = "the iptables scripts, entries that end"
NEEDS = ("iptables-nft", "ip6tables-nft", "iptables-legacy", "ip6tables-legacy", "ipset", "dash")
V6 = "2001:db8::10"


@pytest.fixture(params=("nft", "legacy"))
def variant(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def world() -> Iterator[World]:
    with worlds.world() as made:
        yield made


def load(world: World, variant: str, ruleset: Ruleset, zone: str = "UTC") -> None:
    for name, text in bundle(iptables, ruleset, Ability()).items():
        world.machine.put(f"/run/bundle/{name}", text.encode())
    tools = (f"IPTABLES=iptables-{variant}", f"IP6TABLES=ip6tables-{variant}")
    checked(world.machine, "env", *tools, f"TZ={zone}", "dash", "/run/bundle/load.sh")


def test_an_entry_ends_at_its_moment_in_every_zone(world: World, variant: str) -> None:
    serve(world.machine, 7, 8, 9)
    now = datetime.now(UTC)
    rules = (
        block("over", flows=(tcp_flow(9),), until=now - timedelta(minutes=1)),
        starts("past", tcp_flow(7), until=now - timedelta(minutes=1)),
        starts("soon", tcp_flow(8), until=now + timedelta(minutes=9)),
        starts("blocked before", tcp_flow(9)),
    )
    ways = [tcp(port, host) for host in ("192.0.2.10", V6) for port in (7, 8, 9)]
    for zone in ("UTC", "Asia/Tokyo", "America/New_York"):
        load(world, variant, one(*FIRST_IN, *KNOWN_IN, *rules), zone)
        assert dial(world.controller, *ways) == ["silent", "open", "open"] * 2, zone


def test_the_kernel_ends_an_entry_without_anybody_loading_anything(world: World, variant: str) -> None:
    """The opening closes, and what was blocked until then is open."""
    serve(world.machine, 7, 8)
    end = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=12)
    rules = (
        block("for now", flows=(tcp_flow(8),), until=end),
        starts("soon over", tcp_flow(7), until=end),
        starts("later", tcp_flow(8)),
    )
    load(world, variant, one(*FIRST_IN, *KNOWN_IN, *rules))
    ways = (tcp(7), tcp(8), tcp(7, V6), tcp(8, V6))
    seen = dial(world.controller, *ways)
    assert datetime.now(UTC) < end, "too slow to tell"
    assert seen == ["open", "silent"] * 2
    until(lambda: datetime.now(UTC) > end + timedelta(seconds=1), "the end of the entries", 20)
    assert dial(world.controller, *ways) == ["silent", "open"] * 2
