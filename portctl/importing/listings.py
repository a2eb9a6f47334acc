"""What `iptables -L -n -v` prints, as the lines that `iptables-save` would have printed.

The words are those of the `print` functions of iptables' extensions, of versions from 1.3 to 1.8. What stands behind
the addresses and is not known becomes a match of its own, which nobody can ask.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

Read = tuple[int, str]
"""A line as the parser gets it, and the number of the line that it stands for, from 1."""
CHAIN = re.compile(r"^Chain (\S+) \((?:policy (\S+?)(?: \d.*)?|\d+ references)\)\s*$")
HEAD = re.compile(r"^\s*(num )?\s*(pkts\s+bytes)?\s*target\s+prot\s+opt\s+(in\s+out)?")
HEAD_LINE = re.compile(
    r"^[ \t]*(num )?[ \t]*(pkts[ \t]+bytes)?[ \t]*target[ \t]+prot[ \t]+opt[ \t]+(in[ \t]+out)?", re.M
)
_PROMPT = re.compile(r"\bip6?tables\b(?:-\w+)?(?=.* (?:-\w*L|--list))(?:.* (?:-t|--table)[ =]?(\w+))?")
"""The command that printed what follows, where it was copied along."""
_NOT_LISTED = "interfaces (listed only with -v)"
_ADDRESS = re.compile(r"^!?(anywhere|[0-9a-fA-F]*[.:][0-9a-fA-F.:]*(/[0-9a-fA-F.:]+)?)$")
_OPTIONS = ("--", "-f", "!f", "f")
_TABLES = {
    frozenset(("INPUT", "FORWARD", "OUTPUT")): "filter",
    frozenset(("PREROUTING", "OUTPUT", "POSTROUTING")): "nat",
    frozenset(("PREROUTING", "INPUT", "OUTPUT", "POSTROUTING")): "nat",
    frozenset(("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING")): "mangle",
    frozenset(("PREROUTING", "OUTPUT")): "raw",
}


@dataclass(slots=True)
class _Table:
    named: str = ""
    """By the command before it."""
    chains: list[tuple[int, str, str]] = field(default_factory=list)
    rules: list[Read] = field(default_factory=list)

    def ends(self, chain: str, built_in: bool) -> bool:
        """Whether a chain is of the next table: built-in ones come first, in the order of their hooks."""
        own = [name for _, name, policy in self.chains if policy == "-"]
        before = [name for _, name, policy in self.chains if policy != "-"]
        if chain in own or chain in before:
            return True
        return built_in and (bool(own) or any(_place_of(chain) <= _place_of(name) for name in before))

    def name(self) -> str:
        """A listing does not say its table: its built-in chains do. Some of them alone are those of `filter`."""
        mine = frozenset(name for _, name, policy in self.chains if policy != "-")
        if self.named:
            return self.named
        return _TABLES.get(mine) or ("filter" if mine <= {"INPUT", "FORWARD", "OUTPUT"} else "nat")


_HOOKS = ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING")


def _place_of(chain: str) -> int:
    return _HOOKS.index(chain) if chain in _HOOKS else len(_HOOKS)


def table_of(name: str) -> str:
    """The table that a file is called after: `office.table`, `host.T-show.office.txt`."""
    stem = re.sub(r"\.(?:txt|table|list)$", "", name.rsplit("/", 1)[-1])
    return stem.rpartition("T-show.")[2]


def is_listing(text: str) -> bool:
    return re.search(r"^Chain \S+ \((policy \S+|\d+ references)", text, re.M) is not None


def leaves_out(text: str) -> bool:
    """Whether a listing lacks the columns of interfaces, which only `-v` prints."""
    return any(not head[3] for head in HEAD_LINE.finditer(text))


def saved(lines: Iterable[Read]) -> list[Read]:
    """The lines of some listings, one table after the other."""
    tables: list[_Table] = []
    columns = _Columns()
    chain = ""
    for number, line in lines:
        if found := CHAIN.match(line.strip()):
            chain = found[1]
            if not tables or (tables[-1].chains and tables[-1].ends(chain, found[2] is not None)):
                tables.append(_Table())
            tables[-1].chains.append((number, chain, found[2] or "-"))
        elif head := HEAD.match(line):
            columns = _Columns(head[1] is not None, head[2] is not None, head[3] is not None)
        elif (prompt := _PROMPT.search(line)) and not _COUNTED.match(line):
            tables.append(_Table(prompt[1] or "filter"))
        elif line.strip() and tables:
            rule = _rule(line.split(), line, columns)
            tables[-1].rules.append((number, f"-A {chain} {rule}" if rule is not None else line))
        elif line.strip():
            tables.append(_Table(rules=[(number, line)]))
    return [read for table in tables for read in _table(table)]


def _table(table: _Table) -> Iterator[Read]:
    first = table.chains[0][0] if table.chains else 1
    yield first, f"*{table.name()}"
    for number, chain, policy in table.chains:
        yield number, f":{chain} {policy} [0:0]"
    yield from table.rules


@dataclass(frozen=True, slots=True)
class _Columns:
    """Those that a listing has beside its target, protocol, options and addresses."""

    numbers: bool = False
    counters: bool = True
    interfaces: bool = True


_COUNTED = re.compile(r"^\s*\d+\s")


def _rule(words: list[str], line: str, columns: _Columns) -> str | None:
    """What stands behind the chain's name; None for what is no rule."""
    first = int(columns.numbers)
    start = first + 2 * columns.counters
    gap = 2 * columns.interfaces
    options = (
        k + 1 + gap
        for k in (start + 1, start + 2)
        if words[k : k + 1] and words[k] in _OPTIONS and k + gap + 2 < len(words)
    )
    near = (k for k in range(start + gap + 1, len(words) - 1) if _addresses(words, k))
    at = next(options, None) or next(near, None)
    if at is None or not all(re.fullmatch(r"\d+[KMGTP]?", word) for word in words[first:start]):
        return None
    fragment = words[at - gap - 1] if words[at - gap - 1] in _OPTIONS else ""
    protocol = at - gap - 2 if fragment else at - gap - 1
    if protocol < start or protocol > start + 1:
        return None
    target = words[start] if protocol > start else ""
    made = [_place("-s", words[at]), _place("-d", words[at + 1])]
    made += [_place("-i", words[at - 2]), _place("-o", words[at - 1])] if columns.interfaces else []
    made += [_place("-p", words[protocol]), {"-f": "-f", "!f": "! -f"}.get(fragment, "")]
    if not columns.interfaces and target not in _QUIET:
        made.append(f'-m unknown --words "{_NOT_LISTED}"')
    rest = (line.split(maxsplit=at + 2)[at + 2 :] or [""])[0].strip()
    return " ".join(word for word in (*made, *_behind(rest, target)) if word)


def _addresses(words: list[str], at: int) -> bool:
    return bool(_ADDRESS.match(words[at]) and _ADDRESS.match(words[at + 1]))


def _place(option: str, word: str) -> str:
    """`!10.0.0.0/8` as `! -s 10.0.0.0/8`; nothing for what is anything."""
    plain = word.removeprefix("!")
    if plain in ("*", "any", "anywhere", "0.0.0.0/0", "::/0", "all", "0") and plain == word:
        return ""
    return f"! {option} {plain}" if plain != word else f"{option} {plain}"


def _behind(rest: str, target: str) -> Iterator[str]:
    """Matches, then the target, of what is printed behind the addresses."""
    options: list[str] = []
    unknown: list[str] = []
    jump = "-j"
    rest = _RUN_ON.sub(r"\1 flags:\2", rest)
    while rest:
        known = _word(rest)
        if known is None:
            word, _, rest = rest.partition(" ")
            unknown.append(word)
            continue
        found, said = known
        if said == "-g":
            jump = said
        elif said.startswith("--"):
            options.append(_TO.get(target, "--to-destination") + said[4:] if said.startswith("--to ") else said)
        else:
            yield said
        rest = rest[found.end() :].strip()
    if unknown and target not in _QUIET:
        yield f'-m unknown --words "{_plain(" ".join(unknown))}"'
    if target:
        yield " ".join((jump, target, *options))


_RUN_ON = re.compile(r"\b(tcp|tcp [ds]pts?:\S+?|[ds]pts?:\S+?) ?flags: ?(!?0x[0-9A-Fa-f]+/0x[0-9A-Fa-f]+)")
"""`dpt:9050flags: 0x17/0x02`, as iptables 1.4.20 and 1.4.21 print it."""


def _word(rest: str) -> tuple[re.Match[str], str] | None:
    """The first match or option that a text begins with, and what it is in a save."""
    for pattern, write in _WORDS:
        if found := pattern.match(rest):
            return found, write(found)
    return None


_TO = {"SNAT": "--to-source", "NETMAP": "--to", "SAME": "--to"}
_QUIET = ("LOG", "NFLOG", "ULOG", "AUDIT", "TCPMSS", "CLASSIFY", "TOS", "DSCP", "CT", "NOTRACK", "CHECKSUM", "TTL")
"""Targets that change no verdict, whatever is printed of them."""


def _plain(text: str) -> str:
    return text.replace("\\", "").replace('"', "'")


def _goto(found: re.Match[str]) -> str:
    del found
    return "-g"


def _ported(found: re.Match[str]) -> str:
    """`tcp spt:53 dpts:1024:65535 flags:!0x17/0x02`."""
    made = [f"-m {found[1]}"]
    for kind, negated, value in re.findall(r"(dpts?|spts?|flags):(!?)(\S+)", found[2]):
        option = {"d": "--dport", "s": "--sport", "f": "--tcp-flags"}[kind[0]]
        said = " ".join(_flag_words(part) for part in value.split("/")) if kind == "flags" else value
        made.append(f"{'! ' if negated else ''}{option} {said}")
    return " ".join(made)


_FLAGS = ("FIN", "SYN", "RST", "PSH", "ACK", "URG")


def _flag_words(text: str) -> str:
    """`0x17` as `FIN,SYN,RST,ACK`."""
    if not text.startswith("0x"):
        return text
    bits = int(text, 16)
    return ",".join(flag for k, flag in enumerate(_FLAGS) if bits >> k & 1) or "NONE"


def _icmp(found: re.Match[str]) -> str:
    name, option = ("icmp6", "--icmpv6-type") if "6" in found[1] else ("icmp", "--icmp-type")
    code = f"/{found[4]}" if found[4] else ""
    return f"-m {name} {'! ' if found[2] else ''}{option} {found[3]}{code}"


def _icmp_name(found: re.Match[str]) -> str:
    name, option = ("icmp6", "--icmpv6-type") if "6" in found[1] else ("icmp", "--icmp-type")
    return f"-m {name} {'! ' if found[2] else ''}{option} {found[3]}"


def _hardware(found: re.Match[str]) -> str:
    return f"-m mac {'! ' if found[1] else ''}--mac-source {found[2]}"


def _user(found: re.Match[str]) -> str:
    return f"-m owner {'! ' if found[1] else ''}--uid-owner {found[2]}"


def _set_mark(found: re.Match[str]) -> str:
    return f"--set-xmark {found[1] if '/' in found[1] else found[1] + '/0xffffffff'}"


def _limited(found: re.Match[str]) -> str:
    rate, burst, mode = found[2], found[3] or "5", found[4]
    if found[1] == "avg":
        return f"-m limit --limit {rate} --limit-burst {burst}"
    how = "above" if found[1] == "above" else "upto"
    per = f" --hashlimit-mode {mode}" if mode else ""
    return f"-m hashlimit --hashlimit-{how} {rate} --hashlimit-burst {burst}{per} --hashlimit-name x"


def _recent(found: re.Match[str]) -> str:
    negated, kind, rest = found[1], found[2], found[3]
    option = {"SET": "--set", "UPDATE": "--update", "CHECK": "--rcheck", "REMOVE": "--remove"}[kind]
    seconds, hits = re.search(r"seconds: (\d+)", rest), re.search(r"hit_count: (\d+)", rest)
    name, side = re.search(r"name: (\S+)", rest), re.search(r"side: (\w+)", rest)
    made = f"-m recent {'! ' if negated else ''}{option}"
    made += f" --seconds {seconds[1]}" if seconds else ""
    made += f" --hitcount {hits[1]}" if hits else ""
    made += f" --name {name[1]}" if name else ""
    return f"{made} {'--rdest' if side and side[1] == 'dest' else '--rsource'}"


def _several(found: re.Match[str]) -> str:
    return f"-m multiport {'! ' if found[2] else ''}--{found[1]} {found[3]}"


def _range(found: re.Match[str]) -> str:
    return f"-m iprange {'! ' if found[2] else ''}--{'src' if found[1] == 'source' else 'dst'}-range {found[3]}"


def _kind(found: re.Match[str]) -> str:
    sides = re.findall(r"(src|dst)-type (!?)\s*(\S+)", found[1])
    return "-m addrtype " + " ".join(f"{'! ' if no else ''}--{side}-type {kind}" for side, no, kind in sides)


def _connections(found: re.Match[str]) -> str:
    option = "--connlimit-above" if found[2] == ">" else "--connlimit-upto"
    return f"-m connlimit {option} {found[3]} --connlimit-mask {found[1]} --connlimit-saddr"


def _negatable(module: str, option: str) -> Callable[[re.Match[str]], str]:
    """A match with one value, behind a `!` in group 1."""
    return lambda found: f"-m {module} {'! ' if (found[1] or '').strip() else ''}{option} {found[2]}"


def _option(option: str) -> Callable[[re.Match[str]], str]:
    """An option of the target."""
    return lambda found: f"{option} {found[1]}"


def _to(found: re.Match[str]) -> str:
    return f"--to {found[1]}"


_WORDS: tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], str]], ...] = (
    (re.compile(r"\[goto\]"), _goto),
    (re.compile(r"/\* (.*?) \*/"), lambda found: f'-m comment --comment "{_plain(found[1])}"'),
    (re.compile(r"(tcp|udp|sctp|dccp|udplite)((?: (?:[ds]pts?:\S+|"
                r"flags:!?(?:0x[0-9A-Fa-f]+/0x[0-9A-Fa-f]+|[A-Z,]+/[A-Z,]+)(?!\S)))+)"), _ported),
    (re.compile(r"(icmp|ipv6-icmp|icmpv6)\s?(!)?type (\d+)(?: code (\d+))?\b(?!-)"), _icmp),
    (re.compile(r"(icmp|ipv6-icmp|icmpv6) (!)?([a-z]+-[a-z-]+)"), _icmp_name),
    (re.compile(r"(! )?state (\S+)"), _negatable("state", "--state")),
    (re.compile(r"(! )?ctstate (\S+)"), _negatable("conntrack", "--ctstate")),
    (re.compile(r"multiport ([sd]?ports)\s+(!)?\s*(\S+)"), _several),
    (re.compile(r"reject-with (\S+)"), _option("--reject-with")),
    (re.compile(r"limit: (avg|up to|above) (\S+)(?: burst (\d+))?(?: mode (\S+))?(?: htable-\S+ \S+| srcmask \d+)*"),
     _limited),
    (re.compile(r"(source|destination) IP range\s+(!)?\s*(\S+)"), _range),
    (re.compile(r"(! )?(?:match-)?set (\S+ (?:src|dst)(?:,(?:src|dst))*)"), _negatable("set", "--match-set")),
    (re.compile(r"ADDRTYPE match((?: (?:src|dst)-type !?\s?\S+)+)"), _kind),
    (re.compile(r"MAC\s?(! ?)?([0-9A-Fa-f:]{17})"), _hardware),
    (re.compile(r"(! ?)?owner UID match (\S+)"), _user),
    (re.compile(r"mark match (!?)\s?(0x\S+)"), _negatable("mark", "--mark")),
    (re.compile(r"MARK (?:xset|set) (0x\S+)"), _set_mark),
    (re.compile(r"recent: (! ?)?(SET|UPDATE|CHECK|REMOVE)((?: (?:seconds: \d+|hit_count: \d+|name: \S+|side: \w+"
                r"|mask: \S+))*)"), _recent),
    (re.compile(r"#conn(?: src)?/(\d+) (>|<=|<) ?(\d+)"), _connections),
    (re.compile(r"to:(\S+)"), _to),
    (re.compile(r"redir ports (\S+)"), _option("--to-ports")),
)  # fmt: skip
"""What the matches and targets print, and what they are in a save."""
