"""`load.sh`, `save.sh` and `remove.sh` of ipfw, against a stand-in for the tools."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from portctl import backends
from portctl.backends import ipfw
from portctl.backends.base import Ability, bundle
from portctl.ruleset import Ruleset, Verdict
from tests import fake_ipfw, golden_cases
from tests.nftables_cases import OFFICE, block, one, starts, tcp

GOLDEN = Path(__file__).parent / "golden"


class Machine:
    """A machine with a stand-in, and bundles on it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "state"
        self.path.write_text(json.dumps(fake_ipfw.EMPTY))

    def state(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.path.read_text())
        return found

    def change(self, **more: object) -> None:
        self.path.write_text(json.dumps(self.state() | more))

    def put(self, name: str, ruleset: Ruleset) -> Path:
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        for file, text in bundle(backends.load("ipfw"), ruleset, Ability()).items():
            (folder / file).write_text(text)
        return folder

    def run(self, script: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
        shell = fake_ipfw.SHELL
        for word, value in (("{state}", self.path), ("{python}", sys.executable), ("{me}", fake_ipfw.__file__)):
            shell = shell.replace(word, f"'{value}'")
        # Children are asked by their own script, so that they have the stand-in too.
        shell += 'sh() { file=$1; shift; (case $0 in *) . "$file" ;; esac); }\n'
        command = ["dash", "-c", f'{shell}\n. "$0"', str(script), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)

    def load(self, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.run(folder / "load.sh", *arguments)

    def loaded(self) -> list[list[Any]]:
        """The rules in force, the generation of tables left out."""
        state = self.state()
        return [[n, s, b.replace("portctl1_", "portctl0_")] for n, s, b in state["rules"] if s not in state["off"]]

    def tables(self) -> dict[str, Any]:
        """The tables of the rules, likewise."""
        found = self.state()["tables"].items()
        return {n.replace("portctl1_", "portctl0_"): t for n, t in found if not n.startswith("portctl_")}


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def small(*ports: int) -> Ruleset:
    return one(block("b", source=OFFICE), *(starts(f"s{p}", tcp(p), source=OFFICE) for p in ports), last=Verdict.REJECT)


def rules(folder: Path) -> list[str]:
    return [line.split(" ", 4)[4] for line in (folder / "rules").read_text().splitlines() if line.startswith("add ")]


def test_a_load_puts_everything_in_force_and_a_second_one_replaces_it(machine: Machine) -> None:
    first, second = machine.put("first", small(22, 80, 443, 25, 110)), machine.put("second", small(22, 80, 443, 25))
    assert machine.load(first).returncode == 0
    assert [body for _, _, body in machine.loaded()] == rules(first)
    assert machine.state()["sysctl"]["net.inet.ip.fw.dyn_keep_states"] == "1"
    assert machine.state()["sysctl"]["net.inet.ip.fw.one_pass"] == "0"
    done = machine.load(second)
    assert (done.returncode, done.stderr) == (0, "")
    state = machine.state()
    assert [body for _, _, body in machine.loaded()] == rules(second)
    assert {s for _, s, _ in state["rules"]} == {20}
    assert not [name for name in state["tables"] if name.startswith("portctl0_")]
    assert list(state["tables"]["portctl_broadcast"][2]) == ["192.0.2.255/32"]
    assert machine.load(second).returncode == 0 and machine.loaded()[0][1] == 20


def test_the_swap_comes_after_everything_is_there(machine: Machine) -> None:
    assert machine.load(machine.put("a", small(22))).returncode == 0
    log = machine.state()["log"]
    swap = log.index("set swap 20 21")
    assert any(line.startswith("/") for line in log[:swap]) and "delete set 21" in log[swap:]
    assert not any(line.startswith("delete set 20") or "flush" in line for line in log)


@pytest.mark.parametrize("how", ["refuse", "lose"])
def test_a_failure_changes_nothing(machine: Machine, how: str) -> None:
    assert machine.load(machine.put("first", small(22))).returncode == 0
    before = machine.loaded(), sorted(machine.state()["tables"])
    machine.change(**{how: "s110"})
    done = machine.load(machine.put("second", small(22, 110)))
    assert done.returncode == 1 and "still there" in done.stderr
    assert (machine.loaded(), sorted(machine.state()["tables"])) == before


def test_check_loads_nothing(machine: Machine) -> None:
    folder = machine.put("a", small(22))
    assert machine.load(folder, "check").returncode == 0
    assert machine.state()["rules"] == []
    assert not any(name.startswith(("portctl0_", "portctl1_")) for name in machine.state()["tables"])
    machine.change(refuse="s22")
    assert machine.load(folder, "check").returncode == 1


def test_the_rules_of_others_and_live_members_are_left_alone(machine: Machine) -> None:
    machine.change(rules=[[100, 0, "allow ip from any to any via lo0"], [65000, 0, "allow ip from any to any"]])
    folder = machine.put(
        "a", replace(small(22), live=("bans",), inbound=(block("x", live_source="bans"), *small(22).inbound))
    )
    assert machine.load(folder).returncode == 0
    state = machine.state()
    state["tables"]["portctl_live_bans"][2]["192.0.2.66/32"] = "0"
    machine.change(**state)
    assert machine.load(folder).returncode == 0
    assert list(machine.state()["tables"]["portctl_live_bans"][2]) == ["192.0.2.66/32"]
    assert machine.run(folder / "remove.sh").returncode == 0
    assert machine.state()["rules"] == [
        [100, 0, "allow ip from any to any via lo0"],
        [65000, 0, "allow ip from any to any"],
    ]
    assert machine.state()["tables"] == {}


@pytest.mark.parametrize("case", ["web-server", "block-ports", "forward-keep", "many-ports", "forward-over-service"])
def test_what_was_saved_brings_it_back(machine: Machine, case: str) -> None:
    ruleset = golden_cases.compiled(GOLDEN / case).ruleset
    ruleset = replace(
        ruleset,
        inbound=tuple(replace(rule, rate=None) for rule in ruleset.inbound),
        outbound=tuple(replace(rule, rate=None) for rule in ruleset.outbound),
        forwarded=tuple(replace(rule, rate=None) for rule in ruleset.forwarded),
    )
    folder = machine.put("first", ruleset)
    done = machine.load(folder)
    assert done.returncode == 0, done.stderr
    before, nat = machine.loaded(), machine.state()["nat"]
    tables = machine.tables()
    saved = machine.folder / "saved"
    assert machine.run(folder / "save.sh", str(saved)).returncode == 0
    assert machine.load(machine.put("other", small(22, 80))).returncode == 0
    assert machine.loaded() != before
    done = machine.load(saved)
    assert done.returncode == 0, done.stderr
    assert machine.loaded() == before and machine.state()["nat"] == nat
    assert machine.tables() == tables


def test_undo_to_nothing(machine: Machine) -> None:
    folder = machine.put("a", small(22))
    assert machine.run(folder / "save.sh", str(machine.folder / "saved")).returncode == 0
    assert (machine.folder / "saved" / "rules").read_text() == "# nothing was loaded\n"
    assert machine.load(folder).returncode == 0


def test_more_tables_than_the_kernel_has_room_for(machine: Machine) -> None:
    from portctl.net import Addresses

    many = (starts(f"s{k}", tcp(1000 + k), source=Addresses.of(f"10.{k}.0.1", f"10.{k}.0.9")) for k in range(140))
    done = machine.load(machine.put("a", one(*many)))
    assert done.returncode == 0, done.stderr
    assert int(machine.state()["sysctl"]["net.inet.ip.fw.tables_max"]) > 140


def test_without_ipfw_in_the_kernel_it_says_how_to_begin(machine: Machine) -> None:
    machine.change(sysctl={})
    done = machine.load(machine.put("a", small(22)))
    assert done.returncode == 1 and "default_to_accept" in done.stderr


def test_own_addresses_are_filled_in(machine: Machine) -> None:
    machine.change(own=["192.0.2.10 x 192.0.2.255", "10.0.0.1 x 10.0.0.255"])
    ruleset = golden_cases.compiled(GOLDEN / "forward-over-service").ruleset
    done = machine.load(machine.put("a", ruleset))
    assert done.returncode == 0, done.stderr
    configs = list(machine.state()["nat"].values())
    assert configs and all(c.startswith("ip 10.0.0.1 deny_in reset ") for c in configs)
    assert all(" 10.0.0.1:" in c and " 192.0.2.10:" in c and "me" not in c.split() for c in configs)


@pytest.mark.parametrize("name", ["load.sh", "save.sh", "remove.sh"])
def test_the_scripts_are_plain_sh(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(ipfw.scripts()[name])
    done = subprocess.run(["shellcheck", "-s", "sh", str(tmp_path / name)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
