"""What would be left after a reboot: `not-persistent`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from portctl import sysctl
from portctl.observe import others
from portctl.observe.boot import BootState
from portctl.observe.others import BootService
from portctl.verify.finding import Finding, View


def persistence(view: View, state: BootState, wanted: Mapping[str, str]) -> Iterator[Finding]:
    """The findings. `wanted` are the rule files and the settings' file of the policy, {part/file: text}."""
    yield from _bundle(view, state, wanted)
    for service, does in others.trouble(state.others, _backend(wanted)):
        script = "by-hand" in service.flags
        yield Finding(
            "not-persistent",
            "warning",
            service.name,
            f"{service.link} runs at boot: {does}" if script else f"the service {service.name} is enabled: {does}",
            "take these lines out of it"
            if script
            else f"disable it ({_disable(service, view)}), or leave the packet filter to it",
            tuple(filter(None, (service.link, service.file))),
        )


def _disable(service: BootService, view: View) -> str:
    return f"rc-update del {service.name}" if view.facts.init == "openrc" else f"systemctl disable {service.name}"


def _backend(wanted: Mapping[str, str]) -> str:
    """The packet filter that the policy is rendered for here."""
    return next((part for part in (path.partition("/")[0] for path in wanted) if part != sysctl.NAME), "")


def _bundle(view: View, state: BootState, wanted: Mapping[str, str]) -> Iterator[Finding]:
    missing = [name for name, text in wanted.items() if state.bundle.get(name) != text]
    subject, advice = view.ruleset.name, "portctl apply, and confirm: what is confirmed is written for the next boot"
    if not state.bundle:
        message = "after a reboot nothing of this policy would be loaded"
        yield Finding("not-persistent", "warning", subject, message, advice, ("nothing in /etc/portctl/boot",))
        return
    if missing:
        message = "after a reboot other rules than those of this policy would be loaded"
        evidence = tuple(f"/etc/portctl/boot/current/{name} {_state(state, name)}" for name in missing)
        yield Finding("not-persistent", "warning", subject, message, advice, evidence)
    if not state.starts and view.facts.init in ("systemd", "openrc"):
        message = f"{view.facts.init} does not start portctl-boot: nothing would load the rules"
        yield Finding("not-persistent", "warning", subject, message, advice, ("no link to portctl-boot",))
    for line in state.wrong:
        yield Finding("not-persistent", "warning", subject, f"the next boot would not load the rules: {line}", advice)
    conf = wanted.get(f"{sysctl.NAME}/{sysctl.FILE}")
    if conf is not None and not _sets(view, state, conf):
        path = sysctl.BOOT_FILE if view.facts.system == "Linux" else "/etc/sysctl.conf"
        message = f"after a reboot {path} would set other values"
        said = f"what portctl wrote in {path} {'is not there' if state.settings is None else 'differs'}"
        yield Finding("not-persistent", "warning", subject, message, advice, (said,))


def _sets(view: View, state: BootState, conf: str) -> bool:
    """Whether the boot would set what the policy asks for. On macOS it is `boot.sh` that does."""
    if view.facts.system == "Linux" or state.settings is None:
        return state.settings == conf or view.facts.init == "launchd"
    wanted = {name: sysctl.in_ticks(value, view.facts.slowhz) for name, value in sysctl.parse({"": conf}).items()}
    return sysctl.parse({"": state.settings}) == wanted


def _state(state: BootState, name: str) -> str:
    return "differs" if name in state.bundle else "is not there"
