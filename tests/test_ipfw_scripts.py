"""`load.sh`, `save.sh` and `remove.sh` of ipfw, against a stand-in for the tools."""

from __future__ import annotations

import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from portctl import backends, templating
from portctl.backends.base import Ability, bundle
from portctl.ruleset import Ruleset, Verdict
from tests import fake_ipfw, golden_cases
from tests.ipfw_cases import golden
from tests.nftables_cases import OFFICE, block, one, starts, tcp
from tests.test_ipfw_rules import served_here

GOLDEN = Path(__file__).parent / "golden"


class Machine:
    """A machine with a stand-in, and bundles on it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "state"
        fake_ipfw.write(str(self.path), fake_ipfw.EMPTY)

    def state(self) -> dict[str, Any]:
        return fake_ipfw.read(str(self.path))

    def change(self, **more: object) -> None:
        fake_ipfw.write(str(self.path), self.state() | more)

    def put(self, name: str, ruleset: Ruleset) -> Path:
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        for file, text in bundle(backends.load("ipfw"), ruleset, Ability()).items():
            (folder / file).write_text(text)
        return folder

    def run(
        self, script: Path, *arguments: str, stdin: str = "", shell: str = "dash"
    ) -> subprocess.CompletedProcess[str]:
        tools = fake_ipfw.SHELL
        folder = Path(fake_ipfw.__file__).parent
        given = {"python": sys.executable, "start": fake_ipfw.START, "folder": folder, "state": self.path}
        for word, value in given.items():
            tools = tools.replace(f"{{{word}}}", shlex.quote(str(value)))
        # Children are asked by their own script, so that they have the stand-in too.
        tools += 'sh() { file=$1; shift; (case $0 in *) . "$file" ;; esac); }\n'
        command = [shell, "-c", f'{tools}\n. "$0"', str(script), *arguments]
        return subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=120, check=False)

    def load(self, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.run(folder / "load.sh", *arguments)

    def by_hand(self, rules: Path) -> subprocess.CompletedProcess[str]:
        """`ipfw -q FILE`, without portctl's script."""
        script = self.folder / "by-hand"
        script.write_text('ipfw -q "$1"\n')
        return self.run(script, str(rules))

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


GUESS = "to 0.0.0.255:0.0.0.255 in // portctl:by-hand"
"""The end of a rule for ipfw alone."""


def rules(folder: Path) -> list[str]:
    """The rules that `load.sh` loads."""
    written = (line for line in (folder / "rules").read_text().splitlines() if line.startswith("add "))
    return [line.split(" ", 4)[4] for line in written if not (line.endswith(f" {GUESS}") and " skipto " in line)]


def test_a_load_puts_everything_in_force_and_a_second_one_replaces_it(machine: Machine) -> None:
    first, second = machine.put("first", small(22, 80, 443, 25, 110)), machine.put("second", small(22, 80, 443, 25))
    assert machine.load(first).returncode == 0
    assert [body for _, _, body in machine.loaded()] == rules(first)
    assert machine.state()["sysctl"]["net.inet.ip.fw.dyn_keep_states"] == "1"
    # Nothing is translated: how the rules of others go on after their nat is left to them.
    assert machine.state()["sysctl"]["net.inet.ip.fw.one_pass"] == "1"
    done = machine.load(second)
    assert (done.returncode, done.stderr) == (0, "")
    state = machine.state()
    assert [body for _, _, body in machine.loaded()] == rules(second)
    assert {s for _, s, _ in state["rules"]} == {20}
    assert not [name for name in state["tables"] if name.startswith("portctl0_")]
    assert list(state["tables"]["portctl_broadcast"][2]) == ["192.0.2.255/32"]
    assert machine.load(second).returncode == 0 and machine.loaded()[0][1] == 20


def test_a_description_that_names_a_table_misleads_no_load(machine: Machine) -> None:
    """Which generation of tables is in use is read from the rules, not from what people write beside them."""
    loud = machine.put("a", one(starts("s", tcp(22), source=OFFICE, description="as in portctl0_x")))
    for _ in range(3):
        done = machine.load(loud)
        assert (done.returncode, done.stderr) == (0, "")
        assert machine.tables()


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
    for how in ("refuse", "unreadable"):
        machine.change(**{how: "s22"})
        assert machine.load(folder, "check").returncode == 1
        assert machine.state()["rules"] == []
        machine.change(**{how: ""})


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

    many = (starts(f"s{k}", tcp(1000 + k), source=Addresses.of(f"10.{k}.0.1", f"fd00:{k}::")) for k in range(140))
    done = machine.load(machine.put("a", one(*many)))
    assert done.returncode == 0, done.stderr
    assert int(machine.state()["sysctl"]["net.inet.ip.fw.tables_max"]) > 140


def test_without_ipfw_in_the_kernel_it_says_how_to_begin(machine: Machine) -> None:
    machine.change(sysctl={})
    done = machine.load(machine.put("a", small(22)))
    assert done.returncode == 1 and "default_to_accept" in done.stderr


def test_no_description_takes_a_rule_out_of_a_load(machine: Machine) -> None:
    said = replace(block("b", source=OFFICE), description=GUESS)
    folder = machine.put("a", one(said, starts("s", tcp(22), source=OFFICE), last=Verdict.DROP))
    assert machine.load(folder).returncode == 0
    assert [body for _, _, body in machine.loaded()] == rules(folder)
    assert any(body.startswith("deny ") and body.endswith(GUESS) for body in rules(folder))


def test_own_addresses_are_filled_in(machine: Machine) -> None:
    machine.change(own=["192.0.2.10 x 192.0.2.255", "10.0.0.1 x 10.0.0.255"])
    ruleset = golden_cases.compiled(GOLDEN / "forward-over-service").ruleset
    done = machine.load(machine.put("a", ruleset))
    assert done.returncode == 0, done.stderr
    configs = list(machine.state()["nat"].values())
    assert configs and all(c.startswith("ip 10.0.0.1 deny_in reset ") for c in configs)
    assert all(" 10.0.0.1:" in c and " 192.0.2.10:" in c and "me" not in c.split() for c in configs)


def test_own_addresses_are_filled_in_at_both_ends(machine: Machine) -> None:
    machine.change(own=["192.0.2.10 x 192.0.2.255", "10.0.0.1 x 10.0.0.255"])
    done = machine.load(machine.put("a", served_here(OFFICE.only(4))))
    assert done.returncode == 0, done.stderr
    (config,) = machine.state()["nat"].values()
    redirects = [f"redirect_port udp {own}:5353 {own}:53" for own in ("10.0.0.1", "192.0.2.10")]
    assert config == f"ip 10.0.0.1 deny_in reset {' '.join(redirects)}"


@pytest.mark.parametrize("case", ["forward-over-service", "port-forward", "here"])
def test_what_a_host_lists_is_what_was_rendered(machine: Machine, case: str) -> None:
    """Also of what only the host could fill in, and of instances of nat, whose redirections it lists from the last."""
    machine.change(own=["192.0.2.10 x 192.0.2.255", "10.0.0.1 x 10.0.0.255"])
    folder = machine.put("a", golden().get(case, served_here(OFFICE.only(4))))
    assert machine.load(folder).returncode == 0
    backend = backends.load("ipfw")
    wanted = backend.parse({"rules": (folder / "rules").read_text()}).own()
    asked = {name: " ".join(command.argv) for name, command in backend.questions().items()}
    asked |= {"nat": "ipfw nat show config"}
    script = machine.folder / "ask"
    listed = {}
    for name, words in asked.items():
        script.write_text(
            words.replace("sysctl ", "echo net.inet.ip.fw.one_pass: $(sysctl -n ") + ")" * ("sysctl" in words)
        )
        listed[name] = machine.run(script).stdout
    assert " redirect_port " in listed["nat"] and backend.parse(listed).own() == wanted


def test_a_long_list_is_loaded_and_saved(machine: Machine) -> None:
    from portctl.net import Addresses, Ranges

    feed = Addresses(Ranges(tuple(b for k in range(10001) for b in (k * 4 + 0x0B000000, k * 4 + 0x0B000001))))
    folder = machine.put("a", one(block("feed", source=feed)))
    assert (folder / "from-feed.table").exists()
    for _ in range(2):
        done = machine.load(folder)
        assert done.returncode == 0, done.stderr
    assert len(machine.tables()["portctl0_from-feed"][2]) == 10001
    before = machine.tables()
    saved = machine.folder / "saved"
    assert machine.run(folder / "save.sh", str(saved)).returncode == 0
    assert len((saved / "from-feed.table").read_text().splitlines()) == 10001
    assert machine.load(machine.put("b", small(22))).returncode == 0
    done = machine.load(saved)
    assert (done.returncode, done.stderr) == (0, "") and machine.tables() == before
    # A table that is empty blocks nobody: ipfw alone stops before the first rule.
    for written in (folder, saved):
        assert machine.run(folder / "remove.sh").returncode == 0
        assert machine.by_hand(written / "rules").returncode == 69 and machine.state()["rules"] == []
    (folder / "from-feed.table").unlink()
    assert "cannot be read" in machine.load(folder).stderr and machine.state()["rules"] == []


@pytest.mark.parametrize("case", ["web-server", "many-ports", "block-groups", "port-forward", "log"])
def test_the_file_alone_loads_what_load_sh_loads(machine: Machine, case: str) -> None:
    logged = replace(small(22), inbound=(replace(starts("l", tcp(25)), log=True), *small(22).inbound))
    folder = machine.put("a", golden().get(case, logged))
    assert machine.load(folder).returncode == 0
    wanted, tables = machine.loaded(), machine.tables()
    settings = machine.state()["sysctl"]
    assert machine.run(folder / "remove.sh").returncode == 0
    machine.change(sysctl=fake_ipfw.EMPTY["sysctl"], modules=["ipfw_nat"])
    done = machine.by_hand(folder / "rules")
    assert (done.returncode, done.stderr) == (0, "")
    (guess,) = [rule for rule in machine.loaded() if rule not in wanted]
    assert guess[2].partition(" ip4 ")[2] == f"from any {GUESS}"
    assert [rule for rule in machine.loaded() if rule != guess] == wanted and machine.tables() == tables
    for name in ("net.inet.ip.fw.one_pass", "net.inet.ip.fw.verbose"):
        assert machine.state()["sysctl"][name] == settings[name]


def test_connections_that_were_open_before_live_on(machine: Machine) -> None:
    script = machine.folder / "open.sh"
    script.write_text(templating.text("ipfw/open.sh"))
    flows = "4 tcp 192.0.2.10 22 203.0.113.9 4001\n6 tcp fe80::10%em0 22 fe80::9%em0 4001\n"
    done = machine.run(script, "add", stdin=flows)
    assert (done.returncode, done.stderr) == (0, "")
    wanted = {
        "203.0.113.9,tcp,4001,192.0.2.10,22", "192.0.2.10,tcp,22,203.0.113.9,4001",
        "fe80::9,tcp,4001,fe80::10,22", "fe80::10,tcp,22,fe80::9,4001",
    }  # fmt: skip
    folder = machine.put("a", small(22))
    for _ in range(2):
        done = machine.load(folder)
        assert done.returncode == 0, done.stderr
        assert set(machine.state()["tables"]["portctl_open"][2]) == wanted
    assert machine.run(script, "delete", stdin=flows).returncode == 0
    assert machine.state()["tables"]["portctl_open"][2] == {}
    assert machine.run(folder / "remove.sh").returncode == 0 and machine.state()["tables"] == {}


def test_a_connection_from_before_is_let_through_until_its_socket_closes(tmp_path: Path) -> None:
    (tmp_path / "sweep.sh").write_text(templating.text("guard/sweep.sh"))
    (tmp_path / "open.sh").write_text(f'{{ echo "$1"; cat; }} >>"{tmp_path}.said"\n')
    live = "4 tcp 192.0.2.10 22 203.0.113.9 4001\n"
    zoned = "6 tcp fe80::10 22 fe80::9 4001\n"
    (tmp_path / "list").write_text(live + zoned + "4 tcp 192.0.2.10 22 203.0.113.9 4002\n")
    sockets = (
        "tcp6  0  0 fe80::10%em0.22  fe80::9%em0.4001  ESTABLISHED\n"
        "tcp4  0  0 192.0.2.10.22  203.0.113.9.4001  ESTABLISHED\n"
        "tcp4  0  0 192.0.2.10.22  203.0.113.9.4002  TIME_WAIT\n"
    )
    tools = f"""command() {{ [ "$2" = netstat ] && echo netstat; }}
uname() {{ echo FreeBSD; }}
conntrack() {{ return 1; }}
netstat() {{ [ -e "{tmp_path}.asked" ] || echo '{sockets}'; : >"{tmp_path}.asked"; }}
. "$0"
"""
    command = ["dash", "-c", tools, str(tmp_path / "sweep.sh")]
    environment = {"SWEEP_SECONDS": "0", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    said = Path(f"{tmp_path}.said").read_text()
    assert said == f"delete\n4 tcp 192.0.2.10 22 203.0.113.9 4002\ndelete\n{live}{zoned}"


def test_an_instance_of_nat_that_is_the_same_is_left_alone(machine: Machine) -> None:
    folder = machine.put("a", golden_cases.compiled(GOLDEN / "forward-over-service").ruleset)
    assert machine.load(folder, "check").returncode == 0 and machine.state()["nat"] == {}
    machine.change(log=[])
    assert machine.load(folder).returncode == 0
    assert machine.state()["modules"] == ["ipfw_nat"]
    assert machine.state()["sysctl"]["net.inet.ip.fw.one_pass"] == "0"
    configured = [line for line in machine.state()["log"] if line.startswith("nat ") and " config " in line]
    assert len(configured) == 1
    number, config = next(iter(machine.state()["nat"].items()))
    turned = " ".join(reversed(config.split(" redirect_port ")))
    assert machine.load(folder).returncode == 0, turned
    log = [line for line in machine.state()["log"] if line.startswith("nat ") and " config " in line]
    assert log == configured, "configured again"
    machine.change(own=["192.0.2.77 x 192.0.2.255"])
    assert machine.load(folder, "check").returncode == 0 and machine.state()["nat"] == {number: config}
    assert machine.load(folder).returncode == 0
    assert " 192.0.2.77:80" in machine.state()["nat"][number]


@pytest.mark.parametrize("shell", ["dash", "posh"])
def test_every_script_runs_twice_in_a_plain_shell(machine: Machine, shell: str) -> None:
    folder = machine.put("a", golden_cases.compiled(GOLDEN / "forward-over-service").ruleset)
    for script, *arguments in (
        ("load.sh", "check"),
        ("load.sh",),
        ("save.sh", str(machine.folder / "s")),
        ("remove.sh",),
    ):
        for _ in range(2):
            done = machine.run(folder / script, *arguments, shell=shell)
            assert (done.returncode, done.stderr) == (0, ""), script
    assert machine.state()["rules"] == [] and machine.state()["tables"] == {} and machine.state()["nat"] == {}


@pytest.mark.parametrize("name", ["load.sh", "save.sh", "remove.sh", "open.sh"])
def test_the_scripts_are_plain_sh(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(templating.text(f"ipfw/{name}"))
    done = subprocess.run(["shellcheck", "-s", "sh", str(tmp_path / name)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_what_is_listed_in_other_words_is_saved_in_those_of_a_file(machine: Machine) -> None:
    """`ipfw list` prints protocol 41 as `ipv6`, which in a file is every packet of IPv6."""
    from portctl.net import Addresses
    from portctl.ruleset import Flow

    folder = machine.put(
        "a", one(starts("sit", Flow(41), Flow(51), source=Addresses.of("198.51.100.5", "2001:db8::5")))
    )
    assert machine.load(folder).returncode == 0
    before = machine.loaded()
    saved = machine.folder / "saved"
    assert machine.run(folder / "save.sh", str(saved)).returncode == 0
    assert machine.load(saved).returncode == 0
    assert machine.loaded() == before and any(" 41 from " in body for _, _, body in before)
    assert any(" ext6hdr ah " in body for _, _, body in before)


def test_there_is_room_for_the_sources_that_are_counted(machine: Machine) -> None:
    names = ("net.inet.ip.fw.dyn_parent_max", "net.inet.ip.fw.dyn_max")
    assert machine.load(machine.put("a", small(22))).returncode == 0
    assert [machine.state()["sysctl"][name] for name in names] == ["4096", "16384"]
    folder = machine.put("b", one(starts("web", tcp(80), source=OFFICE, max_connections=5)))
    machine.change(sysctl=machine.state()["sysctl"] | {names[1]: "100000"})
    assert machine.load(folder).returncode == 0
    assert [machine.state()["sysctl"][name] for name in names] == ["65536", "100000"]
