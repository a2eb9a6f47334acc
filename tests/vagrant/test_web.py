"""policies/web.yaml on a machine of Vagrant's, asked from inside and knocked at from outside: nothing but the plugin.

`make vagrant` runs it, where the probes' source addresses are this machine's own:

    pytest policies/web.yaml tests/vagrant --hosts=ssh://debian --sudo
"""

from __future__ import annotations

import pytest

from portctl.pytest_plugin.asking import PortctlHost

ADMIN, MONITORING, STRANGER = "198.51.100.1", "192.0.2.40", "203.0.113.9"
BANNED = "203.0.113.130"
"""In the list of networks that the policy blocks."""
PATIENCE = 20
"""Seconds for an answer of an emulated processor that has other things to do."""


@pytest.mark.parametrize("port", ["http", "https", "443/udp"])
def test_strangers_reach_the_site(portctl_host: PortctlHost, port: str) -> None:
    assert portctl_host.admits(STRANGER, port)
    assert portctl_host.probe(port, STRANGER, PATIENCE) == "open"


def test_who_is_banned_does_not(portctl_host: PortctlHost) -> None:
    assert not portctl_host.admits(BANNED, "http")
    assert portctl_host.probe("http", BANNED) == "silent"


def test_monitoring_alone_reads_the_counters(portctl_host: PortctlHost) -> None:
    assert portctl_host.probe("8080/tcp", MONITORING, PATIENCE) == "open"
    assert portctl_host.probe("8080/tcp", STRANGER) == "silent"
    assert not portctl_host.admits("any", "8080/tcp")


def test_administrators_alone_may_log_in(portctl_host: PortctlHost) -> None:
    assert portctl_host.probe("ssh", ADMIN, PATIENCE) == "open"
    assert portctl_host.probe("ssh", STRANGER) == "silent"
    assert not portctl_host.admits(STRANGER, "ssh")


def test_nothing_else_answers(portctl_host: PortctlHost) -> None:
    assert portctl_host.probe("mysql", MONITORING) == "silent"


def test_the_web_server_is_who_answers(portctl_host: PortctlHost) -> None:
    names = {listener.process for port in ("80/tcp", "443/tcp", "443/udp") for listener in portctl_host.listening(port)}
    assert names == {"nginx"}


def test_the_whole_policy_holds(portctl_host: PortctlHost) -> None:
    found = portctl_host.findings("policies/web.yaml")
    assert not found, found
