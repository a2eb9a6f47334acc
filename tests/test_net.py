"""Sets of numbers and addresses: exact, canonical, the same as sets of Python."""

from __future__ import annotations

from ipaddress import collapse_addresses, ip_address, ip_network

from hypothesis import given
from hypothesis import strategies as st

from portctl.net import (
    ANYWHERE,
    FAMILIES,
    NOWHERE,
    Addresses,
    Ranges,
    address_text,
    describe,
    network_texts,
    networks,
)

PAIRS = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 12)).map(lambda p: (p[0], p[0] + p[1])), max_size=8)


def members(ranges: Ranges) -> set[int]:
    return {number for first, last in ranges.pairs() for number in range(first, last + 1)}


@given(PAIRS, PAIRS)
def test_ranges_are_sets(left: list[tuple[int, int]], right: list[tuple[int, int]]) -> None:
    a, b = Ranges.of(left), Ranges.of(right)
    x = {n for first, last in left for n in range(first, last + 1)}
    y = {n for first, last in right for n in range(first, last + 1)}
    assert members(a) == x
    assert members(a | b) == x | y
    assert members(a & b) == x & y
    assert members(a - b) == x - y
    assert (a <= b) == (x <= y)
    assert a.isdisjoint(b) == x.isdisjoint(y)
    assert a.count() == len(x)
    assert all((n in a) == (n in x) for n in range(75))


@given(PAIRS)
def test_equal_sets_are_equal_values(pairs: list[tuple[int, int]]) -> None:
    ranges = Ranges.of(pairs)
    assert Ranges.of((n, n) for n in members(ranges)) == ranges
    assert list(ranges.bounds) == sorted(set(ranges.bounds))


@given(PAIRS, st.lists(st.integers(0, 4000), min_size=200, max_size=300))
def test_a_short_set_met_by_a_long_one(pairs: list[tuple[int, int]], numbers: list[int]) -> None:
    short, long = Ranges.of(pairs), Ranges.of((n, n) for n in numbers)
    assert members(short & long) == members(short) & set(numbers) == members(long & short)


@given(st.lists(st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 32)), min_size=1, max_size=12))
def test_networks_are_the_fewest_that_cover(pairs: list[tuple[int, int]]) -> None:
    wanted = [ip_network((number, length), strict=False) for number, length in pairs]
    ranges = Ranges.of((int(n[0]), int(n[-1])) for n in wanted)
    found = [ip_network(f"{address_text(first, 4)}/{length}") for first, length in networks(ranges, 4)]
    assert found == list(collapse_addresses(wanted))  # type: ignore[type-var]


def test_text_is_canonical() -> None:
    addresses = Addresses.of("192.0.2.0/25", "192.0.2.128/25", "198.51.100.7", "2001:db8:0:0::/64", "2001:db8:0:1::/64")
    assert list(network_texts(addresses.v4, 4)) == ["192.0.2.0/24", "198.51.100.7"]
    assert list(network_texts(addresses.v6, 6)) == ["2001:db8::/63"]
    assert describe(addresses) == "192.0.2.0/24, 198.51.100.7, 2001:db8::/63"
    assert describe(ANYWHERE) == "everywhere"
    assert describe(NOWHERE) == "nobody"


def test_families() -> None:
    both = Addresses.of("0.0.0.0/0", "::/0")
    assert both == ANYWHERE
    assert both.families() == FAMILIES
    assert both.only(6).families() == (6,)
    assert ip_address("::1") in both.only(6)
    assert ip_address("0.0.0.1") not in both.only(6)
    assert Addresses.of("10.0.0.0-10.0.0.255") == Addresses.of("10.0.0.0/24")
    assert Addresses.of("10.0.0.0/24") <= Addresses.of("10.0.0.0/8")
