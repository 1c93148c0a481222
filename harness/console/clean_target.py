"""The clean point of a session: machine and console as they were at `ready`.

A load turns back both ends of the console at once: the guest's UART, shell and
frame numbers are in its memory; the lines, frames and the cursor of this end
are turned back while the guest stands still and all that it has printed is read.
"""

from __future__ import annotations

from dataclasses import dataclass

from harness.console.broker import Mark
from harness.console.session import Session
from harness.machine import snapshot
from harness.machine.memory import Contents
from harness.machine.snapshot import NoSnapshot

_IDLE_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class CleanPoint:
    """The guest's memory, and what this end of the console must be for the guest that was saved."""

    memory: Contents
    broker: Mark
    sequence: int
    unseen: bytes
    """The text that `expect` has not passed: the prompt, and what stands between it and the ready line."""


def wait_idle(session: Session) -> None:
    """Wait until all CPUs of a session at `ready` sleep, and what they have printed is read. Raises NoSnapshot."""
    if not snapshot.wait_idle(session.machine, _IDLE_TIMEOUT_S):
        raise NoSnapshot(f"{session.board.id} was not idle within {_IDLE_TIMEOUT_S:g} s of its ready line")
    session.broker.drain()


def save(session: Session) -> CleanPoint:
    """Wait until a session at `ready` is idle, and save it. Raises NoSnapshot."""
    if "snapshot" not in session.board.features:
        raise NoSnapshot(f"{session.board.path} does not name the feature 'snapshot'")
    wait_idle(session)
    session.qmp("stop")
    try:
        memory = snapshot.save(session.machine)
        session.broker.drain()
        return CleanPoint(memory, session.broker.mark(), session.channel.sequence, session.console.unseen)
    finally:
        session.qmp("cont")


def load(session: Session, point: CleanPoint) -> None:
    """Make the session what it was when `point` was saved. Raises NoSnapshot."""
    session.broker.discard_input()
    snapshot.load(session.machine, point.memory)
    session.broker.drain()
    session.broker.rewind(point.broker)
    session.channel.restart(point.sequence)
    session.console.unseen = point.unseen
    session.qmp("cont")
