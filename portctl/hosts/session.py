"""One connection to a host: a shell there that runs what it is sent, one request after the other (`door/session.sh`).

Everything goes over the standard input of that one shell, compressed where the host can read it: nothing of a policy
ever stands on a command line, a request costs one round trip, and one connection is one authentication.
"""

from __future__ import annotations

import gzip
import os
import re
import selectors
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from secrets import token_hex
from shlex import join, quote
from typing import IO

from portctl.command import HostError, Lost
from portctl.hosts import process
from portctl.templating import text

CONNECT_SECONDS = 120.0
"""For a connection to come about: a person may have to touch a key, or type what ssh asks."""
WORTH_PACKING = 1024
CHUNK = 1 << 16


@dataclass(slots=True)
class Session:
    """`uid` is who we are there; `why_not_root` what sudo and doas said, where they were needed and refused."""

    name: str
    process: subprocess.Popen[bytes]
    nonce: str
    uid: int = -1
    packs: bool = False
    why_not_root: str = ""
    _out: bytearray = field(default_factory=bytearray)
    _err: bytearray = field(default_factory=bytearray)

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def ask(self, argv: Sequence[str], stdin: bytes, timeout: float | None) -> tuple[int, bytes, bytes]:
        """Runs a command there: its exit status and what it printed. Raises `Lost`, and `HostError` after `timeout`."""
        asked = join(argv).encode() + b"\n"
        how = "plain"
        if self.packs and len(stdin) > WORTH_PACKING:
            stdin, how = gzip.compress(stdin, 6), "gzip"
        head = f"{len(asked)} {len(stdin)} {how}\n".encode()
        return self._exchange((head, asked, stdin), timeout, argv[0])

    def _exchange(self, sent: Sequence[bytes], timeout: float | None, what: str) -> tuple[int, bytes, bytes]:
        mark = b"\n\x01" + self.nonce.encode()
        end = re.compile(re.escape(mark) + rb" (\d+)\n\Z")
        _pump(self, sent, timeout, lambda: end.search(self._out[-200:]) and self._err.endswith(mark + b"\n"), what)
        found = end.search(self._out)
        assert found is not None
        answer = int(found[1]), bytes(self._out[: found.start()]), bytes(self._err[: -len(mark) - 1])
        self._out.clear()
        self._err.clear()
        return answer

    def close(self) -> None:
        """Ends the connection; what runs on behind it on the host is none of its business."""
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream is not None:
                with suppress(OSError):
                    stream.close()
        try:
            self.process.wait(2)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def connect(name: str, door: Sequence[str], set_there: Mapping[str, str], seconds: float = CONNECT_SECONDS) -> Session:
    """Opens a connection, and becomes root there where that can be had without a question. Raises `Lost`.

    `set_there` are variables of everything that is run there.
    """
    nonce = token_hex(16)
    # ssh asks on the terminal, so it stays in the session; but a Ctrl-C is for portctl, which then takes things back.
    argv = ("sh", "-c", 'trap "" INT QUIT TSTP; exec "$@"', "sh", *door)
    pipe = subprocess.PIPE
    try:
        started = subprocess.Popen(argv, stdin=pipe, stdout=pipe, stderr=pipe, env=_environment())
    except OSError as error:
        raise HostError(f"{door[0]} could not be started: {error.strerror}") from None
    session = Session(name, started, nonce)
    for stream in (started.stdin, started.stdout, started.stderr):
        assert stream is not None
        os.set_blocking(stream.fileno(), False)
    variables = "".join(f"{key}={quote(value)}\nexport {key}\n" for key, value in set_there.items())
    scripts = (text("door/become.sh"), f"nonce={nonce}\n{variables}{text('door/session.sh')}")
    hello = re.compile(rb"\n\x01" + nonce.encode() + rb" hello (\d+) (\S+) ([^\n]*)\n")
    try:
        _pump(session, [_script(each) for each in scripts], seconds, lambda: hello.search(session._out), "connecting")
    except BaseException:
        session.close()
        raise
    found = hello.search(session._out)
    assert found is not None
    session.uid, session.packs = int(found[1]), found[2] == b"gzip"
    session.why_not_root = plain(found[3].decode("utf-8", "replace")).strip("; ")
    session._out.clear()
    session._err.clear()
    return session


def _environment() -> dict[str, str]:
    """The caller's, its PATH too: the person's own ssh, its helpers and its agents."""
    return {**process.environment(), "PATH": process.persons_path()}


def _script(script: str) -> bytes:
    body = script.encode()
    return f"{len(body)}\n".encode() + body


def _pump(
    session: Session, sent: Sequence[bytes], timeout: float | None, done: Callable[[], object], what: str
) -> None:
    """Writes and reads at the same time, so that neither side waits for the other, until `done`."""
    end = None if timeout is None else time.monotonic() + timeout
    out, err, into = session.process.stdout, session.process.stderr, session.process.stdin
    assert out is not None and err is not None and into is not None
    left = memoryview(b"".join(sent))
    with selectors.DefaultSelector() as selector:
        selector.register(out, selectors.EVENT_READ, session._out)
        selector.register(err, selectors.EVENT_READ, session._err)
        selector.register(into, selectors.EVENT_WRITE)
        while not done():
            waits = None if end is None else max(0.0, end - time.monotonic())
            ready = selector.select(waits)
            if not ready and end is not None and time.monotonic() >= end:
                raise HostError(f"{session.name}: {what} did not come to an end within {timeout:g} s")
            for key, _ in ready:
                if key.fileobj is into:
                    left = _write(session, into.fileno(), left)
                    if not left:
                        selector.unregister(into)
                elif not _read(key.fd, key.data):
                    selector.unregister(key.fileobj)
            if len(selector.get_map()) == 0 or not (done() or _open(selector, out)):
                raise Lost(lost(session))


def _open(selector: selectors.BaseSelector, stream: IO[bytes]) -> bool:
    return stream.fileno() in selector.get_map()


def _write(session: Session, descriptor: int, left: memoryview) -> memoryview:
    try:
        return left[os.write(descriptor, left[:CHUNK]) :]
    except BlockingIOError:
        return left
    except OSError:
        raise Lost(lost(session)) from None


def _read(descriptor: int, into: bytearray) -> bool:
    """False at the end of the stream."""
    try:
        found = os.read(descriptor, CHUNK)
    except BlockingIOError:
        return True
    into += found
    return bool(found)


def lost(session: Session) -> str:
    """What the door says of a connection that came to its end, or never came about."""
    error = session.process.stderr
    with suppress(subprocess.TimeoutExpired):
        session.process.wait(2)
    while error is not None and session.process.poll() is not None and _read(error.fileno(), session._err):
        pass
    said = [line for line in plain(session._err.decode("utf-8", "replace")).splitlines() if line.strip()]
    why = "; ".join(line.strip() for line in said[-3:]) or "the connection has ended"
    return f"{session.name} cannot be reached: {why}"


def plain(words: str) -> str:
    """What a host says, as it may stand on a terminal: no control characters but tabs and line ends, and no signs that
    turn the direction of writing; they are written out. 0 and 1 separate parts of answers and stay."""
    return _ODD.sub(lambda found: f"\\x{ord(found[0]):02x}", words)


_ODD = re.compile("[\x02-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\u202a-\u202e\u2066-\u2069]")
