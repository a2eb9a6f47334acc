"""Saved listings of pf and ipfw are what import, diff and explain take, as those of Linux are."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from portctl import cli
from portctl.command import Result as Answer
from portctl.importing import from_texts, of_observed
from portctl.observe import Facts, Observed
from portctl.observe.boot import BootState, boot_state
from portctl.ruleset import Ruleset
from portctl.verify.boot import persistence
from portctl.verify.finding import View
from tests.test_observe import Scripted

PF = """\
block drop in all
pass in quick inet proto tcp from 198.51.100.0/24 to any port = 22 flags S/SA keep state label "ssh"
pass in quick proto tcp from any to any port = 80 flags S/SA keep state
pass in quick proto tcp from <office> to any port 8000:8010 flags S/SA keep state
pass out quick all flags S/SA keep state
"""
TABLES = "table office\n   192.0.2.0/24\n   2001:db8::/32\n"
IPFW = """\
00200   0    0 check-state :default
00300   3  124 allow tcp from 198.51.100.0/24 to me 22,80,8000-8010 in setup keep-state :default // web
00310   3  124 allow ip from any to any out keep-state :default
00400   1   40 deny ip from any to any
65535   6  248 deny ip from any to any
"""


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli.build([arguments[0]]), list(arguments))


@pytest.mark.parametrize(
    ("files", "entries"),
    [
        ({"pf": PF, "tables": TABLES}, ("from: 198.51.100.0/24", '[192.0.2.0/24, "2001:db8::/32"]', "8000-8010/tcp")),
        ({"ipfw": IPFW}, ("from: 198.51.100.0/24", "8000-8010/tcp")),
    ],
    ids=["pf", "ipfw"],
)
def test_a_listing_becomes_a_policy_that_admits_the_same(files: dict[str, str], entries: tuple[str, ...]) -> None:
    found = from_texts(files)
    assert found.equal
    assert all(words in found.text for words in entries), found.text
    rules = [entry for entry in found.account.entries if not entry.structure]
    assert {entry.status for entry in rules} == {"modelled"}
    assert len(rules) == 5


def test_what_a_host_has_loaded_becomes_a_policy() -> None:
    listings = {"pf-freebsd/rules": PF, "pf-freebsd/tables": TABLES, "pf-freebsd/translations": ""}
    found = of_observed(Observed(Facts("FreeBSD"), listings=listings))
    assert found.equal and "8000-8010/tcp" in found.text
    found = of_observed(Observed(Facts("FreeBSD"), listings={"ipfw/list": IPFW, "ipfw/settings": ""}))
    assert found.equal


def test_listings_are_compared_and_asked(tmp_path: Path) -> None:
    for name, text in (("a.pf", PF), ("tables", TABLES), ("a.ipfw", IPFW)):
        (tmp_path / name).write_text(text)
    both = f"{tmp_path}/a.pf,{tmp_path}/tables"
    said = run("diff", both, str(tmp_path / "a.ipfw"))
    assert said.exit_code == 1
    assert "no longer open to the Internet: 80/tcp (http)" in said.stdout
    said = run("diff", both, both)
    assert said.exit_code == 0
    said = run("explain", str(tmp_path / "a.ipfw"), "--from", "198.51.100.7", "--to", "22/tcp")
    assert said.exit_code == 0 and "decided by web" in said.stdout, said.output


def test_what_a_bsd_would_not_load_at_boot_is_a_finding() -> None:
    answer = (
        "\x01file pf-freebsd/pf.conf\nblock\n\x01block\n# portctl: begin\nnet.inet.tcp.keepidle=1200\n# portctl: end\n"
        "\x01wrong\npf_enable is not YES: rc.d/pf would load nothing\n\x01readable\nyes\n"
    )
    state = boot_state(Scripted(answers={"sh": Answer(0, answer)}))
    assert state is not None
    assert state.settings == "net.inet.tcp.keepidle=1200\n"
    conf = "net.inet.tcp.keepidle = 600 s\n"
    wanted = {"pf-freebsd/pf.conf": "block\n", "sysctl/60-portctl.conf": conf}
    facts = Facts("OpenBSD", slowhz=2, init="openbsd-rc")
    ruleset = Ruleset("web", (), (), ())
    seen = View(ruleset, facts, None, None, {}, datetime(2026, 1, 1, tzinfo=UTC), frozenset())
    (finding,) = persistence(seen, BootState({**state.bundle, **wanted}, state.settings, wrong=state.wrong), wanted)
    assert "pf_enable is not YES" in finding.message
    (finding,) = persistence(seen, BootState(wanted, "net.inet.tcp.keepidle=600\n"), wanted)
    assert "/etc/sysctl.conf would set other values" in finding.message
