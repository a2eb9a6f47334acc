"""A host with iptables and no ipset: small lists are written out as rules, loaded and obeyed, large ones refused."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from portctl.command import Command
from portctl.hosts.namespaces import Room
from tests.system import applying, worlds
from tests.system.dialling import dial, serve, tcp
from tests.system.worlds import World, checked

RING = "a host without ipset"
NEEDS = ("iptables-nft", "ip6tables-nft", "iptables-legacy", "ip6tables-legacy")
IPTABLES = ("--backend", "iptables")
LISTED, UNLISTED, BAD = "192.0.2.66", "192.0.2.67", "192.0.2.69"
LISTED6, UNLISTED6 = "2001:db8::66", "2001:db8::67"
POLICY = f"""portctl: 1
name: small
addresses:
  office: [{LISTED}, {BAD}, 198.51.100.0/24, 203.0.113.1, 203.0.113.5, 203.0.113.9, "{LISTED6}", "2001:db8:1::/48"]
  bad: [{BAD}, 203.0.113.128/25]
services:
  ssh: {{ports: ssh, from: any, listener: optional}}
  web: {{ports: 8443/tcp, from: office}}
block: [bad]
"""
LARGE = POLICY.replace("name: small", "name: large").replace(
    "203.0.113.128/25]", ", ".join(["203.0.113.128/25", *(f"10.{n}.0.1" for n in range(90))]) + "]"
)
LIVE = POLICY.replace("203.0.113.128/25]\n", "203.0.113.128/25]\n  bans: {live: true}\n").replace(
    "[bad]\n", "[bad, bans]\n"
)


@pytest.fixture(params=("nft", "legacy"))
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    """A machine whose `iptables` is one of the variants, and which has no ipset: its files are covered in memory."""
    with worlds.world() as made:
        script = (
            "set -e; for t in iptables ip6tables; do for k in '' -save -restore; do"
            f" ln -sfn /usr/sbin/$t-{request.param}$k /etc/alternatives/$t$k; done; done; iptables --version"
        )
        assert ("legacy" in checked(made.machine, "sh", "-c", script)) == (request.param == "legacy")
        hide = "while path=$(command -v ipset); do rm $path; done; hash -r; ! command -v ipset"
        checked(made.machine, "sh", "-c", hide)
        yield made


def rules(machine: Room) -> str:
    """All rules, without counters and the moments of the listing."""
    listed = "for t in iptables ip6tables; do $t-save; done | sed '/^#/d; s/ \\[[0-9:]*\\]$//'"
    return checked(machine, "sh", "-c", listed)


def test_a_small_list_is_loaded_and_obeyed_and_a_second_apply_changes_nothing(world: World) -> None:
    machine, peer = world.machine, world.controller
    serve(machine, 8443, 9999)
    for address in (f"{LISTED}/24", f"{UNLISTED}/24", f"{BAD}/24", f"{LISTED6}/64", f"{UNLISTED6}/64"):
        checked(peer, "ip", "address", "add", address, "dev", "eth0", *(["nodad"] if ":" in address else []))
    ways = [tcp(8443, source=source) for source in (LISTED, UNLISTED, BAD)]
    ways += [tcp(8443, "2001:db8::10", source) for source in (LISTED6, UNLISTED6)] + [tcp(9999, source=LISTED)]
    assert dial(peer, *ways) == ["open"] * 6
    applying.applied(machine, POLICY, *IPTABLES)
    assert f"-s {LISTED}/32" in rules(machine) and "--match-set" not in rules(machine)
    assert dial(peer, *ways) == ["open", "silent", "silent", "open", "silent", "silent"]
    before = rules(machine)
    again = applying.apply(machine, POLICY, *IPTABLES, "--confirm-within", "0")
    assert again.status == 0 and "Nothing to do" in again.stdout, again.stdout + again.stderr
    assert rules(machine) == before
    verified = applying.portctl(machine, "verify", "/root/policy.yaml")
    assert (verified.status, "all holds" in verified.stdout) == (0, True), verified.stdout + verified.stderr
    other = applying.apply(machine, POLICY.replace("from: office", "from: any"), *IPTABLES, "--confirm-within", "1")
    assert other.status == 4, other.stdout + other.stderr
    assert dial(peer, *ways) == ["open", "silent", "silent", "open", "silent", "silent"]


@pytest.mark.parametrize(("policy", "gap"), [(LARGE, "networks without ipset"), (LIVE, "live group without ipset")])
def test_a_large_list_and_a_live_group_are_refused_and_nothing_changes(world: World, policy: str, gap: str) -> None:
    applying.applied(world.machine, POLICY, *IPTABLES)
    before = rules(world.machine)
    for words in (("apply", "/root/large.yaml", "--yes", "--confirm-within", "0"), ("plan", "/root/large.yaml")):
        world.machine.put("/root/large.yaml", policy.encode())
        refused = applying.portctl(world.machine, *words, *IPTABLES)
        assert refused.status == 2, refused.stdout + refused.stderr
        assert gap in refused.stderr and "large.yaml" in refused.stderr, refused.stderr
    assert rules(world.machine) == before
    assert "Nothing to do" in applying.apply(world.machine, POLICY, *IPTABLES, "--confirm-within", "0").stdout


def test_the_rest_of_what_apply_offers_works_there_too(world: World) -> None:
    """The guard, the way back, what remove leaves: nothing of portctl's is loaded in the end."""
    machine = world.machine
    applying.applied(machine, POLICY, *IPTABLES)
    first = rules(machine)
    applying.applied(machine, POLICY.replace("name: small", "name: next").replace("8443", "9443"), *IPTABLES)
    assert rules(machine) != first
    assert applying.portctl(machine, "rollback").status == 0
    assert "--dport 9443" not in rules(machine) and "--dport 8443" in rules(machine)
    assert machine.run(Command(("sh", "-c", "command -v ipset"))).status != 0
