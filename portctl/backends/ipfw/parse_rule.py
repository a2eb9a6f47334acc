"""One rule's words as an action and conditions. What it does not know becomes UNKNOWN, in its place."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cache
from typing import Literal

from portctl.backends.ipfw.layout import OPEN
from portctl.backends.ipfw.listed import Listing
from portctl.backends.ipfw.tables import NO_PACKET, asked, either, flows, network, numbers
from portctl.net import Family, Ranges
from portctl.program import Condition, Field
from portctl.ruleset import ACK, FIN, ICMP, ICMPV6, LOOPBACK, RST, SYN
from portctl.services import LISTED_PROTOCOLS, PROTOCOLS, by_name

Way = Literal["in", "out"]
_PROTOCOLS = {**LISTED_PROTOCOLS, **PROTOCOLS}
_FLAGS = {"fin": FIN, "syn": SYN, "rst": RST, "psh": 8, "ack": ACK, "urg": 32}
_STATEFUL = ("keep-state", "limit", "record-state", "set-limit")
_PLAIN = ("frag", "ipoptions", "tcpoptions", "iplen", "iptos", "gid", "jail", "dscp", "fib", "flow-id", "tcpdatalen",
          "ipprecedence", "tcpwin", "tcpseq", "tcpack", "ipid", "ipversion", "mark", "ipsec", "sockarg", "diverted",
          "diverted-loopback", "diverted-output", "verrevpath", "versrcreach", "antispoof", "bridged", "tcpmss",
          "defer-action", "defer-immediate-action", "src-mac", "dst-mac", "mac-type")  # fmt: skip
_ALONE = ("sockarg", "diverted", "diverted-loopback", "diverted-output", "verrevpath", "versrcreach",
          "antispoof", "ipsec", "bridged", "defer-action", "defer-immediate-action")  # fmt: skip
_EXTERNAL = ("tcp-setmss", "nptv6", "nat64lsn", "nat64stl", "nat64clat")
"""Actions of modules, each with its instance or its value."""
_AH = 51
NEVER = Condition(Field.CONCATENATION, ())


@dataclass(slots=True)
class Rule:
    """A rule understood, for one way. `action` in words; `never`: it cannot match on this way."""

    action: list[str]
    log: bool = False
    tag: str = ""
    untag: str = ""
    conditions: list[Condition] = field(default_factory=list)
    state: str = ""
    """`keep-state`, `limit`, …; `name` is the state's."""
    name: str = "default"
    limit: str = ""
    argument: list[tuple[Condition, str]] = field(default_factory=list)
    """What `tablearg` is: (where, value)."""

    @property
    def never(self) -> bool:
        return NEVER in self.conditions


@dataclass(slots=True)
class Reader:
    """Words of one rule, for one way."""

    listing: Listing
    tokens: list[str]
    way: Way
    tags: dict[str, int]
    at: int = 0

    def peek(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def next(self) -> str:
        word = self.peek()
        self.at += 1
        return word

    def rule(self) -> Rule:
        rule = Rule([])
        if self.peek() == "prob":
            rule.conditions.append(Condition(Field.UNKNOWN, f"{self.next()} {self.next()}"))
        rule.action = self._action()
        while self.peek() in ("log", "logamount", "logdst", "tag", "untag", "altq"):
            self._modifier(rule, self.next())
        if rule.action[0] == "check-state":
            rule.name = self.next().removeprefix(":") or "default"
            return rule
        if self.at < len(self.tokens):
            self._body(rule)
        return rule

    def _action(self) -> list[str]:
        word = self.next()
        one_more = ("skipto", "nat", "fwd", "forward", "divert", "tee", "pipe", "queue", "netgraph", "ngtee", "unreach")
        if word in (*one_more, *_EXTERNAL, "unreach6", "setfib", "setdscp", "call", "setmark", "eaction", "return"):
            words = [word, self.next()]
            if word in ("unreach", "unreach6") and words[1] == "needfrag" and self.peek().isdigit():
                words.append(self.next())
            return words
        return [word]

    def _modifier(self, rule: Rule, word: str) -> None:
        if word == "log":
            rule.log = True
        elif word == "tag":
            rule.tag = self.next()
        elif word == "untag":
            rule.untag = self.next()
        else:
            self.next()

    def _body(self, rule: Rule) -> None:
        if self.peek() in ("MAC", "mac"):
            rule.conditions.append(NEVER)  # layer 2
            self.at = len(self.tokens)
            return
        if self.peek() not in ("via", "in", "out"):
            rule.conditions += self._group(self._protocol)
            if self.peek() == "from":  # `-c` leaves `from any to any` out
                self.next()
                rule.conditions += self._side(rule, Field.SOURCE, Field.SOURCE_PORT)
                if self.next() != "to":
                    rule.conditions.append(Condition(Field.UNKNOWN, " ".join(self.tokens)))
                    return
                rule.conditions += self._side(rule, Field.DESTINATION, Field.PORT)
        while self.at < len(self.tokens):
            if self.peek() in _STATEFUL:
                self._state(rule)
            else:
                rule.conditions += self._group(lambda: self._option(rule))

    def _group(self, one: object) -> list[Condition]:
        """One condition, or several in braces of which one must hold; each may be negated."""
        assert callable(one)
        if self.peek() != "{":
            return list(self._negated(one))
        self.next()
        ways = [self._negated(one)]
        while self.peek() == "or":
            self.next()
            ways.append(self._negated(one))
        if self.next() != "}":
            return [Condition(Field.UNKNOWN, " ".join(self.tokens))]
        possible = [way for way in ways if NEVER not in way]
        if any(not way for way in possible):
            return []
        return [either(possible)] if possible else [NEVER]

    def _negated(self, one: object) -> tuple[Condition, ...]:
        assert callable(one)
        if self.peek() != "not":
            return tuple(one())
        self.next()
        if self.at >= len(self.tokens):
            return (Condition(Field.UNKNOWN, "not"),)
        inner = tuple(one())
        if NEVER in inner:
            return ()
        if any(condition.field is Field.UNKNOWN for condition in inner):
            return (Condition(Field.UNKNOWN, f"not {inner[0].value}"),)
        return (Condition(Field.CONCATENATION, (inner,), negated=True),) if inner else (NEVER,)

    def _protocol(self) -> list[Condition]:
        word = self.next()
        if word in ("ip", "all"):
            return []
        if word in ("ip4", "ipv4", "ip6"):
            return [_family(6 if word == "ip6" else 4)]
        number = int(word) if word.isdigit() else _PROTOCOLS.get(word)
        if number is None:
            return [Condition(Field.UNKNOWN, word)]
        if number == _AH:
            return _authenticated(4)
        found = [Condition(Field.PROTOCOL, Ranges.single(number))]
        return [*found, _family(4 if number == ICMP else 6)] if number in (ICMP, ICMPV6) else found

    def _side(self, rule: Rule, side: Field, port: Field) -> list[Condition]:
        found = self._group(lambda: self._address(rule, side))
        word = self.tokens[self.at + 1] if self.peek() == "not" and self.at + 1 < len(self.tokens) else self.peek()
        if re.fullmatch(r"[0-9][0-9,-]*", word) or _are_ports(word):
            found += self._group(lambda: [_ports(port, self.next())])
        return found

    def _address(self, rule: Rule, side: Field) -> list[Condition]:
        word = self.next()
        if word == "any":
            return []
        if word in ("me", "me6"):
            local = Condition(Field.LOCAL if side is Field.DESTINATION else Field.SENT, True)
            return [local, _family(6)] if word == "me6" else [local]
        if word.startswith("table("):
            if "tablearg" in rule.action:
                name = word.removeprefix("table(").removesuffix(")").partition(",")[0]
                for value in dict.fromkeys(v for _, v in self.listing.table(name).entries):
                    rule.argument.append((asked(self.listing, f"table({name},tag={value})", side), value))
            return [asked(self.listing, word, side)]
        return [_networks(word, side)]

    def _option(self, rule: Rule) -> list[Condition]:
        word = self.next()
        if word in ("in", "out"):
            return [] if word == self.way else [NEVER]
        if word in ("recv", "xmit", "via"):
            return self._device(rule, word)
        if word in ("src-ip", "src-ip6", "dst-ip", "dst-ip6"):
            return self._address(rule, Field.SOURCE if word.startswith("src") else Field.DESTINATION)
        if word in ("src-port", "dst-port"):
            return [_ports(Field.SOURCE_PORT if word == "src-port" else Field.PORT, self.next())]
        if word in ("proto", "ip4", "ip6"):
            self.at -= word != "proto"
            return self._protocol()
        if word in ("setup", "established", "tcpflags"):
            return [_flags("syn,!ack" if word == "setup" else self.next() if word == "tcpflags" else word)]
        if word in ("icmptypes", "icmp6types"):
            number = ICMP if word == "icmptypes" else ICMPV6
            types = [int(text) for text in self.next().split(",") if text.isdigit()]
            kinds = Ranges.of((t * 256, t * 256 + 255) for t in types)
            return [Condition(Field.PROTOCOL, Ranges.single(number)), Condition(Field.ICMP, kinds)]
        return self._rarely(rule, word)

    def _rarely(self, rule: Rule, word: str) -> list[Condition]:
        if word in ("layer2", "MAC", "mac"):  # asked of frames alone
            self.at += 0 if word == "layer2" else 2
            return [NO_PACKET]
        if word == "frag" and (self.peek() == "offset" or not re.match(r"!?(df|mf|rf|offset)\b", self.peek())):
            self.at += self.peek() == "offset"
            return [NO_PACKET]
        if word == "uid":
            return [Condition(Field.USER, self.next())]
        if word == "tagged":
            bit = 1 << self.tags.setdefault(self.next(), len(self.tags))
            return [Condition(Field.MARK, (bit, bit))]
        if word == "ipttl":
            return [_family(4), _ports(Field.HOP_LIMIT, self.next())]
        if word == "lookup":
            return self._lookup(rule)
        if word == "flow":
            name, _, value = self.next().removeprefix("table(").removesuffix(")").partition(",")
            if name == OPEN:
                return [NO_PACKET]  # run-time contents: never part of a program
            table = self.listing.table(name)
            if not table.known:
                return [Condition(Field.UNKNOWN, f"flow table({name})")]
            ways = list(flows(table, value.removeprefix("tag=") if value else None)) if ":" in table.kind else []
            return [either(ways)]
        if word in ("ext6hdr", "extension"):
            return self._extension(word)
        text = word
        if word in _PLAIN and word not in _ALONE:
            text = f"{word} {self.next()}"
        return [Condition(Field.UNKNOWN, text)]

    def _extension(self, word: str) -> list[Condition]:
        """A header on the way to the protocol, as it is written or as it is listed."""
        for ah in (["ah"], ["header:", "authentication", "header"]):
            if self.tokens[self.at : self.at + len(ah)] == ah:
                self.at += len(ah)
                return _authenticated(6)
        if word == "ext6hdr":
            return [Condition(Field.UNKNOWN, f"{word} {self.next()}")]
        text = " ".join([word, *self.tokens[self.at :]])
        self.at = len(self.tokens)
        return [Condition(Field.UNKNOWN, text)]

    def _device(self, rule: Rule, word: str) -> list[Condition]:
        name = self.next()
        if name == "any":
            return []
        side = Field.OUT if word == "xmit" or (word == "via" and self.way == "out") else Field.IN
        if side is Field.OUT and self.way == "in":
            return [NEVER]
        if not name.startswith("table("):
            by_address = re.match(r"[0-9]+\.|.*:", name)
            return [Condition(Field.UNKNOWN, f"{word} {name}") if by_address else _device(side, name)]
        table = self.listing.table(name.removeprefix("table(").removesuffix(")").partition(",")[0])
        if not table.known:
            return [Condition(Field.UNKNOWN, f"{word} {name}")]
        rule.argument += [(_device(side, key), value) for key, value in table.entries]
        return [either([(_device(side, key),) for key, _ in table.entries])]

    def _lookup(self, rule: Rule) -> list[Condition]:
        where, table = self.next(), self.next()
        if where not in ("dst-port", "src-port"):
            if where in ("dst-ip", "src-ip"):
                side = Field.SOURCE if where == "src-ip" else Field.DESTINATION
                return [asked(self.listing, f"table({table})", side)]
            return [Condition(Field.UNKNOWN, f"lookup {where} {table}")]
        if not self.listing.table(table).known:
            return [Condition(Field.UNKNOWN, f"lookup {where} {table}")]
        side = Field.PORT if where == "dst-port" else Field.SOURCE_PORT
        found = numbers(self.listing.table(table))
        rule.argument += [(Condition(side, Ranges.of(pairs)), value) for value, pairs in found.items()]
        return [Condition(side, Ranges.of(pair for pairs in found.values() for pair in pairs))]

    def _state(self, rule: Rule) -> None:
        rule.state = self.next()
        if "limit" in rule.state:
            words: list[str] = []
            while self.peek() and not self.peek().startswith(":"):
                words.append(self.next())
            rule.limit = " ".join(words)
        if self.peek().startswith(":"):
            rule.name = self.next()[1:]


def _authenticated(family: Family) -> list[Condition]:
    """AH is a protocol of IPv4; in IPv6 a header that is looked through, which `ext6hdr` finds."""
    return [Condition(Field.PROTOCOL, Ranges.single(_AH)), _family(family)]


def _family(family: Family) -> Condition:
    return Condition(Field.FAMILY, Ranges.single(family))


def _device(side: Field, name: str) -> Condition:
    return Condition(side, (LOOPBACK if name == "lo0" else name,))


def _networks(word: str, side: Field) -> Condition:
    found = [network(text) for text in word.split(",")]
    if any(each is None for each in found):
        return Condition(Field.UNKNOWN, word)
    pairs = [each for each in found if each is not None]
    family = pairs[0][0]
    return Condition(side, Ranges.of(each[1:] for each in pairs), family=family)


@cache
def _names() -> dict[str, str]:
    """{name: port}, as `ipfw -N` prints ports."""
    return {name: str(service.first) for name, service in by_name().items() if service.first == service.last}


def _are_ports(word: str) -> bool:
    items = word.split(",")
    return all(re.fullmatch(r"\d+(-\d+)?", item) or item in _names() for item in items)


def _ports(side: Field, text: str) -> Condition:
    pairs: list[tuple[int, int]] = []
    for item in text.split(","):
        low, _, high = item.partition("-") if item not in _names() else (_names()[item], "", "")
        if not low.isdigit() or not (high or low).isdigit():
            return Condition(Field.UNKNOWN, text)
        pairs.append((int(low), int(high or low)))
    return Condition(side, Ranges.of(pair for pair in pairs if pair[0] <= pair[1]))


def _flags(text: str) -> Condition:
    if text == "established":
        return Condition(Field.FLAGS, (SYN | ACK | RST, SYN), negated=True)
    mask = value = 0
    for word in text.split(","):
        bit = _FLAGS.get(word.removeprefix("!"))
        if bit is None:
            return Condition(Field.UNKNOWN, f"tcpflags {text}")
        mask |= bit
        value |= 0 if word.startswith("!") else bit
    return Condition(Field.FLAGS, (mask, value))
