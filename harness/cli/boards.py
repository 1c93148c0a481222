"""`quoin boards`: which boards there are, what they have, and who has them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

SUMMARY = "list the boards: what they are, what tests may ask of them, and who holds them"
PASSES_ON = False


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Where the board files are."""
    parser.add_argument("--boards", type=Path, metavar="DIR", help="the folder of board files (this tree's boards/)")


def run(args: argparse.Namespace, rest: Sequence[str]) -> int:
    """Print a line a board; a file that cannot be read is told, with status 1."""
    from harness.board import BoardError, known_boards, memory_text, read_board
    from harness.build.artifacts import TOP

    folder = args.boards or TOP / "boards"
    rows = [("board", "arch", "cpus", "memory", "state", "features")]
    faults = []
    for name in known_boards(folder):
        try:
            board = read_board(folder / f"{name}.yaml")
        except BoardError as error:
            faults.append(f"error: {error}")
            continue
        features = " ".join(sorted(board.features))
        rows.append(
            (name, board.arch, str(board.smp), memory_text(board.memory_mib), state(name, board.exclusive), features)
        )
    if len(rows) == 1 and not faults:
        raise BoardError(f"{folder}: no board files; docs/boards.md tells how to write one")
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    for row in rows:
        print("  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]]).rstrip())
    print("\n".join(faults), end="\n" if faults else "")
    return 1 if faults else 0


def state(name: str, exclusive: bool) -> str:
    """Free, leased and by whom, or made anew for each session."""
    from harness.board import holder_of, stale_of

    if not exclusive:
        return "for everybody"
    holder = holder_of(name)
    if holder is not None:
        return f"leased by {holder}"
    return "free (its last holder went without giving it back)" if stale_of(name) is not None else "free"
