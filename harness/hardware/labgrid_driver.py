"""Serial port, reset line and strategy of a physical board as labgrid drivers.

Beside labgrid's SerialDriver it names an adapter that goes and comes back. Suites
do not pass through it: they put a broker on `SerialTty`.
"""

# labgrid is untyped: its base classes and decorators are Any.
# mypy: disable-error-code="misc,untyped-decorator"

from __future__ import annotations

import os
import select
import shlex
import subprocess
import threading
from pathlib import Path
from typing import Any

import attr
from labgrid.driver import Driver
from labgrid.driver.consoleexpectmixin import ConsoleExpectMixin
from labgrid.factory import target_factory
from labgrid.protocol import ConsoleProtocol, PowerProtocol, ResetProtocol
from labgrid.strategy import Strategy
from pexpect import TIMEOUT

from harness.hardware.errors import HardwareError
from harness.hardware.physical import State
from harness.hardware.serial_tty import RETURN_S, SerialTty


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
    off_time_s: Any = attr.ib(default=None)
    card: Any = attr.ib(default=None)
    wires: Any = attr.ib(default=None)

    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        self.status = State.UNKNOWN

    def transition(self, status: str) -> None:
        """Bring the board to the state of that name, by way of all before it."""
        raise NotImplementedError
