"""Last words: a fault planted in the running kernel's code, from outside, is told whole."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from harness.board import Board
from harness.build import Artifacts
from harness.console import Session
from harness.verdict.symbols import Symbols, symbolise

# An instruction that no CPU of the architecture has: ud2; udf #0; the all-zero halfword.
ILLEGAL = {"x86_64": b"\x0f\x0b", "aarch64": b"\x00\x00\x00\x00", "riscv64": b"\x00\x00\x00\x00"}
Boot = Callable[..., Session]


def plant(session: Session, artifacts: Artifacts, symbol: str) -> Symbols:
    """Put an illegal instruction at the start of a kernel function."""
    symbols = Symbols(artifacts.kernel)
    with session.gdb() as gdb:
        gdb.write_memory(symbols.address(symbol), ILLEGAL[artifacts.arch])
    return symbols


@pytest.mark.requirement("BTC-02", "OBS-09", "INT-01", "INT-06", "INT-08")
@pytest.mark.needs("gdbstub")
def test_a_fault_in_the_kernel_is_told_with_registers_and_symbols(boot: Boot, artifacts: Artifacts) -> None:
    session = boot()
    symbols = plant(session, artifacts, "syscall::log_read")
    session.console.sendline("log")
    report = session.console.expect_panic(20)
    assert "illegal instruction" in report.message
    assert report.complete
    text = "\n".join(symbolise(report.lines, symbols, 0))
    assert re.search(r"#0 0x[0-9a-f]+  kernel::syscall::log_read", text), text
    assert not re.search(r"cpu0: #\d.*(from_kernel|kernel_exception)", text), "the handler is not who called:\n" + text
    assert re.search(r"^\s+\w+ *=[0-9a-f]{16}", text, re.MULTILINE), text


@pytest.mark.requirement("OBS-09", "BTC-02")
@pytest.mark.needs("gdbstub")
def test_a_panic_stops_and_reports_every_cpu(boot: Boot, board: Board, artifacts: Artifacts) -> None:
    session = boot()
    plant(session, artifacts, "syscall::log_read")
    session.console.sendline("log")
    report = session.console.expect_panic(20)
    told = {int(match[1]) for line in report.lines if (match := re.match(r"PANIC cpu(\d+): #0", line))}
    assert told == set(range(board.smp)), "\n".join(report.lines)
    assert not [line for line in report.lines if line.endswith("silent")]


@pytest.mark.requirement("OBS-09")
@pytest.mark.needs("gdbstub")
def test_backtraces_are_right_under_a_slide(boot: Boot, artifacts: Artifacts) -> None:
    slide = 0x60_0000
    session = boot(f"slide={slide:#x}")
    symbols = Symbols(artifacts.kernel)
    with session.gdb() as gdb:
        gdb.write_memory(symbols.address("syscall::log_read") + slide, ILLEGAL[artifacts.arch])
    session.console.sendline("log")
    report = session.console.expect_panic(20)
    text = "\n".join(symbolise(report.lines, symbols, slide))
    assert re.search(r"#0 0x[0-9a-f]+  kernel::syscall::log_read", text), text


@pytest.mark.requirement("HRD-01", "BTA-07", "BTX-09")
@pytest.mark.needs("gdbstub")
def test_running_out_of_kernel_stack_is_told_as_such(boot: Boot, artifacts: Artifacts) -> None:
    session = boot()
    symbols = Symbols(artifacts.kernel)
    # A function that only calls itself: each turn takes a frame, until the guard page.
    recursion = {
        "x86_64": b"\x50\x50\xe8\xf9\xff\xff\xff",  # push rax; push rax; call self
        "aarch64": b"\xfd\x7b\xbf\xa9\xff\xff\xff\x97",  # stp x29, x30, [sp, #-16]!; bl self
        "riscv64": b"\x41\x11\x06\xe4\xef\xf0\xdf\xff",  # addi sp, -16; sd ra, 8(sp); jal self
    }[artifacts.arch]
    with session.gdb() as gdb:
        gdb.write_memory(symbols.address("syscall::log_read"), recursion)
    session.console.sendline("log")
    report = session.console.expect_panic(20)
    assert "stack" in report.message, report.message
