"""Other programs that load or flush rules at boot: which are enabled, and what that does to portctl's rules.

One list and one reading of it, for the plan and for `verify`. What each does is read from what its package installs:
nftables.service (`ExecStop=nft flush ruleset`), netfilter-persistent's plugins, iptables.init of iptables-services,
`ufw-init-functions`, firewalld's `fw.py` (`flush` of all its back ends), and the start scripts of the others, which
give whole tables to iptables-restore.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from portctl.backends import NAMES
from portctl.templating import text

_FIRST = ("ufw", "nftables", "netfilter-persistent", "ferm", "firehol")
_OPENRC_FIRST = ("iptables", "ip6tables", "nftables")
"""Services after which portctl's own loads its rules at boot: `portctl-boot.service`, `portctl-boot.openrc`."""
_FLAGS = ("flushes", "denies", "by-hand", *NAMES)
_AT_STOP = "its stop, its restart and its reload flush"


@dataclass(frozen=True, slots=True)
class BootService:
    """One that is enabled. `link` is what starts it, or the script itself; `file` the rules that it loads; `flags` as
    `templates/guard/boot-services.sh` prints them: `flushes`, `denies`, `by-hand`,
    and the names of back ends all of whose rules it empties."""

    name: str
    link: str
    file: str | None = None
    flags: frozenset[str] = frozenset()


def ask() -> str:
    """A piece of shell that defines `others`, which prints what `read` reads."""
    return text("guard/boot-services.sh")


def read(answer: str) -> tuple[BootService, ...]:
    """What `others` has printed."""
    return tuple(service for line in answer.splitlines() if (service := _service(line.split())) is not None)


def _service(words: list[str]) -> BootService | None:
    if len(words) < 2 or not words[1].startswith("/"):
        return None
    flags = frozenset(word for word in words[2:] if word in _FLAGS)
    file = next((word for word in words[2:] if word.startswith("/")), None)
    return BootService(words[0], words[1], file, flags)


def trouble(services: tuple[BootService, ...], backend: str) -> Iterator[tuple[BootService, str]]:
    """Those that undo the rules of a back end, or deny what they admit, with how, in words."""
    for service in services:
        found = list(_words(service, backend))
        if found:
            yield service, "; ".join(found)


def _words(service: BootService, backend: str) -> Iterator[str]:
    flags, by_hand = service.flags, "by-hand" in service.flags
    if "flushes" in flags:
        yield f"{'it flushes' if by_hand else _AT_STOP} every rule of this host, portctl's too"
    elif backend in flags:
        does = f"puts {service.file} in the place of" if service.file else "empties"
        when = "at each start but the boot, where portctl comes after it" if _first(service) else "at boot too"
        yield f"it {does} what {backend} holds, portctl's rules too, {'at boot' if by_hand else when}"
    if "denies" in flags:
        what = (
            f"what {service.file} denies" if service.file else "what it denies" if by_hand else "what it does not open"
        )
        yield f"{what} stays closed, whatever the policy admits"


def _first(service: BootService) -> bool:
    """Whether portctl's own unit loads its rules after it."""
    return service.name in (_OPENRC_FIRST if service.link.startswith("/etc/runlevels/") else _FIRST)
