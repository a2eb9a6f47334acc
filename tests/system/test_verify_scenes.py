"""What `verify` says on hosts where other programs hold rules: all that is true and worth a word, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from portctl.hosts.namespaces import Room
from portctl.inspection import inspect
from portctl.verify import Finding
from tests.system import loading, worlds
from tests.system.listening import listening, process, tcp
from tests.system.scenes import SCENES, Scene

RING = "verify, beside others"
NEEDS = ("iptables-nft", "iptables-legacy", "ipset", "ss")
POLICY = """\
portctl: 1
name: host
services:
  ssh: {ports: ssh, from: any}
  web: {ports: [http, https], from: any, listener: optional}
  ping: {ports: ping, from: any}
"""
ROUTER = """\
interfaces: {lan: [far], public: [eth0]}
forwards: {lan: {ports: https, from: any, in: lan, to: any, out: public}}
defaults: {forward: drop}
"""
SSHD = process("sshd", tcp("::", 22, only=False))
NOTES = {
    "tailscale": {("filter ts-input", "`ping`, `ssh`, `web`, for some networks")},
    "kube-proxy": {("filter KUBE-SERVICES", "what goes out by default")},
    "fail2ban": {("filter f2b-sshd", "`ssh`, for single addresses (a ban?)")},
    "fail2ban-nft": {("inet f2b-table f2b-chain", "`ssh`, for single addresses (a ban?)")},
}
"""What is no fault and yet good to know: (chain, against what)."""


@pytest.fixture(
    params=[(scene, name) for scene in SCENES for name in loading.FILTERS], ids=lambda p: f"{p[0].name}-{p[1]}"
)
def played(request: pytest.FixtureRequest) -> Iterator[tuple[Room, Scene, str]]:
    """A host with the rules of a scene, and the back end under test; its `iptables` is of the variant that it names."""
    scene, name = request.param
    with worlds.machine() as room:
        loading.choose(room, name)
        scene.play(room)
        with listening(room, SSHD):
            yield room, scene, name.partition("-")[0]


def looked(room: Room, text: str, backend: str, path: Path) -> list[Finding]:
    """Loads what a policy renders to, and what `verify` then finds."""
    compiled = loading.load(room, text, backend, path)
    found = inspect(room, compiled, datetime.now(UTC), backend, boot=False).findings
    return [finding for finding in found if finding.code != "unused"]


def noted(found: list[Finding]) -> set[tuple[str, str]]:
    return {(f.subject, f.message.partition("against ")[2]) for f in found if f.severity == "note"}


def test_beside_others_every_finding_is_true_and_none_is_missing(
    played: tuple[Room, Scene, str], tmp_path: Path
) -> None:
    room, scene, backend = played
    found = looked(room, POLICY, backend, tmp_path)
    exposed = [f for f in found if f.code == "exposed"]
    assert sorted(f.subject for f in exposed) == sorted(scene.publishes)
    assert all("192.0.2.10" in f.evidence[1] and "in by eth0" in f.evidence[1] for f in exposed)
    assert noted(found) == NOTES.get(scene.name, set())
    assert [f for f in found if f.severity != "note" and f not in exposed] == []
    # Once the policy governs what is published, nothing of that is exposed, and nothing else is said.
    governed = looked(room, POLICY + "defaults: {published: govern}\n", backend, tmp_path)
    assert [f for f in governed if f.severity != "note"] == []
    assert noted(governed) == noted(found)


def test_what_others_stop_that_an_entry_lets_through_is_named(played: tuple[Room, Scene, str], tmp_path: Path) -> None:
    room, scene, backend = played
    found = looked(room, POLICY + ROUTER, backend, tmp_path)
    stopping = [f for f in found if f.code == "foreign-rule" and f.severity == "warning"]
    if scene.name.startswith("docker"):  # its FORWARD policy is DROP
        (one,) = (f for f in stopping if f.subject == "filter FORWARD")
        assert "against `lan`" in one.message and "443/tcp" in one.evidence[0]
    else:
        assert stopping == []
