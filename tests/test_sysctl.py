"""Settings: names, units, order, and what is refused. The scripts are tried on a real kernel in tests/system."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from portctl import sysctl
from portctl.ruleset import Ruleset, Setting


def policy(*settings: Setting) -> Ruleset:
    return Ruleset("test", (), (), (), settings=settings)


def rendered(*settings: Setting, advertised: tuple[str, ...] = ()) -> list[str]:
    text = sysctl.render(policy(*settings), advertised=advertised).get(sysctl.FILE, "")
    return [line for line in text.splitlines() if line and not line.startswith("#")]


@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        ("ephemeral_ports", "32768-60999", "net.ipv4.ip_local_port_range = 32768 60999"),
        ("ephemeral_ports", "32768 60999", "net.ipv4.ip_local_port_range = 32768 60999"),
        ("reserved_ports", "9100, 8080,9000-9099", "net.ipv4.ip_local_reserved_ports = 8080,9000-9100"),
        ("tcp_keepalive_time", "2000", "net.ipv4.tcp_keepalive_time = 2000"),
        ("forwarding_v4", "1", "net.ipv4.ip_forward = 1"),
        ("forwarding_v6", "true", "net.ipv6.conf.all.forwarding = 1"),
    ],
)
def test_portable_names_become_the_kernels(name: str, value: str, line: str) -> None:
    assert rendered(Setting(name, value)) == [line]


def test_raw_names_of_other_systems_are_left_out() -> None:
    assert rendered(
        Setting("net.inet.tcp.blackhole", "2", "freebsd"), Setting("net.ipv4.tcp_syncookies", "1", "linux")
    ) == ["net.ipv4.tcp_syncookies = 1"]


def test_the_text_does_not_depend_on_the_order_in_the_policy() -> None:
    settings = [
        Setting("tcp_keepalive_time", "2000"),
        Setting("ephemeral_ports", "1024-2000"),
        Setting("forwarding", "1"),
    ]
    assert rendered(*settings) == rendered(*reversed(settings))


def test_what_must_be_written_first_stands_first() -> None:
    """Linux forgets advertised routes when it begins to forward, and turns accept_redirects with it."""
    redirects = Setting("net.ipv4.conf.all.accept_redirects", "0", "linux")
    assert rendered(redirects, Setting("forwarding", "1"), advertised=("eth0", "eth0.100")) == [
        "net.ipv6.conf.eth0.accept_ra = 2",
        "net.ipv6.conf.eth0/100.accept_ra = 2",
        "net.ipv4.ip_forward = 1",
        "net.ipv6.conf.all.forwarding = 1",
        "net.ipv4.conf.all.accept_redirects = 0",
    ]


def test_advertisements_matter_only_where_ipv6_is_forwarded() -> None:
    assert rendered(Setting("forwarding_v4", "1"), advertised=("eth0",)) == ["net.ipv4.ip_forward = 1"]


def test_no_settings_no_bundle() -> None:
    assert sysctl.render(policy()) == {} and sysctl.bundle(policy()) == {}


def test_what_is_rendered_is_read_back() -> None:
    settings = (Setting("ephemeral_ports", "1024-2000"), Setting("net.ipv4.tcp_rmem", "4096  131072\t6291456", "linux"))
    assert sysctl.parse(sysctl.render(policy(*settings))) == {
        "net.ipv4.ip_local_port_range": "1024 2000",
        "net.ipv4.tcp_rmem": "4096 131072 6291456",
    }


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        (Setting("ephemeral_ports", "60999-32768"), "not one range of ports"),
        (Setting("ephemeral_ports", "1-2,4-5"), "not one range of ports"),
        (Setting("reserved_ports", "70000"), "not ports"),
        (Setting("tcp_keepalive_time", "0"), "from 1 to 32767"),
        (Setting("tcp_keepalive_time", "12s"), "whole number"),
        (Setting("tcp_keepalive_probes", "128"), "from 1 to 127"),
        (Setting("forwarding", "yes"), "neither true nor false"),
        (Setting("keepalive", "1"), "no setting is called"),
        (Setting("net.ipv4.x; reboot", "1", "linux"), "not the name"),
        (Setting("net.ipv4.conf.//.x", "1", "linux"), "not the name"),
        (Setting("../../etc/passwd", "1", "linux"), "not the name"),
        (Setting("net.ipv4.tcp_syncookies", " ", "linux"), "empty"),
        (Setting("net.ipv4.tcp_syncookies", "1\nnet.ipv4.ip_forward = 1", "linux"), "one line"),
    ],
)
def test_bad_settings_are_refused(setting: Setting, said: str) -> None:
    (problem,) = sysctl.gaps(policy(setting))
    assert said in problem.message


def test_two_values_of_one_variable_are_refused_under_whatever_name() -> None:
    raw = Setting("net.ipv4.conf.all.forwarding", "0", "linux")
    assert [p.code for p in sysctl.gaps(policy(Setting("forwarding_v4", "1"), raw))] == ["sysctl-conflict"]
    assert sysctl.gaps(policy(Setting("forwarding_v4", "1"), Setting("net.ipv4.ip_forward", "1", "linux"))) == []


def test_an_ephemeral_range_below_the_unprivileged_ports_is_refused() -> None:
    start = Setting("net.ipv4.ip_unprivileged_port_start", "5000", "linux")
    (problem,) = sysctl.gaps(policy(Setting("ephemeral_ports", "4000-6000"), start))
    assert "4000-6000 begins below 5000" in problem.message


BSD = (
    Setting("ephemeral_ports", "20000-30000"),
    Setting("tcp_keepalive_time", "2000"),
    Setting("forwarding", "true"),
    Setting("net.inet.tcp.blackhole", "2", "freebsd"),
)


@pytest.mark.parametrize(
    ("system", "wanted"),
    [
        (
            "FreeBSD",
            ["net.inet.ip.forwarding = 1", "net.inet.ip.portrange.first = 20000",
             "net.inet.ip.portrange.hifirst = 20000", "net.inet.ip.portrange.hilast = 30000",
             "net.inet.ip.portrange.last = 30000", "net.inet.tcp.blackhole = 2",
             "net.inet.tcp.keepidle = 2000000", "net.inet6.ip6.forwarding = 1"],
        ),
        (
            "OpenBSD",
            ["net.inet.ip.forwarding = 1", "net.inet.ip.portfirst = 20000", "net.inet.ip.porthifirst = 20000",
             "net.inet.ip.porthilast = 30000", "net.inet.ip.portlast = 30000", "net.inet.tcp.keepidle = 2000 s",
             "net.inet6.ip6.forwarding = 1"],
        ),
        (
            "Darwin",
            ["net.inet.ip.forwarding = 1", "net.inet.ip.portrange.first = 20000",
             "net.inet.ip.portrange.hifirst = 20000", "net.inet.ip.portrange.hilast = 30000",
             "net.inet.ip.portrange.last = 30000",
             "net.inet.tcp.keepidle = 2000000", "net.inet6.ip6.forwarding = 1"],
        ),
    ],
)  # fmt: skip
def test_each_system_has_its_own_names_and_units(system: str, wanted: list[str]) -> None:
    assert not sysctl.gaps(policy(*BSD), system)
    text = sysctl.render(policy(*BSD), system)[sysctl.FILE]
    assert sorted(line for line in text.splitlines() if not line.startswith("#")) == wanted


@pytest.mark.parametrize(
    ("system", "setting"),
    [
        ("FreeBSD", Setting("reserved_ports", "8080")),
        ("macOS", Setting("reserved_ports", "8080")),
        ("OpenBSD", Setting("reserved_ports", "1024-65535")),
        ("OpenBSD", Setting("reserved_ports", "")),
        ("OpenBSD", Setting("tcp_keepalive_probes", "9")),
        ("FreeBSD", Setting("ephemeral_ports", "1000-30000")),
        ("FreeBSD", Setting("net.inet tcp", "1", "freebsd")),
    ],
)
def test_what_a_system_has_no_setting_for_is_refused(system: str, setting: Setting) -> None:
    assert sysctl.gaps(policy(setting), system) and not sysctl.gaps(policy(Setting("forwarding", "1")), system)


FAKE = """
uname() { echo FreeBSD; }
id() { echo 0; }
sysctl() {
    if [ "$1" = -n ]; then cat "$STATE/$2" 2>/dev/null; return; fi
    name=${1%%=*}; value=${1#*=}
    [ -e "$STATE/$name" ] || return 1
    case $name in
        *first|*last) [ "$value" -ge 1024 ] || value=1024; [ "$value" -le 65535 ] || value=65535 ;;
        *keepidle) value=$((value / ROUND * ROUND)) ;;
    esac
    echo "$value" >"$STATE/$name"
    case $name in
        *portrange.first|*portrange.last)
            [ "$(cat "$STATE/net.inet.ip.portrange.first")" -le "$(cat "$STATE/net.inet.ip.portrange.last")" ] ||
                echo "$name" >>"$STATE/crossed" ;;
    esac
}
sh() { file=$1; shift; (set -- "$@"; . "$file"); }
"""


def _bsd_machine(
    folder: Path, *settings: Setting, system: str = "FreeBSD", values: Mapping[str, int | str] | None = None
) -> Callable[..., tuple[int, str]]:
    state, bundle = folder / "state", folder / "bundle"
    for path in (state, bundle):
        path.mkdir()
    known = {"net.inet.ip.portrange.first": 10000, "net.inet.ip.portrange.last": 65535,
             "net.inet.tcp.keepidle": 7200000, "net.inet.ip.portrange.hifirst": 49152,
             "net.inet.ip.portrange.hilast": 65535}  # fmt: skip
    for name, value in {**known, **(values or {})}.items():
        (state / name).write_text(f"{value}\n")
    for name, text in sysctl.bundle(policy(*settings), system).items():
        (bundle / name).write_text(text)

    def load(*arguments: str, rounding: int = 10) -> tuple[int, str]:
        # save.sh finds the conf file beside itself, by $0.
        (bundle / "save.sh").write_text((bundle / "save.sh").read_text().replace('"$(dirname "$0")"', f'"{bundle}"'))
        command = ["dash", "-c", f'{FAKE}\n. "$0"', str(bundle / "load.sh"), *arguments]
        environment = {"STATE": str(state), "ROUND": str(rounding), "PATH": "/usr/bin:/bin"}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        return done.returncode, done.stderr

    return load


def test_a_range_moves_without_its_ends_crossing(tmp_path: Path) -> None:
    for number, (first, last, wanted) in enumerate([(10000, 20000, "30000-40000"), (30000, 40000, "10000-20000")]):
        folder = tmp_path / str(number)
        folder.mkdir()
        load = _bsd_machine(
            folder, Setting("ephemeral_ports", wanted),
            values={"net.inet.ip.portrange.first": first, "net.inet.ip.portrange.last": last},
        )  # fmt: skip
        assert load() == (0, "")
        assert (folder / "state/net.inet.ip.portrange.last").read_text() == f"{wanted[6:]}\n"
        assert not (folder / "state" / "crossed").exists()


def test_a_value_that_the_kernel_rounds_is_refused_and_everything_put_back(tmp_path: Path) -> None:
    load = _bsd_machine(tmp_path, Setting("tcp_keepalive_time", "7"), Setting("ephemeral_ports", "20000-30000"))
    status, said = load(rounding=4000)
    assert status == 1 and "wanted 7000, reads 4000" in said and "as it was before" in said
    assert (tmp_path / "state/net.inet.tcp.keepidle").read_text() == "7200000\n"
    assert (tmp_path / "state/net.inet.ip.portrange.first").read_text() == "10000\n"


@pytest.mark.parametrize(("ticks", "wanted"), [(2, "4000"), (None, "2000")])
def test_openbsd_counts_ticks_where_its_kernel_does(tmp_path: Path, ticks: int | None, wanted: str) -> None:
    known = {} if ticks is None else {"net.inet.tcp.slowhz": ticks}
    load = _bsd_machine(tmp_path, Setting("tcp_keepalive_time", "2000"), system="OpenBSD", values=known)
    assert load(rounding=1) == (0, "")
    assert (tmp_path / "state/net.inet.tcp.keepidle").read_text() == f"{wanted}\n"


def test_openbsd_reserves_ports_one_by_one(tmp_path: Path) -> None:
    """As its sysctl prints them again, or no value would read back as it was written."""
    for setting in (Setting("reserved_ports", "9002, 8080,9000-9001"),
                    Setting("net.inet.tcp.baddynamic", "8080,9000-9002", "openbsd")):  # fmt: skip
        found = {name: value for name, value, _ in sysctl.settings(policy(setting), "OpenBSD")}
        assert found.pop("net.inet.tcp.baddynamic") == "8080,9000,9001,9002"
        assert found == ({} if setting.system == "openbsd" else {"net.inet.udp.baddynamic": "8080,9000,9001,9002"})
    own = {f"net.inet.{protocol}.baddynamic": "587,749,2049" for protocol in ("tcp", "udp")}
    load = _bsd_machine(tmp_path, Setting("reserved_ports", "8080,9000-9001"), system="OpenBSD", values=own)
    assert load(rounding=1) == (0, "")
    assert (tmp_path / "state/net.inet.udp.baddynamic").read_text() == "8080,9000,9001\n"
