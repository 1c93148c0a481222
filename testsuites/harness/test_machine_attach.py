"""gdb from another process on a machine that a test has on, and what the test sees of it."""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from harness.board import Board
from harness.console import ExpectTimeout, Session, hang_clock
from harness.machine import BootFiles, GdbStub, MachineError, QemuMachine, attach
from harness.machine.attach import Running
from harness.machine.scratch import Scratch
from harness.machine.tiny_guest import Then, write_tiny_guest
from harness.plugin.lab import Lab
from harness.verdict.symbols import Symbols
from support.projects import TOP, environment

LIMIT_S = 2.0
_COUNTER = {"x86_64": "rip", "aarch64": "pc", "riscv64": "pc"}


def recorded(session: Session) -> Running:
    (one,) = [one for one in attach.running() if one.pid == session.machine.pid]
    return one


@contextlib.contextmanager
def quoin_gdb(session: Session) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`quoin gdb --print` attached by another process, and what it has said. The test ends it; at worst this does."""
    words = ["gdb", session.board.name, "--print", "--pid", str(session.machine.pid)]
    process = subprocess.Popen(
        [sys.executable, "-m", "harness.cli", *words],
        cwd=TOP,
        env={**environment(), "PYTHONUNBUFFERED": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert process.stdout is not None
        said = ""
        while "until Ctrl-C" not in said:
            # Past Python's buffer: a line that lies there already would wake no select.
            assert select.select([process.stdout], [], [], 120)[0], said
            piece = os.read(process.stdout.fileno(), 65536).decode()
            assert piece, said
            said += piece
        yield process, said
    finally:
        process.kill()
        process.communicate(timeout=60)


def stub_of(said: str) -> Path:
    found = re.search(r"target (?:extended-)?remote (/[^\s']+)", said)
    assert found, said
    return Path(found[1])


@pytest.mark.requirement("OBS-08", "DEV-08")
@pytest.mark.needs("gdbstub", "release")
def test_gdb_attaches_to_a_machine_of_another_process_and_leaves_it_running(
    board: Board, machine: Session, lab: Lab
) -> None:
    with quoin_gdb(machine) as (process, said):
        assert machine.machine.held
        assert machine.machine.status() == "paused", "it stands while it is held"
        kernel = lab.kernel_elf(board)
        assert kernel is not None
        assert f"symbol-file -o 0x0 {kernel}" in said
        with GdbStub(stub_of(said), board.arch, board.monitor_cpus) as stub:
            here = Symbols(kernel).place(stub.read_register(_COUNTER[board.arch]))
            stub.set_breakpoint(Symbols(kernel).address("syscall::log_read"))
            stub.stay_stopped()  # as a gdb that was killed
        assert here is not None and "sched" in here.symbol, f"idle at {here}"
        process.send_signal(signal.SIGINT)
        assert process.wait(120) == 0
    assert not machine.machine.held
    assert machine.machine.status() == "running"
    assert "init: ready" in machine.console.command("log", 3), "the breakpoint that was left is gone"


def start_guest(tmp_path: Path, riscv: Board) -> Session:
    guest = write_tiny_guest(tmp_path / "guest", "hello\n", Then.ECHO)
    return Session(QemuMachine(riscv, BootFiles(guest)), tmp_path / "console.log")


@pytest.fixture
def riscv() -> Board:
    from harness.board import read_board

    return read_board(TOP / "boards" / "qemu-riscv64.yaml").variant(smp=1)


@pytest.mark.requirement("OBS-08")
def test_one_holds_at_a_time(tmp_path: Path, riscv: Board) -> None:
    with start_guest(tmp_path, riscv) as session:
        session.console.expect("hello")
        one = recorded(session)
        session.qmp("stop")
        with attach.hold(one), pytest.raises(MachineError, match="somebody holds it already"), attach.hold(one):
            pass
        assert session.machine.status() == "paused", "who finds it stopped leaves it stopped"
        with session.gdb(), pytest.raises(MachineError, match="a test looks inside it"), attach.hold(one):
            pass
        assert not session.machine.held


@pytest.mark.requirement("OBS-08")
def test_a_killed_holder_holds_no_longer_and_a_killed_machine_is_no_fault(tmp_path: Path, riscv: Board) -> None:
    with start_guest(tmp_path, riscv) as session:
        session.console.expect("hello")
        with quoin_gdb(session) as (process, _):
            assert session.machine.held
            process.kill()
            process.wait(60)
            assert not session.machine.held
        with attach.hold(recorded(session)):
            assert session.machine.pid is not None
            os.kill(session.machine.pid, signal.SIGKILL)
            assert session.machine.wait_exit(60)
    assert not [one for one in attach.running() if one.log == tmp_path / "console.log"]


@pytest.mark.requirement("OBS-08")
def test_no_wait_ends_while_gdb_holds_the_machine(
    tmp_path: Path, riscv: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hang_clock, "MOST", 1.0)
    monkeypatch.setattr(hang_clock, "LEAST_S", LIMIT_S)
    with start_guest(tmp_path, riscv) as session, ThreadPoolExecutor(1) as other:
        session.console.expect("hello")
        with attach.hold(recorded(session)) as path, GdbStub(path, "riscv64") as stub:
            waiting = other.submit(session.console.expect, "abc", LIMIT_S)
            before = session.hang_clock.now()
            stub.resume()
            session.machine.wait_event("RESUME", 60)
            with pytest.raises(TimeoutError):
                waiting.result(1.5 * LIMIT_S)
            assert session.hang_clock.now() - before < LIMIT_S / 2, "it stands, though gdb let the machine go on"
            stub.interrupt()
            session.console.send("abc")
        assert waiting.result(60)
        assert session.machine.status() == "running"
        before = session.hang_clock.now()
        with pytest.raises(ExpectTimeout):
            session.console.expect("never", 0.2)
        assert session.hang_clock.now() > before, "it goes again"


@pytest.mark.requirement("OBS-14")
def test_another_elf_than_the_one_that_runs_is_refused(tmp_path: Path, riscv: Board, machine: Session) -> None:
    from harness.cli.gdb import explained

    one = recorded(machine)
    elf, slide, refusal = explained(one)
    assert (elf is not None, slide, refusal) == (True, 0, "")
    text = one.log.read_text()
    found = re.search(r"slide=0x0 build=([0-9a-f]+)", text)
    assert found
    other = tmp_path / "console.log"
    other.write_text(text.replace(found[0], "slide=0x400000 build=" + "0" * 40))
    elf, slide, refusal = explained(replace(one, log=other))
    assert elf is None
    assert refusal.endswith(f"has build id {found[1]}, but {'0' * 40} runs"), refusal
    other.write_text(text.replace("slide=0x0", "slide=0x400000"))
    assert explained(replace(one, log=other))[1] == 0x400000


@pytest.mark.requirement("OBS-08", "ERR-08")
def test_records_that_cannot_be_read_are_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    folder = Scratch()
    for text in ("[]", "null", "{}", '{"kernel": null, "log": "/x", "of a later version": 1}'):
        (folder.path / "machine.json").write_text(text)
        assert attach.running() == []
    folder.close()


@pytest.mark.requirement("OBS-08")
def test_the_machine_is_chosen_by_board_checkout_or_process(tmp_path: Path) -> None:
    def machine(pid: int, board: str, top: str, at_s: float = 0.0) -> Running:
        log = tmp_path / top / "build" / "console.log"
        return Running(tmp_path, board, f"{board}-smp4", "riscv64", pid, 1, None, log, at_s)

    here, twin, away = machine(11, "mine", "here"), machine(12, "mine", "here"), machine(13, "mine", "away")
    tops = (tmp_path / "here",)
    assert attach.choose([here, away], "mine", tops, None) == here
    assert attach.choose([here, away], "mine-smp4", tops, None) == here
    assert attach.choose([here, away], "other", tops, None) is None
    assert attach.choose([away], "mine", tops, None) is None, "another checkout's is not meant by its name alone"
    assert attach.choose([here, away], "mine", tops, 13) == away
    with pytest.raises(MachineError, match=r"2 machines fit mine; add --pid\n.*process 11.*\n.*process 12"):
        attach.choose([here, twin], "mine", tops, None)
    with pytest.raises(MachineError, match=r"no machine of the lab is process 9; there are\n.*process 11"):
        attach.choose([here], "mine", tops, 9)
