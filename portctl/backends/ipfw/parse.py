"""What a host has loaded as a program: the list of rules twice, once for each way, cut where a jump may land.

A `nat` rule translates and goes on with the next one (`net.inet.ip.fw.one_pass` 0): the packet is marked with the
place, and a second and a third chain at the same hook take it up there. States are not known here: `check-state` holds
for packets that are, whatever the state's name, but that our own names tell who began a connection.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from portctl.backends.ipfw import parse_nat, words
from portctl.backends.ipfw.layout import SET
from portctl.backends.ipfw.listed import Listed, Listing, read
from portctl.backends.ipfw.parse_rule import Reader, Rule, Way
from portctl.backends.ipfw.tables import LIVE
from portctl.net import Ranges
from portctl.program import (
    Accept,
    Action,
    Chain,
    Condition,
    Deny,
    Field,
    Hook,
    HookName,
    Jump,
    Line,
    Lookup,
    Note,
    Program,
    SetMark,
    Translate,
    Unknown,
)
from portctl.ruleset import State

RESUME = 1 << 32
"""Marks above the tags': where to go on after a translation."""
OTHERS = 0x8000
"""Their numbers begin here for rules that are not portctl's."""
_ALLOW = ("allow", "accept", "pass", "permit")
DUMMYNET = ("pipe", "queue")
"""What they let go on is accepted (one_pass 1), or judged by the rules that follow."""
_NOTES = ("count", "setfib", "setdscp", "reass", "setmark", "tcp-setmss")
_TAG = re.compile(r"\b(?:un)?tag(?:ged)? (\d+)")
_TO_ME = re.compile(r"nat \d+ .* to me [^/]*\bin ")
_REJECTS = ("reset", "reset6", "reject", "unreach", "unreach6", "abort", "abort6")


def parse(listings: Mapping[str, str]) -> Program:
    """What `questions` answered, or the file that `render` wrote."""
    return program_of(read(listings))


def program_of(listing: Listing) -> Program:
    """All rules of a listing. Those of portctl's read the same whatever rules of others are beside them."""
    mine = " ".join(each.body for each in listing.rules if each.set == SET)
    tags = {tag: bit for bit, tag in enumerate(dict.fromkeys(_TAG.findall(mine)))}
    chains: list[Chain] = []
    ways: tuple[Way, Way] = ("in", "out")
    for way in ways:
        chains += _Way(listing, way, tags).chains()
    live = {name.removeprefix(LIVE): t.entries for name, t in sorted(listing.tables.items()) if name.startswith(LIVE)}
    members = {name: (_member(key) for key, _ in entries) for name, entries in live.items()}
    return Program(
        tuple(chains), tuple(listing.foreign), tuple((name, tuple(sorted(each))) for name, each in members.items())
    )


def _member(key: str) -> str:
    return key.removesuffix("/128" if ":" in key else "/32")


@dataclass(slots=True)
class _Way:
    """The whole list for packets on one way."""

    listing: Listing
    way: Way
    tags: dict[str, int]
    resumed: dict[int, int] = field(default_factory=dict)
    """Positions at which a translated packet goes on, with their marks: those of others have numbers of their own."""
    mine: set[str] = field(default_factory=set)
    """The instances that translate what came to whatever addresses this host has."""
    names: list[str] = field(default_factory=list)
    """The name of the chain that begins at each position; "" inside of one."""

    def chains(self) -> list[Chain]:
        listed = self.listing.rules
        rules = [Reader(self.listing, each.body.split(), self.way, self.tags).rule() for each in listed]
        self.mine = {each.body.split()[1] for each in listed if _TO_ME.match(f"{each.body} ")}
        self._cut(listed, rules)
        found: list[Chain] = []
        name, lines, probed = "", list[Line](), False
        for k, (each, rule) in enumerate(zip(listed, rules, strict=True)):
            if self.names[k]:
                name, lines = self.names[k], []
            if not probed and rule.state in ("keep-state", "limit"):
                # It looks for a state before anything else, for packets of either way.
                known = (Condition(Field.STATE, State.ESTABLISHED),)
                lines.append(Line(known, (Accept(),), each.text, words.named(each.comment)))
            if not rule.never:
                lines += self._lines(k, each, rule)
            probed = probed or rule.action[0] == "check-state" or rule.state in ("keep-state", "limit")
            if k + 1 == len(listed) or self.names[k + 1]:
                ours = each.set == SET
                if ours and (k + 1 == len(listed) or listed[k + 1].set != SET):
                    found += self._left(name, lines, k + 1)
                else:
                    found.append(self._chain(name, lines, k + 1, own=ours))
        return [*self._bases(found), *found]

    def _cut(self, listed: list[Listed], rules: list[Rule]) -> None:
        cuts = {0} if listed else set()
        for k, rule in enumerate(rules):
            for number in _targets(rule):
                cuts.add(self._landing(k, number))
            if rule.action[0] == "nat":
                cuts.add(k + 1)
            if k and (listed[k].set == SET) != (listed[k - 1].set == SET):
                cuts.add(k)
        self.names = [""] * len(listed)
        seen: dict[str, int] = {}
        for k in sorted(cut for cut in cuts if cut < len(listed)):
            name = f"{self.way} {listed[k].number}"
            seen[name] = seen.get(name, 0) + 1
            self.names[k] = name if seen[name] == 1 else f"{name} {seen[name]}"

    def _position(self, number: int) -> int:
        return bisect_left(self.listing.rules, number, key=lambda rule: rule.number)

    def _landing(self, at: int, number: int) -> int:
        """Where a `skipto` at a position leads: never back (`jump_lookup_pos` in ip_fw2.c)."""
        return self._position(max(number, self.listing.rules[at].number + 1))

    def _goto(self, position: int) -> tuple[Action, ...]:
        if position >= len(self.names):
            return (Unknown("a jump beyond the last rule"),)
        return (Jump(self.names[position], goto=True),)

    def _chain(self, name: str, lines: list[Line], after: int, *, own: bool) -> Chain:
        last = lines[-1] if lines else None
        ends = last is not None and not last.conditions and isinstance(last.actions[-1], Accept | Deny | Jump)
        if not ends and after < len(self.names):
            lines = [*lines, Line((), self._goto(after), text="the next rule")]
        return Chain("ipfw", name, tuple(lines), own=own)

    def _left(self, name: str, lines: list[Line], after: int) -> list[Chain]:
        """A chain after which portctl's rules end: it reads the same whatever follows."""
        beyond = f"after {name}"
        own = Chain("ipfw", name, (*lines, Line((), (Jump(beyond, goto=True),), text="the next rule")), own=True)
        return [own, self._chain(beyond, [], after, own=False)]

    def _bases(self, found: list[Chain]) -> list[Chain]:
        hook: HookName = "prerouting" if self.way == "in" else "postrouting"
        first = (Line((), (Jump(found[0].name, goto=True),)),) if found else ()
        bases = [Chain("ipfw", self.way, first, Hook(hook, 0))]
        for again in (1, 2) if self.resumed else ():
            lines = tuple(
                Line(
                    (Condition(Field.MARK, (RESUME * 0xFFFF, RESUME * mark)),),
                    (SetMark(RESUME * 0xFFFF, 0), *self._goto(position)),
                )
                for position, mark in self.resumed.items()
            )
            bases.append(Chain("ipfw", f"{self.way} after nat {again}", lines, Hook(hook, again)))
        return bases

    def _lines(self, at: int, each: Listed, rule: Rule) -> list[Line]:
        name = words.named(each.comment)

        def line(conditions: Iterable[Condition], *actions: Action) -> Line:
            return Line(tuple(conditions), actions, each.text, name, each.line, each.packets, each.bytes)

        notes: list[Action] = [Note("log")] if rule.log else []
        if rule.tag:
            bit = 1 << self.tags.setdefault(rule.tag, len(self.tags))
            notes.append(SetMark(bit, bit))
        if rule.state:
            notes.append(Note(f"{rule.state} {rule.limit} :{rule.name}".replace("  ", " ")))
        if rule.untag:
            notes.append(SetMark(1 << self.tags.setdefault(rule.untag, len(self.tags)), 0))
        conditions = rule.conditions
        word = rule.action[0]
        if word == "check-state":
            return [line(_known(rule.name, self.way), Accept())]
        if word == "nat":
            to_me = Condition(Field.LOCAL, True) in conditions
            turned = self._nat(at, rule.action[1], to_me=to_me)
            return [line([*conditions, *more], *notes, *actions) for more, actions in turned]
        action = self._action(at, rule)
        if isinstance(action, Note) and not rule.tag and not rule.untag:
            conditions = [c for c in conditions if c.field is not Field.UNKNOWN]
        if rule.limit:
            within = line([*conditions, Condition(Field.LIMIT, rule.limit)], *notes, action)
            return [within, line(conditions, Deny(False, "limit"))]
        if isinstance(action, Deny) and action.answer.endswith("6"):
            six = Condition(Field.FAMILY, Ranges.single(6))
            return [line([*conditions, six], *notes, action), line(conditions, *notes, Deny(False, action.answer))]
        return [line(conditions, *notes, action)]

    def _action(self, at: int, rule: Rule) -> Action:
        word, *rest = rule.action
        if word in _ALLOW or (word in DUMMYNET and self.listing.one_pass):
            return Accept()
        if word in ("deny", "drop"):
            return Deny()
        if word in _REJECTS:
            return Deny(True, word)
        if word in _NOTES:
            return Note(" ".join(rule.action))
        if word == "skipto" and rest[0].isdigit():
            return self._goto(self._landing(at, int(rest[0])))[0]
        if word == "skipto" and rule.argument:
            places = [(where, int(value.split(",")[0])) for where, value in rule.argument]
            entries = [((where,), self._goto(self._landing(at, number))[0]) for where, number in places]
            return Lookup(tuple(entries))
        if word in ("fwd", "forward"):
            return parse_nat.forwarded(rest[0], self.way)
        return Unknown(" ".join(rule.action))

    def _mark(self, own: bool) -> int:
        """The next number for a place where a translated packet goes on."""
        first = 1 if own else OTHERS
        return first + sum((mark < OTHERS) is own for mark in self.resumed.values())

    def _nat(self, at: int, instance: str, *, to_me: bool) -> list[tuple[tuple[Condition, ...], tuple[Action, ...]]]:
        config = self.listing.nat.get(instance)
        if not instance.isdigit():
            return [((), (Unknown(f"nat {instance}"),))]
        if config is None:
            return [((), (Deny(False, "nat without an instance"),))]
        if self.way == "out" and not self.listing.one_pass and self.listing.rules[at].set != SET:
            # The rules that follow see the source that it puts in. portctl's own do not ask for it.
            return [((), (Unknown(f"nat {instance}: the source from here on"),))]
        found: list[tuple[tuple[Condition, ...], tuple[Action, ...]]] = []
        for conditions, action in parse_nat.translations(config, self.way, to_me=to_me, mine=instance in self.mine):
            if isinstance(action, Translate) and not self.listing.one_pass:
                mark = self.resumed.setdefault(at + 1, self._mark(self.listing.rules[at].set == SET))
                found.append((conditions, (SetMark(RESUME * 0xFFFF, RESUME * mark), action)))
            else:
                found.append((conditions, (action,)))
        if self.listing.one_pass:
            found.append(((), (Accept(),)))
        return found


def _known(name: str, way: Way) -> list[Condition]:
    known = Condition(Field.STATE, State.ESTABLISHED)
    began = {"portctl_in": "in", "portctl_out": "out"}.get(name)
    return [known] if began is None else [known, Condition(Field.REPLY, began != way)]


def _targets(rule: Rule) -> list[int]:
    if rule.action[0] != "skipto":
        return []
    if rule.action[1].isdigit():
        return [int(rule.action[1])]
    return [int(value.split(",")[0]) for _, value in rule.argument]
