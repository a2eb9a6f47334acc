"""What the tests of apply share: policies, running portctl on a machine, and the state of a machine as one text."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence

from portctl.command import Command, Result
from portctl.hosts.namespaces import Room
from tests.system import forked

BACKENDS = ("nftables", "iptables")
FIRST = """portctl: 1
name: first
services:
  ssh: {ports: ssh, from: any}
  web: {ports: [http, https], from: any}
sysctl: {tcp_keepalive_time: 2000}
"""
SECOND = """portctl: 1
name: second
addresses: {bad: [198.51.100.0/24, "2001:db8:bad::/48", 203.0.113.5]}
services:
  ssh: {ports: ssh, from: any}
  mail: {ports: [smtp, imaps], from: any}
block: [bad]
sysctl: {tcp_keepalive_time: 3000, linux: {net.core.somaxconn: 1024}}
"""

STATE = """nft list tables | grep -vE ' ip6? (filter|nat|mangle|raw|security)$' | while read -r t; do nft list $t; done
echo '# end of nft'
iptables-save; ip6tables-save; ipset save | sort
sysctl net.ipv4.tcp_keepalive_time net.core.somaxconn net.ipv4.ip_forward net.ipv6.conf.all.forwarding
find_ours() { find /etc/portctl /etc/sysctl.d/60-portctl.conf /etc/systemd/system -path '*portctl*' "$@" 2>/dev/null; }
find_ours -printf '%p %l\\n' | sort -V
find_ours -type f -print0 | sort -zV | xargs -0r tail -n +1"""


def in_order(listing: str) -> list[str]:
    """The tables, sets and chains of nft's listing by themselves: the kernel lists first what a load has kept."""
    return sorted(re.split(r"\n+(?=\t?(?:table|set|map|chain) )", listing.replace("\n}\n", "\n").rstrip()))


def state(machine: Room) -> str:
    """Rules, sets, settings, and files for the next boot, without counters and moments."""
    tables, _, rest = machine.run(Command(("sh", "-c", STATE)), 60).stdout.partition("# end of nft\n")
    said = "\n".join((*in_order(tables), rest))
    said = re.sub(r"packets \d+ bytes \d+|\[\d+:\d+\]| initval 0x[0-9a-f]+", "", said)
    # iptables shows a table and its built-in chains once anybody has touched it, also if it is empty again.
    said = re.sub(r"(?m)^# .*\n|^\*\w+\n|^COMMIT\n|^:[A-Z]+ ACCEPT *\n", "", said)
    return re.sub(r"/etc/portctl/boot/\d+", "/etc/portctl/boot/N", re.sub(r"(current|previous) \d+", r"\1 N", said))


def portctl(machine: Room, *words: str, env: Sequence[str] = (), timeout: float = 120) -> Result:
    """Runs portctl on a machine."""
    return forked.run(machine, words, env, timeout)


def apply(machine: Room, policy: str, *words: str, env: Sequence[str] = (), timeout: float = 120) -> Result:
    """Applies a policy without asking."""
    machine.put("/root/policy.yaml", policy.encode())
    return portctl(machine, "apply", "/root/policy.yaml", "--yes", *words, env=env, timeout=timeout)


def applied(machine: Room, policy: str, *words: str) -> None:
    """Applies a policy for good."""
    result = apply(machine, policy, "--confirm-within", "0", *words)
    assert result.status == 0, result.stdout + result.stderr


SETTLED = """[ ! -e /run/portctl/pending/guard ] || exit 1
holder=$(readlink /run/portctl/lock.*) || exit 0
[ "$holder" = free ] || [ ! -e "/proc/${holder%%:*}" ]"""


def settled(machine: Room, seconds: float = 12) -> None:
    """Waits until no apply is under way: the lock is free, or whoever held it is dead and left no guard."""
    end, pause = time.monotonic() + seconds, 0.1
    while not machine.run(Command(("sh", "-c", SETTLED))).ok:
        assert time.monotonic() < end, machine.run(Command(("sh", "-c", "ls -lR /run/portctl; ps -ef"))).stdout
        time.sleep(pause)
        pause = min(1.5 * pause, 0.4)
