"""What `--host` names: which machine, and by which door."""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv6Address
from typing import Literal, cast

from portctl.problems import Problem, Problems

HERE = "local"
Kind = Literal["local", "ssh", "docker", "podman", "vagrant", "netns"]
FORMS = {
    "ssh": "ssh://[USER@]HOST[:PORT]",
    "docker": "docker://NAME",
    "podman": "podman://NAME",
    "vagrant": "vagrant://[MACHINE]",
    "netns": "netns://NAME",
    "local": "local",
}
_HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@+-]*")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
"""No word may begin with a dash (it would be an option) or hold what a shell of an ssh configuration would read."""


@dataclass(frozen=True, slots=True)
class Target:
    """`name` is the machine's as its door knows it; `user` and `port` are None where the ssh configuration says."""

    kind: Kind
    name: str = ""
    user: str | None = None
    port: int | None = None

    def __str__(self) -> str:
        if self.kind == "local":
            return "local"
        user = f"{self.user}@" if self.user else ""
        name = f"[{self.name}]" if ":" in self.name else self.name
        port = f":{self.port}" if self.port else ""
        return f"{self.kind}://{user}{name}{port}"

    @property
    def over_network(self) -> bool:
        """Its rules decide whether portctl comes in again; the other doors are on this machine."""
        return self.kind in ("ssh", "vagrant")


LOCAL = Target("local")


def parse(text: str) -> Target:
    """The target that a person named. Raises `Problems` with what to write instead."""
    if text == "local":
        return LOCAL
    kind, separator, rest = text.partition("://")
    if not separator:
        hint = f"did you mean `ssh://{text}`?" if _HOST.fullmatch(text.rpartition("@")[2]) else _forms()
        raise _wrong(f"`{text}` does not say how to get there", hint)
    if kind not in FORMS or kind == "local":
        raise _wrong(f"`{kind}` is no way to get to a host", _forms())
    if kind == "ssh":
        return _ssh(text, rest.removesuffix("/"))
    rest = rest.removesuffix("/")
    if not (_NAME.fullmatch(rest) or (kind == "vagrant" and not rest)):
        raise _wrong(f"`{rest}` is no name of {_THING[kind]}", f"write {FORMS[kind]}")
    return Target(cast("Kind", kind), rest)


_THING = {
    "docker": "a container",
    "podman": "a container",
    "vagrant": "a machine of Vagrant's",
    "netns": "a network namespace",
}


def _ssh(text: str, rest: str) -> Target:
    user, at, place = rest.rpartition("@")
    if at and not _USER.fullmatch(user):
        hint = "a password has no place there" if ":" in user else f"write {FORMS['ssh']}"
        raise _wrong(f"`{user.partition(':')[0]}…` in the target is no user's name", hint)
    host, port = _host_and_port(place, text)
    return Target("ssh", host, user or None, port)


def _host_and_port(place: str, text: str) -> tuple[str, int | None]:
    bracketed = re.fullmatch(r"\[([^\]]*)\](?::(.*))?", place)
    host, _, port = (bracketed[1], "", bracketed[2] or "") if bracketed else place.partition(":")
    if not bracketed and ":" in port:
        raise _wrong(f"`{text}`: an IPv6 address stands in brackets", f"write ssh://[{place}]")
    if bracketed:
        try:
            IPv6Address(host)
        except ValueError:
            raise _wrong(f"`{host}` is no IPv6 address", f"write {FORMS['ssh']}") from None
    elif not _HOST.fullmatch(host):
        raise _wrong(f"`{host}` is no name of a host", f"write {FORMS['ssh']}")
    if (port or place.endswith(":")) and not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise _wrong(f"`{port}` is no port", "a number from 1 to 65535")
    return host, int(port) if port else None


def _forms() -> str:
    return "known are " + ", ".join(FORMS.values())


def _wrong(message: str, hint: str) -> Problems:
    return Problems([Problem("bad-host", message, None, hint)])
