"""A serial port as the transport of a console.

An adapter may lose its place on the bus and come back as another device:
ttyUSB0 is ttyUSB1 then, and udev's link in /dev/serial/by-id points there. So a
port is opened by its stable name, and opened again by it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import termios
import time
from collections.abc import Callable
from pathlib import Path

import serial

from harness.hardware.errors import HardwareError

# A hub that is switched off and on, and udev after it, are back well within this.
RETURN_S = 10.0
# Between looks for an adapter that is gone.
_LOOK_S = 0.05


class SerialTty:
    """A tty at `baud` bits per second, 8N1, without flow control, for this process alone.

    Raises HardwareError where it cannot be opened.
    """

    def __init__(self, port: Path, baud: int = 115200, *, return_s: float = RETURN_S) -> None:
        self.port = port
        self.baud = baud
        self._return_s = return_s
        # Without an inter-byte timeout pyserial sets VMIN to 0, and an empty tty reads like one that hung up.
        self._serial = serial.Serial(baudrate=baud, exclusive=True, inter_byte_timeout=0)
        self._open()

    def fileno(self) -> int:
        return int(self._serial.fileno())

    def close(self) -> None:
        self._serial.close()

    def reopen(self, pause: Callable[[float], bool]) -> str:
        """Open a port that hung up as soon as it is back, and say what happened in one sentence.

        `pause(seconds)` waits, and is false when the wait is to be given up.
        Raises HardwareError when the adapter stays away.
        """
        self.close()
        before, gone_s = self._node, time.monotonic()
        vanished = f"adapter gone: {self.port}{_alias(self.port, before)} vanished"
        while True:
            try:
                self._open()
            except HardwareError as error:
                if time.monotonic() - gone_s < self._return_s and pause(_LOOK_S):
                    continue
                advice = _BY_ID if before == self.port else ""
                away_s = time.monotonic() - gone_s
                raise HardwareError(f"{vanished}, and is not back after {away_s:.1f} s ({error}){advice}") from error
            away_s = time.monotonic() - gone_s
            return f"{vanished}, came back as {self._node} after {away_s:.1f} s; what the target said meanwhile is lost"

    def _open(self) -> None:
        self._node = self.port.resolve()
        self._serial.port = str(self._node)
        try:
            self._serial.open()
        except (OSError, termios.error) as error:
            raise HardwareError(f"wanted the serial port {self.port}; found: {_why(error, self._node)}") from error


def holders(node: Path) -> list[str]:
    """Other processes that have a device open, as far as this user may see: `picocom (process 4711)`."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        # What ends meanwhile, or is somebody else's, is left out.
        with contextlib.suppress(OSError):
            if int(process.name) != os.getpid() and any(
                link.is_symlink() and link.readlink() == node for link in (process / "fd").iterdir()
            ):
                found.append(f"{(process / 'comm').read_text().strip()} (process {process.name})")
    return found


_BY_ID = "; an adapter may come back under another name: name it by its link in /dev/serial/by-id"


def _alias(port: Path, node: Path) -> str:
    return "" if node == port else f" ({node})"


def _why(error: Exception, node: Path) -> str:
    # pyserial's may have a text alone, and termios' have the number as an argument alone.
    match getattr(error, "errno", None) or error.args[0]:
        case errno.ENOENT | errno.ENODEV | errno.ENXIO | errno.EIO:
            links = sorted(Path("/dev/serial/by-id").glob("*"))
            there = ", ".join(map(str, links)) or "none in /dev/serial/by-id"
            return f"no such device; there are: {there}; next: plug the adapter in, or mend port: of the board file"
        case errno.EACCES:
            group = "dialout"
            with contextlib.suppress(OSError, KeyError):
                group = node.group()
            return f"no permission; next: join its group, `sudo usermod -aG {group} $USER`, and log in again"
        case errno.EAGAIN | errno.EBUSY:
            who = ", ".join(holders(node)) or "one that this user may not see"
            return f"another process has it: {who}; next: end that, or wait for it"
    return str(error)
