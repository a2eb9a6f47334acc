"""From a policy to its meaning: names become networks, ports and devices, entries become the rules of the tables.

`resolve` reads the address files that the policy names, and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from portctl.files import Files
from portctl.net import Addresses
from portctl.policy import Policy
from portctl.policy.models import Forward
from portctl.problems import Problem, Problems, has_errors, order
from portctl.resolve import blocks, checks, entries, expects, tables
from portctl.resolve import scope as look
from portctl.resolve.entries import Opening
from portctl.resolve.scope import Scope
from portctl.ruleset import Ruleset, Setting


def resolve(policy: Policy, at: datetime, files: Files) -> tuple[Ruleset, tuple[Problem, ...]]:
    """What a policy means at a moment (with a time zone), and its warnings and notes in the order of the file.

    Raises `Problems` with everything that is wrong, warnings included.
    """
    scope = look.build(policy, files)
    openings = [
        *(entries.service(scope, entry, at) for entry in policy.services.values()),
        *(entries.egress(scope, entry, at) for entry in policy.egress.values()),
        *(entries.forward(scope, entry, at) for entry in policy.forwards.values()),
    ]
    blocked = blocks.resolve(scope, at)
    holding = [o for o in openings if not o.expired and o.families() and o.flows != ()]
    expectations = expects.resolve(scope, openings)
    checks.check(scope, holding)
    problems = tuple(order(scope.problems))
    if has_errors(problems):
        raise Problems(problems)
    defaults = policy.defaults
    forwards = sorted((o for o in holding if isinstance(o.entry.value, Forward)), key=lambda o: o.name)
    ruleset = Ruleset(
        name=policy.name,
        inbound=tables.inbound(defaults, blocks.rules(blocked, True, False), holding),
        outbound=tables.outbound(defaults, blocks.rules(blocked, False, True), holding),
        forwarded=tables.forwarded(defaults, blocks.rules(blocked, True, True), holding),
        translations=tuple(filter(None, map(entries.translation, forwards))),
        masquerades=tuple(filter(None, map(entries.masquerade, forwards))),
        clamps=tuple(o.name for o in forwards if isinstance(o.entry.value, Forward) and o.entry.value.mss),
        groups=_groups(scope),
        live=tuple(sorted(scope.live)),
        interface_groups=tuple((name, look.tidy(entry.value)) for name, entry in sorted(policy.interfaces.items())),
        log_denied=bool(defaults.log_denied),
        forward_kept=defaults.forward in (None, "keep"),
        published_governed=defaults.published == "govern",
        settings=_settings(policy, forwards),
        expectations=expectations,
        description=policy.description,
    )
    return ruleset, problems


def _groups(scope: Scope) -> tuple[tuple[str, Addresses], ...]:
    return tuple((name, scope.groups[name]) for name in sorted(scope.used) if name in scope.groups)


def _settings(policy: Policy, forwards: Iterable[Opening]) -> tuple[Setting, ...]:
    """The policy's settings, and the forwarding that its forwards need."""
    found: dict[tuple[str, str], Setting] = {}
    for (system, name), entry in policy.sysctl.items():
        found[system, name] = Setting(name, entry.value, system, entry.span(key=True))
    for opening in forwards:
        if opening.leads_off:
            for family in opening.families():
                name = f"forwarding_v{family}"
                found.setdefault(("any", name), Setting(name, "1", "any", opening.entry.span(key=True)))
    return tuple(found[key] for key in sorted(found))
