"""The commands: plan, apply, confirm, rollback. Each is given a host and says how it ended."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from portctl import backends, observe, sysctl, wayin
from portctl import plan as planning
from portctl.apply import boot, boot_bsd, connections, history, reading, returning, store, transaction
from portctl.apply.paths import BOOT, HISTORY, PENDING
from portctl.apply.reading import holds, listings, loaded, same_filter
from portctl.apply.steps import LOAD_SECONDS, NothingPending, Refused, call, dump, must, stop_at
from portctl.apply.transaction import Transaction, Window
from portctl.backends.base import Among, Backend, Guest, Neighbour
from portctl.command import Host
from portctl.listeners import bsd, proc
from portctl.observe import Facts, Observed
from portctl.plan import exclusive
from portctl.plan.types import Before, Desired, Plan
from portctl.program import Program
from portctl.ruleset import Ruleset


@dataclass(frozen=True, slots=True)
class Request:
    """What shall be applied, and how. `text` is the policy as written, for the record; `who` asks for it."""

    ruleset: Ruleset
    text: str
    who: str
    confirm_within: int = 60
    backend: str | None = None
    allow_lockout: bool = False
    exclusive: bool = False
    wait: int = 0
    anchor: bool = False
    """pf: keep to an anchor of a main rule set that is somebody else's."""


@dataclass(frozen=True, slots=True)
class Talk:
    """The conversation with the person. `agree` is asked once, before anything changes; `answer` again and again while
    the confirmation is awaited, on a console alone: True keeps, False takes back, None is no answer yet."""

    show: Callable[[Plan], None] = field(default=lambda _: None)
    agree: Callable[[Plan], bool] = field(default=lambda _: True)
    say: Callable[[str], None] = field(default=lambda _: None)
    confirming: str = "Confirm within {seconds} seconds: run `portctl confirm` over a new connection."
    """What is said of that when loading begins."""
    answer: Callable[[], bool | None] = field(default=lambda: None)


@dataclass(frozen=True, slots=True)
class Look:
    """What was found on a host before anything was decided."""

    facts: Facts
    backend: Backend
    desired: Desired
    records: tuple[history.Record, ...]
    taking: Mapping[str, Mapping[str, str]] | None = None
    """The parts that take others' rules away, with `--exclusive`."""

    @property
    def bundles(self) -> dict[str, Mapping[str, str]]:
        return {**self.desired.bundles, **(self.taking or {})}

    @property
    def in_force(self) -> history.Record | None:
        return history.in_force(list(self.records))


def look(host: Host, request: Request) -> Look:
    """Facts, the back end, and what the host shall be. Raises `Problems` where the back end cannot say it, or its text
    is not proved."""
    facts = observe.facts(host)
    if why := locked(facts):
        raise Refused(why)
    known = history.records(host)
    last = next((r.about.backend for r in reversed(known) if r.confirmed), None)
    backend = chosen(facts, last, request.backend, request.anchor)
    desired = planning.desire(request.ruleset, backend, facts)
    planning.prove(desired, backend)
    if boot_bsd.knows(facts.init):
        calling = boot_bsd.calls(host, facts.init, backend)
        whole = boot_bsd.standing_alone(desired.boot_bundle, backend.PARTS, backend.NAME, calling)
        desired = replace(desired, boot_bundle=whole)
    if back := returning.bundle(host, tuple(known), desired.settings):
        desired = replace(desired, bundles={**desired.bundles, returning.PART: back}, returned=returning.PART)
    others = [b for b in observe.readers(facts) if not same_filter(b, backend) and _usable(b.NAME, facts)]
    taking = exclusive.bundles(desired, others, facts.system) if request.exclusive else None
    return Look(facts, backend, desired, tuple(known), taking)


def chosen(facts: Facts, last: str | None, asked: str | None, anchor: bool) -> Backend:
    """The back end for a host. Raises `Refused` where it has no anchors to keep to."""
    name = observe.choose_backend(facts, last, asked)
    try:
        return backends.load(backends.anchored(name) if anchor else name)
    except KeyError:
        raise Refused(f"{name} has no anchors: `--anchor` is for pf") from None


MOST_SECURE = {"FreeBSD": 3, "OpenBSD": 2}
"""The `kern.securelevel` from which on nobody may change packet filters: security(7), securelevel(7)."""


def locked(facts: Facts) -> str | None:
    """Why the rules of a host cannot be changed by anybody, in words."""
    level = MOST_SECURE.get(facts.system)
    if level is None or facts.securelevel is None or facts.securelevel < level:
        return None
    return f"kern.securelevel is {facts.securelevel}: nobody can change packet filter rules here until a reboot"


def _usable(name: str, facts: Facts) -> bool:
    """Whether a host has the tools of a back end: those that its questions about rules ask with."""
    asked = [command for part, command in backends.load(name).questions().items() if "rules" in part]
    return all(any(facts.tool(word.removesuffix("-save")) for word in command.argv) for command in asked)


def plan(host: Host, request: Request) -> Plan:
    """What `apply` would do, without a lock and without changing anything."""
    seen = look(host, request)
    return _plan(host, seen, reading.saved(host, seen.bundles))


def apply(host: Host, request: Request, talk: Talk) -> str:
    """Applies a policy. Returns how it ended: `unchanged`, `confirmed`, or `confirmed, but …`.

    Raises `Problems` (the back end cannot say it), `Refused` (nothing changed, or all is as before), `RolledBack`,
    and `HostError`.
    """
    held = transaction.lock(host, request.who, request.wait)
    try:
        seen = look(host, request)
        transaction.begin(held, seen.bundles)
        transaction.check_and_save(held)
        saved = history.below(dump(host, f"{PENDING}/old"), f"{PENDING}/old")
        made = _plan(host, seen, saved)
        talk.show(made)
        if made.refusals and not request.allow_lockout:
            raise Refused("; ".join(refusal.message for refusal in made.refusals))
        if made.empty:
            transaction.abandon(held)
            return "unchanged"
        if not talk.agree(made):
            raise Refused("not applied: nothing was changed")
        stop_at("plan")
        held = transaction.record(held, _record_files(request, seen), _boot(seen), made.order)
    except BaseException as error:
        transaction.give_up(held, error)
        raise
    window = Window(request.confirm_within if made.order else 0, talk.answer, seen.facts.init == "systemd")
    if window.seconds:
        talk.say("Loading. " + talk.confirming.format(seconds=window.seconds))
    old = {part: files for part, files in history.by_part(saved).items() if part in made.order}
    return transaction.carry_out(
        held,
        window,
        _read_back(host, seen, made, talk),
        before_load=_openings(held, seen, made),
        not_back=lambda: reading.not_back(host, old),
    )


def _plan(host: Host, seen: Look, saved: Mapping[str, str]) -> Plan:
    everything = tuple(observe.readers(seen.facts))
    observed = observe.observe(host, everything, seen.desired.settings, seen.facts)
    before = _before(host, seen, saved)
    files = _boot(seen).texts()
    around = wayin.read(host.run(wayin.question(), 60.0).stdout)
    elsewhere = frozenset(b.NAME for b in everything if not same_filter(b, seen.backend) and holds(b, observed))
    in_use = any(same_filter(b, seen.backend) for b in everything)
    mine = loaded(seen.backend, observed) if in_use else Program(())
    guest = guest_of(seen, observed) if in_use and isinstance(seen.backend, Among) else None
    return planning.diff(seen.desired, observed, mine, before, around, files, seen.taking, elsewhere, guest)


def guest_of(seen: Look, observed: Observed) -> planning.GuestOf:
    """What is to be said of the rules among which portctl's are."""
    backend, files = seen.backend, seen.desired.bundles[seen.desired.backend]
    assert isinstance(backend, Among)
    told = listings(backend, observed)
    if seen.taking is not None and isinstance(backend, Neighbour):
        told = backend.alone(told)
    guest = planning.GuestOf(backend.then(told, files), before=tuple(backend.before(told, files)))
    if isinstance(backend, Guest):
        return replace(guest, missing=tuple(backend.lacking(told, files)))
    if isinstance(backend, Neighbour):
        asked = planning.in_sync(guest.then, seen.desired.program)
        unbooted = tuple(backend.others(told))
        return replace(guest, obstacle="" if asked else backend.obstacle(told), unbooted=unbooted)
    return guest


def _before(host: Host, seen: Look, saved: Mapping[str, str]) -> Before:
    ahead = _boot(seen)
    paths = tuple(ahead.texts())
    dumped = call(host, "dump", f"{BOOT}/current", *paths).stdout
    force = seen.in_force
    files = {path: ahead.shown(path, text) for path, text in proc.sections(dumped).items() if path in paths}
    return Before(
        saved=history.by_part(saved),
        boot=history.below(dumped, f"{BOOT}/current"),
        files=files,
        ruleset=history.ruleset_of(host, force.number) if force else None,
        last_backend=force.about.backend if force else None,
        number=force.number if force else None,
    )


def _boot(seen: Look) -> boot.Boot:
    settings = seen.desired.bundles.get(sysctl.NAME, {}).get(sysctl.FILE)
    force = seen.in_force
    previous = force.number if force else None
    if boot_bsd.knows(seen.facts.init):
        return boot.on_bsd(seen.desired.boot_bundle, seen.facts.init, seen.backend, seen.desired.settings, previous)
    return boot.prepare(seen.desired.boot_bundle, seen.facts.init, (sysctl.BOOT_FILE, settings), previous)


def _record_files(request: Request, seen: Look) -> dict[str, str]:
    force = seen.in_force
    about = history.About(
        policy=request.ruleset.name,
        who=request.who,
        when=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        backend=seen.desired.backend,
        follows=force.number if force else None,
        digest=hashlib.sha256(request.text.encode()).hexdigest(),
        parts=tuple(seen.desired.bundles),
    )
    return {
        "about.json": history.about_text(about),
        "policy.yaml": request.text,
        "ruleset.json": store.dumps(request.ruleset),
    }


def _openings(held: Transaction, seen: Look, made: Plan) -> Callable[[], None]:
    return lambda: connections.keep(held.host, seen.backend, made.opened, held.folder.rpartition("/")[0])


def _read_back(host: Host, seen: Look, made: Plan, talk: Talk) -> Callable[[], str | None]:
    def compare() -> str | None:
        observed = observe.observe(host, (seen.backend,), seen.desired.settings, seen.facts)
        if not planning.in_sync(loaded(seen.backend, observed), seen.desired.program):
            return "what was loaded does not read back as what was wanted"
        for name, value in seen.desired.settings.items():
            if observed.settings.get(name) != value:
                return f"{name} reads {observed.settings.get(name, 'nothing')} after it was set to {value}"
        for connection in connections.cut(host, made.cut):
            talk.say(connection)
        return None

    return compare


def confirm(host: Host, beside: str = "") -> str:
    """Confirms the pending apply, if whoever asks may; how it ended. Raises `Refused`.

    `beside` says where a confirmation comes from that does not come over the host's network, as from a console.
    """
    said = call(host, "state").stdout.split(maxsplit=3)
    if not said:
        raise NothingPending("nothing is pending: there is no apply to confirm")
    when = history.pending_text(host, "loaded")
    if not when:
        raise Refused("the rules are still being loaded: try again")
    facts = observe.facts(host)
    observed = observe.observe(host, (), (), facts)
    snapshot = history.pending_text(host, "sockets") or ""
    then = proc.connections(snapshot) if facts.system == "Linux" else bsd.then(snapshot)
    around = wayin.read(host.run(wayin.question(), 60.0).stdout)
    session = wayin.may_confirm(around, observed.connections or (), observed.listeners or (), then, float(when))
    if beside:
        session = wayin.Session(None, beside)
    if session.why_not:
        raise Refused(f"not confirmed: {session.why_not}")
    if not call(host, "decide", "confirmed", session.said).ok:
        raise Refused("too late: the old rules are back, or coming back")
    stop_at("decided")
    must(host, "finish")
    return f"confirmed, {session.said}"


def rollback(host: Host, number: int | None, who: str, wait: int = 0) -> str:
    """Takes an apply back at once: the pending one, else the one that is in force, else record `number`."""
    if number is None and call(host, "state").stdout.strip():
        return _take_back(host, who)
    open_before = {r.number for r in history.records(host) if r.outcome == "pending"}
    # The lock comes first: whoever takes it brings to its end what a dead guard left, and that may be a new record.
    held = transaction.lock(host, who, wait)
    try:
        known = history.records(host)
        if number is None and known and known[-1].number in open_before and known[-1].outcome == "rolled back":
            transaction.abandon(held)
            return "the pending apply is taken back"
        target = _target(known, number)
        bundles = _state_before(host, known, target)
        transaction.begin(held, bundles)
        transaction.check_and_save(held)
        old = history.by_part(history.below(dump(host, f"{PENDING}/old"), f"{PENDING}/old"))
        # What was taken from others comes back first, the settings come last: never a moment with fewer rules.
        rules = (*backends.OFFERED, *backends.EVERY)
        order = tuple(sorted(bundles, key=lambda part: (part.startswith(sysctl.NAME), part in rules, part)))
        facts = observe.facts(host)
        files, ahead = _way_back(host, known, target, who, tuple(bundles), facts.init)
        held = transaction.record(held, files, ahead, order)
    except BaseException as error:
        transaction.give_up(held, error)
        raise
    ended = transaction.carry_out(
        held,
        Window(0, systemd=facts.init == "systemd"),
        lambda: reading.not_back(host, bundles),
        not_back=lambda: reading.not_back(host, old),
    )
    return f"the state before record {target.number} is back ({ended} as record {held.number})"


def _take_back(host: Host, who: str) -> str:
    """Takes the pending apply back, and looks whether it is."""
    order = (history.pending_text(host, "order") or "").split()
    old = history.by_part(history.below(dump(host, f"{PENDING}/old"), f"{PENDING}/old"))
    if not call(host, "decide", "undone", f"taken back by {who}").ok:
        raise Refused("too late: it has just been confirmed, or taken back")
    must(host, "undo", timeout=LOAD_SECONDS)
    wrong = reading.not_back(host, {part: files for part, files in old.items() if part in order})
    if wrong:
        raise Refused(f"NOT WELL: the pending apply is taken back, but {wrong}")
    return "the pending apply is taken back"


def _state_before(host: Host, known: list[history.Record], target: history.Record) -> dict[str, dict[str, str]]:
    """The bundles that bring the state before a record back. Raises `Refused` where they are not kept."""
    for record in filter(None, (target, _earlier(known, target))):
        if history.thinned(host, record.number):
            raise Refused(f"record {record.number} is too old: of such records only the description is kept")
    dumped = dump(host, f"{HISTORY}/{target.number}/before")
    bundles = history.by_part(history.below(dumped, f"{HISTORY}/{target.number}/before"))
    if not bundles:
        raise Refused(f"record {target.number} does not hold the state before it")
    return bundles


def _target(known: list[history.Record], number: int | None) -> history.Record:
    if number is None:
        found = next((r for r in reversed(known) if r.confirmed), None)
        if found is None:
            raise Refused("nothing was applied yet: there is nothing to take back")
        return found
    found = next((r for r in known if r.number == number), None)
    if found is None:
        raise Refused(f"there is no record {number}")
    if not found.confirmed:
        raise Refused(f"record {number} was never in force: it ended as `{found.outcome}`")
    return found


def _earlier(known: list[history.Record], record: history.Record) -> history.Record | None:
    """The record that was in force before this one."""
    return next((r for r in known if r.number == record.about.follows), None)


def _way_back(
    host: Host, known: list[history.Record], target: history.Record, who: str, parts: tuple[str, ...], init: str
) -> tuple[dict[str, str], boot.Boot]:
    """The record of a rollback, and what the host then loads at boot: what it did before the record taken back."""
    earlier = _earlier(known, target)
    force = history.in_force(known)
    files: dict[str, str] = {}
    if earlier is None:
        ahead = boot.nothing(sysctl.BOOT_FILE, init)
    else:
        base = f"{HISTORY}/{earlier.number}"
        dumped = dump(host, f"{base}/boot", f"{base}/policy.yaml", f"{base}/ruleset.json")
        ahead = boot.from_record(history.below(dumped, f"{base}/boot"), force.number if force else None)
        texts = history.below(dumped, base)
        files = {name: texts[name] for name in ("policy.yaml", "ruleset.json") if name in texts}
    about = history.About(
        policy=earlier.about.policy if earlier else "",
        who=who,
        when=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        backend=(earlier or target).about.backend,
        kind="rollback",
        follows=force.number if force else None,
        takes_back=target.number,
        digest=earlier.about.digest if earlier else "",
        parts=parts,
        nothing=earlier is None,
    )
    return {"about.json": history.about_text(about), **files}, ahead
