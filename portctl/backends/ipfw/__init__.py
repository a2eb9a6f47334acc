"""ipfw of FreeBSD: one list of rules in a set of its own, tables, and `nat` instances for IPv4.

Rules 20000-60000 of set 20 are portctl's. A packet passes the list once (in, or out), and twice if it is forwarded:
the first pass tags it and drops what no entry could admit, the second decides and makes the state. `me` tells what is
for this host; the table `portctl_broadcast` holds its broadcast addresses. A port is looked up in a table that sends
the packet to the rules of one service. Tables `portctl0_…` and `portctl1_…` belong to one load each; `portctl_live_…`
are live groups.
"""

from __future__ import annotations

from collections.abc import Mapping

from portctl import templating
from portctl.backends.ipfw.claims import claims
from portctl.backends.ipfw.differences import differences
from portctl.backends.ipfw.gaps import gaps
from portctl.backends.ipfw.neighbours import alone, before, closes, obstacle, others, then
from portctl.backends.ipfw.parse import parse
from portctl.backends.ipfw.render import render
from portctl.command import Command

NAME = "ipfw"
PARTS = ("rules",)
_INSTANCES = "ipfw nat show config || ! kldstat -q -m ipfw_nat"
"""Without the module there are no instances, and ipfw says `Invalid argument`."""
SCRIPTS = ("load.sh", "save.sh", "remove.sh")

__all__ = ["NAME", "PARTS", "alone", "before", "claims", "closes", "differences", "gaps", "obstacle", "others",
           "parse", "questions", "render", "scripts", "then"]  # fmt: skip


def scripts() -> dict[str, str]:
    """`load.sh`, `save.sh`, `remove.sh`."""
    return {name: templating.text(f"ipfw/{name}") for name in SCRIPTS}


def questions() -> Mapping[str, Command]:
    """All rules of all sets with their counters, all tables, all nat instances, and what a match in `nat` ends."""
    return {
        "list": Command(("ipfw", "-a", "-S", "list")),
        "info": Command(("ipfw", "table", "all", "info")),
        "tables": Command(("ipfw", "table", "all", "list")),
        "nat": Command(("sh", "-c", _INSTANCES)),
        "settings": Command(("sysctl", "net.inet.ip.fw.one_pass")),
    }
