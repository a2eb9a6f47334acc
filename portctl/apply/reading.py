"""What a host has loaded, read again: portctl's rules of each packet filter, and whether a state that was brought back
is the one that was saved."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from portctl import backends, observe, sysctl
from portctl.apply import history, returning
from portctl.apply.steps import LOAD_SECONDS, Refused, call, put
from portctl.backends.base import Backend, is_part
from portctl.command import Command, Host, HostError
from portctl.observe import Observed
from portctl.plan.state import reached
from portctl.program import Program

Bundles = Mapping[str, Mapping[str, str]]
"""{part: {file: text}}"""


def same_filter(one: Backend, other: Backend) -> bool:
    """Whether two back ends write for the same packet filter of a host, whatever their dialects."""
    return backends.package(one.NAME) == backends.package(other.NAME)


def holds(backend: Backend, observed: Observed) -> bool:
    """Whether a back end has rules of portctl's loaded."""
    try:
        return bool(loaded(backend, observed).own().chains)
    except Refused:
        return False


def loaded(backend: Backend, observed: Observed) -> Program:
    """What one back end has loaded. Raises `Refused` where that cannot be read."""
    told = listings(backend, observed)
    if not told:
        raise Refused("the loaded rules cannot be read: " + ("; ".join(observed.unknown) or "root is needed"))
    return backend.parse(told)


def listings(backend: Backend, observed: Observed) -> dict[str, str]:
    """What a host said to the questions of a back end."""
    package = backends.package(backend.NAME)
    return {
        listing: text
        for (name, _, listing), text in ((k.partition("/"), v) for k, v in observed.listings.items())
        if name == backend.NAME or (backend.NAME not in backends.NAMES and backends.package(name) == package)
    }


def saved(host: Host, bundles: Bundles) -> dict[str, str]:
    """{part/file: text} of what `save.sh` of each bundle writes now. Nothing of it stays on the host."""
    folder = host.run(Command(("mktemp", "-d")), 30.0).stdout.strip()
    try:
        put(
            host,
            {f"new/{part}/{name}": text for part, files in bundles.items() for name, text in files.items()},
            folder,
        )
        told = call(host, "in", folder, "look", timeout=LOAD_SECONDS).stdout
    finally:
        if folder.startswith("/"):
            host.run(Command(("rm", "-rf", folder)), 60.0)
    return history.below(told, f"{folder}/old")


def not_back(host: Host, then: Bundles) -> str | None:
    """What is not as these bundles of `save.sh` bring it back, in words; None: nothing.

    It is saved once more and the two are compared: whatever words a tool has for a rule, they are the same in both."""
    rules = dict(_rules(then))
    settings = {part: files for part, files in then.items() if part in (sysctl.NAME, returning.PART)}
    try:
        now = history.by_part(saved(host, {**rules, **settings}))
        observed = observe.observe(host, tuple(backends.load(name) for name in rules), ())
        found = [_rules_differ(name, files, now.get(name, {}), observed) for name, files in rules.items()]
    except (Refused, HostError) as error:
        return f"it cannot be read back: {error}"
    found += [_settings_differ(files, now.get(part, {})) for part, files in settings.items()]
    return "; ".join(filter(None, found)) or None


def _rules(bundles: Bundles) -> Iterator[tuple[str, Mapping[str, str]]]:
    """The bundles of rules by their back end, also of one that another has taken the place of (`plan.exclusive`)."""
    for part, files in bundles.items():
        name = part.removeprefix("other-")
        if name.removesuffix(backends.ANCHOR) not in (*backends.EVERY, *backends.OFFERED):
            continue
        if part == name:
            yield name, files
        else:
            yield name, {path.removeprefix("real/"): text for path, text in files.items() if path.startswith("real/")}


def _rules_differ(name: str, then: Mapping[str, str], now: Mapping[str, str], observed: Observed) -> str | None:
    backend = backends.load(name)
    old, new = (
        backend.parse({file: text for file, text in files.items() if is_part(backend, file)}) for files in (then, now)
    )
    if old.own() != new.own():
        return f"the rules of {name} do not read back as they were saved"
    if not reached(loaded(backend, observed), old):
        return f"the rules of {name} are loaded, but not reached"
    return None


def _settings_differ(then: Mapping[str, str], now: Mapping[str, str]) -> str | None:
    wanted, found = (files.get(sysctl.FILE, "").splitlines() for files in (then, now))
    lines = [line for line in wanted if line not in found and line[:1] not in ("-", "#", "")]  # "-": it may fail
    return f"these settings read otherwise: {', '.join(lines)}" if lines else None
