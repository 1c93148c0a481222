"""The one reader of a console.

A thread reads whatever comes in pieces of 64 KiB, cuts lines once, stamps them,
and hands them to everybody: the window that `expect` searches, logs, the panic
watcher, frames, attached terminals. Bytes are read whether or not a test looks.
"""

from __future__ import annotations

import itertools
import os
import select
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from harness.board import LabError
from harness.console.errors import ConsoleFault
from harness.console.framing import MODULUS, Frame, SequenceCheck, Torn, decode
from harness.console.hang_clock import Deadline
from harness.console.line_faults import garbage
from harness.console.lines import SOH, Direction, Line, LineCutter, Lines, Recent
from harness.console.log import Sink
from harness.console.panic import PanicWatcher
from harness.console.waker import Waker

PIECE = 65536
# What `expect` can look back on: more than any suite waits for, less than a flood.
WINDOW = 1 << 20
_RECENT_LINES = 4000
# A guest that prints byte by byte wakes its reader for each, and both are slower for it. So after as many small
# pieces close together the thread lets bytes gather; what a quiet console says, or answers, is read at once.
_SMALL, _CLOSE_S, _MANY, _GATHER_S = 4096, 0.005, 64, 0.001
# Firmware talks before the kernel does.
_FIRST_LINES = 200
# Where one looks for what a line did to a frame.
_NEWEST_LINES = 400


class Transport(Protocol):
    """Both directions of a console, as one file descriptor."""

    def fileno(self) -> int: ...
    def close(self) -> None: ...


@runtime_checkable
class SerialLine(Transport, Protocol):
    """A transport that may hang up and come back, and hides that bytes are lost (harness.hardware.SerialTty)."""

    baud: int

    def reopen(self, pause: Callable[[float], bool]) -> str: ...


class Window:
    """The newest text of a console, by offset from its beginning; frames are not in it."""

    def __init__(self, size: int = WINDOW) -> None:
        self.start = 0
        self.text = bytearray()
        self._size = size

    @property
    def end(self) -> int:
        return self.start + len(self.text)

    def add(self, data: bytes) -> None:
        self.text += data
        # Dropped in halves, so that the cost of moving is shared by many pieces.
        if len(self.text) > 2 * self._size:
            drop = len(self.text) - self._size
            del self.text[:drop]
            self.start += drop


@dataclass(frozen=True, slots=True)
class Mark:
    """A moment of a console, to go back to when the target does."""

    rest: bytes
    shown: int
    sequence: int | None
    recent: Recent


class Broker:
    """Owns a console from `start` to `close`. All fields are read under `changed`."""

    def __init__(self, transport: Transport, *, panic: str = "^PANIC ", prompt: str = r"\$ ") -> None:
        self.changed = threading.Condition()
        self.window = Window()
        self.recent = Recent(_RECENT_LINES)
        self.first: list[Line] = []
        # As many as there are numbers; a guest that sends without end loses the oldest, and who waits for them is told.
        self.frames: deque[Frame | Torn] = deque(maxlen=MODULUS)
        self.panic = PanicWatcher(panic, prompt)
        self.closed: str | None = None
        # Why there is a hole in what was received, until `forgive`.
        self.fault: str | None = None
        # Why the target will print nothing more, though its console is open.
        self.stopped: str | None = None
        # By which waits of this console end; a session puts its machine's hang clock here.
        self.clock: Callable[[], float] = time.monotonic
        # The host's time, in which the target is not held; no wait is much longer than its limit by this one.
        self.host_clock: Callable[[], float] = time.monotonic
        self.received = 0
        # What becomes of bytes on their way from and to the target (harness.console.noise).
        self.hear: Callable[[bytes], bytes] | None = None
        self.speak: Callable[[bytes], bytes] | None = None
        self.serial_line = transport if isinstance(transport, SerialLine) else None
        self._transport = transport
        self._away = False
        self._sinks: list[Sink] = []
        self._taps: list[Callable[[bytes], None]] = []
        self._cutter = LineCutter()
        self._sequence = SequenceCheck()
        self._shown = 0
        self._outgoing = bytearray()
        self._room = memoryview(bytearray(PIECE))
        self._drains: list[threading.Event] = []
        self._stopping: str | None = None
        self._small_pieces = 0
        self._read_s = 0.0
        self._waker = Waker()
        self._ending = self._cutting = False
        self._thread = threading.Thread(target=self._run, name="console-broker", daemon=True)
        os.set_blocking(transport.fileno(), False)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Stop reading and close the transport. Safe to call twice."""
        if not self._ending:
            self._ending = True
            self._waker.wake()
            if self._thread.ident is not None:
                self._thread.join(5.0)
            self._transport.close()
            self._waker.close()

    def deadline(self, timeout_s: float) -> Deadline:
        """The end of a wait that begins now."""
        return Deadline(self.clock, timeout_s, self.host_clock)

    @property
    def ended(self) -> str | None:
        """Why nothing more will come, if so."""
        return self.closed or self.stopped

    @property
    def unfinished(self) -> bytes:
        """The line that has not ended yet."""
        return self._cutter.rest

    def check(self) -> None:
        """Raise ConsoleFault where what was received has a hole. Called with the lock held."""
        if self.fault is not None:
            # Bounded by the transport, which then says what became of it.
            self.changed.wait_for(lambda: not self._away)
            raise ConsoleFault(self.fault)

    def newest_lines(self) -> list[bytes]:
        """The target's newest lines, frames and the unfinished one among them."""
        with self.changed:
            lines = self.recent.since(max(self.recent.count - _NEWEST_LINES, 0))
            texts = [line.text for line in lines if line.direction is Direction.FROM_TARGET]
            return [*texts, self._cutter.rest]

    def check_text(self) -> None:
        """Raise ConsoleFault where a serial line brings no text, at a wrong baud rate for example."""
        if self.serial_line is not None and (fault := garbage(b"\n".join(self.newest_lines()))) is not None:
            raise ConsoleFault(f"{fault}; the port is set to {self.serial_line.baud}: give it the target's baud rate")

    def forgive(self) -> None:
        """Who waits from now on does not mind what was lost before."""
        with self.changed:
            if self.closed is None and not self._away:
                self.fault = None

    # Who listens.

    def attach(self, sink: Sink) -> None:
        with self.changed:
            self._sinks.append(sink)

    def detach(self, sink: Sink) -> None:
        with self.changed:
            self._sinks.remove(sink)
            sink.flush()

    def tap(self, tap: Callable[[bytes], None]) -> None:
        """Hand each piece of text, frames left out, to `tap`; on the broker's thread."""
        with self.changed:
            self._taps.append(tap)

    def untap(self, tap: Callable[[bytes], None]) -> None:
        with self.changed:
            self._taps.remove(tap)

    # What goes out.

    def send(self, data: bytes, said: bytes | None = None) -> None:
        """Queue bytes for the target; the thread sends them as the target takes them.

        `said` is what logs tell of it: the same, unless somebody else types.
        """
        with self.changed:
            self._outgoing += data if self.speak is None else self.speak(data)
            self._small_pieces = 0
            now = time.monotonic()
            if said is None or said:
                self._publish(Lines((said or data).rstrip(b"\n") + b"\n", now, Direction.TO_TARGET))
            self._flush()
        self._waker.wake()

    def cut(self) -> None:
        """Break the line, as if somebody had pulled its plug; a serial line comes back by itself, as after that."""
        self._cutting = True
        self._waker.wake()

    def note(self, text: str) -> None:
        """Put a line of the host's own into the log."""
        with self.changed:
            self._publish(Lines(text.encode() + b"\n", time.monotonic(), Direction.HOST))
            self._flush()

    def restart_frames(self) -> None:
        """The target has started anew, and so have its frame numbers."""
        with self.changed:
            self._sequence = SequenceCheck()
            self.frames.clear()
            self.stopped = self._stopping = None

    def stop(self, why: str) -> None:
        """The target prints nothing more: `stopped` says so as soon as all is read that it has printed."""
        with self.changed:
            self._stopping = self._stopping or why
            if self.closed is not None:
                self._say_stopped()
        self._waker.wake()

    # Going back with a target that goes back (harness.console.clean_target). It stands still meanwhile.

    def discard_input(self) -> None:
        """Forget what was to be sent and is not sent yet."""
        with self.changed:
            self._outgoing.clear()

    def drain(self, timeout_s: float = 10.0) -> None:
        """Wait until all is read that the target has printed so far. Raises ConsoleFault."""
        drained = threading.Event()
        with self.changed:
            self._drains.append(drained)
            if self.closed is not None:
                drained.set()
        self._waker.wake()
        if not drained.wait(timeout_s) or self.closed is not None:
            raise ConsoleFault(f"the console was not read to its end within {timeout_s:g} s: {self.closed or 'busy'}")

    def mark(self) -> Mark:
        """This moment, for `rewind`."""
        with self.changed:
            return Mark(self._cutter.rest, self._shown, self._sequence.last, self.recent.copy())

    def rewind(self, mark: Mark) -> None:
        """Be what it was at `mark`: no line, frame or panic since then is seen any more."""
        with self.changed:
            self._cutter = LineCutter(mark.rest)
            self._shown = mark.shown
            self._sequence = SequenceCheck(mark.sequence)
            self.frames.clear()
            self.panic = self.panic.anew()
            self.recent = mark.recent.copy()
            # The unfinished line, a prompt mostly, is text of a line of its own.
            self.window.add(b"\n" + mark.rest[: mark.shown])

    # The thread.

    def _run(self) -> None:
        reason = self._serve()
        while self.serial_line is not None and not self._ending:
            self._lose(f"the serial line hung up: {reason}")
            try:
                reason = self.serial_line.reopen(self._pause)
            except (LabError, OSError) as error:
                reason = str(error)
                break
            self._lose(reason, away=False)
            reason = self._serve()
        with self.changed:
            self._end_line()
            self.closed = reason
            self._say_stopped()
            if self._away:
                self._away, self.fault = False, reason
            for drained in self._drains:
                drained.set()
            self._flush()
            self.changed.notify_all()

    def _serve(self) -> str:
        """Read and write until the lab or the other end closes the console; which of them, and why."""
        fd = self._transport.fileno()
        with selectors.DefaultSelector() as selector:
            selector.register(fd, selectors.EVENT_READ)
            selector.register(self._waker, selectors.EVENT_READ)
            while not self._ending:
                if self._cutting:
                    self._cutting = False
                    if self.serial_line is None:
                        with socket.socket(fileno=os.dup(fd)) as line:
                            line.shutdown(socket.SHUT_RDWR)
                    return "it was cut"
                with self.changed:
                    writing = bool(self._outgoing)
                mask = selectors.EVENT_READ | (selectors.EVENT_WRITE if writing else 0)
                selector.modify(fd, mask)
                if self._small_pieces >= _MANY:
                    select.select([self._waker], [], [], _GATHER_S)
                try:
                    if not self._turn(fd, selector.select()) or not self._drain(fd):
                        return "the other end closed it"
                except OSError as error:
                    return f"{error.strerror or error}"
        return "closed by the lab"

    def _lose(self, why: str, *, away: bool = True) -> None:
        """Begin anew behind a hole; `away` while nothing can come at all."""
        with self.changed:
            self._end_line()
            self._cutter, self._shown = LineCutter(), 0
            self.window.add(b"\n")
            self.restart_frames()
            self._outgoing.clear()
            self.fault, self._away = why, away
            self.note(why)
            self.changed.notify_all()

    def _end_line(self) -> None:
        if self._cutter.rest:
            self._publish(Lines(self._cutter.rest + b"\n", time.monotonic(), Direction.FROM_TARGET))

    def _pause(self, seconds: float) -> bool:
        """Wait, less long where somebody wakes the thread; False when the console is to end."""
        if select.select([self._waker], [], [], seconds)[0]:
            self._waker.clear()
        return not self._ending

    def _turn(self, fd: int, ready: list[tuple[selectors.SelectorKey, int]]) -> bool:
        for key, mask in ready:
            if key.fileobj is self._waker:
                self._waker.clear()
                continue
            if mask & selectors.EVENT_WRITE:
                with self.changed:
                    sent = os.write(fd, self._outgoing[:PIECE])
                    del self._outgoing[:sent]
            if mask & selectors.EVENT_READ:
                piece, going_on = self._read(fd)
                if piece:
                    self._take(piece, time.monotonic())
                return going_on
        return True

    def _drain(self, fd: int) -> bool:
        """Where somebody waits for it, read until nothing is left; False at the end of the console."""
        with self.changed:
            drains, self._drains = self._drains, []
            stopping = self._stopping is not None and self.stopped is None
        while drains or stopping:
            piece, going_on = self._read(fd)
            if piece:
                self._take(piece, time.monotonic())
            if not going_on:
                self._drains = drains
                return False
            if not piece:
                break
        if stopping:
            with self.changed:
                self._say_stopped()
        for drained in drains:
            drained.set()
        return True

    def _say_stopped(self) -> None:
        self.stopped = self.stopped or self._stopping
        self.changed.notify_all()

    def _take(self, piece: bytes, now: float) -> None:
        if self.hear is not None:
            piece = self.hear(piece)
        close = len(piece) < _SMALL and now - self._read_s < _CLOSE_S
        self._small_pieces, self._read_s = self._small_pieces + 1 if close else 0, now
        with self.changed:
            self.received += len(piece)
            text = b""
            if data := self._cutter.cut(piece):
                lines = Lines(data, now, Direction.FROM_TARGET)
                self._publish(lines)
                if SOH in data:
                    data = self._take_frames(lines)
                    lines = Lines(data, now, Direction.FROM_TARGET)
                if data:
                    self.panic.see(lines)
                text = data[self._shown :]
                self._shown = 0
            rest = self._cutter.rest
            # An unfinished line is text already, for prompts; an unfinished frame is not.
            if not rest.startswith(SOH):
                shown = rest.rstrip(b"\r")
                text += shown[self._shown :]
                self._shown = len(shown)
            self.window.add(text)
            self._flush()
            taps = list(self._taps) if text else []
        for tap in taps:
            tap(text)

    def _take_frames(self, lines: Lines) -> bytes:
        """Take out the frames among `lines`; the others, as text."""
        text = []
        for line in lines:
            if line.is_frame:
                self._take_frame(line.text)
            else:
                text.append(line.text + b"\n")
        return b"".join(text)

    def _take_frame(self, data: bytes) -> None:
        frame = decode(data)
        if isinstance(frame, Frame):
            gap = self._sequence.gap(frame)
            if gap is not None:
                self.frames.append(Torn(data, gap))
        self.frames.append(frame)

    def _publish(self, lines: Lines) -> None:
        self.recent.add(lines)
        if len(self.first) < _FIRST_LINES and lines.direction is Direction.FROM_TARGET:
            self.first += itertools.islice(lines, _FIRST_LINES - len(self.first))
        for sink in self._sinks:
            sink.see(lines)

    def _flush(self) -> None:
        """The end of a change: logs have it, and who waits looks again."""
        self.changed.notify_all()
        for sink in self._sinks:
            sink.flush()

    def _read(self, fd: int) -> tuple[bytes, bool]:
        """What is there now, at most 64 KiB, and whether more may come. A tty gives 4 KiB at a time."""
        room, filled = self._room, 0
        while filled < PIECE:
            try:
                count = os.readv(fd, [room[filled:]])
            except BlockingIOError:
                break
            except OSError:
                # What came before the fault comes first; the next call meets the fault again.
                if not filled:
                    raise
                break
            if count == 0:
                return bytes(room[:filled]), False
            filled += count
        return bytes(room[:filled]), True
