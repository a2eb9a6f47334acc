"""iptables, ip6tables and ipset, of the nft and of the legacy variant alike."""

from __future__ import annotations

from collections.abc import Mapping

from portctl import templating
from portctl.backends.base import Ability, Difference
from portctl.backends.iptables.claims import claims
from portctl.backends.iptables.gaps import gaps
from portctl.backends.iptables.parse import parse
from portctl.backends.iptables.render import render
from portctl.command import Command
from portctl.ruleset import Ruleset

NAME: str = "iptables"
PARTS: tuple[str, ...] = ("sets.ipset", "rules.v4", "rules.v6")

__all__ = ["NAME", "PARTS", "claims", "differences", "gaps", "parse", "questions", "render", "scripts"]


def differences(_ruleset: Ruleset, _ability: Ability) -> tuple[Difference, ...]:
    """None: what is rendered means what the policy says, packet by packet."""
    return ()


def scripts() -> dict[str, str]:
    """The shell scripts that lie beside the rules."""
    return {name: templating.text(f"iptables/{name}") for name in ("load.sh", "save.sh", "remove.sh")}


def questions() -> Mapping[str, Command]:
    """What to ask a host: the rules of both families with their counters, the sets, and the users' numbers."""
    return {
        "rules.v4": Command(("iptables-save", "-c")),
        "rules.v6": Command(("ip6tables-save", "-c")),
        "sets.ipset": Command(("ipset", "save")),
        "users": Command(("sh", "-c", "getent passwd 2>/dev/null || cat /etc/passwd")),
    }
