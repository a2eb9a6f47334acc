"""What a host answered, as values."""

from __future__ import annotations

from dataclasses import dataclass, field

from portctl.listeners import Connection, Listener
from portctl.net import Address
from portctl.program import Program


@dataclass(frozen=True, slots=True)
class Interface:
    name: str
    addresses: tuple[Address, ...] = ()
    advertised: bool = False
    """It has an IPv6 address or route by router advertisement."""


BRIDGES = ("docker*", "br-*", "cni*", "podman*", "virbr*", "lxcbr*", "lxdbr*", "incusbr*", "kube-bridge", "flannel*")
"""Interfaces behind which containers and guests of this host are, by the names that their engines give them."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What a host is. Read once; values come from the host and are never executed or interpreted."""

    system: str
    """`Linux`, `FreeBSD`, `OpenBSD`, `Darwin` (uname -s)."""
    release: str = ""
    """`uname -r`; of macOS the version of the product (`15.1`)."""
    distribution: str = ""
    init: str = "other"
    """`systemd`, `openrc`, `freebsd-rc`, `openbsd-rc`, `launchd`, `other`."""
    root: bool = False
    tools: tuple[tuple[str, str], ...] = ()
    """(name, version) of the tools found, see `linux.TOOLS`; of iptables with its variant, `1.8.9 (nf_tables)`."""
    interfaces: tuple[Interface, ...] = ()
    gateways: tuple[Address, ...] = ()
    resolvers: tuple[Address, ...] = ()
    tracking: bool = False
    """The state tracker is active, so that connections open now are known to it."""
    nft_works: bool = True
    """`nft` can list what is loaded; without root nobody can tell, and its presence counts."""
    legacy: bool = False
    """Tables of the old kernel interface are loaded, beside those of nftables: `iptables-legacy-save` lists them."""
    sees_processes: bool = False
    """Root, outside every container, and allowed to look at process 1 (some security modules forbid it): a socket
    whose owner cannot be seen then belongs to the kernel."""
    filters: tuple[str, ...] = ()
    """BSD, macOS: the packet filters (`pf`, `ipfw`) that judge packets now, or may, where only root could tell."""
    boot_filters: tuple[str, ...] = ()
    """BSD: those that rc.conf(5) starts."""
    modules: tuple[str, ...] = ()
    """FreeBSD: those of `pf`, `ipfw`, `ipfw_nat` that are in the kernel."""
    securelevel: int | None = None
    """`kern.securelevel`: security(7) of FreeBSD, securelevel(7) of OpenBSD."""
    forwards: bool = True
    """BSD: False where the settings say that nothing passes through."""
    hides_sockets: bool = False
    """FreeBSD: `security.bsd.see_other_uids` is 0 and we are not root, so sockets of others are in no listing."""
    slowhz: int | None = None
    """OpenBSD, older kernels: ticks a second in which keepalive times are counted."""

    def tool(self, name: str) -> str | None:
        return dict(self.tools).get(name)

    def own_addresses(self) -> tuple[Address, ...]:
        return tuple(address for interface in self.interfaces for address in interface.addresses)


@dataclass(frozen=True, slots=True)
class Observed:
    """What a host says now. `unknown` names, in words, what could not be seen (no root, a tool missing)."""

    facts: Facts
    program: Program | None = None
    """All loaded rules of every packet filter in use, portctl's and everybody else's. None: they could not be read."""
    listings: dict[str, str] = field(default_factory=dict)
    """The raw answers, {backend/listing: text}."""
    settings: dict[str, str] = field(default_factory=dict)
    listeners: tuple[Listener, ...] | None = None
    connections: tuple[Connection, ...] | None = None
    unknown: tuple[str, ...] = ()
