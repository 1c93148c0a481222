"""Our emulated board as a labgrid driver, for labgrid's own tools.

`labgrid-client -c boards/qemu-riscv64.yaml power on` or `console` find it here.
Suites do not pass through it: they use `QemuMachine` with a broker, which reads
when bytes come and not when somebody asks.
"""

# labgrid is untyped: its base classes and decorators are Any.
# mypy: disable-error-code="misc,untyped-decorator"

from __future__ import annotations

import os
import select
from pathlib import Path
from typing import Any

import attr
from labgrid.driver import Driver
from labgrid.driver.consoleexpectmixin import ConsoleExpectMixin
from labgrid.factory import target_factory
from labgrid.protocol import ConsoleProtocol, PowerProtocol, ResetProtocol
from pexpect import EOF, TIMEOUT

from harness.board import read_board
from harness.machine.errors import MachineError
from harness.machine.qemu import BootFiles, QemuMachine


def boot_files(board_arch: str, kernel: Path | None, initrd: Path | None) -> BootFiles:
    """The board's own images, or else the kernel of this tree, built when that is needed."""
    if kernel is not None:
        return BootFiles(kernel, initrd)
    from harness.build import build

    artifacts = build(board_arch)  # type: ignore[arg-type]  # checked when the board was read
    return BootFiles(artifacts.image, artifacts.archive)


@target_factory.reg_driver
@attr.s(eq=False)
class QuoinQemuDriver(ConsoleExpectMixin, Driver, PowerProtocol, ConsoleProtocol, ResetProtocol):
    """Power, reset and console of an emulated board.

    Args: the keys of a board file, described in docs/boards.md. They are
    declared here so that labgrid knows them; their values are read from the file
    by `harness.board`, which checks them.
    """

    arch: Any = attr.ib(default=None)
    binary: Any = attr.ib(default=None)
    machine: Any = attr.ib(default=None)
    cpu: Any = attr.ib(default=None)
    smp: Any = attr.ib(default=None)
    max_smp: Any = attr.ib(default=None)
    memory: Any = attr.ib(default=None)
    ready: Any = attr.ib(default=None)
    panic: Any = attr.ib(default=None)
    stage: Any = attr.ib(default=None)
    prompt: Any = attr.ib(default=None)
    boot_timeout_s: Any = attr.ib(default=None)
    args: Any = attr.ib(factory=list)
    kernel: Any = attr.ib(default=None)
    initrd: Any = attr.ib(default=None)
    firmware: Any = attr.ib(default=None)
    firmware_vars: Any = attr.ib(default=None)
    cmdline: Any = attr.ib(default=None)
    exclusive: Any = attr.ib(default=False)
    device_tree: Any = attr.ib(default=None)
    fixed: Any = attr.ib(default=False)
    initrd_at: Any = attr.ib(default=0)
    monitor_cpus: Any = attr.ib(default=0)
    oldest_qemu: Any = attr.ib(default=None)

    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        self.txdelay = 0.0
        self.txchunk = 1
        if self.target.env is None:
            raise MachineError("QuoinQemuDriver reads its board file; load it through an Environment")
        self._board = read_board(Path(self.target.env.config_file))
        self._qemu: QemuMachine | None = None

    @Driver.check_active
    def on(self) -> None:
        """Start the machine; does nothing when it is on."""
        if self._qemu is None:
            files = boot_files(self._board.arch, self._board.kernel, self._board.initrd)
            machine = QemuMachine(self._board, files)
            machine.on()
            machine.console_socket.setblocking(False)
            self._qemu = machine

    @Driver.check_active
    def off(self) -> None:
        """End the machine; does nothing when it is off."""
        machine, self._qemu = self._qemu, None
        if machine is not None:
            machine.off()

    @Driver.check_active
    def cycle(self) -> None:
        self.off()
        self.on()

    @Driver.check_active
    def reset(self) -> None:
        self._on().reset()

    def on_deactivate(self) -> None:
        machine, self._qemu = self._qemu, None
        if machine is not None:
            machine.off()

    def _on(self) -> QemuMachine:
        if self._qemu is None:
            raise MachineError(f"{self._board.name} is off; switch it on first")
        return self._qemu

    def _read(self, size: int = 1, timeout: float = 0.0, max_size: int | None = None) -> bytes:
        console = self._on().console_socket
        if not select.select([console], [], [], timeout)[0]:
            raise TIMEOUT(f"no byte from {self._board.name} within {timeout:g} s")
        data = os.read(console.fileno(), max_size or 65536)
        if not data:
            raise EOF(str(self._on().death()))
        return data

    def _write(self, data: bytes) -> int:
        console = self._on().console_socket
        sent = 0
        while sent < len(data):
            select.select([], [console], [], 10.0)
            sent += os.write(console.fileno(), data[sent:])
        return sent

    def get_export_vars(self) -> dict[str, Any]:
        return {"board": self._board.name}
