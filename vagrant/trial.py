"""`make vagrant`: virtual machines, for real. Brings them up with Vagrant, applies policies/web.yaml to each over ssh,
looks at them from inside and from outside, cuts each off and sees it come back, takes portctl away and sees that
nothing is left. Debian's machine then gets portctl itself, and the policy is applied there. Each is rebooted, looked at
again, and destroyed.

All of it happens in a room (`portctl.hosts.namespaces`): libvirtd, its bridge and DHCP server, QEMU, Vagrant's state.
The machine's own network is never touched, and when this process ends, however it ends, the kernel ends the room with
everything in it.
"""

from __future__ import annotations

import difflib
import hashlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from portctl.command import Command, HostError
from portctl.hosts.namespaces import Room
from portctl.hosts.process import PATH

HERE = Path(__file__).resolve().parent
TOP = HERE.parent
KEPT = TOP / ".vagrant-box"
TOOLS = ("vagrant", "virsh", "libvirtd", "qemu-system-x86_64", "qemu-img", "dnsmasq", "mmdebstrap", "mke2fs", "ssh")
SYSTEM_PYTHON = "/usr/bin/python3"
"""This machine's own: the box is made of the same Debian, and has the same."""
PUBLIC = {"rocky": "rockylinux/9", "freebsd": "generic/freebsd14", "openbsd": "generic/openbsd7"}
OUTSIDERS = ("192.0.2.40", "203.0.113.9", "203.0.113.130")
"""From which the tests knock: the monitoring of policies/web.yaml, a stranger, and one whom it blocks."""
CONFIRM_SECONDS = 300
"""An emulated processor takes long to log in."""
BOOT_SECONDS = 600
BOOT = "cat /proc/sys/kernel/random/boot_id 2>/dev/null || sysctl -n kern.boottime"
"""What differs from boot to boot."""

LIBVIRTD = 'auth_unix_rw = "none"\nauth_unix_ro = "none"\nunix_sock_group = "root"\n'
QEMU = """\
user = "root"
group = "root"
security_driver = "none"
cgroup_controllers = []
namespaces = []
dynamic_ownership = 0
remember_owner = 0
stdio_handler = "file"
"""
PREPARE = """\
set -e
rm -rf /etc/libvirt/qemu/* /etc/libvirt/storage/* /var/lib/libvirt/images/* /var/lib/libvirt/dnsmasq/* /root/.ssh
mount -o remount,rw /sys
for address in "$@"; do ip address add "$address/32" dev lo; done
libvirtd -d
for _ in 1 2 3 4 5 6 7 8 9 10; do
	if virsh --quiet version >/dev/null 2>&1; then exit 0; fi
	sleep 1
done
virsh version
"""
"""Arguments: addresses to knock from. Everything that is removed here is removed in memory, in the room alone."""


OWN = "/etc/sysctl.d/50-own.conf"
BEFORE = f"""\
set -e
echo 'net.ipv4.tcp_syncookies = 2' >{OWN}
sysctl -q -p {OWN}
"""
"""What the machine has of its own, other than the policy wants it."""
STATE = r"""
nft list ruleset
iptables-save | grep -v '^[#*:C]'
ip6tables-save | grep -v '^[#*:C]'
ipset list -n
systemctl list-units --all --plain --no-legend 'portctl*'
systemctl list-unit-files --no-legend
find /etc /var/lib /opt /run/portctl ! -path '*/__pycache__*' ! -path '/etc/.*.portctl*' ! -path '/var/lib/systemd/*' \
	-printf '%y %m %u %p %l\n' 2>&1 | sort
find /etc -type f ! -name ld.so.cache | sort | xargs sha256sum
sysctl -a 2>/dev/null | grep '^net\.' | grep -v 'conntrack\|netfilter\|random\|secret\|fastopen_key\|flush'
"""
"""Rules, sets, units, files (their names, owners, rights, contents), settings."""
ON_IT = """\
set -e
mkdir /opt/portctl
tar -C /opt/portctl -xzf -
printf '#!/bin/sh\nPYTHONPATH=/opt/portctl exec python3 -m portctl "$@"\n' >/usr/local/bin/portctl
chmod 755 /usr/local/bin/portctl
"""
APPLY_THERE = """\
said=/run/portctl-there
: >$said
ssh "$1" "cd /opt/portctl && sudo portctl apply policies/web.yaml --yes --confirm-within $2" >$said 2>&1 &
applying=$!
until grep -q '^Loading' $said; do
	kill -0 $applying || { cat $said; exit 1; }
	sleep 1
done
until ssh -o ConnectTimeout=20 "$1" sudo portctl confirm; do
	kill -0 $applying || break
	sleep 2
done
wait $applying
ended=$?
cat $said
exit $ended
"""
"""Arguments: the machine, seconds to confirm. As a person does: applied in one session, confirmed in a new one."""


class Failed(Exception):
    """The message is for the person."""


@dataclass(slots=True)
class Trial:
    """A room with Vagrant in it, and how long each step took."""

    room: Room
    box: Path | None
    archive: bytes | None = None
    """portctl for the machine that is tried, where that is ours: it is applied there, too."""

    def environment(self) -> tuple[str, ...]:
        said = {
            "HOME": "/root",
            "PYTHONPATH": str(TOP),
            "VAGRANT_CHECKPOINT_DISABLE": "1",
            "VAGRANT_CWD": str(HERE),
            "VAGRANT_DEFAULT_PROVIDER": "libvirt",
            "VAGRANT_DOTFILE_PATH": "/run/vagrant",
            "VAGRANT_HOME": str(KEPT / "home"),
            "PORTCTL_VAGRANT_DRIVER": os.environ.get("PORTCTL_VAGRANT_DRIVER", "qemu"),
            "PORTCTL_VAGRANT_NETWORK": "open",
            **({"PORTCTL_DEBIAN_BOX": "portctl/debian"} if self.box else {}),
        }
        return ("env", "-C", str(TOP), *(f"{name}={value}" for name, value in said.items()))

    def say(self, *argv: str, expect: int = 0, seconds: int = BOOT_SECONDS) -> str:
        """Runs a command in the room, shows what it says while it says it, and returns that. Raises `Failed`."""
        print(f"$ {shlex.join(short(word) for word in argv)}", flush=True)
        line = (*self.environment(), "timeout", str(seconds), "sh", "-c", 'exec 2>&1; exec "$@"', "sh", *argv)
        started = self.room.start(line)
        assert started.stdin is not None and started.stdout is not None
        started.stdin.close()
        said = []
        for raw in started.stdout:
            text = raw.decode("utf-8", "replace")
            said.append(text)
            print(f"  {text}", end="", flush=True)
        if (status := started.wait()) != expect:
            why = f"not within {seconds} s" if status == 124 else f"exit status {status} and not {expect}"
            raise Failed(f"{shlex.join(short(word) for word in argv[:6])}: {why}")
        return "".join(said)

    def ask(self, *argv: str, seconds: int = 60) -> str:
        """The same, quietly; empty where it fails."""
        said = self.room.run(Command((*self.environment(), "timeout", str(seconds), *argv)), seconds + 10)
        return said.stdout if said.ok else ""

    def portctl(self, *words: str, expect: int = 0) -> str:
        return self.say(sys.executable, "-m", "portctl", *words, expect=expect)

    def pytest(self, machine: str, *words: str) -> None:
        options = ("-p", "no:cacheprovider", "-p", "no:portctl", "-p", "portctl.pytest_plugin", "-v")
        hosts = (f"--hosts=ssh://{machine}", "--sudo", "--ssh-config=/root/.ssh/looking")
        self.say(sys.executable, "-m", "pytest", *options, *words, *hosts)


def short(word: str) -> str:
    """As it would be typed."""
    return {sys.executable: "python"}.get(word, word.removeprefix(f"{TOP}/"))


@contextmanager
def timed(what: str) -> Iterator[None]:
    print(f"\n== {what}", flush=True)
    started = time.monotonic()
    yield
    print(f"== {what}: {time.monotonic() - started:.0f} s", flush=True)


# ---- before the room


def check() -> None:
    """Raises `Failed` where virtual machines cannot be run here."""
    missing = [name for name in TOOLS if shutil.which(name, path=PATH) is None]
    if missing:
        raise Failed(f"virtual machines cannot be run here: {', '.join(missing)} not installed (make vagrant-tools)")
    if os.geteuid() != 0:
        raise Failed("virtual machines cannot be run here: root is needed for libvirt's networks")
    if not Path("/dev/net/tun").exists():
        raise Failed("virtual machines cannot be run here: there is no /dev/net/tun")


def own_box() -> Path:
    """Debian's box, made anew whenever the program that makes it has changed."""
    maker = HERE / "build-box"
    box = KEPT / f"debian-{hashlib.sha256(maker.read_bytes()).hexdigest()[:12]}.box"
    if not box.exists():
        for old in KEPT.glob("debian-*.box"):
            old.unlink()
        if make(maker, box):
            raise Failed("the box could not be made")
    return box


def make(maker: Path, box: Path) -> int:
    """Runs a program that takes away what it has half made when it is told to end, and tells it where we are."""
    started = subprocess.Popen([maker, box], start_new_session=True)
    try:
        return started.wait()
    except BaseException:
        os.killpg(started.pid, signal.SIGTERM)
        started.wait()
        raise


def public_box(name: str) -> None:
    """Somebody else's box, from the catalogue that Vagrant asks, unless it is here already."""
    env = {**os.environ, "VAGRANT_HOME": str(KEPT / "home"), "VAGRANT_CHECKPOINT_DISABLE": "1"}
    known = subprocess.run(["vagrant", "box", "list"], env=env, capture_output=True, text=True, check=False).stdout
    if any(line.split(" ")[0] == name for line in known.splitlines()):
        return
    if subprocess.run(["vagrant", "box", "add", name, "--provider", "libvirt"], env=env, check=False).returncode:
        raise Failed(f"the box {name} could not be had")


def wheels(folder: Path) -> bytes:
    """portctl with all that it needs, for this machine's own Python, and the policies: as an archive."""
    shutil.rmtree(folder, ignore_errors=True)
    asked = [SYSTEM_PYTHON, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
    version = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    site, wheel = folder / "site", folder / "wheel"
    meant = ["--only-binary=:all:", "--implementation=cp", f"--python-version={version}", f"--target={site}"]
    for step in (["wheel", "--no-deps", "--no-build-isolation", "-w", str(wheel), str(TOP)], ["install", *meant]):
        made = [str(each) for each in wheel.glob("*.whl")]
        if not version or subprocess.run([*pip, *step, *made], check=False).returncode:
            raise Failed(f"portctl could not be made ready for Python {version or '(no ' + SYSTEM_PYTHON + ')'}")
    archive = folder / "portctl.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(site, ".", filter=lambda each: None if each.name.endswith("__pycache__") else each)
        tar.add(TOP / "policies", "policies")
    return archive.read_bytes()


def own() -> tuple[Path, bytes]:
    """Debian's box and, made beside it, portctl for the machine."""
    with ThreadPoolExecutor(1) as beside:
        archive = beside.submit(wheels, KEPT / "portctl")
        return own_box(), archive.result()


# ---- in the room


def prepare(trial: Trial) -> None:
    trial.room.put("/etc/libvirt/libvirtd.conf", LIBVIRTD.encode())
    trial.room.put("/etc/libvirt/qemu.conf", QEMU.encode())
    started = trial.room.run(Command(("sh", "-c", PREPARE, "sh", *OUTSIDERS)), timeout=120)
    if not started.ok:
        raise Failed(f"libvirtd could not be started: {started.stderr.strip() or started.stdout.strip()}")
    if trial.box:
        trial.say("vagrant", "box", "add", "--no-tty", "--name", "portctl/debian", str(trial.box))


def bring_up(trial: Trial, machine: str) -> None:
    try:
        trial.say("vagrant", "up", "--no-tty", machine, seconds=2 * BOOT_SECONDS)
    except Failed:
        trial.say("sh", "-c", "virsh list --all; tail -n 40 /var/log/libvirt/qemu/*.log || :")
        raise
    config = trial.ask("vagrant", "ssh-config", machine)
    everything = trial.ask("cat", "/root/.ssh/config") + config
    trial.room.put("/root/.ssh/config", everything.encode(), 0o600)
    # For looking, one connection does for many questions. portctl itself never shares one.
    shared = "Host *\n  ControlMaster auto\n  ControlPath /run/ssh-%C\n  ControlPersist 60\n"
    trial.room.put("/root/.ssh/looking", (everything + shared).encode(), 0o600)
    trial.portctl("facts", "--host", f"ssh://{machine}")


def apply(trial: Trial, machine: str) -> None:
    words = ("--host", f"ssh://{machine}", "--yes", "--confirm-within", str(CONFIRM_SECONDS))
    said = trial.portctl("apply", "policies/web.yaml", *words)
    if "Confirmed" not in said:
        raise Failed("apply did not say that it was confirmed")


def look(trial: Trial, machine: str, *more: str) -> None:
    tests = ("policies/web.yaml", "tests/vagrant/test_web.py", *more)
    trial.pytest(machine, *tests)


def cut_off(trial: Trial, machine: str) -> None:
    """A policy that admits nobody who could confirm it: the guard on the machine brings the old rules back."""
    words = ("--host", f"ssh://{machine}", "--yes", "--allow-lockout", "--confirm-within", "30")
    trial.portctl("apply", "vagrant/locked-out.yaml", *words, expect=4)
    said = trial.portctl("history", "--host", f"ssh://{machine}")
    if "rolled back" not in said:
        raise Failed("the history does not say that it was rolled back")


def reboot(trial: Trial, machine: str) -> None:
    """Off and on again. Not by itself: an emulator that resets itself keeps what it translated of the old kernel, and
    takes minutes to write the new one over it. Not by `vagrant reload`: it waits for the end of an ssh connection that
    a machine takes down with its network."""
    number = ("ssh", "-o", "ConnectTimeout=20", machine, BOOT)
    before = trial.ask(*number)
    trial.ask("ssh", "-o", "ServerAliveInterval=5", machine, "sudo halt -p")
    wait = f"until virsh domstate portctl_{machine} | grep -q 'shut off'; do sleep 1; done"
    trial.say("sh", "-c", wait)
    trial.say("vagrant", "up", "--no-tty", machine)
    if not before or trial.ask(*number) in ("", before):
        raise Failed(f"{machine} was not started anew")
    trial.portctl("status", "--host", f"vagrant://{machine}")


def state(trial: Trial, machine: str) -> list[str]:
    """What `remove` must bring back; of other systems than our Debian nothing is compared."""
    if trial.archive is None:
        return []
    found = trial.ask("ssh", machine, f"sudo sh -c {shlex.quote(STATE)}", seconds=240).splitlines()
    if len(found) < 100:
        raise Failed(f"the state of {machine} could not be read")
    return found


def remove(trial: Trial, machine: str, before: list[str]) -> None:
    """Takes portctl away over ssh: the machine is then what it was."""
    words = ("--host", f"ssh://{machine}", "--yes", "--confirm-within", str(CONFIRM_SECONDS))
    trial.portctl("remove", *words)
    now = state(trial, machine)
    if unlike := list(difflib.unified_diff(before, now, "before", "after", n=0, lineterm="")):
        raise Failed("\n".join(["remove leaves the machine other than it was:", *unlike[:60]]))
    print(f"  {len(now)} lines of rules, sets, units, files and settings are as they were", flush=True)


def install(trial: Trial, machine: str, archive: bytes) -> None:
    trial.room.put("/run/portctl.tar.gz", archive)
    put = f'ssh "$1" sudo sh -c {shlex.quote(shlex.quote(ON_IT))} </run/portctl.tar.gz'
    trial.say("sh", "-c", put, "sh", machine)


def apply_there(trial: Trial, machine: str) -> None:
    said = trial.say("sh", "-c", APPLY_THERE, "sh", machine, str(CONFIRM_SECONDS))
    if "Confirmed. It is in force" not in said:
        raise Failed("apply on the machine itself did not say that it was confirmed")
    trial.say("ssh", machine, "cd /opt/portctl && sudo portctl verify policies/web.yaml")


def destroy(trial: Trial, machines: list[str]) -> None:
    trial.say("vagrant", "destroy", "--no-tty", "-f", *machines)
    if left := trial.ask("virsh", "list", "--all", "--name").strip():
        raise Failed(f"left behind: {left}")


def try_out(trial: Trial, machine: str) -> None:
    with timed(f"{machine}: up"):
        bring_up(trial, machine)
        if trial.archive is not None:
            trial.say("ssh", machine, f"sudo sh -c {shlex.quote(BEFORE)}")
        before = state(trial, machine)
    with timed(f"{machine}: apply policies/web.yaml over ssh"):
        apply(trial, machine)
    with timed(f"{machine}: from inside and from outside"):
        look(trial, machine)
    with timed(f"{machine}: cut off"):
        cut_off(trial, machine)
    if trial.archive is not None:
        with timed(f"{machine}: remove"):
            remove(trial, machine, before)
        with timed(f"{machine}: apply policies/web.yaml on the machine itself"):
            install(trial, machine, trial.archive)
            before = state(trial, machine)
            apply_there(trial, machine)
    with timed(f"{machine}: reboot"):
        reboot(trial, machine)
    with timed(f"{machine}: the same after the reboot"):
        look(trial, machine, "tests/vagrant/test_after_reboot.py")
    with timed(f"{machine}: remove after the reboot"):
        remove(trial, machine, before)


def run(machines: list[str]) -> None:
    check()
    (KEPT / "home").mkdir(parents=True, exist_ok=True)
    with timed("boxes"):
        box, archive = own() if "debian" in machines else (None, None)
        for name in machines:
            if name != "debian":
                public_box(PUBLIC[name])
    with Room("vagrant") as room:
        trial = Trial(room, box)
        with timed("libvirt"):
            prepare(trial)
        for machine in machines:
            trial.archive = archive if machine == "debian" else None
            try_out(trial, machine)
        with timed("destroy"):
            destroy(trial, machines)


def main() -> int:
    machines = sys.argv[1:] or ["debian"]
    if unknown := [name for name in machines if name not in ("debian", *PUBLIC)]:
        print(f"make vagrant: no machine is called {', '.join(unknown)}; there are debian, {', '.join(PUBLIC)}")
        return 2
    # An orderly end on kill, too: what is only half made (a box) is taken away.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    started = time.monotonic()
    try:
        run(machines)
    except KeyboardInterrupt:
        print("\nmake vagrant: interrupted; nothing is left", file=sys.stderr, flush=True)
        return 130
    except (Failed, HostError) as failed:
        print(f"\nmake vagrant: FAILED: {failed}", file=sys.stderr, flush=True)
        return 1
    print(f"\nmake vagrant: {', '.join(machines)}: all as it should be, {time.monotonic() - started:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
