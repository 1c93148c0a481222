"""A second person at a console: a socket in the machine's scratch folder, and what is said over it.

Who comes says in a line whether they type, and whether the clocks are to stand
(`type`, `hold`); when that is so, the owner answers with a line, the newest
text, and then all that the console says. Visitors have a thread of their own,
and a backlog each: one that does not read loses text, and is told how much;
nobody waits for it.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import selectors
import socket
import struct
import threading
from collections.abc import Callable
from pathlib import Path

from harness.board import LabError
from harness.console.broker import Broker
from harness.console.waker import Waker

# In the machine's scratch folder: short, because a socket's path has 107 bytes at most (unix(7)).
SOCKET = "attach"
# What is kept for a visitor that does not read.
BACKLOG = 4 << 20
# Of the text before they came: a screen or two.
_BEFORE = 4096
_LONGEST_HELLO = 100
_ANSWER = b"attached\n"
_ANSWER_S = 30.0
_PIECE = 1 << 16


def visit(path: Path, *, typing: bool = False, hold: bool = False) -> tuple[socket.socket, bytes]:
    """Attach to the owner that listens at `path`: the connection, and the first of the text.

    Raises LabError where nobody answers.
    """
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(_ANSWER_S)
    try:
        connection.connect(os.fspath(path))
        connection.sendall(b"%s %s\n" % (b"type" if typing else b"watch", b"hold" if hold else b"go"))
        answer = b""
        while _ANSWER not in answer:
            if not (piece := connection.recv(_PIECE)):
                raise ConnectionResetError("it hung up")
            answer += piece
    except OSError as error:
        connection.close()
        raise LabError(
            f"wanted an answer at {path} within {_ANSWER_S:g} s, found: {error}; "
            "the session has just ended, or is stopped: `quoin attach` lists those that run"
        ) from error
    connection.settimeout(None)
    return connection, answer.removeprefix(_ANSWER)


class _Visitor:
    """One connection, seen from the owner."""

    def __init__(self, connection: socket.socket, wake: Callable[[], None]) -> None:
        self.connection = connection
        self.who = _who(connection)
        self.hello = b""
        self.welcome = self.typing = self.holds = False
        # Typed, but not a whole line yet: the log has lines.
        self.typed = b""
        self._left_out = 0
        self._backlog = bytearray()
        self._mutex = threading.Lock()
        self._wake = wake
        connection.setblocking(False)

    def take(self, text: bytes) -> None:
        """More to show; on the broker's thread, so it must be quick."""
        with self._mutex:
            quiet = not self._backlog
            if self._left_out or len(self._backlog) + len(text) > BACKLOG:
                self._left_out += len(text)
            else:
                self._backlog += text
        if quiet:
            self._wake()

    @property
    def waiting(self) -> bool:
        return bool(self._backlog)

    def push(self) -> bool:
        """Send what the visitor takes now; whether it took any. Raises OSError where it is gone."""
        with self._mutex:
            try:
                sent = self.connection.send(self._backlog[:_PIECE])
            except BlockingIOError:
                return False
            del self._backlog[:sent]
            if self._left_out and not self._backlog:
                self._backlog += b"\n[quoin: %d bytes left out: read too slowly; the log has them]\n" % self._left_out
                self._left_out = 0
            return sent > 0


class AttachServer:
    """Listens at `path` for visitors of one console, from its making to `close`.

    `hold` and `release` let the session's clocks stand and go. Raises OSError
    where no socket can be made.
    """

    def __init__(self, broker: Broker, path: Path, *, hold: Callable[[], None], release: Callable[[], None]) -> None:
        self._broker = broker
        self._path = path
        self._hold, self._release = hold, release
        self._visitors: dict[int, _Visitor] = {}
        self._ending = False
        self._listener = socket.socket(socket.AF_UNIX)
        try:
            # Before it has a name, so that it never has another mode.
            os.fchmod(self._listener.fileno(), 0o600)
            self._listener.bind(os.fspath(path))
            self._listener.listen()
        except OSError:
            self._listener.close()
            raise
        self._listener.setblocking(False)
        self._waker = Waker()
        self._thread = threading.Thread(target=self._run, name="console-attach", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Send visitors away, with what they still take at once, and remove the socket."""
        self._ending = True
        self._waker.wake()
        self._thread.join(_ANSWER_S)
        self._path.unlink(missing_ok=True)
        self._listener.close()
        self._waker.close()

    def _run(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._listener, selectors.EVENT_READ)
            selector.register(self._waker, selectors.EVENT_READ)
            while not self._ending:
                for fd, visitor in self._visitors.items():
                    writing = selectors.EVENT_WRITE if visitor.waiting else 0
                    selector.modify(fd, selectors.EVENT_READ | writing, visitor)
                for key, mask in selector.select():
                    if key.fileobj is self._waker:
                        self._waker.clear()
                    elif key.data is None:
                        self._come(selector)
                    else:
                        self._serve(selector, key.data, mask)
            for visitor in list(self._visitors.values()):
                with contextlib.suppress(OSError):
                    while visitor.waiting and visitor.push():
                        pass
                self._leave(selector, visitor)

    def _come(self, selector: selectors.BaseSelector) -> None:
        # One that is gone again before it was let in is nobody.
        with contextlib.suppress(OSError):
            connection, _ = self._listener.accept()
            self._visitors[connection.fileno()] = _Visitor(connection, self._waker.wake)
            selector.register(connection, selectors.EVENT_READ)

    def _serve(self, selector: selectors.BaseSelector, visitor: _Visitor, mask: int) -> None:
        try:
            if mask & selectors.EVENT_WRITE:
                visitor.push()
            if mask & selectors.EVENT_READ:
                if not (data := visitor.connection.recv(_PIECE)):
                    self._leave(selector, visitor)
                elif visitor.welcome:
                    self._type(visitor, data)
                else:
                    self._greet(visitor, data)
        except OSError:
            self._leave(selector, visitor)

    def _greet(self, visitor: _Visitor, data: bytes) -> None:
        """Take the visitor's first line. Raises OSError where it is none."""
        visitor.hello += data
        head, end, rest = visitor.hello.partition(b"\n")
        if len(head) > _LONGEST_HELLO:
            raise OSError("no hello")
        if not end:
            return
        words = head.split()
        visitor.welcome, visitor.typing, visitor.holds = True, b"type" in words, b"hold" in words
        how = "typing" if visitor.typing else "watching"
        self._broker.note(f"attached: {visitor.who}, {how}{', the clocks stand' if visitor.holds else ''}")
        if visitor.holds:
            self._hold()
        with self._broker.changed:
            visitor.take(_ANSWER + self._broker.window.text[-_BEFORE:])
            self._broker.tap(visitor.take)
        self._type(visitor, rest)

    def _type(self, visitor: _Visitor, data: bytes) -> None:
        if visitor.typing and data:
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
