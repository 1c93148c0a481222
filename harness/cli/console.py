"""`quoin console BOARD`: a hand on a machine."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

SUMMARY = "boot a board and attach this terminal to its console (leave with Ctrl-])"
PASSES_ON = False


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which board, and which variant of it."""
    parser.add_argument("board", help="a board's name, such as qemu-aarch64; boards/ lists them")
    parser.add_argument("--smp", type=int, help="how many CPUs")
    parser.add_argument("--memory", help="how much memory, such as 128M or 2G")
    parser.add_argument("--append", default="", help="kernel command line; docs/kernel-command-line.md has the words")
    parser.add_argument("--debug-kernel", action="store_true", help="boot the debug build")


def run(args: argparse.Namespace, rest: Sequence[str]) -> int:
    """Build for the board, boot it, hand the terminal over."""
    raise NotImplementedError
