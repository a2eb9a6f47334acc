"""What pfctl lists of a rendered pf.conf once it is loaded: `print_rule` and `print_fromto` of pfctl_parser.c, as the
captured listings show them (tests/observed/pf): lists become rules, words stand in an order of their own, numbers
become names where a database has them, names of users become numbers.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass

from portctl.services import by_name

USERS = "root:*:0:0::/root:/bin/sh\ntoor:*:0:0::/root:\nwww:*:80:80::/:\n_apt:*:105:1::/:\nnobody:*:65534:1::/:\n"
TYPES = {
    "icmp": {0: "echorep", 3: "unreach", 8: "echoreq", 11: "timex", 12: "paramprob"},
    "icmp6": {1: "unreach", 2: "toobig", 3: "timex", 4: "paramprob", 128: "echoreq", 129: "echorep", 130: "groupqry",
              131: "grouprep", 132: "groupterm", 133: "routersol", 134: "routeradv", 135: "neighbrsol",
              136: "neighbradv", 137: "redir", 143: "listenrepv2"},
}  # fmt: skip
PROTOCOLS = {"icmp6": "ipv6-icmp", "46": "rsvp", "51": "ah", "89": "ospf", "97": "etherip", "112": "carp", "33": "dccp"}
_PARTS = re.compile(r'(?P<string>"[^"]*")|\{(?P<list>[^}]*)\}|(?P<group>\([^)]*\))|(?P<word>[^\s"{}()]+(?:\([^)]*\))?)')


@dataclass(frozen=True, slots=True)
class System:
    """How one pfctl prints. `names`: ports by their names; `keep`: `keep state` is said where it has no options."""

    names: bool
    keep: bool


FREEBSD, OPENBSD = System(names=True, keep=True), System(names=False, keep=False)


def services() -> str:
    """A services database, for `names`."""
    lines = []
    for name, each in by_name().items():
        if name == each.name and each.first == each.last:
            lines += [f"{name} {each.first}/{protocol}" for protocol in each.protocols]
    return "\n".join(lines) + "\n"


def listings(conf: str, files: dict[str, str], system: System) -> dict[str, str]:
    """The answers to the questions of the back end, after a load of `conf`."""
    rules: list[str] = []
    nat: list[str] = []
    tables: list[str] = []
    for line in conf.splitlines():
        first = line.split(" ", 1)[0]
        if first == "table":
            tables += _table(line, files)
        elif first in ("nat", "rdr", "no"):
            nat += [_translation(each, system) for each in expanded(line)]
        elif first in ("pass", "block", "match", "anchor"):
            rules += [_rule(each, system) for each in expanded(line)]
    return {
        "rules": "".join(f"{line}\n" for line in rules),
        "translations": "".join(f"{line}\n" for line in nat),
        "tables": "".join(f"{line}\n" for line in tables),
        "interfaces": "lo0 (skip)\nem0\n" if "set skip on lo0" in conf else "lo0\nem0\n",
        "services": services(),
        "users": USERS,
    }


def _table(line: str, files: dict[str, str]) -> list[str]:
    name = line.split()[1][1:-1]
    if found := re.search(r"\{(.*)\}", line):
        members = found[1].split()
    else:
        file = re.search(r'file "(.*)"', line)
        members = files[file[1]].split() if file else []
    return [f"table {name}", *(f"   {member}" for member in members)]


def expanded(line: str) -> list[list[str]]:
    """The words of each rule that pfctl makes of a line: one for each choice out of its lists."""
    choices: list[list[str]] = []
    for found in _PARTS.finditer(line):
        choices.append(found["list"].split() if found["list"] is not None else [found[0]])
    return [list(words) for words in itertools.product(*choices)]


def _port(word: str, protocol: str, system: System) -> str:
    if ":" in word:
        return f"port {word}"
    if system.names:
        for name, each in by_name().items():
            if each.first == each.last == int(word) and name == each.name and protocol in each.protocols:
                return f"port = {name}"
    return f"port = {word}"


def _body(words: list[str], system: System) -> tuple[str, list[str]]:
    """`on … inet proto … from … to …` of the words, and those behind it."""
    found, at, protocol = [], 0, ""
    while words[at] != "from":
        if words[at] == "proto":
            protocol = words[at + 1]
            found.append(f"proto {PROTOCOLS.get(protocol, protocol)}")
            at += 2
        else:
            found.append(words[at])
            at += 1
    ends: list[str] = []
    for _ in range(2):
        count = 3 if words[at + 1] == "!" else 2
        ends += words[at : at + count]
        at += count
        if words[at : at + 1] == ["port"]:
            ends.append(_port(words[at + 1], protocol, system))
            at += 2
    text = " ".join(ends)
    return " ".join([*found, "all" if text == "from any to any" else text]), words[at:]


_ORDER = (
    *("user", "flags", "icmp-type", "icmp6-type", "no state", "keep state", "allow-opts", "label", "tag"),
    *("! tagged", "tagged", "nat-to", "rdr-to"),
)


def _rule(words: list[str], system: System) -> str:
    if words[0] == "anchor":
        return " ".join(words)
    head, rest = _body(words, system)
    said: dict[str, str] = {}
    at = 0
    while at < len(rest):
        word, value = rest[at], rest[at + 1] if at + 1 < len(rest) else ""
        if word in ("keep", "no"):
            options = rest[at + 2] if rest[at + 2 : at + 3] and rest[at + 2].startswith("(") else ""
            said[f"{word} state"] = f"{word} state {options}".strip() if word == "no" or options or system.keep else ""
            at += 3 if options else 2
        elif word == "!":
            said["! tagged"] = f"! tagged {rest[at + 2]}"
            at += 3
        elif word == "allow-opts":
            said[word] = word
            at += 1
        elif word in ("nat-to", "rdr-to"):
            said[word] = " ".join(rest[at:])
            at = len(rest)
        else:
            said[word] = _option(word, value)
            at += 2
    return " ".join(part for part in (head, *(said[key] for key in _ORDER if key in said)) if part)


def _option(word: str, value: str) -> str:
    if word == "user":
        number = next(line.split(":")[2] for line in USERS.splitlines() if line.startswith(f"{value}:"))
        return f"user = {number}"
    if word == "flags":
        return f"flags {value.replace('SAFR', 'FSRA')}"
    if word in ("icmp-type", "icmp6-type"):
        kind = "icmp6" if word == "icmp6-type" else "icmp"
        return f"{word} {TYPES[kind].get(int(value), value)}"
    return f"{word} {value}"


def _translation(words: list[str], system: System) -> str:
    if "->" not in words:
        head, rest = _body(words, system)
        return " ".join([head, *rest])
    arrow = words.index("->")
    head, rest = _body(words[:arrow], system)
    pool = words[arrow + 1 :]
    return " ".join([head, *rest, "->", *pool])
