"""`portctl render`: text on the screen, bundles in a folder."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from portctl import backends, cli, sysctl
from portctl.cli.render import write_folder
from portctl.problems import Problems

POLICY = """\
portctl: 1
name: test
services:
  ssh: {ports: ssh, from: 198.51.100.0/24}
  gone: {ports: 8000/tcp, from: any, until: 2026-06-30}
sysctl: {tcp_keepalive_time: 600}
"""


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli.build(["render"]), ["render", *arguments])


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    path = tmp_path / "policy.yaml"
    path.write_text(POLICY)
    return path


def test_one_file_is_printed_as_the_tool_takes_it(policy: Path) -> None:
    said = run(str(policy), "--backend", "nftables", "--date", "2026-07-01")
    assert said.exit_code == 0
    assert said.stdout.lstrip().startswith(("table", "#", "add", "delete", "destroy"))
    assert "load.sh" not in said.stdout and "###" not in said.stdout
    assert "8000" not in said.stdout
    assert "note[expired]" in said.stderr


def test_what_a_platform_forces_is_a_note(policy: Path) -> None:
    said = run(str(policy), "--backend", "pf-freebsd", "--os-version", "14.2", "--date", "2026-07-01")
    assert said.exit_code == 0
    assert "note[platform]: pf-freebsd judges some packets otherwise" in said.stderr
    assert "  pf: a known connection is not judged again" in said.stderr
    assert "macOS:" not in said.stderr
    assert "judges" not in run(str(policy), "--backend", "nftables").stderr


def test_several_files_have_headings(policy: Path) -> None:
    said = run(str(policy), "--backend", "all", "--date", "2026-06-01")
    assert said.exit_code == 0
    assert "### nftables/" in said.stdout and "### iptables/" in said.stdout
    assert "8000" in said.stdout


def test_bundles_are_written_and_written_again(policy: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run(str(policy), "--backend", "all", "--output", str(out)).exit_code == 0
    assert {path.name for path in out.iterdir()} == {
        *backends.OFFERED,
        *(sysctl.folder(system) for system in ("linux", "freebsd", "openbsd", "macos")),
    }
    for folder in out.iterdir():
        assert os.access(folder / "load.sh", os.X_OK)
        assert {"load.sh", "save.sh", "remove.sh"} < {path.name for path in folder.iterdir()}
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    (out / "nftables/notes.txt").write_text("mine")
    assert run(str(policy), "--backend", "all", "--output", str(out)).exit_code == 0
    assert {path: path.read_bytes() for path in out.rglob("*") if path.name != "notes.txt" and path.is_file()} == before
    assert (out / "nftables/notes.txt").read_text() == "mine"


def test_several_policies_lie_in_folders_of_their_own(policy: Path, tmp_path: Path) -> None:
    """What one of them lacks keeps nothing else from being written."""
    other, broken = tmp_path / "limited.yaml", tmp_path / "broken.yaml"
    other.write_text("portctl: 1\nname: x\nservices:\n  ssh: {ports: ssh, from: any, rate: 3/minute}\n")
    broken.write_text(POLICY.replace("198.51.100.0/24", "offce"))
    out = tmp_path / "out"
    said = run(str(policy), str(broken), str(other), "--backend", "all", "--output", str(out))
    assert said.exit_code == 2
    assert {path.name for path in out.iterdir()} == {"policy", "limited"}
    assert set(backends.OFFERED) < {path.name for path in (out / "policy").iterdir()}
    assert set(backends.OFFERED) - {path.name for path in (out / "limited").iterdir()} == {"ipfw"}
    assert "error[gap]: ipfw cannot say this" in said.stderr and f"{other}:4:" in said.stderr
    assert f"portctl: {other}: nothing is rendered for ipfw, which cannot say it" in said.stderr
    assert f"portctl: {broken}: nothing is rendered\n" in said.stderr and "error[unknown-group]" in said.stderr
    alone = tmp_path / "alone"
    assert run(str(policy), "--backend", "all", "--output", str(alone)).exit_code == 0
    assert (alone / "ipfw/rules").read_bytes() == (out / "policy/ipfw/rules").read_bytes()


def test_several_policies_are_printed_under_their_names(policy: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.yaml"
    other.write_text(POLICY)
    said = run(str(policy), str(other), "--backend", "ipfw")
    assert said.exit_code == 0
    assert [line for line in said.stdout.splitlines() if line.startswith("###")] == [
        "### policy/ipfw/rules",
        "### other/ipfw/rules",
    ]


def test_two_policies_of_one_name_would_share_a_folder(policy: Path, tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    other = tmp_path / "more" / policy.name
    other.write_text(POLICY)
    said = run(str(policy), str(other), "--output", str(tmp_path / "out"))
    assert said.exit_code == 2 and "have one name" in said.stderr
    assert not (tmp_path / "out").exists()


def test_a_setting_that_is_gone_is_gone_from_the_bundle(policy: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(str(policy), "--output", str(out))
    assert (out / "sysctl/60-portctl.conf").is_file()
    policy.write_text(POLICY.replace("sysctl: {tcp_keepalive_time: 600}", ""))
    assert run(str(policy), "--output", str(out)).exit_code == 0
    assert not (out / "sysctl").exists()


def test_nothing_is_written_for_a_wrong_policy(policy: Path, tmp_path: Path) -> None:
    policy.write_text(POLICY.replace("198.51.100.0/24", "offce"))
    said = run(str(policy), "--output", str(tmp_path / "out"))
    assert isinstance(said.exception, Problems)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "arguments",
    [("--backend", "pf"), ("--os", "netbsd"), ("--date", "tomorrow"), ("--date", "2026-02-30"), ("--without", "nft")],
)
def test_wrong_arguments(policy: Path, arguments: tuple[str, str]) -> None:
    assert isinstance(run(str(policy), *arguments).exception, Problems)


def test_a_folder_is_replaced_whole(tmp_path: Path) -> None:
    folder = tmp_path / "nftables"
    write_folder(folder, {"rules.nft": "old\n", "load.sh": "old\n"}, {"rules.nft", "load.sh"})
    write_folder(folder, {"load.sh": "new\n"}, {"rules.nft", "load.sh"})
    assert {path.name: path.read_text() for path in folder.iterdir()} == {"load.sh": "new\n"}
    assert [path.name for path in tmp_path.iterdir()] == ["nftables"]


def test_rules_for_an_anchor_are_asked_for_by_name(policy: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    said = run(str(policy), "--backend", "pf-openbsd", "--anchor", "--output", str(folder), "--date", "2026-07-01")
    assert said.exit_code == 0, said.stderr
    text = (folder / "pf-openbsd" / "pf.conf").read_text()
    assert text.startswith("# test: written by portctl for the anchor portctl.") and "\nset " not in text
    said = run(str(policy), "--backend", "nftables", "--anchor")
    assert said.exit_code == 2 and "`nftables` has no anchors" in said.stderr.replace("\n", " ")
