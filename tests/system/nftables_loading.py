"""What the system tests of the nftables back end share: loading and listing its table on a machine."""

from __future__ import annotations

import re

from portctl import backends
from portctl.backends.base import Ability, bundle
from portctl.command import Command, Result
from portctl.hosts.namespaces import Room
from portctl.ruleset import KNOWN, Ruleset
from tests.nftables_cases import fixed
from tests.system.worlds import checked

NFT = backends.load("nftables")
KNOWN_FIRST = fixed("known", states=KNOWN)


def text(ruleset: Ruleset) -> str:
    assert not NFT.gaps(ruleset, Ability())
    return NFT.render(ruleset, Ability())["rules.nft"]


def put(room: Room, ruleset: Ruleset, folder: str = "/run/bundle") -> None:
    for name, content in bundle(NFT, ruleset, Ability()).items():
        room.put(f"{folder}/{name}", content.encode())


def sh(room: Room, *words: str) -> Result:
    return room.run(Command(("dash", *words)), timeout=120)


def load(room: Room, ruleset: Ruleset) -> None:
    put(room, ruleset)
    result = sh(room, "/run/bundle/load.sh")
    assert (result.status, result.stdout, result.stderr) == (0, "", "")


def listed(room: Room) -> str:
    return checked(room, "env", "TZ=UTC", "nft", "-u", "list", "table", "inet", "portctl")


def told(room: Room) -> str:
    """The listing without what the packets counted."""
    return re.sub(r"counter packets \d+ bytes \d+", "counter packets 0 bytes 0", listed(room))


def by_number(listing: str) -> str:
    """nft prints names of protocols from /etc/protocols; rules are written so that nothing is read from there."""
    return listing.replace("l4proto gre", "l4proto 47").replace("l4proto vrrp", "l4proto 112")
