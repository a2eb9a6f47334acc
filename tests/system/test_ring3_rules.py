"""Ring 3: the real kernel lists what was rendered, a second load changes nothing, and everything can be undone."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from socket import getprotobyname

import pytest

from portctl.backends.base import Ability, bundle
from portctl.command import Command
from portctl.hosts.sandbox import Layout, Sandbox
from portctl.ruleset import Ruleset
from tests import golden_cases
from tests.system import rings
from tests.system.rings import FILTERS, Filter

RING = "ring 3 (rules in the real kernel)"
NEEDS = rings.NEEDS
CASES = golden_cases.cases()
EACH = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
UNDONE = ("everything", "office-ssh", "block-groups", "limits", "port-forward", "empty-policy")
FILTER = pytest.mark.parametrize("tried", FILTERS, ids=lambda tried: tried.name)


@pytest.fixture(scope="module")
def box() -> Iterator[Sandbox]:
    with Sandbox(Layout.of(*(golden_cases.compiled(case).ruleset for case in CASES))) as box:
        yield box


@EACH
@FILTER
def test_the_kernel_lists_what_was_rendered(case: Path, tried: Filter, box: Sandbox) -> None:
    ruleset = golden_cases.compiled(case).ruleset
    if rings.refused(tried, ruleset):
        return  # ring 1 shows that it is refused
    rings.load(box, tried, ruleset)
    try:
        compare(box, tried, ruleset)
    finally:
        rings.remove(box, tried)


def compare(box: Sandbox, tried: Filter, ruleset: Ruleset) -> None:
    rendered = tried.module.render(ruleset, Ability())
    loaded = tried.module.parse(rings.listings(box, tried))
    assert not loaded.foreign
    assert loaded.own() == tried.module.parse(rendered).own(), "what is read back is not what was rendered"
    printed = listed(box, tried)
    for name, text in rendered.items():
        assert printed[name] == shape(name, text, users(box)), f"the tool prints {name} otherwise"
    before = rings.everything(box)
    run(box, tried, "load.sh")
    assert rings.everything(box) == before, "a second load changes something"


@pytest.mark.parametrize("name", UNDONE)
@FILTER
def test_what_was_saved_comes_back_and_nothing_stays(name: str, tried: Filter, box: Sandbox) -> None:
    ruleset = golden_cases.compiled(golden_cases.FOLDER / name).ruleset
    nothing = rings.everything(box)
    rings.carry(box, bundle(tried.module, ruleset, Ability()), f"/run/bundle/{tried.name}")
    run(box, tried, "save.sh", "/run/nothing")
    rings.load(box, tried, ruleset)
    before = rings.everything(box)
    run(box, tried, "save.sh", "/run/saved")
    rings.remove(box, tried)
    assert rings.everything(box) == nothing, "removing leaves something"
    undo(box, tried, "/run/saved")
    assert rings.everything(box) == before, "what was saved is not what comes back"
    undo(box, tried, "/run/nothing")
    assert rings.everything(box) == nothing, "the undo of a first load leaves something"


def run(box: Sandbox, tried: Filter, script: str, *words: str) -> None:
    result = rings.script(box, tried, script, *words)
    assert result.ok, result.stderr


def undo(box: Sandbox, tried: Filter, folder: str) -> None:
    result = box.host.run(Command(("env", *tried.environment(), "sh", f"{folder}/load.sh")))
    assert result.ok, result.stderr


def listed(box: Sandbox, tried: Filter) -> dict[str, str]:
    """portctl's part of what the tools list, in the form of its files."""
    if tried.backend == "nftables":
        printed = rings.said(box, "env", "TZ=UTC", "nft", "-u", "list", "table", "inet", "portctl")
        return {"rules.nft": shape("rules.nft", rings.still(printed), users(box))}
    save = dict(tried.programs)
    asked: dict[str, tuple[str, ...]] = {
        "rules.v4": (f"{save['IPTABLES']}-save",),
        "rules.v6": (f"{save['IP6TABLES']}-save",),
    }
    asked["sets.ipset"] = ("ipset", "save")
    return {name: shape(name, rings.said(box, *argv), users(box)) for name, argv in asked.items()}


def users(box: Sandbox) -> dict[str, str]:
    """The numbers of the users of the sandbox: a policy may name some that this machine does not have."""
    entries = (line.split(":") for line in rings.said(box, "getent", "passwd").splitlines())
    return {entry[0]: entry[2] for entry in entries}


def named(line: str, known: dict[str, str]) -> str:
    """The line with users and protocols by number: listings write them as the host calls them."""
    line = re.sub(r"(?<=uid-owner )[a-z_]\S*", lambda found: known[found[0]], line)
    return re.sub(r"( -p |l4proto )([a-z]\S*)", number, line)


def number(found: re.Match[str]) -> str:
    return f"{found[1]}{getprotobyname(found[2])}"


def shape(name: str, text: str, known: dict[str, str]) -> str:
    """The text of `rules.nft` as it is; of the others portctl's lines, table by table in the order of their names.

    The chain of the connections that were open at the first load belongs to the host.
    """
    if name == "rules.nft":
        return "".join(named(line, known) + "\n" for line in text.splitlines())
    tables: dict[str, list[str]] = {}
    table = ""
    for line in text.splitlines():
        table = line if line.startswith("*") else table
        if "PORTCTL-OPEN" not in line and re.match(r":PORTCTL|-A PORTCTL|(create|add) portctl", line):
            line = re.sub(r" (initval \S+|bucketsize \d+)", "", line)
            tables.setdefault(table, []).append(named(line, known))
    return "\n".join("\n".join((name, *sorted(lines, key=order))) for name, lines in sorted(tables.items()))


def order(line: str) -> tuple[int, str]:
    """Chains in any order, members of sets in any order; the rules of a chain stay in theirs."""
    words = line.split()
    if words[0] == "-A":
        return 1, words[1]
    return (0, line) if words[0] != "add" else (2, line)
