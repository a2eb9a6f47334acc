"""The plan: words, warnings, refusals, from values alone."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

from portctl import backends, pipeline, plan
from portctl.apply import store
from portctl.listeners import Connection, Listener
from portctl.net import Ranges
from portctl.observe import Facts, Interface, Observed
from portctl.observe.others import BootService
from portctl.plan import words
from portctl.plan.state import after, in_sync, minimal
from portctl.plan.text import lines
from portctl.plan.types import Before, Change, Plan
from portctl.program import Accept, Chain, Condition, Deny, Field, Hook, Line, Program
from portctl.ruleset import Kind, Ruleset
from portctl.wayin import Process, Surroundings, Tracked

ME, GATEWAY, PEER = ip_address("192.0.2.10"), ip_address("192.0.2.1"), ip_address("203.0.113.5")
HOST = Facts(
    "Linux",
    root=True,
    tools=(("nft", "1.0.6"), ("ss", "6.1")),
    interfaces=(Interface("lo", (ip_address("127.0.0.1"),)), Interface("eth0", (ME,))),
    gateways=(GATEWAY,),
    resolvers=(ip_address("192.0.2.53"),),
    tracking=True,
)
SSHD = Listener(6, None, 22, 4, process="sshd", pid=10)
SESSION = Connection(6, ME, 22, PEER, 4001, "sshd", 500)
ASKING = Surroundings(chain=(Process(900, 0, 100, "sh", "203.0.113.5 4001 192.0.2.10 22"),))
SSH = "services: {ssh: {ports: ssh, from: 203.0.113.0/24}}\n"


def ruleset(tmp_path: Path, body: str) -> Ruleset:
    path = tmp_path / "policy.yaml"
    path.write_text("portctl: 1\nname: test\n" + body)
    return pipeline.compile(path).ruleset


def made(
    tmp_path: Path,
    body: str,
    around: Surroundings = ASKING,
    facts: Facts = HOST,
    connections: tuple[Connection, ...] = (SESSION,),
    foreign: Program | None = None,
    loaded: str | None = None,
) -> Plan:
    """The plan for a policy on a host where the policy `loaded` is in force."""
    desired = plan.desire(ruleset(tmp_path, body), backends.load("nftables"), facts)
    before = Before()
    mine = Program(())
    if loaded is not None:
        old = plan.desire(ruleset(tmp_path, loaded), backends.load("nftables"), facts)
        mine, before = old.program, Before(saved=old.bundles, boot=old.boot_bundle, ruleset=old.ruleset)
    everything = Program((*(foreign.chains if foreign else ()), *mine.chains))
    observed = Observed(facts, everything, settings=dict(desired.settings), listeners=(SSHD,), connections=connections)
    return plan.diff(desired, observed, mine, before, around, {})


def messages(found: Plan) -> str:
    return "\n".join(refusal.message + " | " + refusal.hint for refusal in found.refusals)


def test_in_sync_is_an_empty_plan(tmp_path: Path) -> None:
    found = made(tmp_path, SSH, loaded=SSH)
    assert found.empty and not found.changes and not found.order
    assert "Nothing to do" in "\n".join(lines(found))


def test_the_summary_says_what_becomes_reachable_and_what_no_longer_is(tmp_path: Path) -> None:
    old = "services: {ssh: {ports: ssh, from: 203.0.113.0/24}, old: {ports: 23/tcp, from: any}}\n"
    new = "services: {ssh: {ports: ssh, from: [203.0.113.0/25, 198.51.100.1]}, web: {ports: http, from: any}}\n"
    said = made(tmp_path, new, loaded=old).summary
    assert "+ web: 80/tcp from everywhere" in said
    assert "- old: no longer 23/tcp from everywhere" in said
    assert "+ ssh: 22/tcp now also from 198.51.100.1" in said
    assert "- ssh: 22/tcp no longer from 203.0.113.128/25" in said


def test_the_diff_is_unified_and_coloured_only_when_asked(tmp_path: Path) -> None:
    found = made(tmp_path, SSH.replace("/24", "/25"), loaded=SSH)
    plain = list(lines(found))
    assert "+++ nftables/rules.nft" in plain
    assert any(line.startswith("-") and "203.0.113.0/24" in line for line in plain)
    assert not any("\x1b" in line for line in plain)
    assert any("\x1b[32m+" in line for line in lines(found, colour=True))


def test_locking_oneself_out_is_refused_with_the_service_to_change(tmp_path: Path) -> None:
    said = messages(made(tmp_path, "services: {ssh: {ports: ssh, from: 198.51.100.0/24}}\n"))
    assert "you would be locked out: ssh from 203.0.113.5 to 192.0.2.10 port 22" in said
    assert "the service `ssh` would have to admit 203.0.113.5" in said
    assert not made(tmp_path, SSH).refusals


def test_an_interface_condition_can_lock_out_too(tmp_path: Path) -> None:
    body = "interfaces: {lan: [eth1]}\nservices: {ssh: {ports: ssh, from: any, in: lan}}\n"
    assert "or eth0 to its `in`" in messages(made(tmp_path, body))


def test_a_foreign_drop_in_the_operators_way_is_refused_by_name(tmp_path: Path) -> None:
    drop = Line((Condition(Field.PORT, Ranges.single(22)),), (Deny(),), text="tcp dport 22 drop")
    chain = Chain("ip strange", "in", (drop,), Hook("input", 0))
    said = messages(made(tmp_path, SSH, foreign=Program((chain,))))
    assert "chain in of table ip strange: `tcp dport 22 drop`" in said and "--exclusive" in said


def test_lifelines_may_not_be_blocked(tmp_path: Path) -> None:
    for address, what in (("192.0.2.10", "an address of this host"), ("192.0.2.1", "the gateway")):
        assert f"holds {address}, {what}" in messages(made(tmp_path, SSH + f"block: [{address}]\n"))
    assert "192.0.2.53, a resolver" in messages(made(tmp_path, SSH + "block: [192.0.2.53]\n"))
    assert "resolver" in messages(made(tmp_path, SSH + "block: [{to: 192.0.2.53, ports: domain}]\n"))
    assert "resolver" not in messages(made(tmp_path, SSH + "block: [{to: 192.0.2.53, ports: smtp}]\n"))
    cloud = replace(ASKING, cloud="Amazon EC2")
    assert "metadata" in messages(made(tmp_path, SSH + "block: [169.254.169.254]\n", around=cloud))
    assert not made(tmp_path, SSH + "block: [169.254.169.254]\n").refusals
    assert "every IPv6 address" in messages(made(tmp_path, SSH + 'block: ["::/0"]\n'))


def test_a_way_in_through_a_tunnel_needs_its_outer_flow(tmp_path: Path) -> None:
    inside, far = ip_address("10.9.0.1"), ip_address("10.9.0.2")
    facts = replace(HOST, interfaces=(*HOST.interfaces, Interface("wg0", (inside,))))
    session = Connection(6, inside, 22, far, 4001, "sshd", 500)
    texts = (
        ("wireguard", "wg0\tKEY=\t198.51.100.3:40000\n"),
        ("wireguard-port", "wg0\t51820\n"),
        ("wireguard-keepalive", "wg0\tKEY=\toff\n"),
        ("tunnels", ""),
        ("links", ""),
    )
    around = Surroundings(
        chain=(Process(900, 0, 100, "sh", "10.9.0.2 4001 10.9.0.1 22"),),
        links=(("wg0", "wireguard"),),
        tunnel_text=texts,
    )
    body = "services: {ssh: {ports: ssh, from: any}}\n"
    said = messages(made(tmp_path, body, around, facts, (session,)))
    assert "tunnel wg0" in said and "`ports: 51820/udp` would have to admit 198.51.100.3" in said
    body = "services: {ssh: {ports: ssh, from: any}, vpn: {ports: 51820/udp, from: any}}\n"
    assert not made(tmp_path, body, around, facts, (session,)).refusals


def test_outbound_drop_names_what_is_in_use_and_not_covered(tmp_path: Path) -> None:
    around = replace(ASKING, clocks=(ip_address("192.0.2.123"),), cloud="Google")
    body = SSH + "egress: {dns: {ports: domain, to: 192.0.2.53}}\ndefaults: {outbound: drop}\n"
    said = "\n".join(made(tmp_path, body, around).warnings)
    assert "the time server in use, 192.0.2.123" in said
    assert "the metadata address in use, 169.254.169.254" in said
    assert "resolver" not in said


UFW = BootService("ufw", "/etc/systemd/system/multi-user.target.wants/ufw.service", None, frozenset({"denies"}))


def test_joined_groups_other_boot_services_and_live_connections_are_named(tmp_path: Path) -> None:
    around = replace(ASKING, multicast=(ip_address("239.1.1.1"), ip_address("224.0.0.251")), boot_services=(UFW,))
    stranger = Connection(6, ME, 22, ip_address("198.51.100.200"), 5000, "sshd", 501)
    found = made(tmp_path, SSH, around, connections=(SESSION, stranger))
    said = "\n".join(found.warnings)
    assert "joined 239.1.1.1" in said and "224.0.0.251" not in said
    assert "ufw is enabled (/etc/systemd/system/multi-user.target.wants/ufw.service): what it does not open" in said
    assert "survives although a new one would not be admitted: 22/tcp from 198.51.100.200 (sshd)" in said
    untracked = made(tmp_path, SSH, around, facts=replace(HOST, tracking=False), connections=(SESSION, stranger))
    assert untracked.opened == (SESSION,)
    assert "will be cut, not admitted by the policy" in "\n".join(untracked.warnings)
    blocking = made(tmp_path, SSH + "block: [198.51.100.200]\n", around, connections=(SESSION, stranger))
    assert blocking.cut == (stranger,)


def test_a_blocked_flow_between_others_is_cut_too(tmp_path: Path) -> None:
    guest, far = ip_address("10.0.0.7"), ip_address("198.51.100.200")
    flows = (Tracked(6, guest, far, 5000, 25, far, 25), Tracked(6, guest, far, 5001, 443, far, 443))
    body = SSH + "block: [{to: 198.51.100.200, ports: smtp}]\n"
    found = made(tmp_path, body, replace(ASKING, flows=flows))
    assert found.cut == (Connection(6, far, 25, guest, 5000),)


def test_forward_without_keep_says_that_untracked_flows_end(tmp_path: Path) -> None:
    body = SSH + "defaults: {forward: drop}\n"
    said = "\n".join(made(tmp_path, body, facts=replace(HOST, tracking=False)).warnings)
    assert "flows that pass through this host now will be cut" in said
    assert "flows that pass" not in "\n".join(made(tmp_path, SSH, facts=replace(HOST, tracking=False)).warnings)


def test_a_rule_set_comes_back_from_its_record_as_it_was(tmp_path: Path) -> None:
    body = (
        "addresses: {feed: [198.51.100.0/24], bans: {live: true}}\ninterfaces: {lan: [eth1], wan: [eth0]}\n"
        "services: {ssh: {ports: ssh, from: any, rate: 5/minute, until: 2031-01-31, log: true}}\n"
        "block: [feed, bans]\nforwards: {old: {ports: 8080/tcp, from: any, target: '10.0.0.5:80'}}\n"
        "defaults: {forward: drop}\nsysctl: {tcp_keepalive_time: 2000}\n"
        "tests: [{from: 192.0.2.9, service: ssh, expect: allow}]\n"
    )
    value = ruleset(tmp_path, body)
    assert store.loads(store.dumps(value)) == value
    assert store.loads("{}") is None and store.loads("nonsense") is None


def test_the_minimal_rule_set_keeps_ssh_and_lets_no_other_service_in(tmp_path: Path) -> None:
    body = "services: {admin: {ports: [22/tcp], from: 192.0.2.0/24, rate: 3/minute}, web: {ports: http, from: any}}\n"
    least = minimal(ruleset(tmp_path, body + "block: [198.51.100.1]\n"))
    services = [rule for rule in least.inbound if rule.kind is Kind.SERVICE]
    assert [rule.name for rule in services] == ["admin"] and services[0].rate is None
    assert any(rule.kind is Kind.BLOCK for rule in least.inbound)
    assert least.inbound[-1].kind is Kind.DEFAULT


def test_after_keeps_others_and_puts_portctls_jump_first() -> None:
    other = Line((), (Accept(),), text="theirs")
    from portctl.program import Jump

    jump = Line((), (Jump("PORTCTL-IN"),), text="jump")
    own = Chain("filter", "PORTCTL-IN", (), None, 4, own=True)
    base = Hook("input", 0)
    observed = Program((Chain("filter", "INPUT", (other, jump), base, 4), own))
    desired = Program((Chain("filter", "INPUT", (jump,), base, 4), own))
    assert not in_sync(observed, desired)
    (shared, _) = after(observed, desired).chains
    assert [line.text for line in shared.lines] == ["jump", "theirs"]
    assert in_sync(after(observed, desired), desired)


def test_words_for_entries(tmp_path: Path) -> None:
    body = "services: {many: {ports: [http, 8000-8010/tcp, 53/udp], from: [192.0.2.0/24], max_connections: 5}}\n"
    rule = ruleset(tmp_path, body).entry("many", Kind.SERVICE)
    assert rule is not None
    text = words.entry_text(rule, {})
    assert text == "80/tcp, 8000-8010/tcp, 53/udp from 192.0.2.0/24, 5 at a time from each source"


def test_a_set_is_called_by_the_name_of_its_group(tmp_path: Path) -> None:
    body = "addresses: {office: [198.51.100.0/24]}\nservices: {ssh: {ports: ssh, from: office}}\n"
    assert "+ ssh: 22/tcp from office" in words.summary(None, ruleset(tmp_path, body))


def test_lists_too_long_to_align_are_compared_as_sets() -> None:
    old = [f"10.{n >> 8 & 255}.{n & 255}.0/24" for n in range(30_000)]
    change = Change("iptables/sets", "\n".join(old), "\n".join([*old[:5], *old[6:], "192.0.2.0/24"]))
    assert list(change.diff())[3:] == ["-10.0.5.0/24", "+192.0.2.0/24"]


def test_the_plan_begins_with_what_opens_and_closes_on_the_host(tmp_path: Path) -> None:
    old = "services: {ssh: {ports: ssh, from: 203.0.113.0/24}, old: {ports: 23/tcp, from: any}}\n"
    new = "services: {ssh: {ports: ssh, from: [203.0.113.0/24, 198.51.100.1]}, web: {ports: http, from: any}}\n"
    found = made(tmp_path, new, loaded=old)
    assert found.difference == (
        "+ newly open to the Internet: 80/tcp (http)  [web]",
        "+ newly open to 198.51.100.1: 22/tcp (ssh)  [ssh]",
        "- no longer open to the Internet: 23/tcp (telnet)  [old]",
    )
    assert next(lines(found)) == "What opens and closes on this host"
    assert made(tmp_path, new, loaded=new).difference == ()


def test_a_first_load_is_compared_with_what_is_loaded_by_others(tmp_path: Path) -> None:
    every = made(tmp_path, SSH).difference
    assert any(line.startswith("- no longer open to the Internet") for line in every)
    assert not any(line.startswith("+") for line in every)
    drop = Line((Condition(Field.PORT, Ranges.single(80)),), (Deny(),), text="tcp dport 80 drop")
    foreign = Program((Chain("ip strange", "in", (drop,), Hook("input", 0)),))
    assert "all tcp (but 22)" in "".join(every)
    assert "all tcp (but 22, 80)" in "".join(made(tmp_path, SSH, foreign=foreign).difference)


def test_a_way_in_that_hangs_on_what_nobody_knows_is_doubted(tmp_path: Path) -> None:
    some = (Condition(Field.PORT, Ranges.single(22)), Condition(Field.UNKNOWN, "-m string"))
    chain = Chain("ip strange", "in", (Line(some, (Deny(),), text="-m string drop"),), Hook("input", 0))
    found = made(tmp_path, SSH, foreign=Program((chain,)))
    assert any("cannot be told whether you would be locked out" in warning for warning in found.warnings)
    assert not found.refusals


def test_a_rule_that_shuts_out_other_source_ports_locks_out_too(tmp_path: Path) -> None:
    some = (Condition(Field.PORT, Ranges.single(22)), Condition(Field.SOURCE_PORT, Ranges((50000, 65536))))
    chain = Chain("ip strange", "in", (Line(some, (Deny(),), text="sport 50000-65535 drop"),), Hook("input", 0))
    said = messages(made(tmp_path, SSH, foreign=Program((chain,))))
    assert "you would be locked out" in said and "source port 50000-65535" in said
