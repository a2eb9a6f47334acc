"""What happens to a packet that a rule matches: limits, logs, marks, verdicts, translations."""

from __future__ import annotations

from portctl.backends.base import MASQUERADE_MARK, PUBLISHED_MARK
from portctl.backends.iptables.chains import Actions, Direction, Leaf
from portctl.backends.iptables.names import limit_name, log_prefix
from portctl.backends.iptables.words import ANY, Words
from portctl.net import Address, Family
from portctl.ruleset import Masquerade, Rate, Rule, Translation, Verdict

LOG_RATE = Words(modules=("-m limit --limit 5/sec --limit-burst 20",))
MASQUERADE_MASK = 0x3A000000
"""`MASQUERADE_MARK`, and three bits beside it that number the addresses."""
_STEP = 0x08000000

PERIOD_WORDS = (("day", 86400), ("hour", 3600), ("min", 60), ("sec", 1))


def rate_words(rate: Rate) -> tuple[str, int]:
    """A rate as `iptables-save` prints it, and the milliseconds of the unit it then uses.

    The kernel counts in millionths of a second between two packets (`print_rate` in libxt_hashlimit.c).
    """
    period = rate.seconds * 1_000_000 // rate.number
    word, seconds = PERIOD_WORDS[0]
    for next_word, next_seconds in PERIOD_WORDS[1:]:
        multiple = next_seconds * 1_000_000
        if period > multiple or multiple // period < multiple % period:
            break
        word, seconds = next_word, next_seconds
    return f"{seconds * 1_000_000 // period}/{word}", seconds * 1000


def over_limits(rule: Rule, family: Family) -> list[Words]:
    """What is beyond the limits of a rule. Connections are counted first: what they stop uses up no rate."""
    found = []
    if rule.max_connections is not None:
        mask = 32 if family == 4 else 64
        found.append(f"-m connlimit --connlimit-above {rule.max_connections} --connlimit-mask {mask} --connlimit-saddr")
    if rule.rate is not None:
        text, unit = rate_words(rule.rate)
        expire = rule.rate.seconds * 1000
        words = [
            f"-m hashlimit --hashlimit-above {text} --hashlimit-burst {rule.rate.number} --hashlimit-mode srcip",
            f"--hashlimit-name {limit_name(rule, rule.rate)}",
            "--hashlimit-htable-max 65536",
            "" if expire == unit else f"--hashlimit-htable-expire {expire}",
            "" if family == 4 else "--hashlimit-srcmask 64",
        ]
        found.append(" ".join(word for word in words if word))
    return [Words(modules=(text,)) for text in found]


def filter_leaf(log_denied: bool, marks: dict[str, int]) -> Leaf:
    """Verdicts of the filter table. `marks` are the packet marks by the names of the forwards that masquerade."""

    def leaf(direction: Direction, rule: Rule, log: Rule | None) -> Actions:
        if rule.verdict is not Verdict.ACCEPT:
            return denial(direction, rule, rule.verdict, log_denied)
        found: Actions = []
        for words in over_limits(rule, direction.speaker.family):
            target = "-j DROP"
            if log_denied:
                actions = denial(direction, rule, Verdict.DROP, log_denied)
                target = f"-g {direction.leaf_chain(rule, actions, '-OVER')}"
            found.append((words, target))
        if log is not None:
            found.append((ANY, f"-j LOG --log-prefix {log_prefix('accept', log.name)}"))
        if rule.name in marks and rule.kind.value == "forward":
            found.append((ANY, f"-j MARK --set-xmark 0x{marks[rule.name]:x}/0x{MASQUERADE_MASK:x}"))
        found.append((ANY, "-j RETURN"))
        return found

    return leaf


def denial(direction: Direction, rule: Rule, verdict: Verdict, log: bool) -> Actions:
    """Silence, or an answer: RST for TCP, port unreachable for the rest."""
    found: Actions = []
    if log:
        found.append((LOG_RATE, f"-j LOG --log-prefix {log_prefix('deny', rule.name)}"))
    if verdict is Verdict.DROP:
        found.append((ANY, "-j DROP"))
        return found
    unreachable = "icmp-port-unreachable" if direction.speaker.family == 4 else "icmp6-port-unreachable"
    found.append((Words(protocol="tcp"), "-j REJECT --reject-with tcp-reset"))
    found.append((ANY, f"-j REJECT --reject-with {unreachable}"))
    return found


def masquerade_marks(masquerades: tuple[Masquerade, ...]) -> dict[Address | None, int]:
    """The packet mark for every address (None: the outgoing interface's) that sources are replaced by."""
    addresses = sorted({m.address for m in masquerades if m.address}, key=lambda a: (a.version, int(a)))
    wanted: list[Address | None] = [None, *addresses]
    return {address: MASQUERADE_MARK | number * _STEP for number, address in enumerate(wanted)}


MOST_ADDRESSES = 7
"""Addresses that the three bits beside `MASQUERADE_MARK` tell apart."""


def translation_leaf(translations: dict[Rule, Translation], governed: bool) -> Leaf:
    """Destination translations. What portctl turns itself is not somebody else's publication."""

    def leaf(direction: Direction, rule: Rule, log: Rule | None) -> Actions:
        del direction, log
        translation = translations[rule]
        found: Actions = []
        if governed:
            found.append((ANY, f"-j MARK --set-xmark 0x0/0x{PUBLISHED_MARK:x}"))
        found.append((ANY, target(translation)))
        return found

    return leaf


def target(translation: Translation) -> str:
    """DNAT to another host, REDIRECT to this one."""
    port = "" if translation.target_port is None else str(translation.target_port)
    if translation.target is None:
        return f"-j REDIRECT --to-ports {port}" if port else "-j REDIRECT"
    host = str(translation.target)
    if port:
        host = f"{host}:{port}" if translation.target.version == 4 else f"[{host}]:{port}"
    return f"-j DNAT --to-destination {host}"
