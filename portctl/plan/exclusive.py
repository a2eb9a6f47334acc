"""`--exclusive`: what others have at the hooks that portctl manages is taken away, and given back by the undo."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from portctl.backends.base import Backend
from portctl.plan.types import Desired
from portctl.program import Chain, Deny, Program
from portctl.templating import text

PART = "exclusive"
_SAVE = """#!/bin/sh
# save.sh DIR: the rules of portctl's in another packet filter, and the way back to them.
here=$(cd "$(dirname "$0")" && pwd) || exit 1
mkdir -p "$1" && sh "$here/real/save.sh" "$1/real" && cp "$here/back.sh" "$1/load.sh" &&
    cp "$here/again.sh" "$1/save.sh" && cp "$here/load.sh" "$1/take.sh"
"""
_AGAIN = """#!/bin/sh
# save.sh DIR, beside rules that were brought back: writes into DIR what takes them out again.
here=$(cd "$(dirname "$0")" && pwd) || exit 1
mkdir -p "$1" && cp -R "$here/real" "$1/real" && cp "$here/take.sh" "$1/load.sh"
"""
_LOAD = """#!/bin/sh
# load.sh [check]: takes portctl's rules out of a packet filter that it no longer uses.
[ "${1-}" != check ] || exit 0
exec sh "$(dirname "$0")/real/remove.sh"
"""
_BACK = """#!/bin/sh
# load.sh: brings them back.
[ "${1-}" != check ] || exit 0
exec sh "$(dirname "$0")/real/load.sh"
"""


def hooks(desired: Desired) -> tuple[str, ...]:
    """The filter's hooks that portctl manages under a policy; input is always one."""
    names = {c.hook.name for c in desired.program.chains if c.hook and c.hook.kind == "filter"}
    return tuple(sorted({"input", *(names & {"forward", "output"})}))


def bundles(desired: Desired, others: Sequence[Backend], system: str = "Linux") -> dict[str, Mapping[str, str]]:
    """The parts that take things away. They are loaded after the rules, and undone before them: never a gap.

    Rules of several owners stand side by side at the hooks of Linux, and in the one list of ipfw."""
    found: dict[str, Mapping[str, str]] = {}
    if system == "Linux":
        names = "".join(f"{name}\n" for name in hooks(desired))
        found[PART] = {"hooks": names, **_scripts("exclusive")}
    elif desired.backend == "ipfw":
        found[PART] = _scripts("exclusive-ipfw")
    for other in others:
        found[f"other-{other.NAME}"] = away(other)
    return found


def _scripts(folder: str) -> dict[str, str]:
    return {name: text(f"guard/{folder}/{name}") for name in ("load.sh", "save.sh", "back.sh", "again.sh")}


def away(backend: Backend) -> dict[str, str]:
    """The files of a part that takes portctl's rules out of a packet filter, and whose undo brings them back."""
    real = {f"real/{name}": content for name, content in backend.scripts().items()}
    return {"save.sh": _SAVE, "load.sh": _LOAD, "back.sh": _BACK, "again.sh": _AGAIN, **real}


def at_hooks(observed: Program, desired: Desired) -> Iterator[Chain]:
    """Chains of others at these hooks that do anything."""
    mine = {chain.name for chain in (*observed.chains, *desired.program.chains) if chain.own}
    for chain in observed.chains:
        if chain.hook is None or chain.own or chain.hook.kind != "filter" or chain.hook.name not in hooks(desired):
            continue
        lines = [x for x in chain.lines if not any(getattr(action, "chain", None) in mine for action in x.actions)]
        if lines or isinstance(chain.hook.policy, Deny):
            yield chain


def order(
    observed: Program,
    desired: Desired,
    parts: Mapping[str, object],
    elsewhere: frozenset[str],
    saved: Mapping[str, Mapping[str, str]],
) -> tuple[str, ...]:
    """Which of these parts have something to take away. `saved` is what their `save.sh` found."""
    there = any(at_hooks(observed, desired)) or bool(saved.get(PART, {}).get("rules.ipfw"))
    found = [PART] if PART in parts and there else []
    found += [part for part in parts if part.removeprefix("other-") in elsewhere and part.startswith("other-")]
    return tuple(found)
