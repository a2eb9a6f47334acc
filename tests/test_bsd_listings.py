"""Saved listings of pf and ipfw are what import, diff and explain take, as those of Linux are."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from portctl import backends, cli
from portctl.backends.ipfw.listed import read as ipfw_read
from portctl.command import Result as Answer
from portctl.evaluation import evaluate
from portctl.importing import from_texts, of_observed
from portctl.observe import Facts, Observed
from portctl.observe.boot import BootState, boot_state
from portctl.program import Field
from portctl.ruleset import TCP, Direction, Packet, Ruleset, Verdict
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


def test_an_anchor_of_portctls_is_read_with_its_tables() -> None:
    rules = 'pass in quick proto tcp from <office> to any port = 22 flags S/SA keep state label "portctl:service:ssh"\n'
    listings = {
        "rules": f'block drop all\nanchor "portctl" all {{\n  {rules}}}\npass out proto tcp all user = 80 flags S/SA\n',
        "tables": "", "translations": "", "anchor": rules, "anchor tables": TABLES, "users": "www:*:80:80::/:\n",
    }  # fmt: skip
    named = {f"pf-freebsd/{name}": text for name, text in listings.items()}
    found = of_observed(Observed(Facts("FreeBSD"), listings=named))
    assert '[192.0.2.0/24, "2001:db8::/32"]' in found.text and "ports: ssh" in found.text, found.text
    assert "www" in found.text


def test_listings_are_compared_and_asked(tmp_path: Path) -> None:
    for name, text in (("a.pf", PF), ("tables", TABLES), ("a.ipfw", IPFW)):
        (tmp_path / name).write_text(text)
    both = f"{tmp_path}/a.pf,{tmp_path}/tables"
    said = run("diff", both, str(tmp_path / "a.ipfw"))
    assert said.exit_code == 1
    assert "no longer open to the Internet (everywhere except 198.51.100.0/24): 80/tcp (http)" in said.stdout
    said = run("diff", both, both)
    assert said.exit_code == 0
    said = run("explain", str(tmp_path / "a.ipfw"), "--from", "198.51.100.7", "--to", "22/tcp")
    assert said.exit_code == 0 and "decided by web" in said.stdout, said.output


ALONE = {
    "pf": "block drop in all\npass in quick proto tcp from <office> to any port = 22 flags S/SA keep state\n",
    "ipfw": "00100 allow tcp from table(office) to me 22 in setup keep-state :default\n65535 deny ip from any to any\n",
}


@pytest.mark.parametrize("name", ALONE)
def test_a_table_that_is_not_among_the_listings_is_not_empty(name: str, tmp_path: Path) -> None:
    """What it holds is unknown, and said to be."""
    (tmp_path / "rules").write_text(ALONE[name])
    said = run("explain", str(tmp_path / "rules"), "--from", "198.51.100.7", "--to", "22/tcp")
    assert "depends on" in said.stdout and "office" in said.stdout, said.output


SHOWN = {
    "pf": ("office.table", "   198.51.100.0/24\n  !198.51.100.66\n"),
    "pf-T-show": ("freebsd15.T-show.office.txt", "   198.51.100.0/24\n\tCleared:     Sun Nov 22 15:53:34 2026\n"),
    "ipfw": ("tables", "--- table(office), set(0) ---\n198.51.100.0/24 0\n"),
}


@pytest.mark.parametrize("name", SHOWN)
def test_contents_of_a_table_beside_the_rules(name: str, tmp_path: Path) -> None:
    file, text = SHOWN[name]
    (tmp_path / "rules").write_text(ALONE[name.partition("-")[0]])
    (tmp_path / file).write_text(text)
    said = run("explain", f"{tmp_path}/rules,{tmp_path}/{file}", "--from", "198.51.100.7", "--to", "22/tcp")
    assert said.stdout.startswith("accept"), said.output
    files = {str(path): path.read_text() for path in tmp_path.iterdir()}
    assert "198.51.100" in from_texts(files).text


def test_rules_and_translations_of_pf_are_one_rule_set(tmp_path: Path) -> None:
    nat = 'rdr on em0 inet proto tcp from any to 192.0.2.10 port = 8080 -> 10.0.0.20 port 80\nrdr-anchor "x" all\n'
    (tmp_path / "sr").write_text("block drop in all\npass quick inet proto tcp from any to 10.0.0.20 port = 80\n")
    (tmp_path / "sn").write_text(nat)
    both = f"{tmp_path}/sr,{tmp_path}/sn"
    assert run("diff", both, both).exit_code == 0
    said = run("explain", both, "--from", "203.0.113.9", "--to", "192.0.2.10:8080/tcp", "--in", "em0")
    assert "10.0.0.20" in said.stdout and said.exit_code == 0, said.output


TIMES = """\
00100                          allow ip from any to any via lo0
00300 Sun Nov 22 20:37:28 2026 allow tcp from 198.51.100.0/24 to me 22 in setup keep-state :default // web
00310   3  124 Sun Nov 22 20:37:28 2026 set 3 deny ip from any to me 23
00320   3  124 1795363448 set 3 deny ip from any to me 24
65535   0    0          0 deny ip from any to any
"""
INFO = """\
--- table(a), set(0) ---
 kindex: 1, type: flow:src-ip,proto,dst-port, locked
 references: 1, valtype: legacy
 algorithm: flow:hash
 items: 1, size: 300
 limit: 100
 IPv4 algorithm hash info
  size: 64 items: 1 itemsize: 40
--- table(b), set(0) ---
 kindex: 2, type: addr
 references: 1, valtype: legacy
 algorithm: addr:radix
 items: 0, size: 296
"""


def test_times_limits_and_locks_of_ipfw() -> None:
    """`-t`, `-T`, `-at`; a table that is locked, and one that has a limit (table_show_info of tables.c)."""
    listing = ipfw_read({"list": TIMES, "info": INFO})
    assert not listing.foreign
    assert [rule.number for rule in listing.rules] == [100, 300, 310, 320, 65535]
    assert [rule.body.split()[0] for rule in listing.rules] == ["allow", "allow", "deny", "deny", "deny"]
    assert (listing.rules[2].packets, listing.rules[2].set, listing.rules[0].packets) == (3, 3, None)
    assert listing.tables["a"].kind == "flow:src-ip,proto,dst-port"
    assert (listing.tables["a"].known, listing.tables["b"].known) == (False, True)
    assert backends.load("ipfw").claims(TIMES) == "list"


@pytest.mark.parametrize("word", ["dccp", "vmtp", "etherip", "carp", "idpr-cmtp", "a/n", "ax.25", "rohc"])
def test_protocols_by_the_names_of_a_system(word: str) -> None:
    for name, text in (
        ("ipfw", f"00100 allow {word} from any to me in\n65535 deny ip from any to any\n"),
        ("pf-freebsd", f"block drop all\npass in quick proto {word} all keep state\n"),
    ):
        loaded = backends.load(name).parse({"list" if name == "ipfw" else "rules": text})
        lines = [line for chain in loaded.chains for line in chain.lines]
        assert not loaded.foreign and not [c for x in lines for c in x.conditions if c.field is Field.UNKNOWN]


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


SELDOM = """\
pass in quick proto tcp from any to any port = http flags S/SA keep state divert-to 127.0.0.1 port 8080
pass out proto tcp all flags S/SA keep state divert-reply
pass in on em0 all flags S/SA keep state dnpipe 1
pass in on em0 all flags S/SA keep state dnqueue (1, 2)
pass out on em0 all flags S/SA keep state route-to { (em0 192.0.2.1), (em1 10.0.0.2) } round-robin
pass in on em0 reply-to { (em1 10.0.0.2), (em0 192.0.2.1) } round-robin inet all flags S/SA keep state
pass out on em0 inet all flags S/SA keep state nat-to 192.0.2.1 map-e-portset 6/8/0x34
pass in on rdomain 1 all flags S/SA
pass in quick all flags S/SA keep state queue q1 endpi
pass in quick inet all flags S/SA keep state route-to (em1 10.0.0.2) prefer-ipv6-nexthop
block return(ttl 3) in all
  [ Evaluations: 2         Packets: 1         Bytes: 40          States: 0     ]
  [ Skip steps: i=end d=3 f=2 p=end sa=1 sp=end ]
  [ queue: qname=q1 qid=1 pqname= pqid=0 ]
"""
"""What `print_rule` of pfctl_parser.c can print and rule sets seldom hold."""


def test_words_that_rule_sets_seldom_hold_are_read() -> None:
    loaded = backends.load("pf-freebsd").parse({"rules": SELDOM})
    assert not loaded.foreign
    lines = [line for chain in loaded.chains for line in chain.lines if line.number]
    assert {line.number for line in lines} == set(range(1, 12))
    assert any(c.field is Field.UNKNOWN and c.value == "rdomain 1" for line in lines for c in line.conditions)


ACTIONS = """\
00100 tcp-setmss 1400 tcp from any to any out xmit em0
00200 allow ip from any to any MAC any 00:11:22:33:44:55
00300 allow tcp from any to me 22 in
00400 nptv6 NPT ip6 from any to any
65535 deny ip from any to any
"""


def test_what_ipfw_does_to_a_segment_size_or_asks_of_a_frame_decides_nothing() -> None:
    """`ipfw_tcpmod` of tcpmod.c goes on with the next rule; O_MACADDR2 of ip_fw2.c never matches a packet."""
    loaded = backends.load("ipfw").parse({"list": ACTIONS})
    packet = Packet(Direction.INBOUND, TCP, ip_address("198.51.100.9"), ip_address("192.0.2.1"), 22)
    assert (evaluate(loaded, packet).verdict, evaluate(loaded, packet).depends_on) == (Verdict.ACCEPT, ())
    assert evaluate(loaded, replace(packet, port=23)).verdict is Verdict.DROP
    six = replace(packet, source=ip_address("2001:db8::9"), destination=ip_address("2001:db8::1"), port=23)
    assert evaluate(loaded, six).depends_on, "what a module makes of it is unknown"
