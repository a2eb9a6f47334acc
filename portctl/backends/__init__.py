"""The back ends by name. Outside this registry nobody names one."""

from __future__ import annotations

from importlib import import_module
from typing import cast

from portctl.backends.base import Backend

NAMES: tuple[str, ...] = ("nftables", "iptables")
"""Those of Linux."""
DIALECTS: tuple[str, ...] = ("pf-openbsd", "pf-freebsd13", "pf-freebsd14", "pf-freebsd15", "pf-macos")
EVERY: tuple[str, ...] = (*NAMES, *DIALECTS, "ipfw")
"""Each with one language, whatever `Ability` says."""
OFFERED: tuple[str, ...] = (*NAMES, "pf-openbsd", "pf-freebsd", "pf-macos", "ipfw")
"""What `--backend all` means. `pf-freebsd` is the dialect of the version that `Ability` names."""
SYSTEMS: dict[str, tuple[str, ...]] = {
    "linux": NAMES,
    "freebsd": ("pf-freebsd", "ipfw"),
    "openbsd": ("pf-openbsd",),
    "macos": ("pf-macos",),
}
"""The back ends of each system, its usual one first."""
LANGUAGES: tuple[str, ...] = (*NAMES, "pf-freebsd", "ipfw")
"""One back end for each language: what its `parse` and `claims` know, those of its dialects know."""
_UNAME = {"linux": "Linux", "freebsd": "FreeBSD", "openbsd": "OpenBSD", "macos": "Darwin"}


def package(name: str) -> str:
    """The packet filter of a back end, whatever its dialect: `pf` of `pf-openbsd`."""
    return name.partition("-")[0]


def of_system(uname: str) -> tuple[str, ...]:
    """The back ends of a system, named as `uname -s` does; none for one that we do not know."""
    return next((SYSTEMS[key] for key, name in _UNAME.items() if name == uname), ())


def system(name: str) -> str:
    """The system of a back end, as `uname -s` names it."""
    key = next(key for key, names in SYSTEMS.items() if any(name.startswith(each) for each in names))
    return _UNAME[key]


ANCHOR = "-anchor"
"""Ends the name of a back end of pf that keeps to the anchor `portctl` of a main rule set that is somebody else's."""


def anchored(name: str) -> str:
    """The name of the same back end, where it keeps to its anchor. Raises KeyError for one that has no anchors."""
    if package(name) != "pf":
        raise KeyError(name)
    return name.removesuffix(ANCHOR) + ANCHOR


def load(name: str) -> Backend:
    """The back end called `name`, imported only now. Raises KeyError for a name that is neither known nor offered."""
    plain = name.removesuffix(ANCHOR) if package(name) == "pf" else name
    if plain not in EVERY and plain not in OFFERED:
        raise KeyError(name)
    filter_, dialect, _ = name.partition("-")
    module = import_module(f"portctl.backends.{filter_}")
    return cast(Backend, module.named(name) if dialect else module)
