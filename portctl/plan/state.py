"""What a host shall be, what it is, and what it would be after the load, as programs."""

from __future__ import annotations

from dataclasses import replace

from portctl import sysctl
from portctl.backends.base import Ability, Backend, is_part
from portctl.backends.base import bundle as bundle_of
from portctl.observe import Facts
from portctl.plan.types import Desired
from portctl.problems import Problem, Problems, has_errors
from portctl.program import Chain, Program, leads_to
from portctl.ruleset import TCP, Kind, Rule, Ruleset
from portctl.space import proof

SSH = 22
MOST_BLOCKED = 4096
"""Ranges of a blocked list that the minimal rule set still holds."""


def ability(facts: Facts) -> Ability:
    """What the tools of a host can do."""
    return Ability(ipset=facts.tool("ipset") is not None, version="" if facts.system == "Linux" else facts.release)


def desire(ruleset: Ruleset, backend: Backend, facts: Facts) -> Desired:
    """What a host shall be under a policy. Raises `Problems` where the back end cannot say all of it."""
    able = ability(facts)
    advertised = tuple(x.name for x in facts.interfaces if x.advertised)
    found = backend.gaps(ruleset, able) + sysctl.gaps(ruleset, facts.system)
    if has_errors(found):
        raise Problems(found)
    rules = bundle_of(backend, ruleset, able)
    settings = sysctl.bundle(ruleset, facts.system, advertised)
    bundles = {backend.NAME: rules} | ({sysctl.NAME: settings} if settings else {})
    boot = {f"{part}/{name}": text for part, files in bundles.items() for name, text in files.items()}
    boot |= {
        f"minimal/{backend.NAME}/{name}": text for name, text in bundle_of(backend, minimal(ruleset), able).items()
    }
    return Desired(
        ruleset=ruleset,
        backend=backend.NAME,
        bundles=bundles,
        boot_bundle=boot,
        program=backend.parse({name: text for name, text in rules.items() if is_part(backend, name)}),
        settings={
            name: sysctl.in_ticks(value, facts.slowhz)
            for name, value in sysctl.parse({k: v for k, v in settings.items() if k in sysctl.PARTS}).items()
        },
        parts=backend.PARTS,
        ability=able,
    )


def prove(desired: Desired, backend: Backend) -> None:
    """Raises `Problems` unless what would be loaded now, and the minimal rule set of the boot, read back, do with every
    packet what their rule sets say."""
    folder = f"minimal/{backend.NAME}/"
    texts = {
        path.removeprefix(folder): text
        for path, text in desired.boot_bundle.items()
        if path.startswith(folder) and is_part(backend, path.removeprefix(folder))
    }
    found: list[Problem] = []
    for name, ruleset, program in (
        (backend.NAME, desired.ruleset, desired.program),
        (f"the minimal {backend.NAME}", minimal(desired.ruleset), backend.parse(texts)),
    ):
        forced = backend.differences(ruleset, desired.ability)
        found += proof.proofs(ruleset, {name: program}, {name: forced})[name].problems
    if found:
        raise Problems(found)


def minimal(ruleset: Ruleset) -> Ruleset:
    """What is loaded at boot where neither the confirmed rules nor those before load: known connections, what a host
    needs to live on a network, what is blocked, and ssh from wherever the policy admits it, without limits."""

    def kept(rules: tuple[Rule, ...], inbound: bool) -> tuple[Rule, ...]:
        found = []
        for rule in rules:
            if rule.kind in (Kind.FIXED, Kind.DEFAULT) or (rule.kind is Kind.BLOCK and _small(rule)):
                found.append(rule)
            elif inbound and rule.kind is Kind.SERVICE and admits_ssh(rule):
                found.append(replace(rule, rate=None, max_connections=None, log=False))
        return tuple(found)

    return replace(
        ruleset,
        inbound=kept(ruleset.inbound, True),
        outbound=kept(ruleset.outbound, False),
        forwarded=kept(ruleset.forwarded, False),
        translations=(),
        masquerades=(),
        clamps=(),
        log_denied=False,
        published_governed=False,
        settings=(),
        expectations=(),
    )


def admits_ssh(rule: Rule) -> bool:
    return rule.name == "ssh" or any(f.protocol == TCP and SSH in f.ports for f in rule.flows or ())


def _small(rule: Rule) -> bool:
    sets = (rule.source, rule.destination)
    return all(len(addresses.v4.bounds) + len(addresses.v6.bounds) <= 2 * MOST_BLOCKED for addresses in sets)


def after(observed: Program, desired: Program) -> Program:
    """All rules as they will be once `desired` is loaded: everybody else's as they are, portctl's replaced.

    In a chain that portctl shares with others (INPUT of iptables), its own jump stands first. Base chains of portctl's
    own are loaded together (a main rule set of pf is one text): beside them only what they call of others goes on.
    """
    mine = {_key(chain): chain for chain in desired.chains}
    names = {chain.name for chain in (*desired.chains, *observed.chains) if chain.own}
    whole = {(chain.family, chain.table) for chain in desired.chains if chain.own and chain.hook}
    chains: list[Chain] = []
    for chain in observed.chains:
        if chain.own:
            continue
        if (chain.family, chain.table) in whole and _key(chain) not in mine:
            called = tuple(line for line in chain.lines if line.others or line.text.startswith("(pf: "))
            chains += [replace(chain, lines=called)] if any(line.others for line in called) else []
            continue
        others = tuple(line for line in chain.lines if not leads_to(line, names))
        shared = mine.pop(_key(chain), None)
        if shared is not None and shared.own:
            # A main rule set of pf is one text: what is loaded takes the place of whatever was there.
            chains.append(_with_others(shared, chain))
            continue
        chains.append(replace(chain, lines=(*(shared.lines if shared else ()), *others)))
    return Program((*chains, *mine.values()), observed.foreign, observed.live)


def _with_others(wanted: Chain, present: Chain) -> Chain:
    """A chain of portctl's with what it calls of others, before the first line of an entry."""
    kept = tuple(line for line in present.lines if line.others)
    at = next((k for k, line in enumerate(wanted.lines) if line.comment), len(wanted.lines))
    return replace(wanted, lines=(*wanted.lines[:at], *kept, *wanted.lines[at:]))


def _key(chain: Chain) -> tuple[str, int, str]:
    return chain.table, chain.family or 0, chain.name


def in_sync(observed: Program, desired: Program) -> bool:
    """Whether portctl's rules are loaded as desired, and are reached."""
    return observed.own() == desired.own() and reached(observed, desired)


def reached(observed: Program, desired: Program) -> bool:
    """Whether the jumps to portctl's rules stand where they must, and packets get where others' rules end."""
    have, want = observed.entrances(), desired.entrances()
    return have.calls == want.calls and want.passages <= have.passages
