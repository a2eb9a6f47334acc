"""The records of a host: one folder an apply, numbered, under `/var/lib/portctl/history`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from portctl.apply import store
from portctl.apply.paths import HISTORY, PENDING
from portctl.apply.steps import call
from portctl.command import Command, Host
from portctl.listeners.proc import sections
from portctl.ruleset import Ruleset

_ASK = """cd "$1" 2>/dev/null || cd /var/db/portctl/history 2>/dev/null || exit 0
for each in [0-9]*; do
[ -d "$each" ] || continue
for name in about.json outcome why ended; do
[ -e "$each/$name" ] && { printf '\\001%s/%s\\n' "$each" "$name"; cat "$each/$name"; }
done
done
:"""


@dataclass(frozen=True, slots=True)
class About:
    """What is known of an apply before it happens. `follows` is the record that was in force, `kind` says what it is:
    `apply`, or `rollback` with the number of the record that it takes back in `takes_back`."""

    policy: str
    who: str
    when: str
    backend: str
    kind: str = "apply"
    follows: int | None = None
    takes_back: int | None = None
    digest: str = ""
    parts: tuple[str, ...] = ()
    nothing: bool = False
    """It leads back to the state in which portctl had nothing loaded."""


@dataclass(frozen=True, slots=True)
class Record:
    """`outcome`: `pending`, `confirmed` (also with an addition), `rolled back`, `rollback failed: …`."""

    number: int
    about: About
    outcome: str
    why: str = ""
    ended: str = ""

    @property
    def confirmed(self) -> bool:
        return self.outcome.startswith("confirmed")


def about_text(about: About) -> str:
    return json.dumps(asdict(about), indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def records(host: Host) -> list[Record]:
    """All records of a host, the oldest first. Those whose description is damaged are left out."""
    answer = host.run(Command(("sh", "-c", _ASK, "sh", HISTORY)), 60.0).stdout
    parts = sections(answer)
    found = []
    for number in sorted({int(name.split("/")[0]) for name in parts}):
        about = _about(parts.get(f"{number}/about.json", ""))
        if about is not None:
            outcome, why, ended = (parts.get(f"{number}/{name}", "").strip() for name in ("outcome", "why", "ended"))
            found.append(Record(number, about, outcome or "pending", why, ended))
    return found


def _about(text: str) -> About | None:
    try:
        held = json.loads(text)
        return About(**{**held, "parts": tuple(held.get("parts", ()))})
    except (ValueError, TypeError):
        return None


def in_force(found: list[Record]) -> Record | None:
    """The record whose state is the confirmed one; None: nothing of portctl's was ever confirmed, or it was undone."""
    last = next((r for r in reversed(found) if r.confirmed), None)
    if last is None or last.about.nothing:
        return None
    return last


def read(host: Host, path: str) -> str | None:
    """The text of a file of a host; None where it is not there."""
    return sections(call(host, "dump", path).stdout).get(path)


def thinned(host: Host, number: int) -> bool:
    """Whether the rules of a record were taken out, to save room (`thin` of the guard script)."""
    return read(host, f"{HISTORY}/{number}/thinned") is not None


def ruleset_of(host: Host, number: int) -> Ruleset | None:
    """What the policy of a record meant."""
    text = read(host, f"{HISTORY}/{number}/ruleset.json")
    return store.loads(text) if text else None


def below(dumped: str, folder: str) -> dict[str, str]:
    """{path below a folder: text} of the answer to the guard script's `dump`."""
    prefix = folder.rstrip("/") + "/"
    return {name[len(prefix) :]: text for name, text in sections(dumped).items() if name.startswith(prefix)}


def by_part(files: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """{part/file: text} → {part: {file: text}}."""
    found: dict[str, dict[str, str]] = {}
    for path, text in files.items():
        part, _, name = path.partition("/")
        found.setdefault(part, {})[name] = text
    return found


def pending_text(host: Host, name: str) -> str | None:
    return read(host, f"{PENDING}/{name}")
