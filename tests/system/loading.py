"""A policy's rules loaded into a machine as their bundle does it, without the transaction around it."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from portctl import backends, observe, pipeline
from portctl.command import put_all
from portctl.hosts.namespaces import Room
from portctl.pipeline import Compiled
from portctl.plan.state import desire
from tests.system import worlds

FILTERS = ("nftables", "iptables-nft", "iptables-legacy")
_TOOLS = """\
for t in iptables ip6tables; do for k in '' -save -restore; do
ln -sfn /usr/sbin/$t-%s$k /etc/alternatives/$t$k
done; done
"""


def choose(machine: Room, name: str) -> None:
    """Makes the machine's `iptables` the variant that one of `FILTERS` names; nft's for nftables."""
    worlds.checked(machine, "sh", "-ec", _TOOLS % ("legacy" if name.endswith("legacy") else "nft"))


def load(machine: Room, text: str, name: str, folder: Path) -> Compiled:
    """Loads what a policy renders to for one of `FILTERS`, and its settings. `folder` takes the policy's file."""
    path = folder / "policy.yaml"
    path.write_text(text)
    compiled = pipeline.compile(path, datetime.now(UTC))
    desired = desire(compiled.ruleset, backends.load(name.partition("-")[0]), observe.facts(machine))
    for part, files in desired.bundles.items():
        put_all(machine, {f"/root/{part}/{file}": (each.encode(), 0o700) for file, each in files.items()})
        worlds.checked(machine, "sh", f"/root/{part}/load.sh")
    return compiled
