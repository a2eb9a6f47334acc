"""`apply --sandbox`: the whole of apply and verify on a throwaway host, with real packets for the policy's tests."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.system.applying import BACKENDS

pytestmark = pytest.mark.system

POLICY = """portctl: 1
name: web
services:
  ssh: {ports: ssh, from: 192.0.2.0/24}
  web: {ports: [http, https], from: any}
sysctl: {tcp_keepalive_time: 2000}
tests:
  - {from: 192.0.2.7, service: ssh, expect: allow}
  - {from: "2001:db8::7", service: web, expect: allow}
  - {from: 198.51.100.7, ports: 22/tcp, expect: deny}
"""


def portctl(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run((sys.executable, "-m", "portctl", *words), capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("backend", BACKENDS)
def test_apply_in_a_sandbox_sends_real_packets_and_verifies(tmp_path: Path, backend: str) -> None:
    (tmp_path / "web.yaml").write_text(POLICY)
    said = portctl("apply", str(tmp_path / "web.yaml"), "--sandbox", "--with-listeners", "--backend", backend)
    assert said.returncode == 0, said.stdout + said.stderr
    assert said.stdout.count("  holds ") == 3
    assert "all holds" in said.stdout
    assert not Path("/run/portctl").exists()


def test_a_plan_in_a_sandbox_shows_the_rules_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "web.yaml").write_text(POLICY)
    said = portctl("plan", str(tmp_path / "web.yaml"), "--sandbox", "--exit-code")
    assert said.returncode == 1
    assert "+ web: 80/tcp, 443/tcp from everywhere" in said.stdout
    assert not Path("/run/portctl").exists()


def test_a_policy_whose_own_tests_fail_is_not_applied(tmp_path: Path) -> None:
    (tmp_path / "web.yaml").write_text(POLICY.replace("expect: deny", "expect: allow"))
    said = portctl("apply", str(tmp_path / "web.yaml"), "--sandbox")
    assert said.returncode == 1
    assert "web.yaml:10" in said.stderr
    assert "In force" not in said.stdout


def test_wrong_arguments_are_wrong_input(tmp_path: Path) -> None:
    (tmp_path / "web.yaml").write_text(POLICY)
    assert portctl("plan", str(tmp_path / "web.yaml"), "--backend", "pf").returncode == 2
    assert portctl("plan", str(tmp_path / "none.yaml")).returncode == 2
    assert portctl("plan", str(tmp_path / "web.yaml"), "--sandbox", "--date", "tomorrow").returncode == 2
