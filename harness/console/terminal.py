"""A hand on the machine: this terminal becomes the target's console.

Everything typed goes to the target, Ctrl-C included; Ctrl-] leaves.
"""

from __future__ import annotations

import os
import select
import sys
import tempfile
import termios
import tty
from pathlib import Path

from harness.console.session import Session
from harness.hardware import PhysicalMachine
from harness.machine import Event, Kind, QemuMachine

LEAVE = b"\x1d"
_LAST_WORDS_S = 10.0


def interact(machine: QemuMachine | PhysicalMachine, log: Path | None = None) -> int:
    """Switch `machine` on and join it to this terminal until Ctrl-], end of input, or its end.

    Returns an exit code: 0 when left or switched off in order, 1 when the
    machine panicked or was reset.
    """
    machine.admit = "at once"
    with (
        tempfile.TemporaryDirectory(prefix="quoin-console-") as scratch,
        Session(machine, log or Path(scratch) / "console.log") as session,
    ):
        return attach_terminal(session)


def attach_terminal(session: Session, stdin: int = 0, stdout: int = 1) -> int:
    """Join a session that is on already to a terminal; see `interact`."""
    notice = f"[{session.board.id}: Ctrl-] leaves]"
    sys.stderr.write(notice + "\r\n")
    ended, ending = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    def show(text: bytes) -> None:
        write_text(stdout, text)

    def wake(event: Event) -> None:
        if event.name == "SHUTDOWN" or event.kind is Kind.EXIT:
            os.write(ending, b"e")

    saved = termios.tcgetattr(stdin) if os.isatty(stdin) else None
    try:
        if saved is not None:
            tty.setraw(stdin)
        with session.broker.changed:
            show(bytes(session.broker.window.text))
            session.broker.tap(show)
        session.machine.listen(wake)
        _pump(session, stdin, ended)
    finally:
        session.broker.untap(show)
        if saved is not None:
            termios.tcsetattr(stdin, termios.TCSADRAIN, saved)
        sys.stderr.write("\n")
    failed = session.panic is not None or session.machine.guest_reset is not None
    return 1 if failed else 0


def _pump(session: Session, stdin: int, ended: int) -> None:
    while session.broker.ended is None:
        ready, _, _ = select.select([stdin, ended], [], [])
        if ended in ready:  # what the target printed before is read, and shown, first
            with session.broker.changed:
                session.broker.changed.wait_for(lambda: session.broker.ended is not None, _LAST_WORDS_S)
            return
        typed = os.read(stdin, 4096)
        before, leave, _ = typed.partition(LEAVE)
        if before:
            session.broker.send(before)
        if leave or not typed:
            return


def write_text(fd: int, text: bytes) -> None:
    """Show a target's text on a terminal in raw mode."""
    data = text.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
    while data:
        data = data[os.write(fd, data) :]
