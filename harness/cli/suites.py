"""Calling pytest from a verb, and reading its JUnit file into a table of boards and verdicts."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from harness.build.artifacts import TOP
from harness.build.errors import BuildError
from harness.build.process import bound

if TYPE_CHECKING:
    from xml.etree import ElementTree

Outcome = Literal["passed", "failed", "skipped"]
RESULTS = TOP / "build" / "results"
END_LIMIT_S = 30.0
_INTERACTIVE = ("--pdb", "--trace")
_NO_BOARD = "host"


@dataclass(frozen=True, slots=True)
class Result:
    """One test of a JUnit file. `board` names board and variant, or "host" for a test without one."""

    name: str
    board: str
    outcome: Outcome
    verdict: str
    seconds: float
    # Whether it is skipped because its failure is known: it ran, and failed.
    xfailed: bool = False


def run_pytest(arguments: Sequence[str], junit: Path) -> int:
    """Run pytest on this tree with its output shown as it comes; its exit status.

    It gets a process group of its own, so that one Ctrl-C reaches it once and it can end its
    machines; an interactive debugger needs the terminal's group, and keeps it.
    """
    junit.parent.mkdir(parents=True, exist_ok=True)
    command = bound([sys.executable, "-m", "pytest", f"--junitxml={junit}", *arguments])
    sys.stdout.flush()
    if any(argument in _INTERACTIVE for argument in arguments):
        return subprocess.call(command, cwd=TOP)
    process = subprocess.Popen(command, cwd=TOP, stdin=subprocess.DEVNULL, process_group=0)
    try:
        return process.wait()
    finally:
        end(process)


def end(process: subprocess.Popen[bytes]) -> None:
    """Let pytest tear down, as a Ctrl-C of its own would; what does not end is ended."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        if process.poll() is not None:
            return
        os.killpg(process.pid, number)
        try:
            process.wait(END_LIMIT_S)
        except subprocess.TimeoutExpired:
            continue


def read_junit(path: Path) -> list[Result]:
    """The tests of a JUnit file. Raises BuildError when it is missing or is not one."""
    from xml.etree import ElementTree

    try:
        root = ElementTree.parse(path).getroot()
    except (OSError, ElementTree.ParseError) as error:
        raise BuildError(f"pytest's results at {path}", str(error), next_step="quoin test") from error
    return [_result(case) for case in root.iter("testcase")]


def _result(case: ElementTree.Element) -> Result:
    name = case.get("name", "")
    fault = case.find("failure") if case.find("failure") is not None else case.find("error")
    properties = {p.get("name"): p.get("value", "") for p in case.iter("property")}
    outcome: Outcome = "failed" if fault is not None else "skipped" if case.find("skipped") is not None else "passed"
    verdict = properties.get("verdict", "") or (outcome if fault is None else _verdict_word(fault.get("message", "")))
    return Result(
        name=f"{case.get('classname', '')}::{name}",
        board=properties.get("board", "") or board_of(name),
        outcome=outcome,
        verdict=verdict,
        seconds=float(case.get("time", "0")),
        xfailed=any(skipped.get("type") == "pytest.xfail" for skipped in case.iter("skipped")),
    )


def board_of(name: str) -> str:
    """The board and variant in a test id such as `test_call[qemu-riscv64-smp4]`; "host" where there is none."""
    for parameter in re.findall(r"\[([^\]]*)\]", name):
        found = re.search(r"[a-z0-9]+(?:[-_][a-z0-9]+)*-smp\d+(?:-\d+[MG])?", parameter)
        if found:
            return found[0]
    return _NO_BOARD


def _verdict_word(message: str) -> str:
    known = "panicked|reset|spinning|idle|starved|never-booted|qemu-died|lab-fault"
    found = re.search(rf"\b({known})\b", message)
    return found[1] if found else "failed"


def table(results: Iterable[Result]) -> list[str]:
    """Boards against verdicts, with how many tests and seconds each took; lines for people."""
    by_board: dict[str, list[Result]] = {}
    for result in results:
        by_board.setdefault(result.board, []).append(result)
    rows = [("board", "verdict", "passed", "failed", "skipped", "seconds")]
    for board, own in sorted(by_board.items()):
        count = {outcome: sum(r.outcome == outcome for r in own) for outcome in ("passed", "failed", "skipped")}
        rows.append(
            (
                board,
                _summary(own),
                str(count["passed"]),
                str(count["failed"]),
                str(count["skipped"]),
                f"{sum(r.seconds for r in own):.1f}",
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(width) if n < 2 else cell.rjust(width)
            for n, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]


def _summary(results: Sequence[Result]) -> str:
    """The verdict of a board: passed, or which ways of failing there were."""
    bad = sorted({r.verdict for r in results if r.outcome == "failed"})
    if bad:
        return ", ".join(bad)
    return "passed" if any(r.outcome == "passed" for r in results) else "nothing ran"
