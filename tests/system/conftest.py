"""Real kernels, in namespaces of the tests' own. What could not run is named at the end, with its reason; where it is
required (in CI, or with PORTCTL_SYSTEM=required) it fails instead.

A module says what it needs beside namespaces by a tuple `NEEDS` of programs. `RING` is how the summary calls it.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator

import pytest

from portctl.command import Command
from portctl.hosts.local import Local
from portctl.hosts.process import PATH
from tests.system import worlds

HERE = "tests/system/"
ALWAYS = ("unshare", "nsenter", "ip", "nft")
TRIED = pytest.StashKey[str | None]()


def required() -> bool:
    return bool(os.environ.get("CI")) or os.environ.get("PORTCTL_SYSTEM") == "required"


def pytest_itemcollected(item: pytest.Item) -> None:
    if item.nodeid.startswith(HERE):
        item.add_marker(pytest.mark.system)


@pytest.fixture(autouse=True, scope="session")
def heard_signals() -> None:
    """Whoever starts the tests may ignore SIGHUP (nohup does), and what they start would inherit that."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("system") is None:
        return
    module = getattr(item, "module", None)
    reason = missing(item.config, getattr(module, "NEEDS", ()))
    if reason:
        said = f"{getattr(module, 'RING', item.nodeid.split('::')[0])} did not run: {reason}"
        if required():
            pytest.fail(said, pytrace=False)
        pytest.skip(said)


def missing(config: pytest.Config, needs: tuple[str, ...]) -> str | None:
    """What is not here, in words."""
    absent = [name for name in (*ALWAYS, *needs) if shutil.which(name, path=PATH) is None]
    if absent:
        return f"{', '.join(absent)} not installed"
    if TRIED not in config.stash:
        config.stash[TRIED] = worlds.ability()
    return config.stash[TRIED]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reasons: dict[str, int] = {}
    for report in terminalreporter.stats.get("skipped", ()):
        if report.nodeid.startswith(HERE) and isinstance(report.longrepr, tuple):
            said = report.longrepr[2].removeprefix("Skipped: ")
            reasons[said] = reasons.get(said, 0) + 1
    for said, count in sorted(reasons.items()):
        terminalreporter.write_line(f"{said} ({count} tests)", yellow=True)


@pytest.fixture(scope="session", autouse=True)
def _the_machine_stays_as_it_is() -> Iterator[None]:
    """No test may change the rules of the machine it runs on."""
    before = _machine()
    yield
    after = _machine()
    changed = [name for name in before if before[name] != after[name]]
    assert not changed, f"the machine's own {', '.join(changed)} changed while the tests ran: {after}"


def _machine() -> dict[str, str]:
    asked = {
        "nftables rules": ("nft", "--stateless", "list", "ruleset"),
        "forwarding": ("sysctl", "net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"),
    }
    return {name: Local().run(Command(argv), timeout=30).stdout for name, argv in asked.items()}
