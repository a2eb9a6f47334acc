"""The loaded rules against the rendered ones: `drift`, `unused`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import islice

from portctl.evaluation import Answer, evaluate
from portctl.program import Accept, Chain, Hook, Jump, Line, Place, Program, effective, jumps, leads_to
from portctl.ruleset import Direction, Kind, Packet, Rule, Verdict
from portctl.verify import packets, space
from portctl.verify.finding import Finding, View, packet_text, step_text

MOST_LINES, MOST_PACKETS = 12, 4000


def suspects(loaded: Program | None, wanted: Program | None) -> tuple[Line, ...]:
    """The loaded lines that the policy does not account for."""
    if loaded is None:
        return ()
    expected = {} if wanted is None else {_key(chain): set(chain.lines) for chain in wanted.chains}
    return tuple(line for chain in loaded.chains for line in chain.lines if line not in expected.get(_key(chain), ()))


def _key(chain: Chain) -> tuple[str, int, str]:
    return chain.table, chain.family or 0, chain.name


def differences(loaded: Program, wanted: Program) -> list[str]:
    """What differs between portctl's parts of two programs, `-` for what is missing and `+` for what should not be."""
    have, want = ({_key(chain): chain for chain in program.own().chains} for program in (loaded, wanted))
    lines: list[str] = []
    for key in sorted(have.keys() | want.keys()):
        lines += _chain_differences(have.get(key), want.get(key))
    return lines + _entrance_differences(loaded, wanted)


def _entrance_differences(loaded: Program, wanted: Program) -> list[str]:
    """What differs in the lines that lead to portctl's rules: its jumps stand first (INPUT of iptables), and packets
    get there where others' rules end (the list of ipfw)."""
    have, want = loaded.entrances(), wanted.entrances()
    first = {chain.place: chain.lines for chain in loaded.chains}
    found = []
    for place in sorted(have.calls.keys() | want.calls.keys(), key=lambda p: (p[1], p[0] or 0, p[2])):
        doors = [line for _, line in want.calls.get(place, ())]
        present = [line for _, line in have.calls.get(place, ())]
        named = f"{place[1]} {place[2]}" + (f" (IPv{place[0]})" if place[0] else "")
        missing = [line for line in doors if line not in present]
        extra = [line for line in present if line not in doors]
        found += [f"- {named}: {_line(line)}" for line in missing] + [f"+ {named}: {_line(line)}" for line in extra]
        if doors and not missing and not extra and list(first[place][: len(doors)]) != doors:
            found.append(f"~ {named}: portctl's jump does not stand first")
    for _, table, _, actions in want.passages - have.passages:
        to = next(jumps(actions))
        found.append(f"- {table} {to}: rules of others before it decide over everything, or lead past it")
    return found


def ours(program: Program) -> Program:
    """portctl's chains, and of the chains that it shares with others its own lines alone."""
    names = {chain.name for chain in program.chains if chain.own}
    places = {chain.place: chain for chain in program.chains}
    shared = []
    for chain in program.chains:
        lines = () if chain.own else tuple(_own_lines(chain, names, places))
        if lines and (chain.hook or any(leads_to(line, names) for line in chain.lines)):
            hook = replace(chain.hook, policy=Accept()) if chain.hook else None
            shared.append(replace(chain, lines=lines, hook=hook))
    return Program((*program.own().chains, *shared))


def _own_lines(chain: Chain, names: set[str], places: Mapping[Place, Chain]) -> Iterator[Line]:
    """The lines of a chain of others that lead to portctl's, and those of the chain in which it always goes on."""
    for line in effective(chain.lines):
        if leads_to(line, names):
            yield line
        elif not line.conditions:
            for action in line.actions:
                further = places.get((chain.family, chain.table, action.chain)) if isinstance(action, Jump) else None
                if further and isinstance(action, Jump) and action.goto and not further.own:
                    yield from _own_lines(further, names, places)


def _chain_differences(have: Chain | None, want: Chain | None) -> list[str]:
    either = have or want
    assert either is not None
    name = f"{either.table} {either.name}" + (f" (IPv{either.family})" if either.family else "")
    if have is None:
        return [f"- chain {name}"]
    if want is None:
        return [f"+ chain {name}", *(f"+ {name}: {_line(line)}" for line in have.lines)]
    found = [] if have.hook == want.hook else [f"- {name}: {_hook(want.hook)}", f"+ {name}: {_hook(have.hook)}"]
    missing, extra = set(want.lines) - set(have.lines), set(have.lines) - set(want.lines)
    found += [f"- {name}: {_line(line)}" for line in want.lines if line in missing]
    found += [f"+ {name}: {_line(line)}" for line in have.lines if line in extra]
    if not found and have.lines != want.lines:
        found = [f"~ {name}: the same rules, in another order or number"]
    return found


def _line(line: Line) -> str:
    text = line.text.strip() or line.comment
    return text if len(text) <= 200 else f"{text[:199]}…"


def _hook(hook: Hook | None) -> str:
    if hook is None:
        return "no hook"
    policy = "accept" if type(hook.policy).__name__ == "Accept" else "drop"
    return f"hook {hook.name}, priority {hook.priority}, policy {policy}"


def drift(view: View) -> Iterator[Finding]:
    """The finding, if portctl's own part is not what the policy renders to."""
    if view.mine is None or view.wanted is None:
        return
    loaded, wanted = ours(view.mine), ours(view.wanted)
    if not view.mine.own().chains and wanted.chains:
        yield Finding(
            "drift",
            "error",
            view.ruleset.name,
            "nothing of portctl's is loaded: the policy is not in force",
            "portctl apply",
            (*_example(view, loaded, wanted), *_set(view, loaded, wanted)),
        )
        return
    lines = differences(view.mine, view.wanted)
    if lines:
        example = (*_example(view, loaded, wanted), *_set(view, loaded, wanted))
        if not example:
            example = ("they say the same of every packet",)
        rest = [f"and {len(lines) - MOST_LINES} more"] if len(lines) > MOST_LINES else []
        yield Finding(
            "drift",
            "error",
            view.ruleset.name,
            "portctl's rules in the kernel are not those of the policy",
            "see what changed them, then apply the policy again",
            (*example, "wanted (-) and loaded (+):", *lines[:MOST_LINES], *rest),
        )


def _set(view: View, loaded: Program, wanted: Program) -> list[str]:
    return space.drift(wanted, loaded, view.own, view.ruleset.groups, view.at)


def _example(view: View, loaded: Program, wanted: Program) -> tuple[str, ...]:
    """One packet of which two programs say different things, and what each says."""
    for packet in islice(_candidates(view, loaded, wanted), MOST_PACKETS):
        now, meant = evaluate(loaded, packet, view.own), evaluate(wanted, packet, view.own)
        if _outcome(now) != _outcome(meant):
            return (
                packet_text(packet),
                f"  loaded: {now.verdict.value}: {step_text(now.decided)}",
                f"  policy: {meant.verdict.value}: {step_text(meant.decided)}",
            )
    return ()


def _outcome(answer: Answer) -> tuple[Verdict, object]:
    packet = answer.packet
    return answer.verdict, (packet.destination, packet.port) if packet and answer.verdict is Verdict.ACCEPT else None


def _candidates(view: View, loaded: Program, wanted: Program) -> Iterator[Packet]:
    """What the differing lines are about, then something of every rule of the policy."""
    for one, other in ((loaded, wanted), (wanted, loaded)):
        known = {_key(chain): set(chain.lines) for chain in other.chains}
        for chain in one.chains:
            for line in chain.lines:
                if line not in known.get(_key(chain), ()):
                    yield from islice(packets.of_line(view, line, chain), 200)
    for direction in Direction:
        for rule in view.ruleset.rules(direction):
            yield from islice(packets.of_rule(view, rule, direction), 24)


def unused(view: View) -> Iterator[Finding]:
    """Notes of the entries whose counters stand at nothing."""
    if view.mine is None:
        return
    counted: dict[str, int] = {}
    for chain in view.mine.own().chains:
        for line in chain.lines:
            if line.packets is not None and line.comment:
                counted[line.comment] = counted.get(line.comment, 0) + line.packets
    for rule in _counted_rules(view):
        if counted.get(rule.name) == 0:
            yield Finding(
                "unused",
                "note",
                rule.name,
                "no packet came through this opening since the counters began",
                "take it out of the policy if nobody needs it",
                (),
                rule.span,
            )


def _counted_rules(view: View) -> Iterator[Rule]:
    seen = set()
    for direction in Direction:
        for rule in view.ruleset.rules(direction):
            if rule.kind in (Kind.SERVICE, Kind.EGRESS, Kind.FORWARD) and rule.name not in seen:
                seen.add(rule.name)
                yield rule
