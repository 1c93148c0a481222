"""A serial port as a labgrid driver, for labgrid's own tools.

Beside labgrid's SerialDriver it names an adapter that goes and comes back. Suites
do not pass through it: they put a broker on `SerialTty`.
"""

# labgrid is untyped: its base classes and decorators are Any.
# mypy: disable-error-code="misc,untyped-decorator"

from __future__ import annotations

import os
import select
import threading
from pathlib import Path
from typing import Any

import attr
from labgrid.driver import Driver
from labgrid.driver.consoleexpectmixin import ConsoleExpectMixin
from labgrid.factory import target_factory
from labgrid.protocol import ConsoleProtocol
from pexpect import TIMEOUT

from harness.hardware.errors import HardwareError
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
