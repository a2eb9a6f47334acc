"""The back ends by name. Outside this registry nobody names one."""

from __future__ import annotations

from importlib import import_module
from typing import cast

from portctl.backends.base import Backend

NAMES: tuple[str, ...] = ("nftables", "iptables", "ipfw")


def load(name: str) -> Backend:
    """The back end called `name`, imported only now. Raises KeyError for a name not in `NAMES`."""
    if name not in NAMES:
        raise KeyError(name)
    return cast(Backend, import_module(f"portctl.backends.{name}"))
