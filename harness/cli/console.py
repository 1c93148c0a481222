"""`quoin console BOARD`: a hand on a machine."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.machine import BootFiles

SUMMARY = "boot a board and attach this terminal to its console (leave with Ctrl-])"
PASSES_ON = False


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which board, and which variant of it."""
    parser.add_argument("board", help="a board's name, such as qemu-aarch64; boards/ lists them")
    parser.add_argument("--smp", type=int, help="how many CPUs")
    parser.add_argument("--memory", help="how much memory, such as 128M or 2G")
    add_boot_arguments(parser)


def add_boot_arguments(parser: argparse.ArgumentParser) -> None:
    """What to boot on the board."""
    parser.add_argument("--append", default="", help="kernel command line; docs/kernel-command-line.md has the words")
    parser.add_argument("--debug-kernel", action="store_true", help="boot the debug build")
    parser.add_argument("--image", type=Path, help="boot this image, and build nothing")
    parser.add_argument("--initrd", type=Path, help="the archive that goes with --image")


def run(args: argparse.Namespace, rest: Sequence[str]) -> int:
    """Build for the board, boot it, hand the terminal over."""
    from harness.build.artifacts import TOP
    from harness.console.switch_on import machine_of
    from harness.console.terminal import interact
    from harness.hardware import places

    board = places.boards([args.board], TOP / "boards")[0].variant(smp=args.smp, memory=args.memory)
    files = boot_files(args, board.arch)
    log = TOP / "build" / "logs" / "console" / f"{board.id}-{time.strftime('%Y%m%d-%H%M%S')}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    status = interact(machine_of(board, files, on_reset="restart"), log)
    print(f"log: {log}")
    return status


def boot_files(args: argparse.Namespace, arch: str) -> BootFiles:
    """What to boot: the files that were named, or this tree's build."""
    from harness.build import ARCHES, build
    from harness.build.errors import BuildError
    from harness.cli.build import say
    from harness.machine import BootFiles

    if args.image is not None:
        return BootFiles(args.image, args.initrd, args.append)
    if args.initrd is not None:
        raise BuildError("--image beside --initrd", "--initrd alone", next_step="name both, or neither")
    known = next((name for name in ARCHES if name == arch), None)
    if known is None:
        raise BuildError(f"a board of {', '.join(ARCHES)}", arch, next_step="name the image with --image")
    built = build(known, "debug" if args.debug_kernel else "release", on_line=say)
    return BootFiles(built.image, built.archive, args.append)
