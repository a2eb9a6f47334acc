"""Rule sets as they are found in the world: lists of commands, odd ones out, and what a person would have written."""

from __future__ import annotations

import pytest

from portctl import importing
from portctl.importing import Imported
from portctl.importing.draft import Atom
from portctl.importing.words import port_words


def brought(*lines: str, head: str = ":INPUT DROP\n:FORWARD DROP\n:OUTPUT ACCEPT\n") -> Imported:
    body = "*filter\n" + head + "".join(f"{line}\n" for line in lines) + "COMMIT\n"
    return importing.from_texts({"rules.v4": body}, "test")


def said(found: Imported) -> str:
    """The policy without its head."""
    return found.text.partition("name: test\n")[2]


def test_commands_leave_the_rules_that_they_would_leave() -> None:
    """Rules that are put first, replaced, deleted; chains that are emptied: every line has a say."""
    found = importing.from_texts({
        "fw.sh": "iptables -F\niptables -A INPUT -p tcp --dport 9 -j ACCEPT\niptables -F INPUT\n"
        "iptables -P INPUT ACCEPT\niptables -w 5 --policy INPUT DROP\n"
        "iptables --append INPUT --protocol tcp --destination-port 22 --jump ACCEPT\n"
        "iptables -A INPUT -p tcp --dport 25 -j ACCEPT\niptables -A INPUT -p tcp --dport 110 -j ACCEPT\n"
        "iptables -I INPUT -s 192.0.2.7 -p tcp --dport 22 -j DROP\niptables -R INPUT 3 -p tcp --dport 465 -j ACCEPT\n"
        "/sbin/iptables --table filter -D INPUT -p tcp --dport 110 -j ACCEPT\niptables -D INPUT -j DROP\n"
    }, "test")  # fmt: skip
    assert found.equal
    assert said(found).startswith(
        "\nservices:\n  ssh: {ports: ssh, from: any}\n  mail: {ports: submissions, from: any}\n"
        "\nblock:\n  - {ports: ssh, from: 192.0.2.7}\n"
    )
    assert [(e.line, e.status, e.reason) for e in found.account.entries if e.line not in (1, 3, 5, 6)] == [
        (2, "modelled", "line 3 deletes it"),
        (4, "modelled", "line 5 sets it again"),
        (7, "modelled", "line 10 takes its place"),
        (8, "modelled", "line 11 deletes it"),
        (9, "modelled", "`block`"),
        (10, "modelled", "services `mail`"),
        (11, "modelled", "it deletes line 8"),
        (12, "refused", "there is no such rule that it could change"),
    ]


def test_a_saved_file_may_insert_too() -> None:
    found = brought(
        "-A INPUT -j DROP", "-I INPUT -p tcp --dport 22 -j ACCEPT", "-I INPUT 2 -p tcp --dport 25 -j ACCEPT"
    )
    assert found.equal
    assert "ssh: {ports: ssh, from: any}\n  mail: {ports: smtp, from: any}\n" in said(found)


def test_one_list_of_commands_may_be_of_both_families() -> None:
    found = importing.from_texts({
        "fw.sh": "iptables -P INPUT DROP\nip6tables -P INPUT DROP\niptables -A INPUT -s 192.0.2.0/24 -j ACCEPT\n"
        "ip6tables -A INPUT -s 2001:db8::/48 -p tcp --dport 22 -j ACCEPT\n"
    })  # fmt: skip
    assert found.equal
    assert [(e.line, e.status) for e in found.account.entries] == [(n, "modelled") for n in (1, 2, 3, 4)]
    assert "from: 192.0.2.0/24}" in found.text and 'from: "2001:db8::/48"}' in found.text
    assert "says nothing of" not in found.text


@pytest.mark.parametrize("policy", ["ACCEPT", "DROP"])
def test_everybody_but_a_few_is_no_short_word(policy: str) -> None:
    """The language has no `any` for what is open to everybody, nor to everybody but a few."""
    lines = ["-A INPUT -s 198.51.100.7 -p udp --sport 1024:65535 --dport 514 -j DROP", "-A INPUT -j ACCEPT"]
    found = brought(*lines, head=f":INPUT {policy}\n:FORWARD ACCEPT\n:OUTPUT ACCEPT\n")
    assert not found.problems
    assert found.equal


def test_what_is_turned_elsewhere_and_denied_there_is_not_open_here() -> None:
    rules = "*nat\n:PREROUTING ACCEPT\n-A PREROUTING -d 192.0.2.1 -p tcp --dport 80 -j DNAT --to 10.0.0.5\nCOMMIT\n"
    rules += "*filter\n:INPUT DROP\n:FORWARD DROP\n-A INPUT -p tcp --dport 80 -j ACCEPT\nCOMMIT\n"
    found = importing.from_texts({"x": rules}, "test")
    assert found.equal
    assert 'web: {ports: http, from: any, to: [0.0.0.0-192.0.2.0, 192.0.2.2-255.255.255.255, "::/0"]}' in said(found)


def test_an_echo_request_has_no_codes() -> None:
    found = brought("-A INPUT -p icmp -m icmp --icmp-type 8/0 -j ACCEPT")
    assert found.equal
    assert "ping: {ports: ping, from: any}" in said(found)


def test_ranges_that_touch_are_one() -> None:
    """Single ports that touch are two services, ranges are cut by what other lines say of them."""
    assert port_words([Atom(6, 4000, 4099), Atom(6, 4100, 4100), Atom(6, 4101, 4200)]) == ["4000-4200/tcp"]
    assert port_words([Atom(6, 80, 80), Atom(6, 81, 81)]) == ["http", "81/tcp"]


def test_a_forward_is_named_by_the_side_that_it_names() -> None:
    found = brought("-A FORWARD -i eth1 -o eth0 -j ACCEPT", "-A FORWARD -s 192.0.2.0/24 -o eth2 -j ACCEPT")
    assert found.equal
    assert "eth1-to-eth0: {" in said(found) and "to-eth2: {" in said(found)


def test_what_is_not_in_the_policy_is_not_called_modelled() -> None:
    found = brought(
        "-A INPUT -m state --state INVALID -j ACCEPT",
        "-A INPUT -m ttl --ttl-eq 1 -j ACCEPT",
        "-A INPUT -p dccp -m dccp --dport 80 -j ACCEPT",
        "-A INPUT ! -i eth0 -p tcp -m tcp --dport 25 -j ACCEPT",
        "-A INPUT ! -i eth0 -p tcp -m tcp --dport 22 -j ACCEPT",
        "-A INPUT -i eth1 -p udp -m udp --dport 53 -j ACCEPT",
        "-A INPUT -p tcp -m tcp --dport 80 -m connlimit --connlimit-above 10 -j ACCEPT",
        "-A OUTPUT -m owner --uid-owner 114 -j ACCEPT",
        head=":INPUT DROP\n:FORWARD DROP\n:OUTPUT DROP\n",
    )
    every_but = "the language cannot say “every interface but”; for the rest there is services"
    assert [(e.status, e.reason) for e in found.account.entries if e.text.startswith("-A")] == [
        ("approximated", "a policy drops invalid packets, and tracks all connections"),
        ("approximated", "a policy asks no hop limit: connections are taken to come with 64"),
        ("refused", "a policy knows no ports of protocol 33"),
        ("approximated", f"{every_but} `mail`"),
        ("approximated", f"{every_but} `ssh`"),
        ("modelled", "services `domain`"),
        ("refused", "it admits what is beyond a limit, and no policy does"),
        ("refused", "the owner of its sockets is no user's name"),
    ]


def test_a_listing_is_read_with_the_commands_that_printed_it_and_with_words_run_together() -> None:
    """As people paste it; iptables 1.4.20 prints no space before `flags:`."""
    head = " pkts bytes target     prot opt in     out     source               destination\n"
    listing = f"""\
[admin@gw ~]$ sudo iptables -vL -n
Chain INPUT (policy DROP 0 packets, 0 bytes)
{head}\
    0     0 ACCEPT     tcp  --  *      *       0.0.0.0/0            0.0.0.0/0            tcp dpt:22flags: 0x17/0x02
    0     0 ACCEPT     tcp  --  *      *       0.0.0.0/0            0.0.0.0/0            tcpflags: 0x17/0x02 \
multiport dports 80,443

[admin@gw ~]$ sudo iptables -t raw -vL -n
Chain PREROUTING (policy ACCEPT 0 packets, 0 bytes)
{head}\
    0     0 DROP       all  --  *      *       192.0.2.0/24         0.0.0.0/0
"""
    found = importing.from_texts({"pasted": listing}, "test")
    assert found.equal, found.text
    assert "services:\n  ssh: {ports: ssh, from: any}\n  web: {ports: [http, https], from: any}" in said(found)
    assert "block:\n  - from: 192.0.2.0/24\n" in said(found)
    assert not [e for e in found.account.entries if e.status == "refused"]


def test_what_is_the_shell_s_is_not_a_rule_s() -> None:
    found = importing.from_texts({
        "fw.sh": "iptables -P INPUT DROP\n"
        "iptables -A INPUT -p tcp --dport 22 -m comment --comment 'for the -j DROP crowd; us' -j ACCEPT # always\n"
        "iptables -A INPUT -p tcp --dport 443 -j ACCEPT >/dev/null 2>&1 || exit 1\n"
        "iptables -A INPUT -p udp --dport 53 -j LOG --log-prefix \"DNS's \" ; echo done\n"
        "iptables -A INPUT -s 192.0.2.0/24 \\! -p tcp -j ACCEPT\n"
    }, "test")  # fmt: skip
    assert found.equal, found.account
    assert "web: {ports: https, from: any}" in said(found)
    assert 'ssh: {ports: ssh, from: any, description: "for the -j DROP crowd; us"}' in said(found)
    assert "from: 192.0.2.0/24" in said(found)


def test_a_reverse_path_filter_is_told_and_makes_nothing_uncertain() -> None:
    filters = "*raw\n:PREROUTING ACCEPT\n-A PREROUTING -m rpfilter --validmark --invert -j DROP\nCOMMIT\n"
    rules = "*filter\n:INPUT DROP\n-A INPUT -p tcp -m tcp --dport 22 -j ACCEPT\nCOMMIT\n"
    chain = "chain a { type filter hook prerouting priority raw; fib saddr . mark . iif oif missing drop; }"
    other = "chain b { type filter hook input priority 0; policy drop; tcp dport 22 accept; }"
    nft = f"table inet t {{ {chain} {other} }}\n"
    for text in (filters + rules, nft):
        found = importing.from_texts({"x": text}, "test")
        assert found.equal
        assert "services:\n  ssh: {ports: ssh, from: any}" in said(found)
        assert [e.status for e in found.account.entries if "oif" in e.text or "rpf" in e.text] == ["approximated"]


def test_many_interfaces_are_named_by_the_few_that_they_are_not() -> None:
    lines = [f"-A INPUT -i {name} -p tcp --dport 22 -j ACCEPT" for name in ("eth0", "eth1", "eth2", "eth3")]
    found = brought(*lines, "-A INPUT -i wan0 -p tcp --dport 25 -j ACCEPT")
    assert "all-but-wan0: [eth0, eth1, eth2, eth3]" in said(found)
    found = brought(*lines, *(f"-A INPUT -i wan{n} -p tcp --dport 25 -j ACCEPT" for n in range(9)))
    assert "eth0-and-3-more: [eth0, eth1, eth2, eth3]" in said(found)


def test_one_file_may_hold_the_listings_of_both_families() -> None:
    body = "*filter\n:INPUT DROP [0:0]\n-A INPUT -s {} -p tcp -m tcp --dport 22 -j ACCEPT\nCOMMIT\n"
    text = "".join(
        f"# Generated by {tool}-save v1.8.9 (nf_tables)\n{body.format(where)}# Completed\n"
        for tool, where in (("iptables", "192.0.2.0/24"), ("ip6tables", "2001:db8::/48"))
    )
    found = importing.from_texts({"all": text}, "test")
    assert found.equal
    assert 'ssh: {ports: ssh, from: [192.0.2.0/24, "2001:db8::/48"]}' in said(found)
    assert [e.text for e in found.account.entries] == text.splitlines()


def test_a_second_listing_of_a_table_in_one_file_is_told() -> None:
    head = "*filter\n:INPUT DROP [0:0]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n"
    one, other = (f"{head}-A INPUT -p tcp --dport {port} -j ACCEPT\nCOMMIT\n" for port in (22, 80))
    nat = "*nat\n:PREROUTING ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\nCOMMIT\n"
    found = importing.from_texts({"rules": one + nat + other})
    assert "rules:11: `*filter` begins again: read as if its lines followed those of the first" in found.notes
    assert sum("begins again" in note for note in found.notes) == 1
    both = "".join(f"# Generated by {tool}-save v1.8.9\n{one}" for tool in ("iptables", "ip6tables"))
    assert not any("begins again" in note for note in importing.from_texts({"rules": both}).notes)
    added = "*filter\n:mine - [0:0]\n-A INPUT -j mine\n-A mine -p tcp --dport 80 -j ACCEPT\nCOMMIT\n"
    assert not any("begins again" in note for note in importing.from_texts({"rules": one + nat + added}).notes)


def test_limits_of_what_comes_in_and_of_what_passes_through_are_two_things() -> None:
    """A router that slows attempts at its own ssh and at that of those behind it differently."""
    often = "-m recent --rsource --hitcount 41 --update"
    found = brought(
        f"-A INPUT -i lan0 -p tcp -m tcp --dport 22 {often} --seconds 60 --name a -j DROP",
        "-A INPUT -i lan0 -j ACCEPT",
        f"-A FORWARD -p tcp -m tcp --dport 22 {often} --seconds 360 --name b -j DROP",
        "-A FORWARD -d 192.0.2.0/24 -p tcp -m multiport --dports 22,443 -j ACCEPT",
    )
    assert found.equal, found.problems
    assert "  ssh: {ports: ssh, from: any, in: lan0, rate: 40/minute}\n" in said(found)
    assert "{ports: ssh, from: any, to: 192.0.2.0/24, rate: 400/hour}\n" in said(found)


def test_an_empty_input_is_said_to_be_one() -> None:
    found = importing.from_texts({"rules.v4": ""}, "test")
    assert any(note.startswith("the input is empty: a host without rules, open to everybody") for note in found.notes)
    assert not any("empty" in note for note in brought("-A INPUT -p tcp --dport 22 -j ACCEPT").notes)


def test_what_no_new_connection_meets_makes_nothing_uncertain() -> None:
    """Fragments and broadcast frames are dropped first by many old scripts."""
    found = brought(
        "-A INPUT -f -j DROP",
        "-A INPUT -m pkttype --pkt-type broadcast -j DROP",
        "-A INPUT -p tcp -m mport --ports 80,443 -j ACCEPT",
        "-A INPUT ! -f -p tcp -m tcp --dport 22 -j ACCEPT",
    )
    assert found.equal, found.account
    assert "ssh: {ports: ssh, from: any}" in said(found)
    assert [entry.reason for entry in found.account.entries if "pkttype" in entry.text] == [
        "no connection to an address of this host goes there"
    ]


def test_what_is_not_tracked_makes_no_mark_of_every_line() -> None:
    """A router that tracks no queries to its name servers."""
    raw = "*raw\n:PREROUTING ACCEPT\n-A PREROUTING -d 192.0.2.53/32 -p udp -m udp --dport 53 -j NOTRACK\nCOMMIT\n"
    rules = (
        "-A INPUT -m state --state RELATED,ESTABLISHED,UNTRACKED -j ACCEPT",
        "-A INPUT -s 198.51.100.0/24 -p tcp -m state --state NEW -m tcp --dport 22 -j ACCEPT",
        "-A INPUT -s 198.51.100.7/32 -p tcp -m state --state NEW -m tcp --dport 22 -j ACCEPT",
    )
    body = "*filter\n:INPUT DROP\n" + "".join(f"{rule}\n" for rule in rules) + "COMMIT\n"
    found = importing.from_texts({"rules.v4": raw + body}, "test")
    assert found.equal
    assert [e.status for e in found.account.entries if "--dport 22" in e.text] == ["modelled", "modelled"]
