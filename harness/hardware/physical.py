"""A physical board: power, flashing, boot loader, and what state it is in.

It has the face of an emulated machine, as far as a board can have it, so that a
session, fixtures and tests are the same. What only an emulator can do is missing,
and says so.

The states follow one another: off, flashed (the boot files lie where the board
finds them), loader (powered, under the boot loader), booting, ready. Who fails on
the way leaves the board off, and says how far it came.
"""

from __future__ import annotations

import contextlib
import enum
import os
import re
import select
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NoReturn

from harness.board import Board, LabError, Lease
from harness.hardware import log_ring, sd_image, staging
from harness.hardware.errors import HardwareError
from harness.hardware.lab_target import LabTarget, SerialPort
from harness.hardware.places import HeldPlace
from harness.hardware.staging import ARCHIVE, IMAGE
from harness.hardware.uboot import Talk, UBoot
from harness.machine import BootFiles, Event, Kind, MachineError
from harness.machine.attach import Running, record
from harness.machine.scratch import Scratch

# The event by which a session hears that its board is lost.
LOST = "LOST"
_WIRES_S = 60.0
_LET_GO_S = 10.0


class State(enum.Enum):
    """How far a board is."""

    UNKNOWN = "unknown"
    OFF = "off"
    FLASHED = "flashed"
    LOADER = "loader"
    BOOTING = "booting"
    READY = "ready"


class EmulatorOnly(MachineError, AttributeError):
    """Something was asked of a physical board that only an emulator has."""


class PhysicalMachine:
    """A board on wires. `on` and `off` may be called from any one thread."""

    pid: int | None = None
    guest_off: Event | None = None
    held = False
    extra_args: tuple[str, ...] = ()

    def __init__(self, board: Board, files: BootFiles) -> None:
        assert board.wires is not None
        self.board = board
        self.files = files
        self.wires = board.wires
        self.state = State.UNKNOWN
        self.events: list[Event] = []
        self.lease: Lease | None = None
        self.firmware: str | None = None
        """The firmware's version, as it said it on this boot."""
        self.admit = "at once"  # the host has nothing to do for it
        self.lost: HardwareError | None = None
        """Why it is not the lab's any more: its place's exporter is gone, perhaps."""
        self._place: HeldPlace | None = None
        self._target: LabTarget | None = None
        self._loader: UBoot | None = None
        self._port: SerialPort | None = None
        self._wires: subprocess.Popen[bytes] | None = None
        self._directory: Scratch | None = None
        self._listeners: list[Callable[[Event], None]] = []
        self._mutex = threading.Lock()
        self._banners = 0
        self._off_s = time.monotonic()

    def __getattr__(self, name: str) -> NoReturn:
        raise EmulatorOnly(
            f"{self.board.name} is a physical board and has no {name!r}; "
            "a test that wants it says so, by mark: needs('qmp') or needs('gdbstub')"
        )

    # Power.

    def take(self) -> None:
        """Lease the board and cut its power. Raises LabError, with the board off as far as that could be."""
        if self._target is not None:
            raise HardwareError(f"{self.board.id} is on already")
        self.events.clear()
        self.lost = None
        if not self.wires.place:
            self.lease = Lease(self.board.name)
            self.lease.take(tell=self._say)
        with self._or_off(State.OFF):
            self._directory = Scratch()
            if self.wires.place:
                self._place = HeldPlace(self.wires.place, self.wires.coordinator, self._say, self._lose)
            self.reach(LabTarget(self.board, resources=None if self._place is None else self._place.resources))
            self.cut_power()

    def _lose(self, why: str) -> None:
        self.lost = HardwareError(why)
        self._tell(Event(Kind.LAB, LOST, time.monotonic(), {"why": why}))

    def prepare(self) -> None:
        """`take`, and flash the board. Raises LabError, with the board off."""
        self.files.check(self.board.arch)
        self.take()
        with self._or_off(State.FLASHED):
            self.flash()

    def on(self) -> None:
        """`prepare`, open the console and switch the board on. Raises LabError, with the board off."""
        self.prepare()
        with self._or_off(State.LOADER):
            self._port = self._lab.serial_port()
            self.power_on()

    def reach(self, target: LabTarget) -> None:
        """Use these wires, made by the command that the board file names."""
        if self.wires.command:
            self._wires, said = start_wires(self.board)
            for line in said:
                self._tell(Event(Kind.LAB, line, time.monotonic()))
        self._target = target
        self._loader = target.loader()

    @contextlib.contextmanager
    def _or_off(self, wanted: State) -> Iterator[None]:
        try:
            yield
        except LabError as error:
            came, said = self.state, str(error)
            try:
                self.off()
            except HardwareError as second:
                said += f"\nand then: {second}"
            raise HardwareError(self._failure(wanted, came, said)) from error
        except BaseException:
            self.off()
            raise

    def cut_power(self) -> None:
        """Bring the board to `off`, whatever it does."""
        self.state = State.UNKNOWN
        self._lab.power("off")
        self._off_s = time.monotonic()
        self.state = State.OFF

    def flash(self) -> None:
        """Put the boot files where the board finds them: into TFTP's folder, onto its card."""
        files = {IMAGE: self.files.kernel, ARCHIVE: self.files.initrd}
        there = {name: path for name, path in files.items() if path is not None}
        tftp = self._lab.tftp()
        if tftp is not None:
            staging.stage(there, tftp[0])
        card = self.wires.card
        write = sd_image.write if self._loader is None else self._loader.write_card
        if card is not None:
            write(card, there)
        elif tftp is None and there:
            image = self.scratch / "card"
            write(image, there)
            if not self._lab.write_storage(image):
                raise HardwareError(
                    f"{self.board.path} names no place for boot files; "
                    "next: a TFTPProvider, a USBStorageDriver, or `card` of QuoinStrategy"
                )
            image.unlink()
        self.state = State.FLASHED

    def power_on(self) -> None:
        """Switch the power on, when it has been off for long enough."""
        left = self.wires.off_time_s - (time.monotonic() - self._off_s)
        if left > 0:  # capacitors keep a board half alive for a while
            threading.Event().wait(left)
        self._start(lambda: self._lab.power("on"))

    def _start(self, how: Callable[[], None]) -> None:
        """Let it start from its first instruction."""
        with self._mutex:
            self._banners, self.firmware = 0, None
            self.events = [event for event in self.events if event.name != "SHUTDOWN"]
        self.state = State.UNKNOWN
        how()
        self.state = State.LOADER if self._loader else State.BOOTING

    def load(self, console: Talk) -> None:
        """Bring it from the boot loader to `booting`. Raises LabError, or what `console` raises."""
        words = " ".join(filter(None, [self.board.cmdline, self.files.cmdline]))
        if self._loader is None or not self.wires.load:
            if words:
                raise HardwareError(f"{self.board.path} has no load: by which its kernel could be told {words!r}")
            self.state = State.BOOTING
            return
        tftp = self._lab.tftp()
        before = "" if tftp is None else tftp[1]
        initrd = None if self.files.initrd is None else before + ARCHIVE
        commands = staging.commands(self.wires.load, {"image": before + IMAGE, "initrd": initrd, "cmdline": words})
        self.stop_loader(console)
        self._loader.boot(console, commands)
        self.state = State.BOOTING

    @property
    def has_loader(self) -> bool:
        return self._loader is not None

    def stop_loader(self, console: Talk) -> None:
        """Keep the boot loader from booting by itself, where there is one."""
        if self._loader is not None:
            self._loader.stop(console)

    def ready(self, first_lines: Sequence[str]) -> str:
        """Its `ready` line has come; what its health is. Raises HardwareError where it cannot be trusted, and is off.

        A board that runs another image than the one that was flashed, or does not say which, proves nothing.
        """
        told = []
        try:
            if self.wires.firmware:
                told.append(f"firmware {self._firmware()}")
            if self.wires.image_id:
                told.append(f"image {self._image_id(first_lines)}")
        except HardwareError as error:
            raise self.fail(State.READY, error) from error
        self.state = State.READY
        return ", ".join([*told, f"off for at least {self.wires.off_time_s:g} s"])

    def _firmware(self) -> str:
        if self.firmware is None:
            raise HardwareError(
                f"health: no line since power on matches firmware: {self.wires.firmware!r}; "
                "was the board switched off at all, and is that its firmware?"
            )
        if (fault := old_firmware(self.board, self.firmware)) is not None:
            raise HardwareError(f"health: {fault}")
        return self.firmware

    def _image_id(self, lines: Sequence[str]) -> str:
        pattern, kernel = re.compile(self.wires.image_id), self.files.kernel
        found = next((match["id"] for line in lines if (match := pattern.search(line))), None)
        if found is None:
            raise HardwareError(f"health: the kernel did not tell its image id, as {self.wires.image_id!r} asks")
        if kernel is not None and bytes.fromhex(found) not in kernel.read_bytes():
            raise HardwareError(
                f"health: {self.board.name} runs the image {found}, which is not {kernel}; "
                "does it boot from another medium, or did its TFTP server serve an old file?"
            )
        return found

    def fail(self, wanted: State, error: Exception) -> HardwareError:
        """It did not come so far: switch it off, and say how far it came."""
        came, said = self.state, str(error)
        try:
            self.cut_power()
        except HardwareError as second:
            said += f"\nand then: {second}"
        return HardwareError(self._failure(wanted, came, said))

    def _failure(self, wanted: State, came: State, said: str) -> str:
        return (
            f"{self.board.name}: wanted it {wanted.value!r}, and it came as far as {came.value!r}; "
            f"it is {self.state.value!r} now. {said}"
        )

    def off(self) -> None:
        """Switch it off and let go of it. Does nothing when it is off."""
        target, self._target = self._target, None
        try:
            if target is not None and self.state is not State.OFF:
                self.state = State.UNKNOWN
                target.power("off")
                self.state = State.OFF
        finally:
            if target is not None:
                target.close()
            process, self._wires = self._wires, None
            if process is not None:
                end_wires(process)
            place, self._place = self._place, None
            if place is not None:
                place.close()
            # The console's reader has closed it, where there was one; a second time does no harm.
            port, self._port = self._port, None
            if port is not None:
                port.close()
            if self._directory is not None:
                self._directory.close()
                self._directory = None
            if self.lease is not None:
                self.lease.release()
                self.lease = None

    def reset(self) -> None:
        """Press the reset button, or switch it off and on where it has none; it stands in its boot loader then.

        Raises HardwareError, with the board off.
        """
        try:
            if self._lab.has_reset_line:
                self._start(self._lab.reset)
            else:
                self.cut_power()
                self.power_on()
        except HardwareError as error:
            raise self.fail(State.LOADER, error) from error

    def read_log(self, console: Talk, first_lines: Sequence[str]) -> str:
        """What the kernel had last written to its log ring, read by the boot loader after a reset; it stays there.

        The kernel told on this boot where the ring is: among `first_lines`. Raises LabError, or what `console` raises.
        """
        pattern = re.compile(self.wires.log_ring)
        told = [match["at"] for line in first_lines if (match := pattern.search(line))] if self.wires.log_ring else []
        if not isinstance(self._loader, UBoot) or not told or not self._lab.has_reset_line:
            raise HardwareError(
                f"the log ring of {self.board.name} cannot be read: it takes U-Boot, a reset line, and a line of the "
                f"kernel's that matches log_ring: {self.wires.log_ring!r}"
            )
        self._start(self._lab.reset)
        loader = self._loader
        loader.stop(console)
        return log_ring.read(lambda address, count: loader.read_memory(console, address, count), int(told[-1], 16))

    # What a session asks of a machine.

    @property
    def running(self) -> bool:
        return self._target is not None and self.state is not State.OFF

    @property
    def console_socket(self) -> SerialPort:
        """The console; one reader only."""
        if self._port is None:
            raise HardwareError(f"{self.board.id} is off; its console exists while it is on")
        return self._port

    @property
    def scratch(self) -> Path:
        """A folder that lives as long as the board is on."""
        if self._directory is None:
            raise HardwareError(f"{self.board.id} is off; its folder exists while it is on")
        return self._directory.path

    @property
    def guest_reset(self) -> Event | None:
        """The reset that the board made by itself: its firmware came a second time."""
        return next((event for event in self.events if event.name == "SHUTDOWN"), None)

    def see_firmware(self, text: str) -> None:
        """A line of the console: of the firmware's, perhaps."""
        match = re.search(self.wires.firmware, text) if self.wires.firmware else None
        if match is None:
            return
        with self._mutex:
            self._banners += 1
            again = self._banners > 1
            self.firmware = match["version"]
        if again:
            # As QEMU tells it of a machine that stops there.
            self._tell(Event(Kind.LAB, "SHUTDOWN", time.monotonic(), {"reason": "guest-reset", "firmware": text}))

    def listen(self, listener: Callable[[Event], None]) -> None:
        """Call `listener` for each event, those so far included."""
        with self._mutex:
            self._listeners.append(listener)
            past = list(self.events)
        for event in past:
            listener(event)

    def record(self, log: Path) -> None:
        """Tell other processes that the board is on, and where its console's log is."""
        board = self.board
        facts = (board.name, board.id, board.arch, 0, os.getpid(), self.files.kernel, log.absolute(), time.time())
        record(Running(self.scratch, *facts))

    def shell_command(self) -> str:
        """The line that starts the same by hand."""
        words = f" --append '{self.files.cmdline}'" if self.files.cmdline else ""
        return f"quoin console {self.board.name}{words}"

    def wait_exit(self, timeout_s: float) -> bool:
        """A board does not end."""
        return False

    @property
    def _lab(self) -> LabTarget:
        if self._target is None:
            raise HardwareError(f"{self.board.id} is off; switch it on first")
        return self._target

    def _tell(self, event: Event) -> None:
        with self._mutex:
            self.events.append(event)
            listeners = list(self._listeners)
        for listener in listeners:
            listener(event)

    def _say(self, text: str) -> None:
        print(f"quoin: {text}", file=sys.__stderr__, flush=True)
        self._tell(Event(Kind.LAB, text, time.monotonic()))


def old_firmware(board: Board, version: str) -> str | None:
    """Says so where a board's firmware is older than its file wants; versions are compared by their numbers."""
    assert board.wires is not None
    oldest = board.wires.oldest_firmware
    if not oldest or _numbers(version) >= _numbers(oldest):
        return None
    return (
        f"{board.name}: wanted firmware of at least {oldest}; found: {version}; next: flash a newer one, "
        "docs/bring-up.md says how"
    )


def _numbers(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version)]


def start_wires(board: Board) -> tuple[subprocess.Popen[bytes], list[str]]:
    """Run the command that makes the board's wires, until it says `ready`; and what it said before."""
    assert board.wires is not None
    wanted = f"{board.name}: wanted the wires that `{' '.join(board.wires.command)}` makes"
    try:
        process = subprocess.Popen(board.wires.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    except OSError as error:
        raise HardwareError(f"{wanted}; found: it cannot be started: {error}") from error
    assert process.stdout is not None
    said = b""
    deadline = time.monotonic() + _WIRES_S
    while not said.endswith(b"ready\n"):
        left = deadline - time.monotonic()
        piece = (
            os.read(process.stdout.fileno(), 4096) if select.select([process.stdout], [], [], max(left, 0))[0] else b""
        )
        if not piece:
            end_wires(process)
            raise HardwareError(f"{wanted}; it said: {said.decode(errors='replace').strip() or 'nothing'}")
        said += piece
    return process, said.decode(errors="replace").splitlines()[:-1]


def end_wires(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.close()
    try:
        process.wait(_LET_GO_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    process.stdout.close()
