"""Other people's rule sets become policies: equal where it is said, and every line accounted for."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from portctl import importing
from portctl.importing import Imported
from portctl.importing import account as accounts
from portctl.problems import Problems
from portctl.space import report

RULESETS = Path(__file__).parent / "observed" / "rulesets"
SETS = sorted({path.name.partition(".")[0] for path in RULESETS.iterdir() if path.is_file()})


def files_of(name: str) -> dict[str, str]:
    return {path.name: path.read_text() for path in sorted(RULESETS.glob(f"{name}.*")) if path.suffix != ".yaml"}


def brought(*lines: str, alike: bool = True, head: str = ":INPUT DROP\n:FORWARD DROP\n:OUTPUT ACCEPT\n") -> Imported:
    body = "*filter\n" + head + "".join(f"{line}\n" for line in lines) + "COMMIT\n"
    return importing.from_texts({"rules.v4": body}, "test", alike)


def said(found: Imported) -> str:
    """The policy without its head."""
    return found.text.partition("name: test\n")[2]


def status(found: Imported, word: str) -> tuple[str, str]:
    entry = next(e for e in found.account.entries if word in e.text)
    return entry.status, entry.reason


@pytest.mark.parametrize("name", SETS)
def test_the_policy_is_the_one_that_is_kept(name: str) -> None:
    """`NAME.yaml` beside the rule sets: what a person gets. `make accept` writes it; read what changes."""
    found = importing.from_texts(files_of(name))
    assert not found.problems
    difference = "" if found.difference is None else report.in_words(found.difference)
    whole = found.text + "".join(f"# {line}\n" for line in difference.splitlines())
    if os.environ.get("PORTCTL_ACCEPT"):
        (RULESETS / f"{name}.yaml").write_text(whole)
    assert whole == (RULESETS / f"{name}.yaml").read_text()


@pytest.mark.parametrize("name", SETS)
def test_every_line_is_accounted_for(name: str) -> None:
    files = files_of(name)
    found = importing.from_texts(files)
    for file, text in files.items():
        entries = [e for e in found.account.entries if e.file == file]
        if not text.lstrip().startswith("{"):
            assert [e.text for e in entries] == text.splitlines()
        assert [e.line for e in entries] == list(range(1, len(entries) + 1))
    assert all(e.reason for e in found.account.entries)


EQUAL = [
    ("an old state match", "-A INPUT -m state --state NEW -p tcp --dport 22 -j ACCEPT", "ssh: {ports: ssh, from: any}"),
    ("an old negation", "-A INPUT -s ! 192.0.2.0/24 -p udp --dport 53 -j ACCEPT", "except: 192.0.2.0/24"),
    ("a new negation", "-A INPUT ! -s 192.0.2.0/24 -p udp --dport 53 -j ACCEPT", "except: 192.0.2.0/24"),
    ("a name of a port", "-A INPUT -p tcp --dport https -j ACCEPT", "web: {ports: https, from: any}"),
    ("counters in front", "[7:420] -A INPUT -p tcp --dport 22 -j ACCEPT", "ssh: {ports: ssh, from: any}"),
    ("counters behind", "-A INPUT -p tcp -m tcp --dport 22 -c 12 700 -j ACCEPT", "ssh: {ports: ssh, from: any}"),
    ("a range", "-A INPUT -p tcp --dport 8000:8010 -j ACCEPT", "tcp-8000-8010: {ports: 8000-8010/tcp, from: any}"),
    ("echo", "-A INPUT -p icmp --icmp-type 8 -j ACCEPT", "ping: {ports: ping, from: any}"),
    (
        "answers of a server, by their port",
        "-A INPUT -p udp -m udp --sport 53 -j ACCEPT",
        "all-udp: {ports: 1-65535/udp, source_ports: 53/udp, from: any}",
    ),
    ("all of ICMP", "-A INPUT -p icmp -m icmp --icmp-type any -j ACCEPT", "ping: {ports: ping, from: any}"),
    ("a protocol", "-A INPUT -p esp -s 192.0.2.1 -j ACCEPT", "esp: {ports: esp, from: 192.0.2.1}"),
    ("an interface", "-A INPUT -i eth1 -j ACCEPT", "all-in-eth1: {ports: any, from: any, in: eth1}"),
    ("a pattern", "-A INPUT -i tun+ -p tcp --dport 22 -j ACCEPT", 'tun: ["tun*"]'),
    ("a source port", "-A INPUT -p udp --sport 500 --dport 500 -j ACCEPT", "source_ports: 500/udp"),
    ("a destination", "-A INPUT -d 203.0.113.9 -p tcp --dport 80 -j ACCEPT", "to: 203.0.113.9"),
    ("one list", "-A INPUT -p tcp -m multiport --dports 80,443 -j ACCEPT", "web: {ports: [http, https], from: any}"),
    ("a limit each", "-A INPUT -p tcp --dport 22 -m connlimit --connlimit-upto 3 -j ACCEPT", "max_connections: 3"),
    ("a limit beyond", "-A INPUT -p tcp --dport 22 -m limit --limit 6/min -j ACCEPT", "rate: 6/minute"),
    ("a comment", '-A INPUT -p tcp --dport 9999 -m comment --comment "Allow backup agent" -j ACCEPT', "backup-agent:"),
    ("CRLF", "-A INPUT -p tcp --dport 22 -j ACCEPT\r", "ssh: {ports: ssh, from: any}"),
    ("outbound", "-A OUTPUT -p tcp --dport 25 -j REJECT", "- {ports: smtp, to: any}"),
]


@pytest.mark.parametrize(("line", "expected"), [case[1:] for case in EQUAL], ids=[case[0] for case in EQUAL])
def test_a_line_becomes_what_a_person_would_have_written_and_equal(line: str, expected: str) -> None:
    found = brought(line)
    assert not found.problems
    assert found.equal, found.difference and report.in_words(found.difference)
    assert expected in said(found)


def test_what_is_open_at_one_interface_needs_no_word_at_another() -> None:
    found = brought(
        "-A INPUT -i lan -j ACCEPT", "-A INPUT -p tcp --dport 22 -j ACCEPT", "-A INPUT -i lan -p udp --dport 53 -j DROP"
    )
    assert found.equal
    assert "ssh: {ports: ssh, from: any}" in said(found)
    assert "domain" not in said(found)


def test_an_early_drop_of_a_source_is_a_block() -> None:
    found = brought(
        "-A INPUT -s 203.0.113.66 -j DROP",
        "-A INPUT -p tcp --dport 22 -j ACCEPT",
        "-A INPUT -p tcp --dport 80 -j ACCEPT",
    )
    assert found.equal
    assert "block:\n  - from: 203.0.113.66\n" in said(found)
    assert "except" not in said(found)


def test_both_families_are_one_entry() -> None:
    v4 = "*filter\n:INPUT DROP\n:FORWARD DROP\n:OUTPUT ACCEPT\n-A INPUT -p tcp --dport 22 -j ACCEPT\n"
    v6 = "# Generated by ip6tables-save\n" + v4 + "-A INPUT -p icmpv6 --icmpv6-type echo-request -j ACCEPT\n"
    v4 += "-A INPUT -s 192.0.2.0/24 -p icmp --icmp-type echo-request -j ACCEPT\n"
    found = importing.from_texts({"a": v4, "b": v6}, "test")
    assert found.equal
    assert "ssh: {ports: ssh, from: any}" in said(found)
    assert 'ping: {ports: ping, from: [192.0.2.0/24, "::/0"]}' in said(found)


def test_one_family_alone_is_closed_in_the_other_if_asked() -> None:
    found = brought("-A INPUT -p tcp --dport 22 -j ACCEPT", alike=False)
    assert found.equal
    assert "ssh: {ports: ssh, from: 0.0.0.0/0}" in said(found)


def test_what_a_policy_cannot_ask_is_refused_and_told() -> None:
    found = brought(
        '-A INPUT -p tcp --dport 80 -m string --string "x" --algo bm -j ACCEPT', "-A INPUT -p tcp --dport 22 -j ACCEPT"
    )
    assert not found.equal
    assert status(found, "--string")[0] == "refused"
    assert "web" not in said(found)
    assert found.difference is not None and "depends on line" in report.in_words(found.difference)


def test_a_country_that_alone_is_let_in_does_not_become_everybody() -> None:
    found = brought(
        "-A INPUT -p tcp --dport 22 -m geoip ! --source-country DE -j DROP", "-A INPUT -p tcp --dport 22 -j ACCEPT"
    )
    assert "ssh" not in said(found)
    assert status(found, "geoip")[0] == "approximated"


def test_a_log_line_with_an_unknown_match_changes_nothing() -> None:
    found = brought("-A INPUT -m string --string x --algo bm -j LOG", "-A INPUT -p tcp --dport 22 -j ACCEPT")
    assert found.equal


def test_the_guard_of_ssh_by_recent_is_a_rate() -> None:
    found = brought(
        "-A INPUT -p tcp --dport 22 -m state --state NEW -m recent --set --name s --rsource",
        "-A INPUT -p tcp --dport 22 -m state --state NEW -m recent --update --seconds 60 --hitcount 4 --name s -j DROP",
        "-A INPUT -p tcp --dport 22 -j ACCEPT",
    )
    assert "rate: 3/minute" in said(found)
    assert status(found, "--update")[0] == "approximated"


def test_what_tools_keep_is_left_to_them() -> None:
    found = importing.from_texts(files_of("docker"))
    assert found.equal
    assert {e.status for e in found.account.entries if "DOCKER" in e.text and "-A" in e.text} == {"left"}
    assert "172.17" not in found.text
    assert "forward: keep" in found.text


def test_a_listing_without_interfaces_admits_nothing_for_certain() -> None:
    """`ACCEPT all -- anywhere anywhere` may be the line of loopback: every rule may hold or not."""
    listing = "Chain INPUT (policy DROP)\ntarget     prot opt source               destination\n"
    listing += "ACCEPT     all  --  0.0.0.0/0            0.0.0.0/0           \n"
    listing += "DROP       tcp  --  192.0.2.0/24         0.0.0.0/0            tcp dpt:22\n"
    found = importing.from_texts({"listing": listing}, "test")
    assert not found.equal
    assert "services:" not in said(found)
    why = "a policy cannot ask `interfaces (listed only with -v)`; left out: "
    assert status(found, "ACCEPT") == ("refused", why + "what it admitted is not")
    assert status(found, "tcp dpt:22") == ("refused", why + "what it denied may now be admitted")
    assert any("give what iptables-save prints" in note for note in found.notes)
    assert found.difference is not None and found.difference.relation == "uncertain"


HEAD = " pkts bytes target     prot opt in     out     source               destination\n"
ANY = "0.0.0.0/0            0.0.0.0/0           "


def listed(*lines: str, policy: str = "DROP") -> str:
    return f"Chain INPUT (policy {policy} 0 packets, 0 bytes)\n{HEAD}" + "".join(f"{line}\n" for line in lines)


@pytest.mark.parametrize(
    ("printed", "saved"),
    [
        (f" 3 180 ACCEPT     tcp  --  *      *       {ANY} tcp dpt:22 state NEW", "-p tcp -m tcp --dport 22 -j ACCEPT"),
        (f"1K  2M ACCEPT     17   --  eth0   *       {ANY} udp dpts:60000:61000 /* mosh */",
         "-i eth0 -p udp -m udp --dport 60000:61000 -j ACCEPT"),
        (" 0   0 ACCEPT     6    --  !eth1  *      !10.0.0.0/8   0.0.0.0/0  multiport dports 80,443",
         "! -s 10.0.0.0/8 ! -i eth1 -p tcp -m multiport --dports 80,443 -j ACCEPT"),
        (f" 0   0 ACCEPT     icmp --  *      *       {ANY} icmptype 8", "-p icmp -m icmp --icmp-type 8 -j ACCEPT"),
        (" 0   0 ACCEPT     tcp  --  any    any     anywhere   anywhere  tcp dpt:ssh",
         "-p tcp -m tcp --dport 22 -j ACCEPT"),
        (f" 0   0 ACCEPT     tcp  --  *      *       {ANY} source IP range 10.0.0.5-10.0.0.9 tcp dpt:25",
         "-p tcp -m iprange --src-range 10.0.0.5-10.0.0.9 -m tcp --dport 25 -j ACCEPT"),
        (f" 0   0 DROP       tcp  --  *      *       {ANY} tcp dpt:22 limit: above 10/sec burst 5",
         "-p tcp -m tcp --dport 22 -m hashlimit --hashlimit-above 10/sec --hashlimit-burst 5 --hashlimit-name x"
         " -j DROP"),
        (f" 0   0 ACCEPT     tcp  --  *      *       {ANY} tcp dpt:99 flags:0x17/0x02",
         "-p tcp -m tcp --dport 99 --tcp-flags FIN,SYN,RST,ACK SYN -j ACCEPT"),
    ],
)  # fmt: skip
def test_a_listing_with_interfaces_is_read_like_a_save(printed: str, saved: str) -> None:
    kept = importing.from_texts({"x": f"*filter\n:INPUT DROP [0:0]\n-A INPUT {saved}\nCOMMIT\n"})
    found = importing.from_texts({"x": listed(printed)})
    without = [line for line in found.text.splitlines() if not line.startswith("#")]
    assert without == [line for line in kept.text.splitlines() if not line.startswith("#")] or "mosh" in printed
    assert found.equal == kept.equal


def test_a_listing_of_several_tables_keeps_the_place_of_every_line() -> None:
    nat = (
        f"\nChain PREROUTING (policy ACCEPT 0 packets, 0 bytes)\n{HEAD}"
        f" 0 0 DNAT  tcp  --  eth0  *  {ANY} tcp dpt:8080 to:10.0.0.5:80\n"
    )
    rules = listed(f" 0 0 mine  all  --  *  *  {ANY} [goto]", f" 0 0  all  --  *  *  {ANY}")
    own = f"\nChain mine (1 references)\n{HEAD} 9 9 ACCEPT  tcp  --  *  *  {ANY} tcp dpt:22 owner GID match 5\n"
    found = importing.from_texts({"x": rules + own + nat})
    said = {entry.line: (entry.status, entry.text) for entry in found.account.entries}
    assert list(said) == list(range(1, len((rules + own + nat).splitlines()) + 1))
    assert said[3][0] == "modelled" and "mine" in said[3][1]
    assert said[8][0] == "refused" and "GID" in said[8][1]
    assert said[12][0] == "modelled" and "to:10.0.0.5" in said[12][1]


def test_a_listing_line_that_is_none_is_accounted_for() -> None:
    found = importing.from_texts({"x": listed("what is this")})
    assert [entry.status for entry in found.account.entries] == ["modelled", "modelled", "refused"]
    torn = importing.from_texts({"x": listed(f" 0 0 ACCEPT  tcp  --  *  *  {ANY} tcp flags:0x0lamp/0x02")})
    assert torn.account.entries[2].status == "refused" and not torn.equal


@pytest.mark.parametrize("text", ["hello\nworld\n", "{not json", '{"nftables": 3}', "\x00\x01\x02"])
def test_what_is_no_rule_set_is_refused(text: str) -> None:
    with pytest.raises(Problems):
        importing.from_texts({"x": text})


def test_commands_and_iptables_s_are_read_like_a_save() -> None:
    script = (
        "#!/bin/sh\niptables -P INPUT DROP\niptables -N web\niptables -A INPUT -j web\n"
        "iptables -A web -p tcp --dport 443 -j ACCEPT\n"
        "iptables -t nat -A POSTROUTING -o eth0 -j MASQUERADE\niptables -A INPUT -i lo -j ACCEPT\necho done\n"
    )
    found = importing.from_texts({"fw.sh": script}, "test")
    assert "web: {ports: https, from: any}" in said(found)
    assert status(found, "echo done")[0] == "refused"
    assert len(found.account.entries) == 8
    assert found.equal


def test_what_follows_a_missing_commit_is_accounted_for() -> None:
    found = importing.from_texts(
        {"x": "*filter\n:INPUT DROP [0:0]\n-A INPUT -p tcp --dport 22 -j ACCEPT\n\ngarbage here\n-A\n"}, "test"
    )
    assert [e.status for e in found.account.entries] == ["modelled"] * 4 + ["refused"] * 2


def test_nothing_is_proved_where_a_line_that_may_be_a_rule_was_not_read() -> None:
    rules = "iptables -P INPUT DROP\niptables -A INPUT -p tcp --dport 22 -j ACCEPT\n"
    assert importing.from_texts({"fw.sh": rules}).equal
    found = importing.from_texts({"fw.sh": f"{rules}iptables -E INPUT OTHER\n"})
    assert status(found, "-E INPUT")[0] == "refused"
    assert not found.equal


def test_nothing_at_all_is_a_host_that_admits_everything() -> None:
    found = importing.from_texts({"x": "# Generated by iptables-save\n*filter\n:INPUT ACCEPT [0:0]\nCOMMIT\n"}, "test")
    assert found.equal
    assert re.search(
        r"everything:\n    ports: \[\n +1-65535/tcp\+udp\+sctp, .*ping\n    \]\n    from: any\n", said(found), re.S
    )


def test_open_by_default_with_some_closed_is_said_that_way() -> None:
    found = brought(
        "-A INPUT -p tcp --dport 3306 -j DROP",
        "-A INPUT ! -s 10.0.0.0/8 -p tcp --dport 6379 -j DROP",
        head=":INPUT ACCEPT\n:FORWARD DROP\n:OUTPUT ACCEPT\n",
    )
    assert found.equal
    assert "- {ports: mysql, from: any}" in said(found)
    assert "- {ports: redis, from: any, except: 10.0.0.0/8}" in said(found)


def test_a_target_becomes_a_forward() -> None:
    text = (
        "*nat\n-A PREROUTING -i wan -p tcp --dport 80 -j DNAT --to-destination 10.0.0.5:8080\nCOMMIT\n"
        "*filter\n:INPUT DROP\n:FORWARD DROP\n:OUTPUT ACCEPT\n"
        "-A FORWARD -i wan -d 10.0.0.5 -p tcp --dport 8080 -j ACCEPT\n"
    )
    found = importing.from_texts({"x": text}, "test")
    assert found.equal
    assert 'target: "10.0.0.5:8080"' in said(found)


def test_json_and_text_of_nft_say_the_same(tmp_path: Path) -> None:
    """nft itself loads the text, and lists it as JSON."""
    text = (RULESETS / "firewalld.nft").read_text()
    text = re.sub(r"\tct helper .*?\n\t}\n", "", text, flags=re.S)
    path = tmp_path / "rules.nft"
    path.write_text(text)
    script = f"nft -f {path} && nft -j list ruleset"
    done = subprocess.run(["unshare", "-rn", "sh", "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    one, other = importing.from_texts({"x": text}, "test"), importing.from_texts({"x": done.stdout}, "test")
    assert said(one) == said(other)
    assert not [e for e in other.account.entries if e.status == "refused"]


def test_the_account_as_text_and_json() -> None:
    import json

    found = brought("-A INPUT -p tcp --dport 22 -j ACCEPT")
    assert "rules.v4:5: modelled: services `ssh`\n    -A INPUT" in accounts.text(found.account)
    value = json.loads(accounts.as_json(found.account))
    assert len(value["lines"]) == 6
    assert value["count"]["modelled"] == 4


def test_each_connection_has_the_limit_that_it_meets() -> None:
    """Two limits that differ, one within the other: what only the wider is about has its limit."""
    found = brought(
        "-A INPUT -p tcp --dport 22 -m recent --update --seconds 60 --hitcount 5 --name ssh --rsource -j DROP",
        "-A INPUT -m recent --update --seconds 60 --hitcount 21 --name all --rsource -j DROP",
        "-A INPUT -p tcp -m multiport --dports 22,80 -j ACCEPT",
    )
    assert found.equal
    assert "ssh: {ports: ssh, from: any, rate: 4/minute}\n  web: {ports: http, from: any, rate: 20/minute}" in said(
        found
    )


def portctl(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "portctl", *arguments]
    return subprocess.run(command, capture_output=True, text=True, input=stdin, check=False)


def test_the_command_prints_a_policy_and_says_that_it_is_proved(tmp_path: Path) -> None:
    done = portctl("import", str(RULESETS / "ufw.v4"), "--name", "web")
    assert done.returncode == 0
    assert "proved: the policy admits exactly what the input admits" in done.stderr
    policy = tmp_path / "web.yaml"
    policy.write_text(done.stdout)
    assert portctl("check", str(policy)).returncode == 0


def test_the_command_fails_where_policy_and_input_differ_and_reads_standard_input() -> None:
    done = portctl("import", "-", "--account", "json", stdin=(RULESETS / "router.v4").read_text())
    assert done.returncode == 1
    assert "depends on line 22" in done.stderr
    assert '"refused"' in done.stdout


def test_the_command_never_writes_over_a_file(tmp_path: Path) -> None:
    output = tmp_path / "p.yaml"
    output.write_text("mine")
    done = portctl("import", str(RULESETS / "ufw.v4"), "-o", str(output))
    assert done.returncode == 2
    assert output.read_text() == "mine"


@st.composite
def rulesets(draw: st.DrawFn) -> str:
    """Rule sets of which a policy can say everything."""
    places = st.sampled_from(["", "-s 10.0.0.0/8 ", "! -s 192.0.2.0/24 ", "-s 198.51.100.7 ", "! -s 203.0.113.0/25 "])
    whats = ["", "-p tcp ", "-p tcp --dport 22 ", "-p tcp -m multiport --dports 80,443,8080 ", "-p udp --dport 53 "]
    whats += ["-p icmp --icmp-type 8 ", "-p udp --sport 1024:65535 --dport 514 ", "-p tcp --dport 8000:8010 "]
    lines = ["*filter"]
    lines += [f":{c} {draw(st.sampled_from(['ACCEPT', 'DROP']))}" for c in ("INPUT", "FORWARD", "OUTPUT")]
    lines += [":c1 -", ":c2 -"]
    for _ in range(draw(st.integers(1, 9))):
        chain = draw(st.sampled_from(["INPUT", "INPUT", "c1", "c2", "OUTPUT", "FORWARD"]))
        ends = ["ACCEPT", "DROP", "REJECT", *(["RETURN"] if chain.startswith("c") else ["c1", "c2"])]
        lines.append(f"-A {chain} {draw(places)}{draw(st.sampled_from(whats))}-j {draw(st.sampled_from(ends))}")
    return "\n".join([*lines, "COMMIT"])


@settings(max_examples=25, deadline=None)
@given(rulesets())
@example("*filter\n:INPUT ACCEPT\n-A INPUT -p tcp --dport 22 -j ACCEPT\n-A INPUT -s 10.0.0.0/8 -j DROP\nCOMMIT")
def test_whatever_a_policy_can_say_is_said_exactly(text: str) -> None:
    found = importing.from_texts({"x": text}, "test")
    assert not found.problems
    assert found.equal, found.text + (report.in_words(found.difference) if found.difference else "")
