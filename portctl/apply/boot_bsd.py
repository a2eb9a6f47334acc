"""What is written for the next boot of a FreeBSD, OpenBSD or macOS host.

Each system loads packet filters in a way of its own: rc.conf(5) of FreeBSD names the file that rc.d/pf loads, or the
script of rc.d/ipfw; OpenBSD's rc(8) loads /etc/pf.conf; on macOS a job of launchd(8) runs `boot.sh`. The words of each
are in `templates/boot/SYSTEM-FILTER/`: `rc` (lines for rc.conf), `check.sh` (would the boot load it?), `job.plist`,
`lease` and `lease.sh` (what dhclient(8) of FreeBSD runs after each lease: at boot most come after the rules).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from portctl.apply.paths import BOOT
from portctl.backends import ANCHOR, package
from portctl.backends.base import Backend, Caller
from portctl.command import Host
from portctl.templating import folder, text

WHOLE, FALLBACK = "boot.conf", "minimal.conf"
"""The rules as one file that names its tables' files by their full paths, and the minimal rules likewise."""
CHECK, LEASE = f"{BOOT}/check.sh", f"{BOOT}/lease.sh"
_RC_FILE = {"freebsd-rc": "/etc/rc.conf", "openbsd-rc": "/etc/rc.conf.local"}
_SYSCTL_CONF = "/etc/sysctl.conf"
_REPLACED = {"openbsd-rc": "/etc/pf.conf"}
_LOADER = "/boot/loader.conf"
_LEASE = "/etc/dhclient-exit-hooks"
_MAXCOUNT = 65_535
"""Networks of one table that pf of FreeBSD takes, unless net.pf.request_maxcount is raised. rc.d/sysctl comes before
rc.d/pf loads the module, so loader.conf(5) is the one place that every version reads in time."""
_JOB = "/Library/LaunchDaemons/org.portctl.boot.plist"
_GATEWAY = {"net.inet.ip.forwarding": "gateway_enable", "net.inet6.ip6.forwarding": "ipv6_gateway_enable"}
"""rc.d/routing of FreeBSD sets these settings by these names, after sysctl.conf(5) was read."""


def knows(init: str) -> bool:
    """Whether a boot is of one of these systems (`Facts.init`)."""
    return init in ("freebsd-rc", "openbsd-rc", "launchd")


def calls(host: Host, init: str, backend: Backend) -> Callable[[str], str]:
    """What makes of rules those with the calls of others' anchors that are loaded now. A job of portctl's own asks when
    it runs; a system's own loader takes a file as it is."""
    if not isinstance(backend, Caller) or init not in _RC_FILE:
        return str
    loaded = host.run(backend.called()).stdout
    return lambda text: backend.calling(text, loaded)


def standing_alone(
    bundle: Mapping[str, str], parts: tuple[str, ...], name: str, calling: Callable[[str], str] = str
) -> dict[str, str]:
    """The bundle of the boot, with one file of all rules for a system's own loader, where it is one of pf."""
    added = {}
    for target, below in ((WHOLE, name), (FALLBACK, f"minimal/{name}")):
        files = {path.rpartition("/")[2]: path for path in bundle if path.rpartition("/")[0] == below}
        for part in parts:
            if part in files and f"{package(name)}.conf" == part:
                rules = bundle[files[part]]
                for file, path in files.items():
                    rules = rules.replace(f'"{file}"', f'"{BOOT}/current/{path}"')
                added[target] = calling(rules)
    return {**bundle, **added}


def words(init: str, backend: str, file: str) -> str:
    """A text of `templates/boot/`; empty, where a system needs none."""
    kept_to = ANCHOR if backend.endswith(ANCHOR) else ""
    name = f"boot/{init.removesuffix('-rc')}-{package(backend)}{kept_to}/{file}"
    return text(name) if (folder() / name).is_file() else ""


def blocks(init: str, backend: str, settings: Mapping[str, str], bundle: Mapping[str, str]) -> dict[str, str]:
    """{path: lines} that portctl marks as its own in files of others. `bundle` is what the boot is to load."""
    found = {}
    if rc := _RC_FILE.get(init):
        lines = words(init, backend, "rc")
        if init == "freebsd-rc":
            for name, variable in _GATEWAY.items():
                if name in settings:
                    lines += f'{variable}="{"NO" if settings[name] == "0" else "YES"}"\n'
            found[_LOADER] = _limits(bundle) if package(backend) == "pf" else ""
            found[_LEASE] = words(init, backend, "lease")
        found[rc] = lines
        found[_SYSCTL_CONF] = "".join(f"{name}={value}\n" for name, value in settings.items())
    return found


def _limits(bundle: Mapping[str, str]) -> str:
    """What the loader must tell pf before the rules of a bundle are loaded."""
    largest = max((text.count("\n") for path, text in bundle.items() if path.endswith(".table")), default=0)
    return f'net.pf.request_maxcount="{largest}"\n' if largest > _MAXCOUNT else ""


def places(init: str, backend: str) -> dict[str, tuple[int, str]]:
    """{path: (mode, text)} of files that are portctl's alone."""
    found = {CHECK: (0o700, words(init, backend, "check.sh"))}
    if lease := words(init, backend, "lease.sh"):
        found[LEASE] = (0o700, lease)
    if job := words(init, package(backend), "job.plist"):
        found[_JOB] = (0o644, job)
    return found


def replaced(init: str, backend: str, bundle: Mapping[str, str]) -> dict[str, tuple[int, str]]:
    """{path: (mode, text)} of files of others that are kept and written anew."""
    path = None if backend.endswith(ANCHOR) else _REPLACED.get(init)
    return {path: (0o600, bundle[WHOLE])} if path and WHOLE in bundle else {}


def everything(init: str) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """The blocks, the files of its own and the replaced files that portctl may ever have written on such a system."""
    rc = _RC_FILE.get(init)
    own = (_JOB,) if init == "launchd" else ()
    more = (_LOADER, _LEASE) if init == "freebsd-rc" else ()
    return ((rc, _SYSCTL_CONF, *more) if rc else ()), own, tuple(filter(None, (_REPLACED.get(init),)))
