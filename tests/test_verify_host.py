"""What verify says of a host: who listens, its settings, what it loads at boot."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest

from portctl.listeners import Listener
from portctl.observe.boot import BootState
from portctl.observe.others import BootService
from portctl.program import Program
from portctl.verify import wrong
from tests.verify_cases import ALL, HTTP, HTTPS, POLICY, SSHD, Case, cases, told


@pytest.fixture
def policy(tmp_path: Path) -> Callable[..., Case]:
    return cases(tmp_path)


# ---- sockets


def test_a_socket_that_the_policy_does_not_mention_and_the_rules_keep_closed_is_a_note(
    policy: Callable[..., Case],
) -> None:
    case = policy()
    postgres = Listener(6, None, 5432, 4, process="postgres", pid=9)
    findings = case.findings(case.observed(listeners=(*ALL, postgres)))
    assert told(findings) == [("undeclared", "5432/tcp")]
    assert not wrong(findings)


@pytest.mark.parametrize(
    "hidden",
    [
        Listener(6, ip_address("127.0.0.1"), 5432, 4, process="postgres", pid=9),
        Listener(17, ip_address("127.0.0.53"), 53, 4, scope="lo", process="systemd-resolve", pid=9),
        Listener(6, None, 631, 6, dual_stack=True, scope="lo", process="cupsd", pid=9),
        Listener(17, None, 45000, 4, process="client", pid=9),
        Listener(17, None, 68, 4, process="dhcpcd", pid=9),
    ],
)
def test_sockets_that_no_stranger_reaches_and_clients_are_not_mentioned(
    policy: Callable[..., Case], hidden: Listener
) -> None:
    case = policy()
    assert case.findings(case.observed(listeners=(*ALL, hidden))) == []


def test_what_no_rule_keeps_closed_is_exposed(policy: Callable[..., Case]) -> None:
    case = policy()
    postgres = Listener(6, None, 5432, 4, process="postgres", pid=9)
    observed = replace(case.observed(listeners=(*ALL, postgres)), program=Program(()))
    findings = case.findings(observed)
    assert ("exposed", "5432/tcp") in told(findings)
    assert ("exposed", "ssh") in told(findings), "from others than 198.51.100.0/24"
    assert ("exposed", "web") not in told(findings), "the policy opens it to everybody"
    (found,) = (finding for finding in findings if finding.subject == "5432/tcp")
    assert found.evidence[0].endswith("→ 192.0.2.10:5432/tcp, in by eth0")


def test_nobody_listens(policy: Callable[..., Case]) -> None:
    case = policy()
    (finding,) = case.findings(case.observed(listeners=(SSHD, HTTP)))
    assert (finding.code, finding.subject) == ("not-listening", "web")
    assert "443/tcp" in finding.message and "80/tcp" not in finding.message
    assert finding.where is not None and finding.where.line == 5


def test_each_name_number_and_range_needs_a_listener_of_its_own(policy: Callable[..., Case]) -> None:
    """80 and 81 stand side by side in the rules, and are two ports of the policy; a range is one."""
    case = policy(POLICY.replace("[http, https]", "[80/tcp, 81/tcp, 9000-9010/tcp]"))
    nine = replace(HTTP, port=9005)
    (finding,) = case.findings(case.observed(listeners=(SSHD, HTTP, nine)))
    assert "opens 81/tcp," in finding.message


def test_a_listener_may_be_optional(policy: Callable[..., Case]) -> None:
    case = policy(POLICY.replace("process: nginx", "listener: optional"))
    assert case.findings(case.observed(listeners=(SSHD,))) == []


def test_ping_protocols_without_ports_and_any_need_no_listener(policy: Callable[..., Case]) -> None:
    text = POLICY + "interfaces: {vpn: wg0}\n"
    text = text.replace(
        "services:\n", "services:\n  all: {ports: any, from: any, in: vpn}\n  net: {ports: [ping, esp], from: any}\n"
    )
    case = policy(text)
    assert case.findings(case.observed()) == []


@pytest.mark.parametrize(
    ("at", "listener"),
    [
        ("192.0.2.10", replace(HTTP, address=ip_address("192.0.2.11"), family=4, dual_stack=False)),
        ("192.0.2.10", replace(HTTP, dual_stack=False)),
        ("any", replace(HTTP, address=ip_address("127.0.0.1"), family=4, dual_stack=False)),
    ],
)
def test_it_listens_elsewhere(policy: Callable[..., Case], at: str, listener: Listener) -> None:
    to = "" if at == "any" else f"to: {at}, "
    case = policy(POLICY.replace("process: nginx", f"{to}listener: required"))
    findings = case.findings(case.observed(listeners=(SSHD, listener, HTTPS)))
    assert ("wrong-address", "web") in told(findings)


def test_a_wildcard_satisfies_to(policy: Callable[..., Case]) -> None:
    case = policy(POLICY.replace("process: nginx", "to: 192.0.2.10"))
    findings = case.findings(case.observed())
    assert [finding for finding in findings if finding.code != "undeclared"] == []


def test_somebody_else_listens(policy: Callable[..., Case]) -> None:
    case = policy()
    other = replace(HTTP, process="python3", processes=("python3",))
    (finding,) = case.findings(case.observed(listeners=(SSHD, other, HTTPS)))
    assert (finding.code, finding.subject) == ("wrong-process", "web")
    assert finding.evidence == ("python3 (pid 800) on *:80/tcp",)


def test_systemd_may_hold_the_socket_of_a_service(policy: Callable[..., Case]) -> None:
    case = policy()
    waiting = replace(HTTP, process="systemd", pid=1, processes=("systemd",))
    both = replace(HTTPS, process="helper", processes=("helper", "nginx"))
    assert case.findings(case.observed(listeners=(SSHD, waiting, both))) == []


def test_the_kernel_itself_may_listen(policy: Callable[..., Case]) -> None:
    case = policy(POLICY.replace("services:\n", "services:\n  wg: {ports: 51820/udp, from: any, process: kernel}\n"))
    wireguard = Listener(17, None, 51820, 6, dual_stack=True, process="kernel")
    overlap = {"settings": {"net.ipv4.ip_local_reserved_ports": "51820"}}
    assert case.findings(case.observed(listeners=(*ALL, wireguard), **overlap)) == []


def test_an_owner_that_could_not_be_seen_is_unknown(policy: Callable[..., Case]) -> None:
    case = policy()
    unseen = replace(HTTP, process=None, pid=None, processes=())
    findings = case.findings(case.observed(listeners=(SSHD, unseen, HTTPS)))
    assert told(findings) == [("unknown", "web")]
    assert wrong(findings)


def test_a_forward_to_a_port_of_this_host_needs_a_listener_there(policy: Callable[..., Case]) -> None:
    text = POLICY + 'forwards:\n  alt: {ports: 8081/tcp, from: any, target: ":8080"}\n'
    case = policy(text)
    assert told(case.findings(case.observed())) == [("not-listening", "alt")]
    application = replace(HTTP, port=8080)
    assert case.findings(case.observed(listeners=(*ALL, application))) == []


# ---- settings and boot


def test_a_setting_that_differs(policy: Callable[..., Case]) -> None:
    case = policy(POLICY + "sysctl: {tcp_keepalive_time: 2000}\n")
    name = "net.ipv4.tcp_keepalive_time"
    assert case.findings(case.observed(settings={name: "2000"})) == []
    (finding,) = case.findings(case.observed(settings={name: "7200"}))
    assert (finding.code, finding.subject, finding.evidence) == ("sysctl-drift", name, (f"{name} = 7200",))
    assert finding.where is not None and finding.where.line == 7


def test_a_port_inside_the_ephemeral_range_is_offered_a_reservation(policy: Callable[..., Case]) -> None:
    text = POLICY.replace("services:\n", "services:\n  app: {ports: 40000-40009/tcp, from: any, listener: optional}\n")
    case = policy(text)
    (finding,) = case.findings(case.observed(settings={"net.ipv4.ip_local_reserved_ports": "8080"}))
    assert finding.code == "ephemeral-overlap"
    assert 'reserved_ports: "8080,40000-40009"' in finding.advice
    reserved = {"net.ipv4.ip_local_reserved_ports": "40000-40020"}
    assert case.findings(case.observed(settings=reserved)) == []
    moved = {"net.ipv4.ip_local_port_range": "50000 60999"}
    assert case.findings(case.observed(settings=moved)) == []


NFTABLES = BootService("nftables", "/etc/x", None, frozenset({"flushes"}))
SHOREWALL = BootService("shorewall", "/etc/x", None, frozenset({"iptables", "denies"}))


def test_what_would_be_gone_after_a_reboot(policy: Callable[..., Case]) -> None:
    case = policy()
    files = {"nftables/rules.nft": "rules\n"}
    link = ("/etc/systemd/system/sysinit.target.wants/portctl-boot.service",)
    good = BootState(bundle=files, starts=link)
    assert case.findings(case.observed(), boot=good, files=files) == []
    for bad, said in (
        (BootState(), "nothing of this policy"),
        (BootState(bundle={"nftables/rules.nft": "older\n"}, starts=link), "other rules"),
        (BootState(bundle=files), "does not start portctl-boot"),
        (BootState(bundle=files, starts=link, others=(NFTABLES,)), "reload flush every rule"),
        (BootState(bundle=files, starts=link, others=(SHOREWALL,)), "what it does not open stays closed"),
    ):
        (finding,) = case.findings(case.observed(), boot=bad, files=files)
        assert finding.code == "not-persistent" and said in finding.message
    with_settings = {**files, "sysctl/60-portctl.conf": "net.ipv4.ip_forward = 1\n"}
    (finding,) = case.findings(case.observed(), boot=BootState(bundle=with_settings, starts=link), files=with_settings)
    assert "/etc/sysctl.d/60-portctl.conf" in finding.message


def test_ports_that_openbsd_reserves(policy: Callable[..., Case]) -> None:
    text = POLICY.replace("services:\n", "services:\n  app: {ports: 40000/tcp, from: any, listener: optional}\n")
    case = policy(text)
    knobs = {"net.inet.ip.portfirst": "1024", "net.inet.ip.portlast": "49151", "net.inet.udp.baddynamic": "40000"}
    observed = case.observed(settings={**knobs, "net.inet.tcp.baddynamic": "587,2049"})
    observed = replace(observed, facts=replace(observed.facts, system="OpenBSD"))
    (finding,) = (each for each in case.findings(observed) if each.code == "ephemeral-overlap")
    assert 'reserved_ports: "40000"' in finding.advice and "baddynamic" in finding.advice
    both = replace(observed, settings={**knobs, "net.inet.tcp.baddynamic": "587,40000"})
    assert not [each for each in case.findings(both) if each.code == "ephemeral-overlap"]
