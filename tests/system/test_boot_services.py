"""Services of others that undo portctl's rules at boot, or deny what they admit: what a real host says of each."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from portctl import wayin
from portctl.hosts.namespaces import Room
from portctl.observe import others
from portctl.observe.boot import boot_state
from portctl.templating import folder
from tests.system import worlds

RING = "services of others at boot"
WANTS = "/etc/systemd/system/multi-user.target.wants"
DEBIAN = "*filter\n:INPUT DROP [0:0]\n:FORWARD ACCEPT [0:0]\n-A INPUT -i lo -j ACCEPT\nCOMMIT\n"
OPEN = "*filter\n:INPUT ACCEPT [0:0]\n:PORTCTL-IN - [0:0]\n-A PORTCTL-IN -j DROP\nCOMMIT\n"
REDHAT = "*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -j REJECT --reject-with icmp-host-prohibited\nCOMMIT\n"
STAYS = "stays closed, whatever the policy admits"
FLUSHES = "flush every rule of this host"
REPLACES = "what iptables holds, portctl's rules too"


@pytest.fixture
def machine() -> Iterator[Room]:
    with worlds.machine() as room:
        yield room


def wanted(name: str, folder: str = WANTS) -> dict[str, str]:
    """The link by which systemd starts a service."""
    return {f"{folder}/{name}.service": ""}


def said(machine: Room, backend: str) -> dict[str, str]:
    """{service: what the plan and `verify` say of it}; both must say the same."""
    state = boot_state(machine)
    assert state is not None
    around = wayin.read(machine.run(wayin.question(), 60).stdout)
    assert around.boot_services == state.others
    return {service.name: words for service, words in others.trouble(state.others, backend)}


def given(machine: Room, files: dict[str, str], programs: tuple[str, ...] = ()) -> None:
    for path, text in files.items():
        machine.put(path, text.encode(), 0o755)
    for name in programs:
        machine.put(f"/usr/local/sbin/{name}", b"#!/bin/sh\n", 0o755)


FIGHTING: dict[str, dict[str, str]] = {
    "ufw": {**wanted("ufw"), "/etc/ufw/ufw.conf": "# on\nENABLED=yes\n"},
    "firewalld": wanted("firewalld"),
    "shorewall": {**wanted("shorewall"), "/etc/shorewall/shorewall.conf": "STARTUP_ENABLED=Yes\n"},
    "shorewall6": wanted("shorewall6", "/etc/systemd/system/basic.target.wants"),
    "ferm": {**wanted("ferm"), "/etc/init.d/ferm": "", "/etc/default/ferm": 'ENABLED="yes"\n'},
    "firehol": {**wanted("firehol"), "/etc/default/firehol": "START_FIREHOL=YES\n"},
    "arno-iptables-firewall": wanted("arno-iptables-firewall"),
    "csf": wanted("csf"),
    "apf-firewall": {"/etc/rc2.d/S20apf-firewall": "", "/etc/default/apf-firewall": 'RUN="yes"\n'},
}
"""Firewalls of their own: what they do not open is closed, beside any back end."""


@pytest.mark.parametrize("name", FIGHTING)
def test_another_firewall_is_named(machine: Room, name: str) -> None:
    given(machine, FIGHTING[name], ("apf",))
    assert said(machine, "nftables") == {name: f"what it does not open {STAYS}"}
    with_iptables = said(machine, "iptables")[name]
    assert STAYS in with_iptables
    if name == "ufw":
        assert REPLACES not in with_iptables
    elif name in ("ferm", "firehol"):
        assert f"empties {REPLACES}, at each start but the boot, where portctl comes after it" in with_iptables
    else:
        assert f"empties {REPLACES}, at boot too" in with_iptables


def test_saved_rules_are_named_where_they_replace_or_deny(machine: Room) -> None:
    given(machine, {**wanted("netfilter-persistent"), "/etc/iptables/rules.v4": OPEN})
    assert said(machine, "nftables") == {}
    assert said(machine, "iptables") == {
        "netfilter-persistent": f"it puts /etc/iptables/rules.v4 in the place of {REPLACES}, at each start but the "
        "boot, where portctl comes after it"
    }
    given(
        machine, {"/etc/iptables/rules.v6": DEBIAN, "/etc/default/netfilter-persistent": "IPTABLES_RESTORE_NOFLUSH=yes"}
    )
    beside = {"netfilter-persistent": f"what /etc/iptables/rules.v6 denies {STAYS}"}
    assert said(machine, "nftables") == said(machine, "iptables") == beside
    given(machine, {**wanted("iptables"), "/etc/sysconfig/iptables": REDHAT, "/etc/sysconfig/ip6tables": REDHAT})
    found = said(machine, "iptables")
    assert found["iptables"].startswith(
        f"it puts /etc/sysconfig/iptables in the place of {REPLACES}, at boot too; what"
    )
    assert "ip6tables" not in found  # not enabled


def test_nftables_service_is_named_for_its_stop(machine: Room) -> None:
    given(machine, wanted("nftables", "/etc/systemd/system/sysinit.target.wants"))
    for backend in ("nftables", "iptables"):
        assert FLUSHES in said(machine, backend)["nftables"]


SCRIPTS = {
    "nft flush ruleset; nft -f /root/rules.nft": "it flushes every rule of this host, portctl's too",
    "/usr/sbin/nft -f /root/flushing.nft || exit 1": "it flushes every rule of this host, portctl's too",
    "iptables-restore < /root/open.v4 2>/dev/null": f"it empties {REPLACES}, at boot",
    "/sbin/iptables -F": f"it empties {REPLACES}, at boot",
    "iptables-restore -n </root/debian.v4": f"what it denies {STAYS}",
    "iptables -A INPUT -s 203.0.113.0/24 -j DROP": f"what it denies {STAYS}",
    "iptables -t nat -A POSTROUTING -o eth0 -j MASQUERADE": None,
    "#iptables -F": None,
    "echo nft is fine": None,
}


@pytest.mark.parametrize("line", SCRIPTS)
@pytest.mark.parametrize(
    "path", ["/etc/rc.local", "/etc/NetworkManager/dispatcher.d/50-rules", "/etc/network/interfaces"]
)
def test_a_script_by_hand_is_named_for_what_it_does(machine: Room, path: str, line: str) -> None:
    files = {
        "/root/flushing.nft": "#!/usr/sbin/nft -f\nflush ruleset\n",
        "/root/open.v4": OPEN,
        "/root/debian.v4": DEBIAN,
    }
    text = f"iface eth0 inet dhcp\n  pre-up {line}\n" if path.endswith("interfaces") else f"#!/bin/sh\n{line}\nexit 0\n"
    if path.endswith("interfaces") and line.startswith("#"):
        text = text.replace("pre-up ", "")
    given(machine, {**files, path: text}, ("ifup",))
    expected = SCRIPTS[line]
    assert said(machine, "iptables") == ({path.rpartition("/")[2]: expected} if expected else {})
    if path == "/etc/rc.local":  # not executable: nothing runs it
        machine.put(path, f"#!/bin/sh\n{line}\n".encode(), 0o644)
        assert said(machine, "iptables") == {}


def test_what_is_off_or_gone_is_not_named(machine: Room) -> None:
    off = {
        **wanted("ufw"), "/etc/ufw/ufw.conf": "ENABLED=no\n#ENABLED=yes\n",
        **wanted("ferm"), "/etc/init.d/ferm": "", "/etc/default/ferm": "ENABLED=no\n",
        **wanted("firehol"), "/etc/default/firehol": "START_FIREHOL=NO\n",
        **wanted("shorewall"), "/etc/shorewall/shorewall.conf": "STARTUP_ENABLED=No\n",
        **wanted("netfilter-persistent"),  # nothing is saved
        **wanted("csf"), "/etc/csf/csf.disable": "",
        "/etc/rcS.d/S15firewalld": "",  # its package was removed
        "/etc/rc2.d/S20apf-firewall": "", "/etc/default/apf-firewall": "RUN=no\n",
        "/etc/runlevels/shutdown/shorewall6": "",
    }  # fmt: skip
    given(machine, off, ("apf",))
    # A unit that is masked does not start, nor one whose file is gone.
    link = f"mkdir -p {WANTS}; ln -s /usr/lib/systemd/system/arno-iptables-firewall.service {WANTS}/"
    masked = f"ln -s /dev/null /etc/systemd/system/firewalld.service; : >{WANTS}/firewalld.service"
    worlds.checked(machine, "sh", "-c", f"{link}; {masked}")
    assert said(machine, "iptables") == said(machine, "nftables") == {}


def test_openrc_starts_what_stands_in_its_runlevels(machine: Room) -> None:
    files = {
        "/run/openrc/softlevel": "default",
        **wanted("firewalld"),
        "/etc/local.d/rules.start": "nft flush ruleset\n",
    }
    given(machine, {**files, "/etc/runlevels/default/iptables": "", "/etc/iptables/rules-save": REDHAT})
    found = said(machine, "iptables")
    assert set(found) == {"iptables"}
    assert "at each start but the boot, where portctl comes after it" in found["iptables"]
    given(machine, {"/etc/runlevels/default/local": ""})
    assert said(machine, "nftables")["rules.start"] == "it flushes every rule of this host, portctl's too"


def test_systemd_takes_no_script_where_there_is_a_unit(machine: Room) -> None:
    given(machine, {"/run/systemd/system/x": "", "/etc/rc2.d/S01shorewall": ""}, ("shorewall",))
    assert set(said(machine, "nftables")) == {"shorewall"}
    given(machine, {"/usr/lib/systemd/system/shorewall.service": ""})
    assert said(machine, "nftables") == {}


def test_the_unit_starts_after_those_that_are_said_to_come_first() -> None:
    unit = (folder() / "guard/portctl-boot.service").read_text()
    after = " ".join(line[6:] for line in unit.splitlines() if line.startswith("After="))
    openrc = (folder() / "guard/portctl-boot.openrc").read_text()
    (names,) = (line.split()[1:] for line in openrc.splitlines() if line.strip().startswith("after "))
    for service in ("ufw", "nftables", "netfilter-persistent", "ferm", "firehol"):
        assert f"{service}.service" in after
        one = others.BootService(service, f"{WANTS}/x", None, frozenset({"iptables"}))
        assert "where portctl comes after it" in dict(others.trouble((one,), "iptables"))[one]
    for service in ("iptables", "ip6tables"):
        assert service in names
        one = others.BootService(service, "/etc/runlevels/boot/x", None, frozenset({"iptables"}))
        assert "where portctl comes after it" in dict(others.trouble((one,), "iptables"))[one]


def test_the_question_is_plain_sh() -> None:
    script = folder() / "guard/boot-services.sh"
    done = subprocess.run(["shellcheck", "-s", "sh", str(script)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    for shell in (("dash",), ("busybox", "sh"), ("posh",), ("mksh",)):
        answered = subprocess.run([*shell, "-n", str(script)], capture_output=True, text=True, check=False)
        assert answered.returncode == 0, answered.stderr
