"""The shape of a policy file, as pydantic models: `TopFile` (a policy) and `Fragment` (an included file).

Field names are the policy's keys; where a key is a Python word it has an underscore at its end (`from_`, `except_`,
`in_`). Lists are tuples of the values of `items`. A field that is absent is None (or the default shown).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from portctl.net import Address
from portctl.policy.items import AddressItem, PortItem, Target, Until
from portctl.ruleset import Rate

AddressList = tuple[AddressItem, ...]
PortList = tuple[PortItem, ...]
NameList = tuple[str, ...]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, defer_build=True, arbitrary_types_allowed=True)


class About(Strict):
    """What every entry may say of itself."""

    until: Until | None = None
    description: str | None = None
    owner: str | None = None
    ticket: str | None = None


class Common(About):
    """What every entry that opens something may say."""

    ports: PortList
    source_ports: PortList | None = None
    except_: Annotated[AddressList | None, Field(alias="except")] = None
    rate: Rate | None = None
    max_connections: int | None = None
    log: bool = False


class Service(Common):
    from_: Annotated[AddressList, Field(alias="from")]
    to: AddressList | None = None
    in_: Annotated[NameList | None, Field(alias="in")] = None
    process: str | None = None
    listener: Literal["required", "optional"] = "required"


class Egress(Common):
    from_: Annotated[AddressList | None, Field(alias="from")] = None
    to: AddressList
    out: NameList | None = None
    user: str | None = None


class Forward(Common):
    from_: Annotated[AddressList, Field(alias="from")]
    to: AddressList | None = None
    in_: Annotated[NameList | None, Field(alias="in")] = None
    out: NameList | None = None
    target: Target | None = None
    masquerade: bool | Address = False
    mss: Literal["path"] | None = None


class Block(About):
    """One entry of `block`. `both` is a bare address or group (`- bans`); else exactly one of `from_` and `to`."""

    both: AddressItem | None = None
    from_: Annotated[AddressList | None, Field(alias="from")] = None
    to: AddressList | None = None
    except_: Annotated[AddressList | None, Field(alias="except")] = None
    in_: Annotated[NameList | None, Field(alias="in")] = None
    ports: PortList | None = None


class Expected(Strict):
    """One entry of `tests`. Exactly one of `service` and `ports`."""

    from_: Annotated[AddressList, Field(alias="from")]
    except_: Annotated[AddressList | None, Field(alias="except")] = None
    to: AddressList | None = None
    in_: Annotated[NameList | None, Field(alias="in")] = None
    out: NameList | None = None
    service: str | None = None
    ports: PortList | None = None
    expect: Literal["allow", "deny"]
    description: str | None = None


Required = Literal["description", "owner", "ticket", "until"]


class Defaults(Strict):
    """None is "not said": `Policy.defaults` has the language's own default in its place, but for `forward`."""

    inbound: Literal["drop", "reject"] | None = None
    outbound: Literal["allow", "drop", "reject"] | None = None
    forward: Literal["keep", "drop", "reject"] | None = None
    published: Literal["keep", "govern"] | None = None
    log_denied: bool | None = None
    require: tuple[Required, ...] | None = None


class Sysctl(Strict):
    ephemeral_ports: str | None = None
    reserved_ports: str | None = None
    tcp_keepalive_time: int | None = None
    tcp_keepalive_intvl: int | None = None
    tcp_keepalive_probes: int | None = None
    forwarding: bool | None = None
    linux: dict[str, Any] | None = None
    freebsd: dict[str, Any] | None = None
    openbsd: dict[str, Any] | None = None
    macos: dict[str, Any] | None = None


class Fragment(Strict):
    description: str | None = None
    include: tuple[str, ...] = ()
    addresses: dict[str, AddressList] = {}
    interfaces: dict[str, tuple[str, ...]] = {}
    ports: dict[str, PortList] = {}
    services: dict[str, Service] = {}
    block: tuple[Block, ...] = ()
    egress: dict[str, Egress] = {}
    forwards: dict[str, Forward] = {}
    defaults: Defaults = Defaults()
    sysctl: Sysctl = Sysctl()
    tests: tuple[Expected, ...] = ()


class TopFile(Fragment):
    portctl: Literal[1]
    name: str
