"""pf: what the captured findings demand of a rendered rule set, what each dialect lacks, that nothing can be lost."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from copy import copy
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from portctl import backends
from portctl.backends.base import Ability, bundle
from portctl.backends.pf.dialects import DIALECTS, freebsd
from portctl.backends.pf.flow import Reading, chains
from portctl.backends.pf.gaps import KEYWORDS
from portctl.backends.pf.grammar import Spec
from portctl.backends.pf.parse import Found, parse, read
from portctl.backends.pf.words import label, shortened, tag
from portctl.evaluation import evaluate
from portctl.expectations.corners import corner_packets
from portctl.net import Addresses
from portctl.program import Program
from portctl.ruleset import Direction, Kind, Packet, Rule, Ruleset, Verdict
from tests import generate, golden_cases

ROUTER = golden_cases.FOLDER / "bsd-router"
each_dialect = pytest.mark.parametrize("name", DIALECTS)


@cache
def texts(name: str) -> dict[str, str]:
    """All rendered files of the golden cases of one dialect, by path."""
    found = golden_cases.FOLDER.glob(f"*/{name}/*")
    return {str(path): path.read_text() for path in found if path.name != "gaps.txt"}


def confs(name: str) -> Iterator[str]:
    return (text for path, text in texts(name).items() if path.endswith("pf.conf"))


def rules(name: str) -> list[str]:
    return [line for text in confs(name) for line in text.splitlines() if line and not line.startswith("#")]


@cache
def router() -> Ruleset:
    return golden_cases.compiled(ROUTER).ruleset


# --- what each dialect lacks -----------------------------------------------------------------------------------------

TRANSLATING = re.compile(r"\b(rdr-to|nat-to)\b|^match ")
OLD = re.compile(r"^(rdr|nat|binat|no rdr|no nat|scrub) ")
REASSEMBLE = re.compile(r"^set reassemble ")
GROUPS = re.compile(r"\(self|\bon (\{[^}]*)?\btun\b")
SCTP = re.compile(r"proto sctp .*\bport ")
ROWS = [
    ("rules_translate", True, OLD, "rdr, nat and scrub rules"),
    ("rules_translate", False, TRANSLATING, "rdr-to, nat-to and match"),
    ("reassemble", False, REASSEMBLE, "set reassemble"),
    ("sctp_ports", False, SCTP, "ports of sctp"),
    ("groups", False, GROUPS, "groups of interfaces"),
]
NEWER = re.compile(
    r"\b(received-on|af-to|ridentifier|once|max-pkt-rate|divert-to|binat-to|set prio|route-to|state-policy)\b"
)


@each_dialect
@pytest.mark.parametrize(("field", "has", "pattern", "what"), ROWS, ids=lambda value: str(value)[:20])
def test_no_dialect_is_given_what_it_lacks(
    name: str, field: str, has: bool, pattern: re.Pattern[str], what: str
) -> None:
    if getattr(DIALECTS[name], field) is has:
        wrong = [line for line in rules(name) if pattern.search(line)]
        assert not wrong, f"{name} has no {what}"
    else:
        everywhere = [line for each in DIALECTS for line in rules(each)]
        assert any(pattern.search(line) for line in everywhere), f"no case shows {what}"


@each_dialect
def test_only_words_that_every_pf_knows_are_used_beside(name: str) -> None:
    assert not [line for line in rules(name) if NEWER.search(re.sub(r'"[^"]*"', "", line))]


@each_dialect
def test_whoever_admits_ah_is_told_what_pf_makes_of_it(name: str) -> None:
    """No rule for AH matches what pf looks through: IPv6 everywhere, IPv4 on OpenBSD and FreeBSD 15."""
    for source, told in (("2001:db8::/32", True), ("198.51.100.2", DIALECTS[name].through_ah)):
        wanted = generate.ruleset(
            {"portctl": 1, "name": "ah", "services": {"ipsec": {"ports": ["esp", "ah"], "from": source}}}
        )
        assert wanted is not None
        found = backends.load(name).gaps(wanted, Ability())
        assert [(p.severity, "looks through AH" in p.message) for p in found] == [("note", True)] * told


def test_a_group_of_other_interfaces_is_no_family() -> None:
    """OpenBSD puts iwm0 and all its like into the group `wlan`, FreeBSD wlan0 alone; what comes by way of OpenBSD's
    carp0 comes on the interface below for pf."""
    for device, said in (("wlan*", "begins with 'wlan'"), ("carp0", "on the one below"), ("carp*", "on the one below")):
        services = {"ssh": {"ports": "ssh", "from": "any", "in": "air"}}
        wanted = generate.ruleset({"portctl": 1, "name": "air", "interfaces": {"air": device}, "services": services})
        assert wanted is not None
        errors = {
            name: [p.message for p in backends.load(name).gaps(wanted, Ability()) if p.severity == "error"]
            for name in ("pf-openbsd", "pf-freebsd14", "pf-freebsd15")
        }
        assert [len(errors[name]) for name in errors] == [1, 0, 0]
        assert said in errors["pf-openbsd"][0]


def test_a_freebsd_version_chooses_its_language() -> None:
    assert [freebsd(v).name[-2:] for v in ("12.4", "13.1-RELEASE-p3", "14.2", "15.0", "16.0-CURRENT", "")] == [
        *("13", "13", "14", "15", "15", "15")
    ]
    pf = backends.load("pf-freebsd")
    assert pf.render(router(), Ability(version="14.2")) == backends.load("pf-freebsd14").render(router(), Ability())


# --- findings --------------------------------------------------------------------------------------------------------


@each_dialect
def test_findings_hold_in_every_rule(name: str) -> None:
    """The numbers are those of the findings that the captured cases show."""
    for line in rules(name):
        bare = re.sub(r'"[^"]*"', "", line)
        assert not re.search(r"anchor .* quick", bare), "5: it ends the evaluation"
        assert not re.search(r"(->|rdr-to) ::1", bare), "9: IPv6 input refuses it"
        assert not re.search(r"\{[^}]*![^}]*\}", bare), "13: a negation in a list passes everybody"
        assert not re.search(r"\bself\b(?![:)])", bare), "14: only what is in parentheses follows later changes"
        assert not line.endswith("\\"), "17: it would swallow the next line"
        assert "\r" not in line, "20"
        assert " - " not in bare, "21: no ranges of addresses"
        for said in re.findall(r'label "([^"]*)"', line):
            assert len(said.encode()) <= 63 and re.fullmatch(r"[A-Za-z0-9_:.-]+", said), "18"
        for table in re.findall(r"<([^>]*)>", bare):
            assert len(table) <= 31 and table.startswith(("portctl_", "portctl-")), "16: no keywords, 31 bytes"


@each_dialect
def test_what_decides_is_quick_and_the_last_line_of_each_way_takes_all(name: str) -> None:
    """12: S/SAFR where a connection starts. 24: the order stays."""
    for text in confs(name):
        assert "set skip on lo0" in text and "set ruleset-optimization none" in text
        lines = [line for line in text.splitlines() if line.startswith(("pass", "block"))]
        for way in ("in", "out"):
            mine = [line for line in lines if f" {way} " in line.split("from")[0] + " "]
            assert re.search(r" quick from any to any ", mine[-1]) and "tagged" not in mine[-1]
        for line in lines:
            assert " quick " in line or " tag portctl_" in line, line
            if line.startswith("pass") and "no state" not in line and "flags any" not in line and "proto tcp" in line:
                assert "flags S/SAFR keep state" in line
            if line.startswith("pass") and "icmp6-type { 130 131 132 143 }" in line:
                assert "no state allow-opts" in line, "1: other systems' pf need it"


TAGS_AND_POOLS = re.compile(r" tag \S+| (?:rdr|nat)-to .*| \(source-track.*?\)")


@each_dialect
def test_no_rule_differs_from_an_earlier_one_in_what_freebsd_does_not_compare(name: str) -> None:
    """Its kernel drops such a rule: neither tag, pool nor limits are part of pf_hash_rule. Of two that mark packets for
    a limit the first decides, so that its twin says nothing."""
    for text in confs(name):
        seen: set[str] = set()
        for line in text.splitlines():
            first = line == "match in from any to any tag portctl_new"
            if first or (line.startswith(("pass", "match", "block")) and 'label "' in line):
                bare = TAGS_AND_POOLS.sub("", line)
                assert bare not in seen, line
                seen.add(bare)
            else:
                assert not line.startswith(("match", "block")) or " tagged " in line, line


@each_dialect
def test_sections_stand_in_the_order_that_pf_wants(name: str) -> None:
    """33: options, tables, scrub, translations, rules."""
    order = ["set", "table", "scrub", "rdr", "nat", "match", "pass"]
    for text in confs(name):
        first = [line.split()[0] for line in text.splitlines() if line and not line.startswith("#")]
        places = [("rdr" if w in ("nat", "no") else "pass" if w in ("block", "match") else w) for w in first]
        assert [order.index(word) for word in places] == sorted(order.index(word) for word in places)


def test_table_files_hold_networks_alone() -> None:
    many = Addresses.of(*[f"10.{i}.{j}.0/25" for i in range(40) for j in range(256)])
    large = replace(
        router(), inbound=tuple(replace(r, source=many) if r.name == "ssh" else r for r in router().inbound)
    )
    files = backends.load("pf-openbsd").render(large, Ability())
    name = next(file for file in files if file.endswith(".table"))
    assert all(re.fullmatch(r"[0-9./]+", line) for line in files[name].splitlines())
    assert f'file "{name}"' in files["pf.conf"]
    program = parse(files)
    assert evaluate(program, packet_for(large, "ssh")).verdict is Verdict.ACCEPT


def packet_for(ruleset: Ruleset, name: str) -> Packet:
    return next(
        p for p in corner_packets(ruleset, 2000) if any(r.name == name and r.matches(p) for r in ruleset.inbound)
    )


# --- names -----------------------------------------------------------------------------------------------------------

HOSTILE = ['a" pass quick all #', "back\\", "new\nline", "$if $nr", "#", "}", "<x>", "ü", "x" * 100, "a;b", "`id`"]


@pytest.mark.parametrize("name", HOSTILE)
def test_names_cannot_break_out(name: str) -> None:
    for text in (label("service", name), tag("from", name), shortened(name)):
        inside = re.sub(r'^ label "([^"]*)"$', r"\1", text)
        assert re.fullmatch(r"[A-Za-z0-9_:.-]+", inside) and len(inside) <= 63
    assert shortened(name) != shortened(name + "x" * 40)
    services = tuple(replace(r, name=r.name + name) if r.kind is Kind.SERVICE else r for r in router().inbound)
    hostile = replace(router(), name=name, inbound=services)
    plain = backends.load("pf-openbsd").parse(backends.load("pf-openbsd").render(router(), Ability()))
    found = backends.load("pf-openbsd").parse(backends.load("pf-openbsd").render(hostile, Ability()))
    assert not found.foreign
    assert [len(chain.lines) for chain in found.chains] == [len(chain.lines) for chain in plain.chains]


def test_an_interface_may_not_be_called_like_a_word_of_the_language() -> None:
    for word in ("any", "all", "inet", 'em0" all #', "em0 all", "(em0)", "wan*", "sixteen-letters0"):
        services = tuple(replace(r, interfaces=(word,)) if r.name == "ssh" else r for r in router().inbound)
        found = backends.load("pf-openbsd").gaps(replace(router(), inbound=services), Ability())
        assert any(p.severity == "error" and p.span is not None for p in found), word
    assert {"block", "pass", "any", "quick"} <= KEYWORDS


# --- mutation --------------------------------------------------------------------------------------------------------

CONDITIONS = (
    *("devices", "protocols", "sources", "destinations", "source_ports", "ports", "types", "users", "tagged"),
    *("options", "quick", "tag", "family", "flags", "direction"),
)
EMPTY: dict[type, object] = {bool: False, str: "", int: None, list: []}


def mutants(found: Found) -> Iterator[tuple[str, Found]]:
    """The rule set without one condition of one rule, for each of them."""
    for part in ("rules", "translations"):
        specs: list[Spec] = getattr(found, part)
        for index, spec in enumerate(specs):
            for name in CONDITIONS:
                value = getattr(spec, name)
                if not value or value == [(False, "any")]:
                    continue
                changed = copy(spec)
                setattr(changed, name, EMPTY[type(value)])
                if name == "protocols":
                    changed.ports, changed.source_ports, changed.types = [], [], []
                other = copy(found)
                setattr(other, part, [*specs[:index], changed, *specs[index + 1 :]])
                yield f"{name} of {spec.text}", other


def program(found: Found) -> Program:
    return Program(tuple(chains(Reading(found.world, tuple(found.skipped)), found.rules, found.translations)))


@pytest.mark.parametrize("name", ["pf-freebsd13", "pf-openbsd"])
def test_a_condition_that_is_taken_away_is_drift(name: str) -> None:
    found = read(backends.load(name).render(router(), Ability()))
    whole = program(found)
    changed = [what for what, mutant in mutants(found) if program(mutant) != whole]
    assert len(changed) > 300
    assert len(changed) == len(list(mutants(found)))


def test_a_condition_that_is_taken_away_changes_a_verdict() -> None:
    """Of a service, a block and an egress entry; what passes through is asked twice, so that one line may hide."""
    found = read(backends.load("pf-freebsd13").render(router(), Ability()))
    whole = program(found)
    judged = re.compile(
        r'label "portctl:(?:service|egress):([^"]+)"| in .* label "portctl:block:([^"]+)"|_service_(dns|web) '
    )
    unseen, total = [], 0
    sent: dict[str, tuple[tuple[Packet, Verdict], ...]] = {}
    for what, mutant in mutants(found):
        match = judged.search(what)
        # The family is that of the addresses too, and pf itself drops what S/SA lets pass and S/SAFR does not.
        if match is None or "! tagged" in what or what.startswith(("family of", "flags of", "direction of")):
            continue
        total += 1
        name = next(filter(None, match.groups()))
        sent[name] = sent.get(name) or around(name, whole)
        if not _seen(program(mutant), sent[name]):
            unseen.append(what)
    assert total > 80
    # `block` has the rest of port 25; multicast is always for this host; what bears `portctl_here` does not leave.
    limits = [what for what in unseen if what.startswith("tagged of pass in ") and " tag portctl_" in what]
    unseen = [what for what in unseen if what not in limits]
    hidden = ("destinations of pass out quick inet proto tcp from any to 192.0.2.25", "<portctl_mdns_to>")
    assert [what for what in unseen if not any(each in what for each in hidden)] == []


def around(name: str, whole: Program) -> tuple[tuple[Packet, Verdict], ...]:
    """Packets at the corners of the entries of that name, as they arrive, leave and pass through; their verdicts."""

    def kept(rules: tuple[Rule, ...]) -> tuple[Rule, ...]:
        return (*(rule for rule in rules if rule.name == name), rules[-1])

    all_of = router()
    few = replace(all_of, translations=(), inbound=kept(all_of.inbound), outbound=kept(all_of.outbound))
    sent = corner_packets(replace(few, forwarded=all_of.forwarded[-1:]), 700)
    sent += [replace(p, direction=Direction.FORWARDED, local=False) for p in sent if p.direction is Direction.INBOUND]
    return tuple((packet, evaluate(whole, packet).verdict) for packet in sent)


def _seen(mutant: Program, sent: tuple[tuple[Packet, Verdict], ...]) -> bool:
    return any(evaluate(mutant, packet).verdict is not verdict for packet, verdict in sent)


@each_dialect
def test_a_bundle_is_whole(name: str) -> None:
    files = bundle(backends.load(name), router(), Ability())
    assert set(files) >= {"pf.conf", "load.sh", "save.sh", "remove.sh"}
    assert files["pf.conf"].startswith("# bsd-router: written by portctl.")


PFCTL = """#!/bin/sh
echo "$*" >>"$0.log"
case "$*" in
"-nf -" | "-f -") cat >"$0$1" ;;
"-s info") echo "Status: Enabled" ;;
"-s nat") printf '%s\\n' 'nat-anchor "cni-rdr/*" all' 'rdr-anchor "cni-rdr/*" all' ;;
"-s rules") printf '%s\\n' 'anchor "bans/*" in all' 'anchor "other" all' 'anchor "_1" all {' 'block drop all' ;;
"-s states")
    echo 'all tcp 192.0.2.10:22 <- 203.0.113.66:4001       ESTABLISHED:ESTABLISHED'
    echo 'all tcp 192.0.2.10:22 <- 203.0.113.9:4001       ESTABLISHED:ESTABLISHED'
    echo 'all udp 192.0.2.10:5001 -> 203.0.113.66:53       SINGLE:NO_TRAFFIC'
    echo 'all tcp 192.0.2.10:5001 -> 203.0.113.7:25       ESTABLISHED:ESTABLISHED'
    echo 'all tcp 192.0.2.10:5001 -> 192.0.2.25:25       ESTABLISHED:ESTABLISHED'
    echo 'all tcp 192.0.2.10:5001 -> 203.0.113.7:80       ESTABLISHED:ESTABLISHED'
    echo 'all tcp 10.1.0.80:80 (192.0.2.10:8080) <- 203.0.113.66:4002       ESTABLISHED:ESTABLISHED'
    echo 'all tcp 192.0.2.10:61000 (10.1.0.9:4444) -> 203.0.113.7:25       ESTABLISHED:ESTABLISHED'
    echo 'all tcp 192.0.2.10:25 <- 203.0.113.8:4003       ESTABLISHED:ESTABLISHED'
    echo 'all tcp 203.0.113.7:25 <- 10.1.0.9:4444       ESTABLISHED:ESTABLISHED'
    ;;
*portctl_block\\ -T*) echo "   203.0.113.66" ;;
*to-any*-T*) printf '   %s\\n' 203.0.113.7 203.0.113.66 203.0.113.9 192.0.2.10 ;;
"-k key"*53) exit 1 ;;
esac
"""


@pytest.mark.parametrize("check", [True, False])
def test_loading_keeps_the_anchors_of_others_and_cuts_who_is_blocked(tmp_path: Path, check: bool) -> None:
    pfctl = tmp_path / "bin" / "pfctl"
    pfctl.parent.mkdir()
    pfctl.write_text(PFCTL.replace("\\\\", "\\"))
    pfctl.chmod(0o755)
    ifconfig = pfctl.parent / "ifconfig"
    ifconfig.write_text("#!/bin/sh\nprintf '\\tinet %s netmask 0xffffff00\\n' 127.0.0.1 192.0.2.10\n")
    ifconfig.chmod(0o755)
    for name, text in bundle(backends.load("pf-freebsd13"), router(), Ability()).items():
        found = re.sub("^PATH=.*", f"PATH={pfctl.parent}:/usr/bin:/bin", text, flags=re.M)
        (tmp_path / name).write_text(found.replace("-c /dev/pf", "-e /dev/null"))
    subprocess.run(["sh", tmp_path / "load.sh", *(["check"] if check else [])], check=True)
    said = Path(f"{pfctl}.log").read_text().splitlines()
    assert not any(line.startswith(("-d", "-F")) for line in said)
    text = Path(f"{pfctl}-nf").read_text()
    assert [line for line in text.splitlines() if "anchor" in line and not line.startswith("#")] == [
        'nat-anchor "cni-rdr/*" all',
        'rdr-anchor "cni-rdr/*" all',
        'anchor "bans/*" in all',
        'anchor "other" in all',
        'anchor "other" out all',
    ]
    killed = [line for line in said if line.startswith("-k")]
    if check:
        assert not Path(f"{pfctl}-f").exists() and not killed
        return
    assert Path(f"{pfctl}-f").read_text() == text
    assert killed == [
        "-k key -k tcp 192.0.2.10:22 <- 203.0.113.66:4001",
        "-k key -k udp 192.0.2.10:5001 -> 203.0.113.66:53",
        "-k 192.0.2.10 -k 203.0.113.66",
        "-k key -k tcp 192.0.2.10:5001 -> 203.0.113.7:25",
        "-k key -k tcp 192.0.2.10:8080 <- 203.0.113.66:4002",
        "-k key -k tcp 192.0.2.10:61000 -> 203.0.113.7:25",
        "-k key -k tcp 203.0.113.7:25 <- 10.1.0.9:4444",
    ], "what comes in to port 25 of this host itself is not what `to: any` blocks"


def test_a_blocked_protocol_without_a_name_of_ours_is_cut(tmp_path: Path) -> None:
    """States bear the system's names of protocols, rules their numbers."""
    wanted = generate.ruleset({"portctl": 1, "name": "ospf", "block": [{"from": "any", "ports": "ospf"}]})
    assert wanted is not None
    pfctl = tmp_path / "bin" / "pfctl"
    pfctl.parent.mkdir()
    pfctl.write_text(PFCTL.replace("all udp 192.0.2.10:5001 -> 203.0.113.66:53", "all ospf 224.0.0.5 <- 192.0.2.7"))
    pfctl.chmod(0o755)
    for name, text in bundle(backends.load("pf-openbsd"), wanted, Ability()).items():
        found = re.sub("^PATH=.*", f"PATH={pfctl.parent}:/usr/bin:/bin", text, flags=re.M)
        (tmp_path / name).write_text(found.replace("-c /dev/pf", "-e /dev/null"))
    subprocess.run(["sh", tmp_path / "load.sh"], check=True)
    killed = [line for line in Path(f"{pfctl}.log").read_text().splitlines() if line.startswith("-k")]
    assert killed == ["-k key -k ospf 224.0.0.5 <- 192.0.2.7"]


@each_dialect
def test_a_live_group_with_a_long_name_is_known_by_it(name: str) -> None:
    groups = ("a-live-group-with-a-long-name-1", "a-live-group-with-a-long-name-2", "bans")
    plain = {
        "portctl": 1,
        "name": "live",
        "addresses": {group: {"live": True} for group in groups},
        "services": {"ssh": {"ports": "ssh", "from": "any"}},
        "block": [*groups],
    }
    wanted = generate.ruleset(plain)
    assert wanted is not None
    rendered = backends.load(name).render(wanted, Ability())["pf.conf"]
    tables = re.findall(r"^table <(portctl-live-\S+)> persist$", rendered, re.M)
    assert len({*tables}) == 3 and max(map(len, tables)) <= 31
    listings = {
        "rules": rendered,
        "tables": "".join(f"table {t}\n   192.0.2.{i}\n" for i, t in enumerate(sorted(tables))),
    }
    assert {group for group, _ in backends.load(name).parse(listings).live} == {*groups}
