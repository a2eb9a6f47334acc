"""A first policy of a host: what listens, who talks to it, what its rules admit."""

from __future__ import annotations

from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path

from portctl import backends, document, policy
from portctl.files import Files
from portctl.importing.first import First, first
from portctl.listeners import Connection, Listener
from portctl.observe import Facts, Interface, Observed
from portctl.program import Program
from portctl.resolve import resolve
from portctl.ruleset import TCP, UDP

OWN = ip_address("192.0.2.1")
FACTS = Facts("Linux", distribution="Debian 13", interfaces=(Interface("eth0", (OWN,)),))


def listener(port: int, process: str | None, address: str | None = None, protocol: int = TCP) -> Listener:
    return Listener(protocol, ip_address(address) if address else None, port, 6, True, process=process)


LISTENERS = (
    listener(22, "sshd"),
    listener(80, "nginx"),
    listener(443, "nginx"),
    listener(5432, "postgres", "127.0.0.1"),
    listener(9100, "node_exporter", "192.0.2.1"),
    listener(68, "dhclient", protocol=UDP),
)


def made(program: Program | None = None, **more: object) -> First:
    observed = Observed(FACTS, program, listeners=LISTENERS, **more)  # type: ignore[arg-type]
    found = first(observed, "host")
    resolve(policy.validate(document.read(found.text, "host")), datetime.now(UTC), Files(Path()))
    return found


def rules(*lines: str) -> Program:
    text = "*filter\n:INPUT DROP [0:0]\n" + "".join(f"{line}\n" for line in lines) + "COMMIT\n"
    return backends.load("iptables").parse({"rules.v4": text, "rules.v6": "*filter\n:INPUT DROP [0:0]\nCOMMIT\n"})


def test_it_opens_what_listens_with_its_evidence() -> None:
    text = made().text
    assert "  # nginx on *:80/tcp, *:443/tcp\n  web: {ports: [http, https], from: any}\n" in text
    assert "node_exporter on 192.0.2.1:9100/tcp" in text


def test_loopback_and_dhcp_are_not_opened() -> None:
    text = made().text
    assert "5432" not in text
    assert "postgres" not in text
    assert "bootpc" not in text
    assert "1 listeners on loopback alone" in text


def test_ssh_is_proposed_from_the_networks_that_are_connected() -> None:
    peers = [Connection(TCP, OWN, 22, ip_address(peer), 50000) for peer in ("198.51.100.7", "198.51.100.9")]
    text = made(connections=tuple(peers)).text
    assert "  ssh: {ports: ssh, from: 198.51.100.0/24}\n" in text
    assert "connected now: 198.51.100.7, 198.51.100.9" in text


def test_present_rules_narrow_what_is_proposed() -> None:
    text = made(
        rules(
            "-A INPUT -s 203.0.113.0/24 -p tcp -m tcp --dport 22 -j ACCEPT",
            "-A INPUT -p tcp -m tcp --dport 443 -j ACCEPT",
        )
    ).text
    assert "ssh: {ports: ssh, from: 203.0.113.0/24}" in text
    assert "Not opened: node_exporter on 192.0.2.1:9100/tcp" in text


def test_what_could_not_be_seen_is_said() -> None:
    found = first(Observed(FACTS, unknown=("what listens: neither ss nor /proc/net told",)), "host")
    assert "could not be seen: what listens" in found.text
    assert any("opens nothing" in note for note in found.notes)
