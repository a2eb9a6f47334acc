"""portctl's own table of services, and `portctl ports`."""

from __future__ import annotations

import re

import pytest
from typer.testing import CliRunner

from portctl import cli, services
from portctl.cli.ports import answer
from portctl.problems import Problems

EXPECTED = {
    "ssh": "22/tcp",
    "smtp": "25/tcp",
    "domain": "53/tcp+udp",
    "http": "80/tcp",
    "pop3": "110/tcp",
    "ntp": "123/udp",
    "imap": "143/tcp",
    "snmp": "161/udp",
    "bgp": "179/tcp",
    "ldap": "389/tcp",
    "https": "443/tcp",
    "microsoft-ds": "445/tcp",
    "submissions": "465/tcp",
    "smtps": "465/tcp",
    "submission": "587/tcp",
    "ldaps": "636/tcp",
    "rsync": "873/tcp",
    "imaps": "993/tcp",
    "pop3s": "995/tcp",
    "openvpn": "1194/udp",
    "nfs": "2049/tcp",
    "mysql": "3306/tcp",
    "mdns": "5353/udp",
    "postgresql": "5432/tcp",
    "redis": "6379/tcp",
    "zabbix-agent": "10050/tcp",
    "wireguard": "51820/udp",
}


@pytest.mark.parametrize("name", EXPECTED)
def test_names_mean_what_administrators_expect(name: str) -> None:
    service = services.find(name)
    assert service is not None
    assert f"{service.ports}/{'+'.join(service.protocols)}" == EXPECTED[name]


def test_every_name_is_one_service_and_a_name_of_the_language() -> None:
    names = [name for service in services.table() for name in service.names] + list(services.PROTOCOLS)
    assert len(names) == len(set(names))
    assert all(re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,30}", name) for name in names)
    assert not {"any", "none", "self", "ping", "icmp"} & set(names)
    assert len(services.table()) > 250
    for service in services.table():
        assert 1 <= service.first <= service.last <= 65535
        assert service.protocols and set(service.protocols) <= set(services.PORT_PROTOCOLS)


def test_a_name() -> None:
    text = answer("ssh", "ssh 22/tcp\n")
    assert "ssh   22/tcp" in text
    assert "well-known" in text and "the same" in text and "takes root" in text


def test_an_alias_and_a_difference() -> None:
    text = answer("smtps", "submissions 465/tcp ssmtp smtps urd\nssh 2222/tcp # moved\n")
    assert "submissions  465/tcp" in text and "the same" in text
    assert "says 2222/tcp" in answer("ssh", "ssh 2222/tcp # moved\n")
    assert "does not list it" in answer("wireguard", "ssh 22/tcp\n")


def test_numbers_and_ranges() -> None:
    assert "https" in answer("443", "") and "http3" in answer("443", "")
    assert "http3" not in answer("443/tcp", "")
    text = answer("1000-50000", "")
    assert "well-known (0-1023) and registered (1024-49151) and dynamic (49152-65535)" in text
    assert "below 1024" in text and "reserve it" in text
    assert "no service of portctl's table uses 4999" in answer("4999", "")


def test_protocols_without_ports() -> None:
    assert answer("esp", "") == "esp is protocol 50, which has no ports; a policy writes `ports: esp`\n"


@pytest.mark.parametrize(("which", "hint"), [("htps", "https"), ("postgresq", "postgresql")])
def test_an_unknown_name_gets_a_hint(which: str, hint: str) -> None:
    with pytest.raises(Problems) as caught:
        answer(which, "")
    assert caught.value.problems[0].hint == f"did you mean `{hint}`?"


@pytest.mark.parametrize("which", ["0", "65536", "20-10", "1-99999"])
def test_numbers_out_of_range(which: str) -> None:
    with pytest.raises(Problems):
        answer(which, "")


def test_the_command() -> None:
    run = CliRunner().invoke(cli.build(["ports"]), ["ports", "ssh", "--etc-services", "/nonexistent"])
    assert run.exit_code == 0
    assert "22/tcp" in run.stdout and "/etc/services" not in run.stdout
