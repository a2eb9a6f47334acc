"""What a host would load at its next boot: portctl's own bundle, and other programs that would undo it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from portctl.command import Command, Host, HostError
from portctl.listeners.proc import sections
from portctl.observe import others
from portctl.observe.others import BootService

ASK = r"""LC_ALL=C
export LC_ALL
exec 2>/dev/null </dev/null
boot=/etc/portctl/boot/current
cd "$boot/." && for part in ./*/*; do
[ -f "$part" ] || continue
printf '\001file %s\n' "${part#./}"
tr -d '\001' <"$part"
done
[ -e /etc/sysctl.d/60-portctl.conf ] && printf '\001settings\n' && tr -d '\001' </etc/sysctl.d/60-portctl.conf
printf '\001starts\n'
for unit in /etc/systemd/system/*.target.wants/portctl-boot.service /etc/runlevels/*/portctl-boot; do
[ -e "$unit" ] && echo "$unit"
done
printf '\001others\n'
[ "$(uname -s)" != Linux ] || (others)
if [ "$(uname -s)" != Linux ]; then
printf '\001block\n'
sed -n '/^# portctl: begin$/,/^# portctl: end$/p' /etc/sysctl.conf
[ ! -e /etc/portctl/boot/check.sh ] || { printf '\001wrong\n'; sh /etc/portctl/boot/check.sh 2>&1; }
fi
printf '\001readable\n'
{ [ "$(id -u)" = 0 ] || [ ! -e /etc/portctl ]; } && echo yes
:
"""


@dataclass(frozen=True, slots=True)
class BootState:
    """What is written on a host for its next boot.

    `bundle` is {part/file: text} of the bundle that the boot would load; `settings` the text of its own file in
    /etc/sysctl.d. `starts` are the links by which the init system starts it; `others` are the services of
    other programs that load or flush packet filters.
    """

    bundle: Mapping[str, str] = field(default_factory=dict)
    settings: str | None = None
    starts: tuple[str, ...] = ()
    others: tuple[BootService, ...] = ()
    wrong: tuple[str, ...] = ()
    """BSD, macOS: what would keep the system's own boot from loading the bundle, in words."""


def _block(parts: Mapping[str, str]) -> str | None:
    """The lines between portctl's marks in /etc/sysctl.conf."""
    lines = [line for line in parts.get("block", "").splitlines() if not line.startswith("# portctl: ")]
    return "".join(f"{line}\n" for line in lines) if lines else None


def boot_state(host: Host) -> BootState | None:
    """What is written for the next boot. None: it may not be read without root."""
    answer = host.run(Command(("sh", "-c", others.ask() + ASK)))
    if not answer.ok:
        raise HostError(f"{host.name}: asked what it would load at boot, it said: {answer.stderr.strip()[:200]}")
    parts = sections(answer.stdout)
    if parts.get("readable", "").strip() != "yes":
        return None
    return BootState(
        bundle={name[5:]: text for name, text in parts.items() if name.startswith("file ")},
        settings=parts.get("settings", _block(parts)),
        starts=tuple(parts.get("starts", "").split()),
        others=others.read(parts.get("others", "")),
        wrong=tuple(parts.get("wrong", "").splitlines()),
    )
