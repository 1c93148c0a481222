"""A physical board's wires as labgrid knows them: power, reset, serial port, TFTP, SD mux.

labgrid is imported here and on first use, because that takes half a second. It
raises what it likes; here that becomes HardwareError with the board's name.
"""

from __future__ import annotations

import contextlib
import re
import shlex
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from harness.board import Board
from harness.hardware import grub, sd_image
from harness.hardware.errors import HardwareError
from harness.hardware.network_serial import NetworkLine, RawTcpLine, Rfc2217Line
from harness.hardware.serial_tty import SerialTty
from harness.hardware.uboot import UBoot

SerialPort = SerialTty | NetworkLine
# labgrid asks switches without a time limit; one that says nothing for so long is dead. A bench may wait long for
# room on the host before it says that it is on.
_SWITCH_S = 30.0
_ON_S = 900.0


def is_here(host: str) -> bool:
    """Whether a host's name is this machine's."""
    return host in ("localhost", "127.0.0.1", "::1", socket.gethostname(), socket.getfqdn())


def _within(seconds: float, call: Callable[[], Any]) -> Any:
    """What `call` returns or raises. Raises TimeoutError where it does neither; it is left to itself then."""
    results: list[Any] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(call())
        except BaseException as error:  # noqa: BLE001  # raised by who waits
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not results:
        raise TimeoutError(f"no answer within {seconds:g} s")
    return results[0]


class LabTarget:
    """labgrid's target for one board. Every method raises HardwareError."""

    def __init__(
        self, board: Board, target: Any = None, *, resources: Sequence[Mapping[str, Any]] | None = None
    ) -> None:
        """`resources` stand in the place of the file's own: those of a place (harness.hardware.places)."""
        from labgrid import Environment

        self._board = board
        with self._told("read the board file"):
            environment = Environment(str(board.path))
            if resources is not None:
                (main,) = environment.config.get_targets().values()
                main["resources"] = [{one["cls"]: {**one["args"], "name": one["name"]}} for one in resources]
            self._target: Any = target or environment.get_target()
        for one, made in zip(resources or (), self._target.resources, strict=False):
            # As labgrid's manager of places has it, which does not run here: who holds the place says what it lost.
            made.extra, made.avail = one["extra"], one["avail"]
            if hasattr(made, "manager"):
                made.manager.poll = lambda: None

    def power(self, what: Literal["on", "off"]) -> None:
        """Switch the power."""
        with self._told(f"switch the power {what}"):
            _within(_ON_S if what == "on" else _SWITCH_S, getattr(self._target.get_driver("PowerProtocol"), what))

    def power_state(self, timeout_s: float = _SWITCH_S) -> bool | None:
        """Whether the switch says that the power is on; None where it cannot be asked."""
        with self._told("ask the power switch"):
            driver = self._target.get_driver("PowerProtocol")
            return bool(_within(timeout_s, driver.get)) if hasattr(driver, "get") else None

    @property
    def has_reset_line(self) -> bool:
        """Whether it can be reset without a cut of its power."""
        from labgrid.driver.powerdriver import PowerResetMixin

        with self._told("find the reset line"):
            return not isinstance(self._target.get_driver("ResetProtocol", activate=False), PowerResetMixin)

    def reset(self) -> None:
        """Pull the reset line."""
        with self._told("reset the board"):
            _within(_SWITCH_S, self._target.get_driver("ResetProtocol").reset)

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

        from harness.hardware.labgrid_driver import QuoinGrubDriver

        found = [driver for driver in self._target.drivers if isinstance(driver, UBootDriver)]
        if not found:
            return None
        return UBoot.of(found[0], grub.write if isinstance(found[0], QuoinGrubDriver) else sd_image.write)

    def tftp(self) -> tuple[Path, str] | None:
        """The folder that TFTP serves, and what goes before a file's name there."""
        from labgrid.resource import TFTPProvider
        from labgrid.resource.remote import RemoteTFTPProvider

        found = [one for one in self._target.resources if isinstance(one, (TFTPProvider, RemoteTFTPProvider))]
        if not found:
            return None
        folder = (self._board.path.parent / found[0].internal).resolve()
        if not folder.is_dir() and not is_here(found[0].host):
            raise HardwareError(
                f"{self._board.name}: wanted its TFTP folder, {folder} of {found[0].host}, under the same path here; "
                "found: none; next: mount it (NFS, sshfs), for this lab writes boot files to folders"
            )
        return folder, found[0].external

    def write_storage(self, image: Path) -> bool:
        """Write an image to the card or stick on USB that labgrid's USBStorageDriver has; False where there is none.

        With an SD mux the card is the lab's meanwhile, and the board's afterwards.
        """
        from labgrid.driver import USBStorageDriver

        kinds = {type(driver) for driver in self._target.drivers}
        if USBStorageDriver not in kinds:
            return False
        mux = self.sd_mux()
        with self._told("write the card"):
            if mux is not None:
                mux.set_mode("host")
            try:
                self._target.get_driver("USBStorageDriver").write_image(str(image))
            finally:
                if mux is not None:
                    mux.set_mode("dut")
        return True

    def sd_mux(self) -> Any:
        """labgrid's driver of the SD mux; None where the board file names none."""
        from labgrid.driver import USBSDMuxDriver

        if USBSDMuxDriver not in {type(driver) for driver in self._target.drivers}:
            return None
        with self._told("find the SD mux"):
            return self._target.get_driver("USBSDMuxDriver")

    def close(self) -> None:
        with self._told("let go of the board"):
            self._target.deactivate_all_drivers()

    @contextlib.contextmanager
    def _told(self, what: str) -> Iterator[None]:
        import requests
        from labgrid.binding import BindingError
        from labgrid.driver.exception import CleanUpError, ExecutionError
        from labgrid.exceptions import InvalidConfigError, NoResourceFoundError, NoSupplierFoundError, RegistrationError

        kinds = (requests.RequestException, BindingError, CleanUpError, ExecutionError, InvalidConfigError)
        try:
            yield
        except (
            *kinds,
            NoResourceFoundError,
            NoSupplierFoundError,
            RegistrationError,
            subprocess.SubprocessError,
            OSError,
            # So its checks of what stands in a file are told.
            ImportError,
            TypeError,
            ValueError,
        ) as error:
            plain = self._in_plain_words(error)
            if plain is not None:
                raise HardwareError(f"{self._board.name}: wanted to {what}; {plain}") from error
            said = getattr(error, "msg", None) or error
            if isinstance(error, requests.HTTPError) and error.response is not None:
                said = f"{error}: {error.response.text}"
            raise HardwareError(
                f"{self._board.name}: wanted to {what}; labgrid says: {str(said).strip()}; "
                f"next: look at resources: and drivers: of {self._board.path}"
            ) from error

    def _in_plain_words(self, error: Exception) -> str | None:
        """What was found and what is next, where labgrid's own words are those of its inside."""
        import requests
        from labgrid.exceptions import InvalidConfigError, NoResourceFoundError

        path = self._board.path
        if isinstance(error, NoResourceFoundError):
            absent = [f"{type(one).__name__} {dict(one.match)}" for one in error.filter or () if hasattr(one, "match")]
            if absent:
                next_step = f"plug it in, or mend match: in {path} (`udevadm info -a NODE` shows what a device has)"
                return f"found: no {' and no '.join(sorted(absent))} on this host; next: {next_step}"
        if isinstance(error, InvalidConfigError) and (unknown := re.fullmatch(r"unknown (\w+) class (\w+)", error.msg)):
            next_step = f"mend it in {path}, or name what has it under imports:"
            return f"found: {unknown[2]}, which is no {unknown[1]} of labgrid's; next: {next_step}"
        if isinstance(error, subprocess.CalledProcessError):
            command = error.cmd if isinstance(error.cmd, str) else shlex.join(map(str, error.cmd))
            output = error.output or error.stderr or "nothing"
            said = (output.decode(errors="replace") if isinstance(output, bytes) else output).strip()
            return f"found: `{command}` ended with status {error.returncode} and said: {said}; next: mend it in {path}"
        if isinstance(error, requests.ConnectionError) and error.request is not None:
            return f"found: nobody answers at {error.request.url!s}; next: is it on, and is that its address in {path}?"
        return None
