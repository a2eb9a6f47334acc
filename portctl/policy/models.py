# ruff: noqa: RUF009 - `key` makes fields
"""The shape of a policy file: `TopFile` (a policy) and `Fragment` (an included file), and their entries.

Field names are the policy's keys; where a key is a Python word it has an underscore at its end (`from_`, `except_`,
`in_`). Lists are tuples of the values of `items`. A field that is absent is None (or the default shown).

pydantic's validation core fills these dataclasses (`check`). Its model classes would cost every start of portctl a
tenth of a second, so the fields declare here what model classes would: how they are read, what they mean, examples.
"""

from __future__ import annotations

from dataclasses import dataclass

from portctl.net import Address
from portctl.policy import shape
from portctl.policy.items import AddressItem, PortItem, Target, Until
from portctl.policy.shape import Nested, key
from portctl.ruleset import Rate

AddressList = tuple[AddressItem, ...]
PortList = tuple[PortItem, ...]
NameList = tuple[str, ...]

_FROM = "Who may connect: groups, addresses, networks, ranges `a-b`, or `any`. One or a list."
_EXCEPT = "Who may not, although `from` includes them."
_PORTS = "Which ports: names (`ssh`), `22/tcp`, `8000-8010/tcp`, `53/tcp+udp`, `ping`, a protocol (`esp`), or `any`."
_IN = "Interface groups by which the packets come in. Default: every one."


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What every entry may say of itself."""

    until: Until | None = key(
        shape.UNTIL,
        "Last day on which the entry holds, in UTC, or a moment with its zone.",
        "2027-01-31",
        "2027-01-31T18:00Z",
        default=None,
    )
    description: str | None = key(shape.TEXT, "Why the entry is there.", "public web front end", default=None)
    owner: str | None = key(shape.TEXT, "Who answers for the entry.", "web team", default=None)
    ticket: str | None = key(shape.TEXT, "Where the entry was decided.", "OPS-1234", default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Common(About):
    """What every entry that opens something may say."""

    ports: PortList = key(shape.PORTS, _PORTS, "ssh", ["http", "https", "443/udp"])
    source_ports: PortList | None = key(
        shape.PORTS, "Ports that the packets must come from, of the same protocols.", "123/udp", default=None
    )
    rate: Rate | None = key(
        shape.RATE,
        "New connections from one source (an IPv4 address, an IPv6 /64) in a time.",
        "10/minute",
        default=None,
    )
    max_connections: int | None = key(
        shape.number(1), "Connections that one source may hold at the same time.", 200, default=None
    )
    log: bool = key(shape.FLAG, "Log what the entry admits.", True, default=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Service(Common):
    from_: AddressList = key(shape.SOURCES, _FROM, "any", ["office", "192.0.2.7"])
    except_: AddressList | None = key(shape.ADDRESSES, _EXCEPT, ["203.0.113.66"], default=None)
    to: AddressList | None = key(
        shape.ADDRESSES,
        "Destination, before any translation. Default: whatever reaches this host.",
        "202.54.1.1",
        default=None,
    )
    in_: NameList | None = key(shape.INTERFACES, _IN, "public", default=None)
    process: str | None = key(shape.PROCESS, "For `verify`: the process that must be listening.", "nginx", default=None)
    listener: str = key(
        shape.one_of("required", "optional"), "For `verify`: must somebody listen?", "optional", default="required"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Egress(Common):
    from_: AddressList | None = key(
        shape.SOURCES, "Own addresses that the packets leave from.", "192.0.2.1", default=None
    )
    to: AddressList = key(shape.ADDRESSES, "Where this host may connect to.", "any", ["192.0.2.53"])
    except_: AddressList | None = key(
        shape.ADDRESSES, "Where not, although `to` includes it.", "10.0.0.0/8", default=None
    )
    out: NameList | None = key(shape.INTERFACES, "Interface groups by which the packets leave.", "public", default=None)
    user: str | None = key(shape.USER, "The local user to whom the sending socket belongs.", "_apt", default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Forward(Common):
    from_: AddressList = key(shape.SOURCES, _FROM, "any", "10.0.0.0/8")
    except_: AddressList | None = key(shape.ADDRESSES, _EXCEPT, ["203.0.113.66"], default=None)
    to: AddressList | None = key(
        shape.ADDRESSES,
        "Destination, before translation. Default with `target`: this host's addresses, else everywhere.",
        "10.0.0.0/8",
        default=None,
    )
    in_: NameList | None = key(shape.INTERFACES, _IN, "lan", default=None)
    out: NameList | None = key(shape.INTERFACES, "Interface groups by which the packets leave.", "public", default=None)
    target: Target | None = key(
        shape.TARGET,
        "Where the packets are sent instead: `ADDRESS:PORT`, `ADDRESS`, or `:PORT` of this host.",
        "10.0.0.5:80",
        "[2001:db8::5]:80",
        ":80",
        default=None,
    )
    masquerade: bool | Address = key(
        shape.MASQUERADE, "Hide the client behind this host's outgoing address, or the one given.", True, default=False
    )
    mss: str | None = key(shape.one_of("path"), "`path`: fit TCP's segment size to the path.", "path", default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Block(About):
    """One entry of `block`. `both` is a bare address or group (`- bans`); else exactly one of `from_` and `to`."""

    both: AddressItem | None = None
    from_: AddressList | None = key(shape.SOURCES, "Blocked as a source.", "feed", default=None)
    to: AddressList | None = key(shape.ADDRESSES, "Blocked as a destination.", "any", default=None)
    except_: AddressList | None = key(shape.ADDRESSES, "Not these, although they are named.", ["office"], default=None)
    in_: NameList | None = key(shape.INTERFACES, _IN + " With `from` only.", "public", default=None)
    ports: PortList | None = key(shape.PORTS, "These ports only. Default: every packet.", "smtp", default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """One entry of `tests`. Exactly one of `service` and `ports`."""

    from_: AddressList = key(shape.ENDS, "Source of the packets; `self` is this host.", "198.51.100.9", "any", "self")
    except_: AddressList | None = key(shape.ADDRESSES, "Sources that are not meant.", ["office"], default=None)
    to: AddressList | None = key(shape.ENDS, "Destination. Default: this host.", "192.0.2.53", default=None)
    in_: NameList | None = key(shape.INTERFACES, _IN, "lan", default=None)
    out: NameList | None = key(shape.INTERFACES, "Interface groups by which the packets leave.", "public", default=None)
    service: str | None = key(shape.NAME, "All ports of this service.", "ssh", default=None)
    ports: PortList | None = key(shape.PORTS, _PORTS, "22/tcp", default=None)
    expect: str = key(shape.one_of("allow", "deny"), "The verdict on every packet of the set.", "allow", "deny")
    description: str | None = key(shape.TEXT, "What the test is about.", "the office gets in", default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Defaults:
    """None is "not said": `Policy.defaults` has the language's own default in its place, but for `forward`."""

    inbound: str | None = key(
        shape.one_of("drop", "reject"), "What nothing admits: `drop` (default) or `reject`.", "drop", default=None
    )
    outbound: str | None = key(
        shape.one_of("allow", "drop", "reject"),
        "What this host starts and `egress` does not name: `allow` (default), `drop` or `reject`.",
        "allow",
        default=None,
    )
    forward: str | None = key(
        shape.one_of("keep", "drop", "reject"),
        "What passes through and `forwards` does not name: `keep` (default: leave it alone), `drop` or `reject`.",
        "drop",
        default=None,
    )
    published: str | None = key(
        shape.one_of("keep", "govern"),
        "Ports that container engines publish: `keep` (default), or `govern`: only as `services` says.",
        "govern",
        default=None,
    )
    log_denied: bool | None = key(shape.FLAG, "Log, rate-limited, what is dropped or rejected.", True, default=None)
    require: tuple[str, ...] | None = key(
        shape.any_of("description", "owner", "ticket", "until"),
        "Keys that every entry must have.",
        ["owner", "ticket"],
        default=None,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Sysctl:
    ephemeral_ports: str | None = key(
        shape.PORT_RANGE, "Ports that outgoing connections get.", "32768-60999", default=None
    )
    reserved_ports: str | None = key(
        shape.PORT_RANGES, "Ports that outgoing connections never get.", [8080, "9000-9010"], default=None
    )
    tcp_keepalive_time: int | None = key(
        shape.number(1, 32767), "Seconds a connection is idle before the first keepalive probe.", 2000, default=None
    )
    tcp_keepalive_intvl: int | None = key(
        shape.number(1, 32767), "Seconds between two keepalive probes.", 75, default=None
    )
    tcp_keepalive_probes: int | None = key(
        shape.number(1, 127), "Keepalive probes lost before the connection is.", 9, default=None
    )
    forwarding: bool | None = key(shape.FLAG, "Pass packets on between interfaces.", True, default=None)
    forwarding_v4: bool | None = key(shape.FLAG, "Pass IPv4 packets on between interfaces.", True, default=None)
    forwarding_v6: bool | None = key(shape.FLAG, "Pass IPv6 packets on between interfaces.", True, default=None)
    linux: dict[str, str] | None = key(
        shape.SETTINGS, "Raw settings of Linux.", {"net.ipv4.tcp_syncookies": 1}, default=None
    )
    freebsd: dict[str, str] | None = key(
        shape.SETTINGS, "Raw settings of FreeBSD.", {"net.inet.tcp.blackhole": 2}, default=None
    )
    openbsd: dict[str, str] | None = key(
        shape.SETTINGS, "Raw settings of OpenBSD.", {"net.inet.tcp.syncookies": 1}, default=None
    )
    macos: dict[str, str] | None = key(
        shape.SETTINGS, "Raw settings of macOS.", {"net.inet.tcp.blackhole": 2}, default=None
    )


SYSTEMS = ("linux", "freebsd", "openbsd", "macos")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fragment:
    """An included file; absent sections are None."""

    description: str | None = key(shape.TEXT, "What the policy is for.", "Public web front end", default=None)
    include: tuple[str, ...] | None = key(
        shape.PATHS, "Files to merge in, relative to this one.", ["common.yaml"], default=None
    )
    addresses: dict[str, AddressList] | None = key(
        shape.named(shape.GROUP),
        "Named groups of addresses; they may nest.",
        {"office": ["198.51.100.0/24"]},
        default=None,
    )
    interfaces: dict[str, tuple[str, ...]] | None = key(
        shape.named(shape.DEVICES), "Named groups of network interfaces.", {"public": ["eth0", "wan*"]}, default=None
    )
    ports: dict[str, PortList] | None = key(
        shape.named(shape.PORTS), "Named groups of ports.", {"app": ["9000/tcp", "9001/udp"]}, default=None
    )
    services: dict[str, Service] | None = key(
        Nested(Service, "named", "a service"),
        "What this host offers.",
        {"ssh": {"ports": "ssh", "from": "office"}},
        default=None,
    )
    block: tuple[Block, ...] | None = key(
        Nested(Block, "list", "an entry of `block`"),
        "What is closed whatever else the policy says; live connections are cut.",
        ["203.0.113.9", {"from": "feed", "except": "office"}],
        default=None,
    )
    egress: dict[str, Egress] | None = key(
        Nested(Egress, "named", "an entry of `egress`"),
        "What this host may start itself, where `defaults.outbound` is not `allow`.",
        {"dns": {"ports": "domain", "to": "192.0.2.53"}},
        default=None,
    )
    forwards: dict[str, Forward] | None = key(
        Nested(Forward, "named", "an entry of `forwards`"),
        "What may pass through this host, translated or not.",
        {"old-web": {"ports": "8080/tcp", "from": "any", "target": "10.0.0.5:80"}},
        default=None,
    )
    defaults: Defaults | None = key(
        Nested(Defaults, "one", "`defaults`"), "What holds where no entry speaks.", {"inbound": "drop"}, default=None
    )
    sysctl: Sysctl | None = key(
        Nested(Sysctl, "one", "`sysctl`"), "Kernel settings.", {"ephemeral_ports": "32768-60999"}, default=None
    )
    tests: tuple[Expected, ...] | None = key(
        Nested(Expected, "list", "a test"),
        "What must be so: checked against the policy and every rendered rule set.",
        [{"from": "198.51.100.9", "service": "ssh", "expect": "allow"}],
        default=None,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class TopFile(Fragment):
    """A policy file."""

    portctl: int = key(shape.VERSION, "Version of the language.", 1)
    name: str = key(shape.NAME, "Name of the policy.", "web")
