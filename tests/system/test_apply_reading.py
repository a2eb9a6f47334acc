"""What was loaded is read back, also on the way back; a loader of rules that fails in the middle changes nothing."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

from portctl.hosts.namespaces import Room
from tests.system import applying, worlds
from tests.system.rings import FILTERS, Filter
from tests.system.test_apply_traffic import NEEDS as NEEDS
from tests.system.test_apply_traffic import chosen
from tests.system.test_iptables_steps import FAILS, LATE, TRANSACTIONS
from tests.system.test_translated_traffic import A, B

RING = "reading back what was loaded"

BESIDES = {
    "nftables": "nft add chain inet portctl more; nft add rule inet portctl more counter",
    "iptables": "iptables -N PORTCTL-MORE; iptables -A PORTCTL-MORE -j RETURN",
}
"""What nobody wanted, in what is portctl's."""
NFT = """#!/bin/sh
# Adds once, to the transaction in question, a line that the kernel refuses when it has taken all the others.
case $1 in -f) ;; *) exec /usr/sbin/nft "$@" ;; esac
left=$(cat /root/left)
echo $((left - 1)) >/root/left
[ $left = 0 ] || exec /usr/sbin/nft "$@"
{ cat "$2"; echo 'add rule inet portctl nowhere drop'; } | /usr/sbin/nft -f -
"""


@pytest.fixture(params=FILTERS, ids=lambda tried: tried.name)
def tried(request: pytest.FixtureRequest) -> Filter:
    found: Filter = request.param
    return found


@pytest.fixture
def machine(tried: Filter) -> Iterator[Room]:
    """A machine with the first policy."""
    with worlds.machine() as made:
        chosen(made, tried)
        applying.applied(made, A, "--backend", tried.backend)
        yield made


def tampered(machine: Room, tried: Filter, folder: str) -> None:
    """The loader of a saved bundle loads something else besides, once."""
    line = f'[ "${{1-}}" = check ] || [ -e /root/once ] || {{ touch /root/once; {BESIDES[tried.backend]}; }}'
    worlds.checked(machine, "sh", "-c", f"cat >>{folder}/{tried.backend}/load.sh", stdin=f"\n{line}\n".encode())


def pending(machine: Room, tried: Filter, seconds: int) -> subprocess.Popen[bytes]:
    """An apply of the second policy that waits for its confirmation, and whose way back was tampered with."""
    machine.put("/root/policy.yaml", B.encode())
    words = ("apply", "/root/policy.yaml", "--yes", "--confirm-within", str(seconds), "--backend", tried.backend)
    waiting = machine.start((sys.executable, "-m", "portctl", *words))
    worlds.checked(machine, "sh", "-c", "until [ -e /run/portctl/pending/loaded ]; do sleep 0.1; done")
    tampered(machine, tried, "/run/portctl/pending/old")
    return waiting


def test_a_rollback_that_reads_back_otherwise_is_undone(machine: Room, tried: Filter) -> None:
    applying.applied(machine, B, "--backend", tried.backend)
    before = applying.state(machine)
    tampered(machine, tried, "/var/lib/portctl/history/2/before")
    said = applying.portctl(machine, "rollback")
    assert said.status == 4, said
    assert f"the rules of {tried.backend} do not read back as they were saved" in said.stderr
    assert "Everything is as it was before." in said.stderr
    assert applying.state(machine) == before
    assert "rolled back" in applying.portctl(machine, "history").stdout.splitlines()[-1]
    again = applying.portctl(machine, "rollback")
    assert again.status == 0, again


def test_what_the_guard_brings_back_is_read_back(machine: Room, tried: Filter) -> None:
    before = applying.state(machine)
    waiting = pending(machine, tried, 8)
    said = waiting.communicate(timeout=120)[1].decode()
    assert waiting.returncode == 4, said
    assert "NOT WELL" in said and "do not read back as they were saved" in said
    assert applying.state(machine) != before


def test_what_is_taken_back_by_hand_is_read_back(machine: Room, tried: Filter) -> None:
    waiting = pending(machine, tried, 60)
    taken = applying.portctl(machine, "rollback")
    assert taken.status == 3, taken
    assert "NOT WELL" in taken.stderr and "do not read back as they were saved" in taken.stderr
    assert waiting.wait(60) == 4


@pytest.mark.parametrize("tried", FILTERS[:2], indirect=True, ids=lambda tried: tried.name)
def test_after_a_rollback_rules_for_a_user_are_as_they_were_confirmed(machine: Room, tried: Filter) -> None:
    """A listing has the user's number where the policy has the name."""
    for port in ("http", "https"):
        egress = f"egress: {{mirror: {{ports: {port}, to: any, user: nobody}}}}\n"
        text = f"portctl: 1\nname: {port}\n{egress}defaults: {{outbound: reject}}\n"
        applying.applied(machine, text, "--backend", tried.backend)
    taken = applying.portctl(machine, "rollback")
    assert taken.status == 0, taken
    status = applying.portctl(machine, "status")
    assert status.status == 0, status


def failing(machine: Room, tried: Filter, after: int) -> None:
    """The tool that loads the rules passes every check, and fails in the middle, once."""
    if tried.backend == "nftables":
        machine.put("/root/left", str(after).encode())
        machine.put("/usr/local/sbin/nft", NFT.encode(), 0o755)
        return
    family = "ip6tables" if after >= TRANSACTIONS else "iptables"
    real = f"/usr/sbin/{family}-{tried.name.removeprefix('iptables-')}"
    worlds.checked(machine, "mkdir", "-p", "/run/late")
    machine.put("/run/late/left", str(after % TRANSACTIONS).encode())
    machine.put("/run/late/restore", LATE.replace("REAL", real).replace("END", FAILS).encode(), 0o755)
    worlds.checked(machine, "ln", "-sfn", "/run/late/restore", f"/etc/alternatives/{family}-restore")


LATE_LOADS = [
    (tried, after)
    for tried in FILTERS
    for after in ((0, 1, 2, 3, 4) if tried.backend == "nftables" else (1, 4, TRANSACTIONS + 2))
]
"""The filter, and after how many transactions it fails (those of both families counted)."""


@pytest.mark.parametrize(("tried", "after"), LATE_LOADS, indirect=["tried"], ids=lambda x: getattr(x, "name", str(x)))
def test_a_loader_of_rules_that_fails_in_the_middle_changes_nothing(machine: Room, tried: Filter, after: int) -> None:
    before = applying.state(machine)
    failing(machine, tried, after)
    said = applying.apply(machine, B, "--confirm-within", "0", "--backend", tried.backend)
    assert said.status == 3, said
    assert "it fails here" in said.stderr or "nowhere" in said.stderr
    assert "Everything is as it was before." in said.stderr
    assert applying.state(machine) == before
    status = applying.portctl(machine, "status")
    assert status.status == 0, status
