"""Which machine a board is: an emulated one, or one on wires."""

from __future__ import annotations

from harness.board import Board
from harness.hardware import PhysicalMachine
from harness.machine import BootFiles, QemuMachine
from harness.machine.qemu import OnReset


def machine_of(board: Board, files: BootFiles, *, on_reset: OnReset = "stop") -> QemuMachine | PhysicalMachine:
    """The machine of `board`, off. What is done with it is the same; see PhysicalMachine for what a board cannot."""
    return QemuMachine(board, files, on_reset=on_reset) if board.wires is None else PhysicalMachine(board, files)
