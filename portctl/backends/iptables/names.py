"""The names and the quoting of what is rendered. Everything here is a pure function of the policy."""

from __future__ import annotations

import re
from hashlib import blake2b

from portctl.net import Family
from portctl.ruleset import Kind, Rate, Rule

CHAIN_LENGTH = 28
SET_LENGTH = 31
COMMENT_LENGTH = 255
PREFIX_LENGTH = 29
_PLAIN = re.compile(r"[a-z0-9_.+-]+")
_UNQUOTED = re.compile(r"[A-Za-z0-9_-]+")


def digest(data: bytes | str, length: int = 8) -> str:
    """The first `length` hexadecimal digits of a hash of some data."""
    raw = data.encode() if isinstance(data, str) else data
    return blake2b(raw, digest_size=16).hexdigest()[:length]


def fit(prefix: str, label: str, suffix: str, length: int) -> str:
    """`prefix` + `label` + `suffix` in at most `length` characters; what had to be changed ends in a hash of itself."""
    clean = re.sub(r"[^a-z0-9_.+-]+", "-", label.lower()).strip("-") or "x"
    room = length - len(prefix) - len(suffix)
    if clean == label and len(clean) <= room:
        return prefix + clean + suffix
    if room < 12:
        return prefix + digest(label, room) + suffix
    return prefix + clean[: room - 9].rstrip("-") + "." + digest(label) + suffix


def chain_name(prefix: str, label: str, suffix: str = "") -> str:
    """The name of the chain for the entries `label`: `PORTCTL-IN-ssh`."""
    return fit(f"{prefix}-", label, suffix, CHAIN_LENGTH)


def live_set(group: str, family: Family) -> str:
    """The ipset that holds the members of a live group: `portctl-live-bans4`."""
    return fit("portctl-live-", group, str(family), SET_LENGTH)


def limit_name(rule: Rule, rate: Rate) -> str:
    """The name of the kernel's table of sources for a rate: another rate is another table, the same one is kept."""
    kind = Kind.SERVICE if rule.kind is Kind.PUBLISHED else rule.kind
    return f"portctl-{rule.name}-{digest(f'{kind.value} {rule.name} {rate.number}/{rate.period}')}"


def quoted(text: str) -> str:
    """A word as `iptables-save` prints it: in quotes unless it is of letters, digits, `-` and `_` alone."""
    return text if _UNQUOTED.fullmatch(text) else f'"{text}"'


def harmless(text: str) -> str:
    """A person's text without what could end a word or a line, on one line."""
    kept = "".join(c if c.isprintable() and c not in "\"'\\`$" else " " for c in text)
    return " ".join(kept.split())


def cut(text: str, length: int) -> str:
    """`text` in at most `length` bytes of UTF-8, never through a character."""
    return text.encode()[:length].decode(errors="ignore").rstrip()


def comment(rule: Rule, *, head: bool = False) -> str:
    """What a rule's comment says: the entry's name; where the entry is entered its description and so on, too.

    ` -- ` parts the name from the rest. A live group or a user that the rule itself cannot name in full is named here.
    """
    name = harmless(rule.name.replace(" -- ", " - "))
    live = rule.live_source or rule.live_destination or ""
    shortened = live and live_set(live, 4) != f"portctl-live-{live}4"
    notes = [f"live {live}"] if shortened else []
    notes += [f"user {harmless(rule.user)}"] if rule.user else []
    if head:
        told = (("", rule.description), ("owner ", rule.owner), ("ticket ", rule.ticket))
        notes += [word + harmless(text) for word, text in told if text and harmless(text)]
    return cut(name + (f" -- {'; '.join(notes)}" if notes else ""), COMMENT_LENGTH)


def log_prefix(word: str, name: str) -> str:
    """`"portctl accept ssh: "`, in the 29 characters that the kernel keeps."""
    return f'"{cut(f"portctl {word} {harmless(name)}", PREFIX_LENGTH - 2)}: "'
