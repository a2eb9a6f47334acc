"""From a policy to its rules: what golden cases do not show."""

from __future__ import annotations

import json
import random
from datetime import UTC, datetime
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Any

import pytest

from portctl import document, pipeline, policy
from portctl.files import Files
from portctl.net import Addresses, Ranges
from portctl.policy.items import AddressRange
from portctl.problems import Problem, Problems
from portctl.resolve import lists, resolve
from portctl.resolve.scope import careful
from portctl.ruleset import TCP, UDP, Direction, Flow, Kind, Ruleset, State

AT = datetime(2026, 7, 1, tzinfo=UTC)


def meaning(root: Path = Path(), **keys: Any) -> tuple[Ruleset, tuple[Problem, ...]]:
    """A policy given as plain data, resolved."""
    text = json.dumps({"portctl": 1, "name": "test", **keys})
    return resolve(policy.validate(document.read(text, str(root / "policy.yaml"))), AT, Files(root))


def codes(root: Path = Path(), **keys: Any) -> list[str]:
    """Codes of the errors of a policy."""
    with pytest.raises(Problems) as caught:
        meaning(root, **keys)
    return [problem.code for problem in caught.value.problems if problem.severity == "error"]


def test_the_same_policy_in_another_order_is_the_same_ruleset() -> None:
    one, _ = meaning(
        addresses={"a": ["192.0.2.0/25", "198.51.100.1"], "b": ["a", "192.0.2.128/25"]},
        services={"x": {"ports": ["https", "http"], "from": "b"}, "y": {"ports": "ssh", "from": ["any", "a"]}},
        block=["203.0.113.1", "203.0.113.0"],
    )
    two, _ = meaning(
        block=["203.0.113.0/31"],
        services={"y": {"ports": "22/tcp", "from": "any"}, "x": {"ports": ["80/tcp", "443/tcp"], "from": ["b"]}},
        addresses={"b": ["192.0.2.0/24", "a"], "a": ["198.51.100.1", "192.0.2.0/25"]},
    )
    assert [one.rules(d) for d in Direction] == [two.rules(d) for d in Direction]


def test_names_of_blocks_do_not_depend_on_their_place() -> None:
    entries: list[Any] = [{"from": "10.0.0.0/8", "ports": "ssh"}, {"to": "any", "ports": "smtp"}, "192.0.2.1"]
    one, _ = meaning(block=entries)
    two, _ = meaning(block=[*reversed(entries), {"from": "172.16.0.0/12"}])
    names = {rule.name for rule in one.inbound if rule.kind is Kind.BLOCK}
    assert names < {rule.name for rule in two.inbound if rule.kind is Kind.BLOCK}


def test_one_error_hides_no_other() -> None:
    found = codes(
        services={
            "a": {"ports": "sssh", "from": "offce"},
            "b": {"ports": "ssh", "from": "any", "in": "publik"},
            "c": {"ports": "ssh", "from": "192.0.2.1", "to": "2001:db8::1"},
        },
        forwards={"d": {"ports": "80/tcp", "from": "any", "target": "10.0.0.5:80"}},
    )
    assert sorted(found) == sorted(
        ["unknown-group", "unknown-port", "unknown-interface", "no-common-family", "forward-default"]
    )


def test_a_long_chain_of_groups_is_no_deep_recursion() -> None:
    groups: dict[str, list[str]] = {f"g{n}": [f"g{n + 1}"] for n in range(3000)}
    ruleset, _ = meaning(addresses={**groups, "g3000": ["192.0.2.1"]}, services={"s": {"ports": "ssh", "from": "g0"}})
    service = ruleset.entry("s", Kind.SERVICE)
    assert service is not None and service.source == Addresses.of("192.0.2.1")


def test_a_loop_of_groups_is_reported_once() -> None:
    assert codes(addresses={"a": ["b"], "b": ["c"], "c": ["a", "192.0.2.1"]}) == ["group-cycle"]


def test_items_keep_what_ports_names() -> None:
    ruleset, _ = meaning(
        ports={"app": ["9000/tcp", "9001/udp"]},
        services={"s": {"ports": ["ssh", "app", "8000-8010/tcp", "8005/tcp"], "from": "any"}},
    )
    service = ruleset.entry("s", Kind.SERVICE)
    assert service is not None
    assert service.flows is not None and len(service.flows) == 2
    assert {(flow.protocol, flow.ports.bounds) for flow in service.items} == {
        (TCP, (22, 23)),
        (TCP, (9000, 9001)),
        (UDP, (9001, 9002)),
        (TCP, (8000, 8011)),
        (TCP, (8005, 8006)),
    }


def test_limits_may_differ_where_no_packet_meets_both() -> None:
    services: dict[str, dict[str, Any]] = {
        "a": {"ports": "ssh", "from": "192.0.2.0/25", "rate": "1/minute"},
        "b": {"ports": "ssh", "from": "192.0.2.128/25", "rate": "2/minute"},
        "c": {"ports": "80/tcp", "from": "any", "rate": "3/minute"},
        "d": {"ports": "81/tcp", "from": "any", "max_connections": 4},
    }
    meaning(services=services)
    assert codes(services={**services, "b": {**services["b"], "from": "192.0.2.64/26"}}) == ["limits-clash"]


def test_limits_may_differ_under_an_entry_without() -> None:
    limited = {
        "a": {"ports": "ssh", "from": "192.0.2.0/24", "rate": "1/minute"},
        "b": {"ports": "22-23/tcp", "from": "192.0.2.7", "rate": "2/minute"},
    }
    assert codes(services=limited) == ["limits-clash"]
    meaning(services={**limited, "free": {"ports": "ssh", "from": "192.0.2.0/24"}})


def test_limits_of_a_service_and_of_what_passes_through_do_not_meet() -> None:
    keys: dict[str, Any] = {
        "services": {"a": {"ports": "https", "from": "any", "rate": "10/minute"}},
        "defaults": {"forward": "drop"},
    }
    passing = {"ports": "https", "from": "any", "to": "192.0.2.0/24", "rate": "5/second"}
    meaning(**keys, forwards={"b": passing})
    assert codes(**keys, forwards={"b": {**passing, "target": "198.51.100.9"}}) == ["limits-clash"]


def test_forwarding_is_switched_on_for_the_families_in_use() -> None:
    keys: dict[str, Any] = {"defaults": {"forward": "drop"}}
    four, _ = meaning(forwards={"a": {"ports": "ssh", "from": "any", "target": "10.0.0.5:22"}}, **keys)
    local, _ = meaning(forwards={"a": {"ports": "ssh", "from": "any", "target": ":2222"}}, **keys)
    both, _ = meaning(forwards={"a": {"ports": "ssh", "from": "any", "to": "any"}}, **keys)
    assert [s.name for s in four.settings] == ["forwarding_v4"]
    assert local.settings == ()
    assert [s.name for s in both.settings] == ["forwarding_v4", "forwarding_v6"]


def test_answers_of_untracked_pings_are_replies() -> None:
    ruleset, _ = meaning(services={"ping": {"ports": "ping", "from": "any"}}, defaults={"outbound": "drop"})
    answer = next(rule for rule in ruleset.outbound if rule.kind is Kind.SERVICE)
    assert answer.states == State.UNTRACKED
    assert answer.flows == (Flow(1, Ranges((0, 256))), Flow(58, Ranges((129 * 256, 130 * 256))))


def test_a_list_of_addresses(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_bytes(
        b"\xef\xbb\xbf# title\r\n192.0.2.0/25 ; half\r\n192.0.2.128/25\r\n\r\n2001:db8::1\r\n"
    )
    ruleset, problems = meaning(
        tmp_path, services={"s": {"ports": "ssh", "from": [{"file": "list.txt"}, "198.51.100.1-198.51.100.2"]}}
    )
    service = ruleset.entry("s", Kind.SERVICE)
    assert problems == () and service is not None
    assert service.source == Addresses.of("192.0.2.0/24", "198.51.100.1-198.51.100.2", "2001:db8::1")


@pytest.mark.parametrize(
    ("line", "code", "column"),
    [
        ("192.0.2.1/24", "host-bits", 1),
        ("  192.0.02.1", "leading-zero", 3),
        ("192.0.2.9-192.0.2.1", "reversed-range", 1),
        ("example.org", "hostname", 1),
        ("::ffff:192.0.2.1", "ipv4-mapped", 1),
        ("fe80::1%eth0", "zone-id", 1),
        ("192.0.2.0/255.255.255.0", "netmask", 1),
        ("192.0.2.0/33", "bad-address", 1),
        ("office", "bad-address", 1),
    ],
)
def test_a_wrong_line_of_a_list_is_located(tmp_path: Path, line: str, code: str, column: int) -> None:
    (tmp_path / "list.txt").write_text(f"# title\n203.0.113.7\n{line} # comment\n")
    with pytest.raises(Problems) as caught:
        meaning(tmp_path, services={"s": {"ports": "ssh", "from": {"file": "list.txt"}}})
    problem = caught.value.problems[0]
    assert problem.code == code
    assert problem.span is not None
    assert (problem.span.line, problem.span.column) == (3, column)
    assert problem.span.text == f"{line} # comment"


def test_a_list_read_the_short_way_is_what_the_careful_way_reads() -> None:
    chance = random.Random(7)
    lines = []
    for _ in range(3000):
        length = chance.choice([8, 16, 24, 25, 31, 32])
        number = chance.getrandbits(32) >> (32 - length) << (32 - length)
        lines.append(f"{'.'.join(str(number >> shift & 255) for shift in (24, 16, 8, 0))}/{length}")
        lines.append(f"2001:db8:{chance.getrandbits(16):x}::/{chance.choice([48, 64])}")
    found, problems = lists.parse("\n".join(lines).encode(), "list.txt", careful)
    pairs: dict[int, list[tuple[int, int]]] = {4: [], 6: []}
    for line in lines:
        item = careful(line)
        assert isinstance(item, AddressRange)
        pairs[item.version].append((item.first, item.last))
    assert problems == []
    assert found == Addresses(Ranges.of(pairs[4]), Ranges.of(pairs[6]))


def test_a_hundred_thousand_networks_are_all_there() -> None:
    text = "\n".join(f"10.{n >> 9 & 255}.{n >> 1 & 255}.{(n & 1) * 128}/25" for n in range(100_000)).encode()
    found, _ = lists.parse(text, "list.txt", careful)
    assert found.v4.count() == 100_000 * 128


def test_an_empty_list_closes_nothing_unless_that_is_said(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("# nobody\n")
    empty = {"file": "empty.txt"}
    feed = {"addresses": {"feed": empty}}
    assert codes(tmp_path, block=[{"from": empty}]) == ["empty-list"]
    assert codes(tmp_path, block=["feed"], **feed) == ["empty-list"]
    assert codes(tmp_path, services={"s": {"ports": "ssh", "from": "any", "except": "feed"}}, **feed) == ["empty-list"]
    ruleset, problems = meaning(tmp_path, services={"s": {"ports": "ssh", "from": "feed"}}, **feed)
    assert [(p.code, p.severity) for p in problems] == [("empty-list", "warning")]
    assert ruleset.entry("s", Kind.SERVICE) is None
    _, problems = meaning(tmp_path, block=[{"from": {**empty, "may_be_empty": True}}])
    assert problems == ()


def test_a_misspelt_any_is_told_as_any(tmp_path: Path) -> None:
    policy = tmp_path / "p.yaml"
    services = "services: {web: {ports: http, from: anny}}\n"
    policy.write_text("portctl: 1\nname: p\naddresses: {bans: [192.0.2.1]}\n" + services)
    with pytest.raises(Problems, match="did you mean `any`"):
        pipeline.compile(policy, None, None)


def test_every_forward_over_a_service_is_found_among_many() -> None:
    """Told apart by ports where sources are the same, by sources where ports are."""
    draw = random.Random(7)
    networks = [ip_network(text) for text in ("0.0.0.0/0", "10.0.0.0/8", "2001:db8::/32", "2001:db8:3::/48")]
    networks += [ip_network(f"10.{number}.0.0/16") for number in range(6)]

    def some(name: str, widths: list[int]) -> dict[str, tuple[int, int, IPv4Network | IPv6Network]]:
        firsts = [draw.randrange(1, 400) for _ in range(60)]
        return {f"{name}{n}": (a, a + draw.choice(widths), draw.choice(networks)) for n, a in enumerate(firsts)}

    services, forwards = some("s", [0, 5, 65000]), some("f", [0, 30])
    _, problems = meaning(
        services={n: {"ports": f"{a}-{b}/tcp", "from": str(net)} for n, (a, b, net) in services.items()},
        forwards={n: {"ports": f"{a}-{b}/tcp", "from": str(f), "target": ":900"} for n, (a, b, f) in forwards.items()},
    )
    said = [tuple(p.message.split("`")[1:4:2]) for p in problems if p.code == "forward-over-service"]
    wanted = {
        (forward, service)
        for forward, (first, last, network) in forwards.items()
        for service, (low, high, other) in services.items()
        if first <= high and low <= last and type(network) is type(other) and network.overlaps(other)
    }
    assert set(said) == wanted and len(said) == len(wanted)
    assert 100 < len(wanted) < 60 * 60 // 2
