"""Quoin itself as a bad guest, in each way and on each board: the verdict names the cause."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from harness.build import Artifacts
from harness.console import ConsoleError, Session, hang_clock
from harness.verdict import Finding, Verdict, activity, judge
from harness.verdict.symbols import Symbols

pytestmark = [pytest.mark.requirement("DEV-02", "ERR-01"), pytest.mark.needs("gdbstub", "release")]
Boot = Callable[..., Session]

# A jump to itself: `jmp .`; `b .`; `j .`.
SPIN = {"x86_64": b"\xeb\xfe", "aarch64": b"\x00\x00\x00\x14", "riscv64": b"\x6f\x00\x00\x00"}
ILLEGAL = {"x86_64": b"\x0f\x0b", "aarch64": bytes(4), "riscv64": bytes(4)}
LIMIT_S = 0.5
PATIENCE_S = 60.0
HOGS = 40
STAGES = ["entry", "memory", "paging", "interrupts", "timer", "cpus", "user"]
IMAGE_BASE = 0xFFFF_FFFF_8000_0000
# Where QEMU puts an image: the load address of the PVH program headers, and RAM + 2 MiB of the two `virt` machines.
LOADED_AT = {"x86_64": 0x20_0000, "aarch64": 0x4020_0000, "riscv64": 0x8020_0000}
PASSED_S = 0.1


def hang(session: Session, limit_s: float = LIMIT_S) -> Finding:
    """The verdict that a test gets which waits for what never comes; the machine is switched off."""
    with pytest.raises(ConsoleError) as error:
        session.console.expect("never", limit_s)
    try:
        return judge(session, error.value)
    finally:
        session.close()


def plant(session: Session, artifacts: Artifacts, code: bytes) -> None:
    with session.gdb() as gdb:
        gdb.write_memory(Symbols(artifacts.kernel).address("syscall::log_read"), code)
    session.console.sendline("log")


def test_a_panic(boot: Boot, artifacts: Artifacts) -> None:
    session = boot()
    plant(session, artifacts, ILLEGAL[artifacts.arch])
    finding = hang(session, PATIENCE_S)
    assert finding.verdict is Verdict.PANICKED
    assert "illegal instruction" in finding.cause


def test_the_kernels_memory_is_reached_while_its_cpu_runs_a_program(boot: Boot, artifacts: Artifacts) -> None:
    """On a busy host a machine at `ready` still runs its shell when the stub stops it."""
    session = boot(smp=1)
    address = Symbols(artifacts.kernel).address("syscall::log_read")
    (shell,) = [program for program in artifacts.programs if program.name == "shell"]
    with session.gdb() as gdb:
        gdb.set_breakpoint(Symbols(shell).address("commands::split"))
        gdb.resume()
        session.console.send("ps\n")
        gdb.wait_stop(PATIENCE_S)
        before = gdb.read_memory(address, 4)
        gdb.write_memory(address, ILLEGAL[artifacts.arch])
        gdb.write_memory(address, before)
        gdb.clear_breakpoint(Symbols(shell).address("commands::split"))
    session.console.expect(r"\d+ running +shell$", PATIENCE_S)  # the program goes on in its own mode


def test_a_reset(boot: Boot) -> None:
    session = boot()
    session.console.sendline("reboot")
    finding = hang(session, PATIENCE_S)
    assert finding.verdict is Verdict.RESET
    assert "guest-reset" in finding.cause


def test_a_spin_with_interrupts_off(boot: Boot, artifacts: Artifacts) -> None:
    session = boot()
    plant(session, artifacts, SPIN[artifacts.arch])
    session.console.expect("log\n", PATIENCE_S)
    finding = hang(session)
    assert finding.verdict is Verdict.SPINNING, finding
    assert "no 'never'" in finding.cause


def test_a_wait_for_ever(boot: Boot) -> None:
    session = boot()
    session.console.sendline("sleep 100000000")
    session.console.expect("sleep 100000000\n", PATIENCE_S)
    finding = hang(session)
    assert finding.verdict is Verdict.IDLE, finding
    assert any("idle" in detail for detail in finding.details)


def caught(session: Session, *addresses: int) -> int:
    """Wait until the CPU spins at one of these addresses; which one it is."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        with session.gdb() as gdb:
            counter = gdb.read_register({"x86_64": "rip", "aarch64": "pc", "riscv64": "pc"}[gdb.arch])
        if counter in addresses:
            return counter
        assert time.monotonic() < deadline, f"at {counter:#x}"
        session.machine.wait_exit(0.02)


def let_through(session: Session, entry: int, code: bytes, spin: bytes) -> None:
    """Let the CPU that spins at the entry of a function do this call."""
    with session.gdb() as gdb:
        gdb.write_memory(entry, code)
        if gdb.arch == "x86_64":
            back = int.from_bytes(gdb.read_memory(gdb.read_register("rsp"), 8), "little")
        else:
            back = gdb.read_register({"aarch64": "x30", "riscv64": "ra"}[gdb.arch])
        gdb.set_breakpoint(back)
        gdb.resume()
        gdb.wait_stop(PATIENCE_S)
        gdb.clear_breakpoint(back)
        gdb.write_memory(entry, spin)


def test_a_boot_that_hangs_after_any_stage_is_told_with_it(
    boot: Boot, artifacts: Artifacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One boot, which hangs before each line of the kernel's, and then before the first program's."""
    monkeypatch.setattr(activity, "WINDOW_S", 0.05)
    symbols, spin = Symbols(artifacts.kernel), SPIN[artifacts.arch]
    kernels, programs = symbols.address("core::fmt::write"), symbols.address("syscall::debug_write")
    session = boot(smp=1, ready=False, paused=True)
    with session.gdb() as gdb:
        gdb.physical(on=True)
        code = gdb.read_memory(kernels - IMAGE_BASE + LOADED_AT[gdb.arch], len(spin))
        for entry in (kernels, programs):
            gdb.write_memory(entry - IMAGE_BASE + LOADED_AT[gdb.arch], spin)
        gdb.physical(on=False)
    session.qmp("cont")
    reached: list[str] = []
    while caught(session, kernels, programs) == kernels:
        reached.append(stage_told(session))
        let_through(session, kernels, code, spin)
    reached.append(stage_told(session))
    session.close()
    assert list(dict.fromkeys(reached)) == ["", *STAGES]


def stage_told(session: Session) -> str:
    """The stage in the verdict on a boot that hangs; empty where it says that there was none."""
    session.broker.drain()
    with pytest.raises(ConsoleError) as error:
        session.wait_ready(0.05)
    finding = judge(session, error.value)
    assert finding.verdict is Verdict.NEVER_BOOTED
    stage = re.search(r"; the last boot stage reached was '(\w+)'$", finding.cause)
    assert stage or "; it never printed a boot stage" in finding.cause
    return stage[1] if stage else ""


def test_a_prompt_that_nobody_asked_anything(boot: Boot) -> None:
    finding = hang(boot())
    assert finding.verdict is Verdict.FAILED, "it waits for input, in order"


def test_an_emulator_that_is_killed(boot: Boot) -> None:
    session = boot()
    assert session.machine.pid is not None
    os.kill(session.machine.pid, signal.SIGKILL)
    finding = hang(session, PATIENCE_S)
    assert finding.verdict is Verdict.QEMU_DIED
    assert "was ended by SIGKILL" in finding.cause


def test_a_console_that_is_cut(boot: Boot) -> None:
    session = boot()
    session.machine.console_socket.shutdown(socket.SHUT_RDWR)
    finding = hang(session, PATIENCE_S)
    assert finding.verdict is Verdict.LAB_FAULT
    assert "the console was cut" in finding.cause


# The host.


def _burn() -> None:
    os.setsid()  # a host that shares its time among sessions first counts each as one
    parent = os.getppid()
    while os.getppid() == parent:  # and outlives no test that was killed
        for _ in range(10000):
            pass


@contextmanager
def starving(session: Session) -> Iterator[None]:
    """Gives the vCPUs of a machine next to nothing: a part of a core that many others want."""
    core = min(os.sched_getaffinity(0))
    for thread in session.machine.vcpu_threads():
        os.sched_setaffinity(thread, {core})
    burners = [multiprocessing.get_context("fork").Process(target=_burn, daemon=True) for _ in range(HOGS)]
    for burner in burners:
        burner.start()
        assert burner.pid is not None
        os.sched_setaffinity(burner.pid, {core})
    try:
        yield
    finally:
        for burner in burners:
            burner.kill()
            burner.join()


def test_a_starved_machine_does_not_hang(boot: Boot) -> None:
    session = boot(smp=1)
    with starving(session):
        until = time.monotonic() + 10 * LIMIT_S
        while time.monotonic() < until:
            session.console.command("ps", LIMIT_S)


def test_a_machine_without_time_is_starved_and_not_hung(
    boot: Boot, artifacts: Artifacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hang_clock, "LEAST_S", 3.0)
    # For once the host may give it more than a tenth of what it wants: seen in one of fifty runs.
    for _ in range(3):
        session = boot(smp=1)
        plant(session, artifacts, SPIN[artifacts.arch])
        session.console.expect("log\n", PATIENCE_S)
        with starving(session):
            before = session.hang_clock.now()
            finding = hang(session, 0.2)
            had = session.hang_clock.now() - before
        if finding.verdict is Verdict.STARVED:
            break
    assert finding.verdict is Verdict.STARVED, finding
    assert had < hang_clock.LEAST_S, "the wait ended because the host gave nothing, and not by the target's own clock"


def test_the_clock_stands_while_the_machine_is_held(boot: Boot) -> None:
    session = boot(smp=1)
    clock = session.hang_clock
    with session.gdb():
        before = clock.now()
        pass_time()
        assert clock.now() == pytest.approx(before, abs=PASSED_S / 2)
    clock.hold()
    clock.hold()
    clock.release()
    before = clock.now()
    pass_time()
    assert clock.now() == pytest.approx(before, abs=PASSED_S / 2)
    clock.release()
    while clock.now() <= before:
        pass


def pass_time() -> None:
    """Time goes by on the host's clock."""
    until = time.monotonic() + PASSED_S
    while time.monotonic() < until:
        pass
