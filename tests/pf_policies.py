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
