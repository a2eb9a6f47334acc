"""`portctl ports`: portctl's own table of services, and what is special about a port."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from portctl import services
from portctl.problems import Problem, Problems


def register(app: typer.Typer) -> None:
    app.command("ports")(ports)


def ports(
    which: Annotated[
        str, typer.Argument(metavar="[NAME|NUMBER|RANGE]", help="A service, a port, or ports low-high.")
    ] = "",
    etc: Annotated[Path, typer.Option("--etc-services", help="The host's own table, to compare with.")] = Path(
        "/etc/services"
    ),
) -> None:
    """Print names and numbers of ports as policies use them: the same on every machine."""
    try:
        text = etc.read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    typer.echo(answer(which, text), nl=False)


def answer(which: str, etc_services: str) -> str:
    """What the command prints. `etc_services` is the text of the host's own table. Raises `Problems` for a name that
    nobody knows."""
    listed = services.read_services(etc_services)
    if not which:
        return _table(list(services.table()), listed)
    name = which.lower()
    if number := re.fullmatch(r"(\d{1,6})(?:-(\d{1,6}))?(?:/(tcp|udp|sctp))?", name):
        first, last = int(number[1]), int(number[2] or number[1])
        return _ports(which, first, last, number[3], listed)
    if name in services.PROTOCOLS:
        return f"{name} is protocol {services.PROTOCOLS[name]}, which has no ports; a policy writes `ports: {name}`\n"
    service = services.find(name)
    if service is None:
        near = services.suggest(name)
        hint = f"did you mean `{near}`?" if near else "`portctl ports` prints all names"
        raise Problems([Problem("unknown-port", f"no port or service is called `{which[:80]}`", None, hint)])
    return _table([service], listed) + _about(service.first, service.last)


def _ports(which: str, first: int, last: int, protocol: str | None, listed: dict[str, set[tuple[int, str]]]) -> str:
    if not 1 <= first <= last <= 65535:
        message = f"`{which}` is no port or range of ports"
        raise Problems([Problem("bad-port", message, None, "ports go from 1 to 65535, ranges from low to high")])
    found = [s for s in services.within(first, last) if protocol is None or protocol in s.protocols]
    head = _table(found, listed) if found else f"no service of portctl's table uses {which}\n"
    return head + _about(first, last)


def _about(first: int, last: int) -> str:
    """The part of the number space, and who may open and who may get the ports."""
    names = dict.fromkeys(
        services.range_name(port) for port in (first, 1023, 1024, 49151, 49152, last) if first <= port <= last
    )
    lines = [f"range: {' and '.join(names)}"]
    if services.privileged(first):
        lines.append("privileged: yes, opening it takes root" + ("" if services.privileged(last) else " below 1024"))
    else:
        lines.append("privileged: no")
    low, high = services.LINUX_EPHEMERAL
    if first <= high and low <= last:
        lines.append(f"ephemeral on Linux ({low}-{high}): an outgoing connection may take it; reserve it in `sysctl`")
    else:
        lines.append(f"ephemeral on Linux ({low}-{high}): no")
    return "".join(f"{line}\n" for line in lines)


def _table(found: list[services.Service], listed: dict[str, set[tuple[int, str]]]) -> str:
    rows = [("NAME", "PORT", "ALIASES", "RANGE", "PRIVILEGED", "/etc/services")]
    for service in found:
        rows.append(
            (
                service.name,
                f"{service.ports}/{'+'.join(service.protocols)}",
                ", ".join(service.aliases) or "-",
                services.range_name(service.first).partition(" ")[0],
                "yes" if services.privileged(service.first) else "no",
                services.difference(service, listed) or "the same",
            )
        )
    if not listed:
        rows = [row[:-1] for row in rows]  # type: ignore[misc]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "".join(
        "  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() + "\n" for row in rows
    )
