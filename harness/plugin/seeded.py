"""Kernel tests that a seed brings again: named on the kernel's command line, with nothing typed.

With one host thread under icount nothing but the seed decides how the machine
runs, so two runs of one seed show the same bytes at the same guest times. What
is typed would come at the host's times; so each batch of cases is a boot.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from harness.board import Board
from harness.console import Session
from harness.console.framing import Frame, decode
from harness.console.ktap import Result, parse
from harness.console.lines import Direction, Line
from harness.plugin.runner import CaseRun, Outcome, results

if TYPE_CHECKING:
    from harness.plugin.lab import Lab

# The kernel keeps 1,024 bytes of its command line; some are for the board's own words.
_LONGEST_RUN = 800
_DIGITS = 16


class Trace:
    """Digests of the console's bytes from power on to the result of each case; the guest's times are among them."""

    def __init__(self) -> None:
        self.at: dict[str, str] = {}
        self._digest = hashlib.blake2b()

    def see(self, lines: Iterable[Line]) -> None:
        for line in lines:
            self._line(line)

    def _line(self, line: Line) -> None:
        if line.direction is not Direction.FROM_TARGET or not line.text:
            return
        self._digest.update(line.text + b"\n")
        frame = decode(line.text) if line.is_frame else None
        said = parse(frame.payload) if isinstance(frame, Frame) else None
        if isinstance(said, Result):
            self.at[said.case] = self._digest.hexdigest()[:_DIGITS]

    def flush(self) -> None:
        """Nothing is kept back."""


class SeededRun(CaseRun):
    """A row of cases on boots that name them; after a crash a new boot names the rest."""

    def __init__(self, lab: Lab, board: Board, cases: list[str]) -> None:
        super().__init__(lab, board, cases)
        self._batch: list[str] = []
        self._trace = Trace()

    def open(self) -> Session:
        going_on = self._session is not None and self._session.alive and any(case in self._left for case in self._batch)
        if self._session is None or not going_on:
            self._batch = _first_batch(self._left)
            self._trace = Trace()
            self._session = self._lab.replace(self.board, f"run={','.join(self._batch)}", (self._trace,))
            self._stream = None
        return self._session

    def outcome(self, case: str, timeout_s: float) -> Outcome:
        found = super().outcome(case, timeout_s)
        return Outcome(found.ok, found.note, found.lines, found.time_ns, self._trace.at[case])

    def _results(self, session: Session, cases: list[str], timeout_s: float) -> Iterator[Result]:
        return results(session, self._batch, timeout_s)


def _first_batch(cases: list[str]) -> list[str]:
    batch: list[str] = []
    size = 0
    for case in cases:
        size += len(case) + 1
        if batch and size > _LONGEST_RUN:
            break
        batch.append(case)
    return batch
