"""Verdicts in pytest's reports."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from harness.board import LabError
from harness.console import ConsoleError, Session
from harness.plugin.keys import LAB, MACHINES, TAKES_BOARD, TOLD, Taken, Told
from harness.verdict import Finding, Verdict, describe, judge


class MachineFault(Exception):
    """The test had no complaint, but its machine panicked, was reset or died meanwhile."""


def check_machines(item: pytest.Item) -> None:
    """Raise MachineFault where a test passed on a machine that did not."""
    for taken in item.stash[MACHINES]:
        finding = judge(taken.session, None, kernel_of(item, taken.session))
        # A test may switch its machine off after all else; a panic that nobody has seen stays one.
        if taken.session.closed and finding.verdict is not Verdict.PANICKED:
            continue
        if finding.verdict is not Verdict.PASSED:
            raise MachineFault(f"{finding.verdict.value}: {finding.cause}")


def add_verdict(item: pytest.Item, call: pytest.CallInfo[None], report: pytest.TestReport) -> None:
    """Say in the report how the run ended, and of which health its boards were; for a failure with its evidence."""
    if report.when == "call":
        health = {taken.session.health for taken in item.stash.get(MACHINES, [])} - {None}
        item.user_properties += [("health", text) for text in health]
    if report.when == "call" and report.passed:
        _property(item, report, Verdict.PASSED)
    if call.excinfo is None or not report.failed:
        return
    error = call.excinfo.value
    taken = _guilty(item.stash.get(MACHINES, []))
    session = None if taken is None else taken.session
    finding = judge(session, None if isinstance(error, MachineFault) else error, kernel_of(item, session))
    if finding.verdict is Verdict.PASSED:
        finding = Finding(Verdict.FAILED, str(error))
    if session is not None:
        session.mark_dirty(f"{item.nodeid} failed on it")
    _property(item, report, finding.verdict)
    log = None if taken is None else taken.log
    text = describe(finding, session, log, rerun_command(item))
    item.stash[TOLD] = Told(finding.verdict.value, finding.cause, rerun_command(item))
    if session is not None and finding.verdict not in (Verdict.LAB_FAULT, Verdict.STARVED):
        text += f"\n{_postmortem(item, session, finding, text, _in_test(item, call) or finding.cause)}"
    report.sections.append((f"Verdict: {finding.verdict.value}", text))
    if isinstance(error, (LabError, ConsoleError, MachineFault)) or type(error).__name__ == "BuildError":
        # The lab's own frames say nothing about the kernel; where the test stood does.
        where = _in_test(item, call)
        report.longrepr = f"{finding.verdict.value}: {error}{where}"


def _postmortem(item: pytest.Item, session: Session, finding: Finding, text: str, place: str) -> str:
    """Leave a postmortem; the line that tells of it."""
    from harness.verdict.postmortem import FOLDER, Images, reopens, write

    lab = item.config.stash[LAB]
    images = Images(lab.kernel_elf(session.board), lab.programs(session.board))
    busy = bool(item.config.getoption("usepdb", default=False))
    try:
        root = item.config.rootpath / FOLDER
        folder = write(root, session, finding, images, test=item.nodeid, text=text, place=place, keep_running=busy)
    except (OSError, LabError) as error:
        return f"no postmortem: {error}"
    replay = f"./quoin replay {folder.name}" if reopens(folder) else ""
    item.stash[TOLD] = replace(item.stash[TOLD], postmortem=folder, replay=replay)
    again = f"reopen it: {replay}" if replay else "it cannot be reopened; README says why"
    return f"postmortem: {folder / 'README'}\n{again}"


def kernel_of(item: pytest.Item, session: Session | None) -> Path | None:
    lab = item.config.stash.get(LAB, None)
    return None if lab is None or session is None else lab.kernel_elf(session.board)


def rerun_command(item: pytest.Item) -> str:
    """The command that runs just this test, with the options that it needs."""
    words = ["pytest"]
    board = item.stash.get(TAKES_BOARD, None)
    if board is not None:
        build = ["--debug-kernel"] if board.debug else []
        words += ["--board", board.name, *(build if board.seed is None else ["--deterministic", str(board.seed)])]
    for option in ("--smp", "--memory", "--kernel-args"):
        value = item.config.getoption(option)
        if value:
            words += [option, str(value)]
    words += [flag for flag in ("--icount", "--cold") if item.config.getoption(flag)]
    return shlex.join([*words, item.nodeid])


def _guilty(machines: list[Taken]) -> Taken | None:
    """Of several machines the one that is in trouble, else the newest."""
    for taken in reversed(machines):
        if not taken.session.alive:
            return taken
    return machines[-1] if machines else None


def _property(item: pytest.Item, report: pytest.TestReport, verdict: Verdict) -> None:
    item.user_properties.append(("verdict", verdict.value))
    report.user_properties.append(("verdict", verdict.value))


def _in_test(item: pytest.Item, call: pytest.CallInfo[None]) -> str:
    assert call.excinfo is not None
    for entry in reversed(call.excinfo.traceback):
        if Path(entry.path) == item.path:
            source = entry.statement
            return f"\nat {item.path.name}:{entry.lineno + 1}: {str(source).strip()}"
    return ""
