"""The part of pf's grammar that portctl writes, read strictly: what a pfctl would refuse of a rendered line.

After parse.y of FreeBSD (13 to 15) and OpenBSD: the order of words in `rdr` and `nat` rules, what each may ask, and the
checks of `filter_consistent`, `rdr_consistent` and `nat_consistent`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from portctl.backends.pf.dialects import Dialect

NAME = r"[A-Za-z0-9_.-]+"
NUMBERS = r"(?:\d+(?::\d+)?|\{(?: \d+(?::\d+)?)+ \})"
DEVICES = rf"(?: on (?:{NAME}|\{{(?: {NAME})+ \}}))?"
HOST = rf"(?:any|(?:! )?<{NAME}>|[0-9a-f.:]+(?:/\d+)?|\(self(?::broadcast)?\)|\({NAME}:0\))"
BODY = (
    rf"{DEVICES}(?P<family> inet6?)?(?: proto (?P<proto>[a-z0-9]+))? from (?P<source>{HOST})(?P<sport> port {NUMBERS})?"
)
BODY += rf" to (?P<destination>{HOST})(?P<port> port {NUMBERS})?"
POOL = rf"(?P<target>[0-9a-f.:]+(?P<mask>/\d+)?|\({NAME}:0\))(?P<tport> port \d+)?(?P<bitmask> bitmask)?"
LIMITS = r"source-track rule(?:, max-src-(?:conn|states) \d+)?(?:, max-src-conn-rate \d+/\d+)?"
OPTION = re.compile(
    rf""" (?:(?P<types>icmp6?-type) (?:\d+ code \d+|\d+|\{{(?: \d+)+ \}})|user {NAME}"""
    rf"""|(?P<flags>flags (?:S/SAFR|any))|(?P<keep>keep state(?: \((?:{LIMITS}|sloppy)\))?)|(?P<no>no state)"""
    rf"""|(?P<opts>allow-opts)|label "(?P<label>[A-Za-z0-9_:.-]+)"|tag (?P<tag>{NAME})"""
    rf"""|(?P<tagged>(?:! )?tagged {NAME})|(?P<to>(?:rdr|nat)-to) {POOL})(?= |$)"""
)
FILTER = re.compile(rf"(?P<action>pass|block drop|block return|match) (?P<way>in|out)(?: log)?(?P<quick> quick)?{BODY}")
RDR = re.compile(rf"rdr{BODY} tag {NAME} -> {POOL}")
NO_RDR = re.compile(rf"no rdr{BODY}(?: tag {NAME})?")
NAT = re.compile(rf"nat{BODY} tag {NAME} tagged {NAME} -> {POOL}")
PLAIN = (
    re.compile(
        r"set skip on lo0|set block-policy drop|set ruleset-optimization none|set limit (?:table-entries|src-nodes) \d+"
    ),
    re.compile(rf'table <{NAME}> (?:persist|const (?:\{{(?: [0-9a-f.:]+(?:/\d+)?)+ \}}|file "{NAME}"))'),
)


def wrong(line: str, dialect: Dialect) -> str | None:
    """Why this pfctl refuses a line; None: it takes it."""
    if any(pattern.fullmatch(line) for pattern in PLAIN):
        return None
    if line == ("set reassemble yes" if dialect.reassemble else "scrub in all fragment reassemble"):
        return None
    for pattern in () if dialect.rules_translate else (RDR, NO_RDR, NAT):
        if match := pattern.fullmatch(line):
            return next(_translating(match, dialect), None)
    match = FILTER.match(line)
    if match is None or (match["action"] == "match" and not dialect.rules_translate):
        return "a syntax error"
    return next(_filtering(match, line[match.end() :], dialect), None)


def _ends(match: re.Match[str], dialect: Dialect) -> Iterator[str]:
    ported = ("tcp", "udp", "sctp") if dialect.sctp_ports else ("tcp", "udp")
    if (match["port"] or match["sport"]) and match["proto"] not in ported:
        yield f"port only applies to {ported}"
    family = (match["family"] or "").strip()
    for end in ("source", "destination"):
        if re.match(r"[0-9a-f]*[.:]", match[end]) and family != ("inet6" if ":" in match[end] else "inet"):
            yield "an address of no or another family"
    if {"icmp": "inet6", "icmp6": "inet"}.get(match["proto"] or "") == family:
        yield "a protocol of the other family"


def _translating(match: re.Match[str], dialect: Dialect) -> Iterator[str]:
    yield from _ends(match, dialect)
    if "target" in match.groupdict():
        yield from _pool(match, match["family"], match["proto"])


def _pool(match: re.Match[str], family: str | None, proto: str | None) -> Iterator[str]:
    target = match["target"]
    if not family or (target[0] != "(" and (":" in target) != (family == " inet6")):
        yield "a target of no or another family"
    if match["tport"] and proto not in ("tcp", "udp", "sctp"):
        yield "a port for a protocol without"
    if bool(match["mask"]) != bool(match["bitmask"]):
        yield "a network is a pool, unless it is a bitmask"


def _filtering(match: re.Match[str], rest: str, dialect: Dialect) -> Iterator[str]:
    yield from _ends(match, dialect)
    seen: list[str] = []
    while rest:
        option = OPTION.match(rest)
        if option is None:
            yield f"a syntax error: {rest}"
            return
        rest = rest[option.end() :]
        kinds = [
            name for name in ("types", "flags", "keep", "no", "opts", "label", "tag", "tagged", "to") if option[name]
        ]
        yield from (f"{kind} twice" for kind in kinds if kind in seen)
        seen += kinds
        yield from _option(match, option, dialect)
    if {"keep", "no"} & {*seen} and match["action"] != "pass":
        yield "keep state is for pass rules"
    if "opts" in seen and match["action"] != "pass":
        yield "allow-opts is for pass rules"


def _option(match: re.Match[str], option: re.Match[str], dialect: Dialect) -> Iterator[str]:
    if option["types"]:
        wanted = {"icmp-type": (" inet", "icmp"), "icmp6-type": (" inet6", "icmp6")}[option["types"]]
        if (match["family"], match["proto"]) != wanted:
            yield "ICMP types of another protocol, or without the family"
    if option["to"]:
        if not dialect.rules_translate:
            yield "no such word"
        if option["to"] != {"in": "rdr-to", "out": "nat-to"}[match["way"]]:
            yield "a translation the wrong way"
        yield from _pool(option, match["family"], match["proto"])
    if len(option["label"] or "") > 63 or len(option["tag"] or "") > 63:
        yield "too long"
