"""Policies as tests of servers: `pytest policies/web.yaml --hosts=ssh://web1`, and the fixture `portctl_host`.

pytest imports this wherever portctl is installed. It costs next to nothing and changes nothing until a policy is named
on the command line or the fixture is asked for. Hosts and connections are pytest-testinfra's.
"""

from __future__ import annotations

import re
from fnmatch import fnmatch
from pathlib import Path

import pytest

MARK = re.compile(rb"^portctl\s*:", re.M)
"""The first key of a policy: no fragment has it, and nobody else's YAML."""
FIRST = 65536
"""Bytes of a file in which the mark is looked for."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addini(
        "portctl_policies",
        "Policies to be collected also where their folder is: patterns, from the folder of the configuration.",
        "args",
        [],
    )
    parser.addini("portctl_root", "Policies may include files below this folder.", "paths", [])


def pytest_configure(config: pytest.Config) -> None:
    if reaches_hosts(config):
        from portctl.pytest_plugin import fixture as fixtures
    else:
        from portctl.pytest_plugin import without as fixtures  # type: ignore[no-redef]
    config.pluginmanager.register(fixtures, "portctl-fixtures")


def reaches_hosts(config: pytest.Config) -> bool:
    """Whether pytest-testinfra is there, by whichever name it was loaded."""
    return any(getattr(plugin, "__name__", "") == "testinfra.plugin" for plugin in config.pluginmanager.get_plugins())


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    if file_path.suffix not in (".yaml", ".yml") or not _wanted(file_path, parent):
        return None
    try:
        with file_path.open("rb") as file:
            marked = MARK.search(file.read(FIRST))
    except OSError:
        return None
    if not marked:
        return None
    from portctl.pytest_plugin.items import PolicyFile

    return PolicyFile.from_parent(parent, path=file_path)


def _wanted(path: Path, parent: pytest.Collector) -> bool:
    """Whether a file was named on the command line, or in the configuration."""
    if parent.session.isinitpath(path):
        return True
    patterns: list[str] = parent.config.getini("portctl_policies")
    below = parent.config.rootpath
    return bool(patterns) and path.is_relative_to(below) and _matches(path.relative_to(below).as_posix(), patterns)


def _matches(path: str, patterns: list[str]) -> bool:
    return any(fnmatch(path, pattern) for pattern in patterns)
