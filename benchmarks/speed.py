"""Prints what portctl costs beside its limits and its peers. See README.md in this folder."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import inputs

PORTCTL = [str(Path(sys.executable).parent / "portctl")]


@dataclass(frozen=True)
class Cost:
    """CPU seconds (user + system, with children) and the peak memory in MiB of the largest process."""

    cpu: float
    memory: float


def cost(argv: list[str], limit: float = 200.0) -> Cost | None:
    """The median of three runs (one, when a run takes over 5 s); None where the command failed or ran out of time."""
    costs = []
    for _ in range(3):
        start = time.monotonic()
        process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while True:
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            if pid:
                break
            if time.monotonic() - start > limit:
                process.kill()
            time.sleep(0.005)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            return None
        costs.append(Cost(usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024))
        if time.monotonic() - start > 5:
            break
    return Cost(statistics.median(c.cpu for c in costs), max(c.memory for c in costs))


def row(what: str, found: Cost | None, bound: str = "") -> None:
    shown = f"{found.cpu:8.2f} s {found.memory:8.0f} MiB" if found else "   did not finish"
    print(f"{what:<52}{shown}   {bound}", flush=True)


def texts(folder: Path) -> None:
    print("Policy to rule text, whole process\n")
    one = inputs.portctl(folder, 1, 1)
    row("portctl check, 1 service", cost([*PORTCTL, "check", str(one)]), "limit 0.25 s")
    large = inputs.portctl(folder, 1000, 200)
    for backend in ("nftables", "iptables", "pf-freebsd", "pf-openbsd", "ipfw"):
        command = [*PORTCTL, "render", str(large), "--backend", backend]
        row(f"portctl render 1000 × 200, {backend}", cost(command), "limit 3 s, 400 MiB")
    row("portctl prove 1000 × 200, all", cost([*PORTCTL, "prove", str(large), "--backend", "all"]), "limit 10 s")
    million = inputs.portctl_list(folder, 1_000_000)
    for backend in ("nftables", "iptables"):
        command = [*PORTCTL, "render", str(million), "--backend", backend]
        row(f"portctl render 1 × 1,000,000, {backend}", cost(command), "limit 6 s, 700 MiB")
    peers(folder)


def peers(folder: Path) -> None:
    """The same rule sets through whichever peers are installed."""
    ferm = shutil.which("ferm")
    if ferm:
        for services, count in ((1, 1), (1000, 200)):
            path = inputs.ferm(folder, services, count)
            row(f"ferm {services} × {count}", cost([ferm, "--noexec", "--lines", str(path)]))
    aclgen = shutil.which("aclgen") or shutil.which("aclgen", path=str(Path(sys.executable).parent))
    if aclgen:
        for services, count in ((1, 1), (1000, 20)):
            top = inputs.aerleon(folder, services, count)
            command = [aclgen, "--base_directory", f"{top}/pol", "--definitions_directory", f"{top}/def"]
            row(f"aerleon {services} × {count}", cost([*command, "--output_directory", str(folder)]))
    for name, there in (("ferm", ferm), ("aerleon", aclgen)):
        if not there:
            print(f"{name}: not installed, not measured")


def main() -> None:
    wanted = sys.argv[1:] or ["text", "kernel"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if "text" in wanted:
            texts(folder)
        if "kernel" in wanted:
            import connections

            connections.main(folder)


if __name__ == "__main__":
    main()
