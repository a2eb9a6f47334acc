"""A change of several tables is several transactions of the kernel. Whichever of them is the last before the loader is
killed, or fails: what is in force is the old rules or the new ones, and the next load ends in exactly what it loads."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from portctl import pipeline
from portctl.backends import iptables
from portctl.backends.base import Ability, bundle
from portctl.program import Program
from tests.system import worlds
from tests.system.iptables_loading import VARIANTS, Tools, services
from tests.system.test_translated_traffic import A, B
from tests.system.worlds import checked

RING = "the steps of the iptables scripts"
NEEDS = ("iptables-nft", "ip6tables-nft", "iptables-legacy", "ip6tables-legacy", "ipset", "dash")
TRANSACTIONS = 8
"""Of one family: the union of filter and nat, the change of mangle, filter and nat narrowed, all three tidied up."""
CHANGED_BY = 3
"""The transaction from which on the new rules are in force."""

LATE = """#!/bin/sh
# Loads one table after the other; after as many as the file `left` says it does not go on.
for word; do [ "$word" != --test ] || exec REAL-restore "$@"; done
cd /run/late
rm -f part.*
awk '/^\\*/ { n++ } { print > ("part." n) }'
for part in part.*; do
  left=$(cat left)
  if [ "$left" = 0 ]; then
    echo 99 >left
    END
  fi
  echo $((left - 1)) >left
  REAL-restore "$@" <$part || exit 1
done
"""
KILLED = "kill -9 $PPID; exit 9"
FAILS = 'echo "it fails here" >&2; exit 4'


@pytest.fixture(params=VARIANTS)
def tools(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Tools]:
    """A machine with the bundles `first` and `second`, which translate and masquerade differently, and `none`."""
    with worlds.machine("box") as room:
        made = Tools(room, request.param)
        for name, text in (("first", A), ("second", B)):
            (tmp_path / "policy.yaml").write_text(text)
            ruleset = pipeline.compile(tmp_path / "policy.yaml", datetime.now(UTC), None).ruleset
            made.put(bundle(iptables, ruleset, Ability()), f"/run/{name}")
        assert made.script("/run/first/save.sh", "/run/none").ok
        made.put(bundle(iptables, services(), Ability()), "/run/third")
        yield made


def late(tools: Tools, family: int, end: str) -> tuple[str, ...]:
    """What makes a load use a tool of that family that does not go on."""
    real = tools.tool(family, "")
    script = LATE.replace("REAL", real).replace("END", end)
    tools.put({"fake-restore": script, "fake-save": f'#!/bin/sh\nexec {real}-save "$@"\n'}, "/run/late")
    checked(tools.host, "chmod", "755", "/run/late/fake-restore", "/run/late/fake-save")
    return (f"IP{'' if family == 4 else '6'}TABLES=/run/late/fake",)


def loaded(tools: Tools, name: str) -> list[str]:
    """Loads a bundle, and all that is there then."""
    result = tools.script(f"/run/{name}/load.sh")
    assert result.ok, result.stderr
    return tools.state()


def interrupted(tools: Tools, env: tuple[str, ...], after: int) -> str:
    """Loads the second bundle, which ends after so many transactions of a family."""
    tools.host.put("/run/late/left", str(after).encode())
    result = tools.script("/run/second/load.sh", env=env)
    assert not result.ok
    assert checked(tools.host, "cat", "/run/late/left").strip() != str(after), "it was never asked to end"
    return result.stderr


def in_force(tools: Tools) -> Program:
    """What `save.sh` would bring back of IPv4, but chains that nothing leads to and that do nothing."""
    checked(tools.host, "rm", "-rf", "/run/saved")
    assert tools.script("/run/second/save.sh", "/run/saved").ok
    saved = iptables.parse({name: checked(tools.host, "cat", f"/run/saved/{name}") for name in iptables.PARTS})
    return Program(tuple(chain for chain in saved.own().chains if chain.family == 4 and chain.lines))


@pytest.mark.parametrize("before", ["first", "none"])
def test_a_loader_that_is_killed_leaves_the_old_rules_in_force_or_the_new_ones(tools: Tools, before: str) -> None:
    env = late(tools, 4, KILLED)
    wanted, new = loaded(tools, "second"), in_force(tools)
    third = loaded(tools, "third")
    for after in range(TRANSACTIONS):
        had, old = loaded(tools, before), in_force(tools)
        interrupted(tools, env, after)
        assert in_force(tools) == (old if after < CHANGED_BY else new), after
        assert loaded(tools, before) == had, after
        interrupted(tools, env, after)
        if after % 2:
            assert loaded(tools, "third") == third, after
        else:
            assert loaded(tools, "second") == wanted, after


@pytest.mark.parametrize("before", ["first", "none"])
def test_a_loader_that_fails_at_any_of_its_steps_is_undone(tools: Tools, before: str) -> None:
    had = loaded(tools, before)
    for family in (4, 6):
        env = late(tools, family, FAILS)
        for after in range(0, TRANSACTIONS, 1 if family == 4 else 3):
            assert "it fails here" in interrupted(tools, env, after)
            assert tools.state() == had, (family, after)


def test_nothing_of_the_change_is_left_at_its_end(tools: Tools) -> None:
    """The chain that changes over is gone at the end, and with it everything in small letters."""
    for name in ("first", "second", "first", "none"):
        text = "\n".join(loaded(tools, name))
        assert "0x40000000" not in text
        assert "PORTCTL-SWITCH" not in text
        assert ":PORTCTL-in" not in text and ":PORTCTL-dnat" not in text
