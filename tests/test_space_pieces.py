"""Lists that a program asks in pieces are put together, and nothing else is."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from portctl import backends, pipeline
from portctl.backends.base import Ability
from portctl.net import Ranges
from portctl.program import Accept, Chain, Condition, Deny, Field, Hook, Jump, Line, Lookup, Program, Return
from portctl.space.boxes import boxes, set_of
from portctl.space.examples import example, example_within
from portctl.space.ordinary import ordinary, usual
from portctl.space.pieces import whole
from portctl.space.sets import Space

LISTED = Ranges(tuple(bound for k in range(3000) for bound in (k << 20, (k << 20) + 256)))
HALVES = [Ranges(LISTED.bounds[:2400]), Ranges(LISTED.bounds[2400:])]
PLACES = [Ranges((0, 1200 << 20)), Ranges((1200 << 20, 1 << 32))]
HOOK = Hook("input", 0, Deny())


def source(ranges: Ranges) -> Condition:
    return Condition(Field.SOURCE, ranges, family=4)


def program(*chains: Chain) -> Program:
    return Program(chains)


def same(one: Program, other: Program) -> bool:
    space = Space()
    return space.of_program(one) == space.of_program(other)


def long_conditions(found: Program) -> list[int]:
    values = [c.value for chain in found.chains for line in chain.lines for c in line.conditions]
    return [len(value.bounds) for value in values if isinstance(value, Ranges) and len(value.bounds) > 2000]


def by_map(second: Ranges, end: tuple[Accept | Deny, ...] = (Accept(),)) -> Program:
    lookup = Lookup(tuple(((source(place),), Jump(f"piece{k}")) for k, place in enumerate(PLACES)))
    return program(
        Chain("t", "input", (Line((), (lookup,)),), HOOK),
        Chain("t", "piece0", (Line((source(HALVES[0]),), (Accept(),)),)),
        Chain("t", "piece1", (Line((source(second),), end),)),
    )


def test_a_map_to_the_pieces_of_a_list_is_the_list() -> None:
    found = whole(by_map(HALVES[1]))
    assert long_conditions(found)[0] == len(LISTED.bounds)
    assert same(found, program(Chain("t", "input", (Line((source(LISTED),), (Accept(),)),), HOOK)))


def test_pieces_with_ends_of_their_own_stay_apart() -> None:
    mixed = by_map(HALVES[1], (Deny(),))
    assert whole(mixed) == mixed


def test_pieces_that_return_or_never_come_back_stay_as_they_are() -> None:
    for end in (Return(), Jump("elsewhere", goto=True)):
        lookup = Lookup(tuple(((source(p),), Jump(f"piece{k}")) for k, p in enumerate(PLACES)))
        pieces = [Chain("t", f"piece{k}", (Line((source(half),), (end,)),)) for k, half in enumerate(HALVES)]
        lines = (Line((), (lookup,)), Line((), (Accept(),)))
        given = program(Chain("t", "input", lines, HOOK), *pieces, Chain("t", "elsewhere", ()))
        assert whole(given) == given
        assert same(given, program(Chain("t", "input", (Line((), (Accept(),)),), HOOK)))


def test_places_that_overlap_stay_as_they_are() -> None:
    lookup = Lookup((((source(Ranges((0, 1 << 32))),), Jump("piece1")), ((source(PLACES[0]),), Jump("piece0"))))
    pieces = [Chain("t", f"piece{k}", (Line((source(half),), (Accept(),)),)) for k, half in enumerate(HALVES)]
    given = program(Chain("t", "input", (Line((), (lookup,)),), HOOK), *pieces)
    assert whole(given) == given


def test_what_lies_outside_of_its_place_in_the_map_is_not_asked() -> None:
    wrong = by_map(LISTED)
    found = whole(wrong)
    assert same(found, program(Chain("t", "input", (Line((source(LISTED),), (Accept(),)),), HOOK)))
    inside = Ranges(tuple(b for k in range(1200, 3000) for b in (k << 20, (k << 20) + 256)))
    assert HALVES[1] == inside


def test_lines_that_ask_disjoint_pieces_and_do_the_same_are_one() -> None:
    lines = tuple(Line((source(half),), (Accept(),)) for half in HALVES)
    (chain,) = whole(program(Chain("t", "input", lines, HOOK))).chains
    assert [line.conditions for line in chain.lines] == [(source(LISTED),)]


def test_lines_that_overlap_or_differ_stay_apart() -> None:
    overlapping = tuple(Line((source(each),), (Accept(),)) for each in (LISTED, HALVES[1]))
    differing = (Line((source(HALVES[0]),), (Accept(),)), Line((source(HALVES[1]),), (Deny(),)))
    other_port = (
        Line((Condition(Field.PORT, Ranges.single(22)), source(HALVES[0])), (Accept(),)),
        Line((Condition(Field.PORT, Ranges.single(25)), source(HALVES[1])), (Accept(),)),
    )
    for lines in (overlapping, differing, other_port):
        given = program(Chain("t", "input", lines, HOOK))
        assert whole(given) == given


def test_a_large_list_of_nftables_is_read_back_as_one(tmp_path: Path) -> None:
    lines = [f"{16 + k // 4096}.{k // 16 % 256}.{k % 16 * 16}.0/{24 + k % 2}" for k in range(60_000)]
    (tmp_path / "feed.txt").write_text("\n".join(lines) + "\n")
    path = tmp_path / "policy.yaml"
    path.write_text(
        "portctl: 1\nname: large\naddresses: {feed: {file: feed.txt}}\n"
        "services: {web: {ports: https, from: any}}\nblock: [feed]\n"
    )
    ruleset = pipeline.compile(path, datetime(2026, 11, 1, tzinfo=UTC)).ruleset
    backend = backends.load("nftables")
    loaded = backend.parse(backend.render(ruleset, Ability()))
    pieces = [c for chain in loaded.chains if chain.name.startswith("split") for c in chain.lines]
    assert len(pieces) > 4
    listed = next(rule.source.v4 for rule in ruleset.inbound if rule.name == "block" or "feed" in rule.name)
    assert len(listed.bounds) in long_conditions(whole(loaded))


def test_a_packet_of_each_of_many_boxes_is_found_without_making_anything() -> None:
    """Who asks who reaches a port of a long rule set asks for a packet of thousands of boxes."""
    lines = "".join(
        f"-A FORWARD -s 10.0.{k}.{k}/32 -d 10.1.0.{k * 3} -i eth{k % 4} -p tcp --dport {k}:{k + 99} -j ACCEPT\n"
        f"-A FORWARD -d 10.1.0.{k} -j DROP\n"
        for k in range(60)
    )
    listing = f"*filter\n:FORWARD DROP [0:0]\n{lines}-A FORWARD -s 10.0.0.0/18 -p tcp -j ACCEPT\nCOMMIT\n"
    space = Space()
    accepted = space.of_program(backends.load("iptables").parse({"rules.v4": listing})).accepted()
    found = [set_of(space, box) for box in boxes(usual(accepted, ordinary(accepted)))]
    assert len(found) > 60
    made = space.diagrams.cuts
    packets = [example_within(accepted, box) for box in found]
    assert space.diagrams.cuts == made
    assert packets == [example(accepted & box) for box in found]
    assert example_within(accepted, space.everything() - accepted) is None
