"""The captured rule sets of pf, and a kernel's verdicts on packets: what lies in tests/observed/pf, read.

A case is a folder: `pf.conf`, what each system's pfctl printed of it, and `packets.txt`, in whose lines

    in em0 tcp 203.0.113.9 4001 192.0.2.10 22 S => BLOCK; reply em0: …

a packet arrives (`in`) or leaves (`out`), a handshake is tried (`conn`), data is sent in a connection (`data`), a
program connects (`app`), and `! COMMAND` changes something. Packets of a case share states.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from ipaddress import ip_address, ip_network
from pathlib import Path

from portctl.backends import load
from portctl.evaluation import Answer, evaluate
from portctl.net import Address
from portctl.program import Program
from portctl.ruleset import (
    ACK,
    FIN,
    ICMP,
    ICMPV6,
    LOOPBACK,
    RST,
    SCTP,
    SYN,
    TCP,
    UDP,
    Direction,
    Packet,
    State,
    Verdict,
)

FOLDER = Path(__file__).parent / "observed" / "pf"
PROTOCOLS = {"tcp": TCP, "udp": UDP, "sctp": SCTP, "icmp": ICMP, "icmp6": ICMPV6}
FLAGS = {"F": FIN, "S": SYN, "R": RST, "P": 8, "A": ACK}
NETWORKS = {"em1": ("10.0.0.0/24", "2001:db8:1::/64")}
ERRORS = {ICMP: (3, 11, 12), ICMPV6: (1, 2, 3, 4)}
STATEFUL = ("keep state", "modulate state", "synproxy state", "rdr pass", "nat pass")
Key = tuple[int, Address, int, Address, int]


def cases() -> list[Path]:
    return sorted(path for path in FOLDER.iterdir() if path.is_dir())


def listings(case: Path) -> dict[str, str]:
    """What FreeBSD 15.1 listed after it had loaded a case, as `questions` would have got it."""
    files = {path.name.removeprefix("freebsd15."): path.read_text() for path in case.glob("freebsd15.*")}
    tables = {
        name.removeprefix("T-show.").removesuffix(".txt"): text
        for name, text in files.items()
        if name.startswith("T-show.")
    }
    inner = {n.split(".T-show.")[1].removesuffix(".txt"): t for n, t in files.items() if ".T-show." in n}
    rules = files.get("a.all.sr.txt") or _nested(files, "sr")
    if case.name.startswith("38-"):  # both 2 and 3 are listed as compressnet
        rules = rules.replace("(em0) port = compressnet", "(em0) port = 3").replace("compressnet", "2")
    return {
        "rules": rules,
        "translations": _nested(files, "sn"),
        "tables": "".join(f"table {name}\n{text}" for name, text in (inner | tables).items()),
        "interfaces": files.get("skip.txt", ""),
        "ifconfig": (FOLDER / "ifconfig.txt").read_text(),
    }


def _nested(files: dict[str, str], kind: str) -> str:
    """The main rule set with the anchors' rules in their places, as `pfctl -a '*'` prints them."""
    text = files.get(f"{kind}.txt", "")
    if "anchor" in text and "{" in files.get("nv.txt", "") and kind == "sr" and "{\n" in files["nv.txt"]:
        return "\n".join(line for line in files["nv.txt"].splitlines() if not line.startswith("set "))
    found = []
    for line in text.splitlines():
        name = line.split('"')[1].replace("*", "host").replace("/", "-") if line.count('"') == 2 else ""
        inner = files.get(f"a.{name}.{kind}.txt")
        found += (
            [line] if inner is None or "anchor" not in line.split()[0] else [f"{line} {{", *inner.splitlines(), "}"]
        )
    return "\n".join(found)


@dataclass(slots=True)
class Host:
    """The test host, while the packets of a case come and go."""

    seen: dict[str, str]
    program: Program = field(default_factory=lambda: Program(()))
    states: dict[Key, bool] = field(default_factory=dict)
    """Both directions of each known connection; True for the answering one."""
    began: dict[tuple[str, Address], int] = field(default_factory=dict)
    """How many states a source has by a rule."""
    own: set[Address] = field(default_factory=set)
    bound: dict[Key, str] = field(default_factory=dict)
    """The one interface of a state that is bound to it (`if-bound`)."""

    def __post_init__(self) -> None:
        self.read()

    def read(self) -> None:
        self.program = load("pf-freebsd15").parse(self.seen)
        words = self.seen["ifconfig"].split()
        self.own = {ip_address(words[i + 1].partition("%")[0]) for i, w in enumerate(words) if w in ("inet", "inet6")}

    def members(self, table: str) -> list[str]:
        """What a table holds now."""
        inside, found = False, []
        for line in self.seen["tables"].splitlines():
            if line.startswith("table "):
                inside = line == f"table {table}"
            elif inside:
                found.append(line.strip())
        return found

    def fill(self, table: str, members: list[str]) -> None:
        parts = [part for part in ("\n" + self.seen["tables"]).split("\ntable ") if part.strip()]
        kept = [part for part in parts if part.split()[0] != table]
        text = "".join(f"table {part}\n" for part in kept)
        self.seen["tables"] = text + f"table {table}\n" + "".join(f"   {member}\n" for member in members)
        self.read()

    def alias(self, device: str, address: str) -> None:
        """One more address on an interface."""
        line = f"{device}: flags"
        before, _, after = self.seen["ifconfig"].partition(line)
        first, _, rest = after.partition("\n")
        more = f"\tinet {address.partition('/')[0]} netmask 0xffffffff\n"
        self.seen["ifconfig"] = (
            f"{before}{line}{first}\n{rest.partition(chr(10))[0]}\n{more}{rest.partition(chr(10))[2]}"
        )
        self.read()

    def route(self, destination: Address) -> str:
        if destination in self.own:
            return LOOPBACK
        return next((n for n, nets in NETWORKS.items() if any(destination in ip_network(x) for x in nets)), "em0")

    def local(self, address: Address) -> bool:
        many = address.is_multicast or str(address) in ("255.255.255.255", "192.0.2.255", "10.0.0.255")
        return address in self.own or many

    def judge(self, packet: Packet, quoted: Key | None = None) -> Answer:
        """The verdict, with what the states know put into the packet; a packet that passes makes a state."""
        key = _key(packet)
        if quoted is not None:
            known = State.RELATED if quoted in self.states else State.NEW
            packet = replace(packet, state=known)
        elif key in self.states and self.bound.get(key, device := crossed(packet)) == device:
            packet = replace(packet, state=State.ESTABLISHED, reply=self.states[key])
        answer = evaluate(self.program, self._limited(packet), self.own)
        if answer.verdict is Verdict.ACCEPT and packet.state is State.NEW and quoted is None:
            self._remember(packet, answer)
        return answer

    def _remember(self, packet: Packet, answer: Answer) -> None:
        lines = [step.line for step in answer.trace if step.line is not None and step.line.text]
        if not any(word in line.text for line in lines for word in STATEFUL):
            return
        turned = answer.packet or packet
        self.states[_key(packet)] = False
        for one in (packet, turned):
            self.states[_reversed(_key(one))] = True
            if any("if-bound" in line.text for line in lines):
                self.bound[_reversed(_key(one))] = self.bound[_key(packet)] = crossed(packet)
        for line in lines:
            self.began[line.text, packet.source] = self.began.get((line.text, packet.source), 0) + 1

    def forget(self, packet: Packet) -> None:
        """The connection of a packet is torn down."""
        for key in (_key(packet), _reversed(_key(packet))):
            self.states.pop(key, None)

    def overloaded(self, answer: Answer, packet: Packet) -> None:
        """The source of a connection beyond a limit goes into the table that the rule names, and its states go."""
        text = answer.decided.line.text if answer.decided and answer.decided.line else ""
        if table := re.search(r"overload <([^>]+)>", text):
            self.fill(table[1], [*self.members(table[1]), str(packet.source)])
            if "flush" in text:
                for key in [key for key in self.states if packet.source in (key[1], key[3])]:
                    del self.states[key]

    def _limited(self, packet: Packet) -> Packet:
        """Whether the rule that would admit the packet has its fill of states from this source."""
        answer = evaluate(self.program, packet, self.own)
        for step in answer.trace:
            text = step.line.text if step.line else ""
            most = [part.split()[1] for part in text.partition("(")[2].partition(")")[0].split(", ") if _states(part)]
            total = sum(n for (rule, source), n in self.began.items() if rule == text)
            mine = self.began.get((text, packet.source), 0)
            if most and (total if "(max " in text and "max-src" not in text else mine) >= int(most[0]):
                return replace(packet, over_limit=True)
        return packet


def crossed(packet: Packet) -> str:
    """The interface at which pf meets a packet first."""
    return packet.out_interface if packet.direction is Direction.OUTBOUND else packet.interface


def _states(option: str) -> bool:
    return option.startswith(("max-src-states ", "max "))


def _key(packet: Packet) -> Key:
    if packet.protocol in (ICMP, ICMPV6):
        return packet.protocol, packet.source, packet.source_port, packet.destination, packet.port // 256
    return packet.protocol, packet.source, packet.source_port, packet.destination, packet.port


def _reversed(key: Key) -> Key:
    protocol, source, port, destination, other = key
    if protocol in (ICMP, ICMPV6):
        return protocol, destination, port, source, {8: 0, 128: 129}.get(other, 256)
    return protocol, destination, other, source, port


def packet(host: Host, words: list[str]) -> tuple[Packet, Key | None]:
    """A packet of a line (`in IF PROTO …` or `out PROTO …`) and the one that it quotes."""
    coming = words[1] if words[0] == "in" else ""
    protocol, source, sport, destination, port, *rest = words[2:] if coming else words[1:]
    number = PROTOCOLS.get(protocol) or int(protocol)
    there = ip_address(destination)
    local = host.local(there)
    direction = Direction.OUTBOUND if not coming else Direction.INBOUND if local else Direction.FORWARDED
    found = Packet(
        direction,
        number,
        ip_address(source),
        there,
        int(port) if number not in (ICMP, ICMPV6) else 0,
        int(sport),
        coming or "em0",
        "em1" if direction is Direction.INBOUND else host.route(there),
        local=there in host.own,
        flags=0,
    )
    quoted: Key | None = None
    while rest:
        word = rest.pop(0)
        if word.startswith("ttl="):
            found = replace(found, hop_limit=int(word[4:]))
        elif word == "quote":
            name, a, ap, b, bp = rest[:5]
            quoted = (PROTOCOLS[name], ip_address(a), int(ap), ip_address(b), int(bp))
            rest = rest[5:]
        elif number in (ICMP, ICMPV6) and word.replace("/", "").isdigit():
            kind, _, code = word.partition("/")
            found = replace(found, port=int(kind) * 256 + int(code or 0))
        elif number == TCP and set(word) <= set(FLAGS):
            found = replace(found, flags=sum(FLAGS[letter] for letter in word))
    return found, quoted
