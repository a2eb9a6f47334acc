"""The values that stand in a policy's lists: small, typed, parsed once.

Names are resolved later (`resolve`); everything that can be known of one text alone is known here.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from portctl.net import Address, Family


class AddressRange(NamedTuple):
    """The addresses from `first` to `last`, both included, read as unsigned integers: an address, network or range."""

    version: Family
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class AddressName:
    """The name of a group of the policy's `addresses`."""

    name: str


@dataclass(frozen=True, slots=True)
class AnyAddress:
    """`any`: every address of both families."""


@dataclass(frozen=True, slots=True)
class SelfAddress:
    """`self`: this host. Only in `from` and `to` of `tests`."""


@dataclass(frozen=True, slots=True)
class AddressFile:
    """`{file: PATH}`: relative to the folder of the file that names it."""

    path: str
    may_be_empty: bool = False


@dataclass(frozen=True, slots=True)
class LiveAddresses:
    """`{live: true}`: the members live on the host. Only as the whole of a group."""


AddressItem = AddressRange | AddressName | AnyAddress | SelfAddress | AddressFile | LiveAddresses


@dataclass(frozen=True, slots=True)
class PortName:
    """A name of the policy's `ports` or of portctl's own table."""

    name: str


@dataclass(frozen=True, slots=True)
class PortRange:
    """The ports from `first` to `last`, both included, of each protocol (6 tcp, 17 udp, 132 sctp; ascending)."""

    protocols: tuple[int, ...]
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Protocol:
    """A whole protocol without ports, by its IANA number: `esp`, `proto/97`."""

    number: int


@dataclass(frozen=True, slots=True)
class Ping:
    """`ping`: ICMP and ICMPv6 echo request."""


@dataclass(frozen=True, slots=True)
class AnyPort:
    """`any`: every protocol, port and ICMP type."""


PortItem = PortName | PortRange | Protocol | Ping | AnyPort


@dataclass(frozen=True, slots=True)
class Until:
    """`end` is the first moment, in UTC, at which the entry no longer holds; `text` is what the policy says."""

    end: datetime
    text: str


@dataclass(frozen=True, slots=True)
class Target:
    """Where a forward leads. `address` None is this host; `port` None keeps the port."""

    address: Address | None
    port: int | None
