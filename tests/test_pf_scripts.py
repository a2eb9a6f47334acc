"""`load.sh`, `save.sh` and `remove.sh` of pf, against a stand-in for pfctl."""

from __future__ import annotations

import re
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from portctl import backends
from portctl.backends.base import Ability, bundle
from portctl.backends.pf import anchor
from portctl.net import Addresses
from portctl.ruleset import Ruleset
from tests import golden_cases

OBSERVED = Path(__file__).parent / "observed" / "pf"
PFCTL = """#!/bin/sh
echo "$*" >>"$0.log"
case "$*" in
"-nf -" | "-f -") cat >"$0$1" ;;
"-nf /etc/pf.conf") exit 1 ;;
"-nf "*) cat "$2" >"$0-nf" ;;
"-s info") echo "Status: Disabled" ;;
"-s memory") printf '%s\\n' 'states        hard limit   100000' 'src-nodes     hard limit    65536' \\
    'table-entries hard limit   200000' ;;
"-s timeouts") echo 'tcp.first                   120s' ;;
"-vs Interfaces") printf '%s\\n' 'all' 'em0' 'lo0 (skip)' ;;
"-s rules") printf '%s\\n' 'anchor "bans/*" all' \\
    'pass in quick proto tcp from <portctl_admins> to any port = ssh keep state label "portctl:service:ssh"' ;;
"-s Tables") printf '%s\\n' portctl_admins portctl-live-bans mine ;;
*"-T show") echo '   198.51.100.0/28' ;;
esac
"""


class Machine:
    """A folder with a stand-in for pfctl before all other tools."""

    def __init__(self, folder: Path) -> None:
        self.bin = folder / "bin"
        self.bin.mkdir()
        self.tool("pfctl", PFCTL.replace("\\\\", "\\"))
        self.bundle = folder / "bundle"
        self.bundle.mkdir()

    def tool(self, name: str, text: str) -> None:
        (self.bin / name).write_text(text)
        (self.bin / name).chmod(0o755)

    def put(self, ruleset: Ruleset, dialect: str = "pf-freebsd15", anchor: bool = False) -> None:
        for name, text in bundle(backends.load(dialect), ruleset, Ability(anchor=anchor)).items():
            found = re.sub("^PATH=.*", f"PATH={self.bin}:/usr/bin:/bin", text, flags=re.M)
            (self.bundle / name).write_text(found.replace("-c /dev/pf", "-e /dev/null"))

    def run(self, shell: str, script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [shell, str(self.bundle / script), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    def said(self) -> list[str]:
        return (self.bin / "pfctl.log").read_text().splitlines()

    def given(self, option: str) -> str:
        return (self.bin / f"pfctl{option}").read_text()


def router() -> Ruleset:
    return golden_cases.compiled(golden_cases.FOLDER / "bsd-router").ruleset


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    found = Machine(tmp_path)
    found.put(router())
    return found


each_shell = pytest.mark.parametrize("shell", ["dash", "posh"])


@pytest.mark.parametrize("name", ["load.sh", "save.sh", "remove.sh"])
def test_shellcheck_finds_nothing(name: str) -> None:
    text = backends.load("pf-openbsd").scripts()[name]
    found = subprocess.run(["shellcheck", "-s", "sh", "-"], input=text, capture_output=True, text=True, check=False)
    assert found.stdout == ""


SCRIPTS = sorted(Path(__file__).parent.parent.glob("templates/*/**/*.sh"))
LINUX = ("nftables", "iptables")


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: "/".join(path.parts[-2:]))
def test_no_script_for_a_bsd_asks_for_words_of_gnu(path: Path) -> None:
    """In basic regular expressions OpenBSD has no alternatives: `a\\|b` is the text `a|b` (re_format(7))."""
    if path.parent.name not in LINUX:
        assert not re.search(r"\\[|+?]", path.read_text())


@each_shell
def test_a_load_checks_first_loads_then_and_enables_last(machine: Machine, shell: str) -> None:
    found = machine.run(shell, "load.sh")
    assert found.returncode == 0, found.stderr
    said = [line for line in machine.said() if line in ("-nf -", "-f -", "-e")]
    assert said == ["-nf -", "-f -", "-e"]
    assert machine.given("-f") == machine.given("-nf")
    assert 'anchor "bans/*" in all' in machine.given("-f")
    assert not any(line.startswith(("-d", "-F")) for line in machine.said())


@each_shell
def test_anchors_of_macos_stand_where_it_wants_them(machine: Machine, shell: str) -> None:
    """Its sections: scrub, translation, dummynet, filter."""
    listed = {
        "nat": ['nat-anchor "com.apple/*" all', 'rdr-anchor "com.apple/*" all'],
        "dummynet": ['dummynet-anchor "com.apple/*" all'],
        "rules": ['scrub-anchor "com.apple/*" all fragment reassemble', 'anchor "com.apple/*" all'],
    }
    cases = "".join(
        f"\"-s {name}\") printf '%s\\n' {' '.join(map(repr, lines))} ;;\n" for name, lines in listed.items()
    )
    machine.tool("pfctl", PFCTL.replace('case "$*" in\n', f'case "$*" in\n{cases}', 1))
    wanted = golden_cases.compiled(golden_cases.FOLDER / "web-server").ruleset
    machine.put(wanted, "pf-macos")
    found = machine.run(shell, "load.sh")
    assert found.returncode == 0, found.stderr
    lines = [line for line in machine.given("-f").splitlines() if line and not line.startswith(("#", "set ", "table "))]
    sections = ["scrub", "nat", "rdr", "dummynet", "filter"]
    words = {"no": "rdr", "anchor": "filter", "pass": "filter", "block": "filter"}
    places = [words.get(word := line.split()[0], word.removesuffix("-anchor")) for line in lines]
    assert [sections.index(place) for place in places] == sorted(sections.index(place) for place in places)
    assert {"dummynet", "nat", "rdr", "scrub"} <= {*places}
    machine.put(wanted, "pf-macos", anchor=True)
    inside = f'case "$*" in\n{cases}"-a portctl -nf -") cat >"$0-nf" ;;\n'
    machine.tool("pfctl", PFCTL.replace('case "$*" in\n', inside, 1))
    assert machine.run(shell, "load.sh", "check").returncode == 0
    assert 'anchor "' not in re.sub("^#.*", "", machine.given("-nf"), flags=re.M), "an anchor calls none of others"


@each_shell
def test_fragments_are_put_together_beside_a_scrub_anchor_too(machine: Machine, shell: str) -> None:
    """FreeBSD 15 heeds `set reassemble` only where there is no rule for scrub at all."""
    called = 'scrub-anchor "x" all fragment reassemble'
    cases = f"\"-s rules\") echo '{called}' ;;\n"
    machine.tool("pfctl", PFCTL.replace('case "$*" in\n', f'case "$*" in\n{cases}', 1))
    assert machine.run(shell, "load.sh").returncode == 0
    loaded = machine.given("-f")
    assert '\nscrub-anchor "x" all\nscrub in all fragment reassemble\n' in loaded
    text = (machine.bundle / "pf.conf").read_text()
    kept = "set limit states 100000\n"
    assert anchor.calling(text, f"{called}\n") == loaded.replace(kept, "")
    machine.put(router(), "pf-freebsd14")
    assert machine.run(shell, "load.sh").returncode == 0
    assert machine.given("-f").count("scrub in all fragment reassemble") == 1


@each_shell
def test_a_file_that_is_refused_loads_nothing(machine: Machine, shell: str) -> None:
    machine.tool(
        "pfctl", PFCTL.replace("case", '[ "$1" = -nf ] && { echo "stdin:1: syntax error" >&2; exit 1; }\ncase', 1)
    )
    found = machine.run(shell, "load.sh")
    assert found.returncode != 0 and "syntax error" in found.stderr
    assert not {"-f -", "-e"} & {*machine.said()}


@each_shell
def test_more_networks_than_a_call_takes_raise_the_limit(machine: Machine, shell: str) -> None:
    many = Addresses.of(*[f"10.{i}.{j}.0/25" for i in range(40) for j in range(256)])
    inbound = tuple(replace(rule, source=many) if rule.name == "ssh" else rule for rule in router().inbound)
    machine.put(replace(router(), inbound=inbound))
    machine.tool("sysctl", '#!/bin/sh\necho "$*" >>"$0.log"\n[ "$1" != -n ] || echo 500\n')
    assert machine.run(shell, "load.sh").returncode == 0
    assert "net.pf.request_maxcount=10240" in (machine.bin / "sysctl.log").read_text()
    machine.tool("sysctl", '#!/bin/sh\n[ "$1" = -n ] && echo 500\n')
    found = machine.run(shell, "load.sh")
    assert found.returncode != 0 and "loader.conf" in found.stderr


@each_shell
@pytest.mark.parametrize("options_alone", [True, False])
def test_a_higher_limit_of_tables_comes_before_them(machine: Machine, shell: str, options_alone: bool) -> None:
    if not options_alone:
        machine.tool("pfctl", PFCTL.replace('case "$*" in', 'case "$*" in\n"-O -f -") exit 1 ;;', 1))
    machine.tool(
        "pfctl", (machine.bin / "pfctl").read_text().replace('"-f -")', '"-f -" | "-O -f -" | "-f higher.conf")')
    )
    conf = machine.bundle / "pf.conf"
    conf.write_text(conf.read_text().replace("set limit src-", "set limit table-entries 900000\nset limit src-", 1))
    found = machine.run(shell, "load.sh")
    assert (found.returncode, found.stderr) == (0, "")
    said = [line for line in machine.said() if line in ("-O -f -", "-f higher.conf", "-f -", "-e")]
    assert said == ["-O -f -", *([] if options_alone else ["-f higher.conf"]), "-f -", "-e"]
    machine.tool("pfctl", (machine.bin / "pfctl").read_text().replace("   200000'", "   900000'"))
    assert machine.run(shell, "load.sh").returncode == 0
    assert machine.said().count("-O -f -") == 1, "it is high enough"


@each_shell
def test_no_limit_is_lowered_below_what_may_be_in_use(machine: Machine, shell: str) -> None:
    """Nor is one put back to its default that the host had set: pfctl does that with all that a file does not name."""
    raised = PFCTL.replace("   65536'", "   900000'").replace("   200000'", "   700000' 'anchors  hard limit  0'")
    machine.tool("pfctl", raised.replace("   100000'", "  1000000'"))
    assert machine.run(shell, "load.sh").returncode == 0
    text = machine.given("-f")
    head, _, rest = text.partition("\n\n")
    wanted = ["states 1000000", "src-nodes 900000", "table-entries 700000"]
    assert head.endswith("\n".join(["set reassemble yes", *(f"set limit {limit}" for limit in wanted)]))
    assert "set limit" not in rest
    assert machine.run(shell, "remove.sh").returncode == 0
    assert "".join(f"set limit {limit}\n" for limit in wanted) in machine.given("-f")


def test_the_boot_keeps_limits_that_are_not_pfctls_own() -> None:
    """Those are listed after the first load, and not before: a second plan would find another file for the boot."""
    text = "# x: written by portctl.\nset skip on lo0\nset limit src-nodes 65536\n\npass\n"
    limits = ("states 100000", "src-nodes 10000", "frags 5000", "table-entries 200000", "anchors 0", "eth-anchors 512")
    listed = "".join("{:13} hard limit {:>8}\n".format(*limit.split()) for limit in limits)
    assert anchor.calling(text, listed) == anchor.calling(text, "") == text
    raised = listed.replace("100000", "700000").replace("10000\n", "90000\n")
    wanted = "set limit src-nodes 65536\nset limit states 700000\nset limit src-nodes 90000\n\npass\n"
    assert anchor.calling(text, raised).endswith(wanted)


@each_shell
def test_what_was_loaded_is_saved_as_a_bundle(machine: Machine, shell: str, tmp_path: Path) -> None:
    found = machine.run(shell, "save.sh", str(tmp_path / "saved"))
    assert found.returncode == 0, found.stderr
    text = (tmp_path / "saved" / "pf.conf").read_text()
    assert text == machine.given("-nf")
    lines = text.splitlines()
    for line in (
        "set skip on lo0",
        "set limit table-entries 200000",
        "set limit src-nodes 65536",
        "set timeout tcp.first 120",
        'table <portctl_admins> const file "portctl_admins.table"',
        "table <portctl-live-bans> persist",
        'table <mine> persist file "mine.table"',
        'anchor "bans/*" all',
    ):
        assert line in lines
    assert (tmp_path / "saved" / "portctl_admins.table").read_text() == "198.51.100.0/28\n"
    assert {path.name for path in (tmp_path / "saved").glob("*.sh")} == {"load.sh", "save.sh", "remove.sh"}


@each_shell
def test_tables_that_the_optimizer_made_are_saved_too(machine: Machine, shell: str, tmp_path: Path) -> None:
    """`pfctl -sT` hides them; a rule that names one which is not there matches nobody, without a word from pfctl."""
    listed = (OBSERVED / "108-optimizer" / "freebsd15.sr.txt").read_text()
    table = "__automatic_50323d91_0"
    assert f"from <{table}> to any port = ssh" in listed
    (tmp_path / "listed").write_text(listed)
    shown = (OBSERVED / "108-optimizer" / f"freebsd15.T-show.{table}.txt").read_text()
    (tmp_path / "shown").write_text(shown)
    cases = f'"-s rules") cat {tmp_path}/listed ;;\n"-t {table} -T show") cat {tmp_path}/shown ;;\n'
    machine.tool("pfctl", PFCTL.replace('case "$*" in\n', f'case "$*" in\n{cases}', 1))
    found = machine.run(shell, "save.sh", str(tmp_path / "saved"))
    assert found.returncode == 0, found.stderr
    assert f'table <{table}> persist file "{table}.table"\n' in (tmp_path / "saved" / "pf.conf").read_text()
    assert (tmp_path / "saved" / f"{table}.table").read_text().split() == shown.split() != []


@each_shell
def test_what_belongs_to_a_main_rule_set_beside_its_rules_is_saved(
    machine: Machine, shell: str, tmp_path: Path
) -> None:
    """A rule for a queue that is gone is refused by OpenBSD's kernel; "no scrub" belongs before the translations."""
    cases = (
        "\"-s rules\") printf '%s\\n' 'no scrub in on em1 all' 'scrub in all fragment reassemble' "
        "'match out on em0 all set ( queue std )' ;;\n"
        "\"-s nat\") echo 'nat on em0 inet from 10.0.0.0/8 to any -> 192.0.2.1' ;;\n"
        "\"-s ether\") echo 'ether block drop in on em1 proto 0x88cc' ;;\n"
        "\"-s queue\") printf '%s\\n' 'queue main on em0 bandwidth 9M' 'queue std parent main default' ;;\n"
    )
    machine.tool("uname", "#!/bin/sh\necho OpenBSD\n")
    machine.tool("pfctl", PFCTL.replace('case "$*" in\n', f'case "$*" in\n{cases}', 1))
    found = machine.run(shell, "save.sh", str(tmp_path / "saved"))
    assert found.returncode == 0, found.stderr
    first = ("ether", "queue", "no", "scrub", "nat", "match")
    lines = [line for line in (tmp_path / "saved" / "pf.conf").read_text().splitlines() if line.startswith(first)]
    assert [line.split()[0] for line in lines] == ["ether", "queue", "queue", "no", "scrub", "nat", "match"]


@each_shell
def test_removing_leaves_what_is_not_ours(machine: Machine, shell: str) -> None:
    found = machine.run(shell, "remove.sh")
    assert found.returncode == 0, found.stderr
    loaded = machine.given("-f") if (machine.bin / "pfctl-f").exists() else ""
    assert "portctl" not in loaded
    said = machine.said()
    assert "-t portctl_admins -T kill" in said and "-t portctl-live-bans -T kill" in said
    assert "-t mine -T kill" not in said
    assert not any(line.startswith(("-d", "-F")) for line in said)


ANCHORED = PFCTL.replace(
    'case "$*" in',
    """case "$*" in
"-a portctl -nf -") cat >"$0$3" ;;
"-a portctl -o none -f -") cat >"$0$5" ;;
"-a portctl -f -") cat >"$0$3" ;;
"-a portctl -nf "*) cat "$4" >"$0-nf" ;;
"-a portctl -s rules") echo 'pass in quick from <portctl_admins> to any keep state label "portctl:service:ssh"' ;;
"-a portctl -s nat") echo 'no rdr all tag portctl_new' ;;
"-a portctl -s Tables") printf '%s\\n' portctl_admins portctl-live-bans ;;
"-s nat") printf '%s\\n' 'nat-anchor "portctl" all' 'rdr-anchor "portctl" all' ;;""",
).replace("'anchor \"bans/*\" all'", "'anchor \"portctl\" all' 'anchor \"bans/*\" all'")
"""A host whose main rule set calls the anchor."""


@each_shell
@pytest.mark.parametrize("dialect", ["pf-freebsd14", "pf-freebsd15"])
def test_an_anchor_is_filled_and_the_main_rule_set_stays(machine: Machine, shell: str, dialect: str) -> None:
    machine.tool("pfctl", ANCHORED)
    machine.put(router(), dialect, anchor=True)
    found = machine.run(shell, "load.sh")
    assert (found.returncode, found.stderr) == (0, "")
    said = [line for line in machine.said() if "-f" in line or "-nf" in line]
    assert said == ["-a portctl -nf -", "-a portctl -o none -f -"], "the optimizer would list other rules"
    assert machine.given("-f") == (machine.bundle / "pf.conf").read_text()


@each_shell
@pytest.mark.parametrize(
    ("line", "instead"),
    [("'anchor \"portctl\" all' ", ""), ("'rdr-anchor \"portctl\" all'", ""), ("'nat-anchor \"portctl\" all'", "")],
)
def test_an_anchor_that_nobody_calls_is_not_filled(machine: Machine, shell: str, line: str, instead: str) -> None:
    assert line in ANCHORED
    machine.tool("pfctl", ANCHORED.replace(line, instead))
    machine.put(router(), "pf-freebsd14", anchor=True)
    assert machine.run(shell, "load.sh", "check").returncode == 0
    found = machine.run(shell, "load.sh")
    assert found.returncode == 1 and "does not call the anchor" in found.stderr
    assert "-a portctl -o none -f -" not in machine.said()


@each_shell
def test_a_main_rule_set_of_ours_calls_no_anchor_of_ours(machine: Machine, shell: str) -> None:
    """What an earlier load put into the anchor goes: it is in the main rule set now."""
    machine.tool("pfctl", ANCHORED.replace('"-a portctl -f -") cat >"$0$3"', '"-a portctl -f -") cat >"$0-a$3"'))
    assert machine.run(shell, "load.sh").returncode == 0
    assert 'anchor "bans/*" in all' in machine.given("-f") and '"portctl"' not in machine.given("-f")
    assert machine.given("-a-f") == ""


@each_shell
def test_who_decides_before_the_anchor_is_said(machine: Machine, shell: str) -> None:
    machine.tool("pfctl", ANCHORED.replace("'anchor \"portctl\" all'", "'block drop in all' 'anchor \"portctl\" all'"))
    machine.put(router(), anchor=True)
    found = machine.run(shell, "load.sh")
    assert found.returncode == 0 and "decide before it" in found.stderr


@each_shell
def test_an_anchor_is_saved_and_emptied(machine: Machine, shell: str, tmp_path: Path) -> None:
    machine.tool("pfctl", ANCHORED)
    machine.put(router(), anchor=True)
    found = machine.run(shell, "save.sh", str(tmp_path / "saved"))
    assert found.returncode == 0, found.stderr
    assert (tmp_path / "saved" / "pf.conf").read_text().splitlines() == [
        "# what was loaded: written by portctl for the anchor portctl.",
        'table <portctl_admins> const file "portctl_admins.table"',
        "table <portctl-live-bans> persist",
        "no rdr all tag portctl_new",
        'pass in quick from <portctl_admins> to any keep state label "portctl:service:ssh"',
    ]
    assert machine.run(shell, "remove.sh").returncode == 0
    said = machine.said()
    assert "-a portctl -f -" in said and "-a portctl -t portctl_admins -T kill" in said
    assert not any(line.startswith(("-d", "-F")) for line in said)


@each_shell
def test_a_user_is_saved_by_name(machine: Machine, shell: str, tmp_path: Path) -> None:
    """pfctl lists numbers; a text of nothing else would not be found equal to what was written."""
    rule = 'pass out quick proto tcp all user = 0 flags S/SA keep state label "portctl:egress:x"'
    told = "'pass out proto udp all user = 4294967295 keep state' 'block drop all label \"x user = 0 y\"'"
    head = "\"-s rules\") printf '%s\\n' "
    assert head in PFCTL
    machine.tool("pfctl", PFCTL.replace(head, f"{head}'{rule}' {told} "))
    found = machine.run(shell, "save.sh", str(tmp_path / "saved"))
    assert found.returncode == 0, found.stderr
    lines = (tmp_path / "saved" / "pf.conf").read_text().splitlines()
    assert rule.replace("= 0", "= root") in lines and 'block drop all label "x user = 0 y"' in lines
    assert "pass out proto udp all user = 4294967295 keep state" in lines
    assert not (tmp_path / "saved" / "users.listed").exists()
