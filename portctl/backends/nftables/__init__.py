"""nftables: one table, `inet portctl`, whose rules are replaced in one transaction.

Its base chains accept by policy, and their last rule decides, so that no moment of a load passes through a bare policy.
They run before those of others at the same hook (priority -10; translation at -110 and 90): a drop holds whoever says
it, and what portctl denies never reaches them. A port is looked up in a map, which sends the packet to one chain a
service; addresses are named sets. Of large sets, the sizes of network that are common are found by their hash, and what
is larger still is cut into parts by its first bits: see `large`.

Names: `group-NAME-4` are groups of the policy, `from-ENTRY-6`, `to-ENTRY-6` what else an entry lists, and `limit-…` the
tables of limits, whose names carry a digest of the limit. Static sets and maps carry a digest of their elements as a
comment, so that a listing without elements tells whether they are as rendered.

Run-time contents (see ARCHITECTURE.md): `live-GROUP-4`, `live-GROUP-6`, whose members may have timeouts; the `limit-…`
tables; and `open-4`, `open-6`, connections older than the first apply: an element is

    protocol . local address . local port . peer address . peer port

read from this host, whichever way the packet goes. They are asked only for packets that start no connection (TCP
without its SYN) or that no entry admits (UDP), just before they would be denied.
"""

from __future__ import annotations

from collections.abc import Mapping

from portctl import templating
from portctl.backends.base import Ability, Difference
from portctl.backends.nftables.claims import claims
from portctl.backends.nftables.gaps import gaps
from portctl.backends.nftables.listed import arranged
from portctl.backends.nftables.parse import parse
from portctl.backends.nftables.render import render
from portctl.command import Command
from portctl.ruleset import Ruleset

NAME = "nftables"
PARTS = ("rules.nft",)
SCRIPTS = ("load.sh", "save.sh", "remove.sh")

__all__ = ["NAME", "PARTS", "arranged", "claims", "differences", "gaps", "parse", "questions", "render", "scripts"]


def differences(_ruleset: Ruleset, _ability: Ability) -> tuple[Difference, ...]:
    """None: what is rendered means what the policy says, packet by packet."""
    return ()


def scripts() -> dict[str, str]:
    """`load.sh`, `save.sh`, `remove.sh`."""
    return {name: templating.text(f"nftables/{name}") for name in SCRIPTS}


def questions() -> Mapping[str, Command]:
    """Everything that is loaded, of every table. In UTC, since nft prints moments in its own zone; users by name."""
    return {"ruleset": Command(("env", "TZ=UTC", "nft", "-u", "list", "ruleset"))}
