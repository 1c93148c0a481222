"""`quoin power BOARD on|off|cycle|status`: a board that stays on when the command has ended."""

from __future__ import annotations

import argparse
import os
import select
import signal
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from harness.cli.console import add_boot_arguments, boot_files
from harness.cli.holder import Asker, start_holder

if TYPE_CHECKING:
    from harness.board import Board
    from harness.machine.attach import Running

SUMMARY = "switch a board on, off, or off and on, or say whether it is on; `quoin attach` then looks on or types"
PASSES_ON = False
# A bench may wait ten minutes for room on the host.
_STARTS_S = 800.0
_ENDS_S = 60.0
# In the folder of a machine that is on by this verb, and may be switched off by it.
_MARK = "power"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which board, and what to do."""
    parser.add_argument("board", help="a board's name; boards/ lists them")
    parser.add_argument("what", choices=["on", "off", "cycle", "status", "hold"], help="hold: on until this ends")
    add_boot_arguments(parser)


def run(args: argparse.Namespace, rest: Sequence[str]) -> int:
    """Do it, and say what the board is then."""
    from harness.build.artifacts import TOP
    from harness.hardware import places

    board = places.boards([args.board], TOP / "boards")[0]
    if args.what == "hold":
        return _hold(board, args)
    if args.what in ("off", "cycle"):
        _off(board)
    if args.what in ("on", "cycle") and _found(board) is None:
        _on(rest=sys.argv[1:], board=board)
    one = _found(board)
    print(f"{board.name} is off" if one is None else f"on: {one}")
    return 0


def _found(board: Board) -> Running | None:
    from harness.build.artifacts import TOP
    from harness.machine import attach

    # Of an emulated board a test may have another one on, which is none of ours.
    fitting = [one for one in attach.running() if board.wires is not None or (one.folder / _MARK).exists()]
    return attach.choose(fitting, board.name, (TOP,), None)


def _hold(board: Board, args: argparse.Namespace) -> int:
    """Have it on until SIGTERM, or until it ends by itself."""
    from harness.build.artifacts import TOP
    from harness.console import Session
    from harness.console.switch_on import machine_of

    asker = Asker()
    machine = machine_of(board, boot_files(args, board.arch), on_reset="restart")
    machine.admit = "at once"
    log = TOP / "build" / "logs" / "power" / f"{board.id}-{time.strftime('%Y%m%d-%H%M%S')}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with Session(machine, log) as session:
        (machine.scratch / _MARK).touch()
        asker.tell("on")
        with session.broker.changed:
            session.broker.changed.wait_for(lambda: session.broker.ended is not None)
    return 0


def _on(rest: Sequence[str], board: Board) -> None:
    """Start a process that has it on. Raises LabError with that one's words."""
    words = ["hold" if word in ("on", "cycle") else word for word in rest]
    start_holder(words, "on", f"{board.name} was not switched on", limit_s=_STARTS_S, environment={})


def _off(board: Board) -> None:
    """End whoever has it on by this verb, and see it gone. Raises LabError where it is somebody else's."""
    from harness.board import LabError
    from harness.hardware import PhysicalMachine
    from harness.machine import BootFiles

    one = _found(board)
    if one is None:
        if board.wires is not None:  # nobody has it, and its power may be on all the same
            machine = PhysicalMachine(board, BootFiles(None))
            machine.take()
            machine.off()
        return
    if not (one.folder / _MARK).exists():
        raise LabError(f"a test or a person has {one}; end that (process {one.owner}) and try again")
    handle = os.pidfd_open(one.owner)
    try:
        os.kill(one.owner, signal.SIGTERM)
        if not select.select([handle], [], [], _ENDS_S)[0]:
            raise LabError(f"process {one.owner}, which has {one}, did not end within {_ENDS_S:g} s; look at its log")
    finally:
        os.close(handle)
