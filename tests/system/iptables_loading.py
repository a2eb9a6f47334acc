"""What the system tests of the iptables scripts share: one variant of the tools on a machine, and a small policy."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from portctl.backends import iptables
from portctl.backends.base import Ability, bundle
from portctl.command import Command, Result
from portctl.hosts.namespaces import Room
from portctl.net import Addresses
from portctl.program import Program
from portctl.ruleset import Rate, Ruleset, Verdict
from tests.nftables_cases import FIRST_IN, KNOWN_IN, block, default, one, starts, tcp
from tests.system.worlds import checked

Variant = Literal["nft", "legacy"]
VARIANTS: tuple[Variant, ...] = ("nft", "legacy")


@dataclass(frozen=True, slots=True)
class Tools:
    """One variant on one machine."""

    host: Room
    variant: Variant

    def tool(self, family: int, what: str) -> str:
        return f"{'iptables' if family == 4 else 'ip6tables'}-{self.variant}{what}"

    def put(self, files: Mapping[str, str], folder: str) -> None:
        checked(self.host, "mkdir", "-p", folder)
        for name, text in files.items():
            self.host.put(f"{folder}/{name}", text.encode())

    def script(self, path: str, *words: str, env: tuple[str, ...] = ()) -> Result:
        names = (f"IPTABLES={self.tool(4, '')}", f"IP6TABLES={self.tool(6, '')}")
        return self.host.run(Command(("env", *names, *env, "dash", path, *words)), timeout=120)

    def load(self, ruleset: Ruleset, folder: str = "/run/bundle", env: tuple[str, ...] = ()) -> dict[str, str]:
        files = bundle(iptables, ruleset, Ability())
        checked(self.host, "rm", "-rf", folder)
        self.put(files, folder)
        result = self.script(f"{folder}/load.sh", env=env)
        assert result.ok, result.stderr
        return files

    def save(self, folder: str) -> dict[str, str]:
        result = self.script("/run/bundle/save.sh", folder)
        assert result.ok, result.stderr
        return {name: checked(self.host, "cat", f"{folder}/{name}") for name in iptables.PARTS}

    def listings(self) -> dict[str, str]:
        found = {f"rules.v{family}": checked(self.host, self.tool(family, "-save"), "-c") for family in (4, 6)}
        users = checked(self.host, "getent", "passwd")
        return {**found, "sets.ipset": checked(self.host, "ipset", "save"), "users": users}

    def program(self) -> Program:
        return iptables.parse(self.listings())

    def rules(self, family: int, *words: str) -> None:
        checked(self.host, self.tool(family, ""), "-w", *words)

    def lines(self, *words: str) -> list[str]:
        """Rules and chains of both families, each behind its table. A table that was used once stays, empty."""
        found = []
        for family in (4, 6):
            for line in checked(self.host, self.tool(family, "-save"), *words).splitlines():
                if line.startswith("*"):
                    table = f"{family} {line[1:]}"
                elif line.startswith(":"):
                    found += [f"{table} {line.partition(' [')[0]}"] if " ACCEPT " not in line else []
                elif not line.startswith(("#", "COMMIT")):
                    found.append(f"{table} {line}")
        return sorted(found, key=lambda line: line.split()[:2])

    def state(self) -> list[str]:
        """All rules of everybody without counters, and all sets without what the kernel rolls dice for."""
        sets = re.sub(r" initval \S+", "", checked(self.host, "ipset", "save")).splitlines()
        return self.lines() + sorted(sets)

    def foreign(self) -> list[str]:
        """Everybody else's rules with their counters, in order."""
        return [line for line in self.lines("-c") if "PORTCTL" not in line]


def services(*more: object, **changes: object) -> Ruleset:
    """A small policy with a live group, a list and a limit."""
    office = Addresses.of("198.51.100.0/24", "203.0.113.1", "203.0.113.3", "203.0.113.5", "203.0.113.7", "203.0.113.9")
    rules = (
        *FIRST_IN,
        block("bans", live_source="bans"),
        *KNOWN_IN,
        starts("office", tcp(8443), source=office),
        starts("ssh", tcp(22), rate=Rate(3, "hour")),
        starts("web", tcp(80), max_connections=2),
        *more,
        default(Verdict.DROP),
    )
    return replace(one(), inbound=rules, **changes)  # type: ignore[arg-type]
