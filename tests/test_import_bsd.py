"""Listings of pf and ipfw become policies as those of iptables do."""

from __future__ import annotations

import pytest

from portctl import importing

PF = """\
block return in log all
pass out quick all flags S/SA keep state
pass in quick on em0 inet proto icmp all icmp-type echoreq keep state
pass in on em0 proto tcp from any to any port = ssh flags S/SA keep state (source-track {track}, {limits})
pass in on em0 inet proto tcp from 198.51.100.0/24 to 203.0.113.5 port = http flags S/SA keep state label "web"
"""
IPFW = """\
00100 allow ip from any to any via lo0
01000 check-state :default
01100 allow tcp from me to any setup keep-state :default
01200 allow udp from me to any keep-state :default
01300 allow icmp from me to any keep-state :default
01400 allow tcp from any to me 22 in recv em0 setup keep-state :default
01500 allow tcp from 198.51.100.0/24 to me 80,443 in setup limit {limit} :default
65535 deny ip from any to any
"""


@pytest.mark.parametrize(
    ("track", "limits", "status", "wanted"),
    [
        ("rule", "max-src-conn 15, max-src-conn-rate 5/60", "modelled", "rate: 5/minute, max_connections: 15"),
        ("rule", "max-src-states 20", "modelled", "max_connections: 20"),
        ("rule", "max-src-conn-rate 3/30", "approximated", "rate: 6/minute"),
        ("global", "max-src-conn 15", "approximated", "max_connections: 15"),
        ("rule", "max 100", "refused", ""),
    ],
)
def test_what_pf_limits_is_limited(track: str, limits: str, status: str, wanted: str) -> None:
    found = importing.from_texts({"pf.sr": PF.format(track=track, limits=limits)}, "test")
    assert found.account.entries[3].status == status
    assert (f"ssh: {{ports: ssh, from: any, in: em0, {wanted}}}" in found.text) == bool(wanted)
    assert found.equal == bool(wanted)


def test_an_ipfw_list_is_what_a_person_would_have_written() -> None:
    found = importing.from_texts({"ipfw.list": IPFW.format(limit="src-addr 20")}, "test")
    assert found.equal
    assert {entry.status for entry in found.account.entries} == {"modelled"}
    assert found.text.partition("services:\n")[2] == (
        "  ssh: {ports: ssh, from: any, in: em0}\n"
        "  web: {ports: [http, https], from: 198.51.100.0/24, max_connections: 20}\n"
        "\negress:\n"
        "  all-tcp: {ports: 1-65535/tcp, to: any}\n"
        "  all-udp: {ports: 1-65535/udp, to: any}\n"
        "  ping: {ports: ping, to: 0.0.0.0/0}\n"
        "\ndefaults:\n  inbound: drop\n  outbound: drop\n  forward: drop\n"
    )


def test_a_limit_of_destinations_is_refused() -> None:
    found = importing.from_texts({"ipfw.list": IPFW.format(limit="dst-addr 20")}, "test")
    assert found.account.entries[6].status == "refused" and not found.equal
    assert "http" not in found.text


def test_a_range_of_ports_that_runs_backwards_is_none() -> None:
    rule = "pass in quick proto tcp from any to any port 90:80 flags S/SA keep state\n"
    found = importing.from_texts({"pf.nv": f"block drop all\n{rule}"}, "test")
    assert found.equal and "services" not in found.text
