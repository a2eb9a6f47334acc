"""The difference between what a host is and what a policy wants it to be, before anybody does anything about it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from portctl import backends, sysctl, wayin
from portctl.backends.base import Arranged
from portctl.observe import Observed
from portctl.plan import lockout, space, watch
from portctl.plan.exclusive import order as taking_order
from portctl.plan.guest import GuestOf
from portctl.plan.scene import Scene
from portctl.plan.state import after, desire, in_sync, prove
from portctl.plan.types import Before, Change, Desired, Plan, Refusal
from portctl.plan.words import summary
from portctl.program import Program
from portctl.wayin import Surroundings

__all__ = ["Before", "Change", "Desired", "GuestOf", "Plan", "Refusal", "after", "desire", "diff", "in_sync", "prove"]


def diff(
    desired: Desired,
    observed: Observed,
    loaded: Program,
    before: Before,
    around: Surroundings,
    boot_files: Mapping[str, str],
    taking: Mapping[str, object] | None = None,
    elsewhere: frozenset[str] = frozenset(),
    guest: GuestOf | None = None,
) -> Plan:
    """What has to be done. `loaded` is what the desired back end itself has loaded; `observed.program` is what all of
    them have. `boot_files` are {path: text} of the files for the next boot that lie outside the bundle.

    `taking` are the parts that take others' rules away, with `--exclusive`; `elsewhere` names the back ends that hold
    rules of portctl's although another one is wanted. `guest` is what is to be said where portctl's rules live within
    somebody else's."""
    now = observed.program if observed.program is not None else loaded
    rules = in_sync(loaded, desired.program)
    settings = all(observed.settings.get(name) == value for name, value in desired.settings.items())
    order: tuple[str, ...] = () if rules else (desired.backend,)
    order += () if settings else (sysctl.NAME,)
    order += (desired.returned,) if desired.returned else ()
    exclusive = taking is not None
    taken = taking_order(now, desired, taking or {}, elsewhere, before.saved)
    order += taken
    if guest is not None:
        then = _beside(guest.then, now)
    else:
        then = foreign_only(after(now, desired.program), desired) if exclusive else after(now, desired.program)
    scene = Scene(desired, observed, around, now, then, first=not loaded.own().chains, exclusive=exclusive)
    way = wayin.find(around, observed.connections, observed.listeners)
    both = space.worlds(scene) if taken or not rules else None
    return Plan(
        changes=(*_changes(desired, before, rules, settings), *_taken(before, taken)),
        boot=tuple(_boot_changes(desired, before, boot_files)),
        order=order,
        difference=space.difference(both, _forwards(desired, observed)) if both else (),
        summary=summary(before.ruleset if not scene.first else None, desired.ruleset) if order else (),
        notes=(way.said, *(f"not known: {what}" for what in observed.unknown)),
        warnings=(
            *watch.warnings(scene),
            *(space.doubts(scene, both, way) if both else ()),
            *(() if exclusive else _elsewhere(elsewhere)),
            *(guest.warnings() if guest else ()),
        ),
        refusals=(
            *(guest.refusals() if guest else ()),
            *lockout.refusals(scene, way),
            *(space.cut_off(scene, both, way) if both else ()),
        ),
        cut=watch.blocked(scene),
        opened=watch.opened(scene) if order else (),
    )


def _forwards(desired: Desired, observed: Observed) -> bool:
    """Whether packets of others may pass through the host, before or after."""
    asked = (value for name, value in desired.settings.items() if name.endswith(".forwarding"))
    return observed.facts.forwards or any(value != "0" for value in asked)


def _beside(then: Program, now: Program) -> Program:
    """All of one packet filter as it will be, with what the others of the host have loaded."""
    tables = {chain.table for chain in then.chains}
    others = tuple(chain for chain in now.chains if chain.table not in tables)
    return Program((*then.chains, *others), now.foreign, then.live)


def foreign_only(then: Program, desired: Desired) -> Program:
    """With `--exclusive`: others' rules at the filter's hooks that portctl manages are gone."""
    hooks = {c.hook.name for c in desired.program.chains if c.hook and c.hook.kind == "filter"}
    taken = {
        id(c) for c in then.chains if c.hook and not c.own and c.hook.kind == "filter" and c.hook.name in hooks
    }  # fmt: skip
    kept = tuple(c for c in then.chains if id(c) not in taken)
    mine = tuple(c for c in desired.program.chains if not c.own)
    return Program((*kept, *mine), then.foreign, then.live)


def _elsewhere(names: frozenset[str]) -> Iterator[str]:
    for name in sorted(names):
        yield f"{name} holds rules of portctl's too, from before: `--exclusive` takes them out"


def _taken(before: Before, parts: tuple[str, ...]) -> Iterator[Change]:
    """The rules that are taken away, as what is deleted."""
    for part in parts:
        for name, text in before.saved.get(part, {}).items():
            if text and name.rpartition("/")[2].startswith("rules."):
                yield Change(f"{part}/{name}", uncounted(text), "")


def _changes(desired: Desired, before: Before, rules: bool, settings: bool) -> list[Change]:
    found = []
    backend = backends.load(desired.backend)
    for part, names, same in (
        (desired.backend, desired.parts, rules),
        (sysctl.NAME, sysctl.PARTS, settings),
        (desired.returned or "", sysctl.PARTS, desired.returned is None),
    ):
        if same:
            continue
        old, new = before.saved.get(part, {}), desired.bundles.get(part, {})
        for name in names:
            was, becomes = uncounted(old.get(name, "")), uncounted(new.get(name, ""))
            if isinstance(backend, Arranged) and part == desired.backend:
                was = backend.arranged(was, becomes)
            if was != becomes:
                found.append(Change(f"{part}/{name}", was, becomes))
    return found


_COUNTS = re.compile(r"\bpackets \d+ bytes \d+|\[\d+:\d+\]")


def uncounted(text: str) -> str:
    """Rules with their counters at zero: what a counter has counted is no change."""
    return _COUNTS.sub(lambda found: "packets 0 bytes 0" if found[0][0] == "p" else "[0:0]", text)


def _boot_changes(desired: Desired, before: Before, files: Mapping[str, str]) -> list[Change]:
    bundle = {**desired.boot_bundle}
    names = sorted(set(bundle) | set(before.boot))
    found = [
        Change(f"/etc/portctl/boot/current/{name}", before.boot.get(name, ""), bundle.get(name, ""))
        for name in names
        if before.boot.get(name) != bundle.get(name)
    ]
    found += [
        Change(path, before.files.get(path, ""), text)
        for path, text in files.items()
        if before.files.get(path, "") != text
    ]
    return found
