"""What is wrong with a physical board: each wire by itself, and then whether the board speaks when it is switched on.

Nothing is written to the board, and it is off afterwards. One that somebody has is left alone.
"""

from __future__ import annotations

import os
import re
import select
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

from harness.cli.doctor import Finding

if TYPE_CHECKING:
    from harness.board import Board
    from harness.console import Session
    from harness.hardware.lab_target import LabTarget

# A switch on the network answers at once, and a server that has no tty to serve closes at once.
_SWITCH_S = 10.0
_CLOSES_S = 1.0
_LOOK_S = 2.0


def board_wires(board: Board) -> Iterator[Finding]:
    """Findings for a board on wires; none for one that is emulated, or that somebody has."""
    from harness.board import LabError, holder_of

    if board.wires is None or (not board.wires.place and holder_of(board.name) is not None):
        return
    found: list[Finding] = []
    try:
        with ExitStack() as stack:
            found += _take_and_look(stack, board)
    except LabError as error:
        found.append(_finding(board, error))
    if not any(one.needed for one in found):
        found += _switched_on(board)
    yield from found


def _take_and_look(stack: ExitStack, board: Board) -> Iterator[Finding]:
    """Make the wires and look at each."""
    from harness.hardware.lab_target import LabTarget
    from harness.hardware.physical import end_wires, start_wires
    from harness.hardware.places import HeldPlace

    assert board.wires is not None
    resources = None
    if board.wires.place:
        said: list[str] = []
        place = HeldPlace(board.wires.place, board.wires.coordinator, said.append, said.append, wait_s=0)
        stack.callback(place.close)
        resources = place.resources
        for text in said:
            next_step = "nothing: it is free now; look why that session ended"
            yield Finding(f"{board.name} given back by its last session", text, next_step, needed=False)
    if board.wires.command:
        process, _ = start_wires(board)
        stack.callback(end_wires, process)
    target = LabTarget(board, resources=resources)
    stack.callback(target.close)
    for check in (_serial, _power, _reset, _tftp, _storage):
        yield from _told(board, check, target)


def _told(board: Board, check: Callable[[Board, LabTarget], Iterator[Finding]], target: LabTarget) -> Iterator[Finding]:
    from harness.board import LabError

    try:
        yield from check(board, target)
    except LabError as error:
        yield _finding(board, error)


def _finding(board: Board, error: Exception) -> Finding:
    """A fault of the lab, whose text says what was wanted, what was found and mostly what to do next."""
    # How far the board came matters less here than what stopped it.
    text = re.sub(r"\s*\n\s*", " ", str(error)).rpartition("' now. ")[2]
    match = re.search(r"wanted (?P<wanted>.*?); (?:found: )?(?P<found>.*?)(?:; next: (?P<next>.*))?$", text)
    if match is None:
        return Finding(f"the wires of {board.name}", text, f"look at {board.path}")
    return Finding(match["wanted"], match["found"], match["next"] or f"look at {board.path}")


def _serial(board: Board, target: LabTarget) -> Iterator[Finding]:
    """The console's port is there, ours to read, and nobody else's."""
    port = target.serial_port()
    try:
        deadline, said = time.monotonic() + _CLOSES_S, b""
        while (left := deadline - time.monotonic()) > 0 and select.select([port], [], [], left)[0]:
            try:
                piece = os.read(port.fileno(), 4096)
            except OSError:
                piece = b""
            said += piece
            if not piece:
                words = f", saying {said.decode(errors='replace').strip()!r}" if said else ""
                yield Finding(
                    f"the console of {board.name} behind its serial server",
                    f"the server closes the connection at once{words}",
                    "see its log: has it the tty, and has nobody else the port (ser2net: kickolduser)?",
                )
                return
    finally:
        port.close()


def _power(board: Board, target: LabTarget) -> Iterator[Finding]:
    """The switch answers."""
    target.power_state(_SWITCH_S)
    yield from ()


def _reset(board: Board, target: LabTarget) -> Iterator[Finding]:
    """It has the reset line that its features promise."""
    if "reset" in board.features and not target.has_reset_line:
        assert board.wires is not None
        yield Finding(
            f"a reset line for {board.name}, as its features say",
            f"no reset driver in its file: its power is cut for {board.wires.off_time_s:g} s instead",
            f"nothing, or wire one and name it in {board.path}",
            needed=False,
        )


def _tftp(board: Board, target: LabTarget) -> Iterator[Finding]:
    """Boot files can be put where TFTP serves them."""
    tftp = target.tftp()
    if tftp is None:
        return
    folder, _ = tftp
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder):
            pass
    except OSError as error:
        yield Finding(
            f"{folder}, the folder of TFTP, to write boot files to",
            error.strerror or str(error),
            f"make it this user's: sudo install -d -o $USER {folder}",
        )


def _storage(board: Board, target: LabTarget) -> Iterator[Finding]:
    """The card and the SD mux are there."""
    from harness.hardware.sd_image import is_unplugged

    assert board.wires is not None
    target.sd_mux()
    card = board.wires.card
    if card is None:
        return
    # A file is made with the folders above it.
    there = next(path for path in (card, *card.parents) if path.exists())
    if is_unplugged(card) or not os.access(there, os.W_OK):
        next_step = f"plug it in, or mend card: of {board.path}"
        yield Finding(f"{card}, the card of {board.name}, to write to", "no such device, or no right", next_step)


# Switched on.


def _switched_on(board: Board) -> Iterator[Finding]:
    """Switch it on without boot files, hear its firmware, and leave it off. The console's log stays."""
    from harness.board import LabError
    from harness.console import ConsoleError, Session
    from harness.hardware import PhysicalMachine
    from harness.machine import BootFiles

    assert board.wires is not None
    bare = replace(board, wires=replace(board.wires, load=(), card=None))
    log = board.path.absolute().parents[1] / "build" / "logs" / "doctor" / f"{board.id}.log"
    try:
        with Session(PhysicalMachine(bare, BootFiles(None)), log) as session:
            yield from _speaks(board, session)
    except (LabError, ConsoleError) as error:
        yield _finding(board, error)


def _speaks(board: Board, session: Session) -> Iterator[Finding]:
    from harness.console import ConsoleFault, ExpectTimeout
    from harness.hardware.physical import old_firmware

    machine, wires = session.physical, board.wires
    assert machine is not None
    assert wires is not None
    loader = machine.has_loader
    try:
        _hear(session, wires.firmware or (r"." if loader else r"\S[^\n]*\n"))
        if loader:
            machine.stop_loader(session.console)
    except ConsoleFault as error:
        baud = session.broker.serial_line.baud if session.broker.serial_line is not None else 0
        yield Finding(
            f"text from {board.name} at {baud} baud",
            str(error),
            f"set speed: of {board.path} to its firmware's (115200 mostly; 1500000 on Rockchip), ser2net's with it",
        )
    except ExpectTimeout as error:
        if session.broker.received == 0:
            yield Finding(
                f"text from {board.name} when it is switched on",
                "not a byte",
                "is its power on? TX goes to RX and RX to TX, grounds are joined, levels are the same (3.3 V)",
            )
            return
        last = session.console.last_lines(1)
        yield Finding(
            f"firmware of {board.name} that says what its file expects",
            f"{error}; its last line: {last[0].shown if last else 'none'}",
            f"compare firmware: and UBootDriver's prompt: in {board.path} with what `quoin console` shows",
        )
    else:
        if machine.firmware is not None and (fault := old_firmware(board, machine.firmware)) is not None:
            yield _finding(board, Exception(fault))


def _hear(session: Session, pattern: str) -> None:
    """Wait for the firmware. Raises ConsoleFault as soon as what comes is no text."""
    from harness.console import ExpectTimeout

    deadline = time.monotonic() + session.board.boot_timeout_s
    while True:
        try:
            session.console.expect(pattern, min(_LOOK_S, max(deadline - time.monotonic(), 0.1)))
            return
        except ExpectTimeout:
            if time.monotonic() > deadline:
                raise
