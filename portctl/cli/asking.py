"""`portctl explain` and `portctl reach`: what happens to this, and who reaches that."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from portctl.cli import sources
from portctl.problems import Problem, Problems

if TYPE_CHECKING:
    from portctl.cli.sources import Source
    from portctl.net import Family
    from portctl.observe import Observed
    from portctl.ruleset import Flows, Ruleset
    from portctl.space.questions import Outcome, Query
    from portctl.space.sides import Side
    from portctl.space.words import Groups

Format = Literal["text", "json"]
Way = Literal["in", "out", "through"]
ALLOWED, DENIED = 0, 1
MOST_CUTS = 25_000_000
"""Cuts of the diagrams of what a question is about: most of a gigabyte, and most of a minute."""
File = Annotated[
    str | None,
    typer.Argument(help="A policy, rule files, a saved rule set. With --host: none.", show_default=False),
]
OfHost = Annotated[
    str | None,
    typer.Option(
        "--host",
        metavar="TARGET",
        help="Ask a machine: all that is loaded, and who listens. local, ssh://[user@]host[:port], docker://name, …",
    ),
]
Inward = Annotated[str | None, typer.Option("--in", help="The interface it comes in by; default: every one.")]
Outward = Annotated[str | None, typer.Option("--out", help="The interface it goes out by; default: every one.")]
Sender = Annotated[
    str | None, typer.Option("--source-port", metavar="PORT", help="Its own port, 10000 or 1024-65535; default: any.")
]
Date = Annotated[str | None, typer.Option(help="Judge `until` at this day or moment instead of now.")]
Root = Annotated[Path | None, typer.Option(help="Included and address files may lie below this folder.")]
Form = Annotated[Format, typer.Option("--format", help="text or json.")]
Toward = Annotated[Way, typer.Option("--direction", help="in to this host, out of it, or through it.")]


def register(app: typer.Typer) -> None:
    app.command("explain")(explain)
    app.command("reach")(reach)


def explain(
    file: File = None,
    source: Annotated[str, typer.Option("--from", metavar="ADDR", help="Who: an address, a network, any.")] = "any",
    to: Annotated[str, typer.Option("--to", metavar="[ADDR:]PORT/PROTO", help="What: 22/tcp, 192.0.2.1:ssh.")] = "",
    backend: Annotated[
        str | None, typer.Option(help="Of a policy: nftables, iptables, pf-freebsd, …; default: all.")
    ] = None,
    host: OfHost = None,
    inward: Inward = None,
    outward: Outward = None,
    source_port: Sender = None,
    direction: Toward = "in",
    form: Form = "text",
    date: Date = None,
    root: Root = None,
) -> None:
    """Say what happens to a packet, and which line decides: of the policy, and of each packet filter's text.

    Exit status: 0 all that is meant is accepted, 1 some of it is not, or there is no such packet, 2 the input is wrong,
    3 the host cannot be asked.
    """
    if not to:
        raise typer.BadParameter("say what: --to 22/tcp")
    at = _moment(date)
    found = _whom(file, host, at, root, texts=backend or "all")
    if backend and not found.rendered:
        raise typer.BadParameter("--backend asks of what a policy renders to: name a policy that it can say")
    asked = found.spoken(_asked(source, to, (inward, outward), direction, found.groups, source_port))
    sides = found.sides(asked)
    outcomes = [(side, _outcomes(side, asked, at)) for side in sides]
    if form == "json":
        typer.echo(json.dumps({"version": 1, "sides": [_plain(s, o) for s, o in outcomes]}, indent=2))
    else:
        for side, answers in outcomes:
            live = found.observed is not None and side is sides[-1]
            _say(side, answers, len(outcomes) > 1, live)
        for line in found.listening(asked):
            typer.echo(line)
    asked_of = [answers for side, answers in outcomes if side.title not in found.rendered]
    every = all(answers and all(each.verdict == "accept" for each in answers) for answers in asked_of)
    raise typer.Exit(ALLOWED if every else DENIED)


def reach(
    file: File = None,
    to: Annotated[str | None, typer.Option("--to", metavar="[ADDR:]PORT/PROTO", help="Who reaches this?")] = None,
    source: Annotated[str | None, typer.Option("--from", metavar="ADDR", help="What does this one reach?")] = None,
    host: OfHost = None,
    inward: Inward = None,
    outward: Outward = None,
    source_port: Sender = None,
    direction: Toward = "in",
    form: Form = "text",
    date: Date = None,
    root: Root = None,
) -> None:
    """Say who reaches a port, or what an address reaches: one line each, with the entry that admits it."""
    from portctl.space import questions

    if (to is None) == (source is None):
        raise typer.BadParameter("say one of both: --to 22/tcp (who?) or --from 198.51.100.7 (what?)")
    at = _moment(date)
    found = _whom(file, host, at, root)
    by = (inward, outward)
    asked = found.spoken(_asked(source or "any", to, by, direction, found.groups, source_port))
    side = found.sides(asked)[0]
    outcomes = _outcomes(side, asked, at, denied=False)
    if form == "json":
        typer.echo(json.dumps({"version": 1, **_plain(side, outcomes)}, indent=2))
    else:
        typer.echo(questions.reach_text(outcomes, side.groups, "who" if to is not None else "what"), nl=False)


def _moment(date: str | None) -> datetime:
    from portctl import pipeline

    return datetime.now(UTC) if date is None else pipeline.moment(date)


# ---- what is asked


def _asked(
    source: str,
    to: str | None,
    by: tuple[str | None, str | None],
    way: Way,
    groups: Groups,
    source_port: str | None,
) -> Query:
    from portctl.net import ANYWHERE
    from portctl.resolve import spoken
    from portctl.ruleset import Direction
    from portctl.space.questions import Query

    direction = {"in": Direction.INBOUND, "out": Direction.OUTBOUND, "through": Direction.FORWARDED}[way]
    destination, flows = (ANYWHERE, None) if to is None else spoken.target(to, groups)
    if source_port is not None:
        flows = _sent_from(source_port, flows)
    inward, outward = map(_interfaces, by)
    if way == "in" and outward:
        raise typer.BadParameter("--out is of what leaves this host: say --direction through, or out")
    if way == "out":
        inward, outward = (), outward or inward
    asked = Query(direction, flows, spoken.addresses(source, groups), destination, inward, outward)
    return _on_loopback(asked)


def _on_loopback(asked: Query) -> Query:
    """What comes from a loopback address, or is sent to one, is on the loopback interface where none is named: no host
    takes it on another (RFC 1122, 3.2.1.3)."""
    from portctl.net import LOOPBACK_ADDRESSES
    from portctl.ruleset import LOOPBACK, Direction

    if asked.direction is Direction.INBOUND and not asked.interfaces and asked.source <= LOOPBACK_ADDRESSES:
        return replace(asked, interfaces=(LOOPBACK,))
    if asked.direction is Direction.OUTBOUND and not asked.out_interfaces and asked.destination <= LOOPBACK_ADDRESSES:
        return replace(asked, out_interfaces=(LOOPBACK,))
    return asked


def _sent_from(source_port: str, flows: Flows) -> Flows:
    """What is meant, from those ports of the sender."""
    from portctl.net import Ranges
    from portctl.ruleset import PROTOCOLS_WITH_PORTS

    first, dash, last = source_port.partition("-")
    if not first.isdigit() or (dash and not last.isdigit()) or not 1 <= int(first) <= int(last or first) <= 65535:
        raise typer.BadParameter("--source-port takes a port or a range: 10000, 1024-65535")
    if flows is None or any(flow.protocol not in PROTOCOLS_WITH_PORTS for flow in flows):
        raise typer.BadParameter("--source-port is of what has ports: --to 22/tcp")
    ports = Ranges((int(first), int(last or first) + 1))
    return tuple(replace(flow, source_ports=ports) for flow in flows)


def _interfaces(name: str | None) -> tuple[str, ...]:
    from portctl.ruleset import LOOPBACK

    if not name:
        return ()
    return (LOOPBACK,) if name in ("lo", "lo0") else (name,)


@dataclass(frozen=True, slots=True)
class Asked:
    """Who is asked: a policy and the texts it renders to, a rule set, a host."""

    sources: tuple[Source, ...]
    groups: Groups = ()
    """The policy's names for addresses."""
    observed: Observed | None = None
    rendered: tuple[str, ...] = ()
    """The titles of the texts that a policy renders to; the platforms of some force differences."""
    families: tuple[Family, ...] = (4, 6)
    """Those that what was read speaks of."""

    def sides(self, asked: Query, most: int = MOST_CUTS) -> tuple[Side, ...]:
        """All of them, as they are for the packets of a question. Raises `Problems` where that takes more than so many
        cuts to work out."""
        from portctl.program import Program
        from portctl.space import Space
        from portctl.space.diagram import TooMuch
        from portctl.space.narrowing import narrowed

        space = Space()
        space.diagrams.most = most
        found = []
        for source in self.sources:
            if isinstance(source.meaning, Program):
                source = replace(source, meaning=narrowed(source.meaning, asked))
            try:
                side = source.side(space)
            except TooMuch:
                raise _too_many(source.title) from None
            found.append(replace(side, groups=self.groups) if self.groups else side)
        return tuple(found)

    def spoken(self, asked: Query) -> Query:
        """The question, of those families alone. Raises `Problems` where it is about the other one."""
        if len(self.families) != 1:
            return asked
        (family,) = self.families
        other = 10 - family
        source, destination = asked.source.only(family), asked.destination.only(family)
        if not (source and destination):
            what = f"`{self.sources[0].title}` says nothing of IPv{other}"
            raise Problems([Problem("no-family", what, None, f"give the listing of IPv{other}, too")])
        typer.echo(f"note: `{self.sources[0].title}` says nothing of IPv{other}: asked is IPv{family} alone", err=True)
        return replace(asked, source=source, destination=destination)

    def listening(self, asked: Query) -> list[str]:
        """Who waits behind what was asked, on a live host."""
        from portctl.ruleset import Direction
        from portctl.verify.finding import socket_text

        if self.observed is None or asked.direction is not Direction.INBOUND:
            return []
        if self.observed.listeners is None:
            return ["who listens could not be seen"]
        found = [
            f"listening: {listener.process or 'somebody'} on "
            f"{socket_text(listener.address, listener.port, listener.protocol, listener.family)}"
            for listener in self.observed.listeners
            if asked.flows is None
            or any(listener.protocol == f.protocol and listener.port in f.ports for f in asked.flows)
        ]
        return found or ["nobody listens there"]


def _whom(file: str | None, host: str | None, at: datetime, root: Path | None, texts: str | None = None) -> Asked:
    """`texts`: a policy brings along what it renders to in these back ends."""
    from portctl.net import FAMILIES
    from portctl.ruleset import Ruleset

    if file is None and host is None:
        raise typer.BadParameter("name a policy or a rule set, or --host local")
    found: list[Source] = []
    groups: Groups = ()
    rendered: tuple[str, ...] = ()
    if file is not None:
        found.append(_by_the_way_back(sources.read(file, at, root)))
        meaning = found[0].meaning
        if isinstance(meaning, Ruleset):
            groups = meaning.groups
            texts_of_it = tuple(_rendered(meaning, texts)) if texts else ()
            found += texts_of_it
            rendered = tuple(each.title for each in texts_of_it)
    observed, families = (found[0].observed, found[0].families) if found else (None, FAMILIES)
    if host is not None and observed is None:
        found.append(_by_the_way_back(sources.live(host)))
        observed, families = found[-1].observed, FAMILIES
    return Asked(tuple(found), groups, observed, rendered, families)


def _by_the_way_back(source: Source) -> Source:
    """For what comes by the way that leads back to it, as whoever asks takes for granted: no rule set knows routes."""
    from portctl.program import Program
    from portctl.space import reverse

    if not isinstance(source.meaning, Program):
        return source
    program, asking = reverse.taken(source.meaning)
    for line in asking:
        where = f"line {line.number}: " if line.number else ""
        typer.echo(f"note: asked is what comes by the way back to its source; {where}{line.text.strip()}", err=True)
    return replace(source, meaning=program)


def _rendered(ruleset: Ruleset, names: str) -> Iterator[Source]:
    """What each back end that can say a policy makes of it, read back."""
    from portctl import backends, pipeline
    from portctl.backends.base import Ability

    for name, gaps in pipeline.sayable(ruleset, pipeline.backend_names(names), Ability()).items():
        if gaps:
            typer.echo(f"{name} cannot say this policy: {gaps[0].message}", err=True)
            continue
        backend = backends.load(name)
        yield sources.Source(name, "", backend.parse(backend.render(ruleset, Ability())), language="")


def _outcomes(side: Side, asked: Query, at: datetime, denied: bool = True) -> list[Outcome]:
    from portctl.space import questions
    from portctl.space.boxes import TooMany
    from portctl.space.diagram import TooMuch

    try:
        return questions.explain(side, asked, at, denied)
    except (TooMany, TooMuch):
        raise _too_many(side.title) from None


def _too_many(title: str) -> Problems:
    hint = "ask for one address, or one port"
    message = f"{title} judges what was asked by more cases than anybody would read"
    return Problems([Problem("too-many-cases", message, None, hint)])


def _say(side: Side, outcomes: Sequence[Outcome], titled: bool, live: bool) -> None:
    from portctl.space import questions

    if titled:
        typer.echo(f"{side.title}:")
    for line in questions.explain_text(side, outcomes, live).splitlines():
        typer.echo(f"  {line}" if titled else line)


def _plain(side: Side, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    from portctl import report
    from portctl.net import FAMILIES, Addresses, network_texts
    from portctl.space.packets import packet_text
    from portctl.space.words import box_text

    def networks(addresses: Addresses) -> list[str]:
        return [text for family in FAMILIES for text in network_texts(addresses.family(family), family)]

    return {
        "title": side.title,
        "outcomes": [
            {
                "verdict": each.verdict,
                "packets": box_text(each.box, side.groups),
                "source": networks(each.box.source),
                "destination": networks(each.box.destination),
                "entry": each.reason.name,
                "line": each.reason.line,
                "place": report.place(each.reason.place),
                "counter": each.reason.packets,
                "example": packet_text(each.example),
                "depends": list(each.depends),
            }
            for each in outcomes
        ],
    }
