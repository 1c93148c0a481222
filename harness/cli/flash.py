"""`quoin flash BOARD`: boot files put where a board finds them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from harness.cli.console import add_boot_arguments, boot_files

SUMMARY = "build for a board and put the boot files where it finds them: TFTP's folder, a card; leaves it off"
PASSES_ON = False


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which board, and what to boot."""
    parser.add_argument("board", help="a board's name; boards/ lists them")
    add_boot_arguments(parser)


def run(args: argparse.Namespace, rest: Sequence[str]) -> int:
    """Build, and flash; an emulated board reads the build itself."""
    from harness.build.artifacts import TOP
    from harness.hardware import PhysicalMachine, places

    board = places.boards([args.board], TOP / "boards")[0]
    files = boot_files(args, board.arch)
    if board.wires is None:
        files.check(board.arch)
        print(f"{board.name}: nothing to write, QEMU reads {files.kernel} and {files.initrd}")
        return 0
    machine = PhysicalMachine(board, files)
    machine.prepare()
    machine.off()
    print(f"{board.name}: flashed with {files.kernel} and {files.initrd}; it is {machine.state.value}")
    return 0
