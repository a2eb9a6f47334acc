"""The ipfw back end: what it makes of real listings and of real packets."""

from __future__ import annotations

from pathlib import Path

import pytest

from portctl.backends import ipfw
from portctl.backends.ipfw.listed import read
from portctl.program import Field, Unknown
from tests import ipfw_replay

OBSERVED = Path(__file__).parent / "observed" / "ipfw"
CASES = sorted(path for path in OBSERVED.iterdir() if path.is_dir())
JUDGED = [case for case in CASES if (case / "packets.txt").exists()]


# ---- real listings ----


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_line_of_a_listing_is_accounted_for(case: Path) -> None:
    for path in sorted(case.glob("freebsd15.*.txt")):
        lines = [line for line in path.read_text().splitlines() if line.strip()]
        listing = read({path.name: path.read_text()})
        if path.name == "freebsd15.sets.txt":
            continue
        assert listing.foreign == [], path
        if "tables" in path.name:
            entries = sum(len(table.entries) for table in listing.tables.values())
            headers = sum(line.startswith("---") for line in lines)
            assert "info" in path.name or entries + headers == len(lines), path
        elif path.name == "freebsd15.nat.txt":
            assert len(listing.nat) == len(lines)
        else:
            assert len(listing.rules) + len(listing.disabled) + len(listing.dynamic) == len(lines), path


def test_what_is_not_understood_says_so() -> None:
    unknown = set()
    for case in CASES:
        tables = case / "freebsd15.tables.list.txt"
        contents = {"tables": tables.read_text()} if tables.exists() else {}
        loaded = ipfw.parse({"list": (case / "freebsd15.list.txt").read_text(), **contents})
        for line in (line for chain in loaded.chains for line in chain.lines):
            unknown |= {a.text for a in line.actions if isinstance(a, Unknown)}
            unknown |= {str(c.value) for c in line.conditions if c.field is Field.UNKNOWN}
    assert unknown == {
        "call 5000", "fwd tablearg", "nat global", "nat tablearg", "pipe 1", "return next-rulenum", "tee 8668",
        "198.51.100.0/24{1,3-5,200}", "extension header: hop options", "not antispoof",
        "prob 0.500000",
    }  # fmt: skip


def test_counters_and_sets_are_read() -> None:
    listing = read({"a": (OBSERVED / "90-list-formats" / "freebsd15.aS.list.txt").read_text()})
    web = next(rule for rule in listing.rules if rule.number == 300)
    assert (web.set, web.packets, web.bytes, web.comment) == (3, 3, 124, "web")


def test_every_way_of_listing_means_the_same() -> None:
    """Names for ports, sets, counters, times, and `from any to any` left out."""
    folder = OBSERVED / "90-list-formats"

    def lines(name: str) -> list[tuple[object, str]]:
        loaded = ipfw.parse({"a": (folder / f"freebsd15.{name}list.txt").read_text()})
        assert not loaded.foreign
        return [(line.conditions, line.comment) for chain in loaded.chains for line in chain.lines]

    wanted = lines("")
    assert len(wanted) > 6
    for name in ("N.", "S.", "T.", "a.", "aS.", "ac.", "c.", "d.", "i.", "s."):
        assert lines(name) == wanted, name


def test_rules_of_disabled_sets_judge_nothing() -> None:
    listing = read({"a": (OBSERVED / "58-sets" / "freebsd15.S.list.txt").read_text()})
    assert len(listing.disabled) == 2 and not any(rule.set == 5 for rule in listing.rules)


# ---- real packets ----

UNCERTAIN = {
    ("78-nat-masquerade", "in em1 tcp 10.0.0.20 4002 203.0.113.9 80 S"): "nat 1 ip4 from 10.0.0.0/8 to any out",
    ("87-antispoof", "in em0 tcp 10.0.0.77 4001 192.0.2.10 22 S"): "not antispoof",
    ("87-antispoof", "in em1 tcp 10.0.0.77 4002 192.0.2.10 22 S"): "not antispoof",
    ("87-antispoof", "in em0 tcp 203.0.113.9 4001 192.0.2.10 22 S"): "not antispoof",
}
"""Where the verdict hangs on routes, or on what nat puts in: portctl says so, and names the rule."""


@pytest.mark.parametrize("case", JUDGED, ids=lambda case: case.name)
def test_packets_are_read_as_the_kernel_judged_them(case: Path) -> None:
    wrong = dict(line.split(" => ", 1) for line in ipfw_replay.replay(case))
    for (name, asked), rule in UNCERTAIN.items():
        if name == case.name:
            said = wrong.pop(asked).rpartition(" BUT ")[2]
            assert said.startswith("depends on ") and rule in said
    assert not wrong


def test_lines_bear_the_names_of_their_entries() -> None:
    listing = (
        "00100 7 420 allow tcp from any to me 80 in // portctl:service:web; the site: ours; owner web team\n"
        "00200 0 0 deny tcp from any to me 25 in // portctl: theirs, not ours\n"
        "65535 0 0 deny ip from any to any\n"
    )
    chains = ipfw.parse({"list": listing}).chains
    named = {line.comment: line.packets for chain in chains for line in chain.lines if line.comment}
    assert named == {"web": 7, "portctl: theirs, not ours": 0}


def test_a_number_of_five_digits_in_a_table_is_no_rule() -> None:
    table = "--- table(ports), set(0) ---\n2905 20420\n36412 20420\n"
    listing = f"{table}00100 allow tcp from any to me lookup dst-port ports\n"
    found = read({"list": listing})
    assert found.tables["ports"].entries == [("2905", "20420"), ("36412", "20420")]
    assert [rule.number for rule in found.rules] == [100] and not found.foreign
