"""Why a run ended: exactly one verdict, and the text that a person needs with it."""

from __future__ import annotations

import contextlib
import enum
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from harness.board import LabError
from harness.console import ConsoleClosed, ConsoleFault, Direction, ExpectTimeout, PanicReport, Session, TargetPanicked
from harness.machine import Misuse, QemuDied, QemuMachine
from harness.verdict.activity import Activity, sample
from harness.verdict.symbols import Symbols, slide_of, symbolise

LAST_LINES = 20
_DYING_S = 5.0


class Verdict(enum.Enum):
    """The ten ways in which a run may end."""

    PASSED = "passed"
    FAILED = "failed"
    PANICKED = "panicked"
    RESET = "reset"
    SPINNING = "spinning"
    IDLE = "idle"
    STARVED = "starved"
    NEVER_BOOTED = "never-booted"
    QEMU_DIED = "qemu-died"
    LAB_FAULT = "lab-fault"


@dataclass(frozen=True, slots=True)
class Finding:
    """A verdict, its cause in one sentence, and what backs it."""

    verdict: Verdict
    cause: str
    details: Sequence[str] = field(default_factory=tuple)


def judge(session: Session | None, error: BaseException | None, kernel: Path | None = None) -> Finding:
    """The verdict on a run that ended with `error` (None: no complaint) on `session`.

    The machine's own state goes before what the test noticed of it. `kernel` is
    the ELF that ran, for backtraces.
    """
    if isinstance(error, QemuDied):
        return Finding(Verdict.QEMU_DIED, str(error))
    if isinstance(error, LabError):
        # Steering a machine that has panicked or was reset fails too: that is the kernel's fault.
        before = None if session is None else _by_guest(session, error, kernel)
        return before or Finding(Verdict.FAILED if isinstance(error, Misuse) else Verdict.LAB_FAULT, str(error))
    if session is None:
        if error is None:
            return Finding(Verdict.PASSED, "")
        return Finding(Verdict.FAILED, _first_line(error))
    try:
        session.check_log()
    except LabError as fault:
        return Finding(Verdict.LAB_FAULT, str(fault))
    return _by_machine(session, error, kernel) or _by_error(session, error)


def _by_guest(session: Session, error: BaseException | None, kernel: Path | None) -> Finding | None:
    """The verdict where the guest has panicked, or reset its machine."""
    if isinstance(error, TargetPanicked):
        return Finding(Verdict.PANICKED, error.report.cause, panic_lines(session, error.report, kernel))
    report = session.panic
    if report is not None and not (report.acknowledged or report.told):
        return Finding(Verdict.PANICKED, report.cause, panic_lines(session, report, kernel))
    reset = session.machine.guest_reset
    if reset is not None and not session.reset_expected:
        # The monitor may be heard before the console is read to the end.
        with contextlib.suppress(ConsoleFault):
            session.broker.drain(_DYING_S)
        before = itertools.takewhile(lambda event: event is not reset, session.machine.events)
        bitten = any(event.name == "WATCHDOG" for event in before)
        who = (
            "the machine's watchdog reset it, which the guest did not feed" if bitten else "the guest reset the machine"
        )
        return Finding(Verdict.RESET, f"{who} ({reset}){_stage(session)}")
    return None


def _by_machine(session: Session, error: BaseException | None, kernel: Path | None) -> Finding | None:
    if found := _by_guest(session, error, kernel):
        return found
    machine = session.machine
    # The console's end is seen before the process's, which may still write a core file.
    cut = session.broker.closed is not None and not session.cut_expected
    closing = not session.closed and (cut or not machine.running)
    if closing and cut and _answers(machine):
        return Finding(Verdict.LAB_FAULT, f"the console was cut ({session.broker.closed}), and the machine runs on")
    ended = closing and machine.wait_exit(_DYING_S)
    if ended and machine.guest_off is None:
        return Finding(Verdict.QEMU_DIED, str(machine.death()))
    return None


def _answers(machine: QemuMachine) -> bool:
    """Whether QEMU lives and answers: what dies has closed its monitor, or is about to."""
    try:
        machine.status()
    except (LabError, QemuDied):
        return False
    return True


def _by_error(session: Session, error: BaseException | None) -> Finding:
    if error is None:
        return Finding(Verdict.PASSED, "")
    if isinstance(error, ConsoleClosed):
        return Finding(Verdict.FAILED, _first_line(error))
    if not isinstance(error, ExpectTimeout):
        return Finding(Verdict.FAILED, _first_line(error))
    found = sample(session.machine)
    details = [] if found is None else [f"vCPUs {found}"]
    if session.ready_line is None:
        cause = f"{_first_line(error)}{_stage(session) or _no_stage(session)}"
        if session.broker.received == 0:
            cause += "; it has printed nothing at all: is this a kernel for this board?"
        return Finding(Verdict.NEVER_BOOTED, cause, details)
    verdict = Verdict.IDLE
    if found is not None and found.activity is Activity.SPINNING:
        verdict = Verdict.SPINNING
    elif found is not None and found.activity is Activity.STARVED:
        verdict = Verdict.STARVED
    elif session.prompt_shown():
        # It waits for input, in order: the text just never came.
        verdict = Verdict.FAILED
    return Finding(verdict, _first_line(error), details)


def panic_lines(session: Session, report: PanicReport, kernel: Path | None) -> list[str]:
    """A panic's report with its backtrace symbolised, where the ELF is the one that ran."""
    with session.broker.changed:
        texts = [str(line) for line in session.broker.recent]
    first = slide_of([*session.first_lines, *texts])
    if kernel is None or not kernel.is_file() or first is None:
        return list(report.lines)
    slide, build_id = first
    try:
        symbols = Symbols(kernel)
    except LabError as error:
        return [*report.lines, f"(not symbolised: {error})"]
    own = symbols.build_id()
    if own is not None and own != build_id:
        note = f"(not symbolised: {kernel} has build id {own}, but {build_id} ran)"
        return [*report.lines, note]
    return symbolise(report.lines, symbols, slide)


def describe(finding: Finding, session: Session | None, log: Path | None, rerun: str) -> str:
    """The text of a failure: verdict, evidence, last lines of the console, log, how to rerun."""
    details = finding.details[1:] if finding.details[:1] == [finding.cause] else finding.details
    parts = [f"verdict: {finding.verdict.value}", finding.cause, *details]
    if session is not None:
        lines = session.console.last_lines(LAST_LINES)
        parts += ["", f"last {len(lines)} console lines:"]
        parts += [f"  {line.direction.value} {line.shown}" for line in lines]
    if log is not None:
        parts += ["", f"console log: {log}"]
    parts.append(f"run just this: {rerun}")
    return "\n".join(parts)


def _stage(session: Session) -> str:
    stage = session.last_stage()
    return f"; the last boot stage reached was '{stage}'" if stage else ""


def _no_stage(session: Session) -> str:
    """How far a kernel came whose stages are not known, a foreign one: its last line that says something."""
    lines = [
        line.shown.strip() for line in session.console.last_lines(LAST_LINES) if line.direction is Direction.FROM_TARGET
    ]
    last = next((text for text in reversed(lines) if text), None)
    return "; it never printed a boot stage" + (f"; its last line was '{last}'" if last else "")


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
