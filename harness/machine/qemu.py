"""An emulated board: one QEMU process, its console, its monitor.

Console and monitor are socket pairs that QEMU inherits. So no byte is printed
before somebody listens, no socket file can be left behind, and the end of QEMU
is the end of both. This module does not read the console: a broker does.

A reset by the guest stops the machine instead of restarting it, so that a
reboot loop is one event and not a flood; `on_reset="restart"` lets it go on.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from harness.board import Board, Lease, Place, admission, memory_text
from harness.machine import firmware, loop
from harness.machine.attach import MONITOR, Running, held, record
from harness.machine.errors import ImageError, MachineError, Misuse, QemuDied, QemuRefused
from harness.machine.events import Event, Kind
from harness.machine.gdbstub import GdbStub
from harness.machine.image import check_image
from harness.machine.memory import GuestMemory
from harness.machine.qemu_binary import find_qemu
from harness.machine.qmp_end import disconnect, let_be, outcome
from harness.machine.scratch import Scratch

if TYPE_CHECKING:
    from qemu.qmp import QMPClient

START_TIMEOUT_S = 20.0
COMMAND_TIMEOUT_S = 10.0
_STOP_TIMEOUT_S = 5.0
_LOOK_S = 0.2
_SOCKET_BYTES = 4 << 20

OnReset = Literal["stop", "restart"]
# A machine under somebody's hand sleeps most of the time and must not keep tests waiting.
OnAdmission = Literal["budget", "at once"]


@dataclass(frozen=True, slots=True)
class BootFiles:
    """What is put before the machine. `kernel=None` boots the firmware alone."""

    kernel: Path | None
    initrd: Path | None = None
    cmdline: str = ""

    def check(self, arch: str) -> None:
        """Raise ImageError where a file is missing or for another architecture."""
        if self.kernel is not None:
            check_image(self.kernel, arch)
        if self.initrd is not None and not self.initrd.is_file():
            raise ImageError(f"{self.initrd}: no such boot archive; build it with `quoin build`")


class QemuMachine:
    """A machine that is on or off. `on` and `off` may be called from any one thread."""

    def __init__(
        self,
        board: Board,
        files: BootFiles,
        *,
        extra_args: Sequence[str] = (),
        paused: bool = False,
        on_reset: OnReset = "stop",
        admit: OnAdmission = "budget",
    ) -> None:
        self.board = board
        self.files = files
        self.events: list[Event] = []
        self.extra_args = tuple(extra_args)
        self._paused = paused
        self._on_reset = on_reset
        self.admit: OnAdmission = admit
        # Shows people a line; pytest, which keeps what is printed from them, has a way of its own.
        self.say: Callable[[str], None] = lambda text: print(text, file=sys.__stderr__, flush=True)
        self._process: subprocess.Popen[bytes] | None = None
        self._qmp: QMPClient | None = None
        self._console: socket.socket | None = None
        self._changed = threading.Condition()
        self._listeners: list[Callable[[Event], None]] = []
        self._watcher: asyncio.Task[None] | None = None
        self._exited: asyncio.Future[int] | None = None
        self._stderr = b""
        self._stderr_fd: int | None = None
        self._stopping = False
        self._resetting, self._booted = False, 0
        self._slots: Place | None = None
        self._made_way = False
        self.lease: Lease | None = None
        self._directory: Scratch | None = None
        self._memory: GuestMemory | None = None
        self._stub: GdbStub | None = None
        self.started_s = 0.0

    # Power.

    def on(self) -> None:
        """Start QEMU and wait until its monitor answers.

        Raises QemuMissing, ImageError, or QemuDied with QEMU's own words.
        """
        if self._process is not None:
            raise MachineError(f"{self.board.id} is on already")
        binary = find_qemu(self.board.binary, self.board.oldest_qemu)
        guard = shutil.which("setpriv")
        if guard is None:
            raise MachineError(
                "setpriv is not installed, and without it QEMU could outlive the lab; run `apt-get install util-linux`"
            )
        self.files.check(self.board.arch)
        firmware.check(self.board)
        self.events.clear()
        self._resetting, self._booted = False, 0
        if self.board.exclusive:
            self.lease = Lease(self.board.name)
            self.lease.take(tell=self._say)
        try:
            if self.admit == "budget":
                self._admit()
            self._directory = Scratch()
            self._memory = GuestMemory(self.board.memory_mib << 20)
            loop.run(self._start(guard, binary), START_TIMEOUT_S + 1)
        except BaseException:
            self.off()
            raise

    def _admit(self) -> None:
        budget = admission().budget
        if self.board.smp > budget:
            self._say(
                f"{self.board.id} runs alone: its {self.board.smp} CPUs are more than this host's budget of {budget}"
            )
        self._slots = admission().take(self.board.smp, machine=self, tell=self._say)

    def _say(self, text: str) -> None:
        # Nobody holds the console's log yet, and a wait without a word would look like a hang.
        self.say(f"quoin: {text}")
        self._tell(Event(Kind.LAB, text, time.monotonic()))

    def off(self) -> None:
        """End QEMU and free what it held. Does nothing when it is off."""
        self._stopping = True
        self._stub = None
        process, self._process = self._process, None
        try:
            if process is not None:
                self._end(process)
        finally:
            self._stopping = False
            if self._console is not None:
                self._console.close()
                self._console = None
            if self._memory is not None:
                self._memory.close()
                self._memory = None
            if self._directory is not None:
                self._directory.close()
                self._directory = None
            if self._slots is not None:
                place, self._slots = self._slots, None
                admission().give_back(place)
            if self.lease is not None:
                self.lease.release()
                self.lease = None

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        # It may have ended and been waited for: then nothing is left to end.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(_STOP_TIMEOUT_S)
        if self._qmp is not None:
            loop.run(disconnect(self._qmp, self._watcher), _STOP_TIMEOUT_S)
            self._qmp = self._watcher = None
        with self._changed:
            self._changed.wait_for(lambda: self._exited is None or self._exited.done(), 1.0)

    def cycle(self) -> None:
        """Off, then on."""
        self.off()
        self.on()

    def reset(self) -> None:
        """Press the reset button: the machine starts again in the same process."""
        since = len(self.events)
        self.qmp("set-action", reboot="reset")
        self._resetting = True
        self.qmp("system_reset")
        self.wait_event("RESET", COMMAND_TIMEOUT_S, since=since)
        if self.status() != "running":
            self.qmp("cont")
        if self.board.arch != "x86_64" or self.board.firmware is not None:
            self.booted()

    def booted(self) -> None:
        """Say that a kernel has spoken since the reset button was pressed: resets from now on are the guest's own.

        Until then SeaBIOS may reset the machine some times more: it finds that it has run before, and puts its ROM
        back (SeaBIOS 1.16.2, src/resume.c, tryReboot). Does not wait, so that who reads the console may call it.
        """
        if not self._resetting:
            return
        self._resetting, self._booted = False, len(self.events)
        if self._on_reset == "stop" and self._qmp is not None:
            action = self._qmp.execute("set-action", {"reboot": "shutdown"})
            asyncio.run_coroutine_threadsafe(let_be(action), loop.io_loop())

    def pause(self) -> None:
        """Make way for a larger machine of the same thread, which waits for room; the guest's clock stands too."""
        with contextlib.suppress(MachineError):  # one that has ended needs no room
            self._made_way = self.status() == "running"
            if self._made_way:
                self.qmp("stop")

    def resume(self) -> None:
        """Go on after `pause`."""
        if self._made_way:
            self._made_way = False
            with contextlib.suppress(MachineError):
                self.qmp("cont")

    @property
    def running(self) -> bool:
        """Whether the QEMU process lives (the guest may be stopped)."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    @property
    def console_socket(self) -> socket.socket:
        """The console: bytes from and to the guest's serial port. One reader only."""
        if self._console is None:
            raise Misuse(f"{self.board.id} is off; its console exists while it is on")
        return self._console

    @property
    def scratch(self) -> Path:
        """A folder that lives as long as the machine is on."""
        if self._directory is None:
            raise Misuse(f"{self.board.id} is off; its folder exists while it is on")
        return self._directory.path

    @property
    def memory(self) -> GuestMemory:
        """The main memory."""
        if self._memory is None:
            raise Misuse(f"{self.board.id} is off; its memory exists while it is on")
        return self._memory

    @property
    def held(self) -> bool:
        """Whether another process holds the machine under gdb."""
        return self._directory is not None and held(self._directory.path)

    def record(self, log: Path) -> None:
        """Tell other processes that the machine is on, and where its console's log is."""
        assert self.pid is not None
        board = self.board
        kernel = None if self.files.kernel is None else self.files.kernel.absolute()
        facts = (board.name, board.id, board.arch, self.pid, os.getpid(), kernel, log.absolute(), time.time())
        record(Running(self.scratch, *facts, monitor_cpus=board.monitor_cpus))

    def command(self, binary: str | None = None) -> list[str]:
        """QEMU's command line, without the lab's own sockets: good for starting it by hand."""
        board = self.board
        words = [binary or board.binary, "-no-user-config", "-nodefaults", "-display", "none"]
        words += ["-machine", board.machine, "-accel", f"tcg,thread={'single' if board.icount else 'multi'}"]
        # CPUs that take turns on one host thread change after 100 ms of guest time: of 128 ns an instruction, so that
        # one that spins does not hold the others up for seconds.
        shift = 0 if board.seed is None else 7
        # An idle machine's clock jumps to its next timer, and RISC-V's may be at the end of time.
        sleep = "on" if board.arch == "riscv64" and board.seed is None else "off"
        words += ["-icount", f"shift={shift},align=off,sleep={sleep}"] if board.icount else []
        if board.seed is not None:  # nothing of the machine may come from the host's clock or chance
            words += ["-seed", str(board.seed), "-rtc", "base=2026-01-01T00:00:00,clock=vm"]
        words += ["-cpu", board.cpu]
        words += ["-smp", str(board.smp + board.monitor_cpus), "-m", memory_text(board.memory_mib)]
        reboot = "shutdown" if self._on_reset == "stop" else "reset"
        words += ["-action", f"reboot={reboot},shutdown=pause,panic=pause"]
        words += firmware.code(board)
        if self.files.kernel is not None:
            words += ["-kernel", str(self.files.kernel)]
            if self.files.initrd is not None and board.initrd_at:
                archive = str(self.files.initrd).replace(",", ",,")
                words += ["-device", f"loader,file={archive},addr={board.initrd_at:#x},force-raw=on"]
            elif self.files.initrd is not None:
                words += ["-initrd", str(self.files.initrd)]
            seed = "" if board.seed is None else f"seed={board.seed}"
            cmdline = " ".join(filter(None, [board.cmdline, seed, self.files.cmdline]))
            if cmdline:
                words += ["-append", cmdline]
        if self._paused:
            words += ["-S"]
        return [*words, *board.args, *self.extra_args]

    def shell_command(self) -> str:
        """A line for a shell that boots the same machine with the console on the terminal."""
        before, tree = firmware.tree_by_hand(self.board)
        words = [*self.command(), *firmware.variables_by_hand(self.board), *tree, "-serial", "mon:stdio"]
        return before + shlex.join(words)

    async def _start(self, guard: str, binary: str) -> None:
        here = asyncio.get_running_loop()
        console, console_end = socket.socketpair()
        monitor, monitor_end = socket.socketpair()
        # A unix socket holds as much as its sender may have under way; a guest prints byte by byte.
        console_end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SOCKET_BYTES)
        stderr, stderr_end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        os.set_blocking(stderr_end, True)
        command = [guard, "--pdeathsig", "KILL", "--", *self.command(binary)]
        command += firmware.own_variables(self.board, self.scratch)
        command += firmware.own_tree(self.board, self.scratch)
        command += ["-chardev", f"socket,id=console,fd={console_end.fileno()}"]
        command += ["-serial", "chardev:console"]
        command += ["-chardev", f"socket,id=qmp,fd={monitor_end.fileno()}"]
        command += ["-mon", "chardev=qmp,mode=control"]
        # A second monitor, for gdb from another process.
        command += ["-chardev", f"socket,id=attach,path={self.scratch / MONITOR},server=on,wait=off"]
        command += ["-mon", "chardev=attach,mode=control"]
        command += self.memory.arguments()
        self._stderr = b""
        self._console = console
        self._stderr_fd = stderr
        self.started_s = time.monotonic()
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=stderr_end,
                stderr=stderr_end,
                pass_fds=[console_end.fileno(), monitor_end.fileno(), self.memory.fd],
                start_new_session=True,
            )
        except OSError as error:
            monitor.close()
            os.close(stderr)
            raise MachineError(f"{binary} cannot be started: {error}") from error
        finally:
            console_end.close()
            monitor_end.close()
            os.close(stderr_end)
        here.add_reader(stderr, self._read_stderr)
        self._exited = here.create_future()
        handle = os.pidfd_open(self._process.pid)
        here.add_reader(handle, self._on_exit, self._process, handle, stderr, self._exited)
        await self._connect(monitor, binary)

    async def _connect(self, monitor: socket.socket, binary: str) -> None:
        from qemu.qmp import QMPClient
        from qemu.qmp.protocol import ConnectError

        assert self._exited is not None
        self._qmp = QMPClient(self.board.id)
        self._watcher = asyncio.get_running_loop().create_task(self._watch(self._qmp))
        connecting = asyncio.ensure_future(self._qmp.connect(monitor))
        either: set[asyncio.Future[Any]] = {connecting, self._exited}
        await asyncio.wait(either, timeout=START_TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED)
        if connecting.done() and connecting.exception() is None:
            return
        if not connecting.done():
            connecting.cancel()
        if not isinstance(failure := await outcome(connecting), (ConnectError, type(None))):
            raise failure
        await asyncio.wait({self._exited}, timeout=1.0)
        if self._exited.done():
            raise self.death()
        raise MachineError(
            f"{binary} runs, but its monitor did not answer within {START_TIMEOUT_S:g} s; "
            "the host may be overloaded: try again, or look at its load"
        )

    async def _watch(self, client: QMPClient) -> None:
        from qemu.qmp import EventListener

        listener = EventListener()
        client.register_listener(listener)
        async for message in listener:
            data = message.get("data", {})
            assert isinstance(data, dict)
            self._tell(Event(Kind.QMP, str(message["event"]), time.monotonic(), data))

    def _read_stderr(self) -> None:
        if self._stderr_fd is None:
            return
        try:
            piece = os.read(self._stderr_fd, 65536)
        except BlockingIOError:
            return
        if not piece:
            asyncio.get_running_loop().remove_reader(self._stderr_fd)
            os.close(self._stderr_fd)
            self._stderr_fd = None
        *lines, self._stderr = (self._stderr + piece).split(b"\n")
        if not piece and self._stderr:
            lines, self._stderr = [*lines, self._stderr], b""
        for line in lines:
            text = line.decode(errors="replace").rstrip("\r")
            self._tell(Event(Kind.STDERR, text, time.monotonic()))

    def _on_exit(
        self,
        process: subprocess.Popen[bytes],
        handle: int,
        stderr: int,
        exited: asyncio.Future[int],
    ) -> None:
        asyncio.get_running_loop().remove_reader(handle)
        os.close(handle)
        code = process.wait()
        while self._stderr_fd == stderr:
            before = self._stderr_fd
            self._read_stderr()
            if self._stderr_fd == before and not _readable(stderr):
                break
        asked = {"asked": True} if self._stopping else {}
        self._tell(Event(Kind.EXIT, _ending(code), time.monotonic(), {"code": code, **asked}))
        if not exited.done():
            exited.set_result(code)
        with self._changed:
            self._changed.notify_all()

    # Events.

    def listen(self, listener: Callable[[Event], None]) -> None:
        """Call `listener` for each event, those so far included; on the lab's I/O thread."""
        with self._changed:
            self._listeners.append(listener)
            past = list(self.events)
        for event in past:
            listener(event)

    def _tell(self, event: Event) -> None:
        with self._changed:
            self.events.append(event)
            listeners = list(self._listeners)
            self._changed.notify_all()
        for listener in listeners:
            listener(event)

    def wait_event(self, name: str, timeout_s: float, *, since: int = 0) -> Event:
        """The first QMP event `name` from index `since` on. Raises TimeoutError."""

        def found() -> Event | None:
            return next((e for e in self.events[since:] if e.kind is Kind.QMP and e.name == name), None)

        with self._changed:
            self._changed.wait_for(lambda: found() is not None or not self.running, timeout_s)
            event = found()
        if event is None:
            raise TimeoutError(f"no {name} event from {self.board.id} within {timeout_s:g} s")
        return event

    def wait_exit(self, timeout_s: float) -> bool:
        """Wait until QEMU has ended, at most `timeout_s`; whether it has."""

        def ended() -> bool:
            return any(event.kind is Kind.EXIT for event in self.events)

        with self._changed:
            return self._changed.wait_for(ended, timeout_s)

    @property
    def guest_reset(self) -> Event | None:
        """The reset that the guest caused since it was switched on or reset, if it did."""
        for event in [] if self._resetting else self.events[self._booted :]:
            guest = event.data.get("guest") is True
            if guest and event.name == "SHUTDOWN" and event.data.get("reason") == "guest-reset":
                return event
            if guest and event.name == "RESET":
                return event
        return None

    @property
    def guest_off(self) -> Event | None:
        """The event by which the guest switched the machine off, if it did.

        QEMU 7.2 ends at once, with code 0, when a RISC-V guest powers off.
        """
        for event in self.events:
            if event.name == "SHUTDOWN" and event.data.get("reason") == "guest-shutdown":
                return event
            if event.kind is Kind.EXIT and event.data == {"code": 0}:
                return event
        return None

    def death(self) -> QemuDied:
        """How QEMU ended, as an exception with its own words."""
        ending = next((e.name for e in self.events if e.kind is Kind.EXIT), "vanished")
        words = [e.name for e in self.events if e.kind is Kind.STDERR and e.name]
        said = "\n  ".join(words[-10:]) or "(it printed nothing)"
        return QemuDied(
            f"QEMU for {self.board.id} {ending}. It said:\n  {said}\nTo see it yourself: {self.shell_command()}"
        )

    # Steering.

    def qmp(self, command: str, **arguments: Any) -> Any:
        """Execute a QMP command and return its answer. Raises MachineError (QemuRefused) or QemuDied."""
        from qemu.qmp import QMPError

        if self._qmp is None or self._process is None:
            raise Misuse(f"{self.board.id} is off; {command!r} needs it on")
        try:
            return loop.run(self._qmp.execute(command, arguments or None), COMMAND_TIMEOUT_S)
        except TimeoutError as error:
            raise MachineError(f"QEMU did not answer {command!r}: {error}") from error
        except QMPError as error:
            if self.wait_exit(0.2):
                raise self.death() from error
            raise QemuRefused(f"QEMU refused {command!r}: {error}") from error

    def monitor(self, line: str) -> str:
        """Run one line of QEMU's human monitor, such as `info registers -a`."""
        return str(self.qmp("human-monitor-command", **{"command-line": line}))

    def status(self) -> str:
        """QEMU's run state: `running`, `paused`, `shutdown`, ..."""
        return str(self.qmp("query-status")["status"])

    def leave_out_memory(self, leave_out: bool) -> None:
        """Whether what QEMU saves of the machine from now on is without its main memory."""
        self.qmp("migrate-set-capabilities", capabilities=[{"capability": "x-ignore-shared", "state": leave_out}])

    def vcpu_threads(self) -> list[int]:
        """Host thread of each CPU, by CPU number."""
        cpus = self.qmp("query-cpus-fast")
        return [cpu["thread-id"] for cpu in sorted(cpus, key=lambda cpu: cpu["cpu-index"])]

    def gdb(self) -> GdbStub:
        """Open QEMU's gdb stub; the machine stops until the stub continues or is closed.

        Waits while somebody's gdb has it: there is one stub. Raises Misuse where we have it ourselves.
        """
        if self._stub is not None and self._stub.open:
            raise Misuse(
                f"wanted the gdb stub of {self.board.id}, of which there is one; found: this test has it already; "
                "next: leave it first; after faults.stop_cpus that is faults.start_cpus()"
            )
        while self.held and not self.wait_exit(_LOOK_S):
            pass
        path = self.scratch / "gdb"
        answer = self.monitor(f"gdbserver unix:{path},server=on,wait=off")
        if not path.exists():
            raise MachineError(f"QEMU opened no gdb stub: {answer.strip() or 'no reason given'}")
        self._stub = GdbStub(path, self.board.arch, self.board.monitor_cpus)
        return self._stub


def _readable(fd: int) -> bool:
    return bool(select.select([fd], [], [], 0)[0])


def _ending(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    return f"was ended by {signal.Signals(-code).name}"
