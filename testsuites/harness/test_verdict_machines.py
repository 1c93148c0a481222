"""Each way in which a guest can go wrong has a verdict of its own."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness.board import LabError, read_board
from harness.console import Broker, ConsoleClosed, ConsoleError, Session
from harness.console.framing import MODULUS, Frame, encode
from harness.console.lines import LONGEST
from harness.machine import BootFiles, QemuMachine
from harness.machine.tiny_guest import Then, write_tiny_guest
from harness.verdict import Finding, Verdict, describe, judge
from harness.verdict.verdict import LAST_LINES

TOP = Path(__file__).resolve().parents[2]
READY = "init: ready\n"
LIMIT_S = 0.6
PATIENCE_S = 60.0

Booter = Callable[[str, Then], Session]


@pytest.fixture
def booted(tmp_path: Path) -> Iterator[Booter]:
    sessions: list[Session] = []
    board = read_board(TOP / "boards" / "qemu-riscv64.yaml").variant(smp=1)

    def start(text: str, then: Then) -> Session:
        guest = write_tiny_guest(tmp_path / "guest", text, then)
        sessions.append(Session(QemuMachine(board, BootFiles(guest)), tmp_path / "logs" / "console.log"))
        return sessions[-1]

    yield start
    for session in sessions:
        session.close()


def complaint(session: Session, text: str, then: Then, *, ready: bool) -> BaseException:
    """What a test would see that waits for more than the guest gives, once that has printed its text."""
    last = text.rstrip("\n").rpartition("\n")[2].encode()
    with session.broker.changed:
        assert session.broker.changed.wait_for(
            lambda: last in bytes(session.broker.window.text) or session.broker.ended is not None, PATIENCE_S
        )
    # What the guest does ends a wait at once; what it does not do takes the whole of its limit.
    silent = then in (Then.SPIN, Then.SLEEP, Then.REPEAT) and "PANIC" not in text
    limit_s = LIMIT_S if silent else PATIENCE_S
    try:
        session.wait_ready(PATIENCE_S if ready else limit_s)
        session.console.expect("never", limit_s)
    except (ConsoleError, LabError) as error:
        return error
    raise AssertionError("the guest gave what it has not")


def judged(session: Session, error: BaseException, kernel: Path | None = None) -> Finding:
    """The verdict; again while this host has no time for the guest, for then it is rightly told as starved."""
    deadline = time.monotonic() + PATIENCE_S
    while (finding := judge(session, error, kernel)).verdict is Verdict.STARVED and time.monotonic() < deadline:
        pass
    return finding


@pytest.mark.requirement("DEV-02")
@pytest.mark.parametrize(
    ("text", "then", "verdict", "words"),
    [
        (READY, Then.SPIN, Verdict.SPINNING, "no 'never'"),
        (READY, Then.SLEEP, Verdict.IDLE, "no 'never'"),
        (READY, Then.REPEAT, Verdict.SPINNING, "no 'never'"),
        (READY, Then.RESET, Verdict.RESET, "guest-reset"),
        (READY, Then.POWER_OFF, Verdict.FAILED, "ended before"),
        (READY + "$ ", Then.SLEEP, Verdict.FAILED, "no 'never'"),
        (READY + "PANIC cpu0: oh at a.rs:1:2\nPANIC end\n", Then.SPIN, Verdict.PANICKED, "oh at a.rs:1:2"),
    ],
)
def test_a_guest_that_was_ready(booted: Booter, text: str, then: Then, verdict: Verdict, words: str) -> None:
    session = booted(text, then)
    finding = judged(session, complaint(session, text, then, ready=True))
    assert finding.verdict is verdict, finding
    assert words in finding.cause


@pytest.mark.requirement("DEV-02", "BTC-02")
@pytest.mark.parametrize(
    ("text", "then", "verdict", "words"),
    [
        ("", Then.SLEEP, Verdict.NEVER_BOOTED, "it never printed a boot stage"),
        ("boot: memory: 128 MiB\n", Then.SPIN, Verdict.NEVER_BOOTED, "the last boot stage reached was 'memory'"),
        ("for ever ", Then.REPEAT, Verdict.NEVER_BOOTED, "never printed a boot stage"),
        ("boot: cpus: 4\n", Then.RESET, Verdict.RESET, "the last boot stage reached was 'cpus'"),
        ("PANIC cpu0: no memory at a.rs:1:2\n", Then.SLEEP, Verdict.PANICKED, "no memory"),
    ],
)
def test_a_guest_that_was_never_ready(booted: Booter, text: str, then: Then, verdict: Verdict, words: str) -> None:
    session = booted(text, then)
    finding = judged(session, complaint(session, text, then, ready=False))
    assert finding.verdict is verdict, finding
    assert words in finding.cause


@pytest.mark.requirement("DEV-02")
def test_a_panic_during_a_test_without_complaint_is_seen(booted: Booter) -> None:
    session = booted(READY + "PANIC cpu0: oh at a.rs:1:2\nPANIC end\n", Then.SPIN)
    session.wait_ready(PATIENCE_S)
    with session.broker.changed:
        assert session.broker.changed.wait_for(lambda: session.panic is not None and session.panic.complete, PATIENCE_S)
    assert judge(session, None).verdict is Verdict.PANICKED
    session.console.expect_panic(PATIENCE_S)
    assert judge(session, None).verdict is Verdict.PASSED
    assert not session.alive


@pytest.mark.requirement("DEV-02", "TST-30")
@pytest.mark.parametrize(
    ("text", "then", "verdict"),
    [("PANIC cpu0: oh at a.rs:1:2\nPANIC end\n", Then.SPIN, Verdict.PANICKED), ("", Then.RESET, Verdict.RESET)],
)
def test_what_the_guest_did_goes_before_what_the_lab_cannot_do_then(
    booted: Booter, text: str, then: Then, verdict: Verdict
) -> None:
    session = booted(READY + text, then)
    session.wait_ready(PATIENCE_S)
    with session.broker.changed:
        assert session.broker.changed.wait_for(lambda: session.panic is not None or session.broker.stopped, PATIENCE_S)
    assert judge(session, LabError("QEMU refused 'cont'")).verdict is verdict


@pytest.mark.requirement("DEV-02", "OBS-09")
def test_a_panic_is_told_whatever_stands_for_its_elf(booted: Booter, tmp_path: Path) -> None:
    first = "quoin 0.1.0 riscv64 slide=0x0 build=0123abcd\n"
    text = first + READY + "PANIC cpu0: oh at a.rs:1:2\nPANIC end\n"
    session = booted(text, Then.SPIN)
    (tmp_path / "kernel.elf").write_text("no")
    finding = judged(session, complaint(session, text, Then.SPIN, ready=True), tmp_path / "kernel.elf")
    assert finding.verdict is Verdict.PANICKED
    assert "kernel.elf: no ELF file" in "\n".join(finding.details)


@pytest.mark.requirement("DEV-02")
def test_an_emulator_that_dies_is_not_the_kernels_fault(booted: Booter) -> None:
    session = booted(READY, Then.SPIN)
    session.wait_ready(PATIENCE_S)
    pid = session.machine.pid
    assert pid is not None
    os.kill(pid, signal.SIGABRT)
    with pytest.raises(ConsoleClosed) as error:
        session.console.expect("never", 30)
    finding = judge(session, error.value)
    assert finding.verdict is Verdict.QEMU_DIED
    assert "was ended by SIGABRT" in finding.cause


@pytest.mark.requirement("DEV-02")
def test_a_full_disk_is_a_fault_of_the_lab(tmp_path: Path) -> None:
    board = read_board(TOP / "boards" / "qemu-riscv64.yaml").variant(smp=1)
    guest = write_tiny_guest(tmp_path / "guest", READY, Then.SLEEP)
    log = tmp_path / "console.log"
    log.symlink_to("/dev/full")
    with Session(QemuMachine(board, BootFiles(guest)), log) as session:
        with pytest.raises(LabError, match="No space left on device; make room") as error:
            session.wait_ready(PATIENCE_S)
        assert judge(session, error.value).verdict is Verdict.LAB_FAULT
        assert judge(session, None).verdict is Verdict.LAB_FAULT
    assert not session.machine.running


@pytest.mark.requirement("DEV-02")
def test_a_guest_that_prints_for_ever_fills_neither_memory_nor_disk(booted: Booter) -> None:
    session = booted("x" * 500 + "\n", Then.REPEAT)
    complaint(session, "x" * 500, Then.REPEAT, ready=False)
    assert len(session.broker.window.text) <= 2 << 20
    assert len(session.broker.recent) <= 4000


@pytest.mark.requirement("DEV-02")
def test_a_failure_shows_verdict_lines_log_and_command(booted: Booter) -> None:
    session = booted("".join(f"line {number}\n" for number in range(30)), Then.SLEEP)
    finding = judge(session, complaint(session, "line 29", Then.SLEEP, ready=False))
    text = describe(finding, session, session.log_path, "pytest this")
    assert text.startswith("verdict: never-booted\n")
    assert "last 20 console lines:" in text
    assert "  | line 29" in text and "  | line 9\n" not in text
    assert f"console log: {session.log_path}" in text
    assert text.endswith("run just this: pytest this")


@pytest.mark.requirement("DEV-02")
def test_verdicts_without_a_machine() -> None:
    assert judge(None, None).verdict is Verdict.PASSED
    assert judge(None, AssertionError("no")).verdict is Verdict.FAILED
    assert judge(None, LabError("no")).verdict is Verdict.LAB_FAULT


@pytest.mark.requirement("DEV-02")
def test_an_emulator_that_the_host_has_stopped_is_starved_and_not_hung(booted: Booter) -> None:
    session = booted(READY, Then.SLEEP)
    session.wait_ready(PATIENCE_S)
    pid = session.machine.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        os.waitid(os.P_PID, pid, os.WSTOPPED | os.WNOWAIT)
        with pytest.raises(ConsoleError) as error:
            session.console.expect("never", 0.2)
        finding = judge(session, error.value)
        assert finding.verdict is Verdict.STARVED, finding
        assert any("the host has stopped QEMU" in detail for detail in finding.details)
    finally:
        os.kill(pid, signal.SIGCONT)
    assert session.machine.status() == "running"


@pytest.mark.requirement("DEV-02", "OBS-08")
def test_a_line_without_end_is_told_by_its_beginning(booted: Booter) -> None:
    session = booted("for ever " * 50, Then.REPEAT)
    with session.broker.changed:
        assert session.broker.changed.wait_for(lambda: session.broker.recent.count > LAST_LINES, PATIENCE_S)
    error = complaint(session, "for ever", Then.REPEAT, ready=False)
    finding = judge(session, error)
    text = describe(finding, session, None, "")
    assert "for ever" in finding.cause
    assert f"… ({LONGEST} bytes)" in text
    assert len(text) < 2 * LONGEST


@pytest.mark.requirement("DEV-02", "DEV-03")
def test_frames_that_nobody_reads_are_kept_within_bounds() -> None:
    here, there = socket.socketpair()
    broker = Broker(here, panic="^PANIC ", prompt=r"\$ ")
    broker.start()
    with there:
        there.sendall(b"".join(encode(number, "ok") for number in range(MODULUS + 1000)))
    with broker.changed:
        assert broker.changed.wait_for(lambda: broker.closed is not None, PATIENCE_S)
        assert len(broker.frames) == MODULUS
        newest = broker.frames[-1]
    broker.close()
    assert newest == Frame(999, "ok")
