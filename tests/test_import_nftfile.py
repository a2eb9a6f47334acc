"""Files for `nft -f` as people write them: read as what they leave, or told not to be read; never half read."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from portctl import cli, importing
from portctl.backends import nftables
from portctl.importing import Imported, nftfile

HAND = """\
#!/usr/sbin/nft -f
flush ruleset

define LAN = { 192.0.2.0/24, 198.51.100.7 }
define WEB = { 80, 443 }

table inet filter {
  set office {
    type ipv4_addr; flags interval
    elements = { 203.0.113.0/28,   # the office
                 203.0.113.77 }
  }
  chain input {
    type filter hook input priority filter
    policy drop

    ct state vmap { established:accept, related: accept, invalid : drop }
    iif lo accept; ip protocol icmp accept  # ping and the like
    tcp dport $WEB accept comment "web; # and more"
    ip saddr $LAN tcp dport {
      22,     # ssh
      5432
    } \\
      accept
    ip saddr @office tcp dport 8443 accept
  }
  chain forward { type filter hook forward priority 0; policy drop; }
}
table ip old
delete table ip old
add rule inet filter input udp dport 53 accept
insert rule inet filter input ip saddr 198.51.100.66 drop
"""
LISTED = """\
table inet filter {
	set office {
		type ipv4_addr
		flags interval
		elements = { 203.0.113.0/28, 203.0.113.77 }
	}

	chain input {
		type filter hook input priority filter; policy drop;
		ip saddr 198.51.100.66 drop
		ct state vmap { invalid : drop, established : accept, related : accept }
		iif "lo" accept
		ip protocol icmp accept
		tcp dport { 80, 443 } accept comment "web; # and more"
		ip saddr { 192.0.2.0/24, 198.51.100.7 } tcp dport { 22, 5432 } accept
		ip saddr @office tcp dport 8443 accept
		udp dport 53 accept
	}

	chain forward {
		type filter hook forward priority filter; policy drop;
	}
}
"""
"""What `nft list ruleset` (1.0.6) prints of it."""
ROOT = Path(__file__).parent


def said(found: Imported) -> str:
    return found.text.partition("name: test\n")[2]


def test_a_file_means_what_the_kernel_lists_of_it(tmp_path: Path) -> None:
    found = importing.from_texts({"nftables.conf": HAND}, "test")
    assert found.equal
    assert said(found) == said(importing.from_texts({"listed": LISTED}, "test"))
    for name, text in (("nftables.conf", HAND), ("listed", LISTED)):
        (tmp_path / name).write_text(text)
    done = CliRunner().invoke(cli.build(["diff"]), ["diff", str(tmp_path / "nftables.conf"), str(tmp_path / "listed")])
    assert "the meaning does not" in done.stdout


def test_every_line_of_a_file_is_accounted_for_where_it_stands() -> None:
    found = importing.from_texts({"nftables.conf": HAND}, "test")
    assert [e.text for e in found.account.entries] == HAND.splitlines()
    lines = HAND.splitlines()
    status = {lines[e.line - 1].strip(): (e.status, e.reason) for e in found.account.entries}
    assert status['tcp dport $WEB accept comment "web; # and more"'] == ("modelled", "services `web`")
    assert status["ip saddr $LAN tcp dport {"] == ("modelled", "services `ssh`, services `postgresql`")
    assert status["define LAN = { 192.0.2.0/24, 198.51.100.7 }"] == ("modelled", "a variable")
    assert status["insert rule inet filter input ip saddr 198.51.100.66 drop"] == ("modelled", "`block`")


@pytest.mark.parametrize(
    "line", ['include "/etc/nftables.d/*.nft"', "add element inet filter office { 192.0.2.9 }", "reset counters"]
)
def test_nothing_is_proved_where_a_command_was_not_read(line: str) -> None:
    found = importing.from_texts({"nftables.conf": f"{HAND}{line}\n"}, "test")
    assert found.account.entries[-1].status == "refused"
    assert not found.equal


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.nft")), ids=lambda path: str(path.relative_to(ROOT)))
def test_what_nft_prints_is_no_file_by_hand_and_would_mean_the_same(path: Path) -> None:
    text = path.read_text()
    if not text.lstrip().startswith("{"):
        assert not nftfile.by_hand(text) or "flush" in text
        again = "".join(f"{line}\n" for _, line in nftfile.read(list(enumerate(text.split("\n"), 1))).reads)
        assert nftables.parse({"ruleset": again}).chains == nftables.parse({"ruleset": text}).chains
