"""`quoin gdb BOARD`: a board under gdb, one that runs already or one booted for it."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.machine.attach import Running

SUMMARY = "attach gdb to a board that runs, its tests' clocks stopped; or boot one under gdb"
PASSES_ON = False
_LOG_HEAD = 1 << 18


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The board, as for `quoin console`, which machine on it, and whether to start gdb here."""
    from harness.cli import console

    console.add_arguments(parser)
    parser.add_argument("--new", action="store_true", help="boot one, whether or not one is on")
    parser.add_argument("--pid", type=int, help="attach to the machine whose QEMU is this process")
    parser.add_argument("--print", action="store_true", help="print gdb's command and wait for Ctrl-C")


def run(args: argparse.Namespace, rest: Sequence[str]) -> int:
    """Attach to the machine on the board; where none is on, build for the board and switch one on."""
    from harness.build.artifacts import TOP
    from harness.machine import attach

    if not args.new:
        one = attach.choose(attach.running(), args.board, (TOP, Path.cwd()), args.pid)
        if one is not None:
            return _attach(one, only_print=args.print)
    return _boot(args)


def _attach(one: Running, *, only_print: bool) -> int:
    from harness.cli.replay import hand_over
    from harness.machine import attach

    elf, slide, refusal = explained(one)
    print(f"attached: {one}")
    if refusal:
        print(f"note: {refusal}")
    with attach.hold(one) as stub:
        process = Path(f"/proc/{one.pid}")
        return hand_over(stub, one.arch, elf, slide, process.exists, one.monitor_cpus, only_print=only_print)


def explained(one: Running) -> tuple[Path | None, int, str]:
    """The ELF that explains a running machine, the kernel's slide, and why there is no ELF.

    The log's beginning tells slide and build id; a kernel that tells none is taken at its word.
    """
    from harness.board import LabError
    from harness.verdict.symbols import Symbols, slide_of

    if one.kernel is None:
        return None, 0, "it boots its firmware alone: there is no ELF to explain addresses"
    beside = one.kernel.with_name("kernel.elf")
    elf = beside if beside.is_file() else one.kernel
    try:
        own = Symbols(elf).build_id()
    except LabError as error:
        return None, 0, f"addresses are not explained: {error}"
    with one.log.open("rb") as file:
        lines = file.read(_LOG_HEAD).decode(errors="replace").splitlines()
    # A line of the log has its time and its direction first.
    told = slide_of(words[2] for line in lines if len(words := line.split(None, 2)) == 3)
    if told is None:
        return elf, 0, ""
    if own is not None and own != told[1]:
        return None, 0, f"addresses are not explained: {elf} has build id {own}, but {told[1]} runs"
    return elf, told[0], ""


def _boot(args: argparse.Namespace) -> int:
    from harness.board import BoardError, find_boards
    from harness.build.artifacts import TOP
    from harness.cli.console import boot_files
    from harness.cli.replay import under_gdb
    from harness.console import Session
    from harness.machine import QemuMachine

    board = find_boards([args.board], TOP / "boards")[0].variant(smp=args.smp, memory=args.memory)
    if board.wires is not None:
        raise BoardError(f"{board.name} is a physical board and has no gdb stub; try an emulated {board.arch} board")
    files = boot_files(args, board.arch)
    elf = files.kernel.with_name("kernel.elf") if files.kernel is not None and args.image is None else None
    log = TOP / "build" / "logs" / "gdb" / f"{board.id}-{time.strftime('%Y%m%d-%H%M%S')}.log"
    with Session(QemuMachine(board, files, paused=True, admit="at once"), log) as session:
        print(f"log:    {log}")
        return under_gdb(session.machine, elf, 0, only_print=args.print)
