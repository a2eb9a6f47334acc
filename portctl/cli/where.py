"""`--host`: the machine that a command is about."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from portctl.hosts.target import HERE as HERE

if TYPE_CHECKING:
    from portctl.command import Host

OnHost = Annotated[
    str,
    typer.Option(
        "--host",
        metavar="TARGET",
        help="On which machine: ssh://[user@]host[:port], docker://name, podman://name, vagrant://[machine], "
        "netns://name, or local.",
    ),
]
_CONTAINERS = ("docker", "podman")
CONNECT_SECONDS = 30.0
"""For one try to come in anew, while the guard waits."""


@contextmanager
def host(target: str, changes: bool = False) -> Iterator[Host]:
    """The machine that a target names; its connection ends with the `with`.

    `changes`: it is about to be changed, so that without root there it ends here. Raises `Problems`, `HostError`.
    """
    if target == HERE:
        from portctl.hosts.local import Local

        yield Local()
        return
    from portctl.command import HostError
    from portctl.hosts import remote
    from portctl.hosts.target import parse

    with remote.opened(parse(target)) as found:
        if isinstance(found, remote.Remote) and (why := found.not_root()):
            if changes:
                raise HostError(f"{found.name}: {why}")
            typer.echo(f"note: {found.name}: {why}", err=True)
        yield found


def how_long(target: str, init: str) -> str:
    """For how long what was confirmed there holds, in words. `init` is that of the host (`Facts.init`)."""
    passing = {"netns": "until the network namespace ends"} | dict.fromkeys(_CONTAINERS, "until the container ends")
    lasting = "and will be after a reboot" if init != "other" else _BY_HAND
    return passing.get(target.partition("://")[0], lasting)


_BY_HAND = (
    "until a reboot: portctl knows systemd and OpenRC, and this host has another init. Let that run "
    "`sh /etc/portctl/boot/boot.sh` before the network is up"
)


def beside(target: str) -> str:
    """Where a confirmation comes from that needs no network; empty: it comes over one."""
    from portctl.hosts.target import parse

    if target == HERE or (parsed := parse(target)).over_network:
        return ""
    return f"from {platform.node()}, by {parsed.kind}"


def comes_in_again(found: Host, target: str) -> Callable[[], bool | None] | None:
    """Confirms a pending apply by a new connection from here, tried until one comes about or the apply has ended.

    None for this machine itself: here, a person confirms. It never answers; what it has done shows on the host.
    """
    from portctl import apply as applying
    from portctl.command import HostError
    from portctl.hosts.remote import Remote

    if not isinstance(found, Remote):
        return None
    told: list[str] = []

    def answer() -> None:
        if told and told[-1] == "ended":
            return
        new = found.again(CONNECT_SECONDS)
        try:
            typer.echo(f"{applying.confirm(new, beside(target)).capitalize()}.", err=True)
            told.append("ended")
        except applying.NothingPending:
            told.append("ended")  # how, `apply` itself will say
        except applying.Refused as refused:
            typer.echo(f"portctl: {refused}", err=True)
            told.append("ended")
        except HostError as error:
            if str(error) not in told:
                told.append(str(error))
                typer.echo(f"portctl: no new connection yet: {error}", err=True)
        finally:
            new.close()

    return answer
