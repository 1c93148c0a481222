"""`quoin serve`: the report live, and the boards' consoles to watch."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from harness.cli.arguments import port

SUMMARY = "serve the report of a run that goes on, with boards and consoles to watch, on 127.0.0.1"
PASSES_ON = False


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which run, and where."""
    parser.add_argument("run", nargs="?", metavar="RUN", help="a run's name, or a part of it (always the newest)")
    parser.add_argument("--port", type=port, default=8017, metavar="N", help="of 127.0.0.1 (8017); 0: any that is free")
    parser.add_argument("--token", action="store_true", help="who has the address that is printed may type, too")


def run(args: argparse.Namespace, rest: Sequence[str]) -> int:
    """Serve until Ctrl-C."""
    import secrets

    from harness.build.artifacts import TOP
    from harness.report.run import find
    from harness.report.serve import Server

    find(TOP, args.run)
    token = secrets.token_urlsafe(24) if args.token else ""
    with Server(TOP, args.run, args.port, boards=board_states, token=token) as server:
        print(f"serving {server.address} until Ctrl-C", flush=True)
        server.serve_forever()
    return 0


def board_states() -> list[tuple[str, str]]:
    """Each board of this tree, and who has it."""
    from harness.board import BoardError, known_boards, read_board
    from harness.build.artifacts import TOP
    from harness.cli.boards import state

    def told(path: Path) -> str:
        try:
            return state(path.stem, read_board(path).exclusive)
        except BoardError as error:
            return f"broken: {error}"

    folder = TOP / "boards"
    return [(name, told(folder / f"{name}.yaml")) for name in known_boards(folder)]
