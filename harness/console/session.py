"""A machine that is on, with its console owned: what a test holds in its hand."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, cast

from harness.board import Board, LabError
from harness.console.attach import SOCKET, AttachServer
from harness.console.broker import Broker
from harness.console.channel import Channel
from harness.console.console import Console
from harness.console.errors import ConsoleError, ExpectTimeout
from harness.console.hang_clock import HangClock
from harness.console.lines import Direction, Lines
from harness.console.log import LogFile, Sink
from harness.console.panic import PanicReport, PanicWatcher
from harness.hardware import PhysicalMachine, State
from harness.hardware.physical import LOST
from harness.machine import Event, GdbStub, Kind, QemuMachine

if TYPE_CHECKING:
    from harness.console.clean_target import CleanPoint

_QUIET_EVENTS = frozenset({"STOP", "RESUME", "RTC_CHANGE"})


class Session:
    """Owns a machine and its console, from `on` until the block is left.

    >>> with Session(machine, log) as session:
    ...     session.wait_ready()
    ...     session.console.command("ps")
    """

    def __init__(self, machine: QemuMachine | PhysicalMachine, log: Path, sinks: tuple[Sink, ...] = ()) -> None:
        # A physical one has the same face, and says of what only an emulator can do that it cannot.
        self.machine = cast(QemuMachine, machine)
        self.physical = machine if isinstance(machine, PhysicalMachine) else None
        self.board: Board = machine.board
        self.log_path = log
        self.dirty: str | None = None
        self.ready_line: str | None = None
        self.reset_expected = False
        # Whether a test has cut its console: then the end of that is none of the machine's.
        self.cut_expected = False
        # Called once, when the machine has become ready and before a test knows.
        self.when_ready: Callable[[], None] | None = None
        self.clean_point: CleanPoint | None = None
        # Why there is none, once that was tried.
        self.unsaved: str | None = None
        self._sinks = sinks
        self._closed = False
        self.started_s = time.monotonic()
        self._log = LogFile(log, self.started_s)
        if self._log.fault is not None:
            raise _log_fault(log, self._log.fault)
        try:
            machine.on()
        except BaseException as error:
            self._log.close()
            if isinstance(error, LabError):
                log.write_text(f"{error}\n", encoding="utf-8")
            raise
        self.health: str | None = None
        self.broker = Broker(machine.console_socket, panic=self.board.panic, prompt=self.board.prompt)
        self.console = Console(self.broker, self.board.prompt)
        self.channel = Channel(self.broker)
        for sink in (self._log, *sinks):
            self.broker.attach(sink)
        self.broker.note(machine.shell_command())
        machine.listen(self._on_event)
        self._first_line = _FirstLine(self.machine)
        if self.physical is not None:
            self.broker.attach(_Firmware(self.physical))
        else:
            self.broker.attach(self._first_line)
        self.hang_clock = HangClock(self.machine)
        self.broker.clock, self.broker.host_clock = self.hang_clock.now, self.hang_clock.host
        self.broker.start()
        self._attach: AttachServer | None = None
        clock = self.hang_clock
        try:
            self._attach = AttachServer(self.broker, machine.scratch / SOCKET, hold=clock.hold, release=clock.release)
        except OSError as error:
            self.broker.note(f"nobody can attach to this session: {error}")
        try:
            machine.record(log)
        except BaseException:
            self.close()
            raise
        self._load()

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Switch the machine off. Safe to call twice."""
        if self._closed:
            return
        self._closed = True
        try:
            if self.physical is not None:
                self.broker.close()  # or it would look for the line that goes with its board
            self.machine.off()
        finally:
            self.broker.close()
            if self._attach is not None:
                self._attach.close()
            self._log.close()

    @property
    def closed(self) -> bool:
        return self._closed

    @property
    def first_lines(self) -> list[str]:
        """The first lines since power on: the kernel's first is among them."""
        with self.broker.changed:
            return [str(line) for line in self.broker.first]

    def prompt_shown(self) -> bool:
        """Whether the newest text is the shell's prompt."""
        with self.broker.changed:
            tail = bytes(self.broker.window.text[-64:])
        return re.search(rb"(?:^|\n)" + self.board.prompt.encode() + rb"\Z", tail) is not None

    @property
    def alive(self) -> bool:
        """Whether a further test may use this machine as it stands."""
        return (
            not self._closed
            and self.dirty is None
            and self.machine.running
            and self.broker.panic.report is None
            and self.machine.guest_reset is None
            and self.machine.guest_off is None
        )

    @property
    def panic(self) -> PanicReport | None:
        return self.broker.panic.report

    def mark_dirty(self, why: str) -> None:
        """Say that the next test must not find this machine as it is now."""
        self.dirty = why

    def check_log(self) -> None:
        """Raise LabError where the log could not be written, a full disk for example, or the board is lost."""
        if self.physical is not None and self.physical.lost is not None:
            raise self.physical.lost
        if self._log.fault is not None:
            raise _log_fault(self.log_path, self._log.fault)

    @contextmanager
    def logging_to(self, sink: Sink) -> Iterator[None]:
        """Send console lines to one more place for a while."""
        self.broker.attach(sink)
        try:
            yield
        finally:
            self.broker.detach(sink)

    # What a test does with it.

    def wait_ready(self, timeout_s: float | None = None) -> None:
        """Wait for the board's ready line. Raises as Console.expect."""
        pattern = self.board.ready
        try:
            match = self.console.expect(
                rf"{pattern}[^\n]*\n", self.board.boot_timeout_s if timeout_s is None else timeout_s
            )
        except ExpectTimeout as error:
            if self.physical is None:
                raise
            raise ExpectTimeout(f"{error}; {self.board.name} is {self.physical.state.value!r}") from error
        when_ready, self.when_ready = self.when_ready, None
        if when_ready is not None:
            when_ready()
        if self.physical is not None:
            self.health = self.physical.ready(self.first_lines)
            self.broker.note(f"health: {self.health}")
        self.ready_line = match.group().decode(errors="replace").strip()
        self.check_log()

    def last_stage(self) -> str | None:
        """The newest boot stage that the kernel has reported."""
        pattern = re.compile(self.board.stage)
        with self.broker.changed:
            lines = [str(line) for line in self.broker.recent]
        for text in reversed(lines):
            match = pattern.search(text)
            if match:
                return match["stage"] if "stage" in match.groupdict() else match.group()
        return None

    def qmp(self, command: str, **arguments: Any) -> Any:
        """Execute a QMP command; see QemuMachine.qmp."""
        return self.machine.qmp(command, **arguments)

    def gdb(self) -> GdbStub:
        """Stop the machine and look inside; see QemuMachine.gdb."""
        return self.machine.gdb()

    def reset(self) -> None:
        """Press the reset button and forget what was on the console before."""
        with self.broker.changed:
            self.broker.panic = PanicWatcher(self.board.panic, self.board.prompt)
        self.console.skip()
        self.machine.reset()
        if self.physical is None:
            self.broker.drain()  # what it had said before
            self._first_line.awaited = True
        self.broker.restart_frames()
        self._load()

    def log_ring(self) -> str:
        """What a physical board's kernel had last written, read after a reset; the board stands in its loader then.

        Raises LabError or ConsoleError.
        """
        if self.physical is None:
            raise LabError(f"{self.board.name} is emulated: its memory is read as it stands")
        self.mark_dirty("it was reset to read its log")
        before = self.first_lines
        with self.broker.changed:
            self.broker.panic = PanicWatcher(self.board.panic, self.board.prompt)
        self.console.skip()
        self.broker.restart_frames()
        return self.physical.read_log(self.console, before)

    def _load(self) -> None:
        """Bring a physical board through its boot loader. Raises HardwareError, with the board off."""
        if self.physical is None:
            return
        try:
            self.physical.load(self.console)
        except (ConsoleError, LabError) as error:
            fault = self.physical.fail(State.BOOTING, error)
            self.broker.note(str(fault))
            lines = [f"  {line.direction.value} {line}" for line in self.console.last_lines()]
            self.close()
            raise type(fault)("\n".join([str(fault), *lines, f"console log: {self.log_path}"])) from error
        except BaseException:
            self.close()
            raise

    def _on_event(self, event: Event) -> None:
        if event.kind is Kind.QMP and event.name == "RESET":
            self.broker.restart_frames()
        if event.name not in _QUIET_EVENTS and not event.data.get("asked"):
            self.broker.note(str(event))
        if event.name == LOST:
            self.mark_dirty("the board is lost")
        stopping = event.name in ("SHUTDOWN", LOST) or event.kind is Kind.EXIT
        if stopping and not event.data.get("asked"):
            self.broker.stop(str(event))


class _FirstLine:
    """Tells a machine that was reset when its kernel speaks, where that is awaited."""

    def __init__(self, machine: QemuMachine) -> None:
        self.awaited = False
        self._machine = machine

    def see(self, lines: Lines) -> None:
        if self.awaited and lines.direction is Direction.FROM_TARGET:
            self.awaited = False
            self._machine.booted()

    def flush(self) -> None:
        pass


class _Firmware:
    """Shows a physical board the lines of its console: by them it knows its firmware, and its resets."""

    def __init__(self, machine: PhysicalMachine) -> None:
        self._machine = machine

    def see(self, lines: Lines) -> None:
        if lines.direction is Direction.FROM_TARGET:
            for line in lines:
                self._machine.see_firmware(str(line))

    def flush(self) -> None:
        pass


def _log_fault(path: Path, error: OSError) -> LabError:
    return LabError(
        f"the console log {path} cannot be written: {error.strerror}; "
        "make room on that disk (build/logs may be deleted) and run again"
    )
