"""Serial port, reset line and strategy of a physical board as labgrid drivers.

Beside labgrid's SerialDriver it names an adapter that goes and comes back. Suites
do not pass through it: they put a broker on `SerialTty`.
"""

# labgrid is untyped: its base classes and decorators are Any.
# mypy: disable-error-code="misc,untyped-decorator"

from __future__ import annotations

import os
import re
import select
import shlex
import subprocess
import threading
from pathlib import Path
from typing import Any

import attr
from labgrid.driver import Driver, UBootDriver
from labgrid.driver.consoleexpectmixin import ConsoleExpectMixin
from labgrid.factory import target_factory
from labgrid.protocol import ConsoleProtocol, PowerProtocol, ResetProtocol
from labgrid.strategy import Strategy
from pexpect import TIMEOUT

from harness.board import LabError, read_board
from harness.hardware.errors import HardwareError
from harness.hardware.lab_target import LabTarget
from harness.hardware.physical import PhysicalMachine, State
from harness.hardware.serial_tty import RETURN_S, SerialTty
from harness.machine.labgrid_driver import boot_files


@target_factory.reg_driver
@attr.s(eq=False)
class QuoinSerialDriver(ConsoleExpectMixin, Driver, ConsoleProtocol):
    """The console of a board behind a SerialPort, RawSerialPort or USBSerialPort.

    Args:
        return_s (float): how long an adapter that is gone may take to come back
    """

    bindings = {"port": {"SerialPort"}}  # noqa: RUF012  # labgrid's way to declare them

    return_s: Any = attr.ib(default=RETURN_S, converter=float)

    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        self.txdelay = 0.0
        self.txchunk = 1
        self._tty: SerialTty | None = None

    def on_activate(self) -> None:
        self._tty = SerialTty(Path(self.port.port), self.port.speed, return_s=self.return_s)

    def on_deactivate(self) -> None:
        tty, self._tty = self._tty, None
        if tty is not None:
            tty.close()

    def _read(self, size: int = 1, timeout: float = 0.0, max_size: int | None = None) -> bytes:
        assert self._tty is not None  # ConsoleExpectMixin asks for an active driver
        if not select.select([self._tty], [], [], timeout)[0]:
            raise TIMEOUT(f"no byte from {self.port.port} within {timeout:g} s")
        try:
            data = os.read(self._tty.fileno(), max_size or 65536)
        except OSError:
            data = b""
        if not data:
            raise HardwareError(self._tty.reopen(lambda seconds: not threading.Event().wait(seconds)))
        return data

    def _write(self, data: bytes) -> int:
        assert self._tty is not None
        sent = 0
        while sent < len(data):
            select.select([], [self._tty], [], 10.0)
            sent += os.write(self._tty.fileno(), data[sent:])
        return sent

    def get_export_vars(self) -> dict[str, Any]:
        return {"port": self.port.port, "speed": str(self.port.speed)}


@target_factory.reg_driver
@attr.s(eq=False)
class QuoinResetDriver(Driver, ResetProtocol):
    """A reset line that a command pulls.

    Args:
        command (str): the command, as words; status 0 says that it is done
    """

    command: Any = attr.ib(validator=attr.validators.instance_of(str))

    @Driver.check_active
    def reset(self) -> None:
        subprocess.run(shlex.split(self.command), check=True, capture_output=True)


@target_factory.reg_driver
@attr.s(eq=False)
class QuoinGrubDriver(UBootDriver):
    """GRUB's shell on the console, spoken to as U-Boot is; it boots from the card, and is on it (`hardware.grub`)."""


@target_factory.reg_driver
@attr.s(eq=False)
class QuoinStrategy(Strategy):
    """A physical board's way from off to ready, for labgrid's own tools: `labgrid-client -c FILE -s ready console`.

    Args: the keys of a physical board's file, described in docs/boards.md. They are declared here so that labgrid
    knows them; their values are read from the file by `harness.board`, which checks them.
    """

    bindings = {"power": PowerProtocol, "console": ConsoleProtocol}  # noqa: RUF012

    arch: Any = attr.ib(default=None)
    smp: Any = attr.ib(default=None)
    memory: Any = attr.ib(default=None)
    ready: Any = attr.ib(default=None)
    panic: Any = attr.ib(default=None)
    stage: Any = attr.ib(default=None)
    prompt: Any = attr.ib(default=None)
    boot_timeout_s: Any = attr.ib(default=None)
    kernel: Any = attr.ib(default=None)
    initrd: Any = attr.ib(default=None)
    cmdline: Any = attr.ib(default=None)
    load: Any = attr.ib(factory=list)
    firmware: Any = attr.ib(default=None)
    image_id: Any = attr.ib(default=None)
    oldest_firmware: Any = attr.ib(default=None)
    log_ring: Any = attr.ib(default=None)
    off_time_s: Any = attr.ib(default=None)
    card: Any = attr.ib(default=None)
    wires: Any = attr.ib(default=None)

    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        if self.target.env is None:
            raise HardwareError("QuoinStrategy reads its board file; load it through an Environment")
        self._board = read_board(Path(self.target.env.config_file))
        self._steps: PhysicalMachine | None = None

    def transition(self, status: str) -> None:
        """Bring the board to the state of that name, by way of all before it. Raises HardwareError, with it off."""
        wanted = State(status)
        if self._steps is None:
            board = self._board
            steps = PhysicalMachine(board, boot_files(board.arch, board.kernel, board.initrd))
            steps.reach(LabTarget(board, self.target))
            self._steps = steps
        try:
            self._walk(self._steps, wanted)
        except (LabError, TIMEOUT) as error:
            raise self._steps.fail(wanted, error) from error

    def _walk(self, steps: PhysicalMachine, wanted: State) -> None:
        steps.cut_power()
        if wanted is State.OFF:
            return
        steps.flash()
        if wanted is State.FLASHED:
            return
        self.target.activate(self.console)
        talk = _Talk(self.console)
        steps.power_on()
        if wanted is State.LOADER:
            steps.stop_loader(talk)
            return
        steps.load(talk)
        if wanted is State.READY:
            talk.expect_any([self._board.ready], self._board.boot_timeout_s)
            steps.state = State.READY


class _Talk:
    """labgrid's console as a boot loader is spoken to."""

    def __init__(self, console: Any) -> None:
        self._console = console
        self.before = b""

    def expect_any(self, patterns: list[str], timeout_s: float) -> tuple[int, re.Match[bytes]]:
        index, self.before, match, _ = self._console.expect(
            [f"(?m){pattern}" for pattern in patterns], timeout=timeout_s
        )
        return index, match

    def send(self, text: str | bytes) -> None:
        self._console.write(text.encode() if isinstance(text, str) else text)
