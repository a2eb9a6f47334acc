"""What a person names on the command line to be asked or compared: a policy, rule files, saved rule sets, a live host.

They are told apart by their content; each becomes a `Side` of a space.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from portctl.hosts.target import HERE
from portctl.net import FAMILIES, Address, Family
from portctl.problems import Problem, Problems, Span
from portctl.program import Chain, Program
from portctl.ruleset import Kind, Packet, Rule, Ruleset

if TYPE_CHECKING:
    from portctl.observe import Observed
    from portctl.space import Space
    from portctl.space.sides import Reason, Side

HOST = "host"
POLICY = re.compile(r"^portctl\s*:", re.M)
"""The first key of a policy: no fragment and no listing has it."""
_LIKE_POLICY = re.compile(
    r"^['\"]?(portctl|name|include|addresses|interfaces|ports|services|block|egress|forwards|defaults|sysctl|tests)['\"]?"
    r"\s*:|^\s*\{",
    re.M,
)
"""A key of a policy, at the beginning of a line, or JSON: what it lacks is said by the reader of policies."""
MOST_TEXT = 256 * 1024 * 1024
MOST_PART = 1024 * 1024
"""A longer file of a policy's is a list, whose lines nobody wants to see compared."""


@dataclass(frozen=True, slots=True)
class Source:
    """Either a policy's rule set or a program, with what it was read from. `families` are those that it speaks of."""

    title: str
    text: str
    meaning: Ruleset | Program
    families: tuple[Family, ...] = FAMILIES
    own_addresses: tuple[Address, ...] = ()
    observed: Observed | None = None
    below: str = ""
    """A folder that is not shown: where an older state was put to be read."""
    language: str = "policy"
    """Else the back ends whose listings it is."""
    file: str = ""
    parts: tuple[tuple[str, str], ...] = ()
    """Texts of the files that a policy includes, by their names."""

    def side(self, space: Space) -> Side:
        from portctl.space import sides

        if isinstance(self.meaning, Program):
            side = sides.of_program(space, self.meaning, self.title, self.own_addresses, self.text, self.language)
            return replace(side, file=self.file)
        side = _shown(sides.of_ruleset(space, self.meaning, self.title, self.text), self.below)
        return replace(side, file=self.file, parts=self.parts)


def _shown(side: Side, below: str) -> Side:
    """With places as the person knows them."""
    if not below:
        return side

    def reason(packet: Packet) -> Reason:
        found = side.reason(packet)
        if found.place is None:
            return found
        return replace(found, place=_above(found.place, below))

    return replace(side, reason=reason, entries=tuple((name, _above(span, below)) for name, span in side.entries))


def _above(place: Span, below: str) -> Span:
    return replace(place, file=place.file.removeprefix(f"{below}/"))


def read(name: str, at: datetime, root: Path | None = None, target: str = HERE) -> Source:
    """What a word on the command line names: `host` (the machine that `target` names), another target, a folder with a
    bundle, a file, or files joined with commas (the listings of both families and their sets, say). Raises `Problems`,
    `HostError`."""
    if name == HOST and not Path(name).exists():
        return live(target)
    if "://" in name:
        return live(name)
    path = Path(name)
    if path.is_dir():
        return _bundle(path)
    paths = [path] if path.exists() or "," not in name else [Path(part) for part in name.split(",")]
    texts = {str(each): _text(each) for each in paths}
    numbers: Numbers = {}
    if not (len(paths) == 1 and POLICY.search(texts[str(path)])) and (found := _listings(texts, numbers)):
        return _program(name, found, numbers)
    if len(paths) > 1:
        raise Problems([Problem("bad-file", f"`{name}`: only listings are read together", None, "name one policy")])
    if texts[str(path)].strip() and not _LIKE_POLICY.search(texts[str(path)]):
        hint = "give a policy, or what iptables-save, nft list ruleset, pfctl -sr or ipfw list prints"
        raise Problems([Problem("bad-file", f"`{name}` is no policy, and no listing that portctl knows", None, hint)])
    return policy(path, at, root)


def policy(path: Path, at: datetime, root: Path | None = None, title: str | None = None, below: str = "") -> Source:
    """A policy, as it is at a moment. Raises `Problems`."""
    from portctl import pipeline

    text = _text(path)
    seen: dict[str, bytes] = {}
    ruleset = pipeline.compile(path, at, root, seen).ruleset
    parts = tuple(
        (name.removeprefix(f"{below}/"), data.decode("utf-8", "replace"))
        for name, data in seen.items()
        if len(data) <= MOST_PART
    )
    file = str(path).removeprefix(f"{below}/")
    return Source(title or str(path), text, ruleset, below=below, file=file, parts=parts)


def nothing(title: str, other: Source) -> Source:
    """In the place of a policy that is not there: what `other` says without its entries. What it denies of itself it
    denies here, too, so that compared is what its entries open."""
    assert isinstance(other.meaning, Ruleset)

    def left(rules: tuple[Rule, ...]) -> tuple[Rule, ...]:
        return tuple(rule for rule in rules if rule.kind not in (Kind.SERVICE, Kind.EGRESS, Kind.FORWARD))

    bare = replace(
        other.meaning,
        inbound=left(other.meaning.inbound),
        outbound=left(other.meaning.outbound),
        forwarded=left(other.meaning.forwarded),
        translations=(),
        masquerades=(),
        clamps=(),
        settings=(),
    )
    return Source(title, "", bare)


def live(target: str = HERE) -> Source:
    """A machine: all that is loaded, whoever loaded it. Raises `HostError` where it cannot be read."""
    from portctl import observe
    from portctl.cli import where
    from portctl.command import HostError

    with where.host(target) as host:
        known = observe.facts(host)
        observed = observe.observe(host, observe.readers(known), (), known)
    if observed.program is None:
        raise HostError("the loaded rules cannot be read: " + ("; ".join(observed.unknown) or "root is needed"))
    rules = {name: text for name, text in observed.listings.items() if not name.endswith("/users")}
    text = "".join(rules[name] for name in sorted(rules))
    return Source(
        HOST if target == HERE else target,
        text,
        observed.program,
        own_addresses=known.own_addresses(),
        observed=observed,
        language=_languages(name.partition("/")[0] for name in rules),
    )


def _languages(names: Iterable[str]) -> str:
    return "+".join(sorted(set(names)))


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(MOST_TEXT + 1)
    except OSError as error:
        raise Problems([Problem("bad-file", f"cannot read `{path}`: {error.strerror}")]) from None
    if len(data) > MOST_TEXT:
        raise Problems([Problem("too-large", f"`{path}` has more than {MOST_TEXT // 1024 // 1024} MiB")])
    return data.decode("utf-8", "replace")


Listings = dict[str, dict[str, str]]
"""{back end: {listing: text}}."""
Numbers = dict[str, tuple[int, ...]]
"""{listing: for each of its lines the number of the line that it stands for}, of a listing that was rewritten."""


def _listings(texts: Mapping[str, str], numbers: Numbers) -> Listings:
    """The files that are listings, by the back end that knows them. None at all: {}."""
    from portctl import backends
    from portctl.importing import inputs
    from portctl.importing import listings as people

    found: Listings = {}
    strange: list[Problem] = []
    for path, given in texts.items():
        parts = inputs.rewritten(path, given)
        listed = [("nftables" if place == "ruleset" else "iptables", place) for place in parts]
        claims = ((name, claim) for name in backends.LANGUAGES if (claim := backends.load(name).claims(given)))
        listed = listed or list(islice(claims, 1))
        if not listed:
            strange.append(Problem("bad-file", f"`{path}` is no listing of rules that portctl knows"))
        for name, place in listed:
            listing, part = place, parts.get(place)
            text = "".join(f"{line}\n" for _, line in part.reads) if part else given
            if listing == "members":  # of a table that the file is called after
                listing, text = "tables", f"table {people.table_of(path)}\n{text}"
            if listing == "tables" and listing in found.get(name, {}):
                text = f"{found[name].pop(listing).rstrip()}\n{text}"
            if listing in found.setdefault(name, {}):
                strange.append(Problem("bad-file", f"`{path}` is a second listing of the same kind"))
            found[name][listing] = text
            if part:
                numbers[listing] = tuple(number for number, _ in part.reads)
    if strange and found:
        raise Problems(strange)
    return found


def _numbered(program: Program, numbers: Numbers) -> Program:
    """With the numbers that the lines have in the text that was given."""

    def chain(each: Chain) -> Chain:
        mine = numbers.get("ruleset" if " " in each.table else f"rules.v{each.family}", ())
        lines = (replace(line, number=mine[line.number - 1]) if line.number else line for line in each.lines)
        return replace(each, lines=tuple(lines)) if mine else each

    return replace(program, chains=tuple(map(chain, program.chains))) if numbers else program


def _program(title: str, listings: Listings, numbers: Numbers | None = None) -> Source:
    from portctl import backends
    from portctl.observe.programs import merge

    program = merge([backends.load(name).parse(texts) for name, texts in listings.items()])
    program = _numbered(program, numbers or {})
    families = {chain.family for chain in program.chains}
    said: tuple[Family, ...] = FAMILIES if None in families else tuple(f for f in FAMILIES if f in families)
    text = "".join(text for texts in listings.values() for text in texts.values())
    return Source(title, text, program, said or FAMILIES, language=_languages(listings), file=title.partition(",")[0])


def _bundle(folder: Path) -> Source:
    """A folder that holds the rule files of a back end, or such a folder by its name."""
    from portctl import backends
    from portctl.backends.base import is_part

    found: Listings = {}
    known = tuple(dict.fromkeys((*backends.LANGUAGES, *backends.OFFERED, *backends.EVERY)))
    own = folder.resolve().name
    for name in (own,) if own in known else known:
        backend = backends.load(name)
        for place in (folder, folder / name) if name in (*backends.LANGUAGES, own) else (folder / name,):
            if any((place / part).is_file() for part in backend.PARTS):
                found[name] = {
                    path.name: _text(path) for path in sorted(place.iterdir()) if is_part(backend, path.name)
                }
    if len(found) > 1:
        hint = " or ".join(f"`{folder / name}`" for name in found)
        raise Problems([Problem("bad-file", f"`{folder}` holds rules for {' and '.join(found)}", None, f"name {hint}")])
    if not found:
        raise Problems([Problem("bad-file", f"`{folder}` holds no rule files", None, "see `portctl render --output`")])
    return _program(str(folder), found)
