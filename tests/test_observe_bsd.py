"""FreeBSD, OpenBSD and macOS hosts: what they are, which packet filter is theirs, and listings known by content."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest

from portctl import backends, observe
from portctl.observe import Facts, choose_backend, readers
from portctl.templating import folder

OBSERVED = Path(__file__).parent / "observed"
IFCONFIG = (OBSERVED / "pf" / "ifconfig.txt").read_text()
ROUTES = (OBSERVED / "bsd" / "freebsd15.netstat-rn.txt").read_text()
FREEBSD = f"""\
\x01system
FreeBSD
\x01release
14.2-RELEASE-p1
\x01product
\x01user
0
\x01tool pfctl
\x01tool sockstat
\x01filters
pf on
ipfw off
\x01dynamic
0
\x01boot
pf_enable="NO"
firewall_enable="NO"
pf_enable="YES"		# since last week
\x01securelevel
-1
\x01forwarding
0
1
\x01modules
pf
ipfw
\x01jail
0
\x01addresses
{IFCONFIG}
\x01routes
{ROUTES}
\x01resolvers
search example.org
nameserver 192.0.2.53
"""
OPENBSD = """\
\x01system
OpenBSD
\x01release
7.6
\x01user
0
\x01filters
pf on
\x01boot
pf=YES			# Packet filter / NAT
\x01securelevel
1
\x01forwarding
0
0
\x01slowhz
2
\x01addresses
lo0: flags=2008049<UP,LOOPBACK,RUNNING,MULTICAST,LRO> mtu 32768
	inet6 ::1 prefixlen 128
	inet 127.0.0.1 netmask 0xff000000
vio0: flags=a48843<UP,BROADCAST,RUNNING,SIMPLEX,MULTICAST,AUTOCONF6TEMP,AUTOCONF6> mtu 1500
	lladdr fe:e1:bb:d1:00:01
	inet 192.0.2.20 netmask 0xffffff00 broadcast 192.0.2.255
	inet6 fe80::fce1:bbff:fed1:1%vio0 prefixlen 64 scopeid 0x1
	inet6 2001:db8::20 prefixlen 64 autoconf pltime 604745 vltime 2591945
\x01routes
Destination        Gateway            Flags   Refs      Use   Mtu  Prio Iface
default            192.0.2.1          UGS        5       32     -     8 vio0
default                            fe80::1%vio0                   UG         0        0     -     8 vio0
"""
MACOS = """\
\x01system
Darwin
\x01release
24.1.0
\x01product
15.1
\x01user
501
\x01filters
pf unknown
\x01resolvers
resolver #1
  nameserver[0] : 192.0.2.53
  nameserver[1] : 2001:db8::53
"""


def test_facts_of_a_freebsd_host() -> None:
    found = observe.read(FREEBSD)
    assert (found.system, found.release, found.init) == ("FreeBSD", "14.2-RELEASE-p1", "freebsd-rc")
    assert found.root and found.sees_processes and found.tracking
    assert (found.filters, found.boot_filters, found.modules) == (("pf",), ("pf",), ("pf", "ipfw"))
    assert (found.securelevel, found.slowhz, found.forwards) == (-1, None, True)
    assert {i.name: i.addresses[0] for i in found.interfaces}["em0"] == ip_address("192.0.2.10")
    assert found.gateways == (ip_address("192.0.2.1"), ip_address("2001:db8::1"))
    assert found.resolvers == (ip_address("192.0.2.53"),)


def test_facts_of_an_openbsd_host() -> None:
    found = observe.read(OPENBSD)
    assert (found.init, found.slowhz, found.filters, found.forwards) == ("openbsd-rc", 2, ("pf",), False)
    vio0 = next(i for i in found.interfaces if i.name == "vio0")
    assert vio0.advertised and ip_address("2001:db8::20") in vio0.addresses
    assert found.gateways == (ip_address("192.0.2.1"), ip_address("fe80::1"))


def test_facts_of_a_mac_without_root() -> None:
    found = observe.read(MACOS)
    assert (found.system, found.release, found.init, found.root) == ("Darwin", "15.1", "launchd", False)
    assert found.resolvers == (ip_address("192.0.2.53"), ip_address("2001:db8::53"))
    assert found.filters == ("pf",), "what only root may know is not off"


@pytest.mark.parametrize(
    ("filters", "boot", "chosen"),
    [
        ((), (), "pf-freebsd"),
        (("ipfw",), (), "ipfw"),
        (("pf",), ("ipfw",), "pf-freebsd"),
        ((), ("ipfw",), "ipfw"),
        (("ipfw", "pf"), ("ipfw",), "ipfw"),
        (("ipfw", "pf"), (), "pf-freebsd"),
    ],
)
def test_freebsd_uses_the_filter_that_is_in_use(filters: tuple[str, ...], boot: tuple[str, ...], chosen: str) -> None:
    known = replace(observe.read(FREEBSD), filters=filters, boot_filters=boot)
    assert choose_backend(known) == chosen
    assert {backends.package(backend.NAME) for backend in readers(known)} == set(filters)


def test_each_system_has_its_dialect() -> None:
    assert choose_backend(observe.read(OPENBSD)) == "pf-openbsd"
    assert choose_backend(observe.read(MACOS)) == "pf-macos"
    assert choose_backend(Facts("FreeBSD"), last="ipfw") == "ipfw"


def test_the_question_is_plain_sh(tmp_path: Path) -> None:
    path = tmp_path / "question.sh"
    path.write_text("#!/bin/sh\n" + observe.question().argv[2])
    done = subprocess.run(["dash", "-n", str(path)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    for script in sorted((folder() / "observe").glob("*.sh")):
        checked = ["shellcheck", "-s", "sh", str(script)]
        done = subprocess.run(checked, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout


def test_here_the_question_is_answered_as_linux() -> None:
    done = subprocess.run(observe.question().argv, capture_output=True, text=True, check=False)
    assert observe.read(done.stdout).system == "Linux"


PF_FILES = sorted((OBSERVED / "pf").glob("*/*.sr.txt")) + sorted((OBSERVED / "pf").glob("*/*.sn.txt"))
IPFW_FILES = [
    path for name in ("list", "a.list", "S.list") for path in (OBSERVED / "ipfw").glob(f"*/freebsd15.{name}.txt")
]


def test_listings_of_pf_are_known_by_their_content() -> None:
    known = [path for path in PF_FILES if path.read_text().strip()]
    assert len(known) > 100
    for path in known:
        claims = [(n, c) for n in backends.LANGUAGES if (c := backends.load(n).claims(path.read_text()))]
        assert claims == [("pf-freebsd", "translations" if path.match("*.*sn.txt") else "pf.conf")], path


def test_listings_of_ipfw_are_known_by_their_content() -> None:
    assert len(IPFW_FILES) > 100
    for path in IPFW_FILES:
        claims = [(n, c) for n in backends.LANGUAGES if (c := backends.load(n).claims(path.read_text()))]
        assert claims == [("ipfw", "list")], path


def test_a_policy_is_no_listing() -> None:
    for path in (Path(__file__).parent.parent / "policies").glob("*.yaml"):
        assert not [name for name in backends.LANGUAGES if backends.load(name).claims(path.read_text())], path
