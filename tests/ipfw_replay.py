"""Packets that a real FreeBSD kernel judged, judged again by portctl's reading of the same rules.

A case is a folder of tests/observed/ipfw: `rules`, the listings, and `packets.txt` with a verdict for each packet and
with commands between them. The table of dynamic states, which a listing does not hold, is kept here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from pathlib import Path

from portctl.backends import ipfw
from portctl.evaluation import Answer, evaluate
from portctl.net import Addresses
from portctl.program import Program
from portctl.ruleset import ACK, FIN, LOOPBACK, RST, SYN, Direction, Packet, State, Verdict

OWN = Addresses.of("192.0.2.10", "10.0.0.1", "2001:db8::10", "2001:db8:1::1", "fe80::ff:fe00:10", "fe80::ff:fe00:11",
                   "127.0.0.0/8", "::1/128")  # fmt: skip
CAST = Addresses.of("224.0.0.0/4", "ff00::/8", "255.255.255.255", "192.0.2.255", "10.0.0.255")
BEHIND = Addresses.of("10.0.0.0/24", "2001:db8:1::/64")
PROTOCOLS = {"tcp": 6, "udp": 17, "sctp": 132, "icmp": 1, "icmp6": 58}
FLAGS = {"S": SYN, "A": ACK, "F": FIN, "R": RST, "P": 8}
_STATE = re.compile(r" (keep-state|record-state|limit|set-limit)\b")

Key = tuple[int, frozenset[tuple[str, int]]]
Turned = tuple[int, str, int, str, int]
ALIASES = {"em0": "192.0.2.10", "em1": "10.0.0.1"}


@dataclass(slots=True)
class Host:
    """What is loaded, as `ipfw` would list it, and the states."""

    rules: list[tuple[int, int, str]] = field(default_factory=list)
    """(number, set, body)"""
    off: set[int] = field(default_factory=set)
    info: dict[str, str] = field(default_factory=dict)
    tables: dict[str, list[str]] = field(default_factory=dict)
    nat: dict[str, str] = field(default_factory=dict)
    one_pass: bool = True
    keep: bool = False
    states: dict[Key, tuple[tuple[str, int], str]] = field(default_factory=dict)
    """{flow: (who began it, the body of the rule that made it)}"""
    natted: dict[Turned, tuple[str, str]] = field(default_factory=dict)
    """{protocol, alias, its port, peer, its port: (instance, the redirection that its answers get)}: what `nat` holds,
    which no listing shows."""

    def program(self, turned: tuple[str, str] = ("", "")) -> Program:
        """What is loaded; `turned`: an instance also redirects that."""
        listed = [f"{n:05} set {s} {body}" for n, s, body in self.rules if s not in self.off]
        info = [f"--- table({name}), set(0) ---\n kindex: 1, type: {kind}" for name, kind in self.info.items()]
        tables = [f"--- table({name}), set(0) ---\n" + "\n".join(each) for name, each in self.tables.items()]
        clause = f" {turned[1]}"
        nat = [f"ipfw nat {n} config {text}{clause if n == turned[0] else ''}" for n, text in self.nat.items()]
        return ipfw.parse({
            "list": "\n".join(listed), "info": "\n".join(info), "tables": "\n".join(tables), "nat": "\n".join(nat),
            "settings": f"net.inet.ip.fw.one_pass: {int(self.one_pass)}",
        })  # fmt: skip

    def command(self, case: Path, text: str) -> None:
        """Carries out what of `ipfw` and `sysctl` the cases use."""
        words = [word for word in text.split() if word != "-q"]
        if words[0] == "sysctl":
            self.keep = "dyn_keep_states=1" in text or (self.keep and "dyn_keep_states=0" not in text)
            self.one_pass = self.one_pass and "one_pass=0" not in text
        elif words[1].startswith("/"):
            for line in (case / words[1].rpartition("/")[2]).read_text().splitlines():
                if line.strip() and not line.startswith("#"):
                    self.command(case, f"ipfw {line}")
        elif words[1] == "add":
            place = int(words[4]) if words[3] == "set" else 0
            body = " ".join(words[5 if words[3] == "set" else 3 :])
            body = re.sub(r"(keep-state)$", r"\1 :default", body)
            self.rules.append((int(words[2]), place, "check-state :default" if body == "check-state" else body))
            self.rules.sort(key=lambda rule: rule[0])
        elif words[1] in ("table", "set", "delete", "nat"):
            getattr(self, f"_{words[1]}")(words[2:])

    def _table(self, words: list[str]) -> None:
        name, verb, *rest = words
        if verb == "swap" and rest[0] in self.tables and self.info[name] == self.info[rest[0]]:
            self.tables[name], self.tables[rest[0]] = self.tables[rest[0]], self.tables[name]
        elif verb == "add" and "2001:db8:bad::/48" not in rest[1:]:
            self.tables.setdefault(name, []).append(f"{rest[0]} {rest[1] if len(rest) > 1 else 0}")

    def _set(self, words: list[str]) -> None:
        if words[0] == "swap":
            pair = {int(words[1]): int(words[2]), int(words[2]): int(words[1])}
            self.rules = [(number, pair.get(place, place), body) for number, place, body in self.rules]
        elif words[0] == "disable":
            self.off.add(int(words[1]))

    def _delete(self, words: list[str]) -> None:
        gone = [r for r in self.rules if (r[1] == int(words[1]) if words[0] == "set" else r[0] == int(words[0]))]
        self.rules = [rule for rule in self.rules if rule not in gone]
        left = {body for _, _, body in self.rules}
        if not self.keep:
            made = {body for _, _, body in gone}
            # A rule of the same text in another set is another rule.
            self.states = {k: v for k, v in self.states.items() if v[1] not in made or (v[1] in left and not gone)}

    def _nat(self, words: list[str]) -> None:
        self.nat[words[0]] = " ".join(words[2:])


def host(case: Path) -> Host:
    """The host after the rules of a case were loaded."""
    found = Host()
    with_sets = case / "freebsd15.S.list.txt"
    for line in (with_sets if with_sets.exists() else case / "freebsd15.list.txt").read_text().splitlines():
        match = re.match(r"(# DISABLED )?(\d{5}) (?:set (\d+) )?(.*)", line)
        assert match is not None
        found.rules.append((int(match[2]), int(match[3] or 0), match[4]))
        if match[1]:
            found.off.add(int(match[3]))
    for text in ("tables.info", "tables.list", "nat"):
        path = case / f"freebsd15.{text}.txt"
        name = ""
        for line in path.read_text().splitlines() if path.exists() else ():
            if header := re.match(r"--- table\((.*)\), set", line):
                name = header[1]
                found.tables.setdefault(name, [])
            elif kind := re.search(r" type: (\S+)", line):
                found.info[name] = kind[1]
            elif text == "tables.list":
                found.tables[name].append(line)
            elif text == "nat":
                number, _, config = line.removeprefix("ipfw nat ").partition(" config ")
                found.nat[number] = config
    written = (case / "rules").read_text()
    found.keep = "dyn_keep_states" in written
    if "set disable" in written:
        found.off |= {int(n) for n in re.findall(r"^set disable (\d+)", written, re.M)}
    return found


def arriving(words: list[str]) -> Packet:
    """`IF PROTO SRC SPORT DST DPORT [FLAGS or TYPE/CODE] …` as it comes in."""
    device, *rest = words
    base = _packet(rest)
    if base.destination in OWN or base.destination in CAST:
        return replace(base, direction=Direction.INBOUND, interface=device, local=base.destination in OWN)
    leaving = "em1" if base.destination in BEHIND else "em0"
    return replace(base, direction=Direction.FORWARDED, interface=device, out_interface=leaving, local=False)


def _packet(words: list[str]) -> Packet:
    word, source, sport, destination, dport, *more = words
    protocol = PROTOCOLS.get(word) or int(word)
    found = Packet(Direction.OUTBOUND, protocol, ip_address(source), ip_address(destination), int(dport), int(sport))
    found = replace(found, hop_limit=next((int(m[4:]) for m in more if m.startswith("ttl=")), 64), local=False)
    leaving = LOOPBACK if found.destination in OWN else "em1" if found.destination in BEHIND else "em0"
    found = replace(found, out_interface=leaving)
    if protocol in (1, 58):
        kind, _, code = more[0].partition("/")
        return replace(found, port=int(kind) * 256 + int(code or 0), source_port=0)
    if protocol == 6:
        return replace(found, flags=sum(FLAGS[letter] for letter in more[0]) if more else SYN)
    return found


def judge(at: Host, packet: Packet) -> Answer:
    """The verdict, with the states as they are; and the state that it makes."""
    known = at.states.get(key(packet))
    if known is not None:
        packet = replace(packet, state=State.ESTABLISHED, reply=known[0] != began(packet))
    back = at.natted.get((packet.protocol, str(packet.destination), packet.port, *began(packet)))
    if back is not None:
        packet = replace(packet, out_interface="em1")
    program = at.program(back or ("", ""))
    answer = evaluate(program, packet)
    hold(at, packet, answer)
    text = answer.decided.line.text if answer.decided and answer.decided.line else ""
    found = re.search(r"limit (?:src-addr|all) (\d+)", text)
    if found and known is None:
        made = [who for who, body in at.states.values() if body == text]
        if sum(who[0] == str(packet.source) for who in made) >= int(found[1]):
            answer = evaluate(program, replace(packet, over_limit=True))
    if answer.verdict is Verdict.ACCEPT and known is None:
        for step in answer.trace:
            if step.line and _STATE.search(step.line.text) and not step.line.text.startswith("check-state"):
                at.states[key(packet)] = began(packet), step.line.text
    return answer


def hold(at: Host, packet: Packet, answer: Answer) -> None:
    """What an instance keeps of a packet that it has given its own source address."""
    if answer.verdict is not Verdict.ACCEPT or packet.protocol not in (6, 17):
        return
    for step in answer.trace:
        words = step.line.text.split() if step.line else []
        if words[:1] == ["nat"] and "out" in words:
            word, alias = {6: "tcp", 17: "udp"}[packet.protocol], ALIASES[packet.out_interface]
            clause = f"redirect_port {word} {packet.source}:{packet.source_port} {alias}:{packet.source_port}"
            peer = str(packet.destination), packet.port
            at.natted[packet.protocol, alias, packet.source_port, *peer] = words[1], clause


def began(packet: Packet) -> tuple[str, int]:
    return str(packet.source), 0 if packet.protocol in (1, 58) else packet.source_port


def key(packet: Packet) -> Key:
    port = 0 if packet.protocol in (1, 58) else packet.port
    return packet.protocol, frozenset({began(packet), (str(packet.destination), port)})


def replay(case: Path) -> list[str]:
    """The lines of a case that are read otherwise than the kernel judged, each with what was read."""
    at, wrong = host(case), []
    for line in (case / "packets.txt").read_text().splitlines():
        word, _, rest = line.partition(" ")
        if word == "!" and rest.startswith(("ipfw", "sysctl")):
            at.command(case, rest)
        elif word in ("in", "out", "conn", "data", "app"):
            said = _one(at, word, rest)
            if said:
                wrong.append(f"{line} BUT {said}")
    return wrong


def _one(at: Host, word: str, rest: str) -> str:
    asked, _, verdict = rest.partition(" => ")
    words = asked.split()
    if word == "conn":
        return _connection(at, words, verdict)
    if word == "data":
        packet = arriving([words[0], "tcp", *words[1:], "AP"])
    elif word == "in":
        packet = arriving(words)
    elif word == "app":
        source = "192.0.2.10" if ":" not in words[1] else "2001:db8::10"
        packet = _packet([words[0], source, "5999", *words[1:]])
    else:
        packet = _packet(words)
    answer = judge(at, packet)
    allowed = "Permission denied" not in verdict if word == "app" else verdict.startswith("PASS")
    if answer.depends_on:
        return f"depends on {answer.depends_on[0].line and answer.depends_on[0].line.text}"
    if (answer.verdict is Verdict.ACCEPT) is not allowed:
        return answer.verdict.value
    if not allowed and "; reply" in verdict and answer.verdict is not Verdict.REJECT:
        return "no answer"
    if turned := re.search(r" as \S+ \S+ \d+ > (\S+) (\d+)", verdict):
        there = answer.packet
        if there is None or (str(there.destination), there.port) != (turned[1], int(turned[2])):
            return f"to {there and there.destination}"
    return _answers(at, verdict) if allowed else ""


def _answers(at: Host, verdict: str) -> str:
    """What the host's own stack answered got out."""
    for text in verdict.split("; reply ")[1:]:
        found = re.match(r"\S+: (tcp|udp) (\S+) (\d+) > (\S+) (\d+)(?: ([SAFRP]+))?$", text)
        if found is None:
            continue
        answer = judge(at, _packet([found[1], found[2], found[3], found[4], found[5], found[6] or "S"]))
        if answer.verdict is not Verdict.ACCEPT:
            return f"its answer: {answer.verdict.value}"
    return ""


def _connection(at: Host, words: list[str], verdict: str) -> str:
    device, source, sport, destination, dport = words
    first = judge(at, arriving([device, "tcp", source, sport, destination, dport, "S"])).verdict
    if first is not Verdict.ACCEPT:
        return "" if verdict == "BLOCK" else f"SYN: {first.value}"
    back = judge(at, _packet(["tcp", destination, dport, source, sport, "SA"])).verdict
    last = judge(at, arriving([device, "tcp", source, sport, destination, dport, "A"])).verdict
    found = "BLOCK" if back is not Verdict.ACCEPT else "ESTABLISHED" if last is Verdict.ACCEPT else "HALF-OPEN"
    return "" if found == verdict else found
