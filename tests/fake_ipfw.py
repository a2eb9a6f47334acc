"""A stand-in for ipfw(8), sysctl(8) and ifconfig(8) of a FreeBSD machine, as far as portctl's scripts use them.

It keeps what is loaded in a file and behaves as tests/observed/ipfw shows: a file is read until the first wrong line,
`-q` hides that an entry exists, a table in use is not destroyed, a rule that names an unknown table makes it.

The scripts start it hundreds of times: it imports as little as it can, and keeps its state by marshal.
"""

from __future__ import annotations

import marshal
import posix
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

SHELL = """
fake() { {python} -I -S -c {start} {folder} {state} "$@"; }
ipfw() { fake ipfw "$@"; }
sysctl() { fake sysctl "$@"; }
ifconfig() { fake ifconfig "$@"; }
kldstat() { fake kldstat "$@"; }
kldload() { fake kldload "$@"; }
command() { if [ "$1" = -v ]; then return 0; fi; }
mktemp() { /usr/bin/mktemp "$@"; }
"""
START = "import sys; sys.path.insert(0, sys.argv.pop(1)); import fake_ipfw; fake_ipfw.main()"
"""How it is started: imported, so that it is compiled once. Arguments: its folder, the state, the tool, its words."""
EMPTY: dict[str, Any] = {
    "rules": [], "off": [], "tables": {}, "nat": {}, "log": [], "unreadable": "", "refuse": "", "lose": "",
    "modules": [], "own": ["192.0.2.10 255.255.255.0 192.0.2.255"],
    "sysctl": {
        "net.inet.ip.fw.one_pass": "1", "net.inet.ip.fw.tables_max": "128", "net.inet.ip.fw.dyn_keep_states": "0",
        "net.inet.ip.fw.verbose": "0", "net.inet.ip.fw.enable": "1", "net.inet6.ip6.fw.enable": "1",
        "net.inet6.ip6.fw.deny_unknown_exthdrs": "1", "net.inet.ip.fw.dyn_max": "16384",
        "net.inet.ip.fw.dyn_parent_max": "4096",
    },
}  # fmt: skip


def text(path: str) -> str:
    with open(path, encoding="utf-8") as file:  # noqa: PTH123 - pathlib takes as long to import as all the rest
        return file.read()


def read(path: str) -> dict[str, Any]:
    """The state in a file."""
    with open(path, "rb") as file:  # noqa: PTH123 - as above
        found: dict[str, Any] = marshal.load(file)
    return found


def write(path: str, state: dict[str, Any]) -> None:
    new = f"{path}.{posix.getpid()}"
    with open(new, "wb") as file:  # noqa: PTH123 - as above
        marshal.dump(state, file)
    posix.rename(new, path)  # a guard may write while somebody reads


class Fake:
    """What is loaded."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.state = read(path)

    def save(self) -> None:
        write(self.path, self.state)

    def fail(self, status: int, text: str) -> None:
        self.save()
        print(text, file=sys.stderr)
        sys.exit(status)

    def ipfw(self, words: list[str]) -> None:
        words = [word for word in words if word != "-q"]
        if words[0] == "-n":
            if self.state["unreadable"] and self.state["unreadable"] in text(words[1]):
                self.fail(64, "Line 1: refused")
            return
        self.state["log"].append(" ".join(words))
        if words[0].startswith("/"):
            for line in text(words[0]).splitlines():
                asked = line.partition("#")[0].split(" ")
                if asked != [""]:
                    if len(line) > 1023 or (self.state["refuse"] and self.state["refuse"] in line):
                        self.fail(64, f"Line: {line[:60]}")
                    self.one([word for word in asked if word], line)
            return
        if self.state["refuse"] and self.state["refuse"] in " ".join(words):
            self.fail(64, "refused")
        self.one(words, " ".join(words))

    def one(self, words: list[str], line: str) -> None:
        if words[-2:] == ["-S", "list"]:
            counted = " 0 0" if words[0] == "-a" else ""
            for number, place, body in sorted(self.state["rules"], key=lambda rule: rule[0]):
                body = body.replace(" 41 from ", " ipv6 from ")  # by its name in /etc/protocols
                body = body.replace(" ext6hdr ah", " extension header: authentication header")
                print(f"{'# DISABLED ' if place in self.state['off'] else ''}{number:05}{counted} set {place} {body}")
            print(f"65535{counted} set 31 deny ip from any to any")
        elif words[0] == "add":
            if self.state["lose"] and self.state["lose"] in line:
                return
            assert words[2] == "set"
            if words[1] == "65535":
                self.fail(69, "getsockopt(IP_FW_XADD): Invalid argument")
            body = line.split(" ", 4)[4].replace(" ipv6 from ", " ip6 from ")
            if " extension " in body.partition(" // ")[0]:
                self.fail(64, "unrecognised option")
            import re

            for name in re.findall(r"table\(([^),]+)", body.partition(" // ")[0]):
                self.state["tables"].setdefault(name, ["addr", "legacy", {}])
            self.state["rules"].append([int(words[1]), int(words[3]), body.rstrip()])
        elif words[0] == "delete":
            self.state["rules"] = [rule for rule in self.state["rules"] if rule[1] != int(words[2])]
        else:
            getattr(self, words[0])(words[1:])

    def enable(self, words: list[str]) -> None:
        self.state["sysctl"][f"net.inet.ip.fw.{words[0]}"] = "1"

    def disable(self, words: list[str]) -> None:
        self.state["sysctl"][f"net.inet.ip.fw.{words[0]}"] = "0"

    def set(self, words: list[str]) -> None:
        if words[0] == "swap":
            pair = {int(words[1]): int(words[2]), int(words[2]): int(words[1])}
            for rule in self.state["rules"]:
                rule[1] = pair.get(rule[1], rule[1])
        elif words[0] == "move":
            for rule in self.state["rules"]:
                rule[1] = int(words[3]) if rule[1] == int(words[1]) else rule[1]
        else:
            self.state["off"] = [n for n in self.state["off"] if n != int(words[1])]
            if words[0] == "disable":
                self.state["off"].append(int(words[1]))

    def table(self, words: list[str]) -> None:  # noqa: C901 - one case a word of ipfw
        tables = self.state["tables"]
        name, verb, *rest = words
        if name == "all":
            for each, (kind, value, entries) in tables.items():
                print(f"--- table({each}), set(0) ---")
                if verb == "info":
                    print(f" kindex: 1, type: {kind}\n references: 1, valtype: {value}")
                    print(f" algorithm: x\n items: {len(entries)}, size: 1")
                else:
                    print("".join(f"{key} {v}\n" for key, v in entries.items()), end="")
        elif verb == "create":
            if name in tables:
                if "missing" in rest:
                    return
                self.fail(71, "Table creation failed: File exists")
            if len(tables) >= int(self.state["sysctl"]["net.inet.ip.fw.tables_max"]) - 1:
                self.fail(71, "Unable to allocate table index")
            value = rest[rest.index("valtype") + 1] if "valtype" in rest else "legacy"
            tables[name] = [rest[rest.index("type") + 1], value, {}]
        elif verb == "add":
            keys, values = rest[::2], rest[1::2] or ["0"]
            for key, value in zip(keys, values, strict=True):
                if tables[name][0] == "addr" and "/" not in key:
                    key += "/128" if ":" in key else "/32"
                tables[name][2].setdefault(key, value)
        elif verb == "delete":
            tables[name][2].pop(rest[0] if "/" in rest[0] or "," in rest[0] else f"{rest[0]}/32")
        elif verb == "list":
            print(f"--- table({name}), set(0) ---")
            print("".join(f"{key} {v}\n" for key, v in tables[name][2].items()), end="")
        elif verb == "destroy":
            if any(f"table({name})" in body or f" {name} " in f"{body} " for _, _, body in self.state["rules"]):
                self.fail(71, f"failed to destroy table {name}: Device busy")
            del tables[name]

    def nat(self, words: list[str]) -> None:
        if "ipfw_nat" not in self.state["modules"]:
            self.fail(71, "setsockopt: Invalid argument")
        if words == ["show", "config"]:
            for number, config in self.state["nat"].items():
                head, *redirects = config.split(" redirect_port ")  # listed from the last
                print(" redirect_port ".join([f"ipfw nat {number} config {head}", *redirects[::-1]]))
        elif words[1] == "delete":
            del self.state["nat"][words[0]]
        else:
            self.state["nat"][words[0]] = " ".join(words[2:])

    def kldstat(self, words: list[str]) -> None:
        assert words[:2] == ["-q", "-m"]
        if words[2] not in self.state["modules"]:
            sys.exit(1)

    def kldload(self, words: list[str]) -> None:
        self.state["modules"].append(words[0])

    def sysctl(self, words: list[str]) -> None:
        name, is_set, value = words[-1].partition("=")
        if name not in self.state["sysctl"]:
            self.fail(1, f"sysctl: unknown oid '{name}'")
        if is_set:
            self.state["sysctl"][name] = value
        else:
            print(self.state["sysctl"][name])

    def ifconfig(self, words: list[str]) -> None:
        assert words == ["-a"]
        print("lo0: flags=8049<UP,LOOPBACK,RUNNING>\n\tinet 127.0.0.1 netmask 0xff000000")
        for address, mask, cast in (text.split() for text in self.state["own"]):
            print(f"em0: flags=8843<UP,BROADCAST>\n\tinet {address} netmask {mask} broadcast {cast}")


def main() -> None:
    fake = Fake(sys.argv[1])
    getattr(fake, sys.argv[2])(sys.argv[3:])
    fake.save()
