"""Stand-ins for the tools of a BSD machine that portctl's scripts run: pfctl, sysctl, kldload and the like.

What is loaded is kept in a file. `pfctl` reads a rule file as pf.conf(5) says, as far as portctl writes such files, and
lists it as pfctl does: lists in braces become rules of their own, `any to any` becomes `all`, numbers stay numbers.
Run by `START`. The scripts start it hundreds of times: it imports as little as it can.
"""

from __future__ import annotations

import fcntl
import itertools
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

START = "import sys; sys.path.insert(0, sys.argv.pop(1)); import fake_bsd; sys.exit(fake_bsd.main())"
"""How it is started: imported, so that it is compiled once. Arguments: its folder, the state, the tool, its words."""
EMPTY: dict[str, Any] = {
    "pf": {"enabled": False, "rules": [], "nat": [], "tables": {}, "skip": [], "anchors": {}},
    "refuse": "",
    "fail": "",
    "garble": "",
    "log": [],
}


def content(path: str) -> str:
    with open(path, encoding="utf-8") as file:  # noqa: PTH123 - pathlib takes as long to import as all the rest
        return file.read()


def pfctl(state: dict[str, Any], words: list[str], given: str) -> int:
    state["log"].append(" ".join(words))
    pf = state["pf"]
    anchors = pf.setdefault("anchors", {})
    if words[0] == "-a" and words[1] != "*":
        pf = anchors.setdefault(words[1], {"rules": [], "nat": [], "tables": {}})
        words = words[2:]
    if words[:1] == ["-si"] or words[:2] == ["-s", "info"]:
        print(f"Status: {'Enabled' if pf['enabled'] else 'Disabled'} for 0 days 00:00:01           Debug: Urgent")
    elif words in (["-e"], ["-E"]):
        pf["enabled"] = True
    elif "-f" in words or "-nf" in words:
        return load(state, pf, words, given)
    elif words[-2:] == ["-T", "kill"]:
        pf["tables"].pop(words[words.index("-t") + 1], None)
    elif "-T" in words:
        table = pf["tables"].get(words[words.index("-t") + 1], [])
        print("".join(f"   {address}\n" for address in table), end="")
    elif words in (["-sT"], ["-s", "Tables"]):
        print("".join(f"{name}\n" for name in sorted(pf["tables"])), end="")
    elif words == ["-vs", "Interfaces"]:
        print("".join(f"{name} (skip)\n" for name in pf["skip"]), end="")
    elif words[-1] in ("-sr", "rules"):
        everything = words[0] == "-a"
        lines = nested(pf, anchors if everything else {}, everything and bool(state.get("stars")))
        print("".join(f"{line}\n" for line in lines), end="")
    elif words[-1] in ("-sn", "nat", "labels"):
        print("".join(f"{line}\n" for line in (labels(pf) if words[-1] == "labels" else pf["nat"])), end="")
    elif words[-1] == "memory":
        print("states        hard limit   400000\ntable-entries hard limit   200000")
    return 0


def labels(pf: dict[str, Any]) -> list[str]:
    """What no packet has met yet, of each labelled rule."""
    named = [line.partition(' label "')[2].rpartition('"')[0] for line in pf["rules"]]
    return [f"{label} 3 0 0 0 0 0 0 0" for label in named if label]


def nested(pf: dict[str, Any], anchors: dict[str, Any], stars: bool = False) -> list[str]:
    """The rules, with those of anchors between braces where `-a '*'` asks for them."""
    lines: list[str] = []
    for line in pf["rules"]:
        name = line.split('"')[1] if line.startswith("anchor") else ""
        inner = anchors.get(name, {}).get("rules", [])
        lines += [f"{line} {{", *(f"  {each}" for each in inner), "}"] if inner else [line]
    return starred(lines) if stars else lines


def starred(lines: list[str]) -> list[str]:
    """What a Mac's `pfctl -a '*' -sr` makes of a call of all anchors below a name: it loses the name, then complains of
    DIOCGETRULES, and goes on."""
    import re

    found: list[str] = []
    for line in lines:
        called = re.match(r'(anchor )"[^"]*/\*"( .*)', line)
        found += [f'{called[1]}"*"{called[2]} {{', "}"] if called else [line]
    return found


def load(state: dict[str, Any], pf: dict[str, Any], words: list[str], given: str) -> int:
    text = given if words[-1] == "-" else content(words[-1])
    if state["refuse"] and state["refuse"] in text:
        print("stdin:7: syntax error", file=sys.stderr)
        return 1
    if any(line.startswith("scrub-anchor") and " fragment " in line for line in text.splitlines()):
        print("stdin:7: syntax error", file=sys.stderr)  # which is how it is listed
        return 1
    found = read(text)
    if "-nf" in words:
        return 0
    if state["fail"] and state["fail"] in text:
        print("pfctl: DIOCXCOMMIT: Device busy", file=sys.stderr)
        return 1
    if state["garble"]:
        found["rules"] = [line for line in found["rules"] if state["garble"] not in line]
    pf |= {name: value for name, value in found.items() if name in pf}
    return 0


def read(text: str) -> dict[str, Any]:
    """The rules as they are listed, the translations, the tables with their contents, the skipped interfaces."""
    import re

    found: dict[str, Any] = {"rules": [], "nat": [], "tables": {}, "skip": []}
    for line in text.splitlines():
        first = line.split(" ")[0]
        if first == "table":
            name = re.search(r"<([^>]+)>", line)
            assert name is not None
            members = re.search(r"\{(.*)\}", line)
            listed = members[1].replace(",", " ").split() if members else []
            for file in re.findall(r'file "([^"]+)"', line):
                listed += [x for x in content(file).split() if not x.startswith("#")]
            found["tables"][name[1]] = listed
        elif line.startswith("set skip on "):
            found["skip"] += [word for word in line.split()[3:] if word not in "{}"]
        elif first in ("nat", "rdr", "binat", "no") or first in ("nat-anchor", "rdr-anchor", "binat-anchor"):
            found["nat"] += expanded(line)
        elif first in ("pass", "block", "match", "anchor", "scrub", "scrub-anchor"):
            found["rules"] += expanded(line)
    return found


def expanded(line: str) -> list[str]:
    """One rule for each choice of the lists in braces."""
    import re

    quoted = re.split(r'("[^"]*")', line)
    parts = re.split(r"\{([^{}]*)\}", quoted[0])
    lists = [part.replace(",", " ").split() for part in parts[1::2]]
    rules = []
    for choice in itertools.product(*lists):
        head = "".join(itertools.chain.from_iterable(itertools.zip_longest(parts[::2], choice, fillvalue="")))
        head = re.sub(r" from any to any(?! port)", " all", re.sub(r"\bport (\d+)(?![:\d])", r"port = \1", head))
        rules.append(" ".join((head + "".join(quoted[1:])).split()))
    return rules


def sysctl(state: dict[str, Any], words: list[str]) -> int:
    name, is_set, value = words[-1].partition("=")
    if name == "kern.boottime":
        up = float(content("/proc/uptime").split()[0])
        print(f"{{ sec = {int(time.time() - up)}, usec = 0 }} Sun Nov 22 20:00:00 2026")
        return 0
    if name not in state["sysctl"]:
        print(f"sysctl: unknown oid '{name}'", file=sys.stderr)
        return 1
    if is_set:
        state["sysctl"][name] = value
        state["log"].append(f"sysctl {words[-1]}")
    else:
        print(state["sysctl"][name] if "-n" in words else f"{name}: {state['sysctl'][name]}")
    return 0


def main() -> int:
    path, tool, words = sys.argv[1], sys.argv[2], sys.argv[3:]
    given = sys.stdin.read() if words[-1:] == ["-"] else ""
    with open(f"{path}.lock", "w") as lock:  # noqa: PTH123 - as above
        fcntl.flock(lock, fcntl.LOCK_EX)  # tools may run at once, on both sides of a pipe
        return one(path, tool, words, given)


def one(path: str, tool: str, words: list[str], given: str) -> int:
    import fake_ipfw  # type: ignore[import-not-found]

    if tool in ("ipfw", "ifconfig", "kldstat", "kldload"):
        fake = fake_ipfw.Fake(path)
        getattr(fake, tool)(words)
        fake.save()
        return 0
    state = fake_ipfw.read(path)
    status = sysctl(state, words) if tool == "sysctl" else pfctl(state, words, given)
    fake_ipfw.write(path, state)
    return status
