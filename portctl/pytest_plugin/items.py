"""A policy as pytest collects it: a file with one item for each host and each check."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from portctl import pipeline, report
from portctl.command import HostError
from portctl.problems import Problems
from portctl.problems import text as problem_text
from portctl.pytest_plugin import reaches_hosts
from portctl.pytest_plugin.checks import Check, Look, checks, failure
from portctl.pytest_plugin.through import Through, connections
from portctl.pytest_plugin.without import NEEDED


class Fails(Exception):
    """A test that does not hold; the message is the evidence."""


class PolicyFile(pytest.File):
    """A policy that was named to pytest."""

    def collect(self) -> Iterator[PolicyItem]:
        at = datetime.now(UTC)
        try:
            compiled = pipeline.compile(_as_seen(self.path), at, include_root(self.config))
        except Problems as error:
            raise self.CollectError("\n".join(problem_text(problem) for problem in error.problems)) from None
        for host in self._hosts():
            look = Look(host, compiled, at)
            for check in checks(compiled):
                yield PolicyItem.from_parent(self, name=f"{check.name} [{host.name}]", check=check, look=look)

    def _hosts(self) -> list[Through]:
        """The machines that `--hosts` names, as pytest-testinfra understands it; without it, this one."""
        if not reaches_hosts(self.config):
            raise self.CollectError(NEEDED)
        import testinfra

        option = self.config.option
        named = [None] if option.hosts is None else option.hosts.split(",")
        passed = ("connection", "ssh_config", "ssh_identity_file", "sudo", "sudo_user", "ansible_inventory")
        try:
            hosts = testinfra.get_hosts(
                named, force_ansible=option.force_ansible, **{name: getattr(option, name) for name in passed}
            )
        except (RuntimeError, ImportError, OSError) as error:
            raise self.CollectError(f"--hosts={option.hosts}: {error}") from None
        return connections(hosts)


class PolicyItem(pytest.Item):
    """One check on one host."""

    def __init__(self, *, check: Check, look: Look, **rest: Any) -> None:
        super().__init__(**rest)
        self.check = check
        self.look = look

    def runtest(self) -> None:
        if said := failure(self.check, self.look):
            raise Fails(said)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        if isinstance(excinfo.value, Fails | HostError):
            return "\n".join(report.plain(line) for line in str(excinfo.value).rstrip("\n").split("\n"))
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, int | None, str]:
        """Place and name: the entry's own line, in whichever file of the policy it stands."""
        where = self.check.where
        # Not the name itself: pytest would write its dots as `::`.
        title = f"{self.check.name}, on {self.look.host.name}"
        return (self.path, None, title) if where is None else (Path(where.file).absolute(), where.line - 1, title)


def _as_seen(path: Path) -> Path:
    """As a person would write it from here: messages bear it."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def include_root(config: pytest.Config) -> Path | None:
    """Below which folder policies may include files, where the configuration says it."""
    folders: list[Path] = config.getini("portctl_root")
    return folders[0] if folders else None
