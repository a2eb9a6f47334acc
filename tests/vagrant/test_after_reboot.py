"""What a reboot leaves of policies/web.yaml where systemd runs: nothing but the plugin, and what systemd says."""

from __future__ import annotations

from typing import Any

import pytest

from portctl.pytest_plugin.asking import PortctlHost


def moment(host: Any, unit: str) -> int:
    """When a unit became active, in microseconds since the kernel started."""
    said: str = host.check_output("systemctl show -P ActiveEnterTimestampMonotonic %s", unit)
    return int(said)


@pytest.fixture(autouse=True)
def _systemd(portctl_host: PortctlHost) -> None:
    if portctl_host.facts.init != "systemd":
        pytest.skip("this machine has no systemd")


def test_the_rules_were_loaded_before_the_network_came_up(host: Any) -> None:
    assert host.check_output("systemctl show -P Result portctl-boot.service") == "success"
    assert 0 < moment(host, "portctl-boot.service") < moment(host, "network-pre.target")
    assert moment(host, "network-pre.target") < moment(host, "network.target")


def test_no_unit_failed(host: Any) -> None:
    assert host.check_output("systemctl --failed --plain --no-legend") == ""


def test_the_settings_are_set_again(host: Any) -> None:
    assert host.sysctl("net.ipv4.tcp_syncookies") == 1
