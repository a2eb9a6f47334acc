"""What of all addresses is the Internet."""

from __future__ import annotations

from portctl.net import ANYWHERE, FAMILIES, Addresses

SPECIAL = Addresses.of(
    "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24",
    "192.0.2.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/3",
)  # fmt: skip
"""IPv4 that is nobody's on the Internet (RFC 6890)."""
INTERNET = Addresses(ANYWHERE.v4 - SPECIAL.v4, Addresses.of("2000::/3").v6)


def width(addresses: Addresses) -> float:
    """How much of the Internet a set holds, from 0 to 1: of the family of which it holds more."""
    shares = []
    for family in FAMILIES:
        whole_of = INTERNET.family(family)
        shares.append((addresses.family(family) & whole_of).count() / whole_of.count())
    return max(shares)


def is_internet(addresses: Addresses) -> bool:
    """Whether a set holds more of the Internet than a /8."""
    return (addresses.v4 & INTERNET.v4).count() > 1 << 24 or (addresses.v6 & INTERNET.v6).count() > 1 << 120
