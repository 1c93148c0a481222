"""Firmware in flash, such as OVMF: code that machines share, variables that each has for itself; and device trees.

The variables are a qcow2 copy, made anew when the machine is switched on: what
firmware writes is seen by no other machine, and QEMU can save the machine,
which it refuses while anything that can be written is raw.
"""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

from harness.board import Board
from harness.machine.errors import ImageError, MachineError

_COPY_TIMEOUT_S = 20.0


def check(board: Board) -> None:
    """Raise ImageError where a file of the board's firmware is missing."""
    files = {"firmware": board.firmware, "firmware variables": board.firmware_vars, "device tree": board.device_tree}
    for what, path in files.items():
        if path is not None and not path.is_file():
            raise ImageError(
                f"{path}: no such {what}; for OVMF `apt-get install ovmf`, or mend images: in {board.path}"
            )


def code(board: Board) -> list[str]:
    """QEMU's words for the code."""
    return [] if board.firmware is None else ["-drive", _flash(0, "format=raw,readonly=on", board.firmware)]


def variables_by_hand(board: Board) -> list[str]:
    """QEMU's words for variables that are forgotten when it ends."""
    return [] if board.firmware_vars is None else ["-drive", _flash(1, "format=raw,snapshot=on", board.firmware_vars)]


def own_variables(board: Board, folder: Path) -> list[str]:
    """QEMU's words for a copy of the variables, made in `folder`. Raises MachineError."""
    if board.firmware_vars is None:
        return []
    copy = folder / "variables.qcow2"
    convert = ["qemu-img", "convert", "-f", "raw", "-O", "qcow2", str(board.firmware_vars), str(copy)]
    try:
        subprocess.run(convert, check=True, capture_output=True, text=True, timeout=_COPY_TIMEOUT_S)
    except FileNotFoundError:
        raise MachineError("qemu-img, which copies firmware variables, is not installed; run `quoin setup`") from None
    except subprocess.CalledProcessError as error:
        raise MachineError(f"qemu-img did not copy {board.firmware_vars}: {error.stderr.strip()}") from error
    return ["-drive", _flash(1, "format=qcow2", copy)]


def tree_by_hand(board: Board) -> tuple[str, list[str]]:
    """What to do before QEMU is started, for a shell, and QEMU's words for a machine whose firmware gives no tree."""
    if board.device_tree is None:
        return "", []
    made = f"{board.name}.dtb"
    return shlex.join(_compiler(board.device_tree, Path(made))) + " && ", ["-dtb", made]


def own_tree(board: Board, folder: Path) -> list[str]:
    """QEMU's words for a device tree, compiled into `folder`. Raises MachineError."""
    if board.device_tree is None:
        return []
    made = folder / "board.dtb"
    try:
        command = _compiler(board.device_tree, made)
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=_COPY_TIMEOUT_S)
    except FileNotFoundError:
        raise MachineError("dtc, which compiles device trees, is not installed; run `quoin setup`") from None
    except subprocess.CalledProcessError as error:
        raise MachineError(f"dtc did not compile {board.device_tree}: {error.stderr.strip()}") from error
    return ["-dtb", str(made)]


def _compiler(source: Path, made: Path) -> list[str]:
    return ["dtc", "-I", "dts", "-O", "dtb", "-o", str(made), str(source)]


def _flash(unit: int, how: str, path: Path) -> str:
    return f"if=pflash,unit={unit},{how},file={str(path).replace(',', ',,')}"
