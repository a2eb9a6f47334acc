"""A policy as typed values: what `resolve` reads.

`load(path, files)` reads a policy with its fragments, `validate(document)` one document alone. The result is a
`Policy`: each named thing is an `Entry` that knows its file, so `entry.span("from", 2)` is the place of the third
source. Item types (`AddressRange`, `AddressName`, `PortRange`, …) are in `portctl.policy.items`, the models of entries
(`Service`, `Egress`, `Forward`, `Block`, `Expected`, `Defaults`) in `portctl.policy.models`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING, Generic, TypeVar

from portctl.document import Document, Path
from portctl.files import Files
from portctl.problems import Span

if TYPE_CHECKING:
    from portctl.policy.items import AddressItem, PortItem
    from portctl.policy.models import Block, Defaults, Egress, Expected, Forward, Service

T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Entry(Generic[T_co]):
    """Something that a policy declares, and where. `path` leads to its value in `document`."""

    name: str
    """The key it stands under. In `block` and `tests`, which are lists: `block-1`, `test-1`, counted over all files."""
    value: T_co
    document: Document
    path: Path

    def span(self, *path: str | int, key: bool = False) -> Span:
        """The place of a part of the entry, by the policy's own keys (`from`, not `from_`), or of the whole.

        With `key` the place of the part's key (of the entry's own name, without a path). An index into a field that
        holds a single value is the place of that value.
        """
        return self.document.span(self.path + path, key=key)


@dataclass(frozen=True, slots=True)
class Policy:
    """A policy with its fragments merged. Mappings are in the order of the files, the top file first."""

    name: str
    description: str | None
    document: Document
    """The top file; the place of `name`, say, is `document.span(("name",))`."""
    addresses: dict[str, Entry[tuple[AddressItem, ...]]]
    interfaces: dict[str, Entry[tuple[str, ...]]]
    """Each a tuple of device names, of which a trailing `*` stands for any rest."""
    ports: dict[str, Entry[tuple[PortItem, ...]]]
    services: dict[str, Entry[Service]]
    block: tuple[Entry[Block], ...]
    egress: dict[str, Entry[Egress]]
    forwards: dict[str, Entry[Forward]]
    defaults: Defaults
    """Merged; `inbound`, `outbound`, `published`, `log_denied`, `require` are never None, `forward` is None where no
    file says it (then it means `keep`)."""
    sysctl: dict[tuple[str, str], Entry[str]]
    """(system, name) → value as text. The system is `any` for portable names, else `linux`, `freebsd`, …"""
    tests: tuple[Entry[Expected], ...]


def load(path: str | PurePath, files: Files) -> Policy:
    """The policy in the file `path`, with its fragments. Raises `Problems` with those of all its files."""
    from portctl.policy import merge

    return merge.load(str(path), files)


def validate(document: Document) -> Policy:
    """One document alone as a policy; what it includes is not read. Raises `Problems`, all at once."""
    from portctl.policy import merge

    return merge.validate(document)
