"""Over a real sshd: nobody is locked out, and only a new connection confirms."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator

import pytest

from portctl.command import Command, Result
from tests.system import applying, worlds
from tests.system.applying import BACKENDS
from tests.system.worlds import World

pytestmark = pytest.mark.system

PORTCTL = f"{sys.executable} -m portctl"
CLOSED = """portctl: 1
name: closed
services:
  web: {ports: [http, https], from: any}
  ssh: {ports: ssh, from: [198.51.100.0/24, "2001:db8:ffff::/48"]}
"""
OPEN = """portctl: 1
name: open
services:
  ssh: {ports: ssh, from: [192.0.2.0/24, "2001:db8::/64"]}
"""


@pytest.fixture
def world() -> Iterator[World]:
    with worlds.world() as made:
        made.start_sshd()
        yield made


def over_ssh(world: World, policy: str, words: str, options: tuple[str, ...] = ()) -> tuple[int, str]:
    world.machine.put("/root/policy.yaml", policy.encode())
    said = world.ssh(f"{PORTCTL} apply /root/policy.yaml --yes {words}", timeout=10, options=options)
    return said.status, said.stdout + said.stderr


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_policy_that_would_cut_the_operators_ssh_is_refused_before_anything_changes(
    world: World, backend: str
) -> None:
    before = applying.state(world.machine)
    status, said = over_ssh(world, CLOSED, f"--backend {backend}")
    assert status == 3, said
    assert "locked out" in said and "192.0.2.1" in said
    assert "`ssh` would have to admit 192.0.2.1" in said
    assert applying.state(world.machine) == before


def test_without_a_service_for_ssh_the_hint_is_the_line_to_add(world: World) -> None:
    status, said = over_ssh(world, CLOSED.replace("  ssh: {ports: ssh,", "  other: {ports: 23/tcp,"), "")
    assert status == 3
    assert "add `ssh: {ports: 22/tcp, from: 192.0.2.1}`" in said


@pytest.mark.parametrize("backend", BACKENDS)
def test_locked_out_on_purpose_and_not_confirmed_ssh_works_again(world: World, backend: str) -> None:
    machine = world.machine
    machine.put("/root/policy.yaml", CLOSED.encode())
    started = time.monotonic()
    argv = f"{PORTCTL} apply /root/policy.yaml --yes --allow-lockout --confirm-within 4 --backend {backend}"
    session = world.start_ssh(argv)
    worlds.until(lambda: machine.run(Command(("test", "-e", "/run/portctl/pending/loaded"))).ok, "loaded")
    assert not world.ssh("true", timeout=1).ok
    session.kill()
    applying.settled(machine)
    assert time.monotonic() - started < 20
    assert world.ssh("true").ok
    assert "rolled back" in applying.portctl(machine, "history").stdout


def test_an_old_connection_does_not_confirm_and_a_new_one_does(world: World) -> None:
    machine = world.machine
    old = world.start_ssh("sh")
    assert old.stdin and old.stdout
    shared = ("-o", "ControlMaster=auto", "-o", "ControlPath=/run/shared", "-o", "ControlPersist=yes")
    assert world.ssh("true", options=shared).ok
    machine.put("/root/policy.yaml", OPEN.encode())
    applying_session = world.start_ssh(f"{PORTCTL} apply /root/policy.yaml --yes --confirm-within 30")
    worlds.until(lambda: machine.run(Command(("test", "-e", "/run/portctl/pending/loaded"))).ok, "loaded")
    time.sleep(0.5)

    old.stdin.write(f"{PORTCTL} confirm 2>&1; echo status $?\n".encode())
    old.stdin.flush()
    said = b"".join(iter(lambda: old.stdout.readline() if old.stdout else b"", b"status 3\n"))
    assert b"older than the new rules" in said

    multiplexed = world.ssh(f"{PORTCTL} confirm", options=shared)
    assert multiplexed.status == 3
    assert "older than the new rules" in multiplexed.stderr
    nobody_sudo = world.ssh(f"env -i {PORTCTL} confirm", options=shared)
    assert nobody_sudo.status == 3, nobody_sudo

    new = world.ssh(f"{PORTCTL} confirm")
    assert new.status == 0, new
    assert applying_session.wait(20) == 0
    assert "over a new connection from 192.0.2.1" in applying.portctl(machine, "history").stdout
    old.kill()


def test_with_sudo_and_tmux_like_environments_the_way_in_is_still_found(world: World) -> None:
    world.machine.put("/root/policy.yaml", CLOSED.encode())
    said = world.ssh(f"env -i {PORTCTL} plan /root/policy.yaml")
    assert "You came by ssh from 192.0.2.1" in said.stdout
    stale = world.ssh(f"SSH_CONNECTION='198.51.100.1 4000 192.0.2.10 22' setsid {PORTCTL} plan /root/policy.yaml")
    assert "from 192.0.2.1 " in stale.stdout
    keeper = world.start_ssh("sleep 30")
    script = (
        f"sleep 1; SSH_CONNECTION='198.51.100.1 4000 192.0.2.10 22' {PORTCTL} plan /root/policy.yaml >/root/said 2>&1"
    )
    world.machine.put("/root/detached.sh", script.encode())
    world.ssh("(setsid sh /root/detached.sh </dev/null >/dev/null 2>&1 &)")
    worlds.until(lambda: "refused" in world.machine.run(Command(("cat", "/root/said"))).stdout, "a plan was made")
    said_there = world.machine.run(Command(("cat", "/root/said"))).stdout
    assert "How you came in cannot be told" in said_there and "192.0.2.1" in said_there
    keeper.kill()


TUNNEL = """ip link add vx0 type vxlan id 7 remote {peer} dstport 4789 dev eth0
ip address add {inner}/24 dev vx0
ip link set vx0 up"""


def test_a_way_in_through_a_tunnel_needs_the_tunnel_itself_to_be_let_in(world: World) -> None:
    for room, peer, inner in (
        (world.machine, "192.0.2.1", "10.99.0.10"), (world.controller, "192.0.2.10", "10.99.0.1"),
    ):  # fmt: skip
        worlds.checked(room, "sh", "-c", TUNNEL.format(peer=peer, inner=inner))
    inside = OPEN.replace("192.0.2.0/24", "10.99.0.0/24")
    world.machine.put("/root/policy.yaml", inside.encode())
    argv = f"{PORTCTL} apply /root/policy.yaml --yes --confirm-within 0"
    cut = world.ssh(argv, address="10.99.0.10", timeout=10)
    assert cut.status == 3, cut.stdout + cut.stderr
    assert "4789" in cut.stderr and "192.0.2.1" in cut.stderr
    with_tunnel = inside.replace("services:", "services:\n  tunnel: {ports: 4789/udp, from: 192.0.2.1}")
    world.machine.put("/root/policy.yaml", with_tunnel.encode())
    kept = world.ssh(argv, address="10.99.0.10", timeout=10)
    assert kept.status == 0, kept.stdout + kept.stderr
    assert world.ssh("true", address="10.99.0.10", timeout=10).ok


def test_under_a_real_sudo_and_a_real_tmux_the_way_in_is_found_or_said_not_to_be(world: World) -> None:
    world.machine.put("/root/policy.yaml", CLOSED.encode())
    said = world.ssh(f"sudo -n {PORTCTL} plan /root/policy.yaml")
    assert "You came by ssh from 192.0.2.1" in said.stdout, said
    started = world.ssh("tmux -S /root/tmux new-session -d sh")
    assert started.ok, started
    keeper = world.start_ssh("sleep 30")
    typed = world.ssh(f"tmux -S /root/tmux send-keys '{PORTCTL} plan /root/policy.yaml >/root/said 2>&1' Enter")
    assert typed.ok, typed
    worlds.until(lambda: "refused" in world.machine.run(Command(("cat", "/root/said"))).stdout, "a plan was made")
    in_tmux = world.machine.run(Command(("cat", "/root/said"))).stdout
    assert "How you came in cannot be told" in in_tmux and "192.0.2.1" in in_tmux
    world.ssh("tmux -S /root/tmux kill-server")
    keeper.kill()


def test_from_cron_every_connected_ssh_peer_must_stay_admitted(world: World) -> None:
    world.machine.put("/root/policy.yaml", CLOSED.encode())
    alone = applying.portctl(world.machine, "plan", "/root/policy.yaml")
    keeper = world.start_ssh("sh")
    assert keeper.stdin and keeper.stdout
    keeper.stdin.write(b"echo here\n")
    keeper.stdin.flush()
    assert keeper.stdout.readline() == b"here\n"
    with_somebody = applying.portctl(world.machine, "plan", "/root/policy.yaml")
    assert "refused: locked out" not in alone.stdout and "refused" in with_somebody.stdout
    assert "192.0.2.1" in with_somebody.stdout
    keeper.kill()


def at_a_console(world: World, terminal: str, words: str, before: str) -> Result:
    """Runs portctl in a session whose terminal is a virtual console of this machine that nobody else uses."""
    inner = f"{before} {PORTCTL} {words} >/run/said 2>&1"
    found = world.machine.run(Command(("sh", "-c", f"setsid --ctty --wait sh -c '{inner}' <{terminal}")), 60)
    return Result(found.status, world.machine.run(Command(("cat", "/run/said"))).stdout, found.stderr)


@pytest.mark.parametrize(("terminal", "before"), [("/dev/tty12", ""), ("/dev/tty13", "sudo -n")])
def test_somebody_at_a_console_is_told_so_and_confirms_from_there(world: World, terminal: str, before: str) -> None:
    world.machine.put("/root/policy.yaml", CLOSED.encode())
    planned = at_a_console(world, terminal, "plan /root/policy.yaml", before)
    assert planned.status == 0, planned
    assert "You sit at a console of this host." in planned.stdout
    world.machine.put("/root/policy.yaml", OPEN.encode())
    session = world.start_ssh(f"{PORTCTL} apply /root/policy.yaml --yes --confirm-within 60")
    worlds.until(lambda: world.machine.run(Command(("test", "-e", "/run/portctl/pending/loaded"))).ok, "loaded")
    confirmed = at_a_console(world, terminal, "confirm", before)
    assert confirmed.status == 0, confirmed
    assert session.wait(20) == 0
    assert "from a console" in applying.portctl(world.machine, "history").stdout


def test_confirming_with_nothing_pending_is_refused(world: World) -> None:
    assert world.ssh(f"{PORTCTL} confirm").status == 3


def test_rolling_back_a_pending_apply_ends_it_at_once(world: World) -> None:
    before = applying.state(world.machine)
    world.machine.put("/root/policy.yaml", OPEN.encode())
    session = world.start_ssh(f"{PORTCTL} apply /root/policy.yaml --yes --confirm-within 60")
    worlds.until(lambda: world.machine.run(Command(("test", "-e", "/run/portctl/pending/loaded"))).ok, "loaded")
    assert world.ssh(f"{PORTCTL} rollback").status == 0
    assert session.wait(20) == 4
    assert applying.state(world.machine) == before


def test_a_block_of_the_gateway_is_refused(world: World) -> None:
    policy = OPEN + "block: [192.0.2.1]\n"
    status, said = over_ssh(world, policy, "")
    assert status == 3
    assert "holds 192.0.2.1, the gateway" in said


def test_a_block_of_everybody_is_refused(world: World) -> None:
    status, said = over_ssh(world, OPEN + 'block: [{from: any, except: ["192.0.2.0/24"]}, 192.0.2.10]\n', "")
    assert status == 3
    assert "192.0.2.10, an address of this host" in said
