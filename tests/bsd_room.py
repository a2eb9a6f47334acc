"""A FreeBSD, OpenBSD or macOS machine to apply to: portctl's scripts run for real, by dash, in a mount namespace of
the machine's own; the tools of the system are stand-ins (`fake_bsd`, `fake_ipfw`).

/etc, /var, /dev and /Library are folders of the test. Nothing outside of them is changed, and no packet filter is there
to be loaded.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from portctl.command import Command, HostError, Result
from tests import fake_bsd, fake_ipfw

MAKE = """
mount --make-rprivate / 2>/dev/null
machine=$0
for name in "$machine"/root/dev/*; do mount --bind /dev/null "$name" || exit 90; done
for name in "$machine"/root/*; do
    case ${name##*/} in dev | etc | var | Library | boot) continue ;; esac
    [ -L "$name" ] || mount --rbind "/${name##*/}" "$name" || exit 90
done
for name in "$machine"/bin/*; do
    for place in /usr/bin /usr/sbin; do
        [ ! -e "$place/${name##*/}" ] || mount --bind "$name" "$machine/root$place/${name##*/}" || exit 90
    done
done
mount --bind "$machine/bin" "$machine/root/usr/local/sbin" || exit 90
exec chroot "$machine/root" sh -c "echo ready; exec cat"
"""
OWN = ("dev", "etc", "var", "Library", "boot")
"""Folders of the root that are the machine's own; the others are those of the real one."""
RELEASES = {"FreeBSD": "15.0-RELEASE", "OpenBSD": "7.6", "Darwin": "24.1.0"}
NETSTAT = """\
Active Internet connections (including servers)
Proto Recv-Q Send-Q Local Address          Foreign Address        (state)
tcp4       0      0 *.22                   *.*                    LISTEN
"""
RC_SUBR = """\
load_rc_config() { . /etc/rc.conf; [ ! -r /etc/rc.conf.local ] || . /etc/rc.conf.local; }
checkyesno() { eval v=\\$$1; case $v in [Yy][Ee][Ss]) return 0 ;; *) return 1 ;; esac; }
"""
IFCONFIG = """\
lo0: flags=8049<UP,LOOPBACK,RUNNING,MULTICAST> metric 0 mtu 16384
	inet 127.0.0.1 netmask 0xff000000
	inet6 ::1 prefixlen 128
em0: flags=8843<UP,BROADCAST,RUNNING,SIMPLEX,MULTICAST> metric 0 mtu 1500
	inet 192.0.2.10 netmask 0xffffff00 broadcast 192.0.2.255
"""


@dataclass(frozen=True)
class Inside:
    """The namespaces of a machine and its root, by open files: they end with this, and what runs there."""

    fds: tuple[int, ...]

    def prefix(self) -> tuple[str, ...]:
        """What to put before a command, so that it runs on the machine."""
        *user, mount, root = (f"/proc/self/fd/{fd}" for fd in self.fds)
        users = [f"--user={user[0]}", "--preserve-credentials"] if user else []
        return ("nsenter", *users, f"--mount={mount}", f"--root={root}", f"--wd={root}", "--")


def made(folder: Path) -> Inside:
    """Mounts the root of a machine. The process that does it is not needed afterwards."""
    user = os.geteuid() != 0
    unshare = ("unshare", *(("-r",) if user else ()), "-m", "sh", "-c", MAKE, str(folder))
    with subprocess.Popen(unshare, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as first:
        assert first.stdin is not None and first.stdout is not None
        assert first.stdout.readline() == b"ready\n", "the root of the machine could not be mounted"
        names = (*(("ns/user",) if user else ()), "ns/mnt", "root")
        inside = Inside(tuple(os.open(f"/proc/{first.pid}/{name}", os.O_RDONLY) for name in names))
        first.stdin.close()
    for fd in inside.fds:
        weakref.finalize(inside, os.close, fd)
    return inside


@dataclass(frozen=True)
class Room:
    """One such machine. `lost` names the verb of the guard script at which the connection to it breaks."""

    folder: Path
    inside: Inside
    name: str = "room"
    lost: str = ""

    def state(self) -> dict[str, Any]:
        return fake_ipfw.read(str(self.folder / "state"))

    def change(self, **more: object) -> None:
        fake_ipfw.write(str(self.folder / "state"), self.state() | more)

    def file(self, path: str) -> Path:
        return self.folder / "root" / path.lstrip("/")

    def run(self, command: Command, timeout: float | None = None) -> Result:
        if self.lost and command.argv[:3] == ("sh", "-s", "--") and command.argv[3] == self.lost:
            raise HostError("the connection is gone")
        argv = [shutil.which("dash") or "sh" if command.argv[0] == "sh" else command.argv[0], *command.argv[1:]]
        done = subprocess.run(
            [*self.inside.prefix(), *argv],
            input=command.stdin,
            capture_output=True,
            timeout=timeout,
            check=False,
            pass_fds=self.inside.fds,
            env={"PATH": "/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"},
        )
        return Result(done.returncode, done.stdout.decode(), done.stderr.decode())

    def put(self, path: str, data: bytes, mode: int = 0o644) -> None:
        target = self.file(path) if path.split("/")[1] in OWN else Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
        target.chmod(mode)

    def until(self, holds: Callable[[], bool], what: str, seconds: float = 20) -> None:
        end = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < end, what
            time.sleep(0.1)


def room(folder: Path, system: str, pf: bool = True) -> Room:
    """A machine of a system, with its tools, sshd listening, and files as after its installation."""
    root = folder / "root"
    for name in (
        "../bin",
        "etc",
        "var/run",
        "var/db",
        "dev",
        "boot",
        *(("Library/LaunchDaemons",) if system == "Darwin" else ()),
    ):
        (root / name).mkdir(parents=True)
    for entry in Path("/").iterdir():
        if entry.is_symlink():
            (root / entry.name).symlink_to(entry.readlink())
        elif entry.is_dir() and entry.name not in OWN:
            (root / entry.name).mkdir()
    state = fake_bsd.EMPTY | (fake_ipfw.EMPTY if system == "FreeBSD" else {"sysctl": {}})
    settings = {"kern.securelevel": "-1", "net.inet.ip.forwarding": "0", "net.inet.tcp.keepidle": "7200000"}
    if system == "OpenBSD":
        settings |= {"net.inet.tcp.slowhz": "2", "net.inet.tcp.keepidle": "14400"}
    kept = {k: v for k, v in state["sysctl"].items() if not pf}
    fake_ipfw.write(str(folder / "state"), state | {"sysctl": kept | settings})
    for name in ("null", *(("pf",) if pf else ())):
        (root / "dev" / name).touch()
    started = shlex.join([sys.executable, "-I", "-S", "-c", fake_bsd.START, str(Path(fake_bsd.__file__).parent)])
    tools = {"sysctl": f'exec {started} {folder}/state sysctl "$@"'}
    if system == "FreeBSD":
        tools["daemon"] = 'shift; setsid "$@" </dev/null >/dev/null 2>&1 &'
        tools["sockstat"] = "exit 1"
    for name in ["pfctl"] if pf else ["ipfw", "kldstat", "kldload"]:
        tools[name] = tools["sysctl"].replace(" sysctl ", f" {name} ")
    tools["ifconfig"] = tools["sysctl"].replace(" sysctl ", " ifconfig ") if not pf else f"cat {folder}/ifconfig"
    tools["uname"] = f"case ${{1-}} in -r) echo {RELEASES[system]} ;; *) echo {system} ;; esac"
    tools["netstat"] = f"case $1 in -rn) ;; *) cat {folder}/netstat ;; esac"
    tools["logger"] = tools["lsof"] = tools["fstat"] = "exit 0"
    for name, body in tools.items():
        path = folder / "bin" / name
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)
    if Path("/etc/alternatives").is_dir():  # awk is among them
        shutil.copytree("/etc/alternatives", root / "etc/alternatives", symlinks=True)
    (folder / "netstat").write_text(NETSTAT)
    (folder / "ifconfig").write_text(IFCONFIG)
    (root / "etc/rc.subr").write_text(RC_SUBR)
    (root / "etc/rc.conf").write_text('hostname="room"\nsshd_enable="YES"\n' if system == "FreeBSD" else "pf=YES\n")
    (root / "etc/pf.conf").write_text("# as installed\nset skip on lo0\npass\n")
    (root / "etc/passwd").write_text("root:*:0:0::/root:/bin/sh\n")
    return Room(folder, made(folder))
