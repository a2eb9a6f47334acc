"""What is written for the next boot once an apply is confirmed, and nothing before: the bundle, the script that loads
it, a unit of our own for the init system, the file of the settings.

`persist` of `templates/guard/guard.sh` puts it in place, line by line of a manifest, with sh alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from portctl.apply import boot_bsd
from portctl.apply.paths import BOOT
from portctl.backends.base import Backend
from portctl.templating import text

SCRIPT = f"{BOOT}/boot.sh"
UNIT = "/etc/systemd/system/portctl-boot.service"
UNIT_LINK = "/etc/systemd/system/sysinit.target.wants/portctl-boot.service"
OPENRC = "/etc/init.d/portctl-boot"
OPENRC_LINK = "/etc/runlevels/boot/portctl-boot"


@dataclass(frozen=True, slots=True)
class Boot:
    """`bundle` is {path below the numbered folder: text}; None: nothing of portctl's is to be loaded at boot any more.

    `places` are the other files: {path on the host: (mode, text)}; `links` {path: target}; `gone` paths to remove.
    `blocks` are marked lines in files of others, {path: lines}, none where there shall be none; `replaced` files of
    others that are kept and written anew; `restored` those that come back; `check` a script that says, at the end, what
    would keep all this from being loaded.
    """

    bundle: Mapping[str, str] | None
    places: Mapping[str, tuple[int, str]]
    links: Mapping[str, str]
    gone: tuple[str, ...] = ()
    previous: int | None = None
    """Number of the bundle that is in force before this one, if any."""
    blocks: Mapping[str, str] = field(default_factory=dict)
    replaced: Mapping[str, tuple[int, str]] = field(default_factory=dict)
    restored: tuple[str, ...] = ()
    check: str | None = None

    def texts(self) -> dict[str, str]:
        """What the files outside the bundle shall be: {path: text}, empty where there shall be none."""
        written = {**self.places, **self.replaced}
        return {
            **dict.fromkeys(self.gone, ""),
            **{path: content for path, (_, content) in written.items()},
            **self.blocks,
        }

    def shown(self, path: str, content: str) -> str:
        """The part of a file of the host that is portctl's: of a file of others what lies between the marks."""
        if path not in self.blocks:
            return content
        found = re.search(r"^# portctl: begin\n(.*)^# portctl: end$", content, re.MULTILINE | re.DOTALL)
        return found[1] if found else ""

    def files(self, number: int) -> dict[str, str]:
        """The files of `pending/boot`, with their manifest, for the record `number`."""
        lines: list[str] = []
        found: dict[str, str] = {}
        if self.bundle is not None:
            lines += [f"bundle {number}", f"previous {self.previous or 0}"]
            found |= {f"bundle/{name}": content for name, content in self.bundle.items()}
        for path, (mode, content) in self.places.items():
            lines.append(f"file {mode:o} {path}")
            found[f"files/{len(lines)}"] = content
        lines += [f"link {target} {path}" for path, target in self.links.items()]
        for kind, path, content in self._in_files_of_others():
            lines.append(f"{kind} {path}")
            found[f"files/{len(lines)}"] = content
        lines += [f"restore - {path}" for path in self.restored]
        lines += [f"remove - {path}" for path in self.gone]
        lines += [f"check - {self.check}"] if self.check else []
        return {"manifest": "".join(f"{line}\n" for line in lines), **found}

    def _in_files_of_others(self) -> Iterator[tuple[str, str, str]]:
        """(kind and mode, path, text) of the lines of the manifest."""
        for path, (mode, content) in self.replaced.items():
            yield f"replace {mode:o}", path, content
        for path, content in self.blocks.items():
            yield "block -", path, content


def on_bsd(
    bundle: Mapping[str, str], init: str, backend: Backend, settings: Mapping[str, str], previous: int | None
) -> Boot:
    """What makes a FreeBSD, OpenBSD or macOS host load `bundle` at its next boot, and set `settings`."""
    return Boot(
        bundle=bundle,
        places={SCRIPT: (0o700, text("guard/boot.sh")), **boot_bsd.places(init, backend.NAME)},
        links={},
        previous=previous,
        blocks=boot_bsd.blocks(init, backend.NAME, settings, bundle),
        replaced=boot_bsd.replaced(init, backend.NAME, bundle),
        check=boot_bsd.CHECK,
    )


def prepare(bundle: Mapping[str, str], init: str, settings: tuple[str, str | None], previous: int | None) -> Boot:
    """What makes a Linux host load `bundle` at its next boot. `settings` is (path, text) of the settings' own
    file; without a text it goes."""
    places = {SCRIPT: (0o700, text("guard/boot.sh"))}
    links: dict[str, str] = {}
    path, conf = settings
    if conf is not None:
        places[path] = (0o644, conf)
    if init == "systemd":
        places[UNIT] = (0o644, text("guard/portctl-boot.service"))
        links[UNIT_LINK] = UNIT
    elif init == "openrc":
        places[OPENRC] = (0o755, text("guard/portctl-boot.openrc"))
        links[OPENRC_LINK] = OPENRC
    return Boot(bundle, places, links, () if conf is not None else (path,), previous)


def nothing(settings_path: str, init: str = "systemd") -> Boot:
    """What takes everything of portctl's out of the boot: for the way back from the first apply."""
    if boot_bsd.knows(init):
        blocks, own, replaced = boot_bsd.everything(init)
        return Boot(None, {}, {}, (*own, BOOT), blocks=dict.fromkeys(blocks, ""), restored=replaced)
    gone = (UNIT_LINK, UNIT, OPENRC_LINK, OPENRC, settings_path, BOOT)
    return Boot(None, {}, {}, gone)


def from_record(files: Mapping[str, str], previous: int | None) -> Boot:
    """What an earlier record wrote for the next boot, from the `files` of its `boot` folder."""
    places: dict[str, tuple[int, str]] = {}
    links: dict[str, str] = {}
    blocks: dict[str, str] = {}
    replaced: dict[str, tuple[int, str]] = {}
    restored: list[str] = []
    gone: list[str] = []
    check = None
    for at, line in enumerate(files.get("manifest", "").splitlines(), 1):
        kind, value, path = (*line.split(" ", 2), "", "")[:3]
        if kind == "file":
            places[path] = (int(value, 8), files[f"files/{at}"])
        elif kind == "link":
            links[path] = value
        elif kind == "remove":
            gone.append(path)
        elif kind == "block":
            blocks[path] = files[f"files/{at}"]
        elif kind == "replace":
            replaced[path] = (int(value, 8), files[f"files/{at}"])
        elif kind == "restore":
            restored.append(path)
        elif kind == "check":
            check = path
    bundle = {name.removeprefix("bundle/"): text for name, text in files.items() if name.startswith("bundle/")}
    return Boot(bundle or None, places, links, tuple(gone), previous, blocks, replaced, tuple(restored), check)
