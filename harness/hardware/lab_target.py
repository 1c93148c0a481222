"""A physical board's wires as labgrid knows them: power, reset, serial port, TFTP, SD mux.

labgrid is imported here and on first use, because that takes half a second. It
raises what it likes; here that becomes HardwareError with the board's name.
"""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from harness.board import Board
from harness.hardware.errors import HardwareError
from harness.hardware.network_serial import NetworkLine, RawTcpLine, Rfc2217Line
from harness.hardware.serial_tty import SerialTty
from harness.hardware.uboot import UBoot

SerialPort = SerialTty | NetworkLine


class LabTarget:
    """labgrid's target for one board. Every method raises HardwareError."""

    def __init__(self, board: Board, target: Any = None) -> None:
        from labgrid import Environment

        self._board = board
        with self._told("read the board file"):
            self._target: Any = target or Environment(str(board.path)).get_target()

    def power(self, what: Literal["on", "off"]) -> None:
        """Switch the power."""
        with self._told(f"switch the power {what}"):
            getattr(self._target.get_driver("PowerProtocol"), what)()

    @property
    def has_reset_line(self) -> bool:
        """Whether it can be reset without a cut of its power."""
        from labgrid.driver.powerdriver import PowerResetMixin

        with self._told("find the reset line"):
            return not isinstance(self._target.get_driver("ResetProtocol", activate=False), PowerResetMixin)

    def reset(self) -> None:
        """Pull the reset line."""
        with self._told("reset the board"):
            self._target.get_driver("ResetProtocol").reset()

    def serial_port(self) -> SerialPort:
        """The console, opened."""
        from labgrid.resource import NetworkSerialPort

        with self._told("find the serial port"):
            ports = [port for port in self._target.resources if isinstance(port, NetworkSerialPort)]
            port = ports[0] if ports else self._target.get_resource("SerialPort")
        if not ports:
            return SerialTty(Path(port.port), port.speed)
        kind = {"raw": RawTcpLine, "rfc2217": Rfc2217Line}.get(port.protocol)
        if kind is None:
            raise HardwareError(f"{self._board.path}: a serial port's protocol is raw or rfc2217, not {port.protocol}")
        return kind(port.host, port.port, port.speed)

    def loader(self) -> UBoot | None:
        """The boot loader, where the board file names one."""
        from labgrid.driver import UBootDriver

        found = [driver for driver in self._target.drivers if isinstance(driver, UBootDriver)]
        return UBoot.of(found[0]) if found else None

    def tftp(self) -> tuple[Path, str] | None:
        """The folder that TFTP serves, and what goes before a file's name there."""
        from labgrid.resource import TFTPProvider

        found = [one for one in self._target.resources if isinstance(one, TFTPProvider)]
        return ((self._board.path.parent / found[0].internal).resolve(), found[0].external) if found else None

    def write_storage(self, image: Path) -> bool:
        """Write an image to the card or stick on USB that labgrid's USBStorageDriver has; False where there is none.

        With an SD mux the card is the lab's meanwhile, and the board's afterwards.
        """
        from labgrid.driver import USBSDMuxDriver, USBStorageDriver

        kinds = {type(driver) for driver in self._target.drivers}
        if USBStorageDriver not in kinds:
            return False
        with self._told("write the card"):
            mux = self._target.get_driver("USBSDMuxDriver") if USBSDMuxDriver in kinds else None
            if mux is not None:
                mux.set_mode("host")
            try:
                self._target.get_driver("USBStorageDriver").write_image(str(image))
            finally:
                if mux is not None:
                    mux.set_mode("dut")
        return True

    def close(self) -> None:
        with self._told("let go of the board"):
            self._target.deactivate_all_drivers()

    @contextlib.contextmanager
    def _told(self, what: str) -> Iterator[None]:
        import requests
        from labgrid.binding import BindingError
        from labgrid.driver.exception import CleanUpError, ExecutionError
        from labgrid.exceptions import InvalidConfigError, NoSupplierFoundError, RegistrationError

        kinds = (requests.RequestException, BindingError, CleanUpError, ExecutionError, InvalidConfigError)
        try:
            yield
        except (*kinds, NoSupplierFoundError, RegistrationError, subprocess.SubprocessError, OSError) as error:
            said = getattr(error, "output", None) or getattr(error, "msg", None) or error
            if isinstance(error, requests.HTTPError) and error.response is not None:
                said = f"{error}: {error.response.text}"
            said = said.decode(errors="replace") if isinstance(said, bytes) else said
            raise HardwareError(
                f"{self._board.name}: wanted to {what}; labgrid says: {str(said).strip()}; "
                f"next: look at resources: and drivers: of {self._board.path}"
            ) from error
