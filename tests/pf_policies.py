"""Generated policies made such that a pf can say them: what would be a gap is replaced by its nearest neighbour."""

from __future__ import annotations

import json
from typing import Any

Plain = dict[str, Any]


def fitting(plain: Plain, sctp: bool = True, groups: bool = True) -> Plain:
    """A policy without pf's gaps. `sctp`: its ports can be asked; `groups`: forwards and families of interfaces too."""
    if not groups:
        plain = {key: value for key, value in plain.items() if key != "forwards"}
    text = json.dumps(plain).replace('"wan*"', '"tun*"' if groups else '"tun0"').replace('"govern"', '"keep"')
    fit: Plain = json.loads(text if sctp else text.replace("5000/sctp", "5000/udp"))
    for part in ("services", "egress", "forwards"):
        for entry in fit.get(part, {}).values():
            _entry(entry)
    return fit


LONG = "a-live-group-with-a-long-name"


def enriched(number: int, plain: Plain) -> Plain:
    """The policy with what the generator leaves out, each in some: targets with a new source or a way out, other
    destinations of theirs, a live group with a long name."""
    text = json.dumps(plain)
    if number % 5 == 0:
        text = text.replace('"bans"', f'"{LONG}"')
    found: Plain = json.loads(text)
    turned = [entry for entry in found.get("forwards", {}).values() if "target" in entry]
    for place, entry in enumerate(turned, number):
        if place % 3 == 0:
            entry["masquerade"] = (True, "192.0.2.200", "2001:db8::200")[place // 3 % 3]
        elif place % 3 == 1:
            entry["out"] = ("lan", "both")[place // 3 % 2]
        if place % 4 == 0:
            entry["to"] = ("192.0.2.0/28", "2001:db8::1", ["10.0.0.99", "2001:db8::7"], "any")[place // 4 % 4]
    return found


def _entry(entry: Plain) -> None:
    if "rate" in entry and not _only_tcp(entry["ports"]):
        del entry["rate"]
    if "user" in entry:
        entry["ports"] = ["http", "domain"]
    if entry.get("masquerade"):
        entry["out"] = "both"
        entry.pop("max_connections", None)
        entry.pop("rate", None)
    if entry.get("target") == ":80" and "in" not in entry:
        entry["to"] = "192.0.2.80"
    if "public" in str(entry.get("in")) and entry.get("target") == ":80":
        entry["in"] = "both"


def _only_tcp(ports: Any) -> bool:
    words = ports if isinstance(ports, list) else [ports]
    return all(word in ("ssh", "http") or str(word).endswith("/tcp") for word in words)
