"""Ring 2: the packet filter's own parser checks every bundle, and checking changes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from portctl.backends.base import Ability, bundle
from portctl.hosts.sandbox import Layout, Sandbox
from tests import golden_cases
from tests.system import rings
from tests.system.rings import FILTERS, Filter

RING = "ring 2 (the real parsers)"
NEEDS = rings.NEEDS
CASES = golden_cases.cases()


@pytest.fixture(scope="module")
def box() -> Iterator[Sandbox]:
    with Sandbox(Layout.of(*(golden_cases.compiled(case).ruleset for case in CASES))) as box:
        yield box


@pytest.mark.parametrize("tried", FILTERS, ids=lambda tried: tried.name)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_hosts_own_parser_takes_it(case: Path, tried: Filter, box: Sandbox) -> None:
    ruleset = golden_cases.compiled(case).ruleset
    if rings.refused(tried, ruleset):
        return  # ring 1 shows that it is refused
    before = rings.everything(box)
    rings.carry(box, bundle(tried.module, ruleset, Ability()), f"/run/bundle/{tried.name}")
    result = rings.script(box, tried, "load.sh", "check")
    assert result.ok, result.stdout + result.stderr
    assert rings.everything(box) == before, "the check left something in the kernel"


@pytest.mark.parametrize("tried", FILTERS, ids=lambda tried: tried.name)
@pytest.mark.parametrize("words", [("check",), ()], ids=["check", "load"])
def test_a_broken_file_is_refused_and_nothing_changes(tried: Filter, words: tuple[str, ...], box: Sandbox) -> None:
    ruleset = golden_cases.compiled(golden_cases.FOLDER / "office-ssh").ruleset
    rings.load(box, tried, ruleset)
    before = rings.everything(box)
    files = bundle(tried.module, ruleset, Ability())
    for name in tried.module.PARTS:
        text = files.get(name, "").replace("\n}", "\n\tno such thing\n}")
        files[name] = text.replace("COMMIT", "-A PORTCTL-IN -p tcp --dport nowhere -j RETURN\nCOMMIT")
    rings.carry(box, files, f"/run/bundle/{tried.name}")
    result = rings.script(box, tried, "load.sh", *words)
    assert not result.ok
    assert result.stderr.strip()
    assert rings.everything(box) == before
    rings.carry(box, bundle(tried.module, ruleset, Ability()), f"/run/bundle/{tried.name}")
    rings.remove(box, tried)
