"""What each system's pf can say, as data: one row a construct, with its source.

The sources are pf.conf(5) of OpenBSD 7.6, FreeBSD 12.1 and 15.1, and what their pfctl took or refused of rule files of
our own (`tests/observed/pf`, named in brackets). What FreeBSD 12.1 and 15.1 both take is taken for 13 and 14.
"""

from __future__ import annotations

from dataclasses import dataclass

from portctl.backends.pf.words import CLONED


@dataclass(frozen=True, slots=True)
class Dialect:
    """One pf. A field that is False is a construct that its pfctl refuses."""

    name: str
    rules_translate: bool
    """`rdr-to`, `nat-to` and `match` in filter rules: OpenBSD, FreeBSD from 15 [84, 85, 88, 89]. Otherwise `rdr` and
    `nat` rules before the filter [81, 87], which OpenBSD refuses."""
    reassemble: bool
    """`set reassemble yes`: OpenBSD, FreeBSD from 14, surely 15 [103]. Otherwise `scrub in all fragment reassemble`
    [105], which OpenBSD refuses."""
    sctp_ports: bool
    """`proto sctp … port …`: FreeBSD 15 [28]."""
    through_ah: bool
    """An AH header of IPv4 is passed over, as that of IPv6 is by every pf, so that no rule for AH ever matches:
    pf_walk_header in pf.c of OpenBSD and of FreeBSD from 15."""
    to_loopback: bool = True
    """What comes in by an interface may be turned to 127.0.0.1 [83, 86]: OpenBSD, FreeBSD. macOS drops it."""
    families: tuple[str, ...] = CLONED
    """Interface groups that hold all interfaces whose names begin so, and no others."""
    below: tuple[str, ...] = ()
    """Families of interfaces whose packets pf sees on the interface below them: no rule for one ever matches."""
    first_is_global: bool = True
    """`(em0:0)` is in IPv6 the first address that is not link-local: FreeBSD from 12, pfi_instance_add in pf_if.c. The
    one of OpenBSD passes none over, and link-local addresses come first there."""
    states_translate: bool = False
    """A packet is translated by its state alone: what `nat-to` in an anchor of others means has no effect where the
    rule that passes it keeps none. pf_test_rule in pf.c of OpenBSD; that of FreeBSD makes one then (`nr`)."""
    groups: bool = True
    """Interfaces have groups (`on tun`), of which `(self)` is one: OpenBSD, FreeBSD [33, 38]. The kernel of macOS has
    none: pfi_kif_match and pfi_table_update in bsd/net/pf_if.c of XNU know single interfaces, so that `(self)` is taken
    and holds no address, ever."""


_OPENBSD = tuple(name for name in CLONED if name not in ("wlan", "carp"))
"""Every wireless interface of OpenBSD, `iwm0` say, is in the group `wlan` (ieee80211_ifattach)."""


def _old(name: str, groups: bool = True) -> Dialect:
    """pf as OpenBSD had it up to 4.6."""
    return Dialect(
        name,
        rules_translate=False,
        reassemble=False,
        sctp_ports=False,
        through_ah=False,
        to_loopback=groups,
        groups=groups,
    )


def _new(name: str, sctp_ports: bool, families: tuple[str, ...] = CLONED) -> Dialect:
    return Dialect(
        name,
        rules_translate=True,
        reassemble=True,
        sctp_ports=sctp_ports,
        through_ah=True,
        families=families,
        below=() if "carp" in families else ("carp",),  # pf_test of OpenBSD's pf.c
        first_is_global="carp" in families,
        states_translate="carp" not in families,
    )


DIALECTS: dict[str, Dialect] = {
    dialect.name: dialect
    for dialect in (
        _new("pf-openbsd", sctp_ports=False, families=_OPENBSD),
        _old("pf-freebsd13"),
        _old("pf-freebsd14"),
        _new("pf-freebsd15", sctp_ports=True),
        _old("pf-macos", groups=False),
    )
}


def freebsd(version: str) -> Dialect:
    """The dialect of a FreeBSD version (`14.2`, `13.1-RELEASE-p3`; empty: the newest)."""
    digits = version.partition(".")[0].partition("-")[0]
    major = int(digits) if digits.isdigit() else 15
    return DIALECTS[f"pf-freebsd{min(max(major, 13), 15)}"]
