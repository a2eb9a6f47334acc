"""One million blocked networks to one host over ssh, beside what it takes at least: `scp` of the compressed list, and
the bare load of the same rules there. See README.md in this folder. Needs root; it runs in namespaces of its own.
"""

from __future__ import annotations

import gzip
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
from portctl import pipeline
from portctl.backends import load
from portctl.backends.base import Ability, bundle
from portctl.command import Command, put_all
from portctl.hosts.namespaces import Room
from tests.system import afar, worlds

NETWORKS = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
POLICY = """portctl: 1
name: big
addresses: {bad: {file: bad.txt}}
services:
  ssh: {ports: ssh, from: any}
block: [bad]
"""
SEND = """
import sys, time
from pathlib import Path
from portctl.command import Command, put_all
from portctl.hosts import remote, target
with remote.opened(target.parse(sys.argv[1])) as host:
    host.run(Command(("true",)))
    files = {path: (Path(path).read_bytes(), 0o700) for path in sys.argv[2:]}
    begun = time.monotonic()
    put_all(host, {f"/run/sent{path}": each for path, each in files.items()})
    sent = time.monotonic()
    result = host.run(Command(("sh", f"/run/sent{sys.argv[2]}")))
    print(sent - begun, time.monotonic() - sent, result.status, result.stderr)
"""


def took(what: Callable[[], object]) -> float:
    begun = time.monotonic()
    what()
    return time.monotonic() - begun


def networks() -> str:
    """Networks of 16 addresses each, none beside another, so that none merge."""
    found = (f"{10 + (n >> 19)}.{n >> 11 & 255}.{n >> 3 & 255}.{(n & 7) << 5}/28\n" for n in range(NETWORKS))
    return "".join(found)


def prepare(controller: Room, folder: Path) -> dict[str, str]:
    """The policy and its list in the controller; the bundle, rendered."""
    listed = networks()
    (folder / "bad.txt").write_text(listed)
    (folder / "policy.yaml").write_text(POLICY)
    controller.put("/root/bad.txt", listed.encode())
    controller.put("/root/policy.yaml", POLICY.encode())
    compiled = pipeline.compile(folder / "policy.yaml")
    return dict(bundle(load("nftables"), compiled.ruleset, Ability()))


def main() -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as name, afar.world() as world:
        controller, machine = world.controller, world.machine
        files = prepare(controller, Path(name))
        put_all(controller, {f"/root/b/{path}": (text.encode(), 0o700) for path, text in files.items()})
        controller.put("/root/rules.gz", gzip.compress(files["rules.nft"].encode(), 6))
        size = len(files["rules.nft"])
        copied = took(
            lambda: worlds.checked(controller, "scp", "-O", "-q", "/root/rules.gz", "root@192.0.2.10:/run/rules.gz")
        )
        put_all(machine, {f"/run/b/{path}": (text.encode(), 0o700) for path, text in files.items()})
        bare = took(lambda: machine.run(Command(("sh", "/run/b/load.sh"))))
        machine.run(Command(("sh", "/run/b/remove.sh")))
        names = ["/root/b/load.sh", *(f"/root/b/{path}" for path in files if path != "load.sh")]
        said = controller.run(Command((sys.executable, "-c", SEND, afar.TARGET, *names)), 900).stdout.split()
        machine.run(Command(("sh", "/run/b/remove.sh")))
        sent, loaded = float(said[0]), float(said[1])
        print(f"{NETWORKS} networks, {size / 1e6:.0f} MB of rules")
        print(f"scp of the compressed rules {copied:.1f} s + bare load {bare:.1f} s = {copied + bare:.1f} s")
        print(f"portctl: files there {sent:.1f} s + loaded {loaded:.1f} s = {sent + loaded:.1f} s, exit {said[2]}")
        print(f"ratio {(sent + loaded) / (copied + bare):.2f}, limit 2")
        if "whole" in sys.argv:
            words = ("apply", "/root/policy.yaml", "--yes", "--host", afar.TARGET)
            begun = time.monotonic()
            result = controller.run(Command((*afar.PORTCTL, *words)), 1800)
            print(f"the whole of apply: {time.monotonic() - begun:.0f} s, exit {result.status}: {result.stderr[-300:]}")


if __name__ == "__main__":
    main()
