"""The loaded rules made ready to be described: without what other tools keep, without what no policy can ask.

Both are told, line by line: what a tool owns stays with it; a line with a condition that the language cannot ask is
left out where it admits (the policy is then narrower), and where it denies, unless what it denies is "all but …" (a
country, a list that was not given): then it denies all, since the other way would open to everybody.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from portctl.net import Ranges
from portctl.program import (
    Accept,
    Action,
    Chain,
    Condition,
    Deny,
    Field,
    Jump,
    Line,
    Lookup,
    Note,
    Place,
    Program,
    Return,
    SetMark,
    Translate,
    Unknown,
    jumps,
)
from portctl.ruleset import ICMP, ICMPV6, PROTOCOLS_WITH_PORTS
from portctl.space import reverse
from portctl.space.packets import protocol_name
from portctl.space.tracking import NEVER

Key = tuple[int | None, str, str, int]
"""A line: family, table, chain, number. Number 0: the chain itself."""

_OWNERS: tuple[tuple[str, str], ...] = (
    (r"f2b-|fail2ban-", "fail2ban"),
    (r"DOCKER(-|$)", "Docker"),
    (r"KUBE-", "Kubernetes"),
    (r"LIBVIRT_", "libvirt"),
    (r"CNI-|CNI_", "CNI"),
    (r"NETAVARK|nv_|netavark", "Podman"),
    (r"cali-|felix-", "Calico"),
    (r"CILIUM_|OLD_CILIUM_", "Cilium"),
    (r"FLANNEL-", "flannel"),
    (r"WEAVE", "Weave"),
    (r"ISTIO_", "Istio"),
    (r"ts-(input|forward|postrouting)", "Tailscale"),
    (r"sshguard", "sshguard"),
    (r"(?i:crowdsec)", "CrowdSec"),
    (r"PORTCTL-", "portctl"),
)
_TABLES: tuple[tuple[str, str], ...] = (
    (r"\S+ f2b-table", "fail2ban"),
    (r"\S+ docker-\S+|ip docker|ip6 docker", "Docker"),
    (r"\S+ kube-proxy", "Kubernetes"),
    (r"\S+ libvirt_network", "libvirt"),
    (r"\S+ netavark", "Podman"),
    (r"\S+ crowdsec6?", "CrowdSec"),
    (r"\S+ sshguard", "sshguard"),
    (r"\S+ lxc|inet lxd|inet incus", "LXC"),
    (r"inet portctl", "portctl"),
)
_BRIDGES: tuple[tuple[str, str], ...] = (
    (r"docker\d+|docker_gwbridge|br-[0-9a-f]{12}", "Docker"),
    (r"virbr\d+", "libvirt"),
    (r"cni\d+|flannel.*", "CNI"),
    (r"cali.*", "Calico"),
    (r"podman\d+", "Podman"),
    (r"lxcbr\d+|lxdbr\d+|incusbr\d+", "LXC"),
)


@dataclass(frozen=True, slots=True)
class Prepared:
    """`program` has no unknowns, `given` still has them. `owned` and `left_out` say why a line is not there."""

    program: Program
    given: Program
    owned: Mapping[Key, str]
    left_out: Mapping[Key, str]
    assumed: Mapping[Key, str]
    """Lines that deny more than they did, with what was taken as always true."""
    settled: Mapping[Key, str]
    """Lines that hold for no connection that a policy speaks of."""
    forward_owner: str | None = None
    """Somebody else keeps rules in the forward path."""


def key(chain: Chain, line: Line | None = None) -> Key:
    return *chain.place, line.number if line else 0


def owner(chain: Chain) -> str | None:
    """The tool that keeps a chain, by its name or its table's."""
    return _first(_OWNERS, chain.name) or (_first(_TABLES, chain.table, whole=True) if " " in chain.table else None)


def _first(names: Iterable[tuple[str, str]], text: str, whole: bool = False) -> str | None:
    find = re.fullmatch if whole else re.match
    return next((tool for pattern, tool in names if find(pattern, text)), None)


def prepare(program: Program) -> Prepared:
    """What is left to describe of a program, and why the rest is not."""
    owned: dict[Key, str] = {}
    left_out: dict[Key, str] = {}
    assumed: dict[Key, str] = {}
    chains: list[Chain] = []
    given: list[Chain] = []
    settled: dict[Key, str] = {}
    forward: str | None = None
    owners: dict[Place, str] = {c.place: tool for c in program.chains if (tool := owner(c))}
    used = reached(program)
    for chain in program.chains:
        tool = owner(chain)
        hooks = used.get(chain.place, frozenset())
        kept: list[Line] = []
        all_lines: list[Line] = []
        for line in chain.lines:
            mine = tool or _line_owner(chain, line, owners, hooks)
            if mine:
                owned[key(chain, line)] = mine
                if "forward" in hooks and mine != "portctl":
                    forward = forward or mine
                continue
            if (why := _never(line, hooks)) is not None:
                settled[key(chain, line)] = why
                continue
            meant = line
            if reverse.asks(line):
                assumed[key(chain, line)] = REVERSE
                if (rest := reverse.without(line)) is None:
                    continue
                meant = rest
            all_lines.append(meant)
            ready = _ready(chain, meant, left_out, assumed)
            if ready is not None:
                kept.append(ready)
        if tool:
            owned[key(chain)] = tool
            hook = replace(chain.hook, policy=Accept()) if chain.hook else None
            chains.append(replace(chain, lines=(), hook=hook))
            given.append(chains[-1])
        else:
            chains.append(replace(chain, lines=tuple(kept)))
            given.append(replace(chain, lines=tuple(all_lines)))
    ready_program, whole = (replace(program, chains=tuple(listed)) for listed in (chains, given))
    return Prepared(ready_program, whole, owned, left_out, assumed, settled, forward)


def reached(program: Program) -> dict[Place, frozenset[str]]:
    """The hooks from which each chain is reached."""
    chains = {chain.place: chain for chain in program.chains}
    found: dict[Place, set[str]] = {place: set() for place in chains}
    todo: list[tuple[Place, str]] = [(place, chain.hook.name) for place, chain in chains.items() if chain.hook]
    while todo:
        place, hook = todo.pop()
        if place not in found or hook in found[place]:
            continue
        found[place].add(hook)
        for line in chains[place].lines:
            todo += [((place[0], place[1], name), hook) for name in jumps(line.actions)]
    return {place: frozenset(hooks) for place, hooks in found.items()}


def _line_owner(chain: Chain, line: Line, owners: Mapping[Place, str], hooks: frozenset[str]) -> str | None:
    """Who put a line into a chain of everybody's: it jumps into their chains, or passes packets of their bridges."""
    for name in jumps(line.actions):
        found = owners.get((chain.family, chain.table, name)) or _first(_OWNERS, name)
        if found:
            return found
    if not hooks & {"forward", "postrouting", "prerouting"} or hooks & {"input"}:
        return None
    values = {c.field: c.value for c in line.conditions}
    if (
        hooks == {"postrouting"}
        and "Docker" in owners.values()
        and values.get(Field.SOURCE, 0) == values.get(Field.DESTINATION)
    ):
        return "Docker"  # a published port's own container, seen through the host
    for condition in line.conditions:
        if condition.field in (Field.IN, Field.OUT) and isinstance(condition.value, tuple):
            for name in condition.value:
                if found := _first(_BRIDGES, str(name), whole=True):
                    return found
    return None


REVERSE = "a policy does not ask whether the way back is the way a packet came: connections are taken to come by it"
_BROADCAST = re.compile(r"addrtype (?:! )?--(src|dst)-type (\S+)|fib (saddr|daddr) type (!= )?\{? ?(\w+)")
_FRAME = re.compile(r"pkttype --pkt-type broadcast|meta pkttype broadcast\Z")


def _never(line: Line, hooks: frozenset[str]) -> str | None:
    """Why a line that asks for a kind of address holds for no connection: nobody is called from a broadcast address,
    and what is called here is an address of this host."""
    if NEVER in line.conditions:
        return "connections are not tracked yet where it stands: it never holds"
    for condition in line.conditions:
        asked = str(condition.value) if condition.field is Field.UNKNOWN else ""
        if _FRAME.match(asked) and not condition.negated and hooks == {"input"}:
            return "no connection to an address of this host goes there"
        found = _BROADCAST.search(asked)
        if found is None or "!" in found[0] or condition.negated:
            continue
        side, kinds = (found[1] or found[3]), {k.strip().lower() for k in (found[2] or found[5]).split(",")}
        if side in ("src", "saddr") and kinds <= {"broadcast", "multicast"}:
            return "no connection comes from such an address"
        if side in ("dst", "daddr") and kinds <= {"broadcast", "anycast"} and hooks == {"input"}:
            return "no connection to an address of this host goes there"
    return None


_SENDER = re.compile(r"^(geoip|country|set|mac|recent|-[sd]|ip6? saddr|asn)\b", re.I)


def unknown(conditions: Iterable[Condition]) -> list[Condition]:
    """The conditions that the language cannot ask, those of concatenations too."""
    found = []
    for condition in conditions:
        if condition.field in (Field.UNKNOWN, Field.UNTIL):
            found.append(condition)
        elif condition.field is Field.CONCATENATION and isinstance(condition.value, tuple):
            found += [c for row in condition.value for c in unknown(row)]
    return found


def _ready(chain: Chain, line: Line, left_out: dict[Key, str], assumed: dict[Key, str]) -> Line | None:
    """The line without unknowns; None where it is left out, with the reason noted."""
    acts = [a for a in line.actions if not isinstance(a, Note)]
    if (bare := _ports_of_none(line)) is not None:
        left_out[key(chain, line)] = f"a policy knows no ports of {bare}"
        return None
    asked = unknown(line.conditions)
    strange = [a.text for a in acts if isinstance(a, Unknown)]
    if not asked and not strange:
        return _without_unknown_entries(chain, line, left_out)
    if not acts:
        return None
    if strange:
        what = _short(re.sub(r"^(\S+) -[jg]\b", r"\1", strange[0]))
        left_out[key(chain, line)] = f"what `{what}` does is not known"
        kept = tuple(a for a in line.actions if not isinstance(a, Unknown))
        return None if asked else replace(line, actions=kept)
    what = _question(str(asked[0].value)) if asked[0].field is Field.UNKNOWN else f"before {asked[0].value}"
    denies = any(isinstance(a, Deny) for a in acts)
    if denies and any(_negated_sender(c) for c in asked):
        assumed[key(chain, line)] = f"`{what}` cannot be asked: taken as denying everybody that the rest of it names"
        return replace(line, conditions=tuple(c for c in line.conditions if not unknown([c])))
    effect = "what it denied may now be admitted" if denies else "what it admitted is not"
    if not denies and not any(isinstance(a, Accept) for a in acts):
        effect = "it is taken as never holding"
    left_out[key(chain, line)] = f"a policy cannot ask `{what}`; left out: {effect}"
    return None


def _ports_of_none(line: Line) -> str | None:
    """The protocol of a line that asks ports of one that has none in the language."""
    values = {c.field: c.value for c in line.conditions if not c.negated}
    protocols = values.get(Field.PROTOCOL)
    asks = any(c.field in (Field.PORT, Field.SOURCE_PORT) for c in line.conditions)
    if not asks or not isinstance(protocols, Ranges) or protocols & _HAVE_PORTS:
        return None
    return ", ".join(protocol_name(first) for first, _ in protocols.pairs())


_HAVE_PORTS = Ranges.of((p, p) for p in (*PROTOCOLS_WITH_PORTS, ICMP, ICMPV6))


def _negated_sender(condition: Condition) -> bool:
    text = str(condition.value)
    return bool(_SENDER.match(text)) and ("!" in text or condition.negated)


def _without_unknown_entries(chain: Chain, line: Line, left_out: dict[Key, str]) -> Line:
    actions: list[Action] = []
    for action in line.actions:
        if isinstance(action, Lookup):
            kept = tuple((c, a) for c, a in action.entries if not unknown(c) and not isinstance(a, Unknown))
            if len(kept) != len(action.entries):
                left_out[key(chain, line)] = "some entries of its map are not known"
            action = Lookup(kept)
        actions.append(action)
    return replace(line, actions=tuple(actions))


def _question(text: str) -> str:
    """What a match asks, without the values that it asks for: lines that ask alike have one reason."""
    if text.startswith("unknown --words "):
        return _short(text.removeprefix("unknown --words "))
    words = text.split()
    options = [word for word in words[1:] if word == "!" or word.startswith("--")]
    return _short(" ".join([words[0], *options])) if " --" in text else _short(text)


def _short(text: str) -> str:
    clean = " ".join(text.split())
    return clean if len(clean) <= 80 else clean[:79] + "…"


TURNS = ("destination", "redirect")


def translations(program: Program) -> dict[Translate, list[tuple[Chain, Line]]]:
    """Every translation that the nat chains before routing make, with its lines."""
    found: dict[Translate, list[tuple[Chain, Line]]] = {}
    hooks = reached(program)
    for chain in program.chains:
        if "prerouting" in hooks.get(chain.place, ()):
            for line in chain.lines:
                for action in line.actions:
                    if isinstance(action, Translate) and action.kind in TURNS:
                        found.setdefault(action, []).append((chain, line))
    return found


def hidings(program: Program) -> dict[Translate, list[tuple[Chain, Line]]]:
    """Every translation of a source after routing, with its lines."""
    found: dict[Translate, list[tuple[Chain, Line]]] = {}
    for chain in program.chains:
        for line in chain.lines:
            for action in line.actions:
                if isinstance(action, Translate) and action.kind not in TURNS:
                    found.setdefault(Translate(action.kind, action.address), []).append((chain, line))
    return found


def without_translation(program: Program) -> Program:
    """The program as it is for packets that nothing translates."""

    def change(action: Action) -> Action:
        return Note("translation") if isinstance(action, Translate) and action.kind in TURNS else action

    return _changed(program, change)


def coded(program: Program, signs: Mapping[Translate, bool], kinds: Iterable[str]) -> Program:
    """A program that rejects what translations with a sign take, drops what those without take, and accepts the rest.
    `kinds` are those of the translations that are asked for; of a source's the port does not count."""
    listed = tuple(kinds)

    def change(action: Action) -> Action:
        if isinstance(action, Translate) and action.kind in listed:
            sign = signs.get(action if action.kind in TURNS else replace(action, port=None))
            return Accept() if sign is None else Deny(sign)
        return Accept() if isinstance(action, Deny | Translate) else action

    nat = _nat_chains(program)
    chains = tuple(
        replace(c, hook=replace(c.hook, policy=Accept()) if c.hook else None)
        for c in program.chains
        if (c.table in nat if c.hook is None else c.hook.kind == "nat")
    )
    return _changed(Program(chains), change)


def _nat_chains(program: Program) -> set[str]:
    return {c.table for c in program.chains if c.hook and c.hook.kind == "nat"}


def _changed(program: Program, change: object) -> Program:
    assert callable(change)

    def lines(chain: Chain) -> tuple[Line, ...]:
        return tuple(replace(line, actions=tuple(change(a) for a in line.actions)) for line in chain.lines)

    return replace(program, chains=tuple(replace(chain, lines=lines(chain)) for chain in program.chains))


def denies(program: Program, chain: Chain, line: Line) -> bool:
    """Whether a line denies whatever it matches, itself or by a chain that does nothing else."""
    for action in line.actions:
        if isinstance(action, Deny):
            return True
        if isinstance(action, Jump):
            place = (chain.family, chain.table, action.chain)
            target = next((c for c in program.chains if c.place == place), None)
            return target is not None and _only_denies(target)
    return False


def _only_denies(chain: Chain) -> bool:
    plain = all(isinstance(a, Deny | Note | SetMark) for line in chain.lines for a in line.actions)
    last = chain.lines[-1] if chain.lines else None
    return plain and last is not None and not last.conditions and any(isinstance(a, Deny) for a in last.actions)


def says_something(line: Line) -> bool:
    """Whether a line can change what happens to any packet."""
    return any(isinstance(a, Accept | Deny | Jump | Return | Lookup | Translate | Unknown) for a in line.actions)


def marks(line: Line) -> bool:
    return any(isinstance(a, SetMark) for a in line.actions)


def asks_limit(conditions: Iterable[Condition]) -> list[Condition]:
    found = []
    for condition in conditions:
        if condition.field is Field.LIMIT:
            found.append(condition)
        elif condition.field is Field.CONCATENATION and isinstance(condition.value, tuple):
            found += [c for row in condition.value for c in asks_limit(row)]
    return found
