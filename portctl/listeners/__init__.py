"""Who listens on a host, from the output of whichever tool it has."""

from __future__ import annotations

from dataclasses import dataclass

from portctl.net import Address


@dataclass(frozen=True, slots=True)
class Listener:
    """One socket that waits for strangers. `address` None is every address.

    `dual_stack` says that an IPv6 wildcard also takes IPv4. `process`, `pid`, `user` are None where they could not be
    seen; a socket of the kernel itself (WireGuard, NFS) has `kernel` as its process.
    """

    protocol: int
    address: Address | None
    port: int
    family: int
    """4 or 6: of the socket, not of what it takes."""
    dual_stack: bool = False
    scope: str | None = None
    """The interface it is bound to, if any (`127.0.0.53%lo`)."""
    process: str | None = None
    pid: int | None = None
    user: str | None = None
    """The owner's number, as text."""
    processes: tuple[str, ...] = ()
    """Every name among those that hold the socket (systemd beside the service it started), sorted."""

    def takes(self, address: Address) -> bool:
        """Whether a packet to that address of this host can reach the socket."""
        if self.address is not None:
            return self.address == address
        return address.version == self.family or self.dual_stack

    @property
    def wildcard(self) -> bool:
        return self.address is None


@dataclass(frozen=True, slots=True)
class Connection:
    """One established socket pair: TCP, or UDP with a peer."""

    protocol: int
    local: Address
    local_port: int
    peer: Address
    peer_port: int
    process: str | None = None
    pid: int | None = None
