"""`quoin gdb BOARD`: a board under gdb from its first instruction on."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

SUMMARY = "boot a board under gdb, stopped at its first instruction; the console goes to a log"
PASSES_ON = False


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The board, as for `quoin console`, and whether to start gdb here."""
    from harness.cli import console

    console.add_arguments(parser)
    parser.add_argument("--print", action="store_true", help="print gdb's command and wait for Ctrl-C")


def run(args: argparse.Namespace, rest: Sequence[str]) -> int:
    """Build for the board, switch it on, hand it to gdb."""
    from harness.board import find_boards
    from harness.build.artifacts import TOP
    from harness.cli.console import boot_files
    from harness.cli.replay import under_gdb
    from harness.console import Session
    from harness.machine import QemuMachine

    board = find_boards([args.board], TOP / "boards")[0].variant(smp=args.smp, memory=args.memory)
    files = boot_files(args, board.arch)
    elf = files.kernel.with_name("kernel.elf") if files.kernel is not None and args.image is None else None
    log = TOP / "build" / "logs" / "gdb" / f"{board.id}-{time.strftime('%Y%m%d-%H%M%S')}.log"
    with Session(QemuMachine(board, files, paused=True, admit="at once"), log) as session:
        print(f"log:    {log}")
        return under_gdb(session.machine, elf, 0, only_print=args.print)
