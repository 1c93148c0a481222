"""Running a row of kernel test cases on one machine, and telling their results apart."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.board import Board
from harness.console import ConsoleError, ConsoleFault, Session
from harness.console.framing import run_payloads
from harness.console.ktap import Plan, Result, Start, parse

if TYPE_CHECKING:
    from harness.plugin.lab import Lab


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a case ended, and the lines that the console showed meanwhile."""

    ok: bool
    note: str
    lines: tuple[str, ...]
    time_ns: int | None
    # Where the run is repeatable: a digest of all that the console showed until then.
    trace: str = ""


class CaseRun:
    """A row of cases in the order in which they are asked for.

    Who crashes ends the stream; the next case that is asked for begins a new one
    with what is left, on a new boot.
    """

    def __init__(self, lab: Lab, board: Board, cases: list[str]) -> None:
        self.board = board
        self._lab = lab
        self._left = list(cases)
        self._session: Session | None = None
        self._stream: Iterator[Result] | None = None
        self._done: dict[str, Outcome] = {}

    def serves(self, board: Board, case: str) -> bool:
        """Whether `case` is still to be answered by this run."""
        return board == self.board and (case in self._left or case in self._done)

    def open(self) -> Session:
        """The machine that the cases run on, switched on when that is needed; perhaps not ready yet."""
        session, _ = self._lab.shared(self.board)
        if session is not self._session:
            self._session, self._stream = session, None
        return session

    def outcome(self, case: str, timeout_s: float) -> Outcome:
        """Run up to `case` and answer how it ended. Raises as Session.wait_ready and Channel.receive."""
        if case in self._left:
            del self._left[: self._left.index(case)]
        assert self._session is not None
        try:
            if self._session.ready_line is None:
                self._session.wait_ready()
            while case not in self._done:
                self._next(timeout_s)
        except (ConsoleError, ConsoleFault):
            self._stream = None
            if case in self._left:
                self._left.remove(case)
            self._session.mark_dirty(f"{case} was cut short")
            raise
        return self._done.pop(case)

    def lines_of(self, case: str) -> list[tuple[float, str]]:
        """Console lines from the case's start to its end, or to the newest, with their times.

        All lines where it has not started: then they say why.
        """
        if self._session is None:
            return []
        start, end = f" # start {case}", (f" {case} #", f" {case}")
        found: list[tuple[float, str]] = []
        inside = started = False
        with self._session.broker.changed:
            recent = list(self._session.broker.recent)
        for line in recent:
            if not line.is_frame:
                if inside:
                    found.append((line.at_s, str(line)))
                continue
            text = str(line)
            if text.endswith(start):
                found, inside, started = [], True, True
            elif inside and ("ok " in text) and (end[0] in text or text.endswith(end[1])):
                inside = False
        if not started:
            return [(line.at_s, str(line)) for line in recent if not line.is_frame]
        return found

    def _next(self, timeout_s: float) -> None:
        assert self._session is not None
        if self._stream is None:
            self._stream = self._results(self._session, list(self._left), timeout_s)
        result = next(self._stream, None)
        if result is None:
            raise ConsoleFault(f"the target ended its run without results for {', '.join(self._left[:3])}")
        if result.case in self._left:
            self._left.remove(result.case)
        lines = tuple(text for _, text in self.lines_of(result.case))
        self._done[result.case] = Outcome(result.ok, result.note, lines, result.time_ns)

    def _results(self, session: Session, cases: list[str], timeout_s: float) -> Iterator[Result]:
        for payload, batch in run_payloads(cases):
            session.channel.send(payload, timeout_s)
            yield from results(session, batch, timeout_s)


def results(session: Session, batch: list[str], timeout_s: float) -> Iterator[Result]:
    """What becomes of the cases of one `run`, as they end. Raises ConsoleFault where the target says anything else."""
    missing = list(batch)
    while missing:
        said = parse(session.channel.receive(timeout_s))
        if isinstance(said, Plan) and said.count != len(batch):
            raise ConsoleFault(f"the target plans {said.count} cases, but {len(batch)} were sent")
        if isinstance(said, Start) and said.case != missing[0]:
            raise ConsoleFault(f"the target starts {said.case}, but {missing[0]} is next")
        if isinstance(said, Result):
            if said.case != missing[0]:
                raise ConsoleFault(f"the target reports {said.case}, but {missing[0]} was running")
            missing.pop(0)
            yield said
