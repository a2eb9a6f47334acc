"""The language: what a policy's values mean, how files become one policy, and what `portctl check` answers."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from dataclasses import fields
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from portctl import document, sysctl
from portctl.files import Files
from portctl.policy import Policy, load, validate
from portctl.policy import items as it
from portctl.policy.addresses import addresses, canonical
from portctl.policy.models import SYSTEMS, Block, Defaults, Egress, Expected, Forward, Fragment, Service, Sysctl
from portctl.policy.portwords import ports
from portctl.policy.words import devices, rate, target, until
from portctl.policy.wrong import Wrong
from portctl.problems import Problem, Problems
from portctl.ruleset import Rate

HEAD = "portctl: 1\nname: x\n"
ROOT = Path(__file__).parent.parent


def policy(text: str) -> Policy:
    return validate(document.read(HEAD + text, "p.yaml"))


def problems(text: str) -> list[Problem]:
    with pytest.raises(Problems) as caught:
        policy(text)
    return list(caught.value.problems)


def write(folder: Path, **files: str) -> Path:
    """Files by stem, each with `.yaml` at its end; `top` is the policy."""
    for stem, text in files.items():
        (folder / f"{stem}.yaml").write_text(text)
    return folder / "top.yaml"


def loaded(path: Path, root: Path | None = None) -> Policy:
    return load(path, Files(root or path.parent))


@pytest.mark.parametrize(
    ("text", "first", "last"),
    [
        ("192.0.2.1", "192.0.2.1", "192.0.2.1"),
        ("192.0.2.0/24", "192.0.2.0", "192.0.2.255"),
        ("0.0.0.0/0", "0.0.0.0", "255.255.255.255"),
        ("192.0.2.1/32", "192.0.2.1", "192.0.2.1"),
        ("10.0.0.3-10.0.1.9", "10.0.0.3", "10.0.1.9"),
        ("::", "::", "::"),
        ("::/0", "::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
        ("2001:DB8::/32", "2001:db8::", "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff"),
        ("2001:db8::1-2001:db8::ff", "2001:db8::1", "2001:db8::ff"),
        ("64:ff9b::192.0.2.1", "64:ff9b::c000:201", "64:ff9b::c000:201"),
    ],
)
def test_addresses(text: str, first: str, last: str) -> None:
    (item,) = addresses(text)
    assert isinstance(item, it.AddressRange)
    low, high = ip_address(first), ip_address(last)
    assert item == (low.version, int(low), int(high))
    assert addresses(canonical(item)) == (item,)


def test_other_address_items() -> None:
    listed = addresses(["any", "office", {"file": "a.txt"}, {"file": "b.txt", "may_be_empty": True}, "fe-d_0"])
    assert listed == (
        it.AnyAddress(),
        it.AddressName("office"),
        it.AddressFile("a.txt"),
        it.AddressFile("b.txt", True),
        it.AddressName("fe-d_0"),
    )


@pytest.mark.parametrize(
    ("text", "item"),
    [
        ("ssh", it.PortName("ssh")),
        ("ping", it.Ping()),
        ("any", it.AnyPort()),
        ("22/tcp", it.PortRange((6,), 22, 22)),
        ("53/udp+tcp", it.PortRange((6, 17), 53, 53)),
        ("8000-8010/sctp", it.PortRange((132,), 8000, 8010)),
        ("1-65535/tcp", it.PortRange((6,), 1, 65535)),
        ("esp", it.Protocol(50)),
        ("ah", it.Protocol(51)),
        ("vrrp", it.Protocol(112)),
        ("ospf", it.Protocol(89)),
        ("igmp", it.Protocol(2)),
        ("gre", it.Protocol(47)),
        ("proto/97", it.Protocol(97)),
        ("no", it.PortName("no")),
    ],
)
def test_ports(text: str, item: it.PortItem) -> None:
    assert ports(text) == ports([text]) == (item,)


def test_until_is_the_end_of_the_day_in_utc_or_the_moment() -> None:
    assert until("2027-01-31").end == datetime(2027, 2, 1, tzinfo=UTC)
    assert until("2027-01-31T18:00Z").end == datetime(2027, 1, 31, 18, tzinfo=UTC)
    assert until("2027-01-31T18:00:30+02:00").end == datetime(2027, 1, 31, 16, 0, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    "text", ["2027-13-01", "9999-12-31", "2027-1-1", "2027-01-31T25:00Z", "2027-W01-1", "tomorrow"]
)
def test_no_day(text: str) -> None:
    with pytest.raises(Wrong):
        until(text)


def test_targets() -> None:
    assert target("10.0.0.5:80") == it.Target(ip_address("10.0.0.5"), 80)
    assert target("[2001:db8::5]:80") == it.Target(ip_address("2001:db8::5"), 80)
    assert target("2001:db8::5") == target("[2001:db8::5]") == it.Target(ip_address("2001:db8::5"), None)
    assert target(":80") == it.Target(None, 80)
    assert target("10.0.0.5") == it.Target(ip_address("10.0.0.5"), None)


@pytest.mark.parametrize(
    "value", ["", ":", "[]:80", ":0", ":70000", "10.0.0.5:", "a:80", "10.0.0.0/8:80", "::1:80", 80, None]
)
def test_no_target(value: object) -> None:
    with pytest.raises(Wrong):
        target(value)


def test_rates_and_devices() -> None:
    assert rate("10/minute") == Rate(10, "minute")
    assert devices(["eth0", "wan*", "br-0123456789ab"]) == ("eth0", "wan*", "br-0123456789ab")


def test_a_single_value_stands_for_a_list() -> None:
    single = policy("services: {a: {ports: ssh, from: office, in: lan}}\n").services["a"].value
    listed = policy("services: {a: {ports: [ssh], from: [office], in: [lan]}}\n").services["a"].value
    assert single == listed


def test_words_for_people_are_one_line_and_may_be_numbers() -> None:
    entry = policy(
        "services:\n  a:\n    ports: ssh\n    from: any\n    ticket: 4711\n    description: |\n      two\n      lines\n"
    )
    assert (entry.services["a"].value.ticket, entry.services["a"].value.description) == ("4711", "two lines")


def test_defaults_of_the_language() -> None:
    found = policy("services: {a: {ports: ssh, from: any}}\n")
    assert (found.defaults.inbound, found.defaults.outbound, found.defaults.forward) == ("drop", "allow", None)
    assert (found.defaults.published, found.defaults.log_denied, found.defaults.require) == ("keep", False, ())
    assert found.services["a"].value.listener == "required"
    assert found.services["a"].value.log is False


def test_places_of_entries_and_their_parts() -> None:
    entry = policy("services:\n  web:\n    ports: http\n    from: [any, office]\n").services["web"]
    assert (entry.span(key=True).line, entry.span(key=True).column) == (4, 3)
    assert (entry.span("from", 1).line, entry.span("from", 1).column, entry.span("from", 1).length) == (6, 17, 6)
    assert entry.span("ports", 0) == entry.span("ports")
    assert entry.span("from", key=True).column == 5


def test_all_problems_come_at_once_in_the_order_of_the_file() -> None:
    found = problems(
        "services:\n  a: {ports: [22, nope/tcp], from: [10.0.0.1/8, x y]}\n  B: {ports: ssh}\n"
        "defaults: {inbound: maybe}\n"
    )
    codes = ["bare-port", "bad-port", "host-bits", "bad-name", "bad-name", "missing-key", "wrong-value"]
    assert [problem.code for problem in found] == codes


def test_settings_are_text_by_system() -> None:
    found = policy(
        "sysctl:\n  ephemeral_ports: 32768-60999\n  reserved_ports: [8080, 9000-9010]\n  forwarding_v4: true\n"
        "  tcp_keepalive_time: 2000\n  linux: {net.ipv4.tcp_syncookies: 1}\n  freebsd: {net.inet.tcp.blackhole: 2}\n"
    )
    assert {key: entry.value for key, entry in found.sysctl.items()} == {
        ("any", "ephemeral_ports"): "32768-60999",
        ("any", "reserved_ports"): "8080,9000-9010",
        ("any", "forwarding_v4"): "1",
        ("any", "tcp_keepalive_time"): "2000",
        ("linux", "net.ipv4.tcp_syncookies"): "1",
        ("freebsd", "net.inet.tcp.blackhole"): "2",
    }
    assert found.sysctl["linux", "net.ipv4.tcp_syncookies"].span(key=True).column == 11


def test_the_language_has_the_portable_settings_that_sysctl_knows() -> None:
    assert {field.name for field in fields(Sysctl)} - set(SYSTEMS) == {portable.name for portable in sysctl.PORTABLE}


def test_an_address_without_its_quotes_keeps_nothing_else_from_being_told(tmp_path: Path) -> None:
    """But for what stands on its line, which may be wrong only because of it."""
    top = """
services:
  ssh: {port: ssh, from: 2001:db8::1}
  web: {port: http, from: any}
"""
    with pytest.raises(Problems) as caught:
        loaded(write(tmp_path, top=HEAD + top))
    told = [(problem.code, problem.span.line - HEAD.count("\n")) for problem in caught.value.problems if problem.span]
    assert ("quote-ipv6", 3) in told and ("unknown-key", 4) in told
    assert ("unknown-key", 3) not in told


def test_fragments_add_up(tmp_path: Path) -> None:
    top = write(
        tmp_path,
        top=HEAD + "include: [one.yaml, two.yaml]\nblock: [192.0.2.1]\ndefaults: {require: owner, inbound: drop}\n",
        one="services: {a: {ports: ssh, from: any, owner: x}}\nblock: [192.0.2.2]\ninclude: three.yaml\n",
        two="addresses: {g: 192.0.2.9}\ndefaults: {require: [ticket, owner], inbound: drop, outbound: drop}\n",
        three="description: inner\nblock: [192.0.2.3]\ntests: [{from: any, service: a, expect: allow}]\n",
    )
    found = loaded(top)
    assert [entry.name for entry in found.block] == ["block-1", "block-2", "block-3"]
    assert [entry.span().file for entry in found.block] == [
        str(tmp_path / f"{n}.yaml") for n in ("top", "one", "three")
    ]
    assert found.defaults.require == ("owner", "ticket")
    assert (found.defaults.inbound, found.defaults.outbound, found.description) == ("drop", "drop", "inner")
    assert found.services["a"].span("ports").file == str(tmp_path / "one.yaml")
    assert len(found.tests) == 1


def test_a_fragment_that_two_files_include_counts_once(tmp_path: Path) -> None:
    top = write(
        tmp_path,
        top=HEAD + "include: [a.yaml, b.yaml]\n",
        a="include: c.yaml\n",
        b="include: c.yaml\n",
        c="addresses: {g: 192.0.2.1}\n",
    )
    assert list(loaded(top).addresses) == ["g"]


def test_problems_of_all_files_come_at_once(tmp_path: Path) -> None:
    top = write(tmp_path, top=HEAD + "include: [a.yaml, b.yaml]\n", a="servces: {}\n", b="a: [\n")
    with pytest.raises(Problems) as caught:
        loaded(top)
    assert [p.code for p in caught.value.problems] == ["unknown-key", "yaml-syntax"]


@pytest.mark.parametrize("path", ["../out.yaml", "link.yaml", "folder/../../out.yaml"])
def test_files_outside_the_folder_are_not_read_unless_the_root_is_wider(tmp_path: Path, path: str) -> None:
    inner = tmp_path / "inner"
    (inner / "folder").mkdir(parents=True)
    (tmp_path / "out.yaml").write_text("addresses: {g: 192.0.2.1}\n")
    (inner / "link.yaml").symlink_to(tmp_path / "out.yaml")
    top = write(inner, top=f"{HEAD}include: {path}\n")
    with pytest.raises(Problems) as caught:
        loaded(top)
    assert [p.code for p in caught.value.problems] == ["path-escape"]
    assert list(loaded(top, tmp_path).addresses) == ["g"]


def test_what_is_no_regular_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    top = write(tmp_path, top=f"{HEAD}include: [pipe.yaml, '.', absent.yaml]\n")
    with pytest.raises(Problems) as caught:
        loaded(top)
    assert [(p.code, p.span.column) for p in caught.value.problems if p.span] == [
        ("bad-file", 11),
        ("bad-file", 22),
        ("bad-file", 27),
    ]


def test_a_policy_of_100_mb_is_refused_without_reading_it_whole(tmp_path: Path) -> None:
    top = tmp_path / "top.yaml"
    with top.open("wb") as file:
        file.truncate(100_000_000)
    with pytest.raises(Problems) as caught:
        loaded(top)
    assert [p.code for p in caught.value.problems] == ["too-large"]


def test_many_addresses_are_read_quickly() -> None:
    listed = "".join(f"    - 10.{n >> 8 & 255}.{n & 255}.0/24\n" for n in range(65536))
    text = HEAD + "services:\n  a:\n   ports: ssh\n   from:\n" + listed
    start = resource.getrusage(resource.RUSAGE_SELF).ru_utime
    found = validate(document.read(text, "p.yaml"))
    assert len(found.services["a"].value.from_) == 65536
    assert resource.getrusage(resource.RUSAGE_SELF).ru_utime - start < 2


def portctl(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "portctl", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)


GOOD = HEAD + "services: {ssh: {ports: ssh, from: 192.0.2.0/24, until: 2030-01-31}}\n"
TESTED = GOOD + "tests: [{from: 192.0.2.9, service: ssh, expect: allow}]\n"


def test_check_says_ok_on_one_line(tmp_path: Path) -> None:
    write(tmp_path, top=TESTED)
    done = portctl("check", "top.yaml", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "top.yaml: ok, 1 service, 1 test hold\n", "")


def test_check_answers_1_for_a_failing_test_and_2_for_a_wrong_policy(tmp_path: Path) -> None:
    write(
        tmp_path,
        top=TESTED.replace("192.0.2.9", "198.51.100.9"),
        bad=HEAD + "services: {ssh: {ports: 22, from: any}}\n",
    )
    failing, wrong = portctl("check", "top.yaml", cwd=tmp_path), portctl("check", "top.yaml", "bad.yaml", cwd=tmp_path)
    assert (failing.returncode, wrong.returncode) == (1, 2)
    assert "error[failed-test]" in failing.stderr
    assert "error[failed-test]" in wrong.stderr and "error[bare-port]" in wrong.stderr
    assert "bad.yaml:3:25" in wrong.stderr


def test_check_judges_another_day(tmp_path: Path) -> None:
    write(tmp_path, top=TESTED)
    assert portctl("check", "--date", "2030-01-31", "top.yaml", cwd=tmp_path).returncode == 0
    later = portctl("check", "--date", "2030-02-01", "top.yaml", cwd=tmp_path)
    assert later.returncode == 1
    assert "note[expired]" in later.stderr
    assert portctl("check", "--date", "someday", "top.yaml", cwd=tmp_path).returncode == 2


def test_check_prints_json(tmp_path: Path) -> None:
    write(tmp_path, bad=HEAD + "services: {ssh: {ports: 22, from: any}}\n")
    done = portctl("check", "--format", "json", "bad.yaml", cwd=tmp_path)
    (found,) = json.loads(done.stdout)["files"]
    assert (done.returncode, found["status"], done.stderr) == (2, 2, "")
    place = found["problems"][0].pop("place")
    assert (place["file"], place["line"], place["column"], place["length"]) == ("bad.yaml", 3, 25, 2)
    assert found["problems"] == [
        {
            "code": "bare-port",
            "severity": "error",
            "message": "`22` does not say of which protocol",
            "hint": "write `22/tcp`, `22/udp` or `22/tcp+udp`",
            "others": [],
        }
    ]


@pytest.mark.parametrize(
    "options",
    [[], ["--format", "json"], ["--format=text", "--date", "2026-07-01"], ["--root", ".", "other.yaml"]],
    ids=lambda options: " ".join(options) or "plain",
)
def test_check_starts_without_what_it_does_not_need(tmp_path: Path, options: list[str]) -> None:
    """It runs at every save of an editor: a quarter of a second of CPU, of which each of these would take a third."""
    write(tmp_path, top=TESTED, other=f"{HEAD}services:\n  ssh: {{ports: ssh, from: 198.51.100.0/24}}\n")
    command = [sys.executable, "-X", "importtime", "-m", "portctl", "check", *options, "top.yaml"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert ("ok" if "json" not in options else '"status": 0') in done.stdout
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "pydantic_core" in imported
    assert imported & {"typer", "jinja2", "pydantic", "subprocess", "portctl.space.sets"} == set()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--help"], "portctl check [OPTIONS] {FILE…}"),
        ([], "Missing argument 'FILE…'"),
        (["--format", "xml", "top.yaml"], "'xml' is not one of 'text', 'json'"),
        (["--formt", "json", "top.yaml"], "No such option: --formt"),
        (["top.yaml", "--date"], "'--date' requires an argument"),
        (["--date", "soon", "top.yaml"], "`soon` is neither a day nor a moment"),
        (["--", "--top.yaml"], "--top.yaml"),
    ],
)
def test_check_says_what_is_wrong_with_its_arguments(tmp_path: Path, arguments: list[str], words: str) -> None:
    done = portctl("check", *arguments, cwd=tmp_path)
    assert words in done.stdout + done.stderr
    assert done.returncode == (0 if "--help" in arguments else 2)


def test_a_misspelt_key_is_not_missed_as_well() -> None:
    assert [p.code for p in problems("services: {a: {port: ssh, source: any}}\n")] == ["unknown-key", "unknown-key"]


def test_check_runs_nothing_that_a_policy_names(tmp_path: Path) -> None:
    evil = "$(touch pwned)"
    write(tmp_path, top=f"{HEAD}services:\n  '{evil}': {{ports: '{evil}', from: '`touch pwned`', process: '{evil}'}}\n")
    assert portctl("check", "top.yaml", cwd=tmp_path).returncode == 2
    assert [path.name for path in tmp_path.iterdir()] == ["top.yaml"]


SEED = (ROOT / "tests/golden/everything/policy.yaml").read_text()
BITS = st.sampled_from(
    [
        "::",
        "[",
        "]",
        "{",
        "}",
        ": ",
        "\n",
        "- ",
        "&a ",
        "*a",
        "!x ",
        "null",
        "-1",
        "65536",
        "/",
        "\\",
        '"',
        "'",
        "any",
        "self",
    ]
)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 12), BITS), min_size=1, max_size=4))
def test_a_damaged_policy_is_a_policy_or_problems(cuts: list[tuple[float, int, str]]) -> None:
    text = SEED
    for where, length, put in cuts:
        at = int(where * len(text))
        text = text[:at] + put + text[at + length :]
    try:
        validate(document.read(text, "p.yaml"))
    except Problems as error:
        assert all(problem.span is not None for problem in error.problems)


JSON: Any = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 70000) | BITS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(BITS, inner, max_size=2),
    max_leaves=4,
)
KEYS = st.sampled_from([field.name for field in fields(Fragment)])
INNER = st.sampled_from(
    sorted(
        {
            field.name.rstrip("_")
            for model in (Service, Egress, Forward, Block, Expected, Defaults)
            for field in fields(model)
        }
    )
)


@settings(max_examples=120, deadline=None)
@given(
    st.dictionaries(
        KEYS,
        JSON
        | st.dictionaries(st.just("a"), st.dictionaries(INNER, JSON, max_size=5))
        | st.lists(st.dictionaries(INNER, JSON, max_size=5), max_size=2),
    )
)
def test_any_values_under_any_keys_are_a_policy_or_problems(data: dict[str, Any]) -> None:
    try:
        validate(document.read(json.dumps({"portctl": 1, "name": "x", **data}), "p.yaml"))
    except Problems as error:
        assert all(problem.span is not None for problem in error.problems)
