"""What rings 2 to 4 share: the packet filters under test, their bundles in a sandbox, and packets against `decide`."""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from portctl import backends
from portctl.backends.base import Ability, Backend, bundle
from portctl.command import Command, Result
from portctl.hosts import probe
from portctl.hosts.representatives import limits
from portctl.hosts.sandbox import Layout, Sandbox
from portctl.hosts.sendable import answerable
from portctl.net import Address
from portctl.problems import has_errors
from portctl.ruleset import Packet, Ruleset, Verdict, decide


@dataclass(frozen=True, slots=True)
class Filter:
    """A packet filter as some host has it: a back end, and the names of its programs there."""

    name: str
    backend: str
    programs: tuple[tuple[str, str], ...] = ()

    @property
    def module(self) -> Backend:
        return backends.load(self.backend)

    def environment(self) -> tuple[str, ...]:
        return tuple(f"{name}={program}" for name, program in self.programs)

    def command(self, command: Command) -> Command:
        """A question of the back end, put to this variant's programs: `iptables-save` → `iptables-legacy-save`."""
        names = {tool.replace("-nft", "").replace("-legacy", ""): tool for _, tool in self.programs}
        head, dash, rest = command.argv[0].partition("-")
        return replace(command, argv=(names.get(head, head) + dash + rest, *command.argv[1:]))


FILTERS = (
    Filter("nftables", "nftables"),
    Filter("iptables-nft", "iptables", (("IPTABLES", "iptables-nft"), ("IP6TABLES", "ip6tables-nft"))),
    Filter("iptables-legacy", "iptables", (("IPTABLES", "iptables-legacy"), ("IP6TABLES", "ip6tables-legacy"))),
)
NEEDS = ("nft", "iptables-nft", "ip6tables-nft", "iptables-legacy", "ip6tables-legacy", "ipset", "conntrack")


def carry(box: Sandbox, files: Mapping[str, str], folder: str) -> None:
    """Puts a bundle into the sandbox, in place of what was there."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for name, text in files.items():
            data = text.encode()
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    script = 'rm -rf "$1" && mkdir -p "$1" && tar -C "$1" -xf -'
    result = box.host.run(Command(("sh", "-c", script, "carry", folder), archive.getvalue()), timeout=30)
    assert result.ok, result.stderr


def script(box: Sandbox, tried: Filter, name: str, *words: str) -> Result:
    """Runs `load.sh`, `save.sh` or `remove.sh` of the bundle that was carried last."""
    argv = ("env", *tried.environment(), "sh", f"/run/bundle/{tried.name}/{name}", *words)
    return box.host.run(Command(argv), timeout=120)


def load(box: Sandbox, tried: Filter, ruleset: Ruleset, ability: Ability = Ability()) -> None:  # noqa: B008 - frozen
    carry(box, bundle(tried.module, ruleset, ability), f"/run/bundle/{tried.name}")
    result = script(box, tried, "load.sh")
    assert result.ok, f"{tried.name} did not load {ruleset.name}: {result.status}\n{result.stdout}{result.stderr}"


def remove(box: Sandbox, tried: Filter) -> None:
    result = script(box, tried, "remove.sh")
    assert result.ok, f"{tried.name}: {result.stderr}"


def listings(box: Sandbox, tried: Filter) -> dict[str, str]:
    """The answers to the back end's questions."""
    answers = {}
    for name, command in tried.module.questions().items():
        result = box.host.run(tried.command(command), timeout=60)
        assert result.ok, f"{command.argv}: {result.stderr}"
        answers[name] = result.stdout
    return answers


def refused(tried: Filter, ruleset: Ruleset) -> bool:
    """Whether the back end says that it cannot say this."""
    return has_errors(tried.module.gaps(ruleset, Ability()))


def disagreements(prober: probe.Prober, ruleset: Ruleset, packets: Sequence[Packet], known: bool = False) -> list[str]:
    """Packets of which the kernel says something else than `decide`. A rejected packet that gets no answer from any
    Linux (to a group, say) counts as rejected if it is dropped."""
    now = datetime.now(UTC)
    layout = prober.box.layout
    wrong = _wrong(ruleset, packets, prober.observe(packets, ruleset, known), layout, now)
    if not wrong:
        return []
    # Once more, those alone: a busy machine may have answered too late.
    again = [packet for packet, _ in wrong if not limits(ruleset, packet)]
    spent = [text for packet, text in wrong if limits(ruleset, packet)]
    return spent + [text for _, text in _wrong(ruleset, again, prober.observe(again, ruleset, known), layout, now)]


def _wrong(
    ruleset: Ruleset,
    packets: Sequence[Packet],
    observations: Sequence[probe.Observation],
    layout: Layout,
    now: datetime,
) -> list[tuple[Packet, str]]:
    found = []
    for packet, seen in zip(packets, observations, strict=True):
        verdict, rule = decide(ruleset, replace(packet, at=now))
        got = seen.verdict
        if verdict is Verdict.REJECT and got is Verdict.DROP and not answerable(packet, layout):
            continue
        if got is not verdict:
            lost = "" if seen.arrived else ", which did not arrive"
            found.append((packet, f"{text(packet)}: {verdict.value} by {rule.name}, but {got.value}{lost}"))
    return found


def text(packet: Packet) -> str:
    """A packet in a line, for a person who reads a failure."""
    ways = f"in {packet.interface}" if packet.direction.value != "outbound" else f"of {packet.user}"
    ways += f" out {packet.out_interface}" if packet.direction.value != "inbound" else ""
    ports = f"{packet.source_port}->{packet.port}"
    more = f"flags {packet.flags:#x} " if packet.protocol == 6 else ""
    ends = f"{packet.source} to {packet.destination}"
    return f"{packet.direction.value} {packet.protocol} {ends} {ports} {more}{ways} hops {packet.hop_limit}"


def said(box: Sandbox, *argv: str) -> str:
    result = box.host.run(Command(argv), timeout=60)
    assert result.ok, f"{argv}: {result.stderr}"
    return result.stdout


def still(listing: str) -> str:
    """A listing without what counts and what passes: counters, the time that is left to a member."""
    listing = re.sub(r"packets \d+ bytes \d+", "packets 0 bytes 0", listing)
    return re.sub(r" expires [0-9dhms]+", "", listing)


def everything(box: Sandbox) -> str:
    """All rules and sets of all packet filters of a host, as their tools list them."""
    asked = (
        ("nft", "list", "ruleset"),
        *((f"{tool}-{kind}-save",) for tool in ("iptables", "ip6tables") for kind in ("legacy", "nft")),
        ("ipset", "save"),
    )
    text = "\n".join(said(box, *argv) for argv in asked)
    # The tables of iptables-nft, which its own listing shows; an untouched one is there or not, and both are nothing.
    lines = re.sub(r"^table ip6? (filter|nat|mangle|raw|security) \{.*?^\}", "", text, flags=re.M | re.S).splitlines()
    return still("\n".join(line for line in lines if not re.match(r"#|\*|COMMIT|:[A-Z]+ ACCEPT|$", line)))


def member(box: Sandbox, tried: Filter, verb: str, group: str, address: Address) -> None:
    """Adds (`add`) a member to a live group as fail2ban would, or takes it away (`del`)."""
    version = address.version
    if tried.backend == "nftables":
        word = {"add": "add", "del": "delete"}[verb]
        said(box, "nft", word, "element", "inet", "portctl", f"live-{group}-{version}", f"{{ {address} }}")
    else:
        said(box, "ipset", verb, f"portctl-live-{group}{version}", str(address))
