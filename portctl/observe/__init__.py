"""The questions to a host: what it is, what it has loaded, what listens on it. Asked through `Host` alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import replace

from portctl import backends, sysctl
from portctl.backends.base import Backend
from portctl.command import Command, Host, HostError, Result
from portctl.listeners import Connection, Listener, lsof, netstat, proc, sockets, ss
from portctl.listeners import bsd as bsd_sockets
from portctl.observe import bsd, linux
from portctl.observe.programs import merge
from portctl.observe.types import Facts, Interface, Observed
from portctl.program import Program

__all__ = ["Facts", "Interface", "Observed", "choose_backend", "facts", "observe", "readers"]

_START = """PATH=/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/sbin:/usr/local/bin:$PATH
LC_ALL=C
export PATH LC_ALL
exec 2>/dev/null </dev/null
"""


def question() -> Command:
    """What to ask a host of any system; its answer goes to `read`."""
    names = " | ".join(bsd.SYSTEMS)
    script = f"{_START}case $(uname -s) in {names})\n{bsd.ask()}exit 0 ;;\nesac\n{linux.ASK}"
    return Command(("sh", "-c", script))


def read(answer: str) -> Facts:
    """The facts in the answer to `question`."""
    found = linux.read(answer)
    return bsd.read(answer) if found.system in bsd.SYSTEMS else found


def facts(host: Host) -> Facts:
    """What a host is, in one round trip. Raises HostError where it cannot be asked."""
    answer = host.run(question())
    found = read(answer.stdout)
    if not answer.ok or found.system == "unknown":
        raise HostError(f"{host.name}: asked what it is, it said: {_said(answer)}")
    return found


def choose_backend(known: Facts, last: str | None = None, asked: str | None = None) -> str:
    """The name of the back end to use: the one asked for, else the last one used there, else what fits the host.

    Raises HostError where there is none that fits.
    """
    if asked or last:
        return asked or last or ""
    if known.system != "Linux":
        return _of_bsd(known)
    if known.tool("nft") is not None and known.nft_works:
        return "nftables"
    if known.tool("iptables") is not None:
        return "iptables"
    raise HostError("neither nft nor iptables is there: install nftables")


def _of_bsd(known: Facts) -> str:
    """The packet filter in use; where none is, or both are, the one that the boot starts; else the usual one."""
    names = backends.of_system(known.system)
    if not names:
        raise HostError(f"there is no back end for {known.system}")
    for wanted in (known.filters, known.boot_filters):
        found = [name for name in names if backends.package(name) in wanted]
        if len(found) == 1:
            return found[0]
    return names[0]


def readers(known: Facts) -> list[Backend]:
    """The back ends that read all rules that judge packets on a host: of Linux every one, else those in use."""
    names = backends.of_system(known.system)
    if known.system != "Linux":
        names = tuple(name for name in names if backends.package(name) in known.filters)
    return [backends.load(name) for name in names]


def observe(
    host: Host, backends: Sequence[Backend], settings: Iterable[str] = (), known: Facts | None = None
) -> Observed:
    """What a host says now, of the rules of some packet filters, some settings by their own names, and its sockets.

    `known` saves asking for the facts again. What could not be seen is in `Observed.unknown`, never left out.
    """
    known = known or facts(host)
    unknown: list[str] = []
    listings: dict[str, str] = {}
    programs = [p for b in backends if (p := _program(host, b, listings, unknown)) is not None]
    seen = len(programs) == len(backends)
    programs += [p for b in backends for p in _legacy(host, b, known, listings)]
    listening, connected = _sockets(host, known, unknown)
    return Observed(
        facts=known,
        program=merge(programs) if programs and seen else None,
        listings=listings,
        settings=_settings(host, tuple(settings), unknown),
        listeners=listening,
        connections=connected,
        unknown=tuple(unknown),
    )


def _program(host: Host, backend: Backend, listings: dict[str, str], unknown: list[str]) -> Program | None:
    """What one packet filter has loaded, its raw answers put into `listings`. None: it could not be read."""
    answers: dict[str, str] = {}
    failed = ""
    for listing, command in backend.questions().items():
        result = host.run(command)
        if result.ok:
            answers[listing] = result.stdout
        elif result.status != 127:
            failed = failed or f"`{' '.join(command.argv[:3])}` said: {_said(result)}"
    listings.update({f"{backend.NAME}/{listing}": text for listing, text in answers.items()})
    if failed:
        unknown.append(f"the loaded rules of {backend.NAME}: {failed}")
        return None
    return backend.parse(answers)


_LEGACY = {"iptables-save": "iptables-legacy-save", "ip6tables-save": "ip6tables-legacy-save"}


def _legacy(host: Host, backend: Backend, known: Facts, listings: dict[str, str]) -> list[Program]:
    """What is loaded through the old kernel interface, where the tools of today use the new one: both judge packets.

    Its tables are called `legacy filter`, as they may have the same names.
    """
    name, version = "iptables-legacy", known.tool("iptables") or ""
    asked = {listing: _LEGACY[c.argv[0]] for listing, c in backend.questions().items() if c.argv[0] in _LEGACY}
    if not (asked and known.legacy and known.tool(name) is not None and "nf_tables" in version):
        return []
    answers = {listing: host.run(Command((tool, "-c"))) for listing, tool in asked.items()}
    texts = {listing: answer.stdout for listing, answer in answers.items() if answer.ok}
    listings.update({f"{name}/{listing}": text for listing, text in texts.items()})
    sets = {listing: text for listing, text in _of(backend, listings).items() if listing not in texts}
    found = backend.parse({**sets, **texts})
    return [replace(found, chains=tuple(replace(chain, table=f"legacy {chain.table}") for chain in found.chains))]


def _of(backend: Backend, listings: dict[str, str]) -> dict[str, str]:
    prefix = f"{backend.NAME}/"
    return {name.removeprefix(prefix): text for name, text in listings.items() if name.startswith(prefix)}


def _settings(host: Host, wanted: tuple[str, ...], unknown: list[str]) -> dict[str, str]:
    if not wanted:
        return {}
    found: dict[str, str] = {}
    for command in sysctl.questions(wanted).values():
        found |= sysctl.parse({"": host.run(command).stdout})
    if missing := [name for name in wanted if name not in found]:
        unknown.append(f"the settings {', '.join(missing)}")
    return found


def _sockets(
    host: Host, known: Facts, unknown: list[str]
) -> tuple[tuple[Listener, ...] | None, tuple[Connection, ...] | None]:
    """Listeners and open connections; None where no tool told."""
    listening, connected = _told(host, known)
    if listening is None:
        unknown.append(
            f"what listens: {'netstat, sockstat and lsof' if known.system in bsd.SYSTEMS else 'ss and /proc/net'}"
            " did not tell" + ("" if known.root else " (needs root)")
        )
    elif known.hides_sockets:
        unknown.append("sockets of other users (needs root)")
    elif any(listener.process is None for listener in listening):
        outside = "processes that even root here may not see" if known.root else "other users (needs root)"
        unknown.append(f"who owns the sockets of {outside}")
    return listening, connected


def _told(host: Host, known: Facts) -> tuple[tuple[Listener, ...] | None, tuple[Connection, ...] | None]:
    if known.system in bsd.SYSTEMS:
        return bsd_sockets.read(host.run(Command(("sh", "-c", bsd_sockets.ASK))).stdout, known.sees_processes)
    if known.tool("ss") is not None:
        listening, connected = host.run(Command(ss.LISTENERS)), host.run(Command(ss.CONNECTIONS))
        if listening.ok and connected.ok:
            # A failure to read what ss says is no reason to say nothing: /proc/net has the sockets too.
            with suppress(ValueError):
                return ss.listeners(listening.stdout, known.sees_processes), ss.connections(connected.stdout)
    answer = host.run(Command(("sh", "-c", proc.ASK))).stdout
    if "local_address" in answer:
        return proc.listeners(answer, known.sees_processes), proc.connections(answer)
    return _by_other_tools(host, known)


def _by_other_tools(host: Host, known: Facts) -> tuple[tuple[Listener, ...] | None, tuple[Connection, ...] | None]:
    """Of a Linux host with neither ss nor /proc/net; lsof sees the sockets of others only as root."""
    listening, connected = host.run(Command(netstat.LINUX_LISTENERS)), host.run(Command(netstat.LINUX_CONNECTIONS))
    with suppress(ValueError):
        if listening.ok and connected.ok and listening.stdout.strip():
            return (
                sockets.listeners(netstat.linux(listening.stdout), known.sees_processes),
                sockets.connections(netstat.linux(connected.stdout)),
            )
    listed = host.run(Command(lsof.ASK)) if known.sees_processes else None
    with suppress(ValueError):
        if listed is not None and listed.stdout.strip():
            found = lsof.sockets(listed.stdout)
            return sockets.listeners(found), sockets.connections(found)
    return None, None


def _said(result: Result) -> str:
    said = (result.stderr.strip() or result.stdout.strip() or f"nothing, exit status {result.status}").splitlines()
    return said[0][:200]
