"""Serial ports of other hosts, as ser2net and terminal servers offer them.

Raw TCP is a socket and nothing else, read like a tty. RFC 2217 (Telnet with a
serial port's settings) is pyserial's, whose own thread takes Telnet's words out;
two more carry the bytes between it and a socket pair, so that a console has one
file descriptor whatever it comes over.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable

from serial import rfc2217

from harness.hardware.errors import HardwareError

# A terminal server that restarts, and the network to it, are back within this.
RETURN_S = 10.0
_LOOK_S = 0.05
_CONNECT_S = 10.0
_PIECE = 65536


class NetworkLine(ABC):
    """A serial port at `host:port`. Raises HardwareError where it cannot be reached."""

    def __init__(self, host: str, port: int, baud: int, *, return_s: float = RETURN_S) -> None:
        self.host, self.port, self.baud = host, port, baud
        self._return_s = return_s
        self._open()

    @abstractmethod
    def fileno(self) -> int: ...

    @abstractmethod
    def close(self) -> None: ...

    @abstractmethod
    def _connect(self) -> None:
        """Raises OSError or ValueError."""

    def reopen(self, pause: Callable[[float], bool]) -> str:
        """Connect again as soon as that can be, and say what happened; see SerialTty.reopen."""
        self.close()
        gone_s = time.monotonic()
        lost = f"serial server gone: the connection to {self.host}:{self.port} broke"
        while True:
            try:
                self._open()
            except HardwareError as error:
                away_s = time.monotonic() - gone_s
                if away_s < self._return_s and pause(_LOOK_S):
                    continue
                raise HardwareError(f"{lost}, and is not back after {away_s:.1f} s ({error})") from error
            away_s = time.monotonic() - gone_s
            return f"{lost}, came back after {away_s:.1f} s; what the target said meanwhile is lost"

    def _open(self) -> None:
        try:
            self._connect()
        except (OSError, ValueError) as error:  # pyserial's SerialException is an OSError
            raise HardwareError(
                f"wanted the serial port at {self.host}:{self.port}; found: {error}; "
                "next: does ser2net run there, and does its configuration name this port?"
            ) from error


class RawTcpLine(NetworkLine):
    """A serial port behind a raw TCP port; its settings are the other end's affair."""

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def _connect(self) -> None:
        self._socket = socket.create_connection((self.host, self.port), _CONNECT_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.setblocking(False)


class Rfc2217Line(NetworkLine):
    """A serial port by RFC 2217, set to `baud` bits per second, 8N1, from this end."""

    def fileno(self) -> int:
        return self._near.fileno()

    def close(self) -> None:
        self._near.close()
        with contextlib.suppress(OSError):
            self._far.shutdown(socket.SHUT_RDWR)
        self._serial.close()
        for thread in self._threads:
            thread.join(_CONNECT_S)
        self._far.close()

    def _connect(self) -> None:
        self._serial = rfc2217.Serial()
        # Ptys and many adapters have no control lines to answer for.
        self._serial.port = f"rfc2217://{self.host}:{self.port}?ign_set_control&timeout={_CONNECT_S:g}"
        self._serial.baudrate = self.baud
        # A read ends at its first byte, or by then to see whether the line still stands.
        self._serial.timeout = _LOOK_S
        self._serial.open()
        self._near, self._far = socket.socketpair()
        self._near.setblocking(False)
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._receive, self._transmit)]
        for thread in self._threads:
            thread.start()

    def _receive(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                if piece := self._serial.read(1):
                    self._far.sendall(piece + self._serial.read(min(self._serial.in_waiting, _PIECE)))
        with contextlib.suppress(OSError):
            self._far.shutdown(socket.SHUT_WR)  # the console ends, or is opened again

    def _transmit(self) -> None:
        with contextlib.suppress(OSError):
            while piece := self._far.recv(_PIECE):
                self._serial.write(piece)
