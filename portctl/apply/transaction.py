"""The transaction: lock, check, snapshot, arm the guard, load, read back, wait, persist, record, unlock.

The undo lies on the host, armed, before anything changes. Whatever becomes of this process, its terminal and its
network, the host ends in the state before or in the confirmed one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from portctl.apply.boot import Boot
from portctl.apply.paths import PENDING
from portctl.apply.steps import LOAD_SECONDS, Refused, RolledBack, call, must, put, script, stop_at, take_lock
from portctl.command import Command, Host, HostError, Lost

GRACE = 30.0
"""Seconds that a guard may need beyond the confirm window to bring the old state back."""
AT_ONCE_WINDOW = 60
"""Seconds that the guard waits where nobody has to confirm: it only covers a killed process then."""

Bundles = Mapping[str, Mapping[str, str]]
"""{part: {file: text}}: `nftables`, `sysctl`, each with its three scripts."""


@dataclass(frozen=True, slots=True)
class Transaction:
    """One that has begun: it holds the lock. `number` is that of its record, 0 before it has one."""

    host: Host
    lock: str
    number: int = 0
    folder: str = PENDING


@dataclass(frozen=True, slots=True)
class Window:
    """How long it may stay unconfirmed. `seconds` 0: it is confirmed at once.

    `answer` is asked again and again while waiting: True confirms, False undoes, None is no answer yet.
    """

    seconds: int = 60
    answer: Callable[[], bool | None] = field(default=lambda: None)
    systemd: bool = False


def lock(host: Host, who: str, wait: int) -> Transaction:
    """Locks a host. Raises `Refused` where somebody else holds it for longer than `wait` seconds."""
    number, folder = take_lock(host, who, wait)
    held = Transaction(host, number, folder=folder)
    stop_at("lock")
    return held


def begin(transaction: Transaction, bundles: Bundles) -> None:
    """Puts the bundles on the host. Nothing that counts has changed yet."""
    host = transaction.host
    must(host, "begin", transaction.lock)
    files = {f"new/{part}/{name}": text for part, each in bundles.items() for name, text in each.items()}
    put(host, {"guard.sh": script(), **files}, transaction.folder)
    stop_at("begin")


def check_and_save(transaction: Transaction) -> None:
    """The host's own parsers read the bundles; then the old state is saved beside them. Raises `Refused`."""
    must(transaction.host, "check", timeout=LOAD_SECONDS)
    stop_at("check")
    must(transaction.host, "save", timeout=LOAD_SECONDS)
    stop_at("save")


def abandon(transaction: Transaction) -> None:
    """Ends a transaction that never armed its guard."""
    call(transaction.host, "abandon", transaction.lock)


def give_up(transaction: Transaction, error: BaseException) -> None:
    """Ends a transaction that an error has stopped before its guard was armed. A host that is lost is told if it
    answers; else its lock goes with the connection that held it. Raises `Lost` again, with what became of the host."""
    try:
        abandon(transaction)
    except HostError:
        if not isinstance(error, Lost):
            raise
    if isinstance(error, Lost):
        raise Lost(f"{error}\nNothing was changed there: the old rules are in force.") from None


def record(transaction: Transaction, files: Mapping[str, str], boot: Boot, order: tuple[str, ...]) -> Transaction:
    """Writes the record of what is about to happen, and tries whether it could be persisted. Raises `Refused`."""
    host = transaction.host
    must(host, "mine", transaction.lock)  # a person may have pondered the plan for long
    put(host, {f"record/{name}": text for name, text in files.items()}, transaction.folder)
    put(host, {"order": "".join(f"{part}\n" for part in order)}, transaction.folder)
    number = int(must(host, "number"))
    put(host, {f"boot/{name}": text for name, text in boot.files(number).items()}, transaction.folder)
    must(host, "try_persist")
    must(host, "record", str(number))
    stop_at("record")
    return Transaction(host, transaction.lock, number, transaction.folder)


def carry_out(
    transaction: Transaction,
    window: Window,
    read_back: Callable[[], str | None],
    before_load: Callable[[], None] = lambda: None,
    not_back: Callable[[], str | None] = lambda: None,
) -> str:
    """Arms the guard, loads, reads back, and sees it through to its end. Returns how it ended, in words.

    `before_load` is done once the guard is armed; `read_back` says what is wrong with what was loaded, `not_back` with
    the old state once it was brought back, by whomever; None: nothing.
    Raises `Refused` where the host does not load it (the old state is back), `RolledBack` where it was taken back.
    """
    armed = time.monotonic()
    try:
        try:
            arm(transaction, window)
            stop_at("arm")
            return _load_and_wait(transaction, window, read_back, before_load)
        except Lost as lost:
            return _from_afar(transaction, armed + (window.seconds or AT_ONCE_WINDOW) + GRACE, str(lost))
    except _Undone as undone:
        wrong = not_back()
        back = undone.back if wrong is None else f"\nNOT WELL: the old state was loaded again, but {wrong}."
        raise undone.kind(undone.why + back) from None


class _Undone(Exception):
    """It was undone: what is said of it, and what is said then if the old state is back indeed."""

    def __init__(
        self,
        kind: type[Refused] | type[RolledBack],
        why: str,
        back: str = "\nEverything is as it was before.",
    ) -> None:
        super().__init__(why)
        self.kind, self.why, self.back = kind, why, back


def _load_and_wait(
    transaction: Transaction, window: Window, read_back: Callable[[], str | None], before_load: Callable[[], None]
) -> str:
    host = transaction.host
    try:
        before_load()
    except Refused as refused:
        _undo(transaction, str(refused))
        raise _Undone(Refused, str(refused), "") from None
    loaded = call(host, "load", timeout=LOAD_SECONDS)
    if not loaded.ok:
        _undo(transaction, "could not be loaded")
        raise _Undone(Refused, loaded.stderr.strip() or "the rules could not be loaded")
    stop_at("load")
    wrong = read_back()
    if wrong:
        _undo(transaction, wrong)
        raise _Undone(RolledBack, wrong)
    stop_at("read-back")
    if window.seconds == 0:
        if not call(host, "decide", "confirmed", "at once").ok:
            return _ended(transaction, GRACE)
        stop_at("decided")
        must(host, "finish")
        return _ended(transaction, GRACE)
    return _wait(transaction, window)


def arm(transaction: Transaction, window: Window) -> None:
    """Arms the guard: a timer of systemd's where that is process 1 and answers, else a process of its own."""
    host, seconds = transaction.host, window.seconds or AT_ONCE_WINDOW
    must(host, "arm", str(seconds))
    if window.systemd and _timer(transaction, seconds):
        return
    try:
        must(host, "watch")
    except Refused:
        call(host, "decide", "undone", "no guard")
        call(host, "abandon", transaction.lock)
        raise


def _timer(transaction: Transaction, seconds: int) -> bool:
    unit = f"portctl-guard-{transaction.number}-{transaction.lock}"
    command = Command(
        (
            "systemd-run",
            f"--unit={unit}",
            f"--on-active={seconds}",
            "--timer-property=AccuracySec=100ms",
            "--collect",
            "--quiet",
            "/bin/sh",
            "/run/portctl/pending/guard.sh",
            "expire",
            transaction.lock,
        )
    )
    if not transaction.host.run(command, 30.0).ok:
        return False
    must(transaction.host, "guarded_by", unit)
    return True


def _undo(transaction: Transaction, why: str) -> None:
    """Undoes at once, unless the guard has begun to; then waits for it."""
    if call(transaction.host, "decide", "undone", why).ok:
        stop_at("undo")
        must(transaction.host, "undo", timeout=LOAD_SECONDS)
    else:
        _wait_for(transaction, GRACE)


def _wait(transaction: Transaction, window: Window) -> str:
    end = time.monotonic() + window.seconds + GRACE
    try:
        while time.monotonic() < end:
            ended = _wait_for(transaction, 1)
            if ended is not None:
                return _outcome(ended)
            answer = window.answer()
            if answer is True and call(transaction.host, "decide", "confirmed", "at the console").ok:
                must(transaction.host, "finish")
            elif answer is False:
                _undo(transaction, "declined")
    except KeyboardInterrupt:
        _undo(transaction, "interrupted")
    # The guard is late, or whoever confirmed died before the end: what is left to do is done here.
    call(transaction.host, "expire", transaction.lock, timeout=LOAD_SECONDS)
    return _ended(transaction, GRACE)


def _from_afar(transaction: Transaction, until: float, why: str) -> str:
    """The connection was lost, and the guard is at work: asks again and again how it has ended."""
    while True:
        try:
            ended = _wait_for(transaction, 1)
        except HostError as error:
            if time.monotonic() > until:
                raise RolledBack(
                    f"{error}\nNo new connection came about until its guard had brought the old rules back, unless "
                    "somebody confirmed the new ones: `portctl status` will say which, once it can be reached."
                ) from None
            time.sleep(1)
            continue
        if ended is not None or time.monotonic() > until:
            break
    try:
        return _outcome(ended)
    except _Undone as undone:
        raise _Undone(undone.kind, f"{why}\n{undone.why}", undone.back) from None
    except RolledBack as unknown:
        raise RolledBack(f"{why}\n{unknown}") from None


def _ended(transaction: Transaction, seconds: float) -> str:
    return _outcome(_wait_for(transaction, seconds))


def _wait_for(transaction: Transaction, seconds: float) -> str | None:
    result = call(transaction.host, "wait_for", str(transaction.number), str(int(seconds)), timeout=seconds + 60)
    return result.stdout.strip() if result.ok else None


def _outcome(ended: str | None) -> str:
    if ended is None:
        raise RolledBack("it is not known how this apply ended; see `portctl status`")
    if ended == "rolled back":
        raise _Undone(RolledBack, "Not confirmed in time", ": the old rules are back.")
    if ended.startswith("roll"):
        raise RolledBack(f"NOT WELL: {ended}")
    return ended
