"""`--host ssh://…`: who may do what there, whom ssh believes, and what a host says that nobody should believe."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from portctl.command import Command, Result
from tests.system import afar, applying, worlds
from tests.system.applying import FIRST, SECOND
from tests.system.worlds import World, checked

pytestmark = pytest.mark.system
NEEDS = ("sshd", "ssh", "sudo")
USER = """useradd --create-home --shell /bin/sh op && sed -i 's/^op:[^:]*:/op:*:/' /etc/shadow
chmod 644 /etc/ssh/test_authorized_keys
echo 127.0.1.1 machine >>/etc/hosts  # sudo asks for the name of its host
rm -rf /etc/sudoers.d/* /etc/doas.conf"""


@pytest.fixture
def world() -> Iterator[World]:
    with afar.world() as made:
        yield made


def as_op(world: World, *words: str) -> Result:
    """portctl on the controller, about the machine, as a user there who is not root."""
    world.controller.put("/root/policy.yaml", FIRST.encode())
    return world.controller.run(Command((*afar.PORTCTL, *words, "--host", "ssh://op@192.0.2.10")), 120)


def test_without_sudo_nothing_changes_and_what_only_reads_says_what_it_could_not_see(world: World) -> None:
    checked(world.machine, "sh", "-c", USER)
    before = applying.state(world.machine)
    said = as_op(world, "apply", "/root/policy.yaml", "--yes")
    assert said.status == 3
    assert "portctl is not root there" in said.stderr and "sudo: a password is required" in said.stderr
    assert not world.machine.run(Command(("test", "-e", "/run/portctl"))).ok
    facts = as_op(world, "facts")
    assert facts.status == 0 and "note: " in facts.stderr
    assert "root          no" in facts.stdout
    assert applying.state(world.machine) == before


def test_with_sudo_that_asks_nothing_it_works_and_the_way_in_is_found(world: World) -> None:
    checked(world.machine, "sh", "-c", USER)
    world.machine.put("/etc/sudoers.d/op", b"op ALL=(root) NOPASSWD: /bin/sh\n", 0o440)
    plan = as_op(world, "plan", "/root/policy.yaml")
    assert "You came by ssh from 192.0.2.1" in plan.stdout, plan.stderr
    said = as_op(world, "apply", "/root/policy.yaml", "--yes")
    assert said.status == 0, said.stderr
    assert "Confirmed, over a new connection from 192.0.2.1" in said.stderr
    assert "In force: first" in as_op(world, "status").stdout


def test_a_host_with_another_key_is_not_talked_to(world: World) -> None:
    checked(world.controller, "sh", "-c", "rm -f /root/k*; ssh-keygen -q -t ed25519 -N '' -f /root/k")
    other = checked(world.controller, "cat", "/root/k.pub")
    world.controller.put("/root/.ssh/known_hosts", f"192.0.2.10 {other}".encode())
    said = afar.apply(world.controller, FIRST)
    assert said.status == 3
    assert "Host key verification failed" in said.stderr
    world.controller.put("/root/.ssh/known_hosts", b"")
    said = afar.apply(world.controller, FIRST)
    assert said.status == 3
    assert "Host key verification failed" in said.stderr
    assert not world.machine.run(Command(("test", "-e", "/run/portctl"))).ok


def test_shared_connections_of_the_persons_own_configuration_are_not_used(world: World) -> None:
    """Else the new connection would be the old one, and prove nothing."""
    shared = f"{afar.CONFIG}  ControlMaster auto\n  ControlPath /run/shared-%C\n  ControlPersist yes\n"
    shared += "  RemoteCommand uptime\n"
    world.controller.put("/root/.ssh/config", shared.encode())
    checked(world.controller, "ssh", "-o", "RemoteCommand=none", "192.0.2.10", "true")
    assert checked(world.controller, "sh", "-c", "ls /run/shared-*")
    said = afar.apply(world.controller, FIRST)
    assert said.status == 0, said.stderr
    assert "over a new connection" in said.stderr


def test_a_talkative_login_shell_and_names_with_control_characters_do_no_harm(world: World) -> None:
    machine = world.machine
    machine.put("/root/.bashrc", b"echo 'Welcome!'; printf '\\001hello 0 gzip\\n'; echo trouble >&2\n")
    checked(machine, "ip", "link", "add", "e\x1b[31mred", "type", "bridge")
    checked(machine, "ip", "link", "set", "e\x1b[31mred", "up")
    facts = afar.portctl(world.controller, "facts")
    assert facts.status == 0, facts.stderr
    assert "\x1b" not in facts.stdout and "e\\x1b[31mred" in facts.stdout
    assert afar.apply(world.controller, FIRST).status == 0


WATCH = """while :; do for each in /proc/[0-9]*/cmdline /proc/[0-9]*/environ; do
tr '\\000' ' ' <"$each" | grep -F 203.0.113.5; done; done"""


def test_no_address_of_a_policy_ever_stands_on_a_command_line(world: World) -> None:
    """Seen by somebody who looks at all processes of the machine, again and again, during an apply."""
    world.machine.put("/root/watch.sh", WATCH.encode())
    world.machine.start(("sh", "-c", "exec sh /root/watch.sh >/root/seen 2>/dev/null"))
    assert afar.apply(world.controller, SECOND).status == 0
    assert "203.0.113.5" in applying.state(world.machine)
    seen = checked(world.machine, "cat", "/root/seen")
    assert [line for line in seen.splitlines() if "grep" not in line] == []


RELAY = """
import asyncio, sys
async def pipe(reader, write):
    queue = asyncio.Queue()
    async def late():
        while True:
            when, data = await queue.get()
            await asyncio.sleep(max(0, when - asyncio.get_running_loop().time()))
            if not data: return
            await write(data)
    task = asyncio.create_task(late())
    while True:
        data = await reader.read(65536)
        queue.put_nowait((asyncio.get_running_loop().time() + 0.15, data))
        if not data: break
    await task
async def main():
    loop = asyncio.get_running_loop()
    given = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(given), sys.stdin)
    reader, writer = await asyncio.open_connection(sys.argv[1], int(sys.argv[2]))
    async def there(data):
        writer.write(data); await writer.drain()
    async def here(data):
        sys.stdout.buffer.write(data); sys.stdout.buffer.flush()
    await asyncio.wait([asyncio.create_task(pipe(given, there)), asyncio.create_task(pipe(reader, here))],
                       return_when=asyncio.FIRST_COMPLETED)
asyncio.run(main())
"""
LOSS = """add table inet loss
add chain inet loss in { type filter hook input priority -300; }
add rule inet loss in iifname eth0 numgen random mod 100 < 5 drop
"""


def test_a_slow_and_lossy_link_is_enough(world: World) -> None:
    """300 ms there and back, and 5 % of what comes back lost: within the usual minute it is confirmed."""
    controller = world.controller
    controller.put("/root/relay.py", RELAY.encode())
    controller.put(
        "/root/.ssh/config", f"{afar.CONFIG}  ProxyCommand {afar.PORTCTL[0]} /root/relay.py %h %p\n".encode()
    )
    worlds.checked(controller, "nft", "-f", "-", stdin=LOSS.encode())
    for policy in (FIRST, SECOND):
        said = afar.apply(controller, policy)
        assert said.status == 0, said.stderr
    assert "In force: second" in afar.portctl(controller, "status").stdout
