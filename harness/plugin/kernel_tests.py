"""Kernel tests as pytest items.

`testsuites/SUBJECT/kernel-tests.yaml` names the test programs of a subject:

    programs: [vm, ipc]
    floor: 12          # at least so many cases on each board, or collection is red
    timeout_s: 30      # for one case; 30 if not given
    smp: 1             # run on this variant of each board, whatever --smp says
    icount: true       # and let its clocks count instructions

Cases are read from the programs' ELF files, so nothing boots before a case is
run. Cases that follow one another on a board travel in one `run`; the target
works through them while pytest reports. With `--cold` each has its own boot.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from harness.board import Board, LabError, read_yaml
from harness.plugin.fixtures import lab_of, log_folder
from harness.plugin.keys import COVERAGE, MACHINES, TAKES_BOARD, Taken
from harness.plugin.matrix import kernel_test_boards, marks
from harness.plugin.records import Record, read_records
from harness.plugin.runner import CaseRun, Outcome
from harness.plugin.seeded import SeededRun

if TYPE_CHECKING:
    from harness.plugin.lab import Lab

_KEYS = {"programs", "floor", "timeout_s", "smp", "icount"}
_CONTEXT_LINES = 3
_USER_PANIC = re.compile(r"^panic: (?P<program>[^:]+): (?P<message>.*) at (?P<file>[^\s:]+):(?P<line>\d+):\d+$")

RUN: pytest.StashKey[CaseRun] = pytest.StashKey()


class CaseFailed(Exception):
    """The target reported `not ok`."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome.note or "not ok")
        self.outcome = outcome


@dataclass(frozen=True, slots=True)
class Plan:
    """What one file asks for; `smp` and `icount` where it does not leave them to the board."""

    programs: tuple[str, ...]
    floor: int
    timeout_s: float
    smp: int | None
    icount: bool | None


class KernelTestFile(pytest.File):
    """One `kernel-tests.yaml`."""

    def collect(self) -> Iterable[pytest.Item]:
        from harness.build import BuildError

        try:
            plan = self._read()
            wanted = kernel_test_boards(self.config)
            # What is counted on one CPU is no subject for a board that stands there with four.
            able = [board for board in wanted if not board.fixed(smp=plan.smp, icount=bool(plan.icount))]
            boards = [board.variant(smp=plan.smp, icount=plan.icount) for board in able]
            for board in dict.fromkeys(boards):
                yield from self._on_board(board, plan)
        except (LabError, BuildError) as error:
            raise self.CollectError(str(error)) from error

    def _read(self) -> Plan:
        data = read_yaml(self.path)
        if not isinstance(data, dict) or not isinstance(data.get("programs"), list):
            raise LabError(f"{self.path}: wants the keys programs (a list), floor, and perhaps timeout_s")
        unknown = sorted(set(data) - _KEYS)
        if unknown:
            raise LabError(f"{self.path}: unknown key {unknown[0]!r}; allowed: {', '.join(sorted(_KEYS))}")
        floor = data.get("floor", 0)
        if not isinstance(floor, int) or floor < 1:
            raise LabError(f"{self.path}: floor is the least number of cases a board must run, 1 or more")
        names = tuple(str(name) for name in data["programs"])
        return Plan(names, floor, float(data.get("timeout_s", 30.0)), data.get("smp"), data.get("icount"))

    def _on_board(self, board: Board, plan: Plan) -> Iterator[pytest.Item]:
        paths = {path.name: path for path in lab_of(self.config).artifacts(board).programs}
        missing = [name for name in plan.programs if name not in paths]
        if missing:
            raise LabError(
                f"{self.path}: the build for {board.arch} has no program {missing[0]!r}; "
                f"it has: {', '.join(sorted(paths)) or 'none'}"
            )
        records = [record for name in plan.programs for record in read_records(paths[name])]
        if len(records) < plan.floor:
            raise LabError(
                f"{self.path}: {len(records)} cases for {board.id}, but the floor is {plan.floor}; "
                "cases have vanished from the programs, or the floor must be lowered on purpose"
            )
        for record in records:
            name = f"{record.case}[{board.id}]"
            yield KernelTestItem.from_parent(self, name=name, record=record, board=board, timeout_s=plan.timeout_s)


class KernelTestItem(pytest.Item):
    """One case on one board."""

    def __init__(self, *, record: Record, board: Board, timeout_s: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.record = record
        self.board = board
        self.timeout_s = timeout_s
        self.console_lines: list[str] = []
        # When the first and the last of them came: the target runs ahead of pytest.
        self.console_times: tuple[float, float] | None = None
        self.add_marker(pytest.mark.requirement(*record.requirements))
        if record.needs:
            self.add_marker(pytest.mark.needs(*record.needs))
        for mark in marks(self, board):
            self.add_marker(mark)
        self.user_properties.append(("board", board.id))

    def runtest(self) -> None:
        self.stash[TAKES_BOARD] = self.board
        lab = lab_of(self.config)
        run = self._run(lab)
        log = log_folder(self) / "console.log"
        session = run.open()
        self.stash[MACHINES] = [Taken(session, log)]
        try:
            outcome = run.outcome(self.record.case, self.timeout_s)
            if outcome.trace:
                self.user_properties.append(("trace", outcome.trace))
        finally:
            lines = run.lines_of(self.record.case)
            _write_log(log, lines)
            self.console_lines = [text for _, text in lines]
            self.console_times = (lines[0][0], lines[-1][0]) if lines else None
            shown = "\n".join(self.console_lines)
            if shown:
                self.add_report_section("call", "console", shown)
        if not outcome.ok:
            raise CaseFailed(outcome)

    def _run(self, lab: Lab) -> CaseRun:
        """The run that this case is part of; begun here when it is the first of its row."""
        current = self.session.stash.get(RUN, None)
        if current is None or not current.serves(self.board, self.record.case):
            if self.config.getoption("--cold"):
                lab.drop_shared()
            kind = CaseRun if self.board.seed is None else SeededRun
            current = kind(lab, self.board, [item.record.case for item in self._row()])
            self.session.stash[RUN] = current
        return current

    def _row(self) -> list[KernelTestItem]:
        """This item and those that will run directly after it, on the same board."""
        items = self.session.items
        # Under --coverage the target does not run ahead: what it executes belongs to one case.
        if COVERAGE in self.config.stash or self.config.getoption("--cold"):
            return [self]
        row: list[KernelTestItem] = []
        for item in items[items.index(self) :]:
            if not isinstance(item, KernelTestItem) or item.board != self.board:
                break
            if item.get_closest_marker("skip") is None:
                row.append(item)
        return row

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        if not isinstance(excinfo.value, CaseFailed):
            return super().repr_failure(excinfo, style)
        outcome = excinfo.value.outcome
        text = [f"{self.record.case} failed: {outcome.note or 'not ok'}"]
        for line in outcome.lines:
            if match := _USER_PANIC.match(line):
                text += [f"{match['file']}:{match['line']}: {match['message']}"]
                text += _source(self.config.rootpath, match["file"], int(match["line"]))
        return "\n".join(text)

    def reportinfo(self) -> tuple[Path, int | None, str]:
        path = _find_source(self.config.rootpath, self.record.file)
        return (path, self.record.line - 1, self.name) if path else (self.path, None, self.name)


def _write_log(path: Path, lines: list[tuple[float, str]]) -> None:
    from harness.console import Direction, Line, LogFile

    log = LogFile(path, lines[0][0] if lines else 0.0)
    for at_s, text in lines:
        log.line(Line(text.encode(), at_s, Direction.FROM_TARGET))
    log.close()
    if log.fault is not None:
        raise LabError(f"the console log {path} cannot be written: {log.fault.strerror}; make room on that disk")


def _find_source(top: Path, file: str) -> Path | None:
    for base in (top / "kernel-src", top):
        if file and (base / file).is_file():
            return base / file
    return None


def _source(top: Path, file: str, line: int) -> list[str]:
    path = _find_source(top, file)
    if path is None:
        return []
    text = path.read_text(encoding="utf-8", errors="replace").splitlines()
    first = max(line - _CONTEXT_LINES, 1)
    return [
        f"{'>' if number == line else ' '} {number:5} {text[number - 1]}"
        for number in range(first, min(line + _CONTEXT_LINES, len(text)) + 1)
    ]
