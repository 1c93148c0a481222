"""A second person at a console: a socket in the checkout, and what is said over it.

Each session listens on `build/run/BOARD.PID-NUMBER.sock`, mode 0600. Who comes
says in a line of JSON whether they type and whether the clocks are to stand; the
owner answers with a line of JSON, the newest text, and then all that the console
says. Visitors have a thread of their own, and a backlog each: one that does
not read loses text, and is told so, but nobody waits for it.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import pwd
import re
import selectors
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from harness.board import LabError
from harness.build.artifacts import TOP
from harness.console.broker import Broker
from harness.console.waker import Waker

FOLDER = TOP / "build" / "run"
# What is kept for a visitor that does not read.
BACKLOG = 4 << 20
# Of the text before they came: a screen or two.
_BEFORE = 4096
_LONGEST_HELLO = 4096
_ANSWER_S = 10.0
# How long a session's end waits for visitors that still read.
_FAREWELL_S = 0.5
_NAME = re.compile(r"(?P<board>.+)\.(?P<pid>\d+)-\d+\.sock")
_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Running:
    """A session that can be attached to."""

    board: str
    pid: int
    path: Path


class NoSession(LabError):
    """There is no such session, or there are several."""


def running(folder: Path = FOLDER) -> list[Running]:
    """The sessions of this checkout, oldest first; sockets whose owner was killed are removed."""
    found = []
    for path in folder.glob("*.sock"):
        if (match := _NAME.fullmatch(path.name)) is None:
            continue
        with contextlib.suppress(FileNotFoundError):
            if Path(f"/proc/{match['pid']}").exists():
                found.append((path.stat().st_mtime, Running(match["board"], int(match["pid"]), path)))
            else:
                path.unlink()
    return [session for _, session in sorted(found, key=lambda pair: pair[0])]


def find(name: str, folder: Path = FOLDER) -> Running:
    """The session on a board, by its name, its name with the variant, or its process. Raises NoSession."""
    known = running(folder)
    found = [
        s for s in known if name in (s.board, str(s.pid), s.path.stem) or s.board.startswith(f"{name}-")
    ]  # fmt: skip
    if len(found) == 1:
        return found[0]
    listed = "\n".join(f"  {session.path.stem}" for session in found or known)
    if found:
        raise NoSession(f"{len(found)} sessions of {name} are running; name one of them:\n{listed}")
    raise NoSession(
        f"no session of {name!r} is running in this checkout (looked in {folder}); "
        + (f"these are:\n{listed}" if known else "start one: `quoin console BOARD`, or a test with --board")
    )


@contextlib.contextmanager
def short(path: Path) -> Iterator[str]:
    """A name for `path` that fits a socket's address: 107 bytes (unix(7)), which a checkout's folder may exceed."""
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


def visit(session: Running, *, typing: bool = False, hold: bool = False) -> tuple[socket.socket, dict[str, str], bytes]:
    """Attach: the connection, what the owner says of itself, and the first of the text. Raises NoSession."""
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(_ANSWER_S)
    try:
        with short(session.path) as name:
            connection.connect(name)
        connection.sendall(json.dumps({"typing": typing, "hold": hold}).encode() + b"\n")
        answer = b""
        while b"\n" not in answer:
            if not (piece := connection.recv(4096)):
                raise ConnectionResetError("it hung up")
            answer += piece
    except OSError as error:
        connection.close()
        if isinstance(error, ConnectionRefusedError):
            session.path.unlink(missing_ok=True)
        raise NoSession(
            f"process {session.pid}, which owned {session.board}, does not answer ({error}); "
            "it has just ended, or is stopped: see `quoin attach` for those that run"
        ) from error
    connection.settimeout(None)
    head, _, text = answer.partition(b"\n")
    return connection, json.loads(head), text


class _Visitor:
    """One connection, seen from the owner."""

    def __init__(self, connection: socket.socket, wake: Callable[[], None]) -> None:
        self.connection = connection
        self.who = _who(connection)
        self.hello = b""
        self.welcome = False
        self.typing = self.holds = False
        # Typed, but not a whole line yet: the log has lines.
        self.typed = b""
        self.left_out = 0
        self._backlog = bytearray()
        self._mutex = threading.Lock()
        self._wake = wake
        connection.setblocking(False)

    def take(self, text: bytes) -> None:
        """More to show; on the broker's thread, so it must be quick."""
        with self._mutex:
            quiet = not self._backlog
            if self.left_out or len(self._backlog) + len(text) > BACKLOG:
                self.left_out += len(text)
            else:
                self._backlog += text
        if quiet:
            self._wake()

    @property
    def waiting(self) -> bool:
        return bool(self._backlog)

    def push(self) -> None:
        """Send what the visitor takes now. Raises OSError where it is gone."""
        with self._mutex:
            try:
                sent = self.connection.send(self._backlog[: 1 << 16]) if self._backlog else 0
            except BlockingIOError:
                return
            del self._backlog[:sent]
            if self.left_out and not self._backlog:
                self._backlog += b"\n[quoin: %d bytes left out: read too slowly; the log has them]\n" % self.left_out
                self.left_out = 0


class AttachServer:
    """Listens for visitors of one session, from its making to `close`.

    `hold` and `release` let the session's clocks stand and go. Raises OSError
    where no socket can be made in `folder`.
    """

    def __init__(
        self,
        broker: Broker,
        board: str,
        log: Path,
        *,
        hold: Callable[[], None],
        release: Callable[[], None],
        folder: Path = FOLDER,
    ) -> None:
        self.path = folder / f"{board[:48]}.{os.getpid()}-{next(_numbers)}.sock"
        self._broker = broker
        self._about = {"board": board, "pid": str(os.getpid()), "log": str(log)}
        self._hold, self._release = hold, release
        self._visitors: dict[int, _Visitor] = {}
        self._ending = False
        folder.mkdir(parents=True, exist_ok=True)
        self._listener = socket.socket(socket.AF_UNIX)
        try:
            # Before it has a name, so that it never has another mode.
            os.fchmod(self._listener.fileno(), 0o600)
            with short(self.path) as name:
                self._listener.bind(name)
            self._listener.listen()
        except OSError:
            self._listener.close()
            raise
        self._listener.setblocking(False)
        self._waker = Waker()
        self._thread = threading.Thread(target=self._run, name="attach", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Say good-bye to visitors, and remove the socket. Safe to call twice."""
        if self._ending:
            return
        self._ending = True
        self._waker.wake()
        self._thread.join(_ANSWER_S)
        self.path.unlink(missing_ok=True)
        self._listener.close()
        self._waker.close()

    def _run(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._listener, selectors.EVENT_READ)
            selector.register(self._waker, selectors.EVENT_READ)
            while not self._ending:
                self._turn(selector)
            end_s = time.monotonic() + _FAREWELL_S
            while any(visitor.waiting for visitor in self._visitors.values()) and time.monotonic() < end_s:
                self._turn(selector, 0.05)
            for visitor in list(self._visitors.values()):
                self._leave(selector, visitor)

    def _turn(self, selector: selectors.BaseSelector, timeout_s: float | None = None) -> None:
        for fd, visitor in self._visitors.items():
            writing = selectors.EVENT_WRITE if visitor.waiting else 0
            selector.modify(fd, selectors.EVENT_READ | writing, visitor)
        for key, mask in selector.select(timeout_s):
            if key.fileobj is self._waker:
                self._waker.clear()
            elif key.data is None:
                self._come(selector)
            else:
                self._serve(selector, key.data, mask)

    def _come(self, selector: selectors.BaseSelector) -> None:
        with contextlib.suppress(OSError):
            connection, _ = self._listener.accept()
            visitor = _Visitor(connection, self._waker.wake)
            self._visitors[connection.fileno()] = visitor
            selector.register(connection, selectors.EVENT_READ, visitor)

    def _serve(self, selector: selectors.BaseSelector, visitor: _Visitor, mask: int) -> None:
        try:
            if mask & selectors.EVENT_WRITE:
                visitor.push()
            if mask & selectors.EVENT_READ:
                if not (data := visitor.connection.recv(4096)):
                    self._leave(selector, visitor)
                elif visitor.welcome:
                    self._type(visitor, data)
                else:
                    self._greet(visitor, data)
        except (OSError, ValueError):
            self._leave(selector, visitor)

    def _greet(self, visitor: _Visitor, data: bytes) -> None:
        """Take the visitor's first line. Raises ValueError where it is none."""
        visitor.hello += data
        if len(visitor.hello) > _LONGEST_HELLO:
            raise ValueError("no line")
        head, end, rest = visitor.hello.partition(b"\n")
        if not end:
            return
        wishes = json.loads(head)
        visitor.typing, hold = wishes.get("typing") is True, wishes.get("hold") is True
        visitor.welcome = True
        visitor.take(json.dumps(self._about).encode() + b"\n")
        how = " and ".join(
            [*(["typing"] if visitor.typing else ["watching"]), *(["holding the clocks"] if hold else [])]
        )
        self._broker.note(f"attached: {visitor.who}, {how}")
        if hold:
            self._hold()
            visitor.holds = True
        with self._broker.changed:
            visitor.take(bytes(self._broker.window.text[-_BEFORE:]))
            self._broker.tap(visitor.take)
        if rest:
            self._type(visitor, rest)

    def _type(self, visitor: _Visitor, data: bytes) -> None:
        if visitor.typing:
            lines, end, visitor.typed = (visitor.typed + data.replace(b"\r", b"\n")).rpartition(b"\n")
            self._broker.send(data, _said(visitor, lines) if end else b"")

    def _leave(self, selector: selectors.BaseSelector, visitor: _Visitor) -> None:
        del self._visitors[visitor.connection.fileno()]
        selector.unregister(visitor.connection)
        visitor.connection.close()
        if not visitor.welcome:
            return
        self._broker.untap(visitor.take)
        if visitor.typed:
            self._broker.send(b"", _said(visitor, visitor.typed))
        if visitor.holds:
            self._release()
        self._broker.note(f"detached: {visitor.who}")


def _said(visitor: _Visitor, lines: bytes) -> bytes:
    """Typed lines as the log has them: each with who it was."""
    return b"\n".join(b"[%s] %s" % (visitor.who.encode(), line) for line in lines.split(b"\n"))


def _who(connection: socket.socket) -> str:
    """The user and process at the other end, as the kernel knows them (unix(7), SO_PEERCRED)."""
    size = struct.calcsize("3i")
    pid, uid, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        name = f"user {uid}"
    return f"{name}, process {pid}"
