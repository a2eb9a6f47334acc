"""The transaction with a bundle of three small scripts, on machines of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from portctl.apply import steps, transaction
from portctl.apply.boot import nothing, prepare
from portctl.command import Command, Host
from portctl.hosts.namespaces import Room
from tests.system import worlds

pytestmark = pytest.mark.system

LOAD = """#!/bin/sh
here=$(dirname "$0")
nft -c -f "$here/rules.nft" || exit 1
[ "${1-}" = check ] && exit 0
exec nft -f "$here/rules.nft"
"""
SAVE = """#!/bin/sh
here=$(dirname "$0")
mkdir -p "$1"
{ printf 'table inet portctl\\ndelete table inet portctl\\n'; nft list table inet portctl 2>/dev/null; } >"$1/rules.nft"
cp "$here"/*.sh "$1/"
"""


def bundle(port: int) -> dict[str, dict[str, str]]:
    rules = "table inet portctl\ndelete table inet portctl\ntable inet portctl {\n\tchain inbound {\n"
    rules += f"\t\ttype filter hook input priority 0; policy accept;\n\t\ttcp dport {port} drop\n\t}}\n}}\n"
    scripts = {"load.sh": LOAD, "save.sh": SAVE, "remove.sh": "nft delete table inet portctl\n"}
    return {"rules": {"rules.nft": rules, **scripts}}


@pytest.fixture
def room() -> Iterator[Room]:
    with worlds.machine() as made:
        yield made


def rules(host: Host) -> str:
    return host.run(Command(("nft", "list", "ruleset"))).stdout


def read(host: Host, path: str) -> str:
    return host.run(Command(("cat", path))).stdout


def apply(host: Host, port: int, seconds: int, wait: int = 0) -> str:
    made = transaction.lock(host, "a test", wait)
    transaction.begin(made, bundle(port))
    transaction.check_and_save(made)
    files = {f"rules/{name}": text for name, text in bundle(port)["rules"].items()}
    boot = prepare(files, "systemd", ("/etc/sysctl.d/60-portctl.conf", None), None)
    made = transaction.record(made, {"policy.yaml": "portctl: 1\n"}, boot, ("rules",))
    return transaction.carry_out(made, transaction.Window(seconds), lambda: None)


def test_applied_at_once_it_stays_and_is_written_for_the_next_boot(room: Room) -> None:
    assert apply(room, 81, 0) == "confirmed"
    assert "tcp dport 81 drop" in rules(room)
    assert "81" in read(room, "/etc/portctl/boot/current/rules/rules.nft")
    assert "boot.sh" in read(room, "/etc/systemd/system/sysinit.target.wants/portctl-boot.service")
    assert read(room, "/var/lib/portctl/history/1/outcome") == "confirmed\n"
    assert "portctl: 1" in read(room, "/var/lib/portctl/history/1/policy.yaml")
    assert not room.run(Command(("ls", "/run/portctl/pending"))).ok
    assert apply(room, 82, 0) == "confirmed"
    assert "81" in read(room, "/etc/portctl/boot/previous/rules/rules.nft") or "82" in rules(room)


def test_not_confirmed_it_comes_back(room: Room) -> None:
    apply(room, 81, 0)
    before = rules(room)
    with pytest.raises(steps.RolledBack, match="Not confirmed"):
        apply(room, 82, 1)
    assert rules(room) == before
    assert read(room, "/var/lib/portctl/history/2/outcome") == "rolled back\n"
    assert "81" in read(room, "/etc/portctl/boot/current/rules/rules.nft")


def test_a_parser_that_refuses_stops_it(room: Room) -> None:
    wrong = bundle(80)
    wrong["rules"]["rules.nft"] += "nonsense\n"
    made = transaction.lock(room, "a test", 0)
    transaction.begin(made, wrong)
    with pytest.raises(steps.Refused, match="nonsense"):
        transaction.check_and_save(made)
    transaction.abandon(made)
    assert rules(room) == ""
    assert apply(room, 81, 0) == "confirmed"


def test_what_cannot_be_written_for_the_next_boot_is_refused_before_anything_changes(room: Room) -> None:
    room.put("/etc/portctl", b"in the way")
    with pytest.raises(steps.Refused, match="cannot be written"):
        apply(room, 81, 0)
    assert rules(room) == ""


def test_the_way_back_from_the_first_apply_leaves_nothing_for_the_boot() -> None:
    manifest = nothing("/etc/sysctl.d/60-portctl.conf").files(2)["manifest"]
    assert "remove - /etc/portctl/boot\n" in manifest
    assert "bundle" not in manifest
    assert Path("/").exists()
