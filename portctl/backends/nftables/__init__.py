"""nftables: one table, `inet portctl`, replaced in one transaction."""

from __future__ import annotations

from portctl.backends.nftables.render import render

NAME = "nftables"
PARTS = ("rules.nft",)

__all__ = ["NAME", "PARTS", "render"]
