"""`--host podman://NAME`, with a real container: the rules are in its network, and go with `remove`."""

from __future__ import annotations

import pytest

from portctl.command import Command
from portctl.hosts.namespaces import Room
from tests.system import applying, worlds
from tests.system.worlds import checked

pytestmark = pytest.mark.system
NEEDS = ("podman",)

STORAGE = b'[storage]\ndriver = "vfs"\nrunroot = "/run/store"\ngraphroot = "/root/store"\n'
ROOT = """mount -t cgroup2 none /sys/fs/cgroup
mkdir -p /root/image && cd /root/image
mkdir usr etc proc sys dev tmp run var var/lib root
for each in bin sbin lib lib64; do ln -s usr/$each $each; done
cp -a /etc/passwd /etc/group /etc/os-release /etc/alternatives etc/"""
RUN = ("podman", "--cgroup-manager=cgroupfs", "run", "-d", "--name", "shop", "--network", "none", "--cgroups=disabled")
SHOP = ("--host", "podman://shop")


def container(machine: Room) -> None:
    machine.put("/etc/containers/storage.conf", STORAGE)
    checked(machine, "sh", "-ec", ROOT)
    checked(machine, *RUN, "--privileged", "-v", "/usr:/usr:ro", "--rootfs", "/root/image", "sleep", "600")


def test_apply_confirm_and_remove_in_a_container() -> None:
    with worlds.machine() as machine:
        container(machine)
        machine.put("/root/policy.yaml", applying.FIRST.encode())
        said = applying.portctl(machine, "apply", "/root/policy.yaml", "--yes", *SHOP)
        assert said.status == 0, said.stderr
        assert "Confirmed, from machine, by podman." in said.stderr
        assert "until the container ends" in said.stderr
        assert "table inet portctl" in checked(machine, "podman", "exec", "shop", "nft", "list", "tables")
        assert "portctl" not in checked(machine, "nft", "list", "tables")
        assert not machine.run(Command(("test", "-e", "/var/lib/portctl"))).ok
        assert "In force: first" in applying.portctl(machine, "status", *SHOP).stdout
        removed = applying.portctl(machine, "remove", "--yes", *SHOP)
        assert removed.status == 0, removed.stderr
        assert "portctl" not in checked(machine, "podman", "exec", "shop", "nft", "list", "tables")
        assert checked(machine, "podman", "exec", "shop", "ls", "/var/lib", "/run") == "/run:\n\n/var/lib:\n"
        checked(machine, "podman", "kill", "shop")


def test_a_container_that_is_not_there_is_told_in_podmans_words() -> None:
    with worlds.machine() as machine:
        machine.put("/etc/containers/storage.conf", STORAGE)
        said = applying.portctl(machine, "status", *SHOP)
        assert said.status == 3
        assert "podman://shop cannot be reached" in said.stderr and "no container" in said.stderr
