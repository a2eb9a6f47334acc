"""What each system's pf can say, as data. Sources: pf.conf(5) of OpenBSD 7.6 and FreeBSD 12.1 and 15.1, and the output
of their pfctl on rule files of our own (tests/observed/pf)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Dialect:
    """One pf. A field that is False is a construct that its pfctl refuses."""

    name: str
    loopback: str
    """What `set skip on` names: the interface, or OpenBSD's group of them."""
    translation_in_rules: bool
    """`rdr-to`, `nat-to` on filter rules (OpenBSD from 4.7, FreeBSD from 15); otherwise `rdr` and `nat` rules."""
    match: bool
    """`match` rules (OpenBSD from 4.6, FreeBSD from 14)."""
    reassemble: bool
    """`set reassemble yes` (OpenBSD, FreeBSD from 14); otherwise `scrub in all fragment reassemble`."""
    sctp_ports: bool
    """`proto sctp … port` (FreeBSD from 15)."""
    answers_everything: bool
    """`block return` answers every protocol (OpenBSD, FreeBSD from 15), otherwise TCP and UDP alone."""


DIALECTS: dict[str, Dialect] = {
    dialect.name: dialect
    for dialect in (
        Dialect("pf-openbsd", "lo", True, True, True, False, True),
        Dialect("pf-freebsd13", "lo0", False, False, False, False, False),
        Dialect("pf-freebsd14", "lo0", False, True, True, False, False),
        Dialect("pf-freebsd15", "lo0", True, True, True, True, True),
        Dialect("pf-macos", "lo0", False, False, False, False, False),
    )
}
