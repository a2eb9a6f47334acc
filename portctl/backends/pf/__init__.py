"""pf: OpenBSD, FreeBSD, macOS. One rule set, loaded in one transaction in place of the whole main rule set.

`dialects` says what each system's pf lacks, `render` writes pf.conf, `parse` reads pfctl's listings. Anchors of others
that the loaded rule set calls are called by the new one too (`load.sh` carries the calls over), after `block`.

With `Ability.anchor` they are rules for the anchor `portctl` of a main rule set that is somebody else's. An anchor has
no options: rules pass the loopback interface, and the file's head says what the main rule set has to say.

Names: tables are `portctl_GROUP`, or `portctl_ENTRY` for what an entry itself lists, and `portctl-live-GROUP`; labels
are `portctl:KIND:ENTRY`; the tags are listed in `inward`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

from portctl import templating
from portctl.backends.base import Ability, Backend, Difference
from portctl.backends.pf import anchor, claims, gaps, parse, render
from portctl.backends.pf.anchor import Anchored
from portctl.backends.pf.dialects import DIALECTS, Dialect, freebsd
from portctl.backends.pf.differences import differences
from portctl.command import Command
from portctl.problems import Problem
from portctl.program import Program
from portctl.ruleset import Ruleset

SCRIPTS = ("load.sh", "save.sh", "remove.sh")
_NAMES = r'pfctl -sT; pfctl -sr | tr "<>" "[\n*]" | grep "^__automatic_[0-9a-f]*_[0-9]*$" | sort -u'
"""The tables that are listed, and those of pfctl's optimizer, which are not."""
_TABLES = f'{{ {_NAMES}; }} | while read -r t; do echo "table $t"; pfctl -t "$t" -T show; done'
_LABELS = "pfctl -s labels"
_ANCHOR = "pfctl -a portctl -sn; pfctl -a portctl -sr"
_ANCHOR_TABLES = _TABLES.replace("pfctl ", "pfctl -a portctl ")
_SERVICES = "cat /etc/services"
_USERS = "getent passwd || cat /etc/passwd && dscl . -list /Users UniqueID | awk '{ print $1 \":*:\" $2 }'"
"""macOS has no getent(1), and in /etc/passwd only the system's own users."""
_QUIET = "{} 2>/dev/null || :"


@dataclass(frozen=True, slots=True)
class Pf:
    """The back end of one dialect; `pf-freebsd` takes the dialect of the version that `Ability` names."""

    NAME: str
    PARTS: tuple[str, ...] = ("pf.conf",)

    def dialect(self, ability: Ability) -> Dialect:
        return DIALECTS.get(self.NAME) or freebsd(ability.version)

    def gaps(self, ruleset: Ruleset, ability: Ability) -> list[Problem]:
        return gaps.gaps(ruleset, self.dialect(ability))

    def differences(self, ruleset: Ruleset, ability: Ability) -> tuple[Difference, ...]:
        return differences(ruleset, self.dialect(ability))

    def render(self, ruleset: Ruleset, ability: Ability) -> dict[str, str]:
        return render.render(ruleset, self.dialect(ability), ability.anchor)

    def scripts(self) -> dict[str, str]:
        return {name: templating.text(f"pf/{name}") for name in SCRIPTS}

    def questions(self) -> Mapping[str, Command]:
        """Everything that is loaded, anchors included. OpenBSD has no translation rules, and refuses the question."""
        return {
            "rules": Command(("pfctl", "-a", "*", "-sr")),
            "translations": Command(("sh", "-c", _QUIET.format("pfctl -a '*' -sn"))),
            "tables": Command(("sh", "-c", _TABLES)),
            "labels": Command(("sh", "-c", _QUIET.format(_LABELS))),
            "interfaces": Command(("pfctl", "-vs", "Interfaces")),
            "ifconfig": Command(("ifconfig", "-a")),
            "services": Command(("sh", "-c", _QUIET.format(_SERVICES))),
            "users": Command(("sh", "-c", f"{{ {_USERS}; }} 2>/dev/null || :")),
            "anchor": Command(("sh", "-c", f"{{ {_ANCHOR}; }} 2>/dev/null || :")),
            "anchor tables": Command(("sh", "-c", f"{{ {_ANCHOR_TABLES}; }} 2>/dev/null || :")),
            "anchor labels": Command(("sh", "-c", _QUIET.format(_LABELS.replace("pfctl", "pfctl -a portctl")))),
        }

    def parse(self, listings: Mapping[str, str]) -> Program:
        return parse.parse(listings)

    def called(self) -> Command:
        return Command(("sh", "-c", f"{{ {anchor.CALLED}; }} 2>/dev/null || :"))

    def calling(self, text: str, loaded: str) -> str:
        return anchor.calling(text, loaded)

    def claims(self, text: str) -> str | None:
        return claims.claims(text)


def named(name: str) -> Pf | Anchored:
    """The back end called `pf-openbsd`, `pf-freebsd`, `pf-freebsd13`, …, `pf-macos`; with `-anchor` behind it the one
    that keeps to the anchor."""
    plain = name.removesuffix("-anchor")
    return Pf(name) if plain == name else Anchored(name, cast(Backend, Pf(plain)))
