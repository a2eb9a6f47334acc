"""Settings: names, units, order, and what is refused. The scripts are tried on a real kernel in tests/system."""

from __future__ import annotations

import pytest

from portctl import sysctl
from portctl.ruleset import Ruleset, Setting


def policy(*settings: Setting) -> Ruleset:
    return Ruleset("test", (), (), (), settings=settings)


def rendered(*settings: Setting, advertised: tuple[str, ...] = ()) -> list[str]:
    text = sysctl.render(policy(*settings), advertised=advertised).get(sysctl.FILE, "")
    return [line for line in text.splitlines() if line and not line.startswith("#")]


@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        ("ephemeral_ports", "32768-60999", "net.ipv4.ip_local_port_range = 32768 60999"),
        ("ephemeral_ports", "32768 60999", "net.ipv4.ip_local_port_range = 32768 60999"),
        ("reserved_ports", "9100, 8080,9000-9099", "net.ipv4.ip_local_reserved_ports = 8080,9000-9100"),
        ("tcp_keepalive_time", "2000", "net.ipv4.tcp_keepalive_time = 2000"),
        ("forwarding_v4", "1", "net.ipv4.ip_forward = 1"),
        ("forwarding_v6", "true", "net.ipv6.conf.all.forwarding = 1"),
    ],
)
def test_portable_names_become_the_kernels(name: str, value: str, line: str) -> None:
    assert rendered(Setting(name, value)) == [line]


def test_raw_names_of_other_systems_are_left_out() -> None:
    assert rendered(
        Setting("net.inet.tcp.blackhole", "2", "freebsd"), Setting("net.ipv4.tcp_syncookies", "1", "linux")
    ) == ["net.ipv4.tcp_syncookies = 1"]


def test_the_text_does_not_depend_on_the_order_in_the_policy() -> None:
    settings = [
        Setting("tcp_keepalive_time", "2000"),
        Setting("ephemeral_ports", "1024-2000"),
        Setting("forwarding", "1"),
    ]
    assert rendered(*settings) == rendered(*reversed(settings))


def test_what_must_be_written_first_stands_first() -> None:
    """Linux forgets advertised routes when it begins to forward, and turns accept_redirects with it."""
    redirects = Setting("net.ipv4.conf.all.accept_redirects", "0", "linux")
    assert rendered(redirects, Setting("forwarding", "1"), advertised=("eth0", "eth0.100")) == [
        "net.ipv6.conf.eth0.accept_ra = 2",
        "net.ipv6.conf.eth0/100.accept_ra = 2",
        "net.ipv4.ip_forward = 1",
        "net.ipv6.conf.all.forwarding = 1",
        "net.ipv4.conf.all.accept_redirects = 0",
    ]


def test_advertisements_matter_only_where_ipv6_is_forwarded() -> None:
    assert rendered(Setting("forwarding_v4", "1"), advertised=("eth0",)) == ["net.ipv4.ip_forward = 1"]


def test_no_settings_no_bundle() -> None:
    assert sysctl.render(policy()) == {} and sysctl.bundle(policy()) == {}


def test_what_is_rendered_is_read_back() -> None:
    settings = (Setting("ephemeral_ports", "1024-2000"), Setting("net.ipv4.tcp_rmem", "4096  131072\t6291456", "linux"))
    assert sysctl.parse(sysctl.render(policy(*settings))) == {
        "net.ipv4.ip_local_port_range": "1024 2000",
        "net.ipv4.tcp_rmem": "4096 131072 6291456",
    }


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        (Setting("ephemeral_ports", "60999-32768"), "not one range of ports"),
        (Setting("ephemeral_ports", "1-2,4-5"), "not one range of ports"),
        (Setting("reserved_ports", "70000"), "not ports"),
        (Setting("tcp_keepalive_time", "0"), "from 1 to 32767"),
        (Setting("tcp_keepalive_time", "12s"), "whole number"),
        (Setting("tcp_keepalive_probes", "128"), "from 1 to 127"),
        (Setting("forwarding", "yes"), "neither true nor false"),
        (Setting("keepalive", "1"), "no setting is called"),
        (Setting("net.ipv4.x; reboot", "1", "linux"), "not the name"),
        (Setting("net.ipv4.conf.//.x", "1", "linux"), "not the name"),
        (Setting("../../etc/passwd", "1", "linux"), "not the name"),
        (Setting("net.ipv4.tcp_syncookies", " ", "linux"), "empty"),
        (Setting("net.ipv4.tcp_syncookies", "1\nnet.ipv4.ip_forward = 1", "linux"), "one line"),
    ],
)
def test_bad_settings_are_refused(setting: Setting, said: str) -> None:
    (problem,) = sysctl.gaps(policy(setting))
    assert said in problem.message


def test_two_values_of_one_variable_are_refused_under_whatever_name() -> None:
    raw = Setting("net.ipv4.conf.all.forwarding", "0", "linux")
    assert [p.code for p in sysctl.gaps(policy(Setting("forwarding_v4", "1"), raw))] == ["sysctl-conflict"]
    assert sysctl.gaps(policy(Setting("forwarding_v4", "1"), Setting("net.ipv4.ip_forward", "1", "linux"))) == []


def test_an_ephemeral_range_below_the_unprivileged_ports_is_refused() -> None:
    start = Setting("net.ipv4.ip_unprivileged_port_start", "5000", "linux")
    (problem,) = sysctl.gaps(policy(Setting("ephemeral_ports", "4000-6000"), start))
    assert "4000-6000 begins below 5000" in problem.message
