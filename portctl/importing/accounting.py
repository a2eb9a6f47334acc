"""The account: every line of the input with what became of it, and why."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from portctl.importing import limits
from portctl.importing.account import Account, Entry, Status
from portctl.importing.draft import Draft
from portctl.importing.inputs import Inputs, Source
from portctl.importing.missing import LEFT_OUT, lines_of
from portctl.importing.naming import Names
from portctl.importing.prepare import Key, asks_limit, key, marks, reached, says_something
from portctl.program import Accept, Chain, Condition, Deny, Field, Jump, Line, Note, Place, Program, Return, Translate
from portctl.ruleset import KNOWN, State
from portctl.space.sets import PacketSet
from portctl.space.tracking import TRACKED, UNTRACKED, untracked

Said = tuple[Status, str]
_STRUCTURE = re.compile(r"^\s*(#.*|\*\S+|COMMIT|\}?|table .*\{|(chain|set|map|flowtable) .*\{|policy .*;)\s*$")


def account(draft: Draft, names: Names, left: PacketSet | None = None) -> Account:
    """One entry for each line of each file. `left`: connections that the input admits and the policy does not, since
    they are in more pieces than are described."""
    missing = frozenset[Key]() if left is None else lines_of(draft.prepared.program, left)
    entries = _entries(draft.inputs, _said(draft, names, missing))
    return Account(tuple(_with_policies(entries, {(place[1], place[2]) for place in missing if place[3] == 0})))


def unsettled(inputs: Inputs, why: str) -> Account:
    """The account of an input of which no policy was made: every line that was read as a rule is refused."""
    said: dict[tuple[str, int], Said] = {}
    for chain in inputs.program.chains:
        for line in chain.lines:
            place = inputs.place(chain, line.number)
            if place is not None:
                said[place] = "refused", why
    return Account(tuple(_entries(inputs, said)))


def _entries(inputs: Inputs, said: Mapping[tuple[str, int], Said]) -> Iterator[Entry]:
    foreign = {line.strip() for line in inputs.program.foreign}
    files: dict[str, list[Source]] = {}
    for source in inputs.sources:
        files.setdefault(source.name, []).append(source)
    for name, parts in files.items():
        mine = {line: each for (file, line), each in said.items() if file == name}
        for part in parts:
            mine |= {line: each for line, each in part.said.items() if line not in mine}
        read: dict[int, list[str]] = {}
        for part in parts:
            for number, text in part.read:
                read.setdefault(number, []).append(text)
        for number, text in enumerate(parts[0].lines, 1):
            yield _entry(parts[0], number, text, mine.get(number), read.get(number, []), foreign, inputs.program)


def _with_policies(entries: Iterable[Entry], missing: Collection[tuple[str, str]]) -> Iterator[Entry]:
    """The entries, where policies of chains, given by table and chain, admit what was left out."""
    table = ""
    for entry in entries:
        named = re.match(r"\*(\S+)|:(\S+) ACCEPT\b", entry.text)
        table = named[1] if named and named[1] else table
        here = bool(named and named[2] and (table, named[2]) in missing and entry.status == "modelled")
        yield replace(entry, status="approximated", reason=LEFT_OUT) if here else entry


def _entry(
    source: Source, number: int, text: str, said: Said | None, read: list[str], foreign: set[str], program: Program
) -> Entry:
    if said is not None:
        return Entry(source.name, number, *said, text)
    if any(line.strip() and (line.strip() in foreign or _in_foreign(line, foreign)) for line in read):
        return Entry(source.name, number, "refused", "this is no rule that portctl can read", text)
    if source.form == "ipset save":
        return _of_set(source, number, text, program)
    declared = re.match(r":(\S+) (\S+)", (read or [text])[0])
    if declared:
        word = "chain" if declared[2] == "-" else f"policy {declared[2]}"
        return Entry(source.name, number, "modelled", word, text, structure=declared[2] == "-")
    return Entry(source.name, number, "modelled", _structure(text), text, structure=True)


def _in_foreign(line: str, foreign: set[str]) -> bool:
    return any(each.endswith(f": {line.strip()}") for each in foreign) if len(foreign) < 200 else False


def _structure(text: str) -> str:
    if not text.strip():
        return "empty"
    return "comment" if text.lstrip().startswith("#") else "structure"


def _of_set(source: Source, number: int, text: str, program: Program) -> Entry:
    words = text.split()
    if len(words) < 2 or words[0] not in ("create", "add"):
        return Entry(source.name, number, "modelled", _structure(text), text, structure=True)
    name = words[1]
    for condition in _conditions(program):
        if condition.field is Field.UNKNOWN and re.search(
            rf"\b(match-set|set) {re.escape(name)} ", str(condition.value)
        ):
            return Entry(source.name, number, "refused", f"a set of a kind that portctl cannot read: `{name}`", text)
    return Entry(source.name, number, "modelled", f"member of the set `{name}`", text)


def _conditions(program: Program) -> Iterable[Condition]:
    for chain in program.chains:
        for line in chain.lines:
            yield from line.conditions


def _said(draft: Draft, names: Names, missing: frozenset[Key]) -> dict[tuple[str, int], Said]:
    entries: dict[Key, list[str]] = {}
    for entry in names.entries:
        for step in entry.steps:
            named = "`block`" if entry.section == "block" else f"{entry.section} `{entry.name}`"
            entries.setdefault(key(step.chain, step.line), []).append(named)
    hooks = reached(draft.inputs.program)
    found: dict[tuple[str, int], Said] = {}
    for chain in draft.inputs.program.chains:
        for line in chain.lines:
            place = draft.inputs.place(chain, line.number)
            if place is not None:
                said = _of_line(draft, names, chain, line, entries, hooks)
                if key(chain, line) in missing and said[0] == "modelled":
                    said = _left_out(line, entries.get(key(chain, line), ()))
                before = found.get(place)
                found[place] = said if before is None or _WORST[said[0]] > _WORST[before[0]] else before
    return found


def _left_out(line: Line, entries: Sequence[str]) -> Said:
    if entries:
        return "approximated", f"{LEFT_OUT}; for the rest there is {entries[0]}"
    alone = any(isinstance(a, Accept | Translate) for a in line.actions)
    return "refused" if alone else "approximated", LEFT_OUT


_WORST: Mapping[Status, int] = {"modelled": 0, "left": 1, "approximated": 2, "refused": 3}


def _of_line(
    draft: Draft,
    names: Names,
    chain: Chain,
    line: Line,
    entries: Mapping[Key, list[str]],
    hooks: Mapping[Place, frozenset[str]],
) -> Said:
    here = key(chain, line)
    prepared = draft.prepared
    if here in prepared.owned:
        return "left", f"{prepared.owned[here]} keeps it"
    if here in prepared.settled:
        return "modelled", prepared.settled[here]
    if here in prepared.left_out:
        return "refused", prepared.left_out[here]
    if here in prepared.assumed:
        return "approximated", prepared.assumed[here]
    if here in draft.useless:
        return "approximated", "it translates connections that nothing admits: no forward"
    if not hooks[chain.place]:
        return "modelled", "nothing jumps to its chain: it is never asked"
    if prepared.forward_owner and hooks[chain.place] == {"forward"} and here not in entries:
        return "left", f"the forward path is left as {prepared.forward_owner} keeps it"
    if here in names.partly:
        what = names.partly[here]
        return (
            ("approximated", f"{what}; for the rest there is {entries[here][0]}")
            if here in entries
            else ("refused", what)
        )
    return _by_limits(line) or _by_deed(draft, names, line, entries.get(here, ()))


def _by_limits(line: Line) -> Said | None:
    texts = [str(c.value) for c in asks_limit(line.conditions)]
    if not texts or not says_something(line):
        return None
    limit = limits.read(texts[0])
    if limit is None:
        return "refused", f"the language has no limit like `{texts[0][:80]}`"
    beyond = any(c.negated for c in asks_limit(line.conditions)) or "above" in texts[0]
    if any(isinstance(a, Accept) for a in line.actions) and beyond:
        return "refused", "it admits what is beyond a limit, and no policy does"
    return ("modelled", limit.words) if limit.exact else ("approximated", f"{limit.words}; {limit.note}")


def _by_deed(draft: Draft, names: Names, line: Line, entries: Iterable[str]) -> Said:
    named = ", ".join(dict.fromkeys(entries))
    if not says_something(line):
        return _of_note(draft, names, line)
    acts = line.actions
    if named:
        return "modelled", named
    if any(isinstance(a, Translate) for a in acts):
        outgoing = any(isinstance(a, Translate) and a.kind in ("source", "masquerade") for a in acts)
        if outgoing:
            return (
                "approximated",
                "it hides the source of nothing that a forward admits",
            )
        return "approximated", "a translation of what this host itself sends is not part of a policy"
    if any(isinstance(a, Accept) for a in acts):
        return _admitted(line)
    if any(isinstance(a, Deny) for a in acts):
        return "modelled", "what no entry admits is denied"
    if any(isinstance(a, Jump | Return) for a in acts):
        return "modelled", "jump" if any(isinstance(a, Jump) for a in acts) else "return"
    return "modelled", "its effect is in what the entries admit"


def _of_note(draft: Draft, names: Names, line: Line) -> Said:
    words = [a.text.split()[0] for a in line.actions if isinstance(a, Note) and a.text]
    if any(map(untracked, line.actions)):
        return "approximated", "a policy tracks all connections; what the input does with these is in the entries"
    if marks(line):
        return (
            "approximated",
            "marks packets: what it filters by them is in the entries, routing is no matter of a policy",
        )
    if any(word.upper() in ("LOG", "NFLOG", "ULOG", "AUDIT") for word in words):
        return "modelled", "log_denied: true" if draft.log_denied else "logging: say `log: true` where you want it"
    if words and words[0] == "TCPMSS" and any(entry.mss for entry in names.entries):
        return "modelled", "mss: path"
    if words and words[0].upper() not in ("CONTINUE", "COMMENT", "TRANSLATION"):
        return "approximated", f"`{words[0]}` changes no verdict, and is not part of a policy"
    return "modelled", "it only counts"


def _admitted(line: Line) -> Said:
    """Of a line that admits, and that is not in the entries."""
    if fixed := _fixed(line):
        return "modelled", fixed
    for condition in line.conditions:
        for field, why in _NOT_ASKED.items():
            if condition.field is field and condition not in (TRACKED, UNTRACKED):  # a mark of portctl's own reading
                return "approximated", why
        if condition.field is Field.STATE and isinstance(condition.value, State):
            seen = ~condition.value if condition.negated else condition.value
            if State.NEW not in seen:
                return "approximated", "a policy drops invalid packets, and tracks all connections"
    return "modelled", "within what other lines and entries admit"


_NOT_ASKED = {
    Field.HOP_LIMIT: "a policy asks no hop limit: connections are taken to come with 64",
    Field.MARK: "a policy asks no mark: those are taken that the other lines set",
}


def _fixed(line: Line) -> str | None:
    """The lines that every policy has by itself."""
    for condition in line.conditions:
        if condition.field is Field.STATE and isinstance(condition.value, State) and not condition.value & ~KNOWN:
            return "known connections are admitted by every policy"
        if condition.field is Field.IN and condition.value == ("lo",) and not condition.negated:
            return "loopback is admitted by every policy"
        if condition.field is Field.OUT and condition.value == ("lo",) and not condition.negated:
            return "loopback is admitted by every policy"
        if condition.field is Field.ICMP and not condition.negated:
            return "ICMP errors, neighbour discovery and the like are admitted by every policy; echo is `ping`"
    return None
