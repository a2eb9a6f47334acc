"""Ring 3 for nftables: rules in a real kernel. Loaded, listed, loaded again, saved, undone; contents kept."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

import pytest

from portctl.hosts.namespaces import Room
from portctl.net import Addresses, Ranges
from portctl.ruleset import Rate, Ruleset, Verdict
from tests import nftables_cases as cases
from tests.nftables_cases import block, one, starts, tcp
from tests.system import worlds
from tests.system.applying import in_order
from tests.system.nftables_loading import NFT, by_number, listed, load, put, sh, text, told
from tests.system.worlds import checked

RING = "ring 3 (rules in the kernel), nftables"


@pytest.fixture
def room() -> Iterator[Room]:
    with worlds.machine() as made:
        yield made


def test_the_kernel_lists_what_was_rendered(room: Room) -> None:
    rulesets = [cases.whole(), cases.whole(Verdict.REJECT), cases.many(5), *map(cases.random_ruleset, range(30))]
    for ruleset in rulesets:
        load(room, ruleset)
        assert by_number(told(room)) == text(ruleset), ruleset.name
        answers = {name: checked(room, *command.argv) for name, command in NFT.questions().items()}
        assert NFT.parse(answers).own() == NFT.parse({"rules.nft": text(ruleset)}).own(), ruleset.name
        checked(room, "dash", "/run/bundle/remove.sh")


AWKS = ("mawk", "busybox awk")


@pytest.mark.parametrize("awk", AWKS)
def test_any_rules_replace_any_others(room: Room, awk: str) -> None:
    room.put("/usr/local/sbin/awk", f'#!/bin/sh\nexec {awk} "$@"\n'.encode(), 0o755)
    for seed in (*range(100, 112), *range(110, 100, -2)):
        ruleset = cases.random_ruleset(seed)
        load(room, ruleset)
        loaded = NFT.parse({"listing": listed(room)})
        assert loaded.own() == NFT.parse({"rules.nft": text(ruleset)}).own(), ruleset.name
        assert not {name for _, name in objects(room)} - {name for _, name in re.findall(OBJECT, text(ruleset))}


OBJECT = re.compile(r"^\t(set|map|chain) (\S+) \{$", re.M)


def objects(room: Room) -> list[tuple[str, str]]:
    return OBJECT.findall(listed(room))


def test_a_check_changes_nothing(room: Room) -> None:
    put(room, cases.whole())
    assert sh(room, "/run/bundle/load.sh", "check").ok
    assert checked(room, "nft", "list", "ruleset") == ""
    load(room, cases.whole())
    before = listed(room)
    put(room, cases.many(5))
    assert sh(room, "/run/bundle/load.sh", "check").ok
    assert listed(room) == before


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (("accept", "acept"), "syntax error"),
        (('skuid "nobody"', 'skuid "no-such-user"'), "User does not exist"),
        (("jump service-ssh", "jump service-gone"), "No such file"),
        (("table inet portctl {", "table inet other {"), "does not begin with the table of portctl"),
        (("\n\tchain input {", "\n\tno such thing\n\tchain input {"), "syntax error"),
        (("\n\tchain output {", "\n}\ntable inet more {\n\tchain output {"), "syntax error"),
        (("\n\t}\n}\n", "\n\t}\n"), "syntax error"),
        (("\n\t}\n}\n", "\n"), "syntax error"),
    ],
)
def test_a_load_that_fails_changes_nothing(room: Room, spoil: tuple[str, str], words: str) -> None:
    load(room, cases.many(3))
    before = checked(room, "nft", "list", "ruleset")
    put(room, cases.whole())
    room.put("/run/bundle/rules.nft", text(cases.whole()).replace(*spoil).encode())
    for arguments in ([], ["check"]):
        result = sh(room, "/run/bundle/load.sh", *arguments)
        assert result.status == 1 and words in result.stderr
        assert checked(room, "nft", "list", "ruleset") == before


@pytest.mark.parametrize("spoil", [("5 : jump service-s5", "5 : jump service-gone"), ("accept", "accept drop")])
def test_a_load_that_fails_leaves_chains_and_their_comments(room: Room, spoil: tuple[str, str]) -> None:
    def described(words: str) -> Ruleset:
        return one(*(starts(f"s{port}", tcp(port), description=words) for port in range(1, 6)))

    load(room, described("old words"))
    before = checked(room, "nft", "list", "ruleset")
    put(room, described("new words"))
    room.put("/run/bundle/rules.nft", text(described("new words")).replace(*spoil).encode())
    assert sh(room, "/run/bundle/load.sh").status == 1
    assert checked(room, "nft", "list", "ruleset") == before
    load(room, described("new words"))
    assert in_order(listed(room)) == in_order(text(described("new words")))


def test_a_chain_with_another_comment_to_which_a_map_led_that_goes(room: Room) -> None:
    limited = [starts(f"s{p}", tcp(p), description="old", rate=Rate(9, "minute")) for p in range(1, 6)]
    load(room, one(*limited, *(starts(f"p{p}", tcp(p)) for p in range(11, 16))))
    plain = one(*(starts(f"{'s' if p < 6 else 'p'}{p}", tcp(p), description="new") for p in (1, 2, 3, 11, 12, 13)))
    put(room, plain)
    assert sh(room, "/run/bundle/load.sh", "check").ok
    load(room, plain)
    assert in_order(listed(room)) == in_order(text(plain))


CONTENTS = """\
add element inet portctl live-bans-4 { 192.0.2.66 timeout 1h, 203.0.113.0/24 }
add element inet portctl live-bans-6 { 2001:db8:66::/48 timeout 2h }
add element inet portctl open-4 { tcp . 192.0.2.10 . 22 . 192.0.2.1 . 50000 }
add element inet portctl LIMIT-4 { 192.0.2.5 limit rate 10/minute burst 10 packets }
"""


def members(room: Room) -> list[str]:
    found = re.findall(r"elements = \{([^}]*)\}", listed(room))
    runtime = [f for f in found if "jump" not in f and ("expires" in f or "50000" in f)]
    return sorted(re.sub(r" expires \w+", "", " ".join(f.split())) for f in runtime)


def test_run_time_contents_outlive_loads_and_undo(room: Room) -> None:
    ruleset = cases.whole()
    load(room, ruleset)
    limit = next(
        name[:-2] for kind, name in objects(room) if name.startswith("limit-service-slow") and name.endswith("-4")
    )
    checked(room, "nft", "-f", "-", stdin=CONTENTS.replace("LIMIT", limit).encode())
    before = members(room)
    assert len(before) == 4
    checked(room, "dash", "/run/bundle/save.sh", "/run/saved")
    load(room, ruleset)
    assert members(room) == before
    changed = replace(ruleset, inbound=(*ruleset.inbound[:-1], starts("new", tcp(7)), ruleset.inbound[-1]))
    load(room, changed)
    assert members(room) == before
    checked(room, "dash", "/run/saved/load.sh")
    assert members(room) == before
    harder = tuple(replace(r, rate=Rate(9, "minute")) if r.rate else r for r in ruleset.inbound)
    load(room, replace(ruleset, inbound=harder))
    assert members(room) == [m for m in before if "limit" not in m], "another limit counts anew"


FOREIGN = """\
table ip filter {
	chain INPUT {
		type filter hook input priority filter; policy accept;
		tcp dport 9 counter packets 7 bytes 9 drop
	}
}
table inet f2b {
	set s {
		type ipv4_addr
		flags timeout
		elements = { 192.0.2.3 }
	}
	chain c {
		type filter hook input priority -1
		ip saddr @s reject
	}
}
table ip portctl {
	chain c {
		accept
	}
}
"""


def test_save_brings_back_what_was_there_byte_for_byte(room: Room) -> None:
    checked(room, "nft", "-f", "-", stdin=FOREIGN.encode())
    foreign = checked(room, "nft", "-a", "list", "ruleset")
    first, second = cases.whole(), cases.many(5)
    load(room, first)
    before = checked(room, "nft", "list", "ruleset")
    checked(room, "dash", "/run/bundle/save.sh", "/run/saved one")
    load(room, second)
    assert checked(room, "nft", "list", "ruleset") != before
    checked(room, "dash", "/run/saved one/load.sh")
    assert in_order(checked(room, "nft", "list", "ruleset")) == in_order(before)
    load(room, replace(first, inbound=(*first.inbound[:-1], starts("new", tcp(7)), first.inbound[-1])))
    assert in_order(checked(room, "nft", "list", "ruleset")) != in_order(before)
    again = checked(room, "nft", "list", "ruleset")
    checked(room, "dash", "/run/bundle/save.sh", "/run/saved two")
    load(room, first)
    checked(room, "dash", "/run/saved two/load.sh")
    assert checked(room, "nft", "list", "ruleset") == again
    checked(room, "dash", "/run/saved one/load.sh")
    checked(room, "dash", "/run/saved one/remove.sh")
    assert checked(room, "nft", "-a", "list", "ruleset") == foreign
    checked(room, "dash", "/run/saved one/remove.sh")
    checked(room, "dash", "/run/bundle/save.sh", "/run/nothing")
    load(room, first)
    checked(room, "dash", "/run/nothing/load.sh")
    checked(room, "dash", "/run/nothing/load.sh")
    assert checked(room, "nft", "-a", "list", "ruleset") == foreign


def test_saved_counters_and_moments_are_the_same_in_every_zone(room: Room) -> None:
    load(room, one(starts("x", tcp(22), until=cases.END)))
    before = listed(room)
    checked(room, "env", "TZ=Asia/Tokyo", "dash", "/run/bundle/save.sh", "/run/saved")
    checked(room, "env", "TZ=America/New_York", "dash", "/run/saved/load.sh")
    assert listed(room) == before
    assert 'meta time < "2031-01-31 18:30:00"' in before


NASTY = ('"; accept; comment "', "a\\", "\n}\nadd rule inet portctl input accept", "ÄÖ€" * 60, "$x {{ 7 }} `id`", "'")


@pytest.mark.parametrize("words", NASTY)
def test_what_people_write_loads_and_breaks_nothing(room: Room, words: str) -> None:
    ruleset = one(starts("x", tcp(22), description=words, owner=words, ticket=words))
    load(room, ruleset)
    assert told(room) == text(ruleset)


def test_a_large_list_loads_in_parts_and_is_listed_again(room: Room) -> None:
    feed = Addresses(Ranges.of((n, n) for n in range(0x0B000000, 0x0B000000 + 8 * 45_000, 8)))
    ruleset = one(block("block-feed", source=feed), block("block-feed", destination=feed), last=Verdict.REJECT)
    load(room, ruleset)
    assert told(room) == text(ruleset)
    load(room, ruleset)
    assert told(room) == text(ruleset)
