"""`portctl facts`: what a host is."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from portctl.cli.where import HERE, OnHost

if TYPE_CHECKING:
    from portctl.command import Host
    from portctl.observe import Facts


def register(app: typer.Typer) -> None:
    app.command("facts")(facts)


def facts(
    host: OnHost = HERE,
    form: Annotated[Literal["text", "json"], typer.Option("--format", help="text or json.")] = "text",
) -> None:
    """Say what a host is: system, firewall tools and their versions, packet filters in use, interfaces.

    Exit status: 0, or 3 where the host could not be asked.
    """
    from portctl import observe
    from portctl.cli import where
    from portctl.command import HostError

    with where.host(host) as machine:
        known = observe.facts(machine)
        rules = _rules(machine, known)
    try:
        backend = observe.choose_backend(known)
    except HostError as error:  # that nothing fits is one of the answers here
        backend = f"none: {error}"
    if form == "json":
        typer.echo(json.dumps(_value(known, rules, backend), indent=2, ensure_ascii=False))
    else:
        for line in _lines(known, rules, backend):
            typer.echo(line)


def _rules(machine: Host, known: Facts) -> dict[str, int | None]:
    """{packet filter: how many rules it has loaded}, whoever loaded them; None where they could not be read."""
    from portctl import observe

    found: dict[str, int | None] = {}
    for reader in observe.readers(known):
        program = observe.observe(machine, (reader,), (), known).program
        found[reader.NAME] = None if program is None else sum(len(chain.lines) for chain in program.chains)
    return found


def _value(known: Facts, rules: dict[str, int | None], backend: str) -> dict[str, Any]:
    value = asdict(known)
    value["tools"] = dict(known.tools)
    value["interfaces"] = [
        {"name": i.name, "addresses": [str(a) for a in i.addresses], "advertised": i.advertised}
        for i in known.interfaces
    ]
    for name in ("gateways", "resolvers"):
        value[name] = [str(address) for address in getattr(known, name)]
    return {"version": 1, **value, "rules": rules, "backend": backend}


def _lines(known: Facts, rules: dict[str, int | None], backend: str) -> list[str]:
    """The facts for people, a line each."""
    in_use = (
        f"{name} ({'not readable' if count is None else f'{count} rules'})"
        for name, count in rules.items()
        if count != 0
    )
    lines = [
        ("system", " ".join(filter(None, (known.system, known.release)))),
        ("distribution", known.distribution),
        ("init", known.init),
        ("root", "yes" if known.root else "no"),
        ("tools", ", ".join(f"{name} {version}".strip() for name, version in known.tools)),
        ("in use", ", ".join(in_use) or "no packet filter has rules"),
        ("portctl uses", backend),
        ("tracking", "connections are tracked" if known.tracking else "connections are not tracked yet"),
        ("gateways", _listed(known.gateways)),
        ("resolvers", _listed(known.resolvers)),
    ]
    lines += [(i.name, _listed(i.addresses) or "no address") for i in known.interfaces]
    width = max(len(name) for name, _ in lines) + 2
    return [f"{name:<{width}}{value}" for name, value in lines if value]


def _listed(addresses: tuple[object, ...]) -> str:
    return ", ".join(str(address) for address in addresses)
