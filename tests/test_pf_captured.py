"""What real pfctls printed is read in full, and a real kernel's verdicts on packets are those of portctl's reading."""

from __future__ import annotations

import re
import shlex
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest

from portctl.backends import load
from portctl.backends.pf.flow import walk
from portctl.backends.pf.parse import read
from portctl.evaluation import Answer
from portctl.program import Chain, Program
from portctl.ruleset import ICMP, ICMPV6, IGMP, TCP, UDP, Direction, Packet, Verdict
from tests.pf_captured import FOLDER, Host, Key, cases, listings, packet

RULE = re.compile(r"\s*(@\d+ )?(pass|block|match|anchor|nat|rdr|binat|no nat|no rdr|no binat|(nat|rdr|binat)-anchor)\b")

PF = load("pf-freebsd15")
WITH_PACKETS = [case for case in cases() if (case / "packets.txt").exists()]
LISTING = ("-ss", "-sr", "-sT", "-vvss", "-si", "show", "test", "-nf", "-s", "-sn")
NAMED = {
    "30-other-protocols": (1, "a kernel without IPsec throws ESP away after pf let it pass"),
    "88-nat-to": (2, "masquerading behind two addresses: which one comes next is the kernel's"),
    "85-rdr-to-pass": (2, "a pool of two hosts: which one comes next is the kernel's, and said to be unknown"),
    "130-user": (2, "who owns a listening socket, and a group, are outside the model: said to be unknown"),
    "131-synproxy": (1, "pf itself answers the handshake, and lets the program see what is left"),
    "144-urpf": (2, "where the routes lead is outside the model: said to be unknown"),
}
"""Cases in which so many verdicts hang on what is not in the rules."""


def replay(case: Path) -> tuple[int, list[str]]:
    """How many verdicts of a case were compared, and those that differ."""
    host = Host(listings(case))
    wrong: list[str] = []
    count = 0
    for line in (case / "packets.txt").read_text().splitlines():
        if line.startswith("! "):
            if not command(case, host, shlex.split(line[2:])):
                break
            continue
        told, _, said = line.partition(" => ")
        words = told.split()
        if line.startswith(("#", "|", "log:", "watch")) or not said:
            continue
        expected = said.startswith("BLOCK") or "Permission denied" in said
        sent, quoted = _sent(host, words)
        answer = host.judge(sent, quoted)
        if "HALF-OPEN" in said:
            host.forget(sent)
            host.overloaded(answer, sent)
        if {"ra", "hbh"} & {*words} and quoted is None:
            answer = _with_options(answer, sent)
        count += 1
        if (answer.verdict is not Verdict.ACCEPT) != expected or answer.depends_on or not _as_said(answer, said, sent):
            step = answer.decided
            wrong.append(f"{line}: {answer.verdict.value} {step.line.text if step and step.line else ''}")
    return count, wrong


def _sent(host: Host, words: list[str]) -> tuple[Packet, Key | None]:
    if words[0] == "app":
        own = {4: "192.0.2.10", 6: "2001:db8::10"}[ip_address(words[2]).version]
        words = ["out", words[1], own, "49999", words[2], words[3], "S"]
    elif words[0] in ("conn", "data"):
        words = ["in", words[1], "tcp", *words[2:], "S" if words[0] == "conn" else "A"]
    return packet(host, words)


def _with_options(answer: Answer, sent: Packet) -> Answer:
    """pf drops packets with options, IGMP and MLD aside, unless the rule that passes them says `allow-opts`."""
    step = answer.decided
    exempt = sent.protocol == IGMP or (sent.protocol == ICMPV6 and sent.port >> 8 in (130, 131, 132, 143))
    if exempt or step is None or step.line is None or "allow-opts" in step.line.text:
        return answer
    return replace(answer, verdict=Verdict.DROP)


def _as_said(answer: Answer, said: str, sent: Packet) -> bool:
    """Whether the answer of a reject came, and whether a packet left with the address that the reading gives it."""
    if said.startswith("BLOCK;") or (said == "BLOCK" and sent.direction is not Direction.OUTBOUND):
        silent = sent.protocol in (ICMP, ICMPV6) or (sent.direction is Direction.INBOUND and not sent.local)
        return silent or ("; reply" in said) == (answer.verdict is Verdict.REJECT)
    if " as " in said and answer.packet is not None:
        words = said.partition(" as ")[2].partition(";")[0].split()
        there = words[words.index(">") + 1 :]
        port = int(there[1]) if sent.protocol in (TCP, UDP) else answer.packet.port
        return (answer.packet.destination, answer.packet.port) == (ip_address(there[0]), port)
    return True


def command(case: Path, host: Host, words: list[str]) -> bool:
    """Does to the reading what a command did to the host; False where that is outside the model."""
    match words:
        case ["pfctl", "-t", table, "-T", "add" | "delete" | "replace" | "flush" as verb, *rest]:
            members = host.members(table)
            given = (case / rest[1]).read_text().split() if rest[:1] == ["-f"] else rest
            if any("-" in each or each == "any" for each in given):
                return True  # refused
            kept = {"add": {*members, *given}, "delete": {*members} - {*given}, "replace": {*given}, "flush": set()}
            host.fill(table, sorted(kept[verb]))
        case ["pfctl", "-f", name]:
            if name != "pf.conf" and "broken" not in name and (case / name).exists():
                host.seen = {"ifconfig": host.seen["ifconfig"], "pf.conf": (case / name).read_text()}
                host.read()
        case ["pfctl", "-k", source] if "/" not in source:
            for key in [key for key, reply in host.states.items() if str(key[3 if reply else 1]) == source]:
                del host.states[key]
        case ["pfctl", "-d"]:
            host.program = Program(())
        case ["pfctl", "-e"]:
            host.read()
        case ["ifconfig", device, "inet", address, "alias"]:
            host.alias(device, address)
        case ["pfctl", *options] if {*options} & {*LISTING}:
            pass
        case _:
            return False
    return True


@pytest.mark.parametrize("case", WITH_PACKETS, ids=lambda case: case.name)
def test_the_reading_says_what_the_kernel_did(case: Path) -> None:
    count, wrong = replay(case)
    if case.name in NAMED:
        assert len(wrong) == NAMED[case.name][0], wrong
    else:
        assert not wrong
    assert count or case.name in ("113-reload-table-kept", "121b-table-ops")


def test_nearly_all_verdicts_are_compared() -> None:
    assert sum(replay(case)[0] for case in WITH_PACKETS) >= 490


LISTED = sorted(
    path
    for path in FOLDER.glob("*/*.txt")
    if path.name.endswith((".nv.txt", "sr.txt", "sn.txt", "vvsr.txt", "vvsn.txt", "-star.txt"))
)


def test_every_line_that_a_pfctl_printed_is_read() -> None:
    """Of FreeBSD 15.1, FreeBSD 12.1 and OpenBSD, terse and verbose: no line is foreign, and no rule is lost."""
    assert len(LISTED) > 500
    for path in LISTED:
        text = path.read_text()
        found = read({"rules": text})
        assert not found.foreign, path
        rules = [line for line in text.splitlines() if RULE.match(line)]
        assert len(list(walk([*found.rules, *found.translations]))) == len(rules), path


LABELLED = sorted(FOLDER.glob("*/freebsd15.sl.txt"))


def test_labels_count_what_the_verbose_listing_counts() -> None:
    """A terse listing with `pfctl -s labels` says of every labelled rule what `pfctl -vvsr` says."""
    counted = 0
    for path in LABELLED:
        rules, verbose = (path.with_name(f"freebsd15.{name}.txt") for name in ("sr", "vvsr"))
        terse = read({"rules": rules.read_text(), "labels": path.read_text()}).rules
        told = [(spec.packets, spec.bytes) for spec in terse if spec.label]
        seen = [(spec.packets, spec.bytes) for spec in read({"rules": verbose.read_text()}).rules if spec.label]
        if "several" not in path.parent.name:  # all labels of a rule stand in its one line
            assert told == seen, path
        counted += sum(packets is not None for packets, _ in told)
    assert counted > 60


def test_numbers_names_and_lists_are_one() -> None:
    """What a pf.conf says, and what three pfctls make of it, mean the same, ports and lists and all."""
    for case in ("21-ports", "27-proto-list", "45-icmp4", "47-icmp6-types", "57-flags", "30-other", "80-rdr-old"):
        programs = []
        for path in sorted(next(FOLDER.glob(f"{case}*")).glob("*.nv.txt")):
            programs.append(PF.parse({"rules": path.read_text()}))
        written = PF.parse({"pf.conf": next(FOLDER.glob(f"{case}*/pf.conf")).read_text()})
        for program in programs:
            assert [_bare(chain) for chain in program.chains] == [_bare(chain) for chain in written.chains], case


def _bare(chain: Chain) -> list[tuple[object, object]]:
    return [(line.conditions, line.actions) for line in chain.lines]
