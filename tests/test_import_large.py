"""Rule sets that are much to describe, and what of them is left out, told line by line."""

from __future__ import annotations

import re

import pytest

from portctl import importing
from portctl.importing.effort import Effort
from portctl.importing.imported import bring
from tests.test_import import SETS, files_of


def test_what_would_be_more_than_anybody_reads_is_left_out_and_said_to_be() -> None:
    """Here more than five pieces: the widest entries stay, and the difference names the rest."""
    rules = [f"-A INPUT -s 10.{n}.0.0/{16 + n % 8} -p tcp --dport {1000 + 7 * n} -j ACCEPT" for n in range(40)]
    text = "\n".join(["*filter", ":INPUT DROP", ":FORWARD ACCEPT", ":OUTPUT ACCEPT", *rules, "COMMIT", ""])
    found = bring(importing.read({"x": text}), "imported", effort=Effort(work=0, pieces=5))
    assert any("only the widest" in note for note in found.notes)
    assert found.ruleset is not None
    assert 0 < len(re.findall(r"\d+/tcp", found.text)) < 40
    assert found.difference is not None
    assert found.difference.relation == "narrowed"
    for number, entry in enumerate(found.account.entries[4:44]):
        there = f"{1000 + 7 * number}/tcp" in found.text
        assert entry.status == ("modelled" if there else "refused"), entry
        assert there or "left out" in entry.reason


def test_lines_of_what_is_left_out_are_not_called_modelled_and_others_are() -> None:
    """Chains, jumps and chain policies of what is left out, too; what is denied stays as it is."""
    many = [f"-A lan -d 10.{n}.0.{n} -p tcp --dport {1000 + 7 * n} -j ACCEPT" for n in range(40)]
    text = "\n".join([
        "*filter", ":INPUT DROP", ":FORWARD ACCEPT", ":OUTPUT DROP", ":lan -",
        "-A INPUT -p tcp --dport 22 -j ACCEPT", "-A OUTPUT -p udp --dport 53 -j ACCEPT",
        "-A FORWARD -s 192.0.2.0/24 -j DROP", "-A FORWARD -i eth1 -j lan", "-A FORWARD -i eth2 -j lan",
        "-A FORWARD -i eth3 -p udp -j ACCEPT", "-A FORWARD -p tcp -j DROP", "-A lan -p udp --dport 69 -j DROP",
        *many, "-A lan -j DROP", "COMMIT", "",
    ])  # fmt: skip
    found = bring(importing.read({"x": text}), "imported", effort=Effort(work=0, pieces=5))
    status = {entry.text: entry.status for entry in found.account.entries}
    assert found.difference is not None
    assert found.difference.relation == "narrowed"
    in_it = [f"{1000 + 7 * n}/tcp" in found.text for n in range(40)]
    assert 0 < sum(in_it) < 40
    assert [status[line] for line in many] == ["modelled" if there else "refused" for there in in_it]
    assert {status[f"-A FORWARD -i eth{n} -j lan"] for n in (1, 2)} == {"approximated"}
    assert status[":FORWARD ACCEPT"] == "approximated"
    plain = ["INPUT -p tcp --dport 22 -j ACCEPT", "OUTPUT -p udp --dport 53 -j ACCEPT", "lan -p udp --dport 69 -j DROP"]
    plain += ["FORWARD -s 192.0.2.0/24 -j DROP", "FORWARD -p tcp -j DROP", "lan -j DROP"]
    assert {status[f"-A {line}"] for line in plain} == {"modelled"}
    assert status[":INPUT DROP"] == "modelled"


def test_a_limit_on_more_than_can_be_described_is_no_error() -> None:
    """What is not admitted is said; before, the whole rule set was refused."""
    rules = [f"-A INPUT -s 10.{n}.0.{n} -p tcp --dport {1000 + 7 * n} -j ACCEPT" for n in range(40)]
    seen = "-A INPUT -m recent --update --seconds 60 --hitcount 20 --name x --rsource -j DROP"
    text = "\n".join(["*filter", ":INPUT DROP", ":FORWARD DROP", ":OUTPUT ACCEPT", seen, *rules, "COMMIT", ""])
    found = bring(importing.read({"x": text}), "imported", effort=Effort(work=0, pieces=5))
    assert any("only the widest" in note for note in found.notes)
    assert not any("a limit that the language does not have" in note for note in found.notes)
    assert found.account.entries[4].status == "approximated"
    for number, entry in enumerate(found.account.entries[5:45]):
        assert entry.status == ("modelled" if f"{1000 + 7 * number}/tcp" in found.text else "refused"), entry
    assert bring(importing.read({"x": text}), "imported").equal


def test_what_is_too_much_to_be_worked_out_is_refused_before_it_takes_all_memory() -> None:
    rules = [f"-A FORWARD -s 10.{n}.0.0/16 -d 10.0.{n}.0/24 -p tcp --dport {n} -j ACCEPT" for n in range(1, 200)]
    text = "\n".join(["*filter", ":INPUT DROP", ":FORWARD DROP", ":OUTPUT ACCEPT", *rules, "COMMIT", ""])
    found = bring(importing.read({"x": text}), "imported", effort=Effort(cuts=300))
    assert [problem.code for problem in found.problems] == ["too-many"] and not found.text and not found.equal
    assert [entry.status for entry in found.account.entries] == [*["modelled"] * 4, *["refused"] * 199, "modelled"]
    assert bring(importing.read({"x": text}), "imported").equal


def test_hundreds_of_translations_are_as_many_forwards() -> None:
    """Each to an address and port of its own, some of them to one that another has, one of them admitted by nothing."""
    turns, through = [], ["-A FORWARD -d 10.9.0.0/16 -p udp -j DROP"]
    for n in range(300):
        kind, to = ("tcp", "udp")[n % 2], f"192.168.{n % 250 // 50}.{n % 50 + 2}"
        turns.append(f"-A PREROUTING -i eth0 -p {kind} --dport {2000 + n} -j DNAT --to-destination {to}:{80 + n % 3}")
        if n != 7:
            through.append(f"-A FORWARD -d {to}/32 -i eth0 -p {kind} --dport {80 + n % 3} -j ACCEPT")
    text = "\n".join([
        "*nat", ":PREROUTING ACCEPT", *turns, "COMMIT",
        "*filter", ":INPUT DROP", ":FORWARD DROP", ":OUTPUT ACCEPT", *through, "COMMIT", "",
    ])  # fmt: skip
    found = importing.from_texts({"x": text})
    assert found.equal
    assert found.ruleset is not None
    assert len(found.ruleset.translations) == 299
    assert "2007" not in found.text


@pytest.mark.parametrize("name", ["hand-written", *SETS])
def test_with_no_effort_left_a_policy_is_longer_but_no_less_equal(name: str) -> None:
    files = files_of(name) or {"rules.v4": CROWDED}
    plain = bring(importing.read(files), "imported", effort=Effort(work=0, read=0))
    usual = importing.from_texts(files)
    assert not plain.problems
    assert plain.equal or not usual.equal
    assert any("much to describe" in note for note in plain.notes) or plain.text == usual.text
    if name == "hand-written":
        assert len(plain.text) > len(usual.text)


CROWDED = """*filter
:INPUT DROP
:FORWARD DROP
:OUTPUT DROP
-A INPUT -s 10.1.0.0/16 -j ACCEPT
-A INPUT -i eth0 -p tcp -m multiport --dports 22,443 -j ACCEPT
-A INPUT ! -s 10.9.9.9 -p icmp -j ACCEPT
-A INPUT -i eth1 -p udp --dport 53 -j ACCEPT
-A FORWARD -i eth1 -o eth0 -j ACCEPT
-A FORWARD -i eth0 -o eth1 -d 10.1.2.3 -p gre -j ACCEPT
-A OUTPUT -o eth0 -j ACCEPT
COMMIT
"""


def test_thousands_of_rules_are_proved() -> None:
    lines = [":INPUT DROP", ":FORWARD DROP", ":OUTPUT ACCEPT", *(f":c{k} - [0:0]" for k in range(40))]
    lines += [f"-A {'INPUT' if k < 5 else f'c{k - 5}'} -p tcp -j c{k}" for k in range(40)]
    for number in range(2000):
        source = f"10.{number % 7}.{number % 251}.0/{24 + number % 3}"
        verdict = ("ACCEPT", "DROP", "RETURN", "ACCEPT")[number % 4]
        lines.append(f"-A c{number % 40} -s {source} -p tcp --dport {22 + number % 50} -j {verdict}")
    found = importing.from_texts({"x": "*filter\n" + "\n".join(lines) + "\nCOMMIT\n"}, "test")
    assert found.equal
    assert len(found.account.entries) == len(lines) + 2
