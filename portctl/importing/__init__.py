"""Rule sets that somebody else wrote become policies: with an account of every line, and a proof that they are equal.

The policy is not translated rule by rule. The engine of `portctl.space` says exactly which connections the input
admits; those are described as entries, as few and as plain as they can be; then policy and input are compared.
"""

from __future__ import annotations

from collections.abc import Mapping

from portctl import backends
from portctl.importing.account import Account
from portctl.importing.imported import Imported, bring
from portctl.importing.inputs import Inputs, read
from portctl.observe import Observed

__all__ = ["Account", "Imported", "Inputs", "bring", "from_texts", "of_observed", "read"]


def from_texts(files: Mapping[str, str], name: str = "imported", alike: bool = True) -> Imported:
    """The policy of some saved rule sets, {name of the file: text}. Raises `Problems` for what is no rule set.

    `alike`: where the input speaks of one IP family alone, what it opens to everybody is open in both.
    """
    return bring(read(files), name, alike)


def of_observed(observed: Observed, name: str = "imported", alike: bool = True) -> Imported:
    """The policy of what a host has loaded. Its nftables listing and that of iptables show common tables once."""
    listings = {place.partition("/")[2]: text for place, text in observed.listings.items() if place.count("/") == 1}
    if observed.facts.system != "Linux":
        return _of_bsd(observed, name, alike)
    files = {listing: text for listing, text in listings.items() if listing in LISTED and text.strip()}
    own = {"users": listings.get("users", "")}
    return bring(read(files, own), name, alike, observed.facts.own_addresses())


def _of_bsd(observed: Observed, name: str, alike: bool) -> Imported:
    """The same of pf and ipfw: what lists rules is accounted for, line by line; the rest says what they mean."""
    files: dict[str, str] = {}
    own: dict[str, str] = {}
    for place, text in observed.listings.items():
        backend, _, listing = place.partition("/")
        tool = backends.package(backend)
        if listing in RULES:
            if text.strip():
                files[RULES[listing]] = text
        else:
            own[f"{tool} {listing}"] = text
    return bring(read(files, own), name, alike, observed.facts.own_addresses())


RULES = {"rules": "pfctl -sr", "translations": "pfctl -sn", "list": "ipfw list"}
"""Listings that hold rules, and what prints them."""
LISTED = ("rules.v4", "rules.v6", "sets.ipset", "ruleset")
